//! The output of a script so far, and the limits for its size and its time.

use std::time::Duration;

use russh::{ChannelMsg, ChannelReadHalf, Sig};
use tokio::time::Instant;

use super::{BEGIN, END, ExecError, GRACE, NOISE};
use crate::shell::{Bounds, Output};

/// The output of a script so far, and its state.
pub(super) struct Seen {
    output: Output,
    status: Option<i32>,
    /// The output before the script began.
    noise: Vec<u8>,
    pub(super) begun: bool,
    /// The script runs on a terminal. All output comes in one stream, and the end of the script is part of it.
    terminal: bool,
    /// When the script began.
    since: Instant,
    /// When the script last printed something, or its exit status came.
    last: Instant,
    /// How many bytes of the output to keep, and whether to keep only its end.
    kept: usize,
    end_only: bool,
}

impl Seen {
    pub(super) fn new(terminal: bool, bounds: &Bounds) -> Self {
        let now = Instant::now();
        Seen {
            output: Output::default(),
            status: None,
            noise: vec![],
            begun: false,
            terminal,
            since: now,
            last: now,
            kept: bounds.kept,
            end_only: bounds.end_only,
        }
    }

    /// Returns the time when the script has taken too long, if nothing more comes.
    pub(super) fn until_when(&self, late: Instant, bounds: &Bounds) -> Instant {
        if !self.begun {
            return late;
        }
        let silent = self.last + if self.status.is_some() { GRACE } else { bounds.silence };
        bounds.whole.map_or(silent, |whole| silent.min(self.since + whole))
    }

    /// Returns the result once that time has come.
    pub(super) fn late(
        self,
        patience: Duration,
        bounds: &Bounds,
        heard: &mut (dyn FnMut(&[u8]) + Send),
    ) -> Result<Output, ExecError> {
        match bounds.whole.filter(|whole| self.since.elapsed() >= *whole) {
            _ if !self.begun => Err(ExecError::Silent(patience)),
            _ if self.status.is_some() => self.end(heard),
            Some(whole) => Err(ExecError::Late(whole)),
            None => Err(ExecError::Quiet(bounds.silence)),
        }
    }

    pub(super) fn take(
        &mut self,
        reply: ChannelMsg,
        heard: &mut (dyn FnMut(&[u8]) + Send),
    ) -> Result<(), ExecError> {
        // Other messages do not count. Otherwise a machine could hold up the run without any output.
        let counts = match &reply {
            ChannelMsg::Data { data } | ChannelMsg::ExtendedData { data, ext: 1 } => !data.is_empty(),
            ChannelMsg::ExitStatus { .. } | ChannelMsg::ExitSignal { .. } => self.status.is_none(),
            _ => false,
        };
        if counts {
            self.last = Instant::now();
        }
        match reply {
            ChannelMsg::Data { data } => self.hear(&data, heard)?,
            ChannelMsg::ExtendedData { data, ext: 1 } => {
                self.output.stderr.extend_from_slice(&data);
                self.bounded()?;
            }
            ChannelMsg::ExitStatus { exit_status } => self.status = Some(exit_status as i32),
            ChannelMsg::ExitSignal { signal_name, .. } => self.status = Some(128 + number(&signal_name)),
            ChannelMsg::Failure => return Err(ExecError::Refused),
            _ => {}
        }
        Ok(())
    }

    fn hear(&mut self, data: &[u8], heard: &mut (dyn FnMut(&[u8]) + Send)) -> Result<(), ExecError> {
        if self.begun {
            return self.said(data, heard);
        }
        // The search covers only the new data, and as much old data as can hold the beginning of the line.
        let from = self.noise.len().saturating_sub(BEGIN.len() + 2);
        self.noise.extend_from_slice(data);
        let Some((start, end)) = line(&self.noise, BEGIN, from) else { return self.bounded() };
        let rest = self.noise.split_off(end);
        self.noise.truncate(start);
        (self.begun, self.since) = (true, Instant::now());
        self.said(&rest, heard)
    }

    fn said(&mut self, data: &[u8], heard: &mut (dyn FnMut(&[u8]) + Send)) -> Result<(), ExecError> {
        if !self.terminal && !data.is_empty() {
            heard(data);
        }
        self.output.stdout.extend_from_slice(data);
        self.bounded()
    }

    /// Drops output beyond the limit, or fails.
    fn bounded(&mut self) -> Result<(), ExecError> {
        let Output { stdout, stderr, .. } = &mut self.output;
        match self.begun {
            false if self.noise.len() + stderr.len() > NOISE => Err(ExecError::Noise(NOISE)),
            false => Ok(()),
            true if self.end_only => {
                for text in [stdout, stderr] {
                    // The cut waits until twice the limit. Otherwise every piece of output would move all kept bytes.
                    if text.len() > 2 * self.kept {
                        text.drain(..text.len() - self.kept);
                    }
                }
                Ok(())
            }
            true if stdout.len() + stderr.len() > self.kept => Err(ExecError::Flood(self.kept)),
            true => Ok(()),
        }
    }

    /// Whether these words came before the script began.
    pub(super) fn says(&self, words: &str) -> bool {
        [&self.output.stderr, &self.noise].iter().any(|said| find(said, words.as_bytes()).is_some())
    }

    /// Reads replies until `is` returns true, or until the channel ends.
    pub(super) async fn until(
        &mut self,
        replies: &mut ChannelReadHalf,
        heard: &mut (dyn FnMut(&[u8]) + Send),
        is: impl Fn(&Seen) -> bool,
    ) -> Result<(), ExecError> {
        while !is(self) {
            match replies.wait().await {
                None | Some(ChannelMsg::Close) => break,
                Some(reply) => self.take(reply, heard)?,
            }
        }
        Ok(())
    }

    pub(super) async fn rest(
        mut self,
        replies: &mut ChannelReadHalf,
        heard: &mut (dyn FnMut(&[u8]) + Send),
    ) -> Result<Output, ExecError> {
        // On a terminal, ironstrap cannot send the end of input. A sudo that asks again and again gets no answer.
        while !self.terminal {
            match replies.wait().await {
                None | Some(ChannelMsg::Close) => break,
                Some(reply) => self.take(reply, heard)?,
            }
        }
        self.status.get_or_insert(1);
        self.end(heard)
    }

    /// Ends the reading. A channel that closes without an exit status was cut, whatever came before.
    pub(super) fn end(mut self, heard: &mut (dyn FnMut(&[u8]) + Send)) -> Result<Output, ExecError> {
        let status = self.status.ok_or_else(|| ExecError::Lost("the server sent no exit status".into()))?;
        self.output.status = status;
        if !self.begun {
            self.output.stdout = self.noise;
            return Err(ExecError::NotBegun(self.output));
        }
        if self.terminal {
            let cut = || ExecError::Lost("the script did not run to its end".into());
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

/// Finds this text as a whole line that does not begin before `from`. Returns its start, and the end after its
/// newline.
fn line(all: &[u8], text: &str, mut from: usize) -> Option<(usize, usize)> {
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

/// The Linux number of a signal, or 0 for signals that have no name in SSH.
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds this output in pieces of this size. Returns what a listener hears, and how the script ends.
    fn seen(output: &str, size: usize, terminal: bool) -> (String, Result<Output, ExecError>) {
        let (mut seen, mut all) =
            (Seen { status: Some(3), ..Seen::new(terminal, &Bounds::default()) }, vec![]);
        let mut heard = |piece: &[u8]| all.extend_from_slice(piece);
        for piece in output.as_bytes().chunks(size) {
            seen.hear(piece, &mut heard).unwrap();
        }
        let end = seen.end(&mut heard);
        (String::from_utf8(all).unwrap(), end)
    }

    #[test]
    fn output_before_the_script_begins_is_dropped() {
        let output = format!("Welcome!\n{BEGIN} not\n x{BEGIN}\n{BEGIN}\none\n{BEGIN}\ntwo");
        for size in 1..output.len() {
            let (heard, end) = seen(&output, size, false);
            assert_eq!(heard, format!("one\n{BEGIN}\ntwo"));
            assert_eq!((end.as_ref().unwrap().status, &end.unwrap().stdout[..]), (3, heard.as_bytes()));
        }
        assert!(
            matches!(seen("sorry\n", 9, false).1, Err(ExecError::NotBegun(said)) if said.stdout == b"sorry\n")
        );
    }

    #[test]
    fn only_output_and_exit_status_end_a_silence() {
        let mut seen = Seen::new(false, &Bounds::default());
        let mut renews = |reply| {
            seen.last = seen.since - Duration::from_secs(1);
            seen.take(reply, &mut |_| {}).unwrap();
            seen.last >= seen.since
        };
        let data = |text: &'static str| text.as_bytes().into();
        assert!(renews(ChannelMsg::Data { data: data("x") }));
        assert!(renews(ChannelMsg::ExtendedData { data: data("x"), ext: 1 }));
        assert!(renews(ChannelMsg::ExitStatus { exit_status: 0 }));
        for empty in [
            ChannelMsg::Data { data: data("") },
            ChannelMsg::ExtendedData { data: data("x"), ext: 2 },
            ChannelMsg::ExitStatus { exit_status: 0 },
            ChannelMsg::WindowAdjusted { new_size: 1 },
            ChannelMsg::Success,
        ] {
            let what = format!("{empty:?}");
            assert!(!renews(empty), "{what}");
        }
    }

    #[test]
    fn a_terminal_sends_the_status_in_the_stream() {
        let (heard, end) = seen(&format!("{BEGIN}\r\nout\n\n{END} 5\n"), 4, true);
        assert_eq!((heard.as_str(), end.unwrap().status), ("out\n", 5));
        assert!(matches!(seen(&format!("{BEGIN}\nhalf"), 4, true).1, Err(ExecError::Lost(_))), "cut");
    }
}
