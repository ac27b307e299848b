//! SQL connections of one service: a handful, leased one at a time, opened again when lost. Not a
//! pooler (that is what stands between this and PostgreSQL) and no place for statements. Used by
//! the services.
//!
//! Invariant: a connection that failed is never leased again.

pub(crate) mod trace;

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit};
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Config, NoTls, Row, Statement, Transaction};

use crate::answer::Answer;

/// The database behind a service; `None`: the service was started without one.
#[derive(Debug)]
pub(crate) struct Database {
    config: Option<Config>,
    idle: Mutex<Vec<Connected>>,
    permits: Semaphore,
}

/// One open connection and what is prepared on it.
struct Connected {
    client: Client,
    statements: HashMap<&'static str, Statement>,
}

impl Database {
    /// Remembers where to connect; connects at the first use.
    pub(crate) fn new(url: Option<&str>) -> anyhow::Result<Self> {
        let config = url.map(str::parse::<Config>).transpose()?.map(|mut config| {
            config.connect_timeout(CONNECT_TIME);
            config
        });
        Ok(Self { config, idle: Mutex::default(), permits: Semaphore::new(MOST) })
    }

    /// Rows of a read, tried once more on a fresh connection when the first one was lost.
    pub(crate) async fn rows(
        &self,
        sql: &'static str,
        values: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>, Answer> {
        let _permit = self.permit().await?;
        for _ in 0..MOST {
            let (mut connected, fresh) = self.connected().await?;
            let outcome = tokio::time::timeout(QUERY_TIME, connected.rows(sql, values)).await;
            match outcome {
                Ok(Ok(rows)) => {
                    self.give_back(connected);
                    return Ok(rows);
                }
                Ok(Err(error)) if fresh || error.as_db_error().is_some_and(is_final) => {
                    return Err(refused(&error));
                }
                // A kept connection that was lost meanwhile says nothing about the database.
                Ok(Err(_)) => {}
                Err(_) => return Err(Answer::away("the database did not answer within 5 s")),
            }
        }
        Err(Answer::away("the database closes every connection"))
    }

    /// Runs `work` in one transaction: all of it is committed, or nothing.
    pub(crate) async fn transaction<T>(
        &self,
        work: impl AsyncFnOnce(&Transaction<'_>) -> Result<T, tokio_postgres::Error>,
    ) -> Result<T, Answer> {
        let _permit = self.permit().await?;
        let mut connected = self.writable().await?;
        let outcome = tokio::time::timeout(QUERY_TIME, async {
            let transaction = connected.client.transaction().await?;
            let value = work(&transaction).await?;
            transaction.commit().await?;
            Ok::<T, tokio_postgres::Error>(value)
        })
        .await;
        match outcome {
            Ok(Ok(value)) => {
                self.give_back(connected);
                Ok(value)
            }
            Ok(Err(error)) => Err(refused(&error)),
            Err(_) => Err(Answer::away("the database did not answer within 5 s")),
        }
    }

    async fn permit(&self) -> Result<SemaphorePermit<'_>, Answer> {
        match tokio::time::timeout(QUERY_TIME, self.permits.acquire()).await {
            Ok(Ok(permit)) => Ok(permit),
            _ => Err(Answer::away("all connections to the database are busy")),
        }
    }

    /// An idle connection, or a new one (then `true`).
    async fn connected(&self) -> Result<(Connected, bool), Answer> {
        if let Some(connected) = self.take() {
            return Ok((connected, false));
        }
        Ok((self.connect().await?, true))
    }

    /// A connection that answered just now: a write is never tried twice.
    async fn writable(&self) -> Result<Connected, Answer> {
        while let Some(connected) = self.take() {
            if connected.client.check_connection().await.is_ok() {
                return Ok(connected);
            }
        }
        self.connect().await
    }

    fn take(&self) -> Option<Connected> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|connected| !connected.client.is_closed());
        idle.pop()
    }

    fn give_back(&self, connected: Connected) {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(connected);
    }

    async fn connect(&self) -> Result<Connected, Answer> {
        let Some(config) = &self.config else {
            return Err(Answer::away("started without a database: give --use NAME=postgres://…"));
        };
        match tokio::time::timeout(CONNECT_TIME, config.connect(NoTls)).await {
            Ok(Ok((client, connection))) => {
                tokio::spawn(connection);
                Ok(Connected { client, statements: HashMap::new() })
            }
            Ok(Err(error)) => Err(refused(&error)),
            Err(_) => Err(Answer::away("no connection to the database within 3 s")),
        }
    }
}

impl Connected {
    async fn rows(
        &mut self,
        sql: &'static str,
        values: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>, tokio_postgres::Error> {
        // Each text differs by its trace: the pooler knows the statement all the same.
        if let Some(text) = trace::commented(sql) {
            return self.client.query(&text, values).await;
        }
        let statement = match self.statements.get(sql) {
            Some(statement) => statement.clone(),
            None => {
                let statement = self.client.prepare(sql).await?;
                self.statements.insert(sql, statement.clone());
                statement
            }
        };
        self.client.query(&statement, values).await
    }
}

impl std::fmt::Debug for Connected {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connected").finish_non_exhaustive()
    }
}

/// Whether the database's own answer would be the same on another connection: all but a server
/// that goes away (57P…), a broken connection (08…) and a statement that it does not know (26000).
fn is_final(error: &tokio_postgres::error::DbError) -> bool {
    let code = error.code().code();
    !(code.starts_with("57P") || code.starts_with("08") || code == "26000")
}

fn refused(error: &tokio_postgres::Error) -> Answer {
    match error.as_db_error() {
        Some(error) => {
            Answer::away(format!("database: {} ({})", error.message(), error.code().code()))
        }
        None => Answer::away(format!("database: {error}")),
    }
}

/// Most connections of one service at a time.
const MOST: usize = 8;
const CONNECT_TIME: Duration = Duration::from_secs(3);
const QUERY_TIME: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    /// O5: a database that is away is a clear answer, not a crash.
    #[tokio::test]
    async fn a_database_that_refuses_gives_503() {
        let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = free.local_addr().expect("bound").port();
        drop(free);
        let url = format!("postgres://app:x@127.0.0.1:{port}/app");
        let database = Database::new(Some(&url)).expect("a valid address");
        let refusal = database.rows("SELECT 1", &[]).await.expect_err("nobody listens");
        assert_eq!(refusal.status, http::StatusCode::SERVICE_UNAVAILABLE);
        assert!(!refusal.body.get("detail").expect("a reason").to_string().contains(":x@"));
    }
}
