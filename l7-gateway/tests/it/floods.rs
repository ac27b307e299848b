//! HTTP/2 clients that send much and want nothing, frame by frame over real TLS, and a client that
//! wants something meanwhile.

use std::path::Path;

use l7_gateway::Running;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::fakes::{Act, Fake};
use crate::instance::{connect, folder, run};
use crate::rig::local;

/// A frame (RFC 9113 §4.1).
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    bytes.extend_from_slice(&[kind, flags]);
    bytes.extend_from_slice(&stream.to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

/// The stream of a client's request.
fn stream(number: u32) -> u32 {
    2 * number + 1
}

/// Makes the frames of a flood, by number.
type Frames = Box<dyn FnMut(u32) -> Vec<u8>>;

/// The head of `GET https://api.example/` by the static table (RFC 7541 Appendix A).
fn head() -> Vec<u8> {
    [&[0x82, 0x87, 0x84, 0x41, 11][..], b"api.example"].concat()
}

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

/// G23: floods of frames are cut off, most with ENHANCE_YOUR_CALM (11), and counted; another client is
/// served all the while.
#[tokio::test]
async fn floods_are_cut_off() {
    local(async {
        let (folder, fake) = (folder(), Fake::new(Act::Answer("hello")).await);
        let (running, options) = run(folder.path(), fake.address).await;
        let mut other = connect(folder.path(), running.listeners[0].1, b"http/1.1").await;
        let open = frame(1, 5, 1, &head());
        let floods: [(&str, Frames); 6] = [
            (
                "rapid reset",
                Box::new(|n| {
                    [frame(1, 5, stream(n), &head()), frame(3, 0, stream(n), &[0, 0, 0, 8])]
                        .concat()
                }),
            ),
            ("ping", Box::new(|_| frame(6, 0, 0, &[7; 8]))),
            ("settings", Box::new(|_| frame(4, 0, 0, &[]))),
            ("priority", Box::new(|n| frame(2, 0, stream(n), &[0, 0, 0, 0, 1]))),
            ("unknown", Box::new(|_| frame(0x77, 0, 0, b"?"))),
            (
                "window",
                Box::new(move |n| match n {
                    0 => open.clone(),
                    _ => frame(8, 0, 0, &[0, 0, 0, 1]),
                }),
            ),
        ];
        for (name, next) in floods {
            assert_eq!(flood(folder.path(), &running, next).await, Some(11), "{name}");
            let get = b"GET /a HTTP/1.1\r\nHost: api.example\r\n\r\n";
            other.write_all(get).await.expect("taken");
            let mut answer = vec![0; 12];
            other.read_exact(&mut answer).await.expect("an answer");
            assert_eq!(answer, b"HTTP/1.1 200", "{name}");
            let mut rest = Vec::new();
            while !rest.ends_with(b"hello") {
                rest.push(other.read_u8().await.expect("alive"));
            }
        }
        // Resets that come in one read are stopped by the library first.
        let text = options.observer.metrics.render();
        assert!(text.contains("aqueduct_http2_abuse_total{abuse=\"control\"} 5"), "{text}");
        options.lifecycle.stop();
        running.finished().await.expect("no panic");
    })
    .await;
}

/// G23: one header list that never ends (CONTINUATION, CVE-2024-27316) is cut off too.
#[tokio::test]
async fn an_endless_header_list_is_cut_off() {
    local(async {
        let (folder, fake) = (folder(), Fake::new(Act::Answer("hello")).await);
        let (running, options) = run(folder.path(), fake.address).await;
        let never = |number| match number {
            0 => frame(1, 1, 1, &head()),
            _ => frame(9, 0, 1, &[0x40, 1, b'a', 1, b'b']),
        };
        assert!(flood(folder.path(), &running, never).await.is_some());
        assert_eq!(fake.seen.count(), 0);
        options.lifecycle.stop();
        running.finished().await.expect("no panic");
    })
    .await;
}
