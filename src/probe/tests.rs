//! Tests how replies of machines are read if they are whole, cut or too large.

use super::*;

const FACTS: &str = "os debian\nclock 1.5\ninit systemd\n";

/// One block of a reply. `numbered` gives it its number.
fn one(stdout: &str, status: i32, stderr: &str) -> String {
    format!("{stdout}\n--b # {status}\n{stderr}\n--b\n")
}

/// Numbers the blocks of a reply.
fn numbered(reply: &str) -> String {
    let mut parts = reply.split("--b # ");
    let first = parts.next().unwrap().to_string();
    parts.enumerate().fold(first, |text, (number, part)| text + &format!("--b {number} {part}"))
}

/// The head, and empty replies for the six tables and for the objects.
fn head() -> String {
    one(FACTS, 0, "") + &one("", 0, "").repeat(9)
}

/// The last block of a reply.
fn clock() -> String {
    one("2.5\n", 0, "")
}

fn ask(body: &'static str) -> Ask {
    Ask::Shell(body.into())
}

fn read(reply: &str) -> Result<Vec<Answer>, String> {
    answers(numbered(reply).as_bytes(), &[&ask("a"), &Ask::Facts, &ask("b"), &ask("a")], "--b")
        .map(|(_, answers)| answers)
}

#[test]
fn each_ask_gets_its_own_answer() {
    let reply = head() + &one("yes\n", 0, "") + &one("half", 3, "why") + &clock();
    let answers = read(&reply).unwrap();
    let said = |text: &str| Answer::Said(text.into());
    let why = Answer::Unknown("exit 3: why".into());
    assert_eq!(answers, [said("yes\n"), said(""), why, said("yes\n")], "equal questions are asked once");
}

#[test]
fn a_truncated_reply_is_refused() {
    let reply = numbered(&(head() + &one("yes\n", 0, "") + &one("no\n", 0, "noise") + &clock()));
    for end in 0..reply.len() {
        assert!(read(&reply[..end]).is_err(), "cut at {end}");
    }
    assert!(read(&reply).is_ok());
}

#[test]
fn an_overlong_or_garbled_reply_is_refused() {
    let reply = head() + &one("a", 0, "") + &one("b", 0, "") + &clock();
    assert!(read(&(reply.clone() + &one("c", 0, ""))).is_err());
    assert!(read(&(reply.clone() + "more")).is_err());
    assert!(read(&reply.replace("--b # 0", "--b # zero")).is_err());
    assert!(read(&format!("Welcome to m1!\n{reply}")).is_err());
}

#[test]
fn an_answer_to_another_question_is_refused() {
    let reply = numbered(&(head() + &one("a", 0, "") + &one("b", 0, "") + &clock()));
    let read = |reply: &str| answers(reply.as_bytes(), &[&ask("a"), &ask("b")], "--b").map(|(_, said)| said);
    assert!(read(&reply).is_ok());
    let swapped =
        reply.replace("--b 10 0", "--b x").replace("--b 11 0", "--b 10 0").replace("--b x", "--b 11 0");
    let why = "question 10 has no answer: next comes the answer to question 11";
    assert_eq!(read(&swapped).unwrap_err(), why);
    let missing = reply.replace("a\n--b 10 0\n\n--b\n", "");
    assert_eq!(read(&missing).unwrap_err(), why);
    let twice = reply.replace("--b 11 0", "--b 10 0");
    assert_eq!(read(&twice).unwrap_err(), "question 11 has no answer: next comes the answer to question 10");
}

#[test]
fn a_reply_without_facts_is_refused() {
    let reply =
        head().replacen("--b # 0\n\n", "--b # 1\nsh: date: not found\n", 1) + &one("a", 0, "").repeat(2);
    assert_eq!(read(&reply).unwrap_err(), "cannot read its facts: exit 1: sh: date: not found");
}

#[test]
fn every_boundary_is_unique() {
    let (one, other) = (boundary().unwrap(), boundary().unwrap());
    assert!(one != other && one.len() == 34 && one.starts_with("--"));
}

#[test]
fn an_oversized_answer_is_unknown_and_named() {
    let large = "x\n".repeat((1 << 19) + 1);
    let reply = head() + &one(&large, 0, "") + &one("b\n", 0, "") + &clock();
    let answers = read(&reply).unwrap();
    let why = Answer::Unknown("the answer is larger than 1024 KiB: a".into());
    assert_eq!(
        (&answers[0], &answers[2]),
        (&why, &Answer::Said("b\n".into())),
        "other answers are not affected"
    );
    let noise = head() + &one("", 1, &large) + &one("b\n", 0, "") + &clock();
    assert_eq!(read(&noise).unwrap()[0], why);
    let error = "cannot open\n".repeat(5000);
    let said = head() + &one("", 1, &error) + &one("b\n", 0, "") + &clock();
    let Answer::Unknown(why) = read(&said).unwrap().remove(0) else { panic!() };
    assert_eq!((why.lines().count(), why.lines().last()), (21, Some("… and 4980 more lines")));
    let facts =
        one(&format!("{FACTS}{large}"), 0, "") + &one("", 0, "").repeat(9) + &one("a", 0, "").repeat(2);
    assert_eq!(
        read(&facts).unwrap_err(),
        "cannot read its facts: the answer is larger than 256 KiB: its facts"
    );
}

#[test]
fn oversized_tables_and_objects_are_unknown() {
    let large = "x\n".repeat(4 << 20);
    let asks = [Ask::File("/a".into()), Ask::Nodes, Ask::Packages(vec!["a".into()])];
    let asks: Vec<&Ask> = asks.iter().collect();
    let mut reply = one(FACTS, 0, "") + &one("", 0, "").repeat(2);
    (0..7).for_each(|_| reply += &one(&large, 0, ""));
    let (_, answers) = answers(numbered(&(reply + &clock())).as_bytes(), &asks, "--b").unwrap();
    for (answer, name) in answers.iter().zip(["stat", "kubectl get", "dpkg-query"]) {
        let Answer::Unknown(why) = answer else { panic!("{name}: {answer:?}") };
        assert!(why.starts_with("the answer is larger than ") && why.ends_with(name), "{why}");
    }
}

#[test]
fn a_flood_of_marks_is_limited() {
    let asks = [Ask::Shell(Sh::raw("a line\n".repeat(2000).leak())), Ask::Facts, ask("b"), ask("a")];
    let asks: Vec<&Ask> = asks.iter().collect();
    for line in ["\n--b late 10 7 sh", "\n--b # 0\n\n--b", "\n--b 0 0\n\n--b", "\n--b", "\n"] {
        let flood = line.repeat((1 << 20) / line.len());
        let reply = numbered(&(head() + &flood + &one("yes\n", 0, "") + &clock()));
        if let Ok((_, said)) = answers(reply.as_bytes(), &asks, "--b") {
            assert!(matches!(&said[0], Answer::Unknown(why) if why.contains("is larger than")), "{line:?}");
        }
        assert!(late(reply.as_bytes(), &asks, "--b", &Limits::default()).len() <= 64, "{line:?}");
    }
}
