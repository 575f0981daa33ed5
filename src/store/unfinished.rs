//! Folders in which a killed run was making a PKI directory. None of them was ever used, because a finished one has another name.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

pub(super) const SUFFIX: &str = ".trust";
pub(super) const RANDOM: usize = 6;

pub(super) fn prefix(cluster: &str) -> String {
    format!(".{cluster}.")
}

/// Deletes the unfinished folders of a cluster. Call it under the lock, when no other run is making one. A
/// folder that cannot be deleted stays.
pub(super) fn clear_away(dir: &Path, cluster: &str) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    let ours = rustix::process::geteuid().as_raw();
    for entry in entries.flatten() {
        let (name, path) = (entry.file_name(), entry.path());
        let is_ours = name.to_str().is_some_and(|name| is_name(name, cluster));
        let found = fs::symlink_metadata(&path);
        // The folder must be as ironstrap made it: it belongs to this user and is closed to all others.
        if is_ours && found.is_ok_and(|it| it.is_dir() && it.uid() == ours && it.mode() & 0o7777 == 0o700) {
            let _ = fs::remove_dir_all(&path);
        }
    }
}

/// Whether this is the name of an unfinished folder of the cluster. `.demo.Xy12Zw.trust` is one of `demo`.
/// `.demo.other.Xy12Zw.trust` is not, because it is of the cluster `demo.other`.
fn is_name(name: &str, cluster: &str) -> bool {
    let random = name.strip_prefix(&prefix(cluster)).and_then(|rest| rest.strip_suffix(SUFFIX));
    random.is_some_and(|it| it.len() == RANDOM && it.bytes().all(|byte| byte.is_ascii_alphanumeric()))
}
