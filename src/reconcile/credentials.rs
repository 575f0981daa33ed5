//! Signs the credentials that fixes need, at the moment when it sends the fixes. So no plan contains a credential, and each
//! is valid no longer than it has to be.

use time::{Duration, OffsetDateTime};

use super::Reconciler;
use crate::error::Result;
use crate::pki::Credential;
use crate::plan::Change;
use crate::shell::{Sh, here, sh};
use crate::step::Fix;

impl<S> Reconciler<S> {
    /// Puts into each fix the credential that it needs, as the shell function `credential`.
    pub(super) fn sign(&self, changes: &mut [Change]) -> Result<()> {
        // Equal fixes get the same credential, so that they stay equal and run only once.
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
        let signed = self.pki.sign(credential, &self.cluster, patience, OffsetDateTime::now_utc())?;
        Ok(sh!("credential() {\n{body}}\n", body = here("cat", &signed.kubeconfig)))
    }
}

#[cfg(test)]
mod tests {
    use crate::step::Answer;
    use std::sync::Arc;

    use super::*;
    use crate::ledger::Run;
    use crate::pki::tests::{cluster, pki};
    use crate::plan::State;
    use crate::report::Events;
    use crate::secret::hide;
    use crate::shell::{Output, Shell};

    /// The shell of a fleet in which ironstrap contacts no machine.
    struct Nobody;

    impl Shell for Nobody {
        async fn run(&self, _: &Sh, _: &mut (dyn FnMut(&[u8]) + Send)) -> Result<Output> {
            Ok(Output::default())
        }
    }

    fn change(that: &str, credential: Option<Credential>) -> Change {
        Change {
            step: "toy",
            why: "",
            id: Default::default(),
            that: that.into(),
            keeps: None,
            answer: Answer::NotHere,
            have: String::new(),
            want: String::new(),
            fix: Fix::Run("enter\n".into()),
            credential,
            disrupts: false,
            eventually: false,
            secret: false,
            touches: vec![],
            about: vec![],
            invalidates: false,
            blame: Default::default(),
            of_cluster: false,
            state: State::Ready,
        }
    }

    #[test]
    fn a_fix_gets_a_credential_whose_key_is_hidden() {
        let (events, _told) = Events::channel();
        let run = Run::new("1f", "me@here");
        let (cluster, shells) = (Arc::new(cluster()), Vec::<Nobody>::new());
        let work = Reconciler::new(cluster.clone(), &[], pki(), shells, run, events).unwrap();
        let joins = Credential::of_node("w1", &cluster, Duration::minutes(15));
        let mut changes =
            [change("a", Some(joins.clone())), change("b", None), change("c", Some(joins.clone()))];
        work.sign(&mut changes).unwrap();
        let scripts: Vec<String> = changes
            .iter()
            .map(|change| if let Fix::Run(script) = &change.fix { script.to_string() } else { panic!() })
            .collect();
        assert!(scripts[0].starts_with("credential() {\ncat <<'--") && scripts[0].ends_with("}\nenter\n"));
        assert_eq!(scripts[1], "enter\n", "a fix without a credential does not change");
        assert_eq!(scripts[0], scripts[2], "equal fixes stay equal, so they run once");

        let data = scripts[0].lines().find_map(|line| line.trim().strip_prefix("client-key-data: ")).unwrap();
        use base64::Engine;
        let key = base64::prelude::BASE64_STANDARD.decode(data).unwrap();
        let key = String::from_utf8(key).unwrap();
        for secret in [data, key.lines().nth(1).unwrap()] {
            assert_eq!(hide(&format!("it said {secret}")), "it said [secret]");
        }
        let again = work.signed(&joins).unwrap();
        assert!(!again.contains(data), "each credential has its own key");
    }
}
