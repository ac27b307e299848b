//! A primary and its replicas as one: who is the primary now, which replicas are fit for reads, and
//! what a replica has of what was written. Not for connections: `watch` asks the servers and reports
//! here, pools go by it. One per database with replicas, shared by all workers and kept over reloads.
//!
//! Invariant: the timeline never goes back. A server on an older one than was ever seen is no primary
//! again, whatever it says of itself.

pub mod marks;
pub mod watch;

use std::collections::{HashSet, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use topology::pool::{Reads, Replication, ServerAddress};

use marks::{Mark, Marks};

/// Positions of the primary that are remembered.
const MOST_SAMPLES: usize = 1024;

/// Names of functions that change nothing, by the server's own catalogue.
pub type Functions = HashSet<Box<[u8]>>;

/// A primary and its replicas.
#[derive(Debug)]
pub struct Family {
    /// The file's primary first.
    pub members: Vec<ServerAddress>,
    name: String,
    /// The newest timelines, of this family and others.
    marks: Arc<Marks>,
    state: Mutex<State>,
    /// Bits of the members that take writes: one, or none.
    writes: AtomicU32,
    /// Bits of the members that take reads.
    reads: AtomicU32,
    /// Bits of the replicas that are fit.
    fit: AtomicU32,
    /// Counts changes of these.
    epoch: AtomicU64,
    checked: AtomicBool,
    watched: AtomicBool,
    wake: tokio::sync::Notify,
    functions: Mutex<Arc<Functions>>,
}

/// What a pool's servers are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Writes: the primary.
    Primary,
    /// Reads: a replica.
    Replica,
}

/// What a server says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Said {
    /// It replays what another one writes.
    pub recovers: bool,
    /// Which cluster it is of: a primary and its replicas have it in common.
    pub system: i64,
    /// Counts promotions.
    pub timeline: u32,
    /// How far it has written, or replayed.
    pub position: u64,
    /// Tells servers apart: when it was started, in microseconds.
    pub started: u64,
    /// How old what it replayed last is.
    pub age: Duration,
    /// When it was asked.
    pub asked: Instant,
}

/// What a round of questions has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Another primary.
    Primary(usize),
    /// Two servers call themselves primary, on the same timeline.
    Split,
    /// No server takes writes.
    NoPrimary,
    /// Other replicas are fit.
    Replicas,
}

#[derive(Debug)]
struct State {
    primary: Option<usize>,
    /// Which cluster the family is; `None`: no primary was ever seen.
    system: Option<i64>,
    timeline: u32,
    /// The last answer of each member.
    said: Vec<Option<Said>>,
    /// Whether a replica was further than the primary came after it: it has what is of no use.
    ahead: Vec<bool>,
    /// Whether the member answered in the last round.
    up: Vec<bool>,
    /// When the primary was asked, and how far it was.
    samples: VecDeque<(Instant, u64)>,
}

impl Family {
    /// As the file describes it; the one that is known already, if its servers are the same.
    pub fn of(
        replication: &Replication,
        before: Option<&Arc<Self>>,
        marks: &Arc<Marks>,
    ) -> Arc<Self> {
        let name = replication.name.as_str();
        let same = |known: &&Arc<Self>| known.members == replication.members && known.name == name;
        let make = || Arc::new(Self::new(replication, Arc::clone(marks)));
        before.filter(same).map_or_else(make, Arc::clone)
    }

    fn new(replication: &Replication, marks: Arc<Marks>) -> Self {
        let count = replication.members.len();
        let state = State {
            primary: None,
            system: None,
            timeline: 0,
            said: vec![None; count],
            ahead: vec![false; count],
            up: vec![false; count],
            samples: VecDeque::new(),
        };
        Self {
            members: replication.members.clone(),
            name: replication.name.to_string(),
            marks,
            state: Mutex::new(state),
            writes: AtomicU32::new(0),
            reads: AtomicU32::new(0),
            fit: AtomicU32::new(0),
            epoch: AtomicU64::new(0),
            checked: AtomicBool::new(false),
            watched: AtomicBool::new(false),
            wake: tokio::sync::Notify::new(),
            functions: Mutex::default(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The database's own name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Counts changes; who has seen this one need not look again.
    pub fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }

    /// Whether a member may be used in a role right now.
    pub fn serves(&self, role: Role, member: usize) -> bool {
        let mask = match role {
            Role::Primary => &self.writes,
            Role::Replica => &self.reads,
        };
        mask.load(Ordering::Acquire) & bit(member) != 0
    }

    /// The members that may be used in a role right now.
    pub fn serving(&self, role: Role) -> Vec<usize> {
        (0..self.members.len()).filter(|member| self.serves(role, *member)).collect()
    }

    /// Whether every server was asked at least once.
    pub fn is_checked(&self) -> bool {
        self.checked.load(Ordering::Acquire)
    }

    /// Whether a replica is fit for reads.
    pub fn has_fit(&self) -> bool {
        self.fit.load(Ordering::Acquire) != 0
    }

    /// Whether every fit replica has what was written before `since`: it has replayed as far as the
    /// primary was when it was asked after that.
    pub fn is_fresh(&self, since: Instant) -> bool {
        let state = self.state();
        let Some((_, wanted)) = state.samples.iter().find(|(asked, _)| *asked > since) else {
            return false;
        };
        let fit = self.fit.load(Ordering::Acquire);
        let said = state.said.iter().enumerate().filter(|(at, _)| fit & bit(*at) != 0);
        let has = |said: &Option<Said>| said.is_some_and(|said| said.position >= *wanted);
        fit != 0 && said.into_iter().all(|(_, said)| has(said))
    }

    /// Whether a server that has just said this may take writes.
    pub fn admits(&self, said: &Said) -> bool {
        let state = self.state();
        let newest = state.timeline.max(self.mark(said));
        !said.recovers && state.is_ours(said) && said.timeline >= newest
    }

    /// The newest timeline that was ever seen of a server's cluster.
    fn mark(&self, said: &Said) -> u32 {
        self.marks.of(&self.name, said.system)
    }

    /// What a round has raised: to be kept before [`Family::learn`] goes by it.
    pub fn raised(&self, round: &[Option<Said>]) -> Vec<Mark> {
        let higher = |said: &&Said| said.timeline > self.mark(said);
        let mark = |said: &Said| Mark { system: said.system, timeline: said.timeline };
        round.iter().flatten().filter(higher).map(mark).collect()
    }

    /// The newest timelines that were ever seen.
    pub fn marks(&self) -> &Arc<Marks> {
        &self.marks
    }

    /// Takes over what the members have said in one round; `None` where one did not answer.
    pub fn learn(&self, round: &[Option<Said>], max_lag: Duration) -> Vec<Change> {
        let mut state = self.state();
        let earlier = state.said.clone();
        round.iter().enumerate().for_each(|(at, said)| state.hear(at, *said));
        state.settle_system();
        let system = state.system;
        for said in round.iter().flatten().filter(|said| Some(said.system) == system) {
            state.timeline = state.timeline.max(said.timeline).max(self.mark(said));
        }
        let before = state.primary;
        let split = state.elect();
        if state.primary != before {
            state.samples.clear();
        }
        state.sample();
        state.compare(&earlier);
        let writes = state.primary.map_or(0, bit);
        let fit = state.fit(max_lag);
        drop(state);
        let reads = if fit == 0 { writes } else { fit };
        let first = !self.checked.swap(true, Ordering::AcqRel);
        let moved = self.writes.swap(writes, Ordering::AcqRel) != writes;
        let others = self.reads.swap(reads, Ordering::AcqRel) != reads;
        self.fit.store(fit, Ordering::Release);
        if moved || others || first {
            self.epoch.fetch_add(1, Ordering::AcqRel);
        }
        let told = match (split, (writes != 0).then(|| writes.trailing_zeros() as usize)) {
            (true, _) => Change::Split,
            (false, Some(primary)) => Change::Primary(primary),
            (false, None) => Change::NoPrimary,
        };
        let mut changes = Vec::new();
        changes.extend((moved || (first && writes == 0)).then_some(told));
        changes.extend(others.then_some(Change::Replicas));
        changes
    }

    /// How far behind a member is; `None`: it does not answer, or is no replica.
    pub fn lag(&self, member: usize) -> Option<Duration> {
        self.state().lag(member)
    }

    /// Whether a member is the primary.
    pub fn is_primary(&self, member: usize) -> bool {
        self.serves(Role::Primary, member)
    }

    /// Takes over the functions that change nothing.
    pub fn set_functions(&self, functions: Functions) {
        *self.functions.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(functions);
    }

    /// Functions that change nothing; none until the catalogue was read.
    pub fn functions(&self) -> Arc<Functions> {
        Arc::clone(&self.functions.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Something is wrong with a server: all are asked at once.
    pub fn suspect(&self) {
        self.wake.notify_one();
    }
}

impl State {
    fn hear(&mut self, member: usize, said: Option<Said>) {
        if let Some(up) = self.up.get_mut(member) {
            *up = said.is_some();
        }
        if let (Some(slot), Some(said)) = (self.said.get_mut(member), said) {
            *slot = Some(said);
        }
    }

    /// Whether a server is of the family's cluster, as far as that is known.
    fn is_ours(&self, said: &Said) -> bool {
        self.system.is_none_or(|system| system == said.system)
    }

    /// The family is the cluster of its first primary. Another one only if all that its members have last said is of
    /// that: an address that leads elsewhere by mistake decides nothing.
    fn settle_system(&mut self) {
        let mut last = self.said.iter().flatten().map(|said| said.system);
        let first = last.next();
        let alike = last.all(|other| Some(other) == first);
        let leaders =
            || (0..self.said.len()).filter_map(|at| self.answer(at)).filter(|s| !s.recovers);
        let system = match self.system {
            None => {
                let first = leaders().next().map(|said| said.system);
                first.filter(|first| leaders().all(|said| said.system == *first))
            }
            Some(_) if alike => first,
            known => known,
        };
        if self.system.is_some() && system != self.system {
            (self.primary, self.timeline) = (None, 0);
            self.samples.clear();
        }
        self.system = system;
    }

    /// Compares replicas with what the primary says now: none can have been further before. One that was has written
    /// by itself, or follows who was overtaken (it was not rewound).
    fn compare(&mut self, earlier: &[Option<Said>]) {
        let Some(leader) = self.primary.and_then(|at| self.answer(at)).copied() else { return };
        for at in 0..self.said.len() {
            let Some(said) = self.answer(at).copied() else { continue };
            let before = earlier.get(at).copied().flatten();
            let same = |it: &Said| it.started == said.started && it.system == said.system;
            let before = before.filter(same).unwrap_or(said);
            if let Some(ahead) = self.ahead.get_mut(at) {
                *ahead = said.recovers && before.position > leader.position;
            }
        }
    }

    fn answer(&self, member: usize) -> Option<&Said> {
        let up = self.up.get(member).copied().unwrap_or_default();
        self.said.get(member)?.as_ref().filter(|_| up)
    }

    /// Finds the primary; whether there are two.
    fn elect(&mut self) -> bool {
        // Of two clusters, before one is known to be meant, neither leads.
        let leads = |said: &&Said| {
            let newest = self.system.is_none() || said.timeline == self.timeline;
            !said.recovers && self.is_ours(said) && newest
        };
        let all: Vec<(usize, u64)> = (0..self.said.len())
            .filter_map(|at| self.answer(at).filter(leads).map(|said| (at, said.started)))
            .collect();
        let Some((first, started)) = all.first().copied() else {
            // A primary that does not answer may come back; one that has stepped down, or that
            // somebody has overtaken, is none any more.
            let stays = |at: &usize| {
                let said = self.said.get(*at).copied().flatten();
                said.as_ref().is_some_and(|said| leads(&said))
            };
            self.primary = self.primary.filter(stays);
            return false;
        };
        // One server may be listed under two addresses.
        let split = all.iter().any(|(_, other)| *other != started);
        let stays = self.primary.filter(|at| all.iter().any(|(other, _)| other == at));
        self.primary = if split { None } else { stays.or(Some(first)) };
        split
    }

    fn sample(&mut self) {
        let Some(said) = self.primary.and_then(|at| self.answer(at)).copied() else { return };
        if self.samples.len() >= MOST_SAMPLES {
            self.samples.pop_front();
        }
        self.samples.push_back((said.asked, said.position));
    }

    /// How far behind a replica is: the time since the primary was where the replica is now. It
    /// does not grow while nothing is written, nor while no primary answers.
    fn lag(&self, member: usize) -> Option<Duration> {
        let said = self.answer(member).filter(|said| said.recovers && self.is_ours(said))?;
        let Some((last, position)) = self.samples.back() else { return Some(Duration::ZERO) };
        if said.position >= *position {
            return Some(Duration::ZERO);
        }
        let passed = self.samples.iter().rev().find(|(_, position)| *position <= said.position);
        Some(passed.map_or(said.age, |(asked, _)| last.saturating_duration_since(*asked)))
    }

    /// Bits of the replicas that answer and are not too far behind.
    fn fit(&self, max_lag: Duration) -> u32 {
        let leader = self.primary.and_then(|at| self.said.get(at).copied().flatten());
        // The primary itself, listed as a replica under another address, has everything.
        let itself = |at: usize| {
            let said = self.answer(at).filter(|said| !said.recovers);
            Some(at) != self.primary
                && said.zip(leader).is_some_and(|(said, leader)| said.started == leader.started)
        };
        let ahead = |at: usize| self.ahead.get(at).copied().unwrap_or_default();
        let follows = |at: usize| !ahead(at) && self.lag(at).is_some_and(|lag| lag <= max_lag);
        let all = (0..self.said.len()).filter(|at| follows(*at) || itself(*at));
        all.fold(0, |bits, at| bits | bit(at))
    }
}

fn bit(member: usize) -> u32 {
    1_u32.checked_shl(u32::try_from(member).unwrap_or(u32::MAX)).unwrap_or(0)
}

/// What a pool is to its family.
#[derive(Clone, Debug)]
pub struct Membership {
    /// The servers.
    pub family: Arc<Family>,
    /// What the pool's servers are for.
    pub role: Role,
    /// The name of the database whose pool has the replicas.
    pub alias: String,
    /// Which reads go there.
    pub reads: Reads,
    /// A replica that is further behind is not fit.
    pub max_lag: Duration,
    /// Time between two rounds of questions.
    pub check_every: Duration,
}

#[cfg(test)]
mod tests;
