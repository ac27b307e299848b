//! One Redis server: where it is, who we are to it, and whether that is said over TLS. Not for what is asked
//! of it, nor for clusters. Used by stage 5, by API keys and by the denylist.
//!
//! Invariant: nothing of a secret is in an error or in `Debug`; over TLS its certificate is verified.

use std::fmt;
use std::sync::Arc;

use common::secret::{self, Missing};
use common::tls::TlsError;
use common::tls::client::{self, Roots};
use redis::aio::{MultiplexedConnection, PubSub};
use redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, ConnectionInfo, ErrorKind,
    IntoConnectionInfo as _, RedisConnectionInfo, RedisError, RedisResult,
};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use topology::gateway::Login;

/// Why it cannot be asked. Nothing of a secret is in it.
#[derive(Debug, thiserror::Error)]
pub enum RedisServerError {
    /// The address is not one.
    #[error("this is no address of Redis")]
    Address,
    /// The password is not there.
    #[error(transparent)]
    Missing(#[from] Missing),
    /// The password is no text.
    #[error("password: {0}")]
    Password(#[from] secret::SecretError),
    /// TLS cannot be set up.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// A server; connects to nothing by itself.
pub struct RedisServer {
    info: ConnectionInfo,
    tls: Option<Tls>,
    /// What it was made of, to know whether it is still the same.
    address: String,
    ca: Option<Vec<u8>>,
}

struct Tls {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
    at: (String, u16),
}

impl fmt::Debug for RedisServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RedisServer")
    }
}

impl PartialEq for RedisServer {
    fn eq(&self, other: &Self) -> bool {
        self.address == other.address
            && self.ca == other.ca
            && self.credentials() == other.credentials()
    }
}

impl RedisServer {
    /// Behind an address. Blocking: it reads secrets.
    ///
    /// # Errors
    /// When the address is none, or a secret is not there.
    pub fn new(address: &str, login: &Login) -> Result<Self, RedisServerError> {
        let secure = address.strip_prefix("rediss://");
        let plain = secure.map(|rest| format!("redis://{rest}"));
        let info = plain.as_deref().unwrap_or(address).into_connection_info();
        let info = info.map_err(|_| RedisServerError::Address)?;
        let settings = logged_in(info.redis_settings().clone(), login)?;
        let info = info.set_redis_settings(settings);
        let ca = secret::named(login.ca.as_ref(), "ca")?.map(|ca| ca.as_bytes().to_vec());
        let tls = secure.map(|_| Tls::new(info.addr(), login)).transpose()?;
        Ok(Self { info, tls, address: address.to_owned(), ca })
    }

    /// Name and password, for whoever connects by itself.
    pub fn credentials(&self) -> (Option<&str>, Option<&str>) {
        let settings = self.info.redis_settings();
        (settings.username(), settings.password())
    }

    /// A connection that many share. Cancel safe.
    ///
    /// # Errors
    /// When nobody answers, or somebody else than expected.
    pub async fn connect(
        &self,
        config: &AsyncConnectionConfig,
    ) -> RedisResult<MultiplexedConnection> {
        let Some(tls) = &self.tls else {
            return self.client()?.get_multiplexed_async_connection_with_config(config).await;
        };
        let (stream, settings) = (tls.connect().await?, self.info.redis_settings());
        let made = MultiplexedConnection::new_with_config(settings, stream, config.clone());
        let (connection, driver) = made.await?;
        // Ends with the last handle of the connection.
        tokio::spawn(driver);
        Ok(connection)
    }

    /// A connection that hears what is published. Cancel safe.
    ///
    /// # Errors
    /// When nobody answers, or somebody else than expected.
    pub async fn listen(&self) -> RedisResult<PubSub> {
        match &self.tls {
            None => self.client()?.get_async_pubsub().await,
            Some(tls) => PubSub::new(self.info.redis_settings(), tls.connect().await?).await,
        }
    }

    fn client(&self) -> RedisResult<Client> {
        Client::open(self.info.clone())
    }
}

/// How a connection waits: not by itself, as whoever asks says how long.
pub fn patient() -> AsyncConnectionConfig {
    AsyncConnectionConfig::new().set_connection_timeout(None).set_response_timeout(None)
}

fn logged_in(
    mut settings: RedisConnectionInfo,
    login: &Login,
) -> Result<RedisConnectionInfo, RedisServerError> {
    if let Some(user) = &login.user {
        settings = settings.set_username(user);
    }
    if let Some(password) = secret::named(login.password.as_ref(), "password")? {
        settings = settings.set_password(password.as_str()?);
    }
    Ok(settings)
}

impl Tls {
    fn new(address: &ConnectionAddr, login: &Login) -> Result<Self, RedisServerError> {
        let ConnectionAddr::Tcp(host, port) = address else {
            return Err(RedisServerError::Address);
        };
        let host = host.trim_matches(['[', ']']).to_owned();
        let name = ServerName::try_from(host.clone()).map_err(|_| RedisServerError::Address)?;
        let roots = login.ca.clone().map_or(Roots::System, Roots::Pem);
        Ok(Self { config: client::config(&roots, &[])?, name, at: (host, *port) })
    }

    async fn connect(&self) -> RedisResult<TlsStream<TcpStream>> {
        let (host, port) = &self.at;
        let stream = TcpStream::connect((host.as_str(), *port)).await?;
        stream.set_nodelay(true)?;
        let connector = TlsConnector::from(Arc::clone(&self.config));
        connector.connect(self.name.clone(), stream).await.map_err(|fault| {
            RedisError::from((ErrorKind::Io, "TLS with Redis failed", fault.to_string()))
        })
    }
}
