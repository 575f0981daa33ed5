//! Private keys in files. ironstrap reads each once for all machines, and decrypts encrypted keys with a passphrase.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use russh::keys::{Certificate, PrivateKey, PublicKey, decode_secret_key};

use super::deadline::PausableTimeout;
use super::route::Route;
use super::secrets::{Secret, Secrets};
use crate::error::Result;

/// A key file that ironstrap has read.
#[derive(Clone)]
pub(super) struct KeyFile {
    pub key: Key,
    /// Certificates beside the key file, and certificates that ssh_config names for this key.
    pub certificates: Vec<Certificate>,
}

#[derive(Clone)]
pub(super) enum Key {
    Ready(Arc<PrivateKey>),
    /// The key is encrypted, or the file has only the public half. An agent may hold the private key.
    Locked(Option<PublicKey>),
    /// The key is in a hardware token. Only an agent can use it.
    Hardware(PublicKey),
}

type Read = std::result::Result<KeyFile, String>;

/// All key files that ironstrap has read so far.
#[derive(Default)]
pub(super) struct KeyFiles(Mutex<BTreeMap<PathBuf, Read>>);

impl KeyFiles {
    pub fn read(&self, path: &Path, route: &Route) -> Read {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut file = all.entry(path.into()).or_insert_with(|| read(path)).clone()?;
        let named = route.certificates.iter().filter_map(|path| certificate(path));
        let public = file.public();
        file.certificates
            .extend(named.filter(|c| public.as_ref().is_some_and(|p| p.key_data() == c.public_key())));
        Ok(file)
    }

    /// Returns the decrypted key, if the operator knows its passphrase. The first task to ask gets it for all.
    pub async fn unlock(
        &self,
        path: &Path,
        secrets: &Secrets,
        deadline: &PausableTimeout,
    ) -> Result<Option<Arc<PrivateKey>>> {
        let what = Secret::Passphrase(path.into());
        loop {
            let Some(candidate) = secrets.offer(&what, "", deadline).await? else { return Ok(None) };
            if let Some(key) = self.opened(path) {
                return Ok(Some(key));
            }
            let (word, file) = (candidate.word.clone(), path.to_path_buf());
            // Decryption takes a tenth of a second on purpose.
            let opened = tokio::task::spawn_blocking(move || {
                let text = std::fs::read_to_string(file).ok()?;
                decode_secret_key(&text, Some(word.reveal())).ok()
            });
            if let Some(key) = opened.await.ok().flatten() {
                let key = Arc::new(key);
                self.keep(path, key.clone());
                candidate.confirm();
                return Ok(Some(key));
            }
            if candidate.was_right_elsewhere() {
                return Ok(None);
            }
        }
    }

    fn opened(&self, path: &Path) -> Option<Arc<PrivateKey>> {
        match self.0.lock().unwrap_or_else(PoisonError::into_inner).get(path) {
            Some(Ok(KeyFile { key: Key::Ready(key), .. })) => Some(key.clone()),
            _ => None,
        }
    }

    fn keep(&self, path: &Path, key: Arc<PrivateKey>) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(Ok(file)) = all.get_mut(path) {
            file.key = Key::Ready(key);
        }
    }
}

impl KeyFile {
    fn public(&self) -> Option<PublicKey> {
        match &self.key {
            Key::Ready(key) => Some(key.public_key().clone()),
            Key::Locked(public) => public.clone(),
            Key::Hardware(public) => Some(public.clone()),
        }
    }
}

fn read(path: &Path) -> Read {
    let text = std::fs::read_to_string(path).map_err(|error| error.to_string())?;
    let key = match decode_secret_key(&text, None) {
        Ok(key) => ready(key),
        Err(russh::keys::Error::KeyIsEncrypted) => Key::Locked(public_half(path, &text)),
        Err(_) if text.contains("ENCRYPTED") => Key::Locked(public_half(path, &text)),
        Err(error) => match PublicKey::from_openssh(&text) {
            Ok(public) => Key::Locked(Some(public)),
            Err(_) => return Err(error.to_string()),
        },
    };
    Ok(KeyFile { key, certificates: certificate(&beside(path, "-cert.pub")).into_iter().collect() })
}

fn ready(key: PrivateKey) -> Key {
    match key.algorithm().as_str().starts_with("sk-") {
        true => Key::Hardware(key.public_key().clone()),
        false => Key::Ready(Arc::new(key)),
    }
}

/// Returns the public half of an encrypted key. It comes from the `.pub` file beside it, or from the key file, if its
/// format leaves the public half unencrypted.
fn public_half(path: &Path, text: &str) -> Option<PublicKey> {
    let beside = std::fs::read_to_string(beside(path, ".pub")).ok();
    beside
        .and_then(|text| PublicKey::from_openssh(&text).ok())
        .or_else(|| PrivateKey::from_openssh(text).ok().map(|key| key.public_key().clone()))
}

fn certificate(path: &Path) -> Option<Certificate> {
    Certificate::from_openssh(&std::fs::read_to_string(path).ok()?).ok()
}

fn beside(path: &Path, end: &str) -> PathBuf {
    let mut beside = path.as_os_str().to_os_string();
    beside.push(end);
    beside.into()
}
