//! Questions that wait for the API server. On a control plane they begin before all other questions and run beside them.
//! Each answer waits in a file for its turn. The exit status comes from the question's process, so a killed question costs
//! no other answer.

use crate::shell::{Sh, sh};
use crate::step::Ask;

/// Returns the shell of a question to the API server that begins before the others.
pub(super) fn early(ask: &Ask) -> Option<&Sh> {
    if let Ask::Api { shell, early: true, .. } = ask { Some(shell) } else { None }
}

/// Makes the folder for the answers. Machines without an API server do not call kubectl.
const BEGIN: Sh = Sh::raw(
    "early=
if [ -e /etc/kubernetes/manifests/kube-apiserver.yaml ] && [ -d /run/ironstrap ]; then
  early=$(mktemp -d /run/ironstrap/answers.XXXXXX) || early=
fi
",
);

/// Starts those of these questions that are early.
pub(super) fn begin(questions: &[Ask]) -> Sh {
    let numbered = questions.iter().enumerate();
    let begin = numbered.filter_map(|(number, ask)| {
        let body = early(ask)?;
        Some(sh!(
            "early_{number}() {\nset -eu\n{body}\n}\n\
             if [ -n \"$early\" ]; then ( early_{number} ) >\"$early/{number}\" 2>\"$early/{number}.said\" 3>&- 7>&- & waits_{number}=$!; fi\n",
            number,
            body
        ))
    });
    let begin: Vec<Sh> = begin.collect();
    if begin.is_empty() { Sh::EMPTY } else { BEGIN + Sh::join("", begin) }
}

/// Prints the answer to the early question `number`, in the form of any other answer.
pub(super) fn answer(number: usize) -> Sh {
    sh!(
        "if [ -n \"$early\" ]; then\n  wait $waits_{number} 2>/dev/null; r=$?\n  cat \"$early/{number}\" 2>/dev/null || r=1\n  \
         e=; [ ! -s \"$early/{number}.said\" ] || e=$(cat \"$early/{number}.said\")\n\
         else e=$( ( early_{number} ) 2>&1 >&3 3>&- 7>&- ); r=$?; fi\n",
        number
    )
}

/// Deletes the folder that `begin` made.
pub(super) const END: Sh = Sh::raw("[ -z \"${early-}\" ] || rm -rf \"$early\"\n");
