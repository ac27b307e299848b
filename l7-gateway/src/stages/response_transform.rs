//! Stage 9: what the client may see of an answer. Not for CORS and limits: their stages' response
//! sides have been here. Called by `pipeline` for every answer, ours too.
//!
//! Invariant: no header that names a server inside leaves, and ours are set last.

use std::sync::Arc;

use http::header::{HeaderName, HeaderValue};

use crate::exchange::{Answered, AnsweredBy, Exchange, RouteId, Stage, Transformed};
use crate::halt::Halt;
use crate::hops::{hop_by_hop, internal};
use crate::pipeline::Filter;
use crate::snapshot::Snapshot;
use crate::trace::{Silent, Trace};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The stage, one per worker.
#[derive(Debug)]
pub struct ResponseTransform {
    routes: Vec<Vec<(HeaderName, HeaderValue)>>,
}

impl ResponseTransform {
    /// For one worker.
    pub fn new(snapshot: &Arc<Snapshot>) -> Self {
        let header = |(name, value): &(String, String)| {
            let name = HeaderName::from_bytes(name.as_bytes()).ok()?;
            Some((name, HeaderValue::from_str(value).ok()?))
        };
        let of = |route: &topology::gateway::Route| {
            route.response_headers.iter().filter_map(header).collect()
        };
        Self { routes: snapshot.group.routes.iter().map(of).collect() }
    }
}

impl Filter for ResponseTransform {
    const STAGE: Stage = Stage::ResponseTransform;
    type In = Answered;
    type Out = Transformed;
    type Plan = Option<RouteId>;

    fn plan(&self, x: &Exchange, _input: &Answered, trace: &mut impl Trace) -> Self::Plan {
        let route = x.candidate.route();
        trace.note(Stage::ResponseTransform, || format!("headers of {route:?} are set"));
        route
    }

    async fn request(&self, x: &mut Exchange, mut input: Answered) -> Result<Transformed, Halt> {
        let route = self.plan(x, &input, &mut Silent);
        let headers = &mut input.head.headers;
        if input.by == AnsweredBy::Service {
            hop_by_hop(headers);
        }
        internal(headers);
        for (name, value) in route.and_then(|id| self.routes.get(id.0)).into_iter().flatten() {
            headers.insert(name, value.clone());
        }
        headers.insert(REQUEST_ID, x.told().0.clone());
        Ok(Transformed(input))
    }
}
