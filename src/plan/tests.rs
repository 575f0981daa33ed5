//! Tests how verdicts become changes.

use super::*;
use crate::shell::sh;

static STEP: Step = Step { name: "toy", why: "for the tests", wants: |_| Ok(vec![]) };

fn all(judged: &[Answered]) -> Vec<Change> {
    changes(judged, &mut BTreeSet::new())
}

fn one(want: &Want, answer: &str) -> Option<Change> {
    all(&[(&STEP, want, &Answer::Said(answer.into()))]).pop()
}

fn if_absent(want: &Want) -> Option<Change> {
    all(&[(&STEP, want, &Answer::Absent)]).pop()
}

#[test]
fn only_the_last_line_break_is_ignored() {
    let want = Want::new("test.want", "x").is("a\nb");
    assert_eq!((one(&want, "a\nb"), one(&want, "a\nb\n")), (None, None));
    assert!(one(&want, "a\nb\n\n").is_some() && one(&want, "a b").is_some() && one(&want, "").is_some());
}

#[test]
fn a_want_that_does_not_apply_holds() {
    let want = Want::new("test.want", "x").is("yes");
    assert_eq!(all(&[(&STEP, &want, &Answer::NotHere)]), []);
}

#[test]
fn an_unknown_answer_is_no_change_to_make() {
    let want = Want::new("test.want", "x").ask("cat /x").is("yes").run("touch /x");
    let change = all(&[(&STEP, &want, &Answer::Unknown("exit 1: no".into()))]).remove(0);
    let state = State::Unknown { asked: "cat /x".into(), why: "exit 1: no".into(), awaits_api: false };
    assert_eq!((change.state, change.have.as_str()), (state, ""));
}

#[test]
fn an_edit_changes_only_the_text_of_existing_files() {
    let want =
        Want::edit("test.want", "x", "/x", |text| text.replace('a', "b"), |text| text.replace('b', "a"));
    assert_eq!((if_absent(&want), one(&want, "mode 644 root:root\nb\n")), (None, None));
    let change = one(&want, "mode 644 root:root\na\n").unwrap();
    assert_eq!((change.have.as_str(), change.want.as_str()), ("a\n", "b\n"));
}

#[test]
fn a_narrower_mode_is_accepted_and_kept() {
    let file = Want::file("test.want", "x", "/x", 0o644, "new\n");
    let ours = file.clone().allow_narrower_mode();
    let secret = Want::secret_file("test.want", "x", "/x", 0o600, "new\n").allow_narrower_mode();
    let hash = crate::step::sha256(b"new\n");
    assert_eq!(one(&ours, "mode 600 root:root\nnew\n"), None);
    assert_eq!(one(&ours, "mode 644 root:root\nnew\n"), None);
    assert_eq!(one(&secret, &format!("mode 400 root:root\nsha256 {hash}\n")), None);
    assert!(one(&file, "mode 600 root:root\nnew\n").is_some(), "other users may need to read the file");
    for wrong in ["mode 664 root:root", "mode 600 ops:root", "mode 200 root:root"] {
        let change = one(&ours, &format!("{wrong}\nnew\n")).unwrap();
        assert!(matches!(change.fix, Fix::Write { mode: Some(0o644), .. }), "{wrong}: {:?}", change.fix);
        assert!(change.have.starts_with(wrong), "{}", change.have);
    }
    let change = one(&ours, "mode 600 root:root\nold\n").unwrap();
    assert!(matches!(change.fix, Fix::Write { mode: Some(0o600), .. }), "{:?}", change.fix);
    assert_eq!(diff(&change.have, &change.want), ["  mode 644 root:root", "- old", "+ new"]);
    let change = if_absent(&ours).unwrap();
    assert!(matches!(change.fix, Fix::Write { mode: Some(0o644), .. }), "{:?}", change.fix);
}

#[test]
fn a_unit_restarts_only_for_files_that_it_reads() {
    let unit = Want::unit_runs("test.want", "toyd", &["/x"]);
    let running = Answer::Said("enabled active current".into());
    for (path, follows) in [("/x", true), ("/y", false)] {
        let file = Want::file("test.want", "the file is ours", path, 0o644, "new\n");
        let absent = Answer::Absent;
        let found = all(&[(&STEP, &file, &absent), (&STEP, &unit, &running)]);
        assert_eq!(found.len() == 2, follows, "{path}");
        let unknown = Answer::Unknown("exit 1".into());
        assert_eq!(all(&[(&STEP, &file, &unknown), (&STEP, &unit, &running)]).len(), 1);
    }
}

#[test]
fn an_unconfirmed_change_holds_up_no_other_node() {
    static CONFIRMATION: Confirmation = Confirmation { option: "--x", question: "", kept: "", hint: "" };
    let want = Want::new("test.want", "x").run("replace").judged(|have| Verdict::Unconfirmed {
        have: have.into(),
        want: "ours".into(),
        confirmation: &CONFIRMATION,
    });
    let change = one(&want, "theirs\n").unwrap();
    assert_eq!((change.have.as_str(), change.want.as_str()), ("theirs", "ours"));
    assert_eq!((change.state.word(), change.state.blocks_others()), ("unconfirmed", false));
    assert!(State::Ready.blocks_others() && State::ByHand.blocks_others());
}

#[test]
fn a_note_is_reported_and_is_no_change() {
    let want = Want::new("test.want", "x").judged(|text| Verdict::Noted(format!("there is {text}")));
    assert_eq!(one(&want, "a\n"), None);
    assert_eq!(notes(&[(&STEP, &want, &Answer::Said("a\n".into()))]), [("toy", "there is a".to_string())]);
    assert_eq!(notes(&[(&STEP, &want, &Answer::NotHere)]), []);
}

#[test]
fn a_check_that_cannot_run_neither_passes_nor_differs() {
    let want = Want::new("test.want", "x").judged(|why| Verdict::Unchecked(why.into())).about(["w1".into()]);
    assert_eq!(one(&want, "no pod\n"), None);
    let open = Unchecked {
        step: "toy",
        id: want.id.clone(),
        that: "x".into(),
        why: "no pod".into(),
        about: vec!["w1".into()],
    };
    assert_eq!(unchecked(&[(&STEP, &want, &Answer::Said("no pod\n".into()))]), [open]);
    assert_eq!(unchecked(&[(&STEP, &want, &Answer::NotHere)]), []);
}

#[test]
fn readers_of_a_file_that_changes_are_restarted() {
    let file = Want::file("test.want", "the file is ours", "/x", 0o644, "new\n");
    let reader = Want::new("test.want", "it runs with its files").is("").reads(&["/x"]);
    let (absent, fine) = (Answer::Absent, Answer::Said(String::new()));
    let mut touched = BTreeSet::new();
    assert_eq!(changes(&[(&STEP, &reader, &fine)], &mut touched), []);
    assert_eq!(changes(&[(&STEP, &file, &absent)], &mut touched).len(), 1);
    let found = changes(&[(&STEP, &reader, &fine)], &mut touched);
    assert_eq!(found[0].want, "restarted, because /x changes");
    let not_here = Answer::NotHere;
    assert_eq!(changes(&[(&STEP, &reader, &not_here)], &mut touched), []);
}

#[test]
fn a_diff_shows_changes_with_one_line_around() {
    assert_eq!(diff("a\nb\nc\nd\n", "a\nb\nx\nd\n"), ["  b", "- c", "+ x", "  d"]);
    assert_eq!((diff("", "a\n"), diff("a", "a")), (vec!["+ a".to_string()], vec![]));
}

#[test]
fn a_fix_may_depend_on_the_answer() {
    let want = Want::new("test.want", "it is on")
        .is("yes")
        .run_for(|answer| sh!("turn {answer}", answer))
        .nothing_to_undo("");
    let fix = |answer: &str| one(&want, answer).map(|change| change.fix);
    assert_eq!(fix("half on"), Some(Fix::Run("turn 'half on'".into())));
    assert_eq!(fix("yes"), None);
}
