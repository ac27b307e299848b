//! Tests of TCP streams against the kernel: resets after a FIN, refused and accepted connections,
//! what a listener's sockets inherit.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;

async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let to = listener.local_addr().unwrap();
    let near = connect(socket(to).unwrap(), to).await.unwrap();
    let (far, _) = listener.accept().await.unwrap();
    (near, far)
}

/// N5: a reset is seen although the peer had finished sending, and nobody reads.
#[tokio::test]
async fn a_reset_after_a_fin_is_seen() {
    let (mut near, mut far) = pair().await;
    far.write_all(b"x").await.unwrap();
    far.shutdown().await.unwrap();
    let mut got = Vec::new();
    near.read_to_end(&mut got).await.unwrap();
    assert_eq!(got, b"x");
    let (_, mut failure) = near.parts();
    let early = poll_fn(|cx| Poll::Ready(Pin::new(&mut failure).poll(cx).is_ready())).await;
    assert!(!early, "a FIN is no failure");
    Wire::abort(&mut far);
    drop(far);
    let error = failure.await;
    let kinds = [io::ErrorKind::ConnectionReset, io::ErrorKind::BrokenPipe];
    assert!(kinds.contains(&error.kind()), "{error}");
}

/// N5: a refusal is told as such.
#[tokio::test]
async fn a_refusal_is_told() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let to = listener.local_addr().unwrap();
    drop(listener);
    let error = connect(socket(to).unwrap(), to).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
}

/// N5: bytes pass whole through short reads and writes.
#[tokio::test]
async fn bytes_pass_through() {
    let (mut near, mut far) = pair().await;
    assert!(near.nodelay().unwrap());
    let sent: Vec<u8> = (0..3_000_000_u32).map(|i| (i >> 5) as u8).collect();
    let (mut through, _) = near.parts();
    let mut got = vec![0; sent.len()];
    let (written, read) = tokio::join!(through.write_all(&sent), far.read_exact(&mut got));
    assert!(written.is_ok() && read.is_ok() && got == sent);
    let (written, read) = tokio::join!(far.write_all(&sent), through.read_exact(&mut got));
    assert!(written.is_ok() && read.is_ok() && got == sent);
}

/// N5: what the kernel is told to do about peers that are gone.
#[tokio::test]
async fn vigilance_is_set() {
    let (near, _far) = pair().await;
    for (limit, quiet) in [(2, 1), (90, 45), (300, 60)] {
        Socket::set_vigilance(&near, Duration::from_secs(limit));
        let socket = SockRef::from(&near);
        assert_eq!(socket.tcp_keepalive_time().unwrap(), Duration::from_secs(quiet));
        assert_eq!(socket.tcp_user_timeout().unwrap(), Some(Duration::from_secs(limit)));
    }
}
