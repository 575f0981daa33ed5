//! What a step is: a list of wants, and a want is a question, the right answer and a remedy. No step knows
//! whether it is being planned, applied or looked at.

use std::sync::Arc;

use serde_json::Value;
use time::OffsetDateTime;

use crate::cluster::{Cluster, Node};
use crate::error::Result;
use crate::fleet::{Blocked, Fleet};
use crate::machine::Machine;
use crate::manifest::Whose;
use crate::pki::{Credential, Trust};
use crate::shell::{Sh, sh};

mod ask;
mod confirm;
mod id;
mod mode;
mod object;
pub mod rollout;
mod undo;

pub use ask::Ask;
pub use confirm::Confirmation;
pub use id::Id;
pub use mode::narrowed;
pub use object::{Object, leaving, trim};
pub use undo::{Back, Edit, Undo, WITH_THE_CLUSTER, WITH_THE_MEMBER};

/// One provisioning step. `steps::STAGES` lists them all, in order.
pub struct Step {
    pub name: &'static str,
    /// Why a cluster needs this. One sentence; `plan` prints it.
    pub why: &'static str,
    /// Fails only where a template cannot be rendered.
    pub wants: fn(&Cx) -> Result<Vec<Want>>,
}

/// All a step may look at.
///
/// **Asks depend on `cluster` and `node` alone**: they are sent before anything else is known. What is right
/// and how to get there may depend on the rest too.
pub struct Cx<'a> {
    pub cluster: &'a Cluster,
    pub node: &'a Node,
    pub trust: &'a Trust,
    pub now: OffsetDateTime,
    /// What this machine said of itself; empty while the asks are being written.
    pub machine: &'a Machine,
    /// What all machines together say; likewise. Where a stage is a machine's own, only `Fleet::own` of it.
    pub fleet: &'a Fleet,
}

/// Makes the shell of a fix of an answer.
pub type FixFor = Arc<dyn Fn(&str) -> Sh + Send + Sync>;

/// One thing that must be true of one node.
#[derive(Clone)]
pub struct Want {
    pub id: Id,
    /// Said so that it reads true once it holds: "no swap is active".
    pub that: String,
    pub ask: Ask,
    pub expect: Expect,
    pub fix: Fix,
    /// What makes the fix of the answer, where it depends on that.
    pub fix_for: Option<FixFor>,
    /// The runner signs it when it sends the fix. There the shell function `credential` prints it as a kubeconfig.
    pub credential: Option<Credential>,
    /// What a reset does about the fix.
    pub undo: Undo,
    /// The fix interrupts what runs on a member of the cluster.
    pub disrupts: bool,
    /// Others bring it about, and it may come and go before it stays: its fix waits for it.
    pub settles: bool,
    /// The nodes that something of the whole cluster is about; none: about the cluster itself.
    pub about: Vec<String>,
    /// The fix changes the machines of those nodes, too: they are asked again.
    pub reaches: bool,
    /// Files that the fix changes.
    pub touches: Vec<String>,
    /// Files whose change calls for the fix, so that a plan foresees it.
    pub reads: Vec<String>,
    /// A file that this writes may have a mode with less in it, and keeps that.
    pub at_most: bool,
}

/// What the answer must be.
#[derive(Clone)]
pub enum Expect {
    /// Exactly this, give or take the last line break.
    Is(String),
    /// What this makes of the present text; for files that we share with others.
    Edited(Edit),
    /// Whatever this finds right.
    Judged(Arc<dyn Fn(&str) -> Verdict + Send + Sync>),
}

/// What was made of an answer.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    Holds,
    /// It does not hold; what is there and what should be, as text to compare.
    Differs {
        have: String,
        want: String,
    },
    /// It does not hold, and others must do something first; this says what.
    Waits {
        have: String,
        want: String,
        for_what: Blocked,
    },
    /// It does not hold, and the fix replaces what a human wrote: it runs only after this confirmation.
    Unconfirmed {
        have: String,
        want: String,
        confirmation: &'static Confirmation,
    },
    /// ironstrap does not judge it. It reports this text as a note and changes nothing.
    Noted(String),
    /// The answer does not tell whether it holds, and this says why.
    Unknown(String),
    /// Nobody could be asked, and this says why. There is nothing to change, and nothing to call right.
    Unchecked(String),
}

/// How to get from the present state to the wanted one.
#[derive(Clone, Debug, PartialEq)]
pub enum Fix {
    /// Shell, run as root under `set -eu`. Changes of one stage that share their text share one run of it.
    Run(Sh),
    /// The same, for what takes long: a transient unit `ironstrap-NAME` that outlives the connection and is
    /// ended after `minutes`.
    Unit { name: &'static str, minutes: u32, script: Sh },
    /// Put a text in this file, atomically: this one, or what the edit made of the present one. Without a mode
    /// the file keeps its own.
    Write { path: String, mode: Option<u32>, text: Option<String> },
    /// None of its own: earlier wants make it true, and this want checks that they did.
    Above,
    /// Only a human can; this says how.
    ByHand(String),
}

impl Want {
    /// `id`: as `Id::name`. `that`: as the field.
    pub fn new(id: &'static str, that: impl Into<String>) -> Self {
        Want {
            id: Id { name: id, subject: String::new() },
            that: that.into(),
            ask: Ask::Shell(Sh::EMPTY),
            expect: Expect::Is(String::new()),
            fix: Fix::Above,
            fix_for: None,
            credential: None,
            undo: Undo::Nothing(""),
            disrupts: false,
            settles: false,
            about: vec![],
            reaches: false,
            touches: vec![],
            reads: vec![],
            at_most: false,
        }
    }

    /// Sets what the want is about, where several wants of one machine have the same name. See `Id::subject`.
    pub fn of(mut self, subject: impl Into<String>) -> Self {
        self.id.subject = subject.into();
        self
    }

    pub fn asks(mut self, ask: Ask) -> Self {
        self.ask = ask;
        self
    }

    pub fn ask(self, shell: impl Into<Sh>) -> Self {
        self.asks(Ask::Shell(shell.into()))
    }

    pub fn is(mut self, answer: impl Into<String>) -> Self {
        self.expect = Expect::Is(answer.into());
        self
    }

    pub fn judged(mut self, judge: impl Fn(&str) -> Verdict + Send + Sync + 'static) -> Self {
        self.expect = Expect::Judged(Arc::new(judge));
        self
    }

    /// Holds where `test` says so; `what` tells people what would pass.
    pub fn passes(
        self,
        what: impl Into<String>,
        test: impl Fn(&str) -> bool + Send + Sync + 'static,
    ) -> Self {
        let what = what.into();
        self.judged(move |have| match test(have) {
            true => Verdict::Holds,
            false => Verdict::Differs { have: have.into(), want: what.clone() },
        })
    }

    pub fn run(mut self, shell: impl Into<Sh>) -> Self {
        self.fix = Fix::Run(shell.into());
        self
    }

    /// As `run`, with shell that is made of the answer.
    pub fn run_for(self, shell: impl Fn(&str) -> Sh + Send + Sync + 'static) -> Self {
        Want { fix: Fix::Run(shell("")), fix_for: Some(Arc::new(shell)), ..self }
    }

    pub fn run_as_unit(mut self, name: &'static str, minutes: u32, shell: impl Into<Sh>) -> Self {
        self.fix = Fix::Unit { name, minutes, script: shell.into() };
        self
    }

    pub fn with(self, credential: Credential) -> Self {
        Want { credential: Some(credential), ..self }
    }

    pub fn by_hand(mut self, hint: impl Into<String>) -> Self {
        self.fix = Fix::ByHand(hint.into());
        self
    }

    /// A reset takes nothing back, and this says why.
    pub fn nothing_to_undo(mut self, why: &'static str) -> Self {
        self.undo = Undo::Nothing(why);
        self
    }

    pub fn undone_by(mut self, undo: Undo) -> Self {
        self.undo = undo;
        self
    }

    pub fn disrupts(mut self) -> Self {
        self.disrupts = true;
        self
    }

    pub fn settles(mut self) -> Self {
        self.settles = true;
        self
    }

    pub fn about(mut self, nodes: impl IntoIterator<Item = String>) -> Self {
        self.about = nodes.into_iter().collect();
        self
    }

    pub fn reaches(mut self) -> Self {
        self.reaches = true;
        self
    }

    pub fn touches(mut self, files: &[&str]) -> Self {
        self.touches = files.iter().map(|path| path.to_string()).collect();
        self
    }

    pub fn reads(mut self, files: &[&str]) -> Self {
        self.reads = files.iter().map(|path| path.to_string()).collect();
        self
    }

    /// Only where this is so; elsewhere nothing is wanted, and the question is still asked.
    pub fn only(self, where_this: bool) -> Self {
        if where_this { self } else { self.judged(|_| Verdict::Holds) }
    }

    /// A file we own: these bytes, this mode, root's.
    pub fn file(id: &'static str, that: impl Into<String>, path: &str, mode: u32, text: &str) -> Self {
        Want {
            fix: Fix::Write { path: path.into(), mode: Some(mode), text: Some(text.into()) },
            touches: vec![path.into()],
            undo: Undo::File(path.into()),
            ..Want::new(id, that).asks(Ask::File(path.into())).is(format!("mode {mode:o} root:root\n{text}"))
        }
    }

    /// Only root reads this file, so a narrower mode is right, too: a hardening guide may have asked for it.
    pub fn at_most(mut self) -> Self {
        self.at_most = true;
        self
    }

    /// A file we own whose text is nobody's business.
    pub fn secret_file(id: &'static str, that: impl Into<String>, path: &str, mode: u32, text: &str) -> Self {
        Want {
            fix: Fix::Write { path: path.into(), mode: Some(mode), text: Some(text.into()) },
            touches: vec![path.into()],
            undo: Undo::File(path.into()),
            ..Want::new(id, that)
                .asks(Ask::Hash(path.into()))
                .is(format!("mode {mode:o} root:root\nsha256 {}", sha256(text.as_bytes())))
        }
    }

    /// A file we share: this edit of whatever is there; of an empty text where there is no file. `back` takes
    /// out again what the edit put in, and leaves what others wrote.
    pub fn edit(
        id: &'static str,
        that: impl Into<String>,
        path: &str,
        edit: impl Fn(&str) -> String + Send + Sync + 'static,
        back: impl Fn(&str) -> String + Send + Sync + 'static,
    ) -> Self {
        Want {
            expect: Expect::Edited(Arc::new(edit)),
            fix: Fix::Write { path: path.into(), mode: None, text: None },
            touches: vec![path.into()],
            undo: Undo::Edit { path: path.into(), back: Arc::new(back) },
            ..Want::new(id, that).asks(Ask::File(path.into()))
        }
    }

    /// A file that must not be there.
    pub fn no_file(id: &'static str, that: impl Into<String>, path: &str) -> Self {
        let want =
            Want::new(id, that).asks(Ask::Hash(path.into())).is("absent").run(sh!("rm -f {path}", path));
        want.touches(&[path]).undone_by(Undo::File(path.into()))
    }

    /// An object of the cluster is as its manifest says; `fix` makes it so.
    pub fn object(id: &'static str, manifest: &Value, whose: Whose, fix: &Sh) -> Self {
        let object = Object::of(manifest);
        let manifest = manifest.clone();
        Want::new(id, format!("{object} matches its manifest"))
            .of(object.to_string())
            .asks(Ask::Objects(vec![object]))
            .judged(move |answer| object::judge(&manifest, answer, whose))
            .run(fix)
            .nothing_to_undo(WITH_THE_CLUSTER)
    }

    /// The unit runs, starts at boot, and started after each of `reads` last changed.
    ///
    /// Asked as state, so that a restart lost to a dropped connection is still owed at the next run.
    pub fn unit_runs(id: &'static str, unit: &str, reads: &[&str]) -> Self {
        let files = Sh::words(reads);
        let want = Want::new(id, format!("{unit} runs its current config")).reads(reads);
        let reads = want.reads.clone();
        want.asks(Ask::Unit { unit: format!("{unit}.service"), reads })
            .is("enabled active current")
            .run(sh!(
                "systemctl unmask -q {unit}\nsystemctl daemon-reload\nsystemctl enable -q {unit}\n\
                 fresh {unit} {files} || systemctl restart {unit}\nsteady {unit}",
                unit,
                files
            ))
            .undone_by(Undo::Back(Back::unit(unit)))
            .disrupts()
    }
}

/// Lower-case hex of SHA-256.
pub fn sha256(bytes: &[u8]) -> String {
    use sha2::Digest;
    sha2::Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}
