//! Logging in to a server: trust, cleartext where nothing better is known, md5, SCRAM-SHA-256 by
//! password or by the keys caught from a client's own login. Not for connecting. Called by
//! `connect`.
//!
//! Invariant: a password never leaves in clear for a user whose secret is a SCRAM verifier, and a
//! server that cannot prove that it knows the verifier is refused.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pgpool_wire::backend::{Authentication, offers};
use pgpool_wire::frontend;
use pgpool_wire::sasl::{self, ClientFinal, ClientFirst, SaslError, ServerFirst};
use pgpool_wire::startup::{V3_0, V3_2, Version};
use rand::RngCore;

use crate::scram::{self, Keys, MOST_DERIVED, MOST_ITERATIONS};
use crate::snapshot::{Credential, User};

/// What one exchange with a server needs to remember.
pub struct Login<'a> {
    user: &'a User,
    caught: &'a Caught,
    /// What the login can be bound to.
    binding: Option<Vec<u8>>,
    stage: Stage,
}

enum Stage {
    Start,
    First { nonce: String, bare: String, bound: String },
    Final { keys: Arc<Keys>, auth_message: String },
    Proved,
}

/// What earlier logins of one user have shown us: keys of clients' own and derived ones, and that a server
/// does not let protocol 3.2 in. One for all shards of a pool: a client of any of them may be the first to show the
/// keys of a new password.
#[derive(Default)]
pub struct Caught {
    known: Mutex<Option<Known>>,
    /// Another number for each that was kept anywhere; 0: none.
    version: AtomicU64,
    old: AtomicBool,
}

impl std::fmt::Debug for Caught {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Caught")
    }
}

#[derive(Clone)]
struct Known {
    salt: String,
    iterations: u32,
    keys: Arc<Keys>,
}

impl Caught {
    fn lock(&self) -> MutexGuard<'_, Option<Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Remembers keys for the verifier with this salt and iteration count.
    pub fn keep(&self, salt: &str, iterations: u32, keys: Arc<Keys>) {
        static VERSIONS: AtomicU64 = AtomicU64::new(1);
        let mut known = self.lock();
        *known = Some(Known { salt: salt.to_owned(), iterations, keys });
        self.version.store(VERSIONS.fetch_add(1, Ordering::Relaxed), Ordering::Release);
    }

    /// Takes over what another pool of the same user has caught.
    pub fn follow(&self, other: &Self) {
        let version = other.version.load(Ordering::Acquire);
        if version == 0 || self.version.load(Ordering::Acquire) == version {
            return;
        }
        let theirs = other.lock().clone();
        *self.lock() = theirs;
        self.version.store(version, Ordering::Release);
    }

    /// The protocol version to ask for.
    pub fn version(&self) -> Version {
        if self.old.load(Ordering::Relaxed) { V3_0 } else { V3_2 }
    }

    /// A server has refused 3.2 instead of answering with what it speaks.
    pub fn speak_old(&self) {
        self.old.store(true, Ordering::Relaxed);
    }

    /// What is known: salt, iterations, keys.
    pub fn known(&self) -> Option<(String, u32, Arc<Keys>)> {
        let known = self.lock();
        known.as_ref().map(|it| (it.salt.clone(), it.iterations, Arc::clone(&it.keys)))
    }

    /// Whether any are known.
    pub fn is_empty(&self) -> bool {
        self.version.load(Ordering::Acquire) == 0
    }

    fn find(&self, salt: &str, iterations: u32) -> Option<Arc<Keys>> {
        let known = self.lock();
        let known = known.as_ref()?;
        (known.salt == salt && known.iterations == iterations).then(|| Arc::clone(&known.keys))
    }
}

/// Why a server did not let us in, or why we did not want in.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LoginError {
    /// It asks for something that we do not have.
    #[error("the server asks for {asked}, and {missing}")]
    Missing {
        /// Kind of login.
        asked: &'static str,
        /// What is lacking and where to put it.
        missing: &'static str,
    },
    /// It asks for something that we do not speak.
    #[error("the server asks for an authentication method that is not supported ({0})")]
    Unsupported(u32),
    /// It sent something out of turn.
    #[error("the server's login messages are out of order")]
    OutOfOrder,
    /// Its SCRAM messages are not lawful.
    #[error("the server sent {0}")]
    Sasl(#[from] SaslError),
    /// It wants keys that take too long to derive.
    #[error(
        "the server asks for {iterations} iterations of SCRAM-SHA-256, and keys are derived for {MOST_DERIVED} at \
         most: give this user its verifier as secret (rolpassword of pg_authid), which takes none"
    )]
    TooMuchWork {
        /// How many.
        iterations: u32,
    },
    /// It does not know the password either.
    #[error("the server could not prove that it knows the password")]
    NotProved,
}

impl<'a> Login<'a> {
    /// For one connection.
    pub fn new(user: &'a User, caught: &'a Caught, binding: Option<Vec<u8>>) -> Self {
        Self { user, caught, binding, stage: Stage::Start }
    }

    /// Answers one authentication message; `Ok(true)`: we are in.
    ///
    /// # Errors
    /// The connection must be given up.
    pub async fn answer(
        &mut self,
        message: Authentication<'_>,
        out: &mut Vec<u8>,
    ) -> Result<bool, LoginError> {
        match message {
            Authentication::Ok => return self.finished().map(|()| true),
            Authentication::Cleartext => self.cleartext(out)?,
            Authentication::Md5(salt) => self.md5(salt, out)?,
            Authentication::Sasl(mechanisms) => self.sasl(mechanisms, out)?,
            Authentication::SaslContinue(data) => self.sasl_continue(data, out).await?,
            Authentication::SaslFinal(data) => self.sasl_final(data)?,
            Authentication::Other(code) => return Err(LoginError::Unsupported(code)),
        }
        Ok(false)
    }

    /// A server that breaks an exchange off half way with "you are in" has proved nothing.
    fn finished(&self) -> Result<(), LoginError> {
        match self.stage {
            Stage::Start | Stage::Proved => Ok(()),
            Stage::First { .. } | Stage::Final { .. } => Err(LoginError::NotProved),
        }
    }

    fn cleartext(&self, out: &mut Vec<u8>) -> Result<(), LoginError> {
        let asked = "the password in clear";
        if matches!(self.user.credential, Credential::Scram(_)) {
            let missing = "this user's secret is a SCRAM verifier: that would be a downgrade";
            return Err(LoginError::Missing { asked, missing });
        }
        let missing = "no password is known: set server-password";
        let password = self.user.password().ok_or(LoginError::Missing { asked, missing })?;
        frontend::put_password(out, password.as_bytes());
        Ok(())
    }

    fn md5(&self, salt: [u8; 4], out: &mut Vec<u8>) -> Result<(), LoginError> {
        let missing = "neither a password nor an md5 hash is known: set server-password";
        let answer = self.user.md5_answer(salt);
        let answer = answer.ok_or(LoginError::Missing { asked: "an md5 answer", missing })?;
        frontend::put_password(out, answer.as_bytes());
        Ok(())
    }

    fn sasl(&mut self, mechanisms: &[u8], out: &mut Vec<u8>) -> Result<(), LoginError> {
        if !matches!(self.stage, Stage::Start) {
            return Err(LoginError::OutOfOrder);
        }
        let bound = offers(mechanisms, sasl::SCRAM_PLUS) && self.binding.is_some();
        if !bound && !offers(mechanisms, sasl::SCRAM) {
            return Err(LoginError::Unsupported(10));
        }
        if self.user.password().is_none() && self.caught.is_empty() {
            let missing = "no client has shown its proof yet: set server-password";
            return Err(LoginError::Missing { asked: "SCRAM-SHA-256", missing });
        }
        let nonce = nonce();
        // RFC 5802 §6: `y` tells a server that could, and whose offer was tampered with.
        let (header, mechanism) = match (bound, &self.binding) {
            (true, _) => ("p=tls-server-end-point,,", sasl::SCRAM_PLUS),
            (false, Some(_)) => ("y,,", sasl::SCRAM),
            (false, None) => ("n,,", sasl::SCRAM),
        };
        let (message, bare) = ClientFirst::write(header, &nonce);
        frontend::put_sasl_initial(out, mechanism, message.as_bytes());
        let data = self.binding.as_deref().filter(|_| bound).unwrap_or_default();
        let bound = scram::base64(&[header.as_bytes(), data].concat());
        self.stage = Stage::First { nonce, bare, bound };
        Ok(())
    }

    async fn sasl_continue(&mut self, data: &[u8], out: &mut Vec<u8>) -> Result<(), LoginError> {
        let stage = std::mem::replace(&mut self.stage, Stage::Start);
        let Stage::First { nonce, bare, bound } = stage else {
            return Err(LoginError::OutOfOrder);
        };
        let first = ServerFirst::read(data, &nonce, MOST_ITERATIONS)?;
        let keys = self.keys(&first).await?;
        let without_proof = ClientFinal::write_without_proof(&bound, first.nonce);
        let server_first = String::from_utf8_lossy(data);
        let auth_message = format!("{bare},{server_first},{without_proof}");
        let message = format!("{without_proof},p={}", keys.proof(&auth_message));
        frontend::put_sasl(out, message.as_bytes());
        self.stage = Stage::Final { keys, auth_message };
        Ok(())
    }

    /// Keys for the server's salt: known, or derived from the password.
    async fn keys(&self, first: &ServerFirst<'_>) -> Result<Arc<Keys>, LoginError> {
        if let Some(keys) = self.caught.find(first.salt, first.iterations) {
            return Ok(keys);
        }
        let missing = "its verifier is another one than in the topology file: copy rolpassword \
                       again, or set server-password";
        let asked = "SCRAM-SHA-256";
        let password = self.user.password().ok_or(LoginError::Missing { asked, missing })?;
        let salt = scram::salt(first.salt).ok_or(SaslError::Layout("server-first"))?;
        let password = zeroize::Zeroizing::new(password.to_owned());
        let iterations = first.iterations;
        if iterations > MOST_DERIVED {
            return Err(LoginError::TooMuchWork { iterations });
        }
        // Thousands of hashes: not on the worker.
        let derive = move || Keys::derive(&password, &salt, iterations);
        let keys = tokio::task::spawn_blocking(derive).await;
        let keys = Arc::new(keys.map_err(|_| LoginError::OutOfOrder)?);
        self.caught.keep(first.salt, first.iterations, Arc::clone(&keys));
        Ok(keys)
    }

    fn sasl_final(&mut self, data: &[u8]) -> Result<(), LoginError> {
        let Stage::Final { keys, auth_message } = &self.stage else {
            return Err(LoginError::OutOfOrder);
        };
        let signature = sasl::server_final(data)?;
        if !keys.confirms(auth_message, signature) {
            return Err(LoginError::NotProved);
        }
        self.stage = Stage::Proved;
        Ok(())
    }
}

/// 24 random bytes, as printable text.
pub fn nonce() -> String {
    let mut bytes = [0; 24];
    rand::rng().fill_bytes(&mut bytes);
    scram::base64(&bytes)
}
