//! What this tier says when it hands over to a new process: listening sockets and the admin listener, then
//! the clients that are idle, one by one, and cancel requests for those that are still in the old one. Not
//! for the conversation up to the new one's start, which is `common::upgrade`. `giving` is the old
//! process's side, `taking` the new one's, `link` what they say to each other afterwards, `parcel` a
//! client as it travels.
//!
//! Invariant: at every moment one process reads a client's socket, and a hand-over that fails before the
//! new process serves has moved nobody.
//!
//! ```text
//! old                                   new
//!  │ Listener…, Admin, Numbers ──────────►│ reads the file, binds what is new, accepts
//!  │◄──────────────────────────── Serving│
//!  │ drains; Client… as they get idle ───►│ goes on with them
//!  │◄─────────────── Cancel, Cancelled ──►│ for clients of the other one
//!  │ ends with the last client            │
//! ```

pub(crate) mod giving;
pub(crate) mod link;
pub mod parcel;
pub mod taking;

use std::net::SocketAddr;
use std::path::PathBuf;

use common::upgrade::{Fault, Language};
use serde::{Deserialize, Serialize};
use topology::pool::ListenAddress;

/// The words of a pooler.
#[derive(Debug)]
pub(crate) struct Tongue;

impl Language for Tongue {
    /// Of [`parcel::Parcel`] and of what `link` says too.
    const VERSION: u32 = 1;
    type Offer = Offer;
    type Gift = ();
}

/// What both processes may have at once.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Offer {
    /// Its sockets come with it.
    Listener(Site),
    /// A listening socket that somebody else has opened comes with it.
    Passed,
    /// Its socket comes with it.
    Admin,
    /// From where on the new process numbers its clients: the old one's keep their numbers.
    Numbers(u32),
}

/// Where a listener is, as the file has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Site {
    Ip(SocketAddr),
    Unix(PathBuf, u16),
}

impl From<&ListenAddress> for Site {
    fn from(address: &ListenAddress) -> Self {
        match address {
            ListenAddress::Ip(address) => Self::Ip(*address),
            ListenAddress::Unix(folder, port) => Self::Unix(folder.clone(), *port),
        }
    }
}

/// Why nothing was handed over.
#[derive(Debug, thiserror::Error)]
pub enum UpgradeError {
    /// The instance ends already.
    #[error("this process ends already")]
    Ending,
    /// A third process would not know it.
    #[error("the process before still drains; try again when it has ended")]
    Behind,
    /// The new process would know nothing of it.
    #[error("PAUSE, SUSPEND or DISABLE is in force; RESUME or ENABLE first")]
    Held,
    /// The two did not come to an end.
    #[error(transparent)]
    Fault(#[from] Fault),
}
