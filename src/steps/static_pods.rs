//! static-pods: etcd, API server, controller manager and scheduler run with their present certificates, keys, kubeconfigs and
//! arguments. `pki` and `kubeconfigs` check that these are the right ones. The manifests are kubeadm's.

use crate::error::Result;
use crate::pki::CERTIFICATES_DIR;
use crate::shell::{KUBECTL, PODS, Sh, sh};
use crate::step::{Ask, Cx, Step, WITH_THE_MEMBER, Want};
use crate::steps::kubeadm;

pub const STEP: Step = Step {
    name: "static-pods",
    why: "renewed certificates and changed files take effect only after a restart",
    wants,
};

fn wants(cx: &Cx) -> Result<Vec<Want>> {
    if !cx.node.is_control_plane() {
        return Ok(vec![]);
    }
    let mut reads: Vec<String> = cx.pki.files(cx.node).into_iter().map(|file| file.path).collect();
    // No component reads these files. Only the controller manager reads the key of a CA, and only that of the cluster's own
    // CA.
    let unread =
        ["front-proxy-ca.key", "etcd/ca.key", "etcd/healthcheck-client.crt", "etcd/healthcheck-client.key"];
    reads.retain(|path| !unread.iter().any(|name| *path == format!("{CERTIFICATES_DIR}/{name}")));
    reads.extend(["controller-manager.conf", "scheduler.conf"].map(|name| format!("/etc/kubernetes/{name}")));
    let reads: Vec<&str> = reads.iter().map(String::as_str).collect();
    let node = sh!("NODE={node}\n", node = cx.node.name);
    Ok(vec![
        Want::new("static-pods.current", "the control plane runs with its current files")
            .ask(Ask::api(PODS + node.clone() + ASK))
            .is("")
            .run_as_unit("control-plane", 10, PODS + KUBECTL + node + startable(cx)? + RESTART)
            .nothing_to_undo(WITH_THE_MEMBER)
            .reads(if cx.machine.is_member() { &reads } else { &[] })
            .disrupts(),
    ])
}

/// Prints the components that do not run with their present files. They started before their files changed, have other
/// arguments than their manifest, or do not run. A container that ends as soon as it starts is started again and again.
const ASK: &str = r#"all=$(stale "$NODE" also)
[ -z "$all" ] || echo "$all" | while read -r pid name file; do
  case $pid$file in
  -) echo "$name does not run" ;;
  *arguments) echo "$name runs with other arguments than /etc/kubernetes/manifests/$name.yaml has" ;;
  *) echo "$name started before $file changed" ;;
  esac
done"#;

/// Has kubeadm write the kubelet's files if they are not as kubeadm wrote them. A kubelet that runs has read them long ago.
/// But the fix restarts the kubelet here, and the control plane with it. Without the files both would be gone until a later
/// stage.
fn startable(cx: &Cx) -> Result<Sh> {
    let write = Sh::raw("kubeadm init phase kubelet-start --config $c");
    let write = kubeadm::with(cx, &kubeadm::init(cx, false)?, &write)?;
    Ok(sh!("if ! kubelet_is_written; then\n{write}fi\n", write))
}

/// Shell that restarts these components. The kubelet starts a container that ended again, each time after a longer while. A
/// kubelet that has just been started does so at once. The API server goes first, because it does not end while its etcd is
/// away. When it is asked to end, it waits for all its clients to leave. So it gets a moment to finish what it is answering,
/// and no more.
const RESTART: &str = r#"all=$(stale "$NODE" also)
gone=$(echo "$all" | sed -n 's/^- //p')
all=$(echo "$all" | sed '/^- /d')
pids() { echo "$all" | while read -r pid name file; do case $name in $1) echo "$pid" ;; esac; done; }
finish() {
  patience=$1; shift
  for pid; do kill -s TERM "$pid" 2>/dev/null || :; done
  for pid; do
    n=0
    while [ -e "/proc/$pid" ]; do
      n=$((n + 1)); [ $n != $patience ] || kill -s KILL "$pid" 2>/dev/null || :
      [ $n -lt 200 ] || { echo "process $pid does not end"; exit 1; }
      sleep 0.1
    done
  done
}
systemctl stop kubelet
finish 30 $(pids 'kube-*')
finish 150 $(pids etcd)
systemctl start kubelet
for name in $(echo "$all" | cut -d ' ' -f 2) $gone; do
  n=0
  until [ -n "$(component "$name" "$NODE")" ]; do
    n=$((n + 1)); [ $n -lt 600 ] || { echo "$name was not started again"; exit 1; }
    sleep 0.1
  done
done
if [ -n "$gone" ]; then
  sleep 5
  for name in $gone; do
    [ -n "$(component "$name" "$NODE")" ] || { echo "$name was started, and has ended again"; exit 1; }
  done
fi
# Of those that did not run others may hold one up: an etcd that has lost its fellows, say.
[ -z "$all" ] && [ -n "$gone" ] || retry kubectl get --raw /readyz >/dev/null 2>&1
echo "$all" | while read -r pid name file; do
  [ "$file" = arguments ] || continue
  ! ( WAIT_TIMEOUT=30; retry as_written "$name" "$NODE" ) 2>/dev/null || continue
  echo "reason: $name still runs with other arguments than its manifest has"
  others=$(grep -l "^ *name: [\"']*$name[\"']*\$" /etc/kubernetes/manifests/* | grep -v "/$name.yaml\$" | xargs)
  if [ -z "$others" ]; then echo "by hand: pod-starts"
  else echo "reason: other files define a pod of that name: $others"; echo "by hand: pod-manifest"; fi
  exit 1
done"#;
