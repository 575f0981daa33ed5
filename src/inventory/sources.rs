//! Reads the sources of downloads: registries, packages, proxies.

use ipnet::IpNet;

use super::diagnostic::{Mistakes, Span};
use super::doubt::{URL_LOGIN, password_from};
use super::files::Folder;
use super::general::strings;
use super::names;
use super::table::{Table, Text};
use crate::cluster::{Login, Packages, Proxy, Registry, authority, direct, login};
use crate::secret::{SecretText, learn_field};

const URL: &str = "this is not a URL; a URL begins with http:// or https:// and a host";

/// Reports a text that is not a URL, or that has an `@` in its path. Such an `@` comes from a password with a `/` in
/// it, whose first part would be taken for a host. Returns whether the URL is right.
fn check_url(url: &str, at: &Span, mistakes: &mut Mistakes) -> bool {
    let path = url.split_once("://").and_then(|(_, rest)| rest.split_once('/')).map_or("", |(_, path)| path);
    match names::is_url(url) {
        true if !path.contains('@') => return true,
        true => mistakes.add_help(at, "this URL has an @ after its first /", "write / in a password as %2F"),
        false if password_from(url).is_some() => mistakes.add_help(at, URL, URL_LOGIN),
        false if url.contains('@') => mistakes.add_help(at, URL, "write / ? # in a password as %2F %3F %23"),
        false => mistakes.add(at, URL),
    }
    false
}

/// Reads `[registries]`, in the order of the file.
pub fn registries(root: &Table, folder: &Folder, mistakes: &mut Mistakes) -> Vec<Registry> {
    let tables = root.named("registries");
    let read: Vec<_> = tables.iter().map(|(host, table)| registry(host, table, folder, mistakes)).collect();
    one_login_per_host(&tables, &read, mistakes);
    read
}

fn registry(host: &Text, table: &Table, folder: &Folder, mistakes: &mut Mistakes) -> Registry {
    if !names::is_registry(host.is) {
        let says = "a registry is a host with an optional port, as in the names of images";
        mistakes.add_help(
            &host.at,
            says,
            "as in [registries.\"docker.io\"]; `_default` stands for all others",
        );
    }
    let login = registry_login(table, folder, mistakes);
    let ca = table.text("ca");
    let skip_verify = table.switch("skip-verify");
    if ca.is_some() && skip_verify {
        let says =
            "with `skip-verify` certificates are not verified, so `ca` has no effect; keep only one of them";
        mistakes.add(&table.at("skip-verify"), says);
    }
    let has_login = ["user", "password", "password-file"].iter().any(|name| table.value(name).is_some());
    let says_more = has_login || ca.is_some() || skip_verify;
    let mirrors = mirrors(host, table, says_more, mistakes);
    Registry {
        host: host.is.to_string(),
        fallback: table.switch("fallback") && !mirrors.is_empty(),
        mirrors: if mirrors.is_empty() { vec![direct(host.is)] } else { mirrors },
        ca: ca.and_then(|ca| folder.certificates(&ca, mistakes)),
        skip_verify,
        login,
    }
}

/// The URLs of the mirrors. A registry without mirrors must have another setting (`says_more`), such as a CA or a login.
fn mirrors(host: &Text, table: &Table, says_more: bool, mistakes: &mut Mistakes) -> Vec<String> {
    let mirrors = table.texts("mirrors");
    for mirror in &mirrors {
        if check_url(mirror.is, &mirror.at, mistakes) && login(mirror.is).1.is_some() {
            let says =
                "`mirrors` cannot have a user or a password, because containerd does not send those of a URL";
            let help = "write the URL without the part in front of the @, and set `user` and `password-file` below it";
            mistakes.add_help(&mirror.at, says, help);
        }
        if table.value("user").is_some() && mirror.is.starts_with("http://") {
            let says = "the password goes to this mirror over plain http, where others can read it";
            mistakes.warn(&mirror.at, says);
        }
    }
    let is_empty = |name: &str| {
        table.value(name).is_some_and(|value| value.get_ref().as_array().is_some_and(|all| all.is_empty()))
    };
    if is_empty("mirrors") {
        let help = "leave `mirrors` out to use the registry itself, with a CA or a login";
        mistakes.add_help(&table.at("mirrors"), "at least one mirror is required", help);
    } else if table.value("mirrors").is_none() {
        let all = "`_default` is not a host: set `mirrors`, or name the registry";
        let none =
            "this table has no setting of the registry: set `mirrors`, `ca`, or `user` and `password-file`";
        match host.is {
            "_default" => mistakes.add(&host.at, all),
            _ if !says_more => mistakes.add(&host.at, none),
            _ if table.value("fallback").is_some() => {
                mistakes.add(&table.at("fallback"), "without `mirrors` this has no effect");
            }
            _ => {}
        }
    }
    strings(mirrors)
}

/// Reads `user` with `password-file` or `password`.
fn registry_login(table: &Table, folder: &Folder, mistakes: &mut Mistakes) -> Option<Login> {
    let (user, file, written) = (table.text("user"), table.text("password-file"), table.text("password"));
    written.iter().for_each(|written| mistakes.hide(&written.at));
    // A `password-file` that names no file may be the password itself.
    let is_password = |file: &Text| !file.is.contains('/') && !folder.path(file.is).exists();
    let is_password = file.as_ref().is_some_and(is_password);
    if let Some(file) = file.as_ref().filter(|_| is_password) {
        mistakes.hide(&file.at);
    }
    let (at, has_password) = match (&file, &written) {
        (Some(file), Some(_)) => {
            mistakes.add(&file.at, "`password` is set, too; keep only one of them");
            return None;
        }
        (Some(text), None) | (None, Some(text)) => (text.at.clone(), true),
        (None, None) => (user.as_ref()?.at.clone(), false),
    };
    let Some(user) = user else {
        mistakes.add(&at, "a password needs a `user`");
        return None;
    };
    if !has_password {
        let help = "set password-file = \"registry.password\", a file that holds only the password";
        mistakes.add_help(&at, "a user needs a password", help);
        return None;
    }
    let password = match (&file, written) {
        (Some(file), _) if is_password => {
            mistakes.add(&file.at, "cannot read the file of `password-file`: there is no such file");
            return None;
        }
        (Some(file), _) => folder.read(file, mistakes)?.trim_end_matches(['\n', '\r']).to_string(),
        (None, written) => written?.is.to_string(),
    };
    learn_field("password", &password);
    if user.is.is_empty() || user.is.contains(|c: char| c == ':' || c.is_control()) {
        mistakes.add(&user.at, "a user name must not be empty, and must have no : and no control characters");
        return None;
    }
    if password.is_empty() || password.contains(char::is_control) {
        mistakes.add(&at, "the password must not be empty, and must be one line without control characters");
        return None;
    }
    Some(Login { user: user.is.to_string(), password: SecretText::new(password) })
}

/// Reports a host with two different logins. containerd finds a login by the host that it asks.
fn one_login_per_host(tables: &[(Text, Table)], read: &[Registry], mistakes: &mut Mistakes) {
    let logins = || {
        tables.iter().zip(read).flat_map(|((_, table), registry)| {
            let hosts = registry.mirrors.iter().map(|url| authority(url));
            registry.login.iter().flat_map(move |login| hosts.clone().map(move |host| (host, login, table)))
        })
    };
    for (n, (host, login, table)) in logins().enumerate() {
        if logins().take(n).any(|(other, before, _)| other == host && before != login) {
            let says = format!("{host} has another login above, but containerd supports only one per host");
            mistakes.add(&table.at("user"), says);
            return;
        }
    }
}

/// Reads `[packages]`. `minor` is a minor version such as `1.36`.
pub fn packages(root: &Table, minor: &str, folder: &Folder, mistakes: &mut Mistakes) -> Packages {
    let table = root.table("packages");
    let Some(url) = table.text("kubernetes") else {
        return Packages { kubernetes: String::new(), key: None };
    };
    let mut kubernetes = url.is.replace("{minor}", minor);
    if kubernetes.contains(['{', '}']) {
        mistakes.add(&url.at, "ironstrap replaces only {minor}, with the minor version, as in 1.36");
    } else if check_url(&kubernetes, &url.at, mistakes)
        && login(&kubernetes).1.is_some_and(|(user, password)| !is_plain(&user) || !is_plain(&password))
    {
        mistakes.add(&url.at, "apt does not accept a user or a password that contains blanks");
    }
    if kubernetes.starts_with("http://") && table.value("key").is_none() {
        let help = "set `key`, a file with the repository's signing key";
        mistakes.add_help(&url.at, "a signing key that is fetched over plain http can be forged", help);
    }
    if !kubernetes.ends_with('/') {
        kubernetes.push('/');
    }
    let key = table.text("key");
    let packages = Packages { kubernetes, key: None };
    let Some((at, keys)) = key.and_then(|key| Some((key.at.clone(), folder.public_keys(&key, mistakes)?)))
    else {
        return packages;
    };
    if let Some(pinned) =
        packages.pinned().filter(|pinned| keys.fingerprints.iter().any(|found| found != pinned))
    {
        let found = keys.fingerprints.join(", ");
        let says = "this is not the known signing key of pkgs.k8s.io";
        mistakes.warn(&at, format!("{says}: its fingerprint is {found}, not {pinned}"));
    }
    Packages { key: Some(keys.armored()), ..packages }
}

/// Whether apt_auth.conf(5) takes the text as one word.
fn is_plain(text: &str) -> bool {
    !text.contains(|c: char| c.is_whitespace() || c.is_control())
}

/// Whether the text is a host, a domain with a dot in front, an address or a range.
fn is_direct(text: &str) -> bool {
    let domain = text.strip_prefix('.').is_some_and(|domain| names::is_subdomain(&domain.to_lowercase()));
    domain || names::is_host(text) || text.parse::<IpNet>().is_ok()
}

/// Reads `[proxy]`.
pub fn proxy(root: &Table, mistakes: &mut Mistakes) -> Proxy {
    let table = root.table("proxy");
    let mut url = |name: &str| {
        let text = table.text(name)?;
        if !text.is.is_empty() && check_url(text.is, &text.at, mistakes) && password_from(text.is).is_some() {
            mistakes.add_help(
                &text.at,
                "a proxy is a host and a port, but this has a path with a :",
                URL_LOGIN,
            );
        }
        Some(text.is.to_string())
    };
    let (http, https) = (url("http").unwrap_or_default(), url("https").unwrap_or_default());
    let no = table.texts("no");
    for entry in no.iter().filter(|entry| !is_direct(entry.is)) {
        let says = "each entry must be one host, domain, address or range, without spaces or commas";
        mistakes.add_help(
            &entry.at,
            says,
            "as in \"example.com\", \".example.com\", \"198.18.0.11\" or \"198.18.0.0/15\"",
        );
    }
    Proxy { http, https, no: strings(no) }
}
