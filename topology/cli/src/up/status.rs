//! One line of numbers per part, once a second: of tiers what the live page shows too, of the demo
//! services what they count. Not for drawing them: that is `view`. Used by `up`.
//!
//! Invariant: a part that does not answer keeps its line; its numbers are empty.

use std::time::Duration;

use common::observe::admin::Unit;
use serde::Deserialize;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::fetch;
use crate::up::fleet::Fleet;
use crate::up::plan::{Does, Part};
use crate::up::ready::{self, Question};
use crate::watch::look::{Seen, State};
use crate::watch::watcher::Watcher;

/// What the live view shows of one part.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Line {
    /// Whether it runs and answers.
    pub(crate) health: Health,
    /// Open connections, flows or clients.
    pub(crate) connections: Option<u64>,
    /// Pieces of work per second, since the last look.
    pub(crate) rate: Option<f64>,
    /// What the work is.
    pub(crate) unit: Option<Unit>,
    /// Median time of one piece, in µs.
    pub(crate) p50: Option<u64>,
    /// 99th percentile, in µs.
    pub(crate) p99: Option<u64>,
    /// Failures since the start.
    pub(crate) errors: Option<u64>,
    /// Pieces of work per second in the last five minutes, oldest first.
    pub(crate) track: Vec<Option<f32>>,
    /// Work in all, and when it was read.
    total: Option<(u64, Instant)>,
}

/// Whether a part runs and answers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Health {
    /// It answers.
    #[default]
    Ready,
    /// It runs and does not answer, or says that it is not ready.
    Unready,
    /// Its process has ended.
    Down,
}

#[derive(Deserialize)]
struct Count {
    requests: u64,
}

/// Asks every part that is no tier once, side by side; `before` are the lines of the last look.
pub(crate) async fn look(fleet: &Fleet, watcher: &Watcher, before: &[Line]) -> Vec<Line> {
    let mut asking = JoinSet::new();
    let (seen, tracks) = (watcher.look(), watcher.tracks());
    for (index, part) in fleet.plan().parts.iter().enumerate() {
        let part = part.clone();
        let before = before.get(index).cloned().unwrap_or_default();
        let down = fleet.ended(index).is_some();
        let question = Question::of(&part, None);
        let known = seen.instances.iter().position(|seen| seen.name == part.name);
        let known = known.filter(|_| matches!(part.does, Does::Tier(_)));
        let shown = known.and_then(|n| {
            let track = tracks.get(n)?.rate.iter().copied().collect();
            Some(tier(seen.instances.get(n)?, track))
        });
        asking.spawn(async move {
            let line = match (down, shown) {
                (true, _) => {
                    Line { health: Health::Down, errors: before.errors, ..Line::default() }
                }
                (false, Some(line)) => line,
                (false, None) => ask(&part, &question, &before).await,
            };
            (index, line)
        });
    }
    let mut lines = vec![Line::default(); fleet.plan().parts.len()];
    while let Some(Ok((index, line))) = asking.join_next().await {
        if let Some(slot) = lines.get_mut(index) {
            *slot = line;
        }
    }
    lines
}

async fn ask(part: &Part, question: &Question, before: &Line) -> Line {
    let answered = tokio::time::timeout(LIMIT, async {
        match (&part.does, question) {
            (Does::Demo { .. } | Does::Issuer { .. }, Question::Health(_)) => {
                counted(part, before).await
            }
            (Does::Demo { .. }, Question::Ping(_)) => played(part, before).await,
            _ => question.ask().await.map(|()| Line::default()),
        }
    });
    match answered.await {
        Ok(Ok(line)) => line,
        _ => Line { health: Health::Unready, errors: before.errors, ..Line::default() },
    }
}

/// A tier as the live page shows it.
fn tier(seen: &Seen, track: Vec<Option<f32>>) -> Line {
    // Not asked yet, or without an admin listener: its process runs, and `up` has seen it ready.
    let well = matches!(seen.state, State::Ready | State::Unknown);
    Line {
        health: if well { Health::Ready } else { Health::Unready },
        connections: seen.connections,
        rate: seen.rate,
        unit: seen.unit,
        p50: seen.p50,
        p99: seen.p99,
        errors: seen.errors,
        track,
        total: None,
    }
}

async fn counted(part: &Part, before: &Line) -> anyhow::Result<Line> {
    let (_, body) = fetch::get(part.address(), "/count").await?;
    let count: Count = serde_json::from_slice(&body)?;
    let now = Instant::now();
    Ok(Line {
        rate: rate(before.total, count.requests, now),
        unit: Some(Unit::Requests),
        total: Some((count.requests, now)),
        ..Line::default()
    })
}

/// A game server: its players so far stand for connections.
async fn played(part: &Part, before: &Line) -> anyhow::Result<Line> {
    let (players, datagrams) = ready::game(part.address()).await?;
    let now = Instant::now();
    Ok(Line {
        connections: Some(players),
        rate: rate(before.total, datagrams, now),
        unit: Some(Unit::Packets),
        total: Some((datagrams, now)),
        ..Line::default()
    })
}

/// Work per second since the last look; nothing at the first, or after a restart.
fn rate(before: Option<(u64, Instant)>, total: u64, now: Instant) -> Option<f64> {
    let (earlier, at) = before?;
    let seconds = now.duration_since(at).as_secs_f64();
    let done = total.checked_sub(earlier)?;
    #[expect(clippy::cast_precision_loss, reason = "shown with three digits")]
    (seconds > 0.0).then(|| done as f64 / seconds)
}

const LIMIT: Duration = Duration::from_millis(900);

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_rate_needs_two_looks() {
        let first = Instant::now();
        assert_eq!(rate(None, 10, first), None);
        let later = first + Duration::from_secs(2);
        assert_eq!(rate(Some((10, first)), 30, later), Some(10.0));
        assert_eq!(rate(Some((30, first)), 10, later), None, "a restarted part begins anew");
        assert_eq!(rate(Some((30, first)), 40, first), None);
    }
}
