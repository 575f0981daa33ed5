//! The errors for broken inventories, and the meaning of valid ones. Each broken inventory is a file in
//! `tests/inventories`, with its error beside it.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use ironstrap::cluster::{Cluster, Network, Origin, Role};
use ironstrap::error::{Error, Kind};
use ironstrap::inventory::{self, reference};

fn minimal(more: &str) -> Result<Cluster, Error> {
    let text = fs::read_to_string("inventories/minimal.toml").expect("the example is there");
    inventory::parse(&format!("{text}\n{more}"), Path::new("demo.toml"))
}

#[test]
fn every_broken_inventory_is_reported_as_reviewed() {
    let mut files: Vec<PathBuf> =
        fs::read_dir("tests/inventories").unwrap().map(|file| file.unwrap().path()).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "toml"));
    files.sort();
    assert!(files.len() >= 35, "only {} broken inventories", files.len());
    for file in files {
        let error = inventory::read(&file).expect_err(&file.display().to_string());
        assert_eq!(error.kind, Kind::Inventory);
        let mut settings = insta::Settings::clone_current();
        settings.set_snapshot_path("../inventories");
        settings.set_prepend_module_to_snapshot(false);
        settings.set_omit_expression(true);
        let name = file.file_stem().unwrap().to_str().unwrap().to_string();
        settings.bind(|| insta::assert_snapshot!(name, format!("error: {error}")));
    }
}

#[test]
fn a_missing_inventory_is_reported() {
    let error = inventory::read(Path::new("tests/inventories/nowhere.toml")).unwrap_err();
    assert_eq!(
        error.to_string(),
        "cannot read the inventory tests/inventories/nowhere.toml: there is no such file\n      \
         hint: name it with -i FILE, or create one with `ironstrap new`"
    );
    assert_eq!(error.kind, Kind::Inventory);
}

#[test]
fn an_inventory_that_is_not_text_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("demo.toml");
    fs::write(&path, b"\xff\xfe[cluster]").unwrap();
    assert!(inventory::read(&path).unwrap_err().what.ends_with("demo.toml: it is not text"));
}

#[test]
fn the_minimal_example_gets_the_defaults() {
    let cluster = inventory::read(Path::new("inventories/minimal.toml")).unwrap();
    assert_eq!(cluster.name, "demo");
    assert_eq!(cluster.kubernetes.to_string(), "1.36.3");
    assert_eq!(cluster.pods.to_string(), "10.244.0.0/16");
    assert_eq!(cluster.services.to_string(), "10.96.0.0/12");
    assert_eq!(cluster.domain, "cluster.local");
    assert_eq!(cluster.endpoint.to_string(), "api.demo.internal:6443");
    assert!(cluster.endpoint.managed);
    assert!(
        matches!(&cluster.network, Network::Flannel(flannel) if flannel.image == "docker.io/flannel/flannel:v0.27.4")
    );
    assert_eq!(cluster.packages.kubernetes, "https://pkgs.k8s.io/core:/stable:/v1.36/deb/");
    assert_eq!(cluster.image_repository, "registry.k8s.io");
    assert_eq!(cluster.dir, Path::new("inventories"));
    let names: Vec<&str> = cluster.nodes.iter().map(|node| node.name.as_str()).collect();
    assert_eq!(names, ["m1", "w1"]);
    let m1 = &cluster.nodes[0];
    assert_eq!((m1.role, m1.ip), (Role::ControlPlane, "198.18.0.11".parse::<IpAddr>().unwrap()));
    assert_eq!((m1.ssh.host.as_str(), m1.ssh.port, &m1.ssh.user), ("198.18.0.11", None, &None));
    assert_eq!((&m1.ssh.key, &m1.taints), (&None, &None));
}

#[test]
fn the_full_example_is_read_correctly() {
    let cluster = inventory::read(Path::new("inventories/full.toml")).unwrap();
    assert_eq!(cluster.kubelet["maxPods"], 200);
    assert_eq!(cluster.api_server[1], ("profiling".to_string(), "false".to_string()));
    assert_eq!(cluster.etcd, [("quota-backend-bytes".to_string(), "8589934592".to_string())]);
    assert_eq!(cluster.kubeadm["apiServer"]["extraVolumes"][0]["name"], "zoneinfo");
    assert_eq!((cluster.coredns.replicas, &cluster.coredns.corefile), (Some(3), &None));
    assert!(!cluster.endpoint.managed);
    assert!(!cluster.registries[0].fallback && cluster.registries[1].skip_verify);
    let cri = &cluster.containerd["plugins"]["io.containerd.grpc.v1.cri"];
    assert_eq!(cri["max_concurrent_downloads"].as_integer(), Some(6));
    let names: Vec<&str> = cluster.addons.iter().map(|addon| addon.name.as_str()).collect();
    assert_eq!(names, ["dashboard", "dashboard-admin"], "addons keep the order of the file");
    let admin = &cluster.addons[1];
    assert_eq!((admin.origin.clone(), admin.wait, admin.objects.len()), (Origin::File, true, 2));
    let line = fs::read_to_string("inventories/full.toml").unwrap();
    let line = line.lines().position(|line| line.contains("dashboard-admin.yaml")).unwrap() + 1;
    assert_eq!(admin.written, format!("inventories/full.toml:{line}"));
    let m1 = cluster.node("m1").unwrap();
    assert_eq!((m1.ssh.host.as_str(), m1.ssh.port), ("m1.example.com", Some(2222)));
    assert_eq!(m1.ssh.jump, Some(vec![]));
    assert!(m1.ssh.host_key.as_deref().unwrap().starts_with("SHA256:"));
    assert_eq!(m1.taints, Some(vec![]));
    let w03 = cluster.node("w03").unwrap();
    assert_eq!((w03.ssh.host.as_str(), w03.ssh.user.as_deref()), ("198.18.0.23", Some("debian")));
    assert_eq!(w03.ssh.jump.as_deref().unwrap(), ["ops@bastion.example.com:2222"]);
    assert_eq!(w03.labels["example.com/rack"], "a1");
    assert_eq!(w03.taints.as_ref().unwrap()[1].to_string(), "example.com/old:NoExecute");
    assert_eq!(w03.ssh.known_hosts.as_deref(), Some(Path::new("inventories/known_hosts")));
}

/// `full.toml` with its `n`-th commented line in place of the line for the same field in that table.
fn with_comment(text: &str, n: usize) -> Option<String> {
    let lines: Vec<&str> = text.lines().collect();
    let field = |line: &str| {
        let name = line.trim_start_matches("# ").split(" = ").next().unwrap_or_default();
        name.trim_end_matches("-file").to_string()
    };
    let commented = |line: &str| line.starts_with("# ") && line.contains(" = ");
    let at = lines.iter().enumerate().filter(|(_, line)| commented(line)).nth(n)?.0;
    let head = lines[..at].iter().rposition(|line| line.starts_with('['));
    let chosen = lines.iter().enumerate().map(|(i, line)| match i {
        _ if i == at => line.trim_start_matches("# "),
        _ if head < Some(i) && i < at && field(line) == field(lines[at]) => "",
        _ => line,
    });
    Some(
        chosen.collect::<Vec<_>>().join("\n").replace("~/.ssh/", "").replace(
            "[flannel]",
            if lines[at].contains("manifests") { "[containerd.x]" } else { "[flannel]" },
        ),
    )
}

#[test]
fn commented_lines_of_the_full_example_are_valid() {
    let text = fs::read_to_string("inventories/full.toml").unwrap();
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("addons")).unwrap();
    fs::copy("inventories/addons/dashboard-admin.yaml", dir.path().join("addons/dashboard-admin.yaml"))
        .unwrap();
    for (name, content) in [
        ("id_ed25519", "-----BEGIN OPENSSH PRIVATE KEY-----"),
        ("worker.key", "-----BEGIN OPENSSH PRIVATE KEY-----"),
        ("Corefile", ".:53 {\n    forward . 192.0.2.1\n}\n"),
        ("mirror-ca.pem", include_str!("../inventories/mirror-ca.pem")),
        ("kubernetes.asc", include_str!("../keys/kubernetes.asc")),
        ("registry.password", "sesame 7\n"),
        ("calico.yaml", "---\napiVersion: v1\nkind: Namespace\nmetadata: {name: a}\n---\n"),
    ] {
        fs::write(dir.path().join(name), content).unwrap();
    }
    let cases = (0..).map_while(|n| with_comment(&text, n));
    let read = cases.map(|case| {
        inventory::parse(&case, &dir.path().join("full.toml")).unwrap_or_else(|error| panic!("{error}"))
    });
    let read: Vec<Cluster> = read.collect();
    assert_eq!(read.len(), 7);
    assert!(matches!(&read[0].network, Network::Manifests(all) if all[0].objects[0]["kind"] == "Namespace"));
    assert_eq!(read[1].nodes[0].ssh.key, Some(dir.path().join("id_ed25519")));
    assert_eq!(read[2].coredns.corefile.as_deref(), Some(".:53 {\n    forward . 192.0.2.1\n}\n"));
    assert_eq!(read[3].registries[0].ca.as_deref(), Some(include_str!("../inventories/mirror-ca.pem")));
    let login = read[4].registries[2].login.as_ref().unwrap();
    assert_eq!((login.user.as_str(), login.password.reveal()), ("robot$pull", "sesame 7"));
    assert!(read[5].packages.key.is_some());
    assert!(read.iter().all(|cluster| cluster.warnings.is_empty()));
    assert!(matches!(&read[6].addons[0].origin, Origin::Url { sha256: Some(hash), .. } if hash.len() == 64));
    assert_eq!(read[6].nodes[1].ssh.key, Some(dir.path().join("worker.key")));
}

#[test]
fn tables_of_other_programs_keep_all_values() {
    let more = r#"
        [kubelet]
        podPidsLimit = 9_000_000_000
        memoryThrottlingFactor = 0.5
        registerNode = false
        tlsCipherSuites = ["one", "two"]
        shutdownGracePeriodByPodPriority = [{ priority = 1 }]
        [api-server]
        feature-gates = ["A=true", "B=false"]
        [containerd]
        version = 2
        debug.level = "info"
    "#;
    let cluster = minimal(more).unwrap();
    let expected = r#"{"memoryThrottlingFactor":0.5,"podPidsLimit":9000000000,"registerNode":false,"shutdownGracePeriodByPodPriority":[{"priority":1}],"tlsCipherSuites":["one","two"]}"#;
    assert_eq!(serde_json::to_string(&cluster.kubelet).unwrap(), expected);
    let gate = |value: &str| ("feature-gates".to_string(), value.to_string());
    assert_eq!(cluster.api_server, [gate("A=true"), gate("B=false")]);
    assert_eq!(cluster.containerd["debug"]["level"].as_str(), Some("info"));
}

#[test]
fn settings_that_repeat_ironstraps_are_allowed() {
    let more = "
        [kubelet]
        cgroupDriver = 'systemd'
        failSwapOn = false
        [containerd.plugins.'io.containerd.grpc.v1.cri'.containerd.runtimes.runc.options]
        SystemdCgroup = true
    ";
    minimal(more).unwrap_or_else(|error| panic!("{error}"));
}

#[test]
fn the_pod_range_has_room_for_all_nodes() {
    let text = fs::read_to_string("tests/inventories/ranges-too-few-nodes.toml").unwrap();
    let with = |size: u8| {
        let more = format!("{text}\n[controller-manager]\nnode-cidr-mask-size = {size}\n");
        inventory::parse(&more, Path::new("demo.toml"))
    };
    assert!(with(25).is_ok(), "four nodes of a /25 each");
    assert!(with(24).unwrap_err().to_string().contains("has room for 2 nodes with a /24 each"));
    assert!(with(22).unwrap_err().to_string().contains("each node takes a /22 for its pods"));
    let small = fs::read_to_string("tests/inventories/ranges-pods-too-small.toml").unwrap();
    let more = format!("{small}\n[controller-manager]\nnode-cidr-mask-size-ipv4 = 26\n");
    assert!(inventory::parse(&more, Path::new("demo.toml")).is_ok(), "two nodes of a /26 each");
}

#[test]
fn a_cluster_may_be_ipv6_only() {
    let text = r#"
        [cluster]
        name = "six"
        kubernetes = "v1.36.3"
        network = "none"
        pods = "fd00:10:244::/56"
        services = "fd00:10:96::/112"
        [nodes.m1]
        address = "[fd00::11]:2222"
        role = "control-plane"
        [nodes."w[1-2]"]
        address = "fd00::2[1-2]"
        role = "worker"
    "#;
    let cluster = inventory::parse(text, Path::new("demo.toml")).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(cluster.kubernetes.to_string(), "1.36.3");
    assert_eq!((cluster.nodes[0].ssh.host.as_str(), cluster.nodes[0].ssh.port), ("fd00::11", Some(2222)));
    assert_eq!(cluster.nodes[2].ip, "fd00::22".parse::<IpAddr>().unwrap());
}

#[test]
fn an_image_is_named_by_tag_by_digest_or_by_both() {
    let digest = "a".repeat(64);
    for image in [
        "r.io:5000/x:v1".to_string(),
        format!("r.io:5000/x@sha256:{digest}"),
        format!("r.io:5000/x:v1@sha256:{digest}"),
    ] {
        let cluster = minimal(&format!("[flannel]\nimage = '{image}'\nplugin = '{image}'\n")).unwrap();
        let Network::Flannel(flannel) = &cluster.network else { panic!() };
        assert_eq!((&flannel.image, &flannel.plugin), (&image, &image));
    }
}

#[test]
fn only_certificates_and_keys_of_files_reach_machines() {
    let dir = tempfile::tempdir().unwrap();
    let (ca, key) = (include_str!("../inventories/mirror-ca.pem"), include_str!("../keys/other.asc"));
    fs::write(dir.path().join("ca.pem"), format!("password: hunter2\n{ca}more\n{ca}")).unwrap();
    fs::write(dir.path().join("k.asc"), format!("password: hunter2\n{key}more\n")).unwrap();
    let text = "[cluster]\nname = 'demo'\nkubernetes = '1.36.3'\n[registries.'r.io']\nmirrors = ['https://m.io']\nca = 'ca.pem'\n\
        [packages]\nkey = 'k.asc'\n[nodes.m1]\naddress = '198.18.0.11'\nrole = 'control-plane'\n";
    let parse = |text: &str| {
        inventory::parse(text, &dir.path().join("demo.toml")).unwrap_or_else(|error| panic!("{error}"))
    };
    let cluster = parse(text);
    assert_eq!(cluster.registries[0].ca, Some(format!("{ca}{ca}")));
    assert_eq!(cluster.packages.key.as_deref(), Some(key));
    let place = format!("{}:8: ", dir.path().join("demo.toml").display());
    let told = "this is not the known signing key of pkgs.k8s.io: its fingerprint is \
                F16CCF68362E170D47EE5AA83D130A3219ACBF0A, not DE15B14486CD377B9E876E1A234654DA9A296436";
    assert_eq!(cluster.warnings, [format!("{place}{told}")]);
    let own = text.replace("[packages]", "[packages]\nkubernetes = 'https://packages.example.com/'");
    assert_eq!(parse(&own).warnings, Vec::<String>::new());
}

#[test]
fn nodes_keep_the_order_of_the_file() {
    let more = "[nodes.b]\naddress = '198.18.0.13'\nrole = 'worker'\n[nodes.a]\naddress = '198.18.0.14'\nrole = 'worker'";
    let cluster = minimal(more).unwrap();
    let names: Vec<&str> = cluster.nodes.iter().map(|node| node.name.as_str()).collect();
    assert_eq!(names, ["m1", "w1", "b", "a"]);
}

#[test]
fn broken_inventories_cause_no_panic() {
    let full = fs::read_to_string("inventories/full.toml").unwrap();
    let path = Path::new("inventories/full.toml");
    for end in (0..full.len()).step_by(11) {
        let _ = inventory::parse(&full[..end], path);
    }
    let lines: Vec<&str> = full.lines().collect();
    for n in 0..lines.len() {
        let without: Vec<&str> =
            lines.iter().enumerate().filter(|(i, _)| *i != n).map(|(_, line)| *line).collect();
        let _ = inventory::parse(&without.join("\r\n"), path);
        for value in ["'é\t字'", "[[]]", "{ a = {} }", "-1", "1979-05-27", "[1, 'x']", "''"] {
            let mut with = lines.clone();
            let changed = lines[n].split_once(" = ").map(|(name, _)| format!("{name} = {value}"));
            with[n] = changed.as_deref().unwrap_or(lines[n]);
            let _ = inventory::parse(&with.join("\n"), path);
        }
    }
}

/// A TOML file as JSON, or none if it is no TOML.
fn as_json(path: &Path) -> Option<serde_json::Value> {
    toml::from_str(&fs::read_to_string(path).ok()?).ok()
}

/// Words of errors that a schema finds, too: those about names of fields and types of values.
const SEEN_BY_A_SCHEMA: [&str; 5] =
    ["no such field", "no such table", "is missing: ", "] lacks `", "is empty; it must list"];

#[test]
fn the_schema_accepts_examples_and_rejects_mistakes() {
    let schema = jsonschema::validator_for(&reference::schema()).unwrap();
    for example in
        ["inventories/minimal.toml", "inventories/full.toml", "vagrant/demo.toml", "tests/lab/inventory.toml"]
    {
        let json = as_json(Path::new(example)).unwrap();
        let errors: Vec<String> =
            schema.iter_errors(&json).map(|error| format!("{}: {error}", error.instance_path())).collect();
        assert_eq!(errors, Vec::<String>::new(), "{example}");
    }
    let mut rejected = 0;
    for report in fs::read_dir("tests/inventories").unwrap().map(|file| file.unwrap().path()) {
        let Some(json) = as_json(&report).filter(|_| report.extension().is_some_and(|end| end == "toml"))
        else {
            continue;
        };
        let words = fs::read_to_string(report.with_extension("snap")).unwrap();
        if SEEN_BY_A_SCHEMA.iter().any(|seen| words.contains(seen)) {
            assert!(!schema.is_valid(&json), "{}", report.display());
            rejected += 1;
        }
    }
    assert!(rejected >= 12, "only {rejected}");
}

#[test]
fn every_field_is_explained_with_an_example() {
    let all = reference::explain(None).unwrap();
    for table in all.lines().filter_map(|line| line.strip_prefix('[')?.split_once(']')).map(|(name, _)| name)
    {
        let table = table.trim_end_matches(".NAME");
        let text = reference::explain(Some(table)).unwrap();
        let fields = text.lines().filter_map(|line| line.strip_prefix("  ")?.split_once("  "));
        for (field, _) in fields.filter(|(field, _)| !field.is_empty()) {
            let text = reference::explain(Some(&format!("{table}.{field}"))).unwrap();
            assert!(text.contains(&format!("    {field} = ")), "{table}.{field}: {text}");
        }
    }
    let of_two = reference::explain(Some("port")).unwrap();
    assert!(of_two.contains("[ssh] port") && of_two.contains("[nodes.NAME] port"), "{of_two}");
    for path in ["nodes.taints", "nodes.m1.taints", "taints"] {
        assert!(reference::explain(Some(path)).unwrap().starts_with("[nodes.NAME] taints: "), "{path}");
    }
    for (path, begins) in [
        ("cluster.network.manifests", "[cluster] network: "),
        ("nodes.m1.kubelet.maxPods", "[nodes.NAME] kubelet: "),
        ("kubelet.maxPods", "[kubelet]"),
    ] {
        assert!(reference::explain(Some(path)).unwrap().starts_with(begins), "{path}");
    }
    let error = reference::explain(Some("nodes.taint")).unwrap_err();
    assert_eq!((error.kind, error.hint.unwrap().contains("did you mean nodes.taints?")), (Kind::Usage, true));
}
