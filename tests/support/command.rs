//! Executable files that tests make. The kernel refuses to execute a file that a process has open for writing ("Text file
//! busy", execve(2)). A process that another test starts at that moment has it open until its own program begins. So no
//! test writes a file that it executes.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;
use std::sync::LazyLock;

use super::pipe;

/// Makes a shell script executable under this path. The path becomes a link to one script for all commands, which reads
/// the text of the command from a hidden file beside the link.
pub fn command(path: &Path, text: &str) {
    static READER: LazyLock<String> = LazyLock::new(|| {
        let reader = Path::new(env!("CARGO_TARGET_TMPDIR")).join("command");
        let text = "#!/bin/sh\n. \"${0%/*}/.${0##*/}\"\n";
        if fs::read_to_string(&reader).is_ok_and(|present| present == text) {
            return reader.display().to_string();
        }
        program(&reader, text);
        reader.display().to_string()
    });
    let (folder, name) = (path.parent().unwrap(), path.file_name().unwrap().to_str().unwrap());
    fs::create_dir_all(folder).unwrap();
    fs::write(folder.join(format!(".{name}")), text).unwrap();
    if fs::read_link(path).is_err() {
        let _ = fs::remove_file(path);
        symlink(&*READER, path).unwrap();
    }
}

/// Makes an executable file of this text. A child process writes it.
pub fn program(path: &Path, text: &str) {
    let write = "new=$(mktemp \"$0.XXXXXX\") && cat >\"$new\" && chmod 755 \"$new\" && mv -f \"$new\" \"$0\"";
    let output = pipe(Command::new("sh").args(["-c", write]).arg(path), text);
    assert!(output.status.success(), "{}: {}", path.display(), String::from_utf8_lossy(&output.stderr));
}
