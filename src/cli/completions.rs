//! `completions` and `man`: shell completions and manual pages, made from the definition of the command line.

use std::path::PathBuf;

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use super::{Cli, End, Outcome, one};
use crate::error::{Error, Kind, Result};
use crate::{report, store};

const NAME: &str = "ironstrap";

#[derive(Args)]
pub(super) struct Completions {
    shell: Shell,
}

pub(super) fn completions(args: &Completions) -> Outcome {
    let mut text = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), NAME, &mut text);
    report::raw(&text);
    Ok(End::Good)
}

#[derive(Args)]
pub(super) struct Man {
    /// Write a page for each command into this folder, as in /usr/local/share/man/man1. Without it, print the main page.
    #[arg(value_name = "DIR")]
    folder: Option<PathBuf>,
}

pub(super) fn man(args: &Man) -> Outcome {
    let pages = pages().map_err(one)?;
    match &args.folder {
        None => pages.iter().take(1).for_each(|(_, text)| report::raw(text.as_bytes())),
        Some(folder) => {
            for (name, text) in &pages {
                store::publish(&folder.join(name), text).map_err(one)?;
            }
            report::err(&format!("✔ {} in {}", report::count(pages.len(), "page"), folder.display()));
        }
    }
    Ok(End::Good)
}

/// Returns the manual pages by file name: one for the whole program, and then one for each command.
fn pages() -> Result<Vec<(String, String)>> {
    let mut whole = Cli::command();
    whole.build();
    let commands = whole.get_subcommands().filter(|command| command.get_name() != "help");
    let names = commands.map(|command| (format!("{NAME}-{}", command.get_name()), command.clone()));
    let all = std::iter::once((NAME.to_string(), whole.clone())).chain(names);
    let failure = |e: String| Error::new(Kind::Local, "cannot generate the manual pages").because(e);
    let page = |(name, command): (String, clap::Command)| {
        let mut text = Vec::new();
        clap_mangen::Man::new(command).render(&mut text).map_err(|e| failure(e.to_string()))?;
        Ok((format!("{name}.1"), String::from_utf8(text).map_err(|e| failure(e.to_string()))?))
    };
    all.map(page).collect()
}
