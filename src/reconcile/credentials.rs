//! Credentials that fixes need are signed when the fixes are sent: no plan holds one, and each lasts no longer than it
//! has to.

use time::{Duration, OffsetDateTime};

use super::Fleetwork;
use crate::error::Result;
use crate::pki::Credential;
use crate::plan::Change;
use crate::shell::{Sh, here, sh};
use crate::step::Fix;

impl<S> Fleetwork<S> {
    /// Puts into each fix the credential that it needs, as the shell function `credential`.
    pub(super) fn sign(&self, changes: &mut [Change]) -> Result<()> {
        // Fixes that are alike stay so: they are run once.
        let mut signed: Vec<(Credential, Sh)> = Vec::new();
        for change in changes {
            let Some(credential) = &change.credential else { continue };
            let head = match signed.iter().find(|(other, _)| other == credential) {
                Some((_, head)) => head.clone(),
                None => {
                    let head = self.signed(credential)?;
                    signed.push((credential.clone(), head.clone()));
                    head
                }
            };
            if let Fix::Run(script) | Fix::Unit { script, .. } = &mut change.fix {
                *script = head + &*script;
            }
        }
        Ok(())
    }

    fn signed(&self, credential: &Credential) -> Result<Sh> {
        let patience = Duration::seconds(self.run.wait.into());
        let signed = self.trust.sign(credential, &self.cluster, patience, OffsetDateTime::now_utc())?;
        Ok(sh!("credential() {\n{body}}\n", body = here("cat", &signed.kubeconfig)))
    }
}
