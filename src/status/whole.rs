//! Combines what control planes say about the cluster and its nodes. The API host answers for the whole cluster, and each
//! control plane answers for itself. A value that none of them could see stays unknown.

use std::collections::BTreeMap;

use serde_json::Value;
use time::OffsetDateTime;

use super::ask::Topic;
use super::quantity::{Requests, billionths, by_node};
use super::{Api, ClusterStatus, Health, Member, NetworkStatus, NodeEvidence, NodeStatus, Seen, Share, read};
use crate::cluster::Cluster;
use crate::step::Answer;

/// The API host, and what it says about the cluster.
pub(super) struct ApiView<'a> {
    cluster: &'a Cluster,
    told: &'a [NodeEvidence<'a>],
    speaker: Option<&'a NodeEvidence<'a>>,
    requests: Seen<BTreeMap<String, Requests>>,
}

/// The state of one node, as the API reports it.
pub(super) struct ApiNode {
    pub ready: Seen<bool>,
    pub not_ready: Option<String>,
    pub schedulable: Seen<bool>,
    pub cpu: Share<f64>,
    pub memory: Share<u64>,
    pub pods: Share<u64>,
}

impl<'a> ApiView<'a> {
    pub(super) fn new(cluster: &'a Cluster, told: &'a [NodeEvidence<'a>], speaks: Option<usize>) -> Self {
        let mut view =
            ApiView { cluster, told, speaker: speaks.and_then(|i| told.get(i)), requests: Seen::Nothing };
        view.requests = view.said(Topic::Pods).then(|text| match by_node(&text) {
            Ok(requests) => Seen::Is(requests),
            Err(why) => Seen::Unknown(why),
        });
        view
    }

    /// Returns what the API host says about a topic. If its API server does not answer, the result is unknown: an object that
    /// it did not show may still exist.
    fn says(&self, topic: Topic) -> Seen<&'a Answer> {
        let Some(speaker) = self.speaker else { return Seen::Unknown("there is no control plane".into()) };
        let name = &speaker.node.name;
        let named = |why: &str| Seen::Unknown(format!("{name}: {why}"));
        match self.health(speaker) {
            Seen::Nothing => match self.silent() {
                Some(silent) => Seen::Unknown(format!("{name} runs no cluster, and {silent} did not answer")),
                None => Seen::Nothing,
            },
            Seen::Unknown(why) => named(&why),
            Seen::Is((Health::Down, why)) => {
                named(&format!("its API server is down: {}", why.unwrap_or_default()))
            }
            Seen::Is(_) => match read::answer(self.cluster, speaker, topic) {
                Seen::Unknown(why) => named(&why),
                Seen::Nothing => named("its API server was removed in the meantime"),
                answer => answer,
            },
        }
    }

    /// Returns what the API host says about a topic, as text.
    fn said(&self, topic: Topic) -> Seen<String> {
        self.says(topic).then(|answer| match answer.text() {
            Ok(text) => Seen::Is(text.into()),
            Err(why) => Seen::Unknown(why),
        })
    }

    /// Returns the objects of a topic. `None`: the object does not exist.
    fn objects(&self, topic: Topic) -> Seen<Vec<Option<Value>>> {
        self.says(topic).then(|answer| match answer.objects() {
            Ok(objects) => Seen::Is(objects),
            Err(why) => Seen::Unknown(why),
        })
    }

    fn health(&self, told: &NodeEvidence) -> Seen<(Health, Option<String>)> {
        read::said(self.cluster, told, Topic::Api).then(|text| read::health(&text))
    }

    /// Returns a control plane that did not answer, and so may run the cluster.
    fn silent(&self) -> Option<&str> {
        let silent = |told: &&NodeEvidence| told.node.is_control_plane() && told.machine.is_none();
        self.told.iter().find(silent).map(|told| told.node.name.as_str())
    }

    /// Returns the i-th object of a topic, or `Null` if it does not exist.
    fn object(&self, topic: Topic, i: usize) -> Seen<Value> {
        self.says(topic).then(|answer| match answer.object(i) {
            Ok(object) => Seen::Is(object.unwrap_or(Value::Null)),
            Err(why) => Seen::Unknown(why),
        })
    }

    pub(super) fn of_node(&self, i: usize) -> ApiNode {
        let object = self.object(Topic::Nodes, i);
        let name = &self.told[i].node.name;
        let is = |object: &Seen<Value>, read: &dyn Fn(&Value) -> bool| match object {
            Seen::Is(object) => Seen::Is(read(object)),
            Seen::Nothing => Seen::Nothing,
            Seen::Unknown(why) => Seen::Unknown(why.clone()),
        };
        let of_pods = |read: &dyn Fn(&Requests) -> i128| {
            let requested =
                |all: BTreeMap<String, Requests>| Seen::Is(read(&all.get(name).copied().unwrap_or_default()));
            match object.is() {
                Some(Value::Null) => Seen::Nothing,
                _ => self.requests.clone().then(requested),
            }
        };
        let has = |resource: &str| object.clone().then(|object| allocatable(&object, resource));
        let ready = is(&object, &|object| condition(object)["status"] == "True");
        ApiNode {
            not_ready: object.is().filter(|_| ready == Seen::Is(false)).map(why_not_ready),
            ready,
            schedulable: is(&object, &|object| object["spec"]["unschedulable"] != true),
            cpu: Share {
                allocatable: has("cpu").then(|n| Seen::Is(cores(n))),
                requested: of_pods(&|all| all.cpu).then(|n| Seen::Is(cores(n))),
            },
            memory: Share {
                allocatable: has("memory").then(whole_units),
                requested: of_pods(&|all| all.memory).then(whole_units),
            },
            pods: Share {
                allocatable: has("pods").then(whole_units),
                requested: of_pods(&|all| i128::from(all.pods) * BILLION).then(whole_units),
            },
        }
    }

    pub(super) fn whole(&self, nodes: &[NodeStatus], now: OffsetDateTime) -> ClusterStatus {
        let cluster = self.cluster;
        let ready = nodes.iter().filter(|node| node.ready == Seen::Is(true)).count();
        let unknown = nodes.iter().find_map(|node| node.ready.why());
        let none = nodes.iter().all(|node| node.ready == Seen::Nothing);
        ClusterStatus {
            name: cluster.name.clone(),
            nodes: nodes.len(),
            kubernetes: cluster.kubernetes.to_string(),
            endpoint: format!("https://{}", cluster.endpoint),
            api: self.control_planes().map(|told| self.api(told)).collect(),
            etcd: self.etcd(),
            network: self.network(),
            token: self.said(Topic::Tokens).then(|text| read::token(&text, now)),
            ready: match unknown {
                Some(why) => Seen::Unknown(why.into()),
                None if none => Seen::Nothing,
                None => Seen::Is(ready),
            },
        }
    }

    fn control_planes(&self) -> impl Iterator<Item = &'a NodeEvidence<'a>> + use<'a> {
        self.told.iter().filter(|told| told.node.is_control_plane())
    }

    fn api(&self, told: &NodeEvidence) -> Api {
        let health = self.health(told);
        let why = health.is().and_then(|(_, why)| why.clone());
        Api { node: told.node.name.clone(), health: health.then(|(health, _)| Seen::Is(health)), why }
    }

    /// Returns the members as one of them lists them. If none does, returns the members that answered for themselves.
    fn etcd(&self) -> Seen<Vec<Member>> {
        let own = |told: &NodeEvidence| {
            read::said(self.cluster, told, Topic::Etcd).then(|text| read::member_health(&text))
        };
        let member = |name: &str, learner: Seen<bool>| {
            let told = self.control_planes().find(|told| told.node.name == name);
            let stranger = || Seen::Unknown("it is not on a machine of the inventory".into());
            let health = told.map_or_else(stranger, own);
            let why = health.is().and_then(|(_, why)| why.clone());
            Member { name: name.into(), healthy: health.then(|(well, _)| Seen::Is(well)), learner, why }
        };
        let mut nobody = Seen::Nothing;
        for told in self.control_planes() {
            match read::said(self.cluster, told, Topic::Members).then(|text| read::members(&text)) {
                Seen::Is(all) => {
                    return Seen::Is(all.iter().map(|(name, l)| member(name, Seen::Is(*l))).collect());
                }
                Seen::Unknown(why) => nobody = Seen::Unknown(format!("{}: {why}", told.node.name)),
                Seen::Nothing => {}
            }
        }
        let Seen::Unknown(why) = &nobody else { return nobody };
        let spoke = self.control_planes().filter(|told| own(told).is().is_some());
        let spoke: Vec<Member> =
            spoke.map(|told| member(&told.node.name, Seen::Unknown(why.clone()))).collect();
        if spoke.is_empty() { nobody } else { Seen::Is(spoke) }
    }

    fn network(&self) -> NetworkStatus {
        let sum = |pointer: &str| {
            self.objects(Topic::Network).then(|objects| {
                let objects = objects.iter().flatten();
                let counts: Vec<u64> = objects.filter_map(|o| o.pointer(pointer)?.as_u64()).collect();
                // There is no such DaemonSet. The plan says what to do about it.
                if counts.is_empty() {
                    Seen::Nothing
                } else {
                    Seen::Is(counts.into_iter().fold(0, u64::saturating_add))
                }
            })
        };
        NetworkStatus {
            kind: NetworkStatus::kind(self.cluster),
            pods: self.cluster.pods.to_string(),
            ready: sum("/status/numberReady"),
            wanted: sum("/status/desiredNumberScheduled"),
        }
    }
}

const BILLION: i128 = 1_000_000_000;

/// Converts billionths of a core to cores, with three decimal places.
fn cores(billionths: i128) -> f64 {
    billionths.saturating_add(999_999).div_euclid(1_000_000) as f64 / 1000.0
}

fn whole_units(billionths: i128) -> Seen<u64> {
    match u64::try_from(billionths.saturating_add(BILLION - 1) / BILLION) {
        Ok(units) => Seen::Is(units),
        Err(_) => Seen::Unknown("the amount is too large".into()),
    }
}

fn allocatable(object: &Value, resource: &str) -> Seen<i128> {
    match object["status"]["allocatable"][resource].as_str() {
        None => Seen::Nothing,
        Some(text) => match billionths(text) {
            Some(amount) => Seen::Is(amount),
            None => Seen::Unknown(format!("cannot read the amount \"{text}\"")),
        },
    }
}

/// Returns the condition of the type Ready.
fn condition(object: &Value) -> Value {
    let all = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
    all.into_iter().find(|condition| condition["type"] == "Ready").unwrap_or_default()
}

fn why_not_ready(object: &Value) -> String {
    match object {
        Value::Null => "it is not registered".into(),
        object => condition(object)["message"].as_str().unwrap_or("the API gives no reason").to_string(),
    }
}
