//! Asks the servers of a family, again and again, who they are and how far they have come, over one
//! connection to each. Not for deciding: that is the family itself. Started by a pool that can log
//! in; one per family and instance, on that pool's worker.
//!
//! Invariant: it holds no pool while it waits, and its place is free again when it ends, so that
//! another pool can go on.

use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use pgpool_wire::backend::{self, tag};
use pgpool_wire::frame::{self, Found};
use pgpool_wire::frontend;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, timeout};
use topology::pool::Reads;

use super::{Change, Family, Functions, Membership, Said};
use crate::events::{PrimaryChanged, PrimarySplit, TimelineNotKept};
use crate::pool::Pool;
use crate::server::connect::{Asked, ConnectError};
use crate::stream::Stream;
use crate::worker::{Message, Worker};

/// A server that takes longer to answer counts as away.
const LONGEST: Duration = Duration::from_secs(2);
/// Rounds while there is no primary, and after a fault, come so soon.
const HURRY: Duration = Duration::from_millis(100);
/// The catalogue is read again after it.
const CATALOGUE: Duration = Duration::from_secs(300);
/// Longest answer: the catalogue's.
const MOST_BYTES: usize = 4 << 20;

/// Who it is. The timeline of a primary is that of the segment it writes; that of a replica the one
/// of its last checkpoint, which may be late but never too high.
const WHO: &str = "SELECT pg_is_in_recovery(), (pg_control_system()).system_identifier, \
    CASE WHEN pg_is_in_recovery() THEN (pg_control_checkpoint()).timeline_id::text \
    ELSE substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8) END, \
    (CASE WHEN pg_is_in_recovery() THEN coalesce(pg_last_wal_replay_lsn(), '0/0') \
    ELSE pg_current_wal_insert_lsn() END) - '0/0'::pg_lsn, \
    (extract(epoch from pg_postmaster_start_time()) * 1000000)::bigint, \
    (coalesce(extract(epoch from now() - pg_last_xact_replay_timestamp()), 0) * 1000)::bigint";

/// Names under which nothing changes anything, and some that look as if they did.
const WHAT: &str = "SELECT proname FROM pg_catalog.pg_proc GROUP BY proname \
    HAVING bool_and(provolatile <> 'v') OR proname IN ('random', 'clock_timestamp', \
    'timeofday', 'gen_random_uuid', 'pg_sleep')";

/// One server as the watch sees it.
#[derive(Default)]
struct Link {
    io: Option<Stream>,
    refused: Option<ConnectError>,
}

/// Starts the watch of a pool's family, unless one runs or this pool cannot log in.
pub fn tend(pool: &Rc<Pool>) {
    let Some(membership) = pool.membership() else { return };
    if !pool.can_log_in() || membership.family.watched.swap(true, Ordering::AcqRel) {
        return;
    }
    let seat = Seat(Arc::clone(&membership.family));
    tokio::task::spawn_local(watch(Rc::downgrade(pool), seat));
}

/// The right to watch a family.
struct Seat(Arc<Family>);

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.watched.store(false, Ordering::Release);
    }
}

async fn watch(pool: Weak<Pool>, seat: Seat) {
    let family = &seat.0;
    let mut links: Vec<Link> = family.members.iter().map(|_| Link::default()).collect();
    let mut read_at = None;
    loop {
        let Some((pool, worker, membership)) = ours(&pool, family) else { return };
        let asked = ask_all(&pool, &worker, family, &mut links).await;
        let refused = links.iter().filter_map(|link| link.refused.as_ref());
        if refused.clone().count() == links.len() {
            // This user is let in nowhere: another pool may have more luck.
            refused.take(1).for_each(|fault| pool.failed(&worker, fault));
            tokio::time::sleep(LONGEST).await;
            return;
        }
        if membership.reads > Reads::Asked && is_due(read_at) {
            read_at = catalogue(family, &mut links).await.then(Instant::now);
        }
        keep(&worker, family, &asked).await;
        let changes = family.learn(&asked, membership.max_lag);
        if !changes.is_empty() {
            // Pools of the family that are elsewhere need not wait for their next look.
            worker.tell_others(|| Message::Look);
        }
        for change in changes {
            tell(&worker, family, change);
        }
        show(&worker, family);
        worker.pools().iter().for_each(|pool| pool.follow_family());
        let leads = |at: usize| asked.get(at).is_some_and(Option::is_some);
        let settled = family.serving(super::Role::Primary).first().is_some_and(|at| leads(*at));
        drop((pool, worker));
        let pause =
            if settled { membership.check_every } else { membership.check_every.min(HURRY) };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = family.wake.notified() => tokio::time::sleep(pause.min(HURRY)).await,
        }
    }
}

/// Keeps what is newer than was ever seen: before the first write that depends on it, so that no process that
/// starts later lets the former primary in. What cannot be kept is told once; writes go on.
async fn keep(worker: &Rc<Worker>, family: &Arc<Family>, round: &[Option<Said>]) {
    let (marks, raised) = (Arc::clone(family.marks()), family.raised(round));
    let behind = marks.is_behind();
    if raised.is_empty() && !behind {
        return;
    }
    let name = family.name().to_owned();
    let kept = tokio::task::spawn_blocking(move || marks.raise(&name, &raised));
    if let Ok(Err(cause)) = kept.await
        && !behind
    {
        worker.observer.emit(TimelineNotKept { database: family.name(), cause: &cause });
    }
}

fn ours(pool: &Weak<Pool>, family: &Arc<Family>) -> Option<(Rc<Pool>, Rc<Worker>, Membership)> {
    let pool = pool.upgrade()?;
    let worker = pool.worker.upgrade()?;
    let membership = pool.membership()?;
    let same = Arc::ptr_eq(&membership.family, family) && pool.is_served();
    same.then_some((pool, worker, membership))
}

fn is_due(read_at: Option<Instant>) -> bool {
    read_at.is_none_or(|at| at.elapsed() >= CATALOGUE)
}

async fn ask_all(
    pool: &Rc<Pool>,
    worker: &Rc<Worker>,
    family: &Arc<Family>,
    links: &mut Vec<Link>,
) -> Vec<Option<Said>> {
    let mut tasks = tokio::task::JoinSet::new();
    for (at, link) in std::mem::take(links).into_iter().enumerate() {
        let (pool, worker, family) = (Rc::clone(pool), Rc::clone(worker), Arc::clone(family));
        tasks.spawn_local(async move { (at, visit(&pool, &worker, &family, at, link).await) });
    }
    let mut all: Vec<_> = tasks.join_all().await;
    all.sort_by_key(|(at, _)| *at);
    let (back, said): (Vec<Link>, Vec<_>) = all.into_iter().map(|(_, visit)| visit).unzip();
    *links = back;
    said
}

/// One server: connected to if need be, and asked.
async fn visit(
    pool: &Pool,
    worker: &Worker,
    family: &Family,
    at: usize,
    mut link: Link,
) -> (Link, Option<Said>) {
    link.refused = None;
    if link.io.is_none() {
        match timeout(LONGEST, reach(pool, worker, family, at)).await {
            Ok(Ok(io)) => link.io = Some(io),
            Ok(Err(fault)) if fault.is_refusal() => link.refused = Some(fault),
            Ok(Err(_)) | Err(_) => {}
        }
    }
    let Some(io) = &mut link.io else { return (link, None) };
    let said = who(io).await;
    if said.is_none() {
        link.io = None;
    }
    (link, said)
}

async fn reach(
    pool: &Pool,
    worker: &Worker,
    family: &Family,
    at: usize,
) -> Result<Stream, ConnectError> {
    let address = family.members.get(at).ok_or(ConnectError::Unexpected)?;
    Ok(pool.log_in(worker, address, Asked::default()).await?.io)
}

/// Asks a server who it is; `None`: it does not say.
pub async fn who(io: &mut Stream) -> Option<Said> {
    let asked = Instant::now();
    let rows = timeout(LONGEST, ask(io, WHO)).await.ok()??;
    read(rows.first()?, asked)
}

fn read(row: &[String], asked: Instant) -> Option<Said> {
    let [recovers, system, timeline, position, started, age] = row else { return None };
    let recovers = recovers == "t";
    let radix = if recovers { 10 } else { 16 };
    let position = position.parse().ok()?;
    Some(Said {
        recovers,
        system: system.parse().ok()?,
        timeline: u32::from_str_radix(timeline, radix).ok()?,
        position: if recovers { position } else { end_of_record(position) },
        started: started.parse().ok()?,
        age: Duration::from_millis(age.parse().unwrap_or(0)),
        asked,
    })
}

/// Where the next record goes is behind a page's header; what was written ends before it.
fn end_of_record(position: u64) -> u64 {
    match (position % (1 << 20), position % 8192) {
        (40, _) => position - 40,
        (_, 24) => position - 24,
        _ => position,
    }
}

/// Reads the catalogue from any server.
async fn catalogue(family: &Family, links: &mut [Link]) -> bool {
    for link in links {
        let Some(io) = &mut link.io else { continue };
        match timeout(LONGEST, ask(io, WHAT)).await {
            Ok(Some(rows)) => {
                let names = rows.into_iter().filter_map(|row| row.into_iter().next());
                let all: Functions = names.map(|name| name.into_bytes().into()).collect();
                family.set_functions(all);
                return true;
            }
            // It may still answer: of no use any more.
            Ok(None) | Err(_) => link.io = None,
        }
    }
    false
}

/// One query of ours, all columns as text; `None`: it failed, or the server is gone.
async fn ask(io: &mut Stream, sql: &str) -> Option<Vec<Vec<String>>> {
    let mut out = Vec::new();
    frontend::put_query(&mut out, sql.as_bytes());
    io.write_all(&out).await.ok()?;
    let (mut input, mut rows, mut failed, mut seen) = (Vec::new(), Vec::new(), false, 0);
    loop {
        while let Found::Whole(frame) = frame::next(&input, MOST_BYTES as u32).ok()? {
            match frame.tag {
                tag::DATA_ROW => rows.push(backend::row(frame.body).ok()?),
                tag::ERROR => failed = true,
                tag::READY => return (!failed).then_some(rows),
                _ => {}
            }
            let used = frame.raw.len();
            input.drain(..used);
        }
        let count = io.read_buf(&mut input).await.ok().filter(|count| *count > 0)?;
        seen += count;
        if seen > MOST_BYTES {
            return None;
        }
    }
}

fn tell(worker: &Worker, family: &Family, change: Change) {
    let database = family.name();
    match change {
        Change::Primary(at) => {
            let Some(address) = family.members.get(at) else { return };
            worker.observer.emit(PrimaryChanged { database, address: Some(address) });
        }
        Change::NoPrimary => worker.observer.emit(PrimaryChanged { database, address: None }),
        Change::Split => worker.observer.emit(PrimarySplit { database }),
        Change::Replicas => {}
    }
}

fn show(worker: &Worker, family: &Family) {
    for (at, address) in family.members.iter().enumerate() {
        let server = address.to_string();
        let labels = [("database", family.name()), ("server", server.as_str())];
        let metrics = &worker.observer.metrics;
        let help = "Whether a server is the primary.";
        let primary = metrics.gauge("aqueduct_pg_primary", help, &labels);
        primary.set(if family.is_primary(at) { 1.0 } else { 0.0 });
        if let Some(lag) = family.lag(at) {
            let help = "How far a replica is behind, seconds.";
            metrics.gauge("aqueduct_pg_replica_lag_seconds", help, &labels).set(lag.as_secs_f64());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read() {
        let text = |row: [&str; 6]| row.map(str::to_owned);
        let now = Instant::now();
        let said = read(&text(["f", "-9", "0000000A", "50331672", "7", "0"]), now).expect("read");
        assert_eq!((said.recovers, said.timeline, said.position), (false, 10, 50_331_648));
        assert_eq!(said.system, -9);
        let said = read(&text(["t", "7", "10", "50331672", "7", "1500"]), now).expect("read");
        assert_eq!((said.recovers, said.timeline, said.position), (true, 10, 50_331_672));
        assert_eq!(said.age, Duration::from_millis(1500));
        assert_eq!(read(&text(["f", "7", "x", "1", "1", "1"]), now), None);
    }
}
