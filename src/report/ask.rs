//! Questions to whoever sits at the terminal.

use std::io::{BufRead, IsTerminal, Write};

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
pub async fn secret(question: &str) -> std::io::Result<Option<String>> {
    let Ok(terminal) = std::fs::File::options().read(true).write(true).open("/dev/tty") else {
        return Ok(None);
    };
    if !std::io::stderr().is_terminal() {
        return Ok(None);
    }
    let before = rustix::termios::tcgetattr(&terminal)?;
    let mut hidden = before.clone();
    hidden.local_modes.remove(rustix::termios::LocalModes::ECHO);
    rustix::termios::tcsetattr(&terminal, rustix::termios::OptionalActions::Flush, &hidden)?;
    let _shown_again = ShownAgain(terminal.try_clone()?, before);
    let mut input = std::io::BufReader::new(terminal);
    let typed = put_on(
        &format!("{question}: "),
        move |line| input.read_line(line),
        |line| line.strip_suffix('\n').map(|line| line.trim_end_matches('\r').to_string()),
    );
    let answer = typed.await;
    let _ = writeln!(anstream::stderr());
    answer.unwrap_or_else(|_| Err(std::io::ErrorKind::UnexpectedEof.into()))
}

/// What is typed is seen again, however the question ended.
struct ShownAgain(std::fs::File, rustix::termios::Termios);

impl Drop for ShownAgain {
    fn drop(&mut self) {
        let _ = rustix::termios::tcsetattr(&self.0, rustix::termios::OptionalActions::Now, &self.1);
    }
}

/// The answer comes from a thread of its own, which a program that ends does not wait for: whoever stops it is not
/// held up by a question.
fn put<T: Send + 'static>(question: &str, understand: fn(&str) -> T) -> Typed<T> {
    put_on(question, |line| std::io::stdin().read_line(line), understand)
}

fn put_on<T: Send + 'static>(
    question: &str,
    read: impl FnOnce(&mut String) -> std::io::Result<usize> + Send + 'static,
    understand: fn(&str) -> T,
) -> Typed<T> {
    let _ = write!(anstream::stderr(), "{question}");
    let (sender, receiver) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        let mut line = String::new();
        let read = read(&mut line);
        // Nobody waits for it any more where the user stopped the program.
        let _ = sender.send(read.map(|_| understand(&line)));
    });
    receiver
}
