//! How a plan fares at size: up to a thousand SSH servers in this process, and the program as users have it in one of its
//! own, so that what it needs is told from what they need. Trips and scripts are counted; the clock and the memory are
//! this machine's. usage: cargo bench --bench fleet [-- NODES…]

// clippy sees no test in what the tests share.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

#[path = "../common/mod.rs"]
mod common;
mod converged;
#[path = "../ssh/relay.rs"]
mod relay;

use std::collections::HashMap;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

use converged::{Converged, Replies};
use ironstrap::inventory;
use ironstrap::pki::Trust;
use ironstrap::store::Store;
use russh::keys::ssh_key::LineEnding;
use russh::keys::{Algorithm, PrivateKey, PublicKey};
use russh::server::{Auth, ChannelOpenHandle, Config, Handler, Msg, Session, VerifiedPublicKey};
use russh::{Channel, ChannelId};
use time::OffsetDateTime;
use tokio::net::{TcpListener, TcpStream};

/// As `--timeout` has it where nobody says otherwise.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Of twenty nodes one hangs, where any does.
const HANGS: usize = 20;

fn main() {
    let asked: Vec<usize> = std::env::args().skip(1).filter_map(|word| word.parse().ok()).collect();
    let sizes = if asked.is_empty() { vec![10, 100, 1000] } else { asked };
    println!(
        "nodes  round trip  hanging    wall s     CPU s   peak MB  scripts/node  trips/node  s/node, of the first"
    );
    let mut healthy = HashMap::new();
    let mut first = HashMap::new();
    for (delay, hang) in [(0, false), (50, false), (270, false), (0, true)] {
        for &nodes in &sizes {
            let seen = measure(nodes, Duration::from_millis(delay), hang);
            let per_node = seen.wall.as_secs_f64() / nodes as f64;
            let ratio = per_node / *first.entry((delay, hang)).or_insert(per_node);
            let hanging = if hang { nodes / HANGS } else { 0 };
            println!(
                "{nodes:>5}  {delay:>7} ms  {hanging:>7}  {:>8.2}  {:>8.2}  {:>8.1}  {:>12.2}  {:>10}  {ratio:.3}",
                seen.wall.as_secs_f64(),
                seen.cpu,
                seen.peak,
                seen.scripts,
                seen.trips,
            );
            match hang {
                false => drop(healthy.insert((nodes, delay), seen.wall)),
                true => {
                    let more = seen.wall.saturating_sub(healthy[&(nodes, delay)]);
                    println!(
                        "       {:.2} timeouts more than without",
                        more.as_secs_f64() / TIMEOUT.as_secs_f64()
                    );
                }
            }
        }
    }
}

/// What a plan took.
struct Seen {
    wall: Duration,
    cpu: f64,
    /// Mebibytes of memory.
    peak: f64,
    scripts: f64,
    trips: String,
}

/// What the servers count.
#[derive(Default)]
struct Counted {
    scripts: AtomicUsize,
    trips: Vec<Arc<AtomicUsize>>,
}

/// One plan of a fleet that is as wanted; `round`: the time of a round trip.
fn measure(nodes: usize, round: Duration, hang: bool) -> Seen {
    let (home, runtime) = (tempfile::tempdir().unwrap(), tokio::runtime::Runtime::new().unwrap());
    let counted = runtime.block_on(serve(home.path(), nodes, round, hang));
    let since = Instant::now();
    let (cpu, peak, said, good) = plan(home.path());
    let wall = since.elapsed();
    let hanging = if hang { nodes / HANGS } else { 0 };
    assert!(good == (hanging == 0) && said.contains(" things are as "), "this fleet is as wanted: {said}");
    let per_node = |n: usize| n as f64 / (nodes - hanging) as f64;
    let trips: usize = counted.trips.iter().map(|trips| trips.load(SeqCst)).sum();
    Seen {
        wall,
        cpu,
        peak,
        scripts: per_node(counted.scripts.load(SeqCst)),
        trips: if counted.trips.is_empty() { "-".into() } else { format!("{:.2}", per_node(trips)) },
    }
}

/// Runs it to its end; its CPU seconds, its peak in mebibytes, what it said, whether it went well. Both are read off the
/// kernel every few milliseconds, for as long as it lives.
fn plan(home: &Path) -> (f64, f64, String, bool) {
    let program = std::env::var("IRONSTRAP_BIN").unwrap_or_else(|_| env!("CARGO_BIN_EXE_ironstrap").into());
    // With as many open files as a shell usually allows.
    let mut command = Command::new("/bin/sh");
    command.args(["-c", "ulimit -Sn 1024; exec $0 plan -i demo.toml", &program]);
    command.current_dir(home).env("HOME", home).env_remove("SSH_AUTH_SOCK");
    let (out, err) = (home.join("out"), home.join("err"));
    let file = |path| std::fs::File::create(path).unwrap();
    let command = command.stdin(Stdio::null()).stdout(file(&out)).stderr(file(&err));
    let mut child = command.spawn().unwrap();
    let (mut peak, mut ticks) = (0.0, 0.0);
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        let read =
            |name: &str| std::fs::read_to_string(format!("/proc/{}/{name}", child.id())).unwrap_or_default();
        let status = read("status");
        let high = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB"));
        peak = high.and_then(|kib| kib.trim().parse::<f64>().ok()).map_or(peak, |kib| kib / 1024.0);
        let stat = read("stat");
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let spent = |at: usize| fields.get(at).and_then(|field| field.parse::<f64>().ok()).unwrap_or(0.0);
        // Its own and its children's, in hundredths of a second (proc(5)).
        ticks = f64::max(ticks, [11, 12, 13, 14].map(spent).iter().sum());
        std::thread::sleep(Duration::from_millis(5));
    };
    let said = [out, err].map(|path| std::fs::read_to_string(path).unwrap()).concat();
    (ticks / 100.0, peak, said, status.success())
}

/// Starts the machines, and lays out what an operator of them has.
async fn serve(home: &Path, nodes: usize, round: Duration, hang: bool) -> Arc<Counted> {
    let login = new_key();
    login.write_openssh_file(&home.join("key"), LineEnding::LF).unwrap();
    let (mut servers, mut counted, mut known) = (Vec::new(), Counted::default(), String::new());
    let mut text = String::from(
        "[cluster]\nname = 'demo'\nkubernetes = '1.36.3'\npods = '10.128.0.0/12'\n[ssh]\nuser = 'root'\nkey = 'key'\nknown-hosts = 'known'\n",
    );
    for i in 0..nodes {
        let (listener, key) = (TcpListener::bind("127.0.0.1:0").await.unwrap(), new_key());
        let mut port = listener.local_addr().unwrap().port();
        if !round.is_zero() {
            let relay = relay::start(port, round / 2).await;
            port = relay.port;
            counted.trips.push(relay.trips);
        }
        known += &format!("[127.0.0.1]:{port} {}\n", key.public_key().to_openssh().unwrap());
        let (name, role) =
            if i == 0 { ("m1".into(), "control-plane") } else { (format!("w{i:03}"), "worker") };
        let ip = format!("10.32.{}.{}", i / 250, i % 250 + 1);
        text += &format!("[nodes.{name}]\naddress = '127.0.0.1:{port}'\nip = '{ip}'\nrole = '{role}'\n");
        servers.push((listener, key));
    }
    let path = home.join("demo.toml");
    std::fs::write(home.join("known"), known).unwrap();
    std::fs::write(&path, text).unwrap();
    let cluster = inventory::read(&path).unwrap_or_else(|error| panic!("{error}"));
    let trust = Trust::make(&cluster, OffsetDateTime::now_utc()).unwrap();
    Store::new(&cluster).save(&trust).unwrap();
    let (all, counted) = (Converged::new(cluster, trust), Arc::new(counted));
    for (i, (listener, key)) in servers.into_iter().enumerate() {
        let replies = Arc::new(all.replies(&all.cluster.nodes[i]));
        match hang && i % HANGS == HANGS - 1 {
            true => drop(tokio::spawn(hear_and_say_nothing(listener))),
            false => drop(tokio::spawn(answer(
                listener,
                key,
                login.public_key().clone(),
                replies,
                counted.clone(),
            ))),
        }
    }
    counted
}

fn new_key() -> PrivateKey {
    PrivateKey::random(&mut russh::keys::key::safe_rng(), Algorithm::Ed25519).unwrap()
}

async fn hear_and_say_nothing(listener: TcpListener) {
    let mut sockets: Vec<TcpStream> = Vec::new();
    while let Ok((socket, _)) = listener.accept().await {
        sockets.push(socket);
    }
}

async fn answer(
    listener: TcpListener,
    key: PrivateKey,
    login: PublicKey,
    replies: Arc<Replies>,
    counted: Arc<Counted>,
) {
    let config =
        Config { keys: vec![key], auth_rejection_time: Duration::ZERO, nodelay: true, ..Config::default() };
    let config = Arc::new(config);
    while let Ok((socket, _)) = listener.accept().await {
        socket.set_nodelay(true).unwrap();
        let (login, replies, counted) = (login.clone(), replies.clone(), counted.clone());
        let guest = Guest { login, replies, counted, script: Vec::new() };
        let config = config.clone();
        tokio::spawn(async move {
            if let Ok(session) = russh::server::run_stream(config, socket, guest).await {
                let _ = session.await;
            }
        });
    }
}

/// Somebody on the line: what they may log in with, and what they get to hear.
struct Guest {
    login: PublicKey,
    replies: Arc<Replies>,
    counted: Arc<Counted>,
    script: Vec<u8>,
}

impl Handler for Guest {
    type Error = russh::Error;

    async fn auth_publickey(&mut self, _: &str, key: VerifiedPublicKey<'_>) -> Result<Auth, russh::Error> {
        let ours = key.public_key.key_data() == self.login.key_data();
        Ok(if ours { Auth::Accept } else { Auth::reject() })
    }

    async fn channel_open_session(
        &mut self,
        _: Channel<Msg>,
        reply: ChannelOpenHandle,
        _: &mut Session,
    ) -> Result<(), russh::Error> {
        reply.accept().await;
        Ok(())
    }

    async fn exec_request(
        &mut self,
        id: ChannelId,
        _: &[u8],
        session: &mut Session,
    ) -> Result<(), russh::Error> {
        session.channel_success(id)
    }

    async fn data(&mut self, _: ChannelId, data: &[u8], _: &mut Session) -> Result<(), russh::Error> {
        self.script.extend_from_slice(data);
        Ok(())
    }

    async fn channel_eof(&mut self, id: ChannelId, session: &mut Session) -> Result<(), russh::Error> {
        self.counted.scripts.fetch_add(1, SeqCst);
        let script = String::from_utf8(std::mem::take(&mut self.script)).unwrap();
        // The first word that random bytes went into; see `probe::boundary`.
        let is_boundary = |word: &&str| word.len() == 34 && word.starts_with("--");
        let boundary = script.split_whitespace().find(is_boundary).unwrap();
        session.data(id, format!("--ironstrap begins--\n{}", self.replies.text(boundary)))?;
        session.exit_status_request(id, 0)?;
        session.eof(id)?;
        session.close(id)
    }
}
