//! Tests the check that the holder of a Lease of Kubernetes still renews it.

use super::{new_root, now, shells, text};

/// A Lease: its holder, its seconds, and how many seconds ago it was renewed.
type Lease = (&'static str, u64, u64);

/// The exit code and the output of `script` on a control plane. The first reading of the Lease returns `first`, and every
/// later one returns `then`.
fn asked(
    shell: &str,
    script: &str,
    first: Option<Lease>,
    then: Option<Lease>,
) -> (Option<i32>, String, String) {
    let root = new_root();
    for name in [
        "etc/kubernetes/manifests/kube-apiserver.yaml",
        "etc/kubernetes/admin.conf",
        "var/lib/ironstrap/kubeadm-receipt",
    ] {
        root.write(name, "");
    }
    for (name, lease) in [("first", first), ("then", then)] {
        let says = lease.map(|(holder, seconds, ago)| {
            let time = time::OffsetDateTime::from_unix_timestamp((now() - ago) as i64).unwrap();
            let time = time.format(&time::format_description::well_known::Rfc3339).unwrap();
            format!("{holder} {seconds} {}", time.replace('Z', ".123456Z"))
        });
        root.write(name, &says.unwrap_or_default());
    }
    root.command(
        "kubectl",
        "case \"$*\" in '-n kube-system get lease kube-scheduler '*) ;; *) exit 1 ;; esac\n\
         cat $ROOT/first; cat $ROOT/then >$ROOT/first",
    );
    let functions = std::fs::read_to_string("templates/leases.sh").unwrap();
    let script = format!("kubectl() {{ command kubectl \"$@\"; }}\nsleep() {{ :; }}\n{functions}\n{script}");
    let output = root.run(shell, &script);
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

#[test]
fn a_lease_that_is_no_longer_renewed_is_found() {
    let cases: [(Option<Lease>, Option<Lease>, bool); 8] = [
        (Some(("m1_1f", 15, 2)), Some(("m1_1f", 15, 2)), false),
        (Some(("m1_1f", 15, 80)), Some(("m1_1f", 15, 80)), false),
        (Some(("m1_1f", 15, 110)), Some(("m1_1f", 15, 110)), true),
        // The API server was away, and its components have just come back.
        (Some(("m1_1f", 15, 900)), Some(("m1_1f", 15, 1)), false),
        // A Lease may have a long duration.
        (Some(("m1_1f", 60, 300)), Some(("m1_1f", 60, 300)), false),
        (Some(("m1_1f", 60, 400)), Some(("m1_1f", 60, 400)), true),
        (Some(("", 15, 900)), Some(("", 15, 900)), false),
        (None, None, false),
    ];
    for shell in shells() {
        for (first, then, expired) in cases {
            let (code, out, err) = asked(shell, "lease_expired kube-system kube-scheduler", first, then);
            assert_eq!((code, err.as_str()), (Some(0), ""), "{shell}: {first:?}");
            assert_eq!(out.starts_with("m1_1f 20"), expired, "{shell}: {first:?}: {out}");
            assert_eq!(out.is_empty(), !expired, "{shell}: {first:?}: {out}");
        }
        let (code, ..) = asked(shell, "lease_expired kube-system other", None, None);
        assert_ne!(code, Some(0), "{shell}: an API server that does not answer proves nothing");
        let (code, ..) =
            asked(shell, "lease_expired kube-system kube-scheduler", Some(("m1_1f", 15, 900)), None);
        assert_eq!(code, Some(0), "{shell}: the Lease was deleted between the readings");
    }
}

#[test]
fn no_lease_is_expired_without_a_complete_control_plane() {
    let old = Some(("m1_1f", 15, 900));
    for shell in shells() {
        for gone in [
            "/etc/kubernetes/manifests/kube-apiserver.yaml",
            "/etc/kubernetes/admin.conf",
            "/var/lib/ironstrap/kubeadm-receipt",
        ] {
            let script = format!("rm {gone}\nlease_expired kube-system kube-scheduler");
            assert_eq!(
                asked(shell, &script, old, old),
                (Some(0), String::new(), String::new()),
                "{shell}: {gone}"
            );
        }
    }
}

#[test]
fn a_lease_fix_fails_unless_the_lease_is_renewed() {
    for shell in shells() {
        let lasts = |first, then| asked(shell, "lease_lasts kube-system kube-scheduler", first, then);
        assert_eq!(lasts(Some(("m1_1f", 15, 900)), Some(("m1_2e", 15, 1))).0, Some(0), "{shell}");
        let (code, _, err) = lasts(Some(("m1_1f", 15, 900)), Some(("m1_1f", 15, 900)));
        assert_ne!(code, Some(0), "{shell}");
        assert!(err.starts_with("the Lease kube-scheduler was last renewed at 20"), "{shell}: {err}");
    }
}
