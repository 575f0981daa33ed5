//! What a machine of a cluster that matches its inventory says to a plan, made up from the wants themselves: no machine is behind
//! it. A want that it has no right answer for is named, so that a new step cannot make the bench measure something else.

use std::collections::{BTreeMap, BTreeSet};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use ironstrap::cluster::{Cluster, Network, Node};
use ironstrap::fleet::Fleet;
use ironstrap::machine::Machine;
use ironstrap::pki::ClusterPki;
use ironstrap::plan::NOT_HERE;
use ironstrap::step::{Ask, Expect, Fix, Verdict, Want};
use ironstrap::template;
use rcgen::{CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, Issuer, KeyPair};
use serde_json::{Value, json};
use time::{Duration, OffsetDateTime};

use crate::common;

/// A cluster with its trust, all of whose machines are members.
pub struct Converged {
    pub cluster: Cluster,
    pki: ClusterPki,
    fleet: Fleet,
    /// Objects of the cluster, by their keys.
    objects: BTreeMap<String, Value>,
    kubeconfigs: BTreeMap<String, String>,
}

/// The replies to the questions of a script but for the last, which is the clock; the first of them is of these facts.
pub struct Replies {
    facts: String,
    rest: Vec<(u8, String, String)>,
}

impl Converged {
    pub fn new(cluster: Cluster, pki: ClusterPki) -> Converged {
        let mut all = Converged {
            kubeconfigs: kubeconfigs(&cluster, &pki),
            objects: objects(&cluster),
            fleet: Fleet::default(),
            cluster,
            pki,
        };
        let machines: Vec<Machine> = all.cluster.nodes.iter().map(|node| all.machine(node)).collect();
        let names = all.cluster.nodes.iter().map(|node| node.name.as_str());
        all.fleet = Fleet::see(&all.cluster, &names.zip(&machines).collect());
        all
    }

    fn machine(&self, node: &Node) -> Machine {
        let facts = format!("{}clock {}\n", facts(node), OffsetDateTime::now_utc().unix_timestamp());
        Machine::read(&facts, &self.authorities(), &self.identity(node)).unwrap()
    }

    fn authorities(&self) -> String {
        let ca = BASE64_STANDARD.encode(&self.pki.ca.cert);
        format!("kubelet.conf {ca}\npki/ca.crt {ca}\n")
    }

    fn identity(&self, node: &Node) -> String {
        let Cluster { name, kubernetes, pods, services, endpoint, .. } = &self.cluster;
        match node.is_control_plane() {
            true => format!(
                "pods {pods}\nservices {services}\nkubernetes {kubernetes}\nendpoint {endpoint}\nname {name}\n"
            ),
            false => String::new(),
        }
    }

    /// What this node says; where it has drifted, its /etc/hosts lacks the last line.
    pub fn replies(&self, node: &Node, drifted: bool) -> Replies {
        let machine = self.machine(node);
        let about = (&machine, &self.fleet);
        let wants = common::wants((&self.cluster, node), &self.pki, about, OffsetDateTime::now_utc());
        let wants: Vec<Want> = wants.into_iter().map(|(_, _, want)| want).collect();
        let mut rest = vec![(0, self.authorities(), String::new()), (0, self.identity(node), String::new())];
        rest.extend(self.tables(&wants, drifted));
        rest.push((0, self.kubectl(&wants), String::new()));
        let mut asked: Vec<&Ask> = Vec::new();
        for want in wants.iter().filter(|want| want.ask.shell().is_some()) {
            // In the same words it is asked once.
            if !asked.contains(&&want.ask) {
                asked.push(&want.ask);
                rest.push((0, self.said(want), String::new()));
            }
        }
        Replies { facts: facts(node), rest }
    }

    /// The right answer to a want.
    fn said(&self, want: &Want) -> String {
        let mut answers = match (&want.ask, &want.expect) {
            (Ask::OnlyBeforeJoin(_), _) => return NOT_HERE.into(),
            (_, Expect::Is(right)) => return right.clone(),
            (_, Expect::Edited(edit)) => return format!("mode 644 root:root\n{}", edit("")),
            (Ask::Kubeconfig(path), _) => vec![self.kubeconfigs[path].clone()],
            (Ask::Objects(objects), _) => vec![self.lines(objects)],
            (Ask::Packages(names), _) => {
                let version = |name: &str| if name == "containerd" { "1.7.24" } else { "1.36.3-1.1" };
                vec![names.iter().map(|name| format!("{name} hi {}\n", version(name))).collect()]
            }
            _ => ["", "a member", "version 2", "enabled active current", "absent"].map(String::from).into(),
        };
        if want.ask.shell().is_some_and(|shell| shell.contains("questions()")) {
            return "kubelet runs\nkube-proxy runs\nservice reached\nserver0 reached\ndns reached\nkubelet-health says 200 ok\n\
                    proxy says 200 {}\nproxy-mode says 200 nftables\n"
                .into();
        }
        if matches!(&want.ask, Ask::File(path) if path.ends_with("kubernetes-apt-keyring.asc")) {
            let keys = [include_str!("../keys/kubernetes.asc"), include_str!("../keys/other.asc")];
            answers.extend(keys.map(|key| format!("mode 644 root:root\n{key}")));
        }
        if let Fix::Write { text: Some(text), mode: Some(mode), .. } = &want.fix {
            answers.push(format!("mode {mode:o} root:root\n{text}"));
        }
        // What cannot be made up is no business of this machine's.
        answers.extend(want.ask.shell().map(|_| NOT_HERE.to_string()));
        let Expect::Judged(judge) = &want.expect else { unreachable!() };
        let right = |answer: &String| {
            let line = answer.strip_suffix('\n').unwrap_or(answer);
            line == NOT_HERE || matches!(judge(line), Verdict::Holds | Verdict::Noted(_))
        };
        let found = answers.iter().find(|answer| right(answer)).cloned();
        found.unwrap_or_else(|| panic!("no answer is right that {}: {:?}", want.that, judge(&answers[0])))
    }

    fn lines(&self, objects: &[ironstrap::step::Object]) -> String {
        let line = |object: &ironstrap::step::Object| match self.objects.get(&object.key()) {
            Some(value) => format!("{value}\n"),
            // No run left a pod behind.
            None if object.kind == "Pod" => "absent\n".into(),
            None => format!("{NOT_HERE}\n"),
        };
        objects.iter().map(line).collect()
    }

    /// Stat, text and hash of files, kubeconfigs, units, packages: as the probe asks for them.
    fn tables(&self, wants: &[Want], drifted: bool) -> [(u8, String, String); 6] {
        let mut files: BTreeMap<&str, String> = BTreeMap::new();
        let [mut stat, mut text, mut hash, mut kubeconfigs, mut units, mut packages] =
            [const { String::new() }; 6];
        let (mut seen, mut gone, mut lacking) = (BTreeSet::new(), String::new(), String::new());
        for want in wants {
            match &want.ask {
                Ask::File(path) | Ask::Hash(path) | Ask::Kubeconfig(path) => {
                    let mut said = self.said(want);
                    if drifted && path == "/etc/hosts" {
                        said.truncate(said.trim_end().rfind('\n').map_or(0, |at| at + 1));
                    }
                    files.insert(path, said);
                }
                Ask::Unit { unit, .. } if seen.insert(unit.clone()) => {
                    let masked = self.said(want) == "masked";
                    units += &format!(
                        "Id={unit}\nLoadState={}\nUnitFileState=enabled\nActiveState=active\n\
                         ActiveEnterTimestamp=Sat 2026-11-21 16:20:01.000000 UTC\nNeedDaemonReload=no\n\n",
                        if masked { "masked" } else { "loaded" }
                    );
                }
                Ask::Packages(names) => {
                    for (name, line) in names.iter().zip(self.said(want).lines()) {
                        match line.strip_prefix(&format!("{name} ")) {
                            Some("absent") => lacking += "no packages found matching\n",
                            Some(state) if seen.insert(name.clone()) => {
                                packages += &format!("{name}\t{}\n", state.replacen(' ', "\t", 1));
                            }
                            _ => {}
                        }
                    }
                }
                _ => {}
            }
        }
        for (path, said) in &files {
            let (mode, body) = said.split_once('\n').unwrap_or((said, ""));
            if mode == "absent" {
                gone += &format!("stat: cannot statx '{path}': No such file or directory\n");
                continue;
            }
            let hashed = body.strip_prefix("sha256 ");
            let leads = wants.iter().any(|want| want.ask == Ask::Kubeconfig(path.to_string()));
            let size = if hashed.is_some() || leads { 9 } else { body.len() };
            stat += &format!("{path}\tregular file\t{mode}\t{size}\t1700000000.000000\n");
            match hashed {
                Some(sum) => hash += &format!("{}  {path}\n", sum.trim_end()),
                None if leads => body.lines().for_each(|line| kubeconfigs += &format!("{path} {line}\n")),
                None => text += body,
            }
        }
        let quiet = |text| (0, text, String::new());
        let stat = (u8::from(!gone.is_empty()), stat, gone);
        let packages = (u8::from(!lacking.is_empty()), packages, lacking);
        [stat, quiet(text), quiet(hash), quiet(kubeconfigs), quiet(units), packages]
    }

    /// All objects that are asked for, and all Nodes.
    fn kubectl(&self, wants: &[Want]) -> String {
        let asked = wants.iter().flat_map(|want| match &want.ask {
            Ask::Objects(objects) => objects.as_slice(),
            _ => &[],
        });
        let keys: BTreeSet<String> = asked.map(ironstrap::step::Object::key).collect();
        if keys.is_empty() {
            return String::new();
        }
        let line = |key: &String| match self.objects.get(key) {
            Some(object) => format!("{key} {object}\n"),
            None if key.starts_with("Pod/") => format!("{key} absent\n"),
            None => format!("{key} {NOT_HERE}\n"),
        };
        let listed = include_str!("../fixtures/listed-1.36.3.txt");
        keys.iter().map(line).collect::<String>() + "beside the nodes\n" + listed + "all nodes\n"
    }
}

impl Replies {
    /// The whole reply to a script with this boundary.
    pub fn text(&self, boundary: &str) -> String {
        let now = || OffsetDateTime::now_utc().unix_timestamp_nanos() as f64 / 1e9;
        let one = |text: &mut String, status: u8, said: &str, stderr: &str| {
            *text += &format!("{said}\n{boundary} {status}\n{}\n{boundary}\n", stderr.trim_end());
        };
        let mut text = String::new();
        one(&mut text, 0, &format!("{}clock {:.9}\n", self.facts, now()), "");
        self.rest.iter().for_each(|(status, said, stderr)| one(&mut text, *status, said, stderr));
        one(&mut text, 0, &format!("{:.9}\n", now()), "");
        text
    }
}

/// All but the clock.
fn facts(node: &Node) -> String {
    let name = &node.name;
    let mut has = vec!["client-certificate", "receipt", "flannel", "kubelet.conf"];
    if node.is_control_plane() {
        has.extend(["etcd", "admin.conf", "manifests/kube-apiserver.yaml"]);
    }
    let has: String = has.iter().map(|trace| format!("has {trace}\n")).collect();
    format!(
        "os debian\ncodename trixie\narch x86_64\nuid 0\ncpus 4\nhostname {name}\nboot 0b\ninit systemd\n\
         memory 8388608\nmachine-id id-{name}\nproduct_uuid uuid-{name}\nhost-key ssh-ed25519 key-{name}\n\
         kubelet 1000000 3600.00\n{has}"
    )
}

/// What everybody may know of the kubeconfigs that kubeadm makes, by path.
fn kubeconfigs(cluster: &Cluster, pki: &ClusterPki) -> BTreeMap<String, String> {
    let init_node = cluster.control_planes().next().unwrap();
    let local = format!("https://{}", std::net::SocketAddr::new(init_node.ip, cluster.api_port()));
    let endpoint = format!("https://{}", cluster.endpoint);
    let ca = BASE64_STANDARD.encode(&pki.ca.cert);
    let file = |server: &str, certificate: &str| {
        let path = "/var/lib/kubelet/pki/kubelet-client-current.pem";
        let context = format!("kubernetes-admin@{}", cluster.name);
        let key = if certificate.contains(path) { format!(" {path}") } else { "-data whole".into() };
        format!(
            "mode 600 root:root\nserver {server}\ncertificate-authority-data {ca}\nclient-certificate{certificate}\n\
             client-key{key}\nname {context}\ncurrent-context {context}\n"
        )
    };
    let now = OffsetDateTime::now_utc();
    let issued = |name: &str, group: Option<&str>| {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        group.iter().for_each(|group| params.distinguished_name.push(DnType::OrganizationName, *group));
        (params.not_before, params.not_after) = (now, now + Duration::days(365));
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let signer = KeyPair::from_pem(pki.ca.key.reveal()).unwrap();
        let issuer = Issuer::from_ca_cert_pem(&pki.ca.cert, signer).unwrap();
        let certificate = params.signed_by(&KeyPair::generate().unwrap(), &issuer).unwrap();
        format!("-data {}", BASE64_STANDARD.encode(certificate.pem()))
    };
    let all = [
        ("kubelet", file(&endpoint, " /var/lib/kubelet/pki/kubelet-client-current.pem")),
        ("admin", file(&endpoint, &issued("kubernetes-admin", Some("kubeadm:cluster-admins")))),
        ("controller-manager", file(&local, &issued("system:kube-controller-manager", None))),
        ("scheduler", file(&local, &issued("system:kube-scheduler", None))),
    ];
    all.into_iter().map(|(name, text)| (format!("/etc/kubernetes/{name}.conf"), text)).collect()
}

/// Nodes, and what runs on them, as large as they are in life.
fn objects(cluster: &Cluster) -> BTreeMap<String, Value> {
    let mut all: BTreeMap<String, Value> = cluster
        .nodes
        .iter()
        .map(|node| (format!("Node//{}", node.name), node_object(cluster, node)))
        .collect();
    let count = cluster.nodes.len();
    let daemons =
        json!({"desiredNumberScheduled": count, "updatedNumberScheduled": count, "numberAvailable": count});
    let dns = json!({"replicas": 2, "updatedReplicas": 2, "availableReplicas": 2});
    // As kubeadm makes them of such an inventory; what another version would differ in is no right answer.
    for line in include_str!("../fixtures/kubeadm-1.36.3.jsonl").lines() {
        let mut object: Value = serde_json::from_str(line).unwrap();
        match object["kind"].as_str() {
            Some("DaemonSet") => object["status"] = daemons.clone(),
            Some("Deployment") => object["status"] = dns.clone(),
            _ => {}
        }
        all.insert(ironstrap::step::Object::of(&object).key(), object);
    }
    let Network::Flannel(images) = &cluster.network else { return all };
    let values = json!({"pods": cluster.pods.to_string(), "image": images.image, "plugin": images.plugin});
    let flannel = template::render("flannel.yaml", values).unwrap();
    for mut object in template::documents("flannel.yaml", &flannel).unwrap() {
        if object["kind"] == "DaemonSet" {
            object["status"] = daemons.clone();
        }
        all.insert(ironstrap::step::Object::of(&object).key(), object);
    }
    all
}

fn node_object(cluster: &Cluster, node: &Node) -> Value {
    let name = &node.name;
    let heard = OffsetDateTime::now_utc().format(&time::format_description::well_known::Rfc3339).unwrap();
    let condition = |kind: &str, status: &str| {
        json!({"type": kind, "status": status, "lastHeartbeatTime": heard, "lastTransitionTime": heard,
            "reason": "KubeletHasIt", "message": "kubelet is posting ready status"})
    };
    let mut labels = json!({"kubernetes.io/arch": "amd64", "kubernetes.io/os": "linux", "kubernetes.io/hostname": name,
        "beta.kubernetes.io/arch": "amd64", "beta.kubernetes.io/os": "linux"});
    let mut spec = json!({"podCIDR": "10.244.1.0/24", "podCIDRs": ["10.244.1.0/24"]});
    if node.is_control_plane() {
        labels["node-role.kubernetes.io/control-plane"] = "".into();
        labels["node.kubernetes.io/exclude-from-external-load-balancers"] = "".into();
        spec["taints"] = json!([{"key": "node-role.kubernetes.io/control-plane", "effect": "NoSchedule"}]);
    }
    // A kubelet names the fifty largest images that it has.
    let images: Vec<Value> = (0..25)
        .map(|i| json!({"names": [format!("registry.example/image-{i}@sha256:{:064x}", i), format!("registry.example/image-{i}:v1")], "sizeBytes": 1 << 24}))
        .collect();
    let room = json!({"cpu": "4", "memory": "8028040Ki", "pods": "110", "ephemeral-storage": "30417369470"});
    json!({"apiVersion": "v1", "kind": "Node",
        "metadata": {"name": name, "uid": "8f9c1c1e-1111-2222-3333-444455556666", "labels": labels,
            "annotations": {"flannel.alpha.coreos.com/public-ip": node.ip.to_string(),
                "flannel.alpha.coreos.com/backend-type": "vxlan"}},
        "spec": spec,
        "status": {"addresses": [{"type": "InternalIP", "address": node.ip.to_string()}, {"type": "Hostname", "address": name}],
            "allocatable": room, "capacity": room, "images": images,
            "conditions": [condition("MemoryPressure", "False"), condition("DiskPressure", "False"),
                condition("PIDPressure", "False"), condition("Ready", "True")],
            "nodeInfo": {"kubeletVersion": format!("v{}", cluster.kubernetes), "osImage": "Debian GNU/Linux 13 (trixie)",
                "kernelVersion": "6.12.48+deb13-amd64", "containerRuntimeVersion": "containerd://1.7.24"}}})
}
