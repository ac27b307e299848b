//! Who `aqueduct` is to the Redis or PostgreSQL that it writes to. Used by `key` and `revoke`.
//!
//! Invariant: no password is an argument, where other users of the machine would see it.

use std::path::PathBuf;

use topology::gateway;
use topology::units::{At, Place, SecretRef};

/// How to log in.
#[derive(Debug, Default, clap::Args)]
pub(crate) struct Login {
    /// Our name to Redis; the password is in `REDISCLI_AUTH` [default: its default user]
    #[arg(long, value_name = "NAME")]
    redis_user: Option<String>,
    /// Authorities that a certificate of a `rediss://` server or of PostgreSQL must come from; PostgreSQL is
    /// spoken to over TLS then [default: the system's]
    #[arg(long, value_name = "PATH")]
    ca: Option<PathBuf>,
}

impl Login {
    /// At Redis.
    pub(crate) fn redis(&self) -> gateway::Login {
        self.with("REDISCLI_AUTH", self.redis_user.clone())
    }

    /// At PostgreSQL.
    pub(crate) fn postgres(&self) -> (gateway::Login, gateway::PostgresTls) {
        let tls = match self.ca {
            Some(_) => gateway::PostgresTls::VerifyFull,
            None => gateway::PostgresTls::Disable,
        };
        (self.with("PGPASSWORD", None), tls)
    }

    fn with(&self, variable: &str, user: Option<String>) -> gateway::Login {
        let at = |value| At { value, place: Place::default() };
        let password = std::env::var_os(variable).map(|_| at(SecretRef::Env(variable.to_owned())));
        let ca = self.ca.clone().map(|path| at(SecretRef::File(path)));
        gateway::Login { user, password, ca }
    }
}
