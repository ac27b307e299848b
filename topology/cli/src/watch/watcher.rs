//! Asks every instance once a second, side by side, and publishes what was seen. Not for showing it:
//! the page and the terminal view do. Started by `watch` and `up`.
//!
//! Invariant: one that hangs delays nobody, and is dead within two seconds.

use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::Method;
use serde_json::Value;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use topology::Topology;

use super::answer;
use super::history::Track;
use super::look::{Look, Past, Seen, State};
use super::meters::{self, Meter};
use super::roster::{Instance, Roster};
use crate::fetch::Talk;
use crate::graph::wiring::Wiring;

/// The stack as it is known now. Cheap to clone; the asking ends with the last clone.
#[derive(Clone, Debug)]
pub(crate) struct Watcher {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    name: String,
    roster: Roster,
    wiring: Wiring,
    meters: Vec<Option<Meter>>,
    looks: watch::Sender<Arc<Look>>,
    tracks: Mutex<Vec<Track>>,
    /// Records of the last looks, oldest first.
    records: Mutex<VecDeque<Value>>,
}

/// One instance between two rounds.
struct Watched {
    talk: Option<Talk>,
    past: Past,
}

/// From the start of one round to the next.
const ROUND: Duration = Duration::from_secs(1);
/// How long an instance may take for all its answers: with [`ROUND`], less than two seconds.
const PATIENCE: Duration = Duration::from_millis(800);
/// What is frozen or gone after it has answered is asked within a round, and dead when that has run out.
const _: () = assert!(ROUND.as_millis() + PATIENCE.as_millis() <= 2000, "dead shows within 2 s");
/// Records remembered of all instances.
const RECORDS: usize = 120;

impl Watcher {
    /// Begins to ask.
    pub(crate) fn start(name: &str, topology: &Topology, roster: Roster) -> Self {
        Self::begin(name, topology, roster, None)
    }

    /// Begins to ask after the file changed; what is known of those that stay goes along.
    pub(crate) fn changed(&self, topology: &Topology, roster: Roster) -> Self {
        Self::begin(self.name(), topology, roster, Some(self))
    }

    fn begin(name: &str, topology: &Topology, roster: Roster, former: Option<&Self>) -> Self {
        let wiring = Wiring::of(topology);
        let meters = meters::of(topology, &wiring);
        let unknown = |one: &Instance| Seen {
            name: one.name.clone(),
            why: if one.admin.is_none() {
                "the file has no admin: for it".into()
            } else {
                String::new()
            },
            ..Seen::default()
        };
        let (last, past) = former.map(|one| (one.look(), one.tracks())).unwrap_or_default();
        let place = |one: &Instance| last.instances.iter().position(|seen| seen.name == one.name);
        let seen = |one: &Instance| {
            let known = place(one).filter(|_| one.admin.is_some());
            known.and_then(|n| last.instances.get(n).cloned()).unwrap_or_else(|| unknown(one))
        };
        let track = |one: &Instance| place(one).and_then(|n| past.get(n).cloned());
        let look = Look {
            at: last.at,
            instances: roster.instances.iter().map(seen).collect(),
            lines: vec![None; wiring.lines.len()],
            ..Look::default()
        };
        let tracks = roster.instances.iter().map(|one| track(one).unwrap_or_default()).collect();
        let tracks = Mutex::new(tracks);
        let (looks, _) = watch::channel(Arc::new(look));
        let name = name.to_owned();
        let records = Mutex::new(former.map(Self::records).unwrap_or_default());
        let inner = Arc::new(Inner { name, roster, wiring, meters, looks, tracks, records });
        let weak = Arc::downgrade(&inner);
        tokio::spawn(async move {
            let mut tick = interval(ROUND);
            tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
            let mut watched: Vec<Option<Watched>> = Vec::new();
            loop {
                tick.tick().await;
                let Some(inner) = weak.upgrade() else { return };
                inner.round(&mut watched).await;
            }
        });
        Self { inner }
    }

    /// The stack's name.
    pub(crate) fn name(&self) -> &str {
        &self.inner.name
    }

    /// Whom it asks.
    pub(crate) fn roster(&self) -> &Roster {
        &self.inner.roster
    }

    /// What it draws.
    pub(crate) fn wiring(&self) -> &Wiring {
        &self.inner.wiring
    }

    /// The last look.
    pub(crate) fn look(&self) -> Arc<Look> {
        self.inner.looks.borrow().clone()
    }

    /// All looks to come.
    pub(crate) fn looks(&self) -> watch::Receiver<Arc<Look>> {
        self.inner.looks.subscribe()
    }

    /// Five minutes of every instance, in the roster's order.
    pub(crate) fn tracks(&self) -> Vec<Track> {
        locked(&self.inner.tracks).clone()
    }

    /// The records of the last looks, oldest first.
    pub(crate) fn records(&self) -> VecDeque<Value> {
        locked(&self.inner.records).clone()
    }

    /// Carries an operator's wish to an instance: the status and what it says.
    pub(crate) async fn wish(&self, instance: &str, path: &str) -> anyhow::Result<(u16, String)> {
        let roster = self.roster();
        let known = roster.instances.iter().find(|one| one.name == instance);
        let admin = known.and_then(|one| one.admin);
        let admin = admin.ok_or_else(|| anyhow::anyhow!("{instance} has no admin listener"))?;
        let mut talk = Talk::new(admin, roster.token.as_ref())?;
        let (status, body) = timeout(PATIENCE, talk.ask(Method::POST, path)).await??;
        Ok((status, String::from_utf8_lossy(&body).trim().to_owned()))
    }
}

impl Inner {
    /// Leaves those that are new, and remembers them.
    fn remember(&self, requests: &mut Vec<Value>) {
        let mut records = locked(&self.records);
        sift(&records, requests);
        records.extend(requests.iter().cloned());
        let extra = records.len().saturating_sub(RECORDS);
        records.drain(..extra);
    }

    async fn round(&self, watched: &mut Vec<Option<Watched>>) {
        let roster = &self.roster;
        watched.resize_with(roster.instances.len(), || None);
        let mut asking = JoinSet::new();
        for (n, (one, known)) in roster.instances.iter().zip(watched.iter_mut()).enumerate() {
            let Some(admin) = one.admin else { continue };
            let mut known = known.take().unwrap_or_else(|| Watched {
                talk: Talk::new(admin, roster.token.as_ref()).ok(),
                past: Past::default(),
            });
            let one = one.clone();
            asking.spawn(async move {
                let (seen, requests) = known.ask(&one).await;
                (n, known, seen, requests)
            });
        }
        let before = self.looks.borrow().clone();
        let mut look = Look { instances: before.instances.clone(), ..Look::default() };
        while let Some(Ok((n, known, seen, requests))) = asking.join_next().await {
            look.requests.extend(requests);
            if let (Some(slot), Some(place)) = (look.instances.get_mut(n), watched.get_mut(n)) {
                (*slot, *place) = (seen, Some(known));
            }
        }
        look.requests.sort_by(|a, b| began(a).cmp(began(b)));
        self.remember(&mut look.requests);
        look.lines = self
            .meters
            .iter()
            .map(|meter| meter.as_ref()?.read(&roster.instances, &look.instances))
            .collect();
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        look.at = u64::try_from(since.as_millis()).unwrap_or_default();
        for (track, seen) in locked(&self.tracks).iter_mut().zip(&look.instances) {
            track.add(seen);
        }
        self.looks.send_replace(Arc::new(look));
    }
}

/// Whole after a panic elsewhere, too.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Watched {
    async fn ask(&mut self, one: &Instance) -> (Seen, Vec<Value>) {
        let Some(talk) = &mut self.talk else {
            return (self.past.miss(&one.name, "the admin token is no text".into()), Vec::new());
        };
        match timeout(PATIENCE, answer::ask(talk, one.tier)).await {
            Ok(Ok(mut answer)) => {
                let requests = std::mem::take(&mut answer.requests);
                (self.past.see(&one.name, answer, Instant::now()), requests)
            }
            Ok(Err(error)) => (self.past.miss(&one.name, format!("{error:#}")), Vec::new()),
            Err(_) => {
                let why = format!("it did not answer within {} s", PATIENCE.as_secs_f64());
                (self.past.miss(&one.name, why), Vec::new())
            }
        }
    }
}

/// Leaves the records that are new; of a pooler's only those that belong to a request that is known.
fn sift(known: &VecDeque<Value>, records: &mut Vec<Value>) {
    let is_request = |one: &Value| one.get("request_id").is_some();
    let all = known.iter().chain(&*records).filter(|one| is_request(one));
    let traces: HashSet<String> = all.filter_map(trace).map(str::to_owned).collect();
    let ids: HashSet<&str> = known.iter().filter_map(id).collect();
    records.retain(|one| {
        let shown = is_request(one) || trace(one).is_some_and(|trace| traces.contains(trace));
        shown && id(one).is_some_and(|id| !ids.contains(id))
    });
}

fn trace(record: &Value) -> Option<&str> {
    record.get("trace_id")?.as_str()
}

/// What a record is known by.
fn id(record: &Value) -> Option<&str> {
    record.get("request_id").or_else(|| record.get("span_id"))?.as_str()
}

/// When a record's request began, as text that sorts by time.
fn began(record: &Value) -> &str {
    record.get("timestamp").and_then(Value::as_str).unwrap_or_default()
}

impl Look {
    /// An instance by its name.
    pub(crate) fn find(&self, name: &str) -> Option<&Seen> {
        self.instances.iter().find(|seen| seen.name == name)
    }

    /// How many instances are ready, and how many are not.
    pub(crate) fn ready(&self) -> (usize, usize) {
        let ready = self.instances.iter().filter(|seen| seen.state == State::Ready).count();
        (ready, self.instances.len() - ready)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// T6, P8: a query is kept with the request of its trace, whichever was told first, and once.
    #[test]
    fn queries_go_with_their_requests() {
        let request = json!({ "request_id": "r", "trace_id": "t", "stages_us": {} });
        let query = |span: &str, trace: &str| json!({ "span_id": span, "trace_id": trace });
        let mut known = VecDeque::new();
        let mut early = vec![query("a", "t"), query("b", "other")];
        sift(&known, &mut early);
        assert!(early.is_empty(), "its request may come");
        let mut records = vec![query("a", "t"), query("b", "other"), request.clone()];
        sift(&known, &mut records);
        assert_eq!(records, [query("a", "t"), request.clone()]);
        known.extend(records);
        let mut again = vec![query("a", "t"), query("c", "t"), request, json!({ "trace_id": "t" })];
        sift(&known, &mut again);
        assert_eq!(again, [query("c", "t")]);
    }
}
