//! What the file changes of requests and answers on their way (spec G13), compiled. Not for what a gateway
//! always does: its own headers (stage 7) and what names a server inside (stage 9). Called by both.
//!
//! A request passes the listener's change first, then the consumer's, the route's and the service's; its
//! answer passes them the other way round.
//!
//! Invariant: a change that fails leaves no half-changed message: the exchange ends with an answer of ours.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use http_body::Body;
use http_body_util::BodyExt as _;
use thiserror::Error;
use topology::gateway::{Consumer, Group, RouteTo, UpstreamId};
use topology::transform::{BodyChange, JsonStep, JsonValue, Transform};

use crate::attached::of_consumer;
use crate::body::{BodyFault, RequestBody};
use crate::coding::Coding;
use crate::coding::expand::{Fault, expand};
use crate::contract::Breach;
use crate::exchange::{Exchange, Identity, Request, ResponseHead, RouteId, Stage};
use crate::transcode::NoCall;
use crate::transcode::answer::AnswerError;
use crate::transcode::message::MessageError;
use crate::{media, order};

pub mod early;
pub mod facts;
pub mod fields;
pub mod json;

use self::early::Early;
use self::facts::{Captures, Facts, Known};
use self::fields::{Fields, query};

/// Why a message could not be changed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum TransformError {
    /// A request's path has no value, or none that is a path.
    #[error("no path can be made of `{0}`")]
    Path(String),
    /// A redirect's place, likewise.
    #[error("no link can be made of `{0}`")]
    Link(String),
    /// A request's `Host`, likewise.
    #[error("no host can be made of `{0}`")]
    Host(String),
    /// The body could not be read.
    #[error(transparent)]
    Body(BodyFault),
    /// It is in a compressed form that is not known, or is not what it says.
    #[error("the compressed body cannot be read")]
    Coded,
    /// It says that it is several things.
    #[error("the body has several media types")]
    Kinds,
    /// A service's messages.
    #[error(transparent)]
    Call(#[from] AnswerError),
    /// It is no JSON, or ambiguous.
    #[error("the body cannot be changed: {0}")]
    Json(#[from] json::JsonError),
    /// One of these, of the change that stands there.
    #[error("{1} (`transform` of {0})")]
    At(&'static str, Box<TransformError>),
}

impl TransformError {
    fn at(self, place: &'static str) -> Self {
        Self::At(place, Box::new(self))
    }

    /// What it is, wherever it stands.
    pub fn cause(&self) -> &Self {
        match self {
            Self::At(_, cause) => cause.cause(),
            cause => cause,
        }
    }
}

/// Which message could not be changed.
#[derive(Debug)]
pub enum Refused {
    /// A client's.
    Request(TransformError),
    /// A service's.
    Answer(TransformError),
    /// A client's, that is no message of the call that it means.
    Call(MessageError),
    /// A client's, that means no call.
    NoCall(NoCall),
    /// A client's, that is not as its description says.
    Breach(Breach),
}

/// A change that failed, as it is counted: of what, and why, in words of a short list.
pub type Failure = (&'static str, &'static str);

impl Refused {
    /// What is counted of it; `None`: nothing failed, the message is what it should not be, or did not come.
    pub fn failure(&self) -> Option<Failure> {
        match self {
            Self::Request(why) => Some(("request", why.word()?)),
            Self::Answer(why) => Some(("answer", why.word().unwrap_or("broken"))),
            Self::Call(_) => Some(("request", "call")),
            Self::NoCall(_) | Self::Breach(_) => None,
        }
    }
}

impl TransformError {
    /// Why, in one word; `None`: the body did not come.
    fn word(&self) -> Option<&'static str> {
        Some(match self.cause() {
            Self::Path(_) => "path",
            Self::Link(_) => "link",
            Self::Host(_) => "host",
            Self::Body(BodyFault::TooLarge) => "too_large",
            Self::Body(_) => return None,
            Self::Coded => "coding",
            Self::Kinds => "media_type",
            Self::Call(_) => "call",
            Self::Json(_) | Self::At(..) => "json",
        })
    }
}

/// What one place of the file changes.
#[derive(Debug)]
pub struct Change {
    /// Where it stands.
    place: &'static str,
    model: Transform,
    request: Fields,
    answer: Fields,
    status: Vec<(StatusCode, StatusCode)>,
    /// Whether it speaks of heads of requests, and of answers.
    speaks: (bool, bool),
}

impl Change {
    fn new(model: &Transform, place: &'static str) -> Rc<Self> {
        let known = |code: &u16| StatusCode::from_u16(*code).ok();
        let status = model.answer.status.iter();
        Rc::new(Self {
            place,
            request: Fields::new(&model.request.headers),
            answer: Fields::new(&model.answer.headers),
            status: status.filter_map(|(from, to)| Some((known(from)?, known(to)?))).collect(),
            speaks: (order::of_requests(model), order::of_answers(model)),
            model: model.clone(),
        })
    }
}

/// Where changes stand.
const LISTENER: &str = "the listener";
const CONSUMER: &str = "the consumer";
const ROUTE: &str = "the route";
const SERVICE: &str = "the service";

/// What a change of a body is called.
const BODY: &str = "transform of the body";

/// All changes of a group.
#[derive(Debug)]
pub struct Changes {
    listener: Option<Rc<Change>>,
    consumers: HashMap<Box<str>, Rc<Change>>,
    routes: Vec<Option<Rc<Change>>>,
    services: Vec<Option<Rc<Change>>>,
    /// Room that requests need while they are changed, made once.
    room: RefCell<Room>,
}

/// What is in use while one request is changed.
#[derive(Debug, Default)]
struct Room {
    /// A value on its way into a header.
    text: String,
    /// Values of headers that are set at once.
    values: Vec<Option<HeaderValue>>,
}

/// The changes that an exchange passes, from the outermost.
#[derive(Debug, Default)]
pub struct Passed([Option<Rc<Change>>; 4]);

impl Passed {
    fn iter(&self) -> impl DoubleEndedIterator<Item = &Rc<Change>> {
        self.0.iter().flatten()
    }
}

/// The changes that one exchange passes, from the outermost; what the answer's templates say was found out
/// when the request passed.
#[derive(Debug)]
pub struct Passage {
    changes: Passed,
    /// Values of the answer's headers, in the order in which they are set.
    values: Vec<Option<HeaderValue>>,
    /// Texts of the answer's body, likewise.
    pub(crate) texts: Vec<Option<String>>,
}

impl Changes {
    /// For one worker; `None`: the file changes nothing.
    pub fn new(group: &Group) -> Option<Rc<Self>> {
        let some = |model: &Option<Transform>, place| {
            model.as_ref().map(|model| Change::new(model, place))
        };
        let own =
            |one: &Consumer| Some((one.name.as_str().into(), some(&one.transform, CONSUMER)?));
        let services = group.upstreams.iter().map(|to| some(&to.transform, SERVICE));
        let changes = Self {
            listener: some(&group.transform, LISTENER),
            consumers: group.consumers.iter().filter_map(own).collect(),
            routes: group.routes.iter().map(|route| some(&route.transform, ROUTE)).collect(),
            services: services.collect(),
            room: RefCell::default(),
        };
        let any = changes.listener.is_some()
            || !changes.consumers.is_empty()
            || changes.routes.iter().chain(&changes.services).any(Option::is_some);
        any.then(|| Rc::new(changes))
    }

    /// What an exchange passes; `None`: nothing.
    pub fn on(&self, route: RouteId, to: RouteTo, caller: Option<&Identity>) -> Option<Passed> {
        let all = self.places(route, to, caller).map(|(_, change)| change);
        all.iter().any(Option::is_some).then(|| Passed(all.map(|change| change.map(Rc::clone))))
    }

    /// What a call of an aggregate passes to this service: who asked for the whole has passed the others.
    pub fn of_service(&self, to: UpstreamId) -> Option<Passed> {
        let own = self.services.get(to.0)?.clone()?;
        Some(Passed([None, None, None, Some(own)]))
    }

    /// Whether it passes any.
    pub fn any(&self, route: RouteId, to: RouteTo, caller: Option<&Identity>) -> bool {
        self.places(route, to, caller).iter().any(|(_, change)| change.is_some())
    }

    /// Whether the answer to a request passes any that ended before its changes were looked for, or had none.
    pub fn any_early(&self, route: Option<RouteId>) -> bool {
        let own = route.and_then(|id| self.routes.get(id.0)).and_then(Option::as_ref);
        self.listener.is_some() || own.is_some()
    }

    /// Where the changes stand that an exchange passes, from the outermost.
    pub fn names(
        &self,
        route: RouteId,
        to: RouteTo,
        caller: Option<&Identity>,
    ) -> Vec<&'static str> {
        let all = self.places(route, to, caller).into_iter();
        all.filter(|(_, change)| change.is_some()).map(|(name, _)| name).collect()
    }

    fn places(
        &self,
        route: RouteId,
        to: RouteTo,
        caller: Option<&Identity>,
    ) -> [(&'static str, Option<&Rc<Change>>); 4] {
        let service = to.service().and_then(|id| self.services.get(id.0));
        [
            (LISTENER, self.listener.as_ref()),
            (CONSUMER, of_consumer(&self.consumers, caller)),
            (ROUTE, self.routes.get(route.0).and_then(Option::as_ref)),
            (SERVICE, service.and_then(Option::as_ref)),
        ]
    }

    /// What the answer to a request passes that ended before its changes were looked for; bodies are a service's.
    fn early(&self, x: &Exchange, captures: Option<&Captures>) -> Passage {
        let own = x.candidate.route().and_then(|id| self.routes.get(id.0));
        let own = own.and_then(Option::as_ref).cloned();
        let changes = Passed([self.listener.clone(), None, own, None]);
        let (mut values, nothing) = (Vec::new(), HeaderMap::new());
        let captured = captures.map(|captures| (captures, &*x.record.path));
        let route = x.record.route.name.as_str();
        let known = Known { x, caller: None, route, service: None, captured, answers: &[] };
        let (known, seen) = Early::facts(x.early.as_deref(), &nothing, known);
        let text = &mut self.room.borrow_mut().text;
        for change in changes.iter().rev() {
            change.answer.values(&Facts { known, seen }, text, &mut values);
        }
        Passage { changes, values, texts: Vec::new() }
    }

    /// Changes a request but for its body; what is known of it is taken from `known` and the request, as it is
    /// changed so far. The second value is for [`Passage::read`].
    ///
    /// # Errors
    /// What the client's answer is made of.
    pub fn begin(
        &self,
        passed: Passed,
        request: &mut Request,
        known: Known<'_>,
    ) -> Result<(Passage, Vec<Option<String>>), TransformError> {
        Passage::begin(passed, request, known, &mut self.room.borrow_mut())
    }
}

impl Passage {
    fn begin(
        changes: Passed,
        request: &mut Request,
        known: Known<'_>,
        room: &mut Room,
    ) -> Result<(Self, Vec<Option<String>>), TransformError> {
        let filled = changes.iter().map(|change| change.answer.filled).sum();
        let mut passage = Self { changes, values: Vec::with_capacity(filled), texts: Vec::new() };
        let Room { text, values } = room;
        let client = Facts { known, seen: (&*request).into() };
        for change in passage.changes.iter().rev() {
            change.answer.values(&client, text, &mut passage.values);
            let body = change.model.answer.body.as_ref();
            passage
                .texts
                .extend(body.into_iter().flat_map(texts).map(|template| client.text(template)));
        }
        let mut texts_of_bodies = Vec::new();
        for change in passage.changes.iter() {
            if change.speaks.0 {
                known.x.passes(Stage::RequestTransform, "transform", change.place);
            }
            let wanted = &change.model.request;
            let facts = Facts { known, seen: (&*request).into() };
            let fault = |fault: TransformError| fault.at(change.place);
            let path = wanted.path.as_ref().map(|template| facts.path(template));
            let path = path.transpose().map_err(fault)?;
            let host = wanted.host.as_ref().map(|template| facts.host(template));
            let host = host.transpose().map_err(fault)?;
            let asked = request.target.query.as_deref();
            let query = (!wanted.query.is_empty())
                .then(|| query(asked, &wanted.query, |template| facts.text(template)));
            // What a request before left there when it failed.
            values.clear();
            change.request.values(&facts, text, values);
            let body = wanted.body.iter().flat_map(texts).map(|template| facts.text(template));
            texts_of_bodies.extend(body);
            let target = &mut request.target;
            target.path = path.unwrap_or_else(|| std::mem::take(&mut target.path));
            if let Some(host) = host {
                target.authority = host;
            }
            if let Some(query) = query {
                target.query = query;
            }
            change.request.apply(&mut request.headers, &mut values.drain(..));
        }
        if passage.changes.iter().any(|change| change.model.answer.body.is_some()) {
            whole(&mut request.headers);
        }
        Ok((passage, texts_of_bodies))
    }

    /// Whether there is a body of this request, and it is changed.
    ///
    /// # Errors
    /// It broke off before its first byte.
    pub async fn reads(&self, request: &mut Request) -> Result<bool, TransformError> {
        if request.upgrade.is_some() {
            return Ok(false);
        }
        look(&mut request.body).await.map_err(TransformError::Body)?;
        Ok(!request.body.is_empty())
    }

    /// Whether bodies of requests are changed.
    pub fn reads_bodies(&self) -> bool {
        self.changes.iter().any(|change| change.model.request.body.is_some())
    }

    /// Changes the body of a request.
    ///
    /// # Errors
    /// What the client's answer is made of; no service is to see what is left of it.
    pub async fn read(
        &self,
        x: &Exchange,
        request: &mut Request,
        texts: Vec<Option<String>>,
    ) -> Result<(), TransformError> {
        let bodies = self.changes.iter();
        let bodies =
            bodies.filter_map(|change| Some((change.place, change.model.request.body.as_ref()?)));
        let bodies: Vec<_> = bodies.collect();
        let limits = request.body.limits();
        let bytes = changed(&request.headers, &mut request.body, &bodies, texts).await?;
        let bytes = bytes.ok_or(TransformError::Json(json::JsonError::Syntax))?;
        for (place, _) in &bodies {
            x.passes(Stage::RequestTransform, BODY, place);
        }
        stale(&mut request.headers);
        request.body = RequestBody::whole(bytes, limits);
        Ok(())
    }

    /// Changes status and headers of an answer; the status only of a service's.
    pub fn head(&mut self, x: &Exchange, head: &mut ResponseHead, service: bool) {
        let ResponseHead { status, headers } = head;
        let mut values = std::mem::take(&mut self.values).into_iter();
        for change in self.changes.iter().rev() {
            if change.speaks.1 {
                x.passes(Stage::ResponseTransform, "transform", change.place);
            }
            let other = change.status.iter().find(|(from, _)| service && from == status);
            *status = other.map_or(*status, |(_, to)| *to);
            change.answer.apply(headers, &mut values);
        }
    }

    /// Whether bodies of answers are changed.
    pub fn changes_bodies(&self) -> bool {
        self.changes.iter().any(|change| change.model.answer.body.is_some())
    }

    /// The body of a service's answer as it is from now on; `None`: it is no JSON, and nothing was read.
    ///
    /// # Errors
    /// What cannot be changed is not passed on.
    pub async fn body<B>(
        &mut self,
        x: &Exchange,
        headers: &mut HeaderMap,
        body: &mut B,
    ) -> Result<Option<Bytes>, TransformError>
    where
        B: Body<Data = Bytes, Error = BodyFault> + Unpin,
    {
        let bodies = self.changes.iter().rev();
        let bodies =
            bodies.filter_map(|change| Some((change.place, change.model.answer.body.as_ref()?)));
        let bodies: Vec<_> = bodies.collect();
        let bytes = changed(headers, body, &bodies, std::mem::take(&mut self.texts)).await?;
        if bytes.is_some() {
            for (place, _) in &bodies {
                x.passes(Stage::ResponseTransform, BODY, place);
            }
            stale(headers);
        }
        Ok(bytes)
    }
}

/// What stands in texts of a body, in the order of its steps.
fn texts(body: &BodyChange) -> impl Iterator<Item = &topology::template::Template> {
    body.steps.iter().filter_map(|step| match step {
        JsonStep::Set(_, JsonValue::Text(template)) => Some(template),
        _ => None,
    })
}

/// The body after all steps; `None`: it is no JSON.
async fn changed<B>(
    headers: &HeaderMap,
    body: &mut B,
    changes: &[(&'static str, &BodyChange)],
    texts: Vec<Option<String>>,
) -> Result<Option<Bytes>, TransformError>
where
    B: Body<Data = Bytes, Error = BodyFault> + Unpin,
{
    // What cannot be read cannot be by the tightest of them.
    let tightest = changes.iter().min_by_key(|(_, change)| change.most);
    let (place, most) = tightest.map_or((ROUTE, 0), |(place, change)| (*place, change.most));
    let fault = |fault: TransformError| fault.at(place);
    // What somebody else could take for JSON does not pass as it is: a change may be there to hide something.
    if !media::is_json(&media::only(headers).map_err(|_| fault(TransformError::Kinds))?) {
        return Ok(None);
    }
    let bytes = gathered(body, most).await.map_err(|why| fault(TransformError::Body(why)))?;
    // Nothing is no document, and there is nothing in it to change.
    if bytes.is_empty() {
        return Ok(Some(bytes));
    }
    let bytes = plain(headers, bytes, most).map_err(fault)?;
    let json = |why: json::JsonError| fault(why.into());
    let text = std::str::from_utf8(&bytes).map_err(|_| json(json::JsonError::Syntax))?;
    let mut document = json::Document::bounded(text, most).map_err(json)?;
    let mut texts = texts.into_iter();
    for (place, change) in changes {
        for step in &change.steps {
            let done = document.apply(step, &mut texts);
            done.map_err(|why| TransformError::from(why).at(place))?;
        }
    }
    Ok(Some(Bytes::from(document.written())))
}

/// What a body stands for that may be compressed, up to so many bytes.
///
/// # Errors
/// It is in a form that is not known, or larger.
pub fn plain(headers: &HeaderMap, bytes: Bytes, most: u64) -> Result<Bytes, TransformError> {
    match Coding::of(headers).map_err(|_| TransformError::Coded)? {
        None => Ok(bytes),
        Some(coding) => match expand(coding, &bytes, most) {
            Ok(bytes) => Ok(bytes.into()),
            Err(Fault::TooLarge) => Err(TransformError::Body(BodyFault::TooLarge)),
            Err(Fault::Malformed) => Err(TransformError::Coded),
        },
    }
}

/// Reads until something comes, and puts it back: a body that ends without a byte is none, however it is framed.
///
/// # Errors
/// It broke off before.
pub async fn look(body: &mut RequestBody) -> Result<(), BodyFault> {
    while !body.is_empty() {
        let Some(frame) = body.frame().await else { break };
        if let Ok(data) = frame?.into_data()
            && !data.is_empty()
        {
            body.give_back(vec![data]);
            return Ok(());
        }
    }
    let limits = body.limits();
    *body = RequestBody::whole(Bytes::new(), limits);
    Ok(())
}

/// All of a body, up to so many bytes; trailers are dropped.
pub async fn gathered<B>(body: &mut B, most: u64) -> Result<Bytes, BodyFault>
where
    B: Body<Data = Bytes, Error = BodyFault> + Unpin,
{
    // Most bodies are one piece, which need not be copied.
    let (mut only, mut all) = (Bytes::new(), BytesMut::new());
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame?.into_data() else { continue };
        let size = only.len().max(all.len()) + data.len();
        if size as u64 > most {
            return Err(BodyFault::TooLarge);
        }
        if only.is_empty() && all.is_empty() {
            only = data;
        } else {
            if all.is_empty() {
                all.reserve(size);
                all.extend_from_slice(&std::mem::take(&mut only));
            }
            all.extend_from_slice(&data);
        }
    }
    Ok(if all.is_empty() { only } else { all.freeze() })
}

/// Whether a message says that its body is JSON.
pub fn is_json(headers: &HeaderMap) -> bool {
    media::is_json(&media::kind(headers))
}

/// The service is asked for all of it and as it is: neither a part nor a compressed form can be changed.
pub fn whole(headers: &mut HeaderMap) {
    for name in [header::RANGE, header::IF_RANGE] {
        headers.remove(name);
    }
    headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
}

/// What was said of the body before it was changed holds no more; a validator stands for what is made of
/// the same thing, no longer for the same bytes (RFC 9110 §8.8.1).
pub fn stale(headers: &mut HeaderMap) {
    for name in [header::CONTENT_LENGTH, header::CONTENT_ENCODING, header::ACCEPT_RANGES] {
        headers.remove(name);
    }
    for name in DIGESTS {
        headers.remove(name);
    }
    let strong = headers.get(header::ETAG).filter(|tag| !tag.as_bytes().starts_with(b"W/"));
    let weak =
        strong.and_then(|tag| HeaderValue::from_bytes(&[b"W/", tag.as_bytes()].concat()).ok());
    if let Some(weak) = weak {
        headers.insert(header::ETAG, weak);
    }
}

/// What says which bytes a body is (RFC 9530, RFC 3230, RFC 1864).
pub const DIGESTS: [&str; 4] = ["content-digest", "repr-digest", "digest", "content-md5"];

/// What is passed to an answer: taken from its exchange, or found late.
pub fn passage(x: &mut Exchange, changes: &Changes, captures: Option<&Captures>) -> Passage {
    x.passage.take().unwrap_or_else(|| changes.early(x, captures))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::body::BodyLimits;

    /// G13: a body of one piece is not copied, one of several is whole, and neither is larger than its bound.
    #[tokio::test]
    async fn one_piece_is_gathered_as_it_is() {
        let limits = BodyLimits { bytes: 100, idle: Duration::from_secs(1) };
        let piece = Bytes::from_static(b"one piece");
        let mut body = RequestBody::whole(piece.clone(), limits);
        let whole = gathered(&mut body, 9).await.expect("it is no larger");
        assert_eq!((whole.as_ptr(), whole.len()), (piece.as_ptr(), piece.len()));
        for most in [8, 9, 26, 27] {
            let pieces = [piece.clone(), Bytes::new(), piece.clone(), piece.clone()];
            for (count, size) in [(1, 9), (4, 27)] {
                let mut body = RequestBody::whole(Bytes::new(), limits);
                body.give_back(pieces.iter().take(count).cloned().collect());
                let whole = gathered(&mut body, most).await;
                let wanted =
                    if most < size { None } else { Some("one piece".repeat(count.min(3))) };
                assert_eq!(whole.ok().as_deref(), wanted.as_ref().map(String::as_bytes), "{most}");
            }
        }
    }
}
