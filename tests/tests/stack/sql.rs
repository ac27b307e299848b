//! SQL through the pool to a real PostgreSQL.

use tests::clients::sql;
use tests::fakes::postgres::{PASSWORD, Postgres};
use tests::tier::{Draft, Stack};
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Error};

/// The documented pool in front of a primary; its replica when asked for.
async fn scene() -> (Stack, Postgres) {
    let draft = Draft::documented();
    let primary = Postgres::primary(draft.address.at(5433)).await;
    draft.secret("app.scram", &primary.verifier().await);
    let mut stack = draft.stack();
    stack.start("pool-1").await;
    (stack, primary)
}

async fn login(stack: &Stack, database: &str) -> Result<Client, Error> {
    sql::connect(stack.address.at(6432), "app", PASSWORD, database).await
}

/// P2, P4: 300 clients work over a pool of 20 at the same time, and PostgreSQL, which would
/// refuse the 21st connection of the role, never has to.
#[tokio::test]
async fn three_hundred_clients_share_twenty_connections() {
    let (stack, primary) = scene().await;
    let admin = primary.superuser("app").await;
    admin.batch_execute("ALTER ROLE app CONNECTION LIMIT 20").await.unwrap();
    let mut clients = Vec::new();
    for _ in 0..300 {
        clients.push(login(&stack, "app").await.unwrap());
    }
    let mut work = tokio::task::JoinSet::new();
    for (number, client) in clients.into_iter().enumerate() {
        work.spawn(async move { add_up(client, i64::try_from(number).unwrap()).await });
    }
    let mut sums = 0;
    while let Some(done) = work.join_next().await {
        sums += done.unwrap().unwrap();
    }
    assert_eq!(sums, (0..300).map(|n| 10 * n).sum::<i64>());
    let row = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'app'";
    let servers: i64 = admin.query_one(row, &[]).await.unwrap().get(0);
    assert!((1..=20).contains(&servers), "{servers}");
}

/// Ten transactions of two statements each; every answer must be this client's own.
async fn add_up(mut client: Client, number: i64) -> Result<i64, Error> {
    let mut sum = 0;
    for _ in 0..10 {
        let transaction = client.transaction().await?;
        let ask = "SELECT $1::bigint, pg_backend_pid()";
        let first = transaction.query_one(ask, &[&number]).await?;
        let second = transaction.query_one("SELECT pg_backend_pid()", &[]).await?;
        assert_eq!(first.get::<_, i32>(1), second.get::<_, i32>(0), "one server per transaction");
        sum += first.get::<_, i64>(0);
        transaction.commit().await?;
    }
    Ok(sum)
}

/// P5: a write through `app` is seen through the replica alias `app_ro` once it is replayed, and
/// the alias refuses to write.
#[tokio::test]
async fn a_write_is_seen_on_the_replica_alias() {
    let (stack, primary) = scene().await;
    let replica = primary.replica(stack.address.at(5434));
    let admin = primary.superuser("app").await;
    // A commit returns when the replica has replayed it: no waiting, no guessing.
    admin.batch_execute("ALTER SYSTEM SET synchronous_standby_names = '*'").await.unwrap();
    admin.batch_execute("ALTER SYSTEM SET synchronous_commit = remote_apply").await.unwrap();
    admin.batch_execute("SELECT pg_reload_conf()").await.unwrap();
    let synchronous = "SELECT 1 FROM pg_stat_replication WHERE sync_state = 'sync'";
    tests::tier::until("a synchronous replica", async || {
        admin.query_opt(synchronous, &[]).await.unwrap()
    })
    .await;

    let writer = login(&stack, "app").await.unwrap();
    let insert = "INSERT INTO users (id, name) VALUES (424242, 'frontinus')";
    writer.execute(insert, &[]).await.unwrap();
    let reader = login(&stack, "app_ro").await.unwrap();
    tests::tier::until("a replica that is fit", async || {
        let row = reader.query_one("SELECT pg_is_in_recovery()", &[]).await.unwrap();
        row.get::<_, bool>(0).then_some(())
    })
    .await;
    let select = "SELECT name, pg_is_in_recovery() FROM users WHERE id = 424242";
    let row = reader.query_one(select, &[]).await.unwrap();
    assert_eq!((row.get::<_, &str>(0), row.get::<_, bool>(1)), ("frontinus", true));
    let refused = reader.execute("DELETE FROM users WHERE id = 424242", &[]).await.unwrap_err();
    assert_eq!(refused.code(), Some(&SqlState::READ_ONLY_SQL_TRANSACTION));
    drop(replica);
}

/// P4, O5: a wrong password and an unknown database are clear errors, and cost the pool nothing.
#[tokio::test]
async fn a_refused_login_says_why() {
    let (stack, _primary) = scene().await;
    let at = stack.address.at(6432);
    let wrong = sql::connect(at, "app", "guess", "app").await.unwrap_err();
    assert_eq!(wrong.code(), Some(&SqlState::INVALID_PASSWORD), "{wrong}");
    let unknown = login(&stack, "nothing").await.unwrap_err();
    assert!(unknown.as_db_error().is_some_and(|e| e.message().contains("nothing")), "{unknown}");
    let good = login(&stack, "app").await.unwrap();
    assert_eq!(good.query_one("SELECT 7", &[]).await.unwrap().get::<_, i32>(0), 7);
}
