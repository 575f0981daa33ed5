//! One script on one channel, to its end. No other place may use `Channel::exec`: the obvious code never returns if a
//! command ends before it has read all of its input.

mod seen;

use std::time::Duration;

use bytes::Bytes;
use russh::client::Msg;
use russh::{Channel, ChannelMsg, ChannelWriteHalf};
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use seen::Seen;

use super::root::{Means, RAW};
use crate::error::{Error, Kind};
use crate::shell::{Bounds, Output};

/// Measured: smaller pieces are slower, bigger ones are not faster.
const PIECE: usize = 256 * 1024;
/// The script's first word, on a line of its own. What comes before it is a banner, or noise of somebody's rc files, which
/// may lack the newline at its end.
const BEGIN: &str = "--ironstrap begins--";
/// What sudo asks for the password with, on a terminal.
const ASKS: &str = "--ironstrap asks--";
/// The last line that is no script: what comes before it, after `BEGIN`, is a password that nobody asked for.
const SCRIPT: &str = "--ironstrap script--";
/// Its last on a terminal, where no end of input can be sent: with its exit status.
const END: &str = "--ironstrap ends--";

/// Why there is no exit status of the script.
#[derive(Debug)]
pub(super) enum Cut {
    /// The connection ended, and with it the script, or not.
    Lost(String),
    /// The server runs no commands.
    Refused,
    /// The command ended before the script began: nothing of it was run.
    NotBegun(Output),
    /// Nothing came of the command for so long; nothing of the script was run.
    Silent(Duration),
    /// More than this many bytes came before the script began.
    Noise(usize),
    /// The script said nothing for so long.
    Quiet(Duration),
    /// It did not end within this time.
    Late(Duration),
    /// It said more than this many bytes.
    Flood(usize),
}

/// What may come before the script begins, in bytes. Banners and messages of the day are shorter.
const NOISE: usize = 64 << 10;
/// How long a channel may stay open after the exit status came. A process that nothing ends can keep it open.
const GRACE: Duration = Duration::from_secs(10);

/// Runs `script` as root by these means, until the channel is closed: output and the exit status come in any
/// order, so neither is the end. It has to begin within `patience`.
pub(super) async fn exec(
    channel: Channel<Msg>,
    means: &Means,
    script: &str,
    (patience, bounds): (Duration, &Bounds),
    heard: &mut (dyn FnMut(&[u8]) + Send),
) -> Result<Output, Cut> {
    let late = Instant::now() + patience;
    let lost = |error: russh::Error| Cut::Lost(error.to_string());
    let started = async {
        if means.on_terminal() {
            channel.request_pty(true, "dumb", 80, 24, 0, 0, RAW).await?;
        }
        channel.exec(true, means.command()).await
    };
    timeout_at(late, started).await.map_err(|_| Cut::Silent(patience))?.map_err(lost)?;
    let (mut replies, input) = channel.split();
    let mut seen = Seen::new(means.on_terminal(), bounds);
    let head = if means.announces() { String::new() } else { format!("echo\necho '{BEGIN}'\n") };
    if means.announces() {
        // sudo that asks again would take what comes next for another password, and too many wrong ones lock people out.
        let begun = async {
            if means.on_terminal() && means.password().is_some() {
                let asks = |seen: &Seen| seen.says(ASKS) || seen.says("assword");
                seen.until(&mut replies, heard, |seen| seen.begun || asks(seen)).await?;
                if seen.begun || !asks(&seen) {
                    return Ok(());
                }
            }
            let first = means.password().map_or(String::new(), |password| format!("{password}\n"));
            input.data_bytes(first).await.map_err(lost)?;
            seen.until(&mut replies, heard, |seen| seen.begun || seen.says("try again")).await
        };
        timeout_at(late, begun).await.map_err(|_| Cut::Silent(patience))??;
        if !seen.begun {
            let _ = if means.on_terminal() { input.close().await } else { input.eof().await };
            let rest = timeout_at(late, seen.rest(&mut replies, heard)).await;
            return rest.map_err(|_| Cut::Silent(patience))?;
        }
    }
    let tail =
        if means.on_terminal() { format!("\nprintf '\\n{END} %s\\n' $?\nexit\n") } else { String::new() };
    let last = if means.password().is_some() { format!("{SCRIPT}\n") } else { String::new() };
    let whole = Bytes::from([&last, &head, script, &tail].concat());
    let write = write(&input, whole, means.on_terminal());
    tokio::pin!(write);
    let mut written = false;
    loop {
        // Both at once: who does not read any more does not let us write any more either.
        tokio::select! {
            result = &mut write, if !written => match result {
                // The connection is gone: the other branch hears that too, after all that was on its way.
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

impl Cut {
    /// As an error. `parting` is what the other side said when it hung up.
    pub(super) fn told(self, user: &str, means: &Means, parting: Option<&str>) -> Error {
        match self {
            Cut::Lost(why) => {
                Error::new(Kind::Lost, "the connection was lost while a script was running")
                    .heard(parting.unwrap_or(&why))
                    .hint("nobody knows how far it got; run the same again, it begins by looking")
            }
            Cut::Refused => Error::new(Kind::Unreachable, "the server runs no commands")
                .because(format!("it refused: {}", means.command()))
                .hint(format!("{user} needs a login shell, and no ForceCommand in sshd_config")),
            Cut::NotBegun(said) => means.refused(user, &said),
            Cut::Silent(patience) => {
                Error::new(Kind::Unreachable, format!("timed out after {} s", patience.as_secs_f64()))
                    .because(format!("logged in as {user}, but no script begins: {}", means.command()))
                    .because("nothing was run")
                    .hint(
                        "does something in the user's rc files, or in sudo's PAM, wait for somebody? or is the machine \
                         overloaded (--connect-timeout)?",
                    )
            }
            Cut::Noise(most) => {
                Error::new(Kind::Unreachable, format!("prints more than {} KiB before a script begins", most >> 10))
                    .because(format!("logged in as {user}, and ran: {}", means.command()))
                    .because("nothing was run")
                    .hint("look at the rc files of that user, and at ForceCommand in sshd_config")
            }
            Cut::Quiet(silence) => silent(format!("a script has printed nothing for {} s", silence.as_secs_f64())),
            Cut::Late(whole) => silent(format!("a script has not ended within {} s", whole.as_secs_f64())),
            Cut::Flood(most) => silent(format!("a script has printed more than {} KiB", most >> 10))
                .because("its output is not used")
                .hint("find out what prints so much there: another program may stand in the place of one that ironstrap runs"),
        }
    }
}

/// A machine that is connected, and of no use.
fn silent(what: String) -> Error {
    Error::new(Kind::Silent, what)
        .because("what runs there may go on; ironstrap leaves this machine alone")
        .hint("look at the machine: does a disk, a network file system or a program hang there?")
}

/// No channel to run a script on.
pub(super) fn no_session(error: &russh::Error) -> Error {
    Error::new(Kind::Unreachable, "the server opens no session")
        .heard(error.to_string())
        .hint("nothing was run; look at MaxSessions in its sshd_config, or at its journal")
}
