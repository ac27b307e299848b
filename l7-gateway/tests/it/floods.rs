//! HTTP/2 clients that send much and want nothing, frame by frame over real TLS, and a client that
//! wants something meanwhile.

use std::cell::Cell;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::rc::Rc;

use l7_gateway::Running;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, spawn_local};
use tokio_rustls::client::TlsStream;

use crate::fakes::{Act, Fake};
use crate::frames::*;
use crate::instance::{self, connect, folder, run, run_text};
use crate::rig::local;

/// Makes the frames of a flood, by number.
type Frames = Box<dyn FnMut(u32) -> Vec<u8>>;

/// The error code of the GOAWAY that a connection ends with, after frames that `next` makes until it
/// does.
async fn flood(
    folder: &Path,
    running: &Running,
    mut next: impl FnMut(u32) -> Vec<u8>,
) -> Option<u32> {
    let stream = connect(folder, running.listeners[0].1, b"h2").await;
    let (mut reader, mut writer) = tokio::io::split(stream);
    let listening = tokio::task::spawn_local(async move {
        let mut bytes = Vec::new();
        // However it ends, what came before counts.
        let _ended = reader.read_to_end(&mut bytes).await;
        bytes
    });
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    bytes.extend(frame(4, 0, 0, &[]));
    let mut number = 0;
    while writer.write_all(&bytes).await.is_ok() && writer.flush().await.is_ok() {
        bytes = (0..50).flat_map(|step| next(number + step)).collect();
        number += 50;
        assert!(number < 1_000_000, "it is never cut off");
    }
    let said = listening.await.expect("no panic");
    let mut rest = said.as_slice();
    let mut code = None;
    while let [a, b, c, kind, _, _, _, _, _, more @ ..] = rest {
        let (payload, after) =
            more.split_at_checked(u32::from_be_bytes([0, *a, *b, *c]) as usize)?;
        if let (7, [_, _, _, _, w, x, y, z, ..]) = (kind, payload) {
            code = Some(u32::from_be_bytes([*w, *x, *y, *z]));
        }
        rest = after;
    }
    code
}

/// G23: floods of frames are cut off, and counted; another client is served all the while. Those that
/// have a code say ENHANCE_YOUR_CALM (11) for frames of no use; elsewhere the library may come first.
#[tokio::test]
async fn floods_are_cut_off() {
    local(async {
        let (folder, fake) = (folder(), Fake::new(Act::Answer("hello")).await);
        // However slow the machine is, nobody is idle.
        let patient = "    front: { idle-timeout: 1h, header-timeout: 1h, body-idle-timeout: 1h }\n    routes:";
        let text = instance::text("127.0.0.1:0", fake.address, "api").replace("    routes:", patient);
        let (running, options) = run_text(folder.path(), &text).await;
        let mut other = connect(folder.path(), running.listeners[0].1, b"http/1.1").await;
        for (name, calm, next) in floods() {
            let code = flood(folder.path(), &running, next).await;
            let fine = if calm { code == Some(11) } else { code.is_some() };
            assert!(fine, "{name}: {code:?}");
            ask(&mut other, name).await;
        }
        // Resets that come in one read are stopped by the library first.
        let text = options.observer.metrics.render();
        assert!(text.contains("aqueduct_http2_abuse_total{abuse=\"control\"} "), "{text}");
        options.lifecycle.stop();
        running.finished().await.expect("no panic");
    })
    .await;
}

/// A request of somebody else on a connection of his own.
async fn ask(other: &mut TlsStream<TcpStream>, during: &str) {
    let get = b"GET /a HTTP/1.1\r\nHost: api.example\r\n\r\n";
    other.write_all(get).await.expect("taken");
    let mut answer = vec![0; 12];
    other.read_exact(&mut answer).await.expect("an answer");
    assert_eq!(answer, b"HTTP/1.1 200", "{during}");
    let mut rest = Vec::new();
    while !rest.ends_with(b"hello") {
        rest.push(other.read_u8().await.expect("alive"));
    }
}

/// By name; whether all of it is of no use; frames.
fn floods() -> Vec<(&'static str, bool, Frames)> {
    let get = |n| frame(HEADERS, END_HEADERS | END_STREAM, stream(n), &head());
    let post = |n| frame(HEADERS, END_HEADERS, stream(n), &head());
    // On an upload that never ends.
    let upload = move |kind: u8, flags: u8, payload: Vec<u8>| -> Frames {
        Box::new(move |n| if n == 0 { post(0) } else { frame(kind, flags, 1, &payload) })
    };
    let list = move |payload: Vec<u8>| -> Frames {
        Box::new(move |n| match n {
            0 => frame(HEADERS, END_STREAM, 1, &head()),
            _ => frame(CONTINUATION, 0, 1, &payload),
        })
    };
    let bad = |n| {
        let fields = [head(), field(b"Bad", b"x")].concat();
        frame(HEADERS, END_HEADERS | END_STREAM, stream(n), &fields)
    };
    vec![
        ("rapid reset", false, Box::new(move |n| [get(n), reset(n)].concat())),
        ("reset of uploads", false, Box::new(move |n| [post(n), reset(n)].concat())),
        ("resets by us, for a bad field", false, Box::new(bad)),
        (
            "resets by us, for a bad window",
            false,
            Box::new(move |n| [post(n), window(stream(n), 0)].concat()),
        ),
        (
            "resets by us, for a bad length",
            false,
            Box::new(|n| {
                let fields = [head(), field(b"content-length", b"5")].concat();
                frame(HEADERS, END_HEADERS | END_STREAM, stream(n), &fields)
            }),
        ),
        ("ping", true, Box::new(|_| frame(PING, 0, 0, &[7; 8]))),
        ("answers to pings", true, Box::new(|_| frame(PING, 1, 0, &[7; 8]))),
        ("settings", true, Box::new(|_| frame(SETTINGS, 0, 0, &[]))),
        (
            "settings that change",
            true,
            Box::new(|n| frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, n as u8])),
        ),
        ("priority", true, Box::new(|n| frame(PRIORITY, 0, stream(n), &[0, 0, 0, 0, 1]))),
        ("unknown frames", true, Box::new(|_| frame(0x77, 0, 0, b"?"))),
        ("unknown frames that are large", true, Box::new(|_| frame(0x77, 0, 0, &[0; 16_000]))),
        ("window", true, Box::new(move |n| if n == 0 { get(0) } else { window(0, 1) })),
        (
            "windows of uploads",
            true,
            Box::new(move |n| if n == 0 { post(0) } else { window(1, 1) }),
        ),
        ("empty data", true, upload(DATA, 0, Vec::new())),
        ("data of padding", true, upload(DATA, PADDED, vec![255; 256])),
        ("a list without end", false, list([0x40, 1, b'a', 1, b'b'].repeat(3000))),
        ("a list without end, in small frames", false, list(vec![0x40, 1, b'a', 1, b'b'])),
        ("a list without end, in empty frames", false, list(Vec::new())),
    ]
}

fn reset(number: u32) -> Vec<u8> {
    frame(RESET, 0, stream(number), &[0, 0, 0, 8])
}

fn window(stream: u32, more: u32) -> Vec<u8> {
    frame(WINDOW, 0, stream, &more.to_be_bytes())
}

/// G23: a list that unfolds to more than it may (RFC 7541 §7.1.3), or is too long as it stands, reaches
/// nobody; what a connection keeps of it does not grow.
#[tokio::test]
async fn large_lists_reach_nobody() {
    local(async {
        let (folder, fake) = (folder(), Fake::new(Act::Answer("hello")).await);
        let (running, options) = run(folder.path(), fake.address).await;
        let entry = [&[0x40][..], &text(b"x"), &text(&[b'y'; 4000])].concat();
        // Two bytes for four thousand each, by the table's newest entry.
        let bomb = [head(), entry, vec![0xbe; 15_000]].concat();
        let plain = [head(), field(b"x", &[b'y'; 15_000])].concat();
        for (name, first, rest) in
            [("unfolded", bomb, Vec::new()), ("long", plain, field(b"x", &[b'y'; 15_000]))]
        {
            let mut client = Client::connect(folder.path(), &running, &[]).await;
            for number in 0..20 {
                let parts = [
                    frame(HEADERS, END_STREAM, stream(number), &first),
                    frame(CONTINUATION, 0, stream(number), &rest),
                    frame(CONTINUATION, END_HEADERS, stream(number), &rest),
                ];
                if client.send(&parts.concat()).await.is_err() {
                    break;
                }
                let outcome = client.outcome(stream(number)).await;
                assert_ne!(outcome, Outcome::Answer(200), "{name}");
                if matches!(outcome, Outcome::Goodbye(_) | Outcome::Ended) {
                    break;
                }
            }
        }
        assert_eq!(fake.seen.count(), 0);
        let mut client = Client::connect(folder.path(), &running, &[]).await;
        client.send(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &head())).await.expect("taken");
        assert_eq!(client.outcome(1).await, Outcome::Answer(200));
        options.lifecycle.stop();
        running.finished().await.expect("no panic");
    })
    .await;
}

/// G23: a client that takes nothing of a hundred endless answers makes us hold a little of each, and
/// others go on.
#[tokio::test]
async fn a_closed_window_holds_little() {
    local(async {
        let (folder, endless) = (folder(), Endless::start().await);
        let (running, options) = run(folder.path(), endless.address).await;
        // RFC 9113 §6.5.2: the window of each stream is zero.
        let mut client = Client::connect(folder.path(), &running, &[0, 4, 0, 0, 0, 0]).await;
        let many =
            (0..100).flat_map(|n| frame(HEADERS, END_HEADERS | END_STREAM, stream(n), &head()));
        client.send(&many.collect::<Vec<_>>()).await.expect("taken");
        let mut heads = 0;
        while heads < 100 {
            let said = client.next().await.expect("alive");
            assert_ne!((said.kind, said.payload.is_empty()), (DATA, false), "there is no window");
            heads += usize::from(said.kind == HEADERS);
        }
        endless.stands_still(100).await;
        // Mostly the kernel's: an answer of which nothing is held back would never stand still.
        assert!(endless.sent.get() < 100 * (8 << 20), "{}", endless.sent.get());
        let mut other = Client::connect(folder.path(), &running, &[]).await;
        other.send(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &head())).await.expect("taken");
        let mut bytes = 0;
        while bytes < 60_000 {
            let said = other.next().await.expect("alive");
            bytes += if said.kind == DATA { said.payload.len() } else { 0 };
        }
        drop((client, other));
        options.lifecycle.stop();
        running.finished().await.expect("no panic");
    })
    .await;
}

/// A service whose answers never end.
struct Endless {
    address: SocketAddr,
    sent: Rc<Cell<usize>>,
    /// Connections that take no more at the moment.
    full: Rc<Cell<usize>>,
    task: JoinHandle<()>,
}

impl Drop for Endless {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Endless {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let (sent, full) = (Rc::<Cell<usize>>::default(), Rc::<Cell<usize>>::default());
        let counts = (Rc::clone(&sent), Rc::clone(&full));
        let task = spawn_local(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (sent, full) = counts.clone();
                spawn_local(async move {
                    let _ended = endless(stream, &sent, &full).await;
                });
            }
        });
        Self { address, sent, full, task }
    }

    /// Waits until so many answers have stood still for a while.
    async fn stands_still(&self, count: usize) {
        let (mut quiet, mut before) = (0, 0);
        while quiet < 2000 {
            tokio::task::yield_now().await;
            let now = self.sent.get();
            quiet = if self.full.get() == count && now == before { quiet + 1 } else { 0 };
            before = now;
        }
    }
}

async fn endless(mut stream: TcpStream, sent: &Cell<usize>, full: &Cell<usize>) -> io::Result<()> {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        if stream.read_buf(&mut request).await? == 0 {
            return Ok(());
        }
    }
    let head = b"HTTP/1.1 200 OK\r\nContent-Length: 999999999999\r\n\r\n";
    stream.write_all(head).await?;
    let block = [b'z'; 16 * 1024];
    loop {
        match stream.try_write(&block) {
            Ok(count) => sent.set(sent.get() + count),
            Err(fault) if fault.kind() == io::ErrorKind::WouldBlock => {
                full.set(full.get() + 1);
                let ready = stream.writable().await;
                full.set(full.get() - 1);
                ready?;
            }
            Err(fault) => return Err(fault),
        }
    }
}
