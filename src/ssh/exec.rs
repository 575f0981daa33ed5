//! Runs one script on one channel, to its end. No other place may use `Channel::exec`: the obvious code never returns
//! if a command ends before it has read all of its input.

mod seen;

use std::time::Duration;

use bytes::Bytes;
use russh::client::Msg;
use russh::{Channel, ChannelMsg, ChannelWriteHalf};
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use seen::Seen;

use super::escalation::{Escalation, RAW};
use crate::error::{Error, Kind};
use crate::shell::{Bounds, Output};

/// Bytes per write. Measurements show that smaller pieces are slower, and bigger ones are not faster.
const PIECE: usize = 256 * 1024;
/// The mark that the script prints first, on a line of its own. Text before it is a banner, or noise of the user's rc
/// files. That text may lack the newline at its end.
const BEGIN: &str = "--ironstrap begins--";
/// The prompt by which sudo asks for the password on a terminal.
const ASKS: &str = "--ironstrap asks--";
/// The last input line before the script. If sudo does not ask for the password, the password comes between `BEGIN` and
/// this line.
const SCRIPT: &str = "--ironstrap script--";
/// The mark that the script prints last on a terminal, with its exit status. ironstrap cannot send the end of input there.
const END: &str = "--ironstrap ends--";

/// Why a script has no exit status.
#[derive(Debug)]
pub(super) enum ExecError {
    /// The connection ended. The script may have ended with it, or may still run.
    Lost(String),
    /// The server runs no commands.
    Refused,
    /// The command ended before the script began. Nothing of the script ran.
    NotBegun(Output),
    /// The script did not begin within this time. Nothing of it ran.
    Silent(Duration),
    /// More than this many bytes came before the script began.
    Noise(usize),
    /// The script printed nothing for this long.
    Quiet(Duration),
    /// The script did not end within this time.
    Late(Duration),
    /// The script printed more than this many bytes.
    Flood(usize),
}

/// Maximum number of bytes that may come before the script begins. Banners and messages of the day are shorter.
const NOISE: usize = 64 << 10;
/// How long a channel may stay open after the exit status came. A process that does not end can keep it open.
const GRACE: Duration = Duration::from_secs(10);

/// Runs `script` as root by this escalation, until the channel closes. Output and the exit status come in any order,
/// so neither is the end. The script has to begin within `patience`.
pub(super) async fn exec(
    channel: Channel<Msg>,
    escalation: &Escalation,
    script: &str,
    (patience, bounds): (Duration, &Bounds),
    heard: &mut (dyn FnMut(&[u8]) + Send),
) -> Result<Output, ExecError> {
    let late = Instant::now() + patience;
    let lost = |error: russh::Error| ExecError::Lost(error.to_string());
    let started = async {
        if escalation.on_terminal() {
            channel.request_pty(true, "dumb", 80, 24, 0, 0, RAW).await?;
        }
        channel.exec(true, escalation.command()).await
    };
    timeout_at(late, started).await.map_err(|_| ExecError::Silent(patience))?.map_err(lost)?;
    let (mut replies, input) = channel.split();
    let mut seen = Seen::new(escalation.on_terminal(), bounds);
    let head = if escalation.announces() { String::new() } else { format!("echo\necho '{BEGIN}'\n") };
    if escalation.announces() {
        // A sudo that asks again would take the next line as another password. Too many wrong ones lock people out.
        let begun = async {
            if escalation.on_terminal() && escalation.password().is_some() {
                let asks = |seen: &Seen| seen.says(ASKS) || seen.says("assword");
                seen.until(&mut replies, heard, |seen| seen.begun || asks(seen)).await?;
                if seen.begun || !asks(&seen) {
                    return Ok(());
                }
            }
            let first = escalation.password().map_or(String::new(), |password| format!("{password}\n"));
            input.data_bytes(first).await.map_err(lost)?;
            seen.until(&mut replies, heard, |seen| seen.begun || seen.says("try again")).await
        };
        timeout_at(late, begun).await.map_err(|_| ExecError::Silent(patience))??;
        if !seen.begun {
            let _ = if escalation.on_terminal() { input.close().await } else { input.eof().await };
            let rest = timeout_at(late, seen.rest(&mut replies, heard)).await;
            return rest.map_err(|_| ExecError::Silent(patience))?;
        }
    }
    let tail = if escalation.on_terminal() {
        format!("\nprintf '\\n{END} %s\\n' $?\nexit\n")
    } else {
        String::new()
    };
    let last = if escalation.password().is_some() { format!("{SCRIPT}\n") } else { String::new() };
    let whole = Bytes::from([&last, &head, script, &tail].concat());
    let write = write(&input, whole, escalation.on_terminal());
    tokio::pin!(write);
    let mut written = false;
    loop {
        // Reads and writes at the same time: a server that stops reading also stops the writes.
        tokio::select! {
            result = &mut write, if !written => match result {
                // The connection is gone. The other branch notices that too, after all data that was on its way.
                Ok(()) | Err(russh::Error::SendError) => written = true,
                Err(error) => return Err(lost(error)),
            },
            reply = replies.wait() => match reply {
                None | Some(ChannelMsg::Close) => return seen.end(heard),
                Some(reply) => seen.take(reply, heard)?,
            },
            () = sleep_until(seen.until_when(late, bounds)) => {
                let _ = timeout(GRACE, input.close()).await;
                return seen.late(patience, bounds, heard);
            }
        }
    }
}

async fn write(input: &ChannelWriteHalf<Msg>, script: Bytes, terminal: bool) -> Result<(), russh::Error> {
    for at in (0..script.len()).step_by(PIECE) {
        input.data_bytes(script.slice(at..script.len().min(at + PIECE))).await?;
    }
    if terminal { Ok(()) } else { input.eof().await }
}

impl ExecError {
    /// Turns this into an error for the operator. `parting`: what the other side said when it hung up.
    pub(super) fn told(self, user: &str, escalation: &Escalation, parting: Option<&str>) -> Error {
        match self {
            ExecError::Lost(why) => {
                Error::new(Kind::Lost, "the connection was lost while a script was running")
                    .quoting(parting.unwrap_or(&why))
                    .hint("the outcome is unknown: run the command again; it first checks the current state")
            }
            ExecError::Refused => Error::new(Kind::Unreachable, "the server does not run commands")
                .because(format!("it refused: {}", escalation.command()))
                .hint(format!("give {user} a login shell, and remove ForceCommand from sshd_config")),
            ExecError::NotBegun(said) => escalation.refused(user, &said),
            ExecError::Silent(patience) => {
                Error::new(Kind::Unreachable, format!("timed out after {} s", patience.as_secs_f64()))
                    .because(format!("logged in as {user}, but the script did not start: {}", escalation.command()))
                    .because("nothing was run")
                    .hint(
                        "check whether the user's rc files or sudo's PAM wait for input; if the machine is overloaded, \
                         raise --connect-timeout",
                    )
            }
            ExecError::Noise(most) => {
                let kib = most >> 10;
                Error::new(Kind::Unreachable, format!("the machine printed more than {kib} KiB before the script started"))
                    .because(format!("logged in as {user}, and ran: {}", escalation.command()))
                    .because("nothing was run")
                    .hint("check the rc files of that user, and ForceCommand in sshd_config")
            }
            ExecError::Quiet(silence) => silent(format!("a script has printed nothing for {} s", silence.as_secs_f64())),
            ExecError::Late(whole) => silent(format!("a script did not end within {} s", whole.as_secs_f64())),
            ExecError::Flood(most) => silent(format!("a script has printed more than {} KiB", most >> 10))
                .because("ironstrap discarded its output")
                .hint("find out what prints so much; another program may have replaced one that ironstrap runs"),
        }
    }
}

/// The error for a machine that is connected but of no use.
fn silent(what: String) -> Error {
    Error::new(Kind::Silent, what)
        .because("the script may still be running; ironstrap leaves this machine alone")
        .hint("check whether a disk, a network file system or a program hangs on the machine")
}

/// The error if the server opens no channel for a script.
pub(super) fn no_session(error: &russh::Error) -> Error {
    Error::new(Kind::Unreachable, "the server does not open a session")
        .quoting(error.to_string())
        .hint("check MaxSessions in its sshd_config, or its journal; nothing was run")
}
