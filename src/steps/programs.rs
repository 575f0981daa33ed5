//! Programs and units that packages brought: they are as dpkg noted them, and nobody's files change how they start. Not which
//! packages are installed, and in which version: that is for the steps that install them.

use crate::shell::{AGAIN, PROGRAMS, Sh, UNIT_FILES, sh};
use crate::step::{Ask, Cx, Verdict, Want};

/// The packages whose programs a node runs, or that are run on it to make it one.
const PACKAGES: [&str; 7] =
    ["containerd", "runc", "kubelet", "kubeadm", "kubectl", "cri-tools", "kubernetes-cni"];
/// By this name a user has the files of units told only.
pub(super) const IGNORED: &str = "UnitFiles";

/// Of all of them at once, for several steps.
pub(super) fn ask() -> Ask {
    let packages = Sh::words(PACKAGES);
    Ask::Shell(sh!("{PROGRAMS}programs {packages}\n", PROGRAMS, packages) + PLUGINS + FIRST)
}

/// What no network of ours goes without, where no package has it.
const PLUGINS: &str = r#"[ -e /var/lib/dpkg/info/kubernetes-cni.list ] || for p in bridge host-local loopback portmap; do
  [ -x /opt/cni/bin/$p ] || echo "kubernetes-cni: /opt/cni/bin/$p is gone"
done
"#;

/// What comes first on the PATH of services and of ironstrap's own scripts (systemd.exec(5), "Environment").
const FIRST: &str = "for p in runc containerd-shim-runc-v2 kubeadm kubectl; do
  for d in /usr/local/sbin /usr/local/bin; do [ ! -x $d/$p ] || echo \"first: $d/$p\"; done
done
";

/// Somebody put them there on purpose: a plan notes them, and an apply leaves them.
pub(super) fn first() -> Want {
    Want::new("runtime.other-programs", "whether other programs come before those of the packages")
        .asks(ask())
        .judged(|answer| {
            match answer.lines().filter_map(|line| line.strip_prefix("first: ")).collect::<Vec<_>>()[..] {
                [] => Verdict::Holds,
                ref found => Verdict::Noted(format!(
                    "{} will run in place of the package's program of that name",
                    found.join(" and ")
                )),
            }
        })
}

/// What the answer says of these packages, and of files of theirs that `of` takes.
pub(super) fn wrong(answer: &str, packages: &[&str], of: impl Fn(&str) -> bool) -> Verdict {
    let of_these = |line: &&str| {
        let (package, rest) = line.split_once(": ").unwrap_or(("", line));
        packages.contains(&package) && of(rest)
    };
    found(answer.lines().filter(of_these))
}

/// The programs of one package. `name`: under which `packages` notes what comes with it. `update` has apt read its sources.
pub(super) fn want(id: &'static str, package: &'static str, name: &'static str, update: Sh) -> Want {
    Want::new(id, format!("the programs of {package} are as the package has them"))
        .of(package)
        .asks(ask())
        .judged(move |answer| wrong(answer, &[package], |line| !is_of_the_kubelets_unit(line)))
        .run_as_unit(
            name,
            20,
            update + PROGRAMS + AGAIN + sh!("programs_again {name} {package}\n", name, package),
        )
        .nothing_to_undo("the packages' own files go with the packages")
}

/// Whether a line is about a file that several packages share one want for.
pub(super) fn is_of_the_kubelets_unit(line: &str) -> bool {
    line.starts_with("/usr/lib/systemd/system/kubelet.service")
}

/// Which files change how containerd and the kubelet start. Preflight asks the same.
pub(super) fn unit_files() -> Ask {
    Ask::Shell(UNIT_FILES + "unit_files containerd kubelet\n")
}

/// Of a member. What a machine brings along before it joins is for its owner to decide (preflight).
pub(super) fn starts(cx: &Cx, id: &'static str, unit: &'static str) -> Want {
    let prefix = format!("{unit}: ");
    let called = if unit == "kubelet" { "the kubelet" } else { unit };
    Want::new(id, format!("no file of the machine's own changes how {called} starts"))
        .asks(unit_files())
        .judged(move |answer| found(answer.lines().filter(|line| line.starts_with(&prefix))))
        .run(UNIT_FILES + AGAIN + sh!("unit_files_out {unit}\n", unit))
        .disrupts()
        .nothing_to_undo("each file that it edits is kept by itself, and comes back")
        .only(cx.machine.is_member() && !cx.cluster.ignores(IGNORED))
}

/// Each of the lines is something that must not be. They say which package or unit it is about; people see that already.
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
    fn each_package_has_its_own_lines() {
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
