//! The owners of the folders that lead to etcd's data. Such an owner can put another folder in the place of one on this
//! path. Then etcd writes elsewhere, and the owner reads all Secrets.

use super::nothing;
use crate::cluster::Cluster;
use crate::shell::sh;
use crate::step::{Ask, Want};

const NAME: &str = "EtcdFolder";

pub(super) fn etcd(cluster: &Cluster) -> Want {
    let ask = Ask::OnlyBeforeJoin(sh!("rest={dir}\n", dir = cluster.etcd_dir()) + WALK);
    nothing(cluster, "preflight.etcd-folder", "only root can replace the folder for etcd's data", ask, |_| NAME.into()).by_hand(
        "set etcd.local.dataDir of [kubeadm] to a path where only root may write, or run for each folder above: chown root \
         FOLDER, chmod go-w FOLDER; or downgrade the check to a warning: ignore-preflight = [\"EtcdFolder\"] in [cluster]",
    )
}

/// Walks to $rest one name at a time, through links as the kernel does. It prints each folder that another user owns or may
/// write to. A sticky folder counts, too: such a user may take a name that does not exist yet. The walk ends where nothing
/// exists yet.
const WALK: &str = r#"at='' links=0 told=' ' rest=${rest#/}
tell() {
  case $told in *" $1 "*) return 0 ;; esac
  told="$told$1 "
  printf '%s\n' "$1 $2"
}
while :; do
  set -- $(stat -c '%u %g %a' -- "${at:-/}")
  [ "$1" = 0 ] || tell "${at:-/}" "belongs to uid $1"
  case $3 in
    *[2367]) tell "${at:-/}" "is writable by all users (mode $3)" ;;
    *[2367]?) [ "$2" = 0 ] || tell "${at:-/}" "is writable by gid $2 (mode $3)" ;;
  esac
  [ -n "$rest" ] || break
  name=${rest%%/*}
  case $rest in */*) rest=${rest#*/} ;; *) rest='' ;; esac
  case $name in
    '' | .) continue ;;
    ..) at=${at%/*}; continue ;;
  esac
  if [ -L "$at/$name" ]; then
    links=$((links + 1))
    [ $links -le 40 ] || { echo "too many symbolic links in the path to $at/$name" >&2; exit 1; }
    to=$(readlink -- "$at/$name")
    case $to in /*) at='' ;; esac
    rest=${to#/}${rest:+/$rest}
    continue
  fi
  [ -e "$at/$name" ] || break
  at=$at/$name
done"#;
