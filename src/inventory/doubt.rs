//! Hides values of a mistaken inventory that may have a password in them, although none belongs there. Nobody can tell
//! where such a password ends. So no report shows the value from the place on where the password may begin.

use std::sync::LazyLock;

use regex::Regex;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::diagnostic::Mistakes;

/// The hint for a password for SSH in an inventory: what to do instead.
pub const LOG_IN: &str = "log in with a key, or with --password-command, or type the password when ironstrap asks: see docs/ssh.md";

/// The hint for a URL in which a password may be.
pub const URL_LOGIN: &str = "if the URL has a password, an @ comes between the password and the host";

/// Matches `host`, `host:port` and `host:port/path`. The host may be an IPv6 address, and the port may be a range. A
/// `:` at the end of a part of the path is usual in package repositories.
static PLAIN: LazyLock<Regex> = LazyLock::new(|| {
    let host = r"(?:\[[0-9A-Fa-f:.]+(?:%[\w.-]+)?\]|[^:@/]*)";
    let plain = format!(r"^{host}(?::[0-9\[\]-]*)?(?:/(?:[^:@]|:/)*:?)?$");
    Regex::new(&plain).expect("it is a constant, and tested")
});

/// Matches an IPv6 address, or a text that is nearly one.
static IPV6: LazyLock<Regex> = LazyLock::new(|| {
    let address = r"(?:[0-9A-Fa-f:.]*::[0-9A-Fa-f:.\[\]-]*|(?:[0-9A-Fa-f]+:){7}[0-9A-Fa-f\[\]-]+)";
    Regex::new(&format!(r"^{address}(?:%[\w.-]+)?(?:/\d*)?$")).expect("it is a constant, and tested")
});

/// Names of fields whose values have a `:` and never a login.
const WITHOUT_LOGIN: [&str; 5] = ["host-key", "labels", "pods", "services", "taints"];

/// Names of fields with an image. Its tag comes after a `:`.
const IMAGES: [&str; 2] = ["image", "plugin"];

/// Tables with settings of other programs. Only their URLs are checked.
const OPEN: [&str; 8] = [
    "api-server",
    "containerd",
    "controller-manager",
    "etcd",
    "kube-proxy",
    "kubeadm",
    "kubelet",
    "scheduler",
];

/// The place in a value at which a password may begin: after its first `:`. There is none in a host, a URL or a path
/// with nothing more in it. `masked` hides a value up to its `@`, so this function checks the text after the `@`.
pub fn password_from(value: &str) -> Option<usize> {
    let start = value.find("://").map_or(0, |at| at + "://".len());
    let rest = &value[start..];
    let tail = rest.rsplit_once('@').map_or(rest, |(_, tail)| tail);
    if PLAIN.is_match(tail) || IPV6.is_match(tail) {
        return None;
    }
    Some(start + rest.find(':').map_or(0, |at| at + 1))
}

/// The place in a user's name at which a password may begin: after its first `:`.
pub fn password_of_user(value: &str) -> Option<usize> {
    value.find(':').map(|at| at + 1)
}

/// An image without its tag and its digest.
fn untagged(image: &str) -> &str {
    let image = image.split_once("@sha256:").map_or(image, |(image, _)| image);
    image.rsplit_once(':').filter(|(_, tag)| !tag.contains('/')).map_or(image, |(image, _)| image)
}

/// Hides what may be a password in every value of an inventory, also in values without a mistake. One line of a report
/// can show several values.
pub fn hide(root: &DeTable, mistakes: &mut Mistakes) {
    for (name, value) in root {
        let field = if OPEN.contains(&name.get_ref().as_ref()) { "" } else { name.get_ref().as_ref() };
        look(field, value, mistakes);
    }
}

/// Hides what may be a password in one value. `field` is the name of its field. It is empty if only URLs are checked.
fn look(field: &str, value: &Spanned<DeValue>, mistakes: &mut Mistakes) {
    match value.get_ref() {
        DeValue::String(text) => {
            let from = match field {
                "user" => password_of_user(text),
                "" if !text.contains("://") => None,
                _ if IMAGES.contains(&field) => password_from(untagged(text)),
                _ => password_from(text),
            };
            from.into_iter().for_each(|from| mistakes.hide_from(&value.span(), text, from));
        }
        DeValue::Array(values) => values.iter().for_each(|value| look(field, value, mistakes)),
        DeValue::Table(table) => {
            for (name, value) in table {
                let (at, name) = (name.span(), name.get_ref().as_ref());
                match field.is_empty() {
                    true => look("", value, mistakes),
                    false if WITHOUT_LOGIN.contains(&name) => {}
                    false => {
                        // The name of a registry is a host, and may have a password in front of it.
                        password_from(name).into_iter().for_each(|from| mistakes.hide_from(&at, name, from));
                        look(name, value, mistakes);
                    }
                }
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_colon_without_a_port_may_begin_a_password() {
        for (value, shown) in [
            ("root:pw", "root:"),
            ("root:pw:198.18.0.11", "root:"),
            ("root:pw:198.18.0.11:22", "root:"),
            ("root:p@ss:198.18.0.11", "root:"),
            ("http://me:pw:proxy.example:3128", "http://me:"),
            ("http://me:a/b:proxy.example:3128", "http://me:"),
            ("http://me:12/34:proxy.example:3128", "http://me:"),
            ("me:pw:proxy.example:3128", "me:"),
            ("http:/me:pw:proxy.example", "http:"),
            ("https://me:pw:registry.example/v2/x", "https://me:"),
            ("me:12:198.18.0.11", "me:"),
            ("abc:12:198.18.0.11", "abc:"),
        ] {
            assert_eq!(password_from(value).map(|at| &value[..at]), Some(shown), "{value}");
        }
    }

    #[test]
    fn a_host_with_a_port_has_no_password() {
        for value in [
            "198.18.0.11",
            "198.18.0.11:22",
            "198.18.0.2[1-2]:22",
            "m1.example.com:22[01-20]",
            "[fd00::1]:2222",
            "fd00::1",
            "fd00::/48",
            "fe80::1%eth0",
            "fd00:0:0:0:0:0:0:1",
            "http://proxy.example:3128",
            "https://pkgs.k8s.io/core:/stable:/v{minor}/deb/",
            "http://me:pw@proxy:3128",
            "root@198.18.0.11",
            "ops@bastion:2222",
            "secrets/r.password",
            "",
        ] {
            assert_eq!(password_from(value), None, "{value}");
        }
        assert_eq!(password_from(untagged("docker.io/Flannel:v1@sha256:0a")), None);
        assert_eq!(password_from(untagged("me:pw:r.example/x:v1")), Some(3));
    }

    /// The report of an inventory with this text.
    fn report(text: &str) -> String {
        super::super::parse(text, "x.toml".as_ref()).unwrap_err().to_string()
    }

    #[test]
    fn ssh_passwords_are_hidden_with_a_hint() {
        for text in [
            "[ssh]\nuser = 'root:hunter-2'\n",
            "[ssh]\nuser = \"root:hunter-2 \\\" hunter\"\n",
            "[ssh]\nuser = 'root:x@hunter-2'\n",
            "[ssh]\njump = ['root:hunter-2@bastion']\n",
            "[ssh]\njump = ['root:hunter-2:bastion:22']\n",
            "[nodes.m1]\naddress = '10.0.0.1'\nuser = 'root:hunter-2'\n",
            "[nodes]\nm1 = { address = '10.0.0.1', user = 'root:hunter-2' }\n",
            "[nodes.m1]\naddress = 'root:hunter-2@10.0.0.1'\n",
            "[nodes.m1]\naddress = 'root:hunter-2:10.0.0.1'\n",
            "[nodes.m1]\naddress = 'root:x@hunter-2:10.0.0.1'\n",
            "[nodes.'w[1-2]']\naddress = 'root:hunter-2:10.0.0.[1-2]'\n",
        ] {
            let error = report(text);
            assert!(!error.contains("hunter"), "{text}: {error}");
            assert!(
                error.contains("[secret]") && error.contains("a password does not belong in `"),
                "{error}"
            );
            assert!(error.contains("--password-command") && error.contains("docs/ssh.md"), "{error}");
        }
        for text in [
            "[ssh]\nuser = ['root', 'hunter-2']\n",
            "[ssh]\nuser = { name = 'root', word = 'hunter-2' }\n",
            "[ssh]\njump = 'root:hunter-2:bastion'\n",
            "[ssh]\npasword = 'hunter-2'\n",
            "[nodes.m1]\npass = 'hunter-2'\n",
            "[nodes.m1]\nip = 'root:hunter-2:10.0.0.1'\naddress = 'x'\n",
            "[nodes]\nm1 = 'root:hunter-2:10.0.0.1'\n",
            "[ssh]\nkey = ['hunter-2']\n",
            "pasword = 'hunter-2'\n",
        ] {
            let error = report(text);
            assert!(!error.contains("hunter") && error.contains("[secret]"), "{text}: {error}");
        }
    }

    #[test]
    fn a_password_in_a_url_without_at_is_hidden() {
        for text in [
            "[proxy]\nhttp = 'http://me:hunter-2:proxy.example:3128'\n",
            "[proxy]\nhttps = 'http://me:12/hunter-2:proxy.example:3128'\n",
            "[proxy]\nhttps = 'me:hunter-2:proxy.example:3128'\n",
            "[packages]\nkubernetes = 'https://me:hunter-2:packages.example/deb/'\n",
            "[registries.'docker.io']\nmirrors = ['https://me:hunter-2:m.example']\n",
            "[addons.x]\nmanifest = 'https://me:hunter-2:files.example/x.yaml'\n",
        ] {
            let error = report(text);
            assert!(!error.contains("hunter"), "{text}: {error}");
            assert!(error.contains("[secret]") && error.contains(URL_LOGIN), "{error}");
        }
        for text in [
            "[proxy]\nno = ['me:hunter-2:proxy.example']\n",
            "[proxy]\nhttp = ['http://me:hunter-2:proxy.example']\n",
            "[registries.'me:hunter-2:r.example']\nmirrors = ['https://m.example']\n",
            "[registries.'docker.io']\nmirrors = 'https://me:hunter-2:m.example'\n",
            "[cluster]\nimage-repository = 'me:hunter-2:r.example/x'\n",
            "[cluster]\nendpoint = 'me:hunter-2:api.example'\n",
            "[addons.x]\nmanifest = 'me:hunter-2:files.example/x.yaml'\n",
            "[flannel]\nimage = 'me:hunter-2:r.example/flannel'\n",
            "[etcd]\nproxy = ['http://me:hunter-2:proxy', 1.5]\n",
        ] {
            let error = report(text);
            assert!(!error.contains("hunter") && error.contains("[secret]"), "{text}: {error}");
        }
    }

    #[test]
    fn an_unreadable_line_shows_no_password() {
        for text in [
            "[registries.'r.example']\npasword = hunter-2\n",
            "[registries.'r.example']\npasswort = 'hunter-2\n",
            "[registries.'r.example']\ntokne = \"hunter-2\" x\n",
            "[registries.'r.example']\nuser = 'me', pasword = 'hunter-2'\n",
            "[registries.'r.example']\npassword: hunter-2\n",
            "[registries]\nx = { user = 'me', pasword = hunter-2 }\n",
            "[ssh]\nuser = root:hunter-2\n",
            "[ssh]\nlogin = [\n'hunter-2,\n",
            "[ssh]\npass = '''\nhunter-2",
            "[ssh]\npass = '''\nhunter-2\n",
            "[proxy]\nhttp = http://me:hunter-2:proxy.example:3128\n",
            "pwd = 'hunter-2'\npwd = 'hunter-2'\n",
        ] {
            let error = report(text);
            assert!(!error.contains("hunter"), "{text}: {error}");
            assert!(error.contains(" --> x.toml:"), "the report shows the place: {error}");
        }
    }
}
