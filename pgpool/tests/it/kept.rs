//! Settings that a client has made, on whichever server it is: they mean what they meant where they were made, and
//! cost nobody else anything. Not for savepoints and statements (`follow`). Real PostgreSQL, one server connection.
//!
//! Invariant: a client cannot tell that there was another one between its queries.

use crate::pooler::{Pooler, Setup};
use crate::postgres::Postgres;
use crate::raw::{Raw, bare, bind, execute, parse, query};

/// The text of the only row's only column.
async fn shown(raw: &mut Raw, sql: &str) -> String {
    raw.send(&query(sql)).await;
    let messages = raw.until_ready(1).await;
    let row = messages.iter().find(|message| message.0 == b'D');
    let row = row.unwrap_or_else(|| panic!("{sql}: {}", crate::raw::tags(&messages)));
    crate::raw::columns(&row.1).concat()
}

async fn done(raw: &mut Raw, sql: &str) {
    let (said, _) = raw.ask(&query(sql)).await;
    assert!(said.contains('C') && !said.contains('E'), "{sql}: {said}");
}

/// P3: what ends prepared statements, or plans, leaves settings alone; so both of two clients know that have made
/// the same one.
#[tokio::test]
async fn less_than_all_that_is_discarded_is_no_reset() {
    let server = Postgres::start().await;
    for mode in ["transaction", "session"] {
        let setup = Setup { mode, size: 1, ..Setup::default() };
        let pooler = Pooler::start(&server, setup).await;
        for end in ["deallocate all", "discard plans", "discard temp", "discard sequences"] {
            let more = [("options", "-c app.tenant=1")];
            let mut one = Raw::login_with(pooler.port, &more).await;
            done(&mut one, "set app.tenant = '2'").await;
            done(&mut one, end).await;
            let show = "select current_setting('app.tenant')";
            assert_eq!(shown(&mut one, show).await, "2", "{mode}: {end}");
            if mode == "transaction" {
                let mut two = Raw::login(pooler.port).await;
                done(&mut two, "set app.tenant = '2'").await;
                assert_eq!(shown(&mut two, show).await, "2", "{end}");
                assert_eq!(shown(&mut one, show).await, "2", "{end}");
            }
            done(&mut one, "discard all").await;
            assert_eq!(shown(&mut one, show).await, "1", "{mode}: {end}");
        }
        pooler.end().await;
    }
}

/// P3: a setting whose name has a reserved word in it is unmade for the next client like any other.
#[tokio::test]
async fn reserved_words_name_settings() {
    let server = Postgres::start().await;
    let pooler = Pooler::start(&server, Setup { size: 1, ..Setup::default() }).await;
    let mut two = Raw::login(pooler.port).await;
    for name in ["\"app.current_user\"", "app.\"user\"", "\"app.end\""] {
        let mut one = Raw::login(pooler.port).await;
        done(&mut one, &format!("set {name} = 'x'")).await;
        done(&mut two, "begin; commit").await;
    }
    let _one = Raw::login_with(pooler.port, &[("options", "-c app.table=5")]).await;
    done(&mut two, "begin; commit").await;
}

/// P3: a setting means what it meant where it was made, however the client before reads its texts.
#[tokio::test]
async fn settings_are_read_as_they_were_made() {
    let server = Postgres::start().await;
    let pooler = Pooler::start(&server, Setup { size: 1, ..Setup::default() }).await;
    let mut two = Raw::login(pooler.port).await;
    done(&mut two, "set app.customer = 'M\u{fc}ller'").await;
    done(&mut two, "set app.path = 'C:\\temp'").await;
    let latin = [("client_encoding", "LATIN1"), ("standard_conforming_strings", "off")];
    let mut one = Raw::login_with(pooler.port, &latin).await;
    done(&mut one, "begin; commit").await;
    let show = "select current_setting('app.customer') || current_setting('app.path')";
    assert_eq!(shown(&mut two, show).await, "M\u{fc}llerC:\\temp");
}

/// P3: how transactions begin is a setting of its client's, as JDBC makes it.
#[tokio::test]
async fn characteristics_follow() {
    let server = Postgres::start().await;
    let pooler = Pooler::start(&server, Setup { size: 1, ..Setup::default() }).await;
    let (mut one, mut two) = (Raw::login(pooler.port).await, Raw::login(pooler.port).await);
    let set = "SET SESSION CHARACTERISTICS AS TRANSACTION";
    for (mode, name, wanted, other) in [
        ("ISOLATION LEVEL SERIALIZABLE", "isolation", "serializable", "read committed"),
        ("READ ONLY", "read_only", "on", "off"),
        ("DEFERRABLE", "deferrable", "on", "off"),
    ] {
        done(&mut one, &format!("{set} {mode}")).await;
        let show = format!("show transaction_{name}");
        assert_eq!(shown(&mut two, &show).await, other);
        assert_eq!(shown(&mut one, &show).await, wanted);
    }
}

/// P3: the default of a setting is what its client's login asked for, in whatever words it asks for it.
#[tokio::test]
async fn defaults_are_those_of_the_login() {
    let server = Postgres::start().await;
    for mode in ["transaction", "session"] {
        let pooler = Pooler::start(&server, Setup { mode, size: 1, ..Setup::default() }).await;
        let more = [("TimeZone", "Europe/Rome"), ("work_mem", "77kB")];
        let mut one = Raw::login_with(pooler.port, &more).await;
        for back in ["set time zone default", "set time zone local", "set timezone = default"] {
            done(&mut one, "set time zone 'Asia/Tokyo'").await;
            done(&mut one, back).await;
            assert_eq!(shown(&mut one, "show timezone").await, "Europe/Rome", "{mode}: {back}");
        }
        done(&mut one, "set work_mem = '99kB'").await;
        done(&mut one, "set work_mem to default").await;
        assert_eq!(shown(&mut one, "show work_mem").await, "77kB", "{mode}");
        if mode == "session" {
            // There the extended protocol is not followed: its server is the client's own.
            pooler.end().await;
            continue;
        }
        // In one packet, by the extended protocol.
        let piece = |sql| [parse("", sql), bind("", "", &[]), execute("", 0), bare(b'S')].concat();
        done(&mut one, "set work_mem = '99kB'").await;
        one.send(&[piece("reset all"), piece("show work_mem")].concat()).await;
        let messages = one.until_ready(2).await;
        let row = messages.iter().find(|message| message.0 == b'D').expect("a row");
        assert_eq!(crate::raw::columns(&row.1).concat(), "77kB", "{mode}");
        pooler.end().await;
    }
}

/// P1: what a server reports in its client's encoding is passed on as it is.
#[tokio::test]
async fn reports_are_in_the_encoding_of_the_client() {
    let server = Postgres::start().await;
    let pooler = Pooler::start(&server, Setup { size: 1, ..Setup::default() }).await;
    let mut admin = Raw::login(pooler.port).await;
    let mut latin = Raw::login_with(pooler.port, &[("client_encoding", "LATIN1")]).await;
    let sql = b"set application_name = 'ren\xe9'\0";
    let length = u32::try_from(sql.len() + 4).expect("short").to_be_bytes();
    let (said, _) = latin.ask(&[&b"Q"[..], &length, sql].concat()).await;
    assert!(said.contains('C') && !said.contains('E'), "{said}");
    assert_ne!(shown(&mut admin, "show application_name").await, "ren\u{e9}");
    done(&mut latin, "begin; commit").await;
}
