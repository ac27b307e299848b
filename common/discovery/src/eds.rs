//! Endpoints from a control plane of Envoy's: EDS on a stream of ADS, the state-of-the-world form of xDS v3
//! over gRPC (decision 38). Not for what an answer says, that is `assignment`, nor for clusters, routes
//! and listeners, which a topology file has. Asked by `keep`.
//!
//! Invariant: each answer is accepted or refused once, by its own nonce, and what is refused or left out
//! changes nothing: only an assignment that is empty empties a set, never one that is not there.

mod assignment;
mod messages;
mod stream;

use std::time::Duration;

use common::fetch::{HttpFetch, Lines};
use common::rng::Rng;
use common::tls::client::Roots;
use prost::Message as _;
use tokio::time::{Instant, timeout};
use topology::model::Eds as Settings;
use topology::{At, Place};

use crate::fault::{Fault, short};
use crate::keep::{Answer, Source};
use crate::web::bearer;

use self::assignment::Assigned;
use self::messages::{ASSIGNMENT, Asker, Refusal, Request, Response};
use self::stream::{Said, Stream};

/// One service's subscription.
pub(crate) struct Eds {
    settings: Settings,
    /// Of this version alone.
    version: Option<String>,
    whom: Option<HttpFetch>,
    /// The connection, which outlives a stream.
    lines: Option<Lines<Said>>,
    subscription: Option<Subscription>,
    rng: Rng,
}

/// A stream on which one name was asked for.
struct Subscription {
    stream: Stream,
    since: Instant,
    /// What it said last that was of use: a stream begins without.
    accepted: String,
    /// It has said something.
    heard: bool,
    /// It has named what was asked for, or was told that it lacks it.
    known: bool,
    /// Its last answer was of use.
    useful: bool,
    /// The version of the last answer, where that was refused.
    refused: Option<String>,
}

/// What comes of a stream.
enum Heard {
    Set(Assigned),
    /// An answer of no use; the stream goes on.
    Refused(String),
    /// An answer without what was asked for; the stream goes on.
    Lacks,
    /// It has ended as it should.
    End,
}

impl Subscription {
    /// Accepts an answer, or refuses it for this cause.
    async fn reply(
        &mut self,
        to: &Response,
        cause: Option<&String>,
        to_name: &str,
    ) -> Result<(), Fault> {
        if cause.is_none() {
            self.accepted.clone_from(&to.version_info);
        }
        let refusal = |cause: &String| Refusal { code: INVALID, message: cause.clone() };
        let request = Request {
            version_info: self.accepted.clone(),
            node: None,
            resource_names: vec![to_name.to_owned()],
            type_url: ASSIGNMENT.to_owned(),
            response_nonce: to.nonce.clone(),
            error_detail: cause.map(refusal),
        };
        self.stream.say(&request).await
    }

    /// Waits until it says something new, or ends. Who says again what was refused has said nothing new.
    async fn stirs(&mut self) {
        let said = self.stream.peek().await.and_then(|bytes| Response::decode(bytes).ok());
        if said.is_some_and(|said| self.refused.as_ref() == Some(&said.version_info)) {
            std::future::pending::<()>().await;
        }
    }
}

impl Eds {
    pub(crate) fn new(settings: &Settings, version: Option<&str>) -> Self {
        Self {
            settings: settings.clone(),
            version: version.map(str::to_owned),
            whom: None,
            lines: None,
            subscription: None,
            rng: Rng::from_os(),
        }
    }

    /// Asks for the service on a new stream, over the connection that is there or a new one. Without a version,
    /// so that it is answered at once: a server that has lost its memory may count as far as it did.
    async fn begin(&mut self) -> Result<(), Fault> {
        let headers = bearer(self.settings.token.as_ref())?;
        if self.whom.is_none() {
            let place = Place::default();
            let roots = self.settings.registry.ca.clone();
            let roots = roots.map_or(Roots::System, |value| Roots::Pem(At { value, place }));
            self.whom = Some(HttpFetch::over_http2(&self.settings.registry.address, &roots)?);
        }
        let Some(whom) = &self.whom else { return Err(Fault::Broken) };
        self.lines.take_if(|lines| lines.sender.is_closed());
        let lines = match &mut self.lines {
            Some(lines) => lines,
            none => none.insert(whom.open_http2().await?),
        };
        let mut stream = Stream::begin(whom, lines, METHOD, headers)?;
        let asker = Asker {
            id: self.settings.node.clone(),
            cluster: self.settings.group.clone(),
            user_agent_name: "aqueduct".to_owned(),
            user_agent_version: env!("CARGO_PKG_VERSION").to_owned(),
        };
        let request = Request {
            node: Some(asker),
            resource_names: vec![self.settings.service.clone()],
            type_url: ASSIGNMENT.to_owned(),
            ..Request::default()
        };
        stream.say(&request).await?;
        let (since, accepted) = (Instant::now(), String::new());
        let [heard, known, useful] = [false; 3];
        let subscription =
            Subscription { stream, since, accepted, heard, known, useful, refused: None };
        self.subscription = Some(subscription);
        Ok(())
    }

    /// Waits for what the stream says of the service.
    async fn news(&mut self) -> Result<Heard, Fault> {
        let service = &self.settings.service;
        loop {
            let Some(subscription) = &mut self.subscription else { return Ok(Heard::End) };
            let Some(message) = subscription.stream.message().await? else {
                return Ok(Heard::End);
            };
            let response = Response::decode(message);
            let response = response.map_err(|fault| Fault::Nonsense(short(&fault.to_string())))?;
            if response.type_url != ASSIGNMENT {
                // Nobody has asked for that.
                continue;
            }
            subscription.heard = true;
            let read = assignment::read(&response, service, self.version.as_deref());
            subscription.reply(&response, read.as_ref().err(), service).await?;
            subscription.useful =
                read.as_ref().is_ok_and(|said| said.as_ref().is_some_and(Assigned::is_useful));
            subscription.refused = read.is_err().then_some(response.version_info);
            let said = match read {
                Ok(said) => said,
                Err(cause) => return Ok(Heard::Refused(cause)),
            };
            let known = std::mem::replace(&mut subscription.known, true);
            match said {
                Some(assigned) => return Ok(Heard::Set(assigned)),
                // What is not in an answer is as it was: only LDS and CDS are whole (xDS, "Resource removal").
                None if known => {}
                None => return Ok(Heard::Lacks),
            }
        }
    }

    /// The first word of a new stream.
    async fn first(&mut self) -> Result<Heard, Fault> {
        self.begin().await?;
        match self.news().await? {
            Heard::End => Err(Fault::Broken),
            heard => Ok(heard),
        }
    }

    async fn hear(&mut self) -> Result<Heard, Fault> {
        if let Some(Subscription { heard, since, .. }) = self.subscription {
            // Silence may be a dead connection. There are no pings: servers end connections of those who
            // ping more often than they allow, and their usual measure is once in five minutes.
            let quiet = if heard { self.rng.jitter(QUIET, 20) } else { UNHEARD };
            match timeout(quiet, self.news()).await {
                Ok(Ok(Heard::End)) if since.elapsed() < BRIEF => return Err(Fault::Broken),
                // Who ends a stream in peace wants to be asked on another connection.
                Ok(Ok(Heard::End)) => self.lines = None,
                Ok(outcome) => return outcome,
                Err(_silent) if heard => {}
                Err(_silent) => self.lines = None,
            }
            self.subscription = None;
        }
        let fresh = self.lines.is_none();
        match timeout(PATIENCE, self.first()).await {
            Ok(outcome) => outcome,
            Err(_late) => {
                // A server may be silent of what it does not know yet; on a connection that was there before,
                // nobody may be there any more.
                if !fresh {
                    self.leave();
                }
                Err(Fault::Late(PATIENCE))
            }
        }
    }

    fn leave(&mut self) {
        (self.subscription, self.lines) = (None, None);
    }
}

impl Source for Eds {
    async fn ask(&mut self) -> Result<Answer, Fault> {
        match self.hear().await {
            Ok(Heard::Set(Assigned { instances, left_out })) => {
                Ok(Answer { instances, holds: PAUSE, nonsense: left_out })
            }
            Ok(Heard::Refused(cause)) => Err(Fault::Nonsense(cause)),
            Ok(Heard::Lacks | Heard::End) => {
                Err(Fault::Nonsense(format!("it names no `{}`", short(&self.settings.service))))
            }
            Err(late @ Fault::Late(_)) => Err(late),
            Err(fault) => {
                self.leave();
                // Its authority may have changed: the file is read again.
                self.whom = None;
                Err(fault)
            }
        }
    }

    fn forget(&mut self) {
        self.subscription = None;
    }

    async fn nudged(&mut self) {
        match &mut self.subscription {
            // It is told of late what it is asked for, or mends what was refused: nobody waits for the end of a
            // pause.
            Some(waiting) if !waiting.useful => waiting.stirs().await,
            _ => std::future::pending().await,
        }
    }
}

/// As in envoy/service/discovery/v3/ads.proto.
const METHOD: &str =
    "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources";

/// `google.rpc.Code.INVALID_ARGUMENT`.
const INVALID: i32 = 3;

/// For the first word of a stream.
const PATIENCE: Duration = Duration::from_secs(5);

/// After so long without a word everything is asked for again.
const QUIET: Duration = Duration::from_secs(60);

/// The same where nothing was ever said; it is how long Envoy waits for a resource.
const UNHEARD: Duration = Duration::from_secs(15);

/// A stream lives longer.
const BRIEF: Duration = Duration::from_secs(1);

/// Between an answer and the next: a service that changes all the time is not followed step by step.
const PAUSE: Duration = Duration::from_millis(20);

#[cfg(test)]
mod tests;
