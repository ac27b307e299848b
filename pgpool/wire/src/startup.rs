//! The packets without a type byte that open a connection. Not for what follows them. Called by
//! the listener for every new client, before anything is known about it, and by the side that
//! connects to servers.
//!
//! Invariant: a packet is at most [`LONGEST`] bytes, as in PostgreSQL, and is never allocated from
//! its length field.

use crate::frame::{put_sized, put_text};
use crate::read::Reader;
use crate::{Fault, Malformed};

/// PostgreSQL's own bound on a startup packet.
pub const LONGEST: usize = 10_000;
/// The longest secret of a cancel key (protocol 3.2).
pub const LONGEST_SECRET: usize = 256;

const SSL_REQUEST: u32 = 80_877_103;
const GSS_REQUEST: u32 = 80_877_104;
const CANCEL_REQUEST: u32 = 80_877_102;

/// A protocol version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// Only 3 is spoken.
    pub major: u16,
    /// 0 or 2; there is no 3.1.
    pub minor: u16,
}

/// What every client and server since 2003 speaks.
pub const V3_0: Version = Version { major: 3, minor: 0 };
/// With cancel keys of variable length (PostgreSQL 18).
pub const V3_2: Version = Version { major: 3, minor: 2 };

/// What a client opens with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Opening {
    /// Asks for TLS; answered by one byte.
    Ssl,
    /// Asks for GSSAPI encryption; answered by one byte.
    Gss,
    /// Names a running query that should end.
    Cancel(CancelKey),
    /// Wants to log in.
    Startup(Startup),
}

/// Which query a cancel request means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CancelKey {
    /// Process id of the server, or what we use as one.
    pub pid: u32,
    /// Four bytes in 3.0, up to 256 in 3.2.
    pub secret: Vec<u8>,
}

/// A login.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Startup {
    /// The version that the client asks for.
    pub version: Version,
    /// Name and value in the order sent; no name twice.
    pub parameters: Vec<(String, String)>,
}

impl Startup {
    /// The value of one parameter.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    /// Whether it wants to replicate (PostgreSQL's manual, "Streaming Replication Protocol").
    ///
    /// # Errors
    /// The value, if PostgreSQL would not take it either.
    pub fn replication(&self) -> Result<Replication, &str> {
        let Some(value) = self.parameter("replication") else { return Ok(Replication::No) };
        let text = value.to_ascii_lowercase();
        // A switch may be cut short as long as it is told apart.
        let is = |word: &str, least: usize| text.len() >= least && word.starts_with(&text);
        if value == "database" {
            Ok(Replication::Logical)
        } else if is("true", 1) || is("yes", 1) || is("on", 2) || text == "1" {
            Ok(Replication::Physical)
        } else if is("false", 1) || is("no", 1) || is("off", 2) || text == "0" {
            Ok(Replication::No)
        } else {
            Err(value)
        }
    }

    /// Names of the protocol options (`_pq_.…`) that were asked for; we know none of them.
    pub fn protocol_options(&self) -> impl Iterator<Item = &str> {
        self.parameters.iter().map(|(n, _)| n.as_str()).filter(|n| n.starts_with("_pq_."))
    }

    /// What is spoken with a client that asked for this version: the newest that both know.
    pub fn negotiated(&self) -> Version {
        if self.version >= V3_2 { V3_2 } else { V3_0 }
    }
}

/// What a connection is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Replication {
    /// Queries.
    #[default]
    No,
    /// Copies of the whole server: `replication=true`.
    Physical,
    /// Changes of one database, and queries: `replication=database`.
    Logical,
}

impl Replication {
    /// PgBouncer's word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::No => "none",
            Self::Physical => "physical",
            Self::Logical => "logical",
        }
    }
}

/// Reads what stands at the front of `bytes`: the packet and its length, or `None` while it is
/// incomplete.
///
/// # Errors
/// The packet can never become lawful, however many bytes follow.
pub fn opening(bytes: &[u8]) -> Result<Option<(Opening, usize)>, StartupError> {
    let Some(length) = bytes.first_chunk::<4>() else { return Ok(None) };
    let length = u32::from_be_bytes(*length) as usize;
    if !(8..=LONGEST).contains(&length) {
        return Err(StartupError::Length(length));
    }
    let Some((packet, _)) = bytes.split_at_checked(length) else { return Ok(None) };
    let mut reader = Reader::new("startup", packet.get(4..).unwrap_or_default());
    let code = reader.u32()?;
    let opening = match code {
        SSL_REQUEST => reader.end().map(|()| Opening::Ssl)?,
        GSS_REQUEST => reader.end().map(|()| Opening::Gss)?,
        CANCEL_REQUEST => Opening::Cancel(cancel(reader)?),
        code => Opening::Startup(startup(code, reader)?),
    };
    Ok(Some((opening, length)))
}

fn cancel(mut reader: Reader<'_>) -> Result<CancelKey, StartupError> {
    let pid = reader.u32()?;
    let secret = reader.rest();
    if !(4..=LONGEST_SECRET).contains(&secret.len()) {
        return Err(reader.fault(Fault::Value).into());
    }
    Ok(CancelKey { pid, secret: secret.to_vec() })
}

fn startup(code: u32, mut reader: Reader<'_>) -> Result<Startup, StartupError> {
    let version = Version { major: (code >> 16) as u16, minor: (code & 0xffff) as u16 };
    if version.major != 3 {
        return Err(StartupError::Version(version));
    }
    let mut parameters: Vec<(String, String)> = Vec::new();
    loop {
        let name = reader.utf8()?;
        if name.is_empty() {
            break;
        }
        let value = reader.utf8()?;
        if parameters.iter().any(|(n, _)| n == name) {
            return Err(StartupError::Duplicate(name.to_owned()));
        }
        parameters.push((name.to_owned(), value.to_owned()));
    }
    reader.end()?;
    Ok(Startup { version, parameters })
}

/// Appends a login packet.
pub fn put_startup(out: &mut Vec<u8>, version: Version, parameters: &[(&str, &str)]) {
    put_sized(out, |out| {
        let code = u32::from(version.major) << 16 | u32::from(version.minor);
        out.extend_from_slice(&code.to_be_bytes());
        for (name, value) in parameters {
            put_text(out, name.as_bytes());
            put_text(out, value.as_bytes());
        }
        out.push(0);
    });
}

/// Appends a request for TLS.
pub fn put_ssl_request(out: &mut Vec<u8>) {
    put_sized(out, |out| out.extend_from_slice(&SSL_REQUEST.to_be_bytes()));
}

/// Appends a request for GSSAPI encryption.
pub fn put_gss_request(out: &mut Vec<u8>) {
    put_sized(out, |out| out.extend_from_slice(&GSS_REQUEST.to_be_bytes()));
}

/// Appends a cancel request.
pub fn put_cancel(out: &mut Vec<u8>, key: &CancelKey) {
    put_sized(out, |out| {
        out.extend_from_slice(&CANCEL_REQUEST.to_be_bytes());
        out.extend_from_slice(&key.pid.to_be_bytes());
        out.extend_from_slice(&key.secret);
    });
}

/// Why a connection cannot be opened.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StartupError {
    /// A length that no startup packet has; often another protocol on this port.
    #[error("a startup packet of {0} bytes; is the client speaking PostgreSQL's protocol?")]
    Length(usize),
    /// A major version that nobody speaks any more, or not yet.
    #[error("protocol version {}.{} is not supported, only 3.0 to 3.2", .0.major, .0.minor)]
    Version(Version),
    /// A parameter stands twice, so that two readers could believe two things.
    #[error("startup parameter {0:?} is given twice")]
    Duplicate(String),
    /// The packet contradicts itself.
    #[error(transparent)]
    Malformed(#[from] Malformed),
}

#[cfg(test)]
mod tests;
