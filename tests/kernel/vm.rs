//! The machine as the operator uses it: the lab's command, a run of some steps over SSH, and the real program.

use std::cell::RefCell;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ironstrap::cluster::Cluster;
use ironstrap::error::Result;
use ironstrap::inventory;
use ironstrap::ledger::Run;
use ironstrap::pki::ClusterPki;
use ironstrap::reconcile::{Reconciler, Stop};
use ironstrap::report::Events;
use ironstrap::shell::{Output, Sh, Shell};
use ironstrap::ssh::{Client, Operator, Options, Ssh};
use ironstrap::step::Id;
use ironstrap::steps::{STAGES, Stage};
use serde_json::Value;
use time::OffsetDateTime;
use tokio::runtime::Runtime;

use crate::Pairs;

/// The first two stages without the steps that need packages. Only preflight, swap and kernel remain.
static CUT: LazyLock<[Stage; 2]> = LazyLock::new(|| {
    let [preflight, prepare] = [&STAGES[0], &STAGES[1]].map(|stage| Stage { ..*stage });
    let first = prepare.steps.iter().position(|step| step.name == "swap").unwrap();
    let steps = &prepare.steps[first..first + 2];
    assert_eq!(steps[1].name, "kernel", "the step kernel comes after swap");
    [preflight, Stage { steps, ..prepare }]
});

/// One SSH connection for all runs until the next boot.
#[derive(Clone)]
struct Line(Arc<Ssh>);

impl Shell for Line {
    async fn run(&self, script: &Sh, heard: &mut (dyn FnMut(&[u8]) + Send)) -> Result<Output> {
        self.0.run(script, heard).await
    }
}

pub struct Vm {
    pub name: String,
    script: PathBuf,
    dir: PathBuf,
    cluster: Arc<Cluster>,
    pki: ClusterPki,
    runtime: Runtime,
    line: RefCell<Line>,
}

/// The result of an apply: the planned and the repaired wants.
pub struct Outcome {
    pub planned: Pairs,
    pub changed: Pairs,
}

/// The exit code of the real program and its events.
#[derive(Debug)]
pub struct Ended {
    pub code: Option<i32>,
    pub events: Vec<Value>,
}

impl Vm {
    pub fn new() -> Vm {
        let home = std::env::var("IRONSTRAP_LAB").unwrap_or_else(|_| "/var/lib/ironstrap-lab".into());
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/lab/lab");
        let port = lab(&script, &["port"]);
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("kernel");
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).unwrap();
        let inventory = format!(
            "[cluster]\nname = 'kernel'\nkubernetes = '1.36.3'\nignore-preflight = ['NumCPU', 'Sources']\n\
             [ssh]\nuser = 'root'\nkey = '{home}/id_ed25519'\nknown-hosts = '{home}/known_hosts'\n\
             [kubelet]\nprotectKernelDefaults = true\n\
             [nodes.k1]\naddress = '127.0.0.1:{}'\nip = '10.0.2.15'\nrole = 'control-plane'\n",
            port.trim()
        );
        let path = dir.join("inventory.toml");
        fs::write(&path, inventory).unwrap();
        let cluster = inventory::read(&path).unwrap_or_else(|error| panic!("{error}"));
        let line = RefCell::new(Line(Arc::new(Ssh::new(&cluster.nodes[0], &client()))));
        Vm {
            name: cluster.nodes[0].name.clone(),
            pki: ClusterPki::make(&cluster, OffsetDateTime::now_utc()).unwrap(),
            cluster: Arc::new(cluster),
            runtime: Runtime::new().unwrap(),
            script,
            dir,
            line,
        }
    }

    /// Runs a script as root and returns its output. It must succeed.
    pub fn run(&self, script: &str) -> String {
        let line = self.line.borrow().clone();
        let script = format!("set -e\nexport LC_ALL=C PATH=/usr/sbin:/usr/bin:/sbin:/bin\n{script}\n");
        let output = self.runtime.block_on(line.run(&Sh::raw(script.clone().leak()), &mut |_| {})).unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert_eq!(output.status, 0, "{script}{}", text(&output.stderr));
        text(&output.stdout)
    }

    pub fn reboot(&self) {
        lab(&self.script, &["reboot"]);
        *self.line.borrow_mut() = Line(Arc::new(Ssh::new(&self.cluster.nodes[0], &client())));
    }

    pub fn seconds_ahead(&self) -> f64 {
        let theirs: f64 = self.run("date +%s").trim().parse().unwrap();
        theirs - SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64()
    }

    fn work(&self) -> Reconciler<Line> {
        let run = Run::new("kernel", "me@here");
        let (shells, events) = (vec![self.line.borrow().clone()], Events::channel().0);
        Reconciler::new(self.cluster.clone(), &*CUT, self.pki.clone(), shells, run, events).unwrap()
    }

    /// Observes, checks and applies, as the command `apply` does. All planned wants must hold afterwards.
    pub fn apply(&self) -> Outcome {
        let mut work = self.work();
        self.runtime.block_on(work.observe());
        assert_eq!(work.preflight(("kernel.trust", false)).errors, []);
        let plan = work.plan().unwrap();
        let planned =
            plan[0].1.iter().map(|change| (change.step.to_string(), change.id.to_string())).collect();
        let (_sender, mut stop) = tokio::sync::watch::channel(Stop::Never);
        self.runtime.block_on(work.apply(&mut stop)).unwrap();
        let member = &work.hosts()[0];
        assert_eq!((&member.quarantined, member.pending), (&None, 0));
        let step =
            |id: &Id| plan[0].1.iter().find(|change| change.id == *id).map_or("", |change| change.step);
        let pair = |id: &Id| (step(id).to_string(), id.to_string());
        Outcome { planned, changed: member.changed.iter().map(pair).collect() }
    }

    /// Checks that a plan is empty.
    pub fn assert_converged(&self) {
        let mut work = self.work();
        self.runtime.block_on(work.observe());
        assert_eq!(work.preflight(("kernel.trust", false)).errors, []);
        let plan = work.plan().unwrap();
        assert_eq!(ironstrap::report::plan::lines(&plan, &[]), Vec::<String>::new());
        assert_eq!(work.hosts()[0].execs, 1);
    }

    /// Runs the real program with all stages.
    pub fn ironstrap(&self, command: &[&str]) -> Ended {
        let mut ironstrap = Command::new(
            std::env::var("IRONSTRAP_BIN").unwrap_or_else(|_| env!("CARGO_BIN_EXE_ironstrap").into()),
        );
        ironstrap
            .args(command)
            .args(["--json", "--timeout", "60", "-i"])
            .arg(self.dir.join("inventory.toml"));
        let output = ironstrap.stdin(Stdio::null()).output().unwrap();
        let lines = String::from_utf8(output.stdout).unwrap();
        let events = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        Ended { code: output.status.code(), events }
    }
}

/// A client with a long timeout, because the machine is slow.
fn client() -> Arc<Client> {
    let options = Options { accept_new_host_keys: false, timeout: Duration::from_secs(60) };
    Arc::new(Client::new(options, Operator::present()))
}

fn lab(script: &Path, args: &[&str]) -> String {
    let output = Command::new(script).arg("qemu").args(args).stdin(Stdio::null()).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "lab qemu {}: {}", args.join(" "), text(&output.stderr));
    text(&output.stdout)
}
