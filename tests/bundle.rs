//! The report that somebody sends to somebody else: what is in it, and what is not.

// clippy sees no test in what the tests share.
#![allow(clippy::unwrap_used)]

mod common;

use common::{lab, trust};
use ironstrap::diagnosis::Heard;
use ironstrap::error::{Error, Kind};
use ironstrap::report::bundle::Bundle;
use ironstrap::report::{Event, Events};

#[test]
fn a_report_has_all_its_parts_and_no_secret_of_the_trust() {
    let trust = trust(&lab());
    let secrets: Vec<String> =
        trust.kept().iter().filter(|file| file.secret).map(|file| file.text.to_string()).collect();
    let all = secrets.join("\n");
    let error = Error::new(Kind::Failed, "member: stuck").on("w1").because(&all).hint("see to it");
    let said = Event::Said { node: "w1".into(), line: all.clone() };
    let lines = all.lines().map(|line| ("log kubeadm".to_string(), line.to_string())).collect();
    let bundle = Bundle {
        inventory: &format!("[proxy]\nhttps = \"http://me:pw@proxy:3128\"\n# {all}"),
        machines: vec!["w1\tdebian trixie".into()],
        answers: vec![("w1".into(), "/etc/hosts".into(), all.clone())],
        events: &[said],
        errors: &[error],
        heard: vec![Heard { node: "w1".into(), lines }],
    };
    let (events, _) = Events::channel();
    trust.secrets().iter().for_each(|secret| events.hide(secret));
    let text = bundle.text(&events.redaction());
    for part in [
        "== errors\n✗ w1  member: stuck",
        "== inventory\n[proxy]",
        "== machines\n",
        "== answers\n",
        "== events\n",
        "== logs of w1\n",
    ] {
        assert!(text.contains(part), "{part}:\n{text}");
    }
    for line in all.lines().filter(|line| line.len() > 8 && !line.starts_with("-----")) {
        let secret = line.split_once('.').map_or(line, |(_, secret)| secret);
        assert!(!text.contains(secret), "{secret} is in\n{text}");
    }
    assert!(!text.contains("pw@"));
}
