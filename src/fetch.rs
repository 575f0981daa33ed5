//! Fetches the addons that the inventory names by URL, on the operator's computer, which can reach URLs that machines may
//! not. The inventory contains the hash of each addon. ironstrap keeps a fetched addon beside the inventory, and does not
//! fetch it again.

use std::collections::BTreeMap;
use std::time::Duration;

use ureq::tls::{RootCerts, TlsConfig};

use crate::cluster::{Addon, Cluster, Origin};
use crate::error::{Error, Kind, Result};
use crate::inventory;
use crate::step::{Object, sha256};
use crate::store::Store;

/// How long one fetch may take, including the connection.
const PATIENCE: Duration = Duration::from_secs(60);
/// The largest addon, in bytes. Manifests of whole operators with all their custom resource definitions have two or three
/// million.
const LARGEST: u64 = 8 << 20;

/// Fetches the addons that have a URL, and fills in their objects.
pub async fn addons(cluster: &mut Cluster, store: &Store) -> Result<()> {
    pinned(cluster).await?;
    for addon in &mut cluster.addons {
        let Origin::Url { url, sha256 } = &addon.origin else { continue };
        let text = match cached(store, sha256.as_deref())? {
            Some(text) => text,
            None => download(addon, url, sha256.as_deref().unwrap_or_default(), store).await?,
        };
        let (objects, wrong) = inventory::objects(&text, url);
        if !wrong.is_empty() {
            return Err(wrongly(addon, format!("addon {} is not a valid manifest", addon.name))
                .quoting(wrong.join("\n")));
        }
        addon.objects = objects.unwrap_or_default();
    }
    check_duplicates(cluster)
}

/// Fails if an addon with a URL has no `sha256` in the inventory. Without it the server, or an attacker on the way, could
/// change the cluster. The function fetches each such URL once, to print the missing line.
pub async fn pinned(cluster: &Cluster) -> Result<()> {
    let (mut lines, mut causes) = (vec![], vec![]);
    for addon in &cluster.addons {
        let Origin::Url { url, sha256: None } = &addon.origin else { continue };
        let says =
            format!("{}: addon {} is fetched from a URL, but has no `sha256`", addon.written, addon.name);
        match got(url).await? {
            Ok(text) => {
                lines.push(says);
                causes.push(format!(
                    "put this line into [addons.{}]: sha256 = \"{}\"",
                    addon.name,
                    sha256(text.as_bytes())
                ));
            }
            Err(why) => lines.push(format!("{says}; cannot fetch {url} to compute it: {why}")),
        }
    }
    if lines.is_empty() {
        return Ok(());
    }
    let fetched = !causes.is_empty();
    let error = causes.into_iter().fold(Error::new(Kind::Inventory, lines.join("\n")), Error::because);
    if !fetched {
        return Err(error.hint(
            "make the server reachable, or put the file beside the inventory and name it as `manifest`",
        ));
    }
    Err(error
        .hint("read the file first: it will run in the cluster, and this is the hash of its current content"))
}

/// Fails if two addons contain the same object, or one addon contains it twice. Each would undo what the other says.
pub fn check_duplicates(cluster: &Cluster) -> Result<()> {
    let mut seen: BTreeMap<Object, &str> = BTreeMap::new();
    for addon in &cluster.addons {
        for object in addon.objects.iter().map(Object::of) {
            let says = format!("addon {} contains {object}", addon.name);
            if let Some(other) = seen.insert(object, &addon.name) {
                let hint = "keep it in one addon";
                return Err(wrongly(addon, format!("{says}, and so does addon {other} before it")).hint(hint));
            }
        }
    }
    Ok(())
}

fn cached(store: &Store, hash: Option<&str>) -> Result<Option<String>> {
    let Some(hash) = hash else { return Ok(None) };
    Ok(store.fetched(hash)?.filter(|text| sha256(text.as_bytes()) == hash))
}

/// Fetches a URL in a blocking task. The inner result is the text, or why it cannot be fetched.
async fn got(url: &str) -> Result<std::result::Result<String, String>> {
    let address = url.to_string();
    let fetched = tokio::task::spawn_blocking(move || get(&address)).await;
    fetched.map_err(|e| Error::new(Kind::Failed, "a task was interrupted").because(e.to_string()))
}

async fn download(addon: &Addon, url: &str, hash: &str, store: &Store) -> Result<String> {
    let text = got(url).await?.map_err(|why| {
        wrongly(addon, format!("cannot fetch addon {} from {url}", addon.name))
            .quoting(why)
            .hint("download it yourself, put it beside the inventory, and name the file; ironstrap uses HTTPS_PROXY")
    })?;
    let found = sha256(text.as_bytes());
    if found != hash {
        return Err(wrongly(addon, format!("the content of {url} has changed: its SHA-256 differs"))
            .because(format!("expected: {hash}\nfetched:  {found}"))
            .hint("check what changed before you put the new hash into the inventory"));
    }
    store.keep_fetched(hash, &text)?;
    Ok(text)
}

/// Fetches a URL. The error says why it failed, in one line.
fn get(url: &str) -> std::result::Result<String, String> {
    let tls = TlsConfig::builder().root_certs(RootCerts::PlatformVerifier).build();
    let config = ureq::Agent::config_builder().timeout_global(Some(PATIENCE)).tls_config(tls);
    // An HTTPS server must not redirect to plain HTTP.
    let agent: ureq::Agent = config.https_only(url.starts_with("https://")).build().into();
    let mut response = agent.get(url).call().map_err(|e| e.to_string())?;
    response.body_mut().with_config().limit(LARGEST).read_to_string().map_err(|e| e.to_string())
}

fn wrongly(addon: &Addon, says: String) -> Error {
    Error::new(Kind::Inventory, format!("{}: {says}", addon.written))
}
