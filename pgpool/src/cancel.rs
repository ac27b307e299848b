//! Cancel requests: from a client's key, by way of the process that has given it, to the query that its owner runs right now, and no other.
//! Not for `query_timeout`'s decision. Called by the listener (through the home worker) and by
//! whoever has to end a query.
//!
//! Invariant: a server is not released while a cancel request to it is on its way, and a request whose key is right needs no
//! place that one with a wrong key could have taken.

pub mod crowd;

use std::io;
use std::rc::Rc;

use pgpool_wire::startup::{self, CancelKey};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc::UnboundedSender;
use tokio::time::timeout;

use crate::client::entry::Entry;
use crate::client::source::Source;
use crate::control::Handle;
use crate::events::CancelRefused;
use crate::scram;
use crate::server::Facts;
use crate::server::tls::Way;
use crate::snapshot::{Held, Snapshot};
use crate::stream::Stream;
use crate::upgrade::link::Answer;
use crate::worker::{Dial, Message, Peers, Worker};

/// How clients' numbers are made of the process, the worker and a count. With peers seven bits each name
/// process and worker; without, no bit names a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Numbers {
    peer: u32,
    count_bits: u32,
}

/// Most workers of a process that has peers.
pub const MOST_WORKERS: usize = 128;
const PEER_SHIFT: u32 = 25;

impl Numbers {
    /// Those of an instance.
    pub fn of(snapshot: &Snapshot) -> Self {
        let peer = u32::from(snapshot.peer_id);
        Self { peer, count_bits: if peer == 0 { 22 } else { 18 } }
    }

    /// The number of a worker's client; `None`: not with this count.
    pub fn make(self, worker: usize, count: u32) -> Option<u32> {
        let count = count % (1 << self.count_bits);
        let worker = u32::try_from(worker).ok()?;
        (count != 0).then_some(self.peer << PEER_SHIFT | worker << self.count_bits | count)
    }

    /// The worker that a number names.
    pub fn worker(self, pid: u32) -> usize {
        let number = if self.peer == 0 { pid } else { pid % (1 << PEER_SHIFT) };
        (number >> self.count_bits) as usize
    }

    /// The worker to ask first, of `workers`: the number may be of a process that had more.
    fn first(self, pid: u32, workers: usize) -> usize {
        self.worker(pid) % workers.max(1)
    }

    /// The process that a number names, if that is another one.
    pub fn elsewhere(self, pid: u32) -> Option<u8> {
        let peer = pid >> PEER_SHIFT;
        let other = self.peer != 0 && peer != self.peer;
        other.then(|| u8::try_from(peer).ok()).flatten()
    }
}

/// A request that a peer has forwarded ends with this beside the secret, which is 4 or 32 bytes long: it goes
/// no further, whatever tables say.
const FORWARDED: u8 = 1;

/// Takes the mark off a request that a peer has forwarded; whether there was one.
pub fn unmark(key: &mut CancelKey) -> bool {
    let marked = matches!(key.secret.len(), 5 | 33) && key.secret.last() == Some(&FORWARDED);
    if marked {
        key.secret.pop();
    }
    marked
}

/// A place among the requests that another process is asked about: whether their keys are right nobody knows here.
fn place(worker: &Worker, source: Source) -> Option<crowd::Place> {
    let entered = worker.tally.crowd.enter(source.ip(), worker.snapshot().clients.most());
    let refused = |crowded| {
        worker.observer.emit(CancelRefused { source, told: crowded == crowd::Crowded::Quiet });
    };
    entered.map_err(refused).ok()
}

/// Forwards a request to the process that its key names. Ends when that has closed the connection, as
/// [`send`] does.
pub async fn pass_on(worker: &Worker, peer: u8, mut key: CancelKey, source: Source) {
    let snapshot = worker.snapshot();
    let Some(_place) = place(worker, source) else { return };
    let Some(peer) = snapshot.peers.get(&peer) else { return };
    let Some(_held) = Held::enter(&peer.requests) else { return };
    key.secret.push(FORWARDED);
    let passed = async {
        let mut io = worker.dial(&peer.at).await?.0.io;
        let mut out = Vec::new();
        startup::put_cancel(&mut out, &key);
        io.write_all(&out).await?;
        let mut nothing = [0; 1];
        io.read(&mut nothing).await.map(|_| ())
    };
    // Late or failed, the client learns it by its query going on, as with PostgreSQL itself.
    let _outcome = timeout(snapshot.settings.cancel_wait_timeout, passed).await;
}

/// Who waits for the end of a request; let go by being dropped.
pub enum Waiting {
    /// The client that has sent it, until the stream is closed, and from where.
    Client(Stream, Source),
    /// The process that this one has taken over from, or the one that takes over from it.
    Process(Side, Answer),
}

/// Gives a request to the first worker that has not ended; back: all have.
fn offer<'a>(
    workers: impl Iterator<Item = (usize, &'a UnboundedSender<Message>)>,
    waiting: Waiting,
    key: CancelKey,
) -> Result<(), (Waiting, CancelKey)> {
    let mut message = Message::Cancel(waiting, key);
    for (_, worker) in workers {
        match worker.send(message) {
            Ok(()) => return Ok(()),
            Err(unsent) => message = unsent.0,
        }
    }
    match message {
        Message::Cancel(waiting, key) => Err((waiting, key)),
        _ => Ok(()),
    }
}

/// All workers, from one on.
fn ring(
    peers: &Peers,
    from: usize,
) -> impl Iterator<Item = (usize, &UnboundedSender<Message>)> + use<'_> {
    let count = peers.len().max(1);
    (0..peers.len())
        .map(move |step| (from + step) % count)
        .filter_map(|at| Some((at, peers.get(at)?)))
}

/// Gives a request to the worker that its key names, or to one after it if that has ended: it knows where
/// the client is, if anybody does.
pub fn take(peers: &Peers, numbers: Numbers, waiting: Waiting, key: CancelKey) {
    let first = numbers.first(key.pid, peers.len());
    // When all have ended there are no queries.
    let _ended = offer(ring(peers, first), waiting, key);
}

/// Which of the two processes beside this one a request comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The one before.
    Former,
    /// The next one.
    Successor,
}

/// A request at the worker that its key names, or at one after it.
pub async fn reach(worker: Rc<Worker>, waiting: Waiting, key: CancelKey) {
    let console = worker.console(key.pid);
    if let Some(console) = console.filter(|console| scram::same(&console.secret, &key.secret)) {
        console.ask();
    } else if find_client(&worker, &key).is_some() {
        forward(&worker, &key).await;
    } else {
        elsewhere(&worker, waiting, key).await;
    }
}

/// A client that has moved here may be at home on another worker than its key names; one that has not
/// is in the process before, and one that has gone is in the next one.
async fn elsewhere(worker: &Worker, waiting: Waiting, key: CancelKey) {
    let former = worker.handle.as_ref().and_then(Handle::former);
    let successor = worker.successor();
    let has_taken = worker.handle.as_ref().is_some_and(Handle::has_taken);
    if !has_taken && successor.is_none() {
        return;
    }
    let first = Numbers::of(&worker.snapshot()).first(key.pid, worker.peers.len());
    let all_others = ring(&worker.peers, worker.id.0 + 1).take_while(|(at, _)| *at != first);
    let Err((waiting, key)) = offer(all_others, waiting, key) else { return };
    let link = match &waiting {
        Waiting::Client(..) => successor.or(former),
        Waiting::Process(Side::Former, _) => successor,
        Waiting::Process(Side::Successor, _) => former,
    };
    let Some(link) = link else { return };
    let _place = match &waiting {
        Waiting::Client(_, source) => match place(worker, *source) {
            Some(place) => Some(place),
            None => return,
        },
        Waiting::Process(..) => None,
    };
    // As with a query of our own: late or failed, the client learns it by its query going on.
    let _outcome = timeout(worker.snapshot().settings.cancel_wait_timeout, link.cancel(key)).await;
}

/// Requests of one client, and to one server, at a time; more are no use.
const MOST_AT_ONCE: u32 = 2;

/// Forwards a request if its key belongs to a client with a running query. Ends when the server has
/// closed the request's connection: only then has the signal been sent.
pub async fn forward(worker: &Rc<Worker>, key: &CancelKey) {
    let Some(entry) = find_client(worker, key) else { return };
    let Some(_claim) = Claim::of(&entry) else { return };
    let longest = worker.snapshot().settings.cancel_wait_timeout;
    let Ok(Some(facts)) = timeout(longest, entry.running()).await else { return };
    if facts.cancels.get() >= MOST_AT_ONCE {
        return;
    }
    facts.cancels.set(facts.cancels.get() + 1);
    let _guard = Underway(Rc::clone(&facts), entry);
    // Late or failed, the client learns it by its query going on, as with PostgreSQL itself. But
    // nobody can say any more whether and when it arrives: whoever came next could be hit.
    if !matches!(timeout(longest, send(&*worker.dialer, &facts)).await, Ok(Ok(()))) {
        facts.condemned.set(true);
    }
}

/// The key's owner.
fn find_client(worker: &Worker, key: &CancelKey) -> Option<Rc<Entry>> {
    worker.client(key.pid).filter(|entry| scram::same(&entry.secret, &key.secret))
}

/// Sends the server's own key to it and waits until it closes the connection.
///
/// # Errors
/// The server cannot be reached.
pub async fn send(dialer: &dyn Dial, facts: &Facts) -> io::Result<()> {
    let Some(key) = &facts.key else { return Ok(()) };
    let dialled = dialer.dial(&facts.peer).await?;
    let way = if facts.cipher.is_some() { Way::Encrypted } else { Way::Plain };
    let secured = facts.security.secure(dialled, &facts.address, way).await;
    let mut io = secured.map_err(|fault| io::Error::other(fault.to_string()))?.io;
    let mut out = Vec::new();
    startup::put_cancel(&mut out, key);
    io.write_all(&out).await?;
    let mut nothing = [0; 1];
    match io.read(&mut nothing).await {
        // It says no goodbye inside TLS.
        Err(fault) if fault.kind() == io::ErrorKind::UnexpectedEof => Ok(()),
        outcome => outcome.map(|_| ()),
    }
}

/// A request of a client's owner, from when its key was found right; given back when dropped.
struct Claim(Rc<Entry>);

impl Claim {
    /// `None`: there are enough already, and what they hit is the same.
    fn of(entry: &Rc<Entry>) -> Option<Self> {
        let now = entry.claims.get();
        (now < MOST_AT_ONCE).then(|| {
            entry.claims.set(now + 1);
            Self(Rc::clone(entry))
        })
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.0.claims.set(self.0.claims.get().saturating_sub(1));
    }
}

/// A request on its way to a client's server. Until it has arrived the client's next messages wait.
struct Underway(Rc<Facts>, Rc<Entry>);

impl Drop for Underway {
    fn drop(&mut self) {
        self.0.cancels.set(self.0.cancels.get().saturating_sub(1));
        self.0.settled.notify_waiters();
        self.0.settled.notify_one();
        self.1.wake();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// P7: a client's number leads back to its process and worker, and a forwarded request is told from one
    /// of a client.
    #[test]
    fn numbers_name_their_process_and_worker() {
        let alone = Numbers { peer: 0, count_bits: 22 };
        let pid = alone.make(1000, 5).expect("a number");
        assert_eq!((alone.worker(pid), alone.elsewhere(pid)), (1000, None));
        let (one, last) =
            (Numbers { peer: 1, count_bits: 18 }, Numbers { peer: 127, count_bits: 18 });
        let pid = last.make(MOST_WORKERS - 1, (1 << 18) - 1).expect("a number");
        assert_eq!((last.worker(pid), last.elsewhere(pid)), (127, None));
        assert_eq!(one.elsewhere(pid), Some(127));
        assert_eq!(one.make(3, 1 << 18), None, "no client has the number 0");
        for length in [4, 32] {
            let mut key = CancelKey { pid, secret: vec![FORWARDED; length] };
            assert!(!unmark(&mut key));
            key.secret.push(FORWARDED);
            assert!(unmark(&mut key) && key.secret.len() == length);
        }
    }
}
