//! The response cache: answers of services that RFC 9111 lets a shared cache keep are kept, for routes
//! that ask for it (spec G22). Not for what the rules are (`judge`), where answers are kept (`store`)
//! and how they are read (`fill`). Called by `dispatch`.
//!
//! Invariant: an answer to somebody who was identified is never given to anybody else unless the route
//! says `shared`; what never was whole is never kept.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use common::observe::Metrics;
use common::observe::admin::Purge;
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, header};
use tokio::time::{Instant, timeout_at};
use topology::gateway::{CachePolicy, Group, Route, RouteTo, Unplaced as _};

use self::errand::{Errand, Fetched};
use self::judge::{Open, Use};
use self::store::{Entry, Key, Outcome, Scope, Store, Ticket, Turn};
use super::files::out_of_range;
use super::held::Validators;
use super::held::conditions::{self, Verdict};
use super::held::ranges::{self, Asked, Layout};
use super::{Dispatch, Plan};
use crate::body::AnswerBody;
use crate::cache_control::Control;
use crate::exchange::{Answered, AnsweredBy, Exchange, Prepared, ResponseHead, RouteId, Stage};
use crate::halt::{Halt, Held, Kind};

pub mod errand;
pub mod fill;
pub mod judge;
pub mod store;

/// The store of an instance, and in which state of their configuration routes use it.
#[derive(Debug)]
pub struct Cache {
    store: Arc<Store>,
    generations: Vec<u64>,
}

impl Cache {
    /// Forgets what an operator says; how many answers it were.
    pub fn purge(&self, what: Purge<'_>) -> usize {
        self.store.purge(|uri| match what {
            Purge::Uri(meant) => uri == meant,
            Purge::Prefix(start) => uri.starts_with(start),
            Purge::All => true,
        })
    }

    /// For a group with a cache. What was kept `before` stays, as far as the file says the same of
    /// its route.
    pub fn build(
        group: &Group,
        before: Option<(&Group, &Self)>,
        metrics: &Metrics,
    ) -> Option<Self> {
        let model = group.cache.as_ref()?;
        let before = before.filter(|(_, cache)| cache.store.model == *model);
        let store = before.map(|(_, cache)| Arc::clone(&cache.store));
        let store = store.unwrap_or_else(|| Store::new(model, metrics));
        let known: HashMap<&str, (&Route, &Group, u64)> = before
            .into_iter()
            .flat_map(|(old, cache)| {
                let each = old.routes.iter().zip(&cache.generations);
                each.map(move |(route, number)| (route.name.as_str(), (route, old, *number)))
            })
            .collect();
        let generation = |route: &Route| match known.get(route.name.as_str()) {
            Some((old, before, number)) if same(old, before, route, group) => *number,
            _ => store.number(),
        };
        let generations = group.routes.iter().map(generation).collect();
        Some(Self { store, generations })
    }

    fn generation(&self, route: RouteId) -> Option<u64> {
        self.generations.get(route.0).copied()
    }
}

/// Whether two files say the same of a route and of the services that it leads to.
fn same(old: &Route, before: &Group, new: &Route, now: &Group) -> bool {
    let services = |route: &Route, group: &Group| {
        let all = route.to.service().into_iter().chain(route.split.iter().map(|part| part.to));
        let name = |id: topology::gateway::UpstreamId| {
            group.upstreams.get(id.0).map(|upstream| upstream.service.clone())
        };
        all.map(name).collect::<Vec<_>>()
    };
    old.unplaced() == new.unplaced() && services(old, before) == services(new, now)
}

/// The answer to a request that may be kept, or that may change what is kept.
///
/// # Errors
/// As asking the service; and 504 for who takes kept answers alone.
pub async fn through(
    stage: &Dispatch,
    cache: &Cache,
    x: &mut Exchange,
    input: Prepared,
) -> Result<Answered, Halt> {
    let route = stage.snapshot.group.routes.get(input.route.0);
    let policy = route.and_then(|route| route.cache.as_ref());
    if policy.is_some() {
        x.passes(Stage::Dispatch, "cache", "");
    }
    let uri = uri(x, &input.head);
    if !input.head.method.is_safe() {
        let asked = stage.forward(x, input).await;
        // RFC 9111 §4.4; what broke off may have had its effect.
        if asked.as_ref().map_or(true, |answered| !answered.head.status.is_client_error()) {
            cache.store.forget(&uri);
        }
        return asked;
    }
    let Some(policy) = policy else {
        return stage.forward(x, input).await;
    };
    let key = key(cache, uri, &input);
    let (Some(key), true) = (key, eligible(x, &input, policy)) else {
        cache.store.counts.count(Outcome::Bypass);
        let mut answered = stage.forward(x, input).await?;
        note(&mut answered.head.headers, "fwd=bypass");
        return Ok(answered);
    };
    let plan = stage.planned(x, &input).ok_or(Halt::from(Kind::NoRoute))?;
    let visit = Visit {
        stage,
        store: &cache.store,
        policy,
        key,
        asked: Control::of(&input.head.headers),
        needed: Open::needed(&input.head.headers),
        plan,
    };
    visit.answer(x, input).await
}

fn key(cache: &Cache, uri: Arc<str>, input: &Prepared) -> Option<Key> {
    let RouteTo::Service(to) = input.to else { return None };
    let (generation, told) = (cache.generation(input.route)?, told(&input.head.headers));
    let scope = Scope { generation, to: to.0, told };
    Some(Key { uri, scope })
}

/// What the service is told of experiments: it may go by that and need not say so, for no client
/// sends it.
fn told(headers: &HeaderMap) -> u64 {
    let ours = headers.iter().filter(|(name, _)| name.as_str().starts_with("x-experiment-"));
    let one = |(name, value): (&http::HeaderName, &HeaderValue)| {
        let mut hasher = DefaultHasher::new();
        (name.as_str(), value.as_bytes()).hash(&mut hasher);
        hasher.finish()
    };
    ours.map(one).fold(0, u64::wrapping_add)
}

/// Everything of a request that every service may go by: scheme, authority, path and query.
fn uri(x: &Exchange, head: &Parts) -> Arc<str> {
    let host = head.headers.get(header::HOST).map(HeaderValue::as_bytes).unwrap_or_default();
    // RFC 9110 §4.2.3: hosts differ in no letter's case.
    let host = host.to_ascii_lowercase();
    format!("{}://{}{}", x.peer.scheme(), host.escape_ascii(), head.uri).into()
}

/// Whether the store may answer a request or keep its answer.
fn eligible(x: &Exchange, input: &Prepared, policy: &CachePolicy) -> bool {
    let headers = &input.head.headers;
    let identified = input.grant.caller().identity().is_some()
        || x.peer.principal().is_some()
        || headers.contains_key(header::AUTHORIZATION);
    // RFC 9111 §4.3.2: these conditions are the service's to judge.
    let guarded = [header::IF_MATCH, header::IF_UNMODIFIED_SINCE].into_iter();
    (input.head.method == Method::GET || input.head.method == Method::HEAD)
        && input.upgrade.is_none()
        && input.body.is_empty()
        && (policy.shared || !identified)
        && !guarded.into_iter().any(|name| headers.contains_key(name))
        && !Control::of(headers).has("no-store")
}

/// One request that the store may answer.
struct Visit<'a> {
    stage: &'a Dispatch,
    store: &'a Arc<Store>,
    policy: &'a CachePolicy,
    key: Key,
    asked: Control,
    needed: Open,
    plan: Plan,
}

/// Longer than this nobody waits for somebody else's fetch.
const PATIENCE: Duration = Duration::from_secs(5);

impl Visit<'_> {
    async fn answer(&self, x: &mut Exchange, input: Prepared) -> Result<Answered, Halt> {
        let mut waited = false;
        loop {
            let entry = self.store.find(&self.key, &input.head.headers);
            let entry = entry.filter(|entry| entry.terms.open >= self.needed);
            if let Some(entry) = &entry {
                match judge::reuse(&entry.terms, entry.age(Instant::now()), &self.asked) {
                    Use::Answer => return self.serve(x, &input.head, entry),
                    Use::AnswerAndFetch => {
                        self.fetch_behind(x, &input, entry);
                        return self.serve(x, &input.head, entry);
                    }
                    Use::Ask => {}
                }
            }
            if self.asked.has("only-if-cached") {
                return Err(Kind::NotKept.into());
            }
            let part = input.head.headers.contains_key(header::RANGE);
            if part || input.head.method == Method::HEAD {
                self.store.counts.count(Outcome::Miss);
                let mut answered = self.stage.forward(x, input).await?;
                note(&mut answered.head.headers, "fwd=miss");
                return Ok(answered);
            }
            let ticket = match self.store.turn(&self.key, Instant::now()) {
                Turn::Own(ticket) => Some(ticket),
                Turn::Wait(mut told) if !waited => {
                    let until = self.plan.deadline.min(Instant::now() + PATIENCE);
                    // However it ends, the store is looked at again.
                    let _ended = timeout_at(until, told.changed()).await;
                    waited = true;
                    continue;
                }
                Turn::Wait(_) | Turn::Alone => None,
            };
            return self.fetch(x, input, entry, ticket).await;
        }
    }

    /// What is kept, as this request wants it.
    fn serve(&self, x: &Exchange, head: &Parts, entry: &Entry) -> Result<Answered, Halt> {
        let age = entry.age(Instant::now());
        let fresh = entry.terms.lifetime > age;
        self.store.counts.count(if fresh { Outcome::Hit } else { Outcome::Stale });
        let (lifetime, seconds) = (entry.terms.lifetime.as_secs(), age.as_secs());
        let ttl = i128::from(lifetime) - i128::from(seconds);
        respond(x, head, entry, &format!("hit; ttl={ttl}"))
    }

    /// Asks the service, and keeps what it says if that may be kept.
    async fn fetch(
        &self,
        x: &mut Exchange,
        input: Prepared,
        entry: Option<Arc<Entry>>,
        ticket: Option<Ticket>,
    ) -> Result<Answered, Halt> {
        let asked = input.head.clone();
        let errand = self.errand(x, &input, entry.clone(), ticket, self.plan);
        let begun = Instant::now();
        let fetched = match self.stage.admit(&mut x.passes, &self.plan).await {
            Ok(()) => errand.run(self.stage, Some(input.route)).await,
            Err(halt) => Err(halt),
        };
        x.progress.upstream += begun.elapsed();
        let failed = match &fetched {
            Ok(Fetched::Answer(answered, _)) => answered.head.status.is_server_error(),
            Ok(Fetched::Confirmed(_)) => false,
            Err(_) => true,
        };
        let stands_in = |entry: &&Arc<Entry>| {
            failed && judge::instead_of_error(&entry.terms, entry.age(Instant::now()))
        };
        if let Some(entry) = entry.as_ref().filter(stands_in) {
            return self.serve(x, &asked, entry);
        }
        match fetched? {
            Fetched::Confirmed(entry) => {
                self.store.counts.count(Outcome::Revalidated);
                respond(x, &asked, &entry, "fwd=stale; fwd-status=304")
            }
            Fetched::Answer(mut answered, keeping) => {
                self.store.counts.count(Outcome::Miss);
                let why = if entry.is_some() { "fwd=stale" } else { "fwd=miss" };
                let stored = if keeping { "; stored" } else { "" };
                note(&mut answered.head.headers, &format!("{why}{stored}"));
                // The client has what came; whether it is kept is another matter.
                let held = Validators::of(&answered.head.headers);
                if keeping
                    && answered.head.status.is_success()
                    && conditions::fresh(&asked.headers, &held) == Verdict::Unchanged
                {
                    return Ok(unchanged(answered.head.headers));
                }
                Ok(answered)
            }
        }
    }

    /// The same, while a stale answer is given; once at a time.
    fn fetch_behind(&self, x: &Exchange, input: &Prepared, entry: &Arc<Entry>) {
        let Turn::Own(ticket) = self.store.turn(&self.key, Instant::now()) else { return };
        let Some(stage) = self.stage.own() else { return };
        let plan = self.plan.moved(x.began.elapsed());
        let errand = self.errand(x, input, Some(Arc::clone(entry)), Some(ticket), plan);
        // Its client has its answer.
        let errand = Errand { hints: None, ..errand };
        tokio::task::spawn_local(async move {
            let mut passes = Vec::new();
            if stage.admit(&mut passes, &plan).await.is_ok() {
                // Nobody waits for it; the next request sees what came of it.
                let _told = errand.run(&stage, None).await;
            }
        });
    }

    fn errand(
        &self,
        x: &Exchange,
        input: &Prepared,
        entry: Option<Arc<Entry>>,
        ticket: Option<Ticket>,
        plan: Plan,
    ) -> Errand {
        let mut head = input.head.clone();
        // The answer is for others too: what this client has is judged here.
        let own =
            [header::IF_NONE_MATCH, header::IF_MODIFIED_SINCE, header::IF_RANGE, header::RANGE];
        for name in own {
            head.headers.remove(name);
        }
        // All of it is kept, whatever part of it made us ask.
        head.method = Method::GET;
        Errand {
            key: self.key.clone(),
            policy: self.policy.clone(),
            needed: self.needed,
            began: (x.wall, x.began),
            head,
            grant: input.grant.clone(),
            hints: x.hints.clone(),
            plan,
            entry,
            ticket,
            max_body: self.store.model.max_body,
            number: self.store.number(),
        }
    }
}

/// A kept answer under the conditions of a request, whole or in part.
fn respond(x: &Exchange, head: &Parts, entry: &Entry, status: &str) -> Result<Answered, Halt> {
    let mut headers = entry.headers.clone();
    headers.insert(header::AGE, judge::told(entry.age(Instant::now())));
    note(&mut headers, status);
    let (get, size) = (head.method == Method::GET, entry.body.len() as u64);
    let held = Validators::of(&headers);
    if entry.status.is_success() && conditions::fresh(&head.headers, &held) == Verdict::Unchanged {
        return Ok(unchanged(headers));
    }
    let whole = entry.status == http::StatusCode::OK;
    let asked = if get && whole && conditions::range_holds(&head.headers, &held, now(x)) {
        ranges::asked(&head.headers, size)
    } else {
        Asked::Whole
    };
    let (status, layout) = match asked {
        Asked::Whole => (entry.status, Layout::whole(size)),
        Asked::Refused => return Err(out_of_range(size)),
        Asked::Parts(spans) => {
            let boundary = format!("{:032x}", rand::random::<u128>());
            let layout = Layout::parts(&spans, size, &boundary, &mut headers);
            (ResponseHead::held(Held::Part, HeaderMap::new()).status, layout)
        }
    };
    // RFC 9110 §8.6: not with a status that has no body.
    if status != http::StatusCode::NO_CONTENT {
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(layout.length()));
    }
    let body = if get { AnswerBody::Whole(layout.cut(&entry.body)) } else { AnswerBody::Empty };
    Ok(Answered { head: ResponseHead { status, headers }, body, by: AnsweredBy::Service })
}

/// 304, with what a cache may need to know anew (RFC 9110 §15.4.5).
fn unchanged(mut headers: HeaderMap) -> Answered {
    for name in [
        header::CONTENT_TYPE,
        header::CONTENT_ENCODING,
        header::CONTENT_LANGUAGE,
        header::CONTENT_LENGTH,
        header::TRANSFER_ENCODING,
    ] {
        headers.remove(name);
    }
    let head = ResponseHead::held(Held::Unchanged, headers);
    Answered { head, body: AnswerBody::Empty, by: AnsweredBy::Service }
}

/// Says what became of a request (RFC 9211).
fn note(headers: &mut HeaderMap, what: &str) {
    const CACHE_STATUS: http::HeaderName = http::HeaderName::from_static("cache-status");
    if let Ok(value) = HeaderValue::try_from(format!("aqueduct; {what}")) {
        headers.append(CACHE_STATUS, value);
    }
}

fn now(x: &Exchange) -> SystemTime {
    x.wall + x.began.elapsed()
}
