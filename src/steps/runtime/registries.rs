//! Wants that no other folder of containerd's sends it to registries that the inventory does not name.

use crate::cluster::{Cluster, Registry};
use crate::shell::{Sh, sh};
use crate::step::{Back, Undo, Verdict, Want};

use super::CERTS;

const FUNCTIONS: Sh = Sh::raw(include_str!("../../../templates/registries.sh"));

pub(super) fn wants(cluster: &Cluster) -> Vec<Want> {
    let instead = cluster
        .registries
        .iter()
        .filter_map(|registry| Some(no_other(registry, &other_name(&registry.host)?)));
    std::iter::once(none_left(cluster)).chain(instead).collect()
}

/// The want that no mirrors of an earlier inventory are left. The want that wrote such a file keeps what a reset brings
/// back.
fn none_left(cluster: &Cluster) -> Want {
    let hosts = Sh::words(cluster.registries.iter().map(|registry| registry.host.as_str()));
    Want::new("runtime.old-mirrors", "no mirrors of an earlier inventory are left")
        .ask(sh!("{FUNCTIONS}registries_left {hosts}", FUNCTIONS, hosts))
        .judged(left)
        .run(sh!("{FUNCTIONS}registries_gone {hosts}", FUNCTIONS, hosts))
        .nothing_to_undo("what was there before is kept since it was written")
}

fn left(answer: &str) -> Verdict {
    let of = |whose: &str| -> Vec<String> {
        let folders = answer.lines().filter_map(|line| line.strip_prefix(whose));
        folders.map(|folder| format!("{CERTS}/{folder}/hosts.toml")).collect()
    };
    let (ours, others) = (of("ours "), of("other "));
    match (ours.is_empty(), others.is_empty()) {
        (true, true) => Verdict::Holds,
        (true, false) => Verdict::Noted(format!(
            "containerd also reads registry files that ironstrap does not manage: {}",
            others.join(", ")
        )),
        (false, _) => Verdict::Differs { have: ours.join("\n"), want: String::new() },
    }
}

/// The folder that containerd prefers to the one with the registry's own name. containerd reads only the first folder that
/// exists (containerd, core/remotes/docker/config, `hostPaths` and `HostDirFromRoot`).
fn other_name(host: &str) -> Option<String> {
    let (name, port) = host.rsplit_once(':').filter(|(name, _)| !name.is_empty())?;
    Some(format!("{name}_{port}_"))
}

fn no_other(registry: &Registry, folder: &str) -> Want {
    let (that, path) = (
        format!("no folder {folder} takes precedence over that of {}", registry.host),
        format!("{CERTS}/{folder}"),
    );
    let ask = sh!("[ ! -e {path} ] && [ ! -L {path} ] || echo {path}", path = path.as_str());
    let back = Back::new(&format!("folder {folder}"), format!("{path} is restored to its earlier state"))
        .keep(sh!("tar -C {CERTS} -cf - {folder}", CERTS, folder))
        .now(ask.clone())
        .script(sh!("tar -C {CERTS} -xpf \"$kept\"", CERTS));
    Want::new("runtime.other-folder", that)
        .of(folder)
        .ask(ask)
        .is("")
        .run(sh!("rm -rf {path}", path = path.as_str()))
        .undone_by(Undo::Back(back))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registry_with_a_port_has_a_second_folder() {
        assert_eq!(other_name("r.example.com:5000").as_deref(), Some("r.example.com_5000_"));
        assert_eq!(other_name("[fd00::1]:5000").as_deref(), Some("[fd00::1]_5000_"));
        assert_eq!((other_name("docker.io"), other_name("_default")), (None, None));
    }

    #[test]
    fn our_leftovers_are_removed_and_others_are_noted() {
        assert_eq!(left(""), Verdict::Holds);
        let Verdict::Noted(note) = left("other _default\nother quay.io\n") else { panic!() };
        assert!(note.ends_with(
            ": /etc/containerd/certs.d/_default/hosts.toml, /etc/containerd/certs.d/quay.io/hosts.toml"
        ));
        let Verdict::Differs { have, .. } = left("ours docker.io\nother quay.io\n") else { panic!() };
        assert_eq!(have, "/etc/containerd/certs.d/docker.io/hosts.toml");
    }
}
