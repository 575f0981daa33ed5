//! Reads `[addons.…]`: manifests that are applied once the cluster runs, in the order of the file. This module does not
//! fetch manifests from URLs. `fetch` refuses a URL without a hash, because it can say what the hash would be.

use super::diagnostic::{Mistakes, Span};
use super::doubt::{URL_LOGIN, password_from};
use super::files::Folder;
use super::names;
use super::table::{Table, Text};
use crate::cluster::{Addon, Origin};

/// Reads all addons. `place` returns where something is written, as in `demo.toml:12`.
pub fn addons(
    root: &Table,
    folder: &Folder,
    place: &dyn Fn(&Span) -> String,
    mistakes: &mut Mistakes,
) -> Vec<Addon> {
    let tables = root.named("addons");
    let addon = |(name, table): &(Text, Table)| addon(name, table, folder, place, mistakes);
    tables.iter().filter_map(addon).collect()
}

fn addon(
    name: &Text,
    table: &Table,
    folder: &Folder,
    place: &dyn Fn(&Span) -> String,
    mistakes: &mut Mistakes,
) -> Option<Addon> {
    if !names::is_label(name.is) {
        let says = "an addon's name has at most 63 characters of a-z, 0-9 and -, with no - at either end";
        mistakes.add_help(&name.at, says, "its objects carry it as the label ironstrap.dev/addon");
    }
    let sha256 = table.text("sha256").and_then(|text| sha256(&text, mistakes));
    let manifest = table.text("manifest")?;
    let (origin, objects) = match manifest.is.contains("://") {
        true => (url(&manifest, table, sha256, mistakes)?, vec![]),
        false => {
            if table.value("sha256").is_some() {
                let says = "`sha256` is only for a URL, not for a file beside the inventory";
                mistakes.add(&table.at("sha256"), says);
            }
            (Origin::File, folder.manifest(&manifest, mistakes)?.objects)
        }
    };
    let (name, wait) = (name.is.to_string(), table.switch("wait"));
    Some(Addon { name, origin, wait, objects, written: place(&manifest.at) })
}

fn url(manifest: &Text, table: &Table, sha256: Option<String>, mistakes: &mut Mistakes) -> Option<Origin> {
    if !names::is_url(manifest.is) {
        let says = "this is neither a file nor a URL; a URL begins with https:// and a host";
        match password_from(manifest.is) {
            Some(_) => mistakes.add_help(&manifest.at, says, URL_LOGIN),
            None => mistakes.add(&manifest.at, says),
        }
        return None;
    }
    if manifest.is.starts_with("http://") && table.value("sha256").is_none() {
        let help = "use https://, or add `sha256`, the hash of the file";
        mistakes.add_help(&manifest.at, "a file that is fetched over plain http can be forged", help);
    }
    Some(Origin::Url { url: manifest.is.to_string(), sha256 })
}

fn sha256(text: &Text, mistakes: &mut Mistakes) -> Option<String> {
    let right = text.is.len() == 64 && text.is.chars().all(|c| c.is_ascii_hexdigit());
    if !right {
        mistakes.add_help(&text.at, "a SHA-256 has 64 hexadecimal digits", "sha256sum FILE prints it");
    }
    right.then(|| text.is.to_lowercase())
}
