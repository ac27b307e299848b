//! The `gateways:` section: instances, what stands before the routes, and routes. What a route asks
//! (tokens, scopes, limits, origins) is in `policy`, where it leads in `upstream`.
//!
//! Invariant: every index in a result is in range.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use crate::answers::{Attached, Deprecation};
use crate::gateway::{
    AccessLog, Auth, Expected, ForwardedIn, Front, Group, Instance, Limit, LimitBy, LimitStore,
    Mirror, Predicate, Route, RoutePolicy, RouteTimes, TrustForwarded, WhenAway,
};
use crate::problem::nearest;
use crate::raw::{self, Entry, Findings, Named, OneOrMany, Spot, Text, Typed};
use crate::resolve::answers::{self, Leads, Way};
use crate::resolve::certificates::Certificates;
use crate::resolve::cors::of_service;
use crate::resolve::external::external;
use crate::resolve::inherited::{self, Inherited, consumers, inherited};
use crate::resolve::l4::networks;
use crate::resolve::names::Names;
use crate::resolve::policy::{self, Policies};
use crate::resolve::register::{advertised, register};
use crate::resolve::split::{Experiments, split, sticky};
use crate::resolve::store::{self, Who};
use crate::resolve::telemetry::{recording, telemetry};
use crate::resolve::tls::tls;
use crate::resolve::transcode::{transcode, web};
use crate::resolve::transform::{Scope, Served, Tokens, of_route};
use crate::resolve::upstream::{Upstreams, concurrency};
use crate::resolve::{bound, cache, count, drain, filled, identity, or, overlap, positive};
use crate::units::{At, GroupName, InstanceName, PathPattern, RouteName, SecretRef, Size, Time};

/// Longest time that a decision may wait for the limit store.
const LONGEST_DECISION: Duration = Duration::from_secs(1);

/// One gateway group.
pub(super) fn group(entry: Entry<raw::GatewayGroup>, names: &Names, out: &mut Findings) -> Group {
    let Entry { name, spot, value: raw } = entry;
    filled(raw.instances.as_ref().map(|named| &*named.0), "instances", &spot, out);
    filled(raw.routes.as_deref(), "routes", &spot, out);
    let instances = instances(raw.instances, raw.register.is_some(), out);
    let certificates = Certificates::of(raw.tls.as_ref());
    let of_callers = (raw.issuers, raw.api_keys, raw.limits);
    let mut policies = Policies::new(of_callers, certificates, names, out);
    if raw.limit_store.is_none() {
        policies.unshared(instances.len(), out);
    }
    let (changes, outside, inherited) = inherited(raw.defaults, &mut policies, names, out);
    let unmatched = raw.unmatched.map(|raw| inherited::unmatched(raw, &mut policies, out));
    let mut leads = Leads::new(Upstreams::new(raw.upstreams, certificates));
    let mut experiments = Experiments::new(raw.experiments, out);
    let routes = raw.routes.unwrap_or_default();
    let mut routes: Vec<(Route, Spot)> = routes
        .into_iter()
        .filter_map(|mut route| {
            let named = experiments.ids(route.experiments.take(), out);
            let found = self::route(route, &inherited, &mut policies, &mut leads, names, out);
            found.map(|(route, spot)| (Route { experiments: named, ..route }, spot))
        })
        .collect();
    distinct(&mut routes, out);
    overlap::check(&routes, out);
    leads.upstreams.unused(out);
    let drain = drain(raw.drain);
    let kept = routes.iter().any(|(route, _)| route.cache.is_some());
    let consumers = consumers(raw.consumers, (certificates, &policies), names, out);
    let (issuers, api_keys, limits) = policies.finish(&routes, out);
    let device_claim = raw.device_claim.map(|typed| typed.value.0);
    let device_cookie =
        raw.device_cookie.and_then(|cookie| identity::device_cookie(cookie, names, out));
    if device_claim.is_none() && device_cookie.is_none() {
        uncounted_devices(&limits, &spot, out);
    }
    Group {
        name: GroupName::new(&name),
        instances,
        trust_proxy_protocol_from: networks(raw.trust_proxy_protocol_from),
        trust_forwarded_for: raw.trust_forwarded_for.map(|raw| forwarded(raw, out)),
        forwarded: raw.forwarded.is_some_and(|typed| typed.value.0),
        tls: raw.tls.map(|raw| tls(raw, names, out)),
        front: front(raw.front, out),
        issuers,
        api_keys,
        limits,
        device_claim,
        device_cookie,
        identity_headers: certificates.told(raw.identity_headers.unwrap_or_default(), out),
        signed_identity: raw.signed_identity.and_then(|raw| identity::signed(raw, names, out)),
        denylist: raw.denylist.and_then(|raw| identity::denylist(raw, names, out)),
        limit_store: raw.limit_store.and_then(|store| limit_store(store, names, out)),
        unmatched,
        transform: changes,
        internal_headers: internal(raw.internal_headers, out),
        security_headers: inherited.security,
        external: outside,
        compress: inherited.compress,
        consumers,
        experiments: experiments.finish(out),
        routes: routes.into_iter().map(|(route, _)| route).collect(),
        upstreams: leads.upstreams.finish(),
        files: leads.files,
        given: leads.given,
        aggregates: leads.aggregates,
        cache: kept.then_some(cache::store(raw.cache, out)),
        access_log: raw.access_log.map_or(AccessLog::Stdout, |log| access_log(&log, names, out)),
        record: raw.record.and_then(|raw| recording(raw, names, out)),
        telemetry: telemetry(raw.telemetry, out),
        register: raw.register.and_then(|raw| register(raw, drain, names, out)),
        drain,
        place: spot.extent.place,
    }
}

/// A limit by device needs to know what one is.
fn uncounted_devices(limits: &[Limit], spot: &Spot, out: &mut Findings) {
    let by_device = |limit: &&Limit| limit.by.contains(&LimitBy::Device);
    let Some(limit) = limits.iter().find(by_device) else { return };
    out.error(spot, format!("`{}` counts devices, but nothing says what one is", limit.name))
        .allowed("`device-claim: NAME`, the claim of a token that names it; `device-cookie`, one that the gateway hands out");
}

/// Headers of services that clients do not see.
fn internal(raw: Option<OneOrMany<Typed<Text>>>, out: &mut Findings) -> Vec<String> {
    let named = raw.map_or(Vec::new(), |all| all.0);
    if let [one] = named.as_slice()
        && one.value.0 == "none"
    {
        return Vec::new();
    }
    let mut all: Vec<String> = INTERNAL.map(str::to_owned).to_vec();
    for typed in named {
        let name = typed.value.0.to_ascii_lowercase();
        let framing = FRAMING.contains(&name.as_str()) || name == "content-encoding";
        if name == "none" || framing || !policy::token(&name) {
            out.error(&typed.spot, format!("`{name}` cannot be kept from clients"))
                .allowed("names of headers that do not frame a message, or `none` alone");
        } else if !all.contains(&name) {
            all.push(name);
        }
    }
    all
}

/// What names a server inside.
const INTERNAL: [&str; 4] = ["x-internal-server", "x-powered-by", "x-user-id", "server"];

fn forwarded(raw: raw::TrustForwarded, out: &mut Findings) -> TrustForwarded {
    filled(raw.from.as_deref(), "from", &raw.spot, out);
    for network in raw.from.iter().flatten().filter(|network| network.value.prefix_len() == 0) {
        let what = format!("`{}` lets every client say who it is", network.value);
        out.error(&network.spot, what).hint("name the networks of the proxies alone");
    }
    if let Some(hops) = raw.hops.as_ref().filter(|hops| hops.value.get() > MOST_HOPS) {
        let what = format!("`{}` is over {MOST_HOPS}", hops.value);
        out.error(&hops.spot, what).allowed("how many proxies a request passes, 1 or 2 as a rule");
    }
    TrustForwarded {
        from: networks(raw.from),
        hops: count(raw.hops, 1),
        header: or(raw.header, ForwardedIn::default()),
    }
}

const MOST_HOPS: u32 = 16;

fn instances(
    raw: Option<Named<raw::GatewayInstance>>,
    registers: bool,
    out: &mut Findings,
) -> Vec<Instance> {
    let all = raw.unwrap_or_default().into_iter();
    all.filter_map(|entry| instance(entry, registers, out)).collect()
}

fn instance(
    entry: Entry<raw::GatewayInstance>,
    registers: bool,
    out: &mut Findings,
) -> Option<Instance> {
    let (listen, raw) = (entry.value.listen?, entry.value.advertise);
    let at = Some((listen.value, &listen.spot));
    let advertise = advertised(at, &entry.spot, raw, registers, out);
    Some(Instance {
        name: InstanceName::new(&entry.name),
        listen: listen.at(),
        admin: entry.value.admin.map(Typed::at),
        advertise,
        place: entry.spot.extent.place,
    })
}

fn front(raw: Option<raw::Front>, out: &mut Findings) -> Front {
    let raw = raw.unwrap_or_else(empty_front);
    let concurrency = concurrency(raw.max_requests.as_ref(), raw.queue.as_ref(), out);
    let mut wait =
        |typed: Option<Typed<Time>>, default| positive(typed, Duration::from_secs(default), out);
    let (handshake_timeout, header_timeout) =
        (wait(raw.handshake_timeout, 5), wait(raw.header_timeout, 10));
    let (body_idle_timeout, idle_timeout) =
        (wait(raw.body_idle_timeout, 30), wait(raw.idle_timeout, 60));
    Front {
        max_connections: count(raw.max_connections, 20_000),
        concurrency,
        max_headers: raw.max_headers.map_or(nonzero(100), |typed| typed.value),
        max_head_bytes: bytes(raw.max_head, 64 << 10, out),
        max_uri_bytes: bytes(raw.max_uri, 8 << 10, out),
        max_body_bytes: or(raw.max_body, Size(10 << 20)).0,
        handshake_timeout,
        header_timeout,
        body_idle_timeout,
        idle_timeout,
    }
}

fn empty_front() -> raw::Front {
    raw::Front {
        max_connections: None,
        max_requests: None,
        queue: None,
        max_headers: None,
        max_head: None,
        max_uri: None,
        max_body: None,
        handshake_timeout: None,
        header_timeout: None,
        body_idle_timeout: None,
        idle_timeout: None,
    }
}

fn nonzero(number: usize) -> std::num::NonZeroUsize {
    std::num::NonZeroUsize::new(number).unwrap_or(std::num::NonZeroUsize::MIN)
}

/// A size that is held in memory per connection: 256 bytes to 16 MiB.
fn bytes(typed: Option<Typed<Size>>, default: usize, out: &mut Findings) -> std::num::NonZeroUsize {
    let Some(typed) = typed else { return nonzero(default) };
    if !(256..=16 << 20).contains(&typed.value.0) {
        let what = format!("{} is outside of what a connection may hold", typed.value);
        out.error(&typed.spot, what).allowed("256B to 16MiB");
    }
    nonzero(usize::try_from(typed.value.0).unwrap_or(default))
}

fn limit_store(raw: raw::LimitStore, names: &Names, out: &mut Findings) -> Option<LimitStore> {
    let nodes = raw.redis?.0;
    if nodes.len() > 1 {
        for node in &nodes {
            let text = node.value.0.as_str();
            if text.starts_with("rediss://") {
                out.error(&node.spot, "a cluster is not spoken to over TLS")
                    .allowed("redis://HOST:PORT");
            } else if text.trim_start_matches("redis://").contains('/') {
                out.error(&node.spot, "a cluster has no databases").allowed("redis://HOST:PORT");
            }
        }
    }
    if let Some(timeout) = raw.timeout.as_ref().filter(|it| it.value.0 > LONGEST_DECISION) {
        out.error(&timeout.spot, "every request would wait so long for counters that are away")
            .allowed("up to 1s; 20ms is the default");
    }
    let who = Who { user: raw.user, password: raw.password, ca: raw.ca };
    let (redis, tls): (Vec<_>, Vec<_>) =
        nodes.into_iter().map(|node| store::redis(node, out)).unzip();
    Some(LimitStore {
        redis,
        login: who.at_redis(tls.contains(&true), names, out),
        when_away: or(raw.when_away, WhenAway::LocalShare),
        timeout: positive(raw.timeout, Duration::from_millis(20), out),
    })
}

/// The spot; where its line may hold a password, such that the line is not shown.
pub(super) fn hidden(at: &Spot, secret: bool) -> Spot {
    let mut at = at.clone();
    if secret {
        at.extent.width = 0;
    }
    at
}

fn access_log(typed: &Typed<Text>, names: &Names, out: &mut Findings) -> AccessLog {
    let place = typed.spot.extent.place;
    match typed.value.0.as_str() {
        "stdout" => AccessLog::Stdout,
        "off" => AccessLog::Off,
        text => {
            if let Ok(SecretRef::File(path)) = text.parse() {
                return AccessLog::File(At { value: names.folder.join(path), place });
            }
            let note = out.error(&typed.spot, format!("`{text}` is no place for records"));
            let note = note.allowed("stdout, off, file:PATH");
            if let Some(near) = nearest(text, ["stdout", "off"]) {
                note.meant(near);
            }
            AccessLog::Off
        }
    }
}

/// What templates of one route can know.
fn of_one<'r>(
    path: Option<&'r PathPattern>,
    policy: &'r RoutePolicy,
    policies: &Policies,
) -> Scope<'r> {
    let certificates = policies.certificates;
    let tokens = match &policy.auth {
        Auth::Asked(ways) if policies.names_consumers(&ways.issuers) => Tokens::OfConsumers,
        _ => Tokens::OfUsers,
    };
    let auth = Some(&policy.auth);
    Scope { path, auth, calls: &[], served: Served::Perhaps, certificates, tokens }
}

fn route(
    mut raw: raw::Route,
    inherited: &Inherited,
    policies: &mut Policies,
    leads: &mut Leads,
    names: &Names,
    out: &mut Findings,
) -> Option<(Route, Spot)> {
    let (when, times, deprecation) = (when(&mut raw), times(&mut raw, out), ending(&mut raw, out));
    let mut methods = policy::methods(raw.methods.as_deref().unwrap_or_default(), out);
    if raw.aggregate.is_some() {
        answers::reads_only(&mut methods, &raw.spot, out);
    }
    let own_cors = raw.cors.is_some();
    let asked = policy::Asked {
        at: &raw.spot,
        auth: raw.auth,
        scopes: raw.scopes,
        allow: raw.allow,
        access: raw.access,
        authorize: raw.authorize,
        limits: raw.limits,
        cors: raw.cors,
        by: Attached::Route,
        methods: &methods,
    };
    let mut policy = policies.route(asked, inherited.policy.as_ref(), out);
    let pattern = raw.path.as_ref().map(|path| path.value.clone());
    let scope = of_one(pattern.as_ref(), &policy, policies);
    let way = Way {
        at: &raw.spot,
        scope,
        to: raw.to.as_ref(),
        files: raw.files,
        redirect: raw.redirect,
        answer: raw.answer,
        aggregate: raw.aggregate,
        beside: beside(&raw.split, &raw.mirror, &raw.cache),
    };
    let to = leads.lead(way, names, out);
    answers::unpassed(to, (raw.validate.is_some(), raw.external.is_some()), &raw.spot, out);
    let transform = raw.transform.map(|raw| of_route(raw, to, scope, out));
    let split = split(raw.split.unwrap_or_default(), &mut leads.upstreams, names, out);
    let transcode = raw.transcode.and_then(|raw| transcode(raw, to, &leads.upstreams, names, out));
    let contract = inherited.contract(raw.validate, names, out);
    if !own_cors {
        policy.cors = of_service(policy.cors, (to, &*split), (&leads.upstreams, &raw.spot), out);
    }
    let web_of = (to, contract.is_some() || leads.upstreams.describes(to), &leads.upstreams);
    let grpc_web = web(raw.grpc_web.as_ref(), web_of, policy.cors.as_mut(), out);
    let sticky = sticky(raw.sticky.as_ref(), out);
    let mirror = raw.mirror.and_then(|mirror| self::mirror(mirror, leads, names, out));
    let maintenance = answers::maintenance(raw.maintenance, inherited.maintenance.as_ref(), out);
    let security_headers = answers::security(raw.security_headers, inherited.security, out);
    let hosts = raw.host.map_or(Vec::new(), |hosts| hosts.0);
    let path = raw.path?.value;
    let route = Route {
        name: RouteName::new(&raw.name.map_or_else(|| path.to_string(), |typed| typed.value.0)),
        hosts: hosts.into_iter().map(|typed| typed.value).collect(),
        path,
        methods,
        when,
        policy,
        to: to?,
        cache: cache::policy(raw.cache, out),
        split,
        sticky,
        experiments: Vec::new(),
        mirror,
        sunset: raw.sunset.map(|typed| typed.value),
        deprecation,
        maintenance,
        compress: answers::compress(raw.compress),
        security_headers,
        max_body_bytes: raw.max_body.map(|typed| typed.value.0),
        timeout: positive(raw.timeout, Duration::from_secs(15), out),
        times,
        response_headers: headers(raw.response_headers, out),
        transform,
        external: raw.external.and_then(|raw| external(raw, out)),
        contract,
        transcode,
        grpc_web,
        place: raw.spot.extent.place,
    };
    Some((route, raw.spot))
}

/// What stands on a route that only makes sense where it leads to a service.
fn beside<S, M, C>(
    split: &Option<S>,
    mirror: &Option<M>,
    cache: &Option<C>,
) -> Option<&'static str> {
    let split = split.as_ref().map(|_| "split");
    split.or(mirror.as_ref().map(|_| "mirror")).or(cache.as_ref().map(|_| "cache"))
}

fn mirror(
    raw: raw::Mirror,
    leads: &mut Leads,
    names: &Names,
    out: &mut Findings,
) -> Option<Mirror> {
    let at = raw.to?;
    let to = leads.upstreams.lead(&at, names, out)?;
    leads.upstreams.unasked(to, ("a copy", &at.spot), out);
    Some(Mirror { to, part: raw.part?.value })
}

/// What a request must have beside host, path and method.
fn when(raw: &mut raw::Route) -> Vec<Predicate> {
    let versions = raw.accept_version.take().map(|versions| {
        let version = |typed: Typed<Text>| Some(typed.value.0).filter(|text| text != "none");
        Predicate::AcceptVersion(versions.0.into_iter().map(version).collect())
    });
    let client = raw.client.take().map(|typed| Predicate::Client(typed.value));
    predicates(&raw.headers, &raw.query, &raw.cookies).chain(versions).chain(client).collect()
}

fn times(raw: &mut raw::Route, out: &mut Findings) -> RouteTimes {
    RouteTimes {
        connect: bound(raw.connect_timeout.take(), out),
        first_byte: bound(raw.first_byte_timeout.take(), out),
        attempt: bound(raw.try_timeout.take(), out),
        idle: bound(raw.answer_idle_timeout.take(), out),
        total: bound(raw.total_timeout.take(), out),
    }
}

fn ending(raw: &mut raw::Route, out: &mut Findings) -> Deprecation {
    let since = raw.deprecated.take().map(|typed| typed.value);
    let link = answers::link(raw.deprecation_link.take(), out);
    let version = raw.version.take().map(|typed| typed.value.0);
    Deprecation { version, since, link, successor: answers::link(raw.successor.take(), out) }
}

/// What a request must have.
fn predicates(
    headers: &Option<Named<Typed<Text>>>,
    query: &Option<Named<Typed<Text>>>,
    cookies: &Option<Named<Typed<Text>>>,
) -> impl Iterator<Item = Predicate> {
    let all = |named: &Option<Named<Typed<Text>>>| {
        let entries = named.iter().flat_map(|named| &named.0);
        let read = |entry: &Entry<Typed<Text>>| {
            let text = &entry.value.value.0;
            let any = text == "*";
            (entry.name.clone(), if any { Expected::Any } else { Expected::Exactly(text.clone()) })
        };
        entries.map(read).collect::<Vec<_>>().into_iter()
    };
    let headers = all(headers).map(|(name, v)| Predicate::Header(name.to_ascii_lowercase(), v));
    let query = all(query).map(|(name, value)| Predicate::Query(name, value));
    headers.chain(query).chain(all(cookies).map(|(name, value)| Predicate::Cookie(name, value)))
}

/// Headers that frame a message (RFC 9110 §7.6.1, RFC 9112 §6).
pub(super) const FRAMING: [&str; 7] =
    ["connection", "content-length", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade"];

/// Headers that a route sets; not those that frame a message.
fn headers(raw: Option<Named<Typed<Text>>>, out: &mut Findings) -> Vec<(String, String)> {
    let mut all: Vec<(String, String)> = Vec::new();
    for entry in raw.unwrap_or_default() {
        let name = entry.name.to_ascii_lowercase();
        if !policy::token(&name) {
            out.error(&entry.spot, format!("`{name}` is no header's name"))
                .allowed("letters, digits and !#$%&'*+-.^_`|~ (RFC 9110 §5.6.2)");
        } else if FRAMING.contains(&name.as_str()) {
            out.error(&entry.spot, format!("`{name}` is set by the gateway itself"))
                .allowed("any header that does not frame the message");
        } else if all.iter().any(|(other, _)| *other == name) {
            out.error(&entry.spot, format!("`{name}` is set twice")).allowed("each header once");
        }
        all.push((name, entry.value.value.0));
    }
    all
}

/// Notes routes that can never be told apart, and names those without a name of their own that
/// share a path.
fn distinct(routes: &mut [(Route, Spot)], out: &mut Findings) {
    let mut matches: HashMap<_, u32> = HashMap::new();
    let mut names: HashSet<RouteName> = HashSet::new();
    for (route, spot) in routes {
        let what =
            (route.path.clone(), route.hosts.clone(), route.methods.clone(), route.when.clone());
        if let Some(line) = matches.get(&what) {
            let what = format!("this matches exactly what the route on line {line} matches");
            out.error(spot, what).allowed(
                "each path, host and method once, or `headers`, `query`, `cookies` that differ",
            );
            continue;
        }
        matches.insert(what, route.place.line);
        if names.insert(route.name.clone()) {
            continue;
        }
        if route.name.as_str() != route.path.to_string() {
            let what = format!("another route is already named `{}`", route.name);
            out.error(spot, what).allowed("each name once in a group");
            continue;
        }
        route.name = longer(route);
        if !names.insert(route.name.clone()) {
            out.error(spot, "another route has this path too").allowed("a `name` for one of them");
        }
    }
}

/// A route's path with its methods and hosts before it, and what else it wants behind.
fn longer(route: &Route) -> RouteName {
    let hosts: Vec<String> = route.hosts.iter().map(ToString::to_string).collect();
    let wanted = |wanted: &Expected| match wanted {
        Expected::Any => "*".to_owned(),
        Expected::Exactly(text) => text.clone(),
    };
    let more = route.when.iter().map(|predicate| match predicate {
        Predicate::Header(name, value) => format!("{name}:{}", wanted(value)),
        Predicate::Query(name, value) => format!("?{name}={}", wanted(value)),
        Predicate::Cookie(name, value) => format!("{name}={}", wanted(value)),
        Predicate::AcceptVersion(versions) => {
            let words: Vec<_> =
                versions.iter().map(|version| version.as_deref().unwrap_or("none")).collect();
            format!("version {}", words.join(","))
        }
        Predicate::Client(client) => format!("{client:?}").to_lowercase(),
    });
    let mut words = vec![route.methods.join(","), hosts.join(","), route.path.to_string()];
    words.extend(more);
    let words: Vec<&str> = words.iter().map(String::as_str).filter(|w| !w.is_empty()).collect();
    RouteName::new(&words.join(" "))
}
