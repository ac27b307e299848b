//! A client that cuts its bytes anywhere.

use proptest::prelude::*;
use tokio::io::{AsyncWriteExt as _, duplex};

use super::*;

const LIMITS: HeadLimits = HeadLimits { bytes: 4096, target: 256, headers: 20 };

/// Path and body of each request that came of `text`, and the fault that ended it.
async fn read(text: &[u8], cuts: &[usize], room: usize) -> (Vec<(String, Vec<u8>)>, Option<Fault>) {
    let (mut far, near) = duplex(64);
    let mut client = Client::new(near, LIMITS);
    let (text, cuts) = (text.to_vec(), cuts.to_vec());
    let write = async move {
        let mut left = &text[..];
        for cut in cuts.iter().cycle() {
            let (now, later) = left.split_at((*cut).min(left.len()));
            if now.is_empty() || far.write_all(now).await.is_err() {
                return;
            }
            tokio::task::yield_now().await;
            left = later;
        }
    };
    let read = async move {
        let (mut seen, mut scratch) = (Vec::new(), vec![0; room]);
        loop {
            match poll_fn(|cx| client.poll_head(cx, &mut scratch)).await {
                None => return (seen, None),
                Some(Err(fault)) => return (seen, Some(fault)),
                Some(Ok(head)) => {
                    let (number, mut body) = (client.number, Vec::new());
                    while let Some(piece) = poll_fn(|cx| client.poll_body(cx, number)).await {
                        let Ok(frame) = piece else { return (seen, Some(Fault::Chunk)) };
                        body.extend(frame.into_data().unwrap_or_default());
                    }
                    seen.push((head.parts.uri.path().to_owned(), body));
                }
            }
        }
    };
    let (seen, ()) = tokio::join!(read, write);
    seen
}

fn run<F: Future>(test: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
    runtime.expect("a runtime").block_on(test)
}

/// A request's path, its body, and its bytes: of a length that is told, or in chunks.
fn request() -> impl Strategy<Value = (String, Vec<u8>, Vec<u8>)> {
    (0_usize..200, any::<bool>(), "/[a-z]{1,12}").prop_map(|(size, chunked, path)| {
        let body = vec![b'x'; size];
        let head = format!("POST {path} HTTP/1.1\r\nHost: a\r\n");
        let (framing, framed) = if chunked {
            let sized = format!("{size:x}\r\n");
            let data = if size == 0 { vec![] } else { [sized.as_bytes(), &body, b"\r\n"].concat() };
            ("Transfer-Encoding: chunked\r\n\r\n".to_owned(), [&data[..], b"0\r\n\r\n"].concat())
        } else {
            (format!("Content-Length: {size}\r\n\r\n"), body.clone())
        };
        let bytes = [head.as_bytes(), framing.as_bytes(), &framed].concat();
        (path, body, bytes)
    })
}

proptest! {
    /// G23: requests are what they are, however their bytes are cut, and nothing behind the first
    /// refused head is looked at.
    #[test]
    fn cuts_do_not_matter(
        requests in prop::collection::vec(request(), 0..6),
        refused in any::<bool>(),
        behind in request(),
        cuts in prop::collection::vec(1_usize..90, 1..30),
        room in 1_usize..300,
    ) {
        let bad = b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n";
        let tail = if refused { [&bad[..], &behind.2].concat() } else { vec![] };
        let text = requests.iter().map(|(.., bytes)| bytes.clone()).chain([tail]).collect::<Vec<_>>();
        let (seen, fault) = run(read(&text.concat(), &cuts, room));
        let sent: Vec<_> = requests.into_iter().map(|(path, body, _)| (path, body)).collect();
        prop_assert_eq!(seen, sent);
        prop_assert_eq!(fault, refused.then_some(Fault::Length));
    }

    /// G23: any bytes are taken without a panic and without an end that never comes.
    #[test]
    fn any_bytes_are_survived(
        text in prop::collection::vec(any::<u8>(), 0..600),
        cuts in prop::collection::vec(1_usize..90, 1..30),
    ) {
        run(read(&text, &cuts, 100));
    }
}

/// G23: a body that outlives its exchange does not read what is the next one's.
#[test]
fn a_body_ends_with_its_exchange() {
    let text = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n\
                 POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello";
    run(async {
        let (mut far, near) = duplex(4096);
        far.write_all(text).await.expect("room");
        let (mut client, mut scratch) = (Client::new(near, LIMITS), [0; 512]);
        for _ in 0..2 {
            let head = poll_fn(|cx| client.poll_head(cx, &mut scratch)).await;
            assert!(head.is_some_and(|head| head.is_ok()));
        }
        let stale = poll_fn(|cx| client.poll_body(cx, 1)).await;
        assert!(matches!(stale, Some(Err(BodyFault::Broken))), "{stale:?}");
        let frame = poll_fn(|cx| client.poll_body(cx, 2)).await.expect("a piece").expect("whole");
        assert_eq!(frame.into_data().expect("data"), "hello");
    });
}
