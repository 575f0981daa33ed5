//! The lab, the operator's folder, and the state of the machines that scenarios need.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use toml::{Table, Value as Toml};

use crate::client::{Client, Ended, Triple};
use crate::lab::{Lab, NODES, text};
use crate::{Ground, so, until};

/// In seconds: longer than any run takes on two cores, and longer than ironstrap waits for the cluster before it says why.
pub const PATIENCE: u64 = 400;

/// A change of the inventory: a path of keys, and a value in TOML.
type Edit = (&'static [&'static str], &'static str);

pub struct World {
    pub lab: Lab,
    /// The folder with the inventory, the cluster PKI and the kubeconfig.
    pub dir: PathBuf,
    kubectl: PathBuf,
    /// The changes of the inventory since the beginning.
    edits: RefCell<Vec<Edit>>,
    /// How many times the cluster could not be created.
    failed: Cell<u32>,
}

impl World {
    pub fn new() -> World {
        let lab = Lab::new();
        lab.run(&["up"]);
        let part = lab.run(&["part", "kubernetes"]);
        let world = World {
            // Each lab has its own folder, because two labs may run at the same time.
            dir: Path::new(env!("CARGO_TARGET_TMPDIR")).join("cluster").join(lab.home.file_name().unwrap()),
            kubectl: Path::new(part.trim()).join("kubectl"),
            edits: RefCell::default(),
            failed: Cell::new(0),
            lab,
        };
        fs::create_dir_all(&world.dir).unwrap();
        world
    }

    /// Prepares the state that a scenario needs.
    pub fn lay(&self, ground: Ground) {
        match ground {
            Ground::Before | Ground::Own => {}
            Ground::Fresh => self.fresh(),
            Ground::Cluster => self.cluster(),
        }
    }

    /// Makes new machines and an empty operator's folder.
    fn fresh(&self) {
        self.lab.run(&["fresh"]);
        fs::remove_dir_all(&self.dir).unwrap();
        fs::create_dir_all(&self.dir).unwrap();
        self.inventory(|_| {});
    }

    fn cluster(&self) {
        self.inventory(|_| {});
        self.lab.run(&["up"]);
        let plan = self.plan();
        if plan.code == Some(0) && plan.changes() == 0 {
            return;
        }
        println!("  no cluster that matches the inventory: making one\n{}", plan.errors());
        self.fresh();
        let made = self.apply();
        if made.code != Some(0) {
            self.failed.set(self.failed.get() + 1);
        }
        made.good();
        self.failed.set(0);
    }

    /// Writes the lab's inventory with the settings of these tests and with `edit`.
    pub fn inventory(&self, edit: impl FnOnce(&mut Table)) {
        let lab = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/lab/inventory.toml");
        let home = self.lab.home.to_str().unwrap();
        let text = fs::read_to_string(lab).unwrap().replace("/var/lib/ironstrap-lab", home);
        let mut table: Table = text.parse().unwrap();
        for (path, value) in crate::settings::SETTINGS {
            set(&mut table, path, value);
        }
        edit(&mut table);
        fs::write(self.dir.join("inventory.toml"), toml::to_string(&table).unwrap()).unwrap();
    }

    /// The path of the program.
    pub fn binary() -> String {
        std::env::var("IRONSTRAP_BIN").unwrap_or_else(|_| env!("CARGO_BIN_EXE_ironstrap").into())
    }

    /// Adds these edits to the earlier ones and writes the inventory. An empty list restores the first inventory.
    pub fn edit(&self, edits: &[Edit]) {
        let mut all = self.edits.borrow_mut();
        all.extend(edits);
        if edits.is_empty() {
            all.clear();
        }
        self.inventory(|table| all.iter().for_each(|(path, value)| set(table, path, value)));
    }

    /// Makes the cluster match the inventory: by an apply, or by a new cluster where that fails.
    pub fn mended(&self) {
        self.edit(&[]);
        self.lab.run(&["up"]);
        let there = self.dir.join("demo.trust").exists();
        if !there || self.apply().code != Some(0) {
            self.cluster();
        }
        self.assert_converged();
    }

    /// Copies the operator's folder with all its files.
    pub fn copy(&self, name: &str) -> PathBuf {
        let copy = self.dir.with_extension(name);
        let _ = fs::remove_dir_all(&copy);
        assert!(Command::new("cp").arg("-a").args([&self.dir, &copy]).status().unwrap().success());
        copy
    }

    /// Starts ironstrap as `user`, with the inventory in `dir`.
    pub fn start_as(&self, user: &str, dir: &Path, args: &[&str]) -> Client {
        self.start_program_as(&World::binary(), user, dir, args)
    }

    /// Starts another ironstrap program, in the way that `start` starts this one.
    pub fn start_program(&self, program: &str, args: &[&str]) -> Client {
        self.start_program_as(program, "operator", &self.dir, args)
    }

    fn start_program_as(&self, program: &str, user: &str, dir: &Path, args: &[&str]) -> Client {
        let say = r#"echo "{\"event\":\"pid\",\"pid\":$$}"; exec "$@""#;
        let inventory = dir.join("inventory.toml");
        let mut command = self.lab.command(&["exec", "sh", "-c", say, "sh", program]);
        command.args(args).arg("--json").arg("-i").arg(inventory).env("USER", user);
        Client::start(command)
    }

    pub fn start(&self, args: &[&str]) -> Client {
        self.start_as("operator", &self.dir, args)
    }

    pub fn applying(&self) -> Client {
        self.start(&["apply", "--yes"])
    }

    pub fn apply(&self) -> Ended {
        self.applying().end(PATIENCE)
    }

    pub fn plan(&self) -> Ended {
        self.start(&["plan"]).end(60)
    }

    /// Runs kubectl with the operator's kubeconfig and returns its output. It must succeed.
    pub fn kubectl(&self, args: &[&str]) -> String {
        self.try_kubectl(args).unwrap_or_else(|why| panic!("kubectl {}: {why}", args.join(" ")))
    }

    pub fn try_kubectl(&self, args: &[&str]) -> Result<String, String> {
        self.kubectl_with(&self.dir.join("demo.kubeconfig"), args)
    }

    /// Runs kubectl with another kubeconfig.
    pub fn kubectl_with(&self, kubeconfig: &Path, args: &[&str]) -> Result<String, String> {
        let mut command = self.lab.command(&["exec"]);
        command.arg(&self.kubectl).args(["--request-timeout=10s", "--kubeconfig"]);
        let output = command.arg(kubeconfig).args(args).output().unwrap();
        match output.status.success() {
            true => Ok(text(&output.stdout)),
            false => Err(text(&output.stderr)),
        }
    }

    pub fn kubectl_json(&self, args: &[&str]) -> Value {
        serde_json::from_str(&self.kubectl(args)).unwrap()
    }

    /// Creates the objects of a manifest.
    pub fn create(&self, name: &str, manifest: &str) {
        let file = self.dir.join(name);
        fs::write(&file, manifest).unwrap();
        self.kubectl(&["apply", "-f", file.to_str().unwrap()]);
    }

    /// The files of the operator's folder.
    pub fn kept(&self) -> Vec<String> {
        let mut names: Vec<String> =
            fs::read_dir(&self.dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// Checks that a plan finds nothing to do.
    pub fn assert_converged(&self) {
        drop(self.settled());
    }

    /// Checks that every node reaches the API's Service, the cluster's DNS and each pod of coredns.
    ///
    /// That may take a while for two reasons. If flannel did not reach the API server, it retries ever more rarely, so it
    /// learns about a new range late. On cgroup v1, a containerd that restarts after a reload of systemd treats pods as
    /// leaked. The kubelet then starts them again, including the API server, a moment after everything was ready.
    ///
    /// The Service and DNS are tested with perl, because ironstrap does not use perl for that.
    pub fn assert_pods_reached(&self) {
        until("the API's Service and DNS answer every node", 60, || {
            so(NODES.iter().all(|node| self.lab.try_run(&["ssh", node, SERVICES]).status.success()))
        });
        let what = ["get", "pods", "-n", "kube-system", "-l", "k8s-app=kube-dns", "-o"];
        let what = [&what[..], &["jsonpath={.items[*].status.podIP}"]].concat();
        let reach = |ips: &str, node: &str| {
            let script =
                format!("for ip in {ips}; do timeout 2 bash -c \"</dev/tcp/$ip/8080\" || exit 1; done");
            self.lab.try_run(&["ssh", node, &script]).status.success()
        };
        until("every node reaches the pods of coredns", 180, || {
            let ips = self.try_kubectl(&what).ok().filter(|ips| !ips.trim().is_empty())?;
            so(NODES.iter().all(|node| reach(&ips, node)))
        });
    }

    /// Checks that a new pod starts on every node, and deletes these pods.
    pub fn assert_pods_start(&self) {
        let pods: String = NODES.iter().map(|node| format!("{NEW_POD}\n").replace("NODE", node)).collect();
        self.create("new.yaml", &pods);
        for node in NODES {
            let ready = ["get", "pod", &format!("new-{node}"), "-o", READY];
            until(&format!("a new pod starts on {node}"), 120, || {
                so(self.try_kubectl(&ready).is_ok_and(|it| it == "True"))
            });
        }
        self.kubectl(&["delete", "pod", "-l", "app=new", "--force", "--grace-period=0", "--wait=false"]);
        fs::remove_file(self.dir.join("new.yaml")).unwrap();
    }

    /// Waits until a plan finds nothing to do. Only consequences of earlier drift may disappear by themselves; any other drift
    /// fails at once. It checks again what it could not observe, because the API server may restart once more (see
    /// `assert_pods_reached`). It also checks the rules of Services again: a kube-proxy that lost the API server reconnects
    /// within a minute.
    pub fn settled(&self) -> Ended {
        until("nothing is left to do", 240, || {
            let plan = self.start(&["plan", "--exit-code"]).end(60);
            let (mut left, unseen) = (real(&plan, "drift"), plan.unseen());
            left.retain(|triple| !unseen.contains(triple) && triple.1 != "services");
            assert_eq!(left, BTreeSet::new(), "drift that remains");
            if !unseen.is_empty() {
                println!("  {} checks have no answer yet and run again", unseen.len());
            }
            (plan.code == Some(0)).then_some(plan)
        })
    }
}

const READY: &str = r#"jsonpath={.status.conditions[?(@.type=="Ready")].status}"#;

/// A pod with a fixed node, so no scheduler places it.
const NEW_POD: &str = r#"---
apiVersion: v1
kind: Pod
metadata: {name: new-NODE, namespace: default, labels: {app: new}}
spec:
  nodeName: NODE
  tolerations: [{operator: Exists}]
  containers: [{name: nginx, image: "docker.io/library/nginx:1"}]"#;

/// Connects to the API's Service, and queries the cluster's DNS for its address.
const SERVICES: &str = r#"perl -MIO::Socket::INET -e '
alarm 4;
IO::Socket::INET->new(PeerAddr => "10.96.0.1:443", Timeout => 2) or exit 1;
my $s = IO::Socket::INET->new(PeerAddr => "10.96.0.10:53", Proto => "udp") or exit 2;
my $name = join "", map { pack("C/a", $_) } qw(kubernetes default svc cluster local), "";
$s->send(pack("n6", 7, 256, 1, 0, 0, 0) . $name . pack("n2", 1, 1));
$s->recv(my $answer, 512) or exit 3;
exit(substr($answer, -4) eq pack("C4", 10, 96, 0, 1) ? 0 : 4)'"#;

/// Whether this is a consequence of other drift. A node whose kubelet or containerd stopped is not Ready for a moment, and
/// neither are its pods.
pub fn is_consequence((_, step, that): &Triple) -> bool {
    let follow = ["nodes.network", "nodes.dns"];
    // A Node that is created again may get another range.
    if step == "cni" && that == "cni.bridge" {
        return true;
    }
    // Pods that restart do not answer for a moment, including those of CoreDNS. The rules for the API's Service do not
    // change meanwhile.
    if step == "packets" {
        return that != "connectivity.service";
    }
    // A kubelet that needs a restart runs with other settings until then.
    if step == "settings" {
        return true;
    }
    step == "nodes" && (that.starts_with("nodes.ready[") || follow.contains(&that.as_str()))
}

/// Node, step and want of these events of a run, without the consequences of earlier drift.
pub fn real(ended: &Ended, kind: &str) -> BTreeSet<Triple> {
    let mut triples = ended.triples(kind);
    // While an API server restarts, its Service lacks it for a moment.
    let restarts = triples.iter().any(|(_, step, _)| ["static-pods", "member"].contains(&step.as_str()));
    triples.retain(|triple| !(is_consequence(triple) || (restarts && triple.1 == "services")));
    triples
}

/// Sets the value, written as TOML, at a path of keys.
pub fn set(table: &mut Table, path: &[&str], value: &str) {
    let (last, parents) = path.split_last().unwrap();
    let mut table = table;
    for key in parents {
        let entry = table.entry(*key).or_insert_with(|| Toml::Table(Table::new()));
        table = entry.as_table_mut().unwrap();
    }
    let value: Table = format!("v = {value}").parse().unwrap();
    table.insert(last.to_string(), value["v"].clone());
}

/// A file or folder that is moved away. `drop` moves it back.
pub struct Moved {
    from: PathBuf,
    to: PathBuf,
}

impl Moved {
    pub fn new(from: PathBuf, to: PathBuf) -> Moved {
        fs::rename(&from, &to).unwrap();
        Moved { from, to }
    }
}

impl Drop for Moved {
    fn drop(&mut self) {
        if self.from.exists() {
            let _ = fs::remove_dir_all(&self.from);
        }
        let _ = fs::rename(&self.to, &self.from);
    }
}
