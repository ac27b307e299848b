//! Logging in at PostgreSQL, over TLS where asked. Not for what is asked of it. Called by `store`.
//!
//! Invariant: where TLS is asked for, nothing but the wish for it is said before the server's certificate
//! was verified.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use common::secret::{self, Missing, SecretError};
use common::tls::TlsError;
use common::tls::client::{self, Roots};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_postgres::config::{Host, SslMode};
use tokio_postgres::{Client, Config, Connection, NoTls, tls::NoTlsStream};
use tokio_rustls::TlsConnector;
use tokio_util::task::AbortOnDropHandle;
use topology::gateway::{Login, PostgresTls};

/// For a connection.
const PATIENCE: Duration = Duration::from_secs(1);

/// `SSLRequest` (PostgreSQL, "Message Formats"): its length and the code 80877103.
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];

/// Why it cannot be asked. Nothing of a secret is in it.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// The address is not one.
    #[error("this is no address of PostgreSQL")]
    Address,
    /// A secret is not there.
    #[error(transparent)]
    Missing(#[from] Missing),
    /// The password is no text.
    #[error("password: {0}")]
    Password(#[from] SecretError),
    /// TLS cannot be set up.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// Nobody is there, or TLS failed.
    #[error("PostgreSQL: {0}")]
    Connect(#[from] io::Error),
    /// It does not speak TLS.
    #[error("PostgreSQL does not speak TLS, which `tls: verify-full` asks for")]
    Plain,
    /// It refuses us.
    #[error("PostgreSQL: {0}")]
    Refused(#[from] tokio_postgres::Error),
}

/// A server; connects to nothing by itself.
pub struct Postgres {
    config: Config,
    tls: Option<Tls>,
    ca: Option<Vec<u8>>,
}

struct Tls {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
    at: (String, u16),
}

/// A login; ends with its last user.
pub struct Session {
    /// What questions are put to.
    pub client: Client,
    _driver: AbortOnDropHandle<()>,
}

impl PartialEq for Postgres {
    fn eq(&self, other: &Self) -> bool {
        self.config == other.config
            && self.ca == other.ca
            && self.tls.is_some() == other.tls.is_some()
    }
}

impl Postgres {
    /// Behind an address. Blocking: it reads secrets.
    ///
    /// # Errors
    /// When the address is none, or a secret is not there.
    pub fn new(address: &str, login: &Login, tls: PostgresTls) -> Result<Self, SessionError> {
        let mut config: Config = address.parse().map_err(|_| SessionError::Address)?;
        if let Some(password) = secret::named(login.password.as_ref(), "password")? {
            config.password(password.as_str()?);
        }
        config.application_name("aqueduct").connect_timeout(PATIENCE).ssl_mode(SslMode::Disable);
        let ca = secret::named(login.ca.as_ref(), "ca")?.map(|ca| ca.as_bytes().to_vec());
        let tls = match tls {
            PostgresTls::Disable => None,
            PostgresTls::VerifyFull => Some(Tls::new(&config, login)?),
        };
        Ok(Self { config, tls, ca })
    }

    /// Logs in. Cancel safe.
    ///
    /// # Errors
    /// When nobody is there, somebody else is, or it refuses us.
    pub async fn connect(&self) -> Result<Session, SessionError> {
        let Some(tls) = &self.tls else {
            let (client, connection) = self.config.connect(NoTls).await?;
            return Ok(Session::new(client, connection));
        };
        // The stream is encrypted already; what it carries needs no TLS of its own.
        let (client, connection) = self.config.connect_raw(tls.connect().await?, NoTls).await?;
        Ok(Session::new(client, connection))
    }
}

impl Tls {
    fn new(config: &Config, login: &Login) -> Result<Self, SessionError> {
        let [Host::Tcp(host)] = config.get_hosts() else { return Err(SessionError::Address) };
        let port = config.get_ports().first().copied().unwrap_or(5432);
        let name = ServerName::try_from(host.clone()).map_err(|_| SessionError::Address)?;
        let roots = login.ca.clone().map_or(Roots::System, Roots::Pem);
        Ok(Self { config: client::config(&roots, &[])?, name, at: (host.clone(), port) })
    }

    async fn connect(
        &self,
    ) -> Result<impl AsyncRead + AsyncWrite + Unpin + Send + use<>, SessionError> {
        let (host, port) = &self.at;
        let mut stream = TcpStream::connect((host.as_str(), *port)).await?;
        stream.set_nodelay(true)?;
        stream.write_all(&SSL_REQUEST).await?;
        // One byte alone: what somebody put behind it is read as TLS, and fails.
        if stream.read_u8().await? != b'S' {
            return Err(SessionError::Plain);
        }
        Ok(TlsConnector::from(Arc::clone(&self.config)).connect(self.name.clone(), stream).await?)
    }
}

impl Session {
    fn new<S>(client: Client, connection: Connection<S, NoTlsStream>) -> Self
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let driver = tokio::spawn(async move {
            // Its end is seen by the next question.
            let _ended = connection.await;
        });
        Self { client, _driver: AbortOnDropHandle::new(driver) }
    }
}
