//! A machine whose root lies to ironstrap.

use crate::fleet::Fleet;
use crate::pairs;

#[tokio::test]
async fn a_worker_that_claims_to_run_an_api_server_does_not_speak_for_the_cluster() {
    let fleet = Fleet::settled(&["a1", "m1"]).await;
    fleet.machine("m1").write("etc/toy/labels", "a1\n");
    fleet.machine("a1").write("etc/kubernetes/manifests/kube-apiserver.yaml", "\n");
    let (work, _) = fleet.look().await;
    let speaker = work.speaker().map(|i| work.members()[i].node.name.clone());
    assert_eq!(speaker.as_deref(), Some("m1"), "`status` asks a control plane of the inventory");
    let run = fleet.apply().await;
    assert_eq!(
        run.planned,
        pairs(&[("m1", "m1 is labelled")]),
        "the drift that only m1 can see is not hidden"
    );
    assert_eq!(fleet.machine("a1").read("etc/toy/labels"), "absent", "nothing of the cluster runs on a1");
}
