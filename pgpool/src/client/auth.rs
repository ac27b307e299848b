//! A client proves who it is: SCRAM-SHA-256, md5, or nothing where the topology file says trust.
//! Not for what it may do afterwards. Called by `startup`.
//!
//! Invariant: a name that does not exist is asked for a proof in the same way as one that does.

use std::sync::Arc;

use pgpool_wire::backend::{self, Authentication};
use pgpool_wire::frontend;
use pgpool_wire::sasl::{self, Binding, ClientFinal, ClientFirst, SaslError, ServerFirst};
use rand::RngCore;
use zeroize::Zeroizing;

use super::startup::Door;
use crate::fatal::Refusal;
use crate::hba::Method;
use crate::scram::{self, Keys, MOST_DERIVED, Verifier};
use crate::server::auth::nonce;
use crate::snapshot::{Credential, Snapshot};

/// What a SCRAM proof has shown us.
pub struct Proof {
    /// Of the verifier.
    pub salt: String,
    /// Of the verifier.
    pub iterations: u32,
    /// Log in wherever the same verifier is stored.
    pub keys: Arc<Keys>,
}

/// What proofs depend on beside the user.
#[derive(Clone, Copy)]
pub struct Way<'a> {
    /// Knows what users are asked with that do not exist.
    pub snapshot: &'a Snapshot,
    /// What SCRAM-SHA-256-PLUS binds to on this connection.
    pub binding: Option<&'a [u8]>,
}

/// Lets the client prove that it is `name`, in the way that a rule says, or else as its secret does.
///
/// # Errors
/// It could not, or did not follow the protocol.
pub async fn prove(
    door: &mut Door,
    credential: Option<&Credential>,
    name: &str,
    (method, way): (Option<Method>, Way<'_>),
) -> Result<Option<Proof>, Refusal> {
    match (method, credential) {
        (Some(Method::Trust), Some(_)) | (None, Some(Credential::Trust)) => Ok(None),
        (Some(Method::Password), Some(credential)) => cleartext(door, credential, name).await,
        (Some(Method::Md5), Some(Credential::Password(secret, _))) => {
            let secret = secret.as_str().map_err(|_| wrong(name))?;
            let stored = scram::md5_hash(secret.as_bytes(), name);
            md5(door, &stored, name).await.map(|()| None)
        }
        (None | Some(Method::Md5), Some(Credential::Md5(stored))) => {
            md5(door, stored, name).await.map(|()| None)
        }
        (
            None | Some(Method::Md5 | Method::Scram),
            Some(Credential::Scram(verifier) | Credential::Password(_, verifier)),
        ) => scram(door, verifier, name, way.binding).await.map(Some),
        // Asked as others are, so that names which exist are not told from those that do not.
        (Some(Method::Password), None) => cleartext(door, &Credential::Trust, name).await,
        (Some(Method::Md5), None) => {
            let answered = md5(door, &way.snapshot.stranger(name).salt, name).await;
            answered.and(Err(wrong(name)))
        }
        // Nobody knows the password of a verifier made of chance.
        _ => {
            let verifier = way.snapshot.stranger(name);
            scram(door, &verifier, name, way.binding).await.and(Err(wrong(name)))
        }
    }
}

/// The password itself, over TLS or by a unix socket.
async fn cleartext(
    door: &mut Door,
    credential: &Credential,
    name: &str,
) -> Result<Option<Proof>, Refusal> {
    let mut out = Vec::new();
    backend::put_authentication(&mut out, Authentication::Cleartext);
    door.write(&out).await?;
    let body = Zeroizing::new(door.password().await?);
    let given = frontend::password(&body)?;
    match credential {
        Credential::Password(secret, _) => {
            let known = secret.as_str().map_err(|_| wrong(name))?;
            if scram::same(given, known.as_bytes()) { Ok(None) } else { Err(wrong(name)) }
        }
        Credential::Md5(stored) => {
            let hash = scram::md5_hash(given, name);
            if scram::same(hash.as_bytes(), stored.as_bytes()) {
                Ok(None)
            } else {
                Err(wrong(name))
            }
        }
        Credential::Scram(verifier) => {
            let salt = scram::salt(&verifier.salt).ok_or_else(|| wrong(name))?;
            let text = std::str::from_utf8(given).map_err(|_| wrong(name))?;
            let (text, iterations) = (Zeroizing::new(text.to_owned()), verifier.iterations);
            if iterations > MOST_DERIVED {
                let text = format!(
                    "the verifier has {iterations} iterations, which a password in clear is checked against up to \
                     {MOST_DERIVED} alone: use scram-sha-256"
                );
                return Err(Refusal::Authentication(text));
            }
            // Thousands of hashes: not on the worker.
            let derive = move || Keys::derive(&text, &salt, iterations);
            let keys = tokio::task::spawn_blocking(derive).await.map_err(|_| wrong(name))?;
            // Both know the same key if they sign alike.
            if !keys.confirms("login", &verifier.signature("login")) {
                return Err(wrong(name));
            }
            let salt = verifier.salt.clone();
            Ok(Some(Proof { salt, iterations, keys: Arc::new(keys) }))
        }
        // Without a secret nothing is right.
        Credential::Trust => Err(wrong(name)),
    }
}

fn wrong(name: &str) -> Refusal {
    Refusal::PasswordFailed(name.to_owned())
}

async fn md5(door: &mut Door, stored: &str, name: &str) -> Result<(), Refusal> {
    let mut salt = [0; 4];
    rand::rng().fill_bytes(&mut salt);
    let mut out = Vec::new();
    backend::put_authentication(&mut out, Authentication::Md5(salt));
    door.write(&out).await?;
    let body = door.password().await?;
    let answer = frontend::password(&body)?;
    let right = scram::md5_answer(stored, salt);
    if scram::same(answer, right.as_bytes()) { Ok(()) } else { Err(wrong(name)) }
}

async fn scram(
    door: &mut Door,
    verifier: &Verifier,
    name: &str,
    binding: Option<&[u8]>,
) -> Result<Proof, Refusal> {
    let mut out = Vec::new();
    let offered: &[&str] =
        if binding.is_some() { &[sasl::SCRAM_PLUS, sasl::SCRAM] } else { &[sasl::SCRAM] };
    let mechanisms = [offered.join("\0").as_bytes(), b"\0\0"].concat();
    backend::put_authentication(&mut out, Authentication::Sasl(&mechanisms));
    door.write(&out).await?;

    let body = door.password().await?;
    let (mechanism, data) = frontend::sasl_initial(&body)?;
    if !offered.contains(&mechanism) {
        let text = format!("the client chose {} which was not offered", shorten(mechanism));
        return Err(Refusal::Authentication(text));
    }
    let first = ClientFirst::read(data.unwrap_or_default()).map_err(refused)?;
    let bound = bound_to(&first, mechanism, binding)?;
    let joined = format!("{}{}", first.nonce, nonce());
    let server_first = ServerFirst::write(&joined, &verifier.salt, verifier.iterations);
    out.clear();
    let message = Authentication::SaslContinue(server_first.as_bytes());
    backend::put_authentication(&mut out, message);
    door.write(&out).await?;

    let last = door.password().await?;
    let last = ClientFinal::read(&last).map_err(refused)?;
    // RFC 5802 §5.1: the header is repeated, so that nobody has changed it on the way.
    if last.nonce != joined || last.binding != bound {
        return Err(refused(SaslError::Nonce));
    }
    let auth_message = format!("{},{server_first},{}", first.bare, last.without_proof);
    let keys = verifier.check(&auth_message, last.proof).ok_or_else(|| wrong(name))?;
    let signature = format!("v={}", verifier.signature(&auth_message));
    out.clear();
    backend::put_authentication(&mut out, Authentication::SaslFinal(signature.as_bytes()));
    door.write(&out).await?;
    Ok(Proof { salt: verifier.salt.clone(), iterations: verifier.iterations, keys: Arc::new(keys) })
}

/// What the client must repeat in its last message: its header, and what it is bound to.
fn bound_to(
    first: &ClientFirst<'_>,
    mechanism: &str,
    binding: Option<&[u8]>,
) -> Result<String, Refusal> {
    let data = match (first.binding, mechanism == sasl::SCRAM_PLUS) {
        (Binding::Used("tls-server-end-point"), true) => binding.unwrap_or_default(),
        (Binding::Unsupported, false) => &[],
        (Binding::NotOffered, false) if binding.is_none() => &[],
        // It could bind and believes that we cannot: somebody has changed our offer (RFC 5802 §6).
        _ => {
            let text = "the channel binding does not fit what was offered".to_owned();
            return Err(Refusal::Authentication(text));
        }
    };
    Ok(scram::base64(&[first.header.as_bytes(), data].concat()))
}

fn refused(fault: SaslError) -> Refusal {
    Refusal::Authentication(fault.to_string())
}

fn shorten(text: &str) -> String {
    text.chars().take(32).collect()
}
