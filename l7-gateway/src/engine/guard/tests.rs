//! The guard between a client that cuts its bytes anywhere and a parser that reads as it likes.

use proptest::prelude::*;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

use super::*;

const LIMITS: HeadLimits = HeadLimits { bytes: 4096, target: 256, headers: 20 };
const PATIENCE: Patience =
    Patience { head: Duration::from_secs(10), idle: Duration::from_secs(60) };

/// What the parser is shown of `text`, and the verdicts, in order.
async fn shown(text: &[u8], cuts: &[usize], reads: usize) -> (Vec<u8>, Vec<Option<Fault>>) {
    let (mut client, server) = duplex(64);
    let (mut guard, verdicts) = Guard::new(server, LIMITS, PATIENCE);
    let (text, cuts) = (text.to_vec(), cuts.to_vec());
    let write = async move {
        let mut left = &text[..];
        for cut in cuts.iter().cycle() {
            let (now, later) = left.split_at((*cut).min(left.len()));
            if now.is_empty() || client.write_all(now).await.is_err() {
                return;
            }
            tokio::task::yield_now().await;
            left = later;
        }
    };
    let read = async {
        let (mut out, mut scrap) = (Vec::new(), vec![0; reads]);
        // A refused head is followed by nothing: its answer closes the connection.
        while let Ok(read @ 1..) = guard.read(&mut scrap).await {
            out.extend_from_slice(&scrap[..read]);
            if out.ends_with(REFUSED) {
                break;
            }
        }
        // The other end may still be writing.
        drop(guard);
        out
    };
    let (out, ()) = tokio::join!(read, write);
    let queue = verdicts.lock().queue.iter().copied().collect();
    (out, queue)
}

fn run<F: Future>(test: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
    runtime.expect("a runtime").block_on(test)
}

/// A request with a body of so many bytes, of a length that is told or in chunks.
fn request() -> impl Strategy<Value = Vec<u8>> {
    (0_usize..200, any::<bool>(), "[a-z]{1,12}").prop_map(|(size, chunked, name)| {
        let body = vec![b'x'; size];
        let head = format!("POST /{name} HTTP/1.1\r\nHost: a\r\n");
        let (framing, body) = if chunked {
            let sized = format!("{size:x}\r\n");
            let data = if size == 0 { vec![] } else { [sized.as_bytes(), &body, b"\r\n"].concat() };
            ("Transfer-Encoding: chunked\r\n\r\n".to_owned(), [&data[..], b"0\r\n\r\n"].concat())
        } else {
            (format!("Content-Length: {size}\r\n\r\n"), body)
        };
        [head.as_bytes(), framing.as_bytes(), &body].concat()
    })
}

proptest! {
    /// G23: strict requests pass unchanged, one verdict each, however bytes are cut.
    #[test]
    fn strict_requests_pass_unchanged(
        requests in prop::collection::vec(request(), 1..6),
        cuts in prop::collection::vec(1_usize..90, 1..30),
        reads in 1_usize..300,
    ) {
        let text = requests.concat();
        let (out, verdicts) = run(shown(&text, &cuts, reads));
        prop_assert_eq!(out, text);
        prop_assert_eq!(verdicts, vec![None; requests.len()]);
    }

    /// G23: behind the first refused head nothing is shown.
    #[test]
    fn nothing_passes_behind_a_refused_head(
        good in prop::collection::vec(request(), 0..4),
        behind in request(),
        cuts in prop::collection::vec(1_usize..90, 1..30),
        reads in 60_usize..300,
    ) {
        let bad = b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n";
        let text = [good.concat(), bad.to_vec(), behind].concat();
        let (out, verdicts) = run(shown(&text, &cuts, reads));
        prop_assert_eq!(out, [good.concat(), REFUSED.to_vec()].concat());
        let expected: Vec<_> = vec![None; good.len()].into_iter().chain([Some(Fault::Length)]).collect();
        prop_assert_eq!(verdicts, expected);
    }

    /// G23: any bytes are taken without a panic and without an end that never comes.
    #[test]
    fn any_bytes_are_survived(
        text in prop::collection::vec(any::<u8>(), 0..600),
        cuts in prop::collection::vec(1_usize..90, 1..30),
    ) {
        run(shown(&text, &cuts, 100));
    }
}
