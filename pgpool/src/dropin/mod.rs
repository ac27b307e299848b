//! `pgpool pgbouncer.ini`: started as PgBouncer is, from its file, with its options, signals, pid file
//! and log. Not for the topology form. Called by `main`.
//!
//! Invariant: what the file says that we cannot do is told with file and line, and nothing starts.

pub mod lines;
mod process;
mod syslog;
mod takeover;

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::{ArgAction, Parser};
use common::cli;
use common::lifecycle::{Lifecycle, Phase};
use tokio::signal::unix::{SignalKind, signal};
use topology::pgbouncer::{self, Loaded, Process, Switch};

use crate::admin::verbs::Command;
use crate::control::Handle;
use crate::parting::Wait;
use crate::pool::Counters;
use crate::sockets::passed::{self, Passed};
use crate::{Before, Options, Past, start_after};
use lines::{Lines, Loud};
use process::PidFile;

/// The only instance of such a file.
const INSTANCE: &str = "pool-1";
/// Between two looks at whether a pause is complete.
const PAUSE_LOOK: Duration = Duration::from_millis(100);

/// Runs as PgBouncer does, from its configuration.
#[derive(Debug, Parser)]
#[command(name = "pgpool")]
struct Args {
    /// PgBouncer's configuration
    ini: PathBuf,
    /// Run in the background
    #[arg(short, long)]
    daemon: bool,
    /// Write nothing to standard error
    #[arg(short, long)]
    quiet: bool,
    /// Tell more; twice for all
    #[arg(short, long, action = ArgAction::Count)]
    verbose: u8,
    /// Become this user
    #[arg(short, long, value_name = "USER")]
    user: Option<String>,
    /// Take over from the process that runs: by its unix socket, or beside it
    #[arg(short = 'R', long)]
    reboot: bool,
}

/// Whether the arguments are PgBouncer's: no topology file is named, and something is.
pub fn is_asked(arguments: &[OsString], topology: Option<&OsString>) -> bool {
    let text = |argument: &OsString| argument.to_string_lossy().into_owned();
    let all: Vec<String> = arguments.iter().map(text).collect();
    let named = all.iter().any(|arg| arg.starts_with("-t") || arg.starts_with("--topology"));
    !named && topology.is_none() && all.iter().skip(1).any(|argument| !argument.starts_with('-'))
}

/// Runs; the process's exit code.
pub fn run() -> ExitCode {
    let args = Args::parse();
    let mut loaded = match pgbouncer::load(&args.ini) {
        Ok(loaded) => loaded,
        Err(fault) => return cli::refuse(2, &fault),
    };
    loaded.process.verbose = loaded.process.verbose.max(u32::from(args.verbose));
    if args.daemon && !process::is_background() {
        if passed::inherited().is_ok_and(|all| !all.is_empty()) {
            return cli::refuse(
                1,
                &"-d: sockets were passed to this process, not to another one: leave it out",
            );
        }
        return process::to_background();
    }
    if process::is_background() {
        process::leave_terminal();
    }
    let passed = match passed::inherited() {
        Ok(passed) => passed,
        Err(fault) => return cli::refuse(1, &fault),
    };
    // Before there is any other thread, and before anything is opened that is that user's: log, pid file, sockets.
    if let Some(user) = args.user.or_else(|| loaded.process.user.clone())
        && let Err(fault) = change_user(&mut loaded, &user)
    {
        return cli::refuse(1, &fault);
    }
    let loud = if args.quiet || process::is_background() { Loud::No } else { Loud::Yes };
    let lines = match Lines::new(loaded.process.clone(), loud) {
        Ok(lines) => lines,
        Err(fault) => return cli::refuse(1, &fault),
    };
    lines.install();
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(fault) => return cli::refuse(1, &fault),
    };
    let outcome = runtime.block_on(serve(loaded, &lines, args.reboot, passed));
    outcome.map_or_else(|fault| cli::refuse(1, &fault), |()| ExitCode::SUCCESS)
}

/// Becomes another user. What root has read stays known where that user may not read it.
fn change_user(loaded: &mut Loaded, name: &str) -> Result<(), String> {
    let Some(user) = process::other_user(name)? else { return Ok(()) };
    loaded.hold();
    process::become_user(&user)?;
    loaded.lend();
    Ok(())
}

async fn serve(
    loaded: Loaded,
    lines: &Lines,
    reboot: bool,
    passed: Vec<Passed>,
) -> Result<(), String> {
    let Loaded { topology, process, notes } = loaded;
    let options = Options::new(INSTANCE);
    let lifecycle = options.lifecycle.clone();
    let signals = Signals::new().map_err(|fault| fault.to_string())?;
    let former = process.pid_file.as_deref().and_then(process::running).filter(|_| reboot);
    let observer = options.observer.clone();
    let estate = match reboot {
        // Behind a socket of the file's path there may be this very process.
        true if passed.is_empty() => takeover::ask(&topology, INSTANCE, &observer).await?,
        _ => None,
    };
    for note in &notes {
        options.observer.emit(crate::events::Noted { what: note });
    }
    let pid_file = process.pid_file.as_deref();
    let (before, retired) = match (estate, former) {
        (Some(estate), _) => (Before::Estate(estate), None),
        (None, Some(former)) => (Before::Beside, Some(former)),
        (None, None) => (Before::Nobody, None),
    };
    let takes_over = matches!(before, Before::Estate(_));
    // Before anything is bound: a second process must not disturb the first. The file of one that hands
    // over is its own until it has.
    let early = pid_file.filter(|_| !takes_over);
    let mut written = early.map(|path| PidFile::write(path, former)).transpose()?;
    let past = Past { passed, ..Past::from(before) };
    let started = start_after(Arc::new(topology), INSTANCE, options, past);
    let running = started.await.map_err(|fault| fault.to_string())?;
    if let Some(former) = retired {
        process::retire(former);
    }
    if let Some(path) = pid_file.filter(|_| takes_over) {
        match PidFile::write(path, former) {
            Ok(file) => written = Some(file),
            // It serves, and alone.
            Err(fault) => observer.emit(crate::events::Noted { what: &fault }),
        }
    }
    observer.emit(crate::events::ProcessUp { version: env!("CARGO_PKG_VERSION") });
    process::tell_ready();
    let handle = running.handle();
    let told = async {
        tokio::select! {
            () = signals.follow(&handle, &lifecycle, lines) => {}
            () = tell_rates(&handle, &observer) => {}
        }
    };
    let finished = async {
        let outcome = running.finished().await;
        lifecycle.stop();
        outcome
    };
    let (outcome, ()) = tokio::join!(finished, told);
    drop(written);
    outcome.map_err(|fault| fault.to_string())
}

/// PgBouncer's signals: HUP reads the file again, USR1 pauses, USR2 resumes, INT ends when every server is
/// released; TERM, QUIT and a second INT at once, as before 1.23: units and scripts count on TERM to end.
struct Signals {
    hangup: tokio::signal::unix::Signal,
    pause: tokio::signal::unix::Signal,
    resume: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
    quit: tokio::signal::unix::Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            hangup: signal(SignalKind::hangup())?,
            pause: signal(SignalKind::user_defined1())?,
            resume: signal(SignalKind::user_defined2())?,
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            quit: signal(SignalKind::quit())?,
        })
    }

    /// Until the instance has stopped.
    async fn follow(mut self, handle: &Handle, lifecycle: &Lifecycle, lines: &Lines) {
        let shutdown = lifecycle.shutdown();
        let mut paused = false;
        let mut files = handle.files();
        loop {
            tokio::select! {
                () = shutdown.stopped() => return,
                _ = self.hangup.recv() => {
                    process::tell_reloading();
                    // Told to the log that could not be opened anew, which goes on.
                    let reopened = lines.reopen();
                    // What was wrong has been logged.
                    let _refused = handle.reload().await;
                    if let Err(fault) = reopened {
                        handle.note(&fault);
                    }
                    process::tell_ready();
                }
                // By HUP, or by RELOAD of the admin database.
                Ok(()) = files.changed() => {
                    let process = said_in(&files.borrow_and_update());
                    if let Err(fault) = lines.follow(&process) {
                        handle.note(&fault);
                    }
                }
                _ = self.pause.recv() => {
                    let report = handle.report().await;
                    if report.paused || report.suspended {
                        handle.note("got SIGUSR1, but already paused/suspended");
                        continue;
                    }
                    paused = true;
                    handle.tell(&Command::Pause(None)).await;
                }
                // What was begun is not taken back.
                _ = self.resume.recv(), if !handle.is_parting() => {
                    paused = false;
                    let report = handle.report().await;
                    if !report.paused && !report.suspended {
                        handle.note("got SIGUSR2, but not paused/suspended");
                        continue;
                    }
                    handle.tell(&Command::Resume(None)).await;
                }
                _ = self.interrupt.recv() => part(handle, lifecycle).await,
                _ = self.terminate.recv() => stop(lifecycle),
                _ = self.quit.recv() => stop(lifecycle),
                // Servers are closed as they become free, as by PAUSE.
                () = tokio::time::sleep(PAUSE_LOOK), if paused => {
                    handle.tell(&Command::CloseIdle(None)).await;
                }
            }
        }
    }
}

fn stop(lifecycle: &Lifecycle) {
    process::tell_stopping();
    lifecycle.stop();
}

/// Ends when every server is released; asked again, at once, and also where `SUSPEND` is in force: nothing would be
/// released, and nobody could end that any more.
async fn part(handle: &Handle, lifecycle: &Lifecycle) {
    let going = handle.is_parting() || lifecycle.phase() > Phase::Running;
    if going || handle.report().await.suspended {
        return stop(lifecycle);
    }
    process::tell_stopping();
    handle.part(Wait::Servers).await;
}

/// What a file says of the process.
fn said_in(file: &topology::SourceFile) -> Process {
    match &file.form {
        topology::Form::PgBouncer(process) => (**process).clone(),
        topology::Form::Topology => Process::default(),
    }
}

/// Tells the rates of each period, for ever.
async fn tell_rates(handle: &Handle, to: &common::observe::Observer) {
    let (mut before, mut files) = (Counters::default(), handle.files());
    loop {
        let Process { log_stats, stats_period, .. } = said_in(&files.borrow_and_update());
        let seconds = u64::from(stats_period.max(1));
        tokio::select! {
            () = tokio::time::sleep(Duration::from_secs(seconds)), if log_stats == Switch::On => {}
            // Another period begins.
            Ok(()) = files.changed() => continue,
            else => return std::future::pending().await,
        }
        let report = handle.report().await;
        let all = report.pools.iter().fold(Counters::default(), |all, p| all.plus(&p.totals));
        to.emit(crate::events::Rates { counts: all.since(&before), seconds });
        before = all;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// O3: which form a command line has.
    #[test]
    fn forms_of_the_command_line() {
        let asked = |line: &str, topology: Option<&str>| {
            let words: Vec<OsString> = line.split(' ').map(OsString::from).collect();
            is_asked(&words, topology.map(OsString::from).as_ref())
        };
        assert!(asked("pgpool /etc/pgbouncer/pgbouncer.ini", None));
        assert!(asked("pgpool -q -d -u postgres -R pgbouncer.ini", None));
        assert!(!asked("pgpool --topology stack.yaml", None));
        assert!(!asked("pgpool -t stack.yaml", None) && !asked("pgpool --help", None));
        assert!(!asked("pgpool --instance pool-1", Some("stack.yaml")));
        let args = Args::try_parse_from(["pgpool", "-qvv", "-u", "x", "a.ini"]).expect("lawful");
        assert!(args.quiet && args.verbose == 2 && args.user.as_deref() == Some("x"));
    }
}
