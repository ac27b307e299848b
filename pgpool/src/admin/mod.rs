//! The admin database `pgbouncer`: statements by simple or extended protocol, answered from what
//! all workers report. Not for what they change (`verbs`) and not for tables (`show`). Called once
//! per client that logs in to it.
//!
//! Invariant: who may only look cannot change anything.

mod config;
pub mod exporter;
pub mod report;
pub mod seat;
pub mod setting;
pub mod show;
mod stats;
pub mod verbs;

use std::rc::Rc;
use std::time::Duration;

use pgpool_wire::backend::{self, Status};
use pgpool_wire::frame::{self, Found, Frame};
use pgpool_wire::frontend::{self, Parse, Subject, tag};
use tokio::io::AsyncReadExt;
use tokio::sync::oneshot;
use topology::pool::Console;

use crate::client::goodbye;
use crate::client::startup::Door;
use crate::control::Handle;
use crate::events::ConsoleCommand;
use crate::fatal::Refusal;
use crate::worker::{Message, Worker};
use report::{PoolRow, Report};
use seat::{Abort, Seat};
use show::{HELP, Table};
use verbs::{Command, Haste, Statement};

/// Longest statement.
const LONGEST: u32 = 64 << 10;
/// `TAKEOVER` by anybody else.
const ASKED_WRONGLY: &str = "TAKEOVER is what a new process of the same user says by unix socket";
/// Between two looks at whether all servers have become free.
const PAUSE_LOOK: Duration = Duration::from_millis(10);

/// Who is let in.
pub struct Guest {
    /// The user.
    pub user: String,
    /// What it may do.
    pub rights: Console,
    /// Where cancel requests reach it.
    pub seat: Seat,
}

/// Serves one client of the admin database until it leaves or the instance drains.
pub async fn serve(worker: Rc<Worker>, mut door: Door, guest: Guest) {
    let mut console = Talk { worker: Rc::clone(&worker), guest, statement: None, failed: false };
    let draining = worker.lifecycle.shutdown();
    let refusal = tokio::select! {
        refusal = console.run(&mut door) => refusal,
        () = draining.draining() => Some(Refusal::ShuttingDown),
    };
    if let Some(refusal) = refusal {
        goodbye(&mut door.io, &refusal).await;
    }
}

struct Talk {
    worker: Rc<Worker>,
    guest: Guest,
    /// The one that was parsed or bound last.
    statement: Option<String>,
    /// An error of the extended protocol: nothing is done up to Sync.
    failed: bool,
}

impl Talk {
    async fn run(&mut self, door: &mut Door) -> Option<Refusal> {
        loop {
            let (tag, body) = match read(door).await {
                Ok(Some(message)) => message,
                Ok(None) => return None,
                Err(refusal) => return Some(refusal),
            };
            if tag == tag::TERMINATE {
                return None;
            }
            let mut out = Vec::new();
            if let Some((process, handle)) = self.successor(tag, &body, door) {
                return self.take_over(door, process, &handle).await;
            }
            let abort = Rc::clone(&self.guest.seat.abort);
            tokio::select! {
                biased;
                () = self.message(tag, &body, &mut out) => {}
                () = watch(door, &abort) => {}
            }
            if door.write(&out).await.is_err() {
                return None;
            }
        }
    }

    /// The process that asks to take over, where it may: one of the same user, by unix socket.
    fn successor(&self, tag: u8, body: &[u8], door: &Door) -> Option<(u32, Handle)> {
        let asked = tag == tag::QUERY && self.guest.rights == Console::Admin;
        let sql = text(frontend::query(body)).ok().filter(|_| asked)?;
        let (process, uid) = door.io.peer_process()?;
        let may = uid == self.worker.snapshot().uid && door.input.is_empty();
        let wants = verbs::parse(&sql) == Ok(Statement::TakeOver);
        self.worker.handle.clone().filter(|_| may && wants).map(|handle| (process, handle))
    }

    /// From here on the connection is the way from this process to the next.
    async fn take_over(&self, door: &mut Door, process: u32, handle: &Handle) -> Option<Refusal> {
        self.note("TAKEOVER");
        let mut out = Vec::new();
        backend::put_command(&mut out, "TAKEOVER");
        backend::put_ready(&mut out, Status::Idle);
        door.write(&out).await.ok()?;
        let socket = door.io.give_away().ok()??;
        handle.yield_to(socket.into(), process);
        None
    }

    async fn message(&mut self, tag: u8, body: &[u8], out: &mut Vec<u8>) {
        match tag {
            tag::QUERY => {
                let done = match text(frontend::query(body)) {
                    Ok(sql) => self.simple(&sql, out).await,
                    Err(refusal) => Err(refusal),
                };
                if let Err(refusal) = done {
                    refusal.put_error(out);
                }
                backend::put_ready(out, Status::Idle);
            }
            tag::SYNC => {
                self.failed = false;
                backend::put_ready(out, Status::Idle);
            }
            _ if self.failed => {}
            tag => {
                if let Err(refusal) = self.extended(tag, body, out).await {
                    self.failed = true;
                    refusal.put_error(out);
                }
            }
        }
    }

    async fn simple(&self, sql: &str, out: &mut Vec<u8>) -> Result<(), Refusal> {
        // Exporters join nothing; drivers may send several settings at once.
        let parts = verbs::split(sql);
        for part in &parts {
            let statement = verbs::parse(part)?;
            if statement == Statement::Empty {
                continue;
            }
            match self.show(&statement).await? {
                Some(table) => {
                    table.put_columns(out);
                    table.put_rows(out);
                }
                None => self.carry_out(&statement, out).await?,
            }
        }
        if parts.iter().all(|part| part.trim().is_empty()) {
            backend::put_empty(out, backend::tag::EMPTY_QUERY);
        }
        Ok(())
    }

    async fn extended(&mut self, tag: u8, body: &[u8], out: &mut Vec<u8>) -> Result<(), Refusal> {
        match tag {
            tag::PARSE => {
                let sql = text(Parse::read(body).map(|parse| parse.query))?;
                verbs::parse(&sql)?;
                self.statement = Some(sql);
                backend::put_empty(out, backend::tag::PARSE_COMPLETE);
            }
            tag::BIND => backend::put_empty(out, backend::tag::BIND_COMPLETE),
            tag::CLOSE => backend::put_empty(out, backend::tag::CLOSE_COMPLETE),
            tag::DESCRIBE => {
                if frontend::subject(body)?.0 == Subject::Statement {
                    frame::put(out, backend::tag::PARAMETER_DESCRIPTION, |out| {
                        out.extend_from_slice(&[0, 0]);
                    });
                }
                match self.show(&self.parsed()?).await? {
                    Some(table) => table.put_columns(out),
                    None => backend::put_empty(out, backend::tag::NO_DATA),
                }
            }
            tag::EXECUTE => {
                let statement = self.parsed()?;
                match self.show(&statement).await? {
                    Some(table) => table.put_rows(out),
                    None => self.carry_out(&statement, out).await?,
                }
            }
            tag::FLUSH => {}
            other => return Err(Refusal::Protocol(format!("unexpected message type {other}"))),
        }
        Ok(())
    }

    fn parsed(&self) -> Result<Statement, Refusal> {
        verbs::parse(self.statement.as_deref().unwrap_or_default())
    }

    /// The table of a SHOW; `None` for other statements.
    async fn show(&self, statement: &Statement) -> Result<Option<Table>, Refusal> {
        let Statement::Show(what) = statement else { return Ok(None) };
        if what == "HELP" {
            return Ok(None);
        }
        let report = Report::of_all(&self.worker.peers).await;
        if what == "FDS" && self.guest.rights != Console::Admin {
            return Err(Refusal::ConsoleReadOnly(self.guest.user.clone()));
        }
        let table = show::table(what, &report, &self.worker.snapshot());
        table.map(Some).ok_or_else(|| Refusal::ConsoleSyntax(format!("there is: {HELP}")))
    }

    async fn carry_out(&self, statement: &Statement, out: &mut Vec<u8>) -> Result<(), Refusal> {
        let changes =
            !matches!(statement, Statement::Show(_) | Statement::Nothing(_) | Statement::Empty);
        if changes && self.guest.rights != Console::Admin {
            return Err(Refusal::ConsoleReadOnly(self.guest.user.clone()));
        }
        match statement {
            Statement::Tell(command, tag) => self.tell(command, tag, out).await?,
            Statement::Shutdown(haste) => {
                self.note("SHUTDOWN");
                match haste {
                    Haste::When(wait) => {
                        let handle = self.worker.handle.clone().ok_or_else(no_file)?;
                        handle.part(*wait).await;
                    }
                    Haste::Now => self.worker.lifecycle.stop(),
                }
                backend::put_command(out, "SHUTDOWN");
            }
            Statement::Reload => {
                self.note("RELOAD");
                let handle = self.worker.handle.clone().ok_or_else(no_file)?;
                handle.reload().await.map_err(Refusal::Reload)?;
                backend::put_command(out, "RELOAD");
            }
            Statement::WaitClose(database) => {
                database.as_ref().map_or(Ok(()), |name| verbs::is_there(&self.worker, name))?;
                if !self.guest.seat.abort.wait(self.closed(database.as_deref())).await {
                    return Err(Refusal::Cancelled);
                }
                backend::put_command(out, "WAIT_CLOSE");
            }
            Statement::Set(key, value) => {
                self.note("SET");
                let handle = self.worker.handle.clone().ok_or_else(no_file)?;
                handle.set(key, value).await.map_err(Refusal::ConsoleSyntax)?;
                backend::put_command(out, "SET");
            }
            Statement::TakeOver => return Err(Refusal::ConsoleSyntax(ASKED_WRONGLY.to_owned())),
            Statement::Nothing(tag) => {
                if *tag == "SET" {
                    crate::fatal::put_notice(out, "SET ignored");
                }
                backend::put_command(out, tag);
            }
            Statement::Show(_) | Statement::Empty => {
                crate::fatal::put_notice(out, HELP);
                backend::put_command(out, "SHOW");
            }
        }
        Ok(())
    }

    fn note(&self, command: &str) {
        self.worker.observer.emit(ConsoleCommand { user: &self.guest.user, command });
    }

    async fn tell(
        &self,
        command: &Command,
        tag: &'static str,
        out: &mut Vec<u8>,
    ) -> Result<(), Refusal> {
        command.check(&self.worker)?;
        if let Some(database) = command.database() {
            // One that only `*` stands for is shown from now on.
            let _known = self.worker.snapshot().database(database);
        }
        self.note(tag);
        let concerned = self.broadcast(command).await;
        match command {
            Command::Pause(database) => {
                let paused = self.paused(database.as_deref());
                self.wait(paused, Command::Resume(database.clone())).await?;
            }
            Command::Suspend => self.wait(self.suspended(), Command::Resume(None)).await?,
            Command::KillClient(pid) if concerned == 0 => {
                return Err(Refusal::ConsoleSyntax(format!("there is no client {pid}")));
            }
            _ => {}
        }
        backend::put_command(out, tag);
        Ok(())
    }

    /// Waits; who gives that up has not paused anything, as under PgBouncer.
    async fn wait(&self, what: impl Future<Output = ()>, undo: Command) -> Result<(), Refusal> {
        if self.guest.seat.abort.wait(what).await {
            return Ok(());
        }
        self.broadcast(&undo).await;
        Err(Refusal::Cancelled)
    }

    /// `PAUSE` is answered when every server is free and closed.
    async fn paused(&self, database: Option<&str>) {
        let concerns = |name: &str| database.is_none_or(|wanted| wanted == name);
        loop {
            let report = Report::of_all(&self.worker.peers).await;
            let concerned = report.pools.iter().filter(|pool| concerns(&pool.database));
            let mut paused = concerned.filter(|pool| pool.paused);
            if paused.all(PoolRow::is_bare) {
                break;
            }
            self.broadcast(&Command::CloseIdle(database.map(str::to_owned))).await;
            tokio::time::sleep(PAUSE_LOOK).await;
        }
    }

    /// `SUSPEND` is answered when no server works for anybody.
    async fn suspended(&self) {
        // Who replicates is given no server: there is nothing to wait for.
        let works =
            |report: &Report| report.pools.iter().any(|pool| pool.load.active > pool.load.apart);
        while works(&Report::of_all(&self.worker.peers).await) {
            tokio::time::sleep(PAUSE_LOOK).await;
        }
    }

    /// `WAIT_CLOSE` is answered when no server is left that is to be closed.
    async fn closed(&self, database: Option<&str>) {
        let concerns = |name: &str| database.is_none_or(|wanted| wanted == name);
        let left = |report: &Report| {
            report.servers.iter().any(|server| server.condemned && concerns(&server.database))
                || report.pools.iter().any(|pool| pool.moving > 0 && concerns(&pool.database))
        };
        while left(&Report::of_all(&self.worker.peers).await) {
            tokio::time::sleep(PAUSE_LOOK).await;
        }
    }

    /// Tells all workers; how many things it concerned.
    async fn broadcast(&self, command: &Command) -> usize {
        let mut concerned = 0;
        for peer in self.worker.peers.iter() {
            let (to, from) = oneshot::channel();
            if peer.send(Message::Command(command.clone(), to)).is_ok() {
                concerned += from.await.unwrap_or(0);
            }
        }
        concerned
    }
}

fn no_file() -> Refusal {
    Refusal::Reload("this instance was not started from a file".to_owned())
}

fn text(sql: Result<&[u8], pgpool_wire::Malformed>) -> Result<String, Refusal> {
    Ok(String::from_utf8_lossy(sql?).into_owned())
}

/// Reads ahead while a command is carried out; a client that is gone waits for nothing. Goes on for ever: what
/// is carried out is never left in the middle.
async fn watch(door: &mut Door, abort: &Abort) {
    while door.input.len() < LONGEST as usize {
        if !matches!(door.io.read_buf(&mut door.input).await, Ok(count) if count > 0) {
            // The next wait of the same message is given up as well.
            abort.close();
            break;
        }
    }
    std::future::pending::<()>().await;
}

/// The next message; `None`: the client is gone.
async fn read(door: &mut Door) -> Result<Option<(u8, Vec<u8>)>, Refusal> {
    loop {
        if let Found::Whole(Frame { tag, body, raw }) = frame::next(&door.input, LONGEST)? {
            let (message, used) = ((tag, body.to_vec()), raw.len());
            door.input.drain(..used);
            return Ok(Some(message));
        }
        if !matches!(door.io.read_buf(&mut door.input).await, Ok(count) if count > 0) {
            return Ok(None);
        }
    }
}
