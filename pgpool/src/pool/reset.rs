//! What happens to a server between two clients: rolled back, cleaned, or closed. Not for deciding
//! which: that is `pool`. Each runs as a small task of the home worker.
//!
//! Invariant: bounded in time and bytes; whatever is not exactly as expected closes the server.

use std::mem::MaybeUninit;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use pgpool_wire::backend::{self, Status, tag};
use pgpool_wire::frame::{self, Found};
use pgpool_wire::frontend;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, ReadBuf};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout};

use super::Pool;
use super::whole::Coming;
use crate::query::Trace;
use crate::relay::answer::Answer;
use crate::relay::edit::Edit;
use crate::relay::link::{Memory, Wear};
use crate::server::{self, Server, ServerPhase};
use crate::worker::Worker;

/// A server that does not finish cleaning within this time is closed.
const LONGEST: Duration = Duration::from_secs(1);
/// A cancel request takes no longer.
const LONGEST_CANCEL: Duration = Duration::from_secs(5);
/// A server that has not gone after it counts no longer.
const LONGEST_GOODBYE: Duration = Duration::from_secs(5);
/// Answers to cleaning are short.
const MOST_BYTES: usize = 64 << 10;

/// Answers to a client that is gone are read up to so many bytes, and so long.
const MOST_DRAINED: usize = 8 << 20;
/// PostgreSQL forgets a cancel request that arrives before the query has begun: it is repeated until
/// there is an answer.
const CANCEL_AGAIN: Duration = Duration::from_millis(100);
/// See [`MOST_DRAINED`].
const LONGEST_DRAIN: Duration = Duration::from_secs(2);

/// The client left in the middle of something: cancels it, reads its answers, then goes on as if it
/// had left after them. The cancel requests are over before anything else is said.
pub fn drain(pool: Rc<Pool>, mut server: Box<Server>) {
    server.facts.phase.set(ServerPhase::Cleaning);
    let Some(worker) = pool.worker.upgrade() else { return };
    tokio::task::spawn_local(async move {
        let (facts, answered) = (Rc::clone(&server.facts), Notify::new());
        let cancels = async {
            loop {
                let cancel = crate::cancel::send(&*worker.dialer, &facts);
                if !matches!(timeout(LONGEST_CANCEL, cancel).await, Ok(Ok(()))) {
                    return false;
                }
                if timeout(CANCEL_AGAIN, answered.notified()).await.is_ok() {
                    return true;
                }
            }
        };
        let answers = async {
            let answers = timeout(LONGEST_DRAIN, read_out(&mut server)).await;
            answered.notify_one();
            matches!(answers, Ok(Some(())))
        };
        if matches!(tokio::join!(cancels, answers), (true, true)) {
            pool.abandon(server);
        } else {
            pool.discard(server);
        }
    });
}

/// Reads until nothing is due any more; `None`: it came otherwise than it should.
async fn read_out(server: &mut Server) -> Option<()> {
    let mut nobody = Memory::default();
    let mut input = std::mem::take(&mut server.carry);
    let (mut out, mut scrap, mut total) = (Vec::new(), Vec::new(), 0);
    loop {
        scrap.clear();
        let mut edit = Edit::new(&input, &mut scrap);
        Answer { client: &mut nobody, server: &mut server.talk }.run(&mut edit).ok()?;
        let used = edit.consumed();
        input.drain(..used);
        if !server.is_tractable() || total > MOST_DRAINED {
            return None;
        }
        server.talk.ledger.conclude(&mut out);
        server.io.write_all(&std::mem::take(&mut out)).await.ok()?;
        if server.is_settled() && input.is_empty() {
            break;
        }
        total += server.io.read_buf(&mut input).await.ok().filter(|count| *count > 0)?;
    }
    // Settings that were being made for the client are in no memory any more.
    server.talk.wear(if nobody.tie.is_some() { Wear::Full } else { Wear::Settings });
    Some(())
}

/// The client left inside a transaction: ends it, then hands the server on.
pub fn roll_back(pool: Rc<Pool>, mut server: Box<Server>) {
    server.facts.phase.set(ServerPhase::Cleaning);
    tokio::task::spawn_local(async move {
        let done = timeout(LONGEST, query(&mut server, b"ROLLBACK")).await;
        if matches!(done, Ok(true)) { pool.checkin(server) } else { pool.discard(server) }
    });
}

/// Makes a worn server as new, then hands it on.
pub fn clean(pool: Rc<Pool>, mut server: Box<Server>) {
    let Some(worker) = pool.worker.upgrade() else { return };
    let (reset, database) = (worker.settings().server_reset_query.clone(), pool.database());
    server.facts.phase.set(ServerPhase::Cleaning);
    tokio::task::spawn_local(async move {
        let again = database.prelude.query.as_deref();
        let done = timeout(LONGEST, renew(&mut server, &reset, again)).await;
        if matches!(done, Ok(true)) { pool.checkin(server) } else { pool.discard(server) }
    });
}

/// Takes away whatever is known to be left, and runs the file's query, which is for what is not known: it may do less
/// than that, or nothing. As new means as after the database's `connect_query`, which comes last for that reason.
async fn renew(server: &mut Server, reset: &str, again: Option<&str>) -> bool {
    let wear = server.talk.wear;
    let asks = server.talk.ended || wear == Wear::Full;
    let ours = match wear {
        _ if asks && is_whole(reset) => Some(WHOLE),
        Wear::Full => Some(WHOLE),
        // What the query does to settings is not known: all that were made are unmade before.
        Wear::None if !asks || reset.is_empty() => None,
        Wear::None | Wear::Settings => Some(SETTINGS),
    };
    if let Some(sql) = ours {
        if !query(server, sql.as_bytes()).await {
            return false;
        }
        // What it reports now is true, be it otherwise than at its login: its own file may have changed.
        let talk = &mut server.talk;
        talk.variables.take_unreported(&talk.initial);
    }
    let more = asks && !reset.is_empty() && !is_whole(reset);
    if more {
        if !query(server, reset.as_bytes()).await {
            return false;
        }
        // A text that hides what it does may have taken statements away, and has not said so.
        let hides = crate::query::judge(reset.as_bytes()) == Trace::Unknown;
        let doubtful = hides && server.talk.holdings.has_left();
        if doubtful && !query(server, b"DEALLOCATE ALL").await {
            return false;
        }
    }
    if let Some(again) = again.filter(|_| more || ours.is_some())
        && !query(server, again.as_bytes()).await
    {
        return false;
    }
    let talk = &mut server.talk;
    (talk.wear, talk.ended, talk.touched) = (Wear::None, false, false);
    true
}

/// What leaves no setting: `RESET ALL` leaves out who somebody is (`GUC_NO_RESET_ALL`), on which depends what may be
/// reset.
const SETTINGS: &str = "RESET SESSION AUTHORIZATION; RESET ROLE; RESET ALL";

/// What leaves nothing.
const WHOLE: &str = "DISCARD ALL";

/// Whether a reset query does all that there is to do.
fn is_whole(reset: &str) -> bool {
    reset
        .trim()
        .trim_end_matches(';')
        .split_whitespace()
        .map(str::to_ascii_uppercase)
        .eq(["DISCARD", "ALL"])
}

/// Whether a server that nobody has used for long is to be asked if it lives.
pub fn is_due(worker: &Worker, server: &Server, now: Instant) -> bool {
    let settings = &worker.snapshot().settings;
    let last = server.facts.used.get().max(server.facts.checked.get());
    let due = now.saturating_duration_since(last) >= settings.server_check_delay;
    due && !settings.server_check_query.is_empty()
}

/// Asks a server whether it lives; a dead one is closed before a client meets it.
pub fn check(pool: Rc<Pool>, mut server: Box<Server>) {
    let Some(worker) = pool.worker.upgrade() else { return };
    let sql = worker.snapshot().settings.server_check_query.clone();
    server.facts.phase.set(ServerPhase::Cleaning);
    tokio::task::spawn_local(async move {
        let done = timeout(LONGEST, query(&mut server, sql.as_bytes())).await;
        server.facts.checked.set(worker.now());
        if matches!(done, Ok(true)) { pool.restore(server) } else { pool.discard(server) }
    });
}

/// Takes our statements off a server that goes to another worker: their names mean nothing there.
pub(super) fn forget(pool: Rc<Pool>, mut server: Box<Server>, to: (usize, Coming)) {
    server.facts.phase.set(ServerPhase::Cleaning);
    tokio::task::spawn_local(async move {
        if !matches!(timeout(LONGEST, query(&mut server, b"DEALLOCATE ALL")).await, Ok(true)) {
            return pool.discard(server);
        }
        server.talk.holdings = Default::default();
        pool.hand(server, to);
    });
}

/// Runs one query of ours; `true`: it worked and the server is idle.
async fn query(server: &mut Server, sql: &[u8]) -> bool {
    let mut out = Vec::new();
    frontend::put_query(&mut out, sql);
    server.talk.holdings.unnamed = None;
    if server.io.write_all(&out).await.is_err() {
        return false;
    }
    let mut input = Vec::new();
    loop {
        match answer(server, &mut input) {
            Some(outcome) => return outcome && input.is_empty(),
            None if input.len() > MOST_BYTES => return false,
            None => {}
        }
        if !matches!(server.io.read_buf(&mut input).await, Ok(count) if count > 0) {
            return false;
        }
    }
}

/// Reads answers; `None`: more must come.
fn answer(server: &mut Server, input: &mut Vec<u8>) -> Option<bool> {
    loop {
        let (used, outcome) = match frame::next(input, MOST_BYTES as u32) {
            Err(_) => return Some(false),
            Ok(Found::Nothing | Found::Partial(..)) => return None,
            Ok(Found::Whole(frame)) => (frame.raw.len(), judge(server, frame)),
        };
        input.drain(..used);
        if outcome.is_some() {
            return outcome;
        }
    }
}

fn judge(server: &mut Server, frame: frame::Frame<'_>) -> Option<bool> {
    match frame.tag {
        tag::READY => {
            let idle = backend::ready(frame.body) == Ok(Status::Idle);
            if idle {
                // What the client left half done is over: the ledger starts anew.
                server.talk.ledger = Default::default();
            }
            Some(idle)
        }
        tag::PARAMETER_STATUS => {
            if let Ok((name, value)) = backend::parameter(frame.body) {
                server.talk.reported(&mut Memory::default(), name, value);
            }
            None
        }
        tag::COMMAND_COMPLETE => {
            let command = backend::command(frame.body).unwrap_or_default();
            if matches!(command, b"DISCARD ALL" | b"DEALLOCATE ALL") {
                server.talk.holdings = Default::default();
            }
            None
        }
        tag::EMPTY_QUERY | tag::NOTICE | tag::ROW_DESCRIPTION | tag::DATA_ROW => None,
        _ => Some(false),
    }
}

/// Says goodbye and waits, not for ever, until the server has gone.
pub fn close(pool: Rc<Pool>, mut server: Box<Server>) {
    tokio::task::spawn_local(async move {
        let between = server.is_clean();
        let io = &mut server.io;
        let farewell =
            async { if between { server::farewell(io).await } else { server::hang_up(io).await } };
        // Whether it ended well or not, this connection is over.
        let _ = timeout(LONGEST_GOODBYE, farewell).await;
        pool.gone(server);
    });
}

/// Whether an idle server still lives and has nothing to say. Notices and notifications go
/// nowhere; anything else is a reason to close it.
pub fn is_quiet(server: &mut Server, cx: &mut Context<'_>) -> bool {
    let quiet = says_nothing(server, cx);
    server.talk.dying |= !quiet;
    quiet
}

fn says_nothing(server: &mut Server, cx: &mut Context<'_>) -> bool {
    // Nothing has come nearly always: not worth being zeroed.
    let mut bytes = [const { MaybeUninit::uninit() }; 512];
    loop {
        let mut buffer = ReadBuf::uninit(&mut bytes);
        match Pin::new(&mut server.io).poll_read(cx, &mut buffer) {
            Poll::Pending => return true,
            Poll::Ready(Err(_)) => return false,
            Poll::Ready(Ok(())) if buffer.filled().is_empty() => return false,
            Poll::Ready(Ok(())) => {
                if !only_asides(server, buffer.filled()) {
                    return false;
                }
            }
        }
    }
}

/// Whether the bytes are whole messages that may come at any time.
fn only_asides(server: &mut Server, mut bytes: &[u8]) -> bool {
    while !bytes.is_empty() {
        let Ok(Found::Whole(frame)) = frame::next(bytes, 512) else { return false };
        match frame.tag {
            tag::NOTICE | tag::NOTIFICATION => {}
            tag::PARAMETER_STATUS => drop(judge(server, frame)),
            _ => return false,
        }
        bytes = bytes.get(frame.raw.len()..).unwrap_or_default();
    }
    true
}

/// Ends what the server is doing for a client that is gone, so that it does not work for nobody.
pub fn cancel(pool: &Pool, server: &Server) {
    let Some(worker) = pool.worker.upgrade() else { return };
    let facts = Rc::clone(&server.facts);
    tokio::task::spawn_local(async move {
        let _ = timeout(LONGEST_CANCEL, crate::cancel::send(&*worker.dialer, &facts)).await;
    });
}

/// A cancel request is on its way: only when it has arrived can it no longer hit the next client.
pub fn after_cancel(pool: Rc<Pool>, server: Box<Server>) {
    server.facts.phase.set(ServerPhase::Cleaning);
    tokio::task::spawn_local(async move {
        let facts = Rc::clone(&server.facts);
        let settled = async {
            while facts.cancels.get() > 0 {
                facts.settled.notified().await;
            }
        };
        match timeout(LONGEST_CANCEL, settled).await {
            Ok(()) => pool.checkin(server),
            Err(_) => pool.discard(server),
        }
    });
}
