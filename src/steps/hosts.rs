//! hosts: the endpoint's name and the nodes' names resolve on every node, without a DNS of ours.

use crate::cluster::Cluster;
use crate::error::Result;
use crate::shell::{Sh, sh};
use crate::step::{Cx, Step, Verdict, Want};

pub const STEP: Step = Step {
    name: "hosts",
    why: "every node must find the API and its fellows by name, whatever the network's DNS knows",
    wants,
};

const CLOUD: Sh = Sh::raw(include_str!("../../templates/cloud-hosts.sh"));

fn wants(cx: &Cx) -> Result<Vec<Want>> {
    let lines = lines(cx.cluster);
    let mark = mark(cx.cluster);
    let at_boot = at_boot(&lines, &mark);
    let (there, gone) = (mark.clone(), mark);
    let now = Want::edit(
        "the cluster's names are in /etc/hosts",
        "/etc/hosts",
        move |hosts| edit(hosts, &lines, &there),
        move |hosts| edit(hosts, &[], &gone),
    );
    Ok(vec![now, at_boot])
}

/// cloud-init may replace the whole file at each boot, and then a kubelet would not find the API by its name.
fn at_boot(lines: &[String], mark: &str) -> Want {
    let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
    Want::that("cloud-init keeps the cluster's names in /etc/hosts")
        .ask(sh!("{CLOUD}cloud_hosts_say {mark}\n", CLOUD, mark))
        .judged(move |answer| match answer.trim_end() == text.trim_end() {
            true => Verdict::Holds,
            false => Verdict::Differs { have: answer.into(), want: text.clone() },
        })
        .run(sh!("{CLOUD}cloud_hosts_put {mark} {lines}\n", CLOUD, mark, lines = Sh::words(lines)))
        .nothing_to_undo("the file that it edits is kept by itself, and comes back")
}

/// Our lines end in this; every other line is somebody else's.
fn mark(cluster: &Cluster) -> String {
    format!("# ironstrap: {}", cluster.name)
}

/// One line per control plane for the endpoint, where that name is ours: clients try them in turn, so that no
/// load balancer is needed. Then one per node.
fn lines(cluster: &Cluster) -> Vec<String> {
    let mark = mark(cluster);
    let endpoint = cluster.control_planes().filter(|_| cluster.endpoint.kept);
    let endpoint = endpoint.map(|node| format!("{} {}", node.ip, cluster.endpoint.host));
    let nodes = cluster.nodes.iter().map(|node| format!("{} {}", node.ip, node.name));
    endpoint.chain(nodes).map(|line| line + " " + &mark).collect()
}

/// Our lines as they should be, in place of our lines as they are.
fn edit(hosts: &str, lines: &[String], mark: &str) -> String {
    let ours = |line: &&str| line.trim_end().ends_with(mark);
    let present: Vec<&str> = hosts.lines().filter(ours).map(str::trim_end).collect();
    if present == lines {
        return hosts.to_string();
    }
    let mut text: String = hosts.split_inclusive('\n').filter(|line| !ours(line)).collect();
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
    text + &lines.iter().map(|line| format!("{line}\n")).collect::<String>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_lines_are_replaced() {
        let lines = vec!["10.0.0.1 m1 # ironstrap: demo".to_string()];
        let edit = |text: &str| edit(text, &lines, "# ironstrap: demo");
        assert_eq!(edit("127.0.0.1 localhost"), "127.0.0.1 localhost\n10.0.0.1 m1 # ironstrap: demo\n");
        let old = "127.0.0.1 localhost\n10.0.0.9 m1 # ironstrap: demo\n10.0.0.7 x # ironstrap: demo2\n";
        let new = "127.0.0.1 localhost\n10.0.0.7 x # ironstrap: demo2\n10.0.0.1 m1 # ironstrap: demo\n";
        assert_eq!(edit(old), new);
        assert_eq!(edit(new), new, "an edit applied twice is the edit applied once");
        let back = super::edit(new, &[], "# ironstrap: demo");
        assert_eq!(back, "127.0.0.1 localhost\n10.0.0.7 x # ironstrap: demo2\n");
    }
}
