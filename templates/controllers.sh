# Shell function that restarts the controllers of this control plane while a fix waits for the cluster. Sent after pods.sh.
# POSIX sh.

# controllers_at_once: restarts the kubelet of $NODE once, if the controller manager or the scheduler has not run for 10
# seconds although the API server answers. Both end when they lose their lease, and nothing in the cluster progresses without
# them. A kubelet waits up to five minutes before it restarts a container that keeps ending (kubernetes.io, "Pod Lifecycle").
# A kubelet that has just started itself does not wait.
controllers_at_once() {
  [ -z "${controllers_restarted-}" ] || return 0
  controllers_gone=
  for controller in kube-controller-manager kube-scheduler; do
    [ -e "/etc/kubernetes/manifests/$controller.yaml" ] || continue
    find_component "$controller" "$NODE" || return 0
    [ -n "$pids" ] || controllers_gone=$controller
  done
  [ -n "$controllers_gone" ] && component_api_answers || { controllers_since=; return 0; }
  controllers_now=$(date +%s)
  : "${controllers_since:=$controllers_now}"
  [ $((controllers_now - controllers_since)) -ge 10 ] || return 0
  controllers_restarted=yes
  echo "$controllers_gone of $NODE does not run; ironstrap restarts its kubelet, which starts it at once"
  systemctl restart kubelet || :
}
