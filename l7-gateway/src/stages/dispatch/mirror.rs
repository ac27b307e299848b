//! Copies of safe requests for a service that is to be tried with real traffic. Not for answers: nobody
//! waits for them. Called by `dispatch` before it asks the true service.
//!
//! Invariant: a copy does no harm: its method is safe, it has no body and no credentials, and there are
//! few at a time.

use std::cell::Cell;
use std::rc::Rc;

use common::balance::Wish;
use http::header;
use http_body_util::BodyExt as _;
use tokio::time::{Instant, timeout_at};
use topology::gateway::{Mirror, Route};

use super::Dispatch;
use super::ask::copy;
use super::attempt::{Aim, attempt};
use super::upstream::connection::Outgoing;
use super::upstream::{Pace, Reuse, ServiceBody};
use crate::exchange::RouteId;

impl Dispatch {
    /// Sends a copy where the route says so; gives whether it speaks of copies.
    pub(super) fn mirror(&self, route: RouteId, request: &Outgoing) -> bool {
        let route = self.snapshot.group.routes.get(route.0);
        let Some((route, mirror)) = route.and_then(|route| Some((route, route.mirror?))) else {
            return false;
        };
        self.copied(route, mirror, request);
        true
    }

    fn copied(&self, route: &Route, mirror: Mirror, request: &Outgoing) {
        let Some(lane) = self.lane(mirror.to.0) else { return };
        let chosen = self.rng.below(100) < usize::from(mirror.part.0);
        let change = request.head.headers.contains_key(header::UPGRADE);
        if !chosen || change || lane.mirrored.get() >= AT_ONCE {
            return;
        }
        let Some((mut head, body)) = copy(request) else { return };
        // They were meant for another service.
        head.headers.remove(header::AUTHORIZATION);
        head.headers.remove(header::COOKIE);
        let copy = Outgoing { head: Rc::new(head), body, hints: None };
        let (pool, under_way) = (Rc::clone(&lane.pool), UnderWay::new(&lane.mirrored));
        let deadline = Instant::now() + route.timeout;
        let times = route.times.over(&pool.upstream.model.times);
        tokio::task::spawn_local(async move {
            let _under_way = under_way;
            let wish = Wish { hash: 0, avoid: &[], costs: None };
            let now = Instant::now();
            let Some(endpoint) = pool.roster.select(wish, now) else { return };
            let (reuse, end) = (Reuse::Allowed, None);
            let aim = Aim { endpoint, reuse, now, deadline, end, times: &times, streams: false };
            if let Ok((response, lease)) = attempt(&pool, aim, copy).await {
                let mut body =
                    ServiceBody::new(response.into_body(), lease, Pace::new(times.idle, None));
                // Read to its end, so that the connection can be kept; a long one is not.
                let read = async {
                    let mut left = LONGEST;
                    while let Some(Ok(frame)) = body.frame().await {
                        let length = frame.data_ref().map_or(0, bytes::Bytes::len);
                        match left.checked_sub(length) {
                            Some(rest) => left = rest,
                            None => return,
                        }
                    }
                };
                let _late = timeout_at(deadline, read).await;
            }
        });
    }
}

/// One copy under way.
struct UnderWay(Rc<Cell<u32>>);

impl UnderWay {
    fn new(count: &Rc<Cell<u32>>) -> Self {
        count.set(count.get() + 1);
        Self(Rc::clone(count))
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        let Self(count) = self;
        count.set(count.get().saturating_sub(1));
    }
}

/// Copies under way to one service from one worker; more are left out.
const AT_ONCE: u32 = 32;

/// Bytes of an answer that are read.
const LONGEST: usize = 1 << 20;
