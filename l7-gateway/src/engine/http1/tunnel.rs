//! A connection that became another protocol's: bytes both ways until one side ends. Called by `http1`
//! once a service has answered 101.
//!
//! Invariant: the client sees 101 before the first byte of the other protocol.

use std::future::poll_fn;

use common::net::relay::Wire;
use http::{Response, header};

use super::client::Client;
use crate::body::Tunnel;
use crate::codec::write::{self, Framing};
use crate::engine::stall::Stall;
use crate::engine::tunnel::{TUNNEL_IDLE, join};
use crate::exchange::Exchange;

/// Sends the 101, then copies both ways between the client and the service until one of them ends.
pub(super) async fn pass<IO>(
    client: Client<IO>,
    head: Response<()>,
    tunnel: Tunnel,
    x: Box<Exchange>,
) where
    IO: Wire,
{
    let mut link = client.into_link();
    let mut headers = head.headers().clone();
    headers.remove(header::CONNECTION);
    headers.remove(header::UPGRADE);
    let lines = |out: &mut Vec<u8>| {
        out.extend_from_slice(b"connection: upgrade\r\nupgrade: websocket\r\n");
    };
    write::response(link.output(), head.status(), &headers, Framing::Silent, lines);
    let Some((upstream, said)) = tunnel.upstream.into_stream() else { return };
    link.put(said, b"");
    if poll_fn(|cx| link.poll_flush(cx)).await.is_err() {
        return;
    }
    let (io, early) = link.into_parts();
    join(Stall::new(io, TUNNEL_IDLE), &early, upstream, x).await;
}
