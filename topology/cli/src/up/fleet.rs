//! The running parts of one `up`: brought up as soon as what they need is ready, watched, and taken
//! down the other way round. Not for how one part is launched. Used by `up`.
//!
//! Invariant: when a fleet is gone, so is every process that it started.

use std::process::ExitStatus;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, anyhow};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::up::launch::Workshop;
use crate::up::plan::{Part, Plan};
use crate::up::progress::Progress;
use crate::up::ready::Question;
use crate::up::spawn::{Process, tail, told};

/// All parts and their processes.
#[derive(Debug, Clone)]
pub(crate) struct Fleet {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    plan: Plan,
    workshop: Workshop,
    progress: Progress,
    /// Parts that ran before us, by index: used, never ended.
    foreign: Vec<usize>,
    processes: Mutex<Vec<Option<Arc<Process>>>>,
}

impl Fleet {
    /// Nothing runs yet.
    pub(crate) fn new(
        plan: Plan,
        workshop: Workshop,
        progress: Progress,
        foreign: Vec<usize>,
    ) -> Self {
        let processes = Mutex::new(plan.parts.iter().map(|_| None).collect());
        Self { inner: Arc::new(Inner { plan, workshop, progress, foreign, processes }) }
    }

    /// The fleet of a changed plan: of `carried`, each an index of the new plan and one of this one, the
    /// processes go on; others are to be started, or ended here.
    pub(crate) fn succeed(
        &self,
        plan: Plan,
        workshop: Workshop,
        carried: &[(usize, usize)],
    ) -> Self {
        let progress = self.inner.progress.clone();
        let foreign = carried.iter().filter(|(_, old)| self.is_foreign(*old));
        let next = Self::new(plan, workshop, progress, foreign.map(|(new, _)| *new).collect());
        for (new, old) in carried {
            if let Some(process) = self.child(*old) {
                next.keep(*new, process);
            }
        }
        next
    }

    /// Ends these parts: asked, and killed after `limit`.
    pub(crate) async fn end_parts(&self, parts: &[usize], limit: Duration) {
        let mut left: Vec<(usize, Arc<Process>)> = parts
            .iter()
            .rev()
            .filter_map(|index| Some((*index, self.child(*index)?)))
            .filter(|(_, process)| process.status().is_none())
            .collect();
        left.iter().for_each(|(_, process)| process.ask());
        self.await_ends(&mut left, Instant::now() + limit).await;
        self.end(&mut left).await;
    }

    /// Sends a part of ours this signal; whether it runs and could be sent one.
    pub(crate) fn hang_up(&self, index: usize, signal: Option<Signal>) -> bool {
        let process = self.child(index).filter(|process| process.status().is_none());
        process.is_some_and(|process| kill(Pid::from_raw(process.pid()), signal).is_ok())
    }

    /// What runs.
    pub(crate) fn plan(&self) -> &Plan {
        &self.inner.plan
    }

    /// What everything was launched with.
    pub(crate) fn workshop(&self) -> &Workshop {
        &self.inner.workshop
    }

    /// Whether a part ran before us.
    pub(crate) fn is_foreign(&self, index: usize) -> bool {
        self.inner.foreign.contains(&index)
    }

    /// How a part ended, when it has; `None` also for one that is not ours.
    pub(crate) fn ended(&self, index: usize) -> Option<ExitStatus> {
        self.child(index).and_then(|process| process.status())
    }

    /// Starts every part as soon as what it needs is ready. The first that fails ends the start;
    /// cancelling leaves the rest to [`Fleet::stop`].
    pub(crate) async fn start(&self) -> anyhow::Result<()> {
        let parts = &self.inner.plan.parts;
        let channels: Vec<_> = parts.iter().map(|_| watch::channel(Step::Waiting)).collect();
        let watched: Vec<_> = channels.iter().map(|(_, watched)| watched.clone()).collect();
        let mut starting = JoinSet::new();
        for (index, (step, _)) in channels.into_iter().enumerate() {
            let needs: Vec<_> = parts
                .get(index)
                .into_iter()
                .flat_map(|part| &part.after)
                .filter_map(|needed| watched.get(*needed).cloned())
                .collect();
            let fleet = self.clone();
            starting.spawn(async move {
                for mut needed in needs {
                    if needed.wait_for(|step| *step == Step::Ready).await.is_err() {
                        return Ok(());
                    }
                }
                fleet.bring_up(index).await?;
                step.send_replace(Step::Ready);
                Ok::<(), anyhow::Error>(())
            });
        }
        while let Some(started) = starting.join_next().await {
            started.context("a start was given up")??;
        }
        Ok(())
    }

    /// Waits until a part of ours that is not in `known` ends.
    pub(crate) async fn next_end(&self, known: &[usize]) -> (usize, ExitStatus) {
        let mut waiting = JoinSet::new();
        for index in 0..self.inner.plan.parts.len() {
            if let Some(process) = self.child(index).filter(|_| !known.contains(&index)) {
                waiting.spawn(async move { (index, process.ended().await) });
            }
        }
        match waiting.join_next().await {
            Some(Ok(ended)) => ended,
            _ => std::future::pending().await,
        }
    }

    /// Ends everything, what stands nearest to the clients first. The outermost parts may drain for
    /// `limit`; each level behind them is asked a moment later, whether or not the one before has
    /// ended: an inner balancer ends only when the services that still hold connections through it
    /// do. What has not ended at last is killed. Cancelling it leaves the rest to the drop of the
    /// processes.
    pub(crate) async fn stop(&self, limit: Duration) {
        let levels = self.inner.plan.levels();
        let highest = levels.iter().copied().max().unwrap_or(0);
        let mut left: Vec<(usize, Arc<Process>)> = Vec::new();
        for level in (0..=highest).rev() {
            let of_level = levels.iter().enumerate().filter(|(_, l)| **l == level);
            let running: Vec<(usize, Arc<Process>)> = of_level
                .filter_map(|(index, _)| Some((index, self.child(index)?)))
                .filter(|(_, process)| process.status().is_none())
                .collect();
            for (_, process) in &running {
                process.ask();
            }
            left.extend(running);
            let patience = if level == highest { limit } else { MOMENT };
            self.await_ends(&mut left, Instant::now() + patience).await;
            if level == highest {
                self.end(&mut left).await;
            }
        }
        self.await_ends(&mut left, Instant::now() + GRACE).await;
        self.end(&mut left).await;
    }

    /// Waits for all of `left` until `deadline`, and takes those that ended out of it.
    async fn await_ends(&self, left: &mut Vec<(usize, Arc<Process>)>, deadline: Instant) {
        for (index, process) in std::mem::take(left) {
            match tokio::time::timeout_at(deadline, process.ended()).await {
                Ok(_) => self.inner.progress.note("stopped", &self.title(index)),
                Err(_) => left.push((index, process)),
            }
        }
    }

    /// Kills all of `left`.
    async fn end(&self, left: &mut Vec<(usize, Arc<Process>)>) {
        for (index, process) in left.drain(..) {
            process.kill();
            process.ended().await;
            let text = format!("{}: did not end in time", self.title(index));
            self.inner.progress.warn("killed", &text);
        }
    }

    fn title(&self, index: usize) -> String {
        let part = self.inner.plan.parts.get(index);
        part.map(|part| format!("{:<11} {}", part.kind(), part.name)).unwrap_or_default()
    }

    /// Kills whatever still runs.
    pub(crate) async fn kill(&self) {
        for index in 0..self.inner.plan.parts.len() {
            if let Some(process) = self.child(index) {
                process.kill();
                process.ended().await;
            }
        }
    }

    /// Kills one part of ours that runs; false when there is none.
    pub(crate) async fn kill_one(&self, index: usize) -> bool {
        let running = self.child(index).filter(|process| process.status().is_none());
        let Some(process) = running else { return false };
        process.kill();
        process.ended().await;
        true
    }

    /// The text about a part's end, with its last lines and where the rest is.
    pub(crate) fn obituary(&self, index: usize, status: ExitStatus) -> String {
        let Some(part) = self.inner.plan.parts.get(index) else { return String::new() };
        format!(
            "{} {} ended with {}{}",
            part.kind(),
            part.name,
            told(status),
            self.last_words(part)
        )
    }

    async fn bring_up(&self, index: usize) -> anyhow::Result<()> {
        let Some(part) = self.inner.plan.parts.get(index) else { return Ok(()) };
        if self.is_foreign(index) {
            self.inner.progress.ready(part, "(ran already; used as it is)");
            return Ok(());
        }
        if self.child(index).is_some_and(|process| process.status().is_none()) {
            return Ok(());
        }
        let workshop = &self.inner.workshop;
        if let Some(what) = workshop.first_time(part) {
            self.inner.progress.note("making", what);
        }
        let failed = || format!("{} could not be started", part.title());
        let launch = workshop.launch(part).await.with_context(failed)?;
        let process =
            Arc::new(launch.spawn(&workshop.folder.log(&part.name)).with_context(failed)?);
        self.keep(index, Arc::clone(&process));
        let question = Question::of(part, workshop.postgres.as_ref());
        tokio::select! {
            status = process.ended() => return Err(anyhow!(self.obituary(index, status))),
            answer = self.until_ready(part, &question) => answer?,
        }
        workshop.finish(part).await.with_context(failed)?;
        self.inner.progress.ready(part, &format!("(process {})", process.pid()));
        Ok(())
    }

    async fn until_ready(&self, part: &Part, question: &Question) -> anyhow::Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let Err(error) = question.ask().await else { return Ok(()) };
            if Instant::now() > deadline {
                return Err(error.context(format!(
                    "{} {} was not ready after {} s{}",
                    part.kind(),
                    part.name,
                    PATIENCE.as_secs(),
                    self.last_words(part)
                )));
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// The end of its log, for messages.
    pub(crate) fn last_words(&self, part: &Part) -> String {
        let log = self.inner.workshop.folder.log(&part.name);
        let tail = tail(&log, 10);
        let where_ = log.display();
        if tail.is_empty() {
            format!("; it wrote nothing to {where_}")
        } else {
            format!("; the end of {where_}:\n{tail}")
        }
    }

    fn keep(&self, index: usize, process: Arc<Process>) {
        let mut processes = self.inner.processes.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(slot) = processes.get_mut(index) {
            *slot = Some(process);
        }
    }

    fn child(&self, index: usize) -> Option<Arc<Process>> {
        let processes = self.inner.processes.lock().unwrap_or_else(PoisonError::into_inner);
        processes.get(index).cloned().flatten()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Waiting,
    Ready,
}

/// How long a part may take until it is ready.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long a level behind the outermost is waited for before the next is asked.
const MOMENT: Duration = Duration::from_secs(1);
/// How long what was asked may take in the end before it is killed.
const GRACE: Duration = Duration::from_secs(3);
/// Between two questions.
const PAUSE: Duration = Duration::from_millis(20);
