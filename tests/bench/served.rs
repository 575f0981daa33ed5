//! SSH servers in this process, one for each machine of a fleet. They run no scripts, but send prepared answers. Some
//! can hang.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use ironstrap::inventory;
use ironstrap::pki::ClusterPki;
use ironstrap::store::Store;
use russh::ChannelId;
use russh::keys::PublicKey;
use russh::keys::ssh_key::LineEnding;
use russh::server::{Auth, Session};
use time::OffsetDateTime;
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;

use super::converged::{Converged, Replies};
use crate::support::relay;
use crate::support::ssh_server::{self, Service, end, listen, new_key};

/// The state of the machines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    AsWanted,
    /// The /etc/hosts of each machine lacks the last node.
    Drifted,
    /// One machine of twenty hangs.
    Hanging,
}

pub const HANGS: usize = 20;

/// The counters of the servers.
#[derive(Default)]
pub struct Counted {
    pub scripts: AtomicUsize,
    /// Connections to machines that hang, and to all machines.
    pub hanging: AtomicUsize,
    pub connected: AtomicUsize,
    /// The number of connections when ironstrap first gave up a machine that hangs.
    pub at_first_end: OnceLock<usize>,
    pub trips: Vec<Arc<AtomicUsize>>,
}

/// Starts the servers. Writes the operator's files: the inventory, the SSH key, the known hosts and the cluster PKI.
pub async fn serve(home: &Path, nodes: usize, round: Duration, state: State) -> Arc<Counted> {
    let login = new_key();
    login.write_openssh_file(home.join("key"), LineEnding::LF).unwrap();
    let (mut servers, mut counted, mut known) = (Vec::new(), Counted::default(), String::new());
    let mut text = String::from(
        "[cluster]\nname = 'demo'\nkubernetes = '1.36.3'\npods = '10.128.0.0/12'\n[ssh]\nuser = 'root'\nkey = 'key'\nknown-hosts = 'known'\n",
    );
    for i in 0..nodes {
        let ((listener, mut port), key) = (listen().await, new_key());
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
    let pki = ClusterPki::make(&cluster, OffsetDateTime::now_utc()).unwrap();
    Store::new(&cluster).save(&pki).unwrap();
    let (all, counted) = (Converged::new(cluster, pki), Arc::new(counted));
    for (i, (listener, key)) in servers.into_iter().enumerate() {
        let replies = Arc::new(all.replies(&all.cluster.nodes[i], state == State::Drifted));
        match state == State::Hanging && i % HANGS == HANGS - 1 {
            true => drop(tokio::spawn(accept_and_hang(listener, counted.clone()))),
            false => {
                let service =
                    Prepared { login: login.public_key().clone(), replies, counted: counted.clone() };
                ssh_server::serve(listener, ssh_server::config(key), Arc::new(service));
            }
        }
    }
    counted
}

async fn accept_and_hang(listener: TcpListener, counted: Arc<Counted>) {
    while let Ok((mut socket, _)) = listener.accept().await {
        counted.hanging.fetch_add(1, SeqCst);
        counted.connected.fetch_add(1, SeqCst);
        let counted = counted.clone();
        tokio::spawn(async move {
            let _ = socket.read_to_end(&mut Vec::new()).await;
            counted.at_first_end.get_or_init(|| counted.connected.load(SeqCst));
        });
    }
}

/// A machine with prepared replies, and the key that a client may log in with.
struct Prepared {
    login: PublicKey,
    replies: Arc<Replies>,
    counted: Arc<Counted>,
}

impl Service for Prepared {
    fn connects(&self) -> bool {
        self.counted.connected.fetch_add(1, SeqCst);
        true
    }

    fn logs_in(&self, key: &PublicKey) -> Auth {
        if key.key_data() == self.login.key_data() { Auth::Accept } else { Auth::reject() }
    }

    fn script(
        self: &Arc<Self>,
        id: ChannelId,
        script: String,
        session: &mut Session,
    ) -> Result<(), russh::Error> {
        self.counted.scripts.fetch_add(1, SeqCst);
        // The boundary is the last random word of the script (see `probe::boundary`). Earlier ones end here-documents.
        let is_boundary = |word: &&str| word.len() == 34 && word.starts_with("--");
        let boundary = script.split_whitespace().rfind(is_boundary).unwrap();
        session.data(id, format!("--ironstrap begins--\n{}", self.replies.text(boundary)))?;
        end(session, id, 0)
    }
}
