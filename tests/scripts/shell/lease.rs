//! Tests how the lease of a machine is taken, renewed, lost and released.

use std::time::Duration;

use ironstrap::ledger::Kin;
use ironstrap::shell;
use ironstrap::step::Fix;

use super::*;

const LEASE: &str = "run/ironstrap/lease";
const UNIT: &str = "run/systemd/transient/ironstrap-kubeadm.service";

fn held(who: &str, until: u64) -> String {
    format!("5 theirs {until} 1000 {who}\n")
}

/// The lease on this machine, as an observation reads it.
fn seen(root: &Root) -> Lease {
    let text = root.read(LEASE);
    let words: Vec<&str> = text.split_whitespace().collect();
    Lease {
        epoch: words[0].parse().unwrap(),
        run: words[1].into(),
        until: words[2].parse().unwrap(),
        since: words[3].parse().unwrap(),
        owner: words[4].into(),
        kin: words.get(5).copied().unwrap_or_default().into(),
    }
}

/// Takes the lease. Returns the exit code and the output of the script.
fn take(root: &Root, shell: &str, run: &Run) -> (Option<i32>, String) {
    let output = self::run(shell, &root.moved(&ledger::take(run, Some(&seen(root)))));
    assert_eq!(text(&output.stderr), "", "{shell}");
    (output.status.code(), text(&output.stdout))
}

/// The lease on the machine, the observed epoch, whether a unit is active, and the run that may be replaced. The result
/// is the new epoch, or the message of the refusal.
type Case<'a> = (String, u64, bool, &'a str, Result<u64, String>);

fn of(id: &str, kin: Kin) -> Run {
    Run { kin, ..Run::new(id, "me@here") }
}

#[test]
fn a_lease_is_taken_or_refused() {
    let (live, old) = (now() + 60, now() - 60);
    let (alice, me) = ("alice@desk", "me@here");
    let by = |who: &str| Err(format!("lease held: by {who} (run thei)"));
    let works = |who: &str| Err(format!("lease held: ironstrap-kubeadm of {who} (run thei) still works"));
    let lost = |who: &str| Err(format!("lease lost: {who} (run thei) took it"));
    let cases: [Case; 16] = [
        (String::new(), 0, false, "-", Ok(1)),
        (held(alice, live), 5, false, "-", by(alice)),
        (held(alice, old), 5, false, "-", Ok(6)),
        (held(alice, 0), 5, false, "-", Ok(6)),
        (held(alice, old), 5, true, "-", works(alice)),
        (held(alice, old), 4, false, "-", lost(alice)),
        (held(alice, live), 5, false, "theirs", Ok(6)),
        (held(alice, live), 5, false, "another", by(alice)),
        (held(alice, live), 5, true, "theirs", works(alice)),
        (held(me, live), 5, false, "-", by(me)),
        (held("me@here 0af1", live), 5, false, "-", by(me)),
        (held("me@here 0af1", live), 5, false, "theirs", Ok(6)),
        (held(me, live), 5, true, "theirs", works(me)),
        (held(me, live), 4, false, "theirs", lost(me)),
        (format!("7 ours {old} 1000 me@here 0af1\n"), 3, true, "-", Ok(7)),
        (format!("7 ours {live} 1000 me@here\n"), 3, false, "-", Ok(7)),
    ];
    for shell in shells() {
        for (lease, seen, busy, from, right) in &cases {
            let root = new_root();
            if !lease.is_empty() {
                root.write(LEASE, lease);
            }
            if *busy {
                root.write(UNIT, "");
            }
            let output = root.run(shell, &format!("take_lease {seen} ours me@here 120 5ec2 {from}\necho in"));
            let (out, after) = (text(&output.stdout), root.read(LEASE));
            let what = format!("{shell}: {lease:?} {seen} {busy} {from}: {out}{}", text(&output.stderr));
            match right {
                Err(words) => {
                    assert_eq!((output.status.code(), out.trim()), (Some(75), words.as_str()), "{what}");
                    assert_eq!(after, *lease, "{what}");
                }
                Ok(epoch) => {
                    assert_eq!((output.status.code(), out.trim()), (Some(0), "in"), "{what}");
                    let words: Vec<&str> = after.split_whitespace().collect();
                    assert_eq!(words[..2], [epoch.to_string().as_str(), "ours"], "{what}");
                    assert_eq!(words[4..], ["me@here", "5ec2"], "{what}");
                    let until: u64 = words[2].parse().unwrap();
                    assert!((now() + 100..now() + 125).contains(&until), "{after}");
                }
            }
        }
    }
}

#[test]
fn only_related_runs_and_take_over_replace_a_live_lease() {
    let kin = || Kin::new("5ec2e7", "lock 1");
    let next = of("2222", kin());
    let copy = of("3333", Kin::new("5ec2e7", "lock 2"));
    let over = Run { take_over: true, ..copy.clone() };
    for shell in shells() {
        for (run, right) in [(&next, Some(0)), (&copy, Some(75)), (&over, Some(0))] {
            let root = new_root();
            let dead = self::run(shell, &root.moved(&ledger::take(&of("1111", kin()), None)));
            assert!(dead.status.success(), "{shell}: {}", text(&dead.stderr));
            assert!(!root.read(LEASE).contains("5ec2e7"), "the secret does not travel");
            root.write(UNIT, "");
            let words = "lease held: ironstrap-kubeadm of me@here (run 1111) still works\n";
            assert_eq!(take(&root, shell, run), (Some(75), words.into()), "{shell}: {}", run.id);
            fs::remove_file(root.path(UNIT)).unwrap();
            let (code, said) = take(&root, shell, run);
            assert_eq!(code, right, "{shell}: {}: {said}", run.id);
            let holder = if code == Some(0) { &run.id } else { "1111" };
            assert_eq!(seen(&root).run, holder, "{shell}");
        }
    }
}

/// The function `lease` of commit 850250f.
const LEASE_BEFORE: &str = r#"old_lease() {
  mkdir -p -m 700 "$RUN"
  exec 9>"$RUN/lock"
  flock -w 10 9
  now=$(date +%s) epoch=0 run=- until=0 taken=$now owner=-
  [ ! -e "$RUN/lease" ] || read -r epoch run until taken owner <"$RUN/lease"
  if [ "$run" != "$2" ]; then
    busy=
    for f in /run/systemd/transient/ironstrap-*.service; do [ ! -e "$f" ] || busy=yes; done
    if [ "$epoch" != "$1" ]; then echo "lease lost: $owner took it"; exit 75; fi
    if [ "$owner" != "$3" ] && { [ "$until" -gt "$now" ] || [ -n "$busy" ]; }; then echo "lease held: by $owner"; exit 75; fi
    epoch=$((epoch + 1)) taken=$now
  fi
  echo "$epoch $2 $((now + $4)) $taken $3" >"$RUN/lease.new"
  mv "$RUN/lease.new" "$RUN/lease"
  exec 9>&-
}
"#;

#[test]
fn older_versions_and_this_one_respect_each_others_leases() {
    for shell in shells() {
        let root = new_root();
        // Both versions run as the same user on the same host.
        root.good(shell, "take_lease 0 ours me@here 120 0af1 -");
        let output = root.run(shell, &format!("{LEASE_BEFORE}old_lease 1 theirs me@here 120"));
        assert_eq!(output.status.code(), Some(75), "{shell}: {}", text(&output.stdout));
        root.good(shell, "release_lease ours");
        root.good(shell, &format!("{LEASE_BEFORE}old_lease 1 theirs me@here 120"));
        let before = root.read(LEASE);
        let output = root.run(shell, "take_lease 2 ours me@here 120 0af1 -");
        assert_eq!(text(&output.stdout), "lease held: by me@here (run thei)\n", "{shell}");
        assert_eq!((output.status.code(), root.read(LEASE)), (Some(75), before), "{shell}");
    }
}

#[test]
fn every_change_of_a_lease_holds_the_lock() {
    let scripts = [
        "take_lease 5 ours me@here 120 - -",
        "lease_run=ours lease_seconds=120; renew_lease",
        "release_lease ours",
        "cleanup_run_dir ours",
    ];
    for shell in shells() {
        for (script, kept) in scripts.iter().flat_map(|script| [(script, true), (script, false)]) {
            let root = new_root();
            root.write(LEASE, &format!("5 ours {} 10 me@here\n", now() + 60));
            root.write("alice", &format!("6 theirs {} 10 alice@desk\n", now() + 60));
            if kept {
                root.write("var/lib/ironstrap/before/x.answer", "");
            }
            // Before each write, another run tries to take the lease. The lock must prevent that.
            let between = "! flock -n $ROOT/run/ironstrap/lock cp $ROOT/alice $ROOT/run/ironstrap/lease || echo $0 >>$ROOT/got";
            root.command("mv", &format!("{between}\nexec /bin/mv \"$@\""));
            root.command("rm", &format!("{between}\nexec /bin/rm \"$@\""));
            root.good(shell, script);
            assert_eq!(root.read("got"), "absent", "{shell}: {script}");
            assert!(!root.read(LEASE).contains("alice"), "{shell}: {script}");
        }
    }
}

#[test]
fn a_deleted_lock_file_is_created_and_locked_again() {
    for shell in shells() {
        let root = new_root();
        root.write("run/ironstrap/lock", "");
        let mut holder = locked(&root.path("run/ironstrap/lock"));
        std::thread::scope(|scope| {
            let taking = scope.spawn(|| root.good(shell, "take_lease 0 ours me@here 120 - -; echo in"));
            std::thread::sleep(Duration::from_millis(500));
            fs::remove_dir_all(root.path("run/ironstrap")).unwrap();
            drop(holder.stdin.take());
            assert_eq!(taking.join().unwrap(), "in\n", "{shell}");
        });
        holder.wait().unwrap();
        assert!(root.read(LEASE).starts_with("1 ours "), "{shell}");
    }
}

#[test]
fn a_script_that_cannot_lock_the_lease_changes_nothing() {
    for shell in shells() {
        let root = new_root();
        root.command("flock", "exit 1");
        for script in
            ["take_lease 0 ours me@here 120 - -", "lease_run=ours lease_seconds=120; renew_lease || :"]
        {
            let output = root.run(shell, &format!("{script}\necho in"));
            assert_eq!((output.status.code(), text(&output.stdout).as_str()), (Some(1), ""), "{shell}");
            assert!(text(&output.stderr).contains("cannot lock "), "{shell}");
        }
        assert_eq!(root.read(LEASE), "absent");
    }
}

#[test]
fn only_its_own_run_releases_a_lease() {
    for shell in shells() {
        for kin in ["", " 0af1"] {
            let root = new_root();
            root.good(shell, "release_lease ours; cleanup_run_dir ours");
            assert_eq!(root.read(LEASE), "absent");
            let held = format!("5 theirs 99 10 alice@desk{kin}\n");
            root.write(LEASE, &held);
            root.good(shell, "release_lease ours; cleanup_run_dir ours");
            assert_eq!(root.read(LEASE), held);
            root.good(shell, "release_lease theirs");
            assert_eq!(root.read(LEASE), format!("5 theirs 0 10 alice@desk{kin}\n"));
            root.good(shell, "cleanup_run_dir theirs");
            assert!(!root.path("run/ironstrap").exists(), "{shell}");
        }
    }
}

#[test]
fn a_lease_lost_during_a_fix_is_reported_as_lost() {
    let renews = ["renew_lease", "x=$(renew_lease; echo never)\necho $x", "( renew_lease )", "retry false"];
    for shell in shells() {
        for renew in renews {
            let root = new_root();
            root.write("alice", &format!("9 9a2b7f {} 10 alice@desk\n", now() + 60));
            let mut changes = touches(&root, &["one", "two"]);
            changes[0].fix = Fix::Run(sh(format!("cp ALICE $RUN/lease\n{renew}")));
            let changes: Vec<&Change> = changes.iter().collect();
            let script = root.moved(&ledger::fix(&me(), None, &changes, BOUNDARY));
            let script = script.replace("ALICE", &root.path("alice").display().to_string());
            let output = run(shell, &script);
            let what = format!("{shell}: {renew}: {}{}", text(&output.stdout), text(&output.stderr));
            let output = shell::Output {
                status: output.status.code().unwrap(),
                stdout: output.stdout,
                stderr: output.stderr,
            };
            let lost = ledger::lease_lost(&output);
            assert_eq!(lost.as_deref(), Some("lease lost: alice@desk (run 9a2b) took it"), "{what}");
            assert!(!root.path("two").exists(), "{what}");
        }
    }
}

#[test]
fn exit_code_75_with_a_valid_lease_is_a_failed_fix() {
    for shell in shells() {
        let root = new_root();
        let mut changes = touches(&root, &["one"]);
        changes[0].fix = Fix::Run("exit 75".into());
        let changes: Vec<&Change> = changes.iter().collect();
        let output = run(shell, &root.moved(&ledger::fix(&me(), None, &changes, BOUNDARY)));
        assert_eq!(output.status.code(), Some(1), "{shell}");
        assert!(text(&output.stdout).contains(&format!("{BOUNDARY} done 0 75\n")), "{shell}");
    }
}
