//! Stage 4: may this caller ask this? Not for who the caller is: that is `authn`. Called by
//! `pipeline`.
//!
//! Invariant: `Grant` is made here alone, after every scope of the policy was found and one of
//! its rules allowed it, and who is asked beside the file did not refuse.

use common::observe::Observer;
use common::tls::principal::Principal;
use topology::gateway::{Access, RoutePolicy};
use topology::units::Scope;

use self::authorizer::Authorizers;
use self::evaluate::Asking;
use crate::exchange::{Caller, Exchange, Granted, Identified, Identity, Stage};
use crate::halt::Halt;
use crate::order::restricts;
use crate::pipeline::Filter;
use crate::snapshot::Snapshot;
use crate::trace::Trace;

pub mod authorizer;
pub mod evaluate;
pub mod events;

/// Proof that the caller may ask this; an upstream call demands one.
#[derive(Clone, Debug)]
pub struct Grant {
    caller: Caller,
}

impl Grant {
    /// Whom it was given to.
    pub fn caller(&self) -> &Caller {
        &self.caller
    }
}

/// Why it is not granted. `halt` says which status each one is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuthzError {
    /// Scopes are asked for and nobody was identified.
    #[error("a token is needed")]
    Anonymous,
    /// The caller lacks a scope.
    #[error("the caller lacks a scope of: {}", required.join(" "))]
    InsufficientScope {
        /// All that the route asks for.
        required: Vec<Box<str>>,
    },
    /// No rule of the route allows it.
    #[error("no rule allows this")]
    NotAllowed,
    /// Who is asked beside the file says no.
    #[error("the caller may not do this")]
    Forbidden,
    /// Who is asked beside the file says nothing.
    #[error("nobody says whether the caller may do this")]
    Unanswered,
    /// The route has no rules, and without one it allows nothing.
    #[error("nobody may do this")]
    Closed,
}

/// What the stage decides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Plan {
    /// Everything asked for is there.
    Grant,
    /// Something is missing.
    Refuse(AuthzError),
}

/// The stage, one per worker.
#[derive(Debug)]
pub struct Authz {
    authorizers: Authorizers,
}

impl Authz {
    /// For one worker.
    pub fn new(snapshot: &Snapshot, observer: &Observer) -> Self {
        Self { authorizers: Authorizers::new(snapshot, observer) }
    }
}

impl Authz {
    /// The request side without whom it would ask: for `explain`, whose requests go nowhere.
    pub(crate) fn presume(
        &self,
        x: &Exchange,
        input: Identified,
        trace: &mut impl Trace,
    ) -> Result<Granted, AuthzError> {
        match self.plan(x, &input, trace) {
            Plan::Refuse(error) => Err(error),
            Plan::Grant => Ok(grant(input)),
        }
    }
}

fn grant(Identified { request, policy, caller }: Identified) -> Granted {
    Granted { request, policy, grant: Grant { caller } }
}

impl Filter for Authz {
    const STAGE: Stage = Stage::Authz;
    type In = Identified;
    type Out = Granted;
    type Plan = Plan;

    fn plan(&self, x: &Exchange, input: &Identified, trace: &mut impl Trace) -> Plan {
        let asking = Asking {
            identity: input.caller.identity(),
            principal: x.peer.principal().map(Principal::as_str),
            method: &input.request.method,
        };
        let plan = decide(&input.policy, &asking);
        trace.note(Stage::Authz, || match &plan {
            Plan::Grant => "the caller may do this".to_owned(),
            Plan::Refuse(error) => error.to_string(),
        });
        plan
    }

    async fn request(&self, x: &mut Exchange, mut input: Identified) -> Result<Granted, Halt> {
        match self.plan(x, &input, &mut crate::trace::Silent) {
            Plan::Refuse(error) => Err(error.into()),
            Plan::Grant => {
                if restricts(&input.policy) {
                    x.passes(Stage::Authz, "access", "");
                }
                if let Some(asked) = &input.policy.authorize {
                    x.passes(Stage::Authz, "authorize", &asked.url.value);
                    let said = self.authorizers.ask(x, &input, asked).await?;
                    authorizer::pass_on(&said, asked, &mut input.request.headers);
                }
                Ok(grant(input))
            }
        }
    }
}

fn decide(policy: &RoutePolicy, asking: &Asking<'_>) -> Plan {
    let RoutePolicy { scopes, allow, access, .. } = policy;
    if !scopes.is_empty() {
        let Some(identity) = asking.identity else { return Plan::Refuse(AuthzError::Anonymous) };
        if !has_all(identity, scopes) {
            return lacking(scopes);
        }
    }
    if allow.is_empty() {
        return match access {
            Access::Deny if scopes.is_empty() => Plan::Refuse(AuthzError::Closed),
            _ => Plan::Grant,
        };
    }
    let Some(identity) = asking.identity else { return Plan::Refuse(AuthzError::Anonymous) };
    let mut missing = None;
    for rule in allow {
        let method = rule.methods.is_empty()
            || rule.methods.iter().any(|method| method == asking.method.as_str());
        let role = |role: &String| identity.roles().iter().any(|own| **own == **role);
        let fits = method
            && (rule.roles.is_empty() || rule.roles.iter().any(role))
            && rule.when.as_ref().is_none_or(|when| asking.fits(when));
        match fits {
            true if has_all(identity, &rule.scopes) => return Plan::Grant,
            // Nothing but scopes is missing: those can be told.
            true => missing = missing.or(Some(&rule.scopes)),
            false => {}
        }
    }
    missing.map_or(Plan::Refuse(AuthzError::NotAllowed), |scopes| lacking(scopes))
}

fn has_all(identity: &Identity, scopes: &[Scope]) -> bool {
    scopes.iter().all(|scope| identity.scopes().contains(scope))
}

fn lacking(scopes: &[Scope]) -> Plan {
    let required = scopes.iter().map(|scope| scope.as_str().into()).collect();
    Plan::Refuse(AuthzError::InsufficientScope { required })
}

#[cfg(test)]
mod tests;
