//! pki: the files of the cluster PKI are on control planes, where kubeadm expects to find them.

use crate::error::Result;
use crate::pki::{CERTIFICATES_DIR, in_words};
use crate::step::{Ask, Cx, Step, Verdict, WITH_THE_MEMBER, Want};

pub const STEP: Step =
    Step { name: "pki", why: "kubeadm uses these certificates and keys, and creates none of its own", wants };

fn wants(cx: &Cx) -> Result<Vec<Want>> {
    let mut wants: Vec<Want> = cx.pki.files(cx.node).into_iter().map(file).collect();
    if !cx.node.is_control_plane() {
        wants.push(authority(cx));
    }
    Ok(wants)
}

fn file(file: crate::pki::File) -> Want {
    let name = file.path.strip_prefix(CERTIFICATES_DIR).unwrap_or(&file.path).trim_start_matches('/');
    let that = format!("{name} matches the cluster PKI");
    // The API server and etcd read these files as root, so a narrower mode will do.
    let want = match file.path.ends_with(".crt") {
        true => certificate(that, &file.path, file.text),
        false => Want::secret_file("pki.file", that, &file.path, file.mode, file.text),
    };
    want.of(name).allow_narrower_mode()
}

/// The want for a certificate file. A certificate is public, so that the report can describe a change in words.
fn certificate(that: String, path: &str, text: &str) -> Want {
    let wanted = format!("mode 644 root:root\n{text}");
    Want { ask: Ask::File(path.into()), ..Want::secret_file("pki.file", that, path, 0o644, text) }
        .judged_presence(move |have| {
            let words = |file: &str| {
                let (mode, pem) = file.split_once('\n').unwrap_or((file, ""));
                // An answer lacks the last line break, but the hash must be that of the file.
                format!("{mode}\n{}", in_words(&format!("{}\n", pem.trim_end())))
            };
            match have {
                Some(have) if have.trim_end() == wanted.trim_end() => Verdict::Holds,
                _ => Verdict::Differs { have: have.map(words).unwrap_or_default(), want: words(&wanted) },
            }
        })
}

/// The want for the CA certificate on a worker. kubeadm's join brings it there, and a join that finds one stops.
fn authority(cx: &Cx) -> Want {
    let path = format!("{CERTIFICATES_DIR}/ca.crt");
    certificate("ca.crt matches the cluster PKI".into(), &path, &cx.pki.ca.cert)
        .of("ca.crt")
        .only(cx.machine.is_member())
        .nothing_to_undo(WITH_THE_MEMBER)
        .allow_narrower_mode()
}
