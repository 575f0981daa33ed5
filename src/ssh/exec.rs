//! One script on one channel, to its end. No other place may use `Channel::exec`: written the obvious way, it waits
//! for ever for a command that ends before it has read all of its input.

use std::time::Duration;

use bytes::Bytes;
use russh::client::Msg;
use russh::{Channel, ChannelMsg, ChannelReadHalf, ChannelWriteHalf, Sig};

use super::root::{Means, RAW};
use crate::error::{Error, Kind};
use crate::shell::Output;

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
}

/// Runs `script` as root by these means, until the channel is closed: output and the exit status come in any
/// order, so neither is the end. It has to begin within `patience`.
pub(super) async fn exec(
    channel: Channel<Msg>,
    means: &Means,
    script: &str,
    patience: Duration,
    heard: &mut (dyn FnMut(&[u8]) + Send),
) -> Result<Output, Cut> {
    let late = tokio::time::Instant::now() + patience;
    let lost = |error: russh::Error| Cut::Lost(error.to_string());
    if means.on_terminal() {
        channel.request_pty(true, "dumb", 80, 24, 0, 0, RAW).await.map_err(lost)?;
    }
    channel.exec(true, means.command()).await.map_err(lost)?;
    let (mut replies, input) = channel.split();
    let mut seen = Seen { terminal: means.on_terminal(), ..Seen::default() };
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
        tokio::time::timeout_at(late, begun).await.map_err(|_| Cut::Silent(patience))??;
        if !seen.begun {
            let _ = if means.on_terminal() { input.close().await } else { input.eof().await };
            return seen.rest(&mut replies, heard).await;
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
            () = tokio::time::sleep_until(late), if !seen.begun => return Err(Cut::Silent(patience)),
        }
    }
}

async fn write(input: &ChannelWriteHalf<Msg>, script: Bytes, terminal: bool) -> Result<(), russh::Error> {
    for at in (0..script.len()).step_by(PIECE) {
        input.data_bytes(script.slice(at..script.len().min(at + PIECE))).await?;
    }
    if terminal { Ok(()) } else { input.eof().await }
}

/// What has come back so far.
#[derive(Default)]
struct Seen {
    output: Output,
    status: Option<i32>,
    /// What came before the script began.
    noise: Vec<u8>,
    begun: bool,
    /// Everything comes in one stream, and the end is part of it.
    terminal: bool,
}

impl Seen {
    fn take(&mut self, reply: ChannelMsg, heard: &mut (dyn FnMut(&[u8]) + Send)) -> Result<(), Cut> {
        match reply {
            ChannelMsg::Data { data } => self.hear(&data, heard),
            ChannelMsg::ExtendedData { data, ext: 1 } => self.output.stderr.extend_from_slice(&data),
            ChannelMsg::ExitStatus { exit_status } => self.status = Some(exit_status as i32),
            ChannelMsg::ExitSignal { signal_name, .. } => self.status = Some(128 + number(&signal_name)),
            ChannelMsg::Failure => return Err(Cut::Refused),
            _ => {}
        }
        Ok(())
    }

    fn hear(&mut self, data: &[u8], heard: &mut (dyn FnMut(&[u8]) + Send)) {
        if self.begun {
            self.said(data, heard);
            return;
        }
        self.noise.extend_from_slice(data);
        if let Some((start, end)) = line(&self.noise, BEGIN) {
            let rest = self.noise.split_off(end);
            self.noise.truncate(start);
            self.begun = true;
            self.said(&rest, heard);
        }
    }

    fn said(&mut self, data: &[u8], heard: &mut (dyn FnMut(&[u8]) + Send)) {
        if !self.terminal && !data.is_empty() {
            heard(data);
        }
        self.output.stdout.extend_from_slice(data);
    }

    /// Whether it said these words before the script began.
    fn says(&self, words: &str) -> bool {
        [&self.output.stderr, &self.noise].iter().any(|said| find(said, words.as_bytes()).is_some())
    }

    /// Takes in what comes until it is so, or the end.
    async fn until(
        &mut self,
        replies: &mut ChannelReadHalf,
        heard: &mut (dyn FnMut(&[u8]) + Send),
        is: impl Fn(&Seen) -> bool,
    ) -> Result<(), Cut> {
        while !is(self) {
            match replies.wait().await {
                None | Some(ChannelMsg::Close) => break,
                Some(reply) => self.take(reply, heard)?,
            }
        }
        Ok(())
    }

    async fn rest(
        mut self,
        replies: &mut ChannelReadHalf,
        heard: &mut (dyn FnMut(&[u8]) + Send),
    ) -> Result<Output, Cut> {
        // On a terminal nothing says that no more will come: who is asked again and again goes without an answer.
        while !self.terminal {
            match replies.wait().await {
                None | Some(ChannelMsg::Close) => break,
                Some(reply) => self.take(reply, heard)?,
            }
        }
        self.status.get_or_insert(1);
        self.end(heard)
    }

    /// A channel that closes without a status was cut, whatever came before.
    fn end(mut self, heard: &mut (dyn FnMut(&[u8]) + Send)) -> Result<Output, Cut> {
        let status = self.status.ok_or_else(|| Cut::Lost("no exit status came".into()))?;
        self.output.status = status;
        if !self.begun {
            self.output.stdout = self.noise;
            return Err(Cut::NotBegun(self.output));
        }
        if self.terminal {
            let cut = || Cut::Lost("the script did not come to its end".into());
            let at =
                self.output.stdout.windows(END.len()).rposition(|w| w == END.as_bytes()).ok_or_else(cut)?;
            let end = String::from_utf8_lossy(&self.output.stdout[at + END.len()..]).trim().parse();
            self.output.status = end.map_err(|_| cut())?;
            self.output.stdout.truncate(at.saturating_sub(1));
            heard(&self.output.stdout);
        }
        Ok(self.output)
    }
}

/// Where a whole line of this text is: its beginning, and the end after its newline.
fn line(all: &[u8], text: &str) -> Option<(usize, usize)> {
    let mut from = 0;
    while let Some(at) = find(&all[from..], text.as_bytes()).map(|at| from + at) {
        let after = &all[at + text.len()..];
        let newline = if after.starts_with(b"\r\n") { 2 } else { usize::from(after.starts_with(b"\n")) };
        if (at == 0 || all[at - 1] == b'\n') && newline > 0 {
            return Some((at, at + text.len() + newline));
        }
        from = at + 1;
    }
    None
}

fn find(text: &[u8], what: &[u8]) -> Option<usize> {
    text.windows(what.len()).position(|window| window == what)
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
    pub(super) fn told(self, user: &str, means: &Means, parting: Option<&str>) -> Error {
        match self {
            Cut::Lost(why) => {
                Error::new(Kind::Lost, "the connection was lost while a script was running")
                    .because(parting.unwrap_or(&why))
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
                         overloaded (--timeout)?",
                    )
            }
        }
    }
}

/// No channel to run a script on.
pub(super) fn no_session(error: &russh::Error) -> Error {
    Error::new(Kind::Unreachable, "the server opens no session")
        .because(error.to_string())
        .hint("nothing was run; look at MaxSessions in its sshd_config, or at its journal")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is heard of this output, in pieces of this size; and how it ends.
    fn seen(output: &str, size: usize, terminal: bool) -> (String, Result<Output, Cut>) {
        let (mut seen, mut all) = (Seen { status: Some(3), terminal, ..Seen::default() }, vec![]);
        let mut heard = |piece: &[u8]| all.extend_from_slice(piece);
        for piece in output.as_bytes().chunks(size) {
            seen.hear(piece, &mut heard);
        }
        let end = seen.end(&mut heard);
        (String::from_utf8(all).unwrap(), end)
    }

    #[test]
    fn noise_before_the_script_is_not_of_it_however_the_stream_is_cut() {
        let output = format!("Welcome!\n{BEGIN} not\n x{BEGIN}\n{BEGIN}\none\n{BEGIN}\ntwo");
        for size in 1..output.len() {
            let (heard, end) = seen(&output, size, false);
            assert_eq!(heard, format!("one\n{BEGIN}\ntwo"));
            assert_eq!((end.as_ref().unwrap().status, &end.unwrap().stdout[..]), (3, heard.as_bytes()));
        }
        assert!(matches!(seen("sorry\n", 9, false).1, Err(Cut::NotBegun(said)) if said.stdout == b"sorry\n"));
    }

    #[test]
    fn on_a_terminal_the_status_is_in_the_stream() {
        let (heard, end) = seen(&format!("{BEGIN}\r\nout\n\n{END} 5\n"), 4, true);
        assert_eq!((heard.as_str(), end.unwrap().status), ("out\n", 5));
        assert!(matches!(seen(&format!("{BEGIN}\nhalf"), 4, true).1, Err(Cut::Lost(_))), "cut");
    }
}
