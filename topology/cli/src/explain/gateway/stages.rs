//! The ten stages in words. Not for what they decide: the gateway's own stages have. Called by `gateway`.
//!
//! Invariant: no value of a header that may hold a secret is shown.

use http::header::{AUTHORIZATION, COOKIE};
use l7_gateway::exchange::{Candidate, Stage};
use l7_gateway::matcher::others::Lack;
use l7_gateway::preview::{Foreseen, Preview};
use topology::gateway::{
    AccessLog, Allowance, Client, Expected, Group, LimitAlgorithm, LimitId, Predicate, Route,
    RouteTo, UpstreamBalance, WhenAway,
};
use topology::units::Time;

use super::Arrival;
use crate::explain::balancer::called;
use crate::explain::question::Request;
use crate::explain::tree::{Step, Tone};

/// Tells all of them.
pub(super) fn tell(
    step: &mut Step,
    (group, preview): (&Group, &Preview),
    arrival: &Arrival<'_>,
    request: &Request,
    foreseen: &Foreseen,
) {
    if arrival.client.ip() != request.from.ip() {
        let text = format!(
            "takes {} for the client: the balancer does not say who it is, so limits by address are one for all",
            arrival.client.ip()
        );
        step.add(Tone::Doubt, text);
    }
    let mut silent = None;
    for stage in Stage::ALL {
        let skipped =
            foreseen.halted.is_some_and(|halted| stage > halted && stage <= Stage::Dispatch);
        if skipped {
            silent.get_or_insert(stage);
            continue;
        }
        if let Some(first) = silent.take() {
            step.add(Tone::Not, format!("{} to 8: do not run", first as usize));
        }
        let head = format!("{} {}", stage as usize, stage.name());
        let mut own = Step::new(Tone::Plain, head);
        let reasons = foreseen.reasons.iter().filter(|(at, _)| *at == stage);
        own.below.extend(reasons.map(|(_, reason)| Step::new(Tone::Plain, reason)));
        match stage {
            Stage::Tls => tls(&mut own, group, preview, request),
            Stage::Normalise => charged(&mut own, group, foreseen, stage),
            Stage::Authn => ways(&mut own, group, foreseen),
            Stage::RateLimit => {
                charged(&mut own, group, foreseen, stage);
                uncharged(&mut own, group, foreseen);
            }
            Stage::Route => others(&mut own, group, foreseen),
            Stage::RequestTransform => sent(&mut own, foreseen, request),
            Stage::Dispatch => dispatch(&mut own, group, foreseen),
            Stage::ResponseTransform => answer(&mut own, foreseen),
            Stage::Emit => emit(&mut own, group),
            Stage::Authz => {}
        }
        if foreseen.halted == Some(stage) {
            let mut end =
                Step::new(Tone::Refused, format!("answers {} itself", foreseen.answer.status));
            if foreseen.candidate.is_none() || stage == Stage::Normalise {
                unmatched(&mut end, group, foreseen);
            }
            own.below.push(end);
        }
        step.below.push(own);
    }
}

fn tls(own: &mut Step, group: &Group, preview: &Preview, request: &Request) {
    let Some(tls) = &group.tls else {
        own.plain("plain HTTP");
        return;
    };
    let host = request.url.host().unwrap_or_default();
    match preview.certificate(host) {
        Some(names) => {
            own.plain(format!("{host} is shown the certificate of {}", names.join(", ")))
        }
        None => own.add(Tone::Doubt, "its certificates are not on this host"),
    };
    if tls.client_ca.is_some() {
        own.plain(match &request.principal {
            Some(principal) => {
                format!("clients are asked for a certificate; this one shows that of {principal}")
            }
            None => "clients are asked for a certificate; this one shows none".to_owned(),
        });
    }
}

/// Who may call, where nobody did.
fn ways(own: &mut Step, group: &Group, foreseen: &Foreseen) {
    let Some(route) = route(group, foreseen) else { return };
    let topology::gateway::Auth::Asked(ways) = &route.policy.auth else { return };
    let issuers = ways.issuers.iter().filter_map(|id| group.issuers.get(id.0));
    let keys = ways.api_keys.iter().filter_map(|id| group.api_keys.get(id.0));
    let mut all: Vec<String> = issuers.map(|one| format!("a token of {}", one.name)).collect();
    all.extend(keys.map(|one| format!("a key of {}", one.name)));
    if ways.certificate == topology::gateway::Certified::Enough {
        all.push("a client certificate".to_owned());
    }
    own.plain(format!("the route takes {}", all.join(", or ")));
}

fn route<'g>(group: &'g Group, foreseen: &Foreseen) -> Option<&'g Route> {
    group.routes.get(foreseen.candidate?.route()?.0)
}

fn charged(own: &mut Step, group: &Group, foreseen: &Foreseen, stage: Stage) {
    for (_, id, key) in foreseen.charged.iter().filter(|(at, ..)| *at == stage) {
        own.plain(format!("charges {}", limit(group, *id)));
        if let Some(last) = own.below.last_mut() {
            last.plain(format!("key {key}"));
        }
    }
    if let (Stage::RateLimit, Some(store)) = (stage, &group.limit_store) {
        let at: Vec<_> = store.redis.iter().map(|at| hidden(&at.value)).collect();
        let away = match store.when_away {
            WhenAway::FailOpen => "requests pass uncounted",
            WhenAway::FailClosed => "requests are refused with 503",
            WhenAway::LocalShare => "each instance has its share",
        };
        own.plain(format!("counted in {}; while it is away {away}", at.join(", ")));
    }
}

/// An address without what may be a password.
fn hidden(url: &str) -> String {
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    let bare = rest.rsplit_once('@').map_or(rest, |(_, bare)| bare);
    format!("{scheme}://{bare}")
}

fn limit(group: &Group, id: LimitId) -> String {
    let Some(limit) = group.limits.get(id.0) else { return String::new() };
    let allows = match limit.allows {
        Allowance::Rate { rate, burst, algorithm } => {
            let how = match algorithm {
                LimitAlgorithm::TokenBucket => format!("token bucket of {burst}"),
                LimitAlgorithm::LeakyBucket => format!("leaky bucket with a line of {burst}"),
                LimitAlgorithm::FixedWindow => "fixed window".to_owned(),
                LimitAlgorithm::SlidingWindow => "sliding window".to_owned(),
            };
            format!("{rate}, {how}")
        }
        Allowance::Quota(quota) => quota.to_string(),
        Allowance::Concurrent(most) => format!("{most} at a time"),
    };
    format!("{}: {allows}", limit.name)
}

/// Limits of the policy that charge nobody here.
fn uncharged(own: &mut Step, group: &Group, foreseen: &Foreseen) {
    let Some(route) = route(group, foreseen) else { return };
    for id in &route.policy.limits {
        if foreseen.charged.iter().all(|(_, charged, _)| charged != id)
            && let Some(limit) = group.limits.get(id.0)
        {
            let by: Vec<_> = limit.by.iter().map(|by| format!("{by:?}").to_lowercase()).collect();
            let plans = match limit.plans.is_empty() {
                true => String::new(),
                false => format!(" of plan {}", limit.plans.join(", ")),
            };
            let by = by.join(" and ");
            own.add(Tone::Not, format!("{}: the request has no {by}{plans}", limit.name));
        }
    }
}

fn unmatched(end: &mut Step, group: &Group, foreseen: &Foreseen) {
    if foreseen.candidate == Some(Candidate::Unmatched) {
        others(end, group, foreseen);
    }
}

/// The routes that are not taken, those that came close first.
fn others(own: &mut Step, group: &Group, foreseen: &Foreseen) {
    for part in route(group, foreseen).into_iter().flat_map(|route| &route.split) {
        if foreseen.to.and_then(RouteTo::service) != Some(part.to)
            && let Some(to) = group.upstreams.get(part.to.0)
        {
            let text = format!("the {} that go to {}: others are in it", part.part, to.service);
            own.add(Tone::Not, text);
        }
    }
    let near = |lack: &Lack| match lack {
        Lack::Nothing => 0,
        Lack::Method => 1,
        Lack::Predicate(_) => 2,
        Lack::Path => 3,
        Lack::Host => 4,
    };
    let mut all: Vec<_> = foreseen.others.iter().collect();
    all.sort_by_key(|(_, lack)| near(lack));
    for (id, lack) in all.iter().take(MOST) {
        let Some(route) = group.routes.get(id.0) else { continue };
        own.add(Tone::Not, format!("{}: {}", route.name, because(route, lack)));
    }
    if let Some(more) = all.len().checked_sub(MOST).filter(|more| *more > 0) {
        own.add(Tone::Not, format!("{more} more, for other paths or hosts"));
    }
}

fn because(route: &Route, lack: &Lack) -> String {
    match lack {
        Lack::Host => {
            let hosts: Vec<_> = route.hosts.iter().map(ToString::to_string).collect();
            format!("for {} alone", hosts.join(", "))
        }
        Lack::Path => format!("for {}", route.path),
        Lack::Method => format!("for {}", route.methods.join(", ")),
        Lack::Predicate(missing) => format!("wants {}", wanted(missing)),
        Lack::Nothing => "fits, and a more specific one is taken".to_owned(),
    }
}

fn wanted(predicate: &Predicate) -> String {
    let pair = |kind: &str, name: &str, value: &Expected| match value {
        Expected::Any => format!("{kind} {name}"),
        Expected::Exactly(value) => format!("{kind} {name} = {value}"),
    };
    match predicate {
        Predicate::Header(name, value) => pair("header", name, value),
        Predicate::Query(name, value) => pair("query parameter", name, value),
        Predicate::Cookie(name, value) => pair("cookie", name, value),
        Predicate::AcceptVersion(versions) => {
            let versions: Vec<_> =
                versions.iter().map(|one| one.as_deref().unwrap_or("none")).collect();
            format!("Accept with version {}", versions.join(" or "))
        }
        Predicate::Client(Client::Mobile) => "User-Agent of a phone".to_owned(),
        Predicate::Client(Client::Desktop) => "User-Agent of no phone".to_owned(),
    }
}

/// What the service is sent: what the client sent is not repeated.
fn sent(own: &mut Step, foreseen: &Foreseen, request: &Request) {
    let Some(sent) = &foreseen.sent else { return };
    own.plain(format!("sends {} {}", sent.method, sent.uri));
    for (name, value) in &sent.headers {
        let same = request.headers.iter().any(|(other, was)| other == name && was == value);
        if same || name == "host" {
            continue;
        }
        let value = match name.as_str() {
            "x-request-id" | "traceparent" | "x-aqueduct-identity" => {
                "made for each request".into()
            }
            _ if name == AUTHORIZATION || name == COOKIE => "…".into(),
            _ => String::from_utf8_lossy(value.as_bytes()),
        };
        own.plain(format!("with {name}: {value}"));
    }
    for (name, _) in &request.headers {
        if !sent.headers.contains_key(name) {
            own.add(Tone::Not, format!("{name} goes no further"));
        }
    }
}

fn dispatch(own: &mut Step, group: &Group, foreseen: &Foreseen) {
    let route = route(group, foreseen);
    if route.is_some_and(|route| route.cache.is_some()) {
        own.plain("an answer that is kept is given in the service's place");
    }
    match foreseen.to {
        Some(RouteTo::Files(id)) => {
            if let Some(files) = group.files.get(id.0) {
                own.plain(format!("a file below {}", files.directory.value.display()));
            }
        }
        Some(RouteTo::Service(id)) => {
            let Some(upstream) = group.upstreams.get(id.0) else { return };
            let by = match &upstream.balance {
                UpstreamBalance::RoundRobin => "in turn".to_owned(),
                UpstreamBalance::LeastConnections => "fewest requests under way".to_owned(),
                UpstreamBalance::TwoChoices => "the better of two".to_owned(),
                UpstreamBalance::Hash(by) => format!("by a hash of {by:?}").to_lowercase(),
            };
            let mut to = Step::new(Tone::Plain, format!("endpoint {by}"));
            for (index, endpoint) in upstream.endpoints.iter().enumerate() {
                let text = called(endpoint);
                match foreseen.endpoint {
                    Some(taken) if taken == index => to.plain(format!("{text} is taken first")),
                    Some(_) => to.add(Tone::Not, text),
                    None => to.plain(format!("perhaps {text}")),
                };
            }
            own.below.push(to);
        }
        Some(RouteTo::Given(_)) => {
            own.plain("the answer is in the file: nobody is asked");
        }
        Some(RouteTo::Aggregate(_)) => {
            own.plain("several services are asked side by side, and their answers become one");
        }
        None => {}
    }
    if let Some(route) = route {
        own.plain(format!("the answer's head within {}", Time(route.timeout)));
        if let Some(mirror) = &route.mirror {
            let name = group.upstreams.get(mirror.to.0).map_or("", |one| one.service.as_str());
            own.plain(format!("a copy of safe requests to {name}: {}", mirror.part));
        }
    }
}

fn answer(own: &mut Step, foreseen: &Foreseen) {
    let what = match foreseen.halted {
        Some(_) => "sets on our answer",
        None => "sets on the service's answer",
    };
    for (name, value) in &foreseen.answer.headers {
        let value = if name == "x-request-id" { "made for each request" } else { value.as_str() };
        own.plain(format!("{what} {name}: {value}"));
    }
}

fn emit(own: &mut Step, group: &Group) {
    own.plain(match &group.access_log {
        AccessLog::Stdout => "one record to standard output".to_owned(),
        AccessLog::File(path) => format!("one record to {}", path.value.display()),
        AccessLog::Off => "no record: access-log is off".to_owned(),
    });
}

/// Routes that are told one by one.
const MOST: usize = 8;
