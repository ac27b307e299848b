//! Where a client's next piece goes: to its primary or to a replica. Not for what texts ask for: that is `route`. Part
//! of the client's session.
//!
//! Invariant: who has written reads from a replica only if that has it.

use std::rc::Rc;

use tokio::time::Instant;
use topology::pool::Reads;

use super::Client;
use crate::family::{Family, Membership, Role};
use crate::relay::Trial;
use crate::route::{self, Way};

impl Client {
    /// Decides whether the messages in the carry go to the primary or to a replica; with a trial where
    /// the primary is asked if a replica cannot do it.
    pub(super) fn choose_pool(&mut self) -> Option<Box<Trial>> {
        if !Rc::ptr_eq(&self.pool, &self.home) {
            self.pool = Rc::clone(&self.home);
        }
        self.memory.stepwise = false;
        let in_vain = std::mem::take(&mut self.in_vain);
        if in_vain {
            return None;
        }
        self.way = None;
        let membership = self.home.membership()?;
        if membership.role == Role::Replica {
            return None;
        }
        let family = &membership.family;
        let way = self.way(&membership);
        self.way = Some(way);
        self.memory.stepwise = !matches!(way, Way::Primary | Way::Session);
        let fresh = || self.finds_its_writes(family);
        let goes = match way {
            Way::Primary | Way::Harmless => false,
            Way::Asked | Way::Session => family.has_fit(),
            Way::Replica | Way::Trial(_) => family.has_fit() && fresh(),
        };
        if goes && let Some(replicas) = self.worker.pool(&membership.alias, &self.home.user().name)
        {
            replicas.whole.caught.follow(&self.home.whole.caught);
            self.pool = replicas;
        } else if way == Way::Replica || way == Way::Asked {
            // The whole transaction runs on the primary, and may well write there.
            self.memory.stepwise = false;
        }
        match way {
            Way::Trial(length) if goes => {
                self.carry.get(..length).map(|it| Trial::new(it.to_vec()))
            }
            _ => None,
        }
    }

    /// Whether whatever replica it reads from has what it has written.
    fn finds_its_writes(&self, family: &Family) -> bool {
        self.written.is_none_or(|since| family.is_fresh(since))
    }

    /// Whether it has a replica's server by a choice that would be another one now.
    pub(super) fn is_overtaken(&self) -> bool {
        let chosen = matches!(self.way, Some(Way::Replica | Way::Trial(_)));
        let away = chosen && !Rc::ptr_eq(&self.pool, &self.home);
        away && self.home.membership().is_some_and(|it| !self.finds_its_writes(&it.family))
    }

    fn way(&self, membership: &Membership) -> Way {
        let functions = membership.family.functions();
        let way = route::judge(&self.carry, &self.memory, membership.reads, &functions);
        let stays = self.rules().mode == topology::pool::PoolMode::Session;
        route::kept(way, stays)
    }

    /// After a server that takes writes, the client's reads must find what it wrote.
    pub(super) fn note_writes(&mut self) {
        let wrote = Rc::ptr_eq(&self.pool, &self.home) && !self.memory.stepwise;
        if wrote && self.home.membership().is_some_and(|one| one.reads > Reads::Asked) {
            self.written = Some(Instant::now());
        }
    }
}
