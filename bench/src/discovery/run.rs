//! A whole run: each tier in turn, its memory, its time on a processor, and how soon it follows; figures and verdicts
//! written down. Not for etcd or traffic.
//!
//! Invariant: endpoints go on changing while it is measured how soon a change holds.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Result, bail};

use super::etcd::{Change, Etcd};
use super::tier::{ENDPOINTS, SERVICES, Tier, service, until_known};
use super::traffic::{SERVERS, Traffic, serve};
use super::{Goal, Ours, Sheet};
use crate::figures::{Better, table};
use crate::goals::Want;
use crate::l4::clock::{now, pause};
use crate::process::{Program, beside, version};
use crate::report::Report;
use crate::{goals, progress};

/// How a run is done.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The tiers; empty: all.
    pub only: Vec<Tier>,
    /// Turns.
    pub rounds: u32,
    /// How long each state is measured.
    pub seconds: u32,
    /// Where to write the figures.
    pub json: Option<PathBuf>,
}

/// Between two changes.
const PACE: Duration = Duration::from_millis(100);
/// How often a server leaves in a round.
const TIMES: u32 = 20;

/// Runs the plan.
///
/// # Errors
/// When etcd or a tier is missing, does not start, or does not follow.
#[expect(clippy::print_stdout, reason = "the program's output")]
pub fn run(plan: &Plan) -> Result<()> {
    let all = [Tier::Gateway, Tier::Balancer];
    let tiers = if plan.only.is_empty() { all.to_vec() } else { plan.only.clone() };
    let versions: BTreeMap<_, _> = tiers
        .iter()
        .filter_map(|tier| Some((tier.name(), version(&beside(tier.name()).ok()?, "--version")?)))
        .collect();
    let mut report = Report::begin((plan.rounds, plan.seconds), versions)?;
    // Memory: what is measured must not be slowed by a disk.
    let shared = Path::new("/dev/shm");
    let folder = if shared.is_dir() { tempfile::tempdir_in(shared)? } else { tempfile::tempdir()? };
    serve()?;
    for tier in tiers {
        let mut sheet = Sheet::default();
        for round in 0..plan.rounds {
            progress(&format!("{}: round {} of {}", tier.name(), round + 1, plan.rounds));
            let own = folder.path().join(format!("{}-{round}", tier.name()));
            measure(tier, (round, plan.seconds), &own, &mut sheet)?;
        }
        let rows = sheet.rows();
        let verdicts: Vec<_> = goals(tier).iter().filter_map(|goal| goal.verdict(&rows)).collect();
        progress("");
        println!("{}\n{}", table(&rows, &[Ours]), goals::table(&verdicts));
        report.figures.extend(rows);
        report.goals.extend(verdicts);
        if let Some(path) = &plan.json {
            report.write(path)?;
        }
    }
    Ok(())
}

const BUSY: &str = "processor, 10 of 10000 endpoints change per second";
const LONGEST: &str = "a removed endpoint's last answer, longest";
const FAILED: &str = "requests that failed meanwhile";

fn named(tier: Tier, figure: &str) -> String {
    format!("{}: {figure}", tier.name())
}

fn goals(tier: Tier) -> Vec<Goal> {
    let goal = |figure, most| Goal::new(&named(tier, figure), Want::AtMost(most));
    vec![goal(BUSY, 5.0), goal(LONGEST, 100.0), goal(FAILED, 0.0)]
}

/// The endpoint that a service has at a place, by how often it was changed.
fn endpoint(service: usize, place: usize, version: usize) -> String {
    format!("10.{service}.{}.{}:{}", place / 250, place % 250 + 1, 8000 + version)
}

fn key(number: usize, place: usize, version: usize) -> String {
    format!("/{}/{place}-{version}", service(number))
}

/// All endpoints, and which change was the last.
struct Changer<'e> {
    etcd: &'e Etcd,
    done: usize,
}

impl Changer<'_> {
    fn fill(&self) -> Result<()> {
        let places = (0..SERVICES).flat_map(|number| (0..ENDPOINTS).map(move |at| (number, at)));
        let put = |(number, at)| (key(number, at, 0), Some(endpoint(number, at, 0)));
        self.etcd.change(&places.map(put).collect::<Vec<Change>>())
    }

    /// One endpoint goes and another one comes: that of the next service. Back: the new one.
    fn change(&mut self) -> Result<String> {
        let (number, turn) = (self.done % SERVICES, self.done / SERVICES);
        let (at, version) = (turn % ENDPOINTS, turn / ENDPOINTS);
        self.done += 1;
        let fresh = endpoint(number, at, version + 1);
        let put = (key(number, at, version + 1), Some(fresh.clone()));
        self.etcd.change(&[(key(number, at, version), None), put])?;
        Ok(fresh)
    }

    /// Ten changes per second until told otherwise. Back: the last endpoint that came.
    fn keep_on(&mut self, goes_on: impl Fn() -> bool) -> Result<String> {
        let (mut due, mut last) = (now(), String::new());
        while goes_on() {
            last = self.change()?;
            due += PACE.as_nanos() as u64;
            pause(Duration::from_nanos(due.saturating_sub(now())));
        }
        Ok(last)
    }
}

fn measure(
    tier: Tier,
    (round, seconds): (u32, u32),
    folder: &Path,
    sheet: &mut Sheet,
) -> Result<()> {
    let mut note = |figure: &str, unit, value: f64| {
        sheet.note((&named(tier, figure), unit, Better::Low), Ours, round, value);
    };
    let etcd = Etcd::start(&folder.join("etcd"))?;
    etcd.change(&[("/probe/stays".to_owned(), Some(SERVERS[0].to_owned()))])?;
    let program = tier.start(&folder.join("tier"))?;
    until_known(1, SERVERS[0])?;
    let mut changer = Changer { etcd: &etcd, done: 0 };
    let bare = program.rss_kib() as f64;
    changer.fill()?;
    let count = SERVICES * ENDPOINTS + 1;
    until_known(count, &endpoint(SERVICES - 1, ENDPOINTS - 1, 0))?;
    // What was built on the way is let go.
    pause(Duration::from_secs(1));
    note("processor, nothing changes", "%", share(&program, seconds, || Ok(()))?);
    let full = program.rss_kib() as f64;
    note("memory with 10000 endpoints", "MiB", full / 1024.0);
    note("memory of an endpoint", "KiB", (full - bare) / count as f64);
    let until = now() + u64::from(seconds) * 1_000_000_000;
    let mut last = String::new();
    let changing = || {
        last = changer.keep_on(|| now() < until)?;
        Ok(())
    };
    note(BUSY, "%", share(&program, seconds, changing)?);
    // Whoever does not follow has it easy.
    until_known(count, &last)?;
    let grown = program.rss_kib() as f64 - full;
    note("memory after those changes, more", "KiB", grown);
    let (times, failed) = follow(&etcd, changer)?;
    let longest = times.iter().copied().fold(0.0, f64::max);
    note(
        "a removed endpoint's last answer, mean",
        "ms",
        times.iter().sum::<f64>() / times.len() as f64,
    );
    note(LONGEST, "ms", longest);
    note(FAILED, "", failed as f64);
    Ok(())
}

/// How much of a processor a program takes while something goes on, in percent.
fn share(program: &Program, seconds: u32, work: impl FnOnce() -> Result<()>) -> Result<f64> {
    let (begun, before) = (now(), program.cpu());
    work()?;
    let left = u64::from(seconds) * 1_000_000_000;
    pause(Duration::from_nanos((begun + left).saturating_sub(now())));
    let spent = (program.cpu() - before).as_nanos() as f64;
    Ok(spent * 100.0 / (now() - begun) as f64)
}

/// A server comes and goes under traffic, while others change. Back: how long after it has left it answered last, in
/// milliseconds, each time; and how many requests failed.
fn follow(etcd: &Etcd, mut changer: Changer<'_>) -> Result<(Vec<f64>, u64)> {
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let others = scope.spawn(|| changer.keep_on(|| !ended.load(Ordering::Relaxed)));
        let outcome = come_and_go(etcd);
        ended.store(true, Ordering::Relaxed);
        match others.join() {
            Ok(changed) => changed.and(outcome),
            Err(_panicked) => bail!("the changes broke off"),
        }
    })
}

fn come_and_go(etcd: &Etcd) -> Result<(Vec<f64>, u64)> {
    let traffic = Traffic::begin()?;
    let key = "/probe/goes".to_owned();
    let mut times = Vec::new();
    for _ in 0..TIMES {
        let begun = now();
        etcd.change(&[(key.clone(), Some(SERVERS[1].to_owned()))])?;
        for _ in 0..1000 {
            if traffic.last(1) > begun {
                break;
            }
            pause(Duration::from_millis(5));
        }
        if traffic.last(1) <= begun {
            bail!("a new endpoint is not asked within 5 s");
        }
        let left = now();
        etcd.change(&[(key.clone(), None)])?;
        pause(Duration::from_millis(400));
        times.push(traffic.last(1).saturating_sub(left) as f64 / 1e6);
    }
    Ok((times, traffic.failed()))
}
