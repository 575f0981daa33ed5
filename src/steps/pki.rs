//! pki: the trust, laid out on control planes as kubeadm expects to find it.

use crate::error::Result;
use crate::step::{Cx, Step, Want};

pub const STEP: Step = Step {
    name: "pki",
    why: "kubeadm takes these certificates and keys as they are, and makes none of its own",
    wants,
};

fn wants(cx: &Cx) -> Result<Vec<Want>> {
    let want = |file: crate::pki::File| {
        let name = file.path.strip_prefix("/etc/kubernetes/pki/").unwrap_or(&file.path);
        Want::secret_file(format!("{name} is the trust's"), &file.path, file.mode, file.text)
    };
    Ok(cx.trust.files(cx.node).into_iter().map(want).collect())
}
