//! The parts of a step. A step is a list of wants. A want is a question, the right answer and a fix. No step knows whether
//! ironstrap plans, applies or shows the status.

use std::sync::Arc;

use serde_json::Value;
use time::OffsetDateTime;

use crate::cluster::{Cluster, Node};
use crate::error::Result;
use crate::fleet::Fleet;
use crate::machine::Machine;
use crate::manifest::Whose;
use crate::pki::{ClusterPki, Credential};
use crate::shell::{Sh, sh};

mod answer;
mod ask;
mod confirm;
mod expect;
mod id;
mod mode;
mod object;
pub mod rollout;
mod undo;

pub use answer::{ABSENT, Answer, NOT_HERE};
pub use ask::Ask;
pub use confirm::Confirmation;
pub use expect::{Expect, Verdict};
pub use id::Id;
pub use mode::narrowed;
pub use object::{Object, leaving, trim};
pub use undo::{Back, Edit, Undo, WITH_THE_CLUSTER, WITH_THE_MEMBER};

/// One provisioning step. `steps::STAGES` lists them in order. A reset adds a few of its own (`operations::reset`).
pub struct Step {
    pub name: &'static str,
    /// Why a cluster needs this, in one sentence. `plan` prints it.
    pub why: &'static str,
    /// Makes the wants for one node. It fails only if the text of a file cannot be made, such as that of a template.
    pub wants: fn(&Cx) -> Result<Vec<Want>>,
}

/// The data that a step may use.
///
/// **Asks depend on `cluster` and `node` alone**, because they are sent before anything else is known. The right answer and
/// the fix may depend on the rest, too.
pub struct Cx<'a> {
    pub cluster: &'a Cluster,
    pub node: &'a Node,
    pub pki: &'a ClusterPki,
    pub now: OffsetDateTime,
    /// The facts that this machine told about itself. They are empty while the asks are being written.
    pub machine: &'a Machine,
    /// The facts that all machines together tell. They are empty while the asks are being written. In a stage of each
    /// machine's own, they are only `Fleet::own` of this machine.
    pub fleet: &'a Fleet,
}

/// Makes the shell of a fix from the answer.
pub type FixFor = Arc<dyn Fn(&Answer) -> Sh + Send + Sync>;

/// One thing that must be true of a machine or of the cluster.
#[derive(Clone)]
pub struct Want {
    pub id: Id,
    /// A sentence that is true once the want holds: "swap is off".
    pub that: String,
    pub ask: Ask,
    pub expect: Expect,
    pub fix: Fix,
    /// Makes the fix from the answer, if the fix depends on it.
    pub fix_for: Option<FixFor>,
    /// The credential that the fix needs. The reconciler signs it when it sends the fix. The shell function `credential`
    /// prints it as a kubeconfig in the fix.
    pub credential: Option<Credential>,
    /// How a reset takes back the fix.
    pub undo: Undo,
    /// The fix interrupts what runs on a member of the cluster.
    pub disrupts: bool,
    /// Others make it true, and it may come and go before it stays. So the fix waits for it.
    pub eventually: bool,
    /// The nodes that a want of the whole cluster is about. Empty: it is about the cluster itself.
    pub about: Vec<String>,
    /// The fix changes the machines of those nodes, too, so ironstrap asks them again.
    pub invalidates: bool,
    /// Files that the fix changes.
    pub touches: Vec<String>,
    /// Files whose change requires the fix, so that a plan foresees it.
    pub reads: Vec<String>,
    /// The file that the fix writes may have a mode with fewer rights, and keeps that mode.
    pub allow_narrower_mode: bool,
    /// How the nodes at fault are found, if the fix fails.
    pub blame: Blame,
}

/// Which lines of a failed fix say what nodes are at fault.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Blame {
    /// No lines: the machine of the fix itself is at fault.
    #[default]
    Nobody,
    /// Nodes on which a program does not roll out. `rollout::faults` reads the lines.
    Rollout,
    /// Nodes whose pods do not answer. `packets::made::faults` reads the lines.
    Packets,
}

/// How to get from the present state to the wanted one.
#[derive(Clone, Debug, PartialEq)]
pub enum Fix {
    /// Shell, run as root under `set -eu`. Changes of one stage with the same text share one run of it.
    Run(Sh),
    /// As `Run`, for work that takes long. It runs as a transient unit `ironstrap-NAME`, which outlives the connection and
    /// is ended after `minutes`.
    Unit { name: &'static str, minutes: u32, script: Sh },
    /// Writes a text to this file, atomically: `text`, or what the edit made of the present one. Without a mode, the file
    /// keeps its own.
    Write { path: String, mode: Option<u32>, text: Option<String> },
    /// No fix of its own: earlier wants make it true, and this want checks that they did.
    FromPrevious,
    /// Only a human can fix it. This text says how.
    ByHand(String),
}

impl Want {
    /// A want with this `id` (as `Id::name`) and this sentence `that`, and without an ask and a fix of its own.
    pub fn new(id: &'static str, that: impl Into<String>) -> Self {
        Want {
            id: Id { name: id, subject: String::new() },
            that: that.into(),
            ask: Ask::Shell(Sh::EMPTY),
            expect: Expect::Is(String::new()),
            fix: Fix::FromPrevious,
            fix_for: None,
            credential: None,
            undo: Undo::Nothing(""),
            disrupts: false,
            eventually: false,
            about: vec![],
            invalidates: false,
            touches: vec![],
            reads: vec![],
            allow_narrower_mode: false,
            blame: Blame::Nobody,
        }
    }

    /// Sets what the want is about, where several wants of one machine have the same name. See `Id::subject`.
    pub fn of(mut self, subject: impl Into<String>) -> Self {
        self.id.subject = subject.into();
        self
    }

    /// Sets the question. Shell alone is an `Ask::Shell`.
    pub fn ask(mut self, ask: impl Into<Ask>) -> Self {
        self.ask = ask.into();
        self
    }

    pub fn run(mut self, shell: impl Into<Sh>) -> Self {
        self.fix = Fix::Run(shell.into());
        self
    }

    /// As `run`, with shell that is made from the answer.
    pub fn run_for(self, shell: impl Fn(&str) -> Sh + Send + Sync + 'static) -> Self {
        // A plan needs no answer to know that there is a fix. The script itself comes from `fix_for`.
        let fix = Fix::Run(shell(""));
        let fix_for: FixFor = Arc::new(move |answer| shell(answer.text().unwrap_or_default()));
        Want { fix, fix_for: Some(fix_for), ..self }
    }

    /// As `run_for`, with shell that is made from the objects of the answer.
    pub fn run_for_objects(self, shell: impl Fn(&[Option<Value>]) -> Sh + Send + Sync + 'static) -> Self {
        let fix = Fix::Run(shell(&[]));
        let fix_for: FixFor = Arc::new(move |answer| shell(&answer.objects().unwrap_or_default()));
        Want { fix, fix_for: Some(fix_for), ..self }
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

    /// A reset takes nothing back. `why` gives the reason.
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

    pub fn blame(self, blame: Blame) -> Self {
        Want { blame, ..self }
    }

    pub fn eventually(mut self) -> Self {
        self.eventually = true;
        self
    }

    pub fn about(mut self, nodes: impl IntoIterator<Item = String>) -> Self {
        self.about = nodes.into_iter().collect();
        self
    }

    pub fn invalidates(mut self) -> Self {
        self.invalidates = true;
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

    /// Keeps the want only if `where_this` is true. Otherwise nothing is wanted, and the question is still asked.
    pub fn only(self, where_this: bool) -> Self {
        if where_this { self } else { Want { expect: Expect::Anything, ..self } }
    }

    /// The want for a file that ironstrap owns. The file has this text and this mode, and belongs to root.
    pub fn file(id: &'static str, that: impl Into<String>, path: &str, mode: u32, text: &str) -> Self {
        Want {
            fix: Fix::Write { path: path.into(), mode: Some(mode), text: Some(text.into()) },
            touches: vec![path.into()],
            undo: Undo::File(path.into()),
            ..Want::new(id, that).ask(Ask::File(path.into())).is(format!("mode {mode:o} root:root\n{text}"))
        }
    }

    /// Accepts a narrower mode, too. Only root reads this file, and a hardening guide may have asked for such a mode.
    pub fn allow_narrower_mode(mut self) -> Self {
        self.allow_narrower_mode = true;
        self
    }

    /// The want for a file that ironstrap owns, with a text that nobody may see. The ask gets only its hash.
    pub fn secret_file(id: &'static str, that: impl Into<String>, path: &str, mode: u32, text: &str) -> Self {
        Want {
            fix: Fix::Write { path: path.into(), mode: Some(mode), text: Some(text.into()) },
            touches: vec![path.into()],
            undo: Undo::File(path.into()),
            ..Want::new(id, that)
                .ask(Ask::Hash(path.into()))
                .is(format!("mode {mode:o} root:root\nsha256 {}", sha256(text.as_bytes())))
        }
    }

    /// The want for a file that ironstrap shares with others. `edit` changes the present text, or an empty text if there is
    /// no file. `back` takes out again what `edit` put in, and leaves what others wrote.
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
            ..Want::new(id, that).ask(Ask::File(path.into()))
        }
    }

    /// The want that a file is not there.
    pub fn no_file(id: &'static str, that: impl Into<String>, path: &str) -> Self {
        let want = Want::new(id, that).ask(Ask::Hash(path.into())).run(sh!("rm -f {path}", path));
        let want = Want { expect: Expect::Absent, ..want };
        want.touches(&[path]).undone_by(Undo::File(path.into()))
    }

    /// The want that an object of the cluster matches its manifest. `fix` makes it match.
    pub fn object(id: &'static str, manifest: &Value, whose: Whose, fix: &Sh) -> Self {
        let object = Object::of(manifest);
        let manifest = manifest.clone();
        Want::new(id, format!("{object} matches its manifest"))
            .of(object.to_string())
            .ask(Ask::Objects(vec![object]))
            .judged_object(move |object| object::judge(&manifest, object, whose))
            .run(fix)
            .nothing_to_undo(WITH_THE_CLUSTER)
    }

    /// The want that a unit runs, starts at boot, and started after each of `reads` last changed.
    ///
    /// The ask is about this state. So a restart that was lost to a dropped connection is still due at the next run.
    pub fn unit_runs(id: &'static str, unit: &str, reads: &[&str]) -> Self {
        let files = Sh::words(reads);
        let want = Want::new(id, format!("{unit} runs its current config")).reads(reads);
        let reads = want.reads.clone();
        want.ask(Ask::Unit { unit: format!("{unit}.service"), reads })
            .is("enabled active current")
            .run(sh!(
                "systemctl unmask -q {unit}\nsystemctl daemon-reload\nsystemctl enable -q {unit}\n\
                 started_after {unit} {files} || systemctl restart {unit}\nstays_active {unit}",
                unit,
                files
            ))
            .undone_by(Undo::Back(Back::unit(unit)))
            .disrupts()
    }
}

/// The SHA-256 of `bytes` in lower-case hexadecimal digits.
pub fn sha256(bytes: &[u8]) -> String {
    use sha2::Digest;
    sha2::Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}
