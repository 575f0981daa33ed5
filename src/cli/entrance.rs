//! Getting into machines: what every command that does so takes, and how the operator is asked for passphrases and
//! passwords: by a command of theirs, else on the terminal.

use std::collections::BTreeSet;
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use clap::Args;
use tokio::process::Command;

use crate::error::{Error, Kind, Result};
use crate::report;
use crate::ssh::{Client, Operator, Options, Secret};

/// How often somebody who mistypes is asked.
const TRIES: u8 = 3;

#[derive(Args)]
pub(super) struct Entrance {
    /// Accept host keys that are not known yet, and remember them. A key that changed is refused all the same.
    #[arg(long)]
    accept_new_host_keys: bool,
    /// How long connecting to a machine and logging in may take, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    timeout: u64,
    /// A command that prints the passphrase of the key file in $IRONSTRAP_KEY; without it, the terminal asks.
    #[arg(long, value_name = "COMMAND")]
    passphrase_command: Option<String>,
    /// A command that prints the password of the user in $IRONSTRAP_USER, for logging in and for sudo; without it, the
    /// terminal asks.
    #[arg(long, value_name = "COMMAND")]
    password_command: Option<String>,
}

impl Entrance {
    /// One for all machines of a run.
    pub fn client(&self) -> Client {
        let options = Options {
            accept_new_host_keys: self.accept_new_host_keys,
            timeout: Duration::from_secs(self.timeout),
        };
        let (passphrase, password) = (self.passphrase_command.clone(), self.password_command.clone());
        let asked: Arc<Mutex<BTreeSet<Secret>>> = Arc::default();
        // One question at a time, whoever has it.
        let terminal = Arc::new(tokio::sync::Mutex::new(()));
        let ask = move |secret: Secret| -> std::pin::Pin<Box<dyn Future<Output = _> + Send>> {
            let command = match &secret {
                Secret::Passphrase(_) => passphrase.clone(),
                Secret::Password(_) | Secret::Sudo(_) => password.clone(),
                Secret::Prompt { .. } => None,
            };
            // What a command got wrong once, it would get wrong again.
            let new = asked.lock().unwrap_or_else(PoisonError::into_inner).insert(secret.clone());
            let terminal = terminal.clone();
            Box::pin(async move {
                match command {
                    Some(command) if new => said(&command, &secret).await.map(Some),
                    Some(_) => Ok(None),
                    None => {
                        let _turn = terminal.lock().await;
                        typed(&secret).await
                    }
                }
            })
        };
        Client::new(options, Operator::present()).asking(Box::new(ask), TRIES)
    }
}

/// What the operator's command prints, without the newline at its end.
async fn said(command: &str, secret: &Secret) -> Result<String> {
    let failed = |why: String| {
        Error::new(Kind::Local, format!("the command for {} failed", named(secret)))
            .because(command)
            .because(why)
            .hint("it has to print it on standard output, and end with 0")
    };
    let mut shell = Command::new("/bin/sh");
    shell.args(["-c", command]).stdin(Stdio::null()).stderr(Stdio::inherit()).kill_on_drop(true);
    match secret {
        Secret::Passphrase(path) => drop(shell.env("IRONSTRAP_KEY", path)),
        Secret::Password(user) | Secret::Sudo(user) => drop(shell.env("IRONSTRAP_USER", user)),
        Secret::Prompt { .. } => {}
    }
    let output = shell.output().await.map_err(|error| failed(error.to_string()))?;
    if !output.status.success() {
        return Err(failed(output.status.to_string()));
    }
    let text = String::from_utf8(output.stdout).map_err(|_| failed("what it prints is not UTF-8".into()))?;
    Ok(text.strip_suffix('\n').unwrap_or(&text).to_string())
}

/// What is typed on the terminal, if there is one.
async fn typed(secret: &Secret) -> Result<Option<String>> {
    let answer = report::secret(&named(secret)).await;
    answer.map_err(|error| Error::new(Kind::Local, "cannot read the answer").because(error.to_string()))
}

fn named(secret: &Secret) -> String {
    match secret {
        Secret::Passphrase(path) => format!("passphrase of {}", path.display()),
        Secret::Password(user) => format!("password of {user}"),
        Secret::Sudo(user) => format!("password of {user} for sudo"),
        // Most end in a colon, which comes by itself.
        Secret::Prompt { host, words } => format!("{host} asks: {}", words.trim_end_matches(':')),
    }
}
