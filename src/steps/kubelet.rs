//! kubelet: kubelet, kubeadm and kubectl, from the Kubernetes repository, at the inventory's version and no other.

use crate::cluster::Cluster;
use crate::error::Result;
use crate::shell::{Sh, sh};
use crate::step::{Ask, Back, Cx, Step, Undo, Want};
use crate::steps::runtime;

pub const STEP: Step = Step {
    name: "kubelet",
    why: "every node runs a kubelet, and kubeadm makes it part of the cluster",
    wants,
};

const PACKAGES: [&str; 3] = ["kubelet", "kubeadm", "kubectl"];
// Where the project's own documentation puts them.
const KEY: &str = "/etc/apt/keyrings/kubernetes-apt-keyring.asc";
/// The kubelet's unit and what kubeadm's package adds to it.
pub(super) const UNIT_FILES: [&str; 2] =
    ["/usr/lib/systemd/system/kubelet.service", "/usr/lib/systemd/system/kubelet.service.d/10-kubeadm.conf"];
const SOURCE: &str = "/etc/apt/sources.list.d/kubernetes.list";

fn wants(cx: &Cx) -> Result<Vec<Want>> {
    let cluster = cx.cluster;
    let version = cluster.kubernetes.to_string();
    let names = PACKAGES.iter().map(|name| name.to_string()).collect();
    Ok(vec![
        key(cluster),
        Want::file(
            "the Kubernetes repository is known to apt",
            SOURCE,
            0o644,
            &format!("# Kept by ironstrap.\ndeb [signed-by={KEY}] {} /\n", cluster.packages.kubernetes),
        ),
        Want::that(format!("kubelet, kubeadm and kubectl are {version} and held"))
            .asks(Ask::Packages(names))
            .passes(format!("{version}, held"), move |states| are_installed(states, &version))
            .run_as_unit("kubelet", 20, install(cluster))
            .undone_by(Undo::Back(Back::packages("kubelet", &PACKAGES))),
        unit(cluster),
        Want::that("the kubelet starts at boot")
            .asks(Ask::Unit { unit: "kubelet.service".into(), reads: vec![] })
            .passes("enabled", |state| state.starts_with("enabled "))
            .run("systemctl unmask -q kubelet\nsystemctl enable -q kubelet")
            .undone_by(Undo::Back(Back::unit("kubelet"))),
    ])
}

/// The key as the inventory has it; else as the repository has it, and then as it was when it was first seen.
fn key(cluster: &Cluster) -> Want {
    let that = "the Kubernetes repository's key is here";
    if let Some(text) = &cluster.packages.key {
        return Want::file(that, KEY, 0o644, text);
    }
    let url = format!("{}Release.key", cluster.packages.kubernetes);
    let seen = "/var/lib/ironstrap/kubernetes-apt-key";
    // apt brings a client of its own, so nothing needs to be installed to fetch the key that installing needs.
    // It leaves an error page behind as it would a key, so look at what came.
    let fetch = sh!(
        "{exports}mkdir -p /etc/apt/keyrings /var/lib/ironstrap\nchmod 700 /var/lib/ironstrap\n\
         /usr/lib/apt/apt-helper -q download-file {url} {KEY}.new\n\
         grep -q 'BEGIN PGP PUBLIC KEY BLOCK' {KEY}.new || { echo 'what the repository has in place of its key is none'; exit 1; }\n\
         chmod 644 {KEY}.new\nmv -f {KEY}.new {KEY}\nsha256sum <{KEY} >{seen}",
        exports = runtime::exports(cluster),
        url,
        KEY,
        seen
    );
    Want::that(that)
        .ask(sh!(
            "if [ ! -e {KEY} ]; then echo absent; elif [ ! -e {seen} ]; then echo unknown; \
             elif read -r a x <{seen} && [ \"$(sha256sum <{key})\" = \"$a  -\" ]; then echo as first seen; else echo changed; fi",
            KEY,
            seen,
            key = Sh::raw(KEY)
        ))
        .is("as first seen")
        .run(fetch)
        .undone_by(Undo::File(KEY.into()))
}

/// Drop-ins of the user's own belong under /etc and are nobody's business; the packages' files are the packages'.
fn unit(cluster: &Cluster) -> Want {
    let files = UNIT_FILES.map(|path| path.trim_start_matches('/')).join(" ");
    let version = &cluster.kubernetes;
    Want::that("the kubelet's unit is as its packages have it")
        .ask(sh!(
            "cd /var/lib/dpkg/info; set --\nfor f in kubelet.md5sums kubeadm.md5sums; do [ ! -e $f ] || set -- \"$@\" $f; done\n\
             [ $# = 0 ] || awk -v files={files} 'BEGIN { n = split(files, a, \" \"); for (i = 1; i <= n; i++) want[a[i]] } $2 in want' \"$@\" |\n\
             while read -r sum file; do\n\
             if [ ! -e \"/$file\" ]; then echo \"/$file is gone\"; continue; fi\n\
             is=$(md5sum <\"/$file\"); [ \"${is%% *}\" = \"$sum\" ] || echo \"/$file was edited\"; done",
            files
        ))
        .is("")
        .run(sh!(
            "{exports}apt update\npackages kubelet --reinstall 'kubelet={version}-*' 'kubeadm={version}-*'\napt-mark hold kubelet kubeadm >/dev/null",
            exports = runtime::exports(cluster),
            version
        ))
        .nothing_to_undo("the packages' own files go with the packages")
        .touches(&UNIT_FILES)
}

fn are_installed(states: &str, version: &str) -> bool {
    let held = |line: &str| {
        let mut words = line.split_whitespace().skip(1);
        let (status, installed) = (words.next(), words.next().unwrap_or_default());
        status == Some("hi") && (installed == version || installed.starts_with(&format!("{version}-")))
    };
    states.lines().all(held)
}

/// The revision after the version differs from release to release, so apt picks it.
fn install(cluster: &Cluster) -> Sh {
    let wanted = PACKAGES.iter().map(|name| format!("{name}={}-*", cluster.kubernetes));
    sh!(
        "{exports}apt update\npackages kubelet {wanted}\napt-mark hold {all} >/dev/null",
        exports = runtime::exports(cluster),
        wanted = Sh::words(wanted),
        all = Sh::words(PACKAGES)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_exact_version_will_do() {
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
