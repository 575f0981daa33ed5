//! An SSH server inside the test process. It runs no shell. Each line of a script tells it what to answer.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

use russh::keys::ssh_key::certificate::{Builder, CertType};
use russh::keys::{Certificate, PrivateKey, PublicKey};
use russh::server::{Auth, Config, Session};
use russh::{ChannelId, Disconnect, MethodKind, MethodSet, Sig};
use tokio::sync::{Barrier, Notify};

pub use crate::support::ssh_server::new_key;
use crate::support::ssh_server::{Service, config, end, listen, serve};

/// What the server does with a command.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Manner {
    /// Reads the script to its end, then answers it.
    #[default]
    Reads,
    /// Exits with 3 at once, without reading the script.
    ExitsEarly,
    /// Prints `first`, and prints `second` after a signal from the test.
    Streams,
    RefusesCommands,
}

pub struct Server {
    pub port: u16,
    pub host_key: PublicKey,
    pub seen: Arc<Seen>,
}

/// The behaviour of the server, and what it has seen.
pub struct Seen {
    pub manner: Manner,
    pub login: PublicKey,
    pub go_on: Notify,
    /// How many more connections the server closes at once.
    pub turn_away: AtomicUsize,
    /// How many more sessions the server refuses.
    pub refuse_sessions: AtomicUsize,
    pub logins: AtomicUsize,
    pub running: AtomicUsize,
    pub most_running: AtomicUsize,
    pub commands: Mutex<Vec<String>>,
    /// The output and exit status of sudo, which then does not run the script.
    pub sudo: Mutex<Option<(String, u32)>>,
    /// sudo asks for a password only the first time.
    pub forgets_the_password: AtomicBool,
    /// The server accepts the password `sesame`, by both methods.
    pub takes_passwords: AtomicBool,
    /// The login methods that clients tried.
    pub methods: Mutex<Vec<&'static str>>,
    /// The whole input of each command.
    pub scripts: Mutex<Vec<String>>,
    four: Barrier,
}

impl Seen {
    pub fn sudo_says(&self, words: &str, status: u32) {
        *self.sudo.lock().unwrap() = Some((words.into(), status));
    }
}

impl Server {
    /// Starts a server that accepts the key `login`.
    pub async fn start(login: &PublicKey, manner: Manner) -> Server {
        Server::signed(login, manner, None).await
    }

    /// Starts a server with a host certificate of this authority.
    pub async fn signed(login: &PublicKey, manner: Manner, authority: Option<&PrivateKey>) -> Server {
        let host_key = new_key();
        let public = host_key.public_key().clone();
        let config = Config {
            certificates: authority.map(|authority| certificate(authority, &public)).into_iter().collect(),
            max_auth_attempts: 6,
            // A large window, so that uploads can fill the sockets.
            window_size: 64 << 20,
            ..config(host_key)
        };
        let seen = Arc::new(Seen {
            manner,
            login: login.clone(),
            go_on: Notify::new(),
            turn_away: AtomicUsize::new(0),
            refuse_sessions: AtomicUsize::new(0),
            logins: AtomicUsize::new(0),
            running: AtomicUsize::new(0),
            most_running: AtomicUsize::new(0),
            commands: Mutex::default(),
            sudo: Mutex::default(),
            forgets_the_password: AtomicBool::new(false),
            takes_passwords: AtomicBool::new(false),
            methods: Mutex::default(),
            scripts: Mutex::default(),
            four: Barrier::new(4),
        });
        let (listener, port) = listen().await;
        serve(listener, config, seen.clone());
        Server { port, host_key: public, seen }
    }
}

fn certificate(authority: &PrivateKey, key: &PublicKey) -> Certificate {
    let mut builder = Builder::new(vec![7; 16], key.key_data().clone(), 0, u64::MAX >> 1).unwrap();
    builder.cert_type(CertType::Host).unwrap().valid_principal("127.0.0.1").unwrap();
    builder.sign(authority).unwrap()
}

fn take_one(counter: &AtomicUsize) -> bool {
    counter.fetch_update(SeqCst, SeqCst, |left| left.checked_sub(1)).is_ok()
}

impl Service for Seen {
    fn connects(&self) -> bool {
        !take_one(&self.turn_away)
    }

    fn logs_in(&self, key: &PublicKey) -> Auth {
        self.methods.lock().unwrap().push("publickey");
        match key.key_data() == self.login.key_data() {
            true => self.accepted(),
            false => self.refusal(),
        }
    }

    fn logs_in_by(&self, method: &'static str, password: Option<&str>) -> Auth {
        let Some(password) = password else { return self.refusal() };
        self.methods.lock().unwrap().push(method);
        match self.takes_passwords.load(SeqCst) && password == "sesame" {
            true => self.accepted(),
            false => self.refusal(),
        }
    }

    fn opens(&self) -> bool {
        !take_one(&self.refuse_sessions)
    }

    fn command(
        self: &Arc<Self>,
        id: ChannelId,
        command: &[u8],
        session: &mut Session,
    ) -> Result<(), russh::Error> {
        self.commands.lock().unwrap().push(String::from_utf8_lossy(command).into());
        let refusal = self.sudo.lock().unwrap().clone();
        if let Some((words, status)) = refusal.filter(|_| command.starts_with(b"env LC_ALL=C sudo")) {
            session.channel_success(id)?;
            session.extended_data(id, 1, words)?;
            return end(session, id, status);
        }
        if self.forgets_the_password.load(SeqCst) {
            session.channel_success(id)?;
            return match command.starts_with(b"env LC_ALL=C sudo -n") {
                true => {
                    session.extended_data(id, 1, "sudo: a password is required\n")?;
                    end(session, id, 1)
                }
                false => Ok(session.data(id, "\n--ironstrap begins--\n")?),
            };
        }
        match self.manner {
            Manner::RefusesCommands => session.channel_failure(id)?,
            Manner::Reads => session.channel_success(id)?,
            Manner::ExitsEarly => {
                session.channel_success(id)?;
                end(session, id, 3)?;
            }
            Manner::Streams => {
                session.channel_success(id)?;
                session.data(id, "--ironstrap begins--\nfirst\n")?;
                let (seen, handle) = (self.clone(), session.handle());
                tokio::spawn(async move {
                    seen.go_on.notified().await;
                    let _ = handle.data(id, "second\n").await;
                    let _ = handle.exit_status_request(id, 0).await;
                    let _ = handle.close(id).await;
                });
            }
        }
        Ok(())
    }

    fn script(
        self: &Arc<Self>,
        id: ChannelId,
        script: String,
        session: &mut Session,
    ) -> Result<(), russh::Error> {
        if self.manner != Manner::Reads {
            return Ok(());
        }
        self.scripts.lock().unwrap().push(script.clone());
        for line in script.lines() {
            let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
            match word {
                "echo" => session.data(id, format!("{}\n", rest.trim_matches('\'')))?,
                "out" => session.data(id, format!("{rest}\n"))?,
                "err" => session.extended_data(id, 1, format!("{rest}\n"))?,
                "flood" => session.data(id, vec![b'x'; rest.parse().unwrap()])?,
                "length" => session.data(id, script.len().to_string())?,
                "eof" => session.eof(id)?,
                "exit" => end(session, id, rest.parse().unwrap())?,
                "killed" => {
                    session.exit_signal_request(id, Sig::KILL, false, "", "")?;
                    session.close(id)?;
                }
                "shut" => session.close(id)?,
                "reboot" => session.disconnect(Disconnect::ByApplication, "going down for reboot", "")?,
                "cut" => return Err(russh::Error::Disconnect),
                "four" => self.four_at_once(id, session),
                _ => {}
            }
        }
        Ok(())
    }
}

impl Seen {
    fn accepted(&self) -> Auth {
        self.logins.fetch_add(1, SeqCst);
        Auth::Accept
    }

    fn refusal(&self) -> Auth {
        let mut methods = vec![MethodKind::PublicKey, MethodKind::Password];
        if self.takes_passwords.load(SeqCst) {
            methods.push(MethodKind::KeyboardInteractive);
        }
        let methods = MethodSet::from(&methods[..]);
        Auth::Reject { proceed_with_methods: Some(methods), partial_success: false }
    }

    /// Ends the command when three other commands have reached this point.
    fn four_at_once(self: &Arc<Self>, id: ChannelId, session: &mut Session) {
        let (seen, handle) = (self.clone(), session.handle());
        tokio::spawn(async move {
            let running = seen.running.fetch_add(1, SeqCst) + 1;
            seen.most_running.fetch_max(running, SeqCst);
            seen.four.wait().await;
            seen.running.fetch_sub(1, SeqCst);
            let _ = handle.exit_status_request(id, 0).await;
            let _ = handle.close(id).await;
        });
    }
}
