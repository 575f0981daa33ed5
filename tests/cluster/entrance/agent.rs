//! A real ssh-agent of the operator.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use super::Stage;
use crate::{so, until};

/// An agent with keys of the operator's folder.
pub struct Agent {
    process: std::process::Child,
    file: PathBuf,
}

impl Agent {
    pub fn start(stage: &Stage, keys: &[String]) -> Agent {
        let socket = stage.dir.join("agent.socket");
        let _ = fs::remove_file(&socket);
        let process =
            Command::new("ssh-agent").arg("-D").arg("-a").arg(&socket).stdout(Stdio::null()).spawn().unwrap();
        until("the agent listens", 10, || so(socket.exists()));
        for name in keys {
            let added = Command::new("ssh-add")
                .arg("-q")
                .arg(stage.dir.join(name))
                .env("SSH_AUTH_SOCK", &socket)
                .status();
            assert!(added.unwrap().success());
        }
        let file = stage.dir.join("agent");
        fs::write(&file, socket.to_str().unwrap()).unwrap();
        Agent { process, file }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.file);
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
