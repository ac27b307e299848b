//! How a client must prove who it is: what rules, certificates and the system say before it is asked. Not
//! for the proof itself: that is `auth`. Called by `startup`.
//!
//! Invariant: where there are rules, nobody gets in whom none of them means.

use topology::pool::AuthType;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::source::Source;
use crate::fatal::Refusal;
use crate::hba::{Asking, ClientCert, Method, Rule};
use crate::snapshot::{Credential, Snapshot};
use crate::stream::Stream;

/// How this client must prove who it is; `None`: as its secret says.
///
/// # Errors
/// It may not log in, whatever it proves.
pub fn method(
    snapshot: &Snapshot,
    io: &Stream,
    asking: &Asking<'_>,
) -> Result<Option<Method>, Refusal> {
    let Some(rules) = &snapshot.rules else { return Ok(None) };
    let certificate = io.certificate();
    let missing =
        || Refusal::Authentication("connection requires a valid client certificate".to_owned());
    let rule = rules.find(asking).ok_or_else(|| nobody(asking))?;
    if rule.client_cert > ClientCert::Any && certificate.is_none() {
        return Err(missing());
    }
    let named = || {
        let name = certificate.and_then(common_name).ok_or_else(missing)?;
        allow(snapshot, rule, &name, asking)
    };
    if rule.client_cert == ClientCert::VerifyFull {
        named()?;
    }
    match rule.method {
        Method::Reject => Err(nobody(asking)),
        Method::Cert => named().map(|()| Some(Method::Trust)),
        Method::Peer => {
            let Source::Unix { uid, .. } = asking.source else { return Err(nobody(asking)) };
            let user = nix::unistd::User::from_uid(uid.into()).ok().flatten();
            let user = user.ok_or_else(|| nobody(asking))?;
            allow(snapshot, rule, &user.name, asking).map(|()| Some(Method::Trust))
        }
        Method::Password if !asking.encrypted && asking.source.ip().is_some() => {
            let text = "a password in clear is taken with TLS alone";
            Err(Refusal::Authentication(text.to_owned()))
        }
        method => Ok(Some(method)),
    }
}

/// How it must prove who it is by `auth_type`, where no rule says it; `None`: as its secret says. Who has no
/// secret needs no proof.
pub fn by_type(
    snapshot: &Snapshot,
    credential: Option<&Credential>,
    asking: &Asking<'_>,
) -> Option<Method> {
    if matches!(credential, Some(Credential::Trust)) {
        return None;
    }
    match snapshot.settings.auth_type? {
        AuthType::Md5 => Some(Method::Md5),
        AuthType::Scram => Some(Method::Scram),
        // In clear over a network it would be everybody's.
        AuthType::Plain if !asking.encrypted && asking.source.ip().is_some() => None,
        AuthType::Plain => Some(Method::Password),
    }
}

fn allow(snapshot: &Snapshot, rule: &Rule, name: &str, asking: &Asking<'_>) -> Result<(), Refusal> {
    if snapshot.maps.allow(rule.map.as_deref(), name, asking.user) {
        return Ok(());
    }
    let kind = if rule.method == Method::Peer { "Peer" } else { "certificate" };
    let text = format!("{kind} authentication failed for user \"{}\"", asking.user);
    Err(Refusal::Authentication(text))
}

fn nobody(asking: &Asking<'_>) -> Refusal {
    Refusal::NoRule {
        host: asking.source.host(),
        user: asking.user.to_owned(),
        database: asking.database.to_owned(),
        tls: if asking.encrypted { "SSL encryption" } else { "no encryption" },
    }
}

/// The one common name of a certificate's subject; several are nobody's.
fn common_name(leaf: &[u8]) -> Option<String> {
    let (_, parsed) = X509Certificate::from_der(leaf).ok()?;
    let mut names = parsed.subject().iter_common_name();
    let (first, second) = (names.next()?, names.next());
    let name = first.as_str().ok().filter(|name| second.is_none() && !name.contains('\0'))?;
    Some(name.to_owned())
}
