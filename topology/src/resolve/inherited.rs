//! What holds whatever the route: what `defaults` say, and what consumers of API keys have.
//!
//! Invariant: none beyond `resolve`'s.

use crate::answers::{Attached, Compress, Maintenance, SecurityHeaders, Word};
use crate::contract::Contract;
use crate::external::External;
use crate::gateway::{Consumer, IssuerId};
use crate::raw::{self, Entry, Findings, Named, Spot};
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

/// What one consumer is called by tokens of an issuer, and where that stands.
type Calling = (IssuerId, String, Spot);

/// What tokens of whom call a consumer of this name. One issuer has no say about another's consumers: where there are
/// several, the file says whose word counts.
fn claimed(
    raw: Option<raw::Claimed>,
    (name, spot): (&str, Spot),
    policies: &Policies,
    out: &mut Findings,
) -> Vec<Calling> {
    let naming: Vec<_> = policies.naming().collect();
    let all: Vec<(String, Spot)> = match raw {
        Some(raw::Claimed::ByIssuer(by)) => {
            let mut all = Vec::new();
            for Entry { name, spot, value } in by {
                match naming.iter().find(|(_, known)| *known == name) {
                    Some((id, _)) => {
                        all.extend(value.0.into_iter().map(|text| (*id, text.value.0, text.spot)));
                    }
                    None if policies.is_broken(&name) => {}
                    None => {
                        let known = naming.iter().map(|(_, known)| *known);
                        out.unknown(&spot, "issuer with `consumer`", &name, known);
                    }
                }
            }
            return all;
        }
        Some(raw::Claimed::Alike(all)) => {
            all.0.into_iter().map(|text| (text.value.0, text.spot)).collect()
        }
        None => vec![(name.to_owned(), spot)],
    };
    match (naming.as_slice(), all.first()) {
        ([(id, _)], _) => all.into_iter().map(|(text, at)| (*id, text, at)).collect(),
        ([(_, first), (_, second), ..], Some((text, at))) => {
            let what = format!("tokens of `{first}` and of `{second}` would both mean `{name}`");
            out.error(at, what).allowed(format!(
                "`claimed-as: {{ {first}: {text} }}`, or one for each; `claimed-as: {{}}` where no token names it"
            ));
            Vec::new()
        }
        _ => Vec::new(),
    }
}

/// What holds for consumers, and what tokens call them; each of those names is one's alone.
pub(super) fn consumers(
    raw: Option<Named<raw::Consumer>>,
    (certificates, policies): (Certificates, &Policies),
    names: &Names,
    out: &mut Findings,
) -> Vec<Consumer> {
    let mut taken: Vec<(IssuerId, String, String)> = Vec::new();
    let each = |Entry { name, spot, value: raw }: Entry<raw::Consumer>| {
        let claimed = claimed(raw.claimed, (&name, spot), policies, out);
        for (id, value, at) in &claimed {
            let other = taken.iter().find(|(by, known, _)| (by, known) == (id, value));
            if let Some((_, _, other)) = other {
                out.error(at, format!("tokens that say `{value}` mean `{other}` already"))
                    .allowed("each of `claimed-as` once; without it a consumer's name is its own");
            }
            taken.push((*id, value.clone(), name.clone()));
        }
        let claimed = claimed.into_iter().map(|(id, value, _)| (id, value)).collect();
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
