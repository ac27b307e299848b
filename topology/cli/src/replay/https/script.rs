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
use super::recording::{self, Recorded};
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
    Same { method: Method, target: Uri },
    Recorded(Vec<Recorded>),
}

enum Tokens {
    None,
    Same(HeaderValue),
    /// Request `i` comes from user `i` modulo their number.
    InTurn(Vec<HeaderValue>),
    /// A recorded user's own.
    ByName(BTreeMap<String, HeaderValue>),
}

/// The script and its schedule.
///
/// # Errors
/// A file cannot be read, or says nothing that can be sent.
pub(super) fn plan(args: &Args) -> Result<(Script, Schedule)> {
    let recorded = args.file.as_deref().map(recording::read).transpose()?;
    let schedule = schedule(args, recorded.as_deref());
    let length = schedule.offset(schedule.total().saturating_sub(1)).unwrap_or_default();
    let tokens = tokens(args, recorded.as_deref(), length)?;
    let (host, port) = host_and_port(&args.url);
    let authority = args.url.authority().map_or(format!("{host}:{port}"), ToString::to_string);
    let requests = match recorded {
        Some(recorded) => Requests::Recorded(recorded),
        None => Requests::Same { method: args.method.clone(), target: origin_form(&args.url) },
    };
    let headers = args.header.iter().cloned().collect();
    Ok((Script { authority: authority.parse()?, headers, requests, tokens }, schedule))
}

fn schedule(args: &Args, recorded: Option<&[Recorded]>) -> Schedule {
    match (recorded, args.rate) {
        (Some(recorded), None) => Schedule::recorded(recorded.iter().map(|r| r.at).collect()),
        (_, rate) => Schedule::even(rate.unwrap_or(100.0), args.seconds),
    }
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
        let mut request = match &self.requests {
            Requests::Same { method, target } => plain(method, target, Bytes::new()),
            Requests::Recorded(all) => match pick(all, i) {
                Some(recorded) => recorded_request(recorded),
                None => Request::default(),
            },
        };
        let token = self.token(i).cloned();
        let headers = request.headers_mut();
        headers.extend(self.headers.clone());
        headers.insert(HOST, self.authority.clone());
        if let Some(token) = token {
            headers.insert(AUTHORIZATION, token);
        }
        request
    }

    /// The status that the recording has for request `i`.
    pub(super) fn recorded_status(&self, i: u64) -> Option<u16> {
        match &self.requests {
            Requests::Same { .. } => None,
            Requests::Recorded(all) => pick(all, i)?.status,
        }
    }

    fn token(&self, i: u64) -> Option<&HeaderValue> {
        match (&self.tokens, &self.requests) {
            (Tokens::None, _) => None,
            (Tokens::Same(token), _) => Some(token),
            (Tokens::InTurn(tokens), _) => pick(tokens, i),
            (Tokens::ByName(tokens), Requests::Recorded(all)) => {
                tokens.get(pick(all, i)?.user.as_ref()?)
            }
            (Tokens::ByName(_), Requests::Same { .. }) => None,
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

/// Path and query alone (RFC 9112 §3.2.1).
pub(super) fn origin_form(url: &Uri) -> Uri {
    let path = url.path_and_query().map_or("/", |path| path.as_str());
    path.parse().unwrap_or_else(|_| Uri::from_static("/"))
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

/// `host:address`.
pub(super) fn resolve(text: &str) -> Result<(String, IpAddr), String> {
    let (host, address) = text.split_once(':').ok_or("write HOST:ADDRESS")?;
    let address = address.parse().map_err(|_| format!("{address:?} is no IP address"))?;
    Ok((host.into(), address))
}
