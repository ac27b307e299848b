//! What would become of a request, told by the stages themselves without sending anything. Not for the
//! data path. Called by `aqueduct explain`, with a group of the topology file.
//!
//! Invariant: nothing here waits for a socket: what only somebody outside can tell is taken for granted
//! and told.

mod here;

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::SystemTime;

use common::observe::Observer;
use http::request::Parts;
use rand::SeedableRng as _;
use rand::rngs::SmallRng;
use tokio::time::Instant;
use topology::Place;
use topology::gateway::{Auth, Group, LimitId, RouteTo};
use topology::telemetry::Sample;
use topology::units::InstanceName;

use crate::access_log::{Record, Sink, Stats};
use crate::body::{AnswerBody, RequestBody};
use crate::exchange::{
    Admitted, Answered, AnsweredBy, Candidate, Exchange, Identity, Normalised, Peer, Prepared,
    Received, RouteId, Routed, Stage, Transport,
};
use crate::halt::Halt;
use crate::ids::{RequestId, TraceParent};
use crate::matcher::others::{Lack, lack};
use crate::order::{Callers, Order};
use crate::pipeline::{Filter as _, Pipeline};
use crate::predicate::Asked;
use crate::snapshot::{BuildError, Snapshot};
use crate::stages::authn;
use crate::trace::{Recording, Trace as _};

/// A group as one of its instances would run it.
#[derive(Debug)]
pub struct Preview {
    snapshot: Arc<Snapshot>,
    pipeline: Pipeline,
    sink: Rc<Sink>,
    /// What is not on this host, each with its place in the file.
    pub absent: Vec<(Place, String)>,
}

/// A request that nobody sends.
#[derive(Debug)]
pub struct Question {
    /// Who would send it.
    pub client: SocketAddr,
    /// Over TLS or in clear.
    pub transport: Transport,
    /// Line and headers.
    pub head: Parts,
    /// When.
    pub wall: SystemTime,
}

/// What would become of it.
#[derive(Debug)]
pub struct Foreseen {
    /// Reasons of each stage that would run, in order.
    pub reasons: Vec<(Stage, String)>,
    /// The route, or why there is none; `None`: the request has no normal form.
    pub candidate: Option<Candidate>,
    /// Host and path in the form that routes are looked up by.
    pub canonical: Option<(String, String)>,
    /// The routes that are not taken, in the order of the file, and why.
    pub others: Vec<(RouteId, Lack)>,
    /// The limits that would be charged, each with the stage and the key of its counter.
    pub charged: Vec<(Stage, LimitId, String)>,
    /// What the service would be sent.
    pub sent: Option<Parts>,
    /// Where it would go.
    pub to: Option<RouteTo>,
    /// The index of the endpoint, where the choice is a hash.
    pub endpoint: Option<usize>,
    /// The filters that it and its answer would pass, or would have passed; `None`: there is no route.
    pub order: Option<Order>,
    /// The stage that answers in the service's place.
    pub halted: Option<Stage>,
    /// What the client would be told: our answer, or what is added to the service's.
    pub answer: Parted,
}

/// Status and headers of an answer.
#[derive(Debug, Default)]
pub struct Parted {
    /// The status; of a service's answer 200 stands for any.
    pub status: u16,
    /// Headers that we set.
    pub headers: Vec<(String, String)>,
}

impl Preview {
    /// For an instance of the group. Reads what is in files: blocking. Must be called inside a runtime.
    ///
    /// # Errors
    /// With the place of a reference that is at fault.
    pub fn new(group: &Group, instance: &InstanceName) -> Result<Self, BuildError> {
        let observer = Observer::new(instance.as_str());
        let (group, absent) = here::of(group);
        let snapshot = Arc::new(Snapshot::build(&group, instance, &observer, None)?);
        let stats = Stats::new(&observer.metrics);
        let pipeline = Pipeline::build(&snapshot, &stats, &observer, None);
        pipeline.request_transform.hush();
        let sink = Sink::new(instance, None, Arc::default(), &observer.metrics);
        Ok(Self { snapshot, pipeline, sink, absent })
    }

    /// The names of the certificate that a client which asks for `sni` is shown; `None`: there is no
    /// TLS, or its certificates are not here.
    pub fn certificate(&self, sni: &str) -> Option<&[String]> {
        self.snapshot.front.as_ref().map(|front| front.shown(sni))
    }

    /// Leads a request through the stages.
    pub async fn ask(&self, question: Question) -> Foreseen {
        let Question { client, transport, head, wall } = question;
        // Nobody sees these: the same question gets the same answer.
        let mut rng = SmallRng::seed_from_u64(0);
        let ids = (RequestId::new(&mut rng), TraceParent::start(&mut rng, Sample::default()));
        let peer = Rc::new(Peer::new(client, transport, None));
        let mut x = Exchange::new(peer, Instant::now(), wall, ids, Record::new(&self.sink));
        let mut walk = Walk { preview: self, trace: Recording::default(), charged: Vec::new() };
        let method = head.method.clone();
        let headers = head.headers.clone();
        let received = Received { head: Box::new(head), body: RequestBody::empty(), fault: None };
        x.begin(Stage::Normalise);
        let mut seen = Seen::default();
        let outcome = walk.forward(&mut x, received, &mut seen).await;
        let (mut sent, mut to, mut endpoint, mut halted) = (None, None, None, None);
        let answered = match outcome {
            Ok(prepared) => {
                let made = crate::exchange::ResponseHead {
                    status: http::StatusCode::OK,
                    headers: http::HeaderMap::new(),
                };
                x.begin(Stage::Dispatch);
                endpoint = walk.endpoint(&x, &prepared);
                to = Some(prepared.to);
                // There is no answer to be put into another form.
                (x.calling, x.web) = (None, None);
                sent = Some(prepared.head);
                Answered { head: made, body: AnswerBody::Empty, by: AnsweredBy::Service }
            }
            Err((stage, halt)) => {
                halted = Some(stage);
                Answered::ours(&x, halt)
            }
        };
        let head = self.pipeline.respond(&mut x, answered).await.0.head;
        let others = seen.target.as_ref().map(|target| {
            let asked = Asked {
                host: &target.host,
                path: &target.path,
                query: target.query.as_deref(),
                method: &method,
                headers: &headers,
            };
            let taken = Some(x.candidate).and_then(Candidate::route);
            let routes = self.snapshot.group.routes.iter().enumerate();
            let others = routes.map(|(index, route)| (RouteId(index), route));
            let others = others.filter(|(id, _)| Some(*id) != taken);
            others.map(|(id, route)| (id, lack(route, &asked))).collect()
        });
        let route = x.candidate.route();
        let order = route.and_then(|id| self.order(id, &seen));
        let text =
            |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
        let headers = head.headers.iter().map(|(name, value)| (name.to_string(), text(value)));
        Foreseen {
            reasons: walk.trace.0,
            candidate: seen.target.is_some().then_some(x.candidate),
            canonical: seen.target.map(|t| (t.host.to_string(), t.path.to_string())),
            others: others.unwrap_or_default(),
            charged: walk.charged,
            sent,
            to,
            endpoint,
            order,
            halted,
            answer: Parted { status: head.status.as_u16(), headers: headers.collect() },
        }
    }
}

impl Preview {
    fn order(&self, id: RouteId, seen: &Seen) -> Option<Order> {
        let route = self.snapshot.group.routes.get(id.0)?;
        let to = seen.to.unwrap_or(route.to).service();
        let callers = seen.consumer.as_deref().map_or(Callers::Others, Callers::One);
        Some(Order::of(&self.snapshot.group, route, to.as_slice(), callers))
    }
}

/// What is learned on the way.
#[derive(Default)]
struct Seen {
    target: Option<crate::exchange::Target>,
    to: Option<RouteTo>,
    consumer: Option<String>,
}

/// One question on its way.
struct Walk<'p> {
    preview: &'p Preview,
    trace: Recording,
    charged: Vec<(Stage, LimitId, String)>,
}

type Refused = (Stage, Halt);

impl Walk<'_> {
    /// Stages 2 to 7, in the pipeline's order.
    async fn forward(
        &mut self,
        x: &mut Exchange,
        received: Received,
        seen: &mut Seen,
    ) -> Result<Prepared, Refused> {
        let pipeline = &self.preview.pipeline;
        let input = self.normalise(x, received, seen)?;
        x.begin(Stage::Authn);
        let input = self.authn(x, input).await.map_err(|halt| (Stage::Authn, halt))?;
        x.begin(Stage::Authz);
        let granted = pipeline.authz.presume(x, input, &mut self.trace);
        let granted = granted.map_err(|error| (Stage::Authz, error.into()))?;
        if let Some(asked) = &granted.policy.authorize {
            let told = format!("{} would be asked; taken for a yes", asked.url.value);
            self.trace.note(Stage::Authz, || told);
        }
        x.begin(Stage::RateLimit);
        let mut keys = Recording::default();
        let plan = pipeline.rate_limit.plan(x, &granted, &mut keys);
        self.charge(Stage::RateLimit, plan.into_iter().map(|(id, _)| id), keys);
        let admitted = Admitted { request: granted.request, grant: granted.grant };
        let caller = admitted.grant.caller().identity();
        seen.consumer = caller.and_then(Identity::consumer).map(str::to_owned);
        let routed = self.route(x, admitted).await?;
        seen.to = Some(routed.to);
        x.begin(Stage::RequestTransform);
        let transform = &pipeline.request_transform;
        transform.plan(x, &routed, &mut self.trace);
        let prepared = transform.request(x, routed).await;
        prepared.map_err(|halt| (Stage::RequestTransform, halt))
    }

    fn normalise(
        &mut self,
        x: &mut Exchange,
        received: Received,
        seen: &mut Seen,
    ) -> Result<Normalised, Refused> {
        let stage = &self.preview.pipeline.normalise;
        let at = |halt| (Stage::Normalise, halt);
        // A request that no route means has a normal form all the same.
        seen.target = stage.target(x, &received).ok();
        let (normalised, preflight) = stage.normal(x, received, &mut self.trace).map_err(at)?;
        let mut keys = Recording::default();
        let charged = stage.charges(x, &normalised.policy, &mut keys);
        self.charge(Stage::Normalise, charged.into_iter(), keys);
        match preflight {
            Some(candidate) => Err(at(stage.preflight(candidate))),
            None => Ok(normalised),
        }
    }

    async fn authn(
        &mut self,
        x: &mut Exchange,
        input: Normalised,
    ) -> Result<crate::exchange::Identified, Halt> {
        let stage = &self.preview.pipeline.authn;
        let policy = Rc::clone(&input.policy);
        match (stage.plan(x, &input, &mut self.trace), &policy.auth) {
            (authn::Plan::Refuse(error), _) => Err(error.into()),
            (authn::Plan::Judge(presented), Auth::Asked(ways)) => {
                let presumed = stage.presume(x, input, (&presented, ways)).await;
                let presumed = presumed.inspect_err(|error| {
                    self.trace.note(Stage::Authn, || error.to_string());
                })?;
                self.trace.note(Stage::Authn, || presumed.told.clone());
                if let Some(early) = &mut x.early {
                    early.caller = presumed.identified.caller.clone();
                }
                Ok(presumed.identified)
            }
            _ => {
                let Normalised { request, policy } = input;
                let caller = crate::exchange::Caller::Anonymous;
                Ok(crate::exchange::Identified { request, policy, caller })
            }
        }
    }

    async fn route(&mut self, x: &mut Exchange, admitted: Admitted) -> Result<Routed, Refused> {
        x.begin(Stage::Route);
        let stage = &self.preview.pipeline.route;
        if let Err(error) = stage.plan(x, &admitted, &mut self.trace) {
            self.trace.note(Stage::Route, || error.to_string());
        }
        stage.request(x, admitted).await.map_err(|halt| (Stage::Route, halt))
    }

    fn charge(&mut self, stage: Stage, ids: impl Iterator<Item = LimitId>, keys: Recording) {
        let keys = keys.0.into_iter().map(|(_, key)| key);
        self.charged.extend(ids.zip(keys).map(|(id, key)| (stage, id, key)));
    }

    /// The endpoint of a service, where it depends on the request alone.
    fn endpoint(&mut self, x: &Exchange, prepared: &Prepared) -> Option<usize> {
        let _planned = self.preview.pipeline.dispatch.plan(x, prepared, &mut self.trace);
        let id = prepared.to.service()?;
        let upstream = self.preview.snapshot.upstreams.get(id.0)?;
        upstream.foresee(x, prepared, Instant::now())
    }
}
