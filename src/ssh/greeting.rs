//! Records what a port answers before it identifies itself as an SSH server. It may be a web server, a mail server or
//! anything else. ironstrap keeps only the beginning of the answer, and uses it only to inform the operator.

use std::io::Result;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::dial::Duplex;
use crate::secret::{beginning, clean};

/// How many bytes of an answer to keep, and how many characters of its first line to show.
const KEPT: usize = 1024;
const LONGEST: usize = 120;

/// The answers of sshd in place of its greeting when it turns a client away (sshd.c, "MaxStartups" and
/// "PerSourcePenalties").
const TURNED_AWAY: [&str; 2] = ["Exceeded MaxStartups", "Not allowed at this time"];

/// The beginning of a server's answer.
#[derive(Clone, Default)]
pub(super) struct NodeLogs(Arc<Mutex<Vec<u8>>>);

impl NodeLogs {
    /// Returns a stream that records its beginning here, in place of an earlier record.
    pub fn listen(&self, stream: Box<dyn Duplex>) -> Box<dyn Duplex> {
        self.bytes().clear();
        Box::new(Listening { stream, heard: self.clone(), listens: true })
    }

    /// Returns the first line of a server that does not speak SSH.
    pub fn stranger(&self) -> Option<String> {
        self.first_line().filter(|line| !TURNED_AWAY.contains(&line.as_str()))
    }

    /// Returns the first line of an answer that is not SSH, if there is one.
    pub fn first_line(&self) -> Option<String> {
        let bytes = self.bytes().clone();
        let text = String::from_utf8_lossy(&bytes);
        if text.lines().any(|line| line.starts_with("SSH-")) {
            return None;
        }
        let first = text.lines().map(str::trim).find(|line| !line.is_empty())?;
        Some(beginning(&clean(first), LONGEST))
    }

    fn bytes(&self) -> std::sync::MutexGuard<'_, Vec<u8>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Listening {
    stream: Box<dyn Duplex>,
    heard: NodeLogs,
    listens: bool,
}

impl AsyncRead for Listening {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buf);
        if self.listens {
            let mut bytes = self.heard.bytes();
            let room = KEPT.saturating_sub(bytes.len());
            bytes.extend(buf.filled()[before..].iter().take(room));
            let is_over = bytes.len() >= KEPT || bytes.windows(4).any(|name| name == b"SSH-");
            drop(bytes);
            self.listens = !is_over;
        }
        polled
    }
}

impl AsyncWrite for Listening {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(bytes: &[u8]) -> NodeLogs {
        let heard = NodeLogs::default();
        heard.bytes().extend(bytes);
        heard
    }

    #[test]
    fn only_a_server_without_ssh_is_another_service() {
        for (bytes, line) in [
            (&b"HTTP/1.1 400 Bad Request\r\nServer: x\r\n\r\n"[..], Some("HTTP/1.1 400 Bad Request")),
            (b"\r\n220 mail.example ESMTP\r\n", Some("220 mail.example ESMTP")),
            (b"\x15\x03\x01\x00\x02\x02\x16", Some(r"\u{15}\u{3}\u{1}\u{0}\u{2}\u{2}\u{16}")),
            (b"SSH-2.0-OpenSSH_10.0\r\n", None),
            (b"welcome\r\nSSH-2.0-x\r\n", None),
            (b"Exceeded MaxStartups\r\n", None),
            (b"Not allowed at this time\r\n", None),
            (b"\r\n", None),
            (b"", None),
        ] {
            assert_eq!(heard(bytes).stranger().as_deref(), line, "{bytes:?}");
        }
        assert_eq!(heard(&[b'a'; 500]).stranger().map(|line| line.len()), Some(LONGEST));
        // The cut goes through the middle of a secret.
        let long = "cut-in-two-4711-of-a-greeting";
        crate::secret::learn(long);
        let line = heard(format!("{}{long}", "a".repeat(LONGEST - 8)).as_bytes()).stranger().unwrap();
        assert!(!line.contains("cut-in"), "{line}");
        assert_eq!(heard(b"Exceeded MaxStartups\r\n").first_line().as_deref(), Some("Exceeded MaxStartups"));
    }
}
