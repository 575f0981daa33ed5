//! Addons. ironstrap fetches those with a URL, checks their hash, and keeps them. Each addon waits for the addons
//! before it.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use ironstrap::cluster::{Cluster, Origin};
use ironstrap::error::{Kind, Result};
use ironstrap::fleet::Fleet;
use ironstrap::machine::Machine;
use ironstrap::step::{Verdict, sha256};
use ironstrap::store::Store;
use ironstrap::{fetch, inventory};
use time::OffsetDateTime;

use crate::support;

const MANIFEST: &str = "apiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: Namespace\n  metadata: {name: a}\n\
    - apiVersion: v1\n  kind: ConfigMap\n  metadata: {name: b}\n";

/// Starts a server that answers this many requests, and then ends. Returns a URL of it.
fn serve(times: usize, answer: String) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for _ in 0..times {
            let (mut stream, _) = listener.accept().unwrap();
            let _ = stream.read(&mut [0; 4096]).unwrap();
            stream.write_all(answer.as_bytes()).unwrap();
        }
    });
    format!("http://{address}/a.yaml")
}

fn ok(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len())
}

fn cluster(dir: &Path, addons: &str) -> Cluster {
    let text = format!(
        "[cluster]\nname = 'demo'\nkubernetes = '1.36.3'\n{addons}\n[nodes.m1]\naddress = '198.18.0.11'\nrole = 'control-plane'\n"
    );
    inventory::parse(&text, &dir.join("demo.toml")).unwrap_or_else(|error| panic!("{error}"))
}

fn addon_table(url: &str, hash: &str) -> String {
    format!("[addons.one]\nmanifest = '{url}'\nsha256 = '{hash}'")
}

async fn fetch(cluster: &Cluster) -> Result<Cluster> {
    let (mut cluster, store) = (cluster.clone(), Store::new(cluster));
    fetch::addons(&mut cluster, &store).await?;
    Ok(cluster)
}

#[tokio::test]
async fn an_addon_is_fetched_once_and_kept_private() {
    let dir = tempfile::tempdir().unwrap();
    let hash = sha256(MANIFEST.as_bytes());
    let cluster = cluster(dir.path(), &addon_table(&serve(1, ok(MANIFEST)), &hash));
    let names = |cluster: Cluster| -> Vec<String> {
        cluster.addons[0]
            .objects
            .iter()
            .map(|o| o["metadata"]["name"].as_str().unwrap().to_string())
            .collect()
    };
    for _ in 0..2 {
        assert_eq!(names(fetch(&cluster).await.unwrap()), ["a", "b"], "a list is taken apart");
    }
    let kept = dir.path().join("demo.fetched").join(&hash);
    assert_eq!(std::fs::metadata(&kept).unwrap().permissions().mode() & 0o777, 0o600);
    std::fs::write(&kept, "something else").unwrap();
    let error = fetch(&cluster).await.unwrap_err();
    assert!(error.what.contains("cannot fetch addon one"), "a changed file is not used: {error}");
}

#[tokio::test]
async fn a_wrong_download_is_refused_with_its_line() {
    let dir = tempfile::tempdir().unwrap();
    let wrong = "0".repeat(64);
    let cases = [
        (ok(MANIFEST), &wrong, "its SHA-256 differs"),
        (ok("a: [1"), &sha256(b"a: [1"), "is not a valid manifest"),
        ("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n".into(), &wrong, "cannot fetch addon one"),
        ("HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n".into(), &wrong, "cannot fetch addon one"),
    ];
    for (answer, hash, says) in cases {
        let error = fetch(&cluster(dir.path(), &addon_table(&serve(1, answer), hash))).await.unwrap_err();
        assert_eq!(error.kind, Kind::Inventory);
        assert!(error.what.contains("demo.toml:5: ") && error.what.contains(says), "{error}");
        assert!(!error.cause.is_empty(), "{error}");
    }
    assert_eq!(
        std::fs::read_dir(dir.path().join("demo.fetched")).unwrap().count(),
        1,
        "only the download with the right hash is kept"
    );
}

#[tokio::test]
async fn a_url_without_a_hash_is_refused_with_the_missing_line() {
    let dir = tempfile::tempdir().unwrap();
    let (url, any) = (serve(2, ok(MANIFEST)), "0".repeat(64));
    let two = format!("{}\n[addons.two]\nmanifest = '{url}'\nsha256 = '{any}'", addon_table(&url, &any));
    let mut lacking = cluster(dir.path(), &two);
    // The inventory refuses plain http without a hash, and these tests have no certificate for https.
    for addon in &mut lacking.addons {
        addon.origin = Origin::Url { url: url.clone(), sha256: None };
    }
    let error = fetch(&lacking).await.unwrap_err();
    assert_eq!(error.kind, Kind::Inventory);
    for says in
        ["demo.toml:5: addon one is fetched from a URL", "demo.toml:8: addon two is fetched from a URL"]
    {
        assert!(error.what.contains(says), "{error}");
    }
    let line = format!("sha256 = \"{}\"", sha256(MANIFEST.as_bytes()));
    assert_eq!(error.cause[0], format!("put this line into [addons.one]: {line}"));
    assert!(error.cause[1].contains("[addons.two]"), "{error}");
    assert!(!dir.path().join("demo.fetched").exists(), "nothing is kept");
    // With that line the addon is accepted.
    let addon = format!("[addons.one]\nmanifest = '{}'\n{line}", serve(1, ok(MANIFEST)));
    assert_eq!(fetch(&cluster(dir.path(), &addon)).await.unwrap().addons[0].objects.len(), 2);
    // The server has ended. `check` refuses the missing hash without a download.
    let error = fetch::pinned(&lacking).await.unwrap_err();
    assert!(error.what.contains("addon one is fetched from a URL"), "{error}");
    assert!(error.what.contains("to compute it: "), "{error}");
}

#[tokio::test]
async fn two_addons_with_the_same_object_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("a.yaml"), MANIFEST).unwrap();
    let twice = "[addons.one]\nmanifest = 'a.yaml'\n[addons.two]\nmanifest = 'a.yaml'";
    let error = fetch(&cluster(dir.path(), twice)).await.unwrap_err();
    assert!(
        error.what.ends_with("demo.toml:7: addon two contains Namespace a, and so does addon one before it"),
        "{error}"
    );
}

#[test]
fn an_addon_waits_for_the_addons_before_it() {
    let dir = tempfile::tempdir().unwrap();
    let runs = "apiVersion: apps/v1\nkind: DaemonSet\nmetadata: {name: d}\n";
    std::fs::write(dir.path().join("a.yaml"), runs).unwrap();
    std::fs::write(dir.path().join("b.yaml"), MANIFEST).unwrap();
    let cluster = cluster(dir.path(), "[addons.one]\nmanifest = 'a.yaml'\n[addons.two]\nmanifest = 'b.yaml'");
    let judged = |joining: &[&str], answer: &str| -> BTreeMap<String, String> {
        let fleet =
            Fleet { joining: joining.iter().map(|node| node.to_string()).collect(), ..Fleet::default() };
        let about = (&Machine::default(), &fleet);
        let pki = support::pki(&cluster);
        let wants = support::wants((&cluster, &cluster.nodes[0]), &pki, about, OffsetDateTime::now_utc());
        let of_addons = wants.into_iter().filter(|(_, step, _)| *step == "addons");
        let say = |want: ironstrap::step::Want| match support::verdict(&want, answer) {
            Verdict::Holds => "holds".into(),
            Verdict::Differs { .. } => "differs".into(),
            Verdict::Waits { for_what, .. } => for_what.to_string(),
            Verdict::Noted(words) | Verdict::Unknown(words) | Verdict::Unchecked(words) => words,
            Verdict::Unconfirmed { .. } => "unconfirmed".into(),
        };
        of_addons.map(|(.., want)| (want.that.clone(), say(want))).collect()
    };
    let first = "DaemonSet d matches addon one";
    let (available, second) = ("addon one is available", "Namespace a matches addon two");
    let now = judged(&["m1"], "absent");
    assert_eq!((now[first].as_str(), now[available].as_str()), ("differs", "m1 to join"));
    assert_eq!(now[second], "m1 to join");
    assert!(judged(&[], "absent").values().all(|said| said == "differs"));
    let drifted = judged(&["m1"], "{}");
    assert_eq!(drifted[second], "differs", "an existing object is repaired, even if another is missing");
}
