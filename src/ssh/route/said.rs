//! Reads what `ssh -G` prints for a host, by the keywords and tokens of ssh_config(5).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;

use super::super::Operator;
use super::{Asked, Keys};
use crate::error::{Error, Kind, Result};

/// Key files that ssh tries where ssh_config names none. ironstrap tries the most used ones first. The `_sk` files
/// belong to hardware tokens: ironstrap cannot use them without an agent, and only reports that.
const USUAL: [&str; 5] =
    [".ssh/id_ed25519", ".ssh/id_ecdsa", ".ssh/id_rsa", ".ssh/id_ed25519_sk", ".ssh/id_ecdsa_sk"];
/// The kinds of key in ssh's own list of key files. They tell that list from a list of the user.
const OF_SSH: [&str; 7] = ["rsa", "ecdsa", "ecdsa_sk", "ed25519", "ed25519_sk", "xmss", "dsa"];
/// Time limit for `ssh -G`. `Match exec` in ssh_config can run commands of the user.
const PATIENCE: Duration = Duration::from_secs(10);

/// The output of `ssh -G`, by keyword.
#[derive(Default)]
pub(super) struct Said(BTreeMap<String, Vec<String>>);

pub(super) async fn said(program: &Path, config: Option<&Path>, asked: &Asked) -> Result<Said> {
    let mut command = Command::new(program);
    command.arg("-G");
    if let Some(file) = config {
        command.arg("-F").arg(file);
    }
    if let Some(port) = asked.port {
        command.args(["-p", &port.to_string()]);
    }
    if let Some(user) = &asked.user {
        command.args(["-l", user]);
    }
    command.args(["--", &asked.host]).stdin(Stdio::null()).kill_on_drop(true);
    let failed = |why: String| {
        Error::new(Kind::Local, format!("cannot read your SSH configuration for {}", asked.host))
            .quoting(why)
            .hint(format!("correct your ssh_config until this works: ssh -G {}", asked.host))
    };
    let output = match tokio::time::timeout(PATIENCE, command.output()).await {
        Ok(output) => output.map_err(|error| failed(error.to_string()))?,
        Err(_) => return Err(failed(format!("ssh -G did not end within {} s", PATIENCE.as_secs()))),
    };
    if !output.status.success() {
        return Err(failed(String::from_utf8_lossy(&output.stderr).trim().to_string()));
    }
    Ok(Said::read(&String::from_utf8_lossy(&output.stdout)))
}

impl Said {
    fn read(text: &str) -> Said {
        let mut all = BTreeMap::<String, Vec<String>>::new();
        for (key, value) in text.lines().filter_map(|line| line.split_once(' ')) {
            all.entry(key.to_string()).or_default().push(value.trim().to_string());
        }
        Said(all)
    }

    pub fn words(&self, key: &str) -> &[String] {
        self.0.get(key).map_or(&[], Vec::as_slice)
    }

    pub fn word(&self, key: &str) -> Option<&str> {
        self.words(key).first().map(String::as_str)
    }

    pub fn files(&self, key: &str, fill: &Fill) -> Vec<PathBuf> {
        let all = self.words(key).iter().flat_map(|line| paths(line, |path| fill.path(path).exists()));
        all.filter(|word| word != "none").map(|word| fill.path(&word)).collect()
    }

    pub fn keys(&self, operator: &Operator, fill: &Fill) -> Keys {
        let named = self.words("identityfile");
        let only = self.word("identitiesonly") == Some("yes");
        let of_ssh = |name: &String| OF_SSH.iter().any(|kind| *name == format!("~/.ssh/id_{kind}"));
        match named.iter().all(of_ssh) && !only {
            true => {
                Keys::Usual(operator.home.iter().flat_map(|home| USUAL.map(|file| home.join(file))).collect())
            }
            false => {
                let files = named.iter().filter(|name| *name != "none").map(|name| fill.path(name)).collect();
                Keys::Named { files, only }
            }
        }
    }

    pub fn agent(&self, operator: &Operator, fill: &Fill) -> Option<PathBuf> {
        match self.word("identityagent") {
            None | Some("SSH_AUTH_SOCK") => operator.agent.clone(),
            Some("none") => None,
            Some(name) if name.starts_with('$') => std::env::var_os(&name[1..]).map(PathBuf::from),
            Some(path) => Some(fill.path(path)),
        }
    }
}

/// Splits a line into paths. ssh prints them without quotes, even if a name contains spaces. Words that together name
/// an existing file are one path. A word that does not begin like a path belongs to the path before it.
fn paths(line: &str, exists: impl Fn(&str) -> bool) -> Vec<String> {
    if line.contains('"') {
        return quoted(line);
    }
    let words: Vec<&str> = line.split(' ').collect();
    let (mut paths, mut at) = (Vec::new(), 0);
    while at < words.len() {
        let joined = |end: usize| words[at..end].join(" ");
        let there = (at + 1..=words.len()).rev().find(|end| exists(&joined(*end)));
        let begins = |word: &&str| *word == "none" || word.starts_with(['/', '~', '%', '$']);
        let next = (at + 1..words.len()).find(|next| begins(&words[*next])).unwrap_or(words.len());
        let end = there.unwrap_or(next);
        paths.push(joined(end));
        at = end;
    }
    paths.retain(|path| !path.trim().is_empty());
    paths
}

/// Splits a line into words. Some of them are in quotes.
fn quoted(line: &str) -> Vec<String> {
    let (mut words, mut word, mut within) = (Vec::new(), String::new(), false);
    for c in line.chars() {
        match c {
            '"' => within = !within,
            c if c.is_whitespace() && !within => words.push(std::mem::take(&mut word)),
            c => word.push(c),
        }
    }
    words.push(word);
    words.retain(|word| !word.is_empty());
    words
}

/// The values of the tokens of ssh_config(5).
pub(super) struct Fill<'a> {
    pub asked: &'a str,
    pub host: &'a str,
    pub port: u16,
    pub user: &'a str,
    pub operator: &'a Operator,
}

impl Fill<'_> {
    /// Replaces the tokens in a text. Unknown tokens stay as they are.
    pub fn text(&self, text: &str) -> String {
        let (mut filled, mut rest) = (String::new(), text.chars());
        let home = self.operator.home.as_deref().unwrap_or(Path::new("/")).display().to_string();
        while let Some(c) = rest.next() {
            match (c, c == '%') {
                (_, true) => match rest.next() {
                    Some('%') => filled.push('%'),
                    Some('h') => filled.push_str(self.host),
                    Some('n') => filled.push_str(self.asked),
                    Some('p') => filled.push_str(&self.port.to_string()),
                    Some('r') => filled.push_str(self.user),
                    Some('u') => filled.push_str(&self.operator.user),
                    Some('d') => filled.push_str(&home),
                    Some(other) => filled.extend(['%', other]),
                    None => filled.push('%'),
                },
                (c, false) => filled.push(c),
            }
        }
        filled
    }

    pub fn path(&self, text: &str) -> PathBuf {
        let text = self.text(text);
        match (text.strip_prefix("~/"), &self.operator.home) {
            (Some(rest), Some(home)) => home.join(rest),
            _ => text.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_with_spaces_are_separated() {
        let read = |line: &str, there: &[&str]| paths(line, |path| there.contains(&path));
        assert_eq!(read("/a /b", &[]), ["/a", "/b"]);
        assert_eq!(read("/a b /c ~/x y", &[]), ["/a b", "/c", "~/x y"]);
        assert_eq!(read("/a /b", &["/a /b"]), ["/a /b"]);
        assert_eq!(read("/a  b", &[]), ["/a  b"]);
        assert_eq!(read("known other", &["known", "other"]), ["known", "other"]);
        assert_eq!(read("\"/a b\" /c", &[]), ["/a b", "/c"]);
        assert_eq!(read("none", &[]), ["none"]);
    }

    #[test]
    fn configured_keys_differ_from_the_default_keys() {
        let operator = Operator { home: Some("/home/bob".into()), user: "bob".into(), ..Operator::default() };
        let fill = Fill { asked: "m1", host: "10.0.0.1", port: 22, user: "ops", operator: &operator };
        let keys = |text: &str| Said::read(text).keys(&operator, &fill);
        let usual = USUAL.map(|file| Path::new("/home/bob").join(file)).to_vec();
        assert_eq!(keys("identityfile ~/.ssh/id_rsa\nidentityfile ~/.ssh/id_ed25519\n"), Keys::Usual(usual));
        let named =
            |files: &[&str], only| Keys::Named { files: files.iter().map(PathBuf::from).collect(), only };
        assert_eq!(keys("identityfile ~/k_%h\nidentitiesonly yes"), named(&["/home/bob/k_10.0.0.1"], true));
        assert_eq!(keys("identityfile %d/%r%%%p\nidentitiesonly no"), named(&["/home/bob/ops%22"], false));
        assert_eq!(keys("identityfile none"), named(&[], false));
    }
}
