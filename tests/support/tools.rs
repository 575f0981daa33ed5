//! The programs of this computer that scripts under test can use. So a test has the same result on a computer with
//! kubectl, docker or nft.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::LazyLock;

/// The PATH that ironstrap's scripts set.
pub const SYSTEM_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Programs of any Debian. A test that needs another one adds a command of its own.
const TOOLS: &str = "apt-cache apt-config apt-get awk base64 basename bash cat chmod chown cksum cmp \
    comm cp cut dash date dd df diff dirname du echo env expr false find findmnt flock fold getconf \
    grep gzip head hostname id install join kill ln ls md5sum mkdir mkfifo mknod mktemp mount mv nice \
    nl nohup nproc nsenter od openssl paste perl pgrep printf ps pwd readlink realpath rm rmdir sed seq \
    setsid sh sha1sum sha256sum sleep sort split stat sync tac tail tar tee test timeout touch tr true \
    truncate tty umount uname uniq unlink unshare wc xargs zcat";

/// A folder with links to these programs, as the PATH of a script.
pub fn path() -> &'static str {
    static FOLDER: LazyLock<String> = LazyLock::new(|| {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("tools");
        fs::create_dir_all(&folder).unwrap();
        let tools: Vec<&str> = TOOLS.split_whitespace().collect();
        for entry in fs::read_dir(&folder).unwrap() {
            let entry = entry.unwrap();
            if !tools.iter().any(|tool| entry.file_name() == *tool) {
                // Another process of these tests may do the same now.
                let _ = fs::remove_file(entry.path());
            }
        }
        for tool in tools {
            if let Ok(program) = which::which(tool) {
                let _ = symlink(program, folder.join(tool));
            }
        }
        folder.display().to_string()
    });
    &FOLDER
}
