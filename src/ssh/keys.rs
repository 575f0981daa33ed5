//! Private keys in files: read once for all machines, and opened with a passphrase where they are locked.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use russh::keys::{Certificate, PrivateKey, PublicKey, decode_secret_key};

use super::clock::Clock;
use super::secrets::{Secret, Secrets};
use super::way::Way;
use crate::error::Result;

/// A key file, read.
#[derive(Clone)]
pub(super) struct KeyFile {
    pub key: Key,
    /// Those that stand beside it or are named for it.
    pub certificates: Vec<Certificate>,
}

#[derive(Clone)]
pub(super) enum Key {
    Ready(Arc<PrivateKey>),
    /// Encrypted, or the public half alone: an agent may hold it.
    Locked(Option<PublicKey>),
    /// It is in a device, and only an agent speaks to that.
    Hardware(PublicKey),
}

type Read = std::result::Result<KeyFile, String>;

/// All that were read so far.
#[derive(Default)]
pub(super) struct KeyFiles(Mutex<BTreeMap<PathBuf, Read>>);

impl KeyFiles {
    pub fn read(&self, path: &Path, way: &Way) -> Read {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut file = all.entry(path.into()).or_insert_with(|| read(path)).clone()?;
        let named = way.certificates.iter().filter_map(|path| certificate(path));
        let public = file.public();
        file.certificates
            .extend(named.filter(|c| public.as_ref().is_some_and(|p| p.key_data() == c.public_key())));
        Ok(file)
    }

    /// The key, where the operator knows what it is encrypted with; who asks first asks for all.
    pub async fn unlock(
        &self,
        path: &Path,
        secrets: &Secrets,
        clock: &Clock,
    ) -> Result<Option<Arc<PrivateKey>>> {
        let what = Secret::Passphrase(path.into());
        loop {
            let Some(lent) = secrets.lend(&what, "", clock).await? else { return Ok(None) };
            if let Some(key) = self.opened(path) {
                return Ok(Some(key));
            }
            let (word, file) = (lent.word.clone(), path.to_path_buf());
            // It takes a tenth of a second on purpose.
            let opened = tokio::task::spawn_blocking(move || {
                let text = std::fs::read_to_string(file).ok()?;
                decode_secret_key(&text, Some(word.reveal())).ok()
            });
            if let Some(key) = opened.await.ok().flatten() {
                let key = Arc::new(key);
                self.keep(path, key.clone());
                lent.proved();
                return Ok(Some(key));
            }
            if lent.was_right_elsewhere() {
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

/// Of an encrypted key: from the file beside it, or from the file itself, where the format has it in clear.
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
