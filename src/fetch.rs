//! Addons that the inventory names by URL: fetched on the operator's side, which can reach what machines may not.
//! The inventory says the hash of each; what was fetched once is kept beside it and fetched no more.

use std::collections::BTreeMap;
use std::time::Duration;

use ureq::tls::{RootCerts, TlsConfig};

use crate::cluster::{Addon, Cluster, Origin};
use crate::error::{Error, Kind, Result};
use crate::inventory;
use crate::step::{Object, sha256};
use crate::store::Store;

/// For all of it, connecting included.
const PATIENCE: Duration = Duration::from_secs(60);
/// In bytes. Whole operators with all their kinds have two or three million.
const LARGEST: u64 = 8 << 20;

/// Fills in what has to be fetched.
pub async fn addons(cluster: &mut Cluster, store: &Store) -> Result<()> {
    pinned(cluster).await?;
    for addon in &mut cluster.addons {
        let Origin::Url { url, sha256 } = &addon.origin else { continue };
        let text = match known(store, sha256.as_deref())? {
            Some(text) => text,
            None => fresh(addon, url, sha256.as_deref().unwrap_or_default(), store).await?,
        };
        let (objects, wrong) = inventory::objects(&text, url);
        if !wrong.is_empty() {
            return Err(
                wrongly(addon, format!("addon {} is no manifest", addon.name)).heard(wrong.join("\n"))
            );
        }
        addon.objects = objects.unwrap_or_default();
    }
    twice(cluster)
}

/// Fails where the inventory does not say the hash of what is behind a URL: the server, or somebody in between, could
/// change the cluster. Fetches each such URL once, to print the line that is missing.
pub async fn pinned(cluster: &Cluster) -> Result<()> {
    let (mut lines, mut causes) = (vec![], vec![]);
    for addon in &cluster.addons {
        let Origin::Url { url, sha256: None } = &addon.origin else { continue };
        let says =
            format!("{}: addon {} is fetched from a URL, and has no `sha256`", addon.written, addon.name);
        match got(url).await? {
            Ok(text) => {
                lines.push(says);
                causes.push(format!(
                    "put this line into [addons.{}]: sha256 = \"{}\"",
                    addon.name,
                    sha256(text.as_bytes())
                ));
            }
            Err(why) => lines.push(format!("{says}; {url} cannot be fetched to compute it: {why}")),
        }
    }
    if lines.is_empty() {
        return Ok(());
    }
    let fetched = !causes.is_empty();
    let error = causes.into_iter().fold(Error::new(Kind::Inventory, lines.join("\n")), Error::because);
    if !fetched {
        return Err(
            error.hint("have the server answer, or put the file beside the inventory and name it as `file`")
        );
    }
    Err(error.hint("that is the hash of what is there now: read it first, for it will run in the cluster"))
}

/// Fails where two addons, or one of them twice, have the same object: each would undo what the other says.
pub fn twice(cluster: &Cluster) -> Result<()> {
    let mut seen: BTreeMap<Object, &str> = BTreeMap::new();
    for addon in &cluster.addons {
        for object in addon.objects.iter().map(Object::of) {
            let says = format!("addon {} has {object}", addon.name);
            if let Some(other) = seen.insert(object, &addon.name) {
                let hint = "keep it in one place";
                return Err(wrongly(addon, format!("{says}, and so has addon {other} before it")).hint(hint));
            }
        }
    }
    Ok(())
}

fn known(store: &Store, hash: Option<&str>) -> Result<Option<String>> {
    let Some(hash) = hash else { return Ok(None) };
    Ok(store.fetched(hash)?.filter(|text| sha256(text.as_bytes()) == hash))
}

/// What is there, or why it cannot be fetched.
async fn got(url: &str) -> Result<std::result::Result<String, String>> {
    let address = url.to_string();
    let fetched = tokio::task::spawn_blocking(move || get(&address)).await;
    fetched.map_err(|e| Error::new(Kind::Failed, "a task broke off").because(e.to_string()))
}

async fn fresh(addon: &Addon, url: &str, hash: &str, store: &Store) -> Result<String> {
    let text = got(url).await?.map_err(|why| {
        wrongly(addon, format!("cannot fetch addon {} from {url}", addon.name))
            .heard(why)
            .hint("fetch it by hand, put it beside the inventory, and name the file; HTTPS_PROXY is heeded")
    })?;
    let found = sha256(text.as_bytes());
    if found != hash {
        return Err(wrongly(addon, format!("{url} is not what it was: its SHA-256 is another"))
            .because(format!("wanted: {hash}\nfetched: {found}"))
            .hint("see what changed before you put the new hash into the inventory"));
    }
    store.keep_fetched(hash, &text)?;
    Ok(text)
}

/// The error says why, in one line.
fn get(url: &str) -> std::result::Result<String, String> {
    let tls = TlsConfig::builder().root_certs(RootCerts::PlatformVerifier).build();
    let config = ureq::Agent::config_builder().timeout_global(Some(PATIENCE)).tls_config(tls);
    // Nor may anybody lead from there to plain http.
    let agent: ureq::Agent = config.https_only(url.starts_with("https://")).build().into();
    let mut response = agent.get(url).call().map_err(|e| e.to_string())?;
    response.body_mut().with_config().limit(LARGEST).read_to_string().map_err(|e| e.to_string())
}

fn wrongly(addon: &Addon, says: String) -> Error {
    Error::new(Kind::Inventory, format!("{}: {says}", addon.written))
}
