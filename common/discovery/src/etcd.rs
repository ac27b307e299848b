//! Endpoints from etcd: all values below a prefix, and from that revision on what changes, over the JSON
//! form of its API (decision 33). Not for writing anything. Asked by `keep`.
//!
//! Invariant: a watch begins at the revision after the list that it continues; where it cannot (compaction,
//! silence, another server), everything is listed again. A value that makes no sense leaves the key's
//! former one.

mod members;

use std::collections::BTreeMap;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use common::rng::Rng;
use serde::Deserialize;
use serde_json::json;
use tokio::time::{Instant, timeout};
use topology::list;
use topology::model::Etcd as Settings;

use crate::fault::Fault;
use crate::instance::{Instance, MOST};
use crate::keep::{Answer, Source};
use crate::web::{Stream, read};

pub(crate) use self::members::Members;

/// What a key says: an endpoint, one that is down, or why it is of no use.
type Said = Result<Option<Instance>, String>;

/// One prefix's watch.
pub(crate) struct Etcd {
    prefix: Vec<u8>,
    members: Members,
    known: BTreeMap<Vec<u8>, Said>,
    /// Goes on from what is known, since then.
    watch: Option<(Stream, Instant)>,
    /// The last value that made no sense.
    nonsense: Option<String>,
    rng: Rng,
}

impl Etcd {
    pub(crate) fn new(settings: &Settings) -> Self {
        Self {
            prefix: settings.prefix.clone().into_bytes(),
            members: members(settings),
            known: BTreeMap::new(),
            watch: None,
            nonsense: None,
            rng: Rng::from_os(),
        }
    }

    /// Everything, and a watch on what comes after it.
    async fn list(&mut self) -> Result<(), Fault> {
        let (key, end) = (STANDARD.encode(&self.prefix), STANDARD.encode(after(&self.prefix)));
        let wanted = json!({ "key": key, "range_end": end, "limit": LIMIT.to_string() });
        let range: Range = self.members.ask("/v3/kv/range", &wanted, PATIENCE).await?;
        let former = std::mem::take(&mut self.known);
        self.nonsense = None;
        for pair in &range.kvs {
            let key = decoded(&pair.key)?;
            let before = former.get(&key).cloned();
            self.put(key, &pair.value, before);
        }
        if range.more {
            self.nonsense = Some(format!("more than {LIMIT} keys begin with the prefix"));
        }
        let next = range.header.revision.parse::<u64>().unwrap_or_default() + 1;
        let wanted = json!({ "create_request": {
            "key": key, "range_end": end, "start_revision": next.to_string() } });
        let stream = self.members.stream("/v3/watch", &wanted, PATIENCE).await?;
        self.watch = Some((stream, Instant::now()));
        Ok(())
    }

    fn put(&mut self, key: Vec<u8>, value: &str, former: Option<Said>) {
        let name = String::from_utf8_lossy(&key).into_owned();
        let value = STANDARD.decode(value).ok().and_then(|bytes| String::from_utf8(bytes).ok());
        let listed = value.ok_or_else(|| "no text".to_owned()).and_then(|text| {
            list::endpoint(&name, &text).map_err(|problems| {
                // Not what it says: it may be somebody's secret.
                let at = problems.list().first().map(|problem| problem.at).unwrap_or_default();
                format!("line {}, column {}", at.line, at.column)
            })
        });
        let said = listed.map(Instance::listed).or_else(|cause| {
            let cause = format!("the value of {name} is no endpoint: {cause}");
            self.nonsense = Some(cause.clone());
            former.and_then(Result::ok).ok_or(cause)
        });
        self.known.insert(key, said);
    }

    /// Waits until something changed; `false`: what is known must be listed again.
    async fn follow(&mut self) -> Result<bool, Fault> {
        loop {
            let quiet = self.rng.jitter(QUIET, 20);
            let Some((watch, _)) = &mut self.watch else { return Ok(false) };
            let Ok(line) = timeout(quiet, watch.line()).await else { return Ok(false) };
            let Some(line) = line? else { return Ok(false) };
            let news: News = read(&line)?;
            let Some(news) = news.result else { return Ok(false) };
            if news.canceled {
                return Ok(false);
            }
            if news.events.is_empty() {
                // The watch has begun, or says how far it is.
                continue;
            }
            self.nonsense = None;
            for event in &news.events {
                let key = decoded(&event.kv.key)?;
                let former = self.known.remove(&key);
                if event.kind.as_deref() != Some("DELETE") {
                    self.put(key, &event.kv.value, former);
                }
            }
            // A list of so many would not have been taken.
            return Ok(self.known.len() <= LIMIT);
        }
    }

    /// Brings what is known up to date; back: how long that holds.
    async fn refresh(&mut self) -> Result<Duration, Fault> {
        let mut holds = Duration::ZERO;
        if let Some((_, since)) = self.watch {
            let followed = self.follow().await;
            if matches!(followed, Ok(true)) {
                return Ok(holds);
            }
            self.watch = None;
            followed?;
            // Somebody on the way may end each watch: that must not become a storm of lists.
            holds = BRIEF.saturating_sub(since.elapsed());
        }
        self.list().await?;
        Ok(holds)
    }
}

impl Source for Etcd {
    async fn ask(&mut self) -> Result<Answer, Fault> {
        let holds = match self.refresh().await {
            Ok(holds) => holds,
            Err(fault) => {
                self.watch = None;
                self.members.turn();
                return Err(fault);
            }
        };
        let known = self.known.values().filter_map(|said| said.as_ref().ok());
        let instances = known.filter_map(Clone::clone).collect();
        Ok(Answer { instances, holds, nonsense: self.nonsense.clone() })
    }

    fn forget(&mut self) {
        self.watch = None;
    }
}

fn members(settings: &Settings) -> Members {
    Members::new(&settings.servers, settings.login.as_ref(), settings.ca.as_ref())
}

/// The first key that does not begin so; of all keys, none is.
fn after(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if let Some(next) = last.checked_add(1) {
            end.push(next);
            return end;
        }
    }
    vec![0]
}

fn decoded(key: &str) -> Result<Vec<u8>, Fault> {
    STANDARD.decode(key).map_err(|fault| Fault::Nonsense(fault.to_string()))
}

/// Numbers of 64 bits are texts, and what is not set is not there.
#[derive(Deserialize)]
struct Range {
    header: Head,
    #[serde(default)]
    kvs: Vec<Pair>,
    #[serde(default)]
    more: bool,
}

#[derive(Deserialize)]
struct Head {
    revision: String,
}

#[derive(Deserialize)]
struct Pair {
    key: String,
    #[serde(default)]
    value: String,
}

#[derive(Deserialize)]
struct News {
    result: Option<Changes>,
}

#[derive(Deserialize)]
struct Changes {
    #[serde(default)]
    canceled: bool,
    #[serde(default)]
    events: Vec<Event>,
}

#[derive(Deserialize)]
struct Event {
    #[serde(rename = "type")]
    kind: Option<String>,
    kv: Pair,
}

/// For one answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// A watch lives longer.
const BRIEF: Duration = Duration::from_secs(1);

/// A watch that is silent for so long may be dead: everything is listed again.
const QUIET: Duration = Duration::from_secs(60);

/// Keys that are listed: more than are taken, so that those that are down leave room.
const LIMIT: usize = 4 * MOST;

#[cfg(all(test, feature = "verify"))]
mod tests;
