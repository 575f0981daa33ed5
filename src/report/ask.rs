//! Questions to the user at the terminal.

use std::fs::File;
use std::io::{BufRead, IsTerminal};
use std::sync::{Mutex, PoisonError};

use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use zeroize::Zeroizing;

use super::exit;
use crate::secret::SecretText;

/// An answer, once it is typed.
pub type Typed<T> = tokio::sync::oneshot::Receiver<std::io::Result<T>>;

/// Asks on the terminal; only a yes is one.
pub fn ask(question: &str) -> Typed<bool> {
    put(&format!("{question} [y/N] "), |line| ["y", "yes"].contains(&line.trim().to_lowercase().as_str()))
}

/// Asks on the terminal for a word.
pub fn ask_for(question: &str) -> Typed<String> {
    put(&format!("{question}: "), |line| line.trim().to_string())
}

/// Asks on the terminal for what nobody may see; `None` where there is no terminal, or where it is ended instead
/// (Ctrl-D). It is asked there even if standard input is something else.
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

/// Whether what is typed is seen.
enum Echo {
    On,
    /// On this terminal, which was like that before.
    Off(File, Termios),
    /// Nobody is asked any more.
    Over,
}

static ECHO: Mutex<Echo> = Mutex::new(Echo::On);

/// `None` where nobody is to be asked any more.
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

/// What is typed is seen again, however the question ended.
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
        // It may be a password.
        let mut line = Zeroizing::new(String::new());
        let read = read(&mut line);
        // Nobody waits for it any more where the user stopped the program.
        let _ = sender.send(read.map(|_| understand(&line)));
    });
    receiver
}
