//! Whether clients of a gateway show certificates, and what of the file would never be known where they do not. Not for
//! reading any: gateways do.
//!
//! Invariant: none beyond `resolve`'s.

use crate::expression::{Expression, Fact};
use crate::identity::Told;
use crate::raw::{self, Findings, Spot, Typed};

/// Whether clients of a group are asked for certificates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Certificates {
    /// They are.
    Asked,
    /// They are not: no client has a principal.
    Unasked,
}

/// Notes that whom a certificate names is asked for there, and never known.
pub(super) fn unknown(what: &str, at: &Spot, out: &mut Findings) {
    out.error(at, format!("{what} is never known: no client is asked for a certificate"))
        .allowed("it where `tls` of the gateway has a `client-ca`");
}

impl Certificates {
    /// As the file says.
    pub(super) fn of(tls: Option<&raw::Tls>) -> Self {
        let asked = tls.is_some_and(|tls| tls.client_ca.is_some());
        if asked { Self::Asked } else { Self::Unasked }
    }

    /// Notes a rule that depends on who a certificate names.
    pub(super) fn judge(self, rule: &Typed<Expression>, out: &mut Findings) {
        if self == Self::Unasked && rule.value.asks(Fact::Principal) {
            unknown("`@principal`", &rule.spot, out);
        }
    }

    /// What services are told of callers.
    pub(super) fn told(self, all: Vec<Typed<Told>>, out: &mut Findings) -> Vec<Told> {
        for typed in all.iter().filter(|typed| typed.value == Told::Principal) {
            if self == Self::Unasked {
                unknown("`principal`", &typed.spot, out);
            }
        }
        all.into_iter().map(|typed| typed.value).collect()
    }
}
