//! What is changed of requests and answers: names that may be changed, templates that can be filled where
//! they stand, paths into JSON. Not for filling anything: the gateway does.
//!
//! Invariant: what is resolved cannot frame a message anew, or say who somebody is.

use crate::files::RouteTo;
use crate::gateway::{Auth, Certified};
use crate::raw::{self, Entry, Findings, Named, Spot, Text, Typed};
use crate::resolve::certificates::{self, Certificates};
use crate::resolve::gateway::FRAMING;
use crate::resolve::{held, is_json, policy};
use crate::template::{Part, Template, Variable};
use crate::transform::{
    AnswerChange, BodyChange, FieldChange, JsonName, JsonPath, JsonStep, JsonValue, RequestChange,
    Transform,
};
use crate::units::PathPattern;

/// Where a transform stands, which is what its templates can know.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scope<'r> {
    /// The path of the route; `None`: it holds for several.
    pub(super) path: Option<&'r PathPattern>,
    /// Who may call; `None`: that differs.
    pub(super) auth: Option<&'r Auth>,
    /// Calls whose answers can be asked for.
    pub(super) calls: &'r [String],
    /// Whether a service answers there.
    pub(super) served: Served,
    /// Whether clients have certificates.
    pub(super) certificates: Certificates,
    /// Whether tokens name consumers there.
    pub(super) tokens: Tokens,
}

/// Whom tokens name where a template stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tokens {
    /// Users alone.
    OfUsers,
    /// Consumers too, or that differs.
    OfConsumers,
}

/// Whether a service answers where a template stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Served {
    /// One does, or that differs.
    Perhaps,
    /// None does, or several do.
    Never,
}

impl Scope<'_> {
    /// Of what holds for several routes.
    pub(super) fn several(certificates: Certificates) -> Self {
        Self {
            path: None,
            auth: None,
            calls: &[],
            served: Served::Perhaps,
            certificates,
            tokens: Tokens::OfConsumers,
        }
    }
}

/// What is changed there.
pub(super) fn transform(raw: raw::Transform, scope: Scope<'_>, out: &mut Findings) -> Transform {
    let request = raw.request.map(|raw| request(raw, scope, out));
    let answer = raw.answer.map(|raw| answer(raw, scope, out));
    Transform { request: request.unwrap_or_default(), answer: answer.unwrap_or_default() }
}

/// What is changed on a route that leads there.
pub(super) fn of_route(
    raw: raw::Transform,
    to: Option<RouteTo>,
    scope: Scope<'_>,
    out: &mut Findings,
) -> Transform {
    inert(&raw, to, out);
    let served = match to {
        Some(RouteTo::Service(_)) | None => Served::Perhaps,
        Some(RouteTo::Files(_) | RouteTo::Given(_) | RouteTo::Aggregate(_)) => Served::Never,
    };
    transform(raw, Scope { served, ..scope }, out)
}

/// Notes what is asked of answers that no service makes, and of requests that go nowhere: nothing would come of it.
fn inert(raw: &raw::Transform, to: Option<RouteTo>, out: &mut Findings) {
    if let (Some(RouteTo::Given(_)), Some(request)) = (to, &raw.request) {
        out.error(&request.spot, "`request` changes nothing here: the file answers it")
            .allowed("it on a route with `to`, `files` or `aggregate`; `response.headers` on any");
    }
    let what = match to {
        Some(RouteTo::Files(_)) => "files",
        Some(RouteTo::Given(_)) => "what the file says itself",
        Some(RouteTo::Service(_) | RouteTo::Aggregate(_)) | None => return,
    };
    let Some(answer) = &raw.answer else { return };
    let status = answer.status.iter().flat_map(|all| &all.0).next().map(|entry| &entry.spot);
    let body = answer.body.as_ref().map(|body| &body.spot);
    for (key, at) in [("status", status), ("body", body)] {
        if let Some(at) = at {
            out.error(at, format!("`response.{key}` does not change {what}"))
                .allowed("it on a route with `to` or `aggregate`; `response.headers` on any");
        }
    }
}

fn request(raw: raw::RequestChange, scope: Scope<'_>, out: &mut Findings) -> RequestChange {
    RequestChange {
        path: raw.path.and_then(|typed| path(typed, scope, out)),
        host: raw.host.and_then(|host| filled(host, scope, out)),
        query: raw.query.map(|raw| fields(raw, Of::Query, scope, out)).unwrap_or_default(),
        headers: raw.headers.map(|raw| fields(raw, Of::Request, scope, out)).unwrap_or_default(),
        body: raw.body.map(|raw| body(raw, scope, out)),
    }
}

fn answer(raw: raw::AnswerChange, scope: Scope<'_>, out: &mut Findings) -> AnswerChange {
    let mut status = Vec::new();
    for entry in raw.status.unwrap_or_default() {
        let number = |text: &str| text.parse().ok().filter(|n| (200..=599).contains(n));
        match (number(&entry.name), number(&entry.value.value.0)) {
            (Some(from), Some(to)) if !bound_to_body(from) && !bound_to_body(to) => {
                status.push((from, to));
            }
            _ => {
                let what = format!("`{}: {}` are no statuses", entry.name, entry.value.value.0);
                out.error(&entry.spot, what).allowed(
                    "200 to 599 for both; not 204, 205, 206 and 304, which say what body there is",
                );
            }
        }
    }
    AnswerChange {
        status,
        headers: raw.headers.map(|raw| fields(raw, Of::Answer, scope, out)).unwrap_or_default(),
        body: raw.body.map(|raw| body(raw, scope, out)),
    }
}

/// Whether a status says that there is no body, or a part of one (RFC 9110 §15.3.5 to §15.3.7, §15.4.5).
fn bound_to_body(status: u16) -> bool {
    matches!(status, 204..=206 | 304)
}

/// A template that can be filled there.
pub(super) fn filled(
    typed: Typed<Template>,
    scope: Scope<'_>,
    out: &mut Findings,
) -> Option<Template> {
    for variable in typed.value.variables() {
        match variable {
            Variable::Header(name) if SECRET.contains(&name.as_str()) => {
                out.error(&typed.spot, format!("`{name}` passes no gateway"))
                    .allowed("any other header, or ${claim.NAME} of the token");
                return None;
            }
            Variable::Capture(name) => known(name, &typed.spot, scope, out)?,
            Variable::Service if scope.served == Served::Never => {
                out.error(
                    &typed.spot,
                    "`service` is never known: this route leads to no single one",
                )
                .allowed("a route with `to`; ${route} is this one's name");
                return None;
            }
            Variable::Principal if scope.certificates == Certificates::Unasked => {
                certificates::unknown("`principal`", &typed.spot, out);
                return None;
            }
            Variable::Call(path)
                if !path.first().is_some_and(|name| scope.calls.contains(name)) =>
            {
                let calls = scope.calls.iter().map(String::as_str);
                out.unknown(&typed.spot, "call", path.first().map_or("", String::as_str), calls);
                return None;
            }
            variable if variable.is_identity() && scope.auth == Some(&Auth::None) => {
                out.error(
                    &typed.spot,
                    format!("`{variable}` is never known: nobody is asked who calls"),
                )
                .allowed("a route with `auth`");
                return None;
            }
            variable => {
                if let Some((why, other)) =
                    scope.auth.and_then(|auth| lacking(variable, auth, scope.tokens))
                {
                    out.error(&typed.spot, format!("`{variable}` is never known: {why}"))
                        .allowed(other);
                    return None;
                }
            }
        }
    }
    Some(typed.value)
}

/// Why a variable is known of nobody who says in one of these ways who it is, and what to do.
fn lacking(
    variable: &Variable,
    auth: &Auth,
    named: Tokens,
) -> Option<(&'static str, &'static str)> {
    let Auth::Asked(ways) = auth else { return None };
    let (tokens, keys) = (!ways.issuers.is_empty(), !ways.api_keys.is_empty());
    // A way that the file misspells is told where it stands.
    if !tokens && !keys && ways.certificate == Certified::NotEnough {
        return None;
    }
    match variable {
        Variable::User | Variable::Claim(_) if !tokens => Some((
            "no token is asked for",
            "a route whose `auth` names an issuer; ${consumer}, ${plan} or ${principal}",
        )),
        Variable::Consumer if !keys && named == Tokens::OfUsers => Some((
            "no API key is asked for",
            "a route whose `auth` names API keys, or an issuer with `consumer`; ${user}, ${claim.NAME} or ${principal}",
        )),
        Variable::Plan if !keys => Some((
            "no API key is asked for",
            "a route whose `auth` names API keys; ${user}, ${claim.NAME} or ${principal}",
        )),
        _ => None,
    }
}

/// Whether the route's path has this name.
fn known(name: &str, at: &Spot, scope: Scope<'_>, out: &mut Findings) -> Option<()> {
    let Some(path) = scope.path else {
        out.error(at, format!("`path.{name}` is only known to a route"))
            .allowed("`transform` of a route");
        return None;
    };
    let names = path.names();
    if names.iter().any(|known| known == name) {
        return Some(());
    }
    out.unknown(at, "name in this route's path", name, names.iter().map(String::as_str));
    None
}

/// A template that makes a path.
pub(super) fn path(
    typed: Typed<Template>,
    scope: Scope<'_>,
    out: &mut Findings,
) -> Option<Template> {
    let mut parts = typed.value.parts().iter();
    let slash = match typed.value.parts().first() {
        Some(Part::Text(text)) => text.starts_with('/'),
        Some(Part::Hole(variable, _)) => *variable == Variable::Path,
        None => false,
    };
    let odd =
        |part: &Part| matches!(part, Part::Text(text) if text.contains(['?', '#', ' ', '%', '\\']));
    if !slash || parts.any(odd) {
        out.error(&typed.spot, format!("`{}` makes no path", typed.value))
            .allowed("/ and what follows, without ?, #, % and spaces: /users/${path.id}; parameters are changed by `query`");
        return None;
    }
    filled(typed, scope, out)
}

/// What fields belong to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Of {
    Request,
    Answer,
    Query,
}

fn fields(raw: raw::FieldChange, of: Of, scope: Scope<'_>, out: &mut Findings) -> FieldChange {
    let name = |name: &str, at: &Spot, out: &mut Findings| {
        let name = if of == Of::Query { name.to_owned() } else { name.to_ascii_lowercase() };
        let wrong = match of {
            Of::Request => asked(&name),
            Of::Answer => told(&name),
            Of::Query => None,
        };
        if let Some(wrong) = wrong {
            out.error(at, format!("`{name}` cannot be changed: {wrong}"))
                .allowed("a header that neither frames a message nor is the gateway's own");
            return None;
        }
        Some(name)
    };
    let remove = raw.remove.map_or(Vec::new(), |all| all.0);
    let remove =
        remove.into_iter().filter_map(|typed| name(&typed.value.0, &typed.spot, out)).collect();
    let mut rename = Vec::new();
    for entry in raw.rename.unwrap_or_default() {
        let from = name(&entry.name, &entry.spot, out);
        let to = name(&entry.value.value.0, &entry.value.spot, out);
        rename.extend(from.zip(to));
    }
    let values = |named: Option<Named<Typed<Template>>>, out: &mut Findings| -> Vec<_> {
        let all = named.unwrap_or_default().into_iter();
        let read = |Entry { name: field, spot, value }: Entry<Typed<Template>>| {
            Some((name(&field, &spot, out)?, filled(value, scope, out)?))
        };
        all.filter_map(read).collect()
    };
    let set = values(raw.set, out);
    FieldChange { remove, rename, set, add: values(raw.add, out) }
}

/// Headers of a request that may be changed.
fn asked(name: &str) -> Option<&'static str> {
    let own = OURS.iter().any(|prefix| name.starts_with(prefix));
    told(name)
        .or_else(|| own.then_some("the gateway says that itself"))
        .or_else(|| (name == "host").then_some("`host` beside `headers` does that"))
}

/// Headers of an answer that may be changed.
fn told(name: &str) -> Option<&'static str> {
    if !policy::token(name) {
        Some("it is no header's name (RFC 9110 §5.6.2)")
    } else if FRAMING.contains(&name) || name == "content-encoding" {
        Some("it says how the message is sent")
    } else if name == "x-request-id" {
        Some("the gateway says that itself")
    } else {
        None
    }
}

/// How headers begin by which a gateway says who somebody is, or what trace a request belongs to.
const OURS: [&str; 9] = [
    "x-user",
    "x-consumer",
    "x-client",
    "x-scopes",
    "x-forwarded",
    "x-request-id",
    "x-aqueduct",
    "x-experiment-",
    "trace",
];

/// Headers that templates cannot read: what proves who somebody is passes no gateway.
const SECRET: [&str; 3] = ["authorization", "cookie", "proxy-authorization"];

fn body(raw: raw::BodyChange, scope: Scope<'_>, out: &mut Findings) -> BodyChange {
    let most = held(raw.max, 1 << 20, out);
    let steps = raw.json.unwrap_or_default();
    BodyChange { steps: steps.into_iter().filter_map(|raw| step(raw, scope, out)).collect(), most }
}

fn step(raw: raw::JsonStep, scope: Scope<'_>, out: &mut Findings) -> Option<JsonStep> {
    let at = raw.spot;
    let member =
        |typed: Typed<Text>, out: &mut Findings| json_path(&typed.value.0, &typed.spot, out);
    match (raw.set, raw.remove, raw.rename, raw.from, raw.to, raw.json) {
        (Some(set), None, None, None, Some(to), None) => {
            let value = JsonValue::Text(filled(to, scope, out)?);
            Some(JsonStep::Set(member(set, out)?, value))
        }
        (Some(set), None, None, None, None, Some(json)) => {
            if !is_json(&json, "true, 5, [], \"text\"", out) {
                return None;
            }
            Some(JsonStep::Set(member(set, out)?, JsonValue::Json(json.value.0)))
        }
        (None, Some(remove), None, None, None, None) => {
            Some(JsonStep::Remove(member(remove, out)?))
        }
        (None, None, Some(rename), None, Some(to), None) => {
            let name = plain(&to, out)?;
            if !matches!(&*json_path(&name, &to.spot, out)?, [JsonName::Member(_)]) {
                let hint = "one name; `{ move: a.b, to: c.d }` puts it elsewhere";
                out.error(&to.spot, format!("`{name}` is no single name")).allowed(hint);
                return None;
            }
            Some(JsonStep::Rename(member(rename, out)?, name))
        }
        (None, None, None, Some(from), Some(to), None) => {
            let target = json_path(&plain(&to, out)?, &to.spot, out)?;
            let from_path = member(from, out)?;
            if from_path.contains(&JsonName::Each) || target.contains(&JsonName::Each) {
                out.error(&at, "what is in a list stays in it")
                    .allowed("`move` with paths without []");
                return None;
            }
            Some(JsonStep::Move(from_path, target))
        }
        _ => {
            out.error(&at, "this step does not say one thing").allowed(
                "{ set: PATH, to: TEMPLATE }, { set: PATH, json: VALUE }, { remove: PATH }, { rename: PATH, to: NAME } or { move: PATH, to: PATH }",
            );
            None
        }
    }
}

fn plain(typed: &Typed<Template>, out: &mut Findings) -> Option<String> {
    let text = typed.value.plain().map(str::to_owned);
    if text.is_none() {
        out.error(&typed.spot, "names are not filled in").allowed("a text without ${…}");
    }
    text
}

/// `user.name`, `items[].price`.
pub(super) fn json_path(text: &str, at: &Spot, out: &mut Findings) -> Option<JsonPath> {
    let mut path = Vec::new();
    for name in text.split('.') {
        let bare = name.trim_end_matches("[]");
        if !bare.is_empty() {
            path.push(JsonName::Member(bare.to_owned()));
        }
        path.extend((bare.len()..name.len()).step_by(2).map(|_| JsonName::Each));
        if name.is_empty() || bare.contains(['[', ']']) {
            path.clear();
            break;
        }
    }
    if path.is_empty() || path.len() > DEEPEST || path.last() == Some(&JsonName::Each) {
        out.error(at, format!("`{text}` leads to no member")).allowed(
            "names with dots between, at most 16: user.name; items[].price for each element",
        );
        return None;
    }
    Some(path)
}

const DEEPEST: usize = 16;
