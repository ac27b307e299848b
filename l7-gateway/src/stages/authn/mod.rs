//! Stage 3: who is it? Not for what they may do: that is `authz`. Called by `pipeline`.
//!
//! Invariant: `Identity` is made here alone, after a signature was verified or a key was found; where
//! a policy asks for either, it goes no further than this stage.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::SystemTime;

use http::HeaderValue;
use serde_json::{Map, Value};
use tokio::time::Instant;
use topology::answers::{Aggregate, Given};
use topology::gateway::{ApiKeys, ApiKeysId, Auth, Group, IssuerId, Told, Ways};
use topology::template::Template;
use topology::transform::Transform;
use topology::units::Place;

use self::api_key::Digest;
use self::api_key::directory::{Away, Directory, DirectoryError};
use self::cache::Cache;
use self::credentials::Presented;
use self::denylist::{Denied, Denylist, DenylistError, Subject};
use self::identity::{Facts, Marks};
pub use self::identity::{Identity, Voucher};
use self::introspect::{Introspector, Waited};
pub use self::jwks::{Keys, KeysError};
pub use self::jwt::JwtFault;
use self::jwt::{Token, Verified};
use crate::exchange::{Caller, Exchange, Identified, Normalised, Stage};
use crate::halt::Halt;
use crate::pipeline::Filter;
use crate::trace::Trace;

pub mod api_key;
pub mod cache;
pub mod credentials;
pub mod denylist;
pub mod events;
mod identity;
pub mod introspect;
pub mod jwks;
pub mod jwt;
pub mod key;
pub mod key_file;
pub mod presume;
mod roca;

/// Why nobody could be identified. `halt` says which status each one is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuthnError {
    /// No credentials (RFC 6750 §3.1: then the challenge has no error code).
    #[error("{0}")]
    Missing(Wanted),
    /// More than one `Authorization`, or one that is not `Bearer` and a token.
    #[error("the credentials are not one Bearer token")]
    Malformed,
    /// The token is not believed.
    #[error(transparent)]
    Token(#[from] JwtFault),
    /// The issuer's keys have not been had yet, or are too old.
    #[error("the issuer's keys are not available")]
    KeysDown,
    /// Two different API keys.
    #[error("there is more than one API key")]
    SeveralKeys,
    /// An API key that is nobody's.
    #[error("the API key is not valid")]
    UnknownKey,
    /// An API key whose time has passed.
    #[error("the API key has expired")]
    ExpiredKey,
    /// The store of API keys does not answer.
    #[error("the store of API keys is away")]
    StoreAway,
    /// A token that ended before its time.
    #[error("the token has been revoked")]
    RevokedToken,
    /// An API key that ended before its time.
    #[error("the API key has been revoked")]
    RevokedKey,
    /// There is no denylist that can be believed.
    #[error("whether it was revoked is not known")]
    DenylistAway,
    /// The principal of the client's certificate is not visible ASCII.
    #[error("the certificate's principal cannot be used")]
    OddPrincipal,
}

/// What a request without credentials should have had.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Wanted {
    /// A token.
    #[error("a token is needed")]
    Token,
    /// An API key.
    #[error("an API key is needed")]
    Key,
    /// Either.
    #[error("a token or an API key is needed")]
    TokenOrKey,
    /// A client certificate.
    #[error("a client certificate is needed")]
    Certificate,
}

/// The stage, one per worker.
#[derive(Debug)]
pub struct Authn {
    vouchers: Arc<Vouchers>,
    /// Ends with this snapshot, so no token outlives the configuration it was verified under.
    cache: RefCell<Cache>,
    /// By issuer: what this worker asks it, where it is asked.
    introspectors: Vec<Option<Introspector>>,
}

/// Everybody who can say who a caller is, shared by all workers.
#[derive(Debug)]
pub struct Vouchers {
    /// Key sets of the issuers.
    pub keys: Arc<Keys>,
    /// What the file says of sources of API keys.
    pub sources: Vec<ApiKeys>,
    /// The same sources, in the same order.
    pub directories: Vec<Arc<Directory>>,
    /// Who ended before its time; `None`: nobody does.
    pub denylist: Option<Arc<Denylist>>,
    /// Names of the claims that some rule reads or services are told.
    pub claims: Vec<Box<str>>,
    /// By issuer: consumers that its tokens may name, by what those call them.
    consumers: Vec<HashMap<Box<str>, HeaderValue>>,
}

/// Why they cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum VouchersError {
    /// Keys of issuers.
    #[error(transparent)]
    Keys(#[from] KeysError),
    /// API keys.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    /// The denylist.
    #[error(transparent)]
    Denylist(#[from] DenylistError),
}

impl VouchersError {
    /// Where the reference at fault stands in the topology file.
    pub fn place(&self) -> Place {
        match self {
            Self::Keys(error) => error.place(),
            Self::Directory(error) => error.place(),
            Self::Denylist(error) => error.place,
        }
    }
}

impl Vouchers {
    /// Reads what is in files; what `before` has fetched is kept if the file says the same of it.
    /// Blocking: for start and reload.
    ///
    /// # Errors
    /// With the place of the reference at fault.
    pub fn new(group: &Group, before: Option<&Self>) -> Result<Arc<Self>, VouchersError> {
        let known = before.map(|before| before.directories.as_slice()).unwrap_or_default();
        let directories = group.api_keys.iter().map(|model| Directory::new(model, known));
        Ok(Arc::new(Self {
            keys: Keys::new(&group.issuers, before.map(|before| &*before.keys))?,
            sources: group.api_keys.clone(),
            directories: directories.collect::<Result<_, _>>()?,
            denylist: match &group.denylist {
                Some(model) => {
                    let known = before.and_then(|before| before.denylist.as_ref());
                    Some(Denylist::new(model, known)?)
                }
                None => None,
            },
            claims: claims(group),
            consumers: consumers(group),
        }))
    }

    /// The consumer that a token of this issuer names, by its claims; whom the file does not know is none.
    pub(super) fn consumer(
        &self,
        id: IssuerId,
        claims: &Map<String, Value>,
    ) -> Option<HeaderValue> {
        let claim = self.keys.source(id)?.issuer().consumer_claim.as_ref()?;
        let known = self.consumers.get(id.0)?;
        match claims.get(claim)? {
            Value::String(text) => known.get(text.as_str()).cloned(),
            Value::Number(number) => known.get(number.to_string().as_str()).cloned(),
            _ => None,
        }
    }

    /// Why callers cannot be identified yet; empty: they can.
    pub fn waiting(&self) -> Vec<String> {
        let mut waiting = self.keys.waiting();
        if self.denylist.as_ref().is_some_and(|list| list.generation() == 0) {
            waiting.push("denylist: not heard yet".to_owned());
        }
        waiting
    }
}

/// Consumers of a group, for each issuer by what its tokens call them; one that cannot stand in a header is none.
fn consumers(group: &Group) -> Vec<HashMap<Box<str>, HeaderValue>> {
    let mut all = vec![HashMap::new(); group.issuers.len()];
    for consumer in &group.consumers {
        let visible = consumer.name.bytes().all(|byte| byte.is_ascii_graphic());
        let Ok(name) = HeaderValue::from_str(&consumer.name) else { continue };
        for (id, text) in consumer.claimed.iter().filter(|_| visible) {
            if let Some(known) = all.get_mut(id.0) {
                known.insert(text.as_str().into(), name.clone());
            }
        }
    }
    all
}

/// Names of the claims that rules of a group read or services are told, each once.
fn claims(group: &Group) -> Vec<Box<str>> {
    let policies = group.routes.iter().map(|route| &route.policy).chain(&group.unmatched);
    let mut names = Vec::new();
    for when in policies.flat_map(|policy| &policy.allow).filter_map(|rule| rule.when.as_ref()) {
        when.claims(&mut names);
    }
    names.extend(group.identity_headers.iter().filter_map(|told| match told {
        Told::Claim(name) => Some(name.as_str()),
        _ => None,
    }));
    let changes = group.routes.iter().filter_map(|route| route.transform.as_ref());
    let changes = changes.chain(group.upstreams.iter().filter_map(|to| to.transform.as_ref()));
    let changes = changes.chain(&group.transform);
    let changes = changes.chain(group.consumers.iter().filter_map(|one| one.transform.as_ref()));
    let given = group.given.iter().flat_map(Given::templates);
    let calls = group.aggregates.iter().flat_map(Aggregate::templates);
    let all = changes.flat_map(Transform::templates).chain(given).chain(calls);
    names.extend(all.flat_map(Template::claims));
    names.extend(group.device_claim.as_deref());
    names.extend(group.issuers.iter().filter_map(|issuer| issuer.consumer_claim.as_deref()));
    names.sort_unstable();
    names.dedup();
    names.into_iter().map(Box::from).collect()
}

/// What the stage will do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Plan {
    /// The policy asks nobody; a token that came passes untouched.
    Anonymous,
    /// The request cannot be identified.
    Refuse(AuthnError),
    /// Believe this, or not.
    Judge(Presented),
}

impl Authn {
    /// For one worker.
    pub fn new(vouchers: Arc<Vouchers>) -> Self {
        let offices =
            (0..vouchers.keys.len()).map(|id| vouchers.keys.source(IssuerId(id))?.office());
        let introspectors = offices.map(|office| office.map(Introspector::new)).collect();
        Self { vouchers, cache: RefCell::default(), introspectors }
    }

    async fn judge(
        &self,
        presented: &Presented,
        ways: &Ways,
        now: u64,
    ) -> Result<Rc<Identity>, AuthnError> {
        let identity = match presented {
            Presented::Token(value) => {
                let token = credentials::bearer(value).unwrap_or_default();
                self.identify(token, &ways.issuers, now).await?
            }
            Presented::Key(key, ids) => self.look_up(key, ids, now).await?,
            Presented::Principal(principal) => {
                let facts = Facts::of(Voucher::Certificate);
                Rc::new(Identity::new(principal, facts).ok_or(AuthnError::OddPrincipal)?)
            }
        };
        self.clear(&identity)?;
        Ok(identity)
    }

    /// Makes sure that it did not end before its time: also of who was verified before.
    fn clear(&self, identity: &Identity) -> Result<(), AuthnError> {
        let Some(list) = &self.vouchers.denylist else { return Ok(()) };
        let marks = identity.marks();
        let (who, revoked) = match (identity.issuer(), &marks.digest) {
            (Some(id), _) => {
                let iss = self.vouchers.keys.source(id).map_or("", jwks::Source::iss);
                let (jti, user) = (marks.id.as_deref(), identity.subject());
                let issued = marks.issued;
                (Subject::Token { iss, jti, user, issued }, AuthnError::RevokedToken)
            }
            (None, Some(digest)) => (Subject::Key(digest), AuthnError::RevokedKey),
            // Certificates have lists of their own.
            (None, None) => return Ok(()),
        };
        list.check(&who, &marks.cleared).map_err(|denied| match denied {
            Denied::Revoked => revoked,
            Denied::Unknown => AuthnError::DenylistAway,
        })
    }

    async fn identify(
        &self,
        token: &[u8],
        allowed: &[IssuerId],
        now: u64,
    ) -> Result<Rc<Identity>, AuthnError> {
        if let Some(known) = self.recall(token, allowed, now)? {
            return Ok(known);
        }
        let parsed = match Token::parse(token) {
            // It says nothing by itself: there may be somebody to ask.
            Err(JwtFault::Malformed) if self.asked(allowed).is_some() => None,
            parsed => Some(parsed?),
        };
        let selected = parsed.as_ref().map(|parsed| self.vouchers.keys.select(parsed, allowed));
        let asked = match &selected {
            Some(Ok((id, _))) => Some(*id),
            _ => self.asked(allowed),
        };
        if let Some((id, introspector)) = asked.and_then(|id| self.introspector(id)) {
            return self.introspect(token, id, introspector, now).await;
        }
        let (Some(parsed), Some(selected)) = (parsed, selected) else {
            return Err(JwtFault::Malformed.into());
        };
        let (id, source) = selected?;
        let (mut outcome, mut keys) = source.verify(&parsed, now).ok_or(AuthnError::KeysDown)?;
        let perhaps_new = outcome.as_ref().is_err_and(|fault| parsed.may_need_new_keys(fault));
        if perhaps_new && source.renew(Instant::now()).await {
            (outcome, keys) = source.verify(&parsed, now).ok_or(AuthnError::KeysDown)?;
        }
        let Verified { user, scopes, roles, expires, id: jti, issued } = outcome?;
        let claims = parsed.keep(&self.vouchers.claims);
        let facts = Facts {
            scopes: scopes.into(),
            roles: roles.into(),
            consumer: self.vouchers.consumer(id, &claims),
            claims,
            expires,
            marks: Marks { id: jti, issued, ..Marks::default() },
            ..Facts::of(Voucher::Issuer(id))
        };
        let identity = Rc::new(Identity::new(&user, facts).ok_or(JwtFault::Unusable("user"))?);
        self.cache.borrow_mut().insert(token, Rc::clone(&identity), keys);
        Ok(identity)
    }

    /// The first of these issuers that is asked about its tokens.
    fn asked(&self, allowed: &[IssuerId]) -> Option<IssuerId> {
        allowed.iter().copied().find(|id| self.introspector(*id).is_some())
    }

    fn introspector(&self, id: IssuerId) -> Option<(IssuerId, &Introspector)> {
        Some((id, self.introspectors.get(id.0)?.as_ref()?))
    }

    /// Asks the issuer about a token; of many requests with one token, one asks.
    async fn introspect(
        &self,
        token: &[u8],
        id: IssuerId,
        introspector: &Introspector,
        now: u64,
    ) -> Result<Rc<Identity>, AuthnError> {
        if token.len() > jwt::LONGEST_TOKEN {
            return Err(JwtFault::TooLong.into());
        }
        match introspector.wait(&Digest::of(token)).await {
            Waited::Nobody => {}
            Waited::Failed => return Err(AuthnError::KeysDown),
            Waited::Answered => {
                if let Some(known) = self.recall(token, &[id], now)? {
                    return Ok(known);
                }
            }
        }
        let source = self.vouchers.keys.source(id).ok_or(AuthnError::KeysDown)?;
        let kept = &self.vouchers.claims;
        let answer = introspector.ask(token, source.issuer(), kept, now).await?;
        let Verified { user, scopes, roles, expires, id: jti, issued } = answer.verified;
        let facts = Facts {
            scopes: scopes.into(),
            roles: roles.into(),
            consumer: self.vouchers.consumer(id, &answer.claims),
            claims: answer.claims,
            expires,
            recheck: answer.recheck,
            marks: Marks { id: jti, issued, ..Marks::default() },
            ..Facts::of(Voucher::Issuer(id))
        };
        let identity = Rc::new(Identity::new(&user, facts).ok_or(JwtFault::Unusable("user"))?);
        let generation = source.generation().unwrap_or_default();
        self.cache.borrow_mut().insert(token, Rc::clone(&identity), generation);
        Ok(identity)
    }

    /// A token this worker has verified before, if what that rested on still holds.
    fn recall(
        &self,
        token: &[u8],
        allowed: &[IssuerId],
        now: u64,
    ) -> Result<Option<Rc<Identity>>, AuthnError> {
        let keys = &self.vouchers.keys;
        let generation = |id: IssuerId| keys.source(id)?.generation();
        let Some(known) = self.cache.borrow_mut().find(token, generation) else {
            return Ok(None);
        };
        // Another route may accept other issuers, or this one under another name.
        let Some(issuer) = known.issuer().filter(|issuer| allowed.contains(issuer)) else {
            return Ok(None);
        };
        if now >= known.recheck() {
            return Ok(None);
        }
        let leeway = keys.source(issuer).map_or(0, jwks::Source::leeway);
        jwt::check_expiry(known.expires_at(), leeway, now)?;
        Ok(Some(known))
    }

    /// Whose an API key is, in the first of these sources that knows it.
    async fn look_up(
        &self,
        key: &[u8],
        ids: &[ApiKeysId],
        now: u64,
    ) -> Result<Rc<Identity>, AuthnError> {
        let mut answer = Err(AuthnError::UnknownKey);
        if !api_key::LENGTHS.contains(&key.len()) {
            return answer;
        }
        let digest = Digest::of(key);
        for id in ids {
            let Some(directory) = self.vouchers.directories.get(id.0) else { continue };
            match directory.find(digest).await {
                Ok(Some(entry)) if now >= entry.expires => return Err(AuthnError::ExpiredKey),
                Ok(Some(entry)) => {
                    let facts = Facts {
                        scopes: Arc::clone(&entry.scopes),
                        plan: entry.plan.clone(),
                        expires: entry.expires,
                        marks: Marks { digest: Some(digest), ..Marks::default() },
                        ..Facts::of(Voucher::ApiKeys(*id))
                    };
                    let identity = Identity::new(&entry.consumer, facts);
                    return identity.map(Rc::new).ok_or(AuthnError::UnknownKey);
                }
                Ok(None) => {}
                // Perhaps it is one of this source's.
                Err(Away) => answer = Err(AuthnError::StoreAway),
            }
        }
        answer
    }
}

impl Filter for Authn {
    const STAGE: Stage = Stage::Authn;
    type In = Normalised;
    type Out = Identified;
    type Plan = Plan;

    fn plan(&self, x: &Exchange, input: &Normalised, trace: &mut impl Trace) -> Plan {
        let Auth::Asked(ways) = &input.policy.auth else {
            trace.note(Stage::Authn, || "auth: none, nobody is asked".to_owned());
            return Plan::Anonymous;
        };
        match credentials::find(x, &input.request, ways, &self.vouchers.sources) {
            Ok(presented) => {
                trace.note(Stage::Authn, || match &presented {
                    Presented::Token(_) => "a Bearer token is verified".to_owned(),
                    Presented::Key(..) => "an API key is looked up".to_owned(),
                    Presented::Principal(name) => format!("the certificate says {name}"),
                });
                Plan::Judge(presented)
            }
            Err(error) => {
                trace.note(Stage::Authn, || error.to_string());
                Plan::Refuse(error)
            }
        }
    }

    async fn request(&self, x: &mut Exchange, mut input: Normalised) -> Result<Identified, Halt> {
        let caller = match (self.plan(x, &input, &mut crate::trace::Silent), &input.policy.auth) {
            (Plan::Refuse(error), _) => return Err(error.into()),
            (Plan::Judge(presented), Auth::Asked(ways)) => {
                x.passes(Stage::Authn, "auth", "");
                let identity = self.judge(&presented, ways, millis(x.wall)).await?;
                x.record.user = identity.user().cloned();
                x.record.consumer = identity.consumer_header().cloned();
                credentials::strip(&mut input.request, &self.vouchers.sources);
                if let Some(early) = &mut x.early {
                    early.caller = Caller::Known(Rc::clone(&identity));
                }
                Caller::Known(identity)
            }
            _ => Caller::Anonymous,
        };
        let Normalised { request, policy } = input;
        Ok(Identified { request, policy, caller })
    }
}

/// Milliseconds since the epoch; a clock before it reads as 0, when every token is still to come.
fn millis(wall: SystemTime) -> u64 {
    wall.duration_since(SystemTime::UNIX_EPOCH).map_or(0, jwt::millis)
}

#[cfg(test)]
#[path = "../../../tests/it/forge.rs"]
mod forge;

#[cfg(test)]
mod tests;
