//! Several services' answers as one (spec G16). Kept thin: what an answer means is nobody's business here.
//! Called by `dispatch`.
//!
//! Invariant: one request makes at most as many calls as the file lists, each once but for safe retries, and
//! no answer of one caller stands in for another's.

use std::cell::Cell;
use std::rc::Rc;

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Request, Version, header};
use http_body_util::BodyExt as _;
use serde_json::value::RawValue;
use tokio::time::{Instant, timeout_at};
use topology::answers::{Aggregate, AggregateId, Call, Failing, Merge, StatusRule};

use super::Dispatch;
use super::fails::{Failed, Fails, Worst};
use super::upstream::connection::Outgoing;
use crate::body::{AnswerBody, RequestBody};
use crate::exchange::{
    self, Answered, AnsweredBy, Exchange, Prepared, ResponseHead, Stage, Target,
};
use crate::halt::{Halt, Held, Kind, Reply};
use crate::trace::Trace;
use crate::transform::facts::{Facts, Known};
use crate::transform::json::{self, Document};
use crate::transform::{Passage, Refused};

/// Names the calls that failed in an answer that was given all the same.
const PARTIAL: &str = "x-partial-failure";

/// What came of a call.
#[derive(Clone, Debug)]
enum Came {
    /// Its answer, JSON.
    Good(Bytes),
    /// None, and nothing stands in for it.
    Missing,
    /// What stands in for it.
    Instead(Bytes),
}

/// What one answer takes of the bytes that all may have together; what is not kept is given back.
struct Share<'b> {
    left: &'b Cell<u64>,
    taken: u64,
}

impl<'b> Share<'b> {
    fn new(left: &'b Cell<u64>) -> Self {
        Self { left, taken: 0 }
    }

    fn take(&mut self, bytes: usize) -> Option<()> {
        self.left.set(self.left.get().checked_sub(bytes as u64)?);
        self.taken += bytes as u64;
        Some(())
    }

    /// Takes so many more, and gives nothing back; whether there were as many.
    fn keep(mut self, bytes: usize) -> bool {
        let fits = self.take(bytes).is_some();
        if fits {
            self.taken = 0;
        }
        fits
    }
}

impl Drop for Share<'_> {
    fn drop(&mut self) {
        self.left.set(self.left.get() + self.taken);
    }
}

impl Dispatch {
    /// Says what calls there are, in the order in which they can begin.
    pub(super) fn calls(&self, id: AggregateId, trace: &mut impl Trace) {
        let model = self.snapshot.group.aggregates.get(id.0);
        for call in model.into_iter().flat_map(|model| &model.calls) {
            trace.note(Stage::Dispatch, || {
                let upstream = self.snapshot.group.upstreams.get(call.to.0);
                let whom = upstream.map_or("", |upstream| upstream.service.as_str());
                let all = model.map(|model| model.calls.as_slice()).unwrap_or_default();
                let before = call.after.iter().filter_map(|at| all.get(*at));
                let before: Vec<&str> = before.map(|call| call.name.as_str()).collect();
                let when = match before.as_slice() {
                    [] => "at once".to_owned(),
                    names => format!("after {}", names.join(" and ")),
                };
                let fails = match &call.failing {
                    Failing::Fails => "the whole fails with it",
                    Failing::Omitted => "left out if it fails",
                    Failing::Default(_) => "the file has what stands in for it",
                    Failing::LastGood => "its last good answer stands in for it",
                };
                let (name, path, time) = (&call.name, &call.path, call.timeout);
                let changed = self.changes.as_ref().and_then(|all| all.of_service(call.to));
                let changed = changed.map_or("", |_| ", then changed by the service");
                format!("{name}: GET {path}{changed} of {whom} {when}, at most {time:?}; {fails}")
            });
        }
    }

    /// Asks all of them, and puts their answers together.
    pub(super) async fn aggregate(
        &self,
        x: &mut Exchange,
        id: AggregateId,
        input: Prepared,
    ) -> Result<Answered, Halt> {
        let model = self.snapshot.group.aggregates.get(id.0).ok_or(Halt::from(Kind::NoRoute))?;
        let begun = Instant::now();
        let mut failed = Failed::default();
        let came = self.all(x, (id, model), &input, &mut failed).await;
        x.progress.upstream += begun.elapsed();
        x.record.failed_calls = failed.text();
        let (came, worst) = came?;
        let body = merged(model, &came);
        let body = body.ok_or_else(|| Reply::new(Kind::UpstreamFailed).reason(UNMERGED))?;
        let failed: Vec<&str> = model
            .calls
            .iter()
            .zip(&came)
            .filter(|(_, came)| !matches!(came, Came::Good(_)))
            .map(|(call, _)| call.name.as_str())
            .collect();
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("private, no-store"));
        if let Ok(names) = HeaderValue::try_from(failed.join(", "))
            && !failed.is_empty()
        {
            headers.insert(PARTIAL, names);
        }
        let mut head = ResponseHead::held(Held::Whole, headers);
        if let Some((status, again)) = worst.told() {
            head.status = status;
            head.headers.extend(again.map(|again| (header::RETRY_AFTER, again)));
        }
        Ok(Answered { head, body: AnswerBody::Whole(body), by: AnsweredBy::Services })
    }

    /// Every call as soon as those have ended that it waits for; and the worst of the needed ones, where that is the
    /// whole's.
    async fn all(
        &self,
        x: &Exchange,
        (id, model): (AggregateId, &Aggregate),
        input: &Prepared,
        failed: &mut Failed,
    ) -> Result<(Vec<Came>, Worst), Halt> {
        let mut came: Vec<Option<Came>> = vec![None; model.calls.len()];
        let mut begun = vec![false; model.calls.len()];
        let (left, mut under_way) = (Cell::new(model.most), FuturesUnordered::new());
        let mut worst = Worst::default();
        loop {
            for (index, call) in model.calls.iter().enumerate() {
                let ready = |at: &usize| came.get(*at).is_some_and(Option::is_some);
                let Some(begun) = begun.get_mut(index).filter(|begun| !**begun) else { continue };
                if call.after.iter().all(ready) {
                    *begun = true;
                    let request = self.outgoing(x, input, (model, call), &came);
                    under_way.push(self.one(x, input, (id, index, call), request, (model, &left)));
                }
            }
            let Some((index, outcome)) = under_way.next().await else { break };
            let Some(call) = model.calls.get(index) else { break };
            if let Err((fails, _)) = &outcome {
                let route = x.record.route.name.as_str();
                self.failed.note((id, index, model), (fails, route), failed, &self.observer);
            }
            let result = match (outcome, &call.failing) {
                (Ok(bytes), _) => Came::Good(bytes),
                (Err((fails, _)), Failing::Fails) => {
                    if model.status != StatusRule::WorstRequired {
                        return Err(fails.whole(call));
                    }
                    // What was never asked was answered with nothing: the one that it needs tells why.
                    if !matches!(fails, Fails::Unmade) || !follows(model, call, &came) {
                        worst.add(&fails);
                    }
                    Came::Missing
                }
                (Err(_), Failing::Omitted) => Came::Missing,
                (Err((_, last)), Failing::LastGood) => last.map_or(Came::Missing, Came::Instead),
                (Err(_), Failing::Default(json)) => Came::Instead(Bytes::from(json.clone())),
            };
            if let Some(place) = came.get_mut(index) {
                *place = Some(result);
            }
        }
        Ok((came.into_iter().map(|one| one.unwrap_or(Came::Missing)).collect(), worst))
    }

    /// One call, with its place among the calls; beside why it failed, what it was last told.
    async fn one(
        &self,
        x: &Exchange,
        input: &Prepared,
        (id, index, call): (AggregateId, usize, &Call),
        request: Result<(Parts, Option<Passage>), Fails>,
        (model, left): (&Aggregate, &Cell<u64>),
    ) -> (usize, Result<Bytes, (Fails, Option<Bytes>)>) {
        let until = Instant::now() + call.timeout;
        let (head, passage) = match request {
            Ok((head, passage)) => (Rc::new(head), passage),
            Err(fails) => return (index, Err((fails, None))),
        };
        let last = (call.failing == Failing::LastGood).then(|| {
            let texts = passage.as_ref().map(|passage| passage.texts.as_slice());
            let filled = format!("{:?}", texts.unwrap_or_default()).into();
            let caller = (x, input.grant.caller().identity());
            let key = self.snapshot.last_good.key((id, index), caller, (&head, filled))?;
            Some((key, Rc::clone(&head)))
        });
        let asked = async {
            let head = Rc::clone(&head);
            let plan = self.planned_to(x, call.to, input).ok_or(Halt::from(Kind::NoRoute))?;
            let plan = super::Plan { deadline: plan.deadline.min(until), ..plan };
            let mut passes = Vec::new();
            self.admit(&mut passes, &plan).await?;
            let request = Outgoing { head, body: RequestBody::empty(), hints: None };
            let mut answer = self.fetch(&input.grant, &plan, request, x.notes.as_ref()).await?;
            // What its service itself says of keeping it.
            let said = passage.as_ref().map(|_| answer.head.headers.clone());
            if let Some(passage) = passage {
                Box::pin(changed(x, passage, &mut answer)).await?;
            }
            let ResponseHead { status, mut headers } = answer.head;
            if !status.is_success() {
                return Err(Fails::Told(status, headers.remove(header::RETRY_AFTER)));
            }
            let bytes = whole(answer.body, &model.merge, left).await?;
            Ok((said.unwrap_or(headers), bytes))
        };
        let outcome = match timeout_at(until, asked).await {
            Ok(Err(Fails::Unanswered(_))) if Instant::now() >= until => Err(Fails::Late),
            Ok(outcome) => outcome,
            Err(_) => Err(Fails::Late),
        };
        let came = match (outcome, last.flatten()) {
            (Ok((headers, bytes)), last) => {
                if let Some((key, head)) = last {
                    self.snapshot.last_good.keep(key, &head.headers, &headers, &bytes);
                }
                Ok(bytes)
            }
            // It is its service's word: what was said before it is true no more.
            (Err(fails), Some((key, _))) if !fails.is_passing() => {
                self.snapshot.last_good.forget(&key);
                Err((fails, None))
            }
            (Err(fails), Some((key, head))) => {
                let known = self.snapshot.last_good.find(&key, &head.headers);
                let fits = |bytes: &Bytes| Share::new(left).keep(bytes.len());
                Err((fails, known.filter(fits)))
            }
            (Err(fails), None) => Err((fails, None)),
        };
        (index, came)
    }

    /// The head of a call as its service is sent it, and what its answer passes.
    fn outgoing<'m>(
        &self,
        x: &Exchange,
        input: &Prepared,
        (model, call): (&'m Aggregate, &'m Call),
        came: &[Option<Came>],
    ) -> Result<(Parts, Option<Passage>), Fails> {
        let there = |(call, came): (&'m Call, &Option<Came>)| match came.as_ref()? {
            Came::Good(bytes) | Came::Instead(bytes) => Some((call.name.as_str(), bytes.clone())),
            Came::Missing => None,
        };
        let answers: Vec<_> = model.calls.iter().zip(came).filter_map(there).collect();
        let captures = self.snapshot.captures(input.route);
        let upstream = self.snapshot.group.upstreams.get(call.to.0);
        let known = Known {
            x,
            caller: input.grant.caller().identity(),
            route: x.record.route.name.as_str(),
            service: upstream.map(|upstream| upstream.service.as_str()),
            captured: captures.map(|captures| (captures, &*x.record.path)),
            answers: &answers,
        };
        let mut request = request(known, &input.head, call).ok_or(Fails::Unmade)?;
        let passed = self.changes.as_ref().and_then(|all| Some((all, all.of_service(call.to)?)));
        let passage = match passed.map(|(all, passed)| all.begin(passed, &mut request, known)) {
            Some(begun) => Some(begun.map_err(|why| Halt::from(Refused::Request(why)))?.0),
            None => None,
        };
        let (mut head, ()) = Request::new(()).into_parts();
        head.uri = request.target.origin_form().ok_or(Fails::Unmade)?;
        head.method = request.method;
        head.version = Version::HTTP_11;
        head.headers = request.headers;
        head.headers.insert(header::HOST, request.target.authority);
        Ok((head, passage))
    }
}

/// Carries out what the file changes of its answer.
async fn changed(x: &Exchange, mut passage: Passage, answer: &mut Answered) -> Result<(), Fails> {
    let Answered { head, body, .. } = answer;
    if passage.changes_bodies() {
        let bytes = passage.body(x, &mut head.headers, body).await;
        if let Some(bytes) = bytes.map_err(|why| Halt::from(Refused::Answer(why)))? {
            *body = AnswerBody::Whole(bytes);
        }
    }
    passage.head(x, head, true);
    Ok(())
}

/// What the record says where all that is needed came, and is not put together all the same.
const UNMERGED: &str = "aggregate: the answers cannot be put together";

/// Whether a call waits for a needed one that failed, and whose failure counts.
fn follows(model: &Aggregate, call: &Call, came: &[Option<Came>]) -> bool {
    call.after.iter().any(|at| {
        let needed = model.calls.get(*at).is_some_and(|one| one.failing == Failing::Fails);
        needed && matches!(came.get(*at), Some(Some(Came::Missing)))
    })
}

/// A call as the aggregate makes it; `None`: something is missing that it asks for.
fn request(known: Known<'_>, asked: &Parts, call: &Call) -> Option<exchange::Request> {
    let facts = Facts { known, seen: asked.into() };
    let path = facts.path(&call.path).ok()?;
    let mut query = form_urlencoded::Serializer::new(String::new());
    for (name, template) in &call.query {
        query.append_pair(name, &facts.text(template)?);
    }
    let query = Some(query.finish()).filter(|_| !call.query.is_empty()).map(String::into_boxed_str);
    let mut headers = asked.headers.clone();
    for name in OF_ONE {
        headers.remove(name);
    }
    let authority = headers.remove(header::HOST)?;
    headers.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
    headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    let target = Target { host: facts.seen.host.into(), authority, path, query };
    let (method, body) = (Method::GET, RequestBody::empty());
    Some(exchange::Request { method, target, headers, body, upgrade: None })
}

/// What a client says of one answer or body, and none of the calls.
const OF_ONE: [header::HeaderName; 9] = [
    header::RANGE,
    header::IF_RANGE,
    header::IF_MATCH,
    header::IF_NONE_MATCH,
    header::IF_MODIFIED_SINCE,
    header::IF_UNMODIFIED_SINCE,
    header::CONTENT_TYPE,
    header::CONTENT_ENCODING,
    header::EXPECT,
];

/// A body, if it is JSON that can be put beside others, and there is room for it.
async fn whole(mut body: AnswerBody, merge: &Merge, left: &Cell<u64>) -> Result<Bytes, Fails> {
    let (mut share, mut only, mut all) = (Share::new(left), Bytes::new(), BytesMut::new());
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame?.into_data() else { continue };
        share.take(data.len()).ok_or(Fails::TooLarge)?;
        // Most answers are one piece, which need not be copied.
        if only.is_empty() && all.is_empty() {
            only = data;
        } else {
            all.extend_from_slice(&std::mem::take(&mut only));
            all.extend_from_slice(&data);
        }
    }
    let all = if all.is_empty() { only } else { all.freeze() };
    let text = std::str::from_utf8(&all).map_err(|_| Fails::Unfit)?;
    let sound = match merge {
        Merge::Flat => json::members(text).is_ok(),
        Merge::ByName | Merge::Members(_) => serde_json::from_str::<&RawValue>(text).is_ok(),
    };
    if sound && share.keep(0) { Ok(all) } else { Err(Fails::Unfit) }
}

/// All answers as one, numbers and order as they came; `None`: they cannot be.
fn merged(model: &Aggregate, came: &[Came]) -> Option<Bytes> {
    let named = model.calls.iter().zip(came).filter_map(|(call, came)| match came {
        Came::Good(bytes) | Came::Instead(bytes) => {
            Some((call.name.as_str(), std::str::from_utf8(bytes).ok()?.trim()))
        }
        Came::Missing => None,
    });
    let text = match &model.merge {
        Merge::ByName => json::object(named),
        Merge::Flat => {
            let mut whole = Document::read("{}").ok()?;
            for (_, text) in named {
                whole.extend(text).ok()?;
            }
            whole.written()
        }
        Merge::Members(members) => {
            let named: Vec<(&str, &str)> = named.collect();
            // One answer may stand in it several times.
            let mut whole = Document::bounded("{}", model.most).ok()?;
            for member in members {
                let (call, path) = member.from.split_first()?;
                let text = named.iter().find(|(name, _)| name == call).map(|(_, text)| *text);
                if let Some(part) = text.and_then(|text| json::part(text, path)) {
                    whole.put(&member.at, part).ok()?;
                }
            }
            whole.written()
        }
    };
    Some(Bytes::from(text))
}
