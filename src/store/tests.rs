//! Tests the operator's directory on a real file system.

use time::Duration;

use super::*;
use crate::pki::tests::{NOW, cluster};

/// An empty folder, the cluster and the store in it, and a cluster PKI that nobody saved.
fn fresh() -> (tempfile::TempDir, Cluster, Store, ClusterPki) {
    let dir = tempfile::tempdir().unwrap();
    let cluster = Cluster { dir: dir.path().into(), ..cluster() };
    let (store, pki) = (Store::new(&cluster), ClusterPki::make(&cluster, NOW).unwrap());
    (dir, cluster, store, pki)
}

fn mode(path: impl AsRef<Path>) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(dir).unwrap().map(|it| it.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_saved_pki_is_loaded_unchanged() {
    let (dir, _, store, pki) = fresh();
    assert!(store.load().unwrap().is_none());
    assert_eq!(names(dir.path()), Vec::<String>::new());
    store.save(&pki).unwrap();
    assert!(store.load().unwrap().unwrap() == pki);
    assert_eq!(names(dir.path()), ["demo.trust"]);
    let path = store.path();
    let expected = "admin.crt admin.key ca.crt ca.key etcd-ca.crt etcd-ca.key front-proxy-ca.crt \
                    front-proxy-ca.key nodes sa.key sa.pub";
    assert_eq!(names(&path).join(" "), expected);
    assert_eq!(names(&path.join("nodes")), ["m1", "m2"]);
    assert_eq!(names(&path.join("nodes/m1")).len(), 14);
    for folder in ["", "nodes", "nodes/m1"] {
        assert_eq!(mode(path.join(folder)), 0o700, "{folder}");
    }
    for secret in ["ca.key", "sa.key", "admin.key", "nodes/m1/etcd-peer.key"] {
        assert_eq!(mode(path.join(secret)), 0o600, "{secret}");
    }
    assert_eq!(mode(path.join("ca.crt")), 0o644);
    assert_eq!(store.warnings(), Vec::<String>::new());
}

#[test]
fn a_killed_save_leaves_no_pki() {
    let (dir, _, store, pki) = fresh();
    store.save(&pki).unwrap();
    // This is the state just before the rename: everything is written, under another name.
    fs::rename(store.path(), dir.path().join(".demo.Xy12Zw.trust")).unwrap();
    assert!(store.load().unwrap().is_none());
    let other = ClusterPki::make(&Cluster { dir: dir.path().into(), ..cluster() }, NOW).unwrap();
    store.save(&other).unwrap();
    assert!(store.load().unwrap().unwrap() == other);
}

#[test]
fn a_failed_save_leaves_nothing_behind() {
    let (dir, _, store, pki) = fresh();
    // A file appears in the place of the directory, between the check and the rename.
    fs::write(store.path(), "").unwrap();
    let error = store.save_new(&store.path(), &pki.kept()).unwrap_err();
    assert_eq!(error.kind, Kind::Local);
    assert_eq!(names(dir.path()), ["demo.trust"]);
    assert_eq!(fs::read(store.path()).unwrap(), b"");
}

#[test]
fn an_existing_directory_never_counts_as_absent() {
    let (dir, _, store, pki) = fresh();
    let what = || store.load().unwrap_err().what;
    fs::create_dir(store.path()).unwrap();
    assert_eq!(what(), "ca.crt is missing");
    assert_eq!(
        store.load().unwrap_err().cause,
        [format!("the cluster PKI is kept in {}", store.path().display())]
    );
    fs::remove_dir(store.path()).unwrap();
    std::os::unix::fs::symlink(dir.path().join("unplugged"), store.path()).unwrap();
    assert_eq!(what(), "ca.crt is missing");
    fs::remove_file(store.path()).unwrap();
    fs::write(store.path(), "").unwrap();
    assert!(what().starts_with("cannot read "), "{}", what());
    fs::remove_file(store.path()).unwrap();
    store.save(&pki).unwrap();
    fs::write(store.path().join("etcd-ca.key"), [0xff, 0xfe]).unwrap();
    assert!(what().ends_with("demo.trust/etcd-ca.key"), "{}", what());
    fs::remove_file(store.path().join("etcd-ca.key")).unwrap();
    assert_eq!(what(), "etcd-ca.key is missing");
}

#[test]
fn unknown_files_are_ignored() {
    let (_dir, _, store, pki) = fresh();
    store.save(&pki).unwrap();
    fs::write(store.path().join("README"), "mine").unwrap();
    fs::write(store.path().join("nodes/.DS_Store"), "").unwrap();
    fs::create_dir(store.path().join("nodes/empty")).unwrap();
    assert!(store.load().unwrap().unwrap() == pki);
}

#[test]
fn the_next_save_removes_an_old_token() {
    let (_dir, _, store, pki) = fresh();
    store.save(&pki).unwrap();
    let token = store.path().join("token");
    for text in ["ironst.0123456789abcdef\n", "abc"] {
        fs::write(&token, text).unwrap();
        assert!(store.load().unwrap().unwrap() == pki);
        assert!(token.exists(), "loading changes nothing");
        store.save(&pki).unwrap();
        assert!(!token.exists() && store.load().unwrap().unwrap() == pki);
    }
}

#[test]
fn a_renewal_replaces_only_leaves() {
    let (_dir, cluster, store, mut pki) = fresh();
    let written = |file: &str| fs::metadata(store.path().join(file)).unwrap().modified().unwrap();
    store.save(&pki).unwrap();
    let (ca, admin) = (written("ca.key"), written("admin.key"));
    pki.leaves.remove("m2");
    fs::remove_dir_all(store.path().join("nodes")).unwrap();
    pki.complete(&cluster, NOW + Duration::days(320)).unwrap();
    store.save(&pki).unwrap();
    assert!(store.load().unwrap().unwrap() == pki);
    assert!(written("ca.key") == ca && written("admin.key") > admin);
    assert_eq!(mode(store.path().join("nodes/m2/apiserver.key")), 0o600);
}

#[test]
fn the_next_renewal_finishes_an_interrupted_one() {
    let (_dir, cluster, store, pki) = fresh();
    store.save(&pki).unwrap();
    let mut renewed = pki.clone();
    renewed.complete(&cluster, NOW + Duration::days(320)).unwrap();
    fs::write(store.path().join("admin.key"), renewed.admin.key.reveal()).unwrap();
    let mut found = store.load().unwrap().unwrap();
    let made = found.complete(&cluster, NOW).unwrap();
    assert_eq!(made, ["admin, because its key belongs to another certificate"]);
    store.save(&found).unwrap();
    assert!(store.load().unwrap().unwrap() == found);
}

#[test]
fn keys_of_the_cluster_are_never_replaced() {
    let (_dir, cluster, store, pki) = fresh();
    store.save(&pki).unwrap();
    let other = ClusterPki::make(&cluster, NOW).unwrap();
    let error = store.save(&other).unwrap_err();
    assert!(error.kind == Kind::Local && error.what.starts_with("ca.key in "), "{error}");
    let mut half = pki.clone();
    (half.admin, half.sa_key, half.sa_pub) = (other.admin, other.sa_key, other.sa_pub);
    assert!(store.save(&half).unwrap_err().what.starts_with("sa.key in "));
    assert!(store.load().unwrap().unwrap() == pki);
}

#[test]
fn a_kubeconfig_is_written_once_and_keeps_the_users_namespace() {
    let (dir, cluster, store, mut pki) = fresh();
    let text = pki.admin_kubeconfig(&cluster, "https://10.0.0.11:6443");
    assert!(store.wants_kubeconfig(&text).unwrap() && store.save_kubeconfig(&text).unwrap());
    assert_eq!(mode(store.kubeconfig_path()), 0o600);
    assert!(!store.save_kubeconfig(&text).unwrap());
    // The text is as `kubectl config set-context --current --namespace` leaves it: without a comment, and with one more line.
    let edited =
        text.split_once('\n').unwrap().1.replace("    user: \"demo", "    namespace: mine\n    user: \"demo");
    assert_ne!(edited, text.split_once('\n').unwrap().1);
    fs::write(store.kubeconfig_path(), &edited).unwrap();
    assert!(!store.save_kubeconfig(&text).unwrap());
    assert_eq!(fs::read_to_string(store.kubeconfig_path()).unwrap(), edited);

    pki.complete(&cluster, NOW + Duration::days(320)).unwrap();
    let renewed = pki.admin_kubeconfig(&cluster, "https://10.0.0.11:6443");
    assert!(store.save_kubeconfig(&renewed).unwrap());
    assert_eq!(fs::read_to_string(store.kubeconfig_path()).unwrap(), renewed);
    assert_eq!(names(dir.path()), ["demo.kubeconfig"]);
}

#[test]
fn a_kubeconfig_of_another_cluster_is_not_overwritten() {
    let (_dir, cluster, store, pki) = fresh();
    let text = pki.admin_kubeconfig(&cluster, "https://10.0.0.11:6443");
    let same_name =
        ClusterPki::make(&cluster, NOW).unwrap().admin_kubeconfig(&cluster, "https://10.0.0.11:6443");
    let merged = text.replace("users:\n", "users:\n- name: me\n  user: {}\n");
    assert_ne!(merged, text);
    for present in [same_name.as_str(), &merged, "", "hello", "clusters: []\nusers: []\n"] {
        fs::write(store.kubeconfig_path(), present).unwrap();
        let error = store.save_kubeconfig(&text).unwrap_err();
        assert!(error.kind == Kind::Local && error.hint.is_some(), "{error}");
        assert_eq!(fs::read_to_string(store.kubeconfig_path()).unwrap(), present);
    }
}

#[test]
fn files_open_to_other_users_cause_warnings() {
    let (_dir, cluster, store, pki) = fresh();
    store.save(&pki).unwrap();
    store.save_kubeconfig(&pki.admin_kubeconfig(&cluster, "https://10.0.0.11:6443")).unwrap();
    for (file, mode) in
        [("demo.trust/sa.key", 0o640), ("demo.kubeconfig", 0o644), ("demo.trust/sa.pub", 0o666)]
    {
        fs::set_permissions(cluster.dir.join(file), Permissions::from_mode(mode)).unwrap();
    }
    fs::set_permissions(cluster.dir.join("demo.trust/nodes"), Permissions::from_mode(0o775)).unwrap();
    let told = store.warnings();
    let told: Vec<String> =
        told.iter().map(|told| told.replace(cluster.dir.to_str().unwrap(), "DIR")).collect();
    assert_eq!(
        told,
        [
            "other users can replace DIR/demo.trust/sa.pub (mode 0666): chmod 644 DIR/demo.trust/sa.pub",
            "other users can replace files in DIR/demo.trust/nodes (mode 0775): chmod 700 DIR/demo.trust/nodes",
            "other users can use DIR/demo.trust/sa.key (mode 0640): chmod 600 DIR/demo.trust/sa.key",
            "other users can use DIR/demo.kubeconfig (mode 0644): chmod 600 DIR/demo.kubeconfig",
        ]
    );
    assert!(store.load().unwrap().is_some());
}

#[test]
fn open_folders_and_inventories_cause_warnings() {
    let (dir, _, store, pki) = fresh();
    store.save(&pki).unwrap();
    let told = |file: &str| {
        let mut store = store.clone();
        store.inventory = dir.path().join(file);
        let root = dir.path().canonicalize().unwrap().display().to_string();
        store.warnings().iter().map(|told| told.replace(&root, "DIR")).collect::<Vec<_>>()
    };
    let chmod = |name: &str, mode: u32| {
        fs::set_permissions(dir.path().join(name), Permissions::from_mode(mode)).unwrap()
    };
    fs::write(dir.path().join("demo.toml"), "").unwrap();
    chmod("demo.toml", 0o666);
    assert_eq!(
        told("demo.toml"),
        ["other users can change DIR/demo.toml (mode 0666): chmod 644 DIR/demo.toml"]
    );
    chmod("", 0o777);
    assert_eq!(told("none"), ["other users can replace files in DIR (mode 0777): chmod 755 DIR"]);
    chmod("", 0o1777);
    assert_eq!(told("none"), Vec::<String>::new(), "the sticky bit keeps other users from moving the files");
    chmod("", 0o700);
    fs::create_dir(dir.path().join("open")).unwrap();
    fs::rename(store.path().join("nodes"), dir.path().join("open/nodes")).unwrap();
    std::os::unix::fs::symlink("../open/nodes", store.path().join("nodes")).unwrap();
    assert_eq!(told("none"), Vec::<String>::new());
    chmod("open/nodes/m1/etcd-peer.key", 0o644);
    chmod("open", 0o777);
    assert_eq!(
        told("none"),
        [
            "other users can replace files in DIR/open (mode 0777): chmod 755 DIR/open",
            "other users can use DIR/demo.trust/nodes/m1/etcd-peer.key (mode 0644): chmod 600 \
             DIR/demo.trust/nodes/m1/etcd-peer.key",
        ]
    );
}

/// Only root can change the owner of a file. For other users, this test does nothing.
#[test]
fn files_of_another_user_cause_warnings() {
    let (dir, _, store, pki) = fresh();
    store.save(&pki).unwrap();
    let key = store.path().join("ca.key");
    if std::os::unix::fs::chown(&key, Some(12345), None).is_err() {
        return;
    }
    let owns = |path: &Path, options: &str| {
        let (me, shown) = (rustix::process::geteuid().as_raw(), path.display());
        format!(
            "another user (uid 12345) owns {shown}, and can read and replace it: chown{options} {me} {shown}"
        )
    };
    assert_eq!(store.warnings(), [owns(&key, "")]);
    std::os::unix::fs::chown(store.path(), Some(12345), None).unwrap();
    assert_eq!(store.warnings(), [owns(&store.path(), " -R")], "one warning covers the whole directory");
    std::os::unix::fs::chown(dir.path(), Some(12345), None).unwrap();
    let above = dir.path().canonicalize().unwrap();
    assert_eq!(store.warnings(), [owns(&store.path(), " -R"), owns(&above, "")]);
}

#[test]
fn the_lock_file_is_always_made_private() {
    let (dir, _, store, _) = fresh();
    let file = dir.path().join(".demo.lock");
    drop(store.lock().unwrap());
    assert_eq!(mode(&file), 0o600);
    fs::set_permissions(&file, Permissions::from_mode(0o644)).unwrap();
    drop(store.lock().unwrap());
    assert_eq!(mode(&file), 0o600);
}

#[test]
fn the_lock_removes_only_leftovers_of_killed_runs() {
    let (dir, _, store, pki) = fresh();
    store.save(&pki).unwrap();
    let make = |name: &str, mode: u32| {
        fs::create_dir(dir.path().join(name)).unwrap();
        fs::write(dir.path().join(name).join("ca.key"), "x").unwrap();
        fs::set_permissions(dir.path().join(name), Permissions::from_mode(mode)).unwrap();
    };
    make(".demo.Xy12Zw.trust", 0o700);
    let neighbours = [
        (".demo.Xy12Zw.trust.bak", 0o700),
        (".demo.other.Xy12Zw.trust", 0o700),
        (".demo.Xy12Zw7.trust", 0o700),
        (".demo2.Xy12Zw.trust", 0o700),
        ("demo.Xy12Zw.trust", 0o700),
        (".demo.opened.trust", 0o755),
    ];
    neighbours.iter().for_each(|(name, mode)| make(name, *mode));
    std::os::unix::fs::symlink(dir.path().join("demo.trust"), dir.path().join(".demo.linked.trust")).unwrap();
    drop(store.lock().unwrap());
    let mut kept: Vec<String> = neighbours.iter().map(|(name, _)| name.to_string()).collect();
    kept.extend([".demo.linked.trust".into(), ".demo.lock".into(), "demo.trust".into()]);
    kept.sort();
    let mut left = names(dir.path());
    left.sort();
    assert_eq!(left, kept);
    assert!(store.load().unwrap().unwrap() == pki);
}

#[test]
fn the_lock_refuses_a_second_run_naming_the_first() {
    let (dir, _, store, _) = fresh();
    let held = store.lock().unwrap();
    let error = store.lock().unwrap_err();
    assert_eq!(error.kind, Kind::Busy);
    let process = format!("process {} on ", std::process::id());
    assert!(
        error.what.starts_with(&process) && error.what.ends_with(" is working on cluster demo"),
        "{error}"
    );
    drop(held);
    drop(store.lock().unwrap());
    assert_eq!(names(dir.path()), [".demo.lock"]);
}

#[test]
fn a_missing_folder_is_named() {
    let store = Store { dir: "/nonexistent/folder".into(), cluster: "demo".into(), inventory: "".into() };
    assert!(store.load().unwrap().is_none());
    assert_eq!(store.lock().unwrap_err().what, "cannot open /nonexistent/folder/.demo.lock");
}

#[test]
fn the_lease_secret_is_private_and_made_once() {
    let (_dir, _, store, pki) = fresh();
    assert_eq!((store.lease_secret().unwrap(), store.keep_lease_secret().unwrap()), (None, None));
    assert!(!store.path().exists(), "the call creates no PKI directory");
    // A PKI directory of an earlier version has no lease secret.
    store.save(&pki).unwrap();
    assert_eq!(store.lease_secret().unwrap(), None);
    let secret = store.keep_lease_secret().unwrap().unwrap();
    let file = store.path().join("lease-secret");
    assert_eq!((mode(&file), secret.len()), (0o600, 64));
    assert_eq!(store.lease_secret().unwrap(), Some(secret.clone()));
    assert_eq!(store.keep_lease_secret().unwrap(), Some(secret.clone()));
    assert!(store.load().unwrap().unwrap() == pki, "the secret is not part of the PKI");
    fs::set_permissions(&file, Permissions::from_mode(0o644)).unwrap();
    assert_eq!(store.warnings().len(), 1);
    // A truncated secret is replaced.
    fs::write(&file, &secret[..20]).unwrap();
    assert_eq!(store.lease_secret().unwrap(), None);
    assert!(store.keep_lease_secret().unwrap().is_some_and(|other| other != secret));
    fs::remove_file(&file).unwrap();
    fs::create_dir(&file).unwrap();
    assert!(
        store.lease_secret().is_err() && store.keep_lease_secret().is_err(),
        "an unreadable secret is not an absent one"
    );
}

#[test]
fn a_lock_keeps_its_place_and_a_copy_differs() {
    let (dir, cluster, store, _) = fresh();
    let place = |store: &Store| store.lock().unwrap().place().to_string();
    assert_eq!(place(&store), place(&store));
    let other = tempfile::tempdir().unwrap();
    fs::copy(dir.path().join(".demo.lock"), other.path().join(".demo.lock")).unwrap();
    let copy = Store::new(&Cluster { dir: other.path().into(), ..cluster });
    assert_ne!(place(&store), place(&copy));
}
