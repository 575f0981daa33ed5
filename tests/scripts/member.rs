//! The fixes of step member, in every shell. Members get their Node and etcd's manifest back. Other tests are about the
//! credentials of init and join.

use std::fs;
use std::path::Path;

use ironstrap::fleet::Fleet;
use ironstrap::machine::Machine;
use ironstrap::shell::Sh;
use ironstrap::step::Fix;
use time::OffsetDateTime;

use crate::support::{self, root::Root};

/// The fix of a want of step member for this node. Its Node does not exist, and other Nodes have these pod ranges.
fn fix(node: usize, id: &str, ranges: &[&str]) -> Sh {
    let cluster = support::lab();
    let node = &cluster.nodes[node];
    let has = ["kubelet.conf", "client-certificate", "receipt", "manifests/kube-apiserver.yaml"];
    let machine = Machine { has: has.map(String::from).into(), ..Machine::default() };
    let fleet = Fleet {
        exists: true,
        unregistered: [node.name.clone()].into(),
        ranges: ranges.iter().map(|range| range.to_string()).collect(),
        ..Fleet::default()
    };
    let own = fleet.own(&node.name);
    let wants = support::wants(
        (&cluster, node),
        &support::pki(&cluster),
        (&machine, &own),
        OffsetDateTime::now_utc(),
    );
    let want =
        wants.into_iter().find(|(_, step, want)| *step == "member" && want.id.to_string() == id).unwrap().2;
    match want.fix {
        Fix::Run(script) | Fix::Unit { script, .. } => script,
        other => panic!("{other:?}"),
    }
}

/// The script with its paths below this folder.
fn moved(script: &str, root: &Path) -> String {
    let dirs = ["/run/", "/etc/kubernetes/", "/var/lib/etcd"];
    dirs.iter()
        .fold(script.to_string(), |script, dir| script.replace(dir, &format!("{}{dir}", root.display())))
}

/// The Node that the fix creates, or nothing. `flannel`: the file in which flannel recorded the pod ranges of the node.
/// `ranges`: pod ranges of other Nodes. The kubelet has been running for an hour.
fn recreated_node(flannel: &str, ranges: &[&str]) -> String {
    recreated_node_after(3600, flannel, ranges)
}

/// The same with a kubelet that has been running for this many seconds.
fn recreated_node_after(seconds: u32, flannel: &str, ranges: &[&str]) -> String {
    let fix = fix(1, "member.node-object", ranges);
    let (making, _) = fix.split_once("[ -n \"$made\" ]").unwrap();
    let ran = support::shells().into_iter().map(|shell| {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("run/flannel")).unwrap();
        fs::write(root.path().join("run/flannel/subnet.env"), flannel).unwrap();
        let head = format!(
            "set -eu\nkubectl() {{ cat >{}/made; }}\ndpkg() {{ echo arm64; }}\n\
             systemctl() {{ case $1 in show) date -d '-{seconds} seconds' ;; is-active) true ;; esac; }}\n",
            root.path().display()
        );
        let output = support::run(shell, &(head + &moved(making, root.path())));
        assert!(output.status.success(), "{shell}: {output:?}");
        fs::read_to_string(root.path().join("made")).unwrap_or_default().trim().to_string()
    });
    let ran: Vec<String> = ran.collect();
    assert!(ran.iter().all(|made| *made == ran[0]), "every shell does the same: {ran:?}");
    ran[0].clone()
}

/// The files of ironstrap that can hold a credential, if they exist.
fn lent(root: &Root) -> Vec<String> {
    let files =
        ["kubeadm.yaml", "discovery.conf", "masters.conf"].map(|name| format!("run/ironstrap/{name}"));
    files.into_iter().filter(|name| root.has(name)).collect()
}

#[test]
fn a_recreated_node_keeps_its_pod_range_if_it_is_free() {
    let four = "FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET=10.244.1.1/24\nFLANNEL_MTU=1450\n";
    let node: serde_json::Value = serde_json::from_str(&recreated_node(four, &["10.244.0.0/24"])).unwrap();
    assert_eq!(node["metadata"]["name"], "w1");
    assert_eq!(node["metadata"]["labels"]["kubernetes.io/arch"], "arm64");
    assert_eq!(node["spec"]["podCIDR"], "10.244.1.0/24");
    assert_eq!(node["spec"]["podCIDRs"], serde_json::json!(["10.244.1.0/24"]));
    let both = format!("{four}FLANNEL_IPV6_NETWORK=fd00::/48\nFLANNEL_IPV6_SUBNET=fd00:0:0:1::1/64\n");
    let node: serde_json::Value = serde_json::from_str(&recreated_node(&both, &[])).unwrap();
    assert_eq!(node["spec"]["podCIDR"], "10.244.1.0/24");
    assert_eq!(node["spec"]["podCIDRs"], serde_json::json!(["10.244.1.0/24", "fd00:0:0:1::/64"]));
    assert_eq!(recreated_node("FLANNEL_SUBNET=10.244.1.129/25\n", &[]).matches("10.244.1.128/25").count(), 2);
    for taken in ["10.244.1.0/24", "fd00:0:0:1::/64"] {
        assert_eq!(recreated_node(&both, &[taken]), "", "another Node has {taken}");
    }
    assert_eq!(recreated_node("", &[]), "", "flannel never ran here");
    assert_eq!(
        recreated_node_after(15, four, &[]),
        "",
        "a kubelet that has just started would reject its static pods"
    );
}

/// Runs the fix that rewrites etcd's manifest. `old`: lines of the old manifest. `data`: whether etcd has data. Returns
/// whether the fix succeeded, its output, and the new manifest.
fn rewritten_etcd_manifest(old: &str, data: bool) -> (bool, String, String) {
    let fix = fix(0, "member.kubeadm-files", &[]);
    let from = fix.find("etcd_is() {").unwrap();
    let to = fix.find("kubeadm init phase control-plane").unwrap();
    let ran = support::shells().into_iter().map(|shell| {
        let root = tempfile::tempdir().unwrap();
        let path = |name: &str| root.path().join(name);
        fs::create_dir_all(path("etc/kubernetes/manifests")).unwrap();
        fs::create_dir_all(path("run/ironstrap")).unwrap();
        fs::create_dir_all(path(if data { "var/lib/etcd/member" } else { "var/lib/etcd" })).unwrap();
        fs::create_dir_all(path("data/etcd/member")).unwrap();
        let old = old.replace("/data/etcd", &path("data/etcd").display().to_string());
        fs::write(path("etc/kubernetes/manifests/etcd.yaml"), old).unwrap();
        let new = format!(
            "    - --data-dir={}\\n    - --initial-cluster=m1=https://a:2380\\n    - --new-flag=1\\n",
            path("var/lib/etcd").display()
        );
        let head = format!(
            "set -eu\nRUN={}\nc=config\nkubeadm() {{ printf '{new}' >$KUBEADM_INIT_DRYRUN_DIR/etcd.yaml; }}\nwrite_file() {{ cat >\"$1\"; }}\n",
            path("run/ironstrap").display()
        );
        let output = support::run(shell, &(head + &moved(&fix[from..to], root.path())));
        let manifest = fs::read_to_string(path("etc/kubernetes/manifests/etcd.yaml")).unwrap();
        (
            output.status.success(),
            String::from_utf8(output.stdout).unwrap().replace(&root.path().display().to_string(), ""),
            manifest.replace(&root.path().display().to_string(), ""),
        )
    });
    let ran: Vec<_> = ran.collect();
    assert!(ran.iter().all(|one| *one == ran[0]), "every shell does the same: {ran:?}");
    ran[0].clone()
}

#[test]
fn a_new_etcd_manifest_keeps_its_cluster_and_needs_data() {
    let joined = "    - --initial-cluster=m2=https://b:2380,m1=https://a:2380\n    - --initial-cluster-state=existing\n";
    let (good, _, manifest) = rewritten_etcd_manifest(&format!("    - --old-flag=1\n{joined}"), true);
    assert!(good && manifest.contains(joined) && manifest.contains("--new-flag=1"), "{manifest}");
    assert!(!manifest.contains("--old-flag"), "{manifest}");
    let (good, _, manifest) = rewritten_etcd_manifest("    - --initial-cluster=m1=https://a:2380\n", true);
    assert!(good && !manifest.contains("existing") && manifest.contains("--new-flag=1"), "{manifest}");
    let (good, said, manifest) = rewritten_etcd_manifest(joined, false);
    assert!(!good && said.contains("etcd's data in /var/lib/etcd/member is missing"), "{said}");
    assert_eq!(manifest, joined, "the manifest is unchanged");
}

#[test]
fn etcd_is_not_started_in_another_data_folder() {
    for data in [true, false] {
        let old = "    - --data-dir=/data/etcd\n";
        let (good, said, manifest) = rewritten_etcd_manifest(old, data);
        assert!(
            !good && said.contains("etcd keeps its data in /data/etcd, but the inventory says /var/lib/etcd"),
            "{said}"
        );
        assert_eq!(manifest, old);
    }
    let (good, _, manifest) = rewritten_etcd_manifest("    - --data-dir=/data/moved\n", true);
    assert!(good && manifest.contains("--data-dir=/var/lib/etcd"), "the user moved it: {manifest}");
}

const CREDENTIAL: &str = "credential() {
cat <<'LENT'
clusters:
- cluster:
    certificate-authority-data: QUJD
users:
- user:
    client-certificate-data: LS0tLS1CRUdJTiBDRVJUSUZJQ0FURS0tLS0tCkxFTlQKLS0tLS1FTkQgQ0VSVElGSUNBVEUtLS0tLQo=
    client-key-data: U0VDUkVU
LENT
}
";

/// The fix with a credential before it, as ironstrap sends it.
fn with_credential(fix: &str) -> String {
    CREDENTIAL.to_string() + fix
}

/// The fix of a want of step member, on a machine with these traces. m1 is the init node of the fleet.
fn member_fix(node: usize, id: &str, has: &[&str]) -> String {
    let cluster = support::lab();
    let machine = Machine { has: has.iter().map(|trace| trace.to_string()).collect(), ..Machine::default() };
    let fleet = Fleet { exists: true, init_node: "m1".into(), ..Fleet::default() };
    let known = (&machine, &fleet);
    let wants = support::wants(
        (&cluster, &cluster.nodes[node]),
        &support::pki(&cluster),
        known,
        OffsetDateTime::now_utc(),
    );
    let want =
        wants.into_iter().find(|(_, step, want)| *step == "member" && want.id.to_string() == id).unwrap().2;
    match want.fix {
        Fix::Run(script) | Fix::Unit { script, .. } => script.to_string(),
        other => panic!("{other:?}"),
    }
}

/// Stubs: no units, no log, and nothing that watches kubeadm.
const QUIET: &str = "systemctl() { :; }\njournalctl() { :; }\nrun_unless_fatal() { \"$@\"; }\n";
/// A stub of kubeadm. Like kubeadm, it copies the discovery file for the kubelet, which joins with it.
const JOINS: &str = "kubeadm() {
  case $1 in config) return 0 ;; esac
  grep -q client-key-data: /run/ironstrap/discovery.conf && [ -e /run/ironstrap/kubeadm.yaml ]
  stat -c %a /run/ironstrap/discovery.conf >/run/mode
  mkdir -p /etc/kubernetes; cp /run/ironstrap/discovery.conf /etc/kubernetes/bootstrap-kubelet.conf
  END
}
";
const BOOTSTRAP: &str = "etc/kubernetes/bootstrap-kubelet.conf";
const CURRENT: &str = "var/lib/kubelet/pki/kubelet-client-current.pem";

#[test]
fn a_failed_or_stopped_join_leaves_no_credential() {
    let fix = member_fix(1, "member.joined", &[]);
    for shell in support::shells() {
        for (end, status) in
            [("return 1", 1), ("kill -s TERM $$; sleep 0.1", 143), ("kill -s HUP $$; sleep 0.1", 129)]
        {
            let root = Root::with_files(&[]);
            let output =
                root.fixes(shell, &(QUIET.to_string() + &JOINS.replace("END", end)), &with_credential(&fix));
            assert_eq!(output.status.code(), Some(status), "{shell}: {end}: {output:?}");
            assert_eq!(lent(&root), [""; 0], "{shell}: {end}");
            assert_eq!(root.read("run/mode").trim(), "600", "{shell}");
            let left = root.read(BOOTSTRAP);
            assert!(
                left.contains("certificate-authority-data: QUJD"),
                "it shows that a join was begun: {left}"
            );
            assert!(!left.contains("client-key-data"), "{shell}: {end}: {left}");
        }
    }
}

#[test]
fn a_join_ends_when_the_kubelet_has_its_certificate() {
    let fix = member_fix(1, "member.joined", &[]);
    let pem = |text: &str| format!("-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n");
    for shell in support::shells() {
        let joins = QUIET.to_string() + &JOINS.replace("END", ":");
        let root = Root::with_files(&[(CURRENT, &pem("T1dO"))]);
        let output = root.fixes(shell, &joins, &with_credential(&fix));
        assert!(output.status.success(), "{shell}: {output:?}");
        assert!(lent(&root).is_empty() && !root.has(BOOTSTRAP));
        assert!(root.has("var/lib/ironstrap/kubeadm-receipt"));
        for first in [pem("LENT"), String::new()] {
            let root = Root::with_files(&[(CURRENT, &first)]);
            let output = root.fixes(shell, &joins, &with_credential(&fix));
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(
                !output.status.success() && said.contains("it waits for the controller manager to sign one"),
                "{shell}: {said}"
            );
            assert!(lent(&root).is_empty() && !root.has("var/lib/ironstrap/kubeadm-receipt"));
        }
    }
}

#[test]
fn init_deletes_its_random_token_and_super_admin_conf() {
    let fix = member_fix(0, "member.control-plane", &[]);
    let init = "kubeadm() {
  case $1 in config) return 0 ;; esac
  grep -A 6 'token:' /run/ironstrap/kubeadm.yaml >/run/seen || :
  grep -B 9 'token:' /run/ironstrap/kubeadm.yaml >>/run/seen || :
  mkdir -p /etc/kubernetes/manifests; : >/etc/kubernetes/super-admin.conf
  : >/etc/kubernetes/manifests/kube-apiserver.yaml
}
command() { shift; echo \"$*\" >>/run/kubectl; }
";
    for shell in support::shells() {
        let mut tokens = Vec::new();
        for _ in 0..2 {
            let root = Root::with_files(&[("run/x", "")]);
            let output = root.fixes(shell, &(QUIET.to_string() + init), &with_credential(&fix));
            assert!(output.status.success(), "{shell}: {output:?}");
            let seen = root.read("run/seen");
            let token = seen.lines().find_map(|line| line.trim().strip_prefix("token: ironst."));
            let token = token.unwrap_or_else(|| panic!("{shell}: {seen}")).to_string();
            assert!(token.len() == 16 && token.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit()));
            assert!(seen.contains("ttl: 1m0s") && seen.contains("system:bootstrappers:ironstrap:nobody"));
            assert!(!seen.contains("signing") && !seen.contains("default-node-token"), "{seen}");
            tokens.push(token);
            let said = root.read("run/kubectl");
            assert!(said.contains("-n kube-system delete secret bootstrap-token-ironst"), "{shell}: {said}");
            assert!(!root.has("etc/kubernetes/super-admin.conf") && lent(&root).is_empty());
            assert!(root.has("var/lib/ironstrap/kubeadm-receipt"));
        }
        assert_ne!(tokens[0], tokens[1], "{shell}");
        let root = Root::with_files(&[("run/x", "")]);
        let failing = QUIET.to_string() + "kubeadm() { case $1 in config) : ;; *) return 3 ;; esac; }\n";
        assert_eq!(root.fixes(shell, &failing, &with_credential(&fix)).status.code(), Some(3));
        assert_eq!(lent(&root), [""; 0], "{shell}");
    }
}

#[test]
fn restoring_the_administrators_rights_leaves_no_credential() {
    let has = ["kubelet.conf", "client-certificate", "receipt", "manifests/kube-apiserver.yaml"];
    let fix = member_fix(0, "bootstrap.administrator", &has);
    let kubectl = "command() {
  case \" $* \" in
  *' auth reconcile '*)
    stat -c %a /run/ironstrap/masters.conf >/run/mode
    cat >/run/given
    END ;;
  esac
}
";
    let manifest = ("etc/kubernetes/manifests/kube-apiserver.yaml", "- --advertise-address=10.0.0.1\n");
    for shell in support::shells() {
        let ends = [
            (":", 0),
            ("return 1", 1),
            ("kill -s TERM $$; sleep 0.1", 143),
            ("kill -s HUP $$; sleep 0.1", 129),
        ];
        for (end, status) in ends {
            let root = Root::with_files(&[manifest]);
            let output = root.fixes(
                shell,
                &(QUIET.to_string() + &kubectl.replace("END", end)),
                &with_credential(&fix),
            );
            assert_eq!(output.status.code(), Some(status), "{shell}: {end}: {output:?}");
            assert_eq!(lent(&root), [""; 0], "{shell}: {end}");
            assert_eq!(root.read("run/mode").trim(), "600", "{shell}");
            assert!(root.read("run/given").contains("kubeadm:cluster-admins"));
        }
    }
}

#[test]
fn each_machine_joins_with_its_own_certificate() {
    let (cluster, fleet) =
        (support::lab(), Fleet { exists: true, init_node: "m1".into(), ..Fleet::default() });
    let pki = support::pki(&cluster);
    for node in &cluster.nodes {
        let known = (&Machine::default(), &fleet);
        let wants = support::wants((&cluster, node), &pki, known, OffsetDateTime::now_utc());
        let lends: Vec<String> = wants
            .iter()
            .filter(|(_, step, want)| *step == "member" && !matches!(want.fix, Fix::FromPrevious))
            .filter_map(|(.., want)| want.credential.as_ref().map(|lent| lent.user.clone()))
            .collect();
        let own = format!("system:node:{}", node.name);
        assert_eq!(lends, if node.name == "m1" { vec![] } else { vec![own] });
        for (_, step, want) in &wants {
            if let Fix::Run(script) | Fix::Unit { script, .. } = &want.fix {
                assert!(!script.contains("PRIVATE KEY") && !script.contains("client-key-data: "), "{step}");
                assert!(!script.contains("tlsBootstrapToken"), "{step}: {}", want.that);
            }
        }
    }
}
