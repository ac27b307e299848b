//! Who a caller would be, without asking anybody outside of this process. For `aqueduct explain`; never
//! on the data path, which believes only what it has verified. Called by `preview`.
//!
//! Invariant: what is here is verified as for a request; only what would have to be fetched or asked is
//! taken for granted, and told.

use std::rc::Rc;
use std::sync::Arc;

use topology::gateway::{ApiKeysId, IssuerId};

use super::api_key::{self, Digest};
use super::credentials::{self, Presented};
use super::identity::{Facts, Identity};
use super::jwt::{JwtFault, Token, Verified};
use super::{Authn, AuthnError, Voucher, Ways, millis};
use crate::exchange::{Caller, Exchange, Identified, Normalised};

/// A caller, and what is taken for granted of it.
#[derive(Debug)]
pub struct Presumed {
    /// The next stage's input.
    pub identified: Identified,
    /// How it is known, for people.
    pub told: String,
}

/// Stands for a name that only somebody outside can tell.
const SOMEBODY: &str = "?";

impl Authn {
    /// The stage's request side without whom it would ask.
    ///
    /// # Errors
    /// As for a request, as far as it can be told here.
    pub async fn presume(
        &self,
        x: &Exchange,
        mut input: Normalised,
        (presented, ways): (&Presented, &Ways),
    ) -> Result<Presumed, AuthnError> {
        let now = millis(x.wall);
        let (identity, told) = match presented {
            Presented::Token(value) => {
                let token = credentials::bearer(value).unwrap_or_default();
                let granted: Vec<_> = input.policy.scopes.clone();
                self.presume_token(token, ways, now, &granted)?
            }
            Presented::Key(key, ids) => self.presume_key(key, ids, now, &input).await?,
            Presented::Principal(principal) => {
                let facts = Facts::of(Voucher::Certificate);
                let identity = Identity::new(principal, facts).ok_or(AuthnError::OddPrincipal)?;
                (identity, format!("the certificate's principal is {principal}"))
            }
        };
        credentials::strip(&mut input.request, &self.vouchers.sources);
        let Normalised { request, policy } = input;
        let caller = Caller::Known(Rc::new(identity));
        Ok(Presumed { identified: Identified { request, policy, caller }, told })
    }

    fn presume_token(
        &self,
        token: &[u8],
        ways: &Ways,
        now: u64,
        scopes: &[topology::units::Scope],
    ) -> Result<(Identity, String), AuthnError> {
        let asked = |id: IssuerId| -> Result<(Identity, String), AuthnError> {
            let name = &self.vouchers.keys.source(id).ok_or(AuthnError::KeysDown)?.issuer().name;
            let facts = Facts { scopes: scopes.into(), ..Facts::of(Voucher::Issuer(id)) };
            let identity = Identity::new(SOMEBODY, facts).ok_or(JwtFault::Unusable("user"))?;
            let told = format!("issuer {name} would be asked about the token; taken for good");
            Ok((identity, told))
        };
        let parsed = match Token::parse(token) {
            Err(JwtFault::Malformed) if self.asked(&ways.issuers).is_some() => None,
            parsed => Some(parsed?),
        };
        let Some(parsed) = parsed else {
            return asked(self.asked(&ways.issuers).ok_or(JwtFault::Malformed)?);
        };
        let (id, source) = self.vouchers.keys.select(&parsed, &ways.issuers)?;
        if self.introspector(id).is_some() {
            return asked(id);
        }
        let name = &source.issuer().name;
        let (verified, how) = match source.verify(&parsed, now) {
            Some((outcome, _)) => (outcome?, "signature and claims verified"),
            None => {
                let how = "claims checked; the signature is not, as its keys are fetched";
                (parsed.presume(source.issuer(), now)?, how)
            }
        };
        let Verified { user, scopes, roles, expires, .. } = verified;
        let claims = parsed.keep(&self.vouchers.claims);
        let facts = Facts {
            scopes: scopes.into(),
            roles: roles.into(),
            consumer: self.vouchers.consumer(id, &claims),
            claims,
            expires,
            ..Facts::of(Voucher::Issuer(id))
        };
        let identity = Identity::new(&user, facts).ok_or(JwtFault::Unusable("user"))?;
        let consumer = identity.consumer().map(|name| format!(", consumer {name}"));
        let consumer = consumer.unwrap_or_default();
        Ok((identity, format!("user {user}{consumer} by issuer {name}: {how}")))
    }

    async fn presume_key(
        &self,
        key: &[u8],
        ids: &[ApiKeysId],
        now: u64,
        input: &Normalised,
    ) -> Result<(Identity, String), AuthnError> {
        if !api_key::LENGTHS.contains(&key.len()) {
            return Err(AuthnError::UnknownKey);
        }
        let remote = |id: &&ApiKeysId| {
            self.vouchers.directories.get(id.0).is_some_and(|directory| directory.is_asked())
        };
        let Some(id) = ids.iter().find(remote) else {
            let identity = self.look_up(key, ids, now).await?;
            let told = format!("consumer {} by its API key", identity.subject());
            return Ok((Identity::clone(&identity), told));
        };
        let facts = Facts {
            scopes: Arc::from(input.policy.scopes.as_slice()),
            marks: super::identity::Marks { digest: Some(Digest::of(key)), ..Default::default() },
            ..Facts::of(Voucher::ApiKeys(*id))
        };
        let identity = Identity::new(SOMEBODY, facts).ok_or(AuthnError::UnknownKey)?;
        let name = self.vouchers.sources.get(id.0).map_or("", |source| source.name.as_str());
        Ok((identity, format!("{name} would be asked about the key; taken for good")))
    }
}
