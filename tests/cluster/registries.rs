//! A registry that requires a login. A wrong login or path is found before the first change. With the right login,
//! containerd and the kubelet pull all images.

use std::fs;
use std::process::{Child, Command};

use toml::Table;

use crate::lab::{Lab, assert_untouched};
use crate::world::{World, set};
use crate::{Ground, Scenario, so, until};

pub const SCENARIOS: &[Scenario] = &[Scenario {
    says: "a wrong registry login is found before the first change, and the right one pulls everything",
    ground: Ground::Fresh,
    run: with_a_login,
}];

const PASSWORD: &str = "sesame-open-7";
/// The user robot$lab with that password, in the format of `htpasswd -B`.
const USERS: &str = "robot$lab:$2b$05$abcdefghijklmnopqrstuuzvO3BmEUqIMYxPl2chH.hi6P98/.ni6\n";

/// A second registry with the lab's images, on port 5001, that requires a login. `drop` ends it.
struct Registry(Child, String);

impl Registry {
    fn start(world: &World) -> Registry {
        let part = |name: &str| world.lab.run(&["part", name]).trim().to_string();
        let (config, users, pid) = ["registry.yml", "users", "registry.pid"]
            .map(|name| world.dir.join(name).display().to_string())
            .into();
        fs::write(&users, USERS).unwrap();
        let text = format!(
            "version: 0.1\nlog: {{level: warn, accesslog: {{disabled: true}}}}\nstorage:\n  filesystem: {{rootdirectory: {}/store}}\n  \
             maintenance: {{readonly: {{enabled: true}}}}\nhttp: {{addr: \"198.18.0.1:5001\"}}\nauth: {{htpasswd: {{realm: lab, path: {users}}}}}\n",
            part("registry")
        );
        fs::write(&config, text).unwrap();
        let run = format!("echo $$ >{pid}; exec {}/docker-registry serve {config}", part("distribution"));
        let child = world.lab.begin(&["exec", "sh", "-c", &run]);
        let answers = ["exec", "bash", "-c", "exec 3<>/dev/tcp/198.18.0.1/5001"];
        until("the registry answers", 20, || so(world.lab.try_run(&answers).status.success()));
        Registry(child, fs::read_to_string(pid).unwrap().trim().to_string())
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = Command::new("kill").arg(&self.1).status();
        let _ = self.0.wait();
    }
}

/// Reduces the inventory to one machine that pulls all images from `url`.
fn from(inventory: &mut Table, url: &str) {
    for node in ["w1", "w2"] {
        inventory["nodes"].as_table_mut().unwrap().remove(node);
    }
    for host in ["registry.k8s.io", "docker.io"] {
        set(inventory, &["registries", host, "mirrors"], &format!("[{url:?}]"));
    }
}

fn login(inventory: &mut Table) {
    for host in ["registry.k8s.io", "docker.io"] {
        set(inventory, &["registries", host, "user"], "'robot$lab'");
        set(inventory, &["registries", host, "password-file"], "'registry.password'");
    }
}

const URL: &str = "http://198.18.0.1:5001";

fn with_a_login(world: &World) {
    let _registry = Registry::start(world);
    let password = |text: &str| fs::write(world.dir.join("registry.password"), format!("{text}\n")).unwrap();
    let before = world.lab.look_at_all();
    world.inventory(|i| from(i, URL));
    let refused = world.apply().refused(5, "m1", &["cannot be pulled", "it requires a login"]);
    let hints: Vec<&str> = refused.events.iter().filter_map(|event| event["hint"].as_str()).collect();
    assert!(hints.iter().any(|hint| hint.contains("password-file")), "{hints:?}");
    password("sesame-open-8");
    world.inventory(|i| (from(i, URL), login(i)).1);
    world.apply().refused(5, "m1", &["cannot be pulled", "it refuses the login of robot$lab"]);
    password(PASSWORD);
    world.inventory(|i| (from(i, &format!("{URL}/v2/nowhere")), login(i)).1);
    world.apply().refused(
        5,
        "m1",
        &["cannot be pulled", "/v2/nowhere/pause/manifests/", "it has no such image"],
    );
    assert_untouched(&before, &world.lab.look_at_all());

    world.inventory(|i| (from(i, URL), login(i)).1);
    let made = world.apply();
    assert!(!made.stderr.contains(PASSWORD) && !made.errors().contains(PASSWORD));
    made.good();
    world.plan().good();
    let m1 = |script: &str| world.lab.ssh("m1", script);
    assert_eq!(m1("stat -c '%a %U' /etc/containerd/config.toml").trim(), "600 root");
    assert_eq!(
        m1("grep -rlF sesame-open /etc /var/lib/ironstrap /run /var/log 2>/dev/null || :").trim(),
        CONFIG
    );
    pulls(&world.lab);
    // An apply restores the password, and the next pull uses it.
    m1("sed -i 's/sesame-open-7/sesame-open-8/' /etc/containerd/config.toml");
    world.apply().good();
    pulls(&world.lab);
    world.start(&["reset", "--yes"]).end(120).good();
    let left = m1("grep -rlF sesame-open /etc /var/lib /run /var/log 2>/dev/null || :");
    assert!(left.trim().is_empty(), "{left}");
}

const CONFIG: &str = "/etc/containerd/config.toml";

/// Starts a static pod with an image that the machine does not have, so containerd must log in and pull it.
fn pulls(lab: &Lab) {
    let pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: pull, namespace: kube-system}\n\
               spec:\n  hostNetwork: true\n  containers:\n  - {name: web, image: docker.io/library/nginx:1, imagePullPolicy: Always}\n";
    lab.ssh("m1", "ctr -n k8s.io images rm docker.io/library/nginx:1 >/dev/null 2>&1 || :");
    lab.ssh("m1", &format!("cat >/etc/kubernetes/manifests/pull.yaml <<'E'\n{pod}E"));
    until("containerd pulls nginx", 90, || {
        so(lab.ssh("m1", "ctr -n k8s.io images ls -q").contains("docker.io/library/nginx:1\n"))
    });
    lab.ssh("m1", "rm /etc/kubernetes/manifests/pull.yaml");
}
