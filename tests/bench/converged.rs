//! The answers of machines that match their inventory, made from the wants themselves, without machines. If a want has
//! no right answer here, the code panics and names it. So a new step cannot make the bench measure something else.

use std::collections::{BTreeMap, BTreeSet};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use ironstrap::cluster::{Cluster, Network, Node};
use ironstrap::fleet::Fleet;
use ironstrap::machine::Machine;
use ironstrap::pki::ClusterPki;
use ironstrap::plan;
use ironstrap::step::{ABSENT, Answer, Ask, Expect, Fix, NOT_HERE, Step, Want};
use ironstrap::template;
use rcgen::{CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, Issuer, KeyPair};
use serde_json::{Value, json};
use time::{Duration, OffsetDateTime};

use crate::support;

/// A cluster with its PKI. All of its machines are members.
pub struct Converged {
    pub cluster: Cluster,
    pki: ClusterPki,
    fleet: Fleet,
    /// Objects of the cluster, by their keys.
    objects: BTreeMap<String, Value>,
    kubeconfigs: BTreeMap<String, String>,
}

/// The replies to the questions of a script: the facts, and then the rest. The last reply, the clock, is not among
/// them.
pub struct Replies {
    facts: String,
    rest: Vec<Reply>,
}

/// Exit status, stdout and stderr of one question.
type Reply = (i32, String, String);

const TOY: Step = Step { name: "toy", why: "", wants: |_| Ok(vec![]) };

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
        let first = all.cluster.control_planes().next().unwrap().clone();
        let mut wants = all.wants(&first, &all.machine(&first));
        // Wants about one object come first. Their objects are also right for wants about several objects.
        wants.sort_by_key(|want| if let Ask::Objects(objects) = &want.ask { objects.len() } else { 0 });
        wants.iter().for_each(|want| all.make_up(want));
        all
    }

    fn wants(&self, node: &Node, machine: &Machine) -> Vec<Want> {
        let about = (machine, &self.fleet);
        let wants = support::wants((&self.cluster, node), &self.pki, about, OffsetDateTime::now_utc());
        wants.into_iter().map(|(_, _, want)| want).collect()
    }

    /// Makes up the objects of this want that the fixtures lack, because the API server or kubeadm itself makes them.
    fn make_up(&mut self, want: &Want) {
        let Ask::Objects(asked) = &want.ask else { return };
        let keys = || asked.iter().map(ironstrap::step::Object::key);
        if let Some(note) = noted(want) {
            let object = json!({"data": {}, "metadata": {"annotations": {"ironstrap.dev/kubeadm": note}}});
            self.objects.extend(keys().map(|key| (key, object.clone())));
        }
        if !is_right(want, &self.found(asked)) {
            let manifests = manifests(want).into_iter();
            self.objects.extend(manifests.map(|object| (ironstrap::step::Object::of(&object).key(), object)));
        }
        let missing: Vec<String> = keys().filter(|key| !self.objects.contains_key(key)).collect();
        let all = json!([{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}]);
        let info = self.pki.cluster_info(&format!("https://{}", self.cluster.endpoint));
        for object in [json!({"rules": all}), json!({"data": {"kubeconfig": info}})] {
            if is_right(want, &self.found(asked)) {
                return;
            }
            self.objects.extend(missing.iter().map(|key| (key.clone(), object.clone())));
        }
    }

    fn found(&self, asked: &[ironstrap::step::Object]) -> Answer {
        let found =
            |object: &ironstrap::step::Object| Some(self.objects.get(&object.key())?.to_string().into());
        Answer::Objects(asked.iter().map(found).collect())
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

    /// The replies of this node. If it has drifted, its /etc/hosts lacks the last line.
    pub fn replies(&self, node: &Node, drifted: bool) -> Replies {
        let machine = self.machine(node);
        let wants = self.wants(node, &machine);
        let mut rest = vec![(0, self.authorities(), String::new()), (0, self.identity(node), String::new())];
        rest.extend(self.tables(&wants, drifted));
        rest.push((0, self.kubectl(&wants), String::new()));
        let mut asked: Vec<&Ask> = Vec::new();
        for want in wants.iter().filter(|want| want.ask.shell().is_some()) {
            // The probe asks identical questions once.
            if !asked.contains(&&want.ask) {
                asked.push(&want.ask);
                rest.push(reply(self.said(want)));
            }
        }
        Replies { facts: facts(node), rest }
    }

    /// The right answer to a want that is not about objects.
    fn said(&self, want: &Want) -> Answer {
        let mut texts = match (&want.ask, &want.expect) {
            (Ask::OnlyBeforeJoin(_), _) => return Answer::NotHere,
            (_, Expect::Absent) => return Answer::Absent,
            (_, Expect::Is(right)) => return Answer::Said(right.clone()),
            (_, Expect::Edited(edit)) => {
                return Answer::Said(format!("mode 644 root:root\n{}", edit("")));
            }
            (Ask::Kubeconfig(path), _) => vec![self.kubeconfigs[path].clone()],
            (Ask::Packages(names), _) => {
                let version = |name: &str| if name == "containerd" { "1.7.24" } else { "1.36.3-1.1" };
                vec![names.iter().map(|name| format!("{name} hi {}\n", version(name))).collect()]
            }
            _ => ["", "a member", "version 2", "enabled active current"].map(String::from).into(),
        };
        if want.ask.shell().is_some_and(|shell| shell.contains("questions()")) {
            let said = "kubelet runs\nkube-proxy runs\nservice reached\nserver0 reached\ndns reached\nkubelet-health says 200 ok\n\
                        proxy says 200 {}\nproxy-mode says 200 nftables\n";
            return Answer::Said(said.into());
        }
        if matches!(&want.ask, Ask::File(path) if path.ends_with("kubernetes-apt-keyring.asc")) {
            let keys = [include_str!("../keys/kubernetes.asc"), include_str!("../keys/other.asc")];
            texts.extend(keys.map(|key| format!("mode 644 root:root\n{key}")));
        }
        if let Fix::Write { text: Some(text), mode: Some(mode), .. } = &want.fix {
            texts.push(format!("mode {mode:o} root:root\n{text}"));
        }
        let mut answers: Vec<Answer> = texts.into_iter().map(Answer::Said).collect();
        answers.push(Answer::Absent);
        // A question of shell may not apply to this machine.
        answers.extend(want.ask.shell().map(|_| Answer::NotHere));
        let found = answers.into_iter().find(|answer| is_right(want, answer));
        found.unwrap_or_else(|| panic!("no right answer for: {}", want.that))
    }

    /// The replies for files (stat, text and hash), kubeconfigs, units and packages, in the order of the probe.
    fn tables(&self, wants: &[Want], drifted: bool) -> [Reply; 6] {
        let mut files: BTreeMap<&str, Option<String>> = BTreeMap::new();
        let [mut stat, mut text, mut hash, mut kubeconfigs, mut units, mut packages] =
            [const { String::new() }; 6];
        let (mut seen, mut gone, mut lacking) = (BTreeSet::new(), String::new(), String::new());
        for want in wants {
            match &want.ask {
                Ask::File(path) | Ask::Hash(path) | Ask::Kubeconfig(path) => {
                    let mut said = self.said(want).text().ok().map(str::to_string);
                    if let Some(text) = said.as_mut().filter(|_| drifted && path == "/etc/hosts") {
                        text.truncate(text.trim_end().rfind('\n').map_or(0, |at| at + 1));
                    }
                    files.insert(path, said);
                }
                Ask::Unit { unit, .. } if seen.insert(unit.clone()) => {
                    let masked = self.said(want) == Answer::Said("masked".into());
                    units += &format!(
                        "Id={unit}\nLoadState={}\nUnitFileState=enabled\nActiveState=active\n\
                         ActiveEnterTimestamp=Sat 2026-11-21 16:20:01.000000 UTC\nNeedDaemonReload=no\n\n",
                        if masked { "masked" } else { "loaded" }
                    );
                }
                Ask::Packages(names) => {
                    for (name, line) in names.iter().zip(self.said(want).text().unwrap().lines()) {
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
            let Some(said) = said else {
                gone += &format!("stat: cannot statx '{path}': No such file or directory\n");
                continue;
            };
            let (mode, body) = said.split_once('\n').unwrap_or((said, ""));
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
        let stat = (i32::from(!gone.is_empty()), stat, gone);
        let packages = (i32::from(!lacking.is_empty()), packages, lacking);
        [stat, quiet(text), quiet(hash), quiet(kubeconfigs), quiet(units), packages]
    }

    /// All objects that are asked for, and all Nodes.
    fn kubectl(&self, wants: &[Want]) -> String {
        let mut keys: BTreeSet<String> = BTreeSet::new();
        for want in wants {
            let Ask::Objects(objects) = &want.ask else { continue };
            keys.extend(objects.iter().map(ironstrap::step::Object::key));
            let found =
                objects.iter().map(|object| Some(self.objects.get(&object.key())?.to_string().into()));
            let answer = Answer::Objects(found.collect());
            assert!(is_right(want, &answer), "no right object for: {}", want.that);
        }
        if keys.is_empty() {
            return String::new();
        }
        let line = |key: &String| Some(format!("{key} {}\n", self.objects.get(key)?));
        let listed = include_str!("../fixtures/listed-1.36.3.txt");
        keys.iter().filter_map(line).collect::<String>() + "beside the nodes\n" + listed + "all nodes\n"
    }
}

impl Replies {
    /// The whole reply to a script with this boundary.
    pub fn text(&self, boundary: &str) -> String {
        let now = || OffsetDateTime::now_utc().unix_timestamp_nanos() as f64 / 1e9;
        let mut number = 0;
        let mut one = |text: &mut String, status: i32, said: &str, stderr: &str| {
            *text += &format!("{said}\n{boundary} {number} {status}\n{}\n{boundary}\n", stderr.trim_end());
            number += 1;
        };
        let mut text = String::new();
        one(&mut text, 0, &format!("{}clock {:.9}\n", self.facts, now()), "");
        self.rest.iter().for_each(|(status, said, stderr)| one(&mut text, *status, said, stderr));
        one(&mut text, 0, &format!("{:.9}\n", now()), "");
        text
    }
}

/// The manifests that the fix of this want puts into the cluster.
fn manifests(want: &Want) -> Vec<Value> {
    let Fix::Run(script) = &want.fix else { return vec![] };
    let (mut all, mut lines) = (Vec::new(), script.lines());
    while let Some(line) = lines.next() {
        let Some((_, word)) = line.rsplit_once("<<'") else { continue };
        let end = word.trim_end_matches('\'');
        let text: Vec<&str> = lines.by_ref().take_while(|line| *line != end).collect();
        all.extend(template::documents("a manifest", &text.join("\n")).unwrap_or_default());
    }
    all
}

/// The annotation for an object that kubeadm wrote without data, if the fix of this want writes such an annotation.
fn noted(want: &Want) -> Option<String> {
    let Fix::Run(script) = &want.fix else { return None };
    let (_, rest) = script.split_once("ironstrap.dev/kubeadm=")?;
    let fingerprint: String = rest.chars().take_while(char::is_ascii_hexdigit).collect();
    Some(format!("{fingerprint} {}", ironstrap::step::sha256(b"")))
}

fn is_right(want: &Want, answer: &Answer) -> bool {
    let judged = [(&TOY, want, answer)];
    plan::changes(&judged, &mut BTreeSet::new()).is_empty() && plan::unchecked(&judged).is_empty()
}

fn reply(answer: Answer) -> Reply {
    match answer {
        Answer::Said(text) => (0, text, String::new()),
        Answer::Absent => (ABSENT, String::new(), String::new()),
        Answer::NotHere => (NOT_HERE, String::new(), String::new()),
        other => panic!("no machine says {other}"),
    }
}

/// The facts of a node without the clock.
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

/// The kubeconfigs that kubeadm makes, by path, as a machine reports them: without secrets.
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

/// The Nodes, and the objects that run on them. They are as large as in a real cluster.
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
    // The objects that kubeadm makes for such an inventory. Objects of another version would not match.
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
    // A kubelet reports up to fifty images.
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
