//! What two processes say to each other once the new one serves: clients move to it as they get idle, and
//! cancel requests go to where their client is. Not for what a client has: that is a parcel. Both sides run
//! the same: one thread writes, one reads.
//!
//! Invariant: a client that cannot travel any more is told so; none is lost without a word while this
//! process lives, and the operator hears why.

use std::collections::HashMap;
use std::fs::File;
use std::io::{ErrorKind, Write as _};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::{io, thread};

use common::observe::Observer;
use common::upgrade::{Fault, Peer};
use pgpool_wire::startup::CancelKey;
use serde::{Deserialize, Serialize};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use super::parcel::{Octets, Parcel};
use crate::cancel::{self, Numbers, Side, Waiting};
use crate::client::moving::Mover;
use crate::control::Handle;
use crate::events::{ClientMoved, MoveFailed};
use crate::fatal::Refusal;
use crate::neighbours::shard_again;
use crate::snapshot::{Count, Held};
use crate::stream::Stream;
use crate::worker::Message;

/// What is said; a client's socket comes with it.
#[derive(Serialize, Deserialize)]
enum Word {
    Client(Box<Parcel>),
    Cancel { id: u64, pid: u32, secret: Octets },
    Cancelled(u64),
}

/// Clients that are packed and not on their way yet.
const PACKED: usize = 64;
/// Cancel requests at a time that the other one has not answered, as of a peer (`max-cancels`).
const MOST_REQUESTS: u32 = 1024;

/// What is to be said.
enum Saying {
    Client(Box<Parcel>, OwnedFd, Room),
    Word(Word),
    /// Nothing more: the other one does not listen.
    End,
}

/// Room for one packed client.
pub(crate) type Room = OwnedSemaphorePermit;

/// The way to another process; cheap to clone. It ends when nobody has one any more.
#[derive(Clone)]
pub struct Link {
    out: mpsc::UnboundedSender<Saying>,
    asked: Arc<Asked>,
    requests: Arc<Count>,
    room: Arc<Semaphore>,
}

/// What both threads of a way know.
struct Way {
    peer: Peer,
    observer: Observer,
    asked: Arc<Asked>,
    room: Arc<Semaphore>,
    /// It ends, and why is known.
    ends: AtomicBool,
}

impl Way {
    /// Nobody moves any more; told once.
    fn fail(&self, cause: &Fault) {
        if !self.ends.swap(true, Ordering::AcqRel) {
            self.observer.emit(MoveFailed { cause });
        }
        self.room.close();
    }

    fn end(&self) {
        self.ends.store(true, Ordering::Release);
        self.room.close();
        self.peer.close();
        self.asked.lock().clear();
    }
}

/// Cancel requests that the other one has not answered.
#[derive(Default)]
struct Asked {
    next: AtomicU64,
    waiting: Mutex<HashMap<u64, oneshot::Sender<()>>>,
}

/// A cancel request of the other process; answered by being dropped.
pub struct Answer {
    id: u64,
    out: mpsc::UnboundedSender<Saying>,
}

impl Drop for Answer {
    fn drop(&mut self) {
        // Nobody may wait any more.
        let _gone = self.out.send(Saying::Word(Word::Cancelled(self.id)));
    }
}

impl Asked {
    fn lock(&self) -> MutexGuard<'_, HashMap<u64, oneshot::Sender<()>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Resolves when all that was to be said has been.
pub(crate) type Said = oneshot::Receiver<()>;

impl Link {
    /// Begins to write and to read. `side` is what the other process is to this one.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub(crate) fn start(peer: Peer, side: Side, handle: Handle) -> io::Result<(Self, Said)> {
        let (out, sayings) = mpsc::unbounded_channel();
        let (asked, room) = (Arc::default(), Arc::new(Semaphore::new(PACKED)));
        let link = Self { out, asked, room, requests: Count::new(MOST_REQUESTS) };
        let way = Arc::new(Way {
            peer,
            observer: handle.observer().clone(),
            asked: Arc::clone(&link.asked),
            room: Arc::clone(&link.room),
            ends: AtomicBool::new(false),
        });
        let reads = Reader {
            way: Arc::clone(&way),
            side,
            handle,
            // It must not keep the writer from ending.
            out: link.out.downgrade(),
        };
        let (end, said) = oneshot::channel();
        thread::Builder::new().name("upgrade-out".to_owned()).spawn(move || {
            write(&way, sayings);
            way.end();
            drop(end);
        })?;
        thread::Builder::new().name("upgrade-in".to_owned()).spawn(move || reads.run())?;
        Ok((link, said))
    }

    /// Room for one more client, when there is; `None`: nobody moves any more.
    pub(crate) async fn room(&self) -> Option<Room> {
        Arc::clone(&self.room).acquire_owned().await.ok()
    }

    /// Sends a client with its socket. What came of it is told as an event.
    ///
    /// # Errors
    /// The other process is gone; its socket.
    pub(crate) fn send(
        &self,
        parcel: Box<Parcel>,
        socket: OwnedFd,
        room: Room,
    ) -> Result<(), OwnedFd> {
        match self.out.send(Saying::Client(parcel, socket, room)) {
            Err(mpsc::error::SendError(Saying::Client(_, socket, _))) => Err(socket),
            _ => Ok(()),
        }
    }

    /// Forwards a cancel request; ends when the other process has carried it out, or has gone. Cancel
    /// safe: the request goes on.
    pub(crate) async fn cancel(&self, key: CancelKey) {
        let Some(_held) = Held::enter(&self.requests) else { return };
        let id = self.asked.next.fetch_add(1, Ordering::Relaxed);
        let (to, answer) = oneshot::channel();
        self.asked.lock().insert(id, to);
        let word = Word::Cancel { id, pid: key.pid, secret: Octets(key.secret) };
        if self.out.send(Saying::Word(word)).is_ok() {
            let _gone = answer.await;
        }
        self.asked.lock().remove(&id);
    }
}

/// Until nobody has anything to say any more, or nobody listens.
fn write(way: &Way, mut sayings: mpsc::UnboundedReceiver<Saying>) {
    while let Some(saying) = sayings.blocking_recv() {
        let (word, socket, room) = match saying {
            Saying::Client(parcel, socket, room) => {
                (Word::Client(parcel), Some(socket), Some(room))
            }
            Saying::Word(word) => (word, None, None),
            Saying::End => break,
        };
        let with: Vec<_> = socket.iter().map(AsFd::as_fd).collect();
        if let Err(fault) = way.peer.say(&word, &with) {
            way.fail(&fault);
            farewell(socket);
            break;
        }
        if let Word::Client(parcel) = &word {
            way.observer.emit(ClientMoved { id: parcel.pid });
        }
        drop(room);
    }
    // The other one may have read half a word: it must not wait for the rest.
    way.room.close();
    sayings.close();
    while let Some(unsaid) = sayings.blocking_recv() {
        if let Saying::Client(_, socket, _) = unsaid {
            farewell(Some(socket));
        }
    }
}

/// A client that can go nowhere.
fn farewell(socket: Option<OwnedFd>) {
    let Some(socket) = socket else { return };
    let mut out = Vec::new();
    Refusal::ShuttingDown.put_fatal(&mut out);
    // It may be gone already.
    let _gone = File::from(socket).write(&out);
}

struct Reader {
    way: Arc<Way>,
    side: Side,
    handle: Handle,
    out: mpsc::WeakUnboundedSender<Saying>,
}

impl Reader {
    /// Until the other process ends, or says what it must not.
    fn run(self) {
        let fault = loop {
            match self.way.peer.hear::<Word>(None) {
                Ok((word, with)) => self.heed(word, with.into_iter().next()),
                // One client is lost, and the next ones may have better luck.
                Err(fault @ Fault::Missing) => {
                    self.way.observer.emit(MoveFailed { cause: &fault });
                }
                Err(fault) => break fault,
            }
        };
        // The process before ends when it has nobody any more.
        let ended = [ErrorKind::UnexpectedEof, ErrorKind::ConnectionReset];
        let over = matches!(&fault, Fault::Io(cause) if ended.contains(&cause.kind()));
        if !(over && self.side == Side::Former) {
            self.way.fail(&fault);
        }
        self.way.end();
        // Whom it has sent and nobody has read would hang for ever.
        self.way.peer.refuse();
        if let Some(out) = self.out.upgrade() {
            // The writer may have ended.
            let _ended = out.send(Saying::End);
        }
        if self.side == Side::Former {
            self.handle.forget_former();
        }
    }

    fn heed(&self, word: Word, socket: Option<OwnedFd>) {
        match (word, socket) {
            (Word::Client(parcel), Some(socket)) => self.take(parcel, socket),
            (Word::Cancel { id, pid, secret }, _) => {
                // Without it nobody here has a way to a client any more.
                let Some(out) = self.out.upgrade() else { return };
                let answer = Waiting::Process(self.side, Answer { id, out });
                self.cancel(answer, CancelKey { pid, secret: secret.0 });
            }
            (Word::Cancelled(id), _) => drop(self.way.asked.lock().remove(&id)),
            (Word::Client(_), None) => {}
        }
    }

    fn take(&self, parcel: Box<Parcel>, socket: OwnedFd) {
        if !parcel.is_lawful() {
            return farewell(Some(socket));
        }
        let (snapshot, peers) = (self.handle.snapshot(), self.handle.peers());
        let whose = (parcel.database.as_str(), parcel.user.as_str());
        let named = Numbers::of(&snapshot).worker(parcel.pid);
        let at = shard_again(&snapshot, whose, peers.len(), named);
        let io = Stream::given(socket, parcel.source.source());
        // From here on this process must not end without it.
        let place = Held::keep(&snapshot.clients);
        let message = Message::Mover(Box::new(Mover { parcel, io, place }));
        let Some(peer) = peers.get(at) else { return };
        if let Err(unsent) = peer.send(message)
            && let Message::Mover(mut mover) = unsent.0
        {
            farewell(mover.io.give_away().ok().flatten());
        }
    }

    fn cancel(&self, waiting: Waiting, key: CancelKey) {
        let numbers = Numbers::of(&self.handle.snapshot());
        cancel::take(self.handle.peers(), numbers, waiting, key);
    }
}
