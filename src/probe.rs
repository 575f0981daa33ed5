//! Puts all questions to a machine into one script, and reads all answers from one reply. Many asks are about files,
//! units, packages or objects: for each kind of question, one process serves all asks. Wants with the same question
//! share one answer. `plan` decides what the answers mean.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::machine::{self, Machine};
use crate::shell::{PRELUDE, Sh, sh};
use crate::step::{ABSENT, Answer, Ask, NOT_HERE, Object};

mod early;
mod kubeconfigs;
mod objects;
mod tables;

mod sizes;
mod watch;

pub use sizes::most;
pub use watch::{Late, Limits, late};

/// The result of one question of the script: its output, its messages on stderr, and its exit status.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Reply {
    pub status: i32,
    pub stdout: Vec<u8>,
    pub stderr: String,
}

impl Reply {
    /// Replaces each invalid byte of the output by a sign.
    fn readable(self) -> Reply {
        Reply { stdout: String::from_utf8_lossy(&self.stdout).into_owned().into_bytes(), ..self }
    }

    /// Turns this into an answer. It is valid if the exit status is 0 and stderr is empty.
    fn answer(self) -> Answer {
        let Reply { status, stdout, stderr } = self;
        if status == watch::LATE || status == sizes::TOO_LARGE {
            return Answer::Unknown(stderr);
        }
        // A program that fails with such a status says something, too.
        match status {
            ABSENT if stdout.is_empty() && stderr.is_empty() => return Answer::Absent,
            NOT_HERE if stdout.is_empty() && stderr.is_empty() => return Answer::NotHere,
            _ => {}
        }
        if status != 0 || !stderr.is_empty() {
            return Answer::Unknown(sizes::short(&format!("exit {status}: {stderr}")));
        }
        match String::from_utf8(stdout) {
            Ok(text) => Answer::Said(text),
            Err(_) => Answer::Unknown("the answer is not UTF-8 text".into()),
        }
    }
}

/// Makes one script that puts every ask to a machine. `boundary` must not occur in any answer, so make it random.
/// `etcd_dir`: the data directory of etcd in the inventory. Its content shows that a machine is a control plane.
pub fn script(asks: &[&Ask], boundary: &str, etcd_dir: &str) -> Sh {
    script_within(asks, boundary, etcd_dir, &Limits::default())
}

/// Makes the same script as `script`, with other time limits for the questions.
pub fn script_within(asks: &[&Ask], boundary: &str, etcd_dir: &str, limits: &Limits) -> Sh {
    let mut questions: Vec<Ask> = machine::questions(etcd_dir).map(Ask::Shell).into();
    questions.extend(tables::questions(asks).map(Ask::Shell));
    questions.push(Ask::Shell(objects::question(asks, etcd_dir)));
    questions.extend(shells(asks).into_iter().cloned());
    questions.push(Ask::Shell(Sh::raw("date +%s.%N")));
    let mut text = sh!("{\nset +e\n{PRELUDE}cd / || exit\nexec 3>&1\n{NEWCOMER}", PRELUDE, NEWCOMER);
    text += watch::WATCH;
    text += "{\n";
    text += watch::BEGIN;
    text += early::begin(&questions);
    for (number, asked) in questions.iter().enumerate() {
        text += watch::begins(number);
        text += match asked {
            _ if early::early(asked).is_some() => early::answer(number),
            Ask::OnlyBeforeJoin(body) => {
                let question = question(body);
                sh!("if [ -n \"$newcomer\" ]; then {question}else e= r={NOT_HERE}; fi\n", question, NOT_HERE)
            }
            Ask::Shell(body) | Ask::Api { shell: body, .. } => question(body),
            _ => Sh::EMPTY,
        };
        text += sh!(
            "printf '\\n%s {number} %s\\n%s\\n%s\\n' {boundary} $r \"$e\" {boundary}\n",
            number,
            boundary
        );
    }
    text += early::END;
    // In braces, the shell parses the whole script before it runs any of it.
    text + watch::end(boundary, limits) + "} </dev/null\n"
}

/// Sets `$newcomer` if the machine has not begun to join a cluster. This starts no process.
const NEWCOMER: Sh = Sh::raw("newcomer=yes
for f in /etc/kubernetes/kubelet.conf /etc/kubernetes/bootstrap-kubelet.conf /var/lib/kubelet/pki/kubelet-client-current.pem; do
  [ ! -e $f ] || newcomer=
done
if [ -e /var/lib/ironstrap/kubeadm-receipt ] && [ -e /etc/kubernetes/pki/ca.crt ]; then newcomer=; fi
");

/// Runs a question in a subshell of its own: `set -e` holds inside, and `exit` ends only this question. `( … ) || …`
/// would switch `set -e` off for all of it.
fn question(body: &Sh) -> Sh {
    sh!("e=$( ( set -eu\n{body}\n) 2>&1 >&3 3>&- 7>&- ); r=$?\n", body)
}

/// Returns the asks that are shell, each once.
fn shells<'a>(asks: &[&'a Ask]) -> Vec<&'a Ask> {
    let mut shells: Vec<&Ask> = Vec::new();
    for ask in asks.iter().filter(|ask| ask.shell().is_some()) {
        if !shells.contains(ask) {
            shells.push(ask);
        }
    }
    shells
}

/// Whether one of the asks is about the cluster, and not about the machine alone.
fn asks_the_api(asks: &[&Ask]) -> bool {
    asks.iter().any(|ask| matches!(ask, Ask::Objects(_) | Ask::Nodes | Ask::Listed | Ask::Administrator))
}

/// The error of `answers` begins with these words if the reply breaks off.
pub const BREAKS_OFF: &str = "the reply is cut off";

/// Splits a reply into the facts of the machine and one answer per ask. The error says what is wrong with the reply as a
/// whole.
pub fn answers(reply: &[u8], asks: &[&Ask], boundary: &str) -> Result<(Machine, Vec<Answer>), String> {
    let (reply, marks) = watch::marks(reply, boundary);
    let mut replies = split(&reply, boundary, sizes::count(asks))?;
    sizes::bounded(&mut replies, asks, || watch::names(asks));
    watch::unanswered(&mut replies, &marks, asks);
    let mut replies = replies.into_iter();
    let mut next = || replies.next().ok_or("the reply has fewer answers than questions");
    let mut head = Vec::new();
    for name in machine::HEAD {
        let answer = next()?.answer();
        head.push(answer.text().map_err(|why| format!("cannot read its {name}: {why}"))?.to_string());
    }
    let mut machine = Machine::read(&head[0], &head[1], &head[2])?;
    let tables = tables::Tables::read([next()?, next()?, next()?, next()?, next()?, next()?], asks);
    let reply = next()?;
    let refused = objects::refuses_the_administrator(&reply);
    let objects = objects::read(reply, asks);
    let mut said = Vec::new();
    for ask in shells(asks) {
        let reply = next()?;
        // Many parties contribute to a large answer. Invalid bytes of one do not spoil the parts of the others.
        said.push((ask, if ask.grows() { reply.readable().answer() } else { reply.answer() }));
    }
    let mut answers = Vec::new();
    for ask in asks {
        answers.push(match ask {
            Ask::Facts => Answer::Said(String::new()),
            Ask::Shell(_) | Ask::OnlyBeforeJoin(_) | Ask::Api { .. } => {
                let same = said.iter().find(|(said, _)| said == ask);
                same.map(|(_, answer)| answer.clone()).ok_or("a question was not asked")?
            }
            Ask::Objects(wanted) => match &objects {
                Ok(found) => Answer::Objects(objects::of(wanted, found)),
                Err(why) => Answer::Unknown(why.clone()),
            },
            Ask::Nodes => match &objects {
                Ok(found) => Answer::Said(objects::nodes(found)),
                Err(why) => Answer::Unknown(why.clone()),
            },
            Ask::Listed => match &objects {
                Ok(Found { listed: Some(listed), .. }) => Answer::Said(listed.clone()),
                Ok(_) => Answer::Unknown("kubectl: the list after the nodes is missing".into()),
                Err(why) => Answer::Unknown(why.clone()),
            },
            Ask::Administrator => match &objects {
                _ if refused => Answer::Said("may not".into()),
                Ok(_) => Answer::Said("may".into()),
                Err(why) => Answer::Unknown(why.clone()),
            },
            other => match tables.answer(other) {
                Answer::Unknown(why) => Answer::Unknown(sizes::short(&why)),
                said => said,
            },
        });
    }
    let ended = String::from_utf8(next()?.stdout).ok().and_then(|clock| machine::finite(clock.trim()));
    machine.took = ended.ok_or("the reply has no end")? - machine.clock;
    match replies.next() {
        None => Ok((machine, answers)),
        Some(_) => Err("the reply has more answers than questions".into()),
    }
}

/// Splits a reply into `OUTPUT \n BOUNDARY NUMBER STATUS \n STDERR \n BOUNDARY \n` blocks, but into no more than `most`.
/// NUMBER is that of the question. Fails if an answer is missing or comes twice, so that no question gets the answer to another.
fn split(reply: &[u8], boundary: &str, most: usize) -> Result<Vec<Reply>, String> {
    let (open, close) = (format!("\n{boundary} ").into_bytes(), format!("\n{boundary}\n").into_bytes());
    let (mut rest, mut replies) = (reply, Vec::new());
    while let Some(at) = find(rest, &open) {
        if replies.len() == most {
            return Err("the reply has more answers than questions".into());
        }
        let (stdout, tail) = (&rest[..at], &rest[at + open.len()..]);
        let end = find(tail, &close).ok_or(BREAKS_OFF)?;
        let status = String::from_utf8_lossy(&tail[..end]);
        let (head, stderr) = status.split_once('\n').ok_or("a garbled answer")?;
        let numbers = head
            .split_once(' ')
            .and_then(|(number, status)| Some((number.parse().ok()?, status.parse().ok()?)));
        let (number, status): (usize, i32) =
            numbers.ok_or_else(|| format!("a garbled exit status: {head}"))?;
        if number != replies.len() {
            return Err(format!(
                "question {} has no answer: next comes the answer to question {number}",
                replies.len()
            ));
        }
        replies.push(Reply { status, stdout: stdout.to_vec(), stderr: stderr.trim().to_string() });
        rest = &tail[end + close.len()..];
    }
    match rest.is_empty() {
        true => Ok(replies),
        false => Err(format!("{BREAKS_OFF} after {} answers", replies.len())),
    }
}

/// Finds the first line that begins like `line`, which includes the line break before it. It visits each line once.
fn find(text: &[u8], line: &[u8]) -> Option<usize> {
    let mut from = 0;
    while let Some(at) = text[from..].iter().position(|byte| *byte == b'\n') {
        if text[from + at..].starts_with(line) {
            return Some(from + at);
        }
        from += at + 1;
    }
    None
}

/// The answers of a machine's API server about the cluster.
#[derive(Default)]
pub(crate) struct Found {
    /// Each object as JSON.
    objects: BTreeMap<Object, Arc<str>>,
    /// The name of each Node, with its pod ranges.
    nodes: Vec<String>,
    /// The lines of the other kinds in the list, after the Nodes.
    listed: Option<String>,
    /// ironstrap's note on each Node, as JSON.
    notes: BTreeMap<String, Arc<str>>,
}

/// Makes a word that no answer contains: 16 random bytes in hex. It fails if the system has no randomness.
pub fn boundary() -> Result<String, String> {
    let mut bytes = [0; 16];
    std::fs::File::open("/dev/urandom")
        .and_then(|mut random| std::io::Read::read_exact(&mut random, &mut bytes))
        .map_err(|e| e.to_string())?;
    Ok(bytes.iter().fold(String::from("--"), |text, byte| text + &format!("{byte:02x}")))
}

#[cfg(test)]
mod tests;
