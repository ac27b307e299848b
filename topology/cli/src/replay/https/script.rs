//! Which request has which number: one URL over and over, or a recording. Not for sending. Used by
//! `https`.
//!
//! Invariant: request `i` is the same whichever lane sends it.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_LENGTH, HOST};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri};
use http_body_util::Full;

use super::Args;
use super::recording::{self, Expected, Recorded, Recording, origin_form};
use crate::replay::Broken;
use crate::replay::pace::Schedule;
use crate::token::signer::Signer;

/// All requests of a replay.
pub(super) struct Script {
    authority: HeaderValue,
    headers: HeaderMap,
    requests: Requests,
    tokens: Tokens,
}

enum Requests {
    Same { method: Method, target: Uri, route: String },
    Recorded(Vec<Planned>),
}

/// A recorded request as it is sent now.
struct Planned {
    recorded: Recorded,
    /// Instead of the URL's.
    host: Option<HeaderValue>,
    session: Option<u64>,
}

enum Tokens {
    None,
    Same(HeaderValue),
    /// Request `i` comes from user `i` modulo their number.
    InTurn(Vec<HeaderValue>),
    /// A recorded user's own.
    ByName(BTreeMap<String, HeaderValue>),
}

/// What a replay sends, when, and what of the recording could not be read.
pub(super) struct Program {
    pub(super) script: Script,
    pub(super) schedule: Schedule,
    pub(super) broken: Vec<String>,
}

/// The script and its schedule.
///
/// # Errors
/// A file cannot be read, or says nothing that can be sent.
pub(super) fn plan(args: &Args) -> Result<Program> {
    let skip = args.broken == Broken::Skip;
    let recording = args.file.as_deref().map(|path| recording::read(path, skip)).transpose()?;
    let schedule = schedule(args, recording.as_ref());
    let recorded = recording.as_ref().map(|r| r.requests.as_slice());
    let tokens = tokens(args, recorded, schedule.span())?;
    let (host, port) = host_and_port(&args.url);
    let authority = args.url.authority().map_or(format!("{host}:{port}"), ToString::to_string);
    let mut broken = Vec::new();
    let requests = match recording {
        Some(recording) => {
            broken = recording.faults;
            Requests::Recorded(planned(args, recording.requests)?)
        }
        None => {
            let (method, target) = (args.method.clone(), origin_form(&args.url));
            Requests::Same { route: format!("{method} {}", target.path()), method, target }
        }
    };
    let headers = args.header.iter().cloned().collect();
    let script = Script { authority: authority.parse()?, headers, requests, tokens };
    Ok(Program { script, schedule, broken })
}

fn schedule(args: &Args, recording: Option<&Recording>) -> Schedule {
    match (recording, args.rate) {
        (Some(recording), None) if recording.timed => {
            let offsets = recording.requests.iter().map(|r| r.at.div_f64(args.speed));
            Schedule::recorded(offsets.collect())
        }
        (_, rate) => Schedule::even(rate.unwrap_or(100.0), args.seconds),
    }
}

/// Recorded requests with hosts mapped, variables filled in, and sessions numbered.
fn planned(args: &Args, recorded: Vec<Recorded>) -> Result<Vec<Planned>> {
    let mut sessions: BTreeMap<String, u64> = BTreeMap::new();
    let mut plan = |mut recorded: Recorded| {
        fill(&args.var, &mut recorded)?;
        let mapped = recorded.host.as_ref().and_then(|host| args.mapped(host));
        let host = mapped.map(str::parse).transpose().context("--map-host: no host")?;
        let known = recorded.session.take().or_else(|| recorded.user.clone());
        let next = sessions.len() as u64;
        let session = known.map(|name| *sessions.entry(name).or_insert(next));
        Ok(Planned { recorded, host, session })
    };
    recorded.into_iter().map(&mut plan).collect()
}

/// Puts values in the place of `{{NAME}}`; `{{user}}` is the recorded user.
fn fill(variables: &[(String, String)], recorded: &mut Recorded) -> Result<()> {
    let user = recorded.user.clone().map(|user| ("user".to_owned(), user));
    let all: Vec<&(String, String)> = variables.iter().chain(&user).collect();
    let filled = |text: &str| {
        all.iter().fold(text.to_owned(), |text, (name, value)| {
            // A URL carries the braces escaped.
            text.replace(&format!("{{{{{name}}}}}"), value)
                .replace(&format!("%7B%7B{name}%7D%7D"), value)
        })
    };
    let target = recorded.target.to_string();
    if target.contains("{{") || target.contains("%7B%7B") {
        let now = filled(&target);
        recorded.target = now.parse().with_context(|| format!("{now:?}: no path"))?;
    }
    for value in recorded.headers.values_mut() {
        if let Some(text) = value.to_str().ok().filter(|text| text.contains("{{")) {
            *value = filled(text).parse().context("--var: odd text in a header")?;
        }
    }
    if let Some(text) = std::str::from_utf8(&recorded.body).ok().filter(|t| t.contains("{{")) {
        recorded.body = filled(text).into();
    }
    Ok(())
}

fn tokens(args: &Args, recorded: Option<&[Recorded]>, length: Duration) -> Result<Tokens> {
    if let Some(token) = &args.token {
        return Ok(Tokens::Same(bearer(token)?));
    }
    if args.anonymous {
        return Ok(Tokens::None);
    }
    let signer = Signer::open(&args.keys()?, &args.grant)
        .context("tokens need the issuer's keys; --anonymous sends none")?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let lifetime = length + args.timeout + LEEWAY;
    let sign = |user: &str| bearer(&signer.sign(user, &args.scope, now, lifetime)?);
    let Some(recorded) = recorded else {
        ensure!(args.users.get() <= MOST_USERS, "--users: at most {MOST_USERS}");
        let users = args.first_user..args.first_user.saturating_add(args.users.get());
        return users
            .map(|user| sign(&user.to_string()))
            .collect::<Result<_>>()
            .map(Tokens::InTurn);
    };
    let mut by_name = BTreeMap::new();
    for user in recorded.iter().filter_map(|r| r.user.as_ref()) {
        if !by_name.contains_key(user) {
            by_name.insert(user.clone(), sign(user)?);
        }
    }
    Ok(Tokens::ByName(by_name))
}

/// Tokens are signed before the first request leaves; a million takes about a minute.
const MOST_USERS: u64 = 1_000_000;

/// Tokens outlive the replay by so long.
const LEEWAY: Duration = Duration::from_secs(600);

fn bearer(token: &str) -> Result<HeaderValue> {
    let mut value =
        HeaderValue::try_from(format!("Bearer {token}")).context("--token: odd text")?;
    value.set_sensitive(true);
    Ok(value)
}

impl Script {
    /// Request number `i`; a recording starts again at its end.
    pub(super) fn request(&self, i: u64) -> Request<Full<Bytes>> {
        let mut host = &self.authority;
        let mut request = match &self.requests {
            Requests::Same { method, target, .. } => plain(method, target, Bytes::new()),
            Requests::Recorded(all) => match pick(all, i) {
                Some(planned) => {
                    host = planned.host.as_ref().unwrap_or(host);
                    recorded_request(&planned.recorded)
                }
                None => Request::default(),
            },
        };
        let token = self.token(i).cloned();
        let headers = request.headers_mut();
        headers.extend(self.headers.clone());
        headers.insert(HOST, host.clone());
        if let Some(token) = token {
            headers.insert(AUTHORIZATION, token);
        }
        request
    }

    /// What the recording says of the answer of request `i`.
    pub(super) fn expected(&self, i: u64) -> Expected {
        self.planned(i).map(|planned| planned.recorded.expected).unwrap_or_default()
    }

    /// Requests of one session share connections and the client's address.
    pub(super) fn session(&self, i: u64) -> Option<u64> {
        self.planned(i)?.session
    }

    /// Whether any request has one.
    pub(super) fn has_sessions(&self) -> bool {
        match &self.requests {
            Requests::Same { .. } => false,
            Requests::Recorded(all) => all.iter().any(|planned| planned.session.is_some()),
        }
    }

    /// What the report groups request `i` by.
    pub(super) fn route(&self, i: u64) -> &str {
        match &self.requests {
            Requests::Same { route, .. } => route,
            Requests::Recorded(all) => pick(all, i).map_or("", |p| &p.recorded.route),
        }
    }

    fn planned(&self, i: u64) -> Option<&Planned> {
        match &self.requests {
            Requests::Same { .. } => None,
            Requests::Recorded(all) => pick(all, i),
        }
    }

    fn token(&self, i: u64) -> Option<&HeaderValue> {
        match &self.tokens {
            Tokens::None => None,
            Tokens::Same(token) => Some(token),
            Tokens::InTurn(tokens) => pick(tokens, i),
            Tokens::ByName(tokens) => tokens.get(self.planned(i)?.recorded.user.as_ref()?),
        }
    }
}

/// Item `i`, round and round.
fn pick<T>(items: &[T], i: u64) -> Option<&T> {
    items.get(usize::try_from(i.checked_rem(items.len() as u64)?).ok()?)
}

fn plain(method: &Method, target: &Uri, body: Bytes) -> Request<Full<Bytes>> {
    let mut request = Request::new(Full::new(body));
    *request.method_mut() = method.clone();
    *request.uri_mut() = target.clone();
    request
}

fn recorded_request(recorded: &Recorded) -> Request<Full<Bytes>> {
    let mut request = plain(&recorded.method, &recorded.target, recorded.body.clone());
    *request.headers_mut() = recorded.headers.clone();
    if !recorded.body.is_empty() {
        request.headers_mut().insert(CONTENT_LENGTH, recorded.body.len().into());
    }
    request
}

/// Host and port, the scheme's own where none is written.
pub(super) fn host_and_port(url: &Uri) -> (&str, u16) {
    let usual = if url.scheme_str() == Some("https") { 443 } else { 80 };
    (url.host().unwrap_or_default(), url.port_u16().unwrap_or(usual))
}

/// An absolute http or https URL.
pub(super) fn url(text: &str) -> Result<Uri, String> {
    let url = text.parse::<Uri>().ok();
    let lawful = |url: &Uri| matches!(url.scheme_str(), Some("https" | "http"));
    url.filter(lawful).ok_or_else(|| "write https://HOST:PORT/PATH".into())
}

/// `name: value`.
pub(super) fn header(text: &str) -> Result<(HeaderName, HeaderValue), String> {
    let (name, value) = text.split_once(':').ok_or("write NAME: VALUE")?;
    let name = name.trim().parse().map_err(|error| format!("{error}"))?;
    let value = value.trim().parse().map_err(|error| format!("{error}"))?;
    Ok((name, value))
}

/// `name=value`, for `--map-host` and `--var`.
pub(super) fn pair(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("write NAME=VALUE")?;
    Ok((name.into(), value.into()))
}

/// `host:address`.
pub(super) fn resolve(text: &str) -> Result<(String, IpAddr), String> {
    let (host, address) = text.split_once(':').ok_or("write HOST:ADDRESS")?;
    let address = address.parse().map_err(|_| format!("{address:?} is no IP address"))?;
    Ok((host.into(), address))
}
