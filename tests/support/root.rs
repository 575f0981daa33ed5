//! A folder that stands for the root of a machine. Scripts of ironstrap run on it in real shells: text replacement moves
//! their paths below the folder, and they find its commands before those of `tools`.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Output;

use ironstrap::cluster::ETCD_DIR;
use ironstrap::machine::Machine;
use ironstrap::probe;
use ironstrap::step::{Answer, Ask};

use super::{command, run, tools};

const BOUNDARY: &str = "--0123456789abcdef";

pub struct Root {
    folder: tempfile::TempDir,
    /// Texts in scripts, each with its replacement.
    replaced: Vec<(String, String)>,
    before: String,
}

impl Root {
    /// An empty machine. If a path in a script begins like one of `moved`, the path is moved below the folder.
    pub fn new(moved: &[&str]) -> Root {
        let mut root =
            Root { folder: tempfile::tempdir().unwrap(), replaced: Vec::new(), before: String::new() };
        for path in moved {
            root = root.replacing(path, &format!("ROOT{path}"));
        }
        root.replacing(tools::SYSTEM_PATH, &format!("ROOT/bin:{}", tools::path()))
    }

    /// A machine with these files. Fixes (`fixes`) find them below the folder.
    pub fn with_files(files: &[(&str, &str)]) -> Root {
        Root::new(&["/run/", "/etc/kubernetes", "/var/lib/"]).with(0o644, files)
    }

    /// Replaces this text in scripts, too. ROOT in the replacement is the folder.
    pub fn replacing(mut self, text: &str, replacement: &str) -> Root {
        self.replaced.push((text.into(), replacement.replace("ROOT", &self.text())));
        self
    }

    /// Puts this shell before the script of each `run`.
    pub fn before(mut self, script: &str) -> Root {
        self.before = script.into();
        self
    }

    /// Adds files with this mode. Those in bin/ are executable. ROOT in a text is the folder.
    pub fn with(self, mode: u32, files: &[(&str, &str)]) -> Root {
        for (name, text) in files {
            let text = text.replace("ROOT", &self.text());
            if name.starts_with("bin/") {
                command::command(&self.path(name), &text);
            } else {
                self.write(name, &text);
                self.set_mode(name, mode);
            }
        }
        self
    }

    /// The path of the folder.
    pub fn text(&self) -> String {
        self.folder.path().display().to_string()
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_else(|_| "absent".into())
    }

    pub fn has(&self, name: &str) -> bool {
        self.path(name).exists()
    }

    pub fn write(&self, name: &str, text: &str) {
        fs::create_dir_all(self.path(name).parent().unwrap()).unwrap();
        fs::write(self.path(name), text).unwrap();
    }

    pub fn mode(&self, name: &str) -> u32 {
        fs::metadata(self.path(name)).unwrap().permissions().mode() & 0o7777
    }

    pub fn set_mode(&self, name: &str, mode: u32) {
        fs::set_permissions(self.path(name), Permissions::from_mode(mode)).unwrap();
    }

    /// Adds a command. In its script, $ROOT is the folder.
    pub fn command(&self, name: &str, script: &str) {
        command::command(&self.path(&format!("bin/{name}")), &format!("ROOT={}\n{script}\n", self.text()));
    }

    /// The script with its paths below the folder.
    pub fn moved(&self, script: &str) -> String {
        self.replaced.iter().fold(script.to_string(), |script, (text, by)| script.replace(text, by))
    }

    /// Runs the script in this shell, after the shell that `before` set.
    pub fn run(&self, shell: &str, script: &str) -> Output {
        let path = self.path("bin").display().to_string();
        let before = &self.before;
        let script =
            format!("{{\nset -eu\nexport LC_ALL=C PATH={path}:$PATH\n{before}\n{script}\n}} </dev/null\n");
        run(shell, &self.moved(&script))
    }

    /// Runs a fix as the runner does, after these functions.
    pub fn fixes(&self, shell: &str, functions: &str, fix: &str) -> Output {
        let functions = format!("{}\nWAIT_TIMEOUT=1\n{functions}", templates(&["lib", "credentials"]));
        run(shell, &self.moved(&format!("set -eu\n{functions}\n{fix}\n")))
    }

    /// The answer of the machine to this question.
    pub fn answer(&self, shell: &str, ask: &Ask) -> Answer {
        self.answers(shell, ask, ETCD_DIR).1
    }

    /// The facts of the machine, and its answer to this question. `etcd`: the folder for etcd's data.
    pub fn answers(&self, shell: &str, ask: &Ask, etcd: &str) -> (Machine, Answer) {
        let output = run(shell, &self.moved(&probe::script(&[ask], BOUNDARY, etcd)));
        let said = String::from_utf8(output.stdout).unwrap().replace(&self.text(), "");
        let (machine, mut answers) = probe::answers(said.as_bytes(), &[ask], BOUNDARY).unwrap();
        (machine, answers.remove(0))
    }

    /// What the script prints. It must succeed, and print nothing to standard error.
    pub fn good(&self, shell: &str, script: &str) -> String {
        let output = self.run(shell, script);
        let [out, err] =
            [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned());
        assert!(output.status.success() && err.is_empty(), "{shell}: {script}: {out}{err}");
        out
    }
}

/// The texts of these templates, as one.
pub fn templates(names: &[&str]) -> String {
    names.iter().map(|name| fs::read_to_string(format!("templates/{name}.sh")).unwrap()).collect()
}
