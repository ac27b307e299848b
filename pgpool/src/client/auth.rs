//! A client proves who it is: SCRAM-SHA-256, md5, or nothing where the topology file says trust.
//! Not for what it may do afterwards. Called by `startup`.
//!
//! Invariant: a name that does not exist is asked for a proof in the same way as one that does.

use std::rc::Rc;

use pgpool_wire::backend::{self, Authentication};
use pgpool_wire::frontend;
use pgpool_wire::sasl::{self, Binding, ClientFinal, ClientFirst, SaslError, ServerFirst};
use rand::RngCore;

use super::startup::Door;
use crate::fatal::Refusal;
use crate::scram::{self, Keys, Verifier};
use crate::server::auth::nonce;
use crate::snapshot::{Credential, User};

/// What a SCRAM proof has shown us.
pub struct Proof {
    /// Of the verifier.
    pub salt: String,
    /// Of the verifier.
    pub iterations: u32,
    /// Log in wherever the same verifier is stored.
    pub keys: Rc<Keys>,
}

/// Lets the client prove that it is `name`.
///
/// # Errors
/// It could not, or did not follow the protocol.
pub async fn prove(
    door: &mut Door,
    user: Option<&User>,
    name: &str,
    seed: &[u8; 32],
) -> Result<Option<Proof>, Refusal> {
    match user.map(|user| &user.credential) {
        Some(Credential::Trust) => Ok(None),
        Some(Credential::Md5(stored)) => md5(door, stored, name).await.map(|()| None),
        Some(Credential::Scram(verifier) | Credential::Password(_, verifier)) => {
            scram(door, verifier, name).await.map(Some)
        }
        // Nobody knows the password of a verifier made of chance.
        None => {
            let verifier = stranger(name, seed);
            scram(door, &verifier, name).await.and(Err(wrong(name)))
        }
    }
}

fn wrong(name: &str) -> Refusal {
    Refusal::PasswordFailed(name.to_owned())
}

/// A verifier for a name that does not exist; its salt stays the same from login to login.
fn stranger(name: &str, seed: &[u8; 32]) -> Verifier {
    let mut chance = [0; 32];
    rand::rng().fill_bytes(&mut chance);
    Verifier::of_chance(name, seed, chance)
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

async fn scram(door: &mut Door, verifier: &Verifier, name: &str) -> Result<Proof, Refusal> {
    let mut out = Vec::new();
    let mechanisms = [sasl::SCRAM.as_bytes(), b"\0\0"].concat();
    backend::put_authentication(&mut out, Authentication::Sasl(&mechanisms));
    door.write(&out).await?;

    let body = door.password().await?;
    let (mechanism, data) = frontend::sasl_initial(&body)?;
    if mechanism != sasl::SCRAM {
        let text = format!("the client chose {} which was not offered", shorten(mechanism));
        return Err(Refusal::Authentication(text));
    }
    let first = ClientFirst::read(data.unwrap_or_default()).map_err(refused)?;
    if let Binding::Used(_) = first.binding {
        return Err(refused(SaslError::Layout("client-first")));
    }
    let joined = format!("{}{}", first.nonce, nonce());
    let server_first = ServerFirst::write(&joined, &verifier.salt, verifier.iterations);
    out.clear();
    let message = Authentication::SaslContinue(server_first.as_bytes());
    backend::put_authentication(&mut out, message);
    door.write(&out).await?;

    let last = door.password().await?;
    let last = ClientFinal::read(&last).map_err(refused)?;
    // RFC 5802 §5.1: the header is repeated, so that nobody has changed it on the way.
    if last.nonce != joined || last.binding != scram::base64(first.header.as_bytes()) {
        return Err(refused(SaslError::Nonce));
    }
    let auth_message = format!("{},{server_first},{}", first.bare, last.without_proof);
    let keys = verifier.check(&auth_message, last.proof).ok_or_else(|| wrong(name))?;
    let signature = format!("v={}", verifier.signature(&auth_message));
    out.clear();
    backend::put_authentication(&mut out, Authentication::SaslFinal(signature.as_bytes()));
    door.write(&out).await?;
    Ok(Proof { salt: verifier.salt.clone(), iterations: verifier.iterations, keys: Rc::new(keys) })
}

fn refused(fault: SaslError) -> Refusal {
    Refusal::Authentication(fault.to_string())
}

fn shorten(text: &str) -> String {
    text.chars().take(32).collect()
}
