//! A slow connection to a server. The relay delays everything, and counts round trips.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::unbounded_channel;

pub struct Relay {
    pub port: u16,
    /// How often the client sent something after it had received something, plus one for the TCP handshake.
    pub trips: Arc<AtomicUsize>,
    /// If set, nothing arrives any more, without an error.
    pub silent: Arc<AtomicBool>,
}

/// Starts a relay to port `to`. Each direction takes `delay`.
pub async fn start(to: u16, delay: Duration) -> Relay {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (port, trips) = (listener.local_addr().unwrap().port(), Arc::new(AtomicUsize::new(0)));
    let (counted, silent) = (trips.clone(), Arc::new(AtomicBool::new(false)));
    let is_silent = silent.clone();
    tokio::spawn(async move {
        while let Ok((near, _)) = listener.accept().await {
            let far = TcpStream::connect(("127.0.0.1", to)).await.unwrap();
            near.set_nodelay(true).unwrap();
            far.set_nodelay(true).unwrap();
            counted.fetch_add(1, SeqCst);
            let heard = Arc::new(AtomicBool::new(true));
            let (near, far) = (near.into_split(), far.into_split());
            let (count, said) = (counted.clone(), heard.clone());
            tokio::spawn(carry(near.0, far.1, delay, is_silent.clone(), move || {
                if said.swap(false, SeqCst) {
                    count.fetch_add(1, SeqCst);
                }
            }));
            let to_near = move || heard.store(true, SeqCst);
            tokio::spawn(carry(far.0, near.1, delay, is_silent.clone(), to_near));
        }
    });
    Relay { port, trips, silent }
}

async fn carry(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    delay: Duration,
    silent: Arc<AtomicBool>,
    on_piece: impl Fn(),
) {
    let (sender, mut pieces) = unbounded_channel::<(tokio::time::Instant, Vec<u8>)>();
    tokio::spawn(async move {
        while let Some((due, piece)) = pieces.recv().await {
            tokio::time::sleep_until(due).await;
            if to.write_all(&piece).await.is_err() {
                return;
            }
        }
        let _ = to.shutdown().await;
    });
    let mut piece = vec![0; 64 * 1024];
    while let Ok(n @ 1..) = from.read(&mut piece).await {
        if silent.load(SeqCst) {
            return std::future::pending().await;
        }
        on_piece();
        if sender.send((tokio::time::Instant::now() + delay, piece[..n].to_vec())).is_err() {
            return;
        }
    }
}
