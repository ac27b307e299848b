//! Tests of the pipes against the kernel: bytes are exact however they come, and stay their flow's.

use std::future::poll_fn;

use proptest::prelude::*;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;

use super::super::relay::{End, Relay, Scratch};
use super::super::tcp::Socket;
use super::*;

async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let near = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (far, _) = listener.accept().await.unwrap();
    (near, far)
}

fn pattern(length: usize, seed: usize) -> Vec<u8> {
    (0..length).map(|i| ((i * 31 + seed) >> 3) as u8).collect()
}

/// Sends in pieces, finishes, and returns what the other side sent meanwhile.
async fn exchange(mut stream: TcpStream, bytes: &[u8], piece: usize) -> Vec<u8> {
    async fn send(mut to: impl AsyncWrite + Unpin, bytes: &[u8], piece: usize) {
        for part in bytes.chunks(piece) {
            to.write_all(part).await.unwrap();
        }
        to.shutdown().await.unwrap();
    }
    async fn receive(mut from: impl AsyncRead + Unpin) -> Vec<u8> {
        let mut got = Vec::new();
        from.read_to_end(&mut got).await.unwrap();
        got
    }
    let (from, to) = stream.split();
    tokio::join!(receive(from), send(to, bytes, piece)).0
}

/// Relays these bytes both ways at once; returns what arrived above and below.
async fn relayed(up: &[u8], down: &[u8], piece: usize, scratch: &Scratch) -> (Vec<u8>, Vec<u8>) {
    let ((client, mut downstream), (mut upstream, server)) = (pair().await, pair().await);
    let relay = async {
        let mut relay = Relay::default();
        let ((mut from, _), (mut to, _)) = (downstream.parts(), upstream.parts());
        let end = poll_fn(|cx| relay.poll(cx, &mut from, &mut to, scratch, &())).await;
        assert!(matches!(end, End::Closed), "{end:?}");
        drop((downstream, upstream));
    };
    let ((), below, above) =
        tokio::join!(relay, exchange(client, up, piece), exchange(server, down, piece));
    (above, below)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]
    /// N5: small flows are copied, large ones go through a pipe, and both arrive byte for byte.
    #[test]
    fn bytes_are_exact(up in 0_usize..3 << 20, down in 0_usize..3 << 20, piece in 1000_usize..200_000) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (up, down) = (pattern(up, 1), pattern(down, 7));
        runtime.block_on(async {
            let scratch = Scratch::default();
            for _ in 0..2 {
                let (above, below) = relayed(&up, &down, piece, &scratch).await;
                assert!(above == up && below == down);
            }
        });
    }
}

/// N5: a pipe in which bytes wait is never given to another flow.
#[tokio::test]
async fn a_pipe_with_bytes_is_closed() {
    let (pipes, (mut near, far)) = (Pipes::default(), pair().await);
    let mut pipe = pipes.take().unwrap();
    near.write_all(b"secret").await.unwrap();
    assert_eq!(poll_fn(|cx| pipe.poll_in(cx, &far)).await.unwrap(), 6);
    assert_eq!(pipe.held(), 6);
    drop(pipe);
    assert_eq!((pipes.0.idle.borrow().len(), pipes.0.open.get()), (0, 0));

    let mut pipe = pipes.take().unwrap();
    near.write_all(b"mine").await.unwrap();
    poll_fn(|cx| pipe.poll_in(cx, &far)).await.unwrap();
    assert!(poll_fn(|cx| pipe.poll_out(cx, &far)).await.is_ok());
    let mut got = [0; 4];
    near.read_exact(&mut got).await.unwrap();
    assert_eq!(&got, b"mine");
    drop(pipe);
    assert_eq!((pipes.0.idle.borrow().len(), pipes.0.open.get()), (1, 1));
}

/// N5: there is a bound on them; then flows are copied.
#[tokio::test]
async fn pipes_are_bounded() {
    let pipes = Pipes::default();
    let taken: Vec<Pipe> = std::iter::from_fn(|| pipes.take()).take(MOST + 1).collect();
    assert_eq!(taken.len(), MOST);
    drop(taken);
    assert_eq!((pipes.0.idle.borrow().len(), pipes.0.open.get()), (KEPT, KEPT));
}
