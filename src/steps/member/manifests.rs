//! Manifests of pods in the kubelet's folder that kubeadm did not write. The kubelet reads each file whose name does not
//! begin with a dot, in the order of their names. If two pods have the same name, it takes the first (pkg/kubelet/config,
//! file.go `extractFromDir` and config.go `filterInvalidPods`).

use crate::shell::Sh;
use crate::step::{Cx, Verdict, Want};

/// The pods that kubeadm's own manifests define.
const COMPONENTS: [&str; 4] = ["etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler"];

/// Prints "more NAME FILE" for each further file. NAME is the name of its pod, or "-" if none is found. In JSON, only the
/// names of components are found.
pub(super) const MORE: Sh = Sh::raw(
    r#"for f in /etc/kubernetes/manifests/*; do
  case $f in */etcd.yaml | */kube-apiserver.yaml | */kube-controller-manager.yaml | */kube-scheduler.yaml) continue ;; esac
  [ -f "$f" ] || continue
  n=$(awk '
    { gsub(/["\047]/, ""); text = text " " $0 }
    /^metadata: *(#.*)?$/ { inside = 1; next }
    /^[^ #]/ { inside = 0 }
    inside && !/^ *(#.*)?$/ {
      match($0, /^ */)
      if (!depth) depth = RLENGTH
      if (RLENGTH == depth && $1 == "name:" && name == "") name = $2
    }
    END {
      n = split("etcd kube-apiserver kube-controller-manager kube-scheduler", all, " ")
      for (i = 1; i <= n; i++) if (name == "" && text ~ "[{,] *name *: *" all[i] " *[,}]") name = all[i]
      if (name !~ /^[a-z0-9.-]+$/) name = "-"
      print name
    }' "$f") || n=-
  echo "more $n $f"
done
"#,
);

pub(super) fn want(cx: &Cx) -> Want {
    let is_control_plane = cx.node.is_control_plane();
    Want::new("member.static-pods", "no other manifest defines a pod of kubeadm's manifests")
        .ask(super::ask(cx))
        .judged(move |answer| judge(answer, is_control_plane))
        .by_hand(
            "move that file out of /etc/kubernetes/manifests and keep kubeadm's: if two files define the same pod, the kubelet \
             uses the one whose name comes first",
        )
        .only(cx.machine.is_member())
}

fn judge(answer: &str, is_control_plane: bool) -> Verdict {
    let more = answer.lines().filter_map(|line| line.strip_prefix("more ")?.split_once(' '));
    let (same, others): (Vec<_>, Vec<_>) =
        more.partition(|(name, _)| is_control_plane && COMPONENTS.contains(name));
    if !same.is_empty() {
        let line = |(name, file): &(&str, &str)| format!("{file} defines the pod {name}, too\n");
        return Verdict::Differs { have: same.iter().map(line).collect(), want: String::new() };
    }
    let files: Vec<&str> = others.iter().map(|(_, file)| *file).collect();
    match files.is_empty() {
        true => Verdict::Holds,
        false => Verdict::Noted(format!(
            "the kubelet also runs manifests that are not kubeadm's: {}",
            files.join(", ")
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_second_manifest_of_a_component_is_drift() {
        let old = "no receipt\nmore kube-scheduler /etc/kubernetes/manifests/a b.yaml\nmore - /x\nis 1 /a\n";
        let Verdict::Differs { have, .. } = judge(old, true) else { panic!("{old}") };
        assert_eq!(have, "/etc/kubernetes/manifests/a b.yaml defines the pod kube-scheduler, too\n");
        let noted =
            "the kubelet also runs manifests that are not kubeadm's: /etc/kubernetes/manifests/a b.yaml, /x";
        assert_eq!(judge(old, false), Verdict::Noted(noted.into()), "a worker has no scheduler");
        assert_eq!(judge("was 1 /a\nis 1 /a\n", true), Verdict::Holds);
    }
}
