//! On a control plane, questions to the API server run in parallel to the other questions.

use std::fs;

use ironstrap::cluster::ETCD_DIR;
use ironstrap::probe;
use ironstrap::step::{Answer, Ask};

use super::{BOUNDARY, Root, new_root, said, text};
use crate::support::{run, sh, shells};

/// The answers of the machine in this folder.
fn answers(root: &Root, shell: &str, asks: &[&str]) -> Vec<Answer> {
    let asks: Vec<Ask> = asks
        .iter()
        .map(|ask| if ask.contains("kubectl") { Ask::api(sh(*ask)) } else { Ask::Shell(sh(*ask)) })
        .collect();
    let asks: Vec<&Ask> = asks.iter().collect();
    let script = root.moved(&probe::script(&asks, BOUNDARY, ETCD_DIR));
    // The facts of the machine need the file of the host.
    let script = script.replace(&format!("{}/etc/os-release", root.path("").display()), "/etc/os-release");
    let output = run(shell, &script);
    // Shells print this about a process that was killed.
    let noise = text(&output.stderr);
    assert!(output.status.success() && noise.lines().all(|line| line.contains("Killed")), "{shell}: {noise}");
    probe::answers(&output.stdout, &asks, BOUNDARY).unwrap().1
}

#[test]
fn api_questions_start_early_and_keep_their_order() {
    let call = "kubectl() { echo \"$*\"; }\n";
    for shell in shells() {
        let root = new_root();
        let here = root.path("here").display().to_string();
        // This question waits for a later one.
        let waits = format!(
            "n=0; while [ ! -e {here} ] && [ $n -lt 50 ]; do sleep 0.1; n=$((n + 1)); done; [ -e {here} ] && echo came || echo alone"
        );
        let asks = [
            waits.clone(),
            format!("{call}kubectl a; touch {here}; echo noise >&2; exit 3"),
            "echo b".into(),
            format!("{call}kubectl c; printf 'no end'"),
            // A question that is killed does not affect the other answers.
            format!("{call}echo half; sh -c 'kill -9 $PPID'"),
            "echo d".into(),
        ];
        let asks = asks.each_ref().map(String::as_str);
        let answer = |first: &str| {
            let unknown = |why: &str| Answer::Unknown(why.into());
            let right = [said("b\n"), said("c\nno end"), unknown("exit 137: "), said("d\n")];
            [vec![said(first), unknown("exit 3: noise")], right.into()].concat()
        };
        fs::create_dir_all(root.path("run/ironstrap")).unwrap();
        root.write("etc/kubernetes/manifests/kube-apiserver.yaml", "");
        assert_eq!(answers(&root, shell, &asks), answer("came\n"), "{shell}");
        assert_eq!(fs::read_dir(root.path("run/ironstrap")).unwrap().count(), 0, "{shell}: left over");
        // Without the manifest of an API server, all questions run in order.
        fs::remove_file(root.path("etc/kubernetes/manifests/kube-apiserver.yaml")).unwrap();
        fs::remove_file(root.path("here")).unwrap();
        let quick = waits.replace("-lt 50", "-lt 2");
        let asks = asks.map(|ask| if ask == waits { quick.as_str() } else { ask });
        assert_eq!(answers(&root, shell, &asks), answer("alone\n"), "{shell}");
    }
}
