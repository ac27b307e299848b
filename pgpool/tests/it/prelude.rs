//! What servers are told before anybody uses them: `connect_query` and the settings of a database. Against a real
//! PostgreSQL.
//!
//! Invariant: a pool of one connection, so that the next client has the same one.

use tokio_postgres::SimpleQueryMessage;

use crate::pooler::{Pooler, Setup, code, connect};
use crate::postgres::{PASSWORD, Postgres};

/// What a client has of what the database says.
async fn seen(client: &tokio_postgres::Client) -> String {
    let sql = "select current_setting('statement_timeout') || '|' || current_setting('timezone') || '|' || \
               current_setting('datestyle') || '|' || current_setting('application_name') || '|' || \
               coalesce(to_regclass('mine')::text, 'none')";
    let answer = client.simple_query(sql).await.expect("an answer");
    let text = answer.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
        _ => None,
    });
    text.expect("a row")
}

const MORE: &str = ", connect-query: \"set statement_timeout to '77s'; set timezone to 'Asia/Tokyo'; \
                    create temp table if not exists mine (a int)\", datestyle: 'German, DMY', \
                    application-name: house";
const ALL: &str = "77s|Asia/Tokyo|German, DMY|house|mine";

/// P2, P3: every client finds what the database's `connect_query` and settings say, whatever the one before has
/// set, reset or discarded; what a client asks for itself counts more, for it alone.
#[tokio::test]
async fn what_is_said_first_holds_for_every_client() {
    let server = Postgres::start().await;
    for mode in ["transaction", "session"] {
        let pooler = Pooler::start(&server, Setup { mode, more: MORE, ..Setup::default() }).await;
        let spoils = [
            "set timezone to 'UTC'; set work_mem to '77kB'",
            "discard all",
            "reset all",
            "reset statement_timeout",
            "set statement_timeout to '66s'",
            "begin; set statement_timeout to '66s'; commit",
        ];
        for spoil in spoils {
            let client = pooler.client("app").await;
            assert_eq!(seen(&client).await, ALL, "{mode}, before {spoil}");
            client.simple_query(spoil).await.expect("done");
            drop(client);
        }
        let mut config = pooler.config("app", PASSWORD, "shop");
        config.application_name("own").options("-c timezone=Europe/Rome");
        let own = connect(&config).await.expect("it gets in");
        assert_eq!(seen(&own).await, "77s|Europe/Rome|German, DMY|own|mine", "{mode}");
        drop(own);
        assert_eq!(seen(&pooler.client("app").await).await, ALL, "{mode}");
        config.options("-c statement_timeout=66s");
        let own = connect(&config).await.expect("it gets in");
        assert_eq!(seen(&own).await, "66s|Asia/Tokyo|German, DMY|own|mine", "{mode}");
        drop(own);
        assert_eq!(seen(&pooler.client("app").await).await, ALL, "{mode}, by a startup option");
        pooler.end().await;
    }
}

/// P2, P3: a reset query of the file's own takes nothing away of what the `connect_query` has made.
#[tokio::test]
async fn what_is_said_first_outlives_the_reset() {
    let server = Postgres::start().await;
    for mode in ["transaction", "session"] {
        for reset in ["reset all", "reset all; discard temp", "discard all --x"] {
            let settings =
                format!("server_reset_query: \"{reset}\", server_reset_query_always: true");
            let setup = Setup { mode, more: MORE, settings: &settings, ..Setup::default() };
            let pooler = Pooler::start(&server, setup).await;
            for turn in 0..3 {
                let client = pooler.client("app").await;
                assert_eq!(seen(&client).await, ALL, "{mode}, {reset}, {turn}");
            }
            pooler.end().await;
        }
    }
}

/// P2, O5: a `connect_query` that fails, or leaves a transaction open, gives nobody its server; the client is told so
/// without its text.
#[tokio::test]
async fn a_connect_query_that_fails_gives_no_server() {
    let server = Postgres::start().await;
    for query in ["select 1/0", "begin", "set nothing.at.all"] {
        let more = format!(", connect-query: \"{query}\"");
        let pooler = Pooler::start(&server, Setup { more: &more, ..Setup::default() }).await;
        let refused = connect(&pooler.config("app", PASSWORD, "shop")).await;
        let Err(fault) = refused else { panic!("{query}: it got in") };
        assert_eq!(code(&fault), "57P03", "{query}");
        assert!(!fault.to_string().contains(query), "{fault}");
        pooler.end().await;
    }
}
