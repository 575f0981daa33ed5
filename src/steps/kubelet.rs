//! kubelet: kubelet, kubeadm and kubectl come from the Kubernetes repository, in exactly the version of the inventory.

use time::OffsetDateTime;

use crate::cluster::Cluster;
use crate::error::Result;
use crate::openpgp::{End, Keys};
use crate::pki::days;
use crate::shell::{KUBELET_ARGS, Sh, sh};
use crate::step::{Ask, Back, Cx, Fix, Step, Undo, Verdict, Want};
use crate::steps::{files, programs, runtime};

pub const STEP: Step = Step {
    name: "kubelet",
    why: "every node runs a kubelet, and kubeadm makes it part of the cluster",
    wants,
};

const PACKAGES: [&str; 3] = ["kubelet", "kubeadm", "kubectl"];
/// The signing key of the Kubernetes repository, in the place that the documentation of Kubernetes gives it.
pub const KEY: &str = "/etc/apt/keyrings/kubernetes-apt-keyring.asc";
/// The kubelet's unit, and the drop-in that kubeadm's package adds to it.
pub(super) const UNIT_FILES: [&str; 2] =
    ["/usr/lib/systemd/system/kubelet.service", "/usr/lib/systemd/system/kubelet.service.d/10-kubeadm.conf"];
const AUTH: &str = "/etc/apt/auth.conf.d/ironstrap.conf";
const SOURCE: &str = "/etc/apt/sources.list.d/kubernetes.list";

fn wants(cx: &Cx) -> Result<Vec<Want>> {
    let cluster = cx.cluster;
    let version = cluster.kubernetes.to_string();
    let names = PACKAGES.iter().map(|name| name.to_string()).collect();
    let mut wants = vec![
        files::apts(cx),
        credentials(cluster),
        key(cx),
        Want::file(
            "kubelet.repository",
            "apt uses the Kubernetes package repository",
            SOURCE,
            0o644,
            &format!("# Kept by ironstrap.\ndeb [signed-by={KEY}] {} /\n", cluster.packages.address()),
        ),
        Want::new(
            "kubelet.packages",
            format!("kubelet, kubeadm and kubectl {version} are installed and held"),
        )
        .ask(Ask::Packages(names))
        .passes(all_held(&version), move |states| are_installed(states, &version))
        .run_as_unit("kubelet", 20, install(cluster))
        .undone_by(Undo::Back(Back::packages("kubelet", &PACKAGES))),
        unit(cluster),
    ];
    for package in PACKAGES.into_iter().chain(["cri-tools"]) {
        let want = programs::want("kubelet.programs", package, "kubelet", runtime::update(cluster));
        // Installing kubeadm again also writes the drop-in of its package again. The kubelet restarts for that.
        wants.push(match package {
            "kubelet" => want.touches(&["/usr/bin/kubelet"]),
            "kubeadm" => want.touches(&UNIT_FILES[1..]),
            _ => want,
        });
    }
    // The first of these two wants removes what keeps the kubelet from starting. Then it can start without the flags.
    wants.extend([programs::starts(cx, "kubelet.unit-files", "kubelet"), no_flags(cx)]);
    wants.push(
        Want::new("kubelet.at-boot", "the kubelet starts at boot")
            .ask(Ask::Unit { unit: "kubelet.service".into(), reads: vec![] })
            .passes("enabled", |state| state.starts_with("enabled "))
            .run("systemctl unmask -q kubelet\nsystemctl enable -q kubelet")
            .undone_by(Undo::Back(Back::unit("kubelet"))),
    );
    Ok(wants)
}

/// The want for the login of the Kubernetes repository. Everybody can read the list of repositories, so the login is in
/// another file. apt reads that file before it gives up being root.
fn credentials(cluster: &Cluster) -> Want {
    match cluster.packages.credentials() {
        Some(text) => Want::secret_file(
            "kubelet.repository-login",
            "only root can read the credentials of the Kubernetes repository",
            AUTH,
            0o600,
            &format!("# Kept by ironstrap.\n{text}"),
        ),
        None => Want::no_file("kubelet.repository-login", "no repository credentials are left", AUTH),
    }
}

/// The want for the signing key of the Kubernetes repository. It is the inventory's key, if there is one. Otherwise it is the
/// key that machines of this fleet have or were shown, once the operator's side found it right (`fleet::keys`). No fix
/// fetches the key: a fix writes the key that was judged.
fn key(cx: &Cx) -> Want {
    let that = "the Kubernetes repository's key is installed";
    if let Some(text) = &cx.cluster.packages.key {
        return Want::file("kubelet.repository-key", that, KEY, 0o644, text);
    }
    let known = cx.fleet.package_key.clone();
    let shown = cx.fleet.shown_keys.get(&cx.node.name).cloned();
    let right = match (cx.cluster.packages.pinned(), &known) {
        (Some(pinned), _) => Some(vec![pinned.to_string()]),
        (None, known) => known.as_ref().map(|keys| keys.fingerprints.clone()),
    };
    let want = Want::new("kubelet.repository-key", that)
        .ask(Ask::File(KEY.into()))
        .judged_presence({
            let (shown, now) = (shown.clone(), cx.now);
            move |file| judge_key(file, right.as_deref(), shown.as_ref(), now)
        })
        .undone_by(Undo::File(KEY.into()))
        .touches(&[KEY]);
    // For the same key, the text that this machine was shown comes before the text that others have.
    let same = |shown: &Keys| known.as_ref().is_some_and(|known| known.fingerprints == shown.fingerprints);
    match shown.filter(same).or(known.clone()) {
        Some(keys) => {
            let text = Some(keys.armored());
            Want { fix: Fix::Write { path: KEY.into(), mode: Some(0o644), text }, ..want }
        }
        None => want.run(Sh::raw(
            "echo 'no machine got a signing key from the Kubernetes repository that ironstrap can trust'; exit 1",
        )),
    }
}

/// Judges the key file of a machine. `right`: the fingerprints that all of its keys must have. Without them, any key is
/// right. `shown`: the key that the repository shows now.
fn judge_key(
    file: Option<&str>,
    right: Option<&[String]>,
    shown: Option<&Keys>,
    now: OffsetDateTime,
) -> Verdict {
    const MODE: &str = "mode 644 root:root";
    let want = match right {
        Some(right) => format!("{MODE}\nkey {}\n", right.join("\nkey ")),
        None => format!("{MODE}\nthe key that the repository offers\n"),
    };
    let Some(file) = file else { return Verdict::Differs { have: String::new(), want } };
    let (mode, text) = file.split_once('\n').unwrap_or((file, ""));
    let have = match Keys::read(text) {
        Ok(keys) => {
            let fits = |right: &[String]| keys.fingerprints.iter().all(|found| right.contains(found));
            if mode == MODE && right.is_none_or(fits) {
                return judge_end(&keys, shown, now);
            }
            format!("{mode}\nkey {}\n", keys.fingerprints.join("\nkey "))
        }
        Err(why) => format!("{mode}\nit {why}\n"),
    };
    Verdict::Differs { have, want }
}

/// Judges when the key expires. apt takes no packages that an expired key signed. The key's owner extends it in a newer text
/// of the same key.
fn judge_end(keys: &Keys, shown: Option<&Keys>, now: OffsetDateTime) -> Verdict {
    let says = |keys: &Keys| match keys.end() {
        End::At(end) => format!("it expires on {}\n", end.date()),
        End::Never => "it never expires\n".into(),
        End::Unknown => String::new(),
    };
    if let Some(newer) = shown.filter(|shown| shown.renews(keys)) {
        return Verdict::Differs { have: says(keys), want: says(newer) };
    }
    let Some(end) = keys.ends_soon(now) else { return Verdict::Holds };
    let when = match end > now {
        true => format!("expires on {}, in {}", end.date(), days(end - now)),
        false => format!("expired on {}", end.date()),
    };
    Verdict::Noted(format!(
        "the signing key of the Kubernetes repository {when}: apt refuses packages with an expired key; apply installs the \
         extended key as soon as the repository has it, and for another key, set `key` in [packages] to its file"
    ))
}

/// The want that the unit files of the packages are unchanged. Drop-ins of the user's own belong under /etc. They may not
/// give flags (`no_flags`), nor change how the kubelet starts (`programs::starts`).
fn unit(cluster: &Cluster) -> Want {
    let version = &cluster.kubernetes;
    Want::new("kubelet.unit", "the kubelet's unit files match its packages")
        .ask(programs::ask())
        .judged(|answer| programs::wrong(answer, &["kubelet", "kubeadm"], programs::is_of_the_kubelets_unit))
        .run(sh!(
            "{update}pkg_install kubelet --reinstall 'kubelet={version}-*' 'kubeadm={version}-*'\napt-mark hold kubelet kubeadm >/dev/null",
            update = runtime::update(cluster),
            version
        ))
        .nothing_to_undo("the packages' own files go with the packages")
        .touches(&UNIT_FILES)
}

/// Asks which files give the kubelet flags, and which flags. Preflight asks the same.
pub(super) fn flags() -> Ask {
    Ask::Shell(KUBELET_ARGS + "kubelet_args\n")
}

/// The want that no local file gives the kubelet extra flags. Flags override the kubelet's configuration. So a
/// member runs only with the flags that kubeadm wrote from the inventory. Before a machine joins, its owner decides about its
/// flags (preflight).
fn no_flags(cx: &Cx) -> Want {
    Want::new("kubelet.no-flags", "no local file gives the kubelet extra flags")
        .ask(flags())
        .is("")
        .run(KUBELET_ARGS + "kubelet_args_out\n")
        .disrupts()
        .nothing_to_undo("each file that it edits is kept by itself, and comes back")
        .only(cx.machine.is_member() && !cx.cluster.ignores("KubeletArgs"))
}

/// The right answer, in the words of a plan.
fn all_held(version: &str) -> String {
    PACKAGES.map(|package| format!("{package} {version}, held\n")).concat()
}

fn are_installed(states: &str, version: &str) -> bool {
    let held = |line: &str| {
        let mut words = line.split_whitespace().skip(1);
        let (status, installed) = (words.next(), words.next().unwrap_or_default());
        status == Some("hi") && (installed == version || installed.starts_with(&format!("{version}-")))
    };
    states.lines().all(held)
}

/// Shell that installs the packages. The revision after the version differs from release to release, so apt picks it.
fn install(cluster: &Cluster) -> Sh {
    let wanted = PACKAGES.iter().map(|name| format!("{name}={}-*", cluster.kubernetes));
    sh!(
        "{update}pkg_install kubelet {wanted}\napt-mark hold {all} >/dev/null",
        update = runtime::update(cluster),
        wanted = Sh::words(wanted),
        all = Sh::words(PACKAGES)
    )
}

#[cfg(test)]
mod tests {
    use time::Duration;
    use time::macros::datetime;

    use super::*;
    use crate::pki::tests::NOW;

    #[test]
    fn a_key_file_must_have_only_the_right_key() {
        use crate::openpgp::tests::{KUBERNETES, OTHER};
        let right = [Keys::read(KUBERNETES).unwrap().fingerprints.remove(0)];
        let judged = |mode: &str, text: &str| {
            judge_key(Some(&format!("mode {mode} root:root\n{text}")), Some(&right), None, NOW)
        };
        assert_eq!(judged("644", KUBERNETES), Verdict::Holds, "the repository's text, with its comments");
        for (mode, text, says) in [
            ("600", KUBERNETES, "mode 600"),
            ("644", OTHER, "key F16CCF68362E170D47EE5AA83D130A3219ACBF0A"),
            ("644", &format!("{KUBERNETES}{OTHER}"), "key F16CCF68362E170D47EE5AA83D130A3219ACBF0A"),
            ("644", &KUBERNETES[..200], "it is cut off"),
            ("644", "", "it holds no public key"),
        ] {
            let Verdict::Differs { have, want } = judged(mode, text) else { panic!("{says}") };
            assert!(have.contains(says) && want.contains(&right[0]), "{says}: {have}");
        }
        assert_eq!(judge_key(Some(&format!("mode 644 root:root\n{OTHER}")), None, None, NOW), Verdict::Holds);
        assert!(judge_key(None, None, None, NOW) != Verdict::Holds);
    }

    #[test]
    fn expiring_keys_are_drift_if_newer_text_exists() {
        use crate::openpgp::tests::{KUBERNETES, put_off};
        let end = datetime!(2026-12-29 1:33:44 UTC);
        let file = format!("mode 644 root:root\n{KUBERNETES}");
        let newer = Keys::read(&put_off(KUBERNETES, 90)).unwrap();
        let judged = |shown: Option<&Keys>, now| judge_key(Some(&file), None, shown, now);
        let drift = Verdict::Differs {
            have: "it expires on 2026-12-29\n".into(),
            want: "it expires on 2027-03-29\n".into(),
        };
        assert_eq!(judged(Some(&newer), end), drift);
        assert_eq!(judged(None, end - Duration::days(31)), Verdict::Holds);
        let same = Keys::read(KUBERNETES).unwrap();
        for (shown, now, says) in [
            (None, end - Duration::days(30), "expires on 2026-12-29, in 30 days"),
            (Some(&same), end - Duration::days(1), "expires on 2026-12-29, in 1 day"),
            (None, end, "expired on 2026-12-29"),
        ] {
            let Verdict::Noted(words) = judged(shown, now) else { panic!("{says}") };
            assert!(words.contains(says), "{words}");
        }
        let renewed = format!("mode 644 root:root\n{}", newer.armored());
        assert_eq!(
            judge_key(Some(&renewed), None, Some(&newer), end),
            Verdict::Holds,
            "after the fix has written the newer text"
        );
    }

    #[test]
    fn a_fix_writes_the_judged_key_without_a_download() {
        use crate::openpgp::tests::{KUBERNETES, OTHER, put_off};
        let cluster = crate::pki::tests::cluster();
        let pki = crate::pki::ClusterPki::make(&cluster, crate::pki::tests::NOW).unwrap();
        let (machine, mut fleet) = (Default::default(), crate::fleet::Fleet::default());
        let fix = |fleet: &crate::fleet::Fleet| {
            let now = crate::pki::tests::NOW;
            key(&Cx { cluster: &cluster, node: &cluster.nodes[0], pki: &pki, now, machine: &machine, fleet })
                .fix
        };
        let Fix::Run(nothing) = fix(&fleet) else { panic!() };
        assert!(nothing.ends_with("exit 1") && !nothing.contains("download"), "{nothing}");
        fleet.package_key = Some(Keys::read(OTHER).unwrap());
        let Fix::Write { text: Some(text), mode: Some(0o644), .. } = fix(&fleet) else { panic!() };
        assert_eq!(text, OTHER);
        // The fix writes the text that this machine was shown. It never writes the text of another machine, or another key.
        let (old, newer) = (Keys::read(KUBERNETES).unwrap(), Keys::read(&put_off(KUBERNETES, 90)).unwrap());
        let name = cluster.nodes[0].name.clone();
        for (agreed, shown, on, written) in [
            (&old, &newer, name.as_str(), &newer),
            (&old, &newer, "another", &old),
            (&Keys::read(OTHER).unwrap(), &newer, name.as_str(), &Keys::read(OTHER).unwrap()),
        ] {
            fleet.package_key = Some(agreed.clone());
            fleet.shown_keys = [(on.to_string(), shown.clone())].into();
            let Fix::Write { text: Some(text), .. } = fix(&fleet.own(&name)) else { panic!() };
            assert_eq!(text, written.armored(), "{on}");
        }
    }

    #[test]
    fn only_the_exact_version_is_accepted() {
        assert!(are_installed("kubelet hi 1.36.3-1.1\nkubeadm hi 1.36.3-2.1", "1.36.3"));
        for states in [
            "kubelet hi 1.36.30-1.1",
            "kubelet ii 1.36.3-1.1",
            "kubelet absent",
            "kubelet hi 1.36.3-1.1\nkubeadm absent",
        ] {
            assert!(!are_installed(states, "1.36.3"), "{states}");
        }
    }
}
