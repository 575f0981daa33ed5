//! The SSH server of the tests. It has one client key, and reads each script to its end. A `Service` decides the rest.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use russh::keys::{Algorithm, PrivateKey, PublicKey};
use russh::server::{
    Auth, ChannelOpenHandle, Config, Handler, Msg, Response, Session, VerifiedPublicKey, run_stream,
};
use russh::{Channel, ChannelId, ChannelOpenFailure};
use tokio::net::TcpListener;

pub fn new_key() -> PrivateKey {
    PrivateKey::random(&mut russh::keys::key::safe_rng(), Algorithm::Ed25519).unwrap()
}

/// The behaviour of a server. All its connections share it.
pub trait Service: Send + Sync + 'static {
    /// Whether the server accepts the next connection. If not, it closes the connection at once.
    fn connects(&self) -> bool {
        true
    }

    fn logs_in(&self, key: &PublicKey) -> Auth;

    /// Judges a password that came by this method. Without a password, a client tries to log in without any method.
    fn logs_in_by(&self, _method: &'static str, _password: Option<&str>) -> Auth {
        Auth::reject()
    }

    /// Whether the server accepts the next session.
    fn opens(&self) -> bool {
        true
    }

    /// Begins a command.
    fn command(
        self: &Arc<Self>,
        id: ChannelId,
        _command: &[u8],
        session: &mut Session,
    ) -> Result<(), russh::Error> {
        session.channel_success(id)
    }

    /// Answers a script that has come to its end.
    fn script(
        self: &Arc<Self>,
        id: ChannelId,
        script: String,
        session: &mut Session,
    ) -> Result<(), russh::Error>;
}

/// Returns a listener at a free port of this computer, and the port.
pub async fn listen() -> (TcpListener, u16) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

/// Makes the configuration of a server that answers at once.
pub fn config(host_key: PrivateKey) -> Config {
    Config { keys: vec![host_key], auth_rejection_time: Duration::ZERO, nodelay: true, ..Config::default() }
}

/// Serves all connections, until the test ends.
pub fn serve(listener: TcpListener, config: Config, service: Arc<impl Service>) {
    let config = Arc::new(config);
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            if !service.connects() {
                continue;
            }
            socket.set_nodelay(true).unwrap();
            let connection = Connection { service: service.clone(), scripts: HashMap::new() };
            let config = config.clone();
            tokio::spawn(async move {
                if let Ok(session) = run_stream(config, socket, connection).await {
                    let _ = session.await;
                }
            });
        }
    });
}

/// Ends a command.
pub fn end(session: &mut Session, id: ChannelId, status: u32) -> Result<(), russh::Error> {
    session.exit_status_request(id, status)?;
    session.eof(id)?;
    session.close(id)
}

struct Connection<S> {
    service: Arc<S>,
    /// The part of each script that has come so far.
    scripts: HashMap<ChannelId, Vec<u8>>,
}

impl<S: Service> Handler for Connection<S> {
    type Error = russh::Error;

    async fn auth_none(&mut self, _: &str) -> Result<Auth, russh::Error> {
        Ok(self.service.logs_in_by("none", None))
    }

    async fn auth_password(&mut self, _: &str, password: &str) -> Result<Auth, russh::Error> {
        Ok(self.service.logs_in_by("password", Some(password)))
    }

    async fn auth_keyboard_interactive<'a>(
        &'a mut self,
        _: &str,
        _: &str,
        response: Option<Response<'a>>,
    ) -> Result<Auth, russh::Error> {
        let Some(answer) = response.and_then(|mut answers| answers.next()) else {
            return Ok(Auth::Partial {
                name: "".into(),
                instructions: "".into(),
                prompts: vec![("Password: ".into(), false)].into(),
            });
        };
        let answer = String::from_utf8_lossy(&answer).into_owned();
        Ok(self.service.logs_in_by("keyboard-interactive", Some(&answer)))
    }

    async fn auth_publickey(&mut self, _: &str, key: VerifiedPublicKey<'_>) -> Result<Auth, russh::Error> {
        Ok(self.service.logs_in(key.public_key))
    }

    async fn channel_open_session(
        &mut self,
        _: Channel<Msg>,
        reply: ChannelOpenHandle,
        _: &mut Session,
    ) -> Result<(), russh::Error> {
        match self.service.opens() {
            true => reply.accept().await,
            false => reply.reject(ChannelOpenFailure::ConnectFailed).await,
        }
        Ok(())
    }

    async fn exec_request(
        &mut self,
        id: ChannelId,
        command: &[u8],
        session: &mut Session,
    ) -> Result<(), russh::Error> {
        self.service.command(id, command, session)
    }

    async fn data(&mut self, id: ChannelId, data: &[u8], _: &mut Session) -> Result<(), russh::Error> {
        self.scripts.entry(id).or_default().extend_from_slice(data);
        Ok(())
    }

    async fn channel_eof(&mut self, id: ChannelId, session: &mut Session) -> Result<(), russh::Error> {
        let script = String::from_utf8(self.scripts.remove(&id).unwrap_or_default()).unwrap();
        self.service.script(id, script, session)
    }
}
