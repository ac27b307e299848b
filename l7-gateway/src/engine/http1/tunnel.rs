//! A connection that became another protocol's: bytes both ways until one side ends. Called by `http1`
//! once a service has answered 101.
//!
//! Invariant: the client sees 101 before the first byte of the other protocol.

use std::cell::Cell;
use std::future::poll_fn;
use std::time::Duration;

use common::net::relay::{Meter, Scratch, relay};
use http::{Response, header};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};

use super::client::Client;
use crate::access_log::End;
use crate::body::Tunnel;
use crate::codec::write::{self, Framing};
use crate::engine::stall::Stall;
use crate::exchange::Exchange;

/// A tunnel in which nothing moves for so long ends, as TCP flows of tier 1 do.
const TUNNEL_IDLE: Duration = Duration::from_secs(350);

/// Sends the 101, then copies both ways between the client and the service until one of them ends.
pub(super) async fn pass<IO>(
    client: Client<IO>,
    head: Response<()>,
    tunnel: Tunnel,
    mut x: Box<Exchange>,
) where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let mut link = client.into_link();
    let mut headers = head.headers().clone();
    headers.remove(header::CONNECTION);
    headers.remove(header::UPGRADE);
    let lines = b"connection: upgrade\r\nupgrade: websocket\r\n";
    write::response(link.output(), head.status(), &headers, Framing::Silent, lines);
    let Some((upstream, said)) = tunnel.upstream.raw() else { return };
    link.put(said, b"");
    if poll_fn(|cx| link.poll_flush(cx)).await.is_err() {
        return;
    }
    let (io, early) = link.into_parts();
    let mut downstream = Stall::new(io, TUNNEL_IDLE);
    let mut upstream = Stall::new(upstream, TUNNEL_IDLE);
    if upstream.write_all(&early).await.is_err() {
        return;
    }
    let meter = Down::default();
    relay(&mut downstream, &mut upstream, TUNNEL_IDLE, &Scratch::default(), &meter).await;
    x.record.bytes_out = meter.0.get();
    x.record.end = End::Complete;
}

#[derive(Debug, Default)]
struct Down(Cell<u64>);

impl Meter for Down {
    fn up(&self, _: u64) {}

    fn down(&self, bytes: u64) {
        self.0.set(self.0.get() + bytes);
    }
}
