//! Tokens that say nothing by themselves: their issuer is asked (RFC 7662). Not for signed tokens: that
//! is `jwt`. Called by `mod`, on each worker.
//!
//! Invariant: one question per token is under way on a worker at a time; an answer is believed within
//! `keep` and the token's `exp`; what was refused is remembered for a while, in bounds.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use tokio::sync::oneshot;
use topology::gateway::{Introspection, Issuer};

use super::AuthnError;
use super::api_key::Digest;
use super::api_key::recent::Recent;
use super::jwt::{self, JwtFault, Token, Verified};
use crate::fetch::{HttpFetch, Inquiry};
use crate::strict;

/// So long a token that was refused is not asked about again.
const REFUSED_FOR: Duration = Duration::from_secs(10);

/// Most refused tokens remembered by one worker.
const MOST_REFUSED: usize = 16 << 10;

/// Where an issuer is asked, and as whom.
#[derive(Debug)]
pub struct Office {
    whom: Arc<HttpFetch>,
    authorization: HeaderValue,
    keep: Duration,
    timeout: Duration,
}

impl Office {
    /// RFC 6749 §2.3.1: name and secret, each escaped as in forms, in HTTP Basic. `None` if they cannot
    /// stand in a header.
    pub fn new(whom: HttpFetch, model: &Introspection, secret: &str) -> Option<Self> {
        let escaped =
            |text: &str| form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
        let pair = format!("{}:{}", escaped(&model.client), escaped(secret));
        let text = format!("Basic {}", STANDARD.encode(pair));
        let mut authorization = HeaderValue::try_from(text).ok()?;
        authorization.set_sensitive(true);
        let (keep, timeout) = (model.keep, model.timeout);
        Some(Self { whom: Arc::new(whom), authorization, keep, timeout })
    }
}

/// What one worker asks one issuer.
#[derive(Debug)]
pub struct Introspector {
    office: Arc<Office>,
    inquiry: Inquiry,
    refused: RefCell<Recent<Digest, u64>>,
    under_way: RefCell<HashMap<Digest, Vec<oneshot::Sender<Ended>>>>,
}

/// How a question ended; nothing is said where whoever asked has gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ended {
    Answered,
    Failed,
}

/// What waiting for somebody else's question brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waited {
    /// Nobody was asking, or whoever was has gone.
    Nobody,
    /// There was an answer, which is remembered.
    Answered,
    /// There was none.
    Failed,
}

/// A token that its issuer knows.
#[derive(Debug)]
pub struct Answer {
    /// What it says.
    pub verified: Verified,
    /// Claims that somebody reads.
    pub claims: serde_json::Map<String, serde_json::Value>,
    /// Until when that is believed, in milliseconds since the epoch.
    pub recheck: u64,
}

impl Introspector {
    /// For one worker.
    pub fn new(office: &Arc<Office>) -> Self {
        let inquiry = Inquiry::new(Arc::clone(&office.whom), office.timeout);
        let refused = RefCell::new(Recent::new(MOST_REFUSED));
        Self { office: Arc::clone(office), inquiry, refused, under_way: RefCell::default() }
    }

    /// Waits for questions about this token that are under way.
    pub async fn wait(&self, token: &Digest) -> Waited {
        loop {
            let end = {
                let mut under_way = self.under_way.borrow_mut();
                let Some(others) = under_way.get_mut(token) else { return Waited::Nobody };
                let (end, ended) = oneshot::channel();
                others.push(end);
                ended
            };
            match end.await {
                Ok(Ended::Answered) => return Waited::Answered,
                Ok(Ended::Failed) => return Waited::Failed,
                // Whoever asked has gone: perhaps somebody else asks now.
                Err(_) => {}
            }
        }
    }

    /// Asks about a token. Cancel safe.
    pub async fn ask(
        &self,
        token: &[u8],
        issuer: &Issuer,
        kept: &[Box<str>],
        now: u64,
    ) -> Result<Answer, AuthnError> {
        let digest = Digest::of(token);
        if self.refused.borrow_mut().find(&digest).is_some_and(|until| now < until) {
            return Err(JwtFault::Inactive.into());
        }
        let mut turn = Turn::begin(self, digest);
        let mut headers = HeaderMap::new();
        headers.insert(header::AUTHORIZATION, self.office.authorization.clone());
        let form = HeaderValue::from_static("application/x-www-form-urlencoded");
        headers.insert(header::CONTENT_TYPE, form);
        headers.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
        let escaped: String = form_urlencoded::byte_serialize(token).collect();
        let body = Bytes::from(format!("token={escaped}&token_type_hint=access_token"));
        let asked = self.inquiry.ask(headers, body).await;
        turn.ended = Some(Ended::Failed);
        let answer = asked.map_err(|_| AuthnError::KeysDown)?;
        let claims = strict::object(answer.body()).filter(|_| answer.status() == StatusCode::OK);
        let claims = claims.ok_or(AuthnError::KeysDown)?;
        turn.ended = Some(Ended::Answered);
        let parsed = Token::told(claims);
        match parsed.introspected(issuer, now) {
            Ok(verified) => {
                let recheck = now.saturating_add(jwt::millis(self.office.keep));
                Ok(Answer { verified, claims: parsed.keep(kept), recheck })
            }
            Err(fault) => {
                let until = now.saturating_add(jwt::millis(REFUSED_FOR));
                self.refused.borrow_mut().insert(digest, until);
                Err(fault.into())
            }
        }
    }
}

/// A question under way. Dropping it lets those who wait look again.
struct Turn<'i> {
    introspector: &'i Introspector,
    digest: Digest,
    ended: Option<Ended>,
}

impl<'i> Turn<'i> {
    fn begin(introspector: &'i Introspector, digest: Digest) -> Self {
        introspector.under_way.borrow_mut().insert(digest, Vec::new());
        Self { introspector, digest, ended: None }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let others = self.introspector.under_way.borrow_mut().remove(&self.digest);
        let Some(ended) = self.ended else { return };
        for other in others.into_iter().flatten() {
            // Who waited may have gone.
            let _gone = other.send(ended);
        }
    }
}
