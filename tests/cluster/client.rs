//! Runs ironstrap as an operator does, on the operator's side of the lab's network. Reads its events and its exit code, and
//! can kill it.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::schemas;

/// Node, step and want.
pub type Triple = (String, String, String);

/// A running ironstrap.
pub struct Client {
    child: Child,
    /// The process id of ironstrap itself, not of the command that starts it in the lab's network.
    pid: u32,
    lines: Receiver<Value>,
    stderr: Option<JoinHandle<String>>,
    pub seen: Vec<Value>,
    /// Whether its JSON follows another schema than the one in the repository.
    has_other_schema: bool,
}

/// The exit code of a client and its output.
#[derive(Debug)]
pub struct Ended {
    pub code: Option<i32>,
    pub events: Vec<Value>,
    pub stderr: String,
}

impl Client {
    /// `command` prints the client's process id as its first event and then becomes the client.
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

    /// For an older program: its JSON is not compared with the schema.
    pub fn with_other_schema(mut self) -> Client {
        self.has_other_schema = true;
        self
    }

    /// Waits for an event. Panics when the client ends before, or when the time is up.
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

    /// Reads the events that have arrived, without waiting, and appends them to `seen`.
    pub fn listen(&mut self) {
        while let Ok(event) = self.lines.try_recv() {
            self.seen.push(event);
        }
    }

    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// Like `crate::until`, but panics at once when the client ends before.
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

    /// Sends SIGKILL and waits for the end. The client must still be running.
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

    /// Waits until the client ends.
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
        // The first event comes from the command that starts the client. A line that is not JSON is for people.
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
    /// A failed scenario leaves no client behind that could change the machines of the next one.
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

    /// The wants of a plan whose present state is unknown.
    pub fn unseen(&self) -> BTreeSet<Triple> {
        self.of("drift").filter(|event| event["state"] == "unknown").map(triple).collect()
    }

    /// The causes that a run found for a node's failure.
    pub fn causes(&self, node: &str) -> Vec<&Value> {
        self.of("cause").filter(|event| event["node"] == node).collect()
    }

    /// The last event of every run.
    pub fn done(&self) -> &Value {
        let last = self.events.last().unwrap();
        assert_eq!(last["event"], "done", "a run ends with its result: {self:#?}");
        last
    }

    pub fn changes(&self) -> u64 {
        self.done()["changes"].as_u64().unwrap()
    }

    /// A value of one node's result: `execs`, `changes` or `state`.
    pub fn of_node(&self, node: &str, key: &str) -> Value {
        self.done()["nodes"][node][key].clone()
    }

    /// Node and text of each error, one per line.
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

    /// Checks that it succeeded. The failure shows its output.
    pub fn good(self) -> Ended {
        assert_eq!(self.code, Some(0), "{}{}", self.errors(), self.stderr);
        self
    }

    /// Checks that it ended with this exit code, and that an error of this node contains all these words.
    pub fn refused(self, code: i32, node: &str, words: &[&str]) -> Ended {
        assert_eq!(self.code, Some(code), "{}{}", self.errors(), self.stderr);
        let errors = self.errors();
        let named =
            |line: &str| line.starts_with(&format!("{node}: ")) && words.iter().all(|w| line.contains(w));
        assert!(errors.lines().any(named), "no error of {node} contains {words:?}:\n{errors}");
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
