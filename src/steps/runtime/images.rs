//! Before a machine joins, it pulls the images that every node runs. So a registry that fails is named before anything
//! depends on it, and the pods of the new node start at once.

use crate::cluster::{Cluster, image_name, registry_of};
use crate::shell::{Sh, sh};
use crate::step::{Ask, Verdict, Want};
use crate::steps::runtime::{CERTS, exports};

/// Minutes after which the pull is ended.
const MINUTES: u32 = 30;

pub(super) fn want(cluster: &Cluster) -> Option<Want> {
    let images = pulled(cluster);
    if images.is_empty() {
        return None;
    }
    let wanted = images.join("\n");
    let want = Want::new("runtime.images", "the images that every node needs are pulled")
        .ask(Ask::OnlyBeforeJoin(sh!("images={wanted}\n{HERE}", wanted, HERE)))
        .judged(move |answer| match answer == wanted {
            true => Verdict::Holds,
            false => Verdict::Differs { have: answer.into(), want: wanted.clone() },
        })
        .run_as_unit("images", MINUTES, pull(cluster, &images))
        .nothing_to_undo("they go with the data of a containerd that ironstrap installed");
    Some(want)
}

/// The images to pull. Images of registries with a login are not among them: `ctr` takes a password only as an argument,
/// which every user of the machine could read. If the inventory ignores `Sources`, there is none: the kubelet may then
/// reach its images by a path that `ctr` does not have.
fn pulled(cluster: &Cluster) -> Vec<String> {
    let has_login =
        |image: &str| cluster.registry(registry_of(image)).is_some_and(|registry| registry.login.is_some());
    let mut images = cluster.node_images();
    images.retain(|image| !has_login(image) && !cluster.ignores("Sources"));
    let mut names: Vec<String> = images.iter().map(|image| image_name(image)).collect();
    names.sort();
    names
}

/// Prints those of `images` that containerd has. A containerd that does not run has none to show. The errors of `ctr` are
/// dropped, because it also warns of deprecated settings.
const HERE: Sh = Sh::raw(
    r#"systemctl is-active -q containerd || exit 0
have=$(timeout 10 ctr -n k8s.io images ls -q 2>/dev/null)
printf '%s\n' "$have" | grep -xF "$images" | LC_ALL=C sort || :"#,
);

/// Shell that pulls the images. `ctr` of containerd 1.7 pulls by itself, so it needs the proxies, too. containerd's CRI
/// plugin takes in images that others pulled, and pins the pause image (1.7: pkg/cri/server/image_pull.go, `updateImage`
/// and `getLabels`).
fn pull(cluster: &Cluster, images: &[String]) -> Sh {
    exports(cluster)
        + sh!(
            "certs={CERTS}\n{PULL}for image in {images}; do pull \"$image\"; done",
            CERTS,
            PULL,
            images = Sh::words(images)
        )
}

const PULL: Sh = Sh::raw(
    r#"snapshotter=$(containerd config dump | sed -n "s/^ *snapshotter = [\"']\([^\"']\{1,\}\)[\"']$/\1/p" | head -n 1)
pull() {
  have=$(timeout 10 ctr -n k8s.io images ls -q 2>/dev/null)
  ! printf '%s\n' "$have" | grep -qxF "$1" || return 0
  for pause in 2 5 0; do
    why=$(ctr -n k8s.io images pull --hosts-dir "$certs" --snapshotter "${snapshotter:-overlayfs}" "$1" 2>&1 >/dev/null) && return 0
    case $why in *': not found'* | *nauthorized* | *orbidden* | *x509*) break ;; esac
    sleep "$pause"
  done
  printf '%s\n' "$why" | tail -n 3 >&2
  return 1
}
"#,
);
