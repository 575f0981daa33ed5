//! What a reset does about a want: which of what the node kept from before the first fix comes back, and how. Not
//! when, and not for which machine: that is `backwards`.

use std::sync::Arc;

use crate::shell::{Sh, sh};

/// Why nothing of the cluster's own objects is taken back.
pub const WITH_THE_CLUSTER: &str = "it is kept in the cluster, and goes with it";

/// Why nothing is taken back of what only a member of a cluster has.
pub const WITH_THE_MEMBER: &str = "it goes with the membership";

/// How what a fix changed is taken back.
#[derive(Clone)]
pub enum Undo {
    /// It is not, and this says why; empty where there is no fix.
    Nothing(&'static str),
    /// What stood in this file comes back; a file that was not there goes.
    File(String),
    /// Our part of a shared file goes; what others wrote, before and since, stays.
    Edit {
        path: String,
        back: Edit,
    },
    Back(Back),
}

/// What is made of the text of a file.
pub type Edit = Arc<dyn Fn(&str) -> String + Send + Sync>;

/// Shell that takes back what a fix changed, by the answer from before it.
#[derive(Clone, Debug, PartialEq)]
pub struct Back {
    /// What the node keeps the answer under: the same for every inventory, and for every version of ironstrap.
    pub name: String,
    /// Said so that it reads true once it is taken back.
    pub that: String,
    /// Shell that prints, right before the first fix, what the answer does not tell and `script` has to know.
    pub keep: Sh,
    /// Shell that prints what goes or changes, under the rules of an ask.
    pub now: Sh,
    /// `$was` is the file with the answer, `$kept` the one with what `keep` printed.
    pub script: Sh,
    /// It comes after the rest of its step: a unit is put back when all that it reads is.
    pub last: bool,
}

impl Back {
    pub fn new(name: &str, that: impl Into<String>) -> Self {
        Back {
            name: name.into(),
            that: that.into(),
            keep: Sh::EMPTY,
            now: Sh::EMPTY,
            script: Sh::EMPTY,
            last: false,
        }
    }

    pub fn keep(mut self, shell: impl Into<Sh>) -> Self {
        self.keep = shell.into();
        self
    }

    pub fn now(mut self, shell: impl Into<Sh>) -> Self {
        self.now = shell.into();
        self
    }

    pub fn script(mut self, shell: impl Into<Sh>) -> Self {
        self.script = shell.into();
        self
    }

    /// The answer was that of `Ask::Unit`.
    pub fn unit(unit: &str) -> Self {
        let now = sh!("systemctl show -p UnitFileState -p ActiveState --value {unit} | xargs", unit);
        let back = Back::new(unit, format!("{unit} starts and runs as before")).now(now);
        Back { last: true, ..back.script(sh!("read -r state <\"$was\"\nunit_back {unit} $state", unit)) }
    }

    /// The answer was that of `Ask::Packages`; they were installed by `packages NAME`.
    pub fn packages(name: &str, packages: &[&str]) -> Self {
        let names = Sh::words(packages);
        let came = format!("/var/lib/ironstrap/came/{name}");
        let now = sh!(
            "set -- {names}\nif [ -e {came} ]; then set -- \"$@\" $(cat {came}); fi\n\
             dpkg-query -W -f '${Package} ${db:Status-Abbrev} ${Version}\\n' -- \"$@\" 2>/dev/null | tr -s ' ' | sort -u || :",
            names,
            came
        );
        Back::new("packages", format!("{} and what came with them are as before", packages.join(", ")))
            .keep(
                "apt-mark showmanual\nfor d in /opt $LINKED; do [ ! -d $d ] || echo folder $d; done\necho folders noted",
            )
            .now(now)
            .script(sh!("unpackage \"$was\" \"$kept\" {names}", names))
    }
}

impl Undo {
    /// The name under which the node keeps what was there before; `None` where it need not.
    pub fn key(&self, step: &str) -> Option<String> {
        match self {
            Undo::Nothing(_) => None,
            // One entry a file, whatever the want that changes it is called.
            Undo::File(path) | Undo::Edit { path, .. } => Some(plain(&format!("file {path}"))),
            Undo::Back(back) => Some(plain(&format!("{step} {}", back.name))),
        }
    }
}

/// A file name made of words.
fn plain(words: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || c == '.' { c } else { '-' };
    let mut key: String = words.chars().map(plain).collect();
    while key.contains("--") {
        key = key.replace("--", "-");
    }
    key.trim_matches('-').to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_a_plain_file_name() {
        let key = |path: &str| Undo::File(path.into()).key("hosts");
        assert_eq!(key("/etc/hosts").as_deref(), Some("file-etc-hosts"));
        let back = |name: &str| Undo::Back(Back::new(name, "")).key("a");
        assert_eq!(back("../../b").as_deref(), Some("a-..-..-b"));
        assert_eq!(Undo::Nothing("").key("a"), None);
    }

    #[test]
    fn a_file_is_kept_once_whichever_want_changes_it() {
        let edit = Undo::Edit { path: "/etc/x".into(), back: Arc::new(str::to_string) };
        assert_eq!(edit.key("one"), Undo::File("/etc/x".into()).key("other"));
    }
}
