//! Where a route leads: to a service, to files, elsewhere, to a text, or to several services at once. Not for
//! whether anybody is there.
//!
//! Invariant: an id that is handed out is in range.

use std::time::Duration;

use crate::answers::{
    Aggregate, AggregateId, Call, Compress, Failing, Given, GivenId, Maintenance, Member, Merge,
    SecurityHeaders, StatusRule, Word,
};
use crate::files::{Files, FilesId, RouteTo};
use crate::raw::{self, Entry, Findings, Named, Spot, Text, Typed};
use crate::resolve::names::Names;
use crate::resolve::transform::{Scope, Served, filled, json_path, path};
use crate::resolve::upstream::Upstreams;
use crate::resolve::{files, held, is_json, or, policy, positive};
use crate::template::{Part, Template, Variable};
use crate::transform::JsonName;
use crate::units::Size;

/// Everything that routes of a group lead to.
pub(super) struct Leads {
    pub(super) upstreams: Upstreams,
    pub(super) files: Vec<Files>,
    pub(super) given: Vec<Given>,
    pub(super) aggregates: Vec<Aggregate>,
}

/// What the file says of a route's way.
pub(super) struct Way<'r> {
    /// The route.
    pub(super) at: &'r Spot,
    pub(super) scope: Scope<'r>,
    pub(super) to: Option<&'r Typed<Text>>,
    pub(super) files: Option<raw::FilesChoice>,
    pub(super) redirect: Option<raw::Redirect>,
    pub(super) answer: Option<raw::Answer>,
    pub(super) aggregate: Option<raw::Aggregate>,
    /// A key of the route that only makes sense with a service.
    pub(super) beside: Option<&'static str>,
}

impl Leads {
    /// None yet.
    pub(super) fn new(upstreams: Upstreams) -> Self {
        Self { upstreams, files: Vec::new(), given: Vec::new(), aggregates: Vec::new() }
    }

    /// Where a route leads.
    pub(super) fn lead(
        &mut self,
        way: Way<'_>,
        names: &Names,
        out: &mut Findings,
    ) -> Option<RouteTo> {
        let Way { at, scope, to, files, redirect, answer, aggregate, beside } = way;
        let several = [files.is_some(), redirect.is_some(), answer.is_some(), aggregate.is_some()];
        let others = several.iter().filter(|is| **is).count();
        match (to, others) {
            (Some(to), 0) => return self.upstreams.lead(to, names, out).map(RouteTo::Service),
            (None, 0) if out.wrong(at) => return None,
            (None, 1) => {}
            _ => {
                out.error(at, "a route leads to one place").allowed(
                    "exactly one of `to: SERVICE`, `files: DIRECTORY`, `aggregate`, `redirect` and `answer`",
                );
                return None;
            }
        }
        if let Some(key) = beside {
            out.error(at, format!("a route that leads to no service of its own has no `{key}`"))
                .allowed(format!("`to` with `{key}`"));
        }
        if let Some(files) = files {
            self.files.push(files::files(files, names, out)?);
            return Some(RouteTo::Files(FilesId(self.files.len() - 1)));
        }
        if let Some(raw) = aggregate {
            let made = self.aggregate(raw, scope, names, out)?;
            self.aggregates.push(made);
            return Some(RouteTo::Aggregate(AggregateId(self.aggregates.len() - 1)));
        }
        let given = match (redirect, answer) {
            (Some(raw), _) => self::redirect(raw, scope, out)?,
            (_, Some(raw)) => self::text(raw, out)?,
            (None, None) => return None,
        };
        self.given.push(given);
        Some(RouteTo::Given(GivenId(self.given.len() - 1)))
    }

    fn aggregate(
        &mut self,
        raw: raw::Aggregate,
        scope: Scope<'_>,
        names: &Names,
        out: &mut Findings,
    ) -> Option<Aggregate> {
        let calls = raw.calls?.0;
        if calls.is_empty() || calls.len() > MOST_CALLS {
            let what = format!("{} calls for one request", calls.len());
            out.error(&raw.spot, what).allowed("1 to 16: every request is that many");
            return None;
        }
        let known: Vec<String> = calls.iter().map(|entry| entry.name.clone()).collect();
        let scope = Scope { calls: &known, ..scope };
        let merge = match (raw.merge, raw.template) {
            (Some(typed), Some(_)) => {
                out.error(&typed.spot, "`template` says already how answers are put together")
                    .allowed("one of `merge` and `template`");
                return None;
            }
            (_, Some(template)) => Merge::Members(members(template, &known, out)?),
            (merge, None) => or(merge, Merge::ByName),
        };
        let mut made = Vec::new();
        for entry in calls {
            made.push((self.call(entry, scope, &merge, names, out)?, raw.spot.clone()));
        }
        let status = match raw.status {
            None => StatusRule::Ok,
            Some(typed) => match typed.value.0.as_str() {
                "ok" => StatusRule::Ok,
                "worst-required" => StatusRule::WorstRequired,
                other => {
                    out.error(&typed.spot, format!("`{other}` is no rule for a status"))
                        .allowed("ok, worst-required");
                    return None;
                }
            },
        };
        let most = held(raw.max, 4 << 20, out);
        Some(Aggregate { calls: ordered(made, out)?, merge, status, most })
    }

    fn call(
        &mut self,
        entry: Entry<raw::Call>,
        scope: Scope<'_>,
        merge: &Merge,
        names: &Names,
        out: &mut Findings,
    ) -> Option<Call> {
        let Entry { name, value: raw, .. } = entry;
        let path = raw.path.and_then(|typed| path(typed, scope, out));
        let mut query = Vec::new();
        for Entry { name, value, .. } in raw.query.unwrap_or_default() {
            query.extend(filled(value, scope, out).map(|template| (name, template)));
        }
        let failing = match (raw.on_failure, raw.default) {
            (None, Some(json)) => {
                is_json(&json, "[], {}, null, \"text\"", out);
                if *merge == Merge::Flat && !json.value.0.trim_start().starts_with('{') {
                    out.error(&json.spot, "this has no members that could stand beside others")
                        .allowed("an object, with `merge: flat`: {}");
                }
                Failing::Default(json.value.0)
            }
            (None, None) => Failing::Fails,
            (Some(typed), default) => match typed.value.0.as_str() {
                _ if default.is_some() => {
                    out.error(&typed.spot, "`default` says already what happens then")
                        .allowed("one of `on-failure` and `default`");
                    return None;
                }
                "fail" => Failing::Fails,
                "omit" => Failing::Omitted,
                "last-good" => Failing::LastGood,
                other => {
                    out.error(&typed.spot, format!("`{other}` says nothing"))
                        .allowed("fail, omit, last-good; or `default: JSON`");
                    return None;
                }
            },
        };
        let timeout = positive(raw.timeout, Duration::from_secs(1), out);
        let at = raw.to?;
        let to = self.upstreams.lead(&at, names, out)?;
        self.upstreams.unasked(to, ("a call of an aggregate", &at.spot), out);
        Some(Call { name, to, path: path?, query, timeout, failing, after: Vec::new() })
    }
}

const MOST_CALLS: usize = 16;

/// What stands where in an answer.
fn members(all: Named<Typed<Text>>, known: &[String], out: &mut Findings) -> Option<Vec<Member>> {
    let mut made: Vec<Member> = Vec::new();
    for Entry { name, spot, value } in all {
        let at = json_path(&name, &spot, out)?;
        let from: Vec<String> = value.value.0.split('.').map(str::to_owned).collect();
        let call = from.first().map_or("", String::as_str);
        if !known.iter().any(|name| name == call) {
            out.unknown(&value.spot, "call", call, known.iter().map(String::as_str));
            return None;
        }
        if from.iter().any(String::is_empty) {
            out.error(&value.spot, format!("`{}` leads to no member", value.value.0)).allowed(
                "CALL, or CALL and names with dots between: profile.user.name, orders.0.id",
            );
            return None;
        }
        let meets = |other: &Member| at.starts_with(&other.at) || other.at.starts_with(&at);
        if at.contains(&JsonName::Each) || made.iter().any(meets) {
            out.error(&spot, format!("`{name}` is no place of its own"))
                .allowed("paths without [], none of which leads through another");
            return None;
        }
        made.push(Member { at, from });
    }
    Some(made)
}

/// Each call after those whose answers it asks for.
fn ordered(calls: Vec<(Call, Spot)>, out: &mut Findings) -> Option<Vec<Call>> {
    let mut left = calls;
    let mut done: Vec<Call> = Vec::new();
    while !left.is_empty() {
        let place = |name: &str| done.iter().position(|call| call.name == name);
        let ready =
            left.iter().position(|(call, _)| wanted(call).all(|name| place(name).is_some()));
        let Some(at) = ready else {
            let names: Vec<&str> = left.iter().map(|(call, _)| call.name.as_str()).collect();
            let what = format!("these calls wait for each other: {}", names.join(", "));
            if let Some((_, spot)) = left.first() {
                out.error(spot, what).allowed("calls that need answers of others, in no circle");
            }
            return None;
        };
        let (mut call, _) = left.remove(at);
        let mut after: Vec<usize> = wanted(&call).filter_map(place).collect();
        after.sort_unstable();
        after.dedup();
        call.after = after;
        done.push(call);
    }
    Some(done)
}

/// Names of the calls whose answers a call asks for.
fn wanted(call: &Call) -> impl Iterator<Item = &str> {
    let templates = std::iter::once(&call.path).chain(call.query.iter().map(|(_, value)| value));
    templates.flat_map(Template::variables).filter_map(|variable| match variable {
        Variable::Call(path) => path.first().map(String::as_str),
        _ => None,
    })
}

fn redirect(raw: raw::Redirect, scope: Scope<'_>, out: &mut Findings) -> Option<Given> {
    let to = raw.to?;
    if !lands(&to.value) {
        out.error(&to.spot, format!("`{}` could lead anywhere", to.value)).allowed(
            "a path, /v2/${path.rest}; or a URL whose host is written out or ${request.host}, and a / or ${request.path} behind it",
        );
        return None;
    }
    let status = status(raw.status, 308, &[301, 302, 303, 307, 308], out);
    let query = raw.query.is_none_or(|typed| typed.value.0);
    let scope = Scope { served: Served::Never, ..scope };
    Some(Given::Redirect { to: filled(to, scope, out)?, status, query })
}

/// Whether nothing that a client sends can choose the host.
fn lands(template: &Template) -> bool {
    let mut parts = template.parts().iter();
    match parts.next() {
        Some(Part::Hole(Variable::Path, _)) => true,
        Some(Part::Text(text)) => {
            match text.strip_prefix("https://").or(text.strip_prefix("http://")) {
                Some("") => {
                    let host = matches!(parts.next(), Some(Part::Hole(Variable::Host, None)));
                    let next = parts.next();
                    let path = match next {
                        Some(Part::Text(text)) => text.starts_with('/') || text.starts_with(":"),
                        Some(Part::Hole(variable, _)) => *variable == Variable::Path,
                        None => true,
                    };
                    host && path
                }
                Some(rest) => {
                    let host = rest.split(['/', '?']).next().unwrap_or_default();
                    let ends = rest.len() > host.len() || template.plain().is_some();
                    let path = matches!(parts.next(), Some(Part::Hole(Variable::Path, _)));
                    !host.is_empty() && !host.contains('@') && (ends || path)
                }
                None => text.starts_with('/') && !text.starts_with("//"),
            }
        }
        _ => false,
    }
}

fn text(raw: raw::Answer, out: &mut Findings) -> Option<Given> {
    let status = match raw.status {
        Some(typed)
            if !(200..=599).contains(&typed.value) || [204, 205, 304].contains(&typed.value) =>
        {
            out.error(
                &typed.spot,
                format!("{} is no status of an answer with a text", typed.value),
            )
            .allowed("200 to 599, not 204, 205 and 304");
            200
        }
        typed => or(typed, 200),
    };
    let kind =
        raw.kind.map_or_else(|| "text/plain; charset=utf-8".to_owned(), |typed| typed.value.0);
    Some(Given::Text { status, kind, body: raw.body?.value.0 })
}

fn status(raw: Option<Typed<u16>>, default: u16, known: &[u16], out: &mut Findings) -> u16 {
    let Some(typed) = raw else { return default };
    if !known.contains(&typed.value) {
        let names: Vec<String> = known.iter().map(u16::to_string).collect();
        out.error(&typed.spot, format!("{} does not send anybody elsewhere", typed.value))
            .allowed(names.join(", "));
    }
    typed.value
}

/// Whether a route is closed.
pub(super) fn maintenance(
    raw: Option<raw::Choice<raw::Maintenance>>,
    default: Option<&Maintenance>,
    out: &mut Findings,
) -> Option<Maintenance> {
    let raw = match raw {
        None => return default.cloned(),
        Some(raw::Choice::Flag(flag)) if !flag.value.0 => return None,
        Some(raw::Choice::Flag(_)) => raw::Maintenance { retry_after: None, detail: None },
        Some(raw::Choice::Section(raw)) => *raw,
    };
    let retry_after = positive(raw.retry_after, Duration::from_secs(60), out);
    Some(Maintenance { retry_after, detail: raw.detail.map(|typed| typed.value.0) })
}

/// Which answers are compressed.
pub(super) fn compress(raw: Option<raw::Choice<raw::Compress>>) -> Word<Compress> {
    let raw = match raw {
        None => return Word::Silent,
        Some(raw::Choice::Flag(flag)) if !flag.value.0 => return Word::Never,
        Some(raw::Choice::Flag(_)) => raw::Compress { types: None, min: None },
        Some(raw::Choice::Section(raw)) => *raw,
    };
    let types = raw.types.map(|all| all.into_iter().map(|typed| typed.value.0).collect());
    let types: Vec<String> = types.unwrap_or_else(|| COMPRESSIBLE.map(str::to_owned).to_vec());
    let types = types.iter().map(|name| name.to_ascii_lowercase()).collect();
    Word::So(Compress { types, least: or(raw.min, Size(1 << 10)).0 })
}

const COMPRESSIBLE: [&str; 8] = [
    "text/",
    "+json",
    "+xml",
    "application/json",
    "application/javascript",
    "application/xml",
    "application/wasm",
    "image/svg+xml",
];

/// Which careful headers answers have.
pub(super) fn security(
    raw: Option<Typed<Text>>,
    default: Option<SecurityHeaders>,
    out: &mut Findings,
) -> Option<SecurityHeaders> {
    let Some(typed) = raw else { return default };
    match typed.value.0.as_str() {
        "api" => Some(SecurityHeaders::Api),
        "web" => Some(SecurityHeaders::Web),
        "none" => None,
        other => {
            out.error(&typed.spot, format!("there is no preset `{other}`"))
                .allowed("api, web, none");
            None
        }
    }
}

/// Notes filters on a route whose answers are in the file: it is answered before they would see anything.
pub(super) fn unpassed(
    to: Option<RouteTo>,
    (validate, external): (bool, bool),
    at: &Spot,
    out: &mut Findings,
) {
    let Some(RouteTo::Given(_)) = to else { return };
    for (key, _) in [("validate", validate), ("external", external)].iter().filter(|(_, is)| *is) {
        out.error(at, format!("`{key}` would see no request here: the file answers them"))
            .allowed(format!("`{key}` on a route with `to`, `files` or `aggregate`"));
    }
}

/// A link, as it stands in a header.
pub(super) fn link(raw: Option<Typed<Text>>, out: &mut Findings) -> Option<String> {
    let typed = raw?;
    let text = typed.value.0;
    let place =
        text.starts_with('/') || text.starts_with("https://") || text.starts_with("http://");
    if !place || text.bytes().any(|b| !b.is_ascii_graphic() || b"<>\"".contains(&b)) {
        out.error(&typed.spot, format!("`{text}` is no link")).allowed("a URL or a path");
        return None;
    }
    Some(text)
}

/// A route whose answer is not the service's own takes only methods that change nothing.
pub(super) fn reads_only(methods: &mut Vec<String>, at: &Spot, out: &mut Findings) {
    if methods.is_empty() {
        *methods = vec!["GET".to_owned(), "HEAD".to_owned()];
    } else if methods.iter().any(|method| method != "GET" && method != "HEAD") {
        out.error(at, "an aggregate changes nothing")
            .allowed("methods: [GET, HEAD], or none named");
    }
    debug_assert!(methods.iter().all(|method| policy::token(method)));
}
