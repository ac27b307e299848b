//! What is kept of a request for the headers of an answer that comes before its changes were looked for: a refusal,
//! a redirect, a text of the file. Not for filling them: `transform` does. Kept by stages 2 and 3.
//!
//! Invariant: a route whose answers ask for nothing of a request keeps nothing of it, and no credential is kept.

use http::{HeaderMap, HeaderName, header};
use topology::gateway::{ApiKeys, Group, Route};
use topology::template::{Template, Variable};

use super::facts::{Known, Seen};
use crate::exchange::{Caller, Exchange, Target};
use crate::query::without;

/// What the answers' headers of one route ask for.
#[derive(Debug)]
pub struct Wanted {
    headers: Vec<HeaderName>,
    query: bool,
    host: bool,
}

impl Wanted {
    /// Of a route, or where there is none; `None`: nothing but what is known of every exchange.
    pub fn of(group: &Group, route: Option<&Route>) -> Option<Box<Self>> {
        let own = route.and_then(|route| route.transform.as_ref());
        let changes = group.transform.iter().chain(own);
        let templates = changes.flat_map(|change| change.answer.headers.templates());
        let mut wanted = Self { headers: Vec::new(), query: false, host: false };
        let mut any = false;
        for variable in templates.flat_map(Template::variables) {
            let name = match variable {
                Variable::Header(name) => HeaderName::from_bytes(name.as_bytes()).ok(),
                Variable::Cookie(_) => Some(header::COOKIE),
                _ => None,
            };
            wanted.query |= matches!(variable, Variable::WholeQuery | Variable::Query(_));
            wanted.host |= *variable == Variable::Host;
            any |= wanted.query || wanted.host || name.is_some() || variable.is_identity();
            wanted.headers.extend(name.filter(|name| !holds_key(&group.api_keys, name)));
        }
        any.then(|| Box::new(wanted))
    }

    /// Keeps it; nobody has been asked yet who calls.
    pub fn keep(&self, (target, all): (&Target, &HeaderMap), sources: &[ApiKeys]) -> Box<Early> {
        let mut headers = HeaderMap::new();
        for name in &self.headers {
            if let Some(value) = all.get(name) {
                headers.insert(name, value.clone());
            }
        }
        let query = target.query.clone().filter(|_| self.query);
        let names = sources.iter().filter_map(|source| source.query.as_ref());
        let query = names.fold(query, |query, name| without(&query?, name));
        let host = if self.host { target.host.clone() } else { Box::default() };
        Box::new(Early { host, query, headers, caller: Caller::Anonymous })
    }
}

/// Whether a header is one of those that hold API keys.
fn holds_key(sources: &[ApiKeys], name: &HeaderName) -> bool {
    sources.iter().any(|source| source.header.as_deref() == Some(name.as_str()))
}

/// What was kept of a request.
#[derive(Debug)]
pub struct Early {
    host: Box<str>,
    query: Option<Box<str>>,
    headers: HeaderMap,
    /// Who asks, as soon as that is known.
    pub caller: Caller,
}

impl Early {
    /// What is known of an exchange's request: as its client sent it, as far as somebody asks for that.
    pub(super) fn facts<'a>(
        early: Option<&'a Self>,
        nothing: &'a HeaderMap,
        known: Known<'a>,
    ) -> (Known<'a>, Seen<'a>) {
        let x: &'a Exchange = known.x;
        let caller = early.and_then(|early| early.caller.identity());
        let seen = Seen {
            method: &x.record.method,
            host: early.map_or("", |early| &early.host),
            path: &x.record.path,
            query: early.and_then(|early| early.query.as_deref()),
            headers: early.map_or(nothing, |early| &early.headers),
        };
        (Known { caller, ..known }, seen)
    }
}
