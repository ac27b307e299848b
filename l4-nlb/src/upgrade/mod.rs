//! Hands a running instance over to a new process of it: listening sockets, UDP flows with their
//! upstream sockets, and the admin listener (N11). Not for when and not for configuration: the new
//! process reads the file itself. `giving` is the old process's side, `taking` the new one's.
//!
//! Invariant: at every moment one process reads a UDP socket, and a step that fails or takes too long
//! leaves the old process serving as before.
//!
//! ```text
//! old                                   new
//!  │ Hello, Listener…, Endpoints, Offered ►│ reads the file, binds what is new
//!  │◄──────────────────────────── Armed  │
//!  │ stops reading UDP                    │
//!  │ Shard… , Given ────────────────────►│ takes the flows, reads and accepts
//!  │◄────────────────────────── Serving  │
//!  │ drains its connections, ends         │
//! ```

pub(crate) mod endpoints;
pub mod giving;
pub mod taking;

use std::io;
use std::net::SocketAddr;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use common::net::descriptors;
use serde::{Deserialize, Serialize};
use topology::l4::Protocol;

use crate::listener::Place;
use crate::udp::handover::HandedFlow;
use endpoints::KnownService;

/// The variable that tells a new process that its standard input is the way to the old one.
pub const VARIABLE: &str = "AQUEDUCT_UPGRADE";

/// Of the words below; processes of different versions do not hand over.
const VERSION: u32 = 3;

/// How long a step may take on the other side.
const STEP: Duration = Duration::from_secs(10);

/// How long the new process may take to start.
const START: Duration = Duration::from_secs(30);

/// What the two say; descriptors come with `Listener`, `Admin` and `Shard`.
#[derive(Debug, Serialize, Deserialize)]
enum Word {
    Hello { version: u32 },
    Listener(Offer),
    Admin,
    Endpoints(Vec<KnownService>),
    Offered,
    Armed,
    Shard { listener: usize, shard: usize, flows: Vec<HandedFlow> },
    Given,
    Serving,
}

/// A listener and where it is; its sockets come with it, one per worker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Offer {
    udp: bool,
    /// As the file has it.
    address: SocketAddr,
    /// Where the system chose the port.
    name: Option<String>,
}

impl From<&Place> for Offer {
    fn from(place: &Place) -> Self {
        let name = place.name.as_ref().map(ToString::to_string);
        Self { udp: place.protocol == Protocol::Udp, address: place.address, name }
    }
}

/// Why a hand-over failed.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// The socket between the two, or a descriptor on it; also when the other took too long.
    #[error("the other process did not go on: {0}")]
    Io(#[from] io::Error),
    /// Not one of our words.
    #[error("the other process said something unknown: {0}")]
    Word(#[from] serde_json::Error),
    /// A word out of turn.
    #[error("the other process said `{0}` out of turn")]
    Turn(String),
    /// It is of another version.
    #[error("the other process hands over in version {0}, this one in version {VERSION}")]
    Version(u32),
    /// The program cannot be started.
    #[error("the new program does not start: {0}")]
    Spawn(io::Error),
}

/// The other process.
#[derive(Debug)]
struct Peer(UnixStream);

impl Peer {
    fn new(stream: UnixStream) -> io::Result<Self> {
        stream.set_nonblocking(false)?;
        stream.set_write_timeout(Some(STEP))?;
        Ok(Self(stream))
    }

    fn say(&self, word: &Word, with: &[BorrowedFd<'_>]) -> Result<(), Fault> {
        Ok(descriptors::send(&self.0, &serde_json::to_vec(word)?, with)?)
    }

    fn hear(&self, within: Duration) -> Result<(Word, Vec<OwnedFd>), Fault> {
        self.0.set_read_timeout(Some(within))?;
        let (text, with) = descriptors::receive(&self.0)?;
        Ok((serde_json::from_slice(&text)?, with))
    }

    /// Waits for a word that carries nothing.
    fn wait(&self, within: Duration, wanted: fn(&Word) -> bool) -> Result<(), Fault> {
        match self.hear(within)?.0 {
            word if wanted(&word) => Ok(()),
            word => Err(out_of_turn(&word)),
        }
    }
}

fn out_of_turn(word: &Word) -> Fault {
    let mut name = format!("{word:?}");
    name.truncate(name.find([' ', '(']).unwrap_or(name.len()));
    Fault::Turn(name)
}
