//! Why an instance does not start. Not for what fails later: that is counted or an event. Printed by
//! `main`.
//!
//! Invariant: every message says what, where (file:line:column when a place is known) and what to
//! do.

use std::fmt;
use std::io;
use std::net::SocketAddr;

use common::secret::SecretError;
use topology::l4::Listener;
use topology::{Place, SourceFile};

use crate::upgrade;

/// Where in which file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spot {
    /// The file as it was named.
    pub file: String,
    /// The place in it.
    pub place: Place,
}

impl Spot {
    pub(crate) fn new(source: &SourceFile, place: Place) -> Self {
        Self { file: source.name.clone(), place }
    }
}

impl fmt::Display for Spot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.file, self.place.line, self.place.column)
    }
}

/// Why an instance does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The file has no such instance of a balancer group.
    #[error("{file}: no instance '{instance}' below nlbs: — name one that the file has")]
    Instance {
        /// The file.
        file: String,
        /// What was asked for.
        instance: String,
    },
    /// `hash-key` or `admin-token` cannot be read.
    #[error("{at} {key}: {source} — make the file or variable, or take {key} out")]
    Secret {
        /// Where it is named.
        at: Spot,
        /// Which key of the file.
        key: &'static str,
        /// Why.
        source: SecretError,
    },
    /// An address cannot be listened on.
    #[error("{at} {what}: {address} {}", remedy(source))]
    Bind {
        /// Where it is written.
        at: Spot,
        /// `listener NAME` or `admin`.
        what: String,
        /// The address.
        address: SocketAddr,
        /// The system's word.
        source: io::Error,
    },
    /// The kernel does not let us send from clients' addresses.
    #[error(
        "{at} listener {listener}: transparent: {source} — give the process CAP_NET_ADMIN \
         (AmbientCapabilities= in its unit), or use proxy-protocol instead"
    )]
    Transparent {
        /// Where the listener is.
        at: Spot,
        /// Its name.
        listener: String,
        /// The system's word.
        source: io::Error,
    },
    /// The old process did not hand over.
    #[error("upgrade: {0} — the old process serves on; see its log")]
    Upgrade(upgrade::Fault),
    /// A change came too late.
    #[error("the instance is draining and changes no more — start it again with the new file")]
    Draining,
    /// No threads or no runtime.
    #[error(
        "cannot start workers: {0} — raise the limits on threads and descriptors (ulimit -u, -n)"
    )]
    Workers(io::Error),
}

impl StartError {
    /// A listener whose address cannot be had.
    pub(crate) fn listener(
        at: Spot,
        listener: &Listener,
        address: SocketAddr,
        source: io::Error,
    ) -> Self {
        Self::Bind { at, what: format!("listener {}", listener.name), address, source }
    }

    /// Somebody listens there.
    pub(crate) fn is_busy(&self) -> bool {
        matches!(self, Self::Bind { source, .. } if source.kind() == io::ErrorKind::AddrInUse)
    }
}

/// What is wrong with an address, and what to do.
fn remedy(source: &io::Error) -> String {
    match source.kind() {
        io::ErrorKind::AddrInUse => {
            "is in use — stop what listens there (ss -ltnup) or choose another port".to_owned()
        }
        io::ErrorKind::PermissionDenied => {
            "needs a privilege — choose a port from 1024 up, or give \
             the program CAP_NET_BIND_SERVICE (setcap cap_net_bind_service+ep)"
                .to_owned()
        }
        io::ErrorKind::AddrNotAvailable => {
            "is not an address of this machine — see `ip address`, or write *:PORT and the \
             instance's address"
                .to_owned()
        }
        _ => format!("cannot be listened on: {source}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// O3: what, where, what to do, on one line.
    #[test]
    fn a_busy_port_is_told_with_its_place() {
        let at = Spot { file: "stack.yaml".into(), place: Place { line: 33, column: 20 } };
        let fault = StartError::Bind {
            at,
            what: "listener https".into(),
            address: ([127, 0, 0, 1], 8443).into(),
            source: io::ErrorKind::AddrInUse.into(),
        };
        assert_eq!(
            fault.to_string(),
            "stack.yaml:33:20 listener https: 127.0.0.1:8443 is in use — stop what listens there \
             (ss -ltnup) or choose another port"
        );
    }
}
