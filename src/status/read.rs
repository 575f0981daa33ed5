//! Reads single answers. `whole` combines several answers.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::ask::{Topic, questions};
use super::{Certificate, Health, NodeEvidence, Seen, Token};
use crate::cluster::Cluster;
use crate::etcd;
use crate::pki;
use crate::step::Answer;

/// Returns whether the machine answered. If it did not, returns why.
pub(super) fn machine(told: &NodeEvidence) -> Seen<()> {
    match (told.machine, told.left) {
        (Some(_), _) => Seen::Is(()),
        (None, Some(error)) => {
            let cause = error.words().next().map(|cause| format!(": {cause}")).unwrap_or_default();
            Seen::Unknown(format!("{}{cause}", error.what))
        }
        (None, None) => Seen::Unknown("it has not answered".into()),
    }
}

/// Returns the answer of a node about a topic. `Seen::Nothing` if the node is not asked about it, or if it does not concern
/// the node.
pub(super) fn answer<'a>(cluster: &Cluster, told: &'a NodeEvidence, topic: Topic) -> Seen<&'a Answer> {
    let asked = questions(cluster, told.node);
    let Some(place) = asked.iter().position(|(about, _)| *about == topic) else { return Seen::Nothing };
    machine(told).then(|()| match told.answers.get(place) {
        None => Seen::Unknown("it was not asked".into()),
        Some(Answer::NotHere) => Seen::Nothing,
        Some(answer) => answer.unknown().map_or(Seen::Is(answer), |why| Seen::Unknown(why.into())),
    })
}

/// Returns what a node said about a topic, as text.
pub(super) fn said(cluster: &Cluster, told: &NodeEvidence, topic: Topic) -> Seen<String> {
    answer(cluster, told, topic).then(|answer| match answer.text() {
        _ if *answer == Answer::Absent => Seen::Nothing,
        Ok(text) => Seen::Is(text.into()),
        Err(why) => Seen::Unknown(why),
    })
}

/// Returns the rest of the line that begins with this word.
pub(super) fn line(text: &str, key: &str) -> Seen<String> {
    let rest = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' '));
    match rest.map(str::trim) {
        Some("") | None => Seen::Nothing,
        Some(rest) => Seen::Is(rest.into()),
    }
}

/// Reads whole seconds from a text such as `123456.78`.
pub(super) fn seconds(text: &str) -> Seen<u64> {
    match text.split('.').next().and_then(|whole| whole.parse().ok()) {
        Some(seconds) => Seen::Is(seconds),
        None => Seen::Unknown(format!("cannot read \"{text}\"")),
    }
}

/// Returns the upstream version of a package, from a line such as `kubelet hi 1.36.3-1.1`.
pub(super) fn version(packages: &str, name: &str) -> Seen<String> {
    line(packages, name).then(|state| {
        let Some((status, version)) = state.split_once(' ') else { return Seen::Nothing };
        if !status.ends_with('i') {
            return Seen::Nothing;
        }
        let version = version.split_once(':').map_or(version, |(_, version)| version);
        Seen::Is(version.split(['-', '~', '+']).next().unwrap_or_default().into())
    })
}

/// Returns the certificate that expires first. The result is unknown if one cannot be read, because it could be that one.
pub(super) fn nearest(text: &str, now: OffsetDateTime) -> Seen<Certificate> {
    let mut first: Option<(OffsetDateTime, &str)> = None;
    for part in text.split("file ").skip(1) {
        let (file, body) = part.split_once('\n').unwrap_or((part, ""));
        // A kubeconfig may name a file instead of a certificate. ironstrap asks for that file as well.
        if body.trim().is_empty() && file.ends_with(".conf") {
            continue;
        }
        let Some(expires) = pki::expires(body) else {
            return Seen::Unknown(format!("{file} cannot be read as a certificate"));
        };
        if first.is_none_or(|(earliest, _)| expires < earliest) {
            first = Some((expires, file));
        }
    }
    match first {
        Some((expires, file)) => {
            Seen::Is(Certificate { file: file.into(), expires, days: (expires - now).whole_days() })
        }
        None => Seen::Nothing,
    }
}

/// Returns the health of an API server, with the rest of its answer.
pub(super) fn health(text: &str) -> Seen<(Health, Option<String>)> {
    let text = text.trim();
    let (word, rest) = text.split_once(": ").unwrap_or((text, ""));
    match word {
        "healthy" => Seen::Is((Health::Healthy, None)),
        "failing" => Seen::Is((Health::Failing, Some(failing(rest)))),
        "down" => Seen::Is((Health::Down, Some(rest.into()))),
        _ => Seen::Unknown(format!("cannot read \"{text}\"")),
    }
}

/// Returns the checks of `/readyz?verbose` that fail.
fn failing(text: &str) -> String {
    let name = |line: &str| line.split_once("[-]")?.1.split_whitespace().next().map(str::to_string);
    text.lines().filter_map(name).collect::<Vec<_>>().join(", ")
}

/// Returns whether a member of etcd says that it is healthy. If it is not, returns what it says.
pub(super) fn member_health(text: &str) -> Seen<(bool, Option<String>)> {
    let text = text.trim();
    if let Some(why) = text.strip_prefix("unhealthy: ") {
        return Seen::Is((false, Some(why.into())));
    }
    let said: Value = serde_json::from_str(text).unwrap_or(Value::Null);
    match said["health"].as_str() {
        Some("true") => Seen::Is((true, None)),
        Some(_) => Seen::Is((false, Some(said["reason"].as_str().unwrap_or_default().into()))),
        None => Seen::Unknown(format!("cannot read \"{text}\"")),
    }
}

/// Returns the names of etcd's members, and whether each has no vote yet. A member that was added and never started has no
/// name.
pub(super) fn members(text: &str) -> Seen<Vec<(String, bool)>> {
    let text = text.trim();
    let Some(members) = etcd::members(text) else {
        return Seen::Unknown(format!("cannot read \"{text}\""));
    };
    let member = |member: &etcd::Member| {
        let mut names = [member.name.as_str(), member.peer.as_str(), "without a name"].into_iter();
        (names.find(|name| !name.is_empty()).unwrap_or_default().to_string(), member.learner)
    };
    Seen::Is(members.iter().map(member).collect())
}

/// Returns the token that is valid longest, among the tokens that are valid now.
pub(super) fn token(text: &str, now: OffsetDateTime) -> Seen<Token> {
    let mut tokens: Vec<Token> = Vec::new();
    for line in text.lines() {
        let (good, until) = line.split_once('\t').unwrap_or((line, ""));
        if decoded(good).as_deref() != Some("true") {
            continue;
        }
        let Some(until) = decoded(until) else { return Seen::Unknown(format!("cannot read \"{line}\"")) };
        let until = match until.as_str() {
            "" => None,
            until => match OffsetDateTime::parse(until, &Rfc3339) {
                Ok(until) => Some(until),
                Err(_) => return Seen::Unknown(format!("cannot read \"{until}\"")),
            },
        };
        tokens.push(Token { until });
    }
    tokens.retain(|token| token.until.is_none_or(|until| until > now));
    // A token that never expires outlasts all others.
    match tokens.into_iter().max_by_key(|token| (token.until.is_none(), token.until)) {
        Some(token) => Seen::Is(token),
        None => Seen::Nothing,
    }
}

fn decoded(text: &str) -> Option<String> {
    String::from_utf8(BASE64_STANDARD.decode(text.trim()).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pki::tests::{NOW, cluster};

    #[test]
    fn only_an_installed_package_has_an_upstream_version() {
        let version = |text: &str| version(text, "containerd");
        for (text, is) in [
            ("kubelet hi 1.36.3-1.1\ncontainerd hi 1.7.24~ds1-6+b4\n", "1.7.24"),
            ("containerd ii 2:2.1.9-1\n", "2.1.9"),
        ] {
            assert_eq!(version(text), Seen::Is(is.into()), "{text}");
        }
        for text in ["containerd absent\n", "containerd rc 1.7.24\n", "containerd-shim ii 1.0\n", ""] {
            assert_eq!(version(text), Seen::Nothing, "{text}");
        }
    }

    #[test]
    fn the_earliest_expiry_of_all_certificates_counts() {
        let pki = pki::ClusterPki::make(&cluster(), NOW).unwrap();
        let text = format!("file /ca.crt\n{}file /a.conf\n{}", pki.ca.cert, pki.admin.cert);
        let Seen::Is(first) = nearest(&text, NOW) else { panic!() };
        assert_eq!((first.file.as_str(), first.expires), ("/a.conf", pki::expires(&pki.admin.cert).unwrap()));
        assert!(first.days < nearest(&text, NOW - time::Duration::days(2)).is().unwrap().days);
        assert_eq!(nearest("file /kubelet.conf\n", NOW), Seen::Nothing);
        assert_eq!(nearest("", NOW), Seen::Nothing);
        for broken in ["file /b.crt\n", "file /b.conf\nQUJD\n"] {
            assert!(nearest(&format!("{text}{broken}"), NOW).why().is_some(), "{broken}");
        }
    }

    #[test]
    fn the_token_with_the_latest_expiry_counts() {
        let line = |good: &str, until: &str| {
            format!("{}\t{}\n", BASE64_STANDARD.encode(good), BASE64_STANDARD.encode(until))
        };
        let day = |n| (NOW + time::Duration::days(n)).format(&Rfc3339).unwrap();
        let token = |lines: &[String]| token(&lines.concat(), NOW);
        let until = |n| Seen::Is(Token { until: Some(NOW + time::Duration::days(n)) });
        let (gone, soon, later) = (line("true", &day(-1)), line("true", &day(1)), line("true", &day(2)));
        assert_eq!(token(&[soon.clone(), later.clone(), gone.clone()]), until(2));
        assert_eq!(token(&[soon.clone(), line("false", &day(9))]), until(1));
        assert_eq!(token(&[later.clone(), line("true", "")]), Seen::Is(Token { until: None }));
        assert_eq!((token(&[gone]), token(&[])), (Seen::Nothing, Seen::Nothing));
        assert!(token(&[soon, line("true", "tomorrow")]).why().is_some());
    }

    #[test]
    fn an_unreadable_answer_is_unknown_and_not_healthy() {
        for text in ["", "Welcome!", "{}", "{\"health\": true}"] {
            assert!(health(text).why().is_some(), "{text}");
            assert!(member_health(text).why().is_some(), "{text}");
            assert!(members(text).why().is_some(), "{text}");
        }
        assert!(seconds("soon").why().is_some());
        assert_eq!(
            member_health("{\"health\":\"false\",\"reason\":\"ALARM NOSPACE\"}"),
            Seen::Is((false, Some("ALARM NOSPACE".into())))
        );
        let unnamed =
            "{\"members\":[{\"ID\":\"1\",\"peerURLs\":[\"https://198.18.0.12:2380\"],\"isLearner\":true}]}";
        assert_eq!(members(unnamed), Seen::Is(vec![("https://198.18.0.12:2380".into(), true)]));
    }
}
