//! Asks the user questions at the terminal.

use std::fs::File;
use std::io::{BufRead, IsTerminal};
use std::sync::{Mutex, PoisonError};

use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use zeroize::Zeroizing;

use super::exit;
use crate::secret::SecretText;

/// An answer that arrives when the user has typed it.
pub type Typed<T> = tokio::sync::oneshot::Receiver<std::io::Result<T>>;

/// Asks for a yes on the terminal. Every other answer is a no.
pub fn ask(question: &str) -> Typed<bool> {
    put(&format!("{question} [y/N] "), |line| ["y", "yes"].contains(&line.trim().to_lowercase().as_str()))
}

/// Asks on the terminal for a word.
pub fn ask_for(question: &str) -> Typed<String> {
    put(&format!("{question}: "), |line| line.trim().to_string())
}

/// Asks for a secret on the terminal, and does not show what the user types. It uses the terminal even if standard input is
/// something else. `None` if there is no terminal, or if the user ends the input (Ctrl-D).
pub async fn secret(question: &str) -> std::io::Result<Option<SecretText>> {
    let Ok(terminal) = File::options().read(true).write(true).open("/dev/tty") else {
        return Ok(None);
    };
    if !std::io::stderr().is_terminal() {
        return Ok(None);
    }
    let Some(_shown_again) = hide(&terminal)? else { return Ok(None) };
    let mut input = std::io::BufReader::new(terminal);
    let typed = put_on(
        &format!("{question}: "),
        move |line| input.read_line(line),
        |line| line.strip_suffix('\n').map(|line| SecretText::new(line.trim_end_matches('\r'))),
    );
    let answer = typed.await;
    exit::end_of_answer();
    answer.unwrap_or_else(|_| Err(std::io::ErrorKind::UnexpectedEof.into()))
}

/// Whether the terminal shows what the user types.
enum Echo {
    On,
    /// It is hidden on this terminal, which had these settings before.
    Off(File, Termios),
    /// There are no more questions.
    Over,
}

static ECHO: Mutex<Echo> = Mutex::new(Echo::On);

/// Hides what the user types. `None` if there are no more questions.
fn hide(terminal: &File) -> std::io::Result<Option<ShownAgain>> {
    let mut echo = ECHO.lock().unwrap_or_else(PoisonError::into_inner);
    if matches!(*echo, Echo::Over) {
        return Ok(None);
    }
    let (before, again) = (tcgetattr(terminal)?, terminal.try_clone()?);
    let mut hidden = before.clone();
    hidden.local_modes.remove(LocalModes::ECHO);
    tcsetattr(terminal, OptionalActions::Flush, &hidden)?;
    *echo = Echo::Off(again, before);
    Ok(Some(ShownAgain))
}

fn show(then: Echo) {
    let mut echo = ECHO.lock().unwrap_or_else(PoisonError::into_inner);
    if let Echo::Off(terminal, before) = &*echo {
        let _ = tcsetattr(terminal, OptionalActions::Now, before);
    }
    if !matches!(*echo, Echo::Over) {
        *echo = then;
    }
}

/// Shows again what the user types when it is dropped, however the question ended.
struct ShownAgain;

impl Drop for ShownAgain {
    fn drop(&mut self) {
        show(Echo::On);
    }
}

/// Ends all questions. The program calls it at its end, and does not wait for a question that is still open.
pub fn over() {
    show(Echo::Over);
}

/// Asks a question. The answer comes from a thread of its own, which the program does not wait for when it ends. So an
/// open question does not delay a user who stops the program.
fn put<T: Send + 'static>(question: &str, understand: fn(&str) -> T) -> Typed<T> {
    put_on(question, |line| std::io::stdin().read_line(line), understand)
}

fn put_on<T: Send + 'static>(
    question: &str,
    read: impl FnOnce(&mut String) -> std::io::Result<usize> + Send + 'static,
    understand: fn(&str) -> T,
) -> Typed<T> {
    exit::prompt(question);
    let (sender, receiver) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        // The line may be a password.
        let mut line = Zeroizing::new(String::new());
        let read = read(&mut line);
        // If the user stopped the program, nobody waits for the answer any more.
        let _ = sender.send(read.map(|_| understand(&line)));
    });
    receiver
}
