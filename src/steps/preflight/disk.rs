//! The room where Kubernetes writes, on all file systems that it uses, and whether it may write there at all. ironstrap
//! asks only before the first change. Later the kubelet watches its disks itself.

use std::borrow::Cow;
use std::collections::BTreeMap;

use super::{UNTOUCHED, named};
use crate::cluster::{Cluster, Node};
use crate::shell::{Sh, sh};
use crate::step::{Ask, Verdict, Want};

/// The mebibytes and inodes that a folder takes at first.
struct Need {
    folder: Cow<'static, str>,
    room: u64,
    inodes: u64,
}

const fn need(folder: &'static str, room: u64, inodes: u64) -> Need {
    Need { folder: Cow::Borrowed(folder), room, inodes }
}

const NEEDS: [Need; 7] = [
    need("/etc/kubernetes", 16, 200),
    need("/opt/cni/bin", 64, 50),
    need("/usr/bin", 768, 2000),
    need("/var/lib/containerd", 2048, 50_000),
    need("/var/lib/dpkg/info", 32, 500),
    need("/var/lib/kubelet", 512, 2000),
    need("/var/log", 160, 500),
];

fn needs(cluster: &Cluster, node: &Node) -> Vec<Need> {
    let etcd = Need { folder: cluster.etcd_dir().to_string().into(), ..need("", 512, 100) };
    NEEDS.into_iter().chain(Some(etcd).filter(|_| node.is_control_plane())).collect()
}

/// Folders below which programs are started. dpkg runs the scripts of packages in the folder where it keeps them. How the
/// layers of containers are mounted does not hinder the containers' own programs. Nothing is started from /tmp or /run.
const PROGRAMS: [&str; 3] = ["/opt/cni/bin", "/usr/bin", "/var/lib/dpkg/info"];

pub(super) fn wants(cluster: &Cluster, node: &Node) -> Vec<Want> {
    let want = |id, that: &str, wrong: fn(&[Need], &[Place]) -> Vec<String>| {
        let needs = needs(cluster, node);
        Want::new(id, that).ask(ask(&needs)).judged(move |answer| {
            let found = Place::read(answer).map(|places| wrong(&needs, &places));
            match found {
                Some(found) if found.is_empty() => Verdict::Holds,
                Some(found) => Verdict::Differs { have: found.join("\n"), want: String::new() },
                None => Verdict::Unknown(format!("unreadable output of df: {answer}")),
            }
        })
    };
    let room = want("preflight.disk", "there is enough disk space where Kubernetes writes", little_room)
        .by_hand("delete files that nothing needs (`du -xh --max-depth=2 / | sort -h | tail` shows the largest folders), or enlarge the file system");
    let inodes = want("preflight.inodes", "there are enough free inodes where Kubernetes writes", few_inodes)
        .by_hand("delete small files (`du -x --inodes --max-depth=2 / | sort -n | tail` shows the folders with the most), or create the file system again with more inodes");
    vec![
        named(cluster, "Disk", room),
        named(cluster, "Inodes", inodes),
        named(cluster, "Snapshotter", want("preflight.snapshotter", "containerd's file system supports overlay file systems", no_overlay).by_hand(
            "mount an ext4, xfs or btrfs file system on /var/lib/containerd, or set another snapshotter in [containerd]",
        )),
        want("preflight.read-only", "no folder that Kubernetes writes to is mounted read-only", read_only)
            .by_hand("mount -o remount,rw MOUNT; look in `dmesg` and /etc/fstab for the reason"),
        want("preflight.noexec", "no folder for programs is mounted noexec", no_programs)
            .by_hand("mount -o remount,exec MOUNT, and delete noexec from /etc/fstab"),
    ]
}

/// Prints FOLDER MOUNT MEBIBYTES INODES OF-INODES OPTIONS TYPE for each folder. If the folder does not exist, the values
/// are those of the folder in which it will be created.
fn ask(needs: &[Need]) -> Ask {
    let folders = Sh::words(needs.iter().map(|need| &*need.folder));
    Ask::OnlyBeforeJoin(sh!(
        "{UNTOUCHED}for d in {folders}; do\n  p=$d\n  while [ ! -e \"$p\" ]; do p=${p%/*}; p=${p:-/}; done\n  \
         set -- $(stat -f -c '%a %S %d %c' \"$p\")\n  \
         m=$(findmnt -n -f -o TARGET,FSTYPE,OPTIONS -T \"$p\") || m='? ? ?'\n  \
         r=$(($1 * $2 / 1048576)) i=\"$3 $4\"\n  set -- $m\n  echo \"$d $1 $r $i $3 $2\"\ndone",
        UNTOUCHED,
        folders
    ))
}

/// The place where a folder of Kubernetes is, or will be.
struct Place<'a> {
    folder: &'a str,
    mount: &'a str,
    room: u64,
    inodes: u64,
    /// All inodes of the file system. It is 0 if the file system makes inodes as it needs them.
    of_inodes: u64,
    options: &'a str,
    kind: &'a str,
}

/// Types of file systems on which no overlay can be written. Most are of other machines, of user space or of other systems.
const NO_OVERLAY: [&str; 14] = [
    "nfs", "nfs4", "cifs", "smb3", "9p", "ceph", "afs", "vfat", "msdos", "exfat", "ntfs3", "ecryptfs",
    "overlay", "fuseblk",
];

impl Place<'_> {
    fn read(answer: &str) -> Option<Vec<Place<'_>>> {
        let place = |line| -> Option<Place> {
            let mut words = str::split_whitespace(line);
            Some(Place {
                folder: words.next()?,
                mount: words.next()?,
                room: words.next()?.parse().ok()?,
                inodes: words.next()?.parse().ok()?,
                of_inodes: words.next()?.parse().ok()?,
                options: words.next()?,
                kind: words.next()?,
            })
        };
        answer.lines().map(place).collect()
    }

    fn has(&self, option: &str) -> bool {
        self.options.split(',').any(|word| word == option)
    }
}

/// A resource of which there may be too little.
struct Scarce {
    unit: &'static str,
    needed: fn(&Need) -> u64,
    there: fn(&Place) -> u64,
}

const ROOM: Scarce = Scarce { unit: "MiB", needed: |need| need.room, there: |place| place.room };
const INODES: Scarce = Scarce {
    unit: "inodes",
    needed: |need| need.inodes,
    there: |place| if place.of_inodes == 0 { u64::MAX } else { place.inodes },
};

/// The mounts with less than all folders on them take together.
fn scarce(what: &Scarce, needs: &[Need], places: &[Place]) -> Vec<String> {
    let mut mounts: BTreeMap<&str, (u64, u64, Vec<&str>)> = BTreeMap::new();
    for place in places {
        let need =
            needs.iter().find(|need| need.folder == place.folder).map_or(0, |need| (what.needed)(need));
        let (needed, there, folders) = mounts.entry(place.mount).or_default();
        (*needed, *there) = (*needed + need, (what.there)(place));
        folders.push(place.folder);
    }
    let short = mounts.into_iter().filter(|(_, (needed, there, _))| there < needed);
    let line = |(mount, (needed, there, folders)): (&str, (u64, u64, Vec<&str>))| {
        format!("{there} {} free on {mount} ({needed} needed for {})", what.unit, folders.join(" "))
    };
    short.map(line).collect()
}

fn little_room(needs: &[Need], places: &[Place]) -> Vec<String> {
    scarce(&ROOM, needs, places)
}

fn few_inodes(needs: &[Need], places: &[Place]) -> Vec<String> {
    scarce(&INODES, needs, places)
}

fn read_only(_: &[Need], places: &[Place]) -> Vec<String> {
    let places = places.iter().filter(|place| place.has("ro"));
    places
        .map(|place| format!("{} is on {}, which is mounted read-only", place.folder, place.mount))
        .collect()
}

fn no_overlay(_: &[Need], places: &[Place]) -> Vec<String> {
    let carries = |place: &&Place| place.kind.starts_with("fuse.") || NO_OVERLAY.contains(&place.kind);
    let places = places.iter().filter(|place| place.folder == "/var/lib/containerd").filter(carries);
    places.map(|place| format!("{} is on {}, which is {}", place.folder, place.mount, place.kind)).collect()
}

fn no_programs(_: &[Need], places: &[Place]) -> Vec<String> {
    let places = places.iter().filter(|place| PROGRAMS.contains(&place.folder) && place.has("noexec"));
    places.map(|place| format!("{} is on {}, which is mounted noexec", place.folder, place.mount)).collect()
}
