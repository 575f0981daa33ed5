//! Tests what a diagnosis reads from the cluster (templates/diagnose.sh).

use super::text;
use crate::support::{run, shells};

/// The output of a function of the script for these lines. It is the same in every shell.
fn read(function: &str, lines: &str) -> String {
    let script = include_str!("../../../templates/diagnose.sh");
    let functions = &script[script.find("FIELD='").unwrap()..script.find("# young FILE").unwrap()];
    let one = |shell| {
        let script = format!("{functions}{function} <<'LINES'\n{lines}\nLINES\n");
        text(&run(shell, &script).stdout)
    };
    let all: Vec<String> = shells().into_iter().map(one).collect();
    assert!(all.iter().all(|said| *said == all[0]), "{all:?}");
    all[0].clone()
}

#[test]
fn a_kubelet_message_cannot_forge_a_node_or_pod() {
    let lines = [
        r#"w1	{"message":"says \"no\"\nm1: False forged","status":"False","type":"Ready"}"#,
        r#"w2	{"message":"\"status\":\"False\"","status":"True","type":"Ready"}"#,
        "w3	",
    ];
    assert_eq!(read("unready", &lines.join("\n")), "w1: False says \"no\"\\nm1: False forged\nw3:  \n");
    let lines = [
        "a/runs	w1	Running	",
        r#"a/waits	w1	Running	{"message":"x","reason":"Crash\nb/forged on m1: Failed, waiting: y"}"#,
        "a/new		Pending	",
        r#"a/two	w1	Pending	{"reason":"First"}{"reason":"Second"}"#,
    ];
    let said = "a/waits on w1: Running, waiting: Crash\\nb/forged on m1: Failed, waiting: y\n\
                a/new on <none>: Pending, waiting: <none>\na/two on w1: Pending, waiting: First\n";
    assert_eq!(read("waiting", &lines.join("\n")), said);
    let script = include_str!("../../../templates/diagnose.sh");
    assert!(
        !script.contains("{.status.phase}") && !script.contains("custom-columns"),
        "they print raw words"
    );
}
