//! ironstrap as an operator runs it, on the operator's side of the lab's network: what it says as events, how it
//! ends, and an end by SIGKILL.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::schemas;

/// Node, step, and what must be true.
pub type Triple = (String, String, String);

/// A client that runs.
pub struct Client {
    child: Child,
    /// Of ironstrap itself, not of what brought it into the lab's network.
    pid: u32,
    lines: Receiver<Value>,
    stderr: Option<JoinHandle<String>>,
    pub seen: Vec<Value>,
    /// Whether its JSON has another schema than the one in the repository.
    has_other_schema: bool,
}

/// How a client ended and all that it said.
#[derive(Debug)]
pub struct Ended {
    pub code: Option<i32>,
    pub events: Vec<Value>,
    pub stderr: String,
}

impl Client {
    /// `command` prints the client's process id as its first event, and then is the client.
    pub fn start(mut command: Command) -> Client {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let (stdout, mut errors) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let event = serde_json::from_str(&line).unwrap_or(Value::String(line));
                if sender.send(event).is_err() {
                    break;
                }
            }
        });
        let stderr = Some(std::thread::spawn(move || {
            let mut text = String::new();
            let _ = errors.read_to_string(&mut text);
            text
        }));
        let mut client = Client { child, pid: 0, lines, stderr, seen: vec![], has_other_schema: false };
        let first = client.event("it starts", 10, |event| event["event"] == "pid");
        client.pid = first["pid"].as_u64().unwrap().try_into().unwrap();
        client
    }

    /// The client is an older program, so its JSON is not compared with the schema.
    pub fn with_other_schema(mut self) -> Client {
        self.has_other_schema = true;
        self
    }

    /// Waits for an event; panics where the client ends or the time is up before it comes.
    pub fn event(&mut self, what: &str, seconds: u64, is: impl Fn(&Value) -> bool) -> Value {
        let end = Instant::now() + Duration::from_secs(seconds);
        loop {
            match self.lines.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(event) => {
                    self.seen.push(event.clone());
                    if is(&event) {
                        return event;
                    }
                }
                Err(RecvTimeoutError::Timeout) => panic!("waited {seconds} s in vain for: {what}"),
                Err(RecvTimeoutError::Disconnected) => {
                    panic!("the client ended before: {what}; it said {:#?}", self.last())
                }
            }
        }
    }

    /// Takes in what has come, without waiting; the newest first-come events are at the end of `seen`.
    pub fn listen(&mut self) {
        while let Ok(event) = self.lines.try_recv() {
            self.seen.push(event);
        }
    }

    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// As `until`, and panics at once where the client ends before.
    pub fn until<T>(
        &mut self,
        what: &str,
        seconds: u64,
        mut look: impl FnMut(&mut Client) -> Option<T>,
    ) -> T {
        crate::until(what, seconds, || {
            let seen = look(self);
            if seen.is_none() && self.child.try_wait().unwrap().is_some() {
                self.listen();
                panic!("the client ended before {what}; it said {:#?}", self.last());
            }
            seen
        })
    }

    fn last(&self) -> &[Value] {
        &self.seen[self.seen.len().saturating_sub(8)..]
    }

    /// SIGKILL, and waits until it is gone. It must still have been at work.
    pub fn kill(mut self) {
        self.listen();
        assert!(self.child.try_wait().unwrap().is_none(), "it ended by itself: {:#?}", self.last());
        self.signal("KILL");
        self.child.wait().unwrap();
    }

    pub fn signal(&self, signal: &str) {
        let sent = Command::new("kill").args(["-s", signal, &self.pid.to_string()]).status().unwrap();
        assert!(sent.success(), "there is no client to send {signal} to");
    }

    /// Waits for its end.
    pub fn end(mut self, seconds: u64) -> Ended {
        let end = Instant::now() + Duration::from_secs(seconds);
        let status = loop {
            self.listen();
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            if Instant::now() > end {
                self.signal("KILL");
                panic!("the client did not end within {seconds} s; it said {:#?}", self.last());
            }
            std::thread::sleep(Duration::from_millis(20));
        };
        while let Ok(event) = self.lines.recv() {
            self.seen.push(event);
        }
        // The first one is of what brought it into the lab's network; a line that is no JSON is for people.
        let documents = self.seen.iter().filter(|seen| seen.is_object() && seen["event"] != "pid");
        for document in documents.filter(|_| !self.has_other_schema) {
            let schema = if document["event"].is_string() { "events" } else { "status" };
            schemas::assert_valid(schema, document);
        }
        let stderr = self.stderr.take().unwrap().join().unwrap();
        Ended { code: status.code(), events: std::mem::take(&mut self.seen), stderr }
    }
}

impl Drop for Client {
    /// A scenario that fails leaves no client at work on the machines of the next one.
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            self.signal("KILL");
        }
    }
}

impl Ended {
    fn of(&self, kind: &str) -> impl Iterator<Item = &Value> {
        self.events.iter().filter(move |event| event["event"] == kind)
    }

    pub fn triples(&self, kind: &str) -> BTreeSet<Triple> {
        self.of(kind).map(triple).collect()
    }

    /// What of a plan nobody could see, so that nobody knows whether it is right.
    pub fn unseen(&self) -> BTreeSet<Triple> {
        self.of("drift").filter(|event| event["state"] == "unknown").map(triple).collect()
    }

    /// The causes that were named for a node's failure.
    pub fn causes(&self, node: &str) -> Vec<&Value> {
        self.of("cause").filter(|event| event["node"] == node).collect()
    }

    /// The last event, which every run ends with.
    pub fn done(&self) -> &Value {
        let last = self.events.last().unwrap();
        assert_eq!(last["event"], "done", "a run ends by saying what it came to: {self:#?}");
        last
    }

    pub fn changes(&self) -> u64 {
        self.done()["changes"].as_u64().unwrap()
    }

    /// Of one node: `execs`, `changes`, `state`.
    pub fn of_node(&self, node: &str, key: &str) -> Value {
        self.done()["nodes"][node][key].clone()
    }

    /// Node and text of all errors, a line each.
    pub fn errors(&self) -> String {
        let line = |e: &Value| {
            let cause: Vec<&str> = e["cause"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
            format!(
                "{}: {}: {}\n",
                e["node"].as_str().unwrap_or("-"),
                e["what"].as_str().unwrap(),
                cause.join("; ")
            )
        };
        self.of("error").map(line).collect()
    }

    /// Fails, with all that was said, unless it ended well.
    pub fn good(self) -> Ended {
        assert_eq!(self.code, Some(0), "{}{}", self.errors(), self.stderr);
        self
    }

    /// Fails unless it ended with this exit code, and this node's error has all these words.
    pub fn refused(self, code: i32, node: &str, words: &[&str]) -> Ended {
        assert_eq!(self.code, Some(code), "{}{}", self.errors(), self.stderr);
        let errors = self.errors();
        let named =
            |line: &str| line.starts_with(&format!("{node}: ")) && words.iter().all(|w| line.contains(w));
        assert!(errors.lines().any(named), "no error of {node} speaks of {words:?}:\n{errors}");
        self
    }
}

fn triple(event: &Value) -> Triple {
    let word = |key: &str| event[key].as_str().unwrap().to_string();
    (word("node"), word("step"), key(event))
}

/// The want that an event is about, as `step::Id` is shown.
pub fn key(event: &Value) -> String {
    let id = event["id"].as_str().unwrap();
    event["subject"].as_str().map_or(id.into(), |subject| format!("{id}[{subject}]"))
}
