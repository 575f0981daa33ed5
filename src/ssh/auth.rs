//! Logging in: which keys are shown, in what order, and what the server said to each. Passwords are never sent.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use russh::MethodKind;
use russh::client::{AuthResult, Handle};
use russh::keys::agent::AgentIdentity;
use russh::keys::agent::client::AgentClient;
use russh::keys::{HashAlg, PrivateKey, PrivateKeyWithHashAlg, PublicKey, decode_secret_key};
use tokio::time::timeout;

use super::trust::{Parting, Trust, last_words};
use super::{GOODBYE, Operator, Target};
use crate::error::{Error, Kind, Result};
use crate::known_hosts::fingerprint;

/// sshd hangs up at the sixth key it refuses (MaxAuthTries), and there may be a file left to try.
const AGENT_KEYS: usize = 5;
const USUAL_FILES: [&str; 3] = [".ssh/id_ed25519", ".ssh/id_ecdsa", ".ssh/id_rsa"];

/// A key file, read.
pub(super) struct KeyFile {
    shown: String,
    key: Key,
}

enum Key {
    Ready(Arc<PrivateKey>),
    /// Encrypted, or the public half alone: an agent may hold it.
    Locked(Option<PublicKey>),
}

/// What came of showing a key.
#[derive(PartialEq)]
enum Answer {
    In,
    Next,
    HungUp,
}

struct Login<'a> {
    handle: &'a mut Handle<Trust>,
    target: &'a Target,
    parting: &'a Parting,
    shown: Vec<PublicKey>,
    /// A line for each key, or each reason there was none.
    tried: Vec<String>,
    methods: Vec<MethodKind>,
    /// What RSA keys sign with, once it is asked for: that may take a second.
    rsa: Option<Option<HashAlg>>,
}

/// The key file that the inventory names.
pub(super) fn given(path: &Path, operator: &Operator) -> Result<KeyFile> {
    read(path, operator).map_err(|why| {
        Error::new(Kind::Local, format!("cannot use the SSH key {}", operator.shown(path)))
            .because(why)
            .hint("name a private key file in the inventory, or none, to use your ssh-agent")
    })
}

fn read(path: &Path, operator: &Operator) -> std::result::Result<KeyFile, String> {
    let text = std::fs::read_to_string(path).map_err(|error| error.to_string())?;
    let key = match decode_secret_key(&text, None) {
        Ok(key) => Key::Ready(Arc::new(key)),
        Err(russh::keys::Error::KeyIsEncrypted) => Key::Locked(public_half(path, &text)),
        Err(_) if text.contains("ENCRYPTED") => Key::Locked(public_half(path, &text)),
        Err(error) => match PublicKey::from_openssh(&text) {
            Ok(public) => Key::Locked(Some(public)),
            Err(_) => return Err(error.to_string()),
        },
    };
    Ok(KeyFile { shown: operator.shown(path), key })
}

/// Of an encrypted key: from the file beside it, or from the file itself, where the format has it in clear.
fn public_half(path: &Path, text: &str) -> Option<PublicKey> {
    let mut beside = path.as_os_str().to_os_string();
    beside.push(".pub");
    let beside = std::fs::read_to_string(PathBuf::from(beside)).ok();
    beside
        .and_then(|text| PublicKey::from_openssh(&text).ok())
        .or_else(|| PrivateKey::from_openssh(text).ok().map(|key| key.public_key().clone()))
}

/// Shows the given key; without one, those of the agent, then the usual files.
pub(super) async fn login(
    handle: &mut Handle<Trust>,
    target: &Target,
    given: Option<KeyFile>,
    parting: &Parting,
) -> Result<()> {
    let (shown, tried, methods) = (vec![], vec![], vec![]);
    let mut login = Login { handle, target, parting, shown, tried, methods, rsa: None };
    let answer = match given {
        Some(KeyFile { key: Key::Ready(key), shown }) => login.file(&shown, key).await,
        Some(KeyFile { key: Key::Locked(public), shown }) => {
            let answer = match &public {
                Some(public) => login.agent(Some(public)).await,
                None => Answer::Next,
            };
            if login.shown.is_empty() {
                return Err(login.locked(&shown));
            }
            answer
        }
        None => match login.agent(None).await {
            Answer::Next => login.usual_files().await,
            answer => answer,
        },
    };
    if answer == Answer::In { Ok(()) } else { Err(login.refused()) }
}

impl Login<'_> {
    /// The keys an agent holds, or the one `wanted` of them.
    async fn agent(&mut self, wanted: Option<&PublicKey>) -> Answer {
        let Some(socket) = &self.target.operator.agent else {
            self.tried.push("ssh-agent: none (SSH_AUTH_SOCK is not set)".into());
            return Answer::Next;
        };
        let connected = AgentClient::connect_uds(socket).await;
        let (mut agent, held) = match connected {
            Ok(mut agent) => match agent.request_identities().await {
                Ok(held) => (agent, held),
                Err(error) => return self.no_agent(&error),
            },
            Err(error) => return self.no_agent(&error),
        };
        let total = held.len();
        let fits = |held: &AgentIdentity| match wanted {
            Some(wanted) => held.public_key().key_data() == wanted.key_data(),
            None => true,
        };
        let mut fitting = held.into_iter().filter(fits);
        for identity in fitting.by_ref().take(AGENT_KEYS) {
            match self.identity(&identity, &mut agent).await {
                Answer::Next => {}
                answer => return answer,
            }
        }
        match (total, fitting.count()) {
            (0, _) => self.tried.push("ssh-agent: it holds no keys".into()),
            (_, 0) => {}
            (_, more) => {
                self.tried.push(format!("ssh-agent: {more} more, not shown: servers hang up after six"))
            }
        }
        Answer::Next
    }

    fn no_agent(&mut self, error: &russh::keys::Error) -> Answer {
        self.tried.push(format!("ssh-agent: {error}"));
        Answer::Next
    }

    async fn identity(
        &mut self,
        identity: &AgentIdentity,
        agent: &mut AgentClient<tokio::net::UnixStream>,
    ) -> Answer {
        let public = identity.public_key().into_owned();
        let hash = self.hash(&public).await;
        let user = &self.target.ssh.user;
        let (result, comment) = match identity {
            AgentIdentity::PublicKey { key, comment } => {
                (self.handle.authenticate_publickey_with(user, key.clone(), hash, agent).await, comment)
            }
            AgentIdentity::Certificate { certificate, comment } => {
                let certificate = certificate.clone();
                (self.handle.authenticate_certificate_with(user, certificate, hash, agent).await, comment)
            }
        };
        let label = format!("ssh-agent: {} {comment}", fingerprint(&public)).trim_end().to_string();
        self.shown.push(public);
        self.heard(&label, result.map_err(|error| error.to_string())).await
    }

    async fn usual_files(&mut self) -> Answer {
        let Some(home) = &self.target.operator.home else { return Answer::Next };
        for path in USUAL_FILES.map(|file| home.join(file)) {
            if !path.exists() {
                continue;
            }
            let answer = match read(&path, &self.target.operator) {
                Ok(KeyFile { key: Key::Ready(key), shown }) => self.file(&shown, key).await,
                Ok(KeyFile { key: Key::Locked(public), shown }) => {
                    if !public.is_some_and(|public| self.was_shown(&public)) {
                        self.tried.push(format!("{shown}: encrypted; ssh-add it"));
                    }
                    Answer::Next
                }
                Err(why) => {
                    self.tried.push(format!("{}: {why}", self.target.operator.shown(&path)));
                    Answer::Next
                }
            };
            if answer != Answer::Next {
                return answer;
            }
        }
        Answer::Next
    }

    async fn file(&mut self, shown: &str, key: Arc<PrivateKey>) -> Answer {
        let public = key.public_key().clone();
        if self.was_shown(&public) {
            return Answer::Next;
        }
        let key = PrivateKeyWithHashAlg::new(key, self.hash(&public).await);
        let result = self.handle.authenticate_publickey(&self.target.ssh.user, key).await;
        let label = format!("{shown}: {}", fingerprint(&public));
        self.shown.push(public);
        self.heard(&label, result.map_err(|error| error.to_string())).await
    }

    fn was_shown(&self, key: &PublicKey) -> bool {
        self.shown.iter().any(|shown| shown.key_data() == key.key_data())
    }

    /// SHA-1 only for a server that says it knows nothing better; one that says nothing gets SHA-512.
    async fn hash(&mut self, key: &PublicKey) -> Option<HashAlg> {
        if !key.algorithm().is_rsa() {
            return None;
        }
        if self.rsa.is_none() {
            let best = self.handle.best_supported_rsa_hash().await.ok().flatten();
            self.rsa = Some(best.unwrap_or(Some(HashAlg::Sha512)));
        }
        self.rsa.flatten()
    }

    async fn heard(&mut self, label: &str, result: std::result::Result<AuthResult, String>) -> Answer {
        let (said, answer) = match result {
            Ok(AuthResult::Success) => return Answer::In,
            // russh makes no difference between a refusal and the end of the connection, but for this.
            Ok(AuthResult::Failure { remaining_methods, .. }) if remaining_methods.is_empty() => {
                let _ = timeout(GOODBYE, &mut *self.handle).await;
                let why = last_words(self.parting).unwrap_or_else(|| "it did not say why".into());
                (format!("the server hung up: {why}"), Answer::HungUp)
            }
            Ok(AuthResult::Failure { remaining_methods, partial_success }) => {
                self.methods = remaining_methods.to_vec();
                let said = if partial_success { "accepted, but not enough alone" } else { "refused" };
                (said.to_string(), Answer::Next)
            }
            Err(why) => (why, Answer::Next),
        };
        self.tried.push(format!("{label}: {said}"));
        answer
    }

    fn locked(&self, shown: &str) -> Error {
        let told =
            Error::new(Kind::Local, format!("the SSH key {shown} is encrypted, and no agent holds it"));
        let told = self.tried.iter().fold(told, |told, line| told.because(line));
        told.hint(format!("ssh-add {shown}"))
    }

    fn refused(&self) -> Error {
        let Target { name, ssh, .. } = self.target;
        let told =
            Error::new(Kind::Unreachable, format!("cannot log in as {}: no key was accepted", ssh.user));
        let mut told = self.tried.iter().fold(told, |told, line| told.because(line));
        if !self.methods.is_empty() {
            let methods: Vec<&str> = self.methods.iter().map(Into::into).collect();
            told = told.because(format!("the server would take: {}", methods.join(", ")));
        }
        told.hint(match self.shown.is_empty() {
            true => format!("there is no key to show: name one for {name} in the inventory, or ssh-add one"),
            false => format!(
                "put one of these into ~{}/.ssh/authorized_keys on {name}, or name the right key in the inventory",
                ssh.user
            ),
        })
    }
}
