//! files: only root can change the files that decide how a node runs, and only root can read its keys. A node can write to
//! its folders. The steps that write the files check their content.

use crate::cluster::{Cluster, Node};
use crate::error::Result;
use crate::shell::{AGAIN, FILES, Sh, sh};
use crate::step::{Ask, Cx, Step, Verdict, WITH_THE_MEMBER, Want};

pub const STEP: Step =
    Step { name: "files", why: "a user who can change root's files can become root", wants };

fn wants(cx: &Cx) -> Result<Vec<Want>> {
    let again = with(cx.cluster, cx.node) + AGAIN;
    Ok(vec![
        Want::new("permissions.modes", "only root can change this node's configuration and read its keys")
            .ask(ask(cx.cluster, cx.node))
            .judged(|answer| judge(answer, |file| !is_apts(file)))
            .run(again.clone() + "modes_again\n")
            .only(cx.machine.is_member())
            .nothing_to_undo(WITH_THE_MEMBER),
        Want::new("permissions.writable", "the kubelet and containerd can write to their folders")
            .ask(ask(cx.cluster, cx.node))
            .judged(writable)
            .run(again + "writable_again\n")
            .only(cx.machine.is_member())
            .nothing_to_undo(WITH_THE_MEMBER),
    ])
}

/// The want for the modes of the files that apt reads before it installs anything.
pub(super) fn apts(cx: &Cx) -> Want {
    Want::new(
        "permissions.package-sources",
        "apt can read its package sources, and only root can change them",
    )
    .ask(ask(cx.cluster, cx.node))
    .judged(|answer| judge(answer, is_apts))
    .run(with(cx.cluster, cx.node) + AGAIN + "modes_again apt\n")
    .nothing_to_undo("no package needs it to be otherwise")
}

fn with(cluster: &Cluster, node: &Node) -> Sh {
    let etcd = if node.is_control_plane() { cluster.etcd_dir() } else { "" };
    sh!("ETCD={etcd}\n{FILES}", etcd, FILES)
}

fn ask(cluster: &Cluster, node: &Node) -> Ask {
    Ask::Shell(
        with(cluster, node)
            + "x=$(modes)\n[ -z \"$x\" ] || printf '%s\\n' \"$x\" | sed 's/^/mode /'\nunwritable\n",
    )
}

fn is_apts(file: &str) -> bool {
    file.starts_with("/etc/apt")
}

/// Judges the lines about files with a wrong mode or owner. A line has the word `mode`, the right mode, the present mode, the
/// owner and the file's name.
fn judge(answer: &str, of: impl Fn(&str) -> bool) -> Verdict {
    let (mut have, mut want) = (String::new(), String::new());
    for line in answer.lines().filter_map(|line| line.strip_prefix("mode ")) {
        let mut words = line.splitn(4, ' ');
        let (Some(right), Some(mode), Some(owner), Some(file)) =
            (words.next(), words.next(), words.next(), words.next())
        else {
            return Verdict::Unknown(format!("cannot read \"{line}\""));
        };
        if of(file) {
            let roots = if owner.starts_with("root:") { owner } else { "root:root" };
            have += &format!("{file}: mode {mode} {owner}\n");
            want += &format!("{file}: mode {right} {roots}\n");
        }
    }
    match have.is_empty() {
        true => Verdict::Holds,
        false => Verdict::Differs { have, want },
    }
}

/// Judges the other lines, each about a folder that the node cannot write to.
fn writable(answer: &str) -> Verdict {
    let wrong: Vec<&str> = answer.lines().filter(|line| !line.starts_with("mode ")).collect();
    match wrong.is_empty() {
        true => Verdict::Holds,
        false => Verdict::Differs { have: wrong.join("\n"), want: String::new() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_mode_is_reported_with_the_right_one() {
        let answer = "mode 755 777 ops:ops /etc/kubernetes/manifests\nmode 755 700 root:root /etc/apt/keyrings\n\
                      mode 660 666 root:adm /a folder/x\n/var/log/pods is missing\n";
        let differs = |have: &str, want: &str| Verdict::Differs { have: have.into(), want: want.into() };
        assert_eq!(
            judge(answer, |file| !is_apts(file)),
            differs(
                "/etc/kubernetes/manifests: mode 777 ops:ops\n/a folder/x: mode 666 root:adm\n",
                "/etc/kubernetes/manifests: mode 755 root:root\n/a folder/x: mode 660 root:adm\n"
            )
        );
        let apts =
            differs("/etc/apt/keyrings: mode 700 root:root\n", "/etc/apt/keyrings: mode 755 root:root\n");
        assert_eq!(judge(answer, is_apts), apts);
        assert_eq!(judge("", |_| true), Verdict::Holds);
        assert_eq!(writable(answer), differs("/var/log/pods is missing", ""));
        assert_eq!(writable("mode 755 777 root:root /x\n"), Verdict::Holds);
        assert!(matches!(judge("mode 755 777\n", |_| true), Verdict::Unknown(_)));
    }
}
