//! Roles that are looked up: `auth_query`. Not for proofs: those are `login`'s. Real PostgreSQL.
//!
//! Invariant: who asks is a role of its own, so that its connections are told from all others.

use futures_util::future::join_all;

use crate::pooler::{Pooler, Setup, code, connect};
use crate::postgres::{PASSWORD, Postgres};

/// A role that may ask by a function, which counts how often it is asked.
pub(crate) async fn asker(server: &Postgres) {
    let sql = format!(
        "create role asker login password '{PASSWORD}'; create sequence asked;
         create function looked(role text) returns table (name text, secret text)
         language plpgsql security definer as $$ begin
           perform nextval('asked');
           return query select rolname::text, rolpassword from pg_authid where rolname = role;
         end $$"
    );
    server.root().await.batch_execute(&sql).await.expect("the function");
}

async fn asked(server: &Postgres) -> i64 {
    let sql = "select last_value - (not is_called)::int from asked";
    server.root().await.query_one(sql, &[]).await.expect("a count").get(0)
}

const BY_FUNCTION: &str = "user: asker, password: file:other, query: \"select * from looked($1)\"";

/// P4: a role that no file names logs in by what `pg_authid` says at that moment: the password changes,
/// its time passes, it goes; its name is a value and no SQL; and a client that is in stays in.
#[tokio::test]
async fn roles_are_looked_up() {
    lookups("").await;
}

/// P4: the same for pools that are spread over workers: each asks the one that looks up.
#[tokio::test]
async fn roles_of_all_shards_are_looked_up() {
    lookups(", pool-shards: 2").await;
}

async fn lookups(more: &str) {
    let server = Postgres::start().await;
    let odd = "x' or true; drop table t --";
    let root = server.root().await;
    let sql = format!(
        "create role late login password '{PASSWORD}'; create role \"{odd}\" login password '{PASSWORD}';
         create role past login password '{PASSWORD}' valid until 'yesterday';
         create role nobody nologin password '{PASSWORD}'; create role bare login;
         set password_encryption = md5; create role aged login password '{PASSWORD}'; grant legacy to aged;
         reset password_encryption"
    );
    root.batch_execute(&sql).await.expect("roles");
    let group = "\n    lookup: { user: root, password: file:root, cache: 0s }";
    let pooler = Pooler::start(&server, Setup { group, more, size: 2, ..Setup::default() }).await;
    let enter = async |user: &str, password: &str| {
        let client = connect(&pooler.config(user, password, "shop")).await;
        client.map_err(|fault| code(&fault))
    };
    for user in ["late", "aged", odd, "app"] {
        let client = enter(user, PASSWORD).await.expect(user);
        let row = client.query_one("select current_user::text", &[]).await.expect("answer");
        assert_eq!(row.get::<_, String>(0), user);
        assert_eq!(enter(user, "wrong").await.err().as_deref(), Some("28P01"), "{user}");
    }
    for user in ["past", "nobody", "bare", "missing", &"long".repeat(20)] {
        assert_eq!(enter(user, PASSWORD).await.err().as_deref(), Some("28P01"), "{user}");
    }
    let inside = enter("late", PASSWORD).await.expect("in");
    root.batch_execute("alter role late password 'another'").await.expect("changed");
    assert_eq!(enter("late", PASSWORD).await.err().as_deref(), Some("28P01"));
    for _ in 0..3 {
        let fresh = enter("late", "another").await.expect("by the new password");
        fresh.query_one("select 1", &[]).await.expect("a server by the new password");
    }
    root.batch_execute("alter role late valid until 'yesterday'").await.expect("changed");
    assert_eq!(enter("late", "another").await.err().as_deref(), Some("28P01"));
    inside.query_one("select 1", &[]).await.expect("who is in stays in");
    root.query_one("select count(*) from t", &[]).await.expect("the table is still there");
}

/// P4, O5: however many come at once, one question is asked per name, over a few connections; a query that
/// fails keeps out who is looked up and nobody else, and a reload mends it.
#[tokio::test]
async fn lookups_are_bounded() {
    let server = Postgres::start().await;
    asker(&server).await;
    let root = server.root().await;
    let sql = format!("create role late login password '{PASSWORD}'");
    root.batch_execute(&sql).await.expect("a role");
    let group = format!("\n    lookup: {{ {BY_FUNCTION}, cache: 1m }}");
    let setup = Setup { group: &group, size: 20, ..Setup::default() };
    let pooler = Pooler::start(&server, setup).await;
    let config = pooler.config("late", PASSWORD, "shop");
    let clients = join_all((0..40).map(|_| connect(&config))).await;
    assert!(clients.iter().all(Result::is_ok), "{clients:?}");
    assert_eq!(asked(&server).await, 1, "they share one question");
    let strangers = (0..150).map(|n| pooler.config(&format!("stranger{n}"), PASSWORD, "shop"));
    let strangers: Vec<_> = strangers.collect();
    let refused = join_all(strangers.iter().map(connect)).await;
    for outcome in refused {
        assert_eq!(code(&outcome.expect_err("a stranger")), "28P01");
    }
    assert_eq!(asked(&server).await, 151, "one question per name");
    let sql = "select count(*) from pg_stat_activity where usename = 'asker'";
    let connections: i64 = root.query_one(sql, &[]).await.expect("a count").get(0);
    assert!((1..=4).contains(&connections), "{connections}");

    let whole = "select * from looked($1)";
    for broken in ["select $1::text", "select 1/0, $1::text", "select 'other', $1::text"] {
        pooler.rewrite(|text| text.replace(whole, broken));
        pooler.reload().await.expect("lawful");
        let fault = connect(&config).await.expect_err("nobody knows");
        assert_eq!(code(&fault), "57P03", "{broken}");
        connect(&pooler.config("app", PASSWORD, "shop")).await.expect("one of the file");
        pooler.rewrite(|text| text.replace(broken, whole));
    }
    pooler.reload().await.expect("lawful");
    connect(&config).await.expect("mended");
    pooler.rewrite(|text| text.replace(&group, ""));
    pooler.reload().await.expect("lawful");
    assert_eq!(code(&connect(&config).await.expect_err("not looked up")), "28P01");
    let gone = clients.into_iter().next().and_then(Result::ok).expect("one that was in");
    gone.query_one("select 1", &[]).await.expect_err("nobody serves it any more");
}

/// P2, P4: a database and a user have terms of their own in place of those of all, a role that is looked up
/// too; a reload changes them, and places are given back.
#[tokio::test]
async fn terms_of_databases_and_users() {
    let server = Postgres::start().await;
    let root = server.root().await;
    let sql = format!("create role late login password '{PASSWORD}'");
    root.batch_execute(&sql).await.expect("a role");
    let group = "\n    lookup: { user: root, password: file:root }";
    let pooler = Pooler::start(&server, Setup { group, ..Setup::default() }).await;
    pooler.rewrite(|text| {
        text.replace("pool-size: 1", "pool-size: 1, max-client-connections: 4, server-lifetime: 1h")
            .replace(
                "secret: file:app }",
                "secret: file:app, pool-size: 2, max-client-connections: 2 }",
            )
            .replace("open: {}", "open: {}\n      late: { looked-up: true, mode: session }")
    });
    pooler.reload().await.expect("lawful");
    let enter = async |user: &str| {
        let client = connect(&pooler.config(user, PASSWORD, "shop")).await;
        client.map_err(|fault| (code(&fault), format!("{fault:?}")))
    };
    let (one, two) = (pooler.client("app").await, pooler.client("app").await);
    for client in [&one, &two] {
        client.batch_execute("begin").await.expect("two servers for app");
    }
    let (code, text) = enter("app").await.expect_err("a third");
    assert!(code == "53300" && text.contains("max_user_client_connections is 2"), "{text}");
    let late = pooler.client("late").await;
    late.batch_execute("set enable_seqscan = off; create temp table own ()").await.expect("state");
    late.batch_execute("table own").await.expect("its server is its own");
    let other = pooler.client("other").await;
    let (code, text) = enter("legacy").await.expect_err("a fifth");
    assert!(code == "53300" && text.contains("max_db_client_connections is 4"), "{text}");
    drop(other);
    while enter("legacy").await.is_err() {}
    let console = pooler.console().await;
    let shown = console.simple_query("show users").await.expect("users");
    let app = shown.iter().find_map(|row| match row {
        tokio_postgres::SimpleQueryMessage::Row(row) if row.get(0) == Some("app") => Some(row),
        _ => None,
    });
    let app = app.expect("a row");
    let columns = ["pool_size", "max_user_client_connections", "current_client_connections"];
    assert_eq!(columns.map(|name| app.get(name)), [Some("2"), Some("2"), Some("2")]);
    pooler.rewrite(|text| text.replace("max-client-connections: 2", "max-client-connections: 3"));
    pooler.reload().await.expect("lawful");
    drop(late);
    while enter("app").await.is_err() {}
}

/// P2: `server_round_robin` uses servers in turn; without it the same one again.
#[tokio::test]
async fn servers_in_turn() {
    let server = Postgres::start().await;
    for (settings, turns) in [("server_round_robin: true", true), ("", false)] {
        let pooler = Pooler::start(&server, Setup { size: 2, settings, ..Setup::default() }).await;
        let (one, two) = (pooler.client("open").await, pooler.client("open").await);
        for sql in ["begin", "commit"] {
            one.batch_execute(sql).await.expect(sql);
            two.batch_execute(sql).await.expect(sql);
        }
        let mut pids = Vec::new();
        for _ in 0..4 {
            let rows = one.simple_query("select pg_backend_pid()").await.expect("a row");
            pids.extend(rows.iter().find_map(|row| match row {
                tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
                _ => None,
            }));
        }
        assert_eq!(pids.len(), 4);
        assert!(pids[0] == pids[2] && pids[1] == pids[3], "{pids:?}");
        assert_eq!(pids[0] != pids[1], turns, "{pids:?}");
    }
}

/// P4: CVE-2025-12819: a `search_path` that a client brings reaches nothing that a role is looked up by, whether it
/// is let in or not.
#[tokio::test]
async fn a_search_path_leads_no_lookup_astray() {
    let server = Postgres::start().await;
    asker(&server).await;
    let sql = format!(
        "create role late login password '{PASSWORD}'; create role victim login password '{PASSWORD}';
         create schema evil; grant usage on schema evil to public;
         create function evil.looked(role text) returns table (name text, secret text) language sql
           as $$ select role, 'md5' || pg_catalog.md5('stolen' || role) $$;
         create function evil.now() returns timestamptz language plpgsql
           as $$ begin raise exception 'astray'; end $$"
    );
    let root = server.root().await;
    root.batch_execute(&sql).await.expect("roles");
    let by_default = "user: root, password: file:root".to_owned();
    for asks in [BY_FUNCTION.to_owned(), by_default] {
        let group = format!("\n    lookup: {{ {asks}, cache: 0s }}");
        let pooler = Pooler::start(&server, Setup { group: &group, ..Setup::default() }).await;
        let enter = async |user: &str, password: &str| {
            let mut config = pooler.config(user, password, "shop");
            config.options("-c search_path=evil,pg_catalog");
            connect(&config).await
        };
        let refused = enter("victim", "stolen").await.expect_err("astray");
        assert_eq!(code(&refused), "28P01", "{asks}");
        // One that is let in leaves its own on a server.
        let late = enter("late", PASSWORD).await.expect("by its own password");
        let row = late.query_one("show search_path", &[]).await.expect("answer");
        assert!(row.get::<_, String>(0).contains("evil"));
        drop(late);
        let refused = enter("victim", "stolen").await.expect_err("astray");
        assert_eq!(code(&refused), "28P01", "{asks}");
        enter("victim", PASSWORD).await.expect("by its own password");
    }
}

/// P4: the function of PgBouncer's manual, which returns a row without values where it finds nobody: who is not there,
/// and who has no secret, is refused as by a wrong password.
#[tokio::test]
async fn a_function_that_finds_nobody() {
    let server = Postgres::start().await;
    let sql = format!(
        "create role late login password '{PASSWORD}'; create role bare login;
         create function user_lookup(in i_username text, out uname text, out phash text)
         returns record language plpgsql security definer as $$ begin
           select rolname::text, rolpassword from pg_authid where rolname = i_username
             into uname, phash;
           return;
         end $$"
    );
    server.root().await.batch_execute(&sql).await.expect("the function");
    let group = "\n    lookup: { user: root, password: file:root, query: \"select * from user_lookup($1)\" }";
    let pooler = Pooler::start(&server, Setup { group, ..Setup::default() }).await;
    pooler.client("late").await.query_one("select 1", &[]).await.expect("served");
    for user in ["missing", "bare"] {
        let fault = connect(&pooler.config(user, PASSWORD, "shop")).await.expect_err("nobody");
        assert_eq!(code(&fault), "28P01", "{user}");
    }
}

/// P4: where the lookup gives passwords instead of verifiers, they log in to servers as well; another one holds from the
/// next login on.
#[tokio::test]
async fn passwords_that_are_looked_up_log_in_to_servers() {
    let server = Postgres::start().await;
    let root = server.root().await;
    let sql = format!(
        "create role late login password '{PASSWORD}'; create table known (name text, secret text);
         insert into known values ('late', '{PASSWORD}')"
    );
    root.batch_execute(&sql).await.expect("a role");
    let group = "\n    lookup: { user: root, password: file:root, cache: 0s, \
                 query: \"select name, secret from known where name = $1\" }";
    let pooler = Pooler::start(&server, Setup { group, size: 2, ..Setup::default() }).await;
    pooler.client("late").await.query_one("select 1", &[]).await.expect("served");
    let fault = connect(&pooler.config("late", "wrong", "shop")).await.expect_err("wrong");
    assert_eq!(code(&fault), "28P01");
    let sql = "update known set secret = 'another'; alter role late password 'another'";
    root.batch_execute(sql).await.expect("changed");
    for _ in 0..3 {
        let client = connect(&pooler.config("late", "another", "shop")).await.expect("let in");
        client.query_one("select 1", &[]).await.expect("served");
    }
}
