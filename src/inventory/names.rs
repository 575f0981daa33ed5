//! Rules for the form of names, addresses and URLs. They come from Kubernetes and from container images. All functions
//! are pure. The modules that read the inventory report mistakes and their places.

use std::net::IpAddr;

fn is_alphanumeric(c: char) -> bool {
    c.is_ascii_lowercase() || c.is_ascii_digit()
}

/// Whether the text is an RFC 1123 label, such as the name of a cluster.
pub fn is_label(text: &str) -> bool {
    let inner = |c: char| is_alphanumeric(c) || c == '-';
    text.len() <= 63
        && text.chars().all(inner)
        && text.starts_with(is_alphanumeric)
        && text.ends_with(is_alphanumeric)
}

/// The rule for names of users, for messages.
pub const USER: &str = "a user name has only a-z, A-Z, 0-9 and . _ @ % + -, and begins with a letter, a digit or _; a \\ may \
                        follow a Windows domain, as in CORP\\me";

/// Whether the text can be the name of a user to log in as. The name reaches programs that read some characters as something
/// else. sudo reads `#1` as a uid and `!` as a negation. A shell expands `*` and `~`. ssh_config may put the name into a
/// shell's command line (`ProxyCommand … %r`). So a name may have only the characters that names of users need.
pub fn is_user(text: &str) -> bool {
    let plain = |part: &str| {
        let inner = |c: char| c.is_ascii_alphanumeric() || "._@%+-".contains(c);
        part.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_') && part.chars().all(inner)
    };
    match text.split_once('\\') {
        Some((domain, name)) => plain(domain) && plain(name),
        None => plain(text),
    }
}

/// Whether the text is an RFC 1123 subdomain: a DNS name in lower case.
pub fn is_subdomain(text: &str) -> bool {
    text.len() <= 253 && text.split('.').all(is_label)
}

/// Whether the text is an address, or a name that can be looked up.
pub fn is_host(text: &str) -> bool {
    text.parse::<IpAddr>().is_ok() || (!is_broken_ip(text) && is_subdomain(&text.to_lowercase()))
}

/// Whether the text has only digits and dots, and is not an address.
pub fn is_broken_ip(text: &str) -> bool {
    text.chars().all(|c| c.is_ascii_digit() || c == '.') && text.parse::<IpAddr>().is_err()
}

/// Splits `host`, `host:port`, `[::1]`, `[::1]:port` or `::1` into the host, and the port if there is one.
pub fn host_and_port(text: &str) -> Option<(&str, Option<u16>)> {
    let port = |digits: &str| digits.parse::<u16>().ok().filter(|port| *port > 0);
    if let Some((host, rest)) = text.strip_prefix('[').and_then(|text| text.split_once(']')) {
        host.parse::<std::net::Ipv6Addr>().ok()?;
        return match rest.strip_prefix(':') {
            Some(digits) => Some((host, Some(port(digits)?))),
            None => rest.is_empty().then_some((host, None)),
        };
    }
    match text.split_once(':') {
        Some((_, rest)) if rest.contains(':') => text.parse::<IpAddr>().ok().map(|_| (text, None)),
        Some((host, digits)) => Some((host, Some(port(digits)?))),
        None => Some((text, None)),
    }
}

/// Whether the text can be the key of a label or a taint. It is a name, optionally with a DNS prefix and a slash before it.
pub fn is_key(text: &str) -> bool {
    match text.split_once('/') {
        Some((prefix, name)) => is_subdomain(prefix) && !name.is_empty() && is_value(name),
        None => !text.is_empty() && is_value(text),
    }
}

/// Whether the text can be the value of a label or a taint. It may be empty.
pub fn is_value(text: &str) -> bool {
    let inner = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let outer = |c: char| c.is_ascii_alphanumeric();
    text.is_empty()
        || (text.len() <= 63 && text.chars().all(inner) && text.starts_with(outer) && text.ends_with(outer))
}

/// Whether the text is an absolute path of plain names, without `.`, `..` and a `/` at the end.
pub fn is_path(text: &str) -> bool {
    let inner = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let name = |name: &str| !name.is_empty() && name != "." && name != ".." && name.chars().all(inner);
    text.strip_prefix('/').is_some_and(|names| names.split('/').all(name))
}

/// Folders of the system, of the kubelet and of containerd. Everything below them counts, too.
const TAKEN: &[&str] = &[
    "/bin",
    "/boot",
    "/dev",
    "/etc",
    "/lib",
    "/lib32",
    "/lib64",
    "/libx32",
    "/lost+found",
    "/opt/cni",
    "/opt/containerd",
    "/proc",
    "/run",
    "/sbin",
    "/sys",
    "/tmp",
    "/usr",
    "/var/backups",
    "/var/cache",
    "/var/lib/apt",
    "/var/lib/cni",
    "/var/lib/containerd",
    "/var/lib/dpkg",
    "/var/lib/ironstrap",
    "/var/lib/kubelet",
    "/var/lib/systemd",
    "/var/lock",
    "/var/log",
    "/var/mail",
    "/var/run",
    "/var/spool",
    "/var/tmp",
];
/// Folders that several programs share. A folder below one of them may belong to one program.
const SHARED: &[&str] = &["/var/lib", "/var/local", "/var/opt", "/root/.ssh"];

/// Whether a folder can belong to one program alone. This is important because a reset deletes its contents.
pub fn is_own_folder(text: &str) -> bool {
    let is_in =
        |taken: &&str| text == *taken || text.strip_prefix(*taken).is_some_and(|rest| rest.starts_with('/'));
    let names = text.split('/').count() - 1;
    let is_home = text.starts_with("/home/") && names == 2;
    is_path(text) && names >= 2 && !is_home && !SHARED.contains(&text) && !TAKEN.iter().any(is_in)
}

/// Whether the text is a URL: `http://` or `https://`, a host, and maybe a port and a path. A query is not accepted.
pub fn is_url(text: &str) -> bool {
    let Some(rest) = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://")) else {
        return false;
    };
    let authority = rest.split('/').next().unwrap_or_default();
    let host = authority.rsplit('@').next().unwrap_or_default();
    let path_is_plain =
        !rest.contains(|c: char| c.is_whitespace() || c.is_control() || "?#\"'\\".contains(c));
    path_is_plain && host_and_port(host).is_some_and(|(host, _)| is_host(host))
}

/// Whether the text is a registry as images name it: a host, and optionally a port. `_default` counts, too.
pub fn is_registry(text: &str) -> bool {
    text == "_default" || host_and_port(text).is_some_and(|(host, _)| is_host(host))
}

/// Whether the text is a registry and a path in it, without a tag.
pub fn is_repository(text: &str) -> bool {
    let mut parts = text.split('/');
    let path = |part: &str| {
        let inner = |c: char| is_alphanumeric(c) || "-_.".contains(c);
        part.chars().all(inner) && part.starts_with(is_alphanumeric) && part.ends_with(is_alphanumeric)
    };
    parts.next().is_some_and(is_registry) && parts.all(path)
}

/// The repository of an image that has a tag or a digest. `None` means that the image has neither, or is not valid.
pub fn image(text: &str) -> Option<&str> {
    if let Some((repository, digest)) = text.split_once("@sha256:") {
        let hex =
            digest.len() == 64 && digest.chars().all(|c| c.is_ascii_digit() || ('a'..='f').contains(&c));
        let repository = image(repository).unwrap_or(repository);
        return (hex && is_repository(repository)).then_some(repository);
    }
    let (repository, tag) = text.rsplit_once(':')?;
    let inner = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let tag_is_plain = !tag.is_empty() && tag.len() <= 128 && tag.chars().all(inner);
    (tag_is_plain && is_repository(repository)).then_some(repository)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_system_folder_is_not_accepted_as_own_folder() {
        for path in
            ["/var/lib/etcd", "/srv/etcd", "/mnt/disk-1/etcd.d", "/home/etcd/data", "/var/lib/kubelets"]
        {
            assert!(is_own_folder(path), "{path}");
        }
        let wrong = "|/|/srv|/data|srv/etcd|../x|/srv/../etc|/srv/./x|/srv/etcd/|/srv//etcd|/etc/x|/usr/x|/var|/var/lib|\
            /var/lib/kubelet|/var/lib/containerd/x|/var/lib/ironstrap|/home/me|/proc/x|/boot/x|/run/etcd|/tmp/etcd|\
            /var/lib/etcd NETWORK=x|/var/lib/$(id)|/var/lib/`id`|/var/lib/e'|/var/lib/\n";
        for path in wrong.split('|') {
            assert!(!is_own_folder(path), "{path}");
        }
    }

    #[test]
    fn a_host_may_have_a_port() {
        assert_eq!(host_and_port("m1"), Some(("m1", None)));
        assert_eq!(host_and_port("m1:2222"), Some(("m1", Some(2222))));
        assert_eq!(host_and_port("[::1]:22"), Some(("::1", Some(22))));
        assert_eq!(host_and_port("[::1]"), Some(("::1", None)));
        assert_eq!(host_and_port("fd00::1"), Some(("fd00::1", None)));
        for wrong in ["m1:", "m1:0", "m1:65536", "[::1]22", "[m1]:22", "a:b:c"] {
            assert_eq!(host_and_port(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn an_image_needs_a_tag_or_a_digest() {
        let digest = "a".repeat(64);
        for right in ["docker.io/flannel/flannel:v0.27.4", "198.18.0.1:5000/x/y:1", "r.io/x:y"] {
            assert!(image(right).is_some(), "{right}");
        }
        assert!(image(&format!("r.io/x@sha256:{digest}")).is_some());
        assert!(image(&format!("r.io/x:1@sha256:{digest}")).is_some());
        assert_eq!(image(&format!("r.io/x:1@sha256:{digest}")), Some("r.io/x"));
        assert!(
            image(&format!("r.io/x:1@sha256:{}", "A".repeat(64))).is_none(),
            "containerd accepts only lower case"
        );
        assert!(image(&format!("r.io/x:1@sha512:{digest}")).is_none());
        for wrong in ["docker.io/flannel/flannel", "198.18.0.1:5000/x/y", "r.io/x:", "r.io/x@sha256:12"] {
            assert!(image(wrong).is_none(), "{wrong}");
        }
    }

    #[test]
    fn label_keys_and_values_follow_the_rules_of_kubernetes() {
        for right in ["disk", "example.com/disk", "A_b.c-D"] {
            assert!(is_key(right), "{right}");
        }
        for wrong in ["", "/disk", "example.com/", "Example.com/disk", "a/b/c", "-a", "a b"] {
            assert!(!is_key(wrong), "{wrong}");
        }
        assert!(is_value("") && !is_value(&"a".repeat(64)) && !is_value("a/b"));
    }

    #[test]
    fn user_names_contain_no_shell_or_sudo_syntax() {
        for right in ["root", "me@example.com", "CORP\\me", "a.b-c_d", "0", "_apt", "me%x", "CORP+me"] {
            assert!(is_user(right), "{right}");
        }
        let special = "'`\"$;&<>|(){} \t\n\u{7}#!*~?[]^=,:/";
        assert!(special.chars().all(|c| !is_user(&format!("a{c}b")) && !is_user(&format!("{c}b"))));
        for wrong in [
            "", "-l", "me\\", "\\me", "A\\b\\c", "A\\-l", "$USER", "#0", "#x", "!x", "a*", "~root", "%g",
            "@g", "+g", "..", "über",
        ] {
            assert!(!is_user(wrong), "{wrong}");
        }
    }

    #[test]
    fn a_malformed_address_is_no_host_name() {
        assert!(is_host("198.18.0.11") && is_host("fd00::1") && is_host("M1.example.com"));
        assert!(!is_host("198.18.0.256") && !is_host("198.18.0") && !is_host("a b") && !is_host(""));
    }

    #[test]
    fn a_url_needs_a_scheme_and_a_host() {
        for right in
            ["http://198.18.0.1:5000", "https://a.b/core:/stable:/v1.36/deb/", "http://u:p@proxy:3128"]
        {
            assert!(is_url(right), "{right}");
        }
        for wrong in ["a.b", "ftp://a.b", "https://", "https://a b", "http://a.b:0", "https://a.b/?x"] {
            assert!(!is_url(wrong), "{wrong}");
        }
    }
}
