//! Reads `[coredns]`: the number of CoreDNS pods, and the Corefile.

use super::diagnostic::Mistakes;
use super::files::Folder;
use super::table::Table;
use crate::cluster::CoreDns;

pub fn coredns(root: &Table, folder: &Folder, mistakes: &mut Mistakes) -> CoreDns {
    let table = root.table("coredns");
    let dns = root.table("kubeadm").value("dns").and_then(|dns| dns.get_ref().as_table());
    let disabled = dns.and_then(|dns| dns.get("disabled")).and_then(|value| value.get_ref().as_bool());
    if table.is_written() && disabled == Some(true) {
        mistakes.add(
            &table.at,
            "[coredns] has no effect while `dns` in [kubeadm] is disabled; remove one of them",
        );
    }
    CoreDns { replicas: replicas(&table, mistakes), corefile: corefile(&table, folder, mistakes) }
}

fn replicas(table: &Table, mistakes: &mut Mistakes) -> Option<u32> {
    let value = table.value("replicas")?;
    let number = value.get_ref().as_integer()?;
    let replicas =
        u32::from_str_radix(number.as_str(), number.radix()).ok().filter(|n| (1..=1000).contains(n));
    if replicas.is_none() {
        mistakes.add(&value.span(), "`replicas` must be 1 to 1000");
    }
    replicas
}

fn corefile(table: &Table, folder: &Folder, mistakes: &mut Mistakes) -> Option<String> {
    table.value("corefile")?;
    let path = table.text("corefile")?;
    let content = folder.read(&path, mistakes)?;
    if !content.lines().any(|line| line.trim_end().ends_with('{')) {
        let help = "kubectl -n kube-system get configmap coredns -o 'jsonpath={.data.Corefile}' prints the current one";
        mistakes.add_help(
            &path.at,
            "this file is not a Corefile: it has no server block, as in .:53 { … }",
            help,
        );
    }
    Some(content)
}
