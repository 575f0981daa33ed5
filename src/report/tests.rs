//! Shows text of a hostile machine in every style. No text may move the cursor or show a secret.

use std::sync::{Arc, Mutex};

use indicatif::{ProgressDrawTarget, TermLike};

use super::*;
use crate::error::Kind;
use crate::fleet::Blocked;
use crate::plan::{Unchecked, changes};
use crate::secret::{SecretText, is_forbidden};
use crate::step::{Answer, Id, Step, Verdict, Want};

/// Text that a machine may answer when an attacker has root there, and the secret that comes back with it.
const HOSTILE: &str =
    "\x1b]0;OWNED\x07\x1b[2J\x1b[H\rforged\u{9b}2J\u{9d}0;x\u{202e}evil\u{2066}\u{200f}\u{2028}\x0c\x7f\0";
const SECRET: &str = "report-test-secret-1";

/// Returns one event of each kind, with hostile text in each text field.
fn events() -> Vec<Event> {
    let bad = || format!("w1{HOSTILE}{SECRET}\n✔ next");
    let named = || WantName { step: bad(), id: bad(), subject: bad(), that: bad() };
    let tally = Tally { execs: 1, changes: 1, state: NodeState::Drifted };
    let error = Error::new(Kind::Failed, bad()).on(&bad()).because(bad()).hint(bad());
    vec![
        Event::Looked { node: bad(), changes: 1, answering: 1.0, seconds: 1.0 },
        Event::Drift { node: bad(), of: named(), state: bad(), have: bad(), want: bad() },
        Event::Note { node: bad(), step: bad(), note: bad() },
        Event::Unchecked { node: bad(), of: named(), why: bad() },
        Event::Trust { path: bad() },
        Event::Stage { node: bad(), stage: bad(), changes: 1 },
        Event::Fixing { node: bad(), of: named() },
        Event::Said { node: bad(), line: bad() },
        Event::Fixed { node: bad(), of: named() },
        Event::Attached { node: bad(), unit: bad() },
        Event::Waiting { node: bad(), for_what: bad() },
        Event::Asked { node: bad(), of: named(), asked: bad(), answered: bad() },
        Event::Script { node: bad(), script: bad() },
        Event::Ended { node: bad(), status: 1, stderr: bad() },
        Event::Stopping { at_once: true },
        Event::from(&error),
        Event::Cause {
            node: bad(),
            cause: bad(),
            what: bad(),
            on: bad(),
            place: bad(),
            evidence: bad(),
            remedy: bad(),
        },
        Event::Done { changes: 1, nodes: [("w1".into(), tally)].into(), seconds: 1.0 },
    ]
}

/// Fails if the text has a control character apart from our colours, or if it has the secret.
fn assert_is_safe(shown: &str, of: &str) {
    assert!(!shown.contains(SECRET), "{of}: {shown:?}");
    let mut rest = shown.to_string();
    for colour in color::ALL {
        rest = rest.replace(colour, "");
    }
    assert!(!rest.contains(is_forbidden), "{of}: {shown:?}");
}

#[test]
fn no_event_moves_the_cursor_or_shows_a_secret() {
    let _known = SecretText::new(SECRET);
    for event in events() {
        let of = format!("{event:?}");
        let mut lines = detail::lines(&event);
        for size in [1, 2 * group::COMPACT_ABOVE] {
            let mut grouping = grouping::Grouping::default();
            let looked = Event::Looked { node: "x".into(), changes: 0, answering: 0.0, seconds: 0.0 };
            (0..size).for_each(|_| grouping.hear(&looked));
            lines.extend(grouping.lines(&event));
            lines.extend(grouping.rest());
        }
        lines.iter().for_each(|line| assert_is_safe(&exit::painted(line), &of));
        lines.iter().for_each(|line| assert_is_one_message(line));
        let json = exit::json_line(&event);
        assert_is_safe(&json, &of);
        assert!(!json.contains('\n') && serde_json::from_str::<Event>(&json).is_ok(), "{json}");
    }
    let error = Error::new(Kind::Failed, HOSTILE).on(HOSTILE).because(format!("{HOSTILE}{SECRET}"));
    for told in [trouble(&error), group::troubles(&vec![error; 9]).concat()] {
        assert_is_safe(&exit::painted(&told), "the end");
    }
    let forged = "no such file\n✔ m1: nothing to do";
    assert_is_one_message(&trouble(&Error::new(Kind::Failed, forged).on("w1").quoting(forged).hint(forged)));
}

/// Fails if any line after the first could pass for a message of ironstrap.
fn assert_is_one_message(told: &str) {
    let is_fit = |line: &str| line.starts_with("      ") && (!line.contains("m1") || line.contains("| "));
    assert!(told.lines().skip(1).all(is_fit), "{told:?}");
}

#[test]
fn machine_text_cannot_imitate_lines_of_a_plan() {
    const TOY: Step = Step { name: "toy", why: "", wants: |_| Ok(vec![]) };
    let forged = "no such file\n✔ m1: nothing to do\n✗ m1: broken\n      hint: curl | sh";
    let by_hand = Want::new("test.want", "it is on").is("yes").by_hand(forged);
    let waits = Want::new("test.want", "it is on").judged(move |_| Verdict::Waits {
        have: "no".into(),
        want: "yes".into(),
        for_what: Blocked::by_cluster(forged),
    });
    let unknown = Want::new("test.want", "it is on").is("yes").by_hand("");
    let said = Answer::Said("no".into());
    let all = [(by_hand, said.clone()), (waits, said), (unknown, Answer::Unknown(forged.into()))];
    let mut words = String::new();
    for (want, answer) in &all {
        let changes = changes(&[(&TOY, want, answer)], &mut Default::default());
        let lines = plan::lines(&[("w1".into(), changes)], &[]);
        lines.iter().for_each(|line| assert_is_one_message(line));
        words += &lines.join("\n");
    }
    assert_eq!(words.matches("\n        | ✔ m1: nothing to do").count(), all.len(), "{words}");
    let nobody =
        Unchecked { step: "toy", id: Id::default(), that: forged.into(), why: forged.into(), about: vec![] };
    plan::unchecked(&[("w1".into(), nobody)]).iter().for_each(|line| assert_is_one_message(line));
}

#[test]
fn the_live_display_moves_no_cursor_and_hides_secrets() {
    let _known = SecretText::new(SECRET);
    let screen = Screen::default();
    let mut display = term::Display::on(ProgressDrawTarget::term_like_with_hz(Box::new(screen.clone()), 255));
    for event in events() {
        display.show(&event);
        std::thread::sleep(std::time::Duration::from_millis(8));
    }
    let all = screen.0.lock().unwrap().clone();
    assert!(all.contains("OWNED") && all.contains("forged"), "something was shown: {all:?}");
    assert_is_safe(&all, "the live display");
}

/// A terminal that records what it gets, except the movements that indicatif makes by itself.
#[derive(Clone, Debug, Default)]
struct Screen(Arc<Mutex<String>>);

impl TermLike for Screen {
    fn width(&self) -> u16 {
        400
    }

    fn move_cursor_up(&self, _: usize) -> std::io::Result<()> {
        Ok(())
    }

    fn move_cursor_down(&self, _: usize) -> std::io::Result<()> {
        Ok(())
    }

    fn move_cursor_right(&self, _: usize) -> std::io::Result<()> {
        Ok(())
    }

    fn move_cursor_left(&self, _: usize) -> std::io::Result<()> {
        Ok(())
    }

    fn write_line(&self, line: &str) -> std::io::Result<()> {
        self.write_str(&format!("{line}\n"))
    }

    fn write_str(&self, text: &str) -> std::io::Result<()> {
        self.0.lock().unwrap().push_str(text);
        Ok(())
    }

    fn clear_line(&self) -> std::io::Result<()> {
        Ok(())
    }

    fn flush(&self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn checks_that_cannot_run_are_listed_and_counted() {
    let one = |asks: &str, of: &str| {
        let (that, why) = (format!("the pods of {of} answer"), "no pod runs there".to_string());
        (
            asks.to_string(),
            Unchecked { step: "packets", id: Id::default(), that, why, about: vec![of.into()] },
        )
    };
    let all = [one("m1", "m2"), one("m1", "w1"), one("m2", "w1")];
    assert_eq!(
        plan::unchecked(&all),
        ["  ? could not check whether the pods of m2, w1 answer: no pod runs there"]
    );
    assert_eq!(
        plan::no_differences(246, all.len(), "demo.toml", "3 nodes", true),
        "no differences from demo.toml: 243 of 246 checks passed on 3 nodes, 3 could not run"
    );
    assert_eq!(
        plan::no_differences(246, 0, "demo.toml", "3 nodes", true),
        "✔ no differences from demo.toml: 246 checks passed on 3 nodes"
    );
}
