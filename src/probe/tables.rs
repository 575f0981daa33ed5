//! Files, units and packages. For each kind, one process answers all asks, and this module distributes the answers.

use std::collections::{BTreeMap, BTreeSet};

use super::{Reply, kubeconfigs as public};
use crate::machine::finite;
use crate::shell::{Sh, sh};
use crate::step::{Answer, Ask};

/// Separates the fields of a line. No path, unit or package has it in its name.
const TAB: char = '\t';

/// The commands of the six questions.
pub(super) const NAMES: [&str; 6] = ["stat", "cat", "sha256sum", "awk", "systemctl show", "dpkg-query"];

/// Makes six questions: three for files (stat, text, hash), kubeconfigs, units and packages. A question without asks is
/// empty.
pub(super) fn questions(asks: &[&Ask]) -> [Sh; 6] {
    let paths = |which: fn(&Ask) -> Vec<&str>| -> Sh {
        let all: BTreeSet<&str> = asks.iter().flat_map(|ask| which(ask)).collect();
        Sh::words(all)
    };
    let all = paths(|ask| match ask {
        Ask::File(path) | Ask::Hash(path) | Ask::Kubeconfig(path) => vec![path],
        Ask::Unit { reads, .. } => reads.iter().map(String::as_str).collect(),
        _ => vec![],
    });
    let (texts, hashes) = (paths(text_path), paths(hash_path));
    let kubeconfigs = paths(|ask| match ask {
        Ask::Kubeconfig(path) => vec![path],
        _ => vec![],
    });
    let units = paths(|ask| match ask {
        Ask::Unit { unit, .. } => vec![unit],
        _ => vec![],
    });
    let packages = paths(|ask| match ask {
        Ask::Packages(names) => names.iter().map(String::as_str).collect(),
        _ => vec![],
    });
    let there = |paths: &Sh, then: Sh| match paths.is_empty() {
        true => Sh::EMPTY,
        false => sh!(
            "for f in {paths}; do [ ! -f \"$f\" ] || set -- \"$@\" \"$f\"; done\n[ $# = 0 ] || {then} \"$@\"",
            paths,
            then
        ),
    };
    let some = |list: &Sh, command: Sh| if list.is_empty() { Sh::EMPTY } else { command };
    [
        some(&all, sh!("stat -L -c '%n\t%F\tmode %a %U:%G\t%s\t%.6Z' -- {all}", all)),
        there(&texts, Sh::raw("cat --")),
        there(&hashes, Sh::raw("sha256sum --")),
        there(&kubeconfigs, public::question()),
        some(
            &units,
            sh!(
                "systemctl show --timestamp=us+utc -p Id,LoadState,UnitFileState,ActiveState,ActiveEnterTimestamp,NeedDaemonReload -- {units}",
                units
            ),
        ),
        some(
            &packages,
            sh!("dpkg-query -W -f '${Package}\t${db:Status-Abbrev}\t${Version}\\n' -- {packages}", packages),
        ),
    ]
}

fn text_path(ask: &Ask) -> Vec<&str> {
    match ask {
        Ask::File(path) => vec![path],
        _ => vec![],
    }
}

fn hash_path(ask: &Ask) -> Vec<&str> {
    match ask {
        Ask::Hash(path) => vec![path],
        _ => vec![],
    }
}

struct File {
    /// `mode 644 root:root`
    mode: String,
    size: usize,
    regular: bool,
    /// When the inode last changed, in seconds since 1970. Modification times do not help: package archives keep old ones.
    changed: f64,
}

/// The answers to the six questions.
pub(super) struct Tables {
    files: Result<BTreeMap<String, File>, String>,
    /// The error is the answer about each file.
    texts: Result<BTreeMap<String, Vec<u8>>, Answer>,
    hashes: Result<BTreeMap<String, String>, String>,
    /// Lines of `KEY VALUE` for each path.
    kubeconfigs: Result<BTreeMap<String, String>, String>,
    units: Result<BTreeMap<String, BTreeMap<String, String>>, String>,
    packages: Result<BTreeMap<String, String>, String>,
}

impl Tables {
    pub(super) fn read(replies: [Reply; 6], asks: &[&Ask]) -> Tables {
        let [stat, text, hash, kubeconfigs, units, packages] = replies;
        let files = files(stat);
        let texts = match &files {
            Ok(files) => texts(text, files, asks),
            Err(why) => Err(Answer::Unknown(why.clone())),
        };
        Tables {
            texts,
            files,
            hashes: hashes(hash),
            kubeconfigs: publics(kubeconfigs),
            units: blocks(units),
            packages: versions(packages),
        }
    }

    pub(super) fn answer(&self, ask: &Ask) -> Answer {
        let answer = match ask {
            Ask::File(path) => return self.text(path).unwrap_or_else(|answer| answer),
            Ask::Hash(path) => self.hash(path),
            Ask::Kubeconfig(path) => self.kubeconfig(path),
            Ask::Unit { unit, reads } => self.unit(unit, reads),
            Ask::Packages(names) => self.packages(names).map(Some),
            _ => Err("asked the wrong table".into()),
        };
        match answer {
            Ok(Some(text)) => Answer::Said(text),
            Ok(None) => Answer::Absent,
            Err(why) => Answer::Unknown(why),
        }
    }

    fn file(&self, path: &str) -> Result<Option<&File>, String> {
        match self.files.as_ref().map_err(String::clone)?.get(path) {
            Some(file) if !file.regular => Err(format!("{path} is not a regular file")),
            other => Ok(other),
        }
    }

    fn text(&self, path: &str) -> Result<Answer, Answer> {
        let unknown = |what: &str| Answer::Unknown(format!("{path} {what}"));
        let Some(file) = self.file(path).map_err(Answer::Unknown)? else { return Ok(Answer::Absent) };
        let texts = self.texts.as_ref().map_err(Answer::clone)?;
        let text = texts.get(path).ok_or_else(|| unknown("was not read"))?;
        let text = std::str::from_utf8(text).map_err(|_| unknown("is not UTF-8 text"))?;
        Ok(Answer::Said(format!("{}\n{text}", file.mode)))
    }

    fn hash(&self, path: &str) -> Result<Option<String>, String> {
        let Some(file) = self.file(path)? else { return Ok(None) };
        let hash =
            self.hashes.as_ref().map_err(String::clone)?.get(path).ok_or(format!("{path} was not read"))?;
        Ok(Some(format!("{}\nsha256 {hash}", file.mode)))
    }

    fn kubeconfig(&self, path: &str) -> Result<Option<String>, String> {
        let Some(file) = self.file(path)? else { return Ok(None) };
        let lines = self.kubeconfigs.as_ref().map_err(String::clone)?.get(path);
        Ok(Some(format!("{}\n{}", file.mode, lines.map(String::as_str).unwrap_or_default())))
    }

    fn unit(&self, unit: &str, reads: &[String]) -> Result<Option<String>, String> {
        let units = self.units.as_ref().map_err(String::clone)?;
        let shown = units.get(unit).ok_or(format!("systemctl did not show {unit}"))?;
        let say = |key: &str| shown.get(key).map(String::as_str).unwrap_or_default();
        match say("LoadState") {
            "not-found" => return Ok(None),
            "masked" => return Ok(Some("masked".into())),
            _ => {}
        }
        let since = match say("ActiveEnterTimestamp") {
            "" => 0.0,
            text => timestamp(text).ok_or(format!("cannot read the time \"{text}\""))?,
        };
        let files = self.files.as_ref().map_err(String::clone)?;
        // A unit that does not run reads the files when it starts.
        let runs = say("ActiveState") == "active";
        let newer = |path: &&String| runs && files.get(*path).is_some_and(|file| file.changed > since);
        let age = match reads.iter().find(newer) {
            _ if say("NeedDaemonReload") == "yes" => "stale: its unit files changed".to_string(),
            Some(path) => format!("stale: {path} changed after it started"),
            None => "current".into(),
        };
        let enabled = if say("UnitFileState").is_empty() { "not-enabled" } else { say("UnitFileState") };
        Ok(Some(format!("{enabled} {} {age}", say("ActiveState"))))
    }

    fn packages(&self, names: &[String]) -> Result<String, String> {
        let versions = self.packages.as_ref().map_err(String::clone)?;
        let line = |name: &String| match versions.get(name) {
            Some(state) => format!("{name} {state}\n"),
            None => format!("{name} absent\n"),
        };
        Ok(names.iter().map(line).collect())
    }
}

/// Fails if stderr has more than the messages of the kind "there is no such thing". A tool that fails without such a
/// message, or was killed, says nothing about what exists.
fn trouble(reply: &Reply, absent: &[&str]) -> Result<(), String> {
    let other = reply.stderr.lines().filter(|line| !absent.iter().any(|words| line.contains(words)));
    let other: Vec<&str> = other.collect();
    let failed = reply.status > 1 || (reply.status != 0 && reply.stderr.is_empty());
    match other.is_empty() {
        true if failed => Err(format!("exit {}", reply.status)),
        true => Ok(()),
        false => Err(other.join("\n")),
    }
}

fn files(reply: Reply) -> Result<BTreeMap<String, File>, String> {
    trouble(&reply, &["No such file or directory", "Not a directory"])?;
    let text = String::from_utf8(reply.stdout).map_err(|_| "stat: not UTF-8")?;
    let file = |line: &str| {
        let mut fields = line.split(TAB);
        let (path, kind, mode) = (fields.next()?, fields.next()?, fields.next()?);
        let (size, changed) = (fields.next()?.parse().ok()?, finite(fields.next()?)?);
        let regular = kind.starts_with("regular");
        Some((path.to_string(), File { mode: mode.to_string(), size, regular, changed }))
    };
    text.lines().map(|line| file(line).ok_or_else(|| format!("stat: cannot read \"{line}\""))).collect()
}

/// Splits one stream into the texts of all files, in the order of their names, by their sizes.
fn texts(
    reply: Reply,
    files: &BTreeMap<String, File>,
    asks: &[&Ask],
) -> Result<BTreeMap<String, Vec<u8>>, Answer> {
    trouble(&reply, &[]).map_err(Answer::Unknown)?;
    let paths: BTreeSet<&str> = asks.iter().flat_map(|ask| text_path(ask)).collect();
    let (mut rest, mut texts) = (reply.stdout.as_slice(), BTreeMap::new());
    for path in paths {
        let Some(file) = files.get(path).filter(|file| file.regular) else { continue };
        if rest.len() < file.size {
            return Err(Answer::Changing);
        }
        let (text, tail) = rest.split_at(file.size);
        texts.insert(path.to_string(), text.to_vec());
        rest = tail;
    }
    if rest.is_empty() { Ok(texts) } else { Err(Answer::Changing) }
}

fn hashes(reply: Reply) -> Result<BTreeMap<String, String>, String> {
    trouble(&reply, &[])?;
    let text = String::from_utf8(reply.stdout).map_err(|_| "sha256sum: not UTF-8")?;
    let pair = |line: &str| line.split_once("  ").map(|(hash, path)| (path.to_string(), hash.to_string()));
    Ok(text.lines().filter_map(pair).collect())
}

fn publics(reply: Reply) -> Result<BTreeMap<String, String>, String> {
    trouble(&reply, &[])?;
    let text = String::from_utf8(reply.stdout).map_err(|_| "awk: not UTF-8")?;
    let mut all: BTreeMap<String, String> = BTreeMap::new();
    for (path, line) in text.lines().filter_map(|line| line.split_once(' ')) {
        *all.entry(path.to_string()).or_default() += &format!("{line}\n");
    }
    Ok(all)
}

/// Reads the output of `systemctl show`: `Key=value` lines, and an empty line between units.
fn blocks(reply: Reply) -> Result<BTreeMap<String, BTreeMap<String, String>>, String> {
    trouble(&reply, &[])?;
    let text = String::from_utf8(reply.stdout).map_err(|_| "systemctl: not UTF-8")?;
    let block = |block: &str| {
        let pairs = block.lines().filter_map(|line| line.split_once('='));
        let shown: BTreeMap<String, String> = pairs.map(|(k, v)| (k.into(), v.into())).collect();
        Some((shown.get("Id")?.clone(), shown))
    };
    Ok(text.split("\n\n").filter_map(block).collect())
}

fn versions(reply: Reply) -> Result<BTreeMap<String, String>, String> {
    trouble(&reply, &["no packages found matching"])?;
    let text = String::from_utf8(reply.stdout).map_err(|_| "dpkg-query: not UTF-8")?;
    let package = |line: &str| {
        let mut fields = line.split(TAB);
        let (name, status, version) = (fields.next()?, fields.next()?.trim(), fields.next()?);
        // dpkg knows the package, but it is not installed, and nothing of it is left.
        (!status.ends_with('n')).then(|| (name.to_string(), format!("{status} {version}")))
    };
    Ok(text.lines().filter_map(package).collect())
}

/// Reads `Sat 2026-11-21 16:20:01.123456 UTC`. Returns seconds since 1970.
fn timestamp(text: &str) -> Option<f64> {
    let format = time::macros::format_description!(
        "[year]-[month]-[day] [hour]:[minute]:[second].[subsecond digits:6]"
    );
    let (_, text) = text.split_once(' ')?;
    let time = time::PrimitiveDateTime::parse(text.strip_suffix(" UTC")?, &format).ok()?;
    Some(time.assume_utc().unix_timestamp_nanos() as f64 / 1e9)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(status: i32, stdout: &str, stderr: &str) -> Reply {
        Reply { status, stdout: stdout.into(), stderr: stderr.into() }
    }

    fn nothing() -> Reply {
        reply(0, "", "")
    }

    #[test]
    fn a_missing_file_is_absent_an_unreadable_one_unknown() {
        let ask = Ask::File("/a".into());
        let absent = reply(1, "", "stat: cannot statx '/a': No such file or directory");
        let tables = Tables::read([absent, nothing(), nothing(), nothing(), nothing(), nothing()], &[&ask]);
        assert_eq!(tables.answer(&ask), Answer::Absent);
        let broken = reply(1, "", "stat: cannot statx '/a': Input/output error");
        let tables = Tables::read([broken, nothing(), nothing(), nothing(), nothing(), nothing()], &[&ask]);
        assert!(matches!(tables.answer(&ask), Answer::Unknown(why) if why.contains("Input/output")));
    }

    #[test]
    fn a_tool_killed_without_output_makes_answers_unknown() {
        let (file, packages) = (Ask::File("/a".into()), Ask::Packages(vec!["a".into()]));
        let unit = Ask::Unit { unit: "a.service".into(), reads: vec!["/a".into()] };
        let dead = || reply(137, "", "");
        let tables = Tables::read(
            [dead(), nothing(), nothing(), nothing(), dead(), dead()],
            &[&file, &packages, &unit],
        );
        for ask in [&file, &packages, &unit] {
            assert!(matches!(tables.answer(ask), Answer::Unknown(_)), "{ask:?}");
        }
    }

    #[test]
    fn texts_of_several_files_are_split_by_size() {
        let (a, b) = (Ask::File("/a".into()), Ask::File("/b".into()));
        let stat = reply(
            0,
            "/b\tregular file\tmode 600 root:root\t3\t1.5\n/a\tregular file\tmode 644 root:root\t4\t1.5\n",
            "",
        );
        let tables = Tables::read(
            [stat, reply(0, "one\ntwo", ""), nothing(), nothing(), nothing(), nothing()],
            &[&b, &a],
        );
        assert_eq!(tables.answer(&a), Answer::Said("mode 644 root:root\none\n".into()));
        assert_eq!(tables.answer(&b), Answer::Said("mode 600 root:root\ntwo".into()));
    }

    #[test]
    fn a_file_that_grows_during_the_probe_is_changing() {
        let ask = Ask::File("/a".into());
        let stat = reply(0, "/a\tregular file\tmode 644 root:root\t3\t1.5\n", "");
        let tables =
            Tables::read([stat, reply(0, "more", ""), nothing(), nothing(), nothing(), nothing()], &[&ask]);
        assert_eq!(tables.answer(&ask), Answer::Changing);
    }

    #[test]
    fn a_unit_started_before_its_config_changed_is_stale() {
        let ask = Ask::Unit { unit: "a.service".into(), reads: vec!["/c".into()] };
        let show = "Id=a.service\nLoadState=loaded\nActiveState=active\nUnitFileState=enabled\n\
                    ActiveEnterTimestamp=Sat 2026-11-21 16:20:01.100000 UTC\nNeedDaemonReload=no\n";
        let at =
            |changed: &str| reply(0, &format!("/c\tregular file\tmode 644 root:root\t3\t{changed}\n"), "");
        let shown = |show: &str, changed| {
            Tables::read(
                [at(changed), nothing(), nothing(), nothing(), reply(0, show, ""), nothing()],
                &[&ask],
            )
            .answer(&ask)
        };
        let answer = |changed| shown(show, changed);
        let stopped = shown(&show.replace("=active", "=inactive"), "1795278001.200000");
        assert_eq!(stopped, Answer::Said("enabled inactive current".into()));
        assert_eq!(answer("1795278001.000000"), Answer::Said("enabled active current".into()));
        assert_eq!(
            answer("1795278001.200000"),
            Answer::Said("enabled active stale: /c changed after it started".into())
        );
    }

    #[test]
    fn a_package_with_leftover_files_is_not_absent() {
        let ask = Ask::Packages(vec!["a".into(), "b".into(), "c".into()]);
        let said = reply(1, "b\trc \t1.0\nc\tun \t\n", "dpkg-query: no packages found matching a");
        let tables = Tables::read([nothing(), nothing(), nothing(), nothing(), nothing(), said], &[&ask]);
        assert_eq!(tables.answer(&ask), Answer::Said("a absent\nb rc 1.0\nc absent\n".into()));
    }
}
