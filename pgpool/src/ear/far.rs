//! LISTEN over the shards of a pool: one of them, at the pool's home, has the connection that listens; clients of the
//! others hear by way of it. Not for what either side does with what it hears: that is `ear` and `line`. Called by
//! clients of other shards and for what shards say to each other.
//!
//! Invariant: what the home says to one client arrives in the order in which it was said, so that nothing is heard of
//! a channel before its LISTEN is answered.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::{Rc, Weak};
use std::sync::Arc;

use tokio::sync::oneshot;

use super::wish::Channel;
use super::{Answer, Hearing, Order, line};
use crate::client::entry::Ending;
use crate::neighbours;
use crate::pool::Pool;
use crate::pool::lending::Says;
use crate::pool::whole::Whole;
use crate::worker::Worker;

/// What a shard says to the pool's home; the first number is its worker, the second its client.
pub enum Ask {
    /// It wants to hear a channel.
    Listen(String),
    /// It does not any more.
    Forget(String),
    /// It has gone.
    Gone,
}

/// What the home says to a client of another shard.
pub enum Told {
    /// What became of its wish.
    Answer(String, Answer),
    /// A message, and the channel that it came by.
    Heard(Option<String>, Vec<u8>),
    /// It would wait for ever for what nobody hears.
    Deaf,
}

/// A client of another shard, as the home sees it.
#[derive(Clone)]
pub(super) struct Far {
    pool: Weak<Pool>,
    at: usize,
    id: u64,
    gone: Rc<Cell<bool>>,
}

impl Far {
    /// Says it something; `false`: it has gone.
    pub(super) fn say(&self, told: Told) -> bool {
        let Some(pool) = self.pool.upgrade().filter(|_| !self.gone.get()) else { return false };
        pool.say(self.at, Says::Told(self.id, told)).is_ok()
    }

    pub(super) fn is_gone(&self) -> bool {
        self.gone.get()
    }
}

/// Who waits for an answer.
pub(super) enum Reply {
    /// A client of this shard.
    Here(oneshot::Sender<Answer>),
    /// One of another, which has named this channel.
    There(Far, String),
}

impl Reply {
    /// Whether it was still there.
    pub(super) fn send(self, answer: Answer) -> bool {
        match self {
            Self::Here(to) => to.send(answer).is_ok(),
            Self::There(far, channel) => far.say(Told::Answer(channel, answer)),
        }
    }

    pub(super) fn is_closed(&self) -> bool {
        match self {
            Self::Here(to) => to.is_closed(),
            Self::There(far, _) => far.is_gone(),
        }
    }
}

/// Both sides of it, for one shard.
#[derive(Default)]
pub(super) struct Ends {
    /// At the home: who hears from elsewhere, by worker and number.
    far: RefCell<HashMap<(usize, u64), Heard>>,
    /// Elsewhere: who hears by way of the home.
    near: RefCell<HashMap<u64, Near>>,
    next: Cell<u64>,
}

/// What the home tells, and to whom.
type Heard = (Rc<Hearing>, Far);

struct Near {
    hearing: Weak<Hearing>,
    waiting: Vec<(Channel, oneshot::Sender<Answer>)>,
}

/// The worker where a pool's connection listens, if it is another one.
pub(super) fn home(pool: &Pool) -> Option<usize> {
    let worker = pool.worker.upgrade()?;
    let (database, role) = &pool.whole.key;
    let home = neighbours::home(&worker.snapshot(), database, role, worker.peers.len());
    (home != worker.id.0 && home < worker.peers.len()).then_some(home)
}

impl Ends {
    /// A number for a client that hears by way of the home.
    pub(super) fn number(&self) -> u64 {
        self.next.replace(self.next.get() + 1)
    }

    /// Asks the home for a channel.
    pub(super) fn listen(
        &self,
        (pool, home): (&Pool, usize),
        (id, hearing): (u64, &Rc<Hearing>),
        (channel, to): (Channel, oneshot::Sender<Answer>),
    ) {
        let says = Says::Ear(pool.seat(), id, Ask::Listen(channel.to_string()));
        let mut near = self.near.borrow_mut();
        let own = near
            .entry(id)
            .or_insert_with(|| Near { hearing: Rc::downgrade(hearing), waiting: Vec::new() });
        own.waiting.push((channel, to));
        if pool.say(home, says).is_err() {
            // That worker has ended: a server of its own does it.
            own.waiting.drain(..).for_each(|(_, to)| drop(to.send(Answer::NoRoom)));
        }
    }

    /// Tells the home that a channel is not wanted any more, or that the client has gone.
    pub(super) fn forget(&self, (pool, home): (&Pool, usize), id: u64, channel: Option<&Channel>) {
        let ask = match channel {
            Some(channel) => Ask::Forget(channel.to_string()),
            None => Ask::Gone,
        };
        if channel.is_none() && self.near.borrow_mut().remove(&id).is_none() {
            return;
        }
        // It has nobody any more once it has ended.
        let _ended = pool.say(home, Says::Ear(pool.seat(), id, ask));
    }

    /// At a client's shard: what the home says to it.
    pub(super) fn told(&self, id: u64, told: Told) {
        let (hearing, waiting) = {
            let mut near = self.near.borrow_mut();
            let Some(own) = near.get_mut(&id) else { return };
            let Some(hearing) = own.hearing.upgrade() else { return };
            let at = match &told {
                Told::Answer(channel, _) => {
                    own.waiting.iter().position(|(waits, _)| **waits == **channel)
                }
                _ => None,
            };
            (hearing, at.map(|at| own.waiting.remove(at)))
        };
        match (told, waiting) {
            (Told::Answer(_, Answer::Listens), Some((channel, to))) => {
                line::answer(&hearing, &channel, Reply::Here(to));
            }
            // Who waited may have gone.
            (Told::Answer(_, answer), Some((_, to))) => drop(to.send(answer)),
            (Told::Answer(..), None) => {}
            (Told::Heard(Some(channel), message), _) => {
                hearing.tell(&Rc::from(channel), &Rc::from(message));
            }
            (Told::Heard(None, message), _) => hearing.note(&Rc::from(message)),
            (Told::Deaf, _) => hearing.end(Ending::Deaf),
        }
    }

    /// At the home: what a client of another shard asks for.
    pub(super) fn asked(&self, pool: &Rc<Pool>, (at, id): (usize, u64), ask: Ask) {
        match ask {
            Ask::Listen(channel) => {
                let mut all = self.far.borrow_mut();
                let (hearing, far) = all.entry((at, id)).or_insert_with(|| {
                    let (gone, pool) = (Rc::default(), Rc::downgrade(pool));
                    let far = Far { pool, at, id, gone };
                    (Rc::new(Hearing::there(far.clone())), far)
                });
                let to = Reply::There(far.clone(), channel.clone());
                let (hearing, channel) = (Rc::clone(hearing), Channel::from(channel));
                pool.ear.send(pool, Order::Listen { channel, hearing, to });
            }
            Ask::Forget(channel) => {
                let Some((hearing, _)) = self.far.borrow().get(&(at, id)).cloned() else { return };
                forget(pool, &hearing, Channel::from(channel));
            }
            Ask::Gone => {
                let Some(heard) = self.far.borrow_mut().remove(&(at, id)) else { return };
                leave(pool, &heard);
            }
        }
    }

    /// The pool has left the configuration: what clients of other shards say of it reaches nobody any more.
    pub(super) fn close(&self, pool: &Rc<Pool>) {
        let all = std::mem::take(&mut *self.far.borrow_mut());
        all.values().for_each(|heard| leave(pool, heard));
    }
}

/// A client of another shard hears nothing any more.
fn leave(pool: &Rc<Pool>, (hearing, far): &Heard) {
    far.gone.set(true);
    let all: Vec<_> = hearing.channels.borrow().iter().cloned().collect();
    all.into_iter().for_each(|channel| forget(pool, hearing, channel));
}

fn forget(pool: &Rc<Pool>, hearing: &Rc<Hearing>, channel: Channel) {
    hearing.channels.borrow_mut().remove(&channel);
    pool.ear.tell(Order::Forget { channel, hearing: Rc::clone(hearing) });
}

/// What shards say to each other about it; the home's is made where it is not there yet. One of the same name may be
/// another pool: who asks belongs to one that has left the configuration, and is about to be told so.
pub(crate) fn hear(worker: &Rc<Worker>, whole: &Arc<Whole>, (at, id): (usize, u64), ask: Ask) {
    let (database, role) = &whole.key;
    let made = || worker.pool(database, role).filter(|_| matches!(ask, Ask::Listen(_)));
    let pool = worker.known(&whole.key).or_else(made);
    if let Some(pool) = pool.filter(|pool| Arc::ptr_eq(&pool.whole, whole)) {
        pool.ear.ends.asked(&pool, (at, id), ask);
    }
}
