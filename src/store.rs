//! The operator's files on disk, beside the inventory: the PKI directory, the kubeconfig and the lock. `pki`
//! decides what is in the files, and whether it fits together.

use std::fmt::Display;
use std::fs::{self, DirBuilder, OpenOptions, Permissions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::cluster::Cluster;
use crate::error::{Error, Kind, Result};
use crate::pki::{ClusterPki, Kept, RETIRED};
use crate::secret::Shown;
use guard::Guard;

mod guard;
mod kin;
mod shared;
mod unfinished;

pub use shared::{create, edit_shared, own_kubeconfig, publish, write_kubeconfig};

/// Where the operator's files of one cluster are.
#[derive(Clone, Debug, PartialEq)]
pub struct Store {
    /// The folder of the inventory.
    dir: PathBuf,
    cluster: String,
    inventory: PathBuf,
}

/// The lock of one inventory. While a run holds it, no other run on this inventory changes anything. The lock is
/// free when this value is dropped, or when the process ends in any way. On NFS, other hosts may not see the lock.
#[derive(Debug)]
#[must_use = "the lock is free again as soon as this is dropped"]
pub struct Lock {
    _file: fs::File,
    place: String,
}

impl Lock {
    /// Identifies this lock, and no copy of it.
    pub fn place(&self) -> &str {
        &self.place
    }
}

impl Store {
    /// Finds the paths of a cluster. It touches no file.
    pub fn new(cluster: &Cluster) -> Store {
        // An inventory given by its bare name has an empty folder, which no system call takes.
        let empty = cluster.dir.as_os_str().is_empty();
        let dir = if empty { PathBuf::from(".") } else { cluster.dir.clone() };
        Store { dir, cluster: cluster.name.clone(), inventory: cluster.file.clone() }
    }

    /// The path of the PKI directory.
    pub fn path(&self) -> PathBuf {
        self.dir.join(format!("{}.trust", self.cluster))
    }

    /// The path of the operator's kubeconfig.
    pub fn kubeconfig_path(&self) -> PathBuf {
        self.dir.join(format!("{}.kubeconfig", self.cluster))
    }

    /// Loads the cluster PKI. `None` only if the PKI directory does not exist at all. It is an error if the
    /// directory cannot be read, or lacks what the cluster is built on. To make another PKI would lose the cluster.
    pub fn load(&self) -> Result<Option<ClusterPki>> {
        let path = self.path();
        match fs::symlink_metadata(&path) {
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(failed("access", &path, e)),
            Ok(_) => {}
        }
        let pki = ClusterPki::from_kept(&self.nodes()?, |file| read(&path.join(file)));
        pki.map(Some).map_err(|e| match e.cause.is_empty() {
            true => e.because(format!("the cluster PKI is kept in {}", path.display())),
            false => e,
        })
    }

    /// Saves the cluster PKI. Call it under the lock. A new PKI directory appears as a whole or not at all. Later saves
    /// replace file by file, but never what the cluster is built on. They also remove the join token of earlier releases.
    pub fn save(&self, pki: &ClusterPki) -> Result<()> {
        let path = self.path();
        let kept = pki.kept();
        match path.symlink_metadata() {
            Err(e) if e.kind() == ErrorKind::NotFound => self.save_new(&path, &kept),
            Err(e) => Err(failed("access", &path, e)),
            Ok(_) => save_changes(&path, &kept).and_then(|()| self.retire()),
        }
    }

    /// Removes what earlier releases kept and this one does not use. Call it under the lock.
    pub fn retire(&self) -> Result<()> {
        remove(&self.path().join(RETIRED))
    }

    /// Whether `save_kubeconfig` would write this text. Fails if `save_kubeconfig` would refuse to overwrite a
    /// file that belongs to another cluster or user. So a caller knows this before a long run.
    pub fn wants_kubeconfig(&self, text: &str) -> Result<bool> {
        shared::wants_kubeconfig(&self.kubeconfig_path(), text)
    }

    /// Writes the operator's kubeconfig, unless it already leads to the same cluster with the same credentials.
    /// So a namespace that the user chose with `kubectl config` stays. Returns whether it wrote the file.
    pub fn save_kubeconfig(&self, text: &str) -> Result<bool> {
        let write = self.wants_kubeconfig(text)?;
        if write {
            replace(&self.kubeconfig_path(), text, 0o600)?;
        }
        Ok(write)
    }

    /// The text of a file that ironstrap fetched before, by its SHA-256 in hex. The caller checks that the hash is right.
    pub fn fetched(&self, sha256: &str) -> Result<Option<String>> {
        read(&self.fetched_path().join(sha256))
    }

    /// Keeps a file that ironstrap fetched, so that no later run needs to fetch it again.
    pub fn keep_fetched(&self, sha256: &str, text: &str) -> Result<()> {
        let path = self.fetched_path();
        let made = DirBuilder::new().recursive(true).mode(0o700).create(&path);
        made.map_err(|e| failed("create", &path, e))?;
        replace(&path.join(sha256), text, 0o600)
    }

    fn fetched_path(&self) -> PathBuf {
        self.dir.join(format!("{}.fetched", self.cluster))
    }

    /// The files and folders that other users of this computer can read or replace, a line each. It checks the
    /// PKI directory, the kubeconfig and the inventory. Every command reports these lines before it goes on.
    pub fn warnings(&self) -> Vec<String> {
        let mut guard = Guard::new();
        guard.pki(&self.path());
        guard.file(&self.kubeconfig_path(), 0o077, "use", 0o600);
        guard.file(&self.inventory, 0o022, "change", 0o644);
        [self.path(), self.kubeconfig_path(), self.inventory.clone()]
            .iter()
            .for_each(|path| guard.above(path));
        guard.warnings
    }

    /// Takes the lock, for every command that changes anything. It also removes what killed runs left unfinished.
    pub fn lock(&self) -> Result<Lock> {
        let path = self.dir.join(format!(".{}.lock", self.cluster));
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let mut file = options.open(&path).map_err(|e| failed("open", &path, e))?;
        // A user who can open the file can hold the lock. Earlier releases made it with mode 0644. A file of
        // another user stays as it is.
        let _ = file.set_permissions(Permissions::from_mode(0o600));
        match file.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => return Err(self.busy(&path, &mut file)),
            Err(fs::TryLockError::Error(e)) => return Err(failed("lock", &path, e)),
        }
        let host = hostname::get().unwrap_or_default();
        let holder = format!("process {} on {}\n", std::process::id(), host.to_string_lossy());
        // The file outlives the lock. If it were removed, two runs could each lock a file of that name.
        let written = file.set_len(0).and_then(|()| file.write_all(holder.as_bytes()));
        written.map_err(|e| failed("write", &path, e))?;
        unfinished::clear_away(&self.dir, &self.cluster);
        let place = kin::place(&file).map_err(|e| failed("access", &path, e))?;
        Ok(Lock { _file: file, place })
    }

    fn busy(&self, path: &Path, file: &mut fs::File) -> Error {
        let mut holder = String::new();
        // The holder may not have written its name yet. Then all we know is that there is one.
        let known = file.read_to_string(&mut holder).is_ok_and(|length| length > 0);
        let holder = if known { holder.trim_end() } else { "another run" };
        Error::new(Kind::Busy, format!("{holder} is working on cluster {}", self.cluster))
            .because(format!("it holds {}", path.display()))
            .hint("wait until it ends")
    }

    /// The nodes that have a folder in the PKI directory.
    fn nodes(&self) -> Result<Vec<String>> {
        let path = self.path().join("nodes");
        let folders = match fs::read_dir(&path) {
            Ok(folders) => folders,
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(vec![]),
            Err(e) => return Err(failed("read", &path, e)),
        };
        let mut nodes = vec![];
        for folder in folders {
            let folder = folder.map_err(|e| failed("read", &path, e))?;
            // Names of nodes are ASCII, so anything else is not ours.
            let name = folder.file_name().into_string().ok().filter(|_| folder.path().is_dir());
            nodes.extend(name);
        }
        Ok(nodes)
    }

    fn save_new(&self, path: &Path, kept: &[Kept<'_>]) -> Result<()> {
        let building = tempfile::Builder::new()
            .prefix(&unfinished::prefix(&self.cluster))
            // One pattern keeps both the PKI directory and a leftover of a killed run out of git.
            .suffix(unfinished::SUFFIX)
            .rand_bytes(unfinished::RANDOM)
            .permissions(Permissions::from_mode(0o700))
            .tempdir_in(&self.dir)
            .map_err(|e| failed("create a directory in", &self.dir, e))?;
        make_folders(building.path(), kept)?;
        for file in kept {
            write(building.path(), file)?;
        }
        fs::rename(building.path(), path).map_err(|e| failed("create", path, e))?;
        // The folder has its final name now, so nothing is left to clean up under the first one.
        let _ = building.keep();
        sync(&self.dir)
    }
}

/// Opens a log file, to write a run at its end. Nobody else may read the file.
pub fn log(path: &Path) -> Result<fs::File> {
    let open = || {
        let file = OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
        file.set_permissions(Permissions::from_mode(0o600))?;
        Ok(file)
    };
    open().map_err(|e: std::io::Error| failed("open", path, e))
}

/// Writes a text that is for the user alone, with mode 0600, as a whole or not at all.
pub fn save_private(file: &Path, text: &Shown) -> Result<()> {
    replace(file, text.as_str(), 0o600)
}

/// Writes the files that differ. It judges all of them before it writes any of them.
fn save_changes(path: &Path, kept: &[Kept<'_>]) -> Result<()> {
    let mut changed = vec![];
    for file in kept {
        match read(&path.join(&file.path))? {
            Some(present) if present == file.text => {}
            Some(_) if file.fixed => {
                return Err(Error::new(
                    Kind::Local,
                    format!("{} in {} has changed", file.path, path.display()),
                )
                .because("the cluster depends on this file, and ironstrap never replaces it")
                .hint("run the command again; the directory changed during this run"));
            }
            _ => changed.push(file),
        }
    }
    make_folders(path, changed.iter().copied())?;
    changed.into_iter().try_for_each(|file| write(path, file))
}

fn write(path: &Path, file: &Kept<'_>) -> Result<()> {
    replace(&path.join(&file.path), file.text, if file.secret { 0o600 } else { 0o644 })
}

/// Makes the folders of these files. `path` itself exists already.
fn make_folders<'a>(path: &Path, files: impl IntoIterator<Item = &'a Kept<'a>>) -> Result<()> {
    for file in files {
        let parents = Path::new(&file.path).ancestors().skip(1).filter(|it| !it.as_os_str().is_empty());
        let mut parents: Vec<PathBuf> = parents.map(|it| path.join(it)).collect();
        // The outermost folder comes first.
        while let Some(folder) = parents.pop() {
            match DirBuilder::new().mode(0o700).create(&folder) {
                Ok(()) => sync(folder.parent().unwrap_or(path))?,
                Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
                Err(e) => return Err(failed("create", &folder, e)),
            }
        }
    }
    Ok(())
}

/// Replaces a file atomically. It has the old text or the new one, even if the power fails.
fn replace(file: &Path, text: &str, mode: u32) -> Result<()> {
    let folder = folder_of(file);
    let suffix = file.file_name().unwrap_or_default();
    let new = tempfile::Builder::new().prefix(".").suffix(suffix).tempfile_in(folder);
    let written = new.and_then(|mut new| {
        new.write_all(text.as_bytes())?;
        new.as_file().set_permissions(Permissions::from_mode(mode))?;
        new.as_file().sync_all()?;
        Ok(new.persist(file)?)
    });
    written.map_err(|e| failed("write", file, e))?;
    sync(folder)
}

/// Removes a file, if it exists.
fn remove(file: &Path) -> Result<()> {
    match fs::remove_file(file) {
        Ok(()) => sync(folder_of(file)),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
        Err(e) => Err(failed("remove", file, e)),
    }
}

/// The folder that a file is in. The parent of a bare name is empty, which no system call takes.
fn folder_of(file: &Path) -> &Path {
    file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Writes the names in a folder to disk, so that they survive a power failure.
fn sync(folder: &Path) -> Result<()> {
    fs::File::open(folder).and_then(|it| it.sync_all()).map_err(|e| failed("write", folder, e))
}

/// The text of a file. `None` only if the file does not exist.
fn read(file: &Path) -> Result<Option<String>> {
    match fs::read_to_string(file) {
        Ok(text) => Ok(Some(text)),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        Err(e) => Err(failed("read", file, e)),
    }
}

fn failed(verb: &str, path: &Path, e: impl Display) -> Error {
    Error::new(Kind::Local, format!("cannot {verb} {}", path.display())).because(e.to_string())
}

#[cfg(test)]
mod tests;
