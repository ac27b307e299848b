//! Keys in Redis or PostgreSQL, asked one at a time. Not for remembering answers: that is `directory`.
//! Called by `directory` on the control runtime, and by `aqueduct key`.
//!
//! Invariant: a question ends within a second, and a connection that failed is not used again.

use std::sync::Arc;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use tokio::sync::Mutex;
use tokio::time::timeout;
use tokio_postgres::types::{ToSql, Type};
use topology::gateway::{KeySource, Login, PostgresTls};

use super::session::{Postgres, Session, SessionError};
use super::{Digest, Record};
use crate::redis_server::{RedisServer, RedisServerError, patient};

/// For connecting and one answer.
const PATIENCE: Duration = Duration::from_secs(1);

/// The row of a key; `sha256` is the digest in hexadecimal digits.
const FIND: &str = "SELECT consumer, plan, scopes, extract(epoch FROM expires)::bigint \
                    FROM aqueduct_api_keys WHERE sha256 = $1";
const PUT: &str = "INSERT INTO aqueduct_api_keys (sha256, consumer, plan, scopes, expires) \
                   VALUES ($1, $2, $3, $4, to_timestamp($5::bigint))";
const REMOVE: &str = "DELETE FROM aqueduct_api_keys WHERE sha256 = $1";

/// The table that PostgreSQL must have.
pub const TABLE: &str = "CREATE TABLE aqueduct_api_keys (sha256 text PRIMARY KEY, consumer text NOT NULL, \
                         plan text, scopes text[] NOT NULL DEFAULT '{}', expires timestamptz)";

/// Why a store said nothing. Nothing of an address or a key is in it.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The address is not one.
    #[error("this is no address of Redis or PostgreSQL")]
    Address,
    /// Redis cannot be asked.
    #[error(transparent)]
    Server(#[from] RedisServerError),
    /// PostgreSQL cannot be asked.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// No answer in time.
    #[error("no answer within 1 s")]
    Timeout,
    /// Redis answers with an error, or cannot be reached.
    #[error("Redis: {0}")]
    Redis(#[from] redis::RedisError),
    /// PostgreSQL answers with an error, or cannot be reached.
    #[error("PostgreSQL: {0}")]
    Postgres(#[from] tokio_postgres::Error),
    /// What is written there is not what is written of a key.
    #[error("what is stored under this digest is not a key's record")]
    Odd,
}

/// A store and its one connection.
pub struct Store {
    kind: Kind,
    line: Mutex<Option<Line>>,
}

enum Kind {
    Redis(Box<RedisServer>),
    Postgres(Box<Postgres>),
}

#[derive(Clone)]
enum Line {
    Redis(MultiplexedConnection),
    Postgres(Arc<Session>),
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self.kind {
            Kind::Redis(_) => "Store(redis)",
            Kind::Postgres(_) => "Store(postgres)",
        })
    }
}

impl Store {
    /// For a source that is a store; connects to nothing yet. Blocking: it reads secrets.
    ///
    /// # Errors
    /// When its address or a secret cannot be used, or it is a file.
    pub fn new(from: &KeySource) -> Result<Self, StoreError> {
        match from {
            KeySource::File(_) => Err(StoreError::Address),
            KeySource::Redis(at, login) => Self::redis(&at.value, login),
            KeySource::Postgres(at, login, tls) => Self::postgres(&at.value, login, *tls),
        }
    }

    /// Redis at this address. Blocking: it reads secrets.
    ///
    /// # Errors
    /// When it is no address, or a secret is not there.
    pub fn redis(address: &str, login: &Login) -> Result<Self, StoreError> {
        let server = RedisServer::new(address, login)?;
        Ok(Self { kind: Kind::Redis(Box::new(server)), line: Mutex::new(None) })
    }

    /// PostgreSQL at this address. Blocking: it reads secrets.
    ///
    /// # Errors
    /// When it is no address, or a secret is not there.
    pub fn postgres(address: &str, login: &Login, tls: PostgresTls) -> Result<Self, StoreError> {
        let postgres = Postgres::new(address, login, tls)?;
        Ok(Self { kind: Kind::Postgres(Box::new(postgres)), line: Mutex::new(None) })
    }

    /// Whether it is reached in the same way, with the same secrets.
    pub fn is_as(&self, other: &Self) -> bool {
        match (&self.kind, &other.kind) {
            (Kind::Redis(one), Kind::Redis(other)) => one == other,
            (Kind::Postgres(one), Kind::Postgres(other)) => one == other,
            _ => false,
        }
    }

    /// What is written under a digest; `None`: nothing. Cancel safe.
    ///
    /// # Errors
    /// When there is no answer.
    pub async fn find(&self, digest: &Digest) -> Result<Option<Record>, StoreError> {
        self.within(self.ask(digest)).await
    }

    /// Writes a key down.
    ///
    /// # Errors
    /// When it was perhaps not written.
    pub async fn put(&self, digest: &Digest, record: &Record) -> Result<(), StoreError> {
        let put = async {
            match self.line().await? {
                Line::Redis(mut line) => {
                    let text = serde_json::to_string(record).map_err(|_| StoreError::Odd)?;
                    let mut set = redis::cmd("SET");
                    set.arg(place(digest)).arg(text);
                    if let Some(expires) = record.expires {
                        set.arg("EXAT").arg(expires);
                    }
                    Ok(set.query_async(&mut line).await?)
                }
                Line::Postgres(session) => {
                    let text = digest.to_string();
                    let expires = record.expires.map(|seconds| seconds as i64);
                    let values: [(&(dyn ToSql + Sync), Type); 5] = [
                        (&text, Type::TEXT),
                        (&record.consumer, Type::TEXT),
                        (&record.plan, Type::TEXT),
                        (&record.scopes, Type::TEXT_ARRAY),
                        (&expires, Type::INT8),
                    ];
                    session.client.query_typed(PUT, &values).await?;
                    Ok(())
                }
            }
        };
        self.within(put).await
    }

    /// Takes a key out. Answers whether it was there.
    ///
    /// # Errors
    /// When it is perhaps still there.
    pub async fn remove(&self, digest: &Digest) -> Result<bool, StoreError> {
        let remove = async {
            match self.line().await? {
                Line::Redis(mut line) => {
                    let gone: u64 =
                        redis::cmd("DEL").arg(place(digest)).query_async(&mut line).await?;
                    Ok(gone > 0)
                }
                Line::Postgres(session) => {
                    let text = digest.to_string();
                    let query = format!("{REMOVE} RETURNING 1");
                    Ok(!session
                        .client
                        .query_typed(&query, &[(&text, Type::TEXT)])
                        .await?
                        .is_empty())
                }
            }
        };
        self.within(remove).await
    }

    async fn ask(&self, digest: &Digest) -> Result<Option<Record>, StoreError> {
        match self.line().await? {
            Line::Redis(mut line) => {
                let text: Option<String> =
                    redis::cmd("GET").arg(place(digest)).query_async(&mut line).await?;
                text.map(|text| serde_json::from_str(&text).map_err(|_| StoreError::Odd))
                    .transpose()
            }
            Line::Postgres(session) => {
                // Without a named statement: a pooler may give each query another server.
                let text = digest.to_string();
                let rows = session.client.query_typed(FIND, &[(&text, Type::TEXT)]).await?;
                let Some(row) = rows.first() else { return Ok(None) };
                let expires: Option<i64> = row.try_get(3)?;
                Ok(Some(Record {
                    consumer: row.try_get(0)?,
                    plan: row.try_get(1)?,
                    scopes: row.try_get(2)?,
                    // What ended before 1970 has ended.
                    expires: expires.map(|seconds| u64::try_from(seconds).unwrap_or(0)),
                }))
            }
        }
    }

    async fn within<T>(
        &self,
        work: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let outcome = match timeout(PATIENCE, work).await {
            Ok(outcome) => outcome,
            Err(_) => Err(StoreError::Timeout),
        };
        if outcome.as_ref().is_err_and(|fault| !matches!(fault, StoreError::Odd)) {
            *self.line.lock().await = None;
        }
        outcome
    }

    /// The connection; whoever comes first makes it, the others wait for that.
    async fn line(&self) -> Result<Line, StoreError> {
        let mut line = self.line.lock().await;
        if let Some(line) = &*line {
            return Ok(line.clone());
        }
        let fresh = match &self.kind {
            Kind::Redis(server) => Line::Redis(server.connect(&patient()).await?),
            Kind::Postgres(postgres) => Line::Postgres(Arc::new(postgres.connect().await?)),
        };
        *line = Some(fresh.clone());
        Ok(fresh)
    }
}

/// The key in Redis under which a key is written down.
fn place(digest: &Digest) -> String {
    format!("apikey:{digest}")
}
