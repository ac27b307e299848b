//! Bytes both ways between a client and a service once they speak something else than HTTP. Not for how
//! they got there. Called by the engines.
//!
//! Invariant: the exchange ends with the tunnel, and its record says what passed.

use std::cell::Cell;
use std::time::Duration;

use common::net::relay::{Meter, Scratch, Wire, relay};
use tokio::io::AsyncWriteExt as _;

use super::stall::Stall;
use crate::access_log::End;
use crate::exchange::Exchange;

/// A tunnel in which nothing moves for so long ends, as TCP flows of tier 1 do.
pub(super) const TUNNEL_IDLE: Duration = Duration::from_secs(350);

/// Copies both ways until one of them ends; `early` is what the client has said already.
pub(super) async fn join(
    mut downstream: impl Wire,
    early: &[u8],
    upstream: impl Wire,
    mut x: Box<Exchange>,
) {
    let mut upstream = Stall::new(upstream, TUNNEL_IDLE);
    if upstream.write_all(early).await.is_err() {
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
