//! Resets of damaged machines. A reset looks at the machine itself and does not rely on the container runtime or on the
//! recorded state. It restores the machine, or its error says what the operator has to do. After that, a reset succeeds.

use std::collections::BTreeSet;
use std::fs;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::client::Ended;
use crate::lab::{Process, alive};
use crate::reset::{assert_one_as_before, look};
use crate::world::{PATIENCE, World};
use crate::{Ground, Scenario, so, until};

/// The machines that are damaged. Scenarios with one machine use the last.
const BOTH: [&str; 2] = ["w1", "w2"];
const NODE: &str = BOTH[1];

/// The state of the two machines before ironstrap changed them.
type Before = [BTreeSet<String>; 2];

/// A damage, and how a reset handles it.
struct Damage {
    script: &'static str,
    /// Words of the error and its hint. If empty, the reset succeeds at once.
    words: &'static [&'static str],
    /// What the operator does then.
    mend: &'static str,
}

macro_rules! damaged {
    ($($says:literal: $run:expr;)+) => {
        &[$(Scenario { says: concat!("damaged: ", $says), ground: Ground::Own, run: $run }),+]
    };
}

pub const SCENARIOS: &[Scenario] = damaged! {
    "containerd is reinstalled under running containers; containerd is killed": |w| both(w, [whole(AGAIN), whole(KILLED)]);
    "containerd cannot start; its store is empty": |w| both(w, [whole(NO_START), whole(EMPTIED)]);
    "the package of containerd is missing; the package of the kubelet is missing": |w| both(w, [whole(NO_CONTAINERD), whole(NO_KUBELET)]);
    "the recorded state is missing; the recorded state is damaged": |w| both(w, [NOTES_GONE, NOTES_HALF_GONE]);
    "/etc is read-only; dpkg cannot read its database": |w| both(w, [READ_ONLY, DATABASE]);
    "containerd does not answer; a foreign package is half configured": |w| both(w, [whole(SILENT), HALF]);
    "another program holds the package lock": lock;
    "a volume of a pod does not answer": hung;
    "a pod ignores SIGTERM and has a grace period of an hour": ignores_term;
    "the disk of the package database is full": disk_full;
    "folders of the cluster are links or mounts": links;
    "a finalizer keeps a deleted pod": finalizer;
    "containerd's package is missing, and a Docker container keeps running": docker;
};

const fn whole(script: &'static str) -> Damage {
    Damage { script, words: &[], mend: ":" }
}

const AGAIN: &str = "export DEBIAN_FRONTEND=noninteractive; apt-get -qq -y --allow-change-held-packages purge containerd\n\
    rm -rf /var/lib/containerd; apt-get -qq -y --no-install-recommends install containerd";
const KILLED: &str = "systemctl kill -s KILL containerd";
const SILENT: &str = "systemctl kill -s STOP containerd";
const NO_START: &str = "systemctl stop containerd; echo 'nonsense = [' >/etc/containerd/config.toml";
const EMPTIED: &str = "systemctl kill -s KILL containerd; find /var/lib/containerd -xdev -mindepth 1 -delete || :\n\
    n=0; until systemctl is-active -q containerd || [ $n = 40 ]; do sleep 0.5; n=$((n + 1)); done";
const NO_CONTAINERD: &str =
    "DEBIAN_FRONTEND=noninteractive apt-get -qq -y --allow-change-held-packages purge containerd";
const NO_KUBELET: &str =
    "DEBIAN_FRONTEND=noninteractive apt-get -qq -y --allow-change-held-packages purge kubelet";

const NOTES_GONE: Damage = Damage {
    script: "mv /var/lib/ironstrap /root/notes",
    words: &["the state before the machine joined is recorded", "from a backup", "kubeadm reset"],
    mend: "rm -rf /var/lib/ironstrap; mv /root/notes /var/lib/ironstrap",
};
const NOTES_HALF_GONE: Damage = Damage {
    script: "cp -a /var/lib/ironstrap /root/notes; cd /var/lib/ironstrap/before\n\
        rm runtime-packages.kept file-etc-containerd-config.toml.path; : >member-member.kept",
    words: &[
        "file-etc-containerd-config.toml.* is damaged",
        "member-member.* is damaged",
        "runtime-packages.* is damaged",
        "from a backup",
    ],
    mend: "rm -rf /var/lib/ironstrap; mv /root/notes /var/lib/ironstrap",
};
const READ_ONLY: Damage = Damage {
    script: "mount --bind /etc /etc; mount -o remount,bind,ro /etc",
    words: &["/etc is read-only", "remount,rw"],
    mend: "umount /etc",
};
const DATABASE: Damage = Damage {
    script: "cp -p /var/lib/dpkg/status /root/status; echo 'no field' >>/var/lib/dpkg/status",
    words: &["dpkg can read its database", "parsing file", "make it readable again"],
    mend: "mv /root/status /var/lib/dpkg/status",
};
/// A reset does not change this package.
const HALF: Damage = Damage {
    script: "mkdir -p /root/half/DEBIAN; cd /root\n\
        printf 'Package: half\\nVersion: 1\\nArchitecture: all\\nMaintainer: x <x@example.org>\\nDescription: x\\n' >half/DEBIAN/control\n\
        printf '#!/bin/sh\\nexit 1\\n' >half/DEBIAN/postinst; chmod 755 half/DEBIAN/postinst\n\
        dpkg-deb -b half half.deb >/dev/null; dpkg -i half.deb >/dev/null 2>&1 || :; rm -r half half.deb",
    words: &[],
    mend: "[ \"$(dpkg-query -W -f '${db:Status-Abbrev}' half)\" = 'iF ' ]; dpkg --purge half >/dev/null",
};

static BEFORE: Mutex<Option<Before>> = Mutex::new(None);

/// Creates a cluster with both machines, and returns their state before.
fn cluster(world: &World) -> Before {
    let before = BEFORE.lock().unwrap().take();
    let before = before.filter(|_| {
        world.edit(&[]);
        world.apply().code == Some(0)
    });
    let before = before.unwrap_or_else(|| {
        world.lay(Ground::Fresh);
        let before = BOTH.map(|node| look(world, node));
        world.apply().good();
        before
    });
    until("pods run on the machines", 90, || so(BOTH.iter().all(|node| shims(world, node).len() > 1)));
    before
}

/// Keeps the state for the next scenario, which uses the same machines.
fn keep(before: Before) {
    *BEFORE.lock().unwrap() = Some(before);
}

fn shims(world: &World, node: &str) -> Vec<Process> {
    world.lab.machine(node).running("containerd-shim-runc-v2", &["k8s.io"])
}

fn reset(world: &World, nodes: &[&str]) -> Ended {
    world.start(&[&["reset", "--yes"], nodes].concat()).end(PATIENCE)
}

/// The errors of a machine with their causes and hints.
fn advice(ended: &Ended, node: &str) -> String {
    let of_node = |event: &&Value| event["event"] == "error" && event["node"] == node;
    let said = |error: &Value| {
        let cause: Vec<&str> = error["cause"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
        let word = |key: &str| error[key].as_str().unwrap_or_default();
        format!("{}\n{}\n{}\n", word("what"), cause.join("\n"), word("hint"))
    };
    ended.events.iter().filter(of_node).map(said).collect()
}

/// Damages each machine. Either a reset restores both at once, or it says before the first change what the operator has to
/// do, and a second reset restores them.
fn both(world: &World, damages: [Damage; 2]) {
    let before = cluster(world);
    BOTH.iter().zip(&damages).for_each(|(node, damage)| drop(world.lab.ssh(node, damage.script)));
    if damages.iter().any(|damage| !damage.words.is_empty()) {
        let looked = BOTH.map(|node| world.lab.looks(node));
        let ended = reset(world, &BOTH);
        assert_eq!(ended.code, Some(5), "{}{}", ended.errors(), ended.stderr);
        for (node, damage) in BOTH.iter().zip(&damages) {
            let said = advice(&ended, node);
            assert!(damage.words.iter().all(|word| said.contains(word)), "{node}: {said}");
            assert!(shims(world, node).len() > 1, "the pods of {node} keep running");
        }
        assert_eq!(looked, BOTH.map(|node| world.lab.looks(node)), "nothing was changed");
        BOTH.iter().zip(&damages).for_each(|(node, damage)| drop(world.lab.ssh(node, damage.mend)));
        return as_before(world, before, &[]);
    }
    let mend: Vec<(&str, &str)> = BOTH.iter().zip(&damages).map(|(node, d)| (*node, d.mend)).collect();
    as_before(world, before, &mend);
}

/// Resets the machines and checks that they are as before, and that another reset does nothing. `mend` has the scripts
/// that remove what remains.
fn as_before(world: &World, before: Before, mend: &[(&str, &str)]) {
    let done = reset(world, &BOTH).good();
    assert!(done.changes() > 10, "{done:#?}");
    mend.iter().for_each(|(node, script)| drop(world.lab.ssh(node, script)));
    assert_both_as_before(world, &before);
    assert_eq!(reset(world, &BOTH).good().changes(), 0, "a second reset has nothing to do");
    keep(before);
}

fn assert_both_as_before(world: &World, before: &Before) {
    for (node, before) in BOTH.iter().zip(before) {
        assert_one_as_before(world, node, before);
        assert_eq!(shims(world, node).len(), 0, "{node}");
    }
}

/// Docker runs its containers with the same containerd, in its own namespace.
fn docker(world: &World) {
    cluster(world);
    world.lab.ssh(
        NODE,
        "ctr -n moby images pull --plain-http 198.18.0.1:5000/pause:3.10.2 >/dev/null\n\
         ctr -n moby run -d 198.18.0.1:5000/pause:3.10.2 theirs",
    );
    world.lab.ssh(NODE, NO_CONTAINERD);
    let theirs = world.lab.machine(NODE).running("containerd-shim-runc-v2", &["moby"]);
    let pauses = |world: &World| world.lab.machine(NODE).running("pause", &[]);
    assert!(theirs.len() == 1 && pauses(world).len() > 1, "{theirs:?}");
    let ended = reset(world, &[NODE]);
    let said = ended.events.iter().any(|e| {
        e["line"].as_str().is_some_and(|line| line.contains("it runs containers in these namespaces: moby"))
    });
    assert!(said, "{:#?}", ended.events);
    assert!(shims(world, NODE).is_empty() && theirs.iter().all(alive));
    assert_eq!(pauses(world).len(), 1, "only Docker's container keeps running");
}

/// Takes the lock in the same way as dpkg (fcntl).
const LOCK: &str = r#"cat >/root/lock.pl <<'END'
use Fcntl;
open(F, ">>", "/var/lib/dpkg/lock-frontend") or die;
my $lock = pack("ssx4qqlx4", F_WRLCK, 0, 0, 0, 0);
fcntl(F, F_SETLKW, $lock) or die $!;
sleep 600;
END
systemd-run -q --unit=locker perl /root/lock.pl
sleep 1; rm /root/lock.pl; systemctl is-active -q locker"#;

fn lock(world: &World) {
    let before = cluster(world);
    world.lab.ssh(NODE, LOCK);
    let mut client = world.start(&["reset", "--yes", NODE]);
    client.event("it names the process that holds the lock", 180, |e| {
        let waits = e["for_what"].as_str();
        waits.is_some_and(|what| what.contains("held by process") && what.contains("(perl)"))
    });
    world.lab.ssh(NODE, "systemctl stop locker");
    client.end(PATIENCE).good();
    assert_one_as_before(world, NODE, &before[1]);
    keep(before);
}

const FULL: &str = "cp -a /var/lib/dpkg /root/full; k=$(du -sk /root/full | cut -f 1)\n\
    mount -t tmpfs -o size=$((k + k / 2 + 1024))k full /var/lib/dpkg; cp -a /root/full/. /var/lib/dpkg; rm -r /root/full\n\
    dd if=/dev/zero of=/var/lib/dpkg/big bs=4k 2>/dev/null || :";

fn disk_full(world: &World) {
    let before = cluster(world);
    world.lab.ssh(NODE, FULL);
    let ended = reset(world, &[NODE]);
    assert!(matches!(ended.code, Some(7 | 8)), "{:?}{}{}", ended.code, ended.errors(), ended.stderr);
    let causes: Vec<&str> = ended.causes(NODE).iter().filter_map(|e| e["cause"].as_str()).collect();
    assert_eq!(causes, ["disk-full"], "{}", ended.errors());
    world.lab.ssh(NODE, "rm /var/lib/dpkg/big");
    reset(world, &[NODE]).good();
    let back = "cp -a /var/lib/dpkg /root/full; umount /var/lib/dpkg; find /var/lib/dpkg -mindepth 1 -delete\n\
        cp -a /root/full/. /var/lib/dpkg; rm -r /root/full";
    world.lab.ssh(NODE, back);
    assert_one_as_before(world, NODE, &before[1]);
    keep(before);
}

const STUBBORN: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: stubborn, namespace: default, FINALIZERS}
spec:
  nodeName: w2
  terminationGracePeriodSeconds: SECONDS
  containers:
  - {name: stubborn, image: "docker.io/library/nginx:1", command: [sh, -c, "trap '' TERM; while :; do sleep 1; done"]}
"#;

fn stubborn(world: &World, finalizers: &str, seconds: &str) {
    let pod = STUBBORN.replace("FINALIZERS", finalizers).replace("SECONDS", seconds);
    world.create("stubborn.yaml", &pod);
    world.kubectl(&["wait", "--for=condition=Ready", "pod/stubborn", "--timeout=60s"]);
}

/// The pod is being deleted, so the kubelet waits for its end.
fn ignores_term(world: &World) {
    let before = cluster(world);
    stubborn(world, "", "3600");
    world.kubectl(&["delete", "pod", "stubborn", "--wait=false"]);
    let since = Instant::now();
    as_before(world, before, &[]);
    println!("  two resets took {:.0} s", since.elapsed().as_secs_f64());
    assert!(since.elapsed().as_secs() < 180);
    world.kubectl(&["delete", "pod", "stubborn", "--force", "--grace-period=0", "--ignore-not-found"]);
}

fn finalizer(world: &World) {
    let before = cluster(world);
    stubborn(world, "finalizers: [example.org/mine]", "1");
    world.kubectl(&["delete", "pod", "stubborn", "--wait=false"]);
    let remove = |seconds: &str| {
        world.start(&["remove", "--yes", "--force", "--drain-timeout", seconds, NODE]).end(PATIENCE)
    };
    let ended = remove("8");
    assert_eq!(ended.code, Some(7), "{}{}", ended.errors(), ended.stderr);
    let words = ["default/stubborn is being deleted, but its finalizers keep it", "example.org/mine"];
    assert!(words.iter().all(|word| ended.errors().contains(word)), "{}", ended.errors());
    world.kubectl(&[
        "patch",
        "pod",
        "stubborn",
        "--type",
        "merge",
        "-p",
        r#"{"metadata": {"finalizers": null}}"#,
    ]);
    remove("60").good();
    assert_one_as_before(world, NODE, &before[1]);
    keep(before);
}

/// Mounts a FUSE file system in a pod's volume. Its daemon never answers and is stopped as well. It runs on the host,
/// because the lab's machines have no /dev/fuse.
fn fuse(world: &World, folder: &str) -> Option<Child> {
    let script = "exec 3<>/dev/fuse && nsenter -t $0 -m mount -i -t fuse -o fd=3,rootmode=40000,user_id=0,group_id=0 hung $1 &&\n\
        kill -s STOP $$ && sleep 600";
    let pid = world.lab.run(&["pid", NODE]);
    let child = Command::new("sh").args(["-c", script, pid.trim(), folder]).stdin(Stdio::null()).spawn();
    let mut child = child.unwrap();
    let mounts = format!("/proc/{}/mounts", pid.trim());
    let mounted = || fs::read_to_string(&mounts).unwrap().contains("\nhung ");
    let end = Instant::now() + Duration::from_secs(10);
    while Instant::now() < end && child.try_wait().unwrap().is_none() {
        if mounted() {
            return Some(child);
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    let _ = child.kill();
    let _ = child.wait();
    None
}

fn hung(world: &World) {
    let before = cluster(world);
    let folder = "d=$(ls -d /var/lib/kubelet/pods/*/volumes | head -n 1)/kubernetes.io~csi/hung/mount; mkdir -p $d; echo $d";
    let folder = world.lab.ssh(NODE, folder);
    let Some(mut daemon) = fuse(world, folder.trim()) else {
        println!("  SKIPPED: this host cannot mount a FUSE file system");
        return keep(before);
    };
    let ended = reset(world, &[NODE]);
    let _ = daemon.kill();
    let _ = daemon.wait();
    let ended = ended.good();
    let said =
        |e: &Value| e["line"].as_str().is_some_and(|line| line.contains("ironstrap unmounts it by force"));
    assert!(ended.events.iter().any(said), "{:#?}", ended.events);
    assert_one_as_before(world, NODE, &before[1]);
    keep(before);
}

/// The kubelet's folder is a link to another disk, and containerd's folder is a mount.
fn links(world: &World) {
    let clean = cluster(world);
    reset(world, &[NODE]).good();
    world.lab.ssh(
        NODE,
        "mkdir -p /srv/data/kubelet /srv/data/etc /srv/data/containerd /var/lib/containerd\n\
         ln -s /srv/data/kubelet /var/lib/kubelet; ln -s /srv/data/etc /etc/kubernetes\n\
         mount --bind /srv/data/containerd /var/lib/containerd",
    );
    let before = BOTH.map(|node| look(world, node));
    assert_ne!(before[1], clean[1]);
    world.apply().good();
    as_before(world, [clean[0].clone(), before[1].clone()], &[]);
    assert_eq!(
        world.lab.ssh(NODE, "find /srv/data -mindepth 2; grep -c /srv/data/ /proc/mounts || :").trim(),
        "0"
    );
    // Other scenarios need machines without these links.
    BEFORE.lock().unwrap().take();
}
