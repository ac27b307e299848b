//! HTTP/1.0 and 1.1 towards clients, one exchange after the other, all in the connection's own task.
//! Not for the bytes' grammar: `codec` judges them. Called by `connection`.
//!
//! Invariant: nothing behind a request is looked at as HTTP before its answer is out; a connection
//! becomes another protocol's only after the service has answered 101.

use std::cell::RefCell;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use common::lifecycle::{Phase, Shutdown};
use common::net::relay::Wire;
use http::Version;
use topology::gateway::Front;

use self::answer::{After, Asked};
use self::client::{Came, Client};
use self::clock::{Clock, Waiting};
use super::Engine;
use crate::body::BodySource;
use crate::codec::Fault;
use crate::codec::head::HeadLimits;
use crate::codec::request::Head;
use crate::connection::Line;
use crate::stages::emit::Emitted;

mod answer;
mod client;
mod clock;
mod tunnel;

/// The engine.
#[derive(Clone, Copy, Debug)]
pub struct Http1 {
    limits: HeadLimits,
    patience: Patience,
}

/// How long a client may take.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// From a head's first byte to its last, and from the connection's start to its first byte.
    pub head: Duration,
    /// Between exchanges.
    pub idle: Duration,
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
}

impl Engine for Http1 {
    async fn serve<IO>(&self, io: IO, line: Rc<Line>, shutdown: Shutdown)
    where
        IO: Wire + 'static,
    {
        let client = Rc::new(RefCell::new(Client::new(io, self.limits)));
        let connection = Connection { client, line, clock: Clock::new(self.patience) };
        tokio::select! {
            biased;
            () = connection.run(&shutdown) => {}
            () = shutdown.stopped() => {}
        }
    }
}

/// One connection.
struct Connection<IO> {
    client: Rc<RefCell<Client<IO>>>,
    line: Rc<Line>,
    clock: Clock,
}

impl<IO: Wire + 'static> Connection<IO> {
    async fn run(mut self, shutdown: &Shutdown) {
        let mut draining = pin!(shutdown.draining());
        while let Some(came) = self.next(draining.as_mut()).await {
            self.clock.came();
            let asked = Asked::new(&came);
            let Some(emitted) = self.exchange(came).await else { return };
            let leaving = shutdown.phase() > Phase::Running;
            let after = match emitted {
                Emitted::Answer(response) => {
                    answer::send(&self.client, &self.line, asked, response, leaving).await
                }
                Emitted::Switch(head, tunnel, x) => {
                    let Some(client) = self.alone() else { return };
                    return tunnel::pass(client, head, *tunnel, x).await;
                }
                Emitted::Disconnect => After::Abort,
            };
            match after {
                After::Next => {}
                After::Close => break,
                // The other side is gone, or an answer broke off: no farewell that looks like an end.
                After::Abort => return,
            }
        }
        if let Some(client) = self.alone() {
            client.close().await;
        }
    }

    /// The next head, or what is wrong with it; `None`: there is none.
    async fn next(&mut self, mut draining: Pin<&mut impl Future<Output = ()>>) -> Option<Came> {
        let mut leaving = false;
        poll_fn(|cx| {
            let mut client = self.client.borrow_mut();
            if let Poll::Ready(came) = client.poll_head(cx, &mut self.line.scratch()) {
                return Poll::Ready(came);
            }
            let begun = client.has_begun();
            leaving = leaving || draining.as_mut().poll(cx).is_ready();
            self.clock.wait(match (begun, leaving) {
                (true, _) => Waiting::Head,
                (false, true) => Waiting::Farewell,
                (false, false) => Waiting::Idle,
            });
            if !begun {
                client.rest();
            }
            ready!(self.clock.poll(cx));
            Poll::Ready(begun.then_some(Err(Fault::HeadTimeout)))
        })
        .await
    }

    /// What becomes of a request; `None`: its client has gone.
    async fn exchange(&self, came: Came) -> Option<Emitted> {
        let listening = came.is_ok();
        let hints = listening.then(|| self.hints());
        let (parts, body, fault) = match came {
            Ok(Head { parts, body, .. }) => (parts, self.body(body), None),
            Err(fault) => (refused(), BodySource::Nothing, Some(fault)),
        };
        // Boxed: an idle connection is not to carry its size.
        let mut exchange = Box::pin(self.line.exchange(parts, body, fault, hints));
        poll_fn(|cx: &mut Context<'_>| {
            if let Poll::Ready(emitted) = exchange.as_mut().poll(cx) {
                return Poll::Ready(Some(emitted));
            }
            // Hints leave as they come; those that nobody takes wait for the answer.
            if let Poll::Ready(Err(_)) = self.client.borrow_mut().poll_told(cx) {
                return Poll::Ready(None);
            }
            // An end here would look like a client that has gone before its refusal.
            if listening {
                ready!(self.client.borrow_mut().poll_gone(cx, &mut self.line.scratch()));
                return Poll::Ready(None);
            }
            Poll::Pending
        })
        .await
    }

    /// The connection, if no body of it is left anywhere.
    fn alone(self) -> Option<Client<IO>> {
        Rc::try_unwrap(self.client).ok().map(RefCell::into_inner)
    }
}

/// Stands for a head that was refused.
fn refused() -> Box<http::request::Parts> {
    let (mut parts, ()) = http::Request::new(()).into_parts();
    parts.version = Version::HTTP_11;
    Box::new(parts)
}
