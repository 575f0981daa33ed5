//! A fleet of machines in folders, small toy steps, and runs over the whole fleet.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use ironstrap::cluster::{Cluster, Role, Ssh as Access};
use ironstrap::error::{Error, Result};
use ironstrap::fleet::Blocked;
use ironstrap::inventory;
use ironstrap::ledger::{Kin, Run};
use ironstrap::pki::ClusterPki;
use ironstrap::reconcile::{Limits, Operation, Reconciler, Stop};
use ironstrap::report::{Event, Events};
use ironstrap::shell::{Sh, quote};
use ironstrap::ssh::{Client, Operator, Options, Ssh};
use ironstrap::step::{Confirmation, Cx, Step, Verdict, Want};
use ironstrap::steps::{self, Needs, On, STAGES, Stage, Via};
use russh::keys::ssh_key::LineEnding;

use super::machine::Machine;
use crate::support::ssh_server::new_key;
use crate::support::{self, schemas};

const TOY: Step = Step { name: "toy", why: "so that something is changed", wants: toy };
const MEMBER: Step = Step { name: "member", why: "so that somebody waits for the seed", wants: member };
const LABEL: Step = Step { name: "label", why: "so that one speaks for all", wants: label };

const PREPARE: Stage =
    Stage { name: "prepare", on: On::Every, via: Via::Node, needs: Needs::Nothing, steps: &[TOY] };
const JOIN: Stage =
    Stage { name: "member", on: On::Every, via: Via::Node, needs: Needs::AfterInit, steps: &[MEMBER] };
const SETTLE: Stage =
    Stage { name: "settle", on: On::ControlPlanes, via: Via::Api, needs: Needs::Nothing, steps: &[LABEL] };

const FIT: Stage =
    Stage { name: "preflight", on: On::Every, via: Via::Node, needs: Needs::Nothing, steps: STAGES[0].steps };

/// The stages of a cluster as toys. Only the preflight step is real.
pub static TOYS: &[Stage] = &[FIT, PREPARE, JOIN, SETTLE];

/// Only the stages before a join.
pub static PREPARED: &[Stage] = &[FIT, PREPARE];

/// The real steps that work in a folder, which are swap, kernel and hosts. Then the toys.
pub static HALF_REAL: &[Stage] = &[
    FIT,
    Stage {
        name: "prepare",
        on: On::Every,
        via: Via::Node,
        needs: Needs::Nothing,
        // Swap, kernel and hosts, without the step before them.
        steps: STAGES[1].steps.split_at(4).0.split_at(1).1,
    },
    JOIN,
    SETTLE,
];

const PAGE: Step = Step { name: "page", why: "so that something comes by itself", wants: page };

/// A want that does not hold yet after its first fix.
pub static UNSETTLED: &[Stage] = &[
    FIT,
    Stage { name: "settle", on: On::ControlPlanes, via: Via::Node, needs: Needs::Nothing, steps: &[PAGE] },
];

const ANSWER: Step = Step { name: "answer", why: "so that something depends on all others", wants: answer };

/// A want that only another machine can make true.
pub static RESTING: &[Stage] = &[
    FIT,
    PREPARE,
    Stage { name: "packets", on: On::Every, via: Via::Node, needs: Needs::OthersDone, steps: &[ANSWER] },
];

const TEXT: Step = Step { name: "text", why: "so that something is somebody's work", wants: text };

pub static REPLACE_TEXT: Confirmation = Confirmation {
    option: "--replace-text",
    question: "Replace it?",
    kept: "the text was kept",
    hint: "use --replace-text",
};

/// The first stage of the cluster itself replaces a text only after a confirmation.
pub static GUARDED: &[Stage] = &[
    FIT,
    PREPARE,
    JOIN,
    Stage { name: "text", on: On::ControlPlanes, via: Via::Api, needs: Needs::Nothing, steps: &[TEXT] },
    SETTLE,
    Stage { name: "packets", on: On::Every, via: Via::Node, needs: Needs::OthersDone, steps: &[ANSWER] },
];

fn text(_: &Cx) -> Result<Vec<Want>> {
    let ours = Want::new("toy.text", "the text is ours")
        .ask("if [ -e /etc/toy/text ]; then cat /etc/toy/text; else echo ours; fi")
        .judged(|have| match have == "ours" {
            true => Verdict::Holds,
            false => {
                Verdict::Unconfirmed { have: have.into(), want: "ours".into(), confirmation: &REPLACE_TEXT }
            }
        })
        .run("echo ours >/etc/toy/text");
    Ok(vec![ours])
}

fn answer(_: &Cx) -> Result<Vec<Want>> {
    let answers = Want::new("toy.answers", "the network answers")
        .ask("if [ -e /etc/toy/answers ]; then echo yes; else echo silent; fi")
        .is("yes")
        .run("echo waited >>/etc/toy/waited; [ -e /etc/toy/answers ]");
    Ok(vec![answers.eventually()])
}

/// A want about the pods of w1, which has no pods.
const PACKETS: Step = Step { name: "packets", why: "so that somebody cannot be asked", wants: unchecked };

pub static UNCHECKED: &[Stage] = &[
    FIT,
    PREPARE,
    Stage {
        name: "packets",
        on: On::ControlPlanes,
        via: Via::Node,
        needs: Needs::OthersDone,
        steps: &[PACKETS],
    },
];

const BELATED: Step = Step { name: "belated", why: "so that something waits to the end", wants: belated };

/// Two wants that wait without end: one for w1, and one for the cluster.
pub static UNMET: &[Stage] = &[
    FIT,
    PREPARE,
    Stage {
        name: "belated",
        on: On::ControlPlanes,
        via: Via::Node,
        needs: Needs::Nothing,
        steps: &[BELATED],
    },
];

fn belated(_: &Cx) -> Result<Vec<Want>> {
    let want = |that: &str, for_what: Blocked| {
        Want::new("toy.belated", that).of(that).ask("echo no").judged(move |have| Verdict::Waits {
            have: have.into(),
            want: "yes".into(),
            for_what: for_what.clone(),
        })
    };
    let wants = [
        want("the guest is there", Blocked::by_cluster("the guest to come")),
        want("w1 is greeted", Blocked::until("w1", "to be repaired")),
    ];
    Ok(wants.map(|want| want.run("false").nothing_to_undo("a test")).into())
}

fn unchecked(_: &Cx) -> Result<Vec<Want>> {
    let id = steps::packets::answer_of("w1");
    let answer = Want::new(id.name, "the pods of w1 answer").of(id.subject).about(["w1".to_string()]);
    Ok(vec![answer.ask("echo none").judged(|_| Verdict::Unchecked("it has no pod".into()))])
}

fn page(_: &Cx) -> Result<Vec<Want>> {
    let up = Want::new("toy.page", "the page is up")
        .ask("if [ -e /etc/toy/waited ] && [ $(wc -l </etc/toy/waited) -gt 1 ]; then echo up; else echo down; fi")
        .is("up")
        .run("echo waited >>/etc/toy/waited");
    Ok(vec![up.eventually()])
}

fn toy(cx: &Cx) -> Result<Vec<Want>> {
    Ok(vec![
        Want::file("toy.greeting", "the greeting is ours", "/etc/toy/greeting", 0o644, "hello\n"),
        Want::new("toy.switch", "the switch is on")
            .ask("if [ -e /etc/toy/switch ]; then cat /etc/toy/switch; else echo off; fi")
            .is("on")
            .run("switch"),
        Want::secret_file(
            "toy.secret",
            "the secret is the trust's",
            "/etc/toy/secret",
            0o600,
            &secret(cx.pki),
        ),
        Want::unit_runs("toy.unit", "toyd", &["/etc/toy/greeting"]),
    ])
}

/// The text that must never be shown.
pub fn secret(pki: &ClusterPki) -> String {
    format!("{}\n{}", pki.sa_key.reveal(), pki.ca.key.reveal())
}

fn member(cx: &Cx) -> Result<Vec<Want>> {
    let role = if cx.node.is_control_plane() { "control-plane" } else { "worker" };
    Ok(vec![
        Want::new("toy.member", format!("{} is a member", cx.node.name))
            .ask("if [ -e /etc/kubernetes/kubelet.conf ]; then echo member; else echo no member; fi")
            .is("member")
            .run_as_unit(
                "kubeadm",
                5,
                Sh::raw("role=") + Sh::raw(role) + "\necho entering as $role\nenter $role",
            ),
    ])
}

fn label(cx: &Cx) -> Result<Vec<Want>> {
    let one = |node: &ironstrap::cluster::Node| {
        let name = node.name.clone();
        let waits = cx.fleet.joining.contains(&name) || cx.fleet.unreachable.contains(&name);
        let line = name.clone();
        Want::new("toy.labels", format!("{name} is labelled"))
            .of(&name)
            .about([name.clone()])
            .ask("if [ -e /etc/toy/labels ]; then cat /etc/toy/labels; else echo none; fi")
            .judged(move |labels| match labels.lines().any(|label| label == line) {
                true => Verdict::Holds,
                false if waits => Verdict::Waits {
                    have: "none".into(),
                    want: line.clone(),
                    for_what: Blocked::until(&line, "to join"),
                },
                false => Verdict::Differs { have: "none".into(), want: line.clone() },
            })
            .run(Sh::raw("label ") + quote(&name))
    };
    Ok(cx.cluster.nodes.iter().map(one).collect())
}

pub struct Fleet {
    pub machines: Vec<Machine>,
    pub cluster: Arc<Cluster>,
    pub pki: ClusterPki,
    pub stages: &'static [Stage],
    /// Operations other than `Apply` have the real steps.
    pub reading: Operation,
    pub owner: String,
    /// How runs of the same directory recognize each other.
    pub kin: Kin,
    pub take_over: bool,
    /// What the operator confirms.
    pub confirms: Option<&'static Confirmation>,
    /// The nodes in scope. If empty, all are.
    pub limit: BTreeSet<String>,
    /// The number of parallel connections.
    pub parallel: usize,
    /// Whether questions and scripts become events, as with `-v` and `--log`.
    pub detailed: bool,
    pub limits: Limits,
    /// The operator's home.
    home: tempfile::TempDir,
    runs: AtomicUsize,
}

/// The outcome of a run.
pub struct Outcome {
    pub result: Result<()>,
    pub events: Vec<Event>,
    /// The planned changes, by node.
    pub planned: BTreeSet<(String, String)>,
    /// The changes that were made, by node.
    pub changed: BTreeSet<(String, String)>,
    pub left: Vec<Error>,
    /// What was not checked in the end.
    pub unchecked: Vec<String>,
    /// The wants that still wait in the end.
    pub unmet: Vec<Error>,
    pub open: usize,
    /// For each node that did not get a change, the members that the change broke.
    pub held_back: BTreeMap<String, Vec<String>>,
    /// Everything that the run could have shown.
    pub shown: String,
}

impl Fleet {
    /// Starts machines with these names. Names with `m` are control planes.
    pub async fn of(names: &[&str]) -> Fleet {
        let (home, key) = (tempfile::tempdir().unwrap(), new_key());
        std::fs::create_dir(home.path().join(".ssh")).unwrap();
        key.write_openssh_file(home.path().join("key"), LineEnding::LF).unwrap();
        let mut inventory = String::from("[cluster]\nname = 'demo'\nkubernetes = '1.36.3'\n");
        let mut machines = Vec::new();
        for (i, name) in names.iter().enumerate() {
            let role = if i == 0 { "control-plane" } else { "worker" };
            inventory += &format!("[nodes.{name}]\naddress = '198.18.0.{}'\nrole = '{role}'\n", i + 11);
            machines.push(Machine::start(name, key.public_key()).await);
        }
        let mut cluster =
            inventory::parse(&inventory, Path::new("demo.toml")).unwrap_or_else(|error| panic!("{error}"));
        for node in &mut cluster.nodes {
            node.role = if node.name.starts_with('m') { Role::ControlPlane } else { Role::Worker };
        }
        let pki = support::pki(&cluster);
        for (node, machine) in cluster.nodes.iter_mut().zip(&machines) {
            let known = home.path().join(format!("known-{}", node.name));
            let line = format!("[127.0.0.1]:{} {}", machine.port, machine.host_key.to_openssh().unwrap());
            std::fs::write(&known, line).unwrap();
            node.ssh = Access {
                host: "127.0.0.1".into(),
                port: Some(machine.port),
                user: Some("root".into()),
                key: Some(home.path().join("key")),
                known_hosts: Some(known),
                ..Access::default()
            };
        }
        Fleet {
            machines,
            cluster: Arc::new(cluster),
            pki,
            stages: TOYS,
            reading: Operation::Apply,
            owner: "me@here".into(),
            kin: Kin::default(),
            take_over: false,
            confirms: None,
            limit: BTreeSet::new(),
            parallel: usize::MAX,
            detailed: false,
            limits: Limits::default(),
            home,
            runs: AtomicUsize::new(0),
        }
    }

    /// Starts the machines of a cluster that an earlier run has made.
    pub async fn settled(names: &[&str]) -> Fleet {
        let fleet = Fleet::of(names).await;
        for machine in &fleet.machines {
            machine.settle(&secret(&fleet.pki));
            if machine.name.starts_with('m') {
                machine.write("etc/kubernetes/manifests/kube-apiserver.yaml", "\n");
                machine.write("etc/toy/labels", &names.join("\n"));
            }
        }
        // Later files must have a newer time, even if the clock of the file system is coarse.
        tokio::time::sleep(Duration::from_millis(20)).await;
        fleet
    }

    /// Writes the inventory of these machines into the operator's home, for the program itself.
    pub fn inventory(&self) -> std::path::PathBuf {
        let key = self.home.path().join("key");
        std::fs::set_permissions(&key, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        let known: String = self
            .machines
            .iter()
            .map(|machine| {
                format!("[127.0.0.1]:{} {}\n", machine.port, machine.host_key.to_openssh().unwrap())
            })
            .collect();
        std::fs::write(self.home.path().join("known"), known).unwrap();
        let mut text = String::from(
            "[cluster]\nname = 'demo'\nkubernetes = '1.36.3'\n[ssh]\nuser = 'root'\nkey = 'key'\nknown-hosts = 'known'\n",
        );
        for node in &self.cluster.nodes {
            let role = if node.is_control_plane() { "control-plane" } else { "worker" };
            text += &format!(
                "[nodes.{}]\naddress = '127.0.0.1:{}'\nip = '{}'\nrole = '{role}'\n",
                node.name,
                node.ssh.port.unwrap(),
                node.ip
            );
        }
        let path = self.home.path().join("demo.toml");
        std::fs::write(&path, text).unwrap();
        path
    }

    /// Takes a machine off the network.
    pub fn unplug(&mut self, name: &str) {
        // No program listens on the discard port.
        self.moved(name, 9);
    }

    /// Replaces a machine by another server.
    pub fn moved(&mut self, name: &str, port: u16) {
        let cluster = Arc::make_mut(&mut self.cluster);
        let node = cluster.nodes.iter_mut().find(|node| node.name == name).unwrap();
        node.ssh.port = Some(port);
    }

    pub fn machine(&self, name: &str) -> &Machine {
        self.machines.iter().find(|machine| machine.name == name).unwrap()
    }

    /// Begins a run, and observes every machine once.
    pub async fn look(&self) -> (Reconciler<Ssh>, tokio::sync::mpsc::UnboundedReceiver<Event>) {
        let (events, receiver) = Events::channel();
        let events = events.in_detail(self.detailed);
        let options = Options { accept_new_host_keys: false, timeout: Duration::from_secs(20) };
        let operator = Operator { home: Some(self.home.path().into()), ..Operator::default() };
        let client = Arc::new(Client::new(options, operator));
        let shells = self.cluster.nodes.iter().map(|node| Ssh::new(node, &client)).collect();
        let id = format!("run{}", self.runs.fetch_add(1, SeqCst));
        let kin = self.kin.clone();
        let run = Run { kin, take_over: self.take_over, ..Run::new(id, &self.owner) };
        let (cluster, pki) = (self.cluster.clone(), self.pki.clone());
        let work = match &self.reading {
            Operation::Apply => Reconciler::new(cluster, self.stages, pki, shells, run, events),
            reading => Reconciler::for_operation(reading.clone(), (cluster, pki), shells, run, events),
        };
        let mut work = work.unwrap();
        work.limit_connections(self.parallel);
        work.bound(self.limits.clone());
        self.confirms.into_iter().for_each(|confirmation| work.confirm(confirmation));
        if !self.limit.is_empty() {
            work.limit(&self.limit);
        }
        tokio::time::timeout(Duration::from_secs(120), work.observe()).await.expect("it hangs");
        (work, receiver)
    }

    /// Observes, runs the preflight checks and applies, as the commands do. A preflight error is the result.
    pub async fn apply(&self) -> Outcome {
        let (mut work, mut receiver) = self.look().await;
        let survey = match self.reading {
            Operation::Apply => work.preflight(("demo.trust", true)),
            _ => work.reset_preflight(("demo.trust", true)).unwrap(),
        };
        let blocked = if survey.blocked { survey.errors } else { work.held_by_others() };
        let blocked = blocked.into_iter().next();
        let plan = work.plan().unwrap();
        let planned: BTreeSet<(String, String)> = plan
            .iter()
            .flat_map(|(node, changes)| changes.iter().map(|c| (node.clone(), c.that.clone())))
            .collect();
        let (_sender, mut stop) = tokio::sync::watch::channel(Stop::Never);
        let result = match blocked {
            Some(error) => Err(error),
            None => {
                tokio::time::timeout(Duration::from_secs(300), work.apply(&mut stop)).await.expect("it hangs")
            }
        };
        let counted_changes: usize = work.hosts().iter().map(|member| member.changed.len()).sum();
        let held_back = work.hosts().iter().map(|m| (m.node.name.clone(), m.held_back_by().to_vec()));
        let held_back: BTreeMap<_, _> = held_back.filter(|(_, by)| !by.is_empty()).collect();
        let counted = work.hosts().iter().filter(|member| member.is_affected());
        let left: Vec<Error> = counted.filter_map(|member| member.quarantined.clone()).collect();
        let open = work.hosts().iter().map(|member| member.pending).sum();
        let unchecked = work.unchecked().unwrap().into_iter().map(|(_, one)| one.that).collect();
        let unmet = work.unmet().unwrap();
        drop(work);
        let mut events = Vec::new();
        while let Ok(event) = receiver.try_recv() {
            events.push(event);
        }
        let fixed = events.iter().filter_map(|event| match event {
            Event::Fixed { node, of } => Some((node.clone(), of.that.clone())),
            _ => None,
        });
        let changed: BTreeSet<(String, String)> = fixed.collect();
        assert_eq!(changed.len(), counted_changes, "{changed:?}");
        let mut shown: String = ironstrap::report::plan::lines(&plan, &self.cluster.nodes).join("\n");
        for event in &events {
            let mut document = serde_json::to_value(event).unwrap();
            document["schema"] = 2.into();
            schemas::assert_valid("events", &document);
            shown += &ironstrap::report::detail::lines(event).join("\n");
            shown += &format!("\n{event:?}\n{}", serde_json::to_string(event).unwrap());
        }
        for error in left.iter().chain(result.as_ref().err()) {
            shown += &format!("\n{error}\n{error:?}");
        }
        for machine in &self.machines {
            shown += &machine.seen.commands.lock().unwrap().join("\n");
        }
        Outcome { result, events, planned, changed, left, unchecked, unmet, open, held_back, shown }
    }

    /// Applies, and asserts that everything matches the inventory.
    pub async fn converge(&self) -> Outcome {
        let outcome = self.apply().await;
        assert_eq!(outcome.result, Ok(()), "{}", outcome.shown);
        assert_eq!((outcome.left.as_slice(), outcome.open), ([].as_slice(), 0), "{}", outcome.shown);
        assert_eq!(outcome.unmet, [], "{}", outcome.shown);
        for machine in &self.machines {
            machine.execs();
        }
        outcome
    }
}

impl Outcome {
    /// The position of the first event that matches.
    pub fn at(&self, what: impl Fn(&Event) -> bool) -> Option<usize> {
        self.events.iter().position(what)
    }

    pub fn began(&self, node: &str, stage: &str) -> Option<usize> {
        self.at(|event| matches!(event, Event::Stage { node: n, stage: s, .. } if n == node && s == stage))
    }

    pub fn fixed(&self, node: &str, that: &str) -> Option<usize> {
        self.at(|event| matches!(event, Event::Fixed { node: n, of } if n == node && of.that == that))
    }

    /// How many times this fix began.
    pub fn fixings(&self, node: &str, that: &str) -> usize {
        let like =
            |event: &&Event| matches!(event, Event::Fixing { node: n, of } if n == node && of.that == that);
        self.events.iter().filter(like).count()
    }
}
