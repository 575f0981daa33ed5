//! Whole runs over real SSH, on machines that are folders: what a run changes, what it leaves alone, and when it stops.

mod diagnosis;
mod fleet;
mod harm;
mod lease;
mod limit;
mod log;
mod machine;
mod rogue;
mod stop;
mod words;

use std::collections::BTreeSet;

use fleet::{Fleet, HALF_REAL, secret};
use ironstrap::error::Kind;
use ironstrap::ledger::Kin;
use ironstrap::report::Event;
use ironstrap::status;
use ironstrap::step::Answer;
use ironstrap::steps::STAGES;

/// Compares the errors, as the user reads them, with a snapshot in `tests/golden`.
fn reads(name: &str, errors: &[ironstrap::error::Error]) {
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path("../golden");
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.add_filter(r"since \d\d:\d\d:\d\d", "since [time]");
    settings.add_filter(r"127\.0\.0\.1:\d+", "127.0.0.1:[port]");
    let text: Vec<String> =
        errors.iter().map(|e| format!("[{}]\n{}", e.kind.code(), ironstrap::report::trouble(e))).collect();
    settings.bind(|| insta::assert_snapshot!(name, text.join("\n\n")));
}

fn pairs(all: &[(&str, &str)]) -> BTreeSet<(String, String)> {
    all.iter().map(|(node, that)| (node.to_string(), that.to_string())).collect()
}

#[tokio::test]
async fn a_fleet_converges_and_the_second_run_changes_nothing() {
    let mut fleet = Fleet::of(&["m1", "w1", "w2"]).await;
    fleet.stages = HALF_REAL;
    fleet.converge().await;
    for machine in &fleet.machines {
        assert!(machine.read("etc/fstab").contains("# ironstrap: /swap.img none swap"));
        assert_eq!(machine.read("proc/swaps").lines().count(), 1);
        assert_eq!(machine.read("units/swap.target.enabled"), "masked\n");
        assert_eq!(machine.read("proc/sys/net/ipv4/ip_forward"), "1\n");
        assert!(machine.read("etc/hosts").starts_with("127.0.0.1 localhost\n198.18.0.11 api.demo.internal "));
    }
    let before: Vec<_> = fleet.machines.iter().map(|machine| machine.files()).collect();
    let again = fleet.apply().await;
    assert_eq!((again.result, again.planned.len(), again.changed.len()), (Ok(()), 0, 0));
    let execs: Vec<usize> = fleet.machines.iter().map(|machine| machine.execs()).collect();
    assert_eq!(execs, [1, 1, 1]);
    let after: Vec<_> = fleet.machines.iter().map(|machine| machine.files()).collect();
    assert_eq!(before, after, "a run with nothing to do writes nothing");
}

#[tokio::test]
async fn an_apply_changes_what_the_plan_says() {
    let fleet = Fleet::of(&["m1", "w1"]).await;
    let first = fleet.converge().await;
    assert_eq!(first.planned.len(), 12, "{:?}", first.planned);
    assert_eq!(first.planned, first.changed);
    // A file and a switch drift. The unit that reads the file must restart.
    fleet.machine("w1").write("etc/toy/greeting", "goodbye\n");
    fleet.machine("m1").write("etc/toy/switch", "off\n");
    let second = fleet.converge().await;
    let wanted =
        [("m1", "the switch is on"), ("w1", "the greeting is ours"), ("w1", "toyd runs its current config")];
    assert_eq!((second.planned, second.changed), (pairs(&wanted), pairs(&wanted)));
}

#[tokio::test]
async fn only_changes_of_the_cluster_are_marked_so() {
    let fleet = Fleet::of(&["m1", "w1"]).await;
    let (work, _) = fleet.look().await;
    let plan = work.plan().unwrap();
    for change in plan.iter().flat_map(|(_, changes)| changes) {
        assert_eq!(change.of_cluster, change.step == "label", "{}", change.that);
    }
    assert!(
        plan[0].1.iter().any(|change| change.of_cluster) && plan[0].1.iter().any(|change| !change.of_cluster)
    );
}

#[tokio::test]
async fn a_plan_includes_restarts_that_a_change_causes() {
    let fleet = Fleet::settled(&["m1"]).await;
    fleet.machine("m1").write("etc/toy/greeting", "goodbye\n");
    // The clock of the file system may be coarse. So the unit gets a start time far in the future.
    fleet.machine("m1").write("units/toyd.since", "Fri 2100-01-01 00:00:00.000000 UTC\n");
    let (work, _) = fleet.look().await;
    let plan = work.plan().unwrap();
    let change = plan[0].1.iter().find(|change| change.that == "toyd runs its current config").unwrap();
    assert_eq!(change.want, "restarted, because /etc/toy/greeting changes");
}

#[tokio::test]
async fn status_questions_share_the_script_of_the_observation() {
    let fleet = Fleet::settled(&["m1", "w1"]).await;
    let (mut work, _) = fleet.look().await;
    let plan = work.plan().unwrap();
    assert!(work.hosts().iter().all(|member| member.extra_answers.is_empty()));
    for machine in &fleet.machines {
        machine.execs();
    }
    let questions = |node: &_| status::questions(&fleet.cluster, node);
    work.ask_also(|node| questions(node).into_iter().map(|(_, ask)| ask).collect());
    work.observe().await;
    for (member, machine) in work.hosts().iter().zip(&fleet.machines) {
        assert_eq!((machine.execs(), member.extra_answers.len()), (1, questions(&member.node).len()));
        let Answer::Said(system) = &member.extra_answers[0] else { panic!("{:?}", member.extra_answers) };
        assert!(system.contains("kernel ") && system.contains("uptime "), "{system}");
    }
    assert_eq!(work.plan().unwrap(), plan, "no want depends on these answers");
}

#[tokio::test]
async fn an_unknown_state_is_not_changed() {
    let fleet = Fleet::settled(&["m1", "w1"]).await;
    let w1 = fleet.machine("w1");
    std::fs::remove_file(w1.path("etc/toy/switch")).unwrap();
    std::fs::create_dir(w1.path("etc/toy/switch")).unwrap();
    w1.command("switch", "echo >$ROOT/switched");
    let outcome = fleet.apply().await;
    assert_eq!(outcome.left.len(), 1, "{}", outcome.shown);
    reads("error-cannot-tell", &outcome.left);
    let error = &outcome.left[0];
    assert_eq!((error.kind, error.node.as_deref()), (Kind::Unknown, Some("w1")));
    assert_eq!(error.what, "toy: cannot determine whether the switch is on");
    assert!(error.cause.iter().any(|line| line.contains("Is a directory")), "{error}");
    assert_eq!((w1.read("switched").as_str(), outcome.changed.len()), ("absent", 0));
}

#[tokio::test]
async fn a_file_that_changes_while_it_is_read_is_read_again() {
    let fleet = Fleet::settled(&["m1"]).await;
    let m1 = fleet.machine("m1");
    let grows = "echo more >>$ROOT/etc/toy/greeting";
    m1.command("cat", &format!("[ -e $ROOT/once ] || {{ : >$ROOT/once; {grows}; }}\nexec /bin/cat \"$@\""));
    let outcome = fleet.apply().await;
    assert_eq!((outcome.result, outcome.left), (Ok(()), vec![]));
    assert_eq!(
        outcome.changed,
        pairs(&[("m1", "the greeting is ours"), ("m1", "toyd runs its current config")])
    );
    // A file that changes all the time is given up after a few observations.
    m1.command("cat", &format!("{grows}\nexec /bin/cat \"$@\""));
    m1.execs();
    let (work, _) = fleet.look().await;
    assert!(m1.execs() == 3 && work.hosts()[0].execs == 3);
}

#[tokio::test]
async fn a_silently_failing_tool_makes_the_state_unknown() {
    let fleet = Fleet::settled(&["m1"]).await;
    let m1 = fleet.machine("m1");
    m1.command("stat", "exit 137");
    let greeting = m1.path("etc/toy/greeting");
    let before = std::fs::metadata(&greeting).unwrap().modified().unwrap();
    let outcome = fleet.apply().await;
    assert_eq!(outcome.left.len(), 1, "{}", outcome.shown);
    assert_eq!(outcome.left[0].kind, Kind::Unknown, "{}", outcome.left[0]);
    assert_eq!(std::fs::metadata(&greeting).unwrap().modified().unwrap(), before);
}

#[tokio::test]
async fn a_want_that_does_not_stay_true_is_fixed_again() {
    let mut fleet = Fleet::settled(&["m1"]).await;
    fleet.stages = fleet::UNSETTLED;
    let outcome = fleet.apply().await;
    assert_eq!((outcome.result, outcome.left), (Ok(()), vec![]));
    assert_eq!(outcome.changed, pairs(&[("m1", "the page is up")]));
    assert_eq!(fleet.machine("m1").read("etc/toy/waited"), "waited\nwaited\n", "the fix ran twice");
}

#[tokio::test]
async fn a_want_that_waits_to_the_end_is_an_error() {
    let mut fleet = Fleet::settled(&["m1", "w1"]).await;
    fleet.stages = fleet::UNMET;
    let outcome = fleet.apply().await;
    assert_eq!((outcome.result, outcome.left, outcome.open), (Ok(()), vec![], 0), "{}", outcome.shown);
    let [error] = &outcome.unmet[..] else { panic!("{:?}", outcome.unmet) };
    assert_eq!((error.kind, error.node.as_deref()), (Kind::Partial, Some("m1")));
    assert_ne!(error.kind.code(), 0);
    let waits = |that: &str, for_what: &str| format!("belated: {that} (waits for {for_what})");
    let guest = waits("the guest is there", "the guest to come");
    assert_eq!(error.cause, [guest.clone(), waits("w1 is greeted", "w1 to be repaired")]);
    // Now w1 has an error of its own.
    fleet.unplug("w1");
    let outcome = fleet.apply().await;
    assert_eq!((outcome.left.len(), outcome.unmet.len()), (1, 1));
    assert_eq!(outcome.unmet[0].cause, [guest]);
}

#[tokio::test]
async fn a_want_that_depends_on_all_nodes_is_judged_last() {
    for repaired in [true, false] {
        let mut fleet = Fleet::settled(&["m1", "w1"]).await;
        fleet.stages = fleet::RESTING;
        let (m1, w1) = (fleet.machine("m1"), fleet.machine("w1"));
        m1.write("etc/toy/answers", "");
        m1.write("etc/toy/switch", "off\n");
        let answers = w1.path("etc/toy/answers");
        let also = if repaired { format!("; : >{}", answers.display()) } else { String::new() };
        m1.command("switch", &format!("sleep 0.3; echo on >$ROOT/etc/toy/switch{also}"));
        let outcome = fleet.apply().await;
        assert!(outcome.planned.contains(&("w1".into(), "the network answers".into())));
        assert!(outcome.changed.contains(&("m1".into(), "the switch is on".into())), "{}", outcome.shown);
        assert!(
            outcome
                .at(|e| matches!(e, Event::Waiting { node, for_what } if node == "w1" && for_what == "m1"))
                .is_some()
        );
        assert_eq!(outcome.left.len(), usize::from(!repaired), "{}", outcome.shown);
        assert_eq!(
            !w1.path("etc/toy/waited").exists(),
            repaired,
            "the fix runs only if the want still does not hold at the end"
        );
    }
}

#[tokio::test]
async fn an_unconfirmed_change_is_skipped_without_blocking_others() {
    let mut fleet = Fleet::settled(&["m1", "w1"]).await;
    fleet.stages = fleet::GUARDED;
    let (m1, w1) = (fleet.machine("m1"), fleet.machine("w1"));
    m1.write("etc/toy/answers", "");
    m1.write("etc/toy/text", "theirs\n");
    // A machine that still has to join, and a question that comes last.
    std::fs::remove_file(w1.path("etc/kubernetes/kubelet.conf")).unwrap();
    let answers = w1.path("etc/toy/answers");
    w1.command("enter", &format!("echo >$ROOT/etc/kubernetes/kubelet.conf; : >{}", answers.display()));
    let outcome = fleet.apply().await;
    assert_eq!((&outcome.result, outcome.left.len(), outcome.open), (&Ok(()), 0, 1), "{}", outcome.shown);
    assert!(outcome.planned.contains(&("m1".into(), "the text is ours".into())));
    assert!(outcome.shown.contains("needs a confirmation: use --replace-text"), "{}", outcome.shown);
    assert!(outcome.changed.contains(&("w1".into(), "w1 is a member".into())), "{}", outcome.shown);
    assert_eq!(fleet.machine("m1").read("etc/toy/text"), "theirs\n");
    fleet.confirms = Some(&fleet::REPLACE_TEXT);
    let outcome = fleet.converge().await;
    assert_eq!(outcome.changed, pairs(&[("m1", "the text is ours")]));
    assert_eq!(fleet.machine("m1").read("etc/toy/text"), "ours\n");
}

#[tokio::test]
async fn an_unchecked_node_is_probed_after_a_change() {
    // A refused connection to a port of the host counts as an answer of the pod.
    for (became, unchecked) in [
        (r#"{"phase":"Running","podIP":"127.0.0.1"}"#, vec![]),
        (r#"{"phase":"Failed","reason":"OutOfpods"}"#, vec!["the pods of w1 answer".to_string()]),
    ] {
        let mut fleet = Fleet::settled(&["m1", "w1"]).await;
        fleet.stages = fleet::UNCHECKED;
        let m1 = fleet.machine("m1");
        m1.command(
            "kubectl",
            &format!(
                "case $* in\n*'get --raw'*) echo '{{\"items\":[{{\"metadata\":{{\"namespace\":\"web\"}},\"spec\":{{\"nodeName\":\"m1\"}},\"status\":{{\"podIP\":\"127.0.0.1\"}}}}]}}' ;;\n\
                 *'create -f'*) grep -o 'ironstrap-packets-[a-z0-9]*' >>$ROOT/pods ;;\n*' delete '*) echo delete >>$ROOT/pods ;;\n\
                 *) printf 'w1\\t%s\\n' '{became}' ;;\nesac"
            ),
        );
        let nothing = fleet.apply().await;
        assert_eq!(nothing.unchecked, ["the pods of w1 answer"]);
        assert_eq!((nothing.result, m1.read("pods").as_str()), (Ok(()), "absent"), "nothing was changed");
        m1.write("etc/toy/switch", "off\n");
        let outcome = fleet.apply().await;
        assert_eq!((&outcome.result, outcome.left.as_slice()), (&Ok(()), [].as_slice()), "{}", outcome.shown);
        assert_eq!(outcome.changed, pairs(&[("m1", "the switch is on")]), "a probe is not a change");
        assert_eq!(
            m1.read("pods"),
            "delete\nironstrap-packets-w1\ndelete\n",
            "one probe pod, which is deleted again"
        );
        assert_eq!(outcome.unchecked, unchecked);
    }
}

#[tokio::test]
async fn a_fix_without_effect_is_reported_and_not_repeated() {
    let fleet = Fleet::settled(&["m1", "w1"]).await;
    fleet.machine("w1").command("switch", "echo tried >>$ROOT/tries");
    fleet.machine("w1").write("etc/toy/switch", "off\n");
    fleet.machine("m1").write("etc/toy/switch", "off\n");
    let outcome = fleet.apply().await;
    assert_eq!(fleet.machine("w1").read("tries"), "tried\n");
    assert_eq!(outcome.left.len(), 1, "{}", outcome.shown);
    reads("error-stuck", &outcome.left);
    let error = &outcome.left[0];
    assert_eq!((error.kind, error.node.as_deref()), (Kind::Failed, Some("w1")));
    assert_eq!(error.what, "toy: the fix had no effect: expected that the switch is on");
    assert_eq!(error.cause, ["found: off", "expected: on"]);
    assert_eq!(outcome.changed, pairs(&[("m1", "the switch is on")]), "the other nodes are still fixed");
}

#[tokio::test]
async fn a_failed_fix_is_reported_with_its_last_output() {
    let fleet = Fleet::settled(&["m1"]).await;
    fleet.machine("m1").command("switch", "echo it is jammed; exit 3");
    fleet.machine("m1").write("etc/toy/switch", "off\n");
    let outcome = fleet.apply().await;
    reads("error-failed", &outcome.left);
    let error = &outcome.left[0];
    assert_eq!(error.what, "toy: the fix failed: expected that the switch is on");
    assert_eq!(error.cause, ["exit 3, last output:", "| it is jammed"]);
}

#[tokio::test]
async fn the_next_run_makes_up_for_a_missed_restart() {
    let fleet = Fleet::settled(&["m1"]).await;
    let m1 = fleet.machine("m1");
    assert_eq!(m1.read("restarts"), "toyd\n");
    // An earlier run wrote the file and was killed before the restart.
    m1.write("etc/toy/greeting", "hello\n");
    let outcome = fleet.converge().await;
    assert_eq!(outcome.changed, pairs(&[("m1", "toyd runs its current config")]));
    assert_eq!(m1.read("restarts"), "toyd\ntoyd\n");
}

#[tokio::test]
async fn a_run_reconnects_after_a_cut_during_a_fix() {
    let fleet = Fleet::of(&["m1"]).await;
    let m1 = fleet.machine("m1");
    // The first time the command hangs, and is killed with its connection.
    m1.command("switch", "[ -e $ROOT/hung ] || { echo >$ROOT/hung; echo hanging; exec sleep 60; }\necho on >$ROOT/etc/toy/switch");
    m1.cut_at("hanging", 1);
    let outcome = fleet.converge().await;
    assert_eq!(outcome.fixings("m1", "the switch is on"), 2);
    assert_eq!(outcome.fixings("m1", "the greeting is ours"), 1, "the completed fix does not run again");
}

#[tokio::test]
async fn a_fix_that_always_cuts_the_connection_is_given_up() {
    let fleet = Fleet::settled(&["m1"]).await;
    let m1 = fleet.machine("m1");
    m1.write("etc/toy/switch", "off\n");
    m1.command("switch", "echo tried >>$ROOT/tries; echo hanging; exec sleep 60");
    m1.cut_at("hanging", 1000);
    let outcome = fleet.apply().await;
    reads("error-cut", &outcome.left);
    assert_eq!((outcome.left.len(), outcome.left[0].kind), (1, Kind::Lost), "{}", outcome.shown);
    assert!(m1.read("tries").lines().count() <= 3, "{}", m1.read("tries"));
}

#[tokio::test]
async fn a_run_reconnects_after_a_cut_during_an_observation() {
    let fleet = Fleet::settled(&["m1"]).await;
    let m1 = fleet.machine("m1");
    m1.execs();
    m1.cut_at("codename", 2);
    let outcome = fleet.apply().await;
    assert_eq!((outcome.result, outcome.left.len()), (Ok(()), 0), "{}", outcome.shown);
    assert_eq!(m1.execs(), 3);
    m1.cut_at("codename", 1000);
    assert_eq!(fleet.apply().await.result.unwrap_err().kind, Kind::Lost);
    assert_eq!(m1.execs(), 3, "the number of retries is limited");
}

#[tokio::test]
async fn an_existing_cluster_is_changed_without_unreachable_nodes() {
    let mut fleet = Fleet::settled(&["m1", "w1", "w2"]).await;
    for name in ["m1", "w1", "w2"] {
        fleet.machine(name).write("etc/toy/switch", "off\n");
    }
    fleet.unplug("w1");
    let outcome = fleet.apply().await;
    assert_eq!(outcome.result, Ok(()));
    assert_eq!(outcome.changed, pairs(&[("m1", "the switch is on"), ("w2", "the switch is on")]));
    let left = &outcome.left;
    reads("error-unreachable", left);
    assert_eq!((left.len(), left[0].kind, left[0].node.as_deref()), (1, Kind::Unreachable, Some("w1")));
}

#[tokio::test]
async fn an_unreachable_machine_stops_a_new_cluster() {
    let mut fleet = Fleet::of(&["m1", "w1", "w2"]).await;
    fleet.unplug("w1");
    let before = fleet.machine("m1").files();
    let outcome = fleet.apply().await;
    let error = outcome.result.unwrap_err();
    assert_eq!((error.kind, error.node.as_deref()), (Kind::Unreachable, Some("w1")));
    assert_eq!(fleet.machine("m1").files(), before);
    assert_eq!((fleet.machine("m1").execs(), fleet.machine("w2").execs()), (1, 1));
}

#[tokio::test]
async fn active_checks_are_skipped_if_no_node_joins() {
    let fleet = Fleet::settled(&["m1", "w1"]).await;
    let (mut work, _) = fleet.look().await;
    work.run_active_checks().await;
    assert_eq!((fleet.machine("m1").execs(), fleet.machine("w1").execs()), (1, 1));
    assert!(work.hosts().iter().all(|member| member.execs == 1));
}

#[tokio::test]
async fn every_failed_check_of_a_quarantined_machine_is_reported() {
    let mut fleet = Fleet::settled(&["m1"]).await;
    fleet.stages = HALF_REAL;
    fleet.converge().await;
    fleet.machine("m1").write("proc/1/comm", "runit\n");
    fleet.machine("m1").write("sys/fs/cgroup/cgroup.controllers", "cpu\n");
    let (mut work, _) = fleet.look().await;
    assert!(!work.preflight(("demo.trust", true)).blocked);
    let wrong: Vec<&str> = work.hosts()[0].quarantined().map(|error| error.what.as_str()).collect();
    let that = ["systemd is process 1", "the machine has the cgroups that the kubelet needs"];
    assert_eq!(wrong, that.map(|that| format!("requirement not met: {that}")));
}

#[tokio::test]
async fn an_unfit_machine_stops_only_a_new_cluster() {
    let mut fleet = Fleet::of(&["m1", "w1"]).await;
    fleet.stages = HALF_REAL;
    fleet.machine("w1").write("proc/1/comm", "runit\n");
    let outcome = fleet.apply().await;
    let error = outcome.result.unwrap_err();
    reads("error-unfit", std::slice::from_ref(&error));
    assert_eq!((error.kind, error.node.as_deref()), (Kind::Refused, Some("w1")));
    assert_eq!(error.cause, ["found: runit", "required: systemd"]);
    assert_eq!(fleet.machine("m1").read("run/ironstrap/lease"), "absent");
    fleet.machine("w1").write("proc/1/comm", "systemd\n");
    fleet.converge().await;
    fleet.machine("w1").write("proc/1/comm", "runit\n");
    fleet.machine("w1").write("proc/sys/net/ipv4/ip_forward", "0\n");
    fleet.machine("m1").write("proc/sys/net/ipv4/ip_forward", "0\n");
    let outcome = fleet.apply().await;
    assert_eq!((outcome.result, outcome.left.len()), (Ok(()), 1));
    assert_eq!(outcome.changed, pairs(&[("m1", "net.ipv4.ip_forward is 1")]));
    assert_eq!(fleet.machine("w1").read("proc/sys/net/ipv4/ip_forward"), "0\n");
}

#[tokio::test]
async fn control_planes_join_one_at_a_time_after_the_init_node() {
    let fleet = Fleet::of(&["m1", "m2", "m3", "w1"]).await;
    let shared = tempfile::tempdir().unwrap();
    for name in ["m1", "m2", "m3"] {
        let (machine, log) = (fleet.machine(name), shared.path().join("joins").display().to_string());
        let enter = machine.read("bin/.enter");
        // The command takes a moment, so that a parallel join would show.
        machine.command("enter", &format!("echo in >>{log}\nsleep 0.05\n{enter}\necho out >>{log}"));
    }
    let outcome = fleet.converge().await;
    let ready = outcome.fixed("m1", "m1 is a member").unwrap();
    for name in ["m2", "m3", "w1"] {
        let prepared = outcome.began(name, "prepare").unwrap();
        assert!(prepared < ready, "{name} is prepared during the init");
        assert!(outcome.began(name, "member").unwrap() > ready, "{name} joins after the init");
    }
    let joins = std::fs::read_to_string(shared.path().join("joins")).unwrap();
    let alternate = |(i, line): (usize, &str)| line == if i % 2 == 0 { "in" } else { "out" };
    assert_eq!(joins.lines().count(), 6);
    assert!(joins.lines().enumerate().all(alternate), "etcd takes one learner at a time: {joins}");
    let waits = |event: &Event| matches!(event, Event::Waiting { node, for_what } if node == "w1" && for_what == "m1");
    assert_eq!(outcome.events.iter().filter(|event| waits(event)).count(), 1, "this is reported once");
}

#[tokio::test]
async fn no_node_joins_a_failed_init_node() {
    let fleet = Fleet::of(&["m1", "m2", "w1"]).await;
    fleet.machine("m1").command("enter", "echo no space left; exit 1");
    let outcome = fleet.apply().await;
    let left = &outcome.left;
    assert_eq!((left.len(), left[0].kind, left[0].node.as_deref()), (1, Kind::Failed, Some("m1")));
    for name in ["m2", "w1"] {
        assert_eq!(outcome.began(name, "member"), None);
        assert_eq!(fleet.machine(name).read("etc/kubernetes/kubelet.conf"), "absent");
        assert_eq!(fleet.machine(name).read("etc/toy/switch"), "on\n", "it is still prepared");
    }
}

#[tokio::test]
async fn a_reinstalled_control_plane_joins_the_existing_cluster() {
    let fleet = Fleet::settled(&["m1", "m2", "w1"]).await;
    for lost in ["etc/kubernetes", "var/lib/kubelet"] {
        std::fs::remove_dir_all(fleet.machine("m1").path(lost)).unwrap();
    }
    let (work, _) = fleet.look().await;
    assert_eq!(work.fleet().init_node, "m2");
    assert!(work.fleet().joining.contains("m1"));
}

#[tokio::test]
async fn restarts_interrupt_few_nodes_at_a_time() {
    let names = ["m1", "m2", "w1", "w2", "w3", "w4", "w5", "w6", "w7", "w8", "w9", "w10", "w11"];
    let fleet = Fleet::settled(&names).await;
    let shared = tempfile::tempdir().unwrap();
    for machine in &fleet.machines {
        let (role, dir) = (&machine.name[..1], shared.path().display());
        // Notes how many nodes of this role restart at once. Takes a moment, so that parallel restarts show.
        machine.command(
            "restarting",
            &format!(
                "touch {dir}/{role}-{name}; ls {dir} | grep -c ^{role}- >>{dir}/most.{role}; sleep 0.05; rm {dir}/{role}-{name}",
                name = machine.name
            ),
        );
        machine.write("etc/toy/greeting", "hello\n");
    }
    let outcome = fleet.converge().await;
    assert_eq!(outcome.changed.len(), names.len());
    let most = |role: &str| {
        let text = std::fs::read_to_string(shared.path().join(format!("most.{role}"))).unwrap();
        text.lines().map(|line| line.parse::<u32>().unwrap()).max().unwrap()
    };
    assert_eq!(most("m"), 1);
    assert!(most("w") <= 2, "{}", most("w"));
}

#[tokio::test]
async fn a_change_that_broke_a_control_plane_is_held_back() {
    let fleet = Fleet::settled(&["m1", "m2", "w1"]).await;
    fleet.machine("m2").command("restarting", "echo no more; exit 1");
    for machine in &fleet.machines {
        machine.write("etc/toy/greeting", "hello\n");
    }
    // m1 comes first and fails, so m2 is not changed.
    fleet.machine("m1").command("restarting", "echo no more; exit 1");
    let outcome = fleet.apply().await;
    let left: Vec<_> = outcome.left.iter().map(|error| error.node.clone().unwrap()).collect();
    assert_eq!(left, ["m1"]);
    assert_eq!(outcome.began("m2", "prepare"), None);
    assert!(outcome.began("w1", "prepare").is_some(), "the workers are still changed");
    assert!(outcome.open > 0, "and it is not called done");
}

#[tokio::test]
async fn a_change_that_broke_a_worker_is_held_back() {
    let fleet = Fleet::settled(&["m1", "w1", "w2", "w3"]).await;
    let (workers, mut broken) = (["w1", "w2", "w3"], String::new());
    for name in workers {
        fleet.machine(name).command("restarting", "echo no more; exit 1");
        fleet.machine(name).write("etc/toy/greeting", "hello\n");
    }
    for _ in 0..2 {
        let outcome = fleet.apply().await;
        let left: Vec<_> = outcome.left.iter().map(|error| error.node.clone().unwrap()).collect();
        assert_eq!(left.len(), 1, "of three workers one is interrupted at a time: {}", outcome.shown);
        broken.clone_from(&left[0]);
        for name in workers.iter().filter(|name| **name != broken) {
            assert_eq!(outcome.began(name, "prepare"), None);
            assert_eq!(outcome.held_back[*name], left);
        }
        assert!(outcome.open > 0, "and it is not called done");
    }
    // The control plane begins together with the first worker, so the change may break both, but no other node.
    fleet.machine("m1").write("etc/toy/greeting", "hello\n");
    fleet.machine("m1").command("restarting", "sleep 0.5; echo no more; exit 1");
    let outcome = fleet.apply().await;
    assert_eq!((outcome.left.len(), outcome.held_back.len()), (2, 2), "{}", outcome.shown);
    // After the repair, the nodes are changed one after the other.
    for machine in &fleet.machines {
        machine.command("restarting", "");
    }
    assert_eq!(fleet.converge().await.changed.len(), 4);
}

#[tokio::test]
async fn new_machines_do_not_wait_for_each_others_restarts() {
    let fleet = Fleet::of(&["m1", "w1", "w2"]).await;
    let outcome = fleet.converge().await;
    let waits = |event: &Event| matches!(event, Event::Waiting { for_what, .. } if for_what != "m1");
    assert_eq!(outcome.at(waits), None);
}

#[tokio::test]
async fn a_unit_of_an_earlier_run_is_waited_for() {
    let mut fleet = Fleet::of(&["m1", "w1"]).await;
    fleet.kin = Kin::new("5ec2e7", "lock 1");
    let m1 = fleet.machine("m1");
    let kin = fleet.kin.proof("earlier").unwrap();
    m1.write("run/ironstrap/lease", &format!("3 earlier 0 1000 me@here {kin}\n"));
    m1.write("run/systemd/transient/ironstrap-kubeadm.service", "");
    m1.write("run/ironstrap/kubeadm.earlier.log", "still pulling\n");
    m1.write("run/ironstrap/kubeadm.earlier.rc", "0\n");
    let outcome = fleet.converge().await;
    let attached = |event: &Event| matches!(event, Event::Attached { unit, .. } if unit == "kubeadm");
    let attached = outcome.at(attached).expect("the run attaches to the unit");
    let said = |event: &Event| matches!(event, Event::Said { line, .. } if line == "still pulling");
    assert!(outcome.at(said).unwrap() > attached);
    assert!(outcome.began("m1", "prepare").unwrap() > attached, "no fix begins before the unit ends");
    assert!(outcome.began("w1", "prepare").is_some(), "{}", outcome.shown);
    assert_eq!(m1.read("run/ironstrap/kubeadm.earlier.log"), "absent", "taking the lease deletes old files");
}

/// The lines of all keys that are long enough to be unique.
fn secrets(fleet: &Fleet) -> Vec<String> {
    let pki = &fleet.pki;
    let keys = [&pki.ca.key, &pki.etcd_ca.key, &pki.front_proxy_ca.key, &pki.sa_key, &pki.admin.key];
    let leaves = pki.leaves.values().flat_map(|leaves| leaves.values()).map(|pair| &pair.key);
    let lines = keys.into_iter().chain(leaves).flat_map(|key| key.reveal().lines());
    let lines = lines.filter(|line| !line.starts_with("---") && line.len() > 16);
    let secrets: Vec<String> = lines.map(str::to_string).collect();
    assert!(secrets.len() > 20);
    secrets
}

fn shows_none(shown: &str, secrets: &[String]) {
    assert!(!shown.contains("PRIVATE KEY"));
    for secret in secrets {
        let at = shown.find(secret.as_str());
        assert_eq!(at, None, "{}", &shown[at.unwrap_or(0).saturating_sub(200)..][..300]);
    }
}

#[tokio::test]
async fn no_secret_is_ever_shown() {
    let mut fleet = Fleet::of(&["m1", "w1"]).await;
    fleet.detailed = true;
    let secrets = secrets(&fleet);
    let first = fleet.converge().await;
    assert_eq!(
        fleet.machine("m1").read("etc/toy/secret"),
        secret(&fleet.pki),
        "the secret reached the machine"
    );
    shows_none(&first.shown, &secrets);
    // One machine has a wrong secret, and the other cannot replace it.
    fleet.machine("w1").write("etc/toy/secret", "another\n");
    fleet.machine("m1").write("etc/toy/secret", "another\n");
    fleet.machine("m1").command("mv", "exit 1");
    fleet.machine("w1").command("mv", "case $3$2 in *secret*) exit 0 ;; *) exec /bin/mv \"$@\" ;; esac");
    let second = fleet.apply().await;
    assert_eq!(second.result.as_ref().err().map(|e| e.kind), Some(Kind::Failed), "{}", second.shown);
    shows_none(&second.shown, &secrets);
    std::fs::remove_file(fleet.machine("m1").path("bin/mv")).unwrap();
    let third = fleet.apply().await;
    assert!(third.left.iter().any(|error| error.what.contains("had no effect")), "{}", third.shown);
    shows_none(&third.shown, &secrets);
    // The plan of the real steps shows no secret either.
    fleet.stages = STAGES;
    let (work, mut events) = fleet.look().await;
    let mut shown = ironstrap::report::plan::lines(&work.plan().unwrap(), &fleet.cluster.nodes).join("\n");
    while let Ok(event) = events.try_recv() {
        shown += &serde_json::to_string(&event).unwrap();
    }
    assert!(shown.contains("ca.key matches the cluster PKI"), "{shown}");
    shows_none(&shown, &secrets);
}
