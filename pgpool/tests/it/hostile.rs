//! Servers that mean no good, at the login: numbers that would cost hours, notices without end, lengths that no
//! message has, messages out of order, silence. Not for servers that fail later: those are in `faults`. A server of
//! our own, and beside it a real PostgreSQL.
//!
//! Invariant: a test waits until the pooler has closed the connection, never for a time.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::pooler::{Pooler, Setup, connect};
use crate::postgres::{PASSWORD, Postgres};

/// What a server does when a client logs in.
#[derive(Clone, Copy, Debug)]
enum Script {
    /// Wants a proof that takes 2³¹ hashes.
    Iterations,
    /// Answers with another nonce than was sent.
    Nonce,
    /// Goes on with notices.
    Notices,
    /// And with parameters, each of its own name.
    Parameters,
    /// Announces two gigabytes.
    TooLong,
    /// Announces less than a length takes.
    TooShort,
    /// Is ready before it has let anybody in.
    Early,
    /// Sends rows instead.
    Rows,
    /// Says nothing.
    Silence,
    /// Stops in the middle of a message.
    Half,
    /// Speaks something else.
    Http,
}

const ALL: [Script; 11] = [
    Script::Iterations,
    Script::Nonce,
    Script::Notices,
    Script::Parameters,
    Script::TooLong,
    Script::TooShort,
    Script::Early,
    Script::Rows,
    Script::Silence,
    Script::Half,
    Script::Http,
];

fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 4).expect("short").to_be_bytes();
    [&[tag], &length[..], body].concat()
}

/// An answer to a request for encryption, and what follows it.
async fn opened(listener: &TcpListener) -> TcpStream {
    let (mut socket, _) = listener.accept().await.expect("it comes");
    loop {
        let mut packet = [0; 1024];
        let count = socket.read(&mut packet).await.expect("an opening packet");
        if count != 8 {
            return socket;
        }
        socket.write_all(b"N").await.expect("in clear");
    }
}

/// Asks for SCRAM; the nonce that is sent.
async fn nonce(socket: &mut TcpStream) -> String {
    let wants = message(b'R', b"\0\0\0\x0aSCRAM-SHA-256\0\0");
    socket.write_all(&wants).await.expect("asked");
    let mut first = Vec::new();
    loop {
        assert!(socket.read_buf(&mut first).await.expect("read") > 0, "it answers");
        let text = String::from_utf8_lossy(&first);
        if let Some((_, nonce)) = text.split_once(",r=") {
            return nonce.to_owned();
        }
    }
}

/// Plays it until the pooler has closed the connection.
async fn play(script: Script, socket: &mut TcpStream) {
    let endless = match script {
        Script::Iterations | Script::Nonce => {
            let theirs = nonce(socket).await;
            let first = match script {
                Script::Iterations => format!("r={theirs}x,s=c2FsdHNhbHQ=,i=2147483647"),
                _ => "r=another,s=c2FsdHNhbHQ=,i=4096".to_owned(),
            };
            let more = message(b'R', &[b"\0\0\0\x0b", first.as_bytes()].concat());
            socket.write_all(&more).await.expect("sent");
            None
        }
        Script::Notices => Some(message(b'N', b"SNOTICE\0C00000\0Mstay a while\0\0")),
        Script::Parameters => {
            let _gone = socket.write_all(&message(b'R', &[0; 4])).await;
            Some(Vec::new())
        }
        Script::TooLong => Some([&b"R\x7f\xff\xff\xff"[..], &[0; 4096]].concat()),
        Script::TooShort => Some(b"R\0\0\0\x01".to_vec()),
        Script::Early => Some(message(b'Z', b"I")),
        Script::Rows => Some(message(b'D', b"\0\x01\0\0\0\x01x")),
        Script::Silence => None,
        Script::Half => {
            let _gone = socket.write_all(b"R\0\0\0\x08\0\0").await;
            None
        }
        Script::Http => Some(b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec()),
    };
    let mut number = 0_u64;
    while let Some(part) = &endless {
        number += 1;
        let parameter = message(b'S', format!("name{number}\0{}\0", "x".repeat(1000)).as_bytes());
        let part = if part.is_empty() { &parameter } else { part };
        if socket.write_all(part).await.is_err() {
            return;
        }
    }
    let mut scrap = [0; 1024];
    while matches!(socket.read(&mut scrap).await, Ok(count) if count > 0) {}
}

/// P4, O5: whatever a server does at the login, the pooler closes the connection, tells the clients that wait for
/// it, and serves all others.
#[tokio::test]
async fn servers_that_mean_no_good_are_left() {
    let server = Postgres::start().await;
    for script in ALL {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let port = listener.local_addr().expect("bound").port();
        let more = format!(" }}\n      evil: {{ primary: 127.0.0.1:{port}, pool-size: 1");
        // The one connection is the login's.
        let settings = "server_connect_timeout: 1s, query_wait_timeout: 2s, ready_when: running";
        let setup = Setup { more: &more, settings, size: 1, ..Setup::default() };
        let pooler = Pooler::start(&server, setup).await;
        let played = async {
            let mut socket = opened(&listener).await;
            play(script, &mut socket).await;
        };
        let config = pooler.config("other", PASSWORD, "evil");
        let evil = async { drop(connect(&config).await.expect_err("nobody is let in")) };
        let others = async {
            for _ in 0..20 {
                pooler.client("app").await.batch_execute("select 1").await.expect("served");
            }
        };
        println!("{script:?}");
        tokio::join!(played, others, evil);
        pooler.client("app").await.batch_execute("select 1").await.expect("served");
        pooler.end().await;
    }
}
