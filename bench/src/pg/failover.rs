//! How long nobody can write when the primary is lost: from the order to promote its replica to the
//! first write that the pooler passes on. Ours alone: `PgBouncer` has to be told. Not for whether a
//! write is lost: the tests look.
//!
//! Invariant: the clients write all along; nobody tells the pooler.

use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::Sheet;
use super::cases::Rig;
use super::clients;
use super::party::Kind;
use super::server::{PORT, Server};
use crate::figures::{Better, Column as _};
use crate::l4::clock::{now, pause};
use crate::process::Program;
use crate::progress;

/// Its row.
pub const NAME: &str = "primary lost: order to promote to first write";

const PRIMARY: &str = "127.0.78.3";
const REPLICA: &str = "127.0.78.4";
const LISTEN: &str = "127.0.78.11:16432";
const WRITERS: usize = 8;

/// Measures it.
pub fn measure(rig: &Rig<'_>, sheet: &mut Sheet) {
    if !rig.kinds.contains(&Kind::Pool) {
        return;
    }
    for round in 0..rig.terms.rounds {
        progress(&format!("{NAME}: round {} of {}", round + 1, rig.terms.rounds));
        match once(&rig.folder.join(format!("failover-{round}"))) {
            Ok(time) => {
                sheet.note((NAME, "s", Better::Low), Kind::Pool, round, time.as_secs_f64());
            }
            Err(fault) => sheet.notes.push(format!("{NAME}: {fault:#}")),
        }
    }
}

fn once(folder: &Path) -> Result<Duration> {
    std::fs::create_dir_all(folder)?;
    let primary = Server::empty(&folder.join("primary"), PRIMARY)?;
    clients::ask(&mut clients::client(&format!("{PRIMARY}:{PORT}"))?, "create table t (a int)")?;
    let replica = primary.replica(&folder.join("replica"), REPLICA)?;
    let _pooler = pooler(folder)?;
    let writes = Writes::default();
    std::thread::scope(|scope| {
        for _ in 0..WRITERS {
            scope.spawn(|| writes.go_on());
        }
        let time = writes.gap(&primary, &replica);
        writes.over.store(true, Ordering::Relaxed);
        time
    })
}

fn pooler(folder: &Path) -> Result<Program> {
    let (file, log) = (folder.join("pool.yaml"), folder.join("output.log"));
    let text = include_str!("../../rivals/pg/failover.yaml");
    let text = text.replace("LISTEN", LISTEN).replace("PRIMARY", &format!("{PRIMARY}:{PORT}"));
    std::fs::write(&file, text.replace("REPLICA", &format!("{REPLICA}:{PORT}")))?;
    let mut command = Command::new(Kind::Pool.program().context(Kind::Pool.installed_by())?);
    command.arg("--topology").arg(&file);
    Program::start(Kind::Pool.name(), &mut command, &log, LISTEN)
}

/// What the clients have written.
#[derive(Debug, Default)]
struct Writes {
    acknowledged: AtomicU64,
    over: AtomicBool,
}

impl Writes {
    /// Writes, one row at a time, and comes back whenever it is refused.
    fn go_on(&self) {
        while !self.over.load(Ordering::Relaxed) {
            let Ok(mut socket) = clients::client(LISTEN) else { continue };
            while clients::ask(&mut socket, "insert into t values (1)").is_ok() {
                self.acknowledged.fetch_add(1, Ordering::Relaxed);
                if self.over.load(Ordering::Relaxed) {
                    return;
                }
            }
        }
    }

    fn gap(&self, primary: &Server, replica: &Server) -> Result<Duration> {
        self.reach(1000)?;
        primary.kill()?;
        // What had been answered is counted now; the rest waits for a primary.
        pause(Duration::from_millis(200));
        let (before, ordered) = (self.acknowledged.load(Ordering::Relaxed), now());
        std::thread::scope(|scope| {
            let promoted = scope.spawn(|| replica.promote());
            self.reach(before + 1)?;
            let time = Duration::from_nanos(now() - ordered);
            promoted.join().ok().context("pg_ctl")??;
            Ok(time)
        })
    }

    fn reach(&self, count: u64) -> Result<()> {
        let most = now() + 60_000_000_000;
        while self.acknowledged.load(Ordering::Relaxed) < count {
            ensure!(now() < most, "nothing is written any more");
            pause(Duration::from_millis(1));
        }
        Ok(())
    }
}
