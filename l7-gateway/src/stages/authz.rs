//! Stage 4: may this caller ask this? Not for who the caller is: that is `authn`. Called by
//! `pipeline`.
//!
//! Invariant: `Grant` is made here alone, after every scope of the policy was found.

use topology::units::Scope;

use crate::exchange::{Caller, Exchange, Granted, Identified, Stage};
use crate::halt::Halt;
use crate::pipeline::Filter;
use crate::trace::Trace;

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
    /// The token lacks a scope.
    #[error("the token lacks a scope of: {}", required.join(" "))]
    InsufficientScope {
        /// All that the route asks for.
        required: Vec<Box<str>>,
    },
}

/// What the stage decides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Plan {
    /// Everything asked for is there.
    Grant,
    /// Something is missing.
    Refuse(AuthzError),
}

/// The stage.
#[derive(Debug, Default)]
pub struct Authz;

impl Filter for Authz {
    const STAGE: Stage = Stage::Authz;
    type In = Identified;
    type Out = Granted;
    type Plan = Plan;

    fn plan(&self, _x: &Exchange, input: &Identified, trace: &mut impl Trace) -> Plan {
        let plan = decide(&input.policy.scopes, &input.caller);
        trace.note(Stage::Authz, || match &plan {
            Plan::Grant => "every scope that the route asks for is there".to_owned(),
            Plan::Refuse(error) => error.to_string(),
        });
        plan
    }

    async fn request(&self, x: &mut Exchange, input: Identified) -> Result<Granted, Halt> {
        match self.plan(x, &input, &mut crate::trace::Silent) {
            Plan::Refuse(error) => Err(error.into()),
            Plan::Grant => {
                let Identified { request, policy, caller } = input;
                Ok(Granted { request, policy, grant: Grant { caller } })
            }
        }
    }
}

fn decide(required: &[Scope], caller: &Caller) -> Plan {
    if required.is_empty() {
        return Plan::Grant;
    }
    let Some(identity) = caller.identity() else { return Plan::Refuse(AuthzError::Anonymous) };
    if required.iter().all(|scope| identity.scopes().contains(scope)) {
        return Plan::Grant;
    }
    let required = required.iter().map(|scope| scope.as_str().into()).collect();
    Plan::Refuse(AuthzError::InsufficientScope { required })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// G9: scopes without anybody who could have them are refused, whatever the policy's `auth`.
    #[test]
    fn scopes_need_somebody() {
        assert_eq!(decide(&[], &Caller::Anonymous), Plan::Grant);
        let needed = [Scope::new("pay")];
        assert_eq!(decide(&needed, &Caller::Anonymous), Plan::Refuse(AuthzError::Anonymous));
    }
}
