//! The login: the keys that ironstrap shows, their order, and what the server said to each. ironstrap asks for passwords
//! only where a server takes them and no key was enough.

mod passwords;

use std::path::Path;
use std::sync::Arc;

use russh::MethodKind;
use russh::client::{AuthResult, Handle};
use russh::keys::agent::AgentIdentity;
use russh::keys::agent::client::AgentClient;
use russh::keys::{Algorithm, Certificate, HashAlg, PrivateKey, PrivateKeyWithHashAlg, PublicKey};
use tokio::time::timeout;

use super::deadline::PausableTimeout;
use super::host_key::{DisconnectMessage, HostKeyVerifier, NO_UTF8, last_words, rsa_bits};
use super::keys::{Key, KeyFile};
use super::route::{Keys, Route, allows};
use super::{Client, GOODBYE};
use crate::error::{Error, Kind, Result};
use crate::known_hosts::fingerprint;
use crate::secret::SecretText;

/// Maximum number of an agent's keys to show. sshd hangs up at the sixth key that it refuses (MaxAuthTries), and a key file
/// may be left to try.
const AGENT_KEYS: usize = 5;
const IN_TOKEN: &str = "is in a hardware token, which only an agent can use";

/// How the login succeeded.
pub(super) struct Entry {
    /// The key or the method, in words.
    pub by: String,
    pub password: Option<SecretText>,
}

/// The result of one login attempt.
#[derive(PartialEq)]
enum Answer {
    In,
    Next,
    HungUp,
}

pub(super) struct Login<'a> {
    pub handle: &'a mut Handle<HostKeyVerifier>,
    pub client: &'a Client,
    pub route: &'a Route,
    /// The name of the node, for messages.
    pub name: &'a str,
    /// The owner of the password in a question.
    pub whose: &'a str,
    pub deadline: &'a PausableTimeout,
    pub parting: &'a DisconnectMessage,
    pub seen: Seen,
}

/// The events of the login so far.
#[derive(Default)]
pub(super) struct Seen {
    shown: Vec<PublicKey>,
    /// A line for each key, or for each reason why there was none.
    tried: Vec<String>,
    methods: Vec<MethodKind>,
    /// The hash for signatures of RSA keys, once known. The question to the server may take a second.
    rsa: Option<Option<HashAlg>>,
    by: String,
    password: Option<SecretText>,
}

/// Shows keys in the order of the route. After them, it tries a password if the server takes one.
pub(super) async fn login(mut login: Login<'_>) -> Result<Entry> {
    let mut answer = match &login.route.keys {
        keys if login.route.narrow.forbidden.keys.is_some() => login.no_keys(keys)?,
        Keys::Given(path) => login.given(path).await?,
        Keys::Named { files, only } => match login.files(files, true).await? {
            Answer::Next if !only => login.agent(None).await,
            answer => answer,
        },
        Keys::Usual(files) => match login.agent(None).await {
            Answer::Next => login.files(files, false).await?,
            answer => answer,
        },
    };
    if answer == Answer::Next {
        answer = login.passwords().await?;
    }
    match answer {
        Answer::In => Ok(Entry { by: login.seen.by, password: login.seen.password }),
        _ => Err(login.refused()),
    }
}

impl Login<'_> {
    /// Handles an ssh_config that forbids all keys. If the inventory names a key, this is an error.
    fn no_keys(&mut self, keys: &Keys) -> Result<Answer> {
        let why = self.route.narrow.forbidden.keys.clone().unwrap_or_default();
        let Keys::Given(path) = keys else {
            self.seen.tried.push(format!("keys: not offered: in your ssh_config, {why}"));
            return Ok(Answer::Next);
        };
        let what = format!("your ssh_config forbids the SSH key {}", self.client.operator.shown(path));
        Err(Error::new(Kind::Local, what)
            .because(why)
            .hint("allow PubkeyAuthentication for this host, or remove `key` from the inventory"))
    }

    /// Shows the one key file that the inventory names. Without that file there is nothing to try.
    async fn given(&mut self, path: &Path) -> Result<Answer> {
        let shown = self.client.operator.shown(path);
        let file = self.client.keys.read(path, self.route).map_err(|why| {
            Error::new(Kind::Local, format!("cannot use the SSH key {shown}"))
                .because(why)
                .hint("name a private key file in the inventory, or remove `key` to use your ssh-agent")
        })?;
        let in_token = matches!(file.key, Key::Hardware(_));
        let answer = self.file(path, file).await?;
        // Without this key ironstrap stops, even if the server would take something else.
        match self.seen.shown.is_empty() && answer == Answer::Next {
            true => Err(self.out_of_reach(&shown, in_token)),
            false => Ok(answer),
        }
    }

    /// Tries the key files that exist. If the user named the files, the error lists the missing ones.
    async fn files(&mut self, paths: &[std::path::PathBuf], named: bool) -> Result<Answer> {
        for path in paths {
            if !named && !path.exists() {
                continue;
            }
            let answer = match self.client.keys.read(path, self.route) {
                Ok(file) => self.file(path, file).await?,
                Err(why) => {
                    self.seen.tried.push(format!("{}: {why}", self.client.operator.shown(path)));
                    Answer::Next
                }
            };
            if answer != Answer::Next {
                return Ok(answer);
            }
        }
        Ok(Answer::Next)
    }

    async fn file(&mut self, path: &Path, file: KeyFile) -> Result<Answer> {
        let shown = self.client.operator.shown(path);
        match file.key {
            Key::Ready(key) => Ok(self.show(&shown, key, file.certificates).await),
            Key::Hardware(public) => {
                let answer = self.agent(Some(&public)).await;
                if !self.was_shown(&public) {
                    self.seen.tried.push(format!("{shown}: it {IN_TOKEN}: ssh-add {shown}"));
                }
                Ok(answer)
            }
            Key::Locked(public) => {
                let answer = match &public {
                    Some(public) if self.was_shown(public) => return Ok(Answer::Next),
                    Some(public) => self.agent(Some(public)).await,
                    None => Answer::Next,
                };
                if answer != Answer::Next || public.is_some_and(|public| self.was_shown(&public)) {
                    return Ok(answer);
                }
                if self.route.narrow.batch {
                    let why = "encrypted, and not asked for: in your ssh_config, BatchMode is yes";
                    self.seen.tried.push(format!("{shown}: {why}"));
                    return Ok(Answer::Next);
                }
                match self.client.keys.unlock(path, &self.client.secrets, self.deadline).await? {
                    Some(key) => Ok(self.show(&shown, key, file.certificates).await),
                    None => {
                        self.seen.tried.push(format!("{shown}: encrypted, and no passphrase decrypts it"));
                        Ok(Answer::Next)
                    }
                }
            }
        }
    }

    /// Shows a key. Each certificate goes before the key that it belongs to.
    async fn show(&mut self, shown: &str, key: Arc<PrivateKey>, certificates: Vec<Certificate>) -> Answer {
        let (user, public) = (self.route.user.clone(), key.public_key().clone());
        for certificate in certificates {
            let hash = self.hash(&public).await;
            if self.forbidden(shown, &public, hash, true).is_some() {
                continue;
            }
            let label = format!("{shown}: certificate {:?}", certificate.key_id());
            let result = self.handle.authenticate_openssh_cert(&user, key.clone(), certificate).await;
            match self.heard(&label, result.map_err(|error| error.to_string())).await {
                Answer::Next => {}
                answer => return answer,
            }
        }
        if self.was_shown(&public) {
            return Answer::Next;
        }
        let hash = self.hash(&public).await;
        if let Some(answer) = self.forbidden(shown, &public, hash, false) {
            return answer;
        }
        let key = PrivateKeyWithHashAlg::new(key, hash);
        let result = self.handle.authenticate_publickey(&user, key).await;
        let label = format!("{shown}: {}", fingerprint(&public));
        self.seen.shown.push(public);
        self.heard(&label, result.map_err(|error| error.to_string())).await
    }

    /// Shows the keys of an agent, or only the key `wanted`.
    async fn agent(&mut self, wanted: Option<&PublicKey>) -> Answer {
        let Some(socket) = &self.route.agent else {
            self.no_agent("none (SSH_AUTH_SOCK is not set)");
            return Answer::Next;
        };
        let connected = AgentClient::connect_uds(socket).await;
        let (mut agent, held) = match connected {
            Ok(mut agent) => match agent.request_identities().await {
                Ok(held) => (agent, held),
                Err(error) => return self.no_agent(&error.to_string()),
            },
            Err(error) => return self.no_agent(&error.to_string()),
        };
        let total = held.len();
        let fits = |held: &AgentIdentity| match wanted {
            Some(wanted) => held.public_key().key_data() == wanted.key_data(),
            None => !self.was_shown(&held.public_key()),
        };
        let fitting: Vec<AgentIdentity> = held.into_iter().filter(fits).collect();
        let more = fitting.len().saturating_sub(AGENT_KEYS);
        for identity in fitting.into_iter().take(AGENT_KEYS) {
            match self.identity(&identity, &mut agent).await {
                Answer::Next => {}
                answer => return answer,
            }
        }
        match (total, more) {
            (0, _) => self.no_agent("it holds no keys"),
            (_, 0) => Answer::Next,
            (_, more) => self.no_agent(&format!("{more} more, not offered: servers disconnect after six")),
        }
    }

    fn no_agent(&mut self, why: &str) -> Answer {
        let line = format!("ssh-agent: {why}");
        if !self.seen.tried.contains(&line) {
            self.seen.tried.push(line);
        }
        Answer::Next
    }

    async fn identity(
        &mut self,
        identity: &AgentIdentity,
        agent: &mut AgentClient<tokio::net::UnixStream>,
    ) -> Answer {
        let public = identity.public_key().into_owned();
        let hash = self.hash(&public).await;
        let certified = matches!(identity, AgentIdentity::Certificate { .. });
        if let Some(answer) = self.forbidden("ssh-agent", &public, hash, certified) {
            return answer;
        }
        let user = &self.route.user;
        let (result, what) = match identity {
            AgentIdentity::PublicKey { key, comment } => {
                let result = self.handle.authenticate_publickey_with(user, key.clone(), hash, agent).await;
                (result, format!("{} {comment}", fingerprint(&public)))
            }
            AgentIdentity::Certificate { certificate, .. } => {
                let (whole, id) = (certificate.clone(), certificate.key_id());
                let result = self.handle.authenticate_certificate_with(user, whole, hash, agent).await;
                (result, format!("certificate {id:?}"))
            }
        };
        let label = format!("ssh-agent: {}", what.trim_end());
        self.seen.shown.push(public);
        self.heard(&label, result.map_err(|error| error.to_string())).await
    }

    /// Returns an answer if ssh_config allows no signature by this key.
    fn forbidden(
        &mut self,
        shown: &str,
        key: &PublicKey,
        hash: Option<HashAlg>,
        certified: bool,
    ) -> Option<Answer> {
        let algorithm = match key.algorithm() {
            Algorithm::Rsa { .. } => Algorithm::Rsa { hash },
            other => other,
        };
        let name = if certified { algorithm.to_certificate_type() } else { algorithm.as_str().to_string() };
        let narrow = &self.route.narrow;
        let why = match rsa_bits(key) {
            _ if !allows(narrow.user_keys.as_ref(), &name) => {
                format!("PubkeyAcceptedAlgorithms excludes {name}")
            }
            Some(bits) if bits < narrow.rsa_bits => {
                format!("RequiredRSASize is {}, but this key has {bits} bits", narrow.rsa_bits)
            }
            _ => return None,
        };
        self.seen
            .tried
            .push(format!("{shown}: {}: not offered: in your ssh_config, {why}", fingerprint(key)));
        if !certified {
            self.seen.shown.push(key.clone());
        }
        Some(Answer::Next)
    }

    fn was_shown(&self, key: &PublicKey) -> bool {
        self.seen.shown.iter().any(|shown| shown.key_data() == key.key_data())
    }

    /// Returns the hash for signatures of an RSA key. SHA-1 is only for a server that says it supports nothing better. A
    /// server that says nothing gets SHA-512.
    async fn hash(&mut self, key: &PublicKey) -> Option<HashAlg> {
        if !key.algorithm().is_rsa() {
            return None;
        }
        if self.seen.rsa.is_none() {
            let best = self.handle.best_supported_rsa_hash().await.ok().flatten();
            self.seen.rsa = Some(best.unwrap_or(Some(HashAlg::Sha512)));
        }
        self.seen.rsa.flatten()
    }

    async fn heard(&mut self, label: &str, result: std::result::Result<AuthResult, String>) -> Answer {
        let (said, answer) = match result {
            Ok(AuthResult::Success) => {
                self.seen.by = label.into();
                return Answer::In;
            }
            // russh reports a refusal and the end of the connection alike. Only the empty list of methods tells them apart.
            Ok(AuthResult::Failure { remaining_methods, .. }) if remaining_methods.is_empty() => {
                let _ = timeout(GOODBYE, &mut *self.handle).await;
                let why = last_words(self.parting).unwrap_or_else(|| "it gave no reason".into());
                (format!("the server disconnected: {why}"), Answer::HungUp)
            }
            Ok(AuthResult::Failure { remaining_methods, partial_success }) => {
                self.seen.methods = remaining_methods.to_vec();
                let said = if partial_success { "accepted, but the server requires more" } else { "refused" };
                (said.to_string(), Answer::Next)
            }
            Err(why) => (why, Answer::Next),
        };
        self.seen.tried.push(passwords::tried(label, &said));
        answer
    }

    /// The error where ironstrap cannot show the one key that it has to show.
    fn out_of_reach(&self, shown: &str, in_token: bool) -> Error {
        let (why, hint) = match in_token {
            true => (IN_TOKEN, format!("ssh-add {shown}")),
            false => (
                "cannot be used: no agent holds it, and no passphrase decrypts it",
                format!("run ssh-add {shown}, or run ironstrap on a terminal or with --passphrase-command"),
            ),
        };
        let told = Error::new(Kind::Local, format!("the SSH key {shown} {why}"));
        let told = self.seen.tried.iter().fold(told, |told, line| told.answered(line));
        told.hint(hint)
    }

    fn refused(&self) -> Error {
        let Seen { shown, tried, methods, .. } = &self.seen;
        let told = Error::new(
            Kind::Unreachable,
            format!("cannot log in as {}: no authentication method succeeded", self.route.user),
        );
        let mut told = tried.iter().fold(told, |told, line| told.answered(line));
        if !methods.is_empty() {
            let methods: Vec<&str> = methods.iter().map(Into::into).collect();
            told = told.because(format!("the server accepts: {}", methods.join(", ")));
        }
        let password = match methods.iter().any(|method| self.allows(*method)) {
            true => "; for a password, run ironstrap on a terminal or with --password-command",
            false => "",
        };
        let (name, user) = (self.name, &self.route.user);
        let no_keys = self.route.narrow.forbidden.keys.is_some();
        told.hint(match shown.is_empty() {
            true if no_keys => format!("allow PubkeyAuthentication in your ssh_config{password}"),
            true => format!("there is no key to offer: name one for {name} in the inventory, or ssh-add one{password}"),
            false if tried.iter().any(|line| line.contains(NO_UTF8)) => format!(
                "on {name}, give the file that Banner names in sshd_config another encoding (iconv -f latin1 -t utf8), or \
                 set Banner none"
            ),
            false if tried.iter().any(|line| line.contains("Too many authentication failures")) => format!(
                "name the right key for {name} in the inventory, or as IdentityFile \
                 with IdentitiesOnly yes in your ssh_config; a server accepts only a few attempts"
            ),
            false => format!(
                "add one of these keys to ~{user}/.ssh/authorized_keys on {name}, or name the right key in the \
                 inventory{password}"
            ),
        })
    }
}
