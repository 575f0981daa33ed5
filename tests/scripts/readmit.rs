//! Tests in every shell how a kubelet gets a new certificate if the API server rejects it. The kubelet is a stand-in
//! for client-go's certificate manager. It stores the certificate that it starts with, and then requests its own.

use ironstrap::fleet::Fleet;
use ironstrap::machine::Machine;
use ironstrap::pki::{ClusterPki, Credential};
use ironstrap::shell::here;
use ironstrap::step::{Fix, Verdict};
use time::{Duration, OffsetDateTime};

use crate::support::{self, root::Root};

const PEM: &str = "var/lib/kubelet/pki/kubelet-client-current.pem";
const CONF: &str = "etc/kubernetes/kubelet.conf";
/// Creates the folder of a run.
const RUNS: (&str, &str) = ("run/ironstrap/x", "");

/// A stand-in for systemctl. SIGNS is replaced by what the controller manager does.
const KUBELET: &str = "systemctl() {
  case $1 in start) ;; *) return 0 ;; esac
  mkdir -p /var/lib/kubelet/pki
  if grep -q client-certificate-data: /etc/kubernetes/kubelet.conf; then
    sed -n 's/^ *client-certificate-data: //p' /etc/kubernetes/kubelet.conf | base64 -d >/var/lib/kubelet/pki/kubelet-client-current.pem
  fi
  stat -c %a /etc/kubernetes/kubelet.conf >/run/ironstrap/mode
  SIGNS
}
journalctl() { :; }
";
const SIGNED: &str =
    "-----BEGIN CERTIFICATE-----\nT1dO\n-----END CERTIFICATE-----\n-----BEGIN EC PRIVATE KEY-----\n";

struct Wanted {
    fix: String,
    judged: Verdict,
}

/// The want of this step on w1, judged by `answer`. `has` are the traces on w1. The fix has its credential, as a run adds
/// it.
fn want(pki: &ClusterPki, (step, id): (&str, &str), has: &[&str], answer: &str) -> Wanted {
    let cluster = support::lab();
    let machine = Machine { has: has.iter().map(|trace| trace.to_string()).collect(), ..Machine::default() };
    let fleet = Fleet { exists: true, init_node: "m1".into(), ..Fleet::default() };
    let now = OffsetDateTime::now_utc();
    let wants = support::wants((&cluster, &cluster.nodes[1]), pki, (&machine, &fleet), now);
    let found = wants.into_iter().find(|(_, its, want)| *its == step && want.id.to_string() == id);
    let want = found.unwrap_or_else(|| panic!("no want {id}")).2;
    let signed = pki.sign(want.credential.as_ref().unwrap(), &cluster, Duration::ZERO, now).unwrap();
    let script = match &want.fix {
        Fix::Run(script) | Fix::Unit { script, .. } => script.to_string(),
        other => panic!("{other:?}"),
    };
    let fix = format!("credential() {{\n{}}}\n{script}", here("cat", &signed.kubeconfig));
    Wanted { fix, judged: support::verdict(&want, answer) }
}

/// A certificate for a kubelet, signed by this CA at this time.
fn certificate(pki: &ClusterPki, credential: &Credential, made: OffsetDateTime) -> String {
    pki.sign(credential, &support::lab(), Duration::ZERO, made).unwrap().pair.cert
}

const VALID: (&str, &str) = ("kubeconfigs", "kubeconfigs.kubelet-certificate");
const WAS: [&str; 2] = ["pki/ca.crt", "receipt"];

fn has_no_key(root: &Root) -> bool {
    let text = root.read(CONF);
    text.contains(&format!("client-certificate: {}/{PEM}", root.text()))
        && !text.contains("-data: LS0tLS1CRUdJTiBQ")
        && !text.contains("client-key-data")
}

#[test]
fn a_new_kubelet_certificate_leaves_no_key_in_kubelet_conf() {
    let pki = support::pki(&support::lab());
    let fix = want(&pki, VALID, &WAS, "absent").fix;
    for shell in support::shells() {
        let root =
            Root::with_files(&[(CONF, "old"), ("var/lib/kubelet/pki/kubelet-client-2026.pem", "old"), RUNS]);
        let signs = format!("cat >/{PEM} <<'S'\n{SIGNED}S");
        let output = root.fixes(shell, &KUBELET.replace("SIGNS", &signs), &fix);
        assert!(output.status.success(), "{shell}: {output:?}");
        assert_eq!(root.read("run/ironstrap/mode").trim(), "600", "{shell}");
        assert_eq!(root.read(PEM), SIGNED);
        assert!(has_no_key(&root), "{}", root.read(CONF));
        assert!(!root.has("var/lib/kubelet/pki/kubelet-client-2026.pem"));
    }
}

#[test]
fn an_interrupted_fix_leaves_no_key_in_kubelet_conf() {
    let pki = support::pki(&support::lab());
    let fix = want(&pki, VALID, &WAS, "absent").fix;
    for shell in support::shells() {
        for (signs, status) in [(":", 1), ("kill -s TERM $$; sleep 0.1", 143), ("return 3", 3)] {
            let root = Root::with_files(&[(CONF, "old"), RUNS]);
            let output = root.fixes(shell, &KUBELET.replace("SIGNS", signs), &fix);
            assert_eq!(output.status.code(), Some(status), "{shell}: {output:?}");
            assert!(has_no_key(&root), "{shell}: {signs}: {}", root.read(CONF));
        }
    }
}

#[test]
fn an_unusable_kubelet_certificate_is_found_with_its_reason() {
    let (cluster, pki) = (support::lab(), support::pki(&support::lab()));
    let now = OffsetDateTime::now_utc();
    let node =
        |name: &str| Credential { unit: None, ..Credential::of_node(name, &cluster, Duration::minutes(15)) };
    let temporary = Credential::of_node("w1", &cluster, Duration::minutes(15));
    let other = support::new_pki(&cluster);
    for (pem, wrong) in [
        (certificate(&pki, &node("w1"), now), None),
        (certificate(&pki, &temporary, now), Some("temporary")),
        (certificate(&pki, &node("w1"), now - Duration::hours(2)), Some("expired")),
        (certificate(&pki, &node("w2"), now), Some("system:node:w2")),
        (certificate(&other, &node("w1"), now), Some("another CA")),
        ("absent".into(), Some("does not exist")),
        ("".into(), Some("cannot be read")),
    ] {
        match (want(&pki, VALID, &WAS, &pem).judged, wrong) {
            (Verdict::Holds, None) => {}
            (Verdict::Differs { have, .. }, Some(words)) => assert!(have.contains(words), "{have}"),
            (verdict, _) => panic!("{wrong:?}: {verdict:?}"),
        }
    }
}

#[test]
fn another_fix_ends_well_where_a_readmission_was_killed() {
    for shell in support::shells() {
        let left = "# Made by ironstrap for one fix\n";
        let root = Root::with_files(&[(CONF, left), ("run/ironstrap/masters.conf", "")]);
        let output = root.fixes(shell, "", "fleeting $RUN/masters.conf");
        assert!(output.status.success() && output.stderr.is_empty(), "{shell}: {output:?}");
        assert!(!root.has("run/ironstrap/masters.conf") && root.read(CONF) == left, "{shell}");
    }
}
