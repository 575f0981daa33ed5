//! Finds secrets on the operator's disk that other users can reach, by the owners and modes of files and folders.

use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::kin::SECRET;

/// How many levels of folders are checked within the PKI directory. Links could lead in a circle.
const DEEPEST: u8 = 3;
/// The sticky bit. In a folder that has it, only the owner of a file can move the file.
const STICKY: u32 = 0o1000;

/// Collects a warning for each secret that others can read, and for each file and folder that others can
/// replace. `Store::load` reports what cannot be checked here.
pub(super) struct Guard {
    me: u32,
    pub warnings: Vec<String>,
}

impl Guard {
    pub fn new() -> Guard {
        Guard { me: rustix::process::geteuid().as_raw(), warnings: vec![] }
    }

    /// Checks the PKI directory and what is in it.
    pub fn pki(&mut self, folder: &Path) {
        let foreign = self.owned_by_another(folder, " -R");
        self.folder(folder, !foreign, DEEPEST);
        self.warnings.sort();
    }

    /// Checks a single file. Warns if its mode has any of these bits, and if it belongs to another user.
    pub fn file(&mut self, path: &Path, bits: u32, what: &str, better: u32) {
        self.owned_by_another(path, "");
        self.wider(path, bits, what, better);
    }

    /// Checks the folders above a file. Warns about the outermost one in which others can move what is in it.
    pub fn above(&mut self, path: &Path) {
        let Ok(path) = path.canonicalize() else { return };
        let mut folders: Vec<&Path> = path.ancestors().skip(1).collect();
        folders.reverse();
        for folder in folders {
            let is_sticky = fs::metadata(folder).is_ok_and(|found| found.mode() & STICKY != 0);
            let is_open = !is_sticky && self.wider(folder, 0o022, "replace files in", 0o755);
            if self.owned_by_another(folder, "") || is_open {
                return;
            }
        }
    }

    fn folder(&mut self, folder: &Path, owners: bool, left: u8) {
        let Ok(entries) = fs::read_dir(folder) else { return };
        self.wider(folder, 0o022, "replace files in", 0o700);
        for path in entries.flatten().map(|entry| entry.path()) {
            if fs::symlink_metadata(&path).is_ok_and(|found| found.is_symlink()) {
                self.above(&path);
            }
            if owners {
                self.owned_by_another(&path, "");
            }
            let named = |name: &&str| path.ends_with(name);
            let is_secret =
                path.extension().is_some_and(|end| end == "key") || ["token", SECRET].iter().any(named);
            let (bits, what, better) =
                if is_secret { (0o077, "use", 0o600) } else { (0o022, "replace", 0o644) };
            match path.is_dir() {
                true if left > 0 => self.folder(&path, owners, left - 1),
                true => {}
                false => _ = self.wider(&path, bits, what, better),
            }
        }
    }

    /// Warns if the mode of a file has any of these bits. Returns whether it has.
    fn wider(&mut self, path: &Path, bits: u32, what: &str, better: u32) -> bool {
        let Ok(mode) = fs::metadata(path).map(|found| found.mode() & 0o7777) else { return false };
        let shown = path.display();
        if mode & bits != 0 {
            self.add(format!("other users can {what} {shown} (mode {mode:04o}): chmod {better:o} {shown}"));
        }
        mode & bits != 0
    }

    /// Warns if another user owns the file. Returns whether that is so. `options` are those of chown.
    fn owned_by_another(&mut self, path: &Path, options: &str) -> bool {
        let Some(uid) = fs::metadata(path).ok().and_then(|found| another(&found, self.me)) else {
            return false;
        };
        let (shown, me) = (path.display(), self.me);
        self.add(format!(
            "another user (uid {uid}) owns {shown}, and can read and replace it: chown{options} {me} {shown}"
        ));
        true
    }

    fn add(&mut self, warning: String) {
        if !self.warnings.contains(&warning) {
            self.warnings.push(warning);
        }
    }
}

/// The owner, if it is neither this user nor root.
fn another(found: &Metadata, me: u32) -> Option<u32> {
    Some(found.uid()).filter(|uid| *uid != me && *uid != 0)
}
