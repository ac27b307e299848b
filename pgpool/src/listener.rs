//! The listening side of one worker: accepts, reads the opening packet, does TLS, and sends the
//! client to the worker where its pool is at home. Not for logins: they happen at home. One per
//! worker.
//!
//! Invariant: nothing a client sends before its startup packet costs more than a bounded buffer and
//! a bounded time, and bytes sent before a TLS handshake are never taken for bytes inside it.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use common::net::accept::Acceptor;
use pgpool_wire::startup::{self, Opening, Startup, StartupError};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixListener;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::cancel::{self, Numbers, Waiting};
use crate::client::goodbye;
use crate::client::source::Source;
use crate::client::startup::named;
use crate::events::{AcceptExhausted, LoginRefused};
use crate::fatal::Refusal;
use crate::neighbours::shard;
use crate::snapshot::{ALPN, CONSOLE, Held};
use crate::stream::{Movable, Stream};
use crate::worker::{Arrival, Message, Worker};

/// SSLRequest and GSSENCRequest, each once; more is a loop.
const MOST_REQUESTS: usize = 4;
/// So long the opening packet of who has no place may take.
const LATE: Duration = Duration::from_secs(5);
/// Before the next try when the kernel has no descriptor for a client.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(100);

/// Accepts until the instance drains, or lets nobody in any more.
pub async fn listen(worker: Rc<Worker>, listener: std::net::TcpListener) {
    let Ok(mut acceptor) = Acceptor::new(listener) else { return };
    let shutdown = worker.lifecycle.shutdown();
    loop {
        let exhausted = |cause: &std::io::Error| worker.observer.emit(AcceptExhausted { cause });
        tokio::select! {
            biased;
            () = shutdown.draining() => return,
            () = worker.parting.begun() => return,
            (socket, address) = acceptor.next(exhausted) => {
                // A socket of both families, as service managers open them, has IPv4 inside IPv6 (RFC 4291 §2.5.5.2):
                // rules and limits mean what it is.
                let address = SocketAddr::new(address.ip().to_canonical(), address.port());
                let stream = Stream::Plain(Movable::Live(socket));
                // Gone already, if the kernel cannot do it.
                let _gone = stream.keep_alive(&worker.snapshot().settings.keepalive);
                receive(&worker, stream, Source::Ip(address));
            }
        }
    }
}

/// Accepts on a unix socket until the instance drains.
pub async fn listen_unix(
    worker: Rc<Worker>,
    listener: std::os::unix::net::UnixListener,
    port: u16,
) {
    let Ok(listener) = UnixListener::from_std(listener) else { return };
    let shutdown = worker.lifecycle.shutdown();
    loop {
        let accepted = tokio::select! {
            biased;
            () = shutdown.draining() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((socket, _)) => {
                // Gone already, if the kernel cannot say who it is.
                let Ok(peer) = socket.peer_cred() else { continue };
                let pid = peer.pid().unwrap_or_default();
                let source = Source::Unix { uid: peer.uid(), pid, port };
                receive(&worker, Stream::Unix(socket), source);
            }
            Err(cause) => {
                worker.observer.emit(AcceptExhausted { cause: &cause });
                tokio::time::sleep(EXHAUSTED_PAUSE).await;
            }
        }
    }
}

fn receive(worker: &Rc<Worker>, stream: Stream, source: Source) {
    // A place is taken before the first byte: half-open logins count, and a process that drains waits
    // for them.
    let place = Held::enter(&worker.snapshot().clients);
    tokio::task::spawn_local(arrive(Rc::clone(worker), stream, source, place));
}

async fn arrive(worker: Rc<Worker>, stream: Stream, source: Source, place: Option<Held>) {
    let limit = worker.snapshot().settings.client_login_timeout;
    // Who is too many is told, or cancels something, soon or not at all.
    let limit = if place.is_some() { limit } else { limit.min(LATE) };
    let until = Instant::now() + limit;
    let mut io = stream;
    let opened = match timeout_at(until, open(&worker, &mut io)).await {
        Ok(Some(opened)) => opened,
        Ok(None) => return,
        Err(_) => Err(Refusal::LoginTimeout(limit)),
    };
    let too_many = || Refusal::TooManyClients(worker.snapshot().clients.most());
    let refused = match (opened, place) {
        (Ok(Opening::Cancel(key)), _) => return send_cancel(&worker, io, key, source).await,
        (Ok(Opening::Startup(startup)), place) => {
            // Who is to mend it must get in.
            let spare = || {
                let console = named(&startup).0 == CONSOLE;
                console.then(|| worker.tally.spare(source.ip())).flatten()
            };
            match place.or_else(spare) {
                Some(place) => {
                    return send_client(&worker, Arrival { io, source, startup, place, until });
                }
                None => too_many(),
            }
        }
        (Ok(_) | Err(Refusal::LoginTimeout(_)), None) => too_many(),
        (Ok(Opening::Ssl | Opening::Gss), _) => {
            Refusal::Protocol("too many encryption requests".to_owned())
        }
        (Err(refusal), _) => refusal,
    };
    worker.observer.emit(LoginRefused { id: 0, source, database: "", user: "", cause: &refused });
    goodbye(&mut io, &refused).await;
}

/// Gives a request to whoever can tell whether its key is right: nothing is held for it before that.
async fn send_cancel(worker: &Worker, mut io: Stream, mut key: startup::CancelKey, source: Source) {
    let numbers = Numbers::of(&worker.snapshot());
    let forwarded = cancel::unmark(&mut key);
    if let Some(peer) = numbers.elsewhere(key.pid) {
        if !forwarded {
            cancel::pass_on(worker, peer, key, source).await;
        }
        return;
    }
    if io.park().is_ok() {
        cancel::take(&worker.peers, numbers, Waiting::Client(io, source), key);
    }
}

fn send_client(worker: &Worker, mut arrival: Arrival) {
    let at = home_of(worker, &arrival.startup);
    if arrival.io.park().is_ok()
        && let Some(peer) = worker.peers.get(at)
    {
        let _ = peer.send(Message::Client(Box::new(arrival)));
    }
}

/// Where the client's pool is at home, or one of its shards; the admin database is at home everywhere.
fn home_of(worker: &Worker, startup: &Startup) -> usize {
    let (database, user) = named(startup);
    if database == CONSOLE {
        return worker.id.0;
    }
    let turn = worker.next_turn();
    shard(&worker.snapshot(), (database, user), worker.peers.len(), turn)
}

/// Reads up to the packet that says what the client wants; `None`: it is gone.
async fn open(worker: &Worker, io: &mut Stream) -> Option<Result<Opening, Refusal>> {
    if let Err(refusal) = direct(worker, io).await? {
        return Some(Err(refusal));
    }
    for _ in 0..MOST_REQUESTS {
        let (opening, early) = match packet(io).await? {
            Ok(read) => read,
            Err(fault) => return Some(Err(Refusal::Startup(fault))),
        };
        let wants_encryption = matches!(opening, Opening::Ssl | Opening::Gss);
        if early {
            // CVE-2021-23214: what came in clear must not be taken for what is inside TLS; and
            // nothing lawful follows any other packet before our answer.
            let text = "unexpected bytes after the opening packet".to_owned();
            return Some(Err(Refusal::Protocol(text)));
        }
        if !wants_encryption {
            return Some(Ok(opening));
        }
        match (&worker.snapshot().tls, opening, &*io) {
            (Some(acceptor), Opening::Ssl, Stream::Plain(_)) => {
                io.write_all(b"S").await.ok()?;
                if let Err(refusal) = encrypt(acceptor, io).await {
                    return Some(Err(refusal));
                }
            }
            _ => io.write_all(b"N").await.ok()?,
        }
    }
    Some(Ok(Opening::Ssl))
}

/// The handshake; when it fails the socket is gone, after TLS's own word for it.
async fn encrypt(acceptor: &TlsAcceptor, io: &mut Stream) -> Result<(), Refusal> {
    match std::mem::replace(io, Stream::Gone) {
        Stream::Plain(socket) => {
            let tls = acceptor.accept(socket).await;
            let tls = tls.map_err(|fault| Refusal::Handshake(fault.to_string()))?;
            *io = Stream::Accepted(Box::new(tls));
        }
        other => *io = other,
    }
    Ok(())
}

/// TLS from the first byte on (PostgreSQL 17): no packet begins with 0x16, as it would be far too long.
/// `None`: the client is gone.
async fn direct(worker: &Worker, io: &mut Stream) -> Option<Result<(), Refusal>> {
    let snapshot = worker.snapshot();
    let (Some(acceptor), Stream::Plain(socket)) = (&snapshot.tls, &mut *io) else {
        return Some(Ok(()));
    };
    let mut first = [0];
    if socket.peek(&mut first).await.ok()? == 0 {
        return None;
    }
    if first != [HANDSHAKE] {
        return Some(Ok(()));
    }
    if let Err(refusal) = encrypt(acceptor, io).await {
        return Some(Err(refusal));
    }
    // Without it anything that speaks TLS could be led here (manual, "SSL Session Encryption").
    let meant = |tls: &TlsStream<Movable>| tls.get_ref().1.alpn_protocol() == Some(ALPN);
    if matches!(&*io, Stream::Accepted(tls) if meant(tls)) {
        return Some(Ok(()));
    }
    // It hears nothing that it could take for its own.
    *io = Stream::Gone;
    Some(Err(Refusal::Handshake("the client does not say that it means PostgreSQL".to_owned())))
}

/// The first byte of a TLS record that begins a handshake.
const HANDSHAKE: u8 = 0x16;

/// One opening packet, and whether more bytes came with it; `None`: the client is gone.
async fn packet(io: &mut Stream) -> Option<Result<(Opening, bool), StartupError>> {
    let mut input = Vec::with_capacity(512);
    loop {
        match startup::opening(&input) {
            Ok(Some((opening, used))) => return Some(Ok((opening, input.len() > used))),
            Err(fault) => return Some(Err(fault)),
            Ok(None) => {}
        }
        if !matches!(io.read_buf(&mut input).await, Ok(count) if count > 0) {
            return None;
        }
    }
}
