//! `up --watch`, and HUP: a saved file is applied to what runs, in an order in which nobody is led to who is not
//! there yet, or is gone already; a broken one is told, and all goes on as before. Not for how a tier goes
//! by its file: they read it themselves. Called by `up`.
//!
//! Invariant: what is refused leaves processes, files of the tiers and configurations as they were.

mod order;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use common::secret::Secret;
use http::{Method, StatusCode};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval, timeout};
use topology::Topology;
use topology::problem::Problems;

use self::order::{Carried, carried, reloads};
use crate::fetch::Talk;
use crate::graph;
use crate::up::fleet::Fleet;
use crate::up::launch::{self, Workshop};
use crate::up::plan::{Does, Plan};
use crate::up::postgres::Postgres;
use crate::up::progress::Progress;
use crate::up::source::Source;
use crate::up::{ports, provide};
use crate::watch::roster::Roster;

/// A file that is looked at again and again.
#[derive(Debug)]
pub(crate) struct Watched {
    file: PathBuf,
    /// What was applied or refused last.
    known: Vec<u8>,
    /// What was seen last.
    seen: Vec<u8>,
    looks: Interval,
}

impl Watched {
    /// Begins with what was read of the file.
    pub(crate) fn new(file: &Path, known: Vec<u8>) -> Self {
        let mut looks = interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { file: file.to_owned(), seen: known.clone(), known, looks }
    }

    /// Waits until it was saved with another content, whole: twice the same. Cancel safe.
    pub(crate) async fn saved(&mut self) {
        loop {
            self.looks.tick().await;
            // Away for a moment, while an editor puts another one in its place.
            let Ok(now) = std::fs::read(&self.file) else { continue };
            let whole = now == self.seen;
            self.seen = now;
            if whole && self.seen != self.known {
                self.known.clone_from(&self.seen);
                return;
            }
        }
    }
}

/// What runs now, and what a change was.
pub(crate) struct Applied {
    pub(crate) fleet: Fleet,
    pub(crate) topology: Topology,
    /// What came and went, in the words of `graph --diff`.
    pub(crate) words: Vec<String>,
}

/// Has everything go by the saved file, or nothing.
///
/// # Errors
/// With all that is wrong with it.
pub(crate) async fn apply(
    file: &Path,
    fleet: &Fleet,
    before: &Topology,
    progress: &Progress,
    limit: Duration,
) -> anyhow::Result<Applied> {
    let source = Source::open(Some(file))?;
    let workshop = fleet.workshop();
    let text = source.adapted();
    let read: Result<Topology, Problems> =
        topology::parse(&source.shown, &text, workshop.folder.root());
    let topology = read?;
    let named = |of: &Topology| of.admin_token.as_ref().map(|token| token.value.clone());
    if named(before) != named(&topology) {
        bail!("the admin-token changes with a restart alone: end `up` and start it again");
    }
    let plan = Plan::new(&topology)?;
    let kept = carried(fleet.plan(), &plan)?;
    let workshop = workshop_for(&topology, &plan, &source, &kept, workshop, progress)?;
    let former = std::fs::read(&workshop.topology)?;
    let token = Token(Roster::of(before, None)?.token);
    source.copy_to(&workshop.folder)?;
    let next = fleet.succeed(plan, workshop, &kept.pairs);
    let attempt = async {
        fleet.end_parts(&kept.in_place, limit).await;
        next.start().await?;
        finish_databases(&next, &kept).await?;
        for index in reloads(next.plan(), &kept.stay(), before, &topology) {
            reload(&next, index, &token).await?;
        }
        anyhow::Ok(())
    };
    if let Err(error) = attempt.await {
        std::fs::write(&next.workshop().topology, former)?;
        undo(fleet, &next, &kept, (before, &topology), &token).await?;
        return Err(error);
    }
    fleet.end_parts(&kept.removed, limit).await;
    let words = graph::words(before, &topology);
    Ok(Applied { fleet: next, topology, words })
}

/// Whoever went by the new file goes by the old one again, and what it started ends.
async fn undo(
    fleet: &Fleet,
    next: &Fleet,
    kept: &Carried,
    (before, after): (&Topology, &Topology),
    token: &Token,
) -> anyhow::Result<()> {
    for index in reloads(fleet.plan(), &kept.stayed(), after, before) {
        // One that never got as far as the new file has nothing to undo, nor has one that cannot.
        let _ = reload(fleet, index, token).await;
    }
    next.end_parts(&kept.added, MOMENT).await;
    match kept.in_place.is_empty() {
        true => Ok(()),
        false => {
            fleet.start().await.context("what made room for the new could not be started again")
        }
    }
}

/// What new parts are launched with.
fn workshop_for(
    topology: &Topology,
    plan: &Plan,
    source: &Source,
    kept: &Carried,
    before: &Workshop,
    progress: &Progress,
) -> anyhow::Result<Workshop> {
    let own = std::env::current_exe().context("where is this program?")?;
    let programs = launch::programs(plan, &own)?;
    // Who takes a place that is left for it finds it free only then.
    let known = [kept.stay(), kept.taking.clone()].concat();
    let faults = ports::faults(plan, &source.shown, &known);
    if !faults.is_empty() {
        bail!("{}", faults.join("\n"));
    }
    let wanted = plan.parts.iter().any(|part| matches!(part.does, Does::Primary(_)));
    let postgres = match &before.postgres {
        None if wanted => {
            let postgres = Postgres::find(&before.folder)?;
            postgres.prepare()?;
            Some(postgres)
        }
        known => known.clone(),
    };
    let now = std::time::SystemTime::now();
    let provided = provide::provide(topology, plan, &before.folder, now)?;
    for made in &provided.made {
        progress.note("made", made);
    }
    Ok(Workshop {
        folder: before.folder.clone(),
        topology: before.topology.clone(),
        programs,
        postgres,
        provided,
        log: before.log.clone(),
        isolation: None,
    })
}

/// Databases and roles that a primary which runs already must get.
async fn finish_databases(fleet: &Fleet, kept: &Carried) -> anyhow::Result<()> {
    for (index, _) in &kept.pairs {
        if let Some(part) = fleet.plan().parts.get(*index)
            && matches!(part.does, Does::Primary(_))
            && !fleet.is_foreign(*index)
        {
            fleet.workshop().finish(part).await?;
        }
    }
    Ok(())
}

/// What admin listeners ask for.
struct Token(Option<Secret>);

impl Token {
    /// How often a tier has gone by its file, and how often it refused to.
    async fn counted(&self, admin: SocketAddr) -> anyhow::Result<(u64, u64)> {
        let mut talk = Talk::new(admin, self.0.as_ref())?;
        let asking = timeout(ANSWER, talk.ask(Method::GET, "/metrics"));
        let (status, text) = asking.await.with_context(|| format!("{admin} does not answer"))??;
        if status != StatusCode::OK {
            bail!("http://{admin}/metrics answers with {status}");
        }
        let text = String::from_utf8_lossy(&text);
        Ok((reloads_of(&text, "applied"), reloads_of(&text, "refused")))
    }
}

/// Has one tier read its file, and waits until it goes by it.
async fn reload(fleet: &Fleet, index: usize, token: &Token) -> anyhow::Result<()> {
    let Some(part) = fleet.plan().parts.get(index) else { return Ok(()) };
    if !fleet.hang_up(index, None) {
        return Ok(());
    }
    let Some(admin) = part.admin else {
        fleet.hang_up(index, Some(nix::sys::signal::Signal::SIGHUP));
        // It cannot be asked.
        tokio::time::sleep(UNASKED).await;
        return Ok(());
    };
    let deadline = Instant::now() + PATIENCE;
    let (applied, refused) = loop {
        match token.counted(admin).await {
            Ok(counted) => break counted,
            Err(fault) if Instant::now() > deadline => return Err(fault),
            // A busy machine is no fault of the file's.
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    };
    fleet.hang_up(index, Some(nix::sys::signal::Signal::SIGHUP));
    let deadline = Instant::now() + PATIENCE;
    loop {
        let (now_applied, now_refused) = token.counted(admin).await.unwrap_or((applied, refused));
        if now_refused > refused {
            bail!("{} refuses the file{}", part.title(), fleet.last_words(part));
        }
        if now_applied > applied {
            return Ok(());
        }
        if Instant::now() > deadline {
            bail!("{} did not go by the file within {} s", part.title(), PATIENCE.as_secs());
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// `aqueduct_reloads_total` of this outcome.
fn reloads_of(metrics: &str, outcome: &str) -> u64 {
    let label = format!("outcome=\"{outcome}\"");
    let mut lines = metrics.lines().filter(|line| line.starts_with("aqueduct_reloads_total{"));
    let line = lines.find(|line| line.contains(&label));
    line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).unwrap_or(0)
}

/// Between two looks at the file.
const LOOK: Duration = Duration::from_millis(100);
/// How long a tier may take to read its file.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long one without an admin listener is given.
const UNASKED: Duration = Duration::from_secs(1);
/// How long what was started in vain may take to end.
const MOMENT: Duration = Duration::from_secs(1);
/// How long an answer may take.
const ANSWER: Duration = Duration::from_secs(2);
/// Between two questions.
const PAUSE: Duration = Duration::from_millis(20);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reloads_are_read_from_metrics() {
        let text = "# TYPE aqueduct_reloads_total counter\naqueduct_reloads_total{outcome=\"applied\",instance=\"a\"} 7\n\
                    aqueduct_reloads_total{outcome=\"refused\"} 2\n";
        assert_eq!((reloads_of(text, "applied"), reloads_of(text, "refused")), (7, 2));
        assert_eq!(reloads_of("", "applied"), 0);
    }
}
