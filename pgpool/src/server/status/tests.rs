//! The ledger against the sequences of PostgreSQL's manual. Not for bytes. Run by the test harness.
//!
//! Invariant: every case ends with the ledger clean, or says why not.

use super::*;
use crate::prepared::Statements;

fn ready(ledger: &mut Ledger) {
    while ledger.owed().is_some() {}
    ledger.ready(Status::Idle).expect("due");
    while ledger.owed().is_some() {}
}

fn reply(ledger: &mut Ledger, messages: &[u8]) {
    for message in messages {
        while ledger.owed().is_some() {}
        ledger.reply(*message).unwrap_or_else(|fault| panic!("{fault}"));
    }
    while ledger.owed().is_some() {}
}

fn extended(ledger: &mut Ledger) {
    ledger.sent(Due::ParsePlain);
    ledger.sent(Due::Bind);
    ledger.sent(Due::Describe);
    ledger.sent(Due::Execute(Trace::Nothing));
}

/// P1: simple and extended queries, and that nothing is free before its Sync.
#[test]
fn queries() {
    let mut ledger = Ledger::default();
    ledger.sent(Due::Query(To::Client, Trace::Nothing));
    reply(&mut ledger, b"TDDC");
    assert!(!ledger.is_clean());
    ready(&mut ledger);
    assert!(ledger.is_clean());

    extended(&mut ledger);
    reply(&mut ledger, b"12TDC");
    assert!(!ledger.is_clean(), "a portal is open until Sync");
    ledger.sent(Due::Sync);
    ready(&mut ledger);
    assert!(ledger.is_clean());
}

/// P1: after an error the server skips to Sync, however much was sent before the error came.
#[test]
fn errors_skip_to_sync() {
    let mut ledger = Ledger::default();
    extended(&mut ledger);
    ledger.sent(Due::Sync);
    extended(&mut ledger);
    ledger.sent(Due::Sync);
    let Ok((Reply::Failed(never), None)) = ledger.reply(b'E') else { panic!("not failed") };
    assert_eq!(never.len(), 4);
    ready(&mut ledger);
    reply(&mut ledger, b"12nC");
    ready(&mut ledger);
    assert!(ledger.is_clean());

    // The Sync comes after the error: what is sent in between is skipped, a Query too.
    extended(&mut ledger);
    assert!(matches!(ledger.reply(b'E'), Ok((Reply::Failed(_), _))));
    assert!(ledger.is_skipping());
    ledger.sent(Due::Query(To::Client, Trace::Nothing));
    assert!(ledger.is_empty());
    ledger.sent(Due::Sync);
    ready(&mut ledger);
    assert!(ledger.is_clean());
}

/// P1: COPY in and out; the Sync that libpq sends before the data is never answered.
#[test]
fn copies() {
    let mut ledger = Ledger::default();
    ledger.sent(Due::Query(To::Client, Trace::Nothing));
    reply(&mut ledger, b"HdddcC");
    ready(&mut ledger);
    assert!(ledger.is_clean());

    extended(&mut ledger);
    ledger.sent(Due::Sync);
    reply(&mut ledger, b"12nG");
    ledger.sent(Due::CopyEnd);
    ledger.sent(Due::Sync);
    reply(&mut ledger, b"C");
    ready(&mut ledger);
    assert!(ledger.is_clean());

    // A failing COPY: the end of its data may come after the error.
    ledger.sent(Due::Query(To::Client, Trace::Nothing));
    reply(&mut ledger, b"GE");
    ready(&mut ledger);
    ledger.sent(Due::CopyEnd);
    while ledger.owed().is_some() {}
    assert!(ledger.is_clean());
}

/// P3: the Sync that the server ignores ends nothing: what was copied is committed by the one behind the data.
#[test]
fn an_early_sync_ends_no_copy() {
    let mut ledger = Ledger::default();
    extended(&mut ledger);
    ledger.sent(Due::Sync);
    reply(&mut ledger, b"12nG");
    ledger.sent(Due::CopyEnd);
    reply(&mut ledger, b"C");
    assert!(ledger.is_empty() && !ledger.is_settled(), "the implicit transaction is open");
    ledger.sent(Due::Sync);
    ready(&mut ledger);
    assert!(ledger.is_clean());

    // All in one go, a failing one, and one by a simple query.
    extended(&mut ledger);
    [Due::Sync, Due::CopyEnd, Due::Sync].into_iter().for_each(|due| ledger.sent(due));
    reply(&mut ledger, b"12nGC");
    ready(&mut ledger);
    assert!(ledger.is_clean());
    extended(&mut ledger);
    ledger.sent(Due::Sync);
    reply(&mut ledger, b"12nGE");
    assert!(ledger.is_skipping());
    ledger.sent(Due::Sync);
    ready(&mut ledger);
    assert!(ledger.is_clean());
    ledger.sent(Due::Query(To::Client, Trace::Nothing));
    ledger.sent(Due::Sync);
    reply(&mut ledger, b"G");
    ledger.sent(Due::CopyEnd);
    reply(&mut ledger, b"C");
    ready(&mut ledger);
    assert!(ledger.is_clean());
}

/// P3: our own messages leave no trace in what the client sees.
#[test]
fn ours() {
    let mut ledger = Ledger::default();
    ledger.sent(Due::Query(To::Pool, Trace::Nothing));
    ledger.sent(Due::OwedParse(b"s".as_slice().into()));
    ledger.sent(Due::Bind);
    ledger.sent(Due::Sync);
    assert!(matches!(ledger.reply(b'D'), Ok((Reply::Drop, _))));
    assert!(matches!(ledger.reply(b'C'), Ok((Reply::Drop, _))));
    assert!(ledger.owed().is_none(), "its turn has not come");
    assert!(matches!(ledger.ready(Status::Idle), Ok((Reply::Drop, None))));
    assert!(matches!(ledger.owed(), Some(Due::OwedParse(_))));
    assert!(matches!(ledger.reply(b'2'), Ok((Reply::Deliver, _))));
    assert!(matches!(ledger.ready(Status::Idle), Ok((Reply::Deliver, None))));
    assert!(ledger.is_clean());
}

/// O5: a server that answers what was not asked is out of order.
#[test]
fn out_of_order() {
    for message in *b"12T3CDnGHdcsVIKR" {
        assert!(Ledger::default().reply(message).is_err(), "{}", message as char);
    }
    assert!(Ledger::default().ready(Status::Idle).is_err());
    let mut ledger = Ledger::default();
    ledger.sent(Due::Bind);
    assert!(ledger.reply(b'1').is_err());
    assert!(ledger.ready(Status::Idle).is_err());
}

/// A reply that is due, of a statement.
type Made = fn(&dyn Fn() -> Rc<Statement>) -> Due;

/// P1: what goes the short way is exactly what the long way delivers and says nothing of.
#[test]
fn the_short_way_is_the_long_way() {
    let statement = || Statements::default().make(None, Trace::Nothing);
    let all: [Made; 16] = [
        |_| Due::Query(To::Client, Trace::Nothing),
        |_| Due::Query(To::Client, Trace::Unknown),
        |_| Due::Query(To::Pool, Trace::Nothing),
        |make| Due::Parse(To::Client, make(), Some(b"name"[..].into())),
        |make| Due::Parse(To::Pool, make(), None),
        |make| Due::ParseUnnamed(To::Client, make()),
        |_| Due::CloseUnnamed(To::Pool),
        |_| Due::ParsePlain,
        |_| Due::Bind,
        |_| Due::Describe,
        |_| Due::Execute(Trace::Nothing),
        |_| Due::Execute(Trace::Forgets),
        |_| Due::Close(To::Client, None),
        |_| Due::Function,
        |_| Due::Sync,
        |_| Due::CopyEnd,
    ];
    for (at, due) in all.iter().enumerate() {
        for message in 0..=u8::MAX {
            let ledger = || {
                let mut ledger = Ledger::default();
                ledger.sent(due(&statement));
                ledger.sent(Due::Sync);
                ledger
            };
            let (mut short, mut long) = (ledger(), ledger());
            if !short.passes(message) {
                assert_eq!(format!("{short:?}"), format!("{long:?}"), "nothing was done");
                continue;
            }
            let told = long.reply(message);
            assert!(matches!(told, Ok((Reply::Deliver, None))), "{at}: {message}: {told:?}");
            assert_eq!(format!("{short:?}"), format!("{long:?}"), "{at}: {message}");
        }
    }
    assert!(!Ledger::default().passes(b'D'), "nothing is due");
}
