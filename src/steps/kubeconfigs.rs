//! kubeconfigs: the files with which kubelets and control planes find the API and authenticate to it. kubeadm makes them.
//! None of their keys ever leaves the machine.

use time::Duration;

use crate::error::Result;
use crate::pki::{ClusterPki, Credential, KUBELET_CERTIFICATE};
use crate::shell::{Sh, WHOLE_KEY, here, sh};
use crate::step::{Ask, Cx, Step, Verdict, WITH_THE_MEMBER, Want, narrowed};
use crate::steps::kubeadm;

mod kept;

pub const STEP: Step =
    Step { name: "kubeconfigs", why: "a node must find the API and authenticate to it", wants };

const DIR: &str = "/etc/kubernetes";
const KUBELET_CONF: &str = "/etc/kubernetes/kubelet.conf";

/// A kubeconfig that kubeadm makes on control planes (kubeadm `kubeconfig.go`, `getKubeConfigSpecsBase`).
struct Made {
    file: &'static str,
    /// The name of kubeadm's phase.
    phase: &'static str,
    user: &'static str,
    group: Option<&'static str>,
    /// Whether it leads to the machine's own API server, not to the endpoint.
    local: bool,
}

const MADE: [Made; 3] = [
    Made {
        file: "admin.conf",
        phase: "admin",
        user: "kubernetes-admin",
        group: Some("kubeadm:cluster-admins"),
        local: false,
    },
    Made {
        file: "controller-manager.conf",
        phase: "controller-manager",
        user: "system:kube-controller-manager",
        group: None,
        local: true,
    },
    Made {
        file: "scheduler.conf",
        phase: "scheduler",
        user: "system:kube-scheduler",
        group: None,
        local: true,
    },
];

fn wants(cx: &Cx) -> Result<Vec<Want>> {
    let mut wants = vec![kubelet(cx), kubelets_certificate(cx)];
    wants.extend(kept::wants(cx));
    if cx.node.is_control_plane() {
        for made in &MADE {
            wants.push(control_plane(cx, made)?);
        }
    }
    Ok(wants)
}

/// The URL of the machine's own API server.
fn local(cx: &Cx) -> String {
    format!("https://{}", std::net::SocketAddr::new(cx.node.ip, cx.cluster.api_port()))
}

/// The content of a kubeconfig without its secrets.
struct Public<'a> {
    mode: &'a str,
    server: &'a str,
    authority: &'a str,
    certificate: &'a str,
    /// The file of the key. If the kubeconfig itself has the key: `whole` or `broken`.
    key: &'a str,
    context: &'a str,
    /// Names of clusters, users and contexts.
    names: Vec<&'a str>,
    namespace: &'a str,
    /// Other entries that change where it leads or who is let in, as `KEY VALUE`.
    more: Vec<&'a str>,
}

/// Entries that no kubeconfig of kubeadm's has. If the value of one may be secret, the answer has `set` in its place.
const MORE: [&str; 12] = [
    "tls-server-name",
    "insecure-skip-tls-verify",
    "proxy-url",
    "token",
    "tokenFile",
    "username",
    "password",
    "exec",
    "auth-provider",
    "as",
    "as-uid",
    "as-groups",
];

impl Public<'_> {
    fn of(answer: &str) -> Public<'_> {
        let line = |key: &str| {
            answer.lines().find_map(|line| line.strip_prefix(key)).map(str::trim).unwrap_or_default()
        };
        let (embedded, key) = (line("client-certificate-data "), line("client-key-data "));
        let is_more = |line: &&str| {
            let (key, value) = line.split_once(' ').unwrap_or((line, ""));
            MORE.contains(&key) && (key, value) != ("insecure-skip-tls-verify", "false")
        };
        Public {
            mode: answer.lines().next().unwrap_or_default(),
            server: line("server "),
            authority: line("certificate-authority-data "),
            certificate: if embedded.is_empty() { line("client-certificate ") } else { embedded },
            key: if key.is_empty() { line("client-key ") } else { key },
            context: line("current-context "),
            names: answer.lines().filter_map(|line| line.strip_prefix("name ")).collect(),
            namespace: line("namespace "),
            more: answer.lines().skip(1).filter(is_more).collect(),
        }
    }

    /// The other entries that change its effect, and should not be there.
    fn added(&self) -> Vec<(String, String)> {
        self.more.iter().map(|line| (line.to_string(), String::new())).collect()
    }

    /// The difference if the kubeconfig does not have the context that it uses. Any context will do. Kubelets that kubeadm
    /// started have another name for it than others.
    fn lost(&self) -> Option<(String, String)> {
        let has = self.names.contains(&self.context);
        (!has).then(|| (format!("context {}", self.context), "the name of an existing context".into()))
    }

    /// The differences in what kubectl uses by default. `context` is the one that kubeadm writes, without a namespace.
    fn chosen(&self, context: &str) -> Vec<(String, String)> {
        let pairs = [
            (format!("context {}", self.context), format!("context {context}")),
            (format!("namespace {}", self.namespace), "namespace ".to_string()),
        ];
        pairs.into_iter().filter(|(have, want)| have != want).collect()
    }

    /// Compares the kubeconfig with the right one. The differences are two texts. `more`: further differences, as what is
    /// there and what would be right.
    fn judge(
        &self,
        pki: &ClusterPki,
        servers: &[String],
        more: impl IntoIterator<Item = (String, String)>,
    ) -> Verdict {
        let mut pairs: Vec<(String, String)> = Vec::new();
        let mode = if narrowed(self.mode, 0o600).is_some() { "mode 600 root:root" } else { self.mode };
        pairs.push((mode.into(), "mode 600 root:root".into()));
        let right = servers.iter().find(|server| *server == self.server).unwrap_or(&servers[0]);
        pairs.push((format!("server {}", self.server), format!("server {right}")));
        let ours = if pki.is_our_ca(self.authority) { "the cluster's" } else { "another" };
        pairs.push((format!("certificate authority: {ours}"), "certificate authority: the cluster's".into()));
        pairs.extend(more);
        let line = |text: String| if text.is_empty() { text } else { text + "\n" };
        let (have, want): (Vec<String>, Vec<String>) =
            pairs.into_iter().map(|(have, want)| (line(have), line(want))).unzip();
        if have == want {
            return Verdict::Holds;
        }
        Verdict::Differs { have: have.concat(), want: want.concat() }
    }
}

/// The API servers that kubelet.conf may name. ironstrap writes the first one. kubeadm before 1.33 makes the kubelet of a
/// control plane use the endpoint, as that of a worker does.
fn servers(cx: &Cx) -> Vec<String> {
    let endpoint = format!("https://{}", cx.cluster.endpoint);
    if cx.node.is_control_plane() { vec![local(cx), endpoint] } else { vec![endpoint] }
}

/// Shell that writes kubelet.conf, which names the file of the kubelet's certificate and holds no key.
fn kubelet_conf(cx: &Cx) -> Sh {
    let text = cx.pki.kubelet_kubeconfig(&servers(cx)[0]);
    here(sh!("write_file {KUBELET_CONF} 600", KUBELET_CONF), &text)
}

/// Shell that gives the kubelet a temporary certificate, with which it asks for its own (templates/credentials.sh).
fn readmission(cx: &Cx) -> Sh {
    sh!("by_its_certificate() {\n{conf}}\nreadmit", conf = kubelet_conf(cx))
}

/// The want that kubelet.conf leads the kubelet to the API. The certificate is in a file of its own.
fn kubelet(cx: &Cx) -> Want {
    let servers = servers(cx);
    let pki = cx.pki.clone();
    let judge = move |answer: Option<&str>| {
        let Some(answer) = answer else {
            return Verdict::Differs { have: String::new(), want: format!("server {}\n", servers[0]) };
        };
        let public = Public::of(answer);
        let is = |key: &str, value: &str| (format!("{key} {value}"), format!("{key} {KUBELET_CERTIFICATE}"));
        let files = [is("certificate", public.certificate), is("key", public.key)];
        public.judge(&pki, &servers, files.into_iter().chain(public.lost()).chain(public.added()))
    };
    // The fix stops the kubelet in between. If the connection is lost there, the next run finds the kubelet stopped and
    // starts it.
    let put = kubelet_conf(cx);
    let fix = sh!("systemctl stop kubelet\n{put}systemctl start kubelet", put);
    Want::new("kubeconfigs.kubelet", "kubelet.conf points the kubelet to its API server")
        .ask(Ask::Kubeconfig(KUBELET_CONF.into()))
        .judged_presence(judge)
        .run(fix)
        .nothing_to_undo(WITH_THE_MEMBER)
        .only(cx.machine.is_member())
}

/// The want that the kubelet has a valid certificate. The kubelet renews its certificate by itself, but only with one that
/// the API server still accepts. A machine that was off for too long, or that lost the file, gets a new one.
fn kubelets_certificate(cx: &Cx) -> Want {
    let (pki, now, node) = (cx.pki.clone(), cx.now, cx.node.name.clone());
    let ask =
        sh!("f={f}\n", f = KUBELET_CERTIFICATE) + "[ -e $f ] || absent\nawk '" + WHOLE_KEY + CERTIFICATE;
    let judge = move |answer: Option<&str>| {
        let why = match answer {
            None => Ok(Some(format!("{KUBELET_CERTIFICATE} does not exist"))),
            Some(answer) if answer.lines().any(|line| line == NO_KEY) => {
                Ok(Some(format!("{KUBELET_CERTIFICATE} has no complete private key")))
            }
            Some(answer) => pki.why_no_kubelet(answer, &node, now),
        };
        match why.unwrap_or_else(|error| Some(error.what)) {
            None => Verdict::Holds,
            Some(why) => {
                Verdict::Differs { have: why, want: format!("a valid certificate for system:node:{node}") }
            }
        }
    };
    let limit = Duration::minutes(5);
    Want::new("kubeconfigs.kubelet-certificate", "the kubelet has a valid certificate")
        .ask(ask)
        .judged_presence(judge)
        .run(readmission(cx))
        .with(Credential::of_node(&cx.node.name, cx.cluster, limit))
        .nothing_to_undo(WITH_THE_MEMBER)
        .only(cx.machine.is_member())
}

/// The last line of the answer if the file has no complete private key.
const NO_KEY: &str = "no key";

/// The end of an awk program that prints the first certificate, and `NO_KEY` if no whole private key is with it. A kubelet
/// that runs does not notice that the key is missing.
const CERTIFICATE: &str = r#"{ key_line($0) }
/-----BEGIN CERTIFICATE-----/ && !certificates { inside = 1 }
inside { print }
/-----END CERTIFICATE-----/ && inside { inside = 0; certificates = 1 }
END { if (!has_key) print "no key" }' $f"#;

fn control_plane(cx: &Cx, made: &'static Made) -> Result<Want> {
    let path = format!("{DIR}/{}", made.file);
    let server = if made.local { local(cx) } else { format!("https://{}", cx.cluster.endpoint) };
    let (pki, now) = (cx.pki.clone(), cx.now);
    let context = format!("{}@{}", made.user, cx.cluster.name);
    let judge = move |answer: Option<&str>| {
        let Some(answer) = answer else {
            let want = format!("server {server}\n{}\n", made.user);
            return Verdict::Differs { have: String::new(), want };
        };
        let public = Public::of(answer);
        let why = pki.why_no_client(public.certificate, (made.user, made.group), now);
        let why = why.unwrap_or_else(|error| Some(error.what));
        let certificate =
            why.map(|why| (format!("certificate: {why}"), format!("certificate: {}", made.user)));
        let key = match public.key {
            "whole" => None,
            "broken" => Some("client-key-data is damaged".to_string()),
            _ => Some("no client-key-data".to_string()),
        };
        let key = key.map(|have| (have, "client-key-data is complete".to_string()));
        // Administrators may add entries to their own kubeconfig.
        let more = if made.file == "admin.conf" { public.chosen(&context) } else { public.added() };
        let more = certificate.into_iter().chain(key).chain(more);
        public.judge(&pki, std::slice::from_ref(&server), more)
    };
    let there = cx.machine.is_member() && cx.machine.runs_control_plane();
    Ok(Want::new(
        "kubeconfigs.control-plane",
        format!("{} points {} to its API server", made.file, made.user),
    )
    .of(made.file)
    .ask(Ask::Kubeconfig(path.clone()))
    .judged_presence(judge)
    .run(again(cx, made, &path)?)
    .nothing_to_undo(WITH_THE_MEMBER)
    .touches(&[&path])
    .only(there))
}

/// Has kubeadm write a kubeconfig again. The shell deletes the file first, because kubeadm leaves an existing one as it is,
/// whatever it says.
fn again(cx: &Cx, made: &Made, path: &str) -> Result<Sh> {
    let script =
        sh!("rm -f {path}\nkubeadm init phase kubeconfig {phase} --config $c", path, phase = made.phase);
    kubeadm::with(cx, &kubeadm::init(cx, false)?, &script)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pki::tests::{NOW, cluster};

    const ENDPOINT: &str = "https://api.demo.internal:6443";

    fn judge(answer: &str) -> Verdict {
        let pki = ClusterPki::make(&cluster(), NOW).unwrap();
        let answer = answer.replace("OURS", pki.ca.cert.trim());
        Public::of(&answer).judge(&pki, &[ENDPOINT.into()], None)
    }

    #[test]
    fn a_kubeconfig_may_have_a_narrower_mode() {
        let judged = |mode: &str| {
            let pki = ClusterPki::make(&cluster(), NOW).unwrap();
            let answer = format!("mode {mode} root:root\nserver {ENDPOINT}\n");
            let public = Public { authority: &pki.ca.cert, ..Public::of(&answer) };
            public.judge(&pki, &[ENDPOINT.into()], None)
        };
        assert_eq!((judged("600"), judged("400")), (Verdict::Holds, Verdict::Holds));
        assert!(judged("640") != Verdict::Holds && judged("0") != Verdict::Holds);
    }

    #[test]
    fn a_kubeconfig_of_another_server_is_reported() {
        let Verdict::Differs { have, want } =
            judge("mode 644 root:root\nserver https://other:6443\ncertificate-authority-data QUJD\n")
        else {
            panic!()
        };
        assert_eq!(have, "mode 644 root:root\nserver https://other:6443\ncertificate authority: another\n");
        assert_eq!(
            want,
            format!("mode 600 root:root\nserver {ENDPOINT}\ncertificate authority: the cluster's\n")
        );
    }

    #[test]
    fn other_settings_that_affect_a_kubeconfig_are_reported() {
        let public = Public::of(
            "mode 600 root:root\ntls-server-name x\ninsecure-skip-tls-verify true\nproxy-url set\nname a\nname b\n\
             current-context b\nclient-key /none\n",
        );
        let added: Vec<String> = public.added().into_iter().map(|(have, _)| have).collect();
        assert_eq!(added, ["tls-server-name x", "insecure-skip-tls-verify true", "proxy-url set"]);
        assert_eq!((public.lost(), public.key), (None, "/none"));
        let public = Public::of(
            "mode 600 root:root\ninsecure-skip-tls-verify false\nname a\ncurrent-context b\nclient-key /a\nclient-key-data broken\n",
        );
        assert_eq!((public.added(), public.key), (vec![], "broken"));
        assert_eq!(public.lost(), Some(("context b".into(), "the name of an existing context".into())));
        let pki = ClusterPki::make(&cluster(), NOW).unwrap();
        let answer = format!("mode 600 root:root\nserver {ENDPOINT}\ntoken set\n");
        let public = Public { authority: &pki.ca.cert, ..Public::of(&answer) };
        let Verdict::Differs { have, want } = public.judge(&pki, &[ENDPOINT.into()], public.added()) else {
            panic!()
        };
        assert!(have.ends_with("certificate authority: the cluster's\ntoken set\n"), "{have}");
        assert!(want.ends_with("certificate authority: the cluster's\n"), "{want}");
    }
}
