//! Programs and units from packages: they are as dpkg noted them, and no other file changes how they start. The steps that
//! install the packages check which packages are installed, and in which version.

use crate::shell::{AGAIN, PROGRAMS, Sh, UNIT_FILES, sh};
use crate::step::{Ask, Cx, Verdict, Want};

/// The packages whose programs run on a node, or that ironstrap runs there to make it a node.
const PACKAGES: [&str; 7] =
    ["containerd", "runc", "kubelet", "kubeadm", "kubectl", "cri-tools", "kubernetes-cni"];
/// The name by which an inventory downgrades the check of unit files to a warning.
pub(super) const IGNORED: &str = "UnitFiles";

/// Asks about the programs of all these packages at once, for several steps.
pub(super) fn ask() -> Ask {
    let packages = Sh::words(PACKAGES);
    Ask::Shell(sh!("{PROGRAMS}programs {packages}\n", PROGRAMS, packages) + PLUGINS + FIRST)
}

/// Shell that checks the plugins that flannel needs, if no package has them.
const PLUGINS: &str = r#"[ -e /var/lib/dpkg/info/kubernetes-cni.list ] || for p in bridge host-local loopback portmap; do
  [ -x /opt/cni/bin/$p ] || echo "kubernetes-cni: /opt/cni/bin/$p is gone"
done
"#;

/// Shell that checks the folders that come first on the PATH of services and of ironstrap's own scripts (systemd.exec(5),
/// "Environment").
const FIRST: &str = "for p in runc containerd-shim-runc-v2 kubeadm kubectl; do
  for d in /usr/local/sbin /usr/local/bin; do [ ! -x $d/$p ] || echo \"first: $d/$p\"; done
done
";

/// Notes other programs that come before those of the packages. Somebody put them there on purpose, so a plan notes them and
/// an apply leaves them.
pub(super) fn first() -> Want {
    Want::new("runtime.other-programs", "whether other programs come before those of the packages in PATH")
        .ask(ask())
        .judged(|answer| {
            match answer.lines().filter_map(|line| line.strip_prefix("first: ")).collect::<Vec<_>>()[..] {
                [] => Verdict::Holds,
                ref found => Verdict::Noted(format!(
                    "{} runs instead of the package's program of that name",
                    found.join(" and ")
                )),
            }
        })
}

/// Judges what the answer says about these packages. It counts only the files of theirs that `of` accepts.
pub(super) fn wrong(answer: &str, packages: &[&str], of: impl Fn(&str) -> bool) -> Verdict {
    let of_these = |line: &&str| {
        let (package, rest) = line.split_once(": ").unwrap_or(("", line));
        packages.contains(&package) && of(rest)
    };
    found(answer.lines().filter(of_these))
}

/// The want for the programs of one package. `name`: the name under which `pkg_install` notes what comes with the package.
/// `update`: shell that makes apt read its sources.
pub(super) fn want(id: &'static str, package: &'static str, name: &'static str, update: Sh) -> Want {
    Want::new(id, format!("the programs of {package} match the package"))
        .of(package)
        .ask(ask())
        .judged(move |answer| wrong(answer, &[package], |line| !is_of_the_kubelets_unit(line)))
        .run_as_unit(
            name,
            20,
            update + PROGRAMS + AGAIN + sh!("programs_again {name} {package}\n", name, package),
        )
        .nothing_to_undo("the packages' own files go with the packages")
}

/// Whether a line is about a file for which several packages share one want.
pub(super) fn is_of_the_kubelets_unit(line: &str) -> bool {
    line.starts_with("/usr/lib/systemd/system/kubelet.service")
}

/// Asks which files change how containerd and the kubelet start. Preflight asks the same.
pub(super) fn unit_files() -> Ask {
    Ask::Shell(UNIT_FILES + "unit_files containerd kubelet\n")
}

/// The want that no file of a member's own changes how a unit starts. Before a machine joins, its owner decides about such
/// files (preflight).
pub(super) fn starts(cx: &Cx, id: &'static str, unit: &'static str) -> Want {
    let prefix = format!("{unit}: ");
    let called = if unit == "kubelet" { "the kubelet" } else { unit };
    Want::new(id, format!("no local file changes how {called} starts"))
        .ask(unit_files())
        .judged(move |answer| found(answer.lines().filter(|line| line.starts_with(&prefix))))
        .run(UNIT_FILES + AGAIN + sh!("unit_files_out {unit}\n", unit))
        .disrupts()
        .nothing_to_undo("each file that it edits is kept by itself, and comes back")
        .only(cx.machine.is_member() && !cx.cluster.ignores(IGNORED))
}

/// Judges lines that each describe a fault. The package or unit at the beginning of a line is cut off, because people see it
/// already.
fn found<'a>(lines: impl Iterator<Item = &'a str>) -> Verdict {
    let lines: Vec<&str> = lines.map(|line| line.split_once(": ").map_or(line, |(_, rest)| rest)).collect();
    match lines.is_empty() {
        true => Verdict::Holds,
        false => Verdict::Differs { have: lines.join("\n"), want: String::new() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_package_is_judged_by_its_own_lines() {
        let answer = "containerd: /usr/bin/ctr was changed\nkubelet: /usr/bin/kubelet is gone\n\
                      kubelet: /usr/lib/systemd/system/kubelet.service was edited\n";
        let judged = |package| {
            let want = want("test.programs", package, "x", Sh::EMPTY);
            let crate::step::Expect::Judged(judge) = want.expect else { panic!() };
            judge(answer)
        };
        let differs = |have: &str| Verdict::Differs { have: have.into(), want: String::new() };
        assert_eq!(judged("containerd"), differs("/usr/bin/ctr was changed"));
        assert_eq!(judged("kubelet"), differs("/usr/bin/kubelet is gone"), "its unit has a want of its own");
        assert_eq!(judged("runc"), Verdict::Holds);
    }
}
