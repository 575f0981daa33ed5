//! Reads the list of wants backwards. For each want whose fix ever ran on a machine, it makes a want that the
//! earlier state is back. So the same loop plans these wants, fixes them and asks again.

use std::collections::BTreeMap;

use crate::error::Result;
use crate::shell::{Sh, sh};
use crate::step::{Ask, Back, Cx, Fix, Step, Undo, Verdict, Want};
use crate::steps::{Needs, On, STAGES, Stage, Via};

use notes::Key;

mod notes;

/// Where the node keeps the state from before ironstrap.
const BEFORE: &str = "/var/lib/ironstrap/before";

const LEDGER: Step = Step {
    name: "ledger",
    why: "after a reset, the saved earlier state is not needed any more",
    wants: |cx| Ok(vec![orphans(&keys(cx)?), nothing_left()]),
};

/// The stages of a reset. They begin with what stands against it. Then come the machine's own stages in reverse
/// order, so that the membership goes before what prepared it. Our own notes go last.
pub fn stages() -> Vec<Stage> {
    let own = STAGES.iter().rev().filter(|stage| stage.is_own());
    let back = own.map(|stage| Stage { needs: Needs::Nothing, ..*stage });
    let stage = |name, steps| Stage { name, on: On::Every, via: Via::Node, needs: Needs::Nothing, steps };
    let (notes, ledger) = (stage("notes", &[notes::STEP]), stage("ledger", &[LEDGER]));
    [notes].into_iter().chain(back).chain([ledger]).collect()
}

/// The wants of one stage of a reset, each with its step.
pub fn wants(stage: &Stage, cx: &Cx) -> Result<Vec<(&'static Step, Want)>> {
    let mut all = Vec::new();
    for step in stage.steps.iter().rev() {
        let wants = (step.wants)(cx)?;
        let (own, mut forward): (Vec<Want>, Vec<Want>) =
            wants.into_iter().partition(|want| matches!(want.undo, Undo::OfReset));
        forward.reverse();
        // The sort is stable. Units come after the files that they read.
        forward.sort_by_key(|want| matches!(&want.undo, Undo::Back(back) if back.last));
        all.extend(forward.iter().filter_map(|want| Some((step, back(step, want)?))));
        all.extend(own.into_iter().map(|want| (step, want)));
    }
    Ok(all)
}

/// The keys under which a node keeps the state from before, for the wants of this inventory.
fn keys(cx: &Cx) -> Result<Vec<Key>> {
    let mut keys: BTreeMap<String, Key> = BTreeMap::new();
    for stage in STAGES.iter().filter(|stage| stage.is_asked_of(cx.node)) {
        for step in stage.steps {
            for want in (step.wants)(cx)? {
                let Some(name) = want.undo.key(step.name) else { continue };
                let (file, is_edit) = match &want.undo {
                    Undo::File(path) => (Some(path.clone()), false),
                    undo => (None, matches!(undo, Undo::Edit { .. })),
                };
                keys.insert(name.clone(), Key { name, file, is_edit });
            }
        }
    }
    Ok(keys.into_values().collect())
}

fn back(step: &Step, want: &Want) -> Option<Want> {
    let key = want.undo.key(step.name)?;
    let back = match &want.undo {
        Undo::Nothing(_) | Undo::OfReset => return None,
        Undo::File(path) => file(&key, path, matches!(want.ask, Ask::Hash(_))),
        Undo::Edit { path, back } => {
            let back = back.clone();
            let that = format!("{path} has no line of ironstrap");
            let want = Want::edit("", that, path, move |text| back(text), str::to_string);
            want.undone_by(Undo::OfReset)
        }
        Undo::Back(back) => shell(&key, back, want),
    };
    Some(Want { id: want.id.clone(), ..back })
}

/// Shell that asks for the present state and the one from before. Each line begins with `now` or `was`. A machine on which
/// nothing was ever changed, or everything is back, has nothing to tell.
fn asks(entries: &Sh, now: &Sh, was: &Sh) -> Sh {
    sh!(
        "{entries} || not_here\nnow() {\n{now}\n}\nx=$(now)\n\
         [ -z \"$x\" ] || printf '%s\\n' \"$x\" | sed 's/^/now /'\n{was}",
        entries,
        now,
        was
    )
}

/// Judges an answer to `asks`. It does not show what was not there, nor what only programs read. `ask`: the one whose answer
/// both parts have the form of.
fn judge(ask: &Ask, answer: &str) -> Verdict {
    let lines = |sign: &str| -> String {
        let lines = answer.lines().filter_map(|line| line.strip_prefix(sign)?.strip_prefix(' '));
        let shown =
            lines.filter(|line| *line != "absent" && !line.ends_with(" absent") && !line.starts_with('{'));
        let text: String = shown.map(|line| ask.in_words(line) + "\n").collect();
        if text.trim().is_empty() { String::new() } else { text }
    };
    Verdict::Differs { have: lines("now"), want: lines("was") }
}

/// The want that a file is as before. If the file is secret, nothing but its name is shown.
fn file(key: &str, path: &str, secret: bool) -> Want {
    let entry = format!("{BEFORE}/{key}");
    let shown = |file: &str, sign: Sh| match secret {
        true => Sh::raw(":"),
        false => sh!("[ ! -f {file} ] || { x=$(cat <{file}); printf '%s\\n' \"$x\"{sign}; }", file, sign),
    };
    let was = shown(&format!("{entry}.file"), Sh::raw(" | sed 's/^/was /'"));
    let kept = sh!("[ -e {entry}.file ] || [ -e {entry}.absent ]", entry);
    let of = Ask::File(path.into());
    Want::new("", format!("{path} is restored to its earlier state"))
        .ask(asks(&kept, &shown(path, Sh::EMPTY), &was))
        .judged(move |answer| judge(&of, answer))
        .run(sh!("restore {key}", key))
        .touches(&[path])
        .undone_by(Undo::OfReset)
}

fn shell(key: &str, back: &Back, want: &Want) -> Want {
    let entry = format!("{BEFORE}/{key}");
    let script = sh!(
        "was={entry}.answer kept={entry}.kept\n( set -eu\n{script}\n)\nforget {key}",
        entry,
        script = back.script,
        key
    );
    let now = if back.now.is_empty() { Sh::raw(":") } else { back.now.clone() };
    let kept = sh!("[ -e {entry}.answer ]", entry);
    let of = want.ask.clone();
    let undone = Want::new("", &back.that)
        .ask(asks(&kept, &now, &sh!("sed 's/^/was /' {entry}.answer", entry)))
        .judged(move |answer| judge(&of, answer))
        .undone_by(Undo::OfReset);
    // A fix that takes long may take long to undo.
    match want.fix {
        Fix::Unit { name, minutes, .. } => undone.run_as_unit(name, minutes, script),
        _ => undone.run(script),
    }
}

/// The want that files of an earlier inventory are as before. ironstrap wrote them when the inventory said something else.
fn orphans(known: &[Key]) -> Want {
    let known: Vec<String> = known.iter().map(|key| format!(" {}", key.name)).collect();
    let each = sh!(
        "known={known}\nfor f in {BEFORE}/*.path; do\n  [ -e \"$f\" ] || continue\n  key=${f##*/} key=${key%.path}\n  \
         case \"$known \" in *\" $key \"*) continue ;; esac\n",
        known = known.concat(),
        BEFORE
    );
    Want::new("ledger.files", "files of an earlier inventory are restored to their earlier state")
        .ask(each.clone() + "  read -r path <\"$f\"\n  echo \"$path\"\ndone")
        .is("")
        // Drop-ins may be among these files, so systemd must read its units again.
        .run(each + "  restore \"$key\"\ndone\nsystemctl daemon-reload")
        .undone_by(Undo::OfReset)
}

/// The last want of a reset. Its fix also removes the folders that were made for our files, unless somebody
/// else put something into them.
fn nothing_left() -> Want {
    Want::new("ledger.empty", "nothing of ironstrap is left")
        .ask("for d in /var/lib/ironstrap /run/ironstrap; do [ ! -e $d ] || echo $d; done")
        .is("")
        .run("remove_empty_dirs\nrm -rf $KEPT $RUN")
        .undone_by(Undo::OfReset)
}
