//! Becoming root on the machine: the command for it, and what to try next if it failed.

use russh::Pty;

use crate::error::{Error, Kind};
use crate::secret::SecretText;
use crate::shell::Output;

/// How a script becomes root.
#[derive(Clone, PartialEq)]
pub(super) enum Escalation {
    /// The login user is root.
    Root,
    Sudo,
    /// sudo with the user's password, which travels on standard input.
    Password(SecretText),
    /// sudo that needs a terminal (`Defaults requiretty`), with the password if sudo needs that, too.
    Terminal(Option<SecretText>),
    Doas,
}

/// Terminal modes that pass all data unchanged.
pub(super) const RAW: &[(Pty, u32)] = &[
    (Pty::ECHO, 0),
    (Pty::ECHOE, 0),
    (Pty::ECHOK, 0),
    (Pty::ECHONL, 0),
    (Pty::ICANON, 0),
    (Pty::ISIG, 0),
    (Pty::IEXTEN, 0),
    (Pty::ICRNL, 0),
    (Pty::INLCR, 0),
    (Pty::IGNCR, 0),
    (Pty::IXON, 0),
    (Pty::IXOFF, 0),
    (Pty::OPOST, 0),
    (Pty::ONLCR, 0),
];

/// The action before the next attempt.
#[derive(Debug, PartialEq)]
pub(super) enum NextEscalation {
    /// Give a password, on a terminal if `terminal` is set.
    Password {
        terminal: bool,
    },
    /// The password was wrong.
    Again,
    Terminal,
    Doas,
    /// Nothing else can help.
    Refused,
}

/// Messages of a sudo that needs a password and cannot ask for it. The last message is of sudo-rs.
const NEEDS_PASSWORD: [&str; 3] =
    ["a password is required", "a terminal is required", "authentication is required"];

impl Escalation {
    pub fn first(user: &str) -> Escalation {
        if user == "root" { Escalation::Root } else { Escalation::Sudo }
    }

    /// Returns the command that becomes root. It means the same in csh, fish and every other login shell. Many sshds
    /// start sessions in the machine's language. sudo's messages decide what ironstrap tries next, so sudo runs with
    /// `LC_ALL=C`.
    pub fn command(&self) -> &'static str {
        match self {
            Escalation::Root => "/bin/sh -s",
            Escalation::Sudo => "env LC_ALL=C sudo -n -- /bin/sh -s",
            // With -k, sudo asks even if it remembers a password from elsewhere. If sudo does not ask at all
            // (NOPASSWD was set meanwhile), the password still arrives. The loop reads it, so that the shell does
            // not.
            Escalation::Password(_) => {
                "env LC_ALL=C sudo -k -S -p '' -- /bin/sh -c 'echo; echo --ironstrap begins--; \
                 while IFS= read -r l; do case $l in \"--ironstrap script--\") exec /bin/sh -s;; esac; done; exit 1'"
            }
            // Without the pipe, the shell would take the terminal for interactive use. Input that comes before sudo
            // and the shell are ready is lost, so both report when they are ready.
            Escalation::Terminal(None) => {
                "env LC_ALL=C sudo -n -- /bin/sh -c 'echo; echo --ironstrap begins--; /bin/sh -s 2>&1 | cat'"
            }
            Escalation::Terminal(Some(_)) => {
                "env LC_ALL=C sudo -k -S -p '--ironstrap asks--' -- /bin/sh -c 'echo; echo --ironstrap begins--; \
                 while IFS= read -r l; do case $l in \"--ironstrap script--\") exec /bin/sh -s;; esac; done 2>&1 | cat'"
            }
            Escalation::Doas => "doas -n /bin/sh -s",
        }
    }

    pub fn shown(&self) -> &'static str {
        match self {
            Escalation::Root => "logged in as root",
            Escalation::Sudo => "sudo, without a password",
            Escalation::Password(_) => "sudo, with a password",
            Escalation::Terminal(None) => "sudo, on a terminal, without a password",
            Escalation::Terminal(Some(_)) => "sudo, on a terminal, with a password",
            Escalation::Doas => "doas",
        }
    }

    pub fn password(&self) -> Option<&str> {
        match self {
            Escalation::Password(word) | Escalation::Terminal(Some(word)) => Some(word.reveal()),
            _ => None,
        }
    }

    /// Whether the command itself reports that it has begun. Before that, ironstrap may send it nothing but the password.
    pub fn announces(&self) -> bool {
        self.on_terminal() || self.password().is_some()
    }

    pub fn on_terminal(&self) -> bool {
        matches!(self, Escalation::Terminal(_))
    }

    /// Returns what may help if the script did not begin, judged by the messages of the command.
    pub fn next(&self, said: &Output) -> NextEscalation {
        let words = [&said.stderr[..], &said.stdout[..]].concat();
        let words = String::from_utf8_lossy(&words);
        let says = |any: &[&str]| any.iter().any(|piece| words.contains(piece));
        match self {
            Escalation::Sudo if says(&["you must have a tty"]) => NextEscalation::Terminal,
            Escalation::Sudo if says(&NEEDS_PASSWORD) => NextEscalation::Password { terminal: false },
            // env or a shell ends with 127 if there is no sudo.
            Escalation::Sudo if said.status == 127 => NextEscalation::Doas,
            Escalation::Terminal(None) if says(&NEEDS_PASSWORD) => {
                NextEscalation::Password { terminal: true }
            }
            Escalation::Password(_) | Escalation::Terminal(Some(_))
                if says(&["try again", "incorrect password", "no password was provided"]) =>
            {
                NextEscalation::Again
            }
            _ => NextEscalation::Refused,
        }
    }

    /// Explains why `user` does not become root, from the messages of the command.
    pub fn refused(&self, user: &str, said: &Output) -> Error {
        let words = String::from_utf8_lossy(&said.stderr).trim().to_string();
        let noise = String::from_utf8_lossy(&said.stdout).trim().to_string();
        let has = |piece: &str| words.contains(piece) || noise.contains(piece);
        let rule = format!("/etc/sudoers.d/{user}: {user} ALL=(ALL) NOPASSWD: ALL");
        let sudoers = format!("give {user} passwordless sudo ({rule}), or log in with user = \"root\"");
        let (what, hint) = match self {
            _ if has("This account is currently not available") || has("nologin") => (
                format!("{user} has no login shell and cannot run commands"),
                format!(
                    "give {user} a login shell (chsh -s /bin/sh {user}), or log in as a user who has one"
                ),
            ),
            Escalation::Root => (
                "the shell ended before it read the script".to_string(),
                "check what its rc files do at a login without a terminal: ~/.bashrc, ~/.zshenv, ~/.config/fish"
                    .into(),
            ),
            Escalation::Sudo if NEEDS_PASSWORD.iter().any(|piece| has(piece)) => (
                format!("sudo does not let {user} become root without a password"),
                format!(
                    "run ironstrap on a terminal, where it asks for the password, or with \
                     --password-command; or {sudoers}"
                ),
            ),
            Escalation::Password(_) | Escalation::Terminal(Some(_))
                if has("password") || has("try again") =>
            {
                (format!("sudo refuses the password of {user}"), sudoers)
            }
            Escalation::Doas => (format!("neither sudo nor doas lets {user} become root"), sudoers),
            _ => (format!("sudo does not let {user} become root"), sudoers),
        };
        let told = Error::new(Kind::Unreachable, what).because(format!("command: {}", self.command()));
        let told = [words, noise].into_iter().filter(|said| !said.is_empty()).fold(told, Error::quoting);
        let status = format!("exit {}; nothing was run", said.status);
        told.because(status).hint(hint)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(status: i32, stderr: &str) -> Output {
        Output { status, stdout: vec![], stderr: stderr.into() }
    }

    #[test]
    fn the_error_of_sudo_selects_the_next_attempt() {
        let word = || SecretText::new("word");
        for (escalation, status, words, next) in [
            (
                Escalation::Sudo,
                1,
                "sudo: unable to resolve host m1\nsudo: a password is required\n",
                NextEscalation::Password { terminal: false },
            ),
            (Escalation::Sudo, 1, "sudo: sorry, you must have a tty to run sudo\n", NextEscalation::Terminal),
            (
                Escalation::Terminal(None),
                1,
                "sudo: a password is required\n",
                NextEscalation::Password { terminal: true },
            ),
            (Escalation::Sudo, 127, "env: 'sudo': No such file or directory\n", NextEscalation::Doas),
            (
                Escalation::Sudo,
                1,
                "sudo-rs: interactive authentication is required\n",
                NextEscalation::Password { terminal: false },
            ),
            (
                Escalation::Password(word()),
                1,
                "Sorry, try again.\nsudo: no password was provided\n",
                NextEscalation::Again,
            ),
            (
                Escalation::Terminal(Some(word())),
                1,
                "sudo: 1 incorrect password attempt\n",
                NextEscalation::Again,
            ),
            (Escalation::Sudo, 1, "bob is not in the sudoers file.\n", NextEscalation::Refused),
            (Escalation::Doas, 1, "doas: Operation not permitted\n", NextEscalation::Refused),
            (Escalation::Root, 1, "", NextEscalation::Refused),
        ] {
            assert_eq!(escalation.next(&said(status, words)), next, "{words}");
        }
    }

    #[test]
    fn a_refusal_names_its_cause_and_a_hint() {
        let error = Escalation::Sudo.refused("bob", &said(1, "sudo: a password is required\n"));
        assert_eq!(error.what, "sudo does not let bob become root without a password");
        assert!(error.hint.unwrap().contains("--password-command"));
        let error = Escalation::Root.refused("root", &said(1, "This account is currently not available.\n"));
        assert_eq!(error.what, "root has no login shell and cannot run commands");
    }

    /// Checks what root's shell gets and prints, both where sudo takes the password and where it does not ask.
    #[test]
    fn an_unused_password_is_neither_run_nor_shown() {
        use std::io::Write;
        use std::process::{Command, Stdio};
        let dir = tempfile::tempdir().unwrap();
        let password = || SecretText::new("touch hunter2");
        let all = [Escalation::Password(password()), Escalation::Terminal(Some(password()))];
        for (asks, sudo) in [(true, "read -r word"), (false, ":")] {
            let path = dir.path().join("sudo");
            let text =
                format!("#!/bin/sh\n{sudo}\nwhile [ \"$1\" != -- ]; do shift; done\nshift\nexec \"$@\"\n");
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
            for (escalation, shell) in
                all.iter().flat_map(|escalation| [(escalation, "/bin/dash"), (escalation, "/bin/bash")])
            {
                let search = format!("{}:{}", dir.path().display(), std::env::var("PATH").unwrap());
                let mut root = Command::new(shell);
                root.args(["-c", &escalation.command().replace("/bin/sh", shell)]).env("PATH", search);
                root.current_dir(dir.path())
                    .stdin(Stdio::piped())
                    .stdout(Stdio::piped())
                    .stderr(Stdio::piped());
                let mut root = root.spawn().unwrap();
                let sent = "touch hunter2\n--ironstrap script--\necho ran\n";
                root.stdin.take().unwrap().write_all(sent.as_bytes()).unwrap();
                let output = root.wait_with_output().unwrap();
                let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
                let of = format!("{shell}, asks: {asks}, {}", escalation.shown());
                assert_eq!(said, "\n--ironstrap begins--\nran\n", "{of}");
                assert!(!dir.path().join("hunter2").exists(), "it was run: {of}");
            }
        }
    }
}
