//! Files that are not ours alone: your own kubeconfig, and files that a command writes because you name them. The
//! caller decides what is in them.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use time::OffsetDateTime;

use super::{failed, folder_of, read, replace, sync};
use crate::error::{Error, Kind, Result};
use crate::pki::Kubeconfig;

/// The kubeconfig that kubectl changes: the first of `$KUBECONFIG`, else `~/.kube/config` (client-go `loader.go`).
pub fn own_kubeconfig() -> Result<PathBuf> {
    let list = std::env::var_os("KUBECONFIG").unwrap_or_default();
    let first = std::env::split_paths(&list).find(|path| !path.as_os_str().is_empty());
    first.or_else(|| Some(std::env::home_dir()?.join(".kube/config"))).ok_or_else(|| {
        Error::new(Kind::Local, "cannot determine your kubeconfig").hint("set KUBECONFIG, or HOME")
    })
}

/// Replaces a file as a whole with what `edit` makes of its text, with mode 0600. It keeps the old text in a file
/// beside it. If `edit` returns `None`, nothing changes. Returns the path of the copy, if there was something to copy.
pub fn edit_shared(
    path: &Path,
    edit: impl FnOnce(Option<&str>) -> Result<Option<String>>,
) -> Result<Option<PathBuf>> {
    // If the path is a link, its target is replaced, and the link stays.
    let path = &path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
    let folder = folder_of(path);
    let made = DirBuilder::new().recursive(true).mode(0o700).create(folder);
    made.map_err(|e| failed("create", folder, e))?;
    let _lock = FileLock::take(path)?;
    let present = read(path)?;
    let Some(text) = edit(present.as_deref())? else { return Ok(None) };
    let copy = present.map(|present| keep_copy(path, &present)).transpose()?;
    replace(path, &text, 0o600)?;
    Ok(copy)
}

fn keep_copy(path: &Path, text: &str) -> Result<PathBuf> {
    let format = time::macros::format_description!("[year][month][day]-[hour][minute][second]");
    let when = OffsetDateTime::now_utc().format(format).unwrap_or_default();
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(format!(".before-{when}"));
    let copy = path.with_file_name(name);
    replace(&copy, text, 0o600)?;
    Ok(copy)
}

/// A lock on a kubeconfig, as kubectl itself takes it (client-go `tools/clientcmd/config.go`). A file that
/// exists beside the kubeconfig is the lock.
struct FileLock(PathBuf);

impl FileLock {
    fn take(path: &Path) -> Result<FileLock> {
        let mut name = path.as_os_str().to_os_string();
        name.push(".lock");
        let lock = PathBuf::from(name);
        match OpenOptions::new().write(true).create_new(true).open(&lock) {
            Ok(_) => Ok(FileLock(lock)),
            Err(e) if e.kind() == ErrorKind::AlreadyExists => {
                Err(Error::new(Kind::Busy, format!("another program is changing {}", path.display()))
                    .because(format!("the lock file {} exists", lock.display()))
                    .hint("if no program is running, delete that file"))
            }
            Err(e) => Err(failed("create", &lock, e)),
        }
    }
}

impl Drop for FileLock {
    fn drop(&mut self) {
        // If the lock stays, the error of the next run names its file.
        let _ = fs::remove_file(&self.0);
    }
}

/// Writes a kubeconfig to a file of its own, with mode 0600. A file that exists already must be of the same cluster and user.
pub fn write_kubeconfig(path: &Path, text: &str) -> Result<()> {
    if wants_kubeconfig(path, text)? { replace(path, text, 0o600) } else { Ok(()) }
}

/// Whether `write_kubeconfig` would write anything. Fails if it would overwrite the kubeconfig of another cluster or user.
pub(super) fn wants_kubeconfig(path: &Path, text: &str) -> Result<bool> {
    let Some(present) = read(path)? else { return Ok(true) };
    match (Kubeconfig::of(text), Kubeconfig::of(&present)) {
        (Some(ours), Some(theirs)) if theirs == ours => Ok(false),
        (Some(ours), Some(theirs)) if theirs.has_owner_of(&ours) => Ok(true),
        _ => Err(Error::new(Kind::Local, format!("{} does not belong to this cluster", path.display()))
            .because("it names other clusters or users, or another CA, or is not a kubeconfig")
            .hint("move it away; ironstrap would overwrite it")),
    }
}

/// Writes a new file. It never replaces one that exists already.
pub fn create(path: &Path, text: &str, mode: u32) -> Result<()> {
    let folder = folder_of(path);
    match OpenOptions::new().write(true).create_new(true).mode(mode).open(path) {
        Ok(mut file) => {
            let written = file.write_all(text.as_bytes()).and_then(|()| file.sync_all());
            written.map_err(|e| failed("write", path, e))?;
            sync(folder)
        }
        Err(e) if e.kind() == ErrorKind::AlreadyExists => {
            Err(Error::new(Kind::Refused, format!("{} already exists", path.display()))
                .hint("name another file with -o FILE, or move it away; ironstrap never overwrites it"))
        }
        Err(e) => Err(failed("create", path, e)),
    }
}

/// Writes a file that anybody may read and that ironstrap may replace. It also makes the folder.
pub fn publish(path: &Path, text: &str) -> Result<()> {
    let folder = folder_of(path);
    fs::create_dir_all(folder).map_err(|e| failed("create", folder, e))?;
    replace(path, text, 0o644)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn folder() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config");
        (dir, path)
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn a_shared_file_is_replaced_after_a_copy() {
        let (dir, path) = folder();
        fs::write(&path, "old").unwrap();
        let link = dir.path().join("link");
        symlink(&path, &link).unwrap();
        let copy =
            edit_shared(&link, |text| Ok(text.map(|text| format!("{text} and new")))).unwrap().unwrap();
        assert_eq!((fs::read_to_string(&path).unwrap().as_str(), mode(&path)), ("old and new", 0o600));
        assert_eq!((fs::read_to_string(&copy).unwrap().as_str(), mode(&copy)), ("old", 0o600));
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 3, "the lock file is removed");
    }

    #[test]
    fn a_missing_shared_file_is_created_with_its_folder() {
        let (_dir, path) = folder();
        let path = path.join("deep/er");
        assert_eq!(edit_shared(&path, |text| Ok(text.is_none().then(|| "new".into()))).unwrap(), None);
        assert_eq!(
            (fs::read_to_string(&path).unwrap().as_str(), mode(path.parent().unwrap())),
            ("new", 0o700)
        );
    }

    #[test]
    fn a_refused_or_unnecessary_edit_leaves_no_trace() {
        let (dir, path) = folder();
        fs::write(&path, "old").unwrap();
        assert_eq!(edit_shared(&path, |_| Ok(None)).unwrap(), None);
        let refused = || Err(Error::new(Kind::Refused, "no"));
        assert!(edit_shared(&path, |_| refused()).is_err());
        fs::write(dir.path().join("config.lock"), "").unwrap();
        let error = edit_shared(&path, |_| Ok(Some("new".into()))).unwrap_err();
        assert_eq!(error.kind, Kind::Busy, "{error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "old");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
    }

    #[test]
    fn creation_does_not_overwrite_a_file() {
        let (_dir, path) = folder();
        create(&path, "mine", 0o644).unwrap();
        let error = create(&path, "yours", 0o644).unwrap_err();
        assert_eq!((error.kind, fs::read_to_string(&path).unwrap().as_str()), (Kind::Refused, "mine"));
    }
}
