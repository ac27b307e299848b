//! A client's session: idle without a server, waiting for one, linked to one, and so on until it
//! leaves. Not for logins (`startup`, `auth`) and not for what passes while it is linked (`relay`).
//! One task per client, started by its home worker.
//!
//! Invariant: a client without work holds no server (unless it is tied to one) and no buffer.

mod asked;
pub mod auth;
mod choice;
pub mod entry;
mod listening;
pub mod moving;
pub mod replication;
pub mod rules;
pub mod source;
pub mod startup;
pub mod wait;

use std::io;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use pgpool_wire::backend::{self, Status};
use pgpool_wire::frame::{self, Found, Frame};
use pgpool_wire::frontend::{self, Subject, tag};
use tokio::io::AsyncWriteExt;
use tokio::task::coop;
use tokio::time::{Instant, timeout};

use crate::ear::wish;
use crate::events::{ClientEnded, ClientLeft, LoginRefused};
use crate::fatal::Refusal;
use crate::pool::{Pool, add};
use crate::prepared::Most;
use crate::relay::forward::WHOLE;
use crate::relay::link::{Memory, Notes, Rules};
use crate::relay::outbox::Outbox;
use crate::relay::{self, Outcome};
use crate::route::Way;
use crate::server::Server;
use crate::snapshot::Held;
use crate::stream::Stream;
use crate::worker::{Arrival, SCRATCH, Worker};

use asked::Asked;
use entry::{ClientPhase, Ending, Entry};
use listening::Heard;
use wait::Wait;
pub use wait::server_of;

/// A client that does not take its last message within this time does not get it.
const LONGEST_GOODBYE: Duration = Duration::from_secs(1);

/// A client that is logged in.
pub struct Client {
    /// Its socket.
    pub io: Stream,
    /// What others see of it.
    pub entry: Rc<Entry>,
    /// Its home.
    pub worker: Rc<Worker>,
    /// Where its servers come from: `home`, or the replicas' pool.
    pub pool: Rc<Pool>,
    /// The pool of the database that it has named.
    home: Rc<Pool>,
    /// When it last gave a server back on which it may have written.
    written: Option<Instant>,
    /// Why it is there, if there was a choice.
    pub way: Option<Way>,
    /// The messages in the carry were tried on a replica in vain.
    in_vain: bool,
    /// How long it has waited for the server that it has.
    pub waited: Duration,
    /// What follows it from server to server.
    pub memory: Memory,
    /// Messages that were read and not forwarded.
    pub carry: Vec<u8>,
    /// What its socket did not take yet.
    pub out: Outbox,
    /// Bytes of a large message that go nowhere.
    discard: usize,
    /// What was asked in this very turn of its task, in vain: it is woken when there is more.
    pub still: Still,
    /// A read was in vain and its task is to be woken when there is more, which has not happened yet.
    armed: bool,
}

/// Sockets that have had nothing to say since the client's task was last woken. To ask again before the
/// next turn would cost a call and bring nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Still {
    /// The client's, read by the relay.
    pub client: bool,
    /// Its server's, read when it was taken from the pool.
    pub server: bool,
}

/// Takes in a client that has arrived at its home worker: login, session, goodbye.
pub async fn welcome(worker: Rc<Worker>, arrival: Box<Arrival>) {
    // Apart, so that what only a login needs is given back: thousands of clients are idle. A task keeps
    // the room of what it was started with, so the arrival comes in a box as well.
    let Some(mut inside) = Box::pin(enter(worker, arrival)).await else { return };
    let ended = inside.client.session().await;
    Box::pin(inside.client.part(ended)).await;
}

/// A client, and the places that it gives back when it leaves.
struct Inside {
    client: Box<Client>,
    _listed: startup::Listed,
    _place: Held,
    _shares: (Held, Held),
}

/// The login. A console's session too; nothing comes of it.
async fn enter(worker: Rc<Worker>, arrival: Box<Arrival>) -> Option<Inside> {
    let Arrival { mut io, source, startup, place, until } = *arrival;
    io.revive().ok()?;
    let mut door = startup::Door::new(io, worker.next_pid());
    let login = startup::admit(&worker, &mut door, &startup, source);
    let outcome = tokio::time::timeout_at(until, login).await.unwrap_or_else(|_| {
        Err(Refusal::LoginTimeout(worker.snapshot().settings.client_login_timeout))
    });
    match outcome {
        Ok(startup::Admitted::Client(guest)) => {
            let client = Client {
                io: door.io,
                entry: Rc::clone(&guest.listed.entry),
                worker,
                home: Rc::clone(&guest.pool),
                pool: guest.pool,
                written: None,
                way: None,
                in_vain: false,
                waited: Duration::ZERO,
                memory: guest.memory,
                // Without the room that was for its login.
                carry: door.input.as_slice().to_vec(),
                out: Outbox::default(),
                discard: 0,
                still: Still::default(),
                armed: false,
            };
            Some(Inside {
                client: Box::new(client),
                _listed: guest.listed,
                _place: place,
                _shares: guest.shares,
            })
        }
        Ok(startup::Admitted::Replication(guest)) => {
            replication::serve(worker, door, *guest).await;
            drop(place);
            None
        }
        Ok(startup::Admitted::Console(guest)) => {
            crate::admin::serve(worker, door, guest).await;
            None
        }
        Err(refusal) => {
            worker.observer.emit(LoginRefused::of(door.id, &startup, source, &refusal));
            goodbye(&mut door.io, &refusal).await;
            None
        }
    }
}

/// Tells a client why it is ended, if it listens.
pub async fn goodbye(io: &mut Stream, refusal: &Refusal) {
    let mut out = Vec::new();
    refusal.put_fatal(&mut out);
    let told = async {
        io.write_all(&out).await?;
        io.shutdown().await
    };
    // It may be gone already.
    let _ = timeout(LONGEST_GOODBYE, told).await;
}

/// What ends a client's idleness.
enum Wake {
    /// A message that needs a server.
    Work,
    /// A lone LISTEN or UNLISTEN.
    Wish(Box<Asked>),
    /// It left.
    Left,
    /// It is to be ended.
    Refused(Refusal),
    /// The instance drains, and it needs nothing.
    Drained,
}

impl Client {
    /// What the configuration says about relaying for it.
    pub fn rules(&self) -> Rules {
        let wanted = self.worker.is_telemetry_wanted();
        let settings = self.worker.settings();
        Rules {
            mode: self.pool.mode(),
            prepared: Most {
                count: settings.max_prepared_statements as usize,
                bytes: settings.max_prepared_bytes,
            },
            notes: self.notes(wanted),
        }
    }

    /// Of which queries something is to be noted.
    fn notes(&self, wanted: bool) -> Notes {
        match wanted {
            true => Notes::All,
            false if self.worker.recent.is_watched_at(self.worker.now()) => Notes::Traced,
            false => Notes::No,
        }
    }

    /// Notes why it went, and tells it where it was ended.
    async fn part(&mut self, ended: Option<Refusal>) {
        match ended {
            Some(refusal) => {
                self.worker.observer.emit(ClientEnded { client: &self.entry, cause: &refusal });
                self.leave(&refusal).await;
            }
            None if self.io.is_gone() => {}
            None => self.worker.observer.emit(ClientLeft { client: &self.entry }),
        }
    }

    /// The last words; what was answered before comes first.
    async fn leave(&mut self, refusal: &Refusal) {
        let mut last = std::mem::take(&mut self.out);
        let flush = std::future::poll_fn(|cx| last.poll_empty(&mut self.io, cx));
        // Nothing is said inside a message that it has read half of.
        if let Ok(Ok(())) = timeout(LONGEST_GOODBYE, flush).await {
            goodbye(&mut self.io, refusal).await;
        }
    }

    /// The session; what the client is to be told at its end.
    async fn session(&mut self) -> Option<Refusal> {
        loop {
            self.rest();
            let wake = std::future::poll_fn(|cx| self.poll_woken(cx)).await;
            if !matches!(wake, Wake::Work) {
                // In a box, as it is rare: what is kept over a wait takes room in the task of every idle client.
                match Box::pin(self.turn_to(wake)).await {
                    Heard::Done => continue,
                    Heard::Server => {}
                    Heard::Left => return None,
                    Heard::Refused(refusal) => return Some(refusal),
                }
            }
            let trial = self.choose_pool();
            let mut server = match self.checkout().await {
                Wait::Server(server) => server,
                Wait::Left => return None,
                Wait::Refused(refusal) => return Some(refusal),
            };
            if self.is_overtaken() {
                // While it waited, a replica came that does not have what it wrote.
                self.pool.release(server);
                self.in_vain = true;
                continue;
            }
            self.link(&server);
            let outcome = relay::run(self, &mut server, trial).await;
            self.entry.link(None);
            self.note_writes();
            match outcome {
                Outcome::Released => self.pool.release(server),
                Outcome::Elsewhere(mut input) => {
                    if server.talk.dying {
                        self.suspect();
                        self.worker.count_error();
                    }
                    self.pool.release(server);
                    input.append(&mut self.carry);
                    (self.carry, self.in_vain) = (input, true);
                }
                Outcome::Left => {
                    self.give_back(server);
                    return None;
                }
                Outcome::Ended(ending) => {
                    self.give_back(server);
                    return Some(self.refusal(ending));
                }
                Outcome::Broken(refusal) => {
                    if matches!(refusal, Refusal::ServerLost | Refusal::ServerProtocol(_)) {
                        self.suspect();
                        self.worker.count_error();
                    }
                    server.talk.ledger.doubt();
                    self.pool.abandon(server);
                    return Some(refusal);
                }
                Outcome::Lost => {
                    self.suspect();
                    self.worker.count_error();
                    self.pool.abandon(server);
                    return None;
                }
            }
        }
    }

    /// What has woken it, other than work for a server.
    async fn turn_to(&mut self, wake: Wake) -> Heard {
        match wake {
            Wake::Work => Heard::Server,
            Wake::Wish(asked) => self.hear(*asked).await,
            Wake::Left => Heard::Left,
            Wake::Refused(refusal) => Heard::Refused(refusal),
            Wake::Drained => self.move_on().await.map_or(Heard::Left, Heard::Refused),
        }
    }

    /// Gives a server back for good: after a session that may have left anything, or a tie, it is cleaned in full.
    fn give_back(&mut self, mut server: Box<Server>) {
        if self.memory.tie.is_some() {
            server.talk.wear(relay::link::Wear::Full);
        }
        let session = self.rules().mode == topology::pool::PoolMode::Session;
        let always = self.worker.settings().server_reset_query_always;
        server.talk.ended |= always || (session && server.talk.touched);
        if self.memory.left > 0 {
            server.talk.ledger.doubt();
        }
        if !self.memory.pending.is_empty() {
            // A commit may be on its way.
            server.talk.wear(relay::link::Wear::Settings);
        }
        self.pool.abandon(server);
    }

    fn suspect(&self) {
        if let Some(membership) = self.home.membership() {
            membership.family.suspect();
        }
    }

    fn rest(&self) {
        let time = self.pool.client_idle(&self.worker);
        let until = || self.worker.now() + time;
        let deadline = (!time.is_zero()).then(|| (until(), Ending::ClientIdle));
        self.entry.enter(ClientPhase::Idle, deadline);
    }

    fn link(&self, server: &Server) {
        self.entry.enter(ClientPhase::Active, None);
        self.entry.link(Some(Rc::clone(&server.facts)));
        server.facts.client.set(Some(self.entry.pid));
    }

    /// What an ending means in words.
    fn refusal(&self, ending: Ending) -> Refusal {
        let settings = &self.worker.snapshot().settings;
        let limits = self.pool.limits(&self.worker);
        match ending {
            Ending::ShuttingDown => Refusal::ShuttingDown,
            Ending::Killed => Refusal::Killed,
            Ending::Removed => Refusal::Removed,
            Ending::Reconnected => Refusal::Reconnected,
            Ending::Fenced => Refusal::Fenced,
            Ending::Deaf => Refusal::Deaf,
            Ending::QueryWait => Refusal::QueryWait(settings.query_wait_timeout),
            Ending::QueryTimeout => Refusal::QueryTimeout(limits.query),
            Ending::IdleTransaction => Refusal::IdleTransaction(limits.idle_transaction),
            Ending::TransactionTimeout => Refusal::TransactionTimeout(limits.transaction),
            Ending::ClientIdle => Refusal::ClientIdle(limits.client_idle),
        }
    }

    /// Without a server: reads, answers what needs none, until something does.
    fn poll_idle(&mut self, cx: &mut Context<'_>) -> Poll<Wake> {
        if let Some(ending) = self.entry.ending(cx) {
            return Poll::Ready(Wake::Refused(self.refusal(ending)));
        }
        loop {
            let local = match self.local() {
                Ok(local) => local,
                Err(refusal) => return Poll::Ready(Wake::Refused(refusal)),
            };
            match local {
                Local::Work => return Poll::Ready(Wake::Work),
                Local::Wish(asked) => return Poll::Ready(Wake::Wish(asked)),
                Local::Terminate => return Poll::Ready(Wake::Left),
                Local::More => {}
            }
            self.tell_heard();
            if !self.out.is_empty() {
                match self.out.poll_empty(&mut self.io, cx) {
                    // What was heard meanwhile has waited for it.
                    Poll::Ready(Ok(())) => continue,
                    Poll::Ready(Err(_)) => return Poll::Ready(Wake::Left),
                    Poll::Pending => return Poll::Pending,
                }
            }
            if self.worker.is_draining() && self.carry.is_empty() && self.discard == 0 {
                return Poll::Ready(Wake::Drained);
            }
            // The relay has asked just now.
            if std::mem::take(&mut self.still.client) {
                return Poll::Pending;
            }
            match self.poll_read(cx) {
                Poll::Ready(true) => {}
                Poll::Ready(false) => return Poll::Ready(Wake::Left),
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    fn poll_woken(&mut self, cx: &mut Context<'_>) -> Poll<Wake> {
        let wake = self.poll_idle(cx);
        if wake.is_ready() {
            self.still = Still::default();
        }
        wake
    }

    /// Reads once; zero bytes are the end of the stream. Only the client's task may ask.
    pub fn ask(&mut self, cx: &mut Context<'_>, room: &mut [u8]) -> Poll<io::Result<usize>> {
        if self.armed && !self.io.may_read() {
            return Poll::Pending;
        }
        let read = self.io.poll_some(cx, room);
        // Without budget the socket was not even looked at, and knows nothing of this task.
        self.armed = read.is_pending() && coop::has_budget_remaining();
        read
    }

    /// Reads into the carry; `false`: the client is gone.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        let worker = Rc::clone(&self.worker);
        let mut scratch = worker.scratch.borrow_mut();
        let room = SCRATCH.saturating_sub(self.carry.len());
        let room = scratch.read.get_mut(..room).unwrap_or_default();
        match self.ask(cx, room) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Err(_)) => Poll::Ready(false),
            Poll::Ready(Ok(count)) => {
                let bytes = room.get(..count).unwrap_or_default();
                add(&self.pool.meters.totals.received, bytes.len() as u64);
                if self.carry.capacity() == 0 {
                    self.carry = self.worker.spare();
                }
                self.carry.extend_from_slice(bytes);
                Poll::Ready(!bytes.is_empty())
            }
        }
    }

    /// Deals with the messages at the front that need no server.
    fn local(&mut self) -> Result<Local, Refusal> {
        let carry = std::mem::take(&mut self.carry);
        let mut rest = carry.as_slice();
        let outcome = loop {
            let gone = self.discard.min(rest.len());
            self.discard -= gone;
            rest = rest.get(gone..).unwrap_or_default();
            match frame::next(rest, frame::LONGEST)? {
                Found::Nothing => break Local::More,
                Found::Whole(frame) => match self.alone(frame, rest)? {
                    Some(local) => break local,
                    None => rest = rest.get(frame.raw.len()..).unwrap_or_default(),
                },
                Found::Partial(head, _) if head.total() <= WHOLE => break Local::More,
                // The data of a COPY that has failed already (manual, "COPY Operations").
                Found::Partial(head, _) if head.tag == tag::COPY_DATA => {
                    self.discard = head.total();
                }
                Found::Partial(..) => break Local::Work,
            }
        };
        self.carry = if rest.len() == carry.len() { carry } else { rest.to_vec() };
        Ok(outcome)
    }

    /// Answers one message, at the front of `all`, without a server; `Some`: it cannot.
    fn alone(&mut self, frame: Frame<'_>, all: &[u8]) -> Result<Option<Local>, Refusal> {
        match frame.tag {
            tag::TERMINATE => return Ok(Some(Local::Terminate)),
            tag::SYNC => self.out.fill(|out| backend::put_ready(out, Status::Idle)),
            tag::FLUSH | tag::COPY_DATA | tag::COPY_DONE | tag::COPY_FAIL => {}
            tag::QUERY if wish::may_be(frame.body) => {
                let asked = self.wish(frame);
                return Ok(Some(asked.map_or(Local::Work, |it| Local::Wish(Box::new(it)))));
            }
            tag::PARSE | tag::BIND if asked::may_begin(frame, &self.memory.names) => {
                return Ok(Some(self.piece(all)));
            }
            tag::CLOSE if self.rules().mode != topology::pool::PoolMode::Session => {
                match frontend::subject(frame.body)? {
                    (Subject::Statement, name) if !name.is_empty() => {
                        self.memory.names.remove(name);
                        self.out.fill(|out| {
                            backend::put_empty(out, backend::tag::CLOSE_COMPLETE);
                        });
                    }
                    _ => return Ok(Some(Local::Work)),
                }
            }
            _ => return Ok(Some(Local::Work)),
        }
        Ok(None)
    }

    /// Reads what comes next while the server works; `false`: the client is gone.
    pub fn read_ahead(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        while self.carry.len() < SCRATCH {
            if !std::task::ready!(self.poll_read(cx)) {
                return Poll::Ready(false);
            }
        }
        Poll::Pending
    }
}

/// What the messages at the front need.
enum Local {
    /// A server.
    Work,
    /// The pool's ear.
    Wish(Box<Asked>),
    /// More bytes.
    More,
    /// Nothing: the client says goodbye.
    Terminate,
}

#[cfg(test)]
mod tests {
    fn room<A, B, F>(_: impl Fn(A, B) -> F) -> usize {
        size_of::<F>()
    }

    /// P1, P2: what every idle client keeps is small; a wait that is rare belongs into a box.
    #[test]
    fn an_idle_client_needs_little_room() {
        assert!(room(super::welcome) <= 288);
    }
}
