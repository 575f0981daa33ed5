//! The questions of `packets` to the machine's own programs: whether they are stopped, and what they answer over loopback.

use serde_json::Value;

use super::{NO_BASH, PROXY, ask, no_bash, server_answers, state};
use crate::cluster::{Cluster, Network, Node};
use crate::error::Result;
use crate::shell::{DAEMONS, PACKETS, PODS, PROCESSES, Sh, sh};
use crate::step::{Cx, Verdict, WITH_THE_MEMBER, Want, rollout};
use crate::steps::{kubeadm, running};

/// Files whose change requires a restart of the kubelet. The step `member` reports such a change.
pub(in crate::steps) const KUBELET_READS: Sh = Sh::raw(
    "/var/lib/kubelet/kubeadm-flags.env /usr/lib/systemd/system/kubelet.service \
     /usr/lib/systemd/system/kubelet.service.d/10-kubeadm.conf",
);

/// The line that says that the kubelet has run long enough to answer.
pub(in crate::steps) const KUBELET: &str = "kubelet runs";
/// The beginning of a line about an argument that the kubelet runs with and no file has.
pub(in crate::steps) const ONLY: &str = "kubelet has ";

/// Shell that checks these programs, and then asks the questions. If the kubelet or kube-proxy is silent, it asks once
/// more. If the API's Service does not answer, it asks up to four times: the Service leads to each control plane in turn,
/// also to one that has just stopped.
pub(super) fn look(cluster: &Cluster, node: &Node) -> Sh {
    sh!(
        "stopped {pods}\nfind_kubelet\nonly=$(kubelet_only {KUBELET_READS})\n\
         [ -z \"$only\" ] || printf '%s\\n' \"$only\" | sed 's/^/{ONLY}/'\n\
         [ \"${age:-0}\" -lt 20 ] || echo {KUBELET}\n\
         ! lasting kube-system_kube-proxy kube-proxy || echo {PROXY}\nsaid=$(questions)\n\
         case $found$said in *stopped:* | *frozen:*) ;; *'kubelet-health silent'* | *'proxy silent'*) sleep 1; said=$(questions) ;; esac\n\
         case $said in *' partly'* | *'own-pod silent'* | *'pod-dns silent'*) sleep 1; said=$(questions) ;; esac\n\
         for n in 1 2 3; do case $said in *'service refused'* | *'service silent'*) said=$(questions) ;; esac; done\n\
         printf '%s\\n' \"$said\"\n\
         case $said in *'service refused'* | *'service silent'*) lacks_configmap kube-system kube-proxy ;; esac",
        pods = pods(cluster, node),
        KUBELET_READS,
        ONLY = Sh::raw(ONLY),
        KUBELET,
        PROXY
    )
}

/// The pods that a node cannot do without: for each, how the name of its folder of logs begins.
pub(in crate::steps) fn pods(cluster: &Cluster, node: &Node) -> Sh {
    let mut all: Vec<String> = Vec::new();
    if node.is_control_plane() {
        let names = ["etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler"];
        all.extend(names.map(|name| format!("kube-system_{name}-{}_", node.name)));
    }
    let daemon = |namespace: &str, name: &str| format!("{namespace}_{name}-");
    all.extend(cluster.has_addon("proxy").then(|| daemon("kube-system", "kube-proxy")));
    all.extend(cluster.has_addon("dns").then(|| daemon("kube-system", "coredns")));
    match &cluster.network {
        Network::None => {}
        Network::Flannel(_) => all.push(daemon("kube-flannel", "flannel")),
        Network::Manifests(files) => {
            let running = files.iter().flat_map(|file| rollout::running(&file.objects));
            let namespace = |given: String| if given.is_empty() { "default".to_string() } else { given };
            all.extend(running.map(|object| daemon(&namespace(object.namespace), &object.name)));
        }
    }
    Sh::words(all.iter().map(String::as_str))
}

/// The lines about what is stopped or frozen.
pub(in crate::steps) fn stopped(answer: &str) -> Vec<&str> {
    answer.lines().filter(|line| line.starts_with("stopped: ") || line.starts_with("frozen: ")).collect()
}

/// The fault in a program's answer. `None`: there is none.
pub(in crate::steps) fn ill(answer: &str, name: &str) -> Option<String> {
    match state(answer, name)? {
        "refused" => Some("nothing listens at its port".into()),
        said => match said.strip_prefix("says ") {
            Some(said) if said.starts_with("200 ") => None,
            Some(said) => Some(format!("it answers {said}")),
            None => Some("no answer within a second".into()),
        },
    }
}

/// Shell functions for fixes: those that ask, and those that repair.
pub(in crate::steps) fn functions() -> Sh {
    PODS + DAEMONS + PACKETS + PROCESSES
}

/// The wants about kube-proxy. They come after the cluster's own stages, which write its settings.
pub(super) fn proxy(cx: &Cx) -> Result<Vec<Want>> {
    if !cx.cluster.has_addon("proxy") {
        return Ok(vec![]);
    }
    let settings = kubeadm::init(cx, false)?.into_iter().nth(3).unwrap_or_default();
    let mode = settings["mode"].as_str().filter(|mode| !mode.is_empty());
    let mode = mode.unwrap_or("iptables").to_string();
    let node = &cx.node.name;
    let answers = Want::new("processes.kube-proxy", "kube-proxy answers")
        .judged(|answer| match ill(answer, "proxy") {
            _ if no_bash(answer) => Verdict::Unknown(NO_BASH.into()),
            Some(have) if !judged_elsewhere(answer) => {
                Verdict::Differs { have, want: "kube-proxy reports that it is healthy".into() }
            }
            _ => Verdict::Holds,
        })
        .run(functions() + sh!("proxy_answers_again {node}", node));
    let runs = Want::new("processes.kube-proxy-mode", "kube-proxy runs in its configured mode")
        .judged({
            let mode = mode.clone();
            move |answer| runs_in(answer, &mode)
        })
        .run(functions() + sh!("proxy_mode_again {node} {mode}", node, mode));
    let set = Want::new("processes.kube-proxy-settings", "kube-proxy uses its current settings")
        .judged(move |answer| runs_with(answer, &settings))
        .run(functions() + sh!("proxy_settings_again {node}", node));
    let asked = |want: Want| want.ask(ask(cx.cluster, cx.node)).eventually().nothing_to_undo(WITH_THE_MEMBER);
    Ok(vec![asked(answers), asked(runs), asked(set)])
}

/// The verdict on the settings of kube-proxy. If kube-proxy does not say how it runs, `runs_in` reports that. Up to 1.35,
/// kube-proxy shows its settings in an internal form without a kind (kubernetes, cmd/kube-proxy/app/server.go, `cz.Set`).
fn runs_with(answer: &str, wanted: &Value) -> Verdict {
    let said = state(answer, "proxy-settings").and_then(|said| said.strip_prefix("says 200 "));
    let runs = said.and_then(|said| running::settings("kubeproxy.config.k8s.io", said));
    match runs.filter(|runs| runs["kind"] == "KubeProxyConfiguration") {
        Some(runs) => running::judged(wanted, &runs),
        None => Verdict::Holds,
    }
}

fn runs_in(answer: &str, mode: &str) -> Verdict {
    match state(answer, "proxy-mode").and_then(|said| said.strip_prefix("says 200 ")) {
        Some(is) if is == mode => Verdict::Holds,
        Some(is) => Verdict::Differs { have: format!("mode: {is}"), want: format!("mode: {mode}") },
        None if no_bash(answer) => Verdict::Unknown(NO_BASH.into()),
        None if judged_elsewhere(answer) || ill(answer, "proxy").is_some() => Verdict::Holds,
        None => Verdict::Unchecked("kube-proxy does not answer at its metrics address".into()),
    }
}

/// Whether other wants judge this kube-proxy: it does not run, or something is stopped, or no API server tells it about
/// Services.
fn judged_elsewhere(answer: &str) -> bool {
    let runs = answer.lines().any(|line| line == PROXY);
    !runs || !server_answers(answer) || !stopped(answer).is_empty()
}
