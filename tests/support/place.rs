//! A machine in a folder: fixes run there in a shell, with stand-ins for the machine's programs.

use std::fs;

/// A machine in a folder, with programs of its own.
pub struct Place(tempfile::TempDir);

impl Place {
    pub fn with(files: &[(&str, &str)]) -> Place {
        let place = Place(tempfile::tempdir().unwrap());
        for (name, text) in files {
            let path = place.0.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        place
    }

    /// The folder, as the machine's `/`.
    pub fn root(&self) -> String {
        self.0.path().display().to_string()
    }

    pub fn path(&self, name: &str) -> std::path::PathBuf {
        self.0.path().join(name)
    }

    pub fn has(&self, name: &str) -> bool {
        self.0.path().join(name).exists()
    }

    pub fn text(&self, name: &str) -> String {
        fs::read_to_string(self.0.path().join(name)).unwrap_or_default()
    }

    /// Runs a fix as the runner does, after these functions.
    pub fn fixes(&self, shell: &str, functions: &str, fix: &str) -> std::process::Output {
        let (lib, more) =
            (include_str!("../../templates/lib.sh"), include_str!("../../templates/credentials.sh"));
        let script = format!("set -eu\n{lib}\n{more}\nWAIT_TIMEOUT=1\n{functions}\n{fix}\n");
        let script = ["/run/", "/etc/kubernetes", "/var/lib/"]
            .iter()
            .fold(script, |script, dir| script.replace(dir, &format!("{}{dir}", self.0.path().display())));
        super::run(shell, &script)
    }

    /// The files of ironstrap that can hold a credential, if they exist.
    pub fn lent(&self) -> Vec<String> {
        let files =
            ["kubeadm.yaml", "discovery.conf", "masters.conf"].map(|name| format!("run/ironstrap/{name}"));
        files.into_iter().filter(|name| self.has(name)).collect()
    }
}
