//! The generated parts of the documentation are up to date. `UPDATE_DOCS=1 cargo test --test it docs::` writes them.

use std::fs;
use std::path::Path;

use assert_cmd::Command;
use ironstrap::diagnosis;
use ironstrap::error::{EXIT_CODES, Kind};
use ironstrap::inventory::reference;

/// Checks a page that is generated as a whole.
fn is_page(file: &str, page: &str) {
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::create_dir_all(Path::new(file).parent().unwrap()).unwrap();
        fs::write(file, page).unwrap();
    }
    let now = fs::read_to_string(file).unwrap_or_default();
    assert!(now == page, "{file} is out of date: UPDATE_DOCS=1 cargo test --test it docs::");
}

/// Checks the generated part of a page. It is between two marks that Markdown does not show.
fn is_part(file: &str, part: &str) {
    let (begin, end) = ("<!-- generated -->\n", "<!-- end -->\n");
    let now = fs::read_to_string(file).unwrap();
    let (before, rest) = now.split_once(begin).unwrap_or_else(|| panic!("{file} has no {begin}"));
    let (_, after) = rest.split_once(end).unwrap_or_else(|| panic!("{file} has no {end}"));
    is_page(file, &format!("{before}{begin}{part}{end}{after}"));
}

#[test]
fn the_inventory_reference_is_up_to_date() {
    is_page("docs/inventory.md", &reference::page());
}

#[test]
fn the_causes_of_failures_are_up_to_date() {
    is_part("docs/causes.md", &diagnosis::table());
}

#[test]
fn the_exit_codes_are_up_to_date() {
    let row = |(code, meaning, advice): &(u8, &str, &str)| format!("| {code} | {meaning} | {advice} |\n");
    let rows: String = EXIT_CODES.iter().map(row).collect();
    is_part("docs/exit-codes.md", &format!("| code | meaning | what you can do |\n|---|---|---|\n{rows}"));
    let codes: Vec<u8> = EXIT_CODES.iter().map(|(code, ..)| *code).collect();
    assert!(codes.is_sorted() && Kind::ALL.iter().all(|kind| codes.contains(&kind.code())));
}

/// The standard output of the program with these arguments. It is 100 columns wide, because there is no terminal.
fn printed(args: &[&str]) -> String {
    let output = Command::cargo_bin("ironstrap")
        .unwrap()
        .args(args)
        .env_remove("IRONSTRAP_INVENTORY")
        .env_remove("COLUMNS")
        .env_remove("CLICOLOR_FORCE")
        .output()
        .unwrap();
    assert!(output.status.success(), "{args:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn the_pages_of_the_commands_are_up_to_date() {
    let help = printed(&["--help"]);
    let (_, list) = help.split_once("Commands:\n").unwrap();
    let commands: Vec<&str> = list.lines().map_while(|line| line.split_whitespace().next()).collect();
    assert!(commands.len() > 10 && commands.contains(&"apply"), "{commands:?}");
    let commands = commands.into_iter().filter(|name| *name != "help");
    let mut index = format!("# Commands\n\nEach page is the help of its command.\n\n```text\n{help}```\n\n");
    for name in commands {
        index += &format!("- [ironstrap {name}]({name}.md)\n");
        let help = printed(&[name, "--help"]);
        is_page(&format!("docs/cli/{name}.md"), &format!("# ironstrap {name}\n\n```text\n{help}```\n"));
    }
    is_page("docs/cli/README.md", &index);
}

/// Each command line of this program in the code blocks of README and docs, with its page.
fn command_lines(program: &str) -> Vec<(String, Vec<String>)> {
    let mut pages: Vec<_> = fs::read_dir("docs").unwrap().map(|entry| entry.unwrap().path()).collect();
    pages.retain(|path| path.extension().is_some_and(|extension| extension == "md"));
    pages.push("README.md".into());
    let mut found = Vec::new();
    for page in pages {
        let text = fs::read_to_string(&page).unwrap();
        for block in text.split("```").skip(1).step_by(2) {
            // A block with prompts also shows what the commands print.
            let has_prompts = block.lines().any(|line| line.starts_with("$ "));
            for line in block.lines() {
                let line = if has_prompts { line.strip_prefix("$ ") } else { Some(line) };
                if let Some(line) = line.filter(|line| line.split(' ').next() == Some(program)) {
                    found.push((page.display().to_string(), arguments(line)));
                }
            }
        }
    }
    found
}

/// The arguments of a command line, without its comment and its redirections.
fn arguments(line: &str) -> Vec<String> {
    let line = line.split(" #").next().unwrap();
    let words = line.split_whitespace().skip(1);
    words
        .take_while(|word| !word.starts_with(['>', '<', '|', '&']))
        .map(|word| word.trim_matches('\'').to_string())
        .collect()
}

#[test]
fn the_program_accepts_each_command_line_of_the_pages() {
    let lines = command_lines("ironstrap");
    assert!(lines.len() > 40, "only {} command lines", lines.len());
    for (page, args) in lines {
        let mut command = Command::cargo_bin("ironstrap").unwrap();
        // `help` prints what `--help` prints, and takes no option.
        let help = if args[0] == "help" { None } else { Some("--help") };
        let output = command.args(&args).args(help).output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{page}: ironstrap {}: {error}", args.join(" "));
    }
}

/// A test runs the command with the option if both stand as literals in the same file of the tests.
#[test]
fn tests_run_each_command_and_option_of_the_pages() {
    let mut texts = Vec::new();
    let mut folders = vec![std::path::PathBuf::from("tests")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => folders.push(path),
                false if path.ends_with("docs.rs") => {}
                false => texts.extend(fs::read_to_string(&path)),
            }
        }
    }
    let mut untested = Vec::new();
    for (page, args) in command_lines("ironstrap") {
        let Some(command) = args.first().filter(|word| !word.starts_with('-')) else { continue };
        let has = |text: &str, word: &str| {
            text.contains(&format!("\"{word}\"")) || text.contains(&format!("{word} "))
        };
        let runs = |word: &str| texts.iter().any(|text| has(text, command) && has(text, word));
        let options =
            args.iter().filter(|word| word.starts_with("--")).map(|word| word.split('=').next().unwrap());
        for word in std::iter::once(command.as_str()).chain(options) {
            if !runs(word) {
                untested.push(format!("{page}: {command} {word}"));
            }
        }
    }
    assert_eq!(untested, Vec::<String>::new());
}

#[test]
fn the_makefile_has_each_target_of_the_pages() {
    let makefile = fs::read_to_string("Makefile").unwrap();
    let lines = command_lines("make");
    assert!(lines.len() > 5, "only {} command lines", lines.len());
    for (page, args) in lines {
        for target in args.iter().filter(|word| !word.contains('=')) {
            let is_there = makefile.lines().any(|line| {
                let (targets, _) = line.split_once(':').unwrap_or_default();
                targets.split_whitespace().any(|known| known == target)
            });
            assert!(is_there || target == "test-NAME", "{page}: make {target}");
        }
    }
}
