//! PostgreSQL clients, as services use them. Used by the tests and `fakes::postgres`.
//!
//! Invariant: a connection's task ends with its client.

use std::net::SocketAddr;

use tokio_postgres::{Client, Config, Error, NoTls};

/// Logs in.
///
/// # Errors
/// What the server, or the pool, answers.
pub async fn connect(
    to: SocketAddr,
    user: &str,
    password: &str,
    database: &str,
) -> Result<Client, Error> {
    let mut config = Config::new();
    config.hostaddr(to.ip()).port(to.port()).user(user).password(password).dbname(database);
    let (client, connection) = config.connect(NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}
