//! What a route asks of a request: tokens, scopes, limits, origins; and the issuers and limits
//! that it names. Not where it leads: `gateway`.
//!
//! Invariant: an id handed out is an index into what `finish` returns.

use std::collections::BTreeSet;
use std::num::NonZeroU32;
use std::time::Duration;

use crate::answers::{Attached, Word};
use crate::gateway::{
    Access, Algorithm, Allowance, ApiKeys, ApiKeysId, Auth, Certified, Issuer, IssuerId,
    IssuerKeys, Limit, LimitAlgorithm, LimitBy, LimitId, Route, RoutePolicy, Ways,
};
use crate::problem::nearest;
use crate::raw::{self, CorsChoice, Entry, Findings, Named, OneOrMany, Spot, Text, Typed};
use crate::resolve::certificates::Certificates;
use crate::resolve::cors::cors;
use crate::resolve::identity;
use crate::resolve::names::{self, Names};
use crate::resolve::{or, secret, time};
use crate::units::{At, IssuerName, LimitName, Rate, Scope, SecretRef};

/// What routes of one group inherit.
pub(super) type Defaults = RoutePolicy;

/// What one route says about its policy.
pub(super) struct Asked<'r> {
    pub(super) at: &'r Spot,
    pub(super) auth: Option<OneOrMany<Typed<Text>>>,
    pub(super) scopes: Option<Vec<Typed<Scope>>>,
    pub(super) allow: Option<Vec<raw::Allow>>,
    pub(super) access: Option<Typed<Access>>,
    pub(super) authorize: Option<raw::AuthorizeChoice>,
    pub(super) limits: Option<Vec<Typed<Text>>>,
    pub(super) cors: Option<CorsChoice>,
    /// Who says it.
    pub(super) by: Attached,
    pub(super) methods: &'r [String],
}

/// What was typed of issuers, sources of API keys, and limits.
pub(super) type Typings =
    (Option<Named<raw::Issuer>>, Option<Named<raw::ApiKeys>>, Option<Named<raw::Limit>>);

/// Issuers and limits of one group, and which of them are used.
pub(super) struct Policies {
    issuers: Vec<(Issuer, Spot)>,
    api_keys: Vec<(ApiKeys, Spot)>,
    limits: Vec<(Limit, Spot)>,
    /// Names of issuers, sources of keys and limits of which something was noted as wrong.
    broken: Vec<String>,
    used_issuers: BTreeSet<usize>,
    used_api_keys: BTreeSet<usize>,
    /// Where a client certificate is accepted first.
    certificate: Option<Spot>,
    used_limits: BTreeSet<usize>,
    /// Whether clients show certificates.
    pub(super) certificates: Certificates,
}

impl Policies {
    /// Resolves what routes can name.
    pub(super) fn new(
        (issuers, api_keys, limits): Typings,
        certificates: Certificates,
        names: &Names,
        out: &mut Findings,
    ) -> Self {
        let (issuers, limits) = (issuers.unwrap_or_default(), limits.unwrap_or_default());
        let api_keys = api_keys.unwrap_or_default();
        let given = issuers.0.iter().map(|e| &e.name).chain(limits.0.iter().map(|e| &e.name));
        let given = given.chain(api_keys.0.iter().map(|e| &e.name));
        let given: Vec<String> = given.cloned().collect();
        for entry in &api_keys.0 {
            if issuers.0.iter().any(|issuer| issuer.name == entry.name) {
                out.error(&entry.spot, format!("an issuer is already named `{}`", entry.name))
                    .allowed("another name: `auth` names both");
            }
        }
        let issuers: Vec<_> =
            issuers.into_iter().filter_map(|entry| issuer(entry, names, out)).collect();
        let api_keys: Vec<_> = api_keys
            .into_iter()
            .filter_map(|entry| identity::api_keys(entry, names, out))
            .collect();
        let limits: Vec<_> = limits.into_iter().filter_map(|entry| limit(entry, out)).collect();
        let lives = |name: &String| {
            issuers.iter().any(|(issuer, _)| issuer.name.as_str() == name)
                || api_keys.iter().any(|(keys, _)| keys.name.as_str() == name)
                || limits.iter().any(|(limit, _)| limit.name.as_str() == name)
        };
        Self {
            broken: given.into_iter().filter(|name| !lives(name)).collect(),
            issuers,
            api_keys,
            limits,
            used_issuers: BTreeSet::new(),
            used_api_keys: BTreeSet::new(),
            certificate: None,
            used_limits: BTreeSet::new(),
            certificates,
        }
    }

    /// Warns that budgets are per process while the group has several.
    pub(super) fn unshared(&self, instances: usize, out: &mut Findings) {
        if instances > 1
            && let Some((_, at)) = self.limits.first()
        {
            let what = format!("each of the {instances} instances counts its own budget");
            out.warning(at, what).hint("add a `limit-store` to share it".to_owned());
        }
    }

    /// The group's defaults.
    pub(super) fn defaults(&mut self, raw: raw::Defaults, out: &mut Findings) -> Defaults {
        let asked = Asked {
            at: &raw.spot,
            auth: raw.auth,
            scopes: raw.scopes,
            allow: raw.allow,
            access: raw.access,
            authorize: raw.authorize,
            limits: raw.limits,
            cors: raw.cors,
            by: Attached::Listener,
            methods: &[],
        };
        self.policy(asked, None, out)
    }

    /// Whether tokens of one of these issuers name consumers.
    pub(super) fn names_consumers(&self, ids: &[IssuerId]) -> bool {
        self.naming().any(|(id, _)| ids.contains(&id))
    }

    /// Issuers whose tokens name consumers.
    pub(super) fn naming(&self) -> impl Iterator<Item = (IssuerId, &str)> {
        let all = self.issuers.iter().enumerate();
        let all = all.filter(|(_, (issuer, _))| issuer.consumer_claim.is_some());
        all.map(|(index, (issuer, _))| (IssuerId(index), issuer.name.as_str()))
    }

    /// Whether an issuer of this name stands in the file, and is wrong.
    pub(super) fn is_broken(&self, name: &str) -> bool {
        self.broken.iter().any(|known| known == name)
    }

    /// A route's policy, with what it inherits; warns where it looks forgotten.
    pub(super) fn route(
        &mut self,
        asked: Asked<'_>,
        defaults: Option<&Defaults>,
        out: &mut Findings,
    ) -> RoutePolicy {
        let at = asked.at;
        let silent = asked.auth.is_none() && defaults.is_none_or(|d| d.auth == Auth::None);
        let own_scopes = asked.scopes.as_ref().is_some_and(|scopes| !scopes.is_empty())
            || asked.allow.as_ref().is_some_and(|rules| !rules.is_empty());
        let policy = self.policy(asked, defaults, out);
        if policy.auth == Auth::None {
            if own_scopes {
                out.error(at, "scopes are asked of a token, and this route asks for none")
                    .hint("add `auth: ISSUER`".to_owned());
            } else if silent && policy.access == Access::Allow && !self.issuers.is_empty() {
                out.warning(at, "this route asks for no token, although there are issuers")
                    .hint("add `auth: ISSUER`, or `auth: none` if that is meant".to_owned());
            }
        }
        if policy.access == Access::Deny && policy.scopes.is_empty() && policy.allow.is_empty() {
            out.warning(at, "nobody may call this route").hint(
                "say who may: `scopes`, `allow`, or `access: allow` for whoever is identified"
                    .to_owned(),
            );
        }
        policy
    }

    fn policy(
        &mut self,
        asked: Asked<'_>,
        base: Option<&Defaults>,
        out: &mut Findings,
    ) -> RoutePolicy {
        // Who writes `auth: none` on a route means it.
        let open = base.is_some() && asked.auth.is_some();
        let auth = match asked.auth {
            Some(auth) => self.auth(&auth.0, asked.at, out),
            None => base.map_or(Auth::None, |base| base.auth.clone()),
        };
        let scopes = match asked.scopes {
            Some(scopes) => scopes.into_iter().map(|typed| typed.value).collect(),
            None if auth == Auth::None => Vec::new(),
            None => base.map_or(Vec::new(), |base| base.scopes.clone()),
        };
        let allow = match asked.allow {
            Some(rules) => rules
                .into_iter()
                .map(|rule| identity::allow(rule, self.certificates, out))
                .collect(),
            None if auth == Auth::None => Vec::new(),
            None => base.map_or(Vec::new(), |base| base.allow.clone()),
        };
        let access = match asked.access {
            Some(typed) => typed.value,
            None if auth == Auth::None && open => Access::Allow,
            None => base.map_or(Access::Allow, |base| base.access),
        };
        let authorize = match asked.authorize {
            Some(raw::AuthorizeChoice::None) => None,
            Some(raw::AuthorizeChoice::Asked(raw)) => identity::authorize(*raw, out),
            None => base.and_then(|base| base.authorize.clone()),
        };
        let inherited = base.map_or(&[][..], |base| &base.limits);
        let limits = match asked.limits {
            Some(limits) => self.charged(&limits, inherited, out),
            None => inherited.to_vec(),
        };
        let cors = match cors(asked.cors, (asked.by, asked.methods), out) {
            Word::Never => None,
            Word::So(rules) => Some(rules),
            Word::Silent => base.and_then(|base| base.cors.clone()),
        };
        RoutePolicy { auth, scopes, allow, access, authorize, limits, cors }
    }

    fn auth(&mut self, words: &[Typed<Text>], at: &Spot, out: &mut Findings) -> Auth {
        let mut ways = Ways::default();
        for typed in words {
            let name = typed.value.0.as_str();
            if name == "none" {
                if words.len() > 1 {
                    out.error(&typed.spot, "`none` stands alone").allowed("none, or issuers");
                }
                return Auth::None;
            }
            let issuer = self.issuers.iter().position(|(issuer, _)| issuer.name.as_str() == name);
            let keys = self.api_keys.iter().position(|(keys, _)| keys.name.as_str() == name);
            match (issuer, keys) {
                (Some(index), _) => {
                    self.used_issuers.insert(index);
                    ways.issuers.push(IssuerId(index));
                }
                (None, Some(index)) => {
                    self.used_api_keys.insert(index);
                    ways.api_keys.push(ApiKeysId(index));
                }
                (None, None) if name == "certificate" => {
                    ways.certificate = Certified::Enough;
                    self.certificate.get_or_insert_with(|| typed.spot.clone());
                }
                (None, None) if self.broken.iter().any(|broken| broken == name) => {}
                (None, None) => {
                    let known = self.issuers.iter().map(|(issuer, _)| issuer.name.as_str());
                    let keys = self.api_keys.iter().map(|(keys, _)| keys.name.as_str());
                    out.unknown(&typed.spot, "issuer", name, known.chain(keys));
                }
            }
        }
        if words.is_empty() {
            out.error(at, "`auth` is empty").allowed("none, an issuer, or a list of issuers");
        }
        Auth::Asked(ways)
    }

    /// The limits of a list: those of the defaults too where each has a `+`.
    fn charged(
        &mut self,
        words: &[Typed<Text>],
        inherited: &[LimitId],
        out: &mut Findings,
    ) -> Vec<LimitId> {
        let added = words.iter().filter(|typed| typed.value.0.starts_with('+')).count();
        if added != 0
            && added != words.len()
            && let Some(first) = words.first()
        {
            out.error(&first.spot, "some limits have a + and some have none")
                .allowed("`[+a, +b]` besides the defaults, or `[a, b]` instead of them");
        }
        let mut ids = if added > 0 { inherited.to_vec() } else { Vec::new() };
        for typed in words {
            let name = typed.value.0.strip_prefix('+').unwrap_or(&typed.value.0);
            match self.limits.iter().position(|(limit, _)| limit.name.as_str() == name) {
                Some(index) => {
                    self.used_limits.insert(index);
                    if !ids.contains(&LimitId(index)) {
                        ids.push(LimitId(index));
                    }
                }
                None if self.broken.iter().any(|broken| broken == name) => {}
                None => {
                    let known = self.limits.iter().map(|(limit, _)| limit.name.as_str());
                    out.unknown(&typed.spot, "limit", name, known);
                }
            }
        }
        ids
    }

    /// Issuers and limits; warns of those that nothing names, or that can never count.
    pub(super) fn finish(
        self,
        routes: &[(Route, Spot)],
        out: &mut Findings,
    ) -> (Vec<Issuer>, Vec<ApiKeys>, Vec<Limit>) {
        if let (Some(at), Certificates::Unasked) = (&self.certificate, self.certificates) {
            out.error(at, "`certificate` is accepted, and no client is asked for one")
                .allowed("`certificate` where `tls` has a `client-ca`");
        }
        for (index, (keys, at)) in self.api_keys.iter().enumerate() {
            if !self.used_api_keys.contains(&index) && !out.failed() {
                out.warning(at, format!("no route accepts keys of `{}`", keys.name))
                    .hint("name it in `auth`, or remove it".to_owned());
            }
        }
        for (index, (issuer, at)) in self.issuers.iter().enumerate() {
            if !self.used_issuers.contains(&index) && !out.failed() {
                out.warning(at, format!("no route accepts tokens of `{}`", issuer.name))
                    .hint("name it in `auth`, or remove it".to_owned());
            }
        }
        for (index, (limit, at)) in self.limits.iter().enumerate() {
            if !self.used_limits.contains(&index) && !out.failed() {
                out.warning(at, format!("nothing is charged to `{}`", limit.name)).hint(
                    "name it in `limits` of a route or of `defaults`, or remove it".to_owned(),
                );
            }
        }
        let known = [LimitBy::User, LimitBy::Consumer, LimitBy::Device];
        for (index, (limit, at)) in self.limits.iter().enumerate() {
            let counts = |policy: &RoutePolicy| {
                policy.auth != Auth::None && policy.limits.contains(&LimitId(index))
            };
            let used =
                limit.by.iter().any(|by| known.contains(by)) && self.used_limits.contains(&index);
            if used && !out.failed() && !routes.iter().any(|(route, _)| counts(&route.policy)) {
                let what = format!("`{}` counts users, but no route knows who calls", limit.name);
                out.warning(at, what).hint("add `auth: ISSUER`, or count by address".to_owned());
            }
        }
        let issuers = self.issuers.into_iter().map(|(issuer, _)| issuer).collect();
        let api_keys = self.api_keys.into_iter().map(|(keys, _)| keys).collect();
        (issuers, api_keys, self.limits.into_iter().map(|(limit, _)| limit).collect())
    }
}

fn issuer(entry: Entry<raw::Issuer>, names: &Names, out: &mut Findings) -> Option<(Issuer, Spot)> {
    let Entry { name, spot, value: raw } = entry;
    identity::free("issuer", &name, &spot, out);
    let algorithms = raw.algorithms.unwrap_or_default();
    if algorithms.is_empty() != raw.introspection.is_some() && !out.wrong(&raw.spot) {
        out.error(&raw.spot, "`algorithms` say how tokens are signed that nobody is asked about")
            .allowed("`algorithms: [ES256]` with `jwks` or `key`, none with `introspection`");
    }
    super::filled(raw.audience.as_ref().map(|all| &*all.0), "audience", &spot, out);
    secret_alone(&algorithms, raw.jwks.is_some(), out);
    let keys = match raw.introspection {
        Some(asked) if raw.jwks.is_none() && raw.key.is_none() => {
            identity::introspection(asked, names, out).map(IssuerKeys::Asked)
        }
        Some(_) => keys(&raw.spot, None, None, names, out),
        None => keys(&raw.spot, raw.jwks, raw.key, names, out),
    };
    if let Some(leeway) = &raw.leeway
        && leeway.value.0 > Duration::from_secs(300)
    {
        out.error(&leeway.spot, "this lets tokens live on for long").allowed("at most 5m");
    }
    let claim = |typed: Option<Typed<Text>>, default: &str| {
        typed.map_or_else(|| default.to_owned(), |typed| typed.value.0)
    };
    let issuer = Issuer {
        name: IssuerName::new(&name),
        issuer: raw.issuer?.value.0,
        audiences: raw.audience?.0.into_iter().map(|typed| typed.value.0).collect(),
        keys: keys?,
        algorithms: algorithms.into_iter().map(|typed| typed.value).collect(),
        user_claim: claim(raw.user, "sub"),
        consumer_claim: raw.consumer.map(|typed| typed.value.0),
        scope_claim: claim(raw.scope, "scope"),
        role_claim: claim(raw.roles, "roles"),
        leeway: time(raw.leeway, Duration::from_secs(30)),
        place: spot.extent.place,
    };
    Some((issuer, spot))
}

/// A shared secret must not be tried as a public key, nor the other way round (RFC 8725 §3.1).
fn secret_alone(algorithms: &[Typed<Algorithm>], set: bool, out: &mut Findings) {
    let Some(shared) = algorithms.iter().find(|typed| typed.value == Algorithm::HS256) else {
        return;
    };
    if set {
        out.error(&shared.spot, "HS256 needs a secret, and a key set is public")
            .allowed("HS256 with `key`, or other algorithms with `jwks`");
    } else if algorithms.iter().any(|typed| typed.value != Algorithm::HS256) {
        out.error(&shared.spot, "HS256 stands beside public-key algorithms")
            .allowed("HS256 alone, or without it");
    }
}

fn keys(
    at: &Spot,
    jwks: Option<Typed<Text>>,
    key: Option<Typed<SecretRef>>,
    names: &Names,
    out: &mut Findings,
) -> Option<IssuerKeys> {
    let typed = match (jwks, key) {
        (Some(jwks), None) => jwks,
        (None, Some(key)) => return Some(IssuerKeys::Key(secret(key, names))),
        (None, None) if out.wrong(at) => return None,
        _ => {
            out.error(at, "an issuer has its keys in one place").allowed(
                "exactly one of `jwks: URL`, `jwks: file:PATH`, `key: file:PATH`, `introspection`",
            );
            return None;
        }
    };
    let text = typed.value.0.as_str();
    if let Ok(value @ SecretRef::File(_)) = text.parse::<SecretRef>() {
        return Some(IssuerKeys::JwksFile(secret(Typed { value, spot: typed.spot }, names)));
    }
    let authority = |rest: &str| {
        let authority = rest.split(['/', '?']).next().unwrap_or("");
        !authority.is_empty() && !authority.contains('@') && !rest.contains([' ', '#'])
    };
    let secure = text.strip_prefix("https://").is_some_and(authority);
    let plain = text.strip_prefix("http://").is_some_and(authority);
    if !secure && !plain {
        out.error(&typed.spot, "this is no place of a key set")
            .allowed("https://HOST/PATH, http://HOST/PATH, file:PATH");
    }
    let local = ["127.", "localhost", "[::1]"];
    let host = text.strip_prefix("http://").unwrap_or("");
    if plain && !local.iter().any(|near| host.starts_with(near)) {
        out.warning(&typed.spot, "keys fetched in plain HTTP can be replaced on the way")
            .hint("write https://".to_owned());
    }
    let place = typed.spot.extent.place;
    Some(IssuerKeys::Url(At { value: typed.value.0, place }))
}

fn limit(entry: Entry<raw::Limit>, out: &mut Findings) -> Option<(Limit, Spot)> {
    let Entry { name, spot, value: raw } = entry;
    names::lawful("limit", &name, &spot, out);
    let allows = match (raw.rate, raw.quota, raw.concurrent) {
        (Some(rate), None, None) => rated(&rate, raw.algorithm, raw.burst, out),
        (None, quota, most) if quota.is_some() != most.is_some() => {
            let other = raw.burst.map(|burst| burst.spot).or(raw.algorithm.map(|kind| kind.spot));
            if let Some(spot) = other {
                let what = "only a `rate` is counted in different ways";
                out.error(&spot, what).hint("leave it out".to_owned());
            }
            match (quota, most) {
                (Some(quota), _) => Allowance::Quota(quota.value),
                (None, most) => Allowance::Concurrent(most?.value),
            }
        }
        _ => {
            let what = "a limit allows so many in a time, or so many at a time".to_owned();
            out.error(&spot, what)
                .allowed("exactly one of `rate: 100/min`, `quota: 10000/month`, `concurrent: 10`");
            return None;
        }
    };
    let by = counted_by(&raw.by?, &spot, out);
    let plans = raw.plan.into_iter().flat_map(|plans| plans.0).map(|plan| plan.value.0).collect();
    let place = spot.extent.place;
    let limit = Limit { name: LimitName::new(&name), by, plans, allows, place };
    Some((limit, spot))
}

fn rated(
    rate: &Typed<Rate>,
    algorithm: Option<Typed<LimitAlgorithm>>,
    burst: Option<Typed<NonZeroU32>>,
    out: &mut Findings,
) -> Allowance {
    let algorithm = or(algorithm, LimitAlgorithm::TokenBucket);
    if let Some(burst) = &burst
        && matches!(algorithm, LimitAlgorithm::SlidingWindow | LimitAlgorithm::FixedWindow)
    {
        out.error(&burst.spot, "a window has no burst")
            .hint("leave it out, or count with `token-bucket`".to_owned());
    }
    if algorithm == LimitAlgorithm::SlidingWindow && rate.value.count.get() > LARGEST_WINDOW {
        let what = format!("a sliding window keeps the time of each of its {}", rate.value.count);
        out.error(&rate.spot, what)
            .allowed("at most 10000 in a window")
            .hint("take a shorter window, or count with `token-bucket`".to_owned());
    }
    let rate = rate.value;
    let burst = burst.map_or_else(|| usual_burst(algorithm, rate), |typed| typed.value);
    Allowance::Rate { rate, burst, algorithm }
}

/// Whose budget a limit is, each once.
fn counted_by(by: &OneOrMany<Typed<LimitBy>>, spot: &Spot, out: &mut Findings) -> Vec<LimitBy> {
    if by.0.is_empty() {
        out.error(spot, "`by` names nobody")
            .allowed("address, user, consumer, device, route or all");
    }
    if by.0.len() > 1
        && let Some(all) = by.0.iter().find(|one| one.value == LimitBy::All)
    {
        out.error(&all.spot, "`all` together have one budget: it cannot be combined")
            .hint("leave `all` out, or count by it alone".to_owned());
    }
    by.0.iter().map(|one| one.value).collect::<BTreeSet<_>>().into_iter().collect()
}

/// A leaky bucket keeps nobody waiting for longer than a second, unless it is told to.
fn usual_burst(algorithm: LimitAlgorithm, rate: Rate) -> NonZeroU32 {
    if algorithm != LimitAlgorithm::LeakyBucket {
        return rate.count;
    }
    let second = u128::from(rate.count.get()) * 1_000_000 / rate.per.as_micros().max(1);
    u32::try_from(second).ok().and_then(NonZeroU32::new).unwrap_or(NonZeroU32::MIN)
}

/// An exact window costs memory for each request in it.
const LARGEST_WINDOW: u32 = 10_000;

pub(super) use crate::units::is_token as token;

/// Methods in capitals, each once.
pub(super) fn methods(list: &[Typed<Text>], out: &mut Findings) -> Vec<String> {
    const KNOWN: [&str; 9] =
        ["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "CONNECT", "TRACE"];
    let mut all: Vec<String> = Vec::new();
    for typed in list {
        let text = typed.value.0.as_str();
        let upper = text.to_ascii_uppercase();
        if !token(text) || upper != text {
            let what = format!("`{text}` is no method");
            let note = out.error(&typed.spot, what).allowed("a method in capitals: GET, POST");
            if let Some(near) = nearest(&upper, KNOWN) {
                note.meant(near);
            }
        } else if let Some(near) = nearest(text, KNOWN).filter(|near| *near != text) {
            // Methods are an open set, so a misspelt one can only be a warning.
            out.warning(&typed.spot, format!("`{text}` is an unusual method")).meant(near);
        }
        if !all.contains(&upper) {
            all.push(upper);
        }
    }
    all
}
