//! The generated parts of the documentation are up to date. `UPDATE_DOCS=1 cargo test --test docs` writes them.

// clippy sees no test in what the tests share.
#![allow(clippy::unwrap_used, clippy::panic)]

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
    assert!(now == page, "{file} is out of date: UPDATE_DOCS=1 cargo test --test docs");
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
