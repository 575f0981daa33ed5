//! Tests what `-v` shows and `--log` writes: every question and every script, without secrets.

use std::os::unix::fs::PermissionsExt;

use ironstrap::report::{Audience, Event, Events, Style, detail};
use ironstrap::store;

use super::fleet::{Fleet, Outcome};
use super::{secrets, shows_none};

async fn detailed() -> (Fleet, Outcome) {
    let mut fleet = Fleet::of(&["m1", "w1"]).await;
    fleet.detailed = true;
    let outcome = fleet.converge().await;
    (fleet, outcome)
}

#[tokio::test]
async fn every_question_is_logged_with_its_answer() {
    let (_fleet, outcome) = detailed().await;
    let asked = |node: &str, that: &str, wanted: &str| {
        let is = |event: &Event| {
            matches!(event, Event::Asked { node: n, of, answered, asked }
            if n == node && of.that == that && answered == wanted && !asked.is_empty())
        };
        outcome.at(is)
    };
    for node in ["m1", "w1"] {
        let before = asked(node, "the switch is on", "off\n").unwrap();
        assert!(asked(node, "the switch is on", "on\n").unwrap() > before);
    }
}

#[tokio::test]
async fn every_script_is_logged_without_its_secrets() {
    let (fleet, outcome) = detailed().await;
    let scripts: Vec<&String> = outcome
        .events
        .iter()
        .filter_map(|event| match event {
            Event::Script { node, script } if node == "w1" => Some(script),
            _ => None,
        })
        .collect();
    let prepare = scripts.iter().find(|script| script.contains("write_file /etc/toy/secret 600")).unwrap();
    let (_, document) = prepare.split_once("write_file /etc/toy/secret 600 <<").unwrap();
    assert_eq!(document.lines().nth(1), Some("[secret]"), "{document}");
    assert!(prepare.contains("hello\n") && prepare.contains("templates/lib.sh"), "{prepare}");
    assert!(
        scripts.iter().any(|script| script.contains("release_lease")),
        "the release of the lease is an event too"
    );
    let ended = |event: &Event| matches!(event, Event::Ended { node, status: 0, .. } if node == "w1");
    assert_eq!(outcome.events.iter().filter(|event| ended(event)).count(), scripts.len());
    shows_none(&outcome.shown, &secrets(&fleet));
}

#[tokio::test]
async fn details_are_recorded_only_on_request() {
    let outcome = Fleet::of(&["m1"]).await.converge().await;
    let detail =
        |event: &Event| matches!(event, Event::Asked { .. } | Event::Script { .. } | Event::Ended { .. });
    assert_eq!(outcome.at(detail), None);
}

#[tokio::test]
async fn a_log_has_all_details_and_only_its_owner_reads_it() {
    let (fleet, outcome) = detailed().await;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run.log");
    std::fs::write(&path, "of an earlier run\n").unwrap();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o644)).unwrap();
    let (events, receiver) = Events::channel();
    outcome.events.iter().for_each(|event| events.tell(event.clone()));
    drop(events);
    let log = detail::Log::begin(store::log(&path).unwrap(), "apply -i demo.toml");
    ironstrap::report::show(
        receiver,
        Audience { style: Style::Quiet, verbose: false, log: Some(log), keeps: false },
    )
    .await;
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(text.starts_with("of an earlier run\n20"), "{}", &text[..200]);
    for words in [
        "Z  ironstrap ",
        "apply -i demo.toml",
        "checking whether the switch is on",
        "m1  runs a script",
        "      | write_file /etc/toy/secret 600",
        "fixed: the switch is on",
    ] {
        assert!(text.contains(words), "no {words:?} in {text}");
    }
    shows_none(&text, &secrets(&fleet));
}
