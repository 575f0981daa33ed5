//! Runs the questions of the preflight checks with real shells and programs. The paths of the machine point below a
//! folder.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;

use ironstrap::fleet::Fleet;
use ironstrap::machine::Machine;
use ironstrap::step::{Answer, Fix, Want};
use time::OffsetDateTime;

use crate::support::root::{Root, templates};
use crate::support::{lab, pki, shells, wants};

/// The paths of the machine that point below the folder.
const PATHS: [&str; 6] =
    ["/etc/", "/var/lib/", "/run/", "/usr/local/lib/", "/usr/lib/modules/", "/sys/module/"];

/// A machine with these files. ROOT in a file is the folder.
fn root_with(files: &[(&str, &str)]) -> Root {
    let apt = "apt-get -o APT::Update::Post-Invoke::='touch ROOT/hook' -q -o Dir::Etc=ROOT/etc/apt";
    Root::new(&PATHS)
        .replacing("apt-get -q", apt)
        .replacing("apt-cache -o", "true -o")
        .replacing("-e /usr/bin/", "-e ROOT/usr/bin/")
        .before(&templates(&["lib"]))
        .with(0o644, files)
}

fn want(id: &str) -> Want {
    let cluster = lab();
    let (pki, about) = (pki(&cluster), (&Machine::default(), &Fleet::default()));
    let wants = wants((&cluster, &cluster.nodes[0]), &pki, about, OffsetDateTime::now_utc());
    wants.into_iter().map(|(.., want)| want).find(|want| want.id.to_string() == id).unwrap()
}

fn said(text: &str) -> Answer {
    Answer::Said(text.into())
}

/// Returns whether this machine has a program. Prints that the test is skipped if it has not.
fn has(program: &str) -> bool {
    let has = which::which(program).is_ok();
    if !has {
        std::io::stderr().write_all(format!("SKIPPED: this machine has no {program}\n").as_bytes()).unwrap();
    }
    has
}

/// An entry of dpkg's status file.
fn package(name: &str, status: &str, fields: &str) -> String {
    format!(
        "Package: {name}\nStatus: {status}\nArchitecture: all\nMaintainer: x <x@example.com>\nVersion: 1.0\n{fields}Description: x\n\n"
    )
}

const CONTAINERD_IO: &str = "Provides: containerd, runc\nConflicts: containerd, runc\n";

/// A machine with these packages and this apt-get. `None` if the host has no dpkg-query.
fn packaged(packages: &[String], apt: &str) -> Option<Root> {
    if which::which("dpkg-query").is_err() {
        std::io::Write::write_all(&mut std::io::stderr(), b"SKIPPED: this machine has no dpkg-query\n")
            .unwrap();
        return None;
    }
    let dpkg = "#!/bin/sh\nexec /usr/bin/dpkg-query --admindir=ROOT/dpkg \"$@\"\n";
    Some(root_with(&[
        ("dpkg/status", &packages.concat()),
        ("dpkg/info/x", ""),
        ("dpkg/updates/x/y", ""),
        ("bin/dpkg-query", dpkg),
        ("bin/apt-get", &format!("#!/bin/sh\necho \"$*\" >>ROOT/apt\n{apt}\n")),
    ]))
}

const NO_LISTS: &str = "echo 'E: Unable to locate package containerd' >&2; exit 100";

#[test]
fn package_conflicts_are_found_without_apt_lists() {
    let want = want("preflight.package-removals");
    let docker = package("docker-ce", "install ok installed", "Depends: libc6, containerd.io (>= 1.7)\n");
    let containerd = |status: &str| package("containerd.io", status, CONTAINERD_IO);
    let installed = "install ok installed";
    let gone = "containerd.io would be removed\n";
    let cases = [
        (vec![containerd(installed)], gone.to_string()),
        (vec![containerd(installed), docker.clone()], format!("{gone}docker-ce would be removed\n")),
        (
            vec![containerd("hold ok installed"), docker.clone()],
            "containerd.io (on hold) would be removed\ndocker-ce would be removed\n".into(),
        ),
        // Packages that depend on a removed one, directly or not, go too. Packages with another alternative stay.
        (
            vec![
                containerd(installed),
                package("a", installed, "Depends: runc\n"),
                package("b", installed, "Depends: docker-ce | docker.io\n"),
                package("c", installed, "Depends: docker-ce | d\n"),
                package("d", installed, ""),
                docker,
            ],
            format!("b would be removed\n{gone}docker-ce would be removed\n"),
        ),
        (vec![containerd("deinstall ok config-files")], String::new()),
        (vec![package("docker.io", installed, "Breaks: containerd (<< 1.2)\n")], String::new()),
        (
            vec![
                package("containerd", "hold ok installed", ""),
                package("x", installed, "Conflicts: containerd.io\n"),
            ],
            String::new(),
        ),
    ];
    for (packages, right) in cases {
        let Some(root) = packaged(&packages, NO_LISTS) else { return };
        for shell in shells() {
            assert_eq!(root.answer(shell, &want.ask), said(&right), "{shell}: {packages:#?}");
        }
    }
}

#[test]
fn packages_that_apt_would_remove_or_change_are_named() {
    let want = want("preflight.package-removals");
    let installed = "install ok installed";
    let packages = [
        package("kubelet", "hold ok installed", ""),
        package("runc", "hold ok installed", ""),
        package("libc6", installed, ""),
        package("x", installed, ""),
    ];
    let apt = "cat <<'X'\nReading package lists...\nRemv x [1.0]\nInst runc [1.0] (1.1 Debian:13 [amd64])\n\
               Inst libc6 [1.0] (1.1 Debian:13 [amd64])\nInst kubelet [1.0] (1.36.3-1.1 k [amd64])\n\
               Inst containerd (1.7.24 Debian:13 [amd64])\nConf containerd (1.7.24 Debian:13 [amd64])\nX";
    let Some(root) = packaged(&packages, apt) else { return };
    for shell in shells() {
        let right = "runc (on hold) would be changed\nx would be removed\n";
        assert_eq!(root.answer(shell, &want.ask), said(right), "{shell}");
        let asked = fs::read_to_string(root.path("apt")).unwrap();
        assert!(
            asked.lines().all(|line| line.starts_with("-s ") && line.contains(" --ignore-hold ")),
            "{asked}"
        );
        assert!(asked.contains(" kubelet=1.36.3-* "), "{asked}");
    }
    let member = root_with(&[
        ("var/lib/kubelet/pki/kubelet-client-current.pem", ""),
        ("bin/apt-get", "#!/bin/sh\nexit 1\n"),
    ]);
    assert_eq!(member.answer(shells()[0], &want.ask), Answer::NotHere);
}

/// Starts a web server that has only a list of Kubernetes' packages.
fn serve() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for guest in listener.incoming() {
            let (mut guest, mut asked) = (guest.unwrap(), Vec::new());
            while !asked.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                if guest.read(&mut byte).unwrap_or(0) == 0 {
                    break;
                }
                asked.push(byte[0]);
            }
            let (status, text) = match asked.starts_with(b"GET /deb/Packages ") {
                true => ("200 OK", "Package: kubelet\nVersion: 1.36.3-1.1\n"),
                false => ("404 Not Found", ""),
            };
            let head =
                format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", text.len());
            let _ = guest.write_all(format!("{head}{text}").as_bytes());
        }
    });
    port
}

#[test]
fn an_unreadable_apt_source_is_named_with_its_line() {
    if !has("apt-get") {
        return;
    }
    let port = serve();
    // No program listens on this port.
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let old = format!("# old\ndeb [arch=amd64] http://127.0.0.1:{port}/gone kubernetes-xenial main\n");
    let main = format!(
        "deb cdrom:[Debian GNU/Linux 13.0.0 _Trixie_ - Official amd64 DVD]/ trixie main\n\n\
         deb [trusted=yes] http://127.0.0.1:{port}/flat/ ./\n#deb http://127.0.0.1:{port}/gone kubernetes-xenial main\n"
    );
    let new = format!(
        "# a\nTypes: deb\nURIs: http://127.0.0.1:{port}/other\n http://127.0.0.1:{closed}/closed/\nSuites: trixie\nComponents: main\n"
    );
    let mut cluster = lab();
    cluster.packages.kubernetes = format!("http://127.0.0.1:{port}/deb/");
    let ask = ironstrap::active_checks::alone(&cluster, &cluster.nodes[0], false).remove(0);
    let refused = |shell: &str, files: &[(&str, &str)]| {
        let root = root_with(files);
        let Answer::Said(text) = root.answer(shell, &ask) else { panic!("{shell}") };
        assert!(!root.path("hook").exists(), "{shell}: apt ran the hooks of the machine");
        text.lines().filter_map(|line| line.strip_prefix("source ")).map(str::to_string).collect::<Vec<_>>()
    };
    let files = [
        ("etc/apt/sources.list", main.as_str()),
        ("etc/apt/sources.list.d/kubernetes.list", &old),
        ("etc/apt/sources.list.d/more.sources", &new),
    ];
    for shell in shells() {
        let found = refused(shell, &files);
        let places: Vec<&str> = found.iter().map(|line| line.split(": ").next().unwrap()).collect();
        let right = [
            "/etc/apt/sources.list:1",
            "/etc/apt/sources.list.d/kubernetes.list:2",
            "/etc/apt/sources.list.d/more.sources:3",
            "/etc/apt/sources.list.d/more.sources:4",
        ];
        assert_eq!(BTreeSet::from_iter(places), BTreeSet::from(right), "{shell}: {found:#?}");
        let of = |place: &str| found.iter().find(|line| line.starts_with(place)).unwrap();
        assert!(of(right[1]).contains("does not have a Release file"), "{found:#?}");
        assert!(of(right[3]).contains("onnect"), "{found:#?}");

        let broken = refused(shell, &[("etc/apt/sources.list.d/bad.list", "deb http://x.example\n")]);
        assert!(
            broken.len() == 1 && broken[0].contains("entry 1 in list file /etc/apt/sources.list.d/bad.list"),
            "{broken:?}"
        );
        let fine = [("etc/apt/sources.list", "# nothing\n"), ("usr/bin/containerd", "")];
        assert_eq!(refused(shell, &fine), [""; 0], "{shell}");
        let installed = [files[0], ("usr/bin/containerd", ""), ("usr/bin/kubelet", "")];
        assert_eq!(refused(shell, &installed), [""; 0], "{shell}: nothing will be installed");
    }
}

#[test]
fn a_source_with_a_conflicting_key_is_named_with_its_line() {
    if !has("apt-get") {
        return;
    }
    let ask = want("preflight.package-sources").ask;
    let url = lab().packages.address();
    let stanza = |key: &str| format!("Types: deb\nURIs: {url}\nSuites: /\nSigned-By: {key}\n");
    let line = |key: &str| format!("deb [signed-by={key}] {url} /\n");
    let ours = "ROOT/etc/apt/keyrings/kubernetes-apt-keyring.asc";
    for shell in shells() {
        let answer = |files: &[(&str, &str)]| match root_with(files).answer(shell, &ask) {
            Answer::Said(text) => text,
            other => panic!("{shell}: {other}"),
        };
        let found = answer(&[("etc/apt/sources.list.d/k8s.sources", &stanza("/etc/apt/keyrings/mine.asc"))]);
        assert!(
            found.starts_with(
                "/etc/apt/sources.list.d/k8s.sources:2: Conflicting values set for option Signed-By"
            ),
            "{found}"
        );
        let found = answer(&[("etc/apt/sources.list", &format!("\n{}", line("/etc/apt/keyrings/mine.asc")))]);
        assert!(found.starts_with("/etc/apt/sources.list:2: Conflicting"), "{found}");
        // No conflict: the file that ironstrap replaces, the same key, and a machine without sources.
        assert_eq!(
            answer(&[("etc/apt/sources.list.d/kubernetes.list", &line("/etc/apt/keyrings/mine.asc"))]),
            ""
        );
        assert_eq!(answer(&[("etc/apt/sources.list.d/other.list", &line(ours))]), "");
        assert_eq!(answer(&[]), "");
    }
}

const OWN: &str = "[Service]
Environment=\"KUBELET_KUBECONFIG_ARGS=--bootstrap-kubeconfig=/etc/kubernetes/bootstrap-kubelet.conf --kubeconfig=/etc/kubernetes/kubelet.conf\"
Environment=HTTPS_PROXY=http://proxy.example:3128
EnvironmentFile=-/var/lib/kubelet/kubeadm-flags.env
EnvironmentFile=-/etc/default/kubelet
ExecStart=
ExecStart=/usr/bin/kubelet $KUBELET_KUBECONFIG_ARGS $KUBELET_CONFIG_ARGS $KUBELET_EXTRA_ARGS
";

#[test]
fn extra_kubelet_flags_are_found_and_removed() {
    let more = "[Service]\nCPUWeight=200\nEnvironmentFile=-/etc/sysconfig/kubelet\nExecStart=\nExecStart=/usr/bin/kubelet $A \\\n  --max-pods=5 \\\n  $B\n";
    let files = [
        ("etc/default/kubelet", "# earlier\nKUBELET_EXTRA_ARGS=\"--node-ip=10.0.2.15 --v=4\"\nOTHER=1\n"),
        ("etc/sysconfig/kubelet", "A=--hostname-override=node-b\n"),
        (
            "etc/systemd/system/kubelet.service",
            "[Service]\nExecStart=/usr/local/bin/kubelet --x=1\n[Install]\nWantedBy=multi-user.target\n",
        ),
        ("etc/systemd/system/kubelet.service.d/10-kubeadm.conf", OWN),
        ("etc/systemd/system/kubelet.service.d/20-more.conf", more),
        (
            "run/systemd/system/kubelet.service.d/30-more.conf",
            "[Service]\nEnvironment='A=--max-pods=6' \"B=--root-dir=/data\"\n",
        ),
        ("var/lib/kubelet/kubeadm-flags.env", "KUBELET_KUBEADM_ARGS=\"--node-ip=10.0.0.1\"\n"),
        (
            "bin/systemctl",
            "#!/bin/sh\necho \"$*\" >>ROOT/systemctl\ncase $* in *Type*) echo notify ;; esac\n",
        ),
    ];
    let want = want("kubelet.no-flags");
    let Fix::Run(fix) = &want.fix else { panic!("{:?}", want.fix) };
    for shell in shells() {
        // systemd reads paths inside files, so they have to point below the folder too.
        let moved = |root: &Root, name: &str| {
            let path = root.path(name);
            fs::write(&path, root.moved(&fs::read_to_string(&path).unwrap())).unwrap();
        };
        let root = root_with(&files);
        ["10-kubeadm.conf", "20-more.conf"]
            .iter()
            .for_each(|name| moved(&root, &format!("etc/systemd/system/kubelet.service.d/{name}")));
        let found = "/etc/default/kubelet:2: --node-ip=10.0.2.15\n\
                     /etc/systemd/system/kubelet.service:2: ExecStart=/usr/local/bin/kubelet\n\
                     /etc/systemd/system/kubelet.service.d/20-more.conf:5: --max-pods=5\n\
                     /run/systemd/system/kubelet.service.d/30-more.conf:2: --max-pods=6 --root-dir=/data\n\
                     /etc/sysconfig/kubelet:1: --hostname-override=node-b\n";
        assert_eq!(root.answer(shell, &want.ask), said(found), "{shell}");
        let done = root.run(shell, &fix.to_string());
        assert!(
            done.status.success() && done.stderr.is_empty(),
            "{shell}: {}",
            String::from_utf8_lossy(&done.stderr)
        );
        assert_eq!(root.answer(shell, &want.ask), said(""), "{shell}");
        let text = |name: &str| fs::read_to_string(root.path(name)).unwrap();
        assert_eq!(
            text("etc/default/kubelet"),
            "# earlier\n# ironstrap: KUBELET_EXTRA_ARGS=\"--node-ip=10.0.2.15 --v=4\"\nOTHER=1\n"
        );
        let drop_in = text("etc/systemd/system/kubelet.service.d/20-more.conf");
        assert!(
            drop_in.contains("\nCPUWeight=200\n") && drop_in.contains("\n# ironstrap: ExecStart=\n"),
            "{drop_in}"
        );
        assert!(drop_in.contains("# ironstrap:   --max-pods=5 \\\n# ironstrap:   $B\n"), "{drop_in}");
        assert!(
            text("systemctl").contains("daemon-reload\nis-active -q kubelet\nrestart kubelet\n"),
            "{}",
            text("systemctl")
        );
        let key = root.text().replace('/', "-");
        let kept = text(&format!("var/lib/ironstrap/before/kubelet-args{key}-etc-default-kubelet.file"));
        assert_eq!(kept, files[0].1, "{shell}");
        assert_eq!(root_with(&files[6..]).answer(shell, &want.ask), said(""), "{shell}: kubeadm's own");
    }
}

#[test]
fn the_hosts_template_of_cloud_init_gets_the_names() {
    let want = want("hosts.cloud-init");
    let Fix::Run(fix) = &want.fix else { panic!("{:?}", want.fix) };
    let template = "## template:jinja\n127.0.1.1 {{fqdn}} {{hostname}}\n198.18.0.99 m9 # ironstrap: demo\n198.18.0.7 x # ironstrap: demo2\n";
    let path = "etc/cloud/templates/hosts.debian.tmpl";
    let manages = ["true", "True", "template", "'true'"].map(|value| format!("manage_etc_hosts: {value}\n"));
    for shell in shells() {
        for manages in &manages {
            let root = root_with(&[
                (path, template),
                ("etc/cloud/cloud.cfg", "manage_etc_hosts: false\n"),
                ("etc/cloud/cloud.cfg.d/99.cfg", manages),
            ]);
            assert_eq!(
                root.answer(shell, &want.ask),
                said("198.18.0.99 m9 # ironstrap: demo\n"),
                "{shell}: {manages}"
            );
            let done = root.run(shell, &fix.to_string());
            assert!(
                done.status.success() && done.stderr.is_empty(),
                "{shell}: {}",
                String::from_utf8_lossy(&done.stderr)
            );
            let Answer::Said(lines) = root.answer(shell, &want.ask) else { panic!("{shell}") };
            let ironstrap::step::Expect::Judged(judge) = &want.expect else { panic!() };
            assert_eq!(judge(&lines), ironstrap::step::Verdict::Holds, "{shell}: {lines}");
            assert!(
                lines.starts_with("198.18.0.11 api.demo.internal # ironstrap: demo\n")
                    && lines.contains("198.18.0.13 w2 "),
                "{lines}"
            );
            let text = fs::read_to_string(root.path(path)).unwrap();
            assert!(text.starts_with("## template:jinja\n127.0.1.1 {{fqdn}} {{hostname}}\n198.18.0.7 x # ironstrap: demo2\n198.18.0.11 "), "{text}");
            let kept =
                fs::read_to_string(root.path("var/lib/ironstrap/before/hosts-cloud-init.file")).unwrap();
            assert_eq!(kept, template);
        }
        let user =
            ("var/lib/cloud/instance/cloud-config.txt", "#cloud-config\nmanage_etc_hosts: localhost\n");
        let of = ("etc/cloud/cloud.cfg", "manage_etc_hosts: true\n");
        for files in [
            vec![],
            vec![of],
            vec![(path, template)],
            vec![(path, template), ("etc/cloud/cloud.cfg", "# manage_etc_hosts: true\n")],
            vec![(path, template), of, user],
            vec![(path, template), of, ("etc/cloud/cloud-init.disabled", "")],
        ] {
            assert_eq!(root_with(&files).answer(shell, &want.ask), Answer::NotHere, "{shell}: {files:?}");
        }
        // Vendor data of a provider: the second file overrides the first, and the user's data overrides both.
        let first = "var/lib/cloud/instance/vendor-cloud-config.txt";
        let second = "var/lib/cloud/instance/vendor2-cloud-config.txt";
        let (on, off) = ("manage_etc_hosts: true\n", "manage_etc_hosts: false\n");
        for (more, is) in [
            (vec![(first, on)], true),
            (vec![(second, on)], true),
            (vec![(first, off), (second, on)], true),
            (vec![(first, on), (second, off)], false),
            (vec![(second, on), user], false),
        ] {
            let files: Vec<(&str, &str)> =
                [(path, template), ("etc/cloud/cloud.cfg", off)].into_iter().chain(more).collect();
            let line = "198.18.0.99 m9 # ironstrap: demo\n";
            let right = if is { said(line) } else { Answer::NotHere };
            assert_eq!(root_with(&files).answer(shell, &want.ask), right, "{shell}: {files:?}");
        }
    }
}

#[test]
fn services_that_enable_swap_are_found_and_disabled() {
    let want = want("swap.services");
    let Fix::Run(fix) = &want.fix else { panic!("{:?}", want.fix) };
    let wants = |name: &str| format!("etc/systemd/system/multi-user.target.wants/{name}.service");
    let unit = |start: &str| {
        format!("[Unit]\nDescription=swapon\n[Service]\nExecStart={start}\nExecStop=/sbin/swapoff -a\n")
    };
    let files = [
        (wants("plain"), unit("/usr/sbin/swapon /swap.img")),
        (wants("shell"), unit("-/bin/sh -c 'mkswap /dev/zram0 && swapon /dev/zram0'")),
        (wants("zramswap"), unit("ROOT/usr/sbin/zramswap start")),
        (wants("ssh"), unit("ROOT/usr/sbin/sshd -D")),
        (wants("notes"), unit("ROOT/usr/sbin/notes")),
        (wants("gone"), unit("ROOT/usr/sbin/gone")),
        ("etc/systemd/system/unwanted.service".into(), unit("/usr/sbin/swapon -a")),
        ("usr/sbin/zramswap".into(), "#!/bin/bash\nfunction start {\n  swapon -p 100 /dev/zram0\n}\n".into()),
        ("usr/sbin/sshd".into(), "\u{7f}ELF\n swapon \n".into()),
        ("usr/sbin/notes".into(), "#!/bin/sh\necho noswapon swapons\n".into()),
        ("bin/systemctl".into(), "#!/bin/sh\necho \"$*\" >>ROOT/systemctl\nif [ \"$1\" = disable ]; then rm -f ROOT/etc/systemd/system/*.wants/$4; fi\n".into()),
        ("bin/swapoff".into(), "#!/bin/sh\necho swapoff >>ROOT/systemctl\n".into()),
    ];
    let files: Vec<(&str, &str)> = files.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
    for shell in shells() {
        let root = root_with(&files);
        assert_eq!(
            root.answer(shell, &want.ask),
            said("plain.service\nshell.service\nzramswap.service\n"),
            "{shell}"
        );
        let done = root.run(shell, &fix.to_string());
        assert!(
            done.status.success() && done.stderr.is_empty(),
            "{shell}: {}",
            String::from_utf8_lossy(&done.stderr)
        );
        let did = fs::read_to_string(root.path("systemctl")).unwrap();
        assert!(
            did.starts_with("disable -q --now plain.service\nreset-failed plain.service\n")
                && did.ends_with("swapoff\n"),
            "{did}"
        );
        assert_eq!(root.answer(shell, &want.ask), said(""), "{shell}");
        assert_eq!(root_with(&[]).answer(shell, &want.ask), said(""), "{shell}");
    }
}

#[test]
fn missing_kernel_modules_are_named() {
    let ask = want("preflight.kernel-modules").ask;
    let uname = ("bin/uname", "#!/bin/sh\necho 6.12.41\n");
    let modprobe = (
        "bin/modprobe",
        "#!/bin/sh\n[ \"$1 $2\" = '-n -q' ] && [ \"$3\" != vxlan ] && [ \"$3\" != nf_tables ]\n",
    );
    let none = ("bin/modprobe", "#!/bin/sh\nexit 1\n");
    let loaded = ("sys/module/nf_tables/refcnt", "1\n");
    let (mine, newer) =
        (("usr/lib/modules/6.12.41/modules.dep", ""), ("usr/lib/modules/6.12.48/modules.dep", ""));
    for shell in shells() {
        let cases: [(&[(&str, &str)], &str); 5] = [
            (
                &[uname, modprobe, mine],
                "no module nf_tables for kernel 6.12.41\nno module vxlan for kernel 6.12.41\n",
            ),
            (&[uname, modprobe, mine, loaded], "no module vxlan for kernel 6.12.41\n"),
            (
                &[uname, none, newer],
                "no modules for the running kernel 6.12.41 in /usr/lib/modules, only for 6.12.48\n",
            ),
            (&[uname, none], ""),
            (&[uname, ("bin/modprobe", "#!/bin/sh\n"), mine], ""),
        ];
        for (files, right) in cases {
            assert_eq!(root_with(files).answer(shell, &ask), said(right), "{shell}: {files:?}");
        }
    }
}

#[test]
fn unsafe_parent_folders_of_etcd_data_are_named() {
    let ask = want("preflight.etcd-folder").ask;
    // All folders belong to root, except those that `odd` names.
    let stat = |odd: &str| {
        format!("#!/bin/sh\nfor p; do :; done\ncase ${{p#ROOT}} in\n{odd}\n  *) echo 0 0 755 ;;\nesac\n")
    };
    let cases = [
        ("", "", ""),
        ("/var/lib) echo 1000 0 755 ;;", "", "/var/lib belongs to uid 1000\n"),
        ("/var/lib) echo 0 0 1777 ;;", "", "/var/lib is writable by all users (mode 1777)\n"),
        ("/var/lib) echo 0 50 2775 ;;", "", "/var/lib is writable by gid 50 (mode 2775)\n"),
        ("/var/lib) echo 0 0 775 ;;", "", ""),
        ("/var/lib/etcd) echo 1000 0 700 ;;", "", ""),
        ("/home/me) echo 1000 0 755 ;;", "/home/me/etcd", "/home/me belongs to uid 1000\n"),
        ("/home/me) echo 1000 0 755 ;;", "../../home/me/./etcd", "/home/me belongs to uid 1000\n"),
        ("/home/me) echo 1000 0 755 ;;", "/home/me/link", "/home/me belongs to uid 1000\n"),
    ];
    for shell in shells() {
        for (odd, link, right) in cases {
            let root =
                root_with(&[("bin/stat", &stat(odd)), ("home/me/x", ""), ("var/lib/x", ""), ("srv/x", "")]);
            let at = |path: &str| root.path(path);
            std::os::unix::fs::symlink(at("srv"), at("home/me/link")).unwrap();
            match link.strip_prefix('/') {
                Some(link) => std::os::unix::fs::symlink(at(link), at("var/lib/etcd")).unwrap(),
                None if !link.is_empty() => std::os::unix::fs::symlink(link, at("var/lib/etcd")).unwrap(),
                None => {}
            }
            assert_eq!(root.answer(shell, &ask), said(right), "{shell}: {odd} {link}");
        }
        let root =
            root_with(&[("bin/stat", &stat("/var/lib/etcd) echo 1000 0 700 ;;")), ("var/lib/etcd/x", "")]);
        assert_eq!(root.answer(shell, &ask), said("/var/lib/etcd belongs to uid 1000\n"), "{shell}");
        // The real stat, for the folder of all temporary files.
        let everybody = root_with(&[("var/lib/x", "")]).answer(shell, &ask);
        let Answer::Said(text) = &everybody else { panic!("{everybody:?}") };
        assert!(text.contains("is writable by all users (mode 1777)"), "{text}");
        // If stat fails, the state is unknown.
        let unknown = root_with(&[("bin/stat", "#!/bin/sh\nexit 1\n")]).answer(shell, &ask);
        assert!(matches!(unknown, Answer::Unknown(_)), "{unknown:?}");
    }
}
