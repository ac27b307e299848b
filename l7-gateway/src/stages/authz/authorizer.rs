//! Asking somebody else, over HTTP, whether a request may go on. Not for rules of the file: those come
//! first. Called by `mod`.
//!
//! Invariant: no credential of the client is passed on, and no request waits longer than the timeout.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use common::observe::Observer;
use common::tls::principal::Principal;
use http::{HeaderMap, HeaderName, HeaderValue};
use topology::gateway::{Authorize, UnansweredIs};
use topology::units::Scope;

use super::AuthzError;
use super::events::{AuthorizerAway, AuthorizerBack};
use crate::exchange::{Exchange, Identified};
use crate::fetch::{HttpFetch, Inquiry};
use crate::snapshot::Snapshot;

/// Everybody whom one worker asks.
#[derive(Debug)]
pub struct Authorizers {
    all: HashMap<String, Authorizer>,
    observer: Observer,
}

#[derive(Debug)]
struct Authorizer {
    whom: Arc<HttpFetch>,
    /// Made with the first question: routes may give it different times.
    inquiries: RefCell<Vec<(Duration, Rc<Inquiry>)>>,
    away: Cell<bool>,
}

impl Authorizers {
    /// Connects to nobody yet.
    pub fn new(snapshot: &Snapshot, observer: &Observer) -> Self {
        let authorizer = |(url, whom): &(String, Arc<HttpFetch>)| {
            let whom = Arc::clone(whom);
            let one = Authorizer { whom, inquiries: RefCell::default(), away: Cell::new(false) };
            (url.clone(), one)
        };
        let all = snapshot.authorizers.iter().map(authorizer).collect();
        Self { all, observer: observer.clone() }
    }

    /// Asks; the answer's headers are those that the service is to be told. Cancel safe.
    ///
    /// # Errors
    /// When the answer is no, or there is none and the file says that this refuses.
    pub async fn ask(
        &self,
        x: &Exchange,
        input: &Identified,
        asked: &Authorize,
    ) -> Result<HeaderMap, AuthzError> {
        let url = asked.url.value.as_str();
        let Some(authorizer) = self.all.get(url) else { return Err(AuthzError::Unanswered) };
        let inquiry = authorizer.inquiry(asked.timeout);
        let cause = match inquiry.ask(question(x, input, asked), Bytes::new()).await {
            Ok(answer) if answer.status().is_success() => {
                self.tell(authorizer, url, None);
                return Ok(answer.into_parts().0.headers);
            }
            Ok(answer) if answer.status().is_client_error() => {
                self.tell(authorizer, url, None);
                return Err(AuthzError::Forbidden);
            }
            Ok(answer) => format!("it answers {}", answer.status()),
            Err(fault) => fault.to_string(),
        };
        self.tell(authorizer, url, Some(&cause));
        match asked.when_away {
            UnansweredIs::Allowed => Ok(HeaderMap::new()),
            UnansweredIs::Refused => Err(AuthzError::Unanswered),
        }
    }

    fn tell(&self, authorizer: &Authorizer, url: &str, cause: Option<&str>) {
        match (authorizer.away.replace(cause.is_some()), cause) {
            (false, Some(cause)) => self.observer.emit(AuthorizerAway { url, cause }),
            (true, None) => self.observer.emit(AuthorizerBack { url }),
            _ => {}
        }
    }
}

impl Authorizer {
    fn inquiry(&self, timeout: Duration) -> Rc<Inquiry> {
        let mut all = self.inquiries.borrow_mut();
        if let Some((_, known)) = all.iter().find(|(own, _)| *own == timeout) {
            return Rc::clone(known);
        }
        let made = Rc::new(Inquiry::new(Arc::clone(&self.whom), timeout));
        all.push((timeout, Rc::clone(&made)));
        made
    }
}

/// Writes what it said into the request, in place of what the client may have said there.
pub fn pass_on(said: &HeaderMap, asked: &Authorize, headers: &mut HeaderMap) {
    for name in &asked.answer_headers {
        let Ok(name) = HeaderName::from_bytes(name.as_bytes()) else { continue };
        headers.remove(&name);
        for value in said.get_all(&name) {
            headers.append(name.clone(), value.clone());
        }
    }
}

/// What it is told of a request.
fn question(x: &Exchange, input: &Identified, asked: &Authorize) -> HeaderMap {
    let request = &input.request;
    let mut headers = HeaderMap::new();
    for name in &asked.headers {
        if let Ok(name) = HeaderName::from_bytes(name.as_bytes()) {
            for value in request.headers.get_all(&name) {
                headers.append(name.clone(), value.clone());
            }
        }
    }
    let mut set = |name: &'static str,
                   value: Result<HeaderValue, http::header::InvalidHeaderValue>| {
        if let Ok(value) = value {
            headers.insert(HeaderName::from_static(name), value);
        }
    };
    let target = &request.target;
    let uri = match &target.query {
        None => target.path.to_string(),
        Some(query) => format!("{}?{query}", target.path),
    };
    set("x-forwarded-method", HeaderValue::from_str(request.method.as_str()));
    set("x-forwarded-proto", HeaderValue::from_str(x.peer.scheme()));
    set("x-forwarded-host", Ok(target.authority.clone()));
    set("x-forwarded-uri", HeaderValue::try_from(uri));
    set("x-forwarded-for", HeaderValue::try_from(x.peer.address().to_string()));
    set("x-request-id", Ok(x.told().0.clone()));
    set("traceparent", Ok(x.told().1.clone()));
    if let Some(principal) = x.peer.principal().map(Principal::as_str) {
        set("x-client-principal", HeaderValue::from_str(principal));
    }
    if let Some(identity) = input.caller.identity() {
        if let Some(user) = identity.user() {
            set("x-user-id", Ok(user.clone()));
        }
        if let Some(consumer) = identity.consumer() {
            set("x-consumer", HeaderValue::from_str(consumer));
        }
        let scopes: Vec<&str> = identity.scopes().iter().map(Scope::as_str).collect();
        set("x-scopes", HeaderValue::try_from(scopes.join(" ")));
    }
    headers
}
