//! One script on one channel, to its end. No other place may use `Channel::exec`: written the obvious way, it waits
//! for ever for a command that ends before it has read all of its input.

use bytes::Bytes;
use russh::client::Msg;
use russh::{Channel, ChannelMsg, Sig};

use crate::error::{Error, Kind};
use crate::shell::Output;

/// Measured: smaller pieces are slower, bigger ones are not faster.
const PIECE: usize = 256 * 1024;

/// Why there is no exit status.
#[derive(Debug)]
pub(super) enum Cut {
    /// The connection ended, and with it the script, or not.
    Lost(String),
    /// The server runs no commands.
    Refused,
}

/// What root's shell is called on the other side.
pub(super) fn command(user: &str) -> &'static str {
    if user == "root" { "/bin/sh -s" } else { "sudo -n -- /bin/sh -s" }
}

/// Runs `command` with `script` as its input, until the channel is closed: output and the exit status come in any
/// order, so neither is the end.
pub(super) async fn exec(
    channel: Channel<Msg>,
    command: &str,
    script: &str,
    heard: &mut (dyn FnMut(&[u8]) + Send),
) -> Result<Output, Cut> {
    channel.exec(true, command).await.map_err(|error| Cut::Lost(error.to_string()))?;
    let script = Bytes::copy_from_slice(script.as_bytes());
    let (mut replies, input) = channel.split();
    let write = async {
        for at in (0..script.len()).step_by(PIECE) {
            input.data_bytes(script.slice(at..script.len().min(at + PIECE))).await?;
        }
        input.eof().await
    };
    tokio::pin!(write);
    let (mut seen, mut written) = (Seen::default(), false);
    loop {
        // Both at once: who does not read any more does not let us write any more either.
        tokio::select! {
            result = &mut write, if !written => match result {
                // The connection is gone: the other branch hears that too, after all that was on its way.
                Ok(()) | Err(russh::Error::SendError) => written = true,
                Err(error) => return Err(Cut::Lost(error.to_string())),
            },
            reply = replies.wait() => match reply {
                None | Some(ChannelMsg::Close) => return seen.end(),
                Some(reply) => seen.take(reply, heard)?,
            },
        }
    }
}

/// What has come back so far.
#[derive(Default)]
struct Seen {
    output: Output,
    status: Option<i32>,
}

impl Seen {
    fn take(&mut self, reply: ChannelMsg, heard: &mut (dyn FnMut(&[u8]) + Send)) -> Result<(), Cut> {
        match reply {
            ChannelMsg::Data { data } => {
                heard(&data);
                self.output.stdout.extend_from_slice(&data);
            }
            ChannelMsg::ExtendedData { data, ext: 1 } => self.output.stderr.extend_from_slice(&data),
            ChannelMsg::ExitStatus { exit_status } => self.status = Some(exit_status as i32),
            ChannelMsg::ExitSignal { signal_name, .. } => self.status = Some(128 + number(&signal_name)),
            ChannelMsg::Failure => return Err(Cut::Refused),
            _ => {}
        }
        Ok(())
    }

    /// A channel that closes without a status was cut, whatever came before.
    fn end(self) -> Result<Output, Cut> {
        let status = self.status.ok_or_else(|| Cut::Lost("no exit status came".into()))?;
        Ok(Output { status, ..self.output })
    }
}

/// Linux' number of a signal; 0 for those that SSH has no name for.
fn number(signal: &Sig) -> i32 {
    match signal {
        Sig::HUP => 1,
        Sig::INT => 2,
        Sig::QUIT => 3,
        Sig::ILL => 4,
        Sig::ABRT => 6,
        Sig::FPE => 8,
        Sig::KILL => 9,
        Sig::USR1 => 10,
        Sig::SEGV => 11,
        Sig::PIPE => 13,
        Sig::ALRM => 14,
        Sig::TERM => 15,
        Sig::Custom(name) if name == "USR2" => 12,
        Sig::Custom(_) => 0,
    }
}

impl Cut {
    /// As an error. `parting` is what the other side said when it hung up.
    pub(super) fn told(self, user: &str, parting: Option<&str>) -> Error {
        match self {
            Cut::Lost(why) => {
                Error::new(Kind::Unreachable, "the connection was lost while a script was running")
                    .because(parting.unwrap_or(&why))
                    .hint("nobody knows how far it got; run the same again, it begins by looking")
            }
            Cut::Refused => Error::new(Kind::Unreachable, "the server runs no commands")
                .because(format!("it refused: {}", command(user)))
                .hint(format!("{user} needs a login shell, and no ForceCommand in sshd_config")),
        }
    }
}

/// No channel to run a script on.
pub(super) fn no_session(error: &russh::Error) -> Error {
    Error::new(Kind::Unreachable, "the server opens no session")
        .because(error.to_string())
        .hint("nothing was run; look at MaxSessions in its sshd_config, or at its journal")
}

/// What sudo says when it does not run the script. Only words it alone uses: a script that fails is not its doing.
pub(super) fn sudo_refusal(user: &str, output: &Output) -> Option<Error> {
    if user == "root" || !output.stdout.is_empty() {
        return None;
    }
    let stderr = String::from_utf8_lossy(&output.stderr);
    let says = |words: &[&str]| stderr.lines().any(|line| words.iter().any(|word| line.contains(word)));
    let what = match output.status {
        1 if says(&[
            "sudo: a password is required",
            "sudo: a terminal is required",
            "sudo: sorry, you must have a tty",
            "is not in the sudoers file",
            "is not allowed to execute",
        ]) =>
        {
            format!("sudo does not let {user} become root without a password")
        }
        127 if stderr.contains("sudo") && stderr.contains("not found") => {
            format!("there is no sudo to make {user} root")
        }
        _ => return None,
    };
    let rule = format!("/etc/sudoers.d/{user}: {user} ALL=(ALL) NOPASSWD: ALL");
    Some(
        Error::new(Kind::Unreachable, what)
            .because(stderr.trim())
            .hint(format!("give {user} passwordless sudo ({rule}), or log in with user = \"root\"")),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(status: i32, stdout: &str, stderr: &str) -> Option<Error> {
        sudo_refusal("bob", &Output { status, stdout: stdout.into(), stderr: stderr.into() })
    }

    #[test]
    fn sudo_that_wants_a_password_is_told_apart_from_a_script_that_fails() {
        let error =
            refusal(1, "", "sudo: unable to resolve host m1\nsudo: a password is required\n").unwrap();
        assert_eq!(error.kind, Kind::Unreachable);
        assert_eq!(error.what, "sudo does not let bob become root without a password");
        assert!(refusal(127, "", "bash: line 1: sudo: command not found\n").is_some());
        assert!(refusal(127, "", "sh: 1: sudo: not found\n").is_some());
        assert_eq!(refusal(1, "", "sudo: unable to resolve host m1\n"), None);
        assert_eq!(refusal(1, "ran", "sudo: a password is required\n"), None);
        assert_eq!(refusal(127, "", "sh: 3: kubeadm: not found\n"), None);
        assert_eq!(refusal(0, "", "sudo: a password is required\n"), None);
    }
}
