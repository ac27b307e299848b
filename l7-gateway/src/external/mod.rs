//! Programs of the operator's that see requests and answers on their way (spec G2): asked over HTTP, in the order of
//! the places where the file names them. Not for who may call: that is stage 4. Called by stages 7 and 9.
//!
//! Invariant: who was asked about a request is asked about its answer, the last one first, and nobody else is; a
//! program that does not answer never holds a request longer than its timeout.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use common::observe::Observer;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use thiserror::Error;
use tokio::time::Instant;
use topology::external::External;
use topology::gateway::{RouteTo, UnansweredIs};

use crate::body::{BodyFault, RequestBody};
use crate::exchange::{Answered, Exchange, Request, RouteId};
use crate::fetch::{FetchError, HttpFetch, Inquiry};
use crate::halt::Halt;
use crate::snapshot::Snapshot;
use crate::transform::gathered;

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
    /// The client's body.
    #[error(transparent)]
    Body(BodyFault),
}

/// Somebody who is asked.
#[derive(Debug)]
pub struct Outside {
    model: External,
    secrets: Rc<Secrets>,
    inquiry: Inquiry,
    circuit: Circuit,
    observer: Observer,
}

/// Everybody, by the place that names them.
#[derive(Debug)]
pub struct Externals {
    listener: Option<Rc<Outside>>,
    routes: Vec<Option<Rc<Outside>>>,
    services: Vec<Option<Rc<Outside>>>,
    /// Nobody is asked: for `explain`.
    hushed: Cell<bool>,
}

impl Externals {
    /// For one worker; `None`: the file names nobody.
    pub fn new(snapshot: &Snapshot, observer: &Observer) -> Option<Rc<Self>> {
        let group = &snapshot.group;
        let secrets = Rc::new(Secrets::new(&group.api_keys));
        let one = |model: &Option<External>| {
            let model = model.as_ref()?;
            let whom = snapshot.authorizers.iter().find(|(url, _)| *url == model.url.value)?;
            Some(Rc::new(Outside::new(model, (&whom.1, &secrets), observer)))
        };
        let all = Self {
            listener: one(&group.external),
            routes: group.routes.iter().map(|route| one(&route.external)).collect(),
            services: group.upstreams.iter().map(|upstream| one(&upstream.external)).collect(),
            hushed: Cell::new(false),
        };
        let any =
            all.listener.is_some() || all.routes.iter().chain(&all.services).any(Option::is_some);
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
    ) -> impl Iterator<Item = (&'static str, &Rc<Outside>)> {
        let service = to.service().and_then(|id| self.services.get(id.0));
        let all = [
            ("the listener", self.listener.as_ref()),
            ("the route", self.routes.get(route.0).and_then(Option::as_ref)),
            ("the service", service.and_then(Option::as_ref)),
        ];
        all.into_iter().filter_map(|(place, one)| Some((place, one?)))
    }

    /// Whether anybody is.
    pub fn any(&self, route: RouteId, to: RouteTo) -> bool {
        self.on(route, to).next().is_some()
    }

    /// The same, for people.
    pub fn names(&self, route: RouteId, to: RouteTo) -> Vec<String> {
        let told =
            |(place, one): (&str, &Rc<Outside>)| format!("{} ({place})", one.model.url.value);
        self.on(route, to).map(told).collect()
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
        for (_, one) in self.on(route, to) {
            let body = one.body(request).await.map_err(ExternalError::Body)?;
            let question = told::request(x, request, one.model(), subject, body.as_deref());
            let said = one.ask(question).await.ok_or(ExternalError::Away)?;
            // From here on it has a part in this.
            if one.model.answers {
                x.outside.push(Rc::clone(one));
            }
            match said {
                Said::Continue(change) => change.apply(&mut request.headers),
                Said::Answer(answer) => return Err(Halt::Given(answer)),
            }
        }
        Ok(())
    }
}

/// Asks everybody about an answer who was asked about its request, the last one first; gives what the client is told.
/// Where one does not say what becomes of it, the others see what is told instead.
pub async fn answer(x: &mut Exchange, mut answered: Answered) -> Answered {
    while let Some(one) = x.outside.pop() {
        let question = told::answer(x, &answered.head, one.model());
        let other = match one.ask(question).await {
            Some(Said::Continue(change)) => {
                change.apply(&mut answered.head.headers);
                continue;
            }
            Some(Said::Answer(other)) => *other,
            None => Answered::ours(x, ExternalError::AnswerAway.into()),
        };
        answered = other.in_place_of(&answered.head.headers);
    }
    answered
}

/// Why it says nothing of use.
enum Silence {
    /// It is not there, or too slow: it is to be left alone.
    Away(String),
    /// It answers otherwise than it should, which one client's request can bring about: others go on asking.
    Odd(String),
}

impl Outside {
    fn new(
        model: &External,
        (whom, secrets): (&Arc<HttpFetch>, &Rc<Secrets>),
        observer: &Observer,
    ) -> Self {
        Self {
            model: model.clone(),
            secrets: Rc::clone(secrets),
            inquiry: Inquiry::new(Arc::clone(whom), model.timeout),
            circuit: Circuit::default(),
            observer: observer.clone(),
        }
    }

    /// What it may be told.
    fn model(&self) -> (&External, &Secrets) {
        (&self.model, &self.secrets)
    }

    /// The body that it is told; it goes on as it came.
    async fn body(&self, request: &mut Request) -> Result<Option<Bytes>, BodyFault> {
        let Some(most) = self.model.body.filter(|_| request.upgrade.is_none()) else {
            return Ok(None);
        };
        if request.body.is_empty() {
            return Ok(None);
        }
        let limits = request.body.limits();
        let bytes = gathered(&mut request.body, most).await?;
        request.body = RequestBody::whole(bytes.clone(), limits);
        Ok(Some(bytes))
    }

    /// What it says; where it says nothing, what the file says of that: `None`: it is refused.
    async fn ask(&self, question: Bytes) -> Option<Said> {
        if let Some(turn) = self.circuit.admits(Instant::now()) {
            let (cause, new) = match self.said(question).await {
                Ok(said) => {
                    if self.circuit.close() {
                        self.observer.emit(ExternalBack { url: &self.model.url.value });
                    }
                    return Some(said);
                }
                Err(Silence::Away(cause)) => (cause, self.circuit.fail(turn, Instant::now())),
                Err(Silence::Odd(cause)) => (cause, self.circuit.odd()),
            };
            if new {
                self.observer.emit(ExternalAway { url: &self.model.url.value, cause: &cause });
            }
        }
        match self.model.when_away {
            UnansweredIs::Allowed => Some(Said::default()),
            UnansweredIs::Refused => None,
        }
    }

    async fn said(&self, question: Bytes) -> Result<Said, Silence> {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let answer = self.inquiry.ask(headers, question).await;
        let answer = answer.map_err(|fault| match fault {
            FetchError::Connect { .. } | FetchError::Timeout { .. } => {
                Silence::Away(fault.to_string())
            }
            _ => Silence::Odd(fault.to_string()),
        })?;
        match answer.status() {
            StatusCode::OK => told::read(answer.body()).map_err(Silence::Odd),
            StatusCode::NO_CONTENT => Ok(Said::default()),
            status => Err(Silence::Odd(format!("it answers {status}"))),
        }
    }
}
