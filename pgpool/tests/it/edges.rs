//! What falls between two turns of a task: a server that was given and not taken yet, answers that nobody reads. In
//! memory, on a paused clock. Not for timeouts: those are in `time`.
//!
//! Invariant: no test waits for wall time.

use pgpool_wire::frontend::{self, Subject};
use tokio::time::Instant;

use crate::fake::{Bench, local};

/// P5, P2: a server that was given to who waits, and has not been taken when servers are to be others, after a
/// RECONNECT as after a promotion, is not used: who was to have it waits for another one, in its place in the queue.
#[tokio::test(start_paused = true)]
async fn what_is_given_before_a_reconnect_is_not_used_after_it() {
    local(async {
        let bench = Bench::new(1, "");
        let mut one = bench.client().await;
        assert_eq!(one.ask("begin").await, "CZ");
        let pool = bench.worker.pool("shop", "open").expect("there");
        let (first, second) = (pool.queue(Instant::now()), pool.queue(Instant::now()));
        assert_eq!(one.ask("commit").await, "CZ");
        assert_eq!(pool.load().waiting, 1, "the first has been given one");

        pool.reconnect();
        for waiter in [&first, &second] {
            let server = std::future::poll_fn(|cx| pool.poll_waiter(waiter, cx, Instant::now()));
            let server = server.await.unwrap_or_else(|refusal| panic!("{refusal}"));
            assert!(pool.is_current(&server.facts), "a new one");
            pool.checkin(server);
        }
        assert_eq!(pool.load().waiting, 0);
    })
    .await;
}

/// P7: a client that reads no answers, even those that are made here, is read no further: what is kept for it is
/// bounded.
#[tokio::test(start_paused = true)]
async fn answers_that_nobody_reads_stop_who_asks() {
    local(async {
        let bench = Bench::new(1, "");
        let mut client = bench.client().await;
        assert_eq!(client.ask("begin").await, "CZ");
        let mut one = Vec::new();
        frontend::put_subject(&mut one, frontend::tag::CLOSE, Subject::Statement, b"x");
        let count = 100_000;
        let all = one.repeat(count);
        let mut at = client.write(&all).await;
        assert!(at < all.len() / 2, "{at} bytes were taken, and nothing was read");
        let mut heard = 0;
        while heard < count {
            while let Some(tag) = client.tag().await {
                assert_eq!(tag, '3');
                heard += 1;
            }
            at += client.write(&all[at..]).await;
        }
        assert_eq!(at, all.len());
        assert_eq!(client.ask("commit").await, "CZ");
    })
    .await;
}
