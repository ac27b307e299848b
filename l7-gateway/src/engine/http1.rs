//! HTTP/1.0 and 1.1 by hyper's server behind a strict [`Guard`]. Not for framing faults: the guard
//! finds them. Called by `connection`.
//!
//! Invariant: a connection becomes another protocol's only after the service has answered 101.

use std::cell::RefCell;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use common::lifecycle::Shutdown;
use common::net::relay::{Meter, Scratch, relay};
use http::{HeaderValue, Request, Response, header};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::Service;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::time::timeout;
use topology::gateway::Front;

use super::framing::HeadLimits;
use super::guard::{Guard, Patience, Verdicts};
use super::stall::Stall;
use super::{Engine, NoAnswer, OutBody};
use crate::access_log::End;
use crate::body::Tunnel;
use crate::connection::Line;
use crate::exchange::Exchange;
use crate::stages::emit::Emitted;

/// The engine.
#[derive(Clone, Copy, Debug)]
pub struct Http1 {
    limits: HeadLimits,
    patience: Patience,
}

impl Http1 {
    /// With the limits of a listener.
    pub fn new(front: &Front) -> Self {
        let limits = HeadLimits {
            bytes: front.max_head_bytes.get(),
            target: front.max_uri_bytes.get(),
            headers: front.max_headers.get(),
        };
        Self { limits, patience: Patience { head: front.header_timeout, idle: front.idle_timeout } }
    }

    fn builder(&self) -> http1::Builder {
        let mut builder = http1::Builder::new();
        // The guard has applied the real limits; hyper's own must not be tighter.
        builder.max_buf_size(self.limits.bytes + 16 * 1024).max_header_size(self.limits.bytes + 1);
        // Up to its default it needs no heap for them.
        if self.limits.headers > 100 {
            builder.max_headers(self.limits.headers);
        }
        builder
    }
}

impl Engine for Http1 {
    async fn serve<IO>(&self, io: IO, line: Rc<Line>, shutdown: Shutdown)
    where
        IO: AsyncRead + AsyncWrite + Unpin + 'static,
    {
        let (guard, verdicts) = Guard::new(io, self.limits, self.patience);
        let tunnel = Switched::default();
        let leaving = verdicts.clone();
        let service = Exchanges { line, verdicts, tunnel: Rc::clone(&tunnel) };
        let mut connection = self.builder().serve_connection(TokioIo::new(guard), service);
        let drain = async {
            shutdown.draining().await;
            leaving.leave();
            // From here on the connection ends by itself.
            std::future::pending::<()>().await;
        };
        let ended = tokio::select! {
            biased;
            ended = poll_fn(|cx| connection.poll_without_shutdown(cx)) => ended,
            () = drain => return,
            () = shutdown.stopped() => return,
        };
        let parts = connection.into_parts();
        let (mut io, early) = parts.io.into_inner().into_parts();
        let switched = tunnel.borrow_mut().take();
        match (ended, switched) {
            (Ok(()), Some((tunnel, x))) => {
                let early = [&parts.read_buf[..], &early[..]].concat();
                tokio::select! {
                    () = pass(io, &early, *tunnel, x) => {}
                    () = shutdown.stopped() => {}
                }
            }
            (Ok(()), None) => close(&mut io).await,
            // The other side is gone, or an answer broke off: no farewell that looks like an end.
            (Err(_), _) => {}
        }
    }
}

/// RFC 9112 §9.6: closes the writing side first and takes in a little of what still comes, so that a
/// reset does not destroy the last answer.
async fn close<IO: AsyncRead + AsyncWrite + Unpin>(io: &mut IO) {
    let farewell = async {
        io.shutdown().await?;
        let mut scrap = [0; 4096];
        let mut left = 64 * 1024_usize;
        while left > 0 {
            match io.read(&mut scrap).await? {
                0 => break,
                read => left = left.saturating_sub(read),
            }
        }
        Ok::<_, std::io::Error>(())
    };
    // However it ends, the connection is dropped.
    let _ended = timeout(LINGER, farewell).await;
}

const LINGER: Duration = Duration::from_secs(1);
/// A tunnel in which nothing moves for so long ends, as TCP flows of tier 1 do.
const TUNNEL_IDLE: Duration = Duration::from_secs(350);

/// Copies both ways between the client and the service until one of them ends.
async fn pass<IO>(io: IO, early: &[u8], tunnel: Tunnel, mut x: Box<Exchange>)
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let Some(upstream) = tunnel.upstream.raw().await else { return };
    let mut downstream = Stall::new(io, TUNNEL_IDLE);
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
struct Down(std::cell::Cell<u64>);

impl Meter for Down {
    fn up(&self, _: u64) {}

    fn down(&self, bytes: u64) {
        self.0.set(self.0.get() + bytes);
    }
}

/// The tunnel that the connection becomes, once a service has answered 101.
type Switched = Rc<RefCell<Option<(Box<Tunnel>, Box<Exchange>)>>>;

/// What hyper calls once per request.
struct Exchanges {
    line: Rc<Line>,
    verdicts: Verdicts,
    tunnel: Switched,
}

/// Tells the guard that an answer is out.
#[derive(Debug)]
struct Mark(Verdicts);

impl Drop for Mark {
    fn drop(&mut self) {
        self.0.answered();
    }
}

impl Service<Request<Incoming>> for Exchanges {
    type Response = Response<OutBody<Mark>>;
    type Error = NoAnswer;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, NoAnswer>>>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let fault = self.verdicts.next();
        let mark = Mark(self.verdicts.clone());
        let (line, tunnel) = (Rc::clone(&self.line), Rc::clone(&self.tunnel));
        let (head, body) = request.into_parts();
        Box::pin(async move {
            match line.exchange(head, body.into(), fault).await {
                Emitted::Answer(mut response) => {
                    if mark.0.leaving() {
                        let close = HeaderValue::from_static("close");
                        response.headers_mut().insert(header::CONNECTION, close);
                    }
                    Ok(response.map(|body| OutBody { body: Some(body), _mark: mark }))
                }
                Emitted::Switch(mut response, upstream, x) => {
                    mark.0.switch();
                    let headers = response.headers_mut();
                    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
                    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
                    tunnel.borrow_mut().replace((upstream, x));
                    Ok(response.map(|()| OutBody { body: None, _mark: mark }))
                }
                Emitted::Disconnect => Err(NoAnswer),
            }
        })
    }
}
