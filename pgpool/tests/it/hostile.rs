//! Servers that mean no good, at the login: numbers that would cost hours, proofs that are none, notices without
//! end, lengths that no message has, messages out of order, silence. Not for servers that fail later: those are in
//! `faults`. A server of our own, and beside it a real PostgreSQL.
//!
//! Invariant: each is left for its own reason, which the log names: a time that is over is none, but for silence.

use std::fmt::Debug;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;

use crate::pooler::{Pooler, Setup, code, connect};
use crate::postgres::{PASSWORD, Postgres};

/// What a server does when a client logs in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Script {
    /// Wants a proof that takes 2³¹ hashes.
    Iterations,
    /// Answers with another nonce than was sent.
    Nonce,
    /// Answers with one that has no end.
    LongNonce,
    /// Has heard no proof, and is content.
    Hasty,
    /// Has heard the proof, and shows none of its own.
    Unproved,
    /// Shows one that is wrong.
    Signature,
    /// Wants the password itself, of a user of whom only the verifier is known.
    Cleartext,
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

const NOT_PROVED: &str = "the server could not prove that it knows the password";
const UNEXPECTED: &str = "the server sent what no PostgreSQL sends during a login";
const TIMEOUT: &str = "no answer within the connect timeout";

/// Every script, and why it is left.
const ALL: [(Script, &str); 16] = [
    (
        Script::Iterations,
        "the server asks for 2147483647 iterations of SCRAM-SHA-256, and keys are derived for 1000000 at most: give \
         this user its verifier as secret (rolpassword of pg_authid), which takes none",
    ),
    (Script::Nonce, "the server sent a nonce that is not lawful or not the continuation of ours"),
    (Script::LongNonce, "the server sent a SASL message longer than 2048 bytes"),
    (Script::Hasty, NOT_PROVED),
    (Script::Unproved, NOT_PROVED),
    (Script::Signature, NOT_PROVED),
    (
        Script::Cleartext,
        "the server asks for the password in clear, and this user's secret is a SCRAM verifier: that would be a \
         downgrade",
    ),
    (Script::Notices, UNEXPECTED),
    (Script::Parameters, UNEXPECTED),
    (Script::TooLong, "message 'R' declares 2147483643 bytes, the limit is 65536"),
    (Script::TooShort, "message 'R' declares a length of 1, less than the length field"),
    (Script::Early, UNEXPECTED),
    (Script::Rows, UNEXPECTED),
    (Script::Silence, TIMEOUT),
    (Script::Half, TIMEOUT),
    (Script::Http, "message 'H' declares 1414811691 bytes, the limit is 65536"),
];

/// Why servers have let nobody in: address and cause, of all poolers of this process.
static FAILED: Mutex<Vec<(String, String)>> = Mutex::new(Vec::new());

fn failed() -> MutexGuard<'static, Vec<(String, String)>> {
    FAILED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Keeps these lines of the log.
struct Ear;

impl<S: Subscriber> Layer<S> for Ear {
    fn enabled(&self, metadata: &Metadata<'_>, _: Context<'_, S>) -> bool {
        *metadata.level() <= Level::WARN
    }

    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut told = Told::default();
        event.record(&mut told);
        if told.message == "server connection failed" {
            failed().push((told.address, told.cause));
        }
    }
}

#[derive(Default)]
struct Told {
    message: String,
    address: String,
    cause: String,
}

impl Visit for Told {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let text = match field.name() {
            "message" => &mut self.message,
            "address" => &mut self.address,
            "cause" => &mut self.cause,
            _ => return,
        };
        *text = format!("{value:?}");
    }
}

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

/// Goes through SCRAM with one thing wrong in it, and lets in whoever does not mind.
async fn scram(script: Script, socket: &mut TcpStream) {
    let theirs = nonce(socket).await;
    let inside = [message(b'R', &[0; 4]), message(b'Z', b"I")].concat();
    if script != Script::Hasty {
        let (answer, count) = match script {
            Script::Iterations => (format!("{theirs}x"), 2_147_483_647),
            Script::Nonce => ("another".to_owned(), 4096),
            Script::LongNonce => (format!("{theirs}{}", "x".repeat(2048)), 4096),
            _ => (format!("{theirs}x"), 4096),
        };
        let first = format!("r={answer},s=c2FsdHNhbHQ=,i={count}");
        let more = message(b'R', &[b"\0\0\0\x0b", first.as_bytes()].concat());
        socket.write_all(&more).await.expect("sent");
        let mut proof = [0; 1024];
        if !matches!(socket.read(&mut proof).await, Ok(count) if count > 0) {
            return;
        }
    }
    if script == Script::Signature {
        let last = format!("v={}=", "A".repeat(43));
        let last = message(b'R', &[b"\0\0\0\x0c", last.as_bytes()].concat());
        let _gone = socket.write_all(&last).await;
    }
    let _gone = socket.write_all(&inside).await;
}

/// Plays it until the pooler has closed the connection.
async fn play(script: Script, socket: &mut TcpStream) {
    let endless = match script {
        Script::Iterations
        | Script::Nonce
        | Script::LongNonce
        | Script::Hasty
        | Script::Unproved
        | Script::Signature => {
            scram(script, socket).await;
            None
        }
        Script::Cleartext => {
            let _gone = socket.write_all(&message(b'R', b"\0\0\0\x03")).await;
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

/// P4, O5: whatever a server does at the login, the pooler leaves it for what is wrong, tells the clients that wait
/// for it, and serves all others.
#[tokio::test]
async fn servers_that_mean_no_good_are_left() {
    let _first = tracing_subscriber::registry().with(Ear).try_init();
    let server = Postgres::start().await;
    for (script, cause) in ALL {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let address = listener.local_addr().expect("bound").to_string();
        let more = format!(" }}\n      evil: {{ primary: \"{address}\", pool-size: 1");
        // Time ends nothing but silence.
        let time = if cause == TIMEOUT { "1s" } else { "100s" };
        let settings = format!(
            "server_connect_timeout: {time}, query_wait_timeout: 100s, ready_when: running"
        );
        // The one connection is the login's.
        let setup = Setup { more: &more, settings: &settings, size: 1, ..Setup::default() };
        let pooler = Pooler::start(&server, setup).await;
        let played = async {
            let mut socket = opened(&listener).await;
            play(script, &mut socket).await;
        };
        let user = if script == Script::Cleartext { "app" } else { "other" };
        let config = pooler.config(user, PASSWORD, "evil");
        let evil = async { connect(&config).await.expect_err("nobody is let in") };
        let others = async {
            for _ in 0..20 {
                pooler.client("app").await.batch_execute("select 1").await.expect("served");
            }
        };
        let ((), (), fault) = tokio::join!(played, others, evil);
        // Who waits is told no more than that, and what it cannot use is for the log.
        let login = "the server's login failed";
        let told = if [UNEXPECTED, TIMEOUT].contains(&cause) { cause } else { login };
        let told = format!("cannot connect to a server of database \"evil\": {told}");
        assert_eq!(code(&fault), "57P03", "{script:?}");
        assert_eq!(
            fault.as_db_error().map(tokio_postgres::error::DbError::message),
            Some(&*told),
            "{script:?}"
        );
        let causes: Vec<_> = failed().iter().filter(|one| one.0 == address).cloned().collect();
        assert_eq!(causes, [(address, cause.to_owned())], "{script:?}");
        pooler.client("app").await.batch_execute("select 1").await.expect("served");
        pooler.end().await;
    }
}
