//! Passwords and other questions of a server. ironstrap asks for them only where the server takes them and no key was
//! enough.

use russh::MethodKind;
use russh::client::{AuthResult, KeyboardInteractiveAuthResponse as Interactive, Prompt};

use super::super::secrets::{CandidateSecret, Secret};
use super::{Answer, Login};
use crate::error::Result;
use crate::secret::SecretText;

/// Maximum number of rounds of questions that one server may ask in a row.
const ROUNDS: usize = 8;

impl Login<'_> {
    /// Tries a password, and then what else the server asks. If the server takes neither, the operator gets no question.
    pub(super) async fn passwords(&mut self) -> Result<Answer> {
        if self.seen.methods.is_empty() {
            let result = self.handle.authenticate_none(&self.route.user).await;
            match result {
                Ok(AuthResult::Success) => {
                    self.seen.by = "none: the server requires no authentication".into();
                    return Ok(Answer::In);
                }
                Ok(AuthResult::Failure { remaining_methods, .. }) => {
                    self.seen.methods = remaining_methods.to_vec()
                }
                Err(_) => return Ok(Answer::HungUp),
            }
        }
        let taken = self.seen.methods.clone();
        for (method, label) in
            [(MethodKind::Password, "password"), (MethodKind::KeyboardInteractive, "keyboard-interactive")]
        {
            if let Some(why) = self.forbids(method).filter(|_| taken.contains(&method)) {
                self.seen.tried.push(tried(label, &format!("not tried: in your ssh_config, {why}")));
            }
        }
        if self.may(MethodKind::Password) {
            let answer = self.password().await?;
            if answer != Answer::Next {
                return Ok(answer);
            }
        }
        match self.may(MethodKind::KeyboardInteractive) {
            true => self.questions().await,
            false => Ok(Answer::Next),
        }
    }

    /// Returns the ssh_config setting that forbids this method.
    fn forbids(&self, method: MethodKind) -> Option<&str> {
        let forbidden = &self.route.narrow.forbidden;
        match method {
            MethodKind::Password => forbidden.password.as_deref(),
            MethodKind::KeyboardInteractive => forbidden.questions.as_deref(),
            _ => None,
        }
    }

    /// Whether the method is one of these two, and ssh_config allows it.
    pub(super) fn allows(&self, method: MethodKind) -> bool {
        let ours = [MethodKind::Password, MethodKind::KeyboardInteractive].contains(&method);
        ours && self.forbids(method).is_none()
    }

    /// Whether the server takes the method, and ssh_config allows it.
    fn may(&self, method: MethodKind) -> bool {
        self.seen.methods.contains(&method) && self.allows(method)
    }

    async fn password(&mut self) -> Result<Answer> {
        let (what, asks) = (Secret::Password(self.whose.into()), self.asks());
        loop {
            let Some(candidate) = self.client.secrets.offer(&what, &asks, self.deadline).await? else {
                return Ok(Answer::Next);
            };
            let result = self.handle.authenticate_password(&self.route.user, candidate.word.reveal()).await;
            let answer = self.heard("password", result.map_err(|error| error.to_string())).await;
            let enough = answer == Answer::In || !self.seen.methods.contains(&MethodKind::Password);
            if answer != Answer::HungUp && enough {
                self.seen.password = Some(candidate.confirm());
                return Ok(answer);
            }
            if answer == Answer::HungUp {
                return Ok(answer);
            }
            self.client.secrets.refused(&what, &asks, candidate).await;
        }
    }

    /// The machine and its user, as prompts name them.
    fn asks(&self) -> String {
        match self.whose == self.route.user {
            true => format!("{} ({})", self.name, self.route.shown()),
            // This is a jump host.
            false => self.route.shown(),
        }
    }

    /// Runs keyboard-interactive: the server asks questions, and one of them is mostly for the password.
    async fn questions(&mut self) -> Result<Answer> {
        let mut candidate: Option<CandidateSecret> = None;
        let mut said = self.handle.authenticate_keyboard_interactive_start(&self.route.user, None).await;
        for _ in 0..ROUNDS {
            let (words, prompts) = match said {
                Ok(Interactive::InfoRequest { name, instructions, prompts }) => {
                    ([name, instructions], prompts)
                }
                Ok(Interactive::Success) => {
                    self.seen.by = "keyboard-interactive".into();
                    self.seen.password =
                        candidate.map(CandidateSecret::confirm).or(self.seen.password.take());
                    return Ok(Answer::In);
                }
                Ok(Interactive::Failure { remaining_methods, partial_success }) => {
                    let again = self.was_refused(candidate.take()).await;
                    let result = AuthResult::Failure { remaining_methods, partial_success };
                    let answer = self.heard("keyboard-interactive", Ok(result)).await;
                    if answer != Answer::Next || !again || partial_success {
                        return Ok(answer);
                    }
                    said = self.handle.authenticate_keyboard_interactive_start(&self.route.user, None).await;
                    continue;
                }
                Err(error) => return Ok(self.heard("keyboard-interactive", Err(error.to_string())).await),
            };
            let mut answers = vec![];
            for prompt in prompts {
                match self.answered(&words, &prompt, &mut candidate).await? {
                    Some(answer) => answers.push(answer.reveal().to_string()),
                    None => {
                        let asked = prompt.prompt.trim().to_string();
                        self.seen
                            .tried
                            .push(format!("keyboard-interactive: there is no answer to {asked:?}"));
                        return Ok(Answer::Next);
                    }
                }
            }
            said = self.handle.authenticate_keyboard_interactive_respond(answers).await;
        }
        self.seen.tried.push("keyboard-interactive: the server asks too many times".into());
        Ok(Answer::Next)
    }

    /// Records that the server refused the password. Returns whether there was one.
    async fn was_refused(&self, candidate: Option<CandidateSecret>) -> bool {
        let Some(candidate) = candidate else { return false };
        let what = Secret::Password(self.whose.into());
        self.client.secrets.refused(&what, &self.asks(), candidate).await;
        true
    }

    async fn answered(
        &self,
        words: &[String; 2],
        prompt: &Prompt,
        candidate: &mut Option<CandidateSecret>,
    ) -> Result<Option<SecretText>> {
        let secrets = &self.client.secrets;
        if !prompt.echo && prompt.prompt.to_lowercase().contains("password") && candidate.is_none() {
            let what = Secret::Password(self.whose.into());
            *candidate = secrets.offer(&what, &self.asks(), self.deadline).await?;
            return Ok(candidate.as_ref().map(|candidate| candidate.word.clone()));
        }
        let asked = words.iter().map(String::as_str).chain([prompt.prompt.as_str()]);
        let asked: Vec<&str> = asked.map(str::trim).filter(|words| !words.is_empty()).collect();
        let what = Secret::Prompt { words: asked.join(" ") };
        Ok(secrets.offer(&what, &self.asks(), self.deadline).await?.map(|candidate| candidate.word))
    }
}

/// Makes a line about one login attempt. It has no colon after "password", because all output hides the text after that.
pub(super) fn tried(label: &str, said: &str) -> String {
    let label = if label == "password" { "password login" } else { label };
    format!("{label}: {said}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_result_of_a_login_attempt_is_not_hidden() {
        for label in
            ["password", "keyboard-interactive", "ssh-agent: ED25519 SHA256:abc", "~/.ssh/id: ED25519"]
        {
            let line = tried(label, "refused");
            assert!(line.starts_with(label) && line.ends_with(": refused"), "{line}");
            assert_eq!(crate::secret::hide(&line), line);
        }
    }
}
