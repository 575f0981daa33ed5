//! How commands log in to machines: their options, and how ironstrap asks the operator for passphrases and passwords. It runs a
//! command of the operator, or asks on the terminal.

use std::collections::BTreeSet;
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use clap::Args;
use tokio::process::Command;

use crate::error::{Error, Kind, Result};
use crate::report;
use crate::secret::{SecretText, Shown};
use crate::ssh::{Client, Operator, Options, Question, Secret};

/// How often ironstrap asks for one secret if the answers are wrong.
const TRIES: u8 = 3;

#[derive(Args)]
pub(super) struct SshArgs {
    /// Accept and remember the host keys of new machines. Changed keys are always rejected.
    #[arg(long, help_heading = "Connection")]
    accept_new_host_keys: bool,
    /// Seconds to connect to a machine and log in.
    #[arg(long, alias = "timeout", help_heading = "Connection", value_name = "SECONDS", default_value_t = 10,
        value_parser = clap::value_parser!(u64).range(1..=3600))]
    connect_timeout: u64,
    /// Command that prints the passphrase of a key. It finds the path of the key in $IRONSTRAP_KEY. Without this option, ironstrap asks you.
    #[arg(long, help_heading = "Connection", value_name = "COMMAND")]
    passphrase_command: Option<String>,
    /// Command that prints the password of the user in $IRONSTRAP_USER, for SSH and for sudo. Without it, ironstrap asks you.
    #[arg(long, help_heading = "Connection", value_name = "COMMAND")]
    password_command: Option<String>,
}

impl SshArgs {
    /// Makes the client that all machines of a run share.
    pub fn client(&self) -> Client {
        let options = Options {
            accept_new_host_keys: self.accept_new_host_keys,
            timeout: Duration::from_secs(self.connect_timeout),
        };
        let (passphrase, password) = (self.passphrase_command.clone(), self.password_command.clone());
        let asked: Arc<Mutex<BTreeSet<Secret>>> = Arc::default();
        // The terminal shows one question at a time, for all machines together.
        let terminal = Arc::new(tokio::sync::Mutex::new(()));
        let ask = move |question: Question| -> std::pin::Pin<Box<dyn Future<Output = _> + Send>> {
            let command = match &question.what {
                Secret::Passphrase(_) => passphrase.clone(),
                Secret::Password(_) | Secret::Sudo(_) => password.clone(),
                Secret::Prompt { .. } => None,
            };
            // A command that printed a wrong secret once would print it again.
            let mut said_before = asked.lock().unwrap_or_else(PoisonError::into_inner);
            let new = said_before.insert(question.what.clone());
            drop(said_before);
            let terminal = terminal.clone();
            Box::pin(async move {
                match command {
                    Some(command) if new => said(&command, &question).await.map(Some),
                    Some(_) => Ok(None),
                    None => {
                        let _turn = terminal.lock().await;
                        typed(&question).await
                    }
                }
            })
        };
        Client::new(options, Operator::present()).asking(Box::new(ask), TRIES)
    }
}

/// Returns what the operator's command prints, without the newline at its end.
async fn said(command: &str, question: &Question) -> Result<SecretText> {
    let failed = |why: String| {
        Error::new(Kind::Local, format!("the command for the {} failed", named(&question.what)))
            .because(why)
            .hint("make the command print it on standard output and exit with 0")
    };
    let mut shell = Command::new("/bin/sh");
    shell.args(["-c", command]).stdin(Stdio::null()).stderr(Stdio::inherit()).kill_on_drop(true);
    match &question.what {
        Secret::Passphrase(path) => drop(shell.env("IRONSTRAP_KEY", path)),
        Secret::Password(user) | Secret::Sudo(user) => drop(shell.env("IRONSTRAP_USER", user)),
        Secret::Prompt { .. } => {}
    }
    let output = shell.output().await.map_err(|error| failed(error.to_string()))?;
    if !output.status.success() {
        return Err(failed(output.status.to_string()));
    }
    let text = String::from_utf8(output.stdout).map_err(|_| failed("its output is not UTF-8".into()))?;
    let text = zeroize::Zeroizing::new(text);
    Ok(SecretText::new(text.strip_suffix('\n').unwrap_or(&text)))
}

/// Returns what the user types on the terminal, if there is one.
async fn typed(question: &Question) -> Result<Option<SecretText>> {
    let answer = report::secret(&asked(question)).await;
    answer.map_err(|error| Error::new(Kind::Local, "cannot read the answer").because(error.to_string()))
}

/// Returns the question as the terminal shows it: which machine asks for what, and where the answer goes.
fn asked(question: &Question) -> String {
    let Question { what, asks, alone } = question;
    let what = match what {
        Secret::Passphrase(_) => return named(what),
        Secret::Prompt { words } => {
            // Lines of a server stay below ironstrap's own line, so that none looks like a question of ironstrap. Most end in a
            // colon, which the prompt adds itself.
            let words = Shown::of(words.trim_end_matches([':', ' ']));
            return format!("{asks} asks: {}", words.as_str().replace('\n', "\n  | "));
        }
        what => named(what),
    };
    let user = match &question.what {
        // For a jump host, the user is named with the host, and the answer goes nowhere else.
        Secret::Password(user) | Secret::Sudo(user) if user != asks => user,
        _ => return format!("{asks} asks: {what}"),
    };
    match alone {
        true => format!("{asks} asks: {what} (only for this machine, which refused the one of the others)"),
        false => format!("{asks} asks: {what} (used for all machines of {user})"),
    }
}

fn named(what: &Secret) -> String {
    match what {
        Secret::Passphrase(path) => format!("passphrase of {}", path.display()),
        Secret::Password(user) => format!("password of {user}"),
        Secret::Sudo(user) => format!("password of {user} for sudo"),
        Secret::Prompt { .. } => "answer".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(what: Secret, asks: &str, alone: bool) -> String {
        asked(&Question { what, asks: asks.into(), alone })
    }

    #[test]
    fn a_prompt_names_the_machine_and_the_password() {
        let m1 = "m1 (deploy@198.18.0.11)";
        assert_eq!(
            shown(Secret::Sudo("deploy".into()), m1, false),
            "m1 (deploy@198.18.0.11) asks: password of deploy for sudo (used for all machines of deploy)"
        );
        assert_eq!(
            shown(Secret::Password("deploy".into()), m1, true),
            "m1 (deploy@198.18.0.11) asks: password of deploy (only for this machine, which refused the one of the others)"
        );
        assert_eq!(
            shown(Secret::Password("deploy@jump:2222".into()), "deploy@jump:2222", false),
            "deploy@jump:2222 asks: password of deploy@jump:2222"
        );
        assert_eq!(shown(Secret::Passphrase("/home/me/key".into()), "", false), "passphrase of /home/me/key");
    }

    #[tokio::test]
    async fn a_failed_password_command_is_not_shown() {
        let what = Secret::Password("deploy".into());
        let question = Question { what, asks: "m1".into(), alone: false };
        let error = said("test sesame = word-of-a-vault", &question).await.unwrap_err();
        assert_eq!(error.what, "the command for the password of deploy failed");
        assert!(!error.to_string().contains("sesame"), "{error}");
    }

    #[test]
    fn a_servers_prompt_cannot_imitate_a_question_of_ironstrap() {
        let words = "\x1b[2J\x1b[H\npassphrase of /home/bob/.ssh/id_ed25519: ".to_string();
        assert_eq!(
            shown(Secret::Prompt { words }, "m1 (root@10.0.0.1)", true),
            "m1 (root@10.0.0.1) asks: \\u{1b}[2J\\u{1b}[H\n  | passphrase of /home/bob/.ssh/id_ed25519"
        );
    }
}
