//! processes: each program that systemd and the kubelet call running does run. A process that was stopped, or whose cgroup is
//! frozen, looks as if it ran. So this step checks each program, and asks the kubelet.

use super::packets::{self, own};
use crate::error::Result;
use crate::shell::sh;
use crate::step::{Cx, Step, Verdict, WITH_THE_MEMBER, Want};

pub const STEP: Step =
    Step { name: "processes", why: "a stopped process does nothing, but looks as if it runs", wants };

fn wants(cx: &Cx) -> Result<Vec<Want>> {
    let ask = packets::ask(cx.cluster, cx.node);
    let own_flags = cx.cluster.ignores("KubeletArgs");
    let resume = sh!("resume {pods}", pods = own::pods(cx.cluster, cx.node));
    let wants = [
        Want::new("processes.stopped", "no process that the node needs is stopped")
            .judged(|answer| match own::stopped(answer).as_slice() {
                [] => Verdict::Holds,
                lines => Verdict::Differs { have: lines.join("\n"), want: String::new() },
            })
            .run(own::functions() + resume),
        Want::new("processes.kubelet", "the kubelet answers")
            .judged(move |answer| kubelet(answer, own_flags))
            .run(own::functions() + "kubelet_again\n")
            .disrupts(),
        Want::new("processes.kubelet-arguments", "the kubelet runs with the arguments of its files")
            .judged(move |answer| {
                let only: Vec<&str> = answer.lines().filter(|line| line.starts_with(own::ONLY)).collect();
                match only.is_empty() || own_flags {
                    true => Verdict::Holds,
                    false => Verdict::Differs { have: only.join("\n"), want: String::new() },
                }
            })
            .run(own::functions() + sh!("kubelet_as_given {files}", files = own::KUBELET_READS))
            .disrupts(),
    ];
    let asked =
        |want: Want| want.ask(ask.clone()).nothing_to_undo(WITH_THE_MEMBER).only(cx.machine.is_member());
    Ok(wants.into_iter().map(asked).collect())
}

/// Judges the kubelet's answer. `own_flags`: flags of the machine's own may lead the kubelet to another port.
fn kubelet(answer: &str, own_flags: bool) -> Verdict {
    let runs = answer.lines().any(|line| line == own::KUBELET);
    if packets::no_bash(answer) && runs {
        return Verdict::Unknown(packets::NO_BASH.into());
    }
    match own::ill(answer, "kubelet-health") {
        // A kubelet that does not run, or a program that is stopped, comes first.
        Some(_) if !runs || !own::stopped(answer).is_empty() => Verdict::Holds,
        Some(_) if own_flags && packets::state(answer, "kubelet-health") == Some("refused") => Verdict::Holds,
        Some(have) => Verdict::Differs { have, want: "the kubelet reports that it is healthy".into() },
        None => Verdict::Holds,
    }
}
