//! What holds whatever the route: what `defaults` say, and what consumers of API keys have.
//!
//! Invariant: none beyond `resolve`'s.

use crate::answers::{Attached, Compress, Maintenance, SecurityHeaders, Word};
use crate::contract::Contract;
use crate::external::External;
use crate::gateway::Consumer;
use crate::raw::{self, Entry, Findings, Named};
use crate::resolve::answers;
use crate::resolve::certificates::Certificates;
use crate::resolve::contract::contract;
use crate::resolve::external::external;
use crate::resolve::names::Names;
use crate::resolve::policy::{self, Policies};
use crate::resolve::transform::{Scope, transform};
use crate::transform::Transform;

/// What routes have unless they say otherwise.
#[derive(Default)]
pub(super) struct Inherited {
    pub(super) policy: Option<policy::Defaults>,
    pub(super) maintenance: Option<Maintenance>,
    pub(super) security: Option<SecurityHeaders>,
    pub(super) compress: Word<Compress>,
    pub(super) contract: Option<Contract>,
}

impl Inherited {
    /// What requests of a route must be like that says so itself, or says nothing.
    pub(super) fn contract(
        &self,
        own: Option<raw::ValidateChoice>,
        names: &Names,
        out: &mut Findings,
    ) -> Option<Contract> {
        match contract(own, Attached::Route, names, out) {
            Word::Silent => self.contract.clone(),
            word => word.rules().cloned(),
        }
    }
}

/// What `defaults` say: of all messages, and of routes.
pub(super) fn inherited(
    raw: Option<raw::Defaults>,
    policies: &mut Policies,
    names: &Names,
    out: &mut Findings,
) -> (Option<Transform>, Option<External>, Inherited) {
    let Some(mut raw) = raw else {
        return (None, None, Inherited::default());
    };
    let changes =
        raw.transform.take().map(|raw| transform(raw, Scope::several(policies.certificates), out));
    let outside = raw.external.take().and_then(|raw| external(raw, out));
    let maintenance = answers::maintenance(raw.maintenance.take(), None, out);
    let security = answers::security(raw.security_headers.take(), None, out);
    let compress = answers::compress(raw.compress.take());
    let described = contract(raw.validate.take(), Attached::Listener, names, out);
    let contract = described.rules().cloned();
    let policy = Some(policies.defaults(raw, out));
    (changes, outside, Inherited { policy, maintenance, security, compress, contract })
}

/// What is asked of requests that no route means; they go nowhere, so no other filter sees them.
pub(super) fn unmatched(
    raw: raw::Defaults,
    policies: &mut Policies,
    out: &mut Findings,
) -> policy::Defaults {
    let idle = [
        ("compress", raw.compress.is_some()),
        ("maintenance", raw.maintenance.is_some()),
        ("security-headers", raw.security_headers.is_some()),
        ("transform", raw.transform.is_some()),
        ("external", raw.external.is_some()),
        ("validate", raw.validate.is_some()),
    ];
    for (key, _) in idle.into_iter().filter(|(_, there)| *there) {
        out.error(&raw.spot, format!("`{key}` would see no request here: they go nowhere"))
            .allowed(format!("`{key}` in `defaults` or on a route"));
    }
    policies.defaults(raw, out)
}

/// What holds for consumers, and what tokens call them (`claims`: some issuer's do); each of those names is one's alone.
pub(super) fn consumers(
    raw: Option<Named<raw::Consumer>>,
    (certificates, claims): (Certificates, bool),
    names: &Names,
    out: &mut Findings,
) -> Vec<Consumer> {
    let mut taken: Vec<(String, String)> = Vec::new();
    let each = |Entry { name, spot, value: raw }: Entry<raw::Consumer>| {
        let claimed = match raw.claimed {
            Some(all) => all.0.into_iter().map(|typed| (typed.value.0, typed.spot)).collect(),
            None => vec![(name.clone(), spot)],
        };
        for (value, at) in &claimed {
            let other = taken.iter().find(|(known, _)| known == value);
            if let Some((_, other)) = other.filter(|_| claims) {
                out.error(at, format!("tokens that say `{value}` mean `{other}` already"))
                    .allowed("each of `claimed-as` once; without it a consumer's name is its own");
            }
            taken.push((value.clone(), name.clone()));
        }
        let claimed = claimed.into_iter().map(|(value, _)| value).collect();
        if let Some(raw::Refused(at)) = raw.cors {
            // Fetch standard, "CORS-preflight fetch": it is made without credentials.
            out.error(&at, "a browser asks for cross-origin rules before it shows who calls")
                .allowed("`cors` in `defaults`, in `upstreams` or on routes");
        }
        let described = contract(raw.validate, Attached::Consumer, names, out);
        Consumer {
            name,
            claimed,
            transform: raw.transform.map(|raw| transform(raw, Scope::several(certificates), out)),
            external: raw.external.and_then(|raw| external(raw, out)),
            compress: answers::compress(raw.compress),
            contract: described.rules().cloned(),
        }
    };
    raw.unwrap_or_default().into_iter().map(each).collect()
}
