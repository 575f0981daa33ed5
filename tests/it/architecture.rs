//! The rules of the project that a test can check: the order of the modules, the size of files, and banned words.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Every Rust file below a folder.
fn files(dir: &Path, into: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, into);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            into.push(path);
        }
    }
}

/// The files of `src`, each with its text.
fn sources() -> Vec<(PathBuf, String)> {
    let mut paths = Vec::new();
    files(Path::new("src"), &mut paths);
    paths.sort();
    paths.into_iter().map(|path| (path.clone(), fs::read_to_string(&path).unwrap())).collect()
}

/// The pages of `docs`.
fn documents() -> Vec<PathBuf> {
    let pages = fs::read_dir("docs").unwrap().map(|entry| entry.unwrap().path());
    let mut pages: Vec<PathBuf> =
        pages.filter(|path| path.extension().is_some_and(|extension| extension == "md")).collect();
    pages.sort();
    assert!(pages.len() > 10, "only {} pages in docs", pages.len());
    pages
}

/// The code of a file, without comments and tests.
fn program(path: &Path, text: &str) -> String {
    if path.file_stem().is_some_and(|stem| stem == "tests") || path.iter().any(|folder| folder == "tests") {
        return String::new();
    }
    let (mut lines, mut all) = (Vec::new(), text.lines().peekable());
    while let Some(line) = all.next() {
        let is_tests = all.peek().is_some_and(|next| next.ends_with("mod tests {"));
        if line.trim() == "#[cfg(test)]" && is_tests {
            break;
        }
        if !line.trim_start().starts_with("//") {
            lines.push(line);
        }
    }
    lines.join("\n")
}

/// The module of `lib.rs` that a file belongs to.
fn module(path: &Path) -> String {
    let first = path.components().nth(1).unwrap();
    Path::new(first.as_os_str()).file_stem().unwrap().to_string_lossy().into_owned()
}

/// The modules that are named after `crate::`, also in `use crate::{a, b}`.
fn used(program: &str) -> Vec<String> {
    let word = |text: &str| -> String {
        text.trim_start().chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect()
    };
    let mut used = Vec::new();
    for (at, _) in program.match_indices("crate::") {
        let rest = &program[at + "crate::".len()..];
        match rest.strip_prefix('{') {
            Some(list) => used.extend(list[..list.find('}').unwrap()].split(',').map(word)),
            None => used.push(word(rest)),
        }
    }
    used
}

#[test]
fn each_file_uses_only_modules_above_it() {
    let lib = fs::read_to_string("src/lib.rs").unwrap();
    let order: Vec<&str> =
        lib.lines().filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';')).collect();
    assert!(order.len() > 10, "lib.rs lists the modules");
    let place = |name: &str| order.iter().position(|module| *module == name);
    let mut wrong = Vec::new();
    for (path, text) in sources() {
        let module = module(&path);
        if module == "lib" || module == "main" {
            continue;
        }
        let own = place(&module).unwrap_or_else(|| panic!("{} is not in lib.rs", path.display()));
        for name in used(&program(&path, &text)) {
            match place(&name) {
                Some(place) if place <= own => {}
                Some(_) => wrong.push(format!("{} uses {name}, which is below it", path.display())),
                None => wrong.push(format!("{} uses {name}, which lib.rs does not list", path.display())),
            }
        }
    }
    assert_eq!(wrong, Vec::<String>::new());
}

/// The names after `super::` and after `crate::FOLDER::`, for a file of that folder.
fn beside(program: &str, folder: &Path) -> Vec<String> {
    let modules: Vec<_> = folder.iter().skip(1).map(|name| name.to_string_lossy()).collect();
    let whole = format!("crate::{}::", modules.join("::"));
    used(&program.replace(&whole, "crate::").replace("super::", "crate::"))
}

/// The files that use themselves through other files of their folder.
fn files_in_circles(uses: &BTreeMap<PathBuf, Vec<PathBuf>>) -> Vec<PathBuf> {
    let reached = |from: &PathBuf| {
        let (mut all, mut left) = (BTreeSet::new(), uses[from].clone());
        while let Some(file) = left.pop() {
            if all.insert(file.clone()) {
                left.extend(uses.get(&file).into_iter().flatten().cloned());
            }
        }
        all
    };
    uses.keys().filter(|file| reached(file).contains(*file)).cloned().collect()
}

#[test]
fn files_of_a_folder_have_no_circular_dependencies() {
    let mut uses: BTreeMap<PathBuf, Vec<PathBuf>> = BTreeMap::new();
    for (path, text) in sources() {
        let folder = path.parent().unwrap();
        let names = beside(&program(&path, &text), folder);
        let files: Vec<PathBuf> = names.into_iter().map(|name| folder.join(name + ".rs")).collect();
        uses.insert(path.clone(), files.into_iter().filter(|file| *file != path && file.exists()).collect());
    }
    assert!(uses.values().any(|files| !files.is_empty()), "files use others of their folder");
    assert_eq!(files_in_circles(&uses), Vec::<PathBuf>::new());
    let files = |names: &[&str]| names.iter().map(PathBuf::from).collect::<Vec<_>>();
    let three = [("a", files(&["b"])), ("b", files(&["c"])), ("c", files(&["b"]))];
    let three = three.map(|(name, uses)| (PathBuf::from(name), uses)).into_iter().collect();
    assert_eq!(files_in_circles(&three), files(&["b", "c"]));
}

#[test]
fn files_stay_below_400_lines() {
    let long = sources().into_iter().filter(|(_, text)| text.lines().count() > 400);
    assert_eq!(long.map(|(path, _)| path).collect::<Vec<_>>(), Vec::<PathBuf>::new());
}

/// The words of a text that can be names.
fn words(text: &str) -> BTreeSet<&str> {
    text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').filter(|word| !word.is_empty()).collect()
}

/// The names of public functions, constants and statics. A public type need not be named elsewhere: it may be that of a field.
fn public(program: &str) -> Vec<&str> {
    fn name(line: &str) -> Option<&str> {
        let rest = line.trim_start().strip_prefix("pub")?;
        let rest = if rest.starts_with('(') { rest.split_once(") ")?.1 } else { rest.strip_prefix(' ')? };
        let words: Vec<&str> = rest.splitn(4, ' ').collect();
        let at = words.iter().position(|word| ["fn", "const", "static"].contains(word))?;
        let at = if words[at] == "const" && ["fn", "async"].contains(words.get(at + 1)?) {
            at + 2
        } else {
            at + 1
        };
        let name = words.get(at)?;
        Some(&name[..name.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(name.len())])
    }
    program.lines().filter_map(name).collect()
}

#[test]
fn what_is_public_is_used_by_another_file() {
    let mut tests = Vec::new();
    files(Path::new("tests"), &mut tests);
    let tests: Vec<String> = tests.iter().map(|path| fs::read_to_string(path).unwrap()).collect();
    let tests: BTreeSet<&str> = tests.iter().flat_map(|text| words(text)).collect();
    let sources = sources();
    let sources: Vec<(&Path, &str, BTreeSet<&str>)> =
        sources.iter().map(|(path, text)| (path.as_path(), text.as_str(), words(text))).collect();
    let (mut all, mut unused) = (0, Vec::new());
    for (path, text, _) in &sources {
        for name in public(text) {
            all += 1;
            let others = sources.iter().filter(|(other, ..)| other != path);
            if !tests.contains(name) && !others.into_iter().any(|(.., words)| words.contains(name)) {
                unused.push(format!("{}: {name}", path.display()));
            }
        }
    }
    assert!(all > 500, "only {all} public items");
    assert_eq!(unused, Vec::<String>::new(), "make these private");
    let lines = "pub fn a(x: u8) {\n    pub(super) async fn b<T>() {\npub const C: u8 = 1;\npub const fn d() {}\npub struct E;\nfn f() {}";
    assert_eq!(public(lines), ["a", "b", "C", "d"]);
}

#[test]
fn the_program_has_no_open_tasks_and_no_unwrap() {
    // Joined from parts, so that a search for these words does not find this file.
    let (todo, fixme) = (["TO", "DO"].concat(), ["FIX", "ME"].concat());
    let mut wrong = Vec::new();
    for (path, text) in sources() {
        let said = |what: &str| format!("{}: {what}", path.display());
        wrong.extend([&todo, &fixme].into_iter().filter(|word| text.contains(*word)).map(|word| said(word)));
        let program = program(&path, &text);
        let banned = [".unwrap()", "todo!", "unimplemented!", "dbg!", "println!"];
        wrong.extend(banned.into_iter().filter(|word| program.contains(word)).map(said));
    }
    assert_eq!(wrong, Vec::<String>::new());
}

/// These files, and all files below these folders, with their texts.
fn texts(names: &[&str]) -> Vec<(PathBuf, String)> {
    let mut left: Vec<PathBuf> = names.iter().map(PathBuf::from).collect();
    let mut found = Vec::new();
    while let Some(path) = left.pop() {
        if path.is_dir() {
            left.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else {
            found.push((path.clone(), fs::read_to_string(&path).unwrap()));
        }
    }
    found
}

/// docs/glossary.md has the words that the project uses instead.
#[test]
fn texts_are_free_of_banned_words() {
    let banned = r"(?i)\b(whoever|whom|as wanted|let be|anew|is told|are told|all the same|for ever|is had|to be had|brings it about|see to it|of its own accord)\b";
    let banned = regex::Regex::new(banned).unwrap();
    let places = ["src", "templates", "docs", "inventories", "vagrant", "README.md", "Makefile"];
    let texts = texts(&places);
    assert!(texts.len() > 200, "{}", texts.len());
    let mut wrong = Vec::new();
    for (path, text) in texts {
        let lines = text.lines().enumerate().filter(|(_, line)| banned.is_match(line));
        wrong.extend(lines.map(|(at, line)| format!("{}:{}: {line}", path.display(), at + 1)));
    }
    assert_eq!(wrong, Vec::<String>::new());
}

/// Names that the code no longer uses. docs/glossary.md has the terms that replaced them.
const RETIRED: [&str; 39] = [
    "BroughtAbout",
    "ClusterTrust",
    "Ear",
    "Fleetwork",
    "HOPELESS",
    "Lent",
    "Misfit",
    "Newcomer",
    "OfNode",
    "Parting",
    "SCREENFUL",
    "SeedFirst",
    "Survey",
    "Told",
    "Trial",
    "Visit",
    "Voice",
    "Witness",
    "before_answer",
    "before_file",
    "blamed",
    "given_up",
    "half_joined",
    "hopeful",
    "hopeless",
    "is_calm",
    "lends_in",
    "lets_in",
    "look_back",
    "misfits",
    "objections",
    "patiently",
    "spared",
    "take_first",
    "unlease",
    "unmended",
    "unpackage",
    "untried",
    "vanish",
];

#[test]
fn retired_names_do_not_come_back() {
    let retired = regex::Regex::new(&format!(r"\b({})\b", RETIRED.join("|"))).unwrap();
    let mut wrong = Vec::new();
    for (path, text) in texts(&["src", "templates"]) {
        let lines = text.lines().enumerate().filter(|(_, line)| retired.is_match(line));
        wrong.extend(lines.map(|(at, line)| format!("{}:{}: {line}", path.display(), at + 1)));
    }
    assert_eq!(wrong, Vec::<String>::new());
}

#[test]
fn all_scripts_begin_with_the_prelude() {
    let begins: Vec<PathBuf> = sources()
        .into_iter()
        .filter(|(path, text)| program(path, text).contains("export LC_ALL"))
        .map(|(path, _)| path)
        .collect();
    assert_eq!(begins, [PathBuf::from("src/shell.rs")], "the others use PRELUDE");
}

#[test]
fn each_file_opens_with_a_doc_comment() {
    let bare = sources().into_iter().filter(|(_, text)| !text.starts_with("//! "));
    assert_eq!(bare.map(|(path, _)| path).collect::<Vec<_>>(), Vec::<PathBuf>::new());
}

#[test]
fn output_is_written_in_one_place() {
    // These calls only ask whether there is a terminal, and how wide it is.
    let asks = [
        "stdout().is_terminal()",
        "stderr().is_terminal()",
        "AutoStream::choice(&std::io::stdout())",
        "Term::stdout().size_checked()",
    ];
    // indicatif draws the live display. It only gets text that has passed `Shown`.
    let places = ["src/report/exit.rs", "src/report/term.rs"];
    let mut wrong = Vec::new();
    for (path, text) in
        sources().into_iter().filter(|(path, _)| places.iter().all(|place| !path.ends_with(place)))
    {
        let program = asks.iter().fold(program(&path, &text), |program, asks| program.replace(asks, ""));
        let writes =
            ["stdout()", "stderr()", "/dev/stdout", "/dev/stderr", "eprint", "ProgressBar", "set_hook"];
        wrong.extend(
            writes
                .iter()
                .filter(|word| program.contains(*word))
                .map(|word| format!("{}: {word}", path.display())),
        );
    }
    assert_eq!(wrong, Vec::<String>::new());
}

/// One module reads and writes all YAML, in the way that Kubernetes understands it.
#[test]
fn yaml_is_read_and_written_in_one_place() {
    let others = sources().into_iter().filter(|(path, _)| !path.ends_with("src/yaml.rs"));
    let wrong = others.filter(|(_, text)| text.contains("serde_saphyr"));
    assert_eq!(wrong.map(|(path, _)| path).collect::<Vec<_>>(), Vec::<PathBuf>::new());
}

/// The reader of x509-parser accepts blocks that Kubernetes cannot read.
#[test]
fn pem_is_read_by_one_reader() {
    let wrong = sources().into_iter().filter(|(path, text)| program(path, text).contains("parse_x509_pem"));
    assert_eq!(wrong.map(|(path, _)| path).collect::<Vec<_>>(), Vec::<PathBuf>::new());
}

/// Filler words must not return to the program, its documentation and the examples.
#[test]
fn pages_are_free_of_filler_words() {
    let words = [
        ["all", "the same"].join(" "),
        ["is", "had"].join(" "),
        ["of its own", "accord"].join(" "),
        ["bring it", "about that"].join(" "),
        ["to", "see to"].join(" "),
    ];
    let mut texts = sources();
    let mut files: Vec<PathBuf> =
        ["README.md", "inventories/full.toml", "inventories/minimal.toml"].map(PathBuf::from).into();
    files.extend(documents());
    texts.extend(files.into_iter().map(|file| (file.clone(), fs::read_to_string(&file).unwrap())));
    let mut wrong = Vec::new();
    for (path, text) in texts {
        let text = text.to_lowercase();
        wrong.extend(
            words
                .iter()
                .filter(|word| text.contains(*word))
                .map(|word| format!("{}: {word}", path.display())),
        );
    }
    assert_eq!(wrong, Vec::<String>::new());
}

/// The inventory can move etcd's data to another folder, so other code must not assume the usual one.
#[test]
fn only_one_line_of_the_program_names_etcds_usual_folder() {
    let name = |line: &&str| line.contains("/var/lib/etcd");
    let mut found = Vec::new();
    for (path, text) in sources() {
        found.extend(program(&path, &text).lines().filter(name).map(String::from));
    }
    for entry in fs::read_dir("templates").unwrap() {
        let text = fs::read_to_string(entry.unwrap().path()).unwrap();
        let code = text.lines().filter(|line| !line.trim_start().starts_with('#'));
        found.extend(code.filter(name).map(String::from));
    }
    assert_eq!(found, ["pub const ETCD_DIR: &str = \"/var/lib/etcd\";"]);
}

/// Only `sh!`, `quote`, `here` and `Sh::raw` of `src/shell` make shell.
#[test]
fn shell_is_made_by_its_own_functions_only() {
    let mut wrong = Vec::new();
    for (path, text) in sources() {
        let own = path.starts_with("src/shell");
        for (n, line) in program(&path, &text).lines().enumerate() {
            let says = |what: &str| format!("{}: line {n} of the program: {what}: {line}", path.display());
            let document = line.match_indices("<<").any(|(at, _)| {
                let after = line[at + 2..].trim_start_matches(['-', '\'', '"', '\\']);
                after.starts_with(|c: char| c.is_ascii_uppercase())
            });
            if document {
                wrong.push(says("a here-document; `here` makes them"));
            }
            if !own && line.contains(".leak()") {
                wrong.push(says("a text that is made while the program runs is no constant"));
            }
            if !own && line.contains("Sh::raw(&") {
                wrong.push(says("only constants are raw"));
            }
        }
        // A formatted string that begins like shell would be a script that is no `Sh`.
        let marks = ["echo ", "rm -", "cat <", "if [", "for f in", "[ -e", "sed -"];
        for (at, _) in program(&path, &text).match_indices("format!(") {
            let program = program(&path, &text);
            let body = program[at + "format!(".len()..].trim_start().trim_start_matches('"');
            if let Some(mark) = marks.iter().find(|mark| body.starts_with(**mark)) {
                wrong.push(format!("{}: format! makes shell: {mark}", path.display()));
            }
        }
    }
    for name in ["lib", "undo", "leave", "diagnose"] {
        let text = fs::read_to_string(format!("templates/{name}.sh")).unwrap();
        if text.contains("<<") {
            wrong.push(format!("templates/{name}.sh has a here-document"));
        }
    }
    assert_eq!(wrong, Vec::<String>::new());
}

/// The string literals of a program, without quotes. A literal over several lines becomes one line.
fn strings(program: &str) -> Vec<String> {
    let (mut rest, mut found) = (program, Vec::new());
    while let Some(at) = rest.find(['"', '\'', '/']) {
        let raw = rest[..at].len() - rest[..at].trim_end_matches('#').len();
        let is_raw = rest[..at - raw].ends_with('r');
        let (mark, after) = (rest.as_bytes()[at], &rest[at + 1..]);
        rest = match mark {
            b'"' if is_raw => {
                let (text, after) = after.split_once(&format!("\"{}", "#".repeat(raw))).unwrap();
                found.push(text.to_string());
                after
            }
            b'"' => {
                let mut escaped = false;
                let ends = |c: char| {
                    let ends = c == '"' && !escaped;
                    escaped = c == '\\' && !escaped;
                    ends
                };
                let end = after.find(ends).unwrap();
                let text = after[..end].split("\\\n").map(str::trim_start).collect::<Vec<_>>().join("");
                found.push(text.replace("\\n", "\n").replace("\\\"", "\""));
                &after[end + 1..]
            }
            // A comment after code.
            b'/' if after.starts_with('/') => after.split_once('\n').map_or("", |(_, after)| after),
            // A character literal. For a lifetime, only its quote is skipped.
            b'\'' if after.starts_with('\\') => &after[2 + after[2..].find('\'').unwrap()..],
            b'\'' if after.chars().nth(1) == Some('\'') => {
                &after[after.chars().next().unwrap().len_utf8() + 1..]
            }
            _ => after,
        };
    }
    found
}

/// The redactor hides everything that looks like a secret. It would hide a word of "no password: containerd".
#[test]
fn no_message_of_the_program_looks_like_a_secret() {
    assert_eq!(strings("a(\"x\\\"y\", '\"', r#\"z\"w\"#) // \"\nb(\"c \\\n   d\")"), ["x\"y", "z\"w", "c d"]);
    let mut wrong = Vec::new();
    // A kubeconfig is the credential that the user asked for.
    let others = |path: &Path| !path.starts_with("src/secret") && !path.ends_with("pki/kubeconfig.rs");
    for (path, text) in sources().into_iter().filter(|(path, _)| others(path)) {
        for string in strings(&program(&path, &text)) {
            let shown = ironstrap::secret::hide(&string);
            if shown != string {
                wrong.push(format!("{}: {string:?} becomes {shown:?}", path.display()));
            }
        }
    }
    assert_eq!(wrong, Vec::<String>::new());
}

/// A script is joined from several templates. Of two functions with the same name, the second replaces the first.
#[test]
fn function_names_are_unique_across_templates() {
    let mut seen: BTreeMap<String, PathBuf> = BTreeMap::new();
    for entry in fs::read_dir("templates").unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "sh") {
            continue;
        }
        let text = fs::read_to_string(&path).unwrap();
        let functions: BTreeSet<&str> =
            text.lines().filter_map(|line| line.split_once("() {")).map(|(name, _)| name).collect();
        for name in functions.into_iter().filter(|name| !name.contains(' ')) {
            let other = seen.insert(name.to_string(), path.clone());
            assert_eq!(other, None, "{name} of {}", path.display());
        }
    }
    assert!(seen.len() > 100, "only {} functions", seen.len());
}
