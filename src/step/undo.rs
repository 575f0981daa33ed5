//! The part of a want that a reset uses: which of the things that the node kept from before the first fix come back, and
//! how. `operations::reset` decides when they do, and on which machine.

use std::sync::Arc;

use crate::shell::{Sh, sh};

/// The reason why a reset takes back none of the cluster's own objects.
pub const WITH_THE_CLUSTER: &str = "it is kept in the cluster, and goes with it";

/// The reason why a reset takes back nothing that only a member of a cluster has.
pub const WITH_THE_MEMBER: &str = "it goes with the membership";

/// How a reset takes back what a fix changed.
#[derive(Clone)]
pub enum Undo {
    /// A reset takes nothing back, and this says why. It is empty if there is no fix.
    Nothing(&'static str),
    /// The earlier content of this file comes back. A file that was not there is deleted.
    File(String),
    /// ironstrap's part of a shared file is removed. All that others wrote, before and since, stays.
    Edit {
        path: String,
        back: Edit,
    },
    Back(Back),
    /// The want is itself a part of a reset.
    OfReset,
}

/// Makes the new text of a file from the present one.
pub type Edit = Arc<dyn Fn(&str) -> String + Send + Sync>;

/// Shell that takes back what a fix changed. It has the answer from before the fix.
#[derive(Clone, Debug, PartialEq)]
pub struct Back {
    /// The name under which the node keeps the answer. It is the same for every inventory, and for every version of
    /// ironstrap.
    pub name: String,
    /// A sentence that is true once the change is taken back.
    pub that: String,
    /// Shell that prints, right before the first fix, what `script` has to know and the answer does not tell.
    pub keep: Sh,
    /// Shell that prints what will go or change. The rules of an ask apply to it.
    pub now: Sh,
    /// Shell that takes the change back. `$was` is the file with the answer, `$kept` the file with what `keep` printed.
    pub script: Sh,
    /// It comes after the rest of its step. So a unit is put back when everything that it reads is back.
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

    /// Puts a unit back. The answer from before the fix was that of `Ask::Unit`.
    pub fn unit(unit: &str) -> Self {
        let now = sh!(
            "echo $(systemctl show -p UnitFileState --value {unit}) $(systemctl show -p ActiveState --value {unit})",
            unit
        );
        let back = Back::new(unit, format!("{unit} is restored to its earlier state")).now(now);
        Back { last: true, ..back.script(sh!("read -r state <\"$was\"\nunit_back {unit} $state", unit)) }
    }

    /// Puts packages back that `pkg_install NAME` installed. The answer from before the fix was that of `Ask::Packages`.
    pub fn packages(name: &str, packages: &[&str]) -> Self {
        let names = Sh::words(packages);
        let came = format!("/var/lib/ironstrap/came/{name}");
        let whose = if packages.len() == 1 { "its" } else { "their" };
        let all = packages.join(", ");
        let now = sh!(
            "set -- {names}\nif [ -e {came} ]; then set -- \"$@\" $(cat {came}); fi\n\
             dpkg-query -W -f '${Package} ${db:Status-Abbrev} ${Version}\\n' -- \"$@\" 2>/dev/null | tr -s ' ' | sort -u || :",
            names,
            came
        );
        Back::new("packages", format!("{all} and {whose} dependencies are restored to their earlier state"))
            .keep(
                "apt-mark showmanual\nfor d in /opt $LINKED; do [ ! -d $d ] || echo folder $d; done\necho folders noted",
            )
            .now(now)
            .script(sh!("pkg_remove \"$was\" \"$kept\" {names}", names))
    }
}

impl Undo {
    /// The name under which the node keeps what was there before. `None`: the node need not keep anything.
    pub fn key(&self, step: &str) -> Option<String> {
        match self {
            Undo::Nothing(_) | Undo::OfReset => None,
            // A file has one entry, regardless of which want changes it.
            Undo::File(path) | Undo::Edit { path, .. } => Some(plain(&format!("file {path}"))),
            Undo::Back(back) => Some(plain(&format!("{step} {}", back.name))),
        }
    }
}

/// Makes a file name from words.
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
    fn several_wants_keep_one_copy_of_a_file() {
        let edit = Undo::Edit { path: "/etc/x".into(), back: Arc::new(str::to_string) };
        assert_eq!(edit.key("one"), Undo::File("/etc/x".into()).key("other"));
    }
}
