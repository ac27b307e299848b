//! Access records: one per exchange, however it ends.

use tokio::io::AsyncWriteExt as _;

use crate::fakes::{Act, Fake};
use crate::rig::{Rig, local, one};

/// G19, O6: one record per request with what was asked, answered and spent; our own time counted.
#[tokio::test]
async fn every_request_leaves_a_record() {
    local(async {
        let fake = Fake::new(Act::Answer("hello")).await;
        let mut rig = Rig::new(&one(fake.address));
        rig.raw("POST /a?secret=1 HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 3\r\n\r\nabc").await;
        let records = rig.records();
        assert_eq!(records.len(), 1);
        let record = &records[0];
        assert_eq!(record["endpoint"], "POST /a", "no query: it may hold secrets");
        assert_eq!(record["status"], 200);
        assert_eq!(record["service"], "user");
        assert_eq!(record["gateway_instance"], "gw");
        assert_eq!(record["userId"], serde_json::Value::Null);
        assert_eq!((&record["bytes_in"], &record["bytes_out"]), (&3.into(), &5.into()));
        assert_eq!(record["client"], "192.0.2.7");
        assert_eq!(record["connection_id"], serde_json::Value::Null);
        assert_eq!(record["route"], "/*");
        assert_eq!(record["complete"], true);
        let ran: Vec<_> = record["stages_us"].as_object().expect("stages").keys().cloned().collect();
        assert_eq!(ran.len(), 9, "stages 2 to 10: {ran:?}");
        let text = rig.observer.metrics.render();
        assert!(text.contains("aqueduct_http_requests_total{route=\"/*\",status=\"200\"} 1"), "{text}");
        let added = text.lines().find(|l| l.starts_with("aqueduct_http_added_seconds_count"));
        assert!(added.is_some_and(|line| line.ends_with(" 1")), "{added:?}");
    })
    .await;
}

/// G19: a client that goes before its answer leaves a record, and the service is let go.
#[tokio::test]
async fn a_client_that_has_gone_leaves_a_record() {
    local(async {
        let fake = Fake::new(Act::Silent).await;
        let mut rig = Rig::new(&one(fake.address));
        let (mut stream, task) = rig.connect();
        stream.write_all(b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n").await.expect("taken");
        while fake.seen.count() == 0 {
            tokio::task::yield_now().await;
        }
        drop(stream);
        task.await.expect("no panic");
        let records = rig.records();
        assert_eq!(records.len(), 1);
        assert_eq!((&records[0]["status"], &records[0]["complete"]), (&499.into(), &false.into()));
        assert_eq!(records[0]["endpoint"], "GET /slow");
    })
    .await;
}
