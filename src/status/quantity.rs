//! Reads amounts as Kubernetes writes them (apimachinery, `resource.Quantity`), and adds up what pods request on a node. It
//! does not say what a node can offer.

use std::collections::BTreeMap;

use serde_json::Value;

/// Returns an amount in billionths of its unit, rounded up as Kubernetes does. `100m` is a tenth of a core, `1Ki` is 1024
/// bytes, and `1e3` is a thousand. `None` if the text is no amount, is below zero, or is beyond all machines.
pub fn billionths(text: &str) -> Option<i128> {
    let text = text.strip_prefix('+').unwrap_or(text);
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    let (whole, part) = number.split_once('.').unwrap_or((number, ""));
    let digits: i128 = format!("{whole}{part}").parse().ok()?;
    let places = i32::try_from(part.len()).ok()?;
    if let Some(power) = ["Ki", "Mi", "Gi", "Ti", "Pi", "Ei"].iter().position(|binary| *binary == suffix) {
        let power = u32::try_from(power).ok()? + 1;
        return scaled(digits.checked_mul(1024_i128.pow(power))?, 9 - places);
    }
    let decimal = [("n", -9), ("u", -6), ("m", -3), ("", 0), ("k", 3), ("M", 6), ("G", 9)];
    let decimal = decimal.into_iter().chain([("T", 12), ("P", 15), ("E", 18)]);
    let named = decimal.into_iter().find(|(name, _)| *name == suffix).map(|(_, exponent)| exponent);
    let exponent: i32 = named.or_else(|| suffix.strip_prefix(['e', 'E'])?.parse().ok())?;
    scaled(digits, exponent.checked_add(9)?.checked_sub(places)?)
}

/// `digits` times ten to the `power`.
fn scaled(digits: i128, power: i32) -> Option<i128> {
    let ten = 10_i128.checked_pow(power.unsigned_abs())?;
    if power < 0 { Some(digits.checked_add(ten - 1)? / ten) } else { digits.checked_mul(ten) }
}

/// The sum of what all pods of a node request.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Requests {
    pub pods: u64,
    /// In billionths of a core.
    pub cpu: i128,
    /// In billionths of a byte.
    pub memory: i128,
}

impl Requests {
    fn plus(self, other: Requests) -> Requests {
        Requests {
            pods: self.pods.saturating_add(other.pods),
            cpu: self.cpu.saturating_add(other.cpu),
            memory: self.memory.saturating_add(other.memory),
        }
    }

    fn most(self, other: Requests) -> Requests {
        Requests { pods: self.pods, cpu: self.cpu.max(other.cpu), memory: self.memory.max(other.memory) }
    }
}

/// Reads the answer to `ask::PODS`, by node. The error has the line that is no pod.
pub fn by_node(text: &str) -> Result<BTreeMap<String, Requests>, String> {
    let mut nodes: BTreeMap<String, Requests> = BTreeMap::new();
    for line in text.lines().filter(|line| !line.is_empty()) {
        let (node, pod) = pod(line).ok_or_else(|| format!("cannot read what a pod requests: \"{line}\""))?;
        let sum = nodes.entry(node).or_default();
        *sum = sum.plus(pod);
    }
    Ok(nodes)
}

/// Reads the line of one pod: its node, and its requests by the rule of the scheduler (component-helpers,
/// `resource.PodRequests`).
///
/// Containers run together. Init containers run before them, one after the other. An init container that always restarts stays
/// from its turn on. A request of the pod as a whole replaces this sum. The overhead comes on top.
fn pod(line: &str) -> Option<(String, Requests)> {
    let fields: Vec<&str> = line.split('\t').collect();
    let [node, overhead, whole, containers, inits] = fields.as_slice() else { return None };
    let mut sum = Requests { pods: 1, ..Requests::default() };
    for container in containers.split_whitespace() {
        sum = sum.plus(requests(container.strip_prefix('=')?)?);
    }
    let (mut staying, mut starting) = (Requests::default(), Requests::default());
    for init in inits.split_whitespace() {
        let (restarts, asked) = init.split_once('=')?;
        let asked = requests(asked)?;
        let together = staying.plus(asked);
        if restarts == "Always" {
            (sum, staying) = (sum.plus(asked), together);
        }
        starting = starting.most(together);
    }
    let sum = sum.most(starting);
    let of_pod = amounts(whole)?;
    let sum = Requests {
        cpu: of_pod.get("cpu").copied().unwrap_or(sum.cpu),
        memory: of_pod.get("memory").copied().unwrap_or(sum.memory),
        ..sum
    };
    Some((node.to_string(), sum.plus(requests(overhead)?)))
}

fn requests(json: &str) -> Option<Requests> {
    let amounts = amounts(json)?;
    let amount = |name| amounts.get(name).copied().unwrap_or(0);
    Some(Requests { pods: 0, cpu: amount("cpu"), memory: amount("memory") })
}

/// Reads the amounts of CPU and memory from a text such as `{"cpu":"100m","memory":"70Mi"}`. The text may be empty.
fn amounts(json: &str) -> Option<BTreeMap<&'static str, i128>> {
    if json.is_empty() {
        return Some(BTreeMap::new());
    }
    let object: BTreeMap<String, Value> = serde_json::from_str(json).ok()?;
    let mut amounts = BTreeMap::new();
    for name in ["cpu", "memory"] {
        match object.get(name) {
            None => {}
            Some(Value::String(text)) => drop(amounts.insert(name, billionths(text)?)),
            Some(other) => drop(amounts.insert(name, billionths(&other.to_string())?)),
        }
    }
    Some(amounts)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: i128 = 1_000_000_000;

    #[test]
    fn quantities_are_parsed_as_in_kubernetes() {
        let right = [
            ("0", 0),
            ("2", 2 * ONE),
            ("100m", ONE / 10),
            ("1500m", 3 * ONE / 2),
            ("0.1", ONE / 10),
            (".5", ONE / 2),
            ("1.", ONE),
            ("+1", ONE),
            ("250u", 250_000),
            ("7n", 7),
            ("128Mi", 128 * 1024 * 1024 * ONE),
            ("1Ki", 1024 * ONE),
            ("1.5Gi", 3 * 512 * 1024 * 1024 * ONE),
            ("8Ei", (8_i128 << 60) * ONE),
            ("1k", 1000 * ONE),
            ("129M", 129_000_000 * ONE),
            ("3G", 3_000_000_000 * ONE),
            ("2E", 2_000_000_000_000_000_000 * ONE),
            ("1e3", 1000 * ONE),
            ("1E3", 1000 * ONE),
            ("12e-1", 12 * ONE / 10),
            ("1.5e+3", 1500 * ONE),
            // The amount is rounded up, so nothing that a pod requests is lost.
            ("0.1n", 1),
            ("1.0000000001", ONE + 1),
        ];
        for (text, amount) in right {
            assert_eq!(billionths(text), Some(amount), "{text}");
        }
    }

    #[test]
    fn invalid_quantities_are_refused() {
        let wrong =
            ["", ".", "Mi", "m", "-1", "1 Gi", "1mi", "1KI", "1K", "1.2.3", "1e", "1e99", "1e2147483647"];
        for text in wrong.into_iter().chain(["99999999999999999999999999999999999999", "ten", "0x10"]) {
            assert_eq!(billionths(text), None, "{text:?}");
        }
    }

    fn line(fields: [&str; 5]) -> Requests {
        let (node, requests) = pod(&fields.join("\t")).unwrap();
        assert_eq!(node, fields[0]);
        requests
    }

    /// Returns thousandths of a core, and mebibytes.
    fn is(requests: Requests) -> (i128, i128) {
        assert_eq!(requests.pods, 1);
        (requests.cpu / 1_000_000, requests.memory / ONE / 1024 / 1024)
    }

    #[test]
    fn a_pod_requests_the_sum_of_its_containers() {
        let two = r#"={"cpu":"100m","memory":"70Mi"} = ={"cpu":"1","ephemeral-storage":"1Gi"} "#;
        assert_eq!(is(line(["w1", "", "", two, ""])), (1100, 70));
        assert_eq!(is(line(["w1", "", "", "= ", ""])), (0, 0));
        assert_eq!(is(line(["w1", "", "", r#"={"cpu":2,"memory":1048576} "#, ""])), (2000, 1));
    }

    #[test]
    fn an_init_container_counts_if_it_requests_more() {
        let run = r#"={"cpu":"100m","memory":"70Mi"} "#;
        assert_eq!(
            is(line(["w1", "", "", run, r#"={"cpu":"50m"} ={"cpu":"300m","memory":"10Mi"} "#])),
            (300, 70)
        );
    }

    #[test]
    fn sidecars_add_to_containers_and_later_init_containers() {
        let run = r#"={"cpu":"100m"} "#;
        let sidecar = r#"Always={"cpu":"200m"} "#;
        assert_eq!(is(line(["w1", "", "", run, sidecar])), (300, 0));
        let later = [sidecar, r#"={"cpu":"250m"} "#].concat();
        assert_eq!(is(line(["w1", "", "", run, &later])), (450, 0));
        let earlier = [r#"={"cpu":"250m"} "#, sidecar].concat();
        assert_eq!(is(line(["w1", "", "", run, &earlier])), (300, 0));
    }

    #[test]
    fn pod_requests_override_containers_and_overhead_is_added() {
        let run = r#"={"cpu":"100m","memory":"70Mi"} "#;
        assert_eq!(is(line(["w1", "", r#"{"cpu":"1"}"#, run, ""])), (1000, 70));
        assert_eq!(is(line(["w1", r#"{"cpu":"250m","memory":"120Mi"}"#, "", run, ""])), (350, 190));
    }

    #[test]
    fn requests_are_summed_by_node() {
        let text = "w1\t\t\t={\"cpu\":\"100m\"} \t\nw2\t\t\t= \t\nw1\t\t\t={\"cpu\":\"50m\"} \t\n";
        let nodes = by_node(text).unwrap();
        assert_eq!((nodes["w1"].pods, nodes["w1"].cpu), (2, 150_000_000));
        assert_eq!((nodes["w2"].pods, nodes["w2"].cpu), (1, 0));
        for wrong in ["w1", "w1\t\t\t={\"cpu\":\"lots\"} \t", "w1\t\t\t{} \t", "w1\t[]\t\t\t"] {
            assert!(by_node(wrong).is_err(), "{wrong}");
        }
    }
}
