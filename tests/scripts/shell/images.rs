//! A machine that has not joined pulls the images that every node runs.

use ironstrap::fleet::Fleet;
use ironstrap::machine::Machine;
use ironstrap::step::{Ask, Expect, Fix, Verdict, Want};
use time::OffsetDateTime;

use super::{Root, new_root, text};
use crate::support::{lab, pki, shells, wants};

fn want() -> Want {
    let cluster = lab();
    let seen = (&Machine::default(), &Fleet::default());
    let all = wants((&cluster, &cluster.nodes[1]), &pki(&cluster), seen, OffsetDateTime::now_utc());
    all.into_iter().map(|(.., want)| want).find(|want| want.id.to_string() == "runtime.images").unwrap()
}

/// A machine whose containerd has these images. Its registry has every image except `refused`.
fn machine(images: &str, refused: &str) -> Root {
    let root = new_root();
    root.write("images", images);
    root.write("refused", refused);
    root.command("systemctl", "[ ! -e $ROOT/off ]");
    root.command("sleep", "echo \"$*\" >>$ROOT/slept");
    root.command("timeout", "shift; exec \"$@\"");
    root.command(
        "containerd",
        "printf '  snapshotter = \"\"\\n  snapshotter = \"native\"\\n  snapshotter = \"other\"\\n'",
    );
    root.command(
        "ctr",
        "case \"$*\" in
'-n k8s.io images ls -q') [ ! -e $ROOT/hangs ] || exit 124; cat $ROOT/images ;;
*' images pull '*)
  echo \"$*\" >>$ROOT/pulled
  for image; do :; done
  echo progress
  if grep -F \" $image:\" $ROOT/refused >&2; then exit 1; fi
  echo \"$image\" >>$ROOT/images ;;
esac",
    );
    root
}

fn asked(root: &Root, shell: &str, want: &Want) -> (bool, String) {
    let Ask::OnlyBeforeJoin(ask) = &want.ask else { panic!("{:?}", want.ask) };
    let output = root.run(shell, ask);
    (output.status.success(), text(&output.stdout).trim_end().into())
}

fn fixed(root: &Root, shell: &str, want: &Want) -> (bool, String) {
    let Fix::Unit { script, .. } = &want.fix else { panic!("{:?}", want.fix) };
    let output = root.run(shell, script);
    (output.status.success(), text(&output.stderr))
}

fn holds(want: &Want, answer: &str) -> bool {
    let Expect::Judged(judge) = &want.expect else { panic!() };
    judge(answer) == Verdict::Holds
}

#[test]
fn missing_images_are_pulled_with_containerds_settings() {
    for shell in shells() {
        let (want, root) = (want(), machine("docker.io/library/nginx:1\nregistry.k8s.io/pause:3.10.2\n", ""));
        let (good, answer) = asked(&root, shell, &want);
        assert!(
            good && answer == "registry.k8s.io/pause:3.10.2" && !holds(&want, &answer),
            "{shell}: {answer}"
        );
        assert_eq!(fixed(&root, shell, &want), (true, String::new()), "{shell}");
        let pulled = root.read("pulled");
        assert_eq!(pulled.lines().count(), 3, "{shell}: {pulled}");
        for line in pulled.lines() {
            assert!(line.starts_with("-n k8s.io images pull --hosts-dir "), "{shell}: {line}");
            assert!(line.contains("/containerd/certs.d --snapshotter native "), "{shell}: {line}");
        }
        assert!(pulled.contains("registry.k8s.io/kube-proxy:v1.36.3\n"), "{shell}: {pulled}");
        let (good, answer) = asked(&root, shell, &want);
        assert!(good && holds(&want, &answer), "{shell}: {answer}");
    }
}

#[test]
fn images_of_a_hanging_containerd_are_unknown() {
    for shell in shells() {
        let (want, root) = (want(), machine("", ""));
        root.write("off", "");
        assert_eq!(asked(&root, shell, &want), (true, String::new()), "{shell}");
        std::fs::remove_file(root.path("off")).unwrap();
        root.write("hangs", "");
        assert!(!asked(&root, shell, &want).0, "{shell}: its images are unknown");
    }
}

#[test]
fn a_failed_pull_is_retried_only_if_that_can_help() {
    const PROXY: &str = "registry.k8s.io/kube-proxy:v1.36.3";
    for shell in shells() {
        for (why, tries) in [("connection reset by peer", 3), ("not found", 1), ("401 Unauthorized", 1)] {
            let line = format!("ctr: failed to resolve reference {PROXY}: {why}");
            let (want, root) = (want(), machine("", &line));
            let (good, said) = fixed(&root, shell, &want);
            assert!(!good && said.trim_end() == line, "{shell}: {said}");
            assert_eq!(root.read("pulled").matches(PROXY).count(), tries, "{shell}: {why}");
        }
    }
}
