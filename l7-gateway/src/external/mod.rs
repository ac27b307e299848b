//! Programs of the operator's that see requests and answers on their way (spec G2): asked over HTTP, in the order of
//! the places where the file names them. Not for who may call: that is stage 4. Called by stages 7 and 9.
//!
//! Invariant: who was asked about a request is asked about its answer, the last one first, and nobody else is; a
//! program that does not answer never holds a request longer than its timeout.

use std::cell::Cell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use common::observe::Observer;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use http_body::Body as _;
use thiserror::Error;
use tokio::time::Instant;
use topology::external::External;
use topology::gateway::{RouteTo, UnansweredIs};
use topology::upstream::Upstream;

use crate::body::{AnswerBody, RequestBody};
use crate::exchange::{Answered, Exchange, Identity, Request, RouteId, Stage};
use crate::fetch::{FetchError, Inquiry, LONGEST_ANSWER};
use crate::halt::{Halt, Kind, Reply};
use crate::snapshot::Snapshot;
use crate::transform::{Refused, TransformError, gathered, plain, stale};
use crate::{grpc, media};

pub mod circuit;
pub mod events;
pub mod told;

use self::circuit::Circuit;
use self::events::{ExternalAway, ExternalBack};
use self::told::{Said, Secrets, Subject};

/// Why an exchange does not go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ExternalError {
    /// Somebody does not say what becomes of it.
    #[error("nobody says what becomes of this")]
    Away,
    /// Nor of the answer to what was carried out.
    #[error("nobody says what becomes of the answer")]
    AnswerAway,
}

/// Somebody who is asked.
#[derive(Debug)]
pub struct Outside {
    model: External,
    secrets: Rc<Secrets>,
    peer: Rc<Peer>,
}

/// Whoever is behind an address, however many places name it: what is known of it outlives a change of the file.
#[derive(Debug)]
struct Peer {
    url: Box<str>,
    inquiry: Inquiry,
    circuit: Circuit,
    observer: Observer,
}

/// Everybody, by the place that names them.
#[derive(Debug)]
pub struct Externals {
    listener: Option<Rc<Outside>>,
    consumers: HashMap<Box<str>, Rc<Outside>>,
    routes: Vec<Option<Rc<Outside>>>,
    services: Vec<Option<Rc<Outside>>>,
    /// Services that take calls in gRPC, as far as the file says.
    calls: Vec<bool>,
    peers: Vec<Rc<Peer>>,
    /// Nobody is asked: for `explain`.
    hushed: Cell<bool>,
}

impl Externals {
    /// For one worker; `None`: the file names nobody. Whom `before` knows is known on.
    pub fn new(
        snapshot: &Snapshot,
        observer: &Observer,
        before: Option<&Self>,
    ) -> Option<Rc<Self>> {
        let group = &snapshot.group;
        let secrets = Rc::new(Secrets::new(&group.api_keys));
        let known = before.map(|before| before.peers.as_slice()).unwrap_or_default();
        let mut peers: Vec<Rc<Peer>> = Vec::new();
        let mut peer = |url: &str, patience| {
            let same = |peer: &&Rc<Peer>| *peer.url == *url;
            if let Some(peer) = peers.iter().find(same) {
                return Some(Rc::clone(peer));
            }
            let (_, whom) = snapshot.authorizers.iter().find(|(known, _)| *known == url)?;
            let made =
                || Rc::new(Peer::new(url, Inquiry::new(Arc::clone(whom), patience), observer));
            let peer = known.iter().find(same).map_or_else(made, Rc::clone);
            peers.push(Rc::clone(&peer));
            Some(peer)
        };
        let mut one = |model: &Option<External>| {
            let model = model.as_ref()?;
            let peer = peer(&model.url.value, model.timeout)?;
            let secrets = Rc::clone(&secrets);
            Some(Rc::new(Outside { model: model.clone(), secrets, peer }))
        };
        let consumers = group.consumers.iter();
        let consumers = consumers
            .filter_map(|consumer| Some((consumer.name.as_str().into(), one(&consumer.external)?)));
        let consumers = consumers.collect();
        let mut all = Self {
            listener: one(&group.external),
            consumers,
            routes: group.routes.iter().map(|route| one(&route.external)).collect(),
            peers: Vec::new(),
            services: group.upstreams.iter().map(|upstream| one(&upstream.external)).collect(),
            calls: group.upstreams.iter().map(Upstream::takes_calls).collect(),
            hushed: Cell::new(false),
        };
        all.peers = peers;
        let any = all.listener.is_some()
            || !all.consumers.is_empty()
            || all.routes.iter().chain(&all.services).any(Option::is_some);
        any.then(|| Rc::new(all))
    }

    /// Nobody is asked from now on.
    pub fn hush(&self) {
        self.hushed.set(true);
    }

    /// Who is asked about a request, in their order, and where the file names them.
    fn on(
        &self,
        route: RouteId,
        to: RouteTo,
        caller: Option<&Identity>,
    ) -> impl Iterator<Item = (&'static str, &Rc<Outside>)> {
        // Few files name anybody for a consumer.
        let consumer = caller.filter(|_| !self.consumers.is_empty()).and_then(Identity::consumer);
        let service = to.service().and_then(|id| self.services.get(id.0));
        let all = [
            ("the listener", self.listener.as_ref()),
            ("the consumer", consumer.and_then(|name| self.consumers.get(name))),
            ("the route", self.routes.get(route.0).and_then(Option::as_ref)),
            ("the service", service.and_then(Option::as_ref)),
        ];
        all.into_iter().filter_map(|(place, one)| Some((place, one?)))
    }

    /// Whether anybody is.
    pub fn any(&self, route: RouteId, to: RouteTo, caller: Option<&Identity>) -> bool {
        self.on(route, to, caller).next().is_some()
    }

    /// The same, for people.
    pub fn names(&self, route: RouteId, to: RouteTo, caller: Option<&Identity>) -> Vec<String> {
        let told =
            |(place, one): (&str, &Rc<Outside>)| format!("{} ({place})", one.model.url.value);
        self.on(route, to, caller).map(told).collect()
    }

    /// Whether anybody is told bodies of answers.
    pub fn reads_answers(&self, route: RouteId, to: RouteTo, caller: Option<&Identity>) -> bool {
        self.on(route, to, caller).any(|(_, one)| one.model.answer_body.is_some())
    }

    /// Asks about a request.
    ///
    /// # Errors
    /// What the client is told instead.
    pub async fn request(
        &self,
        x: &mut Exchange,
        request: &mut Request,
        (route, to): (RouteId, RouteTo),
        subject: Subject<'_>,
    ) -> Result<(), Halt> {
        if self.hushed.get() {
            return Ok(());
        }
        // What its client says alone would let any body pass unseen.
        let calls = to.service().and_then(|id| self.calls.get(id.0)).copied();
        let streams = x.grpc && calls.unwrap_or_default();
        for (place, one) in self.on(route, to, subject.caller) {
            x.passes(Stage::RequestTransform, "external", place);
            let body = if streams { None } else { one.body(request).await? };
            let question = told::request(x, request, one.model(), subject, body.as_deref());
            let most = body.as_ref().and(one.model.body);
            let said = one.ask(question, most).await.ok_or(ExternalError::Away)?;
            // From here on it has a part in this.
            if one.model.answers {
                x.outside.push((place, Rc::clone(one)));
            }
            match said {
                Said::Continue(change) => {
                    if let Some(bytes) = change.apply(&mut request.headers) {
                        let limits = request.body.limits();
                        request.body = RequestBody::whole(bytes, limits);
                    }
                }
                Said::Answer(answer) => return Err(Halt::Given(answer)),
            }
        }
        Ok(())
    }
}

/// Asks everybody about an answer who was asked about its request, the last one first; gives what the client is told.
/// Where one does not say what becomes of it, the others see what is told instead.
pub async fn answer(x: &mut Exchange, mut answered: Answered) -> Answered {
    while let Some((place, one)) = x.outside.pop() {
        x.passes(Stage::ResponseTransform, "external", place);
        let other = match one.answer(x, &mut answered).await {
            Ok(Some(other)) => *other,
            Ok(None) => continue,
            Err(halt) => Answered::ours(x, halt),
        };
        answered = other.in_place_of(&answered.head.headers);
    }
    answered
}

/// Whether nobody waits for all of a body: it is a stream, or of another protocol.
fn streams(answered: &Answered) -> bool {
    let Answered { head, body, .. } = answered;
    matches!(body, AnswerBody::Lines(_))
        || grpc::is_content(&head.headers)
        || media::kind(&head.headers) == "text/event-stream"
}

/// Why it says nothing of use.
enum Silence {
    /// It is not there, or too slow: it is to be left alone.
    Away(String),
    /// It says more than it may, which a client's body can bring about: it is there, and nothing passes it by for that.
    Large(String),
    /// It answers otherwise than it should, which one client's request can bring about: others go on asking.
    Odd(String),
}

impl Peer {
    fn new(url: &str, inquiry: Inquiry, observer: &Observer) -> Self {
        let (url, observer) = (url.into(), observer.clone());
        Self { url, inquiry, circuit: Circuit::default(), observer }
    }
}

impl Outside {
    /// What it may be told.
    fn model(&self) -> (&External, &Secrets) {
        (&self.model, &self.secrets)
    }

    /// The body that it is told, before any compression; it goes on as it came.
    async fn body(&self, request: &mut Request) -> Result<Option<Bytes>, Refused> {
        let Some(most) = self.model.body.filter(|_| request.upgrade.is_none()) else {
            return Ok(None);
        };
        if request.body.is_empty() {
            return Ok(None);
        }
        let limits = request.body.limits();
        let bytes = gathered(&mut request.body, most).await;
        let bytes = bytes.map_err(|fault| Refused::Request(TransformError::Body(fault)))?;
        request.body = RequestBody::whole(bytes.clone(), limits);
        // Nothing has no compressed form.
        if bytes.is_empty() {
            return Ok(Some(bytes));
        }
        plain(&request.headers, bytes, most).map(Some).map_err(Refused::Request)
    }

    /// Asks about an answer, and carries out what becomes of it; gives what stands in its place, if anything.
    async fn answer(
        &self,
        x: &Exchange,
        answered: &mut Answered,
    ) -> Result<Option<Box<Answered>>, Halt> {
        let most = self.model.answer_body.filter(|_| !streams(answered));
        let told = match most {
            Some(most) => self.answer_body(x, answered, most).await?,
            None => None,
        };
        let question = told::answer(x, &answered.head, self.model(), told.as_deref());
        match self.ask(question, told.as_ref().and(most)).await {
            Some(Said::Continue(change)) => {
                if let Some(bytes) = change.apply(&mut answered.head.headers) {
                    answered.body = AnswerBody::Whole(bytes);
                }
                Ok(None)
            }
            Some(Said::Answer(other)) => Ok(Some(other)),
            None => Err(ExternalError::AnswerAway.into()),
        }
    }

    /// The body of an answer as it is told, before any compression; the answer keeps it as it came.
    async fn answer_body(
        &self,
        x: &Exchange,
        answered: &mut Answered,
        most: u64,
    ) -> Result<Option<Bytes>, Halt> {
        let Answered { head, body, .. } = answered;
        if x.record.method == Method::HEAD || head.status == StatusCode::NOT_MODIFIED {
            // What it says of the body it may say of another one than the client would be sent.
            stale(&mut head.headers);
            return Ok(None);
        }
        if body.is_end_stream() {
            return Ok(None);
        }
        let whole = gathered(body, most).await.map_err(TransformError::Body);
        let told = whole.and_then(|whole| {
            *body = AnswerBody::Whole(whole.clone());
            plain(&head.headers, whole, most)
        });
        match told {
            Ok(told) => Ok(Some(told)),
            Err(why) => {
                let reason = format!("answer for {}: {why}", self.peer.url);
                Err(Reply::new(Kind::AnswerUnfiltered).reason(reason).into())
            }
        }
    }

    /// What it says; where it says nothing, what the file says of that: `None`: it is refused. It may give a body of
    /// so many bytes in the place of the one that it is told.
    async fn ask(&self, question: Bytes, most: Option<u64>) -> Option<Said> {
        let Peer { url, circuit, observer, .. } = &*self.peer;
        if let Some(turn) = circuit.admits(Instant::now()) {
            let (cause, new) = match self.said(question, most).await {
                Ok(said) => {
                    if circuit.close() {
                        observer.emit(ExternalBack { url });
                    }
                    return Some(said);
                }
                Err(Silence::Away(cause)) => (cause, circuit.fail(turn, Instant::now())),
                Err(Silence::Odd(cause)) => (cause, circuit.odd()),
                Err(Silence::Large(cause)) => {
                    if circuit.odd() {
                        observer.emit(ExternalAway { url, cause: &cause });
                    }
                    return None;
                }
            };
            if new {
                observer.emit(ExternalAway { url, cause: &cause });
            }
        }
        match self.model.when_away {
            UnansweredIs::Allowed => Some(Said::default()),
            UnansweredIs::Refused => None,
        }
    }

    async fn said(&self, question: Bytes, most: Option<u64>) -> Result<Said, Silence> {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let body = most.and_then(|most| usize::try_from(most).ok()).unwrap_or_default();
        let longest = LONGEST_ANSWER.saturating_add(body.saturating_mul(GROWTH));
        let answer = self.peer.inquiry.ask_within(self.model.timeout, longest, (headers, question));
        let answer = answer.await.map_err(|fault| match fault {
            FetchError::Connect { .. } | FetchError::Timeout { .. } => {
                Silence::Away(fault.to_string())
            }
            FetchError::TooLarge { .. } => Silence::Large(fault.to_string()),
            _ => Silence::Odd(fault.to_string()),
        })?;
        let said = match answer.status() {
            StatusCode::OK => told::read(answer.body()).map_err(Silence::Odd)?,
            StatusCode::NO_CONTENT => Said::default(),
            status => return Err(Silence::Odd(format!("it answers {status}"))),
        };
        let Said::Continue(change) = &said else { return Ok(said) };
        match (change.body().map(|bytes| bytes.len() as u64), most) {
            (Some(_), None) => {
                Err(Silence::Odd("it changes a body that it was not told".to_owned()))
            }
            (Some(size), Some(most)) if size > most => {
                Err(Silence::Large(format!("its body is larger than {most} bytes")))
            }
            _ => Ok(said),
        }
    }
}

/// By how much a body may grow as a text of JSON: a control character is six (RFC 8259 §7), and so may others be.
const GROWTH: usize = 6;
