//! Checks before a reset whether what the machine has noted of the time before ironstrap is there and whole. It also
//! checks whether the reset can write where it has to. If not, ironstrap changes nothing, and the error says what to do.

use crate::shell::{Sh, sh};
use crate::step::{Step, Undo, Want};

use super::{BEFORE, keys};

/// The key under which a machine keeps the state from before, for the undo of a want.
pub(super) struct Key {
    pub name: String,
    /// The file that a reset restores as a whole.
    pub file: Option<String>,
    /// Whether the undo is an edit that takes out its own lines. It needs nothing that is kept.
    pub is_edit: bool,
}

pub(super) const STEP: Step = Step {
    name: "notes",
    why: "a reset restores only what ironstrap recorded",
    wants: |cx| Ok(wants(&keys(cx)?)),
};

const DAMAGED: &str = "restore /var/lib/ironstrap of this machine from a backup; without one, delete \
     what is damaged, and correct its file or setting yourself";
const STRANGER: &str = "restore /var/lib/ironstrap of this machine from a backup; without one, run on the machine: kubeadm reset, then \
     apt-get purge kubelet kubeadm kubectl containerd";
const UNMARKED: &str = "restore /var/lib/ironstrap of this machine from a backup; without one, write what you want into these files, \
     or delete them";

fn wants(keys: &[Key]) -> Vec<Want> {
    let that = [writable(), database(), whole(keys), member(), marked(keys)];
    that.into_iter().map(|want| want.undone_by(Undo::OfReset)).collect()
}

/// The want that a reset can write what it changes. On a machine without notes, it has nothing to write.
fn writable() -> Want {
    Want::new("notes.writable", "everything that a reset changes is writable")
        .ask(
            "[ -e /var/lib/ironstrap ] || exit 0\n\
             for d in /etc /usr /var/lib /var/lib/dpkg /var/lib/ironstrap /var/lib/kubelet /var/lib/containerd /run; do\n  \
             [ ! -d $d ] || [ -w $d ] || echo \"$d is read-only\"\ndone",
        )
        .is("")
        .by_hand(
            "find out why (dmesg, /etc/fstab; a disk with errors is mounted read-only), then run: mount -o remount,rw",
        )
}

/// The want that dpkg can read its database. If it cannot, every package looks as if it were not installed.
fn database() -> Want {
    Want::new("notes.package-database", "dpkg can read its database")
        .ask(
            "[ -e /var/lib/ironstrap ] && command -v dpkg-query >/dev/null || exit 0\n\
             x=$(dpkg-query -W dpkg 2>&1 >/dev/null) || printf '%s\\n' \"$x\"",
        )
        .is("")
        .by_hand(
            "make it readable again: /var/lib/dpkg/status-old and /var/backups/dpkg.status.0 are older copies of /var/lib/dpkg/status",
        )
}

/// The want that no entry is damaged. Each entry has a checksum since it was noted. Entries of earlier versions
/// have none, so for these the ask finds only contents that cannot be right.
fn whole(keys: &[Key]) -> Want {
    let edits: Vec<&str> = keys.iter().filter(|key| key.is_edit).map(|key| key.name.as_str()).collect();
    let ask =
        sh!("cd {BEFORE} 2>/dev/null || exit 0\nedits={edits}\n", BEFORE, edits = edits.join(" ")) + WHOLE;
    Want::new("notes.whole", "the saved state is undamaged").ask(ask).is("").by_hand(DAMAGED)
}

const WHOLE: &str = r#"damaged() {
  case " $edits " in *" $1 "*) return 0 ;; esac
  of=
  { read -r of <"$1.path"; } 2>/dev/null || :
  echo "$PWD/$1.* is damaged${of:+ (the record of $of)}"
}
for f in *.sum *.path *.answer; do
  [ -f "$f" ] || continue
  key=${f%.*}
  case $f in
  *.sum) sha256sum --status -c "$f" >/dev/null 2>&1 || damaged "$key" ;;
  member-member.answer) { [ -s "$f" ] && [ -s member-member.kept ]; } || damaged "$key" ;;
  *) [ -s "$f" ] || damaged "$key" ;;
  esac
done | sort -u"#;

/// The want that a member has a note of what was there before it joined. Without that note, nothing says which
/// of its files are the cluster's.
fn member() -> Want {
    Want::new("notes.before-join", "the state before the machine joined is recorded")
        .ask(
            "[ -e /var/lib/kubelet/pki/kubelet-client-current.pem ] || [ -e /etc/kubernetes/kubelet.conf ] || exit 0\n\
             [ -e /var/lib/ironstrap/before/member-member.answer ] || echo 'it is a member of a cluster, but /var/lib/ironstrap has no record of its earlier state'",
        )
        .is("")
        .by_hand(STRANGER)
}

/// The want that there is a note for each file with our mark. ironstrap wrote such a file, so it noted what stood there.
fn marked(keys: &[Key]) -> Want {
    let known = keys.iter().filter(|key| !key.is_edit);
    let asked =
        known.filter_map(|key| Some(sh!("ours {key} {file}\n", key = key.name, file = key.file.as_deref()?)));
    let ours = sh!(
        "ours() {\n  [ -f \"$2\" ] && [ ! -e {BEFORE}/\"$1\".path ] || return 0\n  \
         ! grep -q '^# Kept by ironstrap' \"$2\" || echo \"$2 was written by ironstrap, and there is no record of an earlier file\"\n}\n",
        BEFORE
    );
    let that = Want::new("notes.files", "the earlier contents of files that ironstrap wrote are recorded");
    that.ask(ours + asked.collect::<Sh>()).is("").by_hand(UNMARKED)
}
