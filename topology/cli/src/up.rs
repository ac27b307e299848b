//! `aqueduct up`: the whole stack of a topology file on this machine, from nothing to `ready`, a
//! live view while it runs, and a clean end. Never needed in production. Called by `main`.
//!
//! Invariant: when `run` returns, no process that it started is left.

pub(crate) mod control;
mod fleet;
pub(crate) mod folder;
mod follow;
mod hints;
mod isolate;
mod launch;
mod pki;
pub(crate) mod plan;
mod ports;
mod postgres;
mod progress;
mod provide;
mod ready;
mod secrets;
mod signals;
pub(crate) mod source;
mod spawn;
mod status;
mod view;

use std::io::{IsTerminal, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context, bail};
use tokio::sync::watch::{Sender, channel};
use tokio::time::Instant;
use topology::Topology;
use topology::problem::{LoadError, Shown};

use self::fleet::Fleet;
use self::folder::{Folder, Lock};
use self::follow::Watched;
use self::hints::Hint;
use self::isolate::Isolation;
use self::launch::Workshop;
use self::plan::{Does, Plan};
use self::postgres::Postgres;
use self::progress::Progress;
use self::signals::{Said, Signals};
use self::source::Source;
use self::view::{Key, Picture, Screen};
use crate::file;
use crate::stacks;
use crate::watch::page::Page;
use crate::watch::roster::Roster;
use crate::watch::watcher::Watcher;

/// Starts everything in a topology file on this machine and keeps it running
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "flags of a command line, independent of each other"
)]
pub(crate) struct Args {
    /// The topology file, or the name of a ready stack [default: instagram-valorant, the documented one]
    #[arg(value_name = "FILE|NAME")]
    file: Option<PathBuf>,
    /// Names the ready stacks, a line each
    #[arg(long, exclusive = true)]
    list: bool,
    /// Where certificates, databases and logs are kept [default: /var/lib/aqueduct/NAME for root,
    /// else ~/.local/state/aqueduct/NAME]
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
    /// One line per event instead of the live view, as without a terminal
    #[arg(long)]
    plain: bool,
    /// Log level of the tiers
    #[arg(long, value_name = "LEVEL", default_value = "info")]
    log: String,
    /// Puts every part into a network namespace of its own, with a firewall that lets through only what
    /// the file wires; needs root
    #[arg(long)]
    isolate: bool,
    /// Applies the file whenever it is saved, as HUP to `up` does once; one with problems is told, and all
    /// goes on as before
    #[arg(long, requires = "file", conflicts_with = "isolate")]
    watch: bool,
    /// How long connections may take to end after Ctrl-C before they are cut, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    drain: u16,
    /// Where the live page is served, on loopback [default: 127.0.0.1:9180, or another port where that
    /// is taken]
    #[arg(long, value_name = "ADDRESS", value_parser = loopback)]
    page: Option<SocketAddr>,
}

/// Whom `up` starts nobody else should watch; `watch` serves others, for a token.
fn loopback(text: &str) -> Result<SocketAddr, String> {
    let at: SocketAddr = text.parse().map_err(|_| "write ADDRESS:PORT".to_owned())?;
    let here = at.ip().is_loopback();
    here.then_some(at).ok_or_else(|| "not a loopback address: see `aqueduct watch`".to_owned())
}

/// Runs the stack until Ctrl-C, TERM or `q`; HUP applies its file.
pub(crate) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    if args.list {
        std::io::stdout().lock().write_all(stacks::list().as_bytes())?;
        return Ok(ExitCode::SUCCESS);
    }
    let progress = Progress::new(Instant::now());
    let mut signals = Signals::new()?;
    let source = Source::open(args.file.as_deref())?;
    if args.watch && source.is_ready() {
        let name = &source.stack;
        bail!(
            "{name} is no file that could be saved: `aqueduct init {name} -o {name}.yaml`, and watch that"
        );
    }
    if let Some(file) = &args.file
        && let Err(LoadError::Problems(problems)) = file::read(file)?
    {
        progress.plain(&problems.to_string());
        return Ok(ExitCode::from(2));
    }
    let prepared = tokio::select! {
        prepared = prepare(&args, &source, &progress) => prepared?,
        () = signals.end() => return Ok(ExitCode::SUCCESS),
    };
    let Prepared { topology, fleet, _lock } = prepared;
    let watched = args.file.as_deref().filter(|_| args.watch);
    let watched = watched.map(|file| Watched::new(file, source.text.clone().into_bytes()));
    let (fleets, current) = channel(fleet.clone());
    let _control = control::serve(current)?;
    let started = tokio::select! {
        started = fleet.start() => started.map(|()| true),
        () = signals.end() => Ok(false),
    };
    let limit = Duration::from_secs(args.drain.into());
    let outcome = match started {
        Ok(true) => {
            let watcher = Watcher::start(&source.stack, &topology, roster(&topology, &fleet)?);
            let (watchers, seen) = channel(watcher);
            let page = match Page::open(seen, args.page, None).await {
                Ok(page) => Some(page),
                Err(error) => {
                    progress.warn("no page", &format!("{error:#}"));
                    None
                }
            };
            let hints = hints_of(&topology, &fleet, page.as_ref());
            announce(&progress, &source, &fleet, &hints);
            let live = std::io::stdout().is_terminal() && !args.plain;
            let file = followed(&args, &source);
            let mut stack =
                Stack { fleets: &fleets, watchers, topology, page, hints, file, watched, limit };
            watch(&mut stack, &progress, &mut signals, live).await
        }
        Ok(false) => Ok(()),
        Err(error) => Err(error),
    };
    match &outcome {
        Ok(()) => progress.note("stopping", "the edge drains first; Ctrl-C again cuts all"),
        Err(_) => progress.warn("stopping", "since one part could not be started"),
    }
    let fleet = fleets.borrow().clone();
    tokio::select! {
        () = fleet.stop(limit) => {}
        () = signals.end() => fleet.kill().await,
    }
    Ok(match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            progress.failed(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    })
}

/// All that is known before the first process starts.
struct Prepared {
    topology: Topology,
    fleet: Fleet,
    _lock: Lock,
}

/// Checks everything that can be checked beforehand and makes what is missing.
async fn prepare(args: &Args, source: &Source, progress: &Progress) -> anyhow::Result<Prepared> {
    let folder = Folder::named(args.state.as_deref(), &source.stack)?;
    progress.bold(&format!("aqueduct up: {}, kept in {}", source.shown, folder.root().display()));
    folder.make()?;
    let lock = folder.lock()?;
    let copy = source.copy_to(&folder)?;
    let text = std::fs::read_to_string(&copy)?;
    let topology = topology::parse(&source.shown, &text, folder.root())?;
    for problem in &topology.warnings {
        progress.plain(Shown { problem, source: &topology.source }.to_string().trim_end());
    }
    let plan = Plan::new(&topology)?;
    if plan.parts.is_empty() {
        bail!("{}: nothing to run: it has no tier and no service with `run:`", source.shown);
    }
    let own = std::env::current_exe().context("where is this program?")?;
    let programs = launch::programs(&plan, &own)?;
    // In namespaces nobody else has the ports.
    let foreign = if args.isolate { Vec::new() } else { running_redis(&plan).await };
    if !args.isolate {
        let faults = ports::faults(&plan, &source.shown, &foreign);
        if !faults.is_empty() {
            bail!("nothing was started:\n{}", faults.join("\n"));
        }
    }
    let postgres = match plan.parts.iter().any(|part| matches!(part.does, Does::Primary(_))) {
        true => {
            let postgres = Postgres::find(&folder)?;
            postgres.prepare()?;
            Some(postgres)
        }
        false => None,
    };
    let provided = provide::provide(&topology, &plan, &folder, SystemTime::now())?;
    for made in &provided.made {
        progress.note("made", made);
    }
    let log = args.log.clone();
    let (isolation, plan) = match args.isolate {
        true => {
            let isolation = Isolation::lay(&folder.root().display().to_string(), &plan)?;
            let plan = isolation.seen(plan);
            (Some(Arc::new(isolation)), plan)
        }
        false => (None, plan),
    };
    let workshop =
        Workshop { folder, topology: copy, programs, postgres, provided, log, isolation };
    let fleet = Fleet::new(plan, workshop, progress.clone(), foreign);
    Ok(Prepared { topology, fleet, _lock: lock })
}

/// Redis that answers already is used, not started.
async fn running_redis(plan: &Plan) -> Vec<usize> {
    let mut running = Vec::new();
    for (index, part) in plan.parts.iter().enumerate() {
        if matches!(part.does, Does::Redis) && ready::redis(part.address()).await.is_ok() {
            running.push(index);
        }
    }
    running
}

/// Whom the live page asks.
fn roster(topology: &Topology, fleet: &Fleet) -> anyhow::Result<Roster> {
    let mut roster = Roster::of(topology, None)?;
    for one in &mut roster.instances {
        // In namespaces they are elsewhere.
        let part = fleet.plan().parts.iter().find(|part| part.name == one.name);
        one.admin = part.and_then(|part| part.admin);
    }
    Ok(roster)
}

/// What to paste.
fn hints_of(topology: &Topology, fleet: &Fleet, page: Option<&Page>) -> Vec<Hint> {
    let mut hints = hints::hints(topology, fleet.plan(), fleet.workshop(), &tool());
    if let Some(isolation) = &fleet.workshop().isolation {
        hints = hints::inside(hints, &isolation.clients());
    }
    page.map(hints::page).into_iter().chain(hints).collect()
}

fn announce(progress: &Progress, source: &Source, fleet: &Fleet, hints: &[Hint]) {
    progress.plain("");
    let stand_ins = hints::stand_ins(fleet.plan());
    if !stand_ins.is_empty() {
        progress.plain(&stand_ins);
        progress.plain("");
    }
    for hint in hints {
        progress.plain(&format!("# {}", hint.what));
        progress.plain(&format!("{}\n", hint.command));
    }
    let logs = fleet.workshop().folder.path("logs");
    progress.plain(&format!("# what each part says\ntail -f {}/NAME.log\n", logs.display()));
    let parts = fleet.plan().parts.len();
    let seconds = progress.elapsed();
    progress.plain(&format!(
        "{}: {parts} parts in {seconds:.1} s. Ctrl-C ends them all.",
        source.stack
    ));
    progress.bold("ready");
}

/// What is shown, and changed with its file.
struct Stack<'a> {
    fleets: &'a Sender<Fleet>,
    watchers: Sender<Watcher>,
    topology: Topology,
    page: Option<Page>,
    hints: Vec<Hint>,
    /// What is applied when it is saved, or on HUP; or why nothing is.
    file: Result<PathBuf, String>,
    watched: Option<Watched>,
    /// How long what is removed may take to end.
    limit: Duration,
}

impl Stack<'_> {
    /// Goes by the saved file, or says why not: whether it did, and what there is to say.
    async fn follow(&mut self, progress: &Progress) -> (bool, Vec<String>) {
        match self.try_to_follow(progress).await {
            Ok(words) => (true, words),
            Err(error) => (false, format!("{error:#}").lines().map(str::to_owned).collect()),
        }
    }

    async fn try_to_follow(&mut self, progress: &Progress) -> anyhow::Result<Vec<String>> {
        let file = self.file.as_ref().map_err(|why| anyhow::anyhow!("{why}"))?;
        let fleet = self.fleets.borrow().clone();
        let applied = follow::apply(file, &fleet, &self.topology, progress, self.limit).await?;
        self.hints = hints_of(&applied.topology, &applied.fleet, self.page.as_ref());
        let roster = roster(&applied.topology, &applied.fleet)?;
        self.watchers.send_modify(|watcher| *watcher = watcher.changed(&applied.topology, roster));
        self.fleets.send_replace(applied.fleet);
        self.topology = applied.topology;
        Ok(applied.words)
    }
}

/// What can be applied while it runs.
fn followed(args: &Args, source: &Source) -> Result<PathBuf, String> {
    match &args.file {
        _ if args.isolate => {
            Err("network namespaces are laid once: end `up` and start it again".to_owned())
        }
        Some(file) if !source.is_ready() => Ok(file.clone()),
        _ => Err(format!("{} is no file that could have changed", source.stack)),
    }
}

/// Waits until the file was saved; for ever, where nobody asked for that. Cancel safe.
async fn saved(watched: &mut Option<Watched>) {
    match watched {
        Some(watched) => watched.saved().await,
        None => std::future::pending().await,
    }
}

/// Shows the stack until somebody ends it.
async fn watch(
    stack: &mut Stack<'_>,
    progress: &Progress,
    signals: &mut Signals,
    live: bool,
) -> anyhow::Result<()> {
    let mut screen = if live { Some(Screen::open()?) } else { None };
    let ready_at = Instant::now();
    let mut tick = tokio::time::interval(Duration::from_secs(1));
    let mut lines = Vec::new();
    let mut events: Vec<String> = Vec::new();
    let mut ended = Vec::new();
    loop {
        let (fleet, watcher) = (stack.fleets.borrow().clone(), stack.watchers.borrow().clone());
        let follow = tokio::select! {
            said = signals.next() => match said {
                Said::End => return Ok(()),
                Said::Again => true,
            },
            (index, status) = fleet.next_end(&ended) => {
                ended.push(index);
                let text = fleet.obituary(index, status);
                match &screen {
                    None => progress.warn("down", &text),
                    Some(_) => events.extend(text.lines().map(str::to_owned)),
                }
                false
            }
            () = saved(&mut stack.watched) => true,
            key = pressed(screen.as_mut()) => {
                if key == Key::Quit {
                    return Ok(());
                }
                if let Some(screen) = &mut screen {
                    screen.press(key, fleet.plan().parts.len())?;
                }
                false
            }
            _ = tick.tick(), if screen.is_some() => {
                lines = status::look(&fleet, &watcher, &lines).await;
                false
            }
        };
        if follow {
            progress.keep(screen.is_some());
            let followed = tokio::select! {
                followed = stack.follow(progress) => Some(followed),
                // What was begun ends with all the rest.
                () = signals.end() => None,
            };
            let Some((applied, words)) = followed else {
                progress.keep(false);
                return Ok(());
            };
            tell(progress, applied, &words);
            events.extend(progress.kept());
            if applied {
                (lines, ended) = (Vec::new(), Vec::new());
            }
            ended.retain(|index| stack.fleets.borrow().ended(*index).is_some());
            continue;
        }
        if let Some(screen) = &mut screen {
            screen.draw(&Picture {
                stack: watcher.name(),
                running: ready_at.elapsed(),
                parts: &fleet.plan().parts,
                lines: &lines,
                events: &events,
                hints: &stack.hints,
            })?;
        }
    }
}

/// What became of a saved file.
fn tell(progress: &Progress, applied: bool, words: &[String]) {
    words.iter().for_each(|line| progress.plain(line));
    match (applied, words.len()) {
        (true, 0) => progress.note("applied", "the saved file: it says the same as before"),
        (true, _) => progress.note("applied", "the saved file"),
        (false, _) => progress.warn("refused", "the saved file; everything goes on as before"),
    }
}

/// The next key; never, without a screen.
async fn pressed(screen: Option<&mut Screen>) -> Key {
    match screen {
        Some(screen) => screen.key().await,
        None => std::future::pending().await,
    }
}

/// How this program is called in commands to paste.
fn tool() -> String {
    let own = std::env::current_exe().ok();
    let on_path = spawn::find_program("aqueduct");
    match own {
        Some(own) if on_path.as_ref() != Some(&own) => own.display().to_string(),
        _ => "aqueduct".to_owned(),
    }
}

const EXAMPLES: &str = "\
Examples:
  aqueduct up                          the documented stack: game UDP, HTTPS with tokens, SQL
  aqueduct up canary                   another ready one; --list names them all
  aqueduct up shop.yaml                your own
  sudo aqueduct up --isolate shop.yaml each part in a network namespace, wired as the file says
  aqueduct up --watch shop.yaml        applies the file whenever it is saved; without it HUP does,
                                       once: pkill -HUP -f 'aqueduct up shop.yaml'
  aqueduct up --state ./run --plain    everything it makes in ./run, one line per event

PostgreSQL is looked for in PG_BIN, by pg_config, and in /usr/lib/postgresql. Exit code: 0 ended by
you, 1 could not start, 2 the topology file has problems.";
