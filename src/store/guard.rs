//! Who can get at the secrets on the operator's disk, by the modes of files and folders.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::kin::SECRET;

/// Adds a warning for each secret in this folder that others can read, and for each folder in which others can replace one.
/// A folder or file that cannot be looked at is for `load` to report.
pub(super) fn guarded(folder: &Path, warnings: &mut Vec<String>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    warnings.extend(wider(folder, 0o022, "replace what is in", 0o700));
    for path in entries.flatten().map(|entry| entry.path()) {
        let is_folder = fs::symlink_metadata(&path).is_ok_and(|found| found.is_dir());
        let named = |name: &&str| path.ends_with(name);
        let is_secret =
            path.extension().is_some_and(|end| end == "key") || ["token", SECRET].iter().any(named);
        match (is_folder, is_secret) {
            (true, _) => guarded(&path, warnings),
            (false, true) => warnings.extend(wider(&path, 0o077, "use", 0o600)),
            (false, false) => warnings.extend(wider(&path, 0o022, "replace", 0o644)),
        }
    }
}

/// A warning where the mode of a file or folder has any of these bits.
pub(super) fn wider(path: &Path, bits: u32, what: &str, better: u32) -> Option<String> {
    let mode = fs::metadata(path).ok()?.permissions().mode() & 0o7777;
    let (shown, is_wider) = (path.display(), mode & bits != 0);
    is_wider.then(|| format!("other users can {what} {shown} (mode {mode:04o}): chmod {better:o} {shown}"))
}
