//! Secrets that are typed on a real terminal. The terminal must not show them, and no process may have them in its arguments or
//! its environment.

use std::fs;
use std::io::{Read, Write};
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use toml::Table;

use super::{Stage, THETA, WAY, Way, keygen};
use crate::lab::text;
use crate::world::{World, set};
use crate::{so, until};

const PASSWORD: &str = "words that are typed";
const PASSPHRASE: &str = "long words";

/// The first codes of RFC 4226, appendix D. `CODES` has their key.
const FIRST: [&str; 2] = ["755224", "287082"];

/// Makes the second sshd ask bob for his password and for a one-time code. At each login and logout, and before and after
/// sudo, a script searches all processes of the machine for the password.
const CODES: &str = r#"
apt-get -qq update; DEBIAN_FRONTEND=noninteractive apt-get -qq -y install --no-install-recommends libpam-oath >/dev/null
printf 'HOTP bob - 3132333435363738393031323334353637383930\n' >/etc/users.oath
chmod 600 /etc/users.oath
printf 'words that are typed' >/root/words
printf 'bob:%s\n' "$(cat /root/words)" | chpasswd
cat >/root/look <<'Y'
#!/bin/sh
for file in /proc/[0-9]*/cmdline /proc/[0-9]*/environ; do
  { tr '\0' ' ' <"$file" | grep -qFf /root/words && echo "$file" >>/root/found; } 2>/dev/null
done
echo "$PAM_SERVICE $PAM_TYPE" >>/root/looked
Y
chmod 700 /root/look
SEEN="$(cat /root/words)" /root/look
[ -s /root/found ]
rm /root/found /root/looked
for service in sshd sudo; do
  printf '\nsession optional pam_exec.so quiet seteuid /usr/bin/setpriv --reuid=0 --regid=0 --clear-groups /root/look\n' >>/etc/pam.d/$service
done
sed -i 's!^@include common-auth!&\nauth required pam_oath.so usersfile=/etc/users.oath window=5 digits=6!' /etc/pam.d/sshd"#;

/// Undoes `CODES`.
const NO_CODES: &str = "sed -i '/pam_oath/d; /root.look/d' /etc/pam.d/sshd /etc/pam.d/sudo
echo 'bob:secret word' | chpasswd";

pub fn typed(world: &World) {
    let stage = Stage::new(world);
    codes(&stage);
    passphrase(&stage);
    two_users(&stage);
}

/// Uses two names for one machine.
fn twins(inventory: &mut Table) {
    set(inventory, &["nodes", "w2", "user"], "\"bob\"");
    set(
        inventory,
        &["nodes", "n1"],
        r#"{address = "n1", ip = "198.18.0.101", role = "worker", user = "bob"}"#,
    );
}

fn codes(stage: &Stage) {
    let asks = Way {
        says: "",
        sshd: "PubkeyAuthentication no\nPasswordAuthentication no\nKbdInteractiveAuthentication yes",
        before: CODES,
        config: THETA.replace("Host theta", "Host theta n1").leak(),
        inventory: twins,
        ..WAY
    };
    stage.set_up(&asks);
    let w2 = stage.world.lab.machine("w2");
    let mut terminal = Terminal::new(stage, "ssh-check w2 n1");
    terminal.types("password of bob (used for all machines of bob): ", PASSWORD);
    for code in FIRST {
        terminal.asked(" (bob@198.18.0.13:2222) asks: One-time password (OATH) for `bob': ");
        let all = all_processes();
        assert!(all.contains("ssh-check"), "the processes do not include ssh-check");
        assert!(!all.contains(PASSWORD), "a process shows the password");
        terminal.says(code);
        // A used code invalidates the earlier ones.
        until("the code is used up", 10, || so(w2.read("/etc/users.oath").contains(code)));
    }
    let (code, shown) = terminal.end();
    assert_eq!(code, Some(0), "{shown}");
    for (piece, times) in [("keyboard-interactive", 2), ("password of bob", 1), (PASSWORD, 0), (FIRST[0], 0)]
    {
        assert_eq!(shown.matches(piece).count(), times, "{piece}: {shown}");
    }
    let looked = w2.read("/root/looked");
    for when in ["sshd open_session", "sudo open_session", "sudo close_session"] {
        assert!(looked.contains(when), "the script did not run: {looked}");
    }
    assert_eq!(w2.read("/root/found"), "", "a process showed the password");
    stage.world.lab.ssh("w2", NO_CODES);
    println!("  a typed password and one-time codes, shown nowhere");
}

fn passphrase(stage: &Stage) {
    let _ = fs::remove_file(stage.dir.join("sealed"));
    keygen(&stage.dir, &["-q", "-t", "ed25519", "-N", PASSPHRASE, "-f", "sealed"]);
    let key = fs::read_to_string(stage.dir.join("sealed.pub")).unwrap();
    stage.world.lab.ssh("w2", &format!("echo '{}' >>/home/bob/.ssh/authorized_keys", key.trim()));
    let config = THETA.replace("Host theta", "Host theta n1").replace("DIR/id", "DIR/sealed");
    let sealed = Way {
        says: "",
        before: "echo 'bob ALL=(ALL:ALL) NOPASSWD: ALL' >/etc/sudoers.d/bob",
        config: config.leak(),
        inventory: twins,
        ..WAY
    };
    stage.set_up(&sealed);
    let question = format!("passphrase of {}: ", stage.dir.join("sealed").display());

    let mut terminal = Terminal::new(stage, "ssh-check w2 n1");
    terminal.types(&question, "wrong");
    terminal.types(&question, PASSPHRASE);
    let (code, shown) = terminal.end();
    assert_eq!(code, Some(0), "{shown}");
    for (piece, times) in [(question.as_str(), 2), ("wrong", 0), (PASSPHRASE, 0), ("✔", 2)] {
        assert_eq!(shown.matches(piece).count(), times, "{piece}: {shown}");
    }

    // Ctrl-D skips a question, and the next one follows. Ctrl-C ends the program.
    let questions = [question.as_str(), "password of bob (used for all machines of bob): "];
    // The program may end at different moments after Ctrl-C, so this runs several times.
    let stopped = [("\x03", &questions[..1], 130); 5];
    for (typed, questions, code) in [("\x04", &questions[..], 4)].into_iter().chain(stopped) {
        let mut terminal = Terminal::new(stage, "ssh-check w2");
        questions.iter().for_each(|question| terminal.types(question, typed));
        let (ended, shown) = terminal.end();
        assert_eq!(ended, Some(code), "{typed:?}: {shown}");
        assert!(
            shown.contains(" echo ") && !shown.contains("-echo "),
            "{typed:?}: the terminal does not echo: {shown}"
        );
    }
    stage.world.lab.ssh("w2", "echo 'bob ALL=(ALL:ALL) ALL' >/etc/sudoers.d/bob");
    println!("  a typed passphrase: wrong, right and missing");
}

/// Questions about two users do not overlap, even if both are needed at the same time.
fn two_users(stage: &Stage) {
    let asks = Way {
        says: "",
        sshd: "PubkeyAuthentication no\nKbdInteractiveAuthentication no",
        config: THETA.replace("Host theta", "Host theta n1").leak(),
        inventory: |inventory| {
            twins(inventory);
            set(inventory, &["nodes", "n1", "user"], "\"tom\"");
        },
        ..WAY
    };
    stage.set_up(&asks);
    let mut terminal = Terminal::new(stage, "ssh-check w2 n1");
    for asked in [1, 2] {
        terminal.asked("password of ");
        // Long enough for both questions.
        std::thread::sleep(Duration::from_millis(500));
        let shown = terminal.shown.lock().unwrap().clone();
        assert_eq!(shown.matches("password of ").count(), asked, "{shown}");
        terminal.says("secret word");
    }
    let (code, shown) = terminal.end();
    assert_eq!(code, Some(0), "{shown}");
    println!("  two passwords, one after the other");
}

/// Arguments and environments of all processes on this host.
fn all_processes() -> String {
    let all = fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.path());
    let read = |path: std::path::PathBuf| {
        ["cmdline", "environ"].map(|file| text(&fs::read(path.join(file)).unwrap_or_default()))
    };
    all.flat_map(read).collect::<Vec<_>>().join("\n").replace('\0', " ")
}

/// An operator at a terminal. `script` of util-linux provides the terminal.
struct Terminal {
    script: Child,
    shown: Arc<Mutex<String>>,
    /// The length of the output whose questions are answered.
    answered: usize,
    reader: Option<std::thread::JoinHandle<()>>,
}

impl Terminal {
    fn new(stage: &Stage, command: &str) -> Terminal {
        // stty shows the state of the terminal afterwards.
        let line = format!(
            "trap : INT; {} {command} -i {}; code=$?; stty -a; exit $code",
            World::binary(),
            stage.world.dir.join("inventory.toml").display()
        );
        let mut operator = stage.operator();
        operator.args(["script", "-qec", &line, "/dev/null"]);
        let spawned = operator.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
        let mut script = spawned.unwrap();
        let (shown, mut output) = (Arc::new(Mutex::new(String::new())), script.stdout.take().unwrap());
        let to = shown.clone();
        let reader = Some(std::thread::spawn(move || {
            let (mut all, mut piece) = (vec![], [0; 4096]);
            while let Ok(n @ 1..) = output.read(&mut piece) {
                all.extend_from_slice(&piece[..n]);
                *to.lock().unwrap() = text(&all);
            }
        }));
        Terminal { script, shown, answered: 0, reader }
    }

    /// Waits for a new question.
    fn asked(&mut self, question: &str) {
        let end = Instant::now() + Duration::from_secs(20);
        loop {
            let shown = self.shown.lock().unwrap().clone();
            if let Some(at) = shown[self.answered..].find(question) {
                self.answered += at + question.len();
                return;
            }
            assert!(Instant::now() < end, "the question {question:?} does not appear: {shown}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn says(&mut self, word: &str) {
        let end = if word.starts_with(char::is_control) { "" } else { "\n" };
        self.script.stdin.as_mut().unwrap().write_all(format!("{word}{end}").as_bytes()).unwrap();
    }

    fn types(&mut self, question: &str, word: &str) {
        self.asked(question);
        self.says(word);
    }

    /// Waits for the end, and returns the exit code and all output.
    fn end(mut self) -> (Option<i32>, String) {
        let end = Instant::now() + Duration::from_secs(60);
        let status = loop {
            match self.script.try_wait().unwrap() {
                Some(status) => break status,
                None if Instant::now() > end => panic!("no end: {}", self.shown.lock().unwrap()),
                None => std::thread::sleep(Duration::from_millis(5)),
            }
        };
        drop(self.script.stdin.take());
        if let Some(reader) = self.reader.take() {
            reader.join().unwrap();
        }
        (status.code(), self.shown.lock().unwrap().clone())
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.script.kill();
        let _ = self.script.wait();
    }
}
