//! How a client must prove who it is: what rules, certificates and the system say before it is asked. Not
//! for the proof itself: that is `auth`. Called by `startup`.
//!
//! Invariant: where there are rules, nobody gets in whom none of them means.

use topology::Form;
use topology::pool::AuthType;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use super::source::Source;
use crate::fatal::Refusal;
use crate::hba::{Asking, ClientCert, Method, Rule};
use crate::snapshot::{Credential, Snapshot};
use crate::stream::Stream;

/// How this client must prove who it is; `None`: as its secret says.
///
/// # Errors
/// It may not log in, whatever it proves.
pub async fn method(
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
        let names = names(certificate.ok_or_else(missing)?, &snapshot.source.form);
        let (first, others) = names.split_first().ok_or_else(missing)?;
        let any = others.iter().any(|name| allow(snapshot, rule, name, asking).is_ok());
        if any { Ok(()) } else { allow(snapshot, rule, first, asking) }
    };
    if rule.client_cert == ClientCert::VerifyFull {
        named()?;
    }
    match rule.method {
        Method::Reject => Err(nobody(asking)),
        Method::Cert => named().map(|()| Some(Method::Trust)),
        Method::Peer => {
            let Source::Unix { uid, .. } = asking.source else { return Err(nobody(asking)) };
            // Where users are kept elsewhere, this asks a directory: not on the worker.
            let look = move || nix::unistd::User::from_uid(uid.into()).ok().flatten();
            let user = tokio::task::spawn_blocking(look).await.ok().flatten();
            let user = user.ok_or_else(|| nobody(asking))?;
            allow(snapshot, rule, &user.name, asking).map(|()| Some(Method::Trust))
        }
        // In PgBouncer's place another proof is asked for.
        Method::Password
            if matches!(snapshot.source.form, Form::Topology)
                && !asking.encrypted
                && asking.source.ip().is_some() =>
        {
            let text = "a password in clear is taken with TLS alone";
            Err(Refusal::Authentication(text.to_owned()))
        }
        method => Ok(Some(method)),
    }
}

/// How it must prove who it is, when its secret is known: by its rule, or else by `auth_type`.
pub fn settled(
    ruled: Option<Method>,
    snapshot: &Snapshot,
    credential: Option<&Credential>,
    asking: &Asking<'_>,
) -> Option<Method> {
    let heard = ruled.map(|method| unheard(method, credential, asking));
    heard.or_else(|| by_type(snapshot, credential, asking))
}

/// In clear over a network a password would be everybody's: there a proof is asked for in its place, which who has no
/// secret cannot give.
fn unheard(method: Method, credential: Option<&Credential>, asking: &Asking<'_>) -> Method {
    match (method, credential) {
        (Method::Password, _) if asking.encrypted || asking.source.ip().is_none() => method,
        (Method::Password, Some(Credential::Md5(_))) => Method::Md5,
        (Method::Password, _) => Method::Scram,
        _ => method,
    }
}

/// How it must prove who it is by `auth_type`, where no rule says it; `None`: as its secret says. Who has no
/// secret needs no proof.
fn by_type(
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
    let (host, tls) = (asking.source.host(), if asking.encrypted { "SSL" } else { "no" });
    let Asking { user, database, .. } = asking;
    Refusal::NoRule(format!(
        "host \"{host}\", user \"{user}\", database \"{database}\", {tls} encryption"
    ))
}

/// Whom a certificate names: by its common name, as PostgreSQL has it; in PgBouncer's place by its alternative names
/// of hosts as well, letter by letter.
fn names(leaf: &[u8], form: &Form) -> Vec<String> {
    let mut all: Vec<String> = common_name(leaf).into_iter().collect();
    if let (Form::PgBouncer(_), Ok((_, parsed))) = (form, X509Certificate::from_der(leaf))
        && let Ok(Some(others)) = parsed.subject_alternative_name()
    {
        all.extend(others.value.general_names.iter().filter_map(|name| match name {
            GeneralName::DNSName(name) if !name.contains(['\0', '*']) => Some((*name).to_owned()),
            _ => None,
        }));
    }
    all
}

/// The one common name of a certificate's subject; several are nobody's.
fn common_name(leaf: &[u8]) -> Option<String> {
    let (_, parsed) = X509Certificate::from_der(leaf).ok()?;
    let mut names = parsed.subject().iter_common_name();
    let (first, second) = (names.next()?, names.next());
    let name = first.as_str().ok().filter(|name| second.is_none() && !name.contains('\0'))?;
    Some(name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, DnType, KeyPair};

    /// P4: a certificate names by its common name alone; in PgBouncer's place by its other names as well, but for
    /// wildcards.
    #[test]
    fn names_of_certificates() {
        let others = ["app", "db.internal", "*.internal"].map(str::to_owned);
        let mut params = CertificateParams::new(others.to_vec()).expect("names");
        params.distinguished_name.push(DnType::CommonName, "joe");
        let made = params.self_signed(&KeyPair::generate().expect("a key")).expect("made");
        assert_eq!(names(made.der(), &Form::Topology), ["joe"]);
        let form = Form::PgBouncer(Box::default());
        assert_eq!(names(made.der(), &form), ["joe", "app", "db.internal"]);
    }
}
