//! Where a group's routes lead: services and balancers' listeners with how they are called. Not for
//! routes themselves: `gateway`.
//!
//! Invariant: an `UpstreamId` that is handed out is in range.

use std::num::NonZeroU32;
use std::time::Duration;

use crate::answers::{Attached, Compress, Word};
use crate::contract::Contract;
use crate::external::External;
use crate::gateway::{Certificate, Cors, RouteTo};
use crate::l4::Protocol;
use crate::model::Probe;
use crate::problem::nearest;
use crate::raw::{self, Findings, Named, Spot, Text, Typed};
use crate::resolve::answers::compress;
use crate::resolve::certificates::Certificates;
use crate::resolve::contract::contract;
use crate::resolve::cors::cors;
use crate::resolve::external::external;
use crate::resolve::l4::reachable;
use crate::resolve::names::{Destination, Names, Wanted};
use crate::resolve::transform::{Scope, transform};
use crate::resolve::{bound, count, or, positive, secret};
use crate::transform::Transform;
use crate::units::{At, Percent, Time};
use crate::upstream::{
    Concurrency, Ejection, Retry, RetryOn, Times, Upstream, UpstreamBalance, UpstreamId,
    UpstreamProtocol, UpstreamTls, Via,
};

/// Where routes of one group lead, each only once.
pub(super) struct Upstreams {
    settings: Option<Named<raw::Upstream>>,
    certificates: Certificates,
    all: Vec<(String, Upstream)>,
}

impl Upstreams {
    /// None yet; what the file says of each is in `settings`.
    pub(super) fn new(settings: Option<Named<raw::Upstream>>, certificates: Certificates) -> Self {
        Self { settings, certificates, all: Vec::new() }
    }

    /// All that routes led to.
    pub(super) fn finish(self) -> Vec<Upstream> {
        self.all.into_iter().map(|(_, upstream)| upstream).collect()
    }

    /// Where this leads; known from now on.
    pub(super) fn lead(
        &mut self,
        to: &Typed<Text>,
        names: &Names,
        out: &mut Findings,
    ) -> Option<UpstreamId> {
        let text = to.value.0.as_str();
        if let Some(index) = self.all.iter().position(|(known, _)| known == text) {
            return Some(UpstreamId(index));
        }
        let Some(destination) = names.destination(text) else {
            names.unknown(&to.spot, text, Wanted::Traffic, out);
            return None;
        };
        let entries = self.settings.as_mut().map_or(&mut [][..], |named| &mut named.0);
        let raw = entries.iter_mut().find(|entry| entry.name == text).map(|entry| &mut entry.value);
        let (raw, filters) = match raw {
            Some(raw) => {
                let filters = Filters::of(raw, self.certificates, names, out);
                (Some(&*raw), filters)
            }
            None => (None, Filters::default()),
        };
        let upstream = upstream((destination, filters), raw, &to.spot, names, out);
        self.all.push((text.to_owned(), upstream));
        Some(UpstreamId(self.all.len() - 1))
    }

    /// What is spoken with it, and its name in the file.
    pub(super) fn speaks(&self, id: UpstreamId) -> Option<(UpstreamProtocol, &str)> {
        let (name, upstream) = self.all.get(id.0)?;
        Some((upstream.protocol, name))
    }

    /// Cross-origin rules of routes that lead to it.
    pub(super) fn cors(&self, id: UpstreamId) -> Option<&Word<Cors>> {
        self.all.get(id.0).map(|(_, upstream)| &upstream.cors)
    }

    /// Whether a route leads to one that has a description of its own, which requests must fit.
    pub(super) fn describes(&self, to: Option<RouteTo>) -> bool {
        let upstream = to.and_then(RouteTo::service).and_then(|id| self.all.get(id.0));
        upstream.is_some_and(|(_, upstream)| upstream.contract.is_some())
    }

    /// Notes where a request of ours would not be shown to whom the file names for it, or not be held against what
    /// it must be like.
    pub(super) fn unasked(&self, id: UpstreamId, (what, at): (&str, &Spot), out: &mut Findings) {
        let Some((name, upstream)) = self.all.get(id.0) else { return };
        let filters = [
            ("the external filter", "external", upstream.external.is_some()),
            ("the description", "validate", upstream.contract.is_some()),
        ];
        for (filter, key, _) in filters.into_iter().filter(|(.., there)| *there) {
            out.error(at, format!("{what} would pass {filter} of `{name}` by")).allowed(format!(
                "`{key}` on the route or in `defaults`, not in `upstreams: {{ {name}: … }}`"
            ));
        }
    }

    /// Warns of settings for something that no route leads to.
    pub(super) fn unused(&self, out: &mut Findings) {
        for entry in self.settings.iter().flat_map(|named| &named.0) {
            if !self.all.iter().any(|(known, _)| *known == entry.name) {
                let note = out.warning(&entry.spot, format!("no route leads to `{}`", entry.name));
                if let Some(near) = nearest(&entry.name, self.all.iter().map(|(k, _)| k.as_str())) {
                    note.meant(near);
                }
            }
        }
    }
}

/// What stands at a service and is passed on the way to it.
#[derive(Default)]
struct Filters {
    transform: Option<Transform>,
    external: Option<External>,
    compress: Word<Compress>,
    contract: Option<Contract>,
    cors: Word<Cors>,
}

impl Filters {
    fn of(
        raw: &mut raw::Upstream,
        certificates: Certificates,
        names: &Names,
        out: &mut Findings,
    ) -> Self {
        let change = raw.transform.take();
        let described = contract(raw.validate.take(), Attached::Service, names, out);
        Self {
            transform: change.map(|change| transform(change, Scope::several(certificates), out)),
            external: raw.external.take().and_then(|raw| external(raw, out)),
            compress: compress(raw.compress.take()),
            contract: described.rules().cloned(),
            cors: cors(raw.cors.take(), (Attached::Service, &[]), out),
        }
    }
}

fn upstream(
    (destination, filters): (Destination<'_>, Filters),
    raw: Option<&raw::Upstream>,
    at: &Spot,
    names: &Names,
    out: &mut Findings,
) -> Upstream {
    let (service, endpoints, via, whole) = match &destination {
        Destination::Service(s) | Destination::Gateway(s) => {
            (s.name.clone(), s.endpoints.clone(), Via::Endpoints, Some(*s))
        }
        Destination::Listener(listener) => {
            if listener.protocol == Protocol::Udp {
                out.error(at, "a gateway sends no datagrams").allowed("a `tcp` listener");
            }
            (names.behind(listener), listener.endpoints.clone(), Via::Balancer, None)
        }
    };
    if !matches!(destination, Destination::Service(_)) {
        reachable(&endpoints, at, out);
    }
    let health = whole.and_then(|service| service.health.clone());
    if health.as_ref().is_some_and(|check| matches!(check.probe, Probe::Udp { .. })) {
        out.error(at, "this service is asked by datagrams, and a gateway speaks HTTP")
            .allowed("a service without `health: { udp: … }`");
    }
    let behind = via == Via::Balancer;
    let balance = raw.and_then(|raw| raw.balance.clone());
    let second = Duration::from_secs(1);
    let requests = raw.and_then(|raw| raw.max_requests.as_ref()).map(|typed| typed.value);
    let age = raw.and_then(|raw| raw.max_age.clone());
    let age = age.map(|typed| positive(Some(typed), second, out));
    Upstream {
        service,
        endpoints,
        discover: whole.and_then(|service| service.discover.clone()),
        via,
        balance: or(balance, UpstreamBalance::RoundRobin),
        panic_threshold: whole.map_or(Percent(0), |service| service.panic_threshold),
        slow_start: whole.and_then(|service| service.slow_start),
        health,
        times: times(raw, out),
        protocol: raw
            .and_then(|raw| raw.protocol.as_ref())
            .map_or(UpstreamProtocol::Http1, |typed| typed.value),
        max_streams_per_connection: streams(raw, behind, out),
        max_requests_per_connection: requests.or(behind.then(|| count(None, 1000))),
        max_connection_age: age.or(behind.then_some(second * 60)),
        retry: retry(raw, out),
        eject: ejection(raw.and_then(|raw| raw.eject.as_ref()), out),
        concurrency: concurrency(
            raw.and_then(|raw| raw.max_at_once.as_ref()),
            raw.and_then(|raw| raw.queue.as_ref()),
            out,
        ),
        max_requests_per_endpoint: raw
            .and_then(|raw| raw.max_per_endpoint.as_ref())
            .map(|t| t.value),
        tls: raw.and_then(|raw| raw.tls.as_ref()).map(|tls| upstream_tls(tls, names)),
        transform: filters.transform,
        external: filters.external,
        compress: filters.compress,
        contract: filters.contract,
        cors: filters.cors,
    }
}

fn times(raw: Option<&raw::Upstream>, out: &mut Findings) -> Times {
    let given =
        |pick: fn(&raw::Upstream) -> &Option<Typed<Time>>| raw.and_then(|r| pick(r).clone());
    Times {
        connect: positive(given(|raw| &raw.connect_timeout), Duration::from_secs(1), out),
        first_byte: bound(given(|raw| &raw.first_byte_timeout), out),
        attempt: bound(given(|raw| &raw.try_timeout), out),
        idle: positive(given(|raw| &raw.answer_idle_timeout), Duration::from_secs(300), out),
        total: bound(given(|raw| &raw.total_timeout), out),
    }
}

/// How many at a time, and the line before them.
pub(super) fn concurrency(
    most: Option<&Typed<NonZeroU32>>,
    queue: Option<&raw::Queue>,
    out: &mut Findings,
) -> Option<Concurrency> {
    if let (None, Some(queue)) = (most, queue) {
        out.error(&queue.spot, "nobody waits where everybody is let in")
            .allowed("`queue` beside `max-requests`");
    }
    Some(Concurrency {
        requests: most?.value,
        queue: queue.and_then(|queue| queue.most.as_ref()).map_or(0, |typed| typed.value),
        wait: positive(queue.and_then(|q| q.wait.clone()), Duration::from_millis(100), out),
    })
}

fn retry(raw: Option<&raw::Upstream>, out: &mut Findings) -> Retry {
    let on = raw.and_then(|raw| raw.retry_on.as_ref());
    let usual = || vec![RetryOn::Connect, RetryOn::Reset, RetryOn::Timeout];
    let methods = raw.and_then(|raw| raw.retry_methods.as_deref()).unwrap_or_default();
    for typed in methods {
        // RFC 9110 §9.2.2: beside the safe ones, only these are idempotent.
        if !["PUT", "DELETE"].contains(&typed.value.0.as_str()) {
            let what = format!("a `{}` sent twice may do harm", typed.value.0);
            out.error(&typed.spot, what)
                .allowed("PUT, DELETE; GET, HEAD and OPTIONS are tried again anyway");
        }
    }
    Retry {
        attempts: attempts(raw.and_then(|raw| raw.max_attempts.as_ref()), out),
        on: on.map_or_else(usual, |list| list.iter().map(|typed| typed.value).collect()),
        methods: methods.iter().map(|typed| typed.value.0.clone()).collect(),
        hedge: bound(raw.and_then(|raw| raw.hedge_after.clone()), out),
    }
}

fn ejection(raw: Option<&raw::Eject>, out: &mut Findings) -> Ejection {
    let second = Duration::from_secs(1);
    let failures = raw.and_then(|raw| raw.failures.as_ref());
    if let Some(typed) = failures
        && !(1..=100).contains(&typed.value)
    {
        out.error(&typed.spot, format!("{} is no number of failures", typed.value))
            .allowed("1 to 100");
    }
    let statuses = raw.and_then(|raw| raw.statuses.as_deref());
    let mut status = |typed: &Typed<u32>| {
        if !(500..=599).contains(&typed.value) {
            out.error(&typed.spot, format!("{} is no fault of a service", typed.value))
                .allowed("500 to 599");
        }
        u16::try_from(typed.value).unwrap_or_default()
    };
    let statuses = match statuses {
        Some(list) => list.iter().map(&mut status).collect(),
        None => vec![502, 503, 504],
    };
    Ejection {
        failures: failures.map_or(3, |typed| u32::from(typed.value)),
        statuses,
        first: positive(raw.and_then(|raw| raw.first.clone()), second, out),
        longest: positive(raw.and_then(|raw| raw.longest.clone()), second * 60, out),
        most: or(raw.and_then(|raw| raw.most.clone()), Percent(50)),
    }
}

fn upstream_tls(raw: &raw::UpstreamTls, names: &Names) -> UpstreamTls {
    let pair = raw.certificate.as_ref().and_then(|pair| {
        let (chain, key) = (pair.chain.clone()?, pair.key.clone()?);
        Some(Certificate { chain: secret(chain, names), key: secret(key, names) })
    });
    let name =
        |typed: &Typed<Text>| At { value: typed.value.0.clone(), place: typed.spot.extent.place };
    UpstreamTls {
        ca: raw.ca.clone().map(|typed| secret(typed, names)),
        name: raw.name.as_ref().map(name),
        certificate: pair,
    }
}

/// Requests at a time on an HTTP/2 connection.
fn streams(raw: Option<&raw::Upstream>, behind: bool, out: &mut Findings) -> NonZeroU32 {
    let Some(typed) = raw.and_then(|raw| raw.max_streams.as_ref()) else {
        return count(None, if behind { 1 } else { 100 });
    };
    if typed.value.get() > 100 {
        out.error(&typed.spot, format!("{} requests at a time are too many", typed.value))
            .allowed("1 to 100; further connections carry more");
    }
    if raw.and_then(|raw| raw.protocol.as_ref()).is_none_or(|p| p.value == UpstreamProtocol::Http1)
    {
        let what = "HTTP/1.1 carries one request at a time on a connection";
        out.error(&typed.spot, what).allowed("beside `protocol: http2` or `protocol: auto`");
    }
    typed.value
}

fn attempts(typed: Option<&Typed<u8>>, out: &mut Findings) -> u8 {
    let Some(typed) = typed else { return 3 };
    if !(1..=10).contains(&typed.value) {
        out.error(&typed.spot, format!("{} is no number of tries", typed.value)).allowed("1 to 10");
    }
    typed.value
}
