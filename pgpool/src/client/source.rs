//! Where a client comes from: an address, or a process of this host. Not for who it is in the database.
//! Made by the listener, shown by logs and by the admin database.
//!
//! Invariant: what a unix socket says of its client is the kernel's word, not the client's.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

/// Where a client comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// By TCP.
    Ip(SocketAddr),
    /// By a socket of this host.
    Unix {
        /// The user that its process runs as.
        uid: u32,
        /// Its process.
        pid: i32,
        /// The port that the socket's name ends with.
        port: u16,
    },
}

impl Source {
    /// The address; `None`: this host.
    pub fn ip(&self) -> Option<IpAddr> {
        match self {
            Self::Ip(address) => Some(address.ip()),
            Self::Unix { .. } => None,
        }
    }

    /// As SHOW CLIENTS has it.
    pub fn host(&self) -> String {
        self.ip().map_or_else(|| "unix".to_owned(), |ip| ip.to_string())
    }

    /// Its process on this host; 0: it came by network.
    pub fn local_pid(&self) -> u32 {
        match self {
            Self::Ip(_) => 0,
            Self::Unix { pid, .. } => u32::try_from(*pid).unwrap_or_default(),
        }
    }

    /// Its port, or its socket's.
    pub fn port(&self) -> u16 {
        match self {
            Self::Ip(address) => address.port(),
            Self::Unix { port, .. } => *port,
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => address.fmt(f),
            Self::Unix { pid, port, .. } => write!(f, "unix({pid}):{port}"),
        }
    }
}
