//! The command line of ironstrap. Each command has a file of its own, with its options and what it does.

use std::path::PathBuf;

use clap::error::ErrorKind;
use clap::{Args, ColorChoice, CommandFactory, Parser, Subcommand};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::error::{Error, Kind, Result};
use crate::{report, secret};

mod apply;
mod check;
mod completions;
mod explain;
mod kubeconfig;
mod new;
mod plan;
mod remove;
mod report_file;
mod reset;
mod session;
mod ssh_args;
mod ssh_check;
mod status;

use session::{FleetArgs, Limit, Session, Taking};

/// Make a Kubernetes cluster of Linux machines over SSH, and repair what drifts from its inventory.
#[derive(Parser)]
#[command(version, max_term_width = 100)]
pub struct Cli {
    /// When to use colour: always, never, or auto (on a terminal, unless NO_COLOR is set).
    #[arg(
        long,
        global = true,
        value_name = "WHEN",
        default_value = "auto",
        hide_possible_values = true,
        help_heading = "Output"
    )]
    color: ColorChoice,
    #[command(subcommand)]
    command: Command,
}

/// The commands, in the order in which a user comes to need them.
#[derive(Subcommand)]
enum Command {
    /// Write an inventory from the addresses of your machines. Connects to no machine.
    New(new::New),
    /// Check the inventory for mistakes. Downloads addons, and connects to no machine.
    Check(check::Check),
    /// Test SSH and sudo on every machine. Changes no machine.
    SshCheck(ssh_check::SshCheck),
    /// Show how the machines differ from the inventory. Changes no settings on them.
    #[command(mut_arg("wait_timeout", |arg| arg.hide(true)))]
    Plan(plan::Plan),
    /// Show the state of all nodes on one screen. Changes no machine.
    #[command(mut_arg("wait_timeout", |arg| arg.hide(true)))]
    Status(status::Status),
    /// Create or repair the cluster. Asks before it changes anything.
    Apply(apply::Apply),
    /// Drain a node, remove it from the cluster, and reset its machine.
    Remove(remove::Remove),
    /// Return machines to their state before ironstrap. Their pods and data are gone.
    Reset(reset::Reset),
    /// Print a kubeconfig, or issue one for another user. Connects to no machine.
    Kubeconfig(kubeconfig::Kubeconfig),
    /// Explain a table or a field of the inventory.
    Explain(explain::Explain),
    /// Print a JSON Schema of the inventory, for editors.
    Schema,
    /// Generate shell completions.
    Completions(completions::Completions),
    /// Generate the manual pages.
    Man(completions::Man),
}

/// How a command ended if it has no errors left to print.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Good,
    /// `--exit-code` was given, and there is drift.
    Drift,
    /// Something is wrong, and the output of the command says so already.
    Reported(Kind),
}

/// Everything that went wrong. It is printed once, at the end, in one place.
pub type Errors = Vec<Error>;

/// The result of a command.
type Outcome = std::result::Result<End, Errors>;

/// The default path of the inventory. `new` writes it there.
const DEFAULT_INVENTORY: &str = "cluster.toml";

#[derive(Args)]
struct Inventory {
    /// The inventory of the cluster, a TOML file.
    #[arg(long, short, value_name = "FILE", env = "IRONSTRAP_INVENTORY", hide_env_values = true,
        default_value = DEFAULT_INVENTORY)]
    inventory: PathBuf,
}

impl Cli {
    /// Reads the command line. Ends the program if the user asks for help, or if the command line makes no sense.
    pub fn read() -> Cli {
        // clap prints help and errors before it has read the whole line, so colour is decided first.
        let mut words: Vec<String> = std::env::args().collect();
        if words.len() == 1 {
            words.push("--help".into());
        }
        let after = |i: usize| words.get(i + 1).map(String::as_str);
        let wish = |(i, word): (usize, &String)| match word.strip_prefix("--color")? {
            "" => after(i)?.parse().ok(),
            value => value.strip_prefix('=')?.parse().ok(),
        };
        choose(words.iter().enumerate().find_map(wish).unwrap_or(ColorChoice::Auto));
        Cli::of(&words).unwrap_or_else(|error| complain(&error))
    }

    /// Parses the words. An option may also stand before the command that it belongs to.
    fn of(words: &[String]) -> clap::error::Result<Cli> {
        let parsed = Cli::try_parse_from(words);
        let is_unknown = |error: &clap::Error| error.kind() == ErrorKind::UnknownArgument;
        match command_first(words) {
            Some(words) if parsed.as_ref().is_err_and(is_unknown) => Cli::try_parse_from(words),
            _ => parsed,
        }
    }

    /// Runs the command.
    pub async fn run(self) -> Outcome {
        choose(self.color);
        match self.command {
            Command::New(args) => new::new(args),
            Command::Check(args) => check::check(&args).await,
            Command::SshCheck(args) => ssh_check::ssh_check(&args).await,
            Command::Plan(args) => plan::plan(&args).await,
            Command::Status(args) => status::status(&args).await,
            Command::Apply(args) => apply::apply(&args).await,
            Command::Remove(args) => remove::remove(&args).await,
            Command::Reset(args) => reset::reset(&args).await,
            Command::Kubeconfig(args) => kubeconfig::kubeconfig(&args),
            Command::Explain(args) => explain::explain(&args),
            Command::Schema => explain::schema(),
            Command::Completions(args) => completions::completions(&args),
            Command::Man(args) => completions::man(&args),
        }
    }
}

/// Returns the same words with the command before its options. `None` if the command already comes first.
fn command_first(words: &[String]) -> Option<Vec<String>> {
    let commands = Cli::command();
    let at = words.iter().position(|word| commands.find_subcommand(word).is_some()).filter(|at| *at > 1)?;
    let (before, after) = (&words[1..at], &words[at + 1..]);
    Some([&words[..1], &words[at..=at], before, after].concat())
}

/// Ends the program with clap's message. If an error repeats a login, the login is hidden.
fn complain(error: &clap::Error) -> ! {
    let words = error.render().to_string();
    match secret::hide_login(&words) {
        hidden if error.exit_code() != 0 && hidden != words => {
            clap::Error::raw(error.kind(), hidden.trim_start_matches("error: ")).exit()
        }
        _ => error.exit(),
    }
}

fn choose(choice: ColorChoice) {
    report::color::choose(match choice {
        ColorChoice::Auto => anstream::ColorChoice::Auto,
        ColorChoice::Always => anstream::ColorChoice::Always,
        ColorChoice::Never => anstream::ColorChoice::Never,
    });
}

/// Catches Ctrl-C from now on, even while no code waits for it. From then on, Ctrl-C does not end the program by itself.
fn interrupts() -> Result<Signal> {
    let cannot = |e: std::io::Error| Error::new(Kind::Local, "cannot handle Ctrl-C").because(e.to_string());
    signal(SignalKind::interrupt()).map_err(cannot)
}

/// Waits until the user stops a command that has changed nothing, and returns the error for that.
async fn interrupted(signals: &mut Signal) -> Error {
    signals.recv().await;
    Error::new(Kind::Interrupted, "stopped; no node was changed")
}

fn one(error: Error) -> Errors {
    vec![error]
}

#[cfg(test)]
mod tests {
    use std::any::TypeId;

    use clap::Arg;

    use super::*;

    fn is_number(arg: &Arg) -> bool {
        let of = arg.get_value_parser().type_id();
        let numbers = [
            TypeId::of::<u8>(),
            TypeId::of::<u16>(),
            TypeId::of::<u32>(),
            TypeId::of::<u64>(),
            TypeId::of::<usize>(),
            TypeId::of::<i32>(),
            TypeId::of::<i64>(),
            TypeId::of::<f64>(),
            TypeId::of::<std::num::NonZeroUsize>(),
            TypeId::of::<std::time::Duration>(),
        ];
        numbers.into_iter().any(|number| of == number)
    }

    /// Returns every option that takes a number: the command and the option.
    fn numbers() -> Vec<(String, String)> {
        let mut all = Vec::new();
        for command in Cli::command().get_subcommands() {
            for arg in command.get_arguments().filter(|arg| arg.get_action().takes_values()) {
                let named = arg.get_value_names().unwrap_or_default().iter();
                let says_so = named
                    .into_iter()
                    .any(|name| ["SECONDS", "MINUTES", "N", "TIME"].contains(&name.as_str()));
                let id = arg.get_id().to_string();
                assert!(
                    !says_so || is_number(arg),
                    "{} of {} is named like a number but is not parsed as one",
                    id,
                    command.get_name()
                );
                if let Some(long) = arg.get_long().filter(|_| is_number(arg)) {
                    all.push((command.get_name().to_string(), format!("--{long}")));
                }
            }
        }
        all
    }

    #[test]
    fn an_option_may_stand_before_its_command() {
        let parsed = |line: &str| {
            let words: Vec<String> = line.split(' ').map(String::from).collect();
            Cli::of(&words).map(|cli| matches!(cli.command, Command::Plan(_)))
        };
        for line in
            ["x --json plan -i f", "x -i f --json plan", "x --color never --connect-timeout 5 plan -i f"]
        {
            assert!(parsed(line).unwrap(), "{line}");
        }
        assert!(!parsed("x -i f --yes apply").unwrap());
        for line in ["x --bogus plan -i f", "x --json", "x --json check -i f", "x plan -i f --bogus"] {
            assert_eq!(parsed(line).unwrap_err().kind(), ErrorKind::UnknownArgument, "{line}");
        }
    }

    #[test]
    fn every_option_is_in_the_documentation() {
        let pages = std::fs::read_dir("docs").unwrap().map(|page| page.unwrap().path());
        let pages = pages.filter(|page| page.is_file());
        let pages = pages.chain(["README.md".into()]).map(|page| std::fs::read_to_string(page).unwrap());
        let text = pages.collect::<String>();
        // Some commands write a first inventory, or pages for other programs. Their help says everything.
        let commands = Cli::command();
        let others = ["new", "completions", "man", "explain", "schema", "help"];
        for command in commands.get_subcommands().filter(|command| !others.contains(&command.get_name())) {
            for arg in command.get_arguments().filter(|arg| arg.get_long().is_some_and(|long| long != "help"))
            {
                let forms = [
                    arg.get_long().map(|long| format!("--{long}")),
                    arg.get_short().map(|c| format!("-{c} ")),
                ];
                let is_there = forms.iter().flatten().any(|form| text.contains(form));
                assert!(is_there, "no page mentions {forms:?} of {}", command.get_name());
            }
        }
    }

    #[test]
    fn a_confirmation_names_an_option_of_apply() {
        let commands = Cli::command();
        let apply = commands.find_subcommand("apply").unwrap();
        let confirmation = &crate::steps::REPLACE_COREFILE;
        let option = confirmation.option.strip_prefix("--").unwrap();
        let given = apply.get_arguments().find(|arg| arg.get_long() == Some(option)).unwrap();
        assert!(!given.is_required_set() && confirmation.hint.contains(confirmation.option));
    }

    #[test]
    fn every_numeric_option_has_a_range() {
        let all = numbers();
        for option in [
            "--connect-timeout",
            "--wait-timeout",
            "--concurrency",
            "--watch",
            "--drain-timeout",
            "--control-planes",
            "--for",
        ] {
            assert!(all.iter().any(|(_, other)| other == option), "{option} is a number");
        }
        for (command, option) in all {
            for huge in
                [u64::MAX.to_string(), (u64::MAX - 1).to_string(), format!("{}s", u64::MAX), "1e99".into()]
            {
                let words = ["ironstrap", &command, &option, &huge];
                let error = Cli::command().try_get_matches_from(words).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::ValueValidation, "{words:?}: {error}");
                assert!(error.to_string().contains(&option), "{words:?}: {error}");
            }
        }
    }
}
