//! The one server connection that listens for a pool's clients: connected when the first of them wants it, closed
//! after the last, connected anew when it is lost. Not for clients' sides: that is `ear` itself. One task per
//! pool with listeners.
//!
//! Invariant: a channel counts as listened on only after the server has said so on this connection, and clients
//! that may have missed something are told.

use std::collections::{HashMap, HashSet, VecDeque};
use std::rc::Rc;
use std::time::Duration;

use pgpool_wire::backend::{self, tag};
use pgpool_wire::frame::{self, Found};
use pgpool_wire::frontend;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use super::far::Reply;
use super::wish::{self, Channel};
use super::{Answer, Hearing, MOST_CHANNELS, Order};
use crate::client::entry::Ending;
use crate::events::{EarConnected, EarLost};
use crate::fatal::{self, Refusal};
use crate::names::Lead;
use crate::pool::Pool;
use crate::pool::apart::{EarPlaces, Room};
use crate::server;
use crate::server::connect::{Asked, ConnectError, Ready};
use crate::stream::Stream;
use crate::worker::Worker;

/// Between two looks at whether the connection is still what it should be.
const LOOK: Duration = Duration::from_millis(100);
/// Read at a time.
const ROOM: usize = 16 << 10;
/// A payload has at most 8000 bytes.
const LONGEST: u32 = 64 << 10;
/// A connection that nobody needs any more is kept so long.
const LINGERS: Duration = Duration::from_secs(10);
/// A server that takes no goodbye within it gets none.
const LONGEST_GOODBYE: Duration = Duration::from_secs(1);
/// A server that takes nothing for so long is given up.
const LONGEST_WRITE: Duration = Duration::from_secs(5);
/// Statements that may wait for their answers: their texts and answers fit in any socket.
const MOST_DUE: usize = 64;
/// What the server knows it by.
const NAME: &str = "pgpool listen";

/// A channel that somebody wants.
#[derive(Default)]
struct Wanted {
    /// Who hears it.
    hearings: Vec<Rc<Hearing>>,
    /// Who waits for the server's word.
    waiting: Vec<(Rc<Hearing>, Reply)>,
    /// The server listens on this connection.
    listens: bool,
    /// It was told to, by the statement of this number.
    asked: Option<u64>,
}

impl Wanted {
    fn is_unwanted(&self) -> bool {
        self.hearings.is_empty() && self.waiting.is_empty()
    }
}

/// A connection that listens.
struct Line {
    io: Stream,
    input: Vec<u8>,
    /// Channels and numbers of LISTENs that are not answered yet; `None`: it was UNLISTEN.
    due: VecDeque<Option<(Channel, u64)>>,
    /// Statements sent.
    sent: u64,
    /// What the server has said against the statement that it answers.
    refused: Option<Vec<u8>>,
    /// After which `RECONNECT` it was made.
    generation: u64,
    /// The name's address that it rests on.
    lead: Lead,
    member: Option<usize>,
    places: EarPlaces,
}

struct Task {
    pool: Rc<Pool>,
    channels: HashMap<Channel, Wanted>,
    line: Option<Line>,
    /// Channels of which the server is to be told, LISTEN or UNLISTEN.
    queue: VecDeque<Channel>,
    /// Places of a connection that was lost, while somebody listens: nobody takes them meanwhile.
    places: Option<EarPlaces>,
    /// Since when nobody listens.
    unused: Option<Instant>,
    /// A connection was lost, and its clients were not told yet.
    missed: bool,
}

/// Listens until nobody wants it any more.
pub(super) async fn run(pool: Rc<Pool>, mut orders: mpsc::UnboundedReceiver<Order>) {
    let mut task = Task {
        pool,
        channels: HashMap::new(),
        line: None,
        queue: VecDeque::new(),
        places: None,
        unused: None,
        missed: false,
    };
    let mut looks = interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        while let Ok(order) = orders.try_recv() {
            task.take(order);
        }
        let Some(worker) = task.pool.worker.upgrade() else { return };
        if task.is_over() {
            task.hang_up().await;
            if let Ok(order) = orders.try_recv() {
                task.take(order);
                continue;
            }
            // Nobody can leave an order between the look above and this.
            task.pool.ear.orders.take();
            return;
        }
        if task.line.is_none() {
            task.prune();
            task.connect(&worker).await;
            drop(worker);
            if task.line.is_none() && !task.channels.is_empty() {
                looks.tick().await;
            }
            continue;
        }
        drop(worker);
        if let Err(cause) = task.turn(&mut orders, &mut looks).await {
            task.lose(cause).await;
        }
    }
}

impl Task {
    /// One thing that happens while there is a connection.
    async fn turn(
        &mut self,
        orders: &mut mpsc::UnboundedReceiver<Order>,
        looks: &mut tokio::time::Interval,
    ) -> Result<(), &'static str> {
        let out = self.next_statements();
        let Some(line) = &mut self.line else { return Ok(()) };
        if !out.is_empty() {
            // So little that the socket has room for it, even if the server does not read just now.
            let written = async {
                line.io.write_all(&out).await?;
                line.io.flush().await
            };
            let written = timeout(LONGEST_WRITE, written).await;
            written.ok().and_then(Result::ok).ok_or("the server is gone")?;
        }
        line.input.reserve(ROOM);
        tokio::select! {
            order = orders.recv() => {
                if let Some(order) = order {
                    self.take(order);
                }
                Ok(())
            }
            read = line.io.read_buf(&mut line.input) => match read {
                Ok(count) if count > 0 => self.read(),
                _ => Err("the server closed the connection"),
            },
            _ = looks.tick() => {
                self.prune();
                self.look()
            }
        }
    }

    /// Nobody listens, and has not for a while: who listens again soon finds the connection there.
    fn is_over(&mut self) -> bool {
        if !self.channels.is_empty() {
            self.unused = None;
            return false;
        }
        let since = *self.unused.get_or_insert_with(Instant::now);
        self.line.is_none() || since.elapsed() >= LINGERS
    }

    fn look(&self) -> Result<(), &'static str> {
        let Some(line) = &self.line else { return Ok(()) };
        if self.pool.closes_apart() {
            return Err("the pool is paused");
        }
        let stays = self.pool.is_listened_on(line.member, line.generation) && line.lead.holds();
        if stays { Ok(()) } else { Err("its server is to be left") }
    }

    fn take(&mut self, order: Order) {
        match order {
            Order::Listen { channel, hearing, to } => self.listen(&channel, hearing, to),
            Order::Forget { channel, hearing } => self.forget(&channel, &hearing),
        }
    }

    fn listen(&mut self, channel: &Channel, hearing: Rc<Hearing>, to: Reply) {
        if !self.channels.contains_key(channel) && self.channels.len() >= MOST_CHANNELS {
            let refusal = Refusal::TooManyChannels(u32::try_from(MOST_CHANNELS).unwrap_or(0));
            to.send(Answer::Failed(refusal));
            return;
        }
        let wanted = self.channels.entry(Rc::clone(channel)).or_default();
        if wanted.listens {
            if answer(&hearing, channel, to) {
                wanted.hearings.push(hearing);
            }
            return;
        }
        wanted.waiting.push((hearing, to));
        if self.line.is_some() && wanted.asked.is_none() {
            self.queue.push_back(Rc::clone(channel));
        }
    }

    /// What the server is to be told next, LISTEN or UNLISTEN as things stand now: only so much that neither waits
    /// for the other to read.
    fn next_statements(&mut self) -> Vec<u8> {
        let mut out = Vec::new();
        let Some(line) = &mut self.line else { return out };
        while line.due.len() < MOST_DUE
            && let Some(channel) = self.queue.pop_front()
        {
            let Some(wanted) = self.channels.get_mut(&channel) else {
                line.due.push_back(None);
                frontend::put_query(&mut out, wish::statement("UNLISTEN", &channel).as_bytes());
                continue;
            };
            // It may be there twice: wanted anew before the server was told otherwise.
            if wanted.asked.is_none() {
                line.sent += 1;
                wanted.asked = Some(line.sent);
                frontend::put_query(&mut out, wish::statement("LISTEN", &channel).as_bytes());
                line.due.push_back(Some((channel, line.sent)));
            }
        }
        out
    }

    /// Whoever has gone while it waited is not waited for.
    fn prune(&mut self) {
        for wanted in self.channels.values_mut() {
            wanted.waiting.retain(|(_, to)| !to.is_closed());
        }
        let unwanted = self.channels.iter().filter(|(_, wanted)| wanted.is_unwanted());
        let unwanted: Vec<Channel> = unwanted.map(|(channel, _)| Rc::clone(channel)).collect();
        unwanted.iter().for_each(|channel| self.tidy(channel));
    }

    fn forget(&mut self, channel: &Channel, hearing: &Rc<Hearing>) {
        let Some(wanted) = self.channels.get_mut(channel) else { return };
        wanted.hearings.retain(|other| !Rc::ptr_eq(other, hearing));
        self.tidy(channel);
    }

    /// A channel that nobody wants any more is ended.
    fn tidy(&mut self, channel: &Channel) {
        let unwanted = self.channels.get(channel).is_some_and(Wanted::is_unwanted);
        let Some(wanted) = unwanted.then(|| self.channels.remove(channel)).flatten() else {
            return;
        };
        if self.line.is_some() && wanted.asked.is_some() {
            self.queue.push_back(Rc::clone(channel));
        }
    }

    async fn connect(&mut self, worker: &Rc<Worker>) {
        let pool = Rc::clone(&self.pool);
        let fresh = self.channels.values().all(|wanted| wanted.hearings.is_empty());
        if fresh {
            self.places = None;
        }
        if self.channels.is_empty() || pool.is_paused() || !pool.may_connect(Instant::now()) {
            return;
        }
        let places = match self.places.take().map_or_else(|| pool.room_to_listen(), Room::Here) {
            Room::Here(places) => places,
            Room::Never => return self.fail(|| Answer::NoRoom),
            Room::Later => return,
        };
        // `PAUSE` waits for it from now on.
        pool.ear.connected.set(true);
        let generation = pool.generation();
        let name = [("application_name".to_owned(), NAME.to_owned())];
        let asked = Asked { parameters: &name, ..Asked::default() };
        let outcome = pool.try_each(worker, asked).await;
        pool.tried(worker, outcome.is_ok());
        match outcome {
            Ok((address, ready)) => {
                let member = pool.member(&address);
                self.begin(ready, (generation, member), places);
                if pool.closes_apart() {
                    return self.hang_up().await;
                }
                worker.observer.emit(EarConnected {
                    database: &pool.database().name,
                    user: &pool.user().name,
                    address: &address,
                    channels: self.channels.len(),
                });
            }
            Err(fault) => {
                pool.ear.connected.set(false);
                self.places = (!fresh).then_some(places);
                worker.count_error();
                if fresh {
                    self.unavailable(&fault);
                }
            }
        }
    }

    fn unavailable(&mut self, fault: &ConnectError) {
        let refusal = self.pool.unavailable(fault);
        self.fail(|| Answer::Failed(refusal.clone()));
    }

    fn begin(&mut self, ready: Ready, made: (u64, Option<usize>), places: EarPlaces) {
        let (generation, member) = made;
        self.line = Some(Line {
            io: ready.io,
            lead: ready.lead,
            input: Vec::new(),
            due: VecDeque::new(),
            sent: 0,
            refused: None,
            generation,
            member,
            places,
        });
        self.queue = self.channels.keys().cloned().collect();
    }

    /// Nobody can be served: those who wait are told.
    fn fail(&mut self, answer: impl Fn() -> Answer) {
        for wanted in self.channels.values_mut() {
            for (_, to) in wanted.waiting.drain(..) {
                // It may have gone.
                to.send(answer());
            }
        }
        self.channels.retain(|_, wanted| !wanted.is_unwanted());
    }

    /// The connection is lost: what is said until there is another one is heard by nobody.
    async fn lose(&mut self, cause: &'static str) {
        if !std::mem::replace(&mut self.missed, true) {
            self.warn(LOST);
        }
        self.hang_up().await;
        let Some(worker) = self.pool.worker.upgrade() else { return };
        worker.observer.emit(EarLost {
            database: &self.pool.database().name,
            user: &self.pool.user().name,
            cause,
            channels: self.channels.len(),
        });
    }

    /// Its places are free, and `PAUSE` is answered, when PostgreSQL has let it go as well.
    async fn hang_up(&mut self) {
        if let Some(line) = self.line.take() {
            let Line { mut io, places, .. } = line;
            let _slow = timeout(LONGEST_GOODBYE, server::farewell(&mut io)).await;
            self.places = Some(places);
        }
        for wanted in self.channels.values_mut() {
            (wanted.listens, wanted.asked) = (false, None);
        }
        self.pool.ear.connected.set(false);
    }

    fn read(&mut self) -> Result<(), &'static str> {
        let Some(line) = &mut self.line else { return Ok(()) };
        let mut input = std::mem::take(&mut line.input);
        let mut rest = input.as_slice();
        loop {
            let found = frame::next(rest, LONGEST).map_err(|_| "the server broke the protocol")?;
            let Found::Whole(frame) = found else { break };
            rest = rest.get(frame.raw.len()..).unwrap_or_default();
            match frame.tag {
                tag::NOTIFICATION => self.notify(frame.body, frame.raw)?,
                tag::READY => self.settle()?,
                tag::ERROR => {
                    let body = frame.body.to_vec();
                    if backend::Fields::new(&body).is_fatal() {
                        return Err("the server ended the connection");
                    }
                    if let Some(line) = &mut self.line {
                        line.refused = Some(body);
                    }
                }
                tag::COMMAND_COMPLETE | tag::NOTICE | tag::PARAMETER_STATUS => {}
                _ => return Err("the server broke the protocol"),
            }
        }
        let used = input.len() - rest.len();
        input.drain(..used);
        if let Some(line) = &mut self.line {
            line.input = input;
        }
        Ok(())
    }

    fn notify(&mut self, body: &[u8], raw: &[u8]) -> Result<(), &'static str> {
        let channel = backend::notification(body).map_err(|_| "the server broke the protocol")?;
        let channel = String::from_utf8_lossy(channel);
        let Some((channel, wanted)) = self.channels.get_key_value(&*channel) else { return Ok(()) };
        let message = Rc::from(raw);
        for hearing in &wanted.hearings {
            hearing.tell(channel, &message);
        }
        Ok(())
    }

    /// A statement was answered.
    fn settle(&mut self) -> Result<(), &'static str> {
        let Some(line) = &mut self.line else { return Ok(()) };
        let due = line.due.pop_front().ok_or("the server broke the protocol")?;
        let last = line.due.is_empty() && self.queue.is_empty();
        let refused = line.refused.take();
        // It may be unwanted, or wanted anew, since.
        let asked = |(channel, sent): &(Channel, u64)| {
            self.channels.get(channel).is_some_and(|wanted| wanted.asked == Some(*sent))
        };
        if let Some((channel, _)) = due.filter(asked) {
            match refused {
                None => self.listens(&channel),
                Some(body) => self.refused(&channel, &body),
            }
        }
        if last && std::mem::take(&mut self.missed) {
            self.warn(MISSED);
        }
        Ok(())
    }

    /// Everybody who listens is warned once.
    fn warn(&self, text: &str) {
        let mut notice = Vec::new();
        fatal::put_warning(&mut notice, text);
        let notice = Rc::from(notice);
        let mut told = HashSet::new();
        for hearing in self.channels.values().flat_map(|wanted| &wanted.hearings) {
            if told.insert(Rc::as_ptr(hearing)) {
                hearing.note(&notice);
            }
        }
    }

    fn listens(&mut self, channel: &Channel) {
        let Some(wanted) = self.channels.get_mut(channel) else { return };
        wanted.listens = true;
        for (hearing, to) in wanted.waiting.drain(..) {
            if answer(&hearing, channel, to) {
                wanted.hearings.push(hearing);
            }
        }
        self.tidy(channel);
    }

    /// The server does not listen: those who wait are told why, those who listened before are ended, as they
    /// would wait for ever.
    fn refused(&mut self, channel: &Channel, body: &[u8]) {
        let Some(wanted) = self.channels.remove(channel) else { return };
        wanted.hearings.iter().for_each(|hearing| hearing.end(Ending::Deaf));
        for (_, to) in wanted.waiting {
            to.send(Answer::Refused(body.to_vec()));
        }
    }
}

/// Tells who waits; whether it is still there. From this moment on it hears the channel.
pub(super) fn answer(hearing: &Hearing, channel: &Channel, to: Reply) -> bool {
    let told = to.send(Answer::Listens);
    if told {
        hearing.channels.borrow_mut().insert(Rc::clone(channel));
    }
    told
}

/// What clients are told who hear nothing from now on.
const LOST: &str =
    "notifications are missed from now on: the connection that listens for this client was lost";
/// What clients are told who may have missed something.
const MISSED: &str =
    "notifications may have been missed: the connection that listens for this client was made anew";
