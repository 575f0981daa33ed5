//! An ssh-agent in the test's own process: it lists keys and signs, nothing else.

use std::path::Path;

use russh::keys::PrivateKey;
use russh::keys::signature::Signer;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};

pub fn start(socket: &Path, keys: Vec<PrivateKey>) {
    let listener = UnixListener::bind(socket).unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream, keys.clone()));
        }
    });
}

async fn serve(mut stream: UnixStream, keys: Vec<PrivateKey>) {
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

fn identities(keys: &[PrivateKey]) -> Vec<u8> {
    let mut answer = vec![12];
    answer.extend((keys.len() as u32).to_be_bytes());
    for key in keys {
        put(&mut answer, &key.public_key().to_bytes().unwrap());
        put(&mut answer, b"held");
    }
    answer
}

fn signed(request: &[u8], keys: &[PrivateKey]) -> Vec<u8> {
    let (blob, rest) = take(request);
    let (data, _) = take(rest);
    let key = keys.iter().find(|key| key.public_key().to_bytes().unwrap() == blob).unwrap();
    let signature = key.try_sign(data).unwrap();
    let mut encoded = vec![];
    put(&mut encoded, signature.algorithm().to_string().as_bytes());
    put(&mut encoded, signature.as_bytes());
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
