//! Ending: what runs may finish, nothing new is taken, and the process part of it is over.

use tests::clients::game::Player;
use tests::clients::http::Connection;
use tests::clients::sql;
use tests::fakes::game::Game;
use tests::fakes::issuer::Issuer;
use tests::fakes::postgres::{PASSWORD, Postgres};
use tests::fakes::redis::Redis;
use tests::fakes::upstream::Upstream;
use tests::tier::{Draft, Stack};
use tokio::net::TcpStream;

async fn refuses(stack: &Stack, port: u16) -> bool {
    TcpStream::connect(stack.address.at(port)).await.is_err()
}

/// O3, G1: a gateway that drains answers the request that it has, takes no new connection, ends by
/// itself; the edge sends everything new to the other gateway without an error.
#[tokio::test]
async fn a_gateway_drains_while_the_other_serves() {
    let mut stack = Draft::documented().stack();
    let _redis = Redis::start(stack.address.at(6379));
    let issuer = Issuer::start(stack.address.at(7900)).await;
    let user = Upstream::start(stack.address.at(7011), "user-1").await;
    let other = Upstream::start(stack.address.at(7012), "user-2").await;
    stack.start_all(&["ilb-1", "gw-1", "gw-2", "nlb-1"]).await;
    let token = format!("Bearer {}", issuer.token(98765, "user:read"));
    let fields = [("authorization", token.as_str())];

    let edge = stack.address.at(8443);
    let mut held = Vec::new();
    // The edge's two workers take turns each: of three connections one reaches gw-1.
    for _ in 0..3 {
        let mut connection = Connection::tls(edge, &stack.trust).await.unwrap();
        let token = token.clone();
        held.push(tokio::spawn(async move {
            connection.get("/api/user/held", &[("authorization", &token)]).await
        }));
    }
    tests::tier::until("three held requests", async || {
        (user.count() + other.count() == 3).then_some(())
    })
    .await;
    stack.drain("gw-1");
    tests::tier::until("gw-1 to close its port", async || {
        refuses(&stack, 9441).await.then_some(())
    })
    .await;
    for _ in 0..6 {
        let mut connection = Connection::tls(edge, &stack.trust).await.unwrap();
        assert_eq!(connection.get("/api/user/profile", &fields).await.unwrap().status, 200);
    }
    user.release(3);
    other.release(3);
    for answer in held {
        assert_eq!(answer.await.unwrap().unwrap().status, 200);
    }
    stack.finished("gw-1").await;
    let own = stack.records().into_iter().filter(|r| r["gateway_instance"] == "gw-1");
    let held = own.filter(|r| r["endpoint"] == "GET /api/user/held" && r["status"] == 200);
    assert!(held.count() > 0, "gw-1 answered what it had begun");
}

/// O3, N8: an edge that drains keeps the connections and players that it has, takes no new
/// connection, and ends when they have gone.
#[tokio::test]
async fn an_edge_drains_after_its_last_connection() {
    let mut stack = Draft::documented().stack();
    let _game = Game::start(stack.address.at(7801), "game-1").await;
    let user = Upstream::start(stack.address.at(7011), "user-1").await;
    stack.start_all(&["ilb-1", "nlb-1"]).await;
    let mut connection = Connection::plain(stack.address.at(7010)).await.unwrap();
    assert_eq!(connection.get("/before", &[]).await.unwrap().status, 200);
    let mut player = Player::join(1, stack.address.at(7777)).await;
    assert_eq!(player.ask().await, "game-1");

    stack.drain("ilb-1");
    tests::tier::until("ilb-1 to close its port", async || {
        refuses(&stack, 7010).await.then_some(())
    })
    .await;
    assert_eq!(connection.get("/after", &[]).await.unwrap().status, 200);
    assert_eq!(user.count(), 2);
    drop(connection);
    stack.finished("ilb-1").await;
    assert_eq!(player.ask().await, "game-1", "the edge itself was not asked to drain");
}

/// O3, P7: a pool that drains lets a transaction finish, refuses new logins, and ends.
#[tokio::test]
async fn a_pool_drains_after_the_last_transaction() {
    let draft = Draft::documented();
    let primary = Postgres::primary(draft.address.at(5433)).await;
    draft.secret("app.scram", &primary.verifier().await);
    let mut stack = draft.stack();
    stack.start("pool-1").await;
    let at = stack.address.at(6432);
    let mut client = sql::connect(at, "app", PASSWORD, "app").await.unwrap();
    let transaction = client.transaction().await.unwrap();
    transaction.execute("UPDATE users SET bio = 'drained' WHERE id = 98765", &[]).await.unwrap();

    stack.drain("pool-1");
    tests::tier::until("pool-1 to refuse logins", async || {
        sql::connect(at, "app", PASSWORD, "app").await.err()
    })
    .await;
    transaction.commit().await.unwrap();
    drop(client);
    stack.finished("pool-1").await;
    let bio = "SELECT bio FROM users WHERE id = 98765";
    let row = primary.superuser("app").await.query_one(bio, &[]).await.unwrap();
    assert_eq!(row.get::<_, &str>(0), "drained");
}
