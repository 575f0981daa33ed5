//! Becoming root on the other side: which command does it, and what to try next where it did not.

use russh::Pty;

use crate::error::{Error, Kind};
use crate::secret::SecretText;
use crate::shell::Output;

/// How a script comes to run as root.
#[derive(Clone, PartialEq)]
pub(super) enum Means {
    /// Who logged in is root.
    Root,
    Sudo,
    /// With the user's password, which travels on standard input.
    Password(SecretText),
    /// sudo that wants a terminal (`Defaults requiretty`), with the password where it wants that, too.
    Terminal(Option<SecretText>),
    Doas,
}

/// A terminal that passes everything on as it is.
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

/// What has to be done before the next try.
#[derive(Debug, PartialEq)]
pub(super) enum Next {
    /// Give a password, and a terminal if that.
    Password {
        terminal: bool,
    },
    /// The password was wrong.
    Again,
    Terminal,
    Doas,
    /// Nothing helps.
    Refused,
}

/// What sudo says that asks for no password where it would need one; the last is sudo-rs.
const NEEDS_PASSWORD: [&str; 3] =
    ["a password is required", "a terminal is required", "authentication is required"];

impl Means {
    pub fn first(user: &str) -> Means {
        if user == "root" { Means::Root } else { Means::Sudo }
    }

    /// The same in csh, fish and whatever else somebody logs in with. Many an sshd hands over the language of the machine, and
    /// sudo's words decide what is tried next.
    pub fn command(&self) -> &'static str {
        match self {
            Means::Root => "/bin/sh -s",
            Means::Sudo => "env LC_ALL=C sudo -n -- /bin/sh -s",
            // -k: sudo asks also where it remembers a password from elsewhere. Where it does not ask at all (NOPASSWD was
            // set meanwhile), the password is still on its way: the loop reads it, and the shell does not.
            Means::Password(_) => {
                "env LC_ALL=C sudo -k -S -p '' -- /bin/sh -c 'echo; echo --ironstrap begins--; \
                 while IFS= read -r l; do case $l in \"--ironstrap script--\") exec /bin/sh -s;; esac; done; exit 1'"
            }
            // Without the pipe the shell would take the terminal for a person. What is typed before sudo and the shell
            // are ready for it is thrown away, so both say when they are.
            Means::Terminal(None) => {
                "env LC_ALL=C sudo -n -- /bin/sh -c 'echo; echo --ironstrap begins--; /bin/sh -s 2>&1 | cat'"
            }
            Means::Terminal(Some(_)) => {
                "env LC_ALL=C sudo -k -S -p '--ironstrap asks--' -- /bin/sh -c 'echo; echo --ironstrap begins--; \
                 while IFS= read -r l; do case $l in \"--ironstrap script--\") exec /bin/sh -s;; esac; done 2>&1 | cat'"
            }
            Means::Doas => "doas -n /bin/sh -s",
        }
    }

    pub fn shown(&self) -> &'static str {
        match self {
            Means::Root => "logged in as root",
            Means::Sudo => "sudo, without a password",
            Means::Password(_) => "sudo, with a password",
            Means::Terminal(None) => "sudo, on a terminal, without a password",
            Means::Terminal(Some(_)) => "sudo, on a terminal, with a password",
            Means::Doas => "doas",
        }
    }

    pub fn password(&self) -> Option<&str> {
        match self {
            Means::Password(word) | Means::Terminal(Some(word)) => Some(word.reveal()),
            _ => None,
        }
    }

    /// Whether the command itself says that it has begun, and nothing may be sent to it before.
    pub fn announces(&self) -> bool {
        self.on_terminal() || self.password().is_some()
    }

    pub fn on_terminal(&self) -> bool {
        matches!(self, Means::Terminal(_))
    }

    /// What could help where the script did not so much as begin, from the words that were said instead.
    pub fn next(&self, said: &Output) -> Next {
        let words = [&said.stderr[..], &said.stdout[..]].concat();
        let words = String::from_utf8_lossy(&words);
        let says = |any: &[&str]| any.iter().any(|piece| words.contains(piece));
        match self {
            Means::Sudo if says(&["you must have a tty"]) => Next::Terminal,
            Means::Sudo if says(&NEEDS_PASSWORD) => Next::Password { terminal: false },
            // env says so, or a shell.
            Means::Sudo if said.status == 127 => Next::Doas,
            Means::Terminal(None) if says(&NEEDS_PASSWORD) => Next::Password { terminal: true },
            Means::Password(_) | Means::Terminal(Some(_))
                if says(&["try again", "incorrect password", "no password was provided"]) =>
            {
                Next::Again
            }
            _ => Next::Refused,
        }
    }

    /// Why `user` does not become root, from the words that were said instead.
    pub fn refused(&self, user: &str, said: &Output) -> Error {
        let words = String::from_utf8_lossy(&said.stderr).trim().to_string();
        let noise = String::from_utf8_lossy(&said.stdout).trim().to_string();
        let has = |piece: &str| words.contains(piece) || noise.contains(piece);
        let rule = format!("/etc/sudoers.d/{user}: {user} ALL=(ALL) NOPASSWD: ALL");
        let sudoers = format!("give {user} passwordless sudo ({rule}), or log in with user = \"root\"");
        let (what, hint) = match self {
            _ if has("This account is currently not available") || has("nologin") => (
                format!("{user} has no shell there: it may not run commands"),
                format!(
                    "give {user} a login shell (chsh -s /bin/sh {user}), or log in as somebody who has one"
                ),
            ),
            Means::Root => (
                "the shell ended before it read the script".to_string(),
                "see what its rc files do on login, without a terminal: ~/.bashrc, ~/.zshenv, ~/.config/fish"
                    .into(),
            ),
            Means::Sudo if NEEDS_PASSWORD.iter().any(|piece| has(piece)) => (
                format!("sudo does not let {user} become root without a password"),
                format!(
                    "run this on a terminal, where it is asked for, or with --password-command; or {sudoers}"
                ),
            ),
            Means::Password(_) | Means::Terminal(Some(_)) if has("password") || has("try again") => {
                (format!("sudo does not take the password of {user}"), sudoers)
            }
            Means::Doas => (format!("neither sudo nor doas makes {user} root"), sudoers),
            _ => (format!("sudo does not let {user} become root"), sudoers),
        };
        let told = Error::new(Kind::Unreachable, what).because(format!("asked for: {}", self.command()));
        let told = [words, noise].into_iter().filter(|said| !said.is_empty()).fold(told, Error::heard);
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
    fn what_sudo_says_tells_what_to_try_next() {
        let word = || SecretText::new("word");
        for (means, status, words, next) in [
            (
                Means::Sudo,
                1,
                "sudo: unable to resolve host m1\nsudo: a password is required\n",
                Next::Password { terminal: false },
            ),
            (Means::Sudo, 1, "sudo: sorry, you must have a tty to run sudo\n", Next::Terminal),
            (Means::Terminal(None), 1, "sudo: a password is required\n", Next::Password { terminal: true }),
            (Means::Sudo, 127, "env: 'sudo': No such file or directory\n", Next::Doas),
            (
                Means::Sudo,
                1,
                "sudo-rs: interactive authentication is required\n",
                Next::Password { terminal: false },
            ),
            (Means::Password(word()), 1, "Sorry, try again.\nsudo: no password was provided\n", Next::Again),
            (Means::Terminal(Some(word())), 1, "sudo: 1 incorrect password attempt\n", Next::Again),
            (Means::Sudo, 1, "bob is not in the sudoers file.\n", Next::Refused),
            (Means::Doas, 1, "doas: Operation not permitted\n", Next::Refused),
            (Means::Root, 1, "", Next::Refused),
        ] {
            assert_eq!(means.next(&said(status, words)), next, "{words}");
        }
    }

    #[test]
    fn a_refusal_says_whose_word_it_is_and_what_to_do() {
        let error = Means::Sudo.refused("bob", &said(1, "sudo: a password is required\n"));
        assert_eq!(error.what, "sudo does not let bob become root without a password");
        assert!(error.hint.unwrap().contains("--password-command"));
        let error = Means::Root.refused("root", &said(1, "This account is currently not available.\n"));
        assert_eq!(error.what, "root has no shell there: it may not run commands");
    }

    /// What root's shell gets and says where sudo takes the password, and where it does not ask.
    #[test]
    fn a_password_that_sudo_does_not_ask_for_is_neither_run_nor_shown() {
        use std::io::Write;
        use std::process::{Command, Stdio};
        let dir = tempfile::tempdir().unwrap();
        let password = || SecretText::new("touch hunter2");
        let all = [Means::Password(password()), Means::Terminal(Some(password()))];
        for (asks, sudo) in [(true, "read -r word"), (false, ":")] {
            let path = dir.path().join("sudo");
            let text =
                format!("#!/bin/sh\n{sudo}\nwhile [ \"$1\" != -- ]; do shift; done\nshift\nexec \"$@\"\n");
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
            for (means, shell) in all.iter().flat_map(|means| [(means, "/bin/dash"), (means, "/bin/bash")]) {
                let search = format!("{}:{}", dir.path().display(), std::env::var("PATH").unwrap());
                let mut root = Command::new(shell);
                root.args(["-c", &means.command().replace("/bin/sh", shell)]).env("PATH", search);
                root.current_dir(dir.path())
                    .stdin(Stdio::piped())
                    .stdout(Stdio::piped())
                    .stderr(Stdio::piped());
                let mut root = root.spawn().unwrap();
                let sent = "touch hunter2\n--ironstrap script--\necho ran\n";
                root.stdin.take().unwrap().write_all(sent.as_bytes()).unwrap();
                let output = root.wait_with_output().unwrap();
                let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
                let of = format!("{shell}, asks: {asks}, {}", means.shown());
                assert_eq!(said, "\n--ironstrap begins--\nran\n", "{of}");
                assert!(!dir.path().join("hunter2").exists(), "it was run: {of}");
            }
        }
    }
}
