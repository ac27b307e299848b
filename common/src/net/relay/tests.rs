//! Tests of the relay on in-memory streams and on a paused clock.

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

use super::*;

/// A client, a server, and the relay between them.
fn pair(
    buffer: usize,
    idle: Duration,
) -> (DuplexStream, DuplexStream, tokio::task::JoinHandle<(End, Counts)>) {
    let (client, mut downstream) = duplex(buffer);
    let (mut upstream, server) = duplex(buffer);
    let task = tokio::task::spawn_local(async move {
        let counts = Counts::default();
        let scratch = Scratch::default();
        let end = relay(&mut downstream, &mut upstream, idle, &scratch, &counts).await;
        (end, counts)
    });
    (client, server, task)
}

#[derive(Debug, Default)]
struct Counts {
    up: Cell<u64>,
    down: Cell<u64>,
}

impl Meter for Counts {
    fn up(&self, bytes: u64) {
        self.up.set(self.up.get() + bytes);
    }
    fn down(&self, bytes: u64) {
        self.down.set(self.down.get() + bytes);
    }
}

const LONG: Duration = Duration::from_secs(350);

/// N5: a client that has finished sending still gets all of a long answer, through a narrow pipe.
#[tokio::test(flavor = "local", start_paused = true)]
async fn half_close_lets_the_other_direction_finish() {
    let (mut client, mut server, relay) = pair(1000, LONG);
    let answer: Vec<u8> = (0..1_000_000_u32).map(|i| i as u8).collect();
    let expected = answer.clone();
    tokio::task::spawn_local(async move {
        let mut request = Vec::new();
        server.read_to_end(&mut request).await.unwrap();
        assert_eq!(request, b"question");
        server.write_all(&answer).await.unwrap();
    });
    client.write_all(b"question").await.unwrap();
    client.shutdown().await.unwrap();
    let mut got = Vec::new();
    client.read_to_end(&mut got).await.unwrap();
    assert_eq!(got, expected);
    let (end, counts) = relay.await.unwrap();
    assert!(matches!(end, End::Closed));
    assert_eq!((counts.up.get(), counts.down.get()), (8, 1_000_000));
}

/// N5: a receiver that does not read stops the sender after two pipes and one chunk.
#[tokio::test(flavor = "local", start_paused = true)]
async fn back_pressure_bounds_what_is_held() {
    let (mut client, server, _relay) = pair(1000, LONG);
    let mut sent = 0;
    while let Ok(n) = tokio::time::timeout(Duration::from_secs(1), client.write(&[7; 1000])).await {
        sent += n.unwrap();
    }
    assert!(sent <= 2000 + CHUNK, "{sent}");
    drop(server);
}

/// N3: an idle pair ends after the idle time, counted from the last byte.
#[tokio::test(flavor = "local", start_paused = true)]
async fn idle_ends_the_relay() {
    let (mut client, mut server, relay) = pair(1000, Duration::from_secs(3));
    let start = Instant::now();
    tokio::time::sleep(Duration::from_secs(2)).await;
    server.write_all(b"x").await.unwrap();
    assert_eq!(client.read_u8().await.unwrap(), b'x');
    let (end, _) = relay.await.unwrap();
    assert!(matches!(end, End::Idle));
    assert_eq!(start.elapsed().as_secs(), 5);
}

/// N5: a side that fails is named, so that the other can be reset.
#[tokio::test(flavor = "local", start_paused = true)]
async fn a_failing_side_is_named() {
    let (mut client, server, relay) = pair(1000, LONG);
    drop(server);
    client.write_all(b"x").await.unwrap();
    let (end, _) = relay.await.unwrap();
    assert!(matches!(end, End::Upstream(_)), "{end:?}");
}
