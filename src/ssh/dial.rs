//! The stream below SSH: a socket, a channel of a jump host, or a program of the operator's.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};

use russh::ChannelOpenFailure;
use russh::client::Handle;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::GOODBYE;
use super::host_key::HostKeyVerifier;
use super::route::{Route, Via};
use crate::error::{Error, Kind, Result};

pub(super) trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

pub(super) struct Transport {
    pub stream: Box<dyn Duplex>,
    /// The program ends with the connection.
    pub program: Option<Program>,
}

/// A ProxyCommand that carries a connection.
pub(super) struct Program {
    _child: Child,
    said: Arc<Mutex<String>>,
    /// The task that reads standard error to its end.
    hearing: JoinHandle<()>,
}

impl Program {
    /// Returns the program's last line on standard error, once it has ended.
    pub async fn words(self) -> Option<String> {
        let _ = timeout(GOODBYE, self.hearing).await;
        let said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        said.lines().rev().map(str::trim).find(|line| !line.is_empty()).map(String::from)
    }
}

/// How far a connection got. Errors use it to say where the time ran out.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Stage {
    Name,
    Tcp,
    Greeting,
    Login,
}

/// A jump host with an open connection.
pub(super) struct Hop<'a> {
    pub handle: &'a Handle<HostKeyVerifier>,
    pub route: &'a Route,
}

/// Opens the stream to a host. `name`: the node, for messages. `via`: the jump host, if there is one.
pub(super) async fn dial(
    route: &Route,
    name: &str,
    via: Option<&Hop<'_>>,
    stage: &mut Stage,
) -> Result<Transport> {
    match (&route.via, via) {
        (Via::Command(command), _) => {
            *stage = Stage::Greeting;
            run(command)
        }
        (_, Some(via)) => {
            *stage = Stage::Tcp;
            forwarded(route, via).await
        }
        _ => socket(route, name, stage).await,
    }
}

async fn socket(route: &Route, name: &str, stage: &mut Stage) -> Result<Transport> {
    if let Some(bound) = &route.narrow.bound {
        let what = format!("your ssh_config sets {bound}, which ironstrap does not support");
        return Err(Error::new(Kind::Local, what)
            .because("nothing was sent")
            .hint("remove it for this host, or use a ProxyCommand that binds to it"));
    }
    *stage = Stage::Name;
    let host = route.host.as_str();
    let found = tokio::net::lookup_host((host, route.port)).await;
    let addresses: Vec<_> = found.map(Iterator::collect).map_err(|error| {
        Error::new(Kind::Unreachable, format!("cannot resolve {host}"))
            .because(error.to_string())
            .hint(format!("correct the address of {name} in the inventory, or use an IP address"))
    })?;
    let addresses = of_family(route, addresses)?;
    *stage = Stage::Tcp;
    let socket = TcpStream::connect(&addresses[..]).await.map_err(|error| unreachable(route, &error))?;
    // Nagle's algorithm would add the other side's delayed acknowledgement to every request.
    socket.set_nodelay(true).map_err(|error| unreachable(route, &error))?;
    Ok(Transport { stream: Box::new(socket), program: None })
}

/// Returns the addresses that AddressFamily of ssh_config allows.
fn of_family(route: &Route, found: Vec<SocketAddr>) -> Result<Vec<SocketAddr>> {
    let Some(family) = route.narrow.family else { return Ok(found) };
    let (allowed, others): (Vec<_>, Vec<_>) = found.into_iter().partition(|address| family.has(address.ip()));
    if !allowed.is_empty() {
        return Ok(allowed);
    }
    let others: Vec<String> = others.iter().map(|address| address.ip().to_string()).collect();
    let (host, word) = (&route.host, family.word());
    Err(Error::new(Kind::Local, format!("your ssh_config allows no address of {host}"))
        .because(format!("AddressFamily is {word}; {host} has {}", others.join(", ")))
        .because("nothing was sent")
        .hint("set AddressFamily to any for this host, or give it an address of that family"))
}

async fn forwarded(route: &Route, via: &Hop<'_>) -> Result<Transport> {
    let opened = via.handle.channel_open_direct_tcpip(&route.host, route.port.into(), "127.0.0.1", 0).await;
    let channel = opened.map_err(|error| {
        let (hop, address) = (via.route.shown(), route.address());
        let (what, hint) = match error {
            russh::Error::ChannelOpenFailure(ChannelOpenFailure::AdministrativelyProhibited) => (
                format!("the jump host {hop} does not forward connections to {address}"),
                "allow it there: AllowTcpForwarding and PermitOpen in its sshd_config",
            ),
            _ => (
                format!("the jump host {hop} cannot connect to {address}"),
                "check that the jump host reaches this address and that sshd listens on it; compare with:",
            ),
        };
        let told = Error::new(Kind::Unreachable, what).because(error.to_string());
        told.hint(format!("{hint} {}", route.by_hand()))
    })?;
    Ok(Transport { stream: Box::new(channel.into_stream()), program: None })
}

/// Runs a ProxyCommand with `/bin/sh`. As with ssh, the command replaces the shell that starts it.
fn run(command: &str) -> Result<Transport> {
    let failed =
        |why: String| Error::new(Kind::Local, "cannot run the ProxyCommand of your ssh_config").because(why);
    let mut program = Command::new("/bin/sh");
    program.args(["-c", &format!("exec {command}")]).kill_on_drop(true);
    program.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = program.spawn().map_err(|error| failed(error.to_string()))?;
    let (Some(input), Some(output), Some(mut errors)) =
        (child.stdin.take(), child.stdout.take(), child.stderr.take())
    else {
        return Err(failed("it has no input or output".into()));
    };
    let said = Arc::new(Mutex::new(String::new()));
    let heard = said.clone();
    let hearing = tokio::spawn(async move {
        let mut piece = [0; 1024];
        while let Ok(n @ 1..) = errors.read(&mut piece).await {
            let mut said = heard.lock().unwrap_or_else(PoisonError::into_inner);
            // The program may print for as long as the connection lasts.
            if said.len() < 4096 {
                said.push_str(&String::from_utf8_lossy(&piece[..n]));
            }
        }
    });
    let stream = Box::new(tokio::io::join(output, input));
    Ok(Transport { stream, program: Some(Program { _child: child, said, hearing }) })
}

fn unreachable(route: &Route, error: &std::io::Error) -> Error {
    let address = route.address();
    let what = match error.kind() {
        ErrorKind::ConnectionRefused => format!("{address} refuses the connection"),
        _ => format!("cannot connect to {address}"),
    };
    Error::new(Kind::Unreachable, what).because(error.to_string()).hint(format!(
        "check that the machine is up and that sshd listens on port {}; compare with: {}",
        route.port,
        route.by_hand()
    ))
}
