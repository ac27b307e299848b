//! Stage 5: is there budget left? Not for the per-address limits' moment: stage 2 charges them
//! through [`address::charge`]. Called by `pipeline`.
//!
//! Invariant: a request that is refused here never reaches a service, and is charged by none of the
//! limits it met in this stage; on a cluster of Redis, by those that would have admitted it. What its
//! address was charged before stays: the request did come from there.

use std::fmt::Write;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use common::observe::Observer;
use http::HeaderMap;
use tokio::time::sleep;
use topology::gateway::{Allowance, Group, LimitBy, LimitId, Unplaced, WhenAway};
use topology::units::{LimitName, Place};

use self::budget::BudgetError;
use self::budget::{Budget, Standing, Verdict};
pub use self::device::{DeviceError, Devices};
use self::headers::Told;
pub use self::local::Subject;
use self::local::{Bounds, Charge, Table};
pub use self::redis::StoreError;
use self::redis::{Link, Store};
use self::refused::Refused;
use crate::exchange::{Admitted, Exchange, Granted, Identity, ResponseHead, Stage, Voucher};
use crate::halt::Halt;
use crate::pipeline::Filter;
use crate::trace::Trace;

pub mod address;
pub mod budget;
pub mod device;
pub mod events;
pub mod headers;
pub mod local;
pub mod redis;
pub mod refused;

/// Why a request goes no further. `halt` says which status each one is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LimitError {
    /// A budget is used up.
    #[error("too many requests: next one in {retry_after} s")]
    Exceeded {
        /// Seconds until all limits that refused have room again, at least 1.
        retry_after: u64,
    },
    /// The store is away and its policy is to refuse.
    #[error("limits cannot be checked")]
    StoreAway,
}

/// Why limits cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum LimitsError {
    /// A limit cannot be counted exactly.
    #[error(transparent)]
    Budget(#[from] BudgetError),
    /// The cookie that names devices.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// The store's address is wrong, or it is away at start and its policy is to refuse.
    #[error("limit-store: {source}")]
    Store {
        /// Where its address stands.
        place: Place,
        /// Why.
        source: StoreError,
    },
}

impl LimitsError {
    /// Where it stands in the topology file.
    pub fn place(&self) -> Place {
        match self {
            Self::Budget(error) => error.place(),
            Self::Store { place, .. } => *place,
            Self::Device(error) => error.place(),
        }
    }
}

/// Limits and counters of one process, shared by all workers.
#[derive(Debug)]
pub struct Limits {
    rules: Vec<Rule>,
    routes: Vec<Arc<str>>,
    /// Names of the issuers where there are several: then a user's name alone says nothing.
    issuers: Vec<Box<str>>,
    device_claim: Option<Box<str>>,
    devices: Option<Devices>,
    table: Table,
    store: Option<(Arc<Store>, Place)>,
    refused: Refused,
    observer: Observer,
}

#[derive(Debug)]
struct Rule {
    name: LimitName,
    by: Vec<LimitBy>,
    /// Charged to callers of these plans alone; empty: to everybody.
    plans: Vec<String>,
    /// Charged before authentication.
    early: bool,
    /// Counts those under way, in this process.
    concurrent: bool,
    /// Begin of its counters' keys in the store.
    prefix: Box<str>,
    whole: Budget,
    told: Told,
}

impl Limits {
    /// Whether the counters of one configuration say something in the other.
    pub fn same(one: &Group, other: &Group) -> bool {
        let limits =
            |group: &Group| group.limits.iter().map(Unplaced::unplaced).collect::<Vec<_>>();
        let store = |group: &Group| group.limit_store.as_ref().map(Unplaced::unplaced);
        let device = |group: &Group| group.device_cookie.as_ref().map(Unplaced::unplaced);
        let routes =
            |group: &Group| group.routes.iter().map(|r| r.name.clone()).collect::<Vec<_>>();
        let issuers =
            |group: &Group| group.issuers.iter().map(|i| i.name.clone()).collect::<Vec<_>>();
        one.instances.len() == other.instances.len()
            && limits(one) == limits(other)
            && store(one) == store(other)
            && routes(one) == routes(other)
            && issuers(one) == issuers(other)
            && one.device_claim == other.device_claim
            && device(one) == device(other)
    }

    /// Whether the secrets of its store and of its cookie are still those that this group names. Blocking: it
    /// reads them.
    pub fn has_secrets_of(&self, group: &Group) -> bool {
        let cookie = match (&self.devices, &group.device_cookie) {
            (None, None) => true,
            (Some(own), Some(model)) => {
                Devices::new(model, group.name.as_str()).is_ok_and(|new| own.is_as(&new))
            }
            _ => false,
        };
        cookie && self.reaches(group)
    }

    fn reaches(&self, group: &Group) -> bool {
        match (&self.store, &group.limit_store) {
            (None, None) => true,
            (Some((store, _)), Some(model)) => Store::new(model).is_ok_and(|new| store.is_as(&new)),
            _ => false,
        }
    }

    /// For the limits of a group; connects to nothing.
    pub fn new(group: &Group, observer: Observer) -> Result<Arc<Self>, LimitsError> {
        let instances = group.instances.len() as u64;
        let rule = |limit: &topology::gateway::Limit| {
            Ok(Rule {
                name: limit.name.clone(),
                by: limit.by.clone(),
                plans: limit.plans.clone(),
                early: limit.is_early(),
                concurrent: matches!(limit.allows, Allowance::Concurrent(_)),
                prefix: format!("ratelimit:{}:{}:", group.name, limit.name).into(),
                whole: Budget::new(limit)?,
                told: Told::new(limit),
            })
        };
        // With a store, this process counts alone only while that is away.
        let parts = if group.limit_store.is_some() { instances } else { 1 };
        let here = group.limits.iter().map(|limit| Budget::share(limit, parts));
        let table = Table::new(Bounds::default(), here.collect::<Result<_, BudgetError>>()?);
        let store = group.limit_store.as_ref().map(|model| {
            let place = model.redis.first().map(|at| at.place).unwrap_or_default();
            let store = Store::new(model).map_err(|source| LimitsError::Store { place, source })?;
            Ok::<_, LimitsError>((Arc::new(store), place))
        });
        let several = group.issuers.len() > 1;
        Ok(Arc::new(Self {
            rules: group.limits.iter().map(rule).collect::<Result<_, BudgetError>>()?,
            routes: group.routes.iter().map(|route| route.name.as_str().into()).collect(),
            issuers: if several {
                group.issuers.iter().map(|issuer| issuer.name.as_str().into()).collect()
            } else {
                Vec::new()
            },
            device_claim: group.device_claim.as_deref().map(Box::from),
            devices: match &group.device_cookie {
                Some(model) => Some(Devices::new(model, group.name.as_str())?),
                None => None,
            },
            table,
            store: store.transpose()?,
            refused: Refused::default(),
            observer,
        }))
    }

    /// Looks once, at start, whether the store answers; takes a second at most. It is an error only
    /// where the policy is to refuse requests while it is away.
    pub async fn reach(&self) -> Result<(), LimitsError> {
        let Some((store, place)) = &self.store else { return Ok(()) };
        match store.connect().await {
            Err(source) if store.when_away() == WhenAway::FailClosed => {
                Err(LimitsError::Store { place: *place, source })
            }
            _ => Ok(()),
        }
    }

    /// Whom a limit charges for this request; `None`: nobody.
    fn subject(&self, rule: &Rule, x: &Exchange, caller: &Caller<'_>) -> Option<Subject> {
        let plan = caller.identity.and_then(Identity::plan);
        if !rule.plans.is_empty() && !rule.plans.iter().any(|one| Some(one.as_str()) == plan) {
            return None;
        }
        match &rule.by[..] {
            [one] => self.one(*one, x, caller),
            several => {
                let each = several.iter().map(|one| self.one(*one, x, caller));
                each.collect::<Option<_>>().map(Subject::Each)
            }
        }
    }

    fn one(&self, by: LimitBy, x: &Exchange, caller: &Caller<'_>) -> Option<Subject> {
        match by {
            LimitBy::Address => Some(Subject::address(x.peer.address())),
            LimitBy::User => caller.identity.map(|identity| Subject::User(self.user(identity))),
            LimitBy::Consumer => {
                caller.identity?.consumer().map(|name| Subject::Consumer(name.into()))
            }
            LimitBy::Device => self.device(caller).map(Subject::Device),
            LimitBy::Route => {
                let route = x.candidate.route().and_then(|id| self.routes.get(id.0));
                Some(Subject::Route(route.map_or_else(|| Arc::from(""), Arc::clone)))
            }
            LimitBy::All => Some(Subject::All),
        }
    }

    /// A device by its name, first that of a token, then that of a cookie.
    fn device(&self, caller: &Caller<'_>) -> Option<Arc<str>> {
        let claimed = caller.identity.and_then(|identity| self.claimed(identity));
        claimed.or_else(|| {
            let name = self.devices.as_ref()?.read(caller.headers?)?;
            Some(format!("cookie {name}").into())
        })
    }

    /// The device that a token names; one that says nothing, or no text, names none.
    fn claimed(&self, identity: &Identity) -> Option<Arc<str>> {
        let name = identity.claim(self.device_claim.as_deref()?)?.as_str()?;
        // Issuers name devices apart from each other.
        Some(match identity.issuer().and_then(|id| self.issuers.get(id.0)) {
            Some(issuer) => format!("{issuer}:{name}").into(),
            None => name.into(),
        })
    }

    /// Hands a device that has none a name, where a limit of the policy goes by devices.
    fn introduce(&self, policy: &[LimitId], x: &mut Exchange, caller: &Caller<'_>) {
        let Some(devices) = &self.devices else { return };
        let rules = policy.iter().filter_map(|id| self.rules.get(id.0));
        let counted = rules.into_iter().any(|rule| rule.by.contains(&LimitBy::Device));
        if counted && self.device(caller).is_none() {
            x.cookies.extend(devices.hand_out());
        }
    }

    fn user(&self, identity: &Identity) -> Arc<str> {
        let subject = identity.subject();
        match identity.voucher() {
            Voucher::Issuer(id) => match self.issuers.get(id.0) {
                Some(issuer) => format!("{issuer}:{subject}").into(),
                None => subject.into(),
            },
            // No user's name has a space, so none is taken for one of these.
            Voucher::ApiKeys(_) => format!("consumer {subject}").into(),
            Voucher::Certificate => format!("principal {subject}").into(),
        }
    }

    /// Whom they refused most.
    pub fn refused(&self) -> &Refused {
        &self.refused
    }

    /// A counter's key in the store: `ratelimit:GROUP:LIMIT:user:99`.
    fn key(&self, rule: &Rule, subject: &Subject) -> String {
        let mut key = String::from(&*rule.prefix);
        write_subject(subject, &mut key);
        key
    }
}

/// Of several, each has its length before it: no two combinations read the same.
fn write_subject(subject: &Subject, key: &mut String) {
    // Writing to a string cannot fail.
    let _ = match subject {
        Subject::Address(address) => write!(key, "address:{address}"),
        Subject::User(user) => write!(key, "user:{user}"),
        Subject::Consumer(name) => write!(key, "consumer:{name}"),
        Subject::Device(name) => write!(key, "device:{name}"),
        Subject::Route(route) => write!(key, "route:{route}"),
        Subject::All => write!(key, "all"),
        Subject::Each(several) => {
            for one in several {
                let mut part = String::new();
                write_subject(one, &mut part);
                let _ = write!(key, "{}:{part};", part.len());
            }
            Ok(())
        }
    };
}

/// What says whose counters are charged.
#[derive(Clone, Copy, Debug, Default)]
struct Caller<'a> {
    identity: Option<&'a Identity>,
    /// Of the request; none before authentication.
    headers: Option<&'a HeaderMap>,
}

impl<'a> Caller<'a> {
    fn of(input: &'a Granted) -> Self {
        let identity = input.grant.caller().identity();
        Self { identity, headers: Some(&input.request.headers) }
    }
}

/// A place among a key's requests under way, from here to the last byte of the answer.
#[derive(Debug)]
pub struct Hold {
    limits: Arc<Limits>,
    charge: Charge,
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.limits.table.leave(&self.charge);
    }
}

/// What charges limits on one worker: the shared counters and this worker's connection to the store.
#[derive(Debug)]
pub struct Limiter {
    limits: Arc<Limits>,
    link: Option<(Link, WhenAway)>,
}

impl Limiter {
    /// For one worker; must be called on its runtime, where it begins to connect to the store.
    pub fn new(limits: Arc<Limits>) -> Rc<Self> {
        let link = limits.store.as_ref().map(|(store, _)| {
            (Link::new(Arc::clone(store), limits.observer.clone()), store.when_away())
        });
        Rc::new(Self { limits, link })
    }

    /// Whether it charges these.
    pub fn is_for(&self, limits: &Arc<Limits>) -> bool {
        Arc::ptr_eq(&self.limits, limits)
    }

    /// The limits of a policy that are due `early`, or those that are not, each once, with whose counters
    /// are charged.
    fn charges(
        &self,
        x: &Exchange,
        policy: &[LimitId],
        caller: &Caller<'_>,
        early: bool,
    ) -> Vec<Charge> {
        let mut charges: Vec<Charge> = Vec::new();
        for id in policy {
            let rule = self.limits.rules.get(id.0).filter(|rule| rule.early == early);
            let twice = charges.iter().any(|other| other.limit == *id);
            if let (Some(rule), false) = (rule, twice)
                && let Some(subject) = self.limits.subject(rule, x, caller)
            {
                charges.push(Charge { limit: *id, subject });
            }
        }
        charges
    }

    /// The same as a plan, with the keys of its counters as reasons.
    fn planned(
        &self,
        charges: Vec<Charge>,
        stage: Stage,
        trace: &mut impl Trace,
    ) -> Vec<(LimitId, Subject)> {
        let noted = |charge: Charge| {
            if let Some(rule) = self.limits.rules.get(charge.limit.0) {
                trace.note(stage, || self.limits.key(rule, &charge.subject));
            }
            (charge.limit, charge.subject)
        };
        charges.into_iter().map(noted).collect()
    }

    /// Charges those limits of a policy that are due `early`, or those that are not, all or none; notes
    /// what the client is to be told, and waits for its turn in a leaky bucket. Waits for the store at
    /// most its timeout.
    async fn charge(
        &self,
        x: &mut Exchange,
        policy: &[LimitId],
        caller: &Caller<'_>,
        early: bool,
    ) -> Result<(), LimitError> {
        let charges = self.charges(x, policy, caller, early);
        if charges.is_empty() {
            return Ok(());
        }
        if x.ledger.is_some() {
            let stage = if early { Stage::Normalise } else { Stage::RateLimit };
            let rules = charges.iter().filter_map(|charge| self.limits.rules.get(charge.limit.0));
            rules.for_each(|rule| x.passes(stage, "limit", &rule.name));
        }
        let concurrent =
            |charge: &Charge| self.limits.rules.get(charge.limit.0).is_some_and(|r| r.concurrent);
        let (under_way, charges): (Vec<_>, Vec<_>) = charges.into_iter().partition(concurrent);
        let holds = self.enter(x, under_way)?;
        let standings = self.decide(&charges).await?;
        self.tell(x, &charges, &standings);
        let standings: Vec<Standing> = standings.into_iter().flatten().collect();
        verdict(&standings)?;
        x.holds.extend(holds);
        match standings.iter().map(|standing| standing.wait).max() {
            None | Some(0) => {}
            Some(wait) => sleep(Duration::from_micros(wait)).await,
        }
        Ok(())
    }

    /// Counts a request among those under way, for all of these limits or for none.
    fn enter(&self, x: &mut Exchange, charges: Vec<Charge>) -> Result<Vec<Hold>, LimitError> {
        if charges.is_empty() {
            return Ok(Vec::new());
        }
        let standings = self.limits.table.charge(&charges, 0);
        self.tell(x, &charges, &standings.iter().copied().map(Some).collect::<Vec<_>>());
        verdict(&standings)?;
        let hold = |charge| Hold { limits: Arc::clone(&self.limits), charge };
        Ok(charges.into_iter().map(hold).collect())
    }

    fn tell(&self, x: &mut Exchange, charges: &[Charge], standings: &[Option<Standing>]) {
        for (charge, standing) in charges.iter().zip(standings) {
            if let (Some(rule), Some(standing)) = (self.limits.rules.get(charge.limit.0), standing)
            {
                rule.told.add(standing, x);
                if standing.verdict == Verdict::Refuse {
                    let mut key = String::new();
                    write_subject(&charge.subject, &mut key);
                    self.limits.refused.note(charge.limit, key);
                }
            }
        }
    }

    /// Every standing in the order of the charges; none of those that pass uncounted.
    async fn decide(&self, charges: &[Charge]) -> Result<Vec<Option<Standing>>, LimitError> {
        if charges.is_empty() {
            return Ok(Vec::new());
        }
        let table = &self.limits.table;
        let here = |charges: &[Charge]| table.charge(charges, table.now()).into_iter().map(Some);
        let Some((link, when_away)) = &self.link else { return Ok(here(charges).collect()) };
        let keyed = |charge: &Charge| {
            let rule = self.limits.rules.get(charge.limit.0)?;
            Some((self.limits.key(rule, &charge.subject), rule.whole))
        };
        let keys: Vec<(String, Budget)> = charges.iter().filter_map(keyed).collect();
        let mut standings = link.charge(&keys).await.unwrap_or_else(|_| vec![None; charges.len()]);
        let unsaid = |(charge, standing): (&Charge, &Option<Standing>)| {
            standing.is_none().then(|| charge.clone())
        };
        let left: Vec<Charge> = charges.iter().zip(&standings).filter_map(unsaid).collect();
        match when_away {
            _ if left.is_empty() => {}
            WhenAway::FailOpen => {}
            WhenAway::FailClosed => return Err(LimitError::StoreAway),
            WhenAway::LocalShare => {
                let empty = standings.iter_mut().filter(|standing| standing.is_none());
                empty.zip(here(&left)).for_each(|(standing, said)| *standing = said);
            }
        }
        Ok(standings)
    }
}

/// Refused if any limit refuses, until the last of those has room again.
fn verdict(standings: &[Standing]) -> Result<(), LimitError> {
    let refused = standings.iter().filter(|standing| standing.verdict == Verdict::Refuse);
    match refused.map(|standing| headers::seconds(standing.next).max(1)).max() {
        Some(retry_after) => Err(LimitError::Exceeded { retry_after }),
        None => Ok(()),
    }
}

/// The stage, one per worker.
#[derive(Debug)]
pub struct RateLimit {
    limiter: Rc<Limiter>,
}

impl RateLimit {
    /// For one worker.
    pub fn new(limiter: Rc<Limiter>) -> Self {
        Self { limiter }
    }
}

impl Filter for RateLimit {
    const STAGE: Stage = Stage::RateLimit;
    type In = Granted;
    type Out = Admitted;
    /// Which limits are charged, and whose counters.
    type Plan = Vec<(LimitId, Subject)>;

    fn plan(&self, x: &Exchange, input: &Granted, trace: &mut impl Trace) -> Self::Plan {
        let charges = self.limiter.charges(x, &input.policy.limits, &Caller::of(input), false);
        self.limiter.planned(charges, Stage::RateLimit, trace)
    }

    async fn request(&self, x: &mut Exchange, input: Granted) -> Result<Admitted, Halt> {
        let policy = Rc::clone(&input.policy);
        let caller = Caller::of(&input);
        self.limiter.limits.introduce(&policy.limits, x, &caller);
        self.limiter.charge(x, &policy.limits, &caller, false).await?;
        let Granted { request, grant, .. } = input;
        Ok(Admitted { request, grant })
    }

    fn response(&self, x: &Exchange, head: &mut ResponseHead) {
        if !x.limit_headers.is_empty() {
            x.passes(Stage::RateLimit, "limits", "");
        }
        headers::write(x, head);
    }
}

#[cfg(test)]
mod tests;
