//! The list of wants read backwards: for each want whose fix ever ran on a machine, that what was there before is
//! back. What comes of it are wants again, so the same loop plans them, carries them out and asks again.

use std::collections::BTreeMap;

use crate::error::Result;
use crate::shell::{Sh, sh};
use crate::step::{Ask, Back, Cx, Fix, Step, Undo, Verdict, Want};
use crate::steps::{Needs, On, STAGES, Stage, Via};

use notes::Key;

mod notes;

/// Where the node keeps what was there before.
const BEFORE: &str = "/var/lib/ironstrap/before";
/// What an ask prints where nothing was ever changed, or all is back.
const NOT_KEPT: &str = "not kept";

const THE_WAY_BACK: &str = "it is the way back";

const LEDGER: Step =
    Step { name: "ledger", why: "what was kept for this day is not needed any more", wants: |_| Ok(vec![]) };

/// The stages in which a machine goes back: what stands against it, then its membership first and our own notes last.
pub fn stages() -> Vec<Stage> {
    let own = STAGES.iter().rev().filter(|stage| stage.is_own());
    let back = own.map(|stage| Stage { needs: Needs::Nothing, ..*stage });
    let stage = |name, steps| Stage { name, on: On::Every, via: Via::Node, needs: Needs::Nothing, steps };
    let (notes, ledger) = (stage("notes", &[notes::STEP]), stage("ledger", &[LEDGER]));
    [notes].into_iter().chain(back).chain([ledger]).collect()
}

/// What a stage wants of a machine on its way back, each want with its step.
pub fn wants(stage: &Stage, cx: &Cx) -> Result<Vec<(&'static Step, Want)>> {
    if stage.name == notes::STEP.name {
        return Ok(notes::wants(&keys(cx)?));
    }
    let mut all = Vec::new();
    for step in stage.steps.iter().rev() {
        let mut forward = (step.wants)(cx)?;
        forward.reverse();
        // Stable: units come after the files that they read.
        forward.sort_by_key(|want| matches!(&want.undo, Undo::Back(back) if back.last));
        all.extend(forward.iter().filter_map(|want| Some((step, back(step, want)?))));
    }
    if stage.name == LEDGER.name {
        all.extend([orphans(&keys(cx)?), nothing_left()].map(|want| (&stage.steps[0], want)));
    }
    Ok(all)
}

/// What this inventory's wants are kept under.
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
        Undo::Nothing(_) => return None,
        Undo::File(path) => file(&key, path, matches!(want.ask, Ask::Hash(_))),
        Undo::Edit { path, back } => {
            let back = back.clone();
            let that = format!("{path} has nothing of ours in it");
            let want = Want::edit("", that, path, move |text| back(text), str::to_string);
            want.nothing_to_undo(THE_WAY_BACK)
        }
        Undo::Back(back) => shell(&key, back, want),
    };
    Some(Want { id: want.id.clone(), ..back })
}

/// Asks for what is there and what was, a line each with `now` or `was` in front.
fn asks(entries: &Sh, now: &Sh, was: &Sh) -> Sh {
    sh!(
        "{entries} || { echo {NOT_KEPT}; exit 0; }\nnow() {\n{now}\n}\nx=$(now)\n\
         [ -z \"$x\" ] || printf '%s\\n' \"$x\" | sed 's/^/now /'\n{was}",
        entries,
        NOT_KEPT,
        now,
        was
    )
}

/// As `asks` puts it; what was not there, and what only machines read, is not shown.
fn judge(answer: &str) -> Verdict {
    if answer == NOT_KEPT {
        return Verdict::Holds;
    }
    let lines = |sign: &str| -> String {
        let lines = answer.lines().filter_map(|line| line.strip_prefix(sign)?.strip_prefix(' '));
        let shown =
            lines.filter(|line| *line != "absent" && !line.ends_with(" absent") && !line.starts_with('{'));
        shown.map(|line| format!("{line}\n")).collect()
    };
    Verdict::Differs { have: lines("now"), want: lines("was") }
}

/// Of what is nobody's business only the name is shown.
fn file(key: &str, path: &str, secret: bool) -> Want {
    let entry = format!("{BEFORE}/{key}");
    let shown = |file: &str, sign: Sh| match secret {
        true => Sh::raw(":"),
        false => sh!("[ ! -f {file} ] || { x=$(cat <{file}); printf '%s\\n' \"$x\"{sign}; }", file, sign),
    };
    let was = shown(&format!("{entry}.file"), Sh::raw(" | sed 's/^/was /'"));
    let kept = sh!("[ -e {entry}.file ] || [ -e {entry}.absent ]", entry);
    Want::new("", format!("{path} is as before"))
        .ask(asks(&kept, &shown(path, Sh::EMPTY), &was))
        .judged(judge)
        .run(sh!("restore {key}", key))
        .touches(&[path])
        .nothing_to_undo(THE_WAY_BACK)
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
    let undone = Want::new("", &back.that)
        .ask(asks(&kept, &now, &sh!("sed 's/^/was /' {entry}.answer", entry)))
        .judged(judge)
        .nothing_to_undo(THE_WAY_BACK);
    // What took long to do may take long to undo.
    match want.fix {
        Fix::Unit { name, minutes, .. } => undone.run_as_unit(name, minutes, script),
        _ => undone.run(script),
    }
}

/// Files that were written when the inventory said something else.
fn orphans(known: &[Key]) -> Want {
    let known: Vec<String> = known.iter().map(|key| format!(" {}", key.name)).collect();
    let each = sh!(
        "known={known}\nfor f in {BEFORE}/*.path; do\n  [ -e \"$f\" ] || continue\n  key=${f##*/} key=${key%.path}\n  \
         case \"$known \" in *\" $key \"*) continue ;; esac\n",
        known = known.concat(),
        BEFORE
    );
    Want::new("ledger.files", "files that an earlier inventory called for are as before")
        .ask(each.clone() + "  read -r path <\"$f\"\n  echo \"$path\"\ndone")
        .is("")
        // Drop-ins may be among them.
        .run(each + "  restore \"$key\"\ndone\nsystemctl daemon-reload")
        .nothing_to_undo(THE_WAY_BACK)
}

/// The last of all. The folders that were made for our files go with it, where nobody else put something into them.
fn nothing_left() -> Want {
    Want::new("ledger.empty", "nothing of ironstrap is left")
        .ask("for d in /var/lib/ironstrap /run/ironstrap; do [ ! -e $d ] || echo $d; done")
        .is("")
        .run("tidy\nrm -rf $KEPT $RUN")
        .nothing_to_undo(THE_WAY_BACK)
}
