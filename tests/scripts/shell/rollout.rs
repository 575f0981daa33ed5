//! Tests the wait until a DaemonSet is available, and which nodes are named if it does not become available.

use super::{new_root, text};
use crate::support::{owner, shells};

/// What `not_up` prints for the nodes w1, w2 and w3. A pod has its node, its deletionTimestamp and its condition.
fn faults(shell: &str, pods: &[(&str, &str, &str)]) -> String {
    let root = new_root();
    let lines = pods
        .iter()
        .map(|(node, gone, ready)| format!("{}\t{node}\t{gone}\t{ready}\n", owner("DaemonSet/web")));
    root.write("pods", &lines.collect::<String>());
    // The request must ask for this field, which shows the pods that are being deleted.
    root.command("kubectl", "case $* in *.metadata.deletionTimestamp*) cat $ROOT/pods ;; *) exit 1 ;; esac");
    let functions = std::fs::read_to_string("templates/rollout.sh").unwrap();
    let script = format!("kubectl() {{ command kubectl \"$@\"; }}\n{functions}\nnot_up web web w1 w2 w3");
    text(&root.run(shell, &script).stdout)
}

const READY: &str = r#"{"status":"True","type":"Ready"}"#;
const NOT: &str = r#"{"message":"\"status\":\"True\"","status":"False","type":"Ready"}"#;

#[test]
fn only_workers_that_block_a_rollout_are_at_fault() {
    for shell in shells() {
        let gone = "2026-01-01T00:00:00Z";
        let kept = [("m1", "", READY), ("w1", gone, READY), ("w2", "", READY), ("w3", "", READY)];
        assert_eq!(faults(shell, &kept), "rollout: DaemonSet/web is not up on w1\n", "{shell}");
        let not = [("m1", "", READY), ("w1", "", READY), ("w2", "", NOT)];
        let both = "rollout: DaemonSet/web is not up on w2\nrollout: DaemonSet/web is not up on w3\n";
        assert_eq!(faults(shell, &not), both, "{shell}");
        let none = [("m1", "", NOT), ("w1", gone, READY)];
        assert_eq!(faults(shell, &none), "", "{shell}: no pod of it is ready anywhere");
    }
}

/// A controller that counts again only when the DaemonSet changes, as that of Kubernetes does for a Node that came back
/// before its pods were gone.
#[test]
fn a_controller_that_missed_a_node_counts_again() {
    const KUBECTL: &str = "case $* in
    *' annotate '*counted=*) echo begun >>$ROOT/calls; echo 3/3/3/1/1 >$ROOT/status ;;
    *' annotate '*counted-*) echo ended >>$ROOT/calls ;;
    *' get daemonset '*) cat $ROOT/status ;;
    *' get pods '*) ;;
    *) exit 1 ;;
    esac";
    for shell in shells() {
        let root = new_root();
        root.write("status", "2/2/2/1/1\n");
        root.command("kubectl", KUBECTL);
        let functions = std::fs::read_to_string("templates/rollout.sh").unwrap();
        let begin = format!("kubectl() {{ command kubectl \"$@\"; }}\n{functions}\n");
        let covers = |least: u32| format!("up web DaemonSet/web covers web web 0 {least} 3 || echo waits\n");
        let said = |script: String| text(&root.run(shell, &(begin.clone() + &script)).stdout);
        assert_eq!(said(covers(2) + &covers(3) + &covers(3)), "waits\n", "{shell}");
        assert_eq!(root.read("calls"), "begun\nended\n", "{shell}: only if a node is missing");
        // A DaemonSet that really selects fewer nodes is not changed with each try.
        root.write("calls", "");
        assert_eq!(said(covers(4) + &covers(4) + &covers(4)), "waits\nwaits\nwaits\n", "{shell}");
        assert_eq!(root.read("calls"), "begun\nended\n", "{shell}");
    }
}
