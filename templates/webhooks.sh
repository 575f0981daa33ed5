# Shell functions that find webhooks and aggregated APIs whose program is away. Sent after KUBECTL and lib.sh. POSIX sh.

# webhooks_away: prints a line "APIService NAME "MESSAGE"" for each aggregated API that is not available. Then prints a line for each webhook that must answer (failurePolicy: Fail) and whose Service has no ready pod, if it is
# about kinds of Kubernetes itself. Such a webhook refuses every request that it is about. Custom kinds have groups with a dot that do
# not end in .k8s.io, and belong to the users. Prints nothing if no API server runs here, or if kubeadm did not finish. Fails if
# the API server does not answer.
webhooks_away() {
  [ -e /etc/kubernetes/manifests/kube-apiserver.yaml ] && [ -e /etc/kubernetes/admin.conf ] || return 0
  [ -e /var/lib/ironstrap/kubeadm-receipt ] || [ -e /var/lib/kubelet/pki/kubelet-client-current.pem ] || return 0
  webhooks=$(kubectl get validatingwebhookconfigurations,mutatingwebhookconfigurations,apiservices --request-timeout=5s \
    -o 'go-template={{range .items}}{{$of := .}}{{range .webhooks}}{{if and (ne (print .failurePolicy) "Ignore") .clientConfig.service}}{{$of.kind}} {{$of.metadata.name}} {{.name}} {{.clientConfig.service.namespace}} {{.clientConfig.service.name}}{{range .rules}}{{range .apiGroups}} ={{.}}{{end}}{{end}}{{"\n"}}{{end}}{{end}}{{if .spec}}{{if .spec.service}}{{range .status.conditions}}{{if and (eq .type "Available") (eq .status "False")}}APIService {{$of.metadata.name}} {{printf "%.200q" .message}}{{"\n"}}{{end}}{{end}}{{end}}{{end}}{{end}}') || return 1
  [ -n "$webhooks" ] || return 0
  printf '%s\n' "$webhooks" | while read -r kind of webhook namespace service groups; do
    # A line about an aggregated API ends in a message.
    [ "$kind" != APIService ] || { echo "$kind $of $webhook $namespace $service $groups"; continue; }
    about=
    for group in $groups; do
      case ${group#=} in
      '' | '*' | apps | batch | autoscaling | policy) about=yes ;;
      admissionregistration.k8s.io | apiextensions.k8s.io | apiregistration.k8s.io | authentication.k8s.io) about=yes ;;
      authorization.k8s.io | certificates.k8s.io | coordination.k8s.io | discovery.k8s.io | events.k8s.io) about=yes ;;
      flowcontrol.apiserver.k8s.io | networking.k8s.io | node.k8s.io | rbac.authorization.k8s.io) about=yes ;;
      resource.k8s.io | scheduling.k8s.io | storage.k8s.io) about=yes ;;
      esac
    done
    [ -n "$about" ] || continue
    # Of the slices of all namespaces, those of Services with a pod that can answer. A pod is ready where nobody says that it is not.
    [ -n "${ready-}" ] || ready=$(kubectl get endpointslices -A --request-timeout=5s -o 'go-template={{range .items}}{{$of := .}}{{range .endpoints}}{{if ne (print .conditions.ready) "false"}}{{$of.metadata.namespace}}/{{index $of.metadata.labels "kubernetes.io/service-name"}}{{"\n"}}{{end}}{{end}}{{end}}') || exit 1
    ready=${ready:-none}
    case "
$ready
" in *"
$namespace/$service
"*) continue ;; esac
    # A Service of type ExternalName has no slices.
    kind_of=$(kubectl -n "$namespace" get service "$service" --ignore-not-found --request-timeout=5s -o 'jsonpath={.spec.type}') || exit 1
    case $kind_of in
    ExternalName) ;;
    '') echo "$kind $of: $webhook must answer, and its Service $namespace/$service does not exist" ;;
    *) echo "$kind $of: $webhook must answer, and its Service $namespace/$service has no ready pod" ;;
    esac
  done
}

# webhooks_answer: waits until no such webhook is left. For a Service that does not exist it waits twenty seconds. Otherwise it prints
# them, and fails.
webhooks_answer() {
  webhooks_tries=0
  while :; do
    webhooks_said=$(webhooks_away 2>&1) || webhooks_said=${webhooks_said:-the API server does not answer}
    webhooks_said=$(printf '%s\n' "$webhooks_said" | grep -v '^APIService ' | grep .) || return 0
    webhooks_tries=$((webhooks_tries + 1))
    case $webhooks_said in *'no ready pod'* | *'does not answer'*) webhooks_most=$WAIT_TIMEOUT ;; *) webhooks_most=20 ;; esac
    [ $webhooks_tries -lt "$webhooks_most" ] || break
    renew_lease
    sleep 1
  done
  printf '%s\n' "$webhooks_said" | sed 's/^/reason: /'
  echo 'by hand: webhooks'
  return 1
}
