//! Several services' answers as one (spec G16). Kept thin: what an answer means is nobody's business here.
//! Called by `dispatch`.
//!
//! Invariant: one request makes at most as many calls as the file lists, each once but for safe retries, and
//! no answer of one caller stands in for another's.

use std::fmt::Write as _;
use std::rc::Rc;

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Request, Uri, Version, header};
use serde_json::value::RawValue;
use tokio::time::{Instant, timeout_at};
use topology::answers::{Aggregate, AggregateId, Call, Failing, Merge};

use super::Dispatch;
use super::last_good::Key;
use super::upstream::connection::Outgoing;
use crate::body::{AnswerBody, RequestBody};
use crate::exchange::{Answered, AnsweredBy, Exchange, Prepared, ResponseHead, Stage};
use crate::halt::{Halt, Held, Kind, Reply};
use crate::trace::Trace;
use crate::transform::facts::{Captures, Facts, Known};
use crate::transform::gathered;
use crate::transform::json::{self, Document};

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

/// Why a call failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fails {
    /// It took too long.
    Late,
    /// Anything else.
    Otherwise,
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
                format!("{name}: GET {path} of {whom} {when}, at most {time:?}; {fails}")
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
        let came = self.all(x, id, model, &input).await;
        x.progress.upstream += begun.elapsed();
        let came = came?;
        let body = merged(model, &came).ok_or(Halt::from(Kind::UpstreamFailed))?;
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
        let head = ResponseHead::held(Held::Whole, headers);
        let body = if input.head.method == Method::HEAD { Bytes::new() } else { body };
        Ok(Answered { head, body: AnswerBody::Whole(body), by: AnsweredBy::Gateway })
    }

    /// Every call as soon as those have ended that it waits for.
    async fn all(
        &self,
        x: &Exchange,
        id: AggregateId,
        model: &Aggregate,
        input: &Prepared,
    ) -> Result<Vec<Came>, Halt> {
        let mut came: Vec<Option<Came>> = vec![None; model.calls.len()];
        let mut begun = vec![false; model.calls.len()];
        let (mut left, mut under_way) = (model.most, FuturesUnordered::new());
        loop {
            for (index, call) in model.calls.iter().enumerate() {
                let ready = |at: &usize| came.get(*at).is_some_and(Option::is_some);
                let Some(begun) = begun.get_mut(index).filter(|begun| !**begun) else { continue };
                if call.after.iter().all(ready) {
                    *begun = true;
                    let captures = self.snapshot.captures(input.route);
                    let request = outgoing(x, input, (model, call), &came, captures);
                    under_way.push(self.one(x, input, (id, index, call), request, model.most));
                }
            }
            let Some((index, outcome)) = under_way.next().await else { break };
            let Some(call) = model.calls.get(index) else { break };
            let result = match outcome {
                Ok(came) => came,
                Err(fails) => match &call.failing {
                    Failing::Fails => return Err(failed(call, fails)),
                    Failing::Omitted | Failing::LastGood => Came::Missing,
                    Failing::Default(json) => Came::Instead(Bytes::from(json.clone())),
                },
            };
            if let Came::Good(bytes) = &result {
                left =
                    left.checked_sub(bytes.len() as u64).ok_or(Halt::from(Kind::UpstreamFailed))?;
            }
            if let Some(place) = came.get_mut(index) {
                *place = Some(result);
            }
        }
        Ok(came.into_iter().map(|one| one.unwrap_or(Came::Missing)).collect())
    }

    /// One call, with its place among the calls.
    async fn one(
        &self,
        x: &Exchange,
        input: &Prepared,
        (id, index, call): (AggregateId, usize, &Call),
        request: Option<Parts>,
        most: u64,
    ) -> (usize, Result<Came, Fails>) {
        let until = Instant::now() + call.timeout;
        let head = request.map(Rc::new);
        let asked = async {
            let head = head.clone().ok_or(Fails::Otherwise)?;
            let plan = self.planned_to(x, call.to, input).ok_or(Fails::Otherwise)?;
            let plan = super::Plan { deadline: plan.deadline.min(until), ..plan };
            let mut passes = Vec::new();
            self.admit(&mut passes, &plan).await.map_err(|_| Fails::Otherwise)?;
            let request = Outgoing { head, body: RequestBody::empty(), hints: None };
            let answer = self.fetch(&input.grant, &plan, request, x.notes.as_ref()).await;
            let answer = answer.map_err(|_| Fails::Otherwise)?;
            if !answer.head.status.is_success() {
                return Err(Fails::Otherwise);
            }
            let bytes = whole(answer.body, most).await.ok_or(Fails::Otherwise)?;
            Ok((answer.head.headers, bytes))
        };
        let outcome = match timeout_at(until, asked).await {
            Ok(Err(_)) if Instant::now() >= until => Err(Fails::Late),
            Ok(outcome) => outcome,
            Err(_) => Err(Fails::Late),
        };
        let last = head.filter(|_| call.failing == Failing::LastGood);
        let came = match (outcome, last) {
            (Ok((headers, bytes)), last) => {
                if let Some(head) = last {
                    let key = Key::new(id, index, input.grant.caller().identity(), &head);
                    let mut known = self.last_good.borrow_mut();
                    known.keep(key, &head.headers, &headers, &bytes);
                }
                Ok(Came::Good(bytes))
            }
            (Err(_), Some(head)) => {
                let key = Key::new(id, index, input.grant.caller().identity(), &head);
                let known = self.last_good.borrow().find(&key, &head.headers);
                Ok(known.map_or(Came::Missing, Came::Instead))
            }
            (Err(fails), None) => Err(fails),
        };
        (index, came)
    }
}

/// The whole fails with a call that it needs.
fn failed(call: &Call, fails: Fails) -> Halt {
    let kind = match fails {
        Fails::Late => Kind::UpstreamTimeout,
        Fails::Otherwise => Kind::UpstreamFailed,
    };
    Reply::new(kind).detail(format!("the call `{}` failed", call.name)).into()
}

/// The head of a call; `None`: something is missing that it asks for.
fn outgoing<'m>(
    x: &Exchange,
    input: &Prepared,
    (model, call): (&'m Aggregate, &'m Call),
    came: &[Option<Came>],
    captures: Option<&Captures>,
) -> Option<Parts> {
    let there = |(call, came): (&'m Call, &Option<Came>)| match came.as_ref()? {
        Came::Good(bytes) | Came::Instead(bytes) => Some((call.name.as_str(), bytes.clone())),
        Came::Missing => None,
    };
    let answers: Vec<_> = model.calls.iter().zip(came).filter_map(there).collect();
    let path = &*x.record.path;
    let known = Known {
        x,
        caller: input.grant.caller().identity(),
        route: "",
        captured: captures.map(|captures| (captures, path)),
        answers: &answers,
    };
    let facts = Facts { known, seen: (&input.head).into() };
    let mut target = facts.path(&call.path).ok()?.into_string();
    for (index, (name, template)) in call.query.iter().enumerate() {
        let value = facts.text(template)?;
        target.push(if index == 0 { '?' } else { '&' });
        let pair =
            form_urlencoded::Serializer::new(String::new()).append_pair(name, &value).finish();
        let _ = write!(target, "{pair}");
    }
    let (mut head, ()) = Request::new(()).into_parts();
    head.method = Method::GET;
    head.uri = Uri::from_maybe_shared(Bytes::from(target)).ok()?;
    head.version = Version::HTTP_11;
    head.headers = input.head.headers.clone();
    for name in OF_ONE {
        head.headers.remove(name);
    }
    head.headers.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
    head.headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    Some(head)
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

/// A body, if it is JSON and not too long.
async fn whole(mut body: AnswerBody, most: u64) -> Option<Bytes> {
    let all = gathered(&mut body, most).await.ok()?;
    let sound = std::str::from_utf8(&all).ok().map(serde_json::from_str::<&RawValue>);
    sound.is_some_and(|read| read.is_ok()).then_some(all)
}

/// All answers as one, numbers and order as they came; `None`: two members of one name in one answer, or an
/// answer without members where they are to stand side by side.
fn merged(model: &Aggregate, came: &[Came]) -> Option<Bytes> {
    let named = model.calls.iter().zip(came).filter_map(|(call, came)| match came {
        Came::Good(bytes) | Came::Instead(bytes) => {
            Some((call.name.as_str(), std::str::from_utf8(bytes).ok()?.trim()))
        }
        Came::Missing => None,
    });
    let text = match model.merge {
        Merge::ByName => json::object(named),
        Merge::Flat => {
            let mut whole = Document::read("{}").ok()?;
            for (_, text) in named {
                whole.extend(text).ok()?;
            }
            whole.written()
        }
    };
    Some(Bytes::from(text))
}
