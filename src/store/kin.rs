//! The secret by which runs of one PKI directory recognize each other's leases. `ledger` makes proofs with it.

use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;

use super::{Store, failed, read, replace};
use crate::error::Result;
use crate::pki::random_text;

/// The name of the secret's file in the PKI directory.
pub(super) const SECRET: &str = "lease-secret";

const LENGTH: usize = 64;

impl Store {
    /// The secret, if there is one.
    pub fn lease_secret(&self) -> Result<Option<String>> {
        let text = read(&self.path().join(SECRET))?;
        let text = text.map(|text| text.trim_end().to_string());
        // A broken secret counts as none, and is replaced. The only cost is that the next run waits for a lease to end.
        Ok(text.filter(|text| text.len() == LENGTH && text.bytes().all(|byte| byte.is_ascii_hexdigit())))
    }

    /// The secret. If the PKI directory has none, as one of an earlier version, it makes the secret now. `None`
    /// without a PKI directory. Call it under the lock.
    pub fn keep_lease_secret(&self) -> Result<Option<String>> {
        let path = self.path();
        match path.metadata() {
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(failed("access", &path, e)),
            Ok(_) => {}
        }
        if let Some(secret) = self.lease_secret()? {
            return Ok(Some(secret));
        }
        let secret = random_text(b"0123456789abcdef", LENGTH)?;
        replace(&path.join(SECRET), &format!("{secret}\n"), 0o600)?;
        Ok(Some(secret))
    }
}

/// Identifies the lock file and the kernel that guards it. Two runs that get the same text here cannot both hold the
/// lock. A copy of the folder, another computer and another container with its own files each give another text.
pub(super) fn place(lock: &std::fs::File) -> std::io::Result<String> {
    let file = lock.metadata()?;
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let kernel = match boot.trim() {
        "" => hostname::get().unwrap_or_default().to_string_lossy().into_owned(),
        boot => boot.to_string(),
    };
    Ok(format!("{kernel} {} {}", file.dev(), file.ino()))
}
