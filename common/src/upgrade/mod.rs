//! Hands a running instance over to a new process of it: the conversation of the two, whatever a tier
//! says in it. Not for what is handed over and not for when: those are the tier's. `giving` is the old
//! process's side, `taking` the new one's; both block, each on a thread of its own or before the data
//! path runs.
//!
//! Invariant: a step that fails or takes too long leaves the old process as it was before the first.
//!
//! ```text
//! old                                   new
//!  │ Hello, Offer…, Offered ─────────────►│ reads the file, binds what is new
//!  │◄──────────────────────────── Armed  │
//!  │ stops what only one of them may do   │
//!  │ Gift…, Given ───────────────────────►│ takes it, reads and accepts
//!  │◄────────────────────────── Serving  │
//!  │ drains its connections, ends         │
//! ```

pub mod events;
pub mod giving;
pub mod taking;

use std::fmt;
use std::io;
use std::net::Shutdown;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::net::descriptors;

/// The variable that tells a new process that its standard input is the way to the old one.
pub const VARIABLE: &str = "AQUEDUCT_UPGRADE";

/// How long a step may take on the other side.
const STEP: Duration = Duration::from_secs(10);

/// How long the new process may take to start.
const START: Duration = Duration::from_secs(30);

/// What a tier says.
pub trait Language {
    /// Of the two below; processes of different versions do not hand over.
    const VERSION: u32;
    /// What both may have at once; with descriptors.
    type Offer: Serialize + DeserializeOwned;
    /// What only one of them may have at a time; with descriptors.
    type Gift: Serialize + DeserializeOwned;
}

/// What the two say; descriptors come with `Offer` and `Gift`.
#[derive(Serialize, Deserialize)]
enum Word<O, G> {
    Hello { version: u32 },
    Offer(O),
    Offered,
    Armed,
    Gift(G),
    Given,
    Serving,
}

impl<O, G> fmt::Display for Word<O, G> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Hello { .. } => "Hello",
            Self::Offer(_) => "Offer",
            Self::Offered => "Offered",
            Self::Armed => "Armed",
            Self::Gift(_) => "Gift",
            Self::Given => "Given",
            Self::Serving => "Serving",
        })
    }
}

/// The words of a language.
type Words<L> = Word<<L as Language>::Offer, <L as Language>::Gift>;

/// Why a hand-over failed.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// The socket between the two, or a descriptor on it; also when the other took too long.
    #[error("the other process did not go on: {0}")]
    Io(#[from] io::Error),
    /// Descriptors did not come with a word; the next word is heard.
    #[error("the descriptors of a word did not come: this process may have no more (LimitNOFILE)")]
    Missing,
    /// Not one of our words.
    #[error("the other process said something unknown: {0}")]
    Word(#[from] serde_json::Error),
    /// A word out of turn.
    #[error("the other process said `{0}` out of turn")]
    Turn(String),
    /// It is of another version.
    #[error("the other process hands over in version {theirs}, this one in version {ours}")]
    Version {
        /// The other one's.
        theirs: u32,
        /// This one's.
        ours: u32,
    },
    /// The program cannot be started.
    #[error("the new program does not start: {0}")]
    Spawn(io::Error),
}

/// The other process.
#[derive(Debug)]
pub struct Peer(UnixStream);

impl Peer {
    /// At the other end of a socket.
    ///
    /// # Errors
    /// It is no socket, or closed.
    pub fn new(stream: UnixStream) -> io::Result<Self> {
        stream.set_nonblocking(false)?;
        stream.set_write_timeout(Some(STEP))?;
        Ok(Self(stream))
    }

    /// Says something, with descriptors: the other one has duplicates of them.
    ///
    /// # Errors
    /// When the other one is gone or does not listen.
    pub fn say(&self, word: &impl Serialize, with: &[BorrowedFd<'_>]) -> Result<(), Fault> {
        // There may be keys in it.
        let text = Zeroizing::new(serde_json::to_vec(word)?);
        Ok(descriptors::send(&self.0, &text, with)?)
    }

    /// Hears what the other one says, for so long; `None`: for ever.
    ///
    /// # Errors
    /// When it is gone, says nothing for so long, or nothing that is known.
    pub fn hear<W: DeserializeOwned>(
        &self,
        within: Option<Duration>,
    ) -> Result<(W, Vec<OwnedFd>), Fault> {
        self.0.set_read_timeout(within)?;
        let (text, with) = descriptors::receive(&self.0)?;
        let text = Zeroizing::new(text);
        let Ok(with) = with else { return Err(Fault::Missing) };
        Ok((serde_json::from_slice(&text)?, with))
    }

    /// Ends the way, for both; what was said before is still heard.
    pub fn close(&self) {
        let _closed = self.0.shutdown(Shutdown::Both);
    }

    /// Ends the way and closes all that was said and not heard: the other one's next word fails at once.
    pub fn refuse(&self) {
        self.close();
        descriptors::discard(&self.0);
    }

    /// Waits for a word that carries nothing.
    fn wait<O: DeserializeOwned, G: DeserializeOwned>(
        &self,
        within: Duration,
        wanted: fn(&Word<O, G>) -> bool,
    ) -> Result<(), Fault> {
        match self.hear::<Word<O, G>>(Some(within))?.0 {
            word if wanted(&word) => Ok(()),
            word => Err(Fault::Turn(word.to_string())),
        }
    }
}

/// Runs what blocks on a thread for that.
///
/// # Errors
/// As `work`, and when it panics.
pub async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Fault> + Send + 'static,
) -> Result<T, Fault> {
    let ended = tokio::task::spawn_blocking(work).await;
    ended.unwrap_or_else(|panic| Err(io::Error::other(panic).into()))
}

#[cfg(test)]
mod tests;
