//! An ssh-agent inside the test process. It can list keys and sign.

use std::path::Path;

use russh::keys::signature::Signer;
use russh::keys::ssh_key::private::{self, KeypairData};
use russh::keys::ssh_key::public;
use russh::keys::{PrivateKey, PublicKey};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};

/// The default application of keys in a hardware token (ssh-keygen(1), application).
const APPLICATION: &str = "ssh:";
/// The flag for a token that the user touched (OpenSSH, PROTOCOL.u2f).
const TOUCHED: u8 = 1;

/// A key in the agent.
#[derive(Clone)]
pub struct Held {
    public: PublicKey,
    signs: PrivateKey,
}

impl From<PrivateKey> for Held {
    fn from(key: PrivateKey) -> Held {
        Held { public: key.public_key().clone(), signs: key }
    }
}

impl Held {
    /// An Ed25519 key that appears to be in a hardware token.
    pub fn in_token(key: &PrivateKey) -> Held {
        Held { public: stub(key).public_key().clone(), signs: key.clone() }
    }
}

/// The file that ssh-keygen writes for a key in a hardware token. It is useless without the token.
pub fn stub(key: &PrivateKey) -> PrivateKey {
    let public = public::SkEd25519::new(*key.public_key().key_data().ed25519().unwrap(), APPLICATION);
    let stub = private::SkEd25519::new(public, TOUCHED, b"handle".to_vec()).unwrap();
    PrivateKey::new(KeypairData::SkEd25519(stub), "in a token").unwrap()
}

pub fn start(socket: &Path, keys: impl IntoIterator<Item = impl Into<Held>>) {
    let listener = UnixListener::bind(socket).unwrap();
    let keys: Vec<Held> = keys.into_iter().map(Into::into).collect();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream, keys.clone()));
        }
    });
}

async fn serve(mut stream: UnixStream, keys: Vec<Held>) {
    while let Ok(length) = stream.read_u32().await {
        let mut request = vec![0; length as usize];
        stream.read_exact(&mut request).await.unwrap();
        let answer = match request[0] {
            11 => identities(&keys),
            13 => signed(&request[1..], &keys),
            _ => vec![5],
        };
        stream.write_u32(answer.len() as u32).await.unwrap();
        stream.write_all(&answer).await.unwrap();
    }
}

fn identities(keys: &[Held]) -> Vec<u8> {
    let mut answer = vec![12];
    answer.extend((keys.len() as u32).to_be_bytes());
    for key in keys {
        put(&mut answer, &key.public.to_bytes().unwrap());
        put(&mut answer, b"held");
    }
    answer
}

fn signed(request: &[u8], keys: &[Held]) -> Vec<u8> {
    let (blob, rest) = take(request);
    let (data, _) = take(rest);
    let Held { public, signs } = keys.iter().find(|key| key.public.to_bytes().unwrap() == blob).unwrap();
    let token = public.key_data() != signs.public_key().key_data();
    let mut encoded = vec![];
    put(&mut encoded, public.algorithm().to_string().as_bytes());
    if token {
        let seal = [&[TOUCHED][..], &[0, 0, 0, 7]].concat();
        let (application, data) = (Sha256::digest(APPLICATION), Sha256::digest(data));
        let whole = [&application[..], &seal, &data[..]].concat();
        put(&mut encoded, signs.try_sign(&whole).unwrap().as_bytes());
        encoded.extend(seal);
    } else {
        put(&mut encoded, signs.try_sign(data).unwrap().as_bytes());
    }
    let mut answer = vec![14];
    put(&mut answer, &encoded);
    answer
}

fn put(to: &mut Vec<u8>, bytes: &[u8]) {
    to.extend((bytes.len() as u32).to_be_bytes());
    to.extend(bytes);
}

fn take(from: &[u8]) -> (&[u8], &[u8]) {
    let length = u32::from_be_bytes(from[..4].try_into().unwrap()) as usize;
    from[4..].split_at(length)
}
