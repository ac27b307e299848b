//! One fetch on behalf of the store: the service is asked, whether what is kept still holds or for the
//! whole answer, which is kept if it may be. Not for who waits for it. Called by `cache`.
//!
//! Invariant: the service sees no condition but ours, so that its answer is one for everybody.

use std::rc::Rc;
use std::sync::Arc;
use std::time::SystemTime;

use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use http_body::Body as _;
use tokio::time::Instant;
use topology::gateway::CachePolicy;

use super::super::held::stamp;
use super::super::upstream::connection::Outgoing;
use super::super::{Dispatch, Plan};
use super::fill;
use super::judge::{self, Came, Open};
use super::store::{Entry, Key, Ticket};
use crate::body::{AnswerBody, RequestBody};
use crate::exchange::{Answered, Grant, RouteId};
use crate::halt::Halt;
use crate::hints::Hints;
use crate::hops::hop_by_hop;

/// What is to be fetched, and how.
pub struct Errand {
    /// What is asked for.
    pub key: Key,
    /// What its route allows.
    pub policy: CachePolicy,
    /// What its caller showed.
    pub needed: Open,
    /// One moment on both clocks.
    pub began: (SystemTime, Instant),
    /// The request, without conditions.
    pub head: Parts,
    /// Proof that the caller may ask this.
    pub grant: Grant,
    /// Where interim answers go.
    pub hints: Option<Hints>,
    /// How it is sent.
    pub plan: Plan,
    /// What is kept already.
    pub entry: Option<Arc<Entry>>,
    /// Under which the answer is kept; `None`: it is not.
    pub ticket: Option<Ticket>,
    /// Most bytes of a body that are kept.
    pub max_body: u64,
    /// Of the answer, in the store.
    pub number: u64,
}

/// What came of it.
pub enum Fetched {
    /// What is kept still holds; here it is, with its new terms.
    Confirmed(Arc<Entry>),
    /// An answer, and whether it will be kept once it is whole.
    Answer(Answered, bool),
}

impl Errand {
    /// Asks. Dropping the future abandons it; those who wait go on.
    ///
    /// # Errors
    /// There is no answer.
    pub async fn run(self, stage: &Dispatch, mirror: Option<RouteId>) -> Result<Fetched, Halt> {
        let mut head = self.head.clone();
        if let Some(entry) = &self.entry {
            let conditions = [
                (header::ETAG, header::IF_NONE_MATCH),
                (header::LAST_MODIFIED, header::IF_MODIFIED_SINCE),
            ];
            for (validator, condition) in conditions {
                if let Some(value) = entry.headers.get(validator) {
                    head.headers.insert(condition, value.clone());
                }
            }
        }
        let request = self.request(head);
        if let Some(route) = mirror {
            stage.mirror(route, &request);
        }
        let (answered, came) = self.ask(stage, request).await?;
        let Some(entry) = &self.entry else { return Ok(self.keep(answered, came)) };
        if answered.head.status != StatusCode::NOT_MODIFIED {
            return Ok(self.keep(answered, came));
        }
        if confirms(&answered.head.headers, &entry.headers) {
            return Ok(Fetched::Confirmed(self.confirm(entry, answered.head.headers, came)));
        }
        let request = self.request(self.head.clone());
        let (answered, came) = self.ask(stage, request).await?;
        Ok(self.keep(answered, came))
    }

    fn request(&self, head: Parts) -> Outgoing {
        Outgoing { head: Rc::new(head), body: RequestBody::empty(), hints: self.hints.clone() }
    }

    async fn ask(&self, stage: &Dispatch, request: Outgoing) -> Result<(Answered, Came), Halt> {
        let sent = Instant::now();
        let answered = stage.fetch(&self.grant, &self.plan, request, None).await?;
        let came = Came { at: self.began.0 + self.began.1.elapsed(), delay: sent.elapsed() };
        Ok((answered, came))
    }

    /// RFC 9111 §4.3.4: what a 304 says anew counts from now on.
    fn confirm(&self, old: &Arc<Entry>, mut said: HeaderMap, came: Came) -> Arc<Entry> {
        hop_by_hop(&mut said);
        let mut headers = old.headers.clone();
        for name in said.keys() {
            // RFC 9111 §3.2: what describes the kept body stays.
            if [header::CONTENT_LENGTH, header::CONTENT_ENCODING, header::CONTENT_TYPE]
                .contains(name)
            {
                continue;
            }
            headers.remove(name);
            for value in said.get_all(name) {
                headers.append(name, value.clone());
            }
        }
        let terms = judge::terms(self.needed, old.status, &headers, &self.policy, came);
        let kept = terms.is_some();
        let terms = terms.unwrap_or(old.terms);
        let mut entry = self.entry(old.status, &headers, terms, came);
        entry.body = old.body.clone();
        let entry = Arc::new(entry);
        if let (true, Some(ticket)) = (kept, &self.ticket) {
            ticket.put(Arc::clone(&entry));
        }
        entry
    }

    /// Keeps an answer while it is sent, if it may be kept.
    fn keep(self, mut answered: Answered, came: Came) -> Fetched {
        let head = &mut answered.head;
        // RFC 9111 §3.3: an answer whose end cannot be told from a break is not kept.
        let framed = match &answered.body {
            AnswerBody::Service(body) => body.is_framed(),
            _ => false,
        } || answered.body.size_hint().exact().is_some()
            || head.headers.contains_key(header::TRANSFER_ENCODING);
        hop_by_hop(&mut head.headers);
        let small = answered.body.size_hint().lower() <= self.max_body;
        let terms = judge::terms(self.needed, head.status, &head.headers, &self.policy, came);
        let terms = terms.filter(|_| framed && small);
        let service = matches!(answered.body, AnswerBody::Service(_));
        let Some(terms) = terms.filter(|_| service && self.ticket.is_some()) else {
            let failed = head.status.is_server_error();
            if let Some(ticket) = self.ticket.filter(|_| !failed) {
                ticket.give_up(Instant::now());
            }
            return Fetched::Answer(answered, false);
        };
        let entry = self.entry(head.status, &head.headers, terms, came);
        let body = std::mem::replace(&mut answered.body, AnswerBody::Empty);
        if let Some(ticket) = self.ticket {
            let reader = fill::begin(body, entry, ticket, self.max_body);
            answered.body = AnswerBody::Kept(Box::new(reader));
        }
        Fetched::Answer(answered, true)
    }

    fn entry(
        &self,
        status: StatusCode,
        headers: &HeaderMap,
        terms: judge::Terms,
        came: Came,
    ) -> Entry {
        // In memory of their own: they came in a buffer that is larger than what is kept.
        let own = |(name, value): (&HeaderName, &HeaderValue)| {
            Some((name.clone(), HeaderValue::from_bytes(value.as_bytes()).ok()?))
        };
        let mut headers: HeaderMap = headers.iter().filter_map(own).collect();
        headers.remove(header::CONTENT_LENGTH);
        headers.remove(header::AGE);
        if !headers.contains_key(header::DATE) {
            headers.insert(header::DATE, stamp(came.at));
        }
        let head = (status, headers);
        Entry::new(self.number, &self.key, &self.head.headers, head, (terms, Instant::now()))
    }
}

/// Whether a 304 speaks of what is kept: RFC 9111 §4.3.4, one with another tag speaks of something
/// else.
fn confirms(said: &HeaderMap, kept: &HeaderMap) -> bool {
    // RFC 9110 §8.8.3.2: weak or strong does not matter here.
    let opaque = |headers: &HeaderMap| {
        let tag = headers.get(header::ETAG)?.as_bytes();
        Some(tag.strip_prefix(b"W/").unwrap_or(tag).to_vec())
    };
    match (opaque(said), opaque(kept)) {
        (Some(said), Some(kept)) => said == kept,
        _ => true,
    }
}
