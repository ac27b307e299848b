//! LISTEN for many clients over one server connection per pool: its ear. Here is what clients hold of it and how
//! they speak to it. Not for the connection itself (`line`) and not for LISTEN on a client's own server.
//! Used by clients that are idle; the pool owns it.
//!
//! Invariant: a client hears the channels that it listens on, in their order, and no other; what waits for a
//! client that does not read is bounded.

pub(crate) mod far;
mod line;
pub mod wish;

use std::cell::{Cell, RefCell};
use std::collections::{HashSet, VecDeque};
use std::rc::Rc;

use tokio::sync::{mpsc, oneshot};

use crate::client::entry::{Ending, Entry};
use crate::fatal::Refusal;
use crate::pool::Pool;
use far::{Ends, Far, Reply, Told};
use wish::Channel;

/// Bytes of notifications that may wait for one client.
const MOST_HEARD: usize = 4 << 20;
/// Channels of one pool.
const MOST_CHANNELS: usize = 10_000;

/// What one client listens on, and what it was not told yet.
pub struct Hearing {
    who: Who,
    channels: RefCell<HashSet<Channel>>,
    heard: RefCell<Heard>,
}

/// Who hears.
enum Who {
    /// A client of this shard.
    Here(Rc<Entry>),
    /// One of another.
    There(Far),
}

/// What waits for a client.
#[derive(Default)]
struct Heard {
    /// Whole messages, and the channels that they came by: without one, a warning of ours.
    messages: VecDeque<(Option<Channel>, Rc<[u8]>)>,
    /// What they take.
    bytes: usize,
}

/// Bytes that a client is told at once, or one message.
const AT_ONCE: usize = 64 << 10;
/// Around each message that waits.
const AROUND: usize = 64;
/// Before the texts of a notification: its tag, its length and a process.
const HEAD: usize = 9;

impl Hearing {
    fn of(who: Who) -> Self {
        Self { who, channels: RefCell::default(), heard: RefCell::default() }
    }

    /// A client of another shard.
    fn there(far: Far) -> Self {
        Self::of(Who::There(far))
    }

    fn end(&self, ending: Ending) {
        match &self.who {
            Who::Here(entry) => entry.end(ending),
            // There is only this one for who hears.
            Who::There(far) => {
                far.say(Told::Deaf);
            }
        }
    }

    /// A message for a channel; for nobody, if it has stopped listening meanwhile.
    fn tell(&self, channel: &Channel, message: &Rc<[u8]>) {
        if self.channels.borrow().contains(channel) {
            self.keep(Some(Rc::clone(channel)), message);
        }
    }

    /// A message for whoever listens at all.
    fn note(&self, message: &Rc<[u8]>) {
        self.keep(None, message);
    }

    fn keep(&self, channel: Option<Channel>, message: &Rc<[u8]>) {
        let entry = match &self.who {
            Who::Here(entry) => entry,
            Who::There(far) => {
                let channel = channel.map(|channel| channel.to_string());
                // Who has gone hears nothing.
                far.say(Told::Heard(channel, message.to_vec()));
                return;
            }
        };
        match self.heard.borrow_mut().keep(channel, message) {
            true => entry.wake(),
            false => entry.end(Ending::Deaf),
        }
    }
}

impl Heard {
    /// One more; `false`: too much waits already.
    fn keep(&mut self, channel: Option<Channel>, message: &Rc<[u8]>) -> bool {
        let bytes = self.bytes + message.len() + AROUND;
        let fits = bytes <= MOST_HEARD;
        if fits {
            self.bytes = bytes;
            self.messages.push_back((channel, Rc::clone(message)));
        }
        fits
    }

    /// What waits of a channel is not told any more; `None`: of all.
    fn forget(&mut self, channel: Option<&Channel>) {
        self.messages.retain(|(by, _)| match channel {
            Some(_) => by.as_ref() != channel,
            None => by.is_none(),
        });
        self.bytes = self.messages.iter().map(|(_, message)| message.len() + AROUND).sum();
    }

    /// The first one, if it is not too much at once.
    fn next(&mut self, room: usize) -> Option<Rc<[u8]>> {
        let fits = self.messages.front().is_some_and(|(_, message)| message.len() <= room);
        let (_, message) = if fits { self.messages.pop_front()? } else { return None };
        self.bytes -= message.len() + AROUND;
        Some(message)
    }
}

/// A client's hold on the ear of its pool; it stops listening when it is dropped.
pub struct Listening {
    pool: Rc<Pool>,
    hearing: Rc<Hearing>,
    /// The pool's home, if that is elsewhere, and the client's number there.
    home: Option<(usize, u64)>,
}

impl Listening {
    /// A client that listens on nothing yet.
    pub fn new(pool: &Rc<Pool>, entry: &Rc<Entry>) -> Self {
        let hearing = Rc::new(Hearing::of(Who::Here(Rc::clone(entry))));
        let home = far::home(pool).map(|home| (home, pool.ear.ends.number()));
        Self { pool: Rc::clone(pool), hearing, home }
    }

    /// Appends what it is to be told now: whole messages, as many as it may be told at once. `false`: it
    /// would not read one of them as it was meant, as its encoding is another than ours.
    pub fn tell(&self, is_read_alike: impl Fn() -> bool, out: &mut Vec<u8>) -> bool {
        let mut heard = self.hearing.heard.borrow_mut();
        let room = |out: &Vec<u8>| match out.is_empty() {
            true => usize::MAX,
            false => AT_ONCE.saturating_sub(out.len()),
        };
        while let Some(message) = heard.next(room(out)) {
            let plain = || message.get(HEAD..).is_none_or(<[u8]>::is_ascii);
            if !plain() && !is_read_alike() {
                return false;
            }
            out.extend_from_slice(&message);
        }
        true
    }

    /// Whether it listens on a channel.
    pub fn has(&self, channel: &[u8]) -> bool {
        let channel = std::str::from_utf8(channel).unwrap_or_default();
        self.hearing.channels.borrow().contains(channel)
    }

    /// On how many channels.
    pub fn len(&self) -> usize {
        self.hearing.channels.borrow().len()
    }

    /// Whether it listens on nothing.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Asks for a channel; the answer comes when the server listens on it. What it says from then on is heard.
    pub fn listen(&self, channel: Channel) -> oneshot::Receiver<Answer> {
        let (to, from) = oneshot::channel();
        if let Some((home, id)) = self.home {
            let ends = &self.pool.ear.ends;
            ends.listen((&self.pool, home), (id, &self.hearing), (channel, to));
            return from;
        }
        let (hearing, to) = (Rc::clone(&self.hearing), Reply::Here(to));
        self.pool.ear.send(&self.pool, Order::Listen { channel, hearing, to });
        from
    }

    /// Stops listening on one channel, or on all.
    pub fn unlisten(&self, channel: Option<&Channel>) {
        let mut heard = self.hearing.heard.borrow_mut();
        let mut channels = self.hearing.channels.borrow_mut();
        let mut forget = |channel: Channel| match self.home {
            Some((home, id)) => {
                self.pool.ear.ends.forget((&self.pool, home), id, Some(&channel));
            }
            None => {
                let hearing = Rc::clone(&self.hearing);
                self.pool.ear.tell(Order::Forget { channel, hearing });
            }
        };
        match channel {
            Some(channel) => drop(channels.take(channel).map(|channel| {
                heard.forget(Some(&channel));
                forget(channel);
            })),
            None => {
                heard.forget(None);
                channels.drain().for_each(&mut forget);
            }
        }
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.unlisten(None);
        if let Some((home, id)) = self.home {
            self.pool.ear.ends.forget((&self.pool, home), id, None);
        }
    }
}

/// What became of a wish to listen.
pub enum Answer {
    /// The server listens.
    Listens,
    /// The server has refused it, in these words: the body of its ErrorResponse.
    Refused(Vec<u8>),
    /// It cannot be.
    Failed(Refusal),
    /// There is no room for a connection that listens: the client needs a server of its own.
    NoRoom,
}

/// What clients tell the ear.
enum Order {
    Listen { channel: Channel, hearing: Rc<Hearing>, to: Reply },
    Forget { channel: Channel, hearing: Rc<Hearing> },
}

/// Where a pool's clients leave their wishes.
#[derive(Default)]
pub struct Ear {
    orders: RefCell<Option<mpsc::UnboundedSender<Order>>>,
    /// Whether it has a server connection now.
    connected: Cell<bool>,
    ends: Ends,
}

impl Ear {
    /// Whether it has a server connection, or is about to.
    pub fn is_connected(&self) -> bool {
        self.connected.get()
    }

    /// What the pool's home says to a client here.
    pub(crate) fn told(&self, id: u64, told: Told) {
        self.ends.told(id, told);
    }

    /// The pool has left the configuration: it hears for nobody elsewhere any more.
    pub(crate) fn close(&self, pool: &Rc<Pool>) {
        self.ends.close(pool);
    }

    fn send(&self, pool: &Rc<Pool>, order: Order) {
        let mut orders = self.orders.borrow_mut();
        let sender = orders.get_or_insert_with(|| {
            let (sender, received) = mpsc::unbounded_channel();
            tokio::task::spawn_local(line::run(Rc::clone(pool), received));
            sender
        });
        // It takes the sender away before it ends.
        let _ended = sender.send(order);
    }

    /// As `send`, but nobody who has ended is woken for it.
    fn tell(&self, order: Order) {
        if let Some(sender) = &*self.orders.borrow() {
            let _ended = sender.send(order);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// P3: what waits for a client is not told any more once it has stopped listening; its order stays.
    #[test]
    fn what_is_not_listened_on_is_not_told() {
        let channel = |name: &str| Some(Channel::from(name));
        let message = |text: &str| Rc::<[u8]>::from(text.as_bytes());
        let mut heard = Heard::default();
        for (by, text) in [("a", "1"), ("b", "2"), ("a", "3")] {
            assert!(heard.keep(channel(by), &message(text)));
        }
        assert!(heard.keep(None, &message("warned")));
        heard.forget(channel("a").as_ref());
        let texts = |heard: &Heard| -> Vec<Rc<[u8]>> {
            heard.messages.iter().map(|(_, text)| Rc::clone(text)).collect()
        };
        assert_eq!(texts(&heard), [message("2"), message("warned")]);
        assert_eq!(heard.bytes, 2 * AROUND + "2warned".len());
        heard.forget(None);
        assert_eq!(texts(&heard), [message("warned")]);
        assert!(!heard.keep(None, &vec![0; MOST_HEARD].into()));
    }
}
