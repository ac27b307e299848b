//! From an address to a server that is ready for queries: connect, log in, read what the server
//! says of itself. Not for when and how often: that is `pool::sizing`. Called by the pool.
//!
//! Invariant: everything that a server sends before it is ready is bounded in size and number.

use std::io;
use std::net::SocketAddr;

use pgpool_wire::backend::{self, Authentication, Fields, tag};
use pgpool_wire::frame::{self, Found};
use pgpool_wire::startup::{self, CancelKey, Replication};
use pgpool_wire::{FrameError, Malformed, SqlState};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use topology::pool::ServerAddress;

use super::auth::{Caught, Login, LoginError};
use crate::fatal;
use crate::names::Lead;
use crate::snapshot::{Database, User};
use crate::stream::{Movable, Stream};
use crate::variables::{Value, Variables, is_theirs};

/// Bytes that a server may send before it is ready.
const MOST_BYTES: usize = 64 << 10;

/// A server that is ready for queries.
pub struct Ready {
    /// The socket.
    pub io: Stream,
    /// Our end of it.
    pub local: Option<SocketAddr>,
    /// Where it is.
    pub peer: ServerAddress,
    /// Cancels its queries.
    pub key: Option<CancelKey>,
    /// All that it reported.
    pub welcome: Vec<(String, String)>,
    /// What of that clients may change.
    pub variables: Variables,
    /// The name's address that it rests on.
    pub lead: Lead,
}

/// Why there is no server.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The connection failed.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// It took too long.
    #[error("no answer within the connect timeout")]
    Timeout,
    /// It knows no protocol 3.2, and does not know how to say so: servers before PostgreSQL 9.3, and some
    /// poolers.
    #[error("the server speaks protocol 3.0 only")]
    OldProtocol,
    /// It said no.
    #[error("the server refused: {1}")]
    Refused(Option<SqlState>, String),
    /// The database's `connect_query` failed.
    #[error("connect_query failed: {1}")]
    Prelude(Option<SqlState>, String),
    /// We cannot or will not log in.
    #[error(transparent)]
    Login(#[from] LoginError),
    /// A length that cannot be.
    #[error("{0}")]
    Frame(#[from] FrameError),
    /// A message that contradicts itself.
    #[error("{0}")]
    Malformed(#[from] Malformed),
    /// The handshake failed, or its certificate does not prove who it is.
    #[error("TLS: {0}")]
    Tls(io::Error),
    /// It knows no TLS, which it must, or none that could be verified.
    #[error("the server offers no TLS")]
    NoTls,
    /// It is no primary any more, or none is known.
    #[error("there is no primary")]
    NoPrimary,
    /// A message that does not belong there, or too many.
    #[error("the server sent what no PostgreSQL sends during a login")]
    Unexpected,
}

impl ConnectError {
    /// Whether another try would be refused as well, rather than that the server is away.
    pub fn is_refusal(&self) -> bool {
        match self {
            Self::Login(_)
            | Self::Frame(_)
            | Self::Malformed(_)
            | Self::Unexpected
            | Self::Prelude(..)
            | Self::NoTls => true,
            Self::Tls(fault) => fault.kind() == io::ErrorKind::InvalidData,
            Self::Refused(code, _) => {
                *code != Some(fatal::STARTING) && *code != Some(fatal::ENDING)
            }
            Self::Io(_) | Self::Timeout | Self::NoPrimary | Self::OldProtocol => false,
        }
    }

    /// In words for a client: no address, no inner detail.
    pub fn told(&self) -> String {
        match self {
            Self::Io(fault) => match fault.kind() {
                io::ErrorKind::ConnectionRefused => "connection refused".to_owned(),
                io::ErrorKind::UnexpectedEof => "the server closed the connection".to_owned(),
                _ => "the connection failed".to_owned(),
            },
            Self::Refused(_, message) => format!("the server refused: {message}"),
            Self::Timeout | Self::Unexpected | Self::NoPrimary | Self::OldProtocol => {
                self.to_string()
            }
            Self::Prelude(..) => "the database's connect query failed".to_owned(),
            Self::Tls(_) | Self::NoTls => "no secure connection to the server".to_owned(),
            Self::Login(_) | Self::Frame(_) | Self::Malformed(_) => {
                "the server's login failed".to_owned()
            }
        }
    }
}

/// A connection that was made.
pub struct Dialled {
    /// The socket.
    pub io: Stream,
    /// Our own end.
    pub local: Option<SocketAddr>,
    /// Where it leads to: of a name, the address that answered, so that a cancel request goes there too.
    pub peer: ServerAddress,
}

/// Connects: to the addresses of a name one after the other, until one answers.
///
/// # Errors
/// As the system says.
pub async fn dial(address: ServerAddress) -> io::Result<Dialled> {
    let socket = match &address {
        ServerAddress::Ip(address) => TcpStream::connect(address).await?,
        ServerAddress::Name(host, port) => TcpStream::connect((&**host, *port)).await?,
        ServerAddress::Unix(folder, port) => {
            let socket = UnixStream::connect(folder.join(format!(".s.PGSQL.{port}"))).await?;
            return Ok(Dialled { io: Stream::Unix(socket), local: None, peer: address });
        }
    };
    socket.set_nodelay(true)?;
    let local = socket.local_addr().ok();
    let peer = ServerAddress::Ip(socket.peer_addr()?);
    Ok(Dialled { io: Stream::Plain(Movable::Live(socket)), local, peer })
}

/// What a server connection is for beside queries of whoever comes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Asked<'a> {
    /// Replication.
    pub replication: Replication,
    /// What its client asks for at its login.
    pub parameters: &'a [(String, String)],
}

impl<'a> Asked<'a> {
    /// All startup parameters.
    fn all(self, user: &'a User, database: &'a Database) -> Vec<(&'a str, &'a str)> {
        let mut all = vec![("user", user.name.as_str()), ("database", &*database.server_name)];
        all.extend(self.parameters.iter().map(|(name, value)| (&**name, &**value)));
        for (name, value) in &database.prelude.settings {
            if all.iter().all(|(known, _)| !known.eq_ignore_ascii_case(name)) {
                all.push((name, value));
            }
        }
        if all.iter().all(|(name, _)| *name != "application_name") {
            all.push(("application_name", "pgpool"));
        }
        match self.replication {
            Replication::No => {}
            Replication::Physical => all.push(("replication", "true")),
            Replication::Logical => all.push(("replication", "database")),
        }
        all
    }
}

/// Logs in over a connected stream. Cancelling closes it.
///
/// # Errors
/// The stream is of no use any more.
pub async fn login(
    dialled: Dialled,
    database: &Database,
    user: &User,
    caught: &Caught,
) -> Result<Ready, ConnectError> {
    login_for(dialled, database, user, (caught, Asked::default())).await
}

/// As [`login`], for what a client asks for.
///
/// # Errors
/// As [`login`].
pub async fn login_for(
    dialled: Dialled,
    database: &Database,
    user: &User,
    (caught, asked): (&Caught, Asked<'_>),
) -> Result<Ready, ConnectError> {
    let Dialled { mut io, local, peer } = dialled;
    let mut out = Vec::new();
    let parameters = asked.all(user, database);
    let version = caught.version();
    startup::put_startup(&mut out, version, &parameters);
    io.write_all(&out).await?;
    let mut ready = Ready {
        io,
        local,
        peer,
        key: None,
        welcome: Vec::new(),
        variables: Variables::default(),
        lead: Lead::default(),
    };
    let mut login = Login::new(user, caught, super::tls::binding(&ready.io));
    let mut inside = false;
    let mut input = Vec::new();
    let mut seen = 0;
    loop {
        let (tag, body) = read(&mut ready.io, &mut input).await?;
        let first = seen == 0;
        seen += body.len() + frame::HEADER;
        if seen > MOST_BYTES {
            return Err(ConnectError::Unexpected);
        }
        match tag {
            tag::ERROR => {
                let fields = Fields::new(&body);
                let about = fields.code().is_some_and(fatal::is_about_protocol);
                if first && about && version > startup::V3_0 {
                    return Err(ConnectError::OldProtocol);
                }
                return Err(ConnectError::Refused(fields.code(), fields.message()));
            }
            tag::NOTICE => {}
            // It goes on with the newest that it speaks; 3.2 has nothing that we could not do without.
            tag::NEGOTIATE if first && version > startup::V3_0 => {}
            tag::AUTHENTICATION if !inside => {
                let mut out = Vec::new();
                inside = login.answer(Authentication::read(&body)?, &mut out).await?;
                ready.io.write_all(&out).await?;
            }
            tag::PARAMETER_STATUS if inside => ready.report(&body)?,
            tag::BACKEND_KEY if inside => ready.key = Some(backend::key(&body)?),
            tag::READY if inside => {
                let settled = input.is_empty() && backend::ready(&body)? == backend::Status::Idle;
                return if settled { Ok(ready) } else { Err(ConnectError::Unexpected) };
            }
            _ => return Err(ConnectError::Unexpected),
        }
    }
}

impl Ready {
    /// Notes what the server says of itself.
    pub(super) fn report(&mut self, body: &[u8]) -> Result<(), ConnectError> {
        let (name, value) = backend::parameter(body)?;
        let value = &*String::from_utf8_lossy(value);
        match self.welcome.iter_mut().find(|(known, _)| known == name) {
            Some((_, known)) => value.clone_into(known),
            None => self.welcome.push((name.to_owned(), value.to_owned())),
        }
        if is_theirs(name) {
            self.variables.set(name, Value::Reported(value.into()));
        }
        Ok(())
    }
}

/// The next message; `input` keeps what came after it.
pub(super) async fn read(
    io: &mut Stream,
    input: &mut Vec<u8>,
) -> Result<(u8, Vec<u8>), ConnectError> {
    loop {
        let limit = u32::try_from(MOST_BYTES).unwrap_or(u32::MAX);
        if let Found::Whole(frame) = frame::next(input, limit)? {
            let message = (frame.tag, frame.body.to_vec());
            let used = frame.raw.len();
            input.drain(..used);
            return Ok(message);
        }
        if io.read_buf(input).await? == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
    }
}
