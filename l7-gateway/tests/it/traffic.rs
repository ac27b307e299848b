//! What operators see of the traffic, by route and by endpoint; and that clients cannot make it grow.

use std::time::Duration;

use l7_gateway::traffic::Traffic;
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::fakes::{Act, Fake};
use crate::instance::run_text;
use crate::rig::{Rig, local, topology};

const BROKEN: &str = "HTTP/1.1 500 Broken\r\nContent-Length: 0\r\n\r\n";

/// G19, O1: routes and endpoints have their totals, errors and quantiles, on the admin side and among the
/// metrics.
#[tokio::test]
async fn routes_and_endpoints_have_totals_and_quantiles() {
    local(async {
        let (good, bad) = (Fake::new(Act::Answer("x")).await, Fake::new(Act::Raw(BROKEN)).await);
        let text = format!(
            "aqueduct: 1
services:
  good: {{ endpoints: [{}] }}
  bad: {{ endpoints: [{}] }}
gateways:
  app:
    instances:
      gw: {{ listen: 127.0.0.1:0, admin: 127.0.0.1:0 }}
    access-log: off
    routes:
      - {{ name: well, path: /well/*, to: good }}
      - {{ name: ill, path: /ill/*, to: bad }}
      - {{ name: idle, path: /idle, to: good }}
",
            good.address, bad.address
        );
        let folder = TempDir::new().expect("a folder");
        let (running, options) = run_text(folder.path(), &text).await;
        let get = async |to, path: &str| {
            let mut stream = TcpStream::connect(to).await.expect("connected");
            let request = format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
            stream.write_all(request.as_bytes()).await.expect("taken");
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.expect("an end");
            answer
        };
        let to = running.listeners[0].1;
        for path in ["/well/1", "/well/2", "/well/3", "/ill/1", "/ill/2", "/nowhere"] {
            get(to, path).await;
        }
        options.lifecycle.drain();
        let answer = get(running.admin.expect("an admin"), "/traffic").await;
        let body = answer.split_once("\r\n\r\n").expect("a body").1;
        let traffic: Value = serde_json::from_str(body).expect("JSON");
        let row = |list: &str, key: &str, name: &str| {
            let rows = traffic[list].as_array().expect("a list").iter();
            let mut rows = rows.filter(|row| row[key] == name);
            let row = rows.next().expect(name).clone();
            assert!(rows.next().is_none(), "{name} is there once");
            row
        };
        for (list, key, name, total, errors) in [
            ("routes", "route", "well", 3, 0),
            ("routes", "route", "ill", 2, 2),
            ("routes", "route", "", 1, 0),
            ("endpoints", "service", "good", 3, 0),
            ("endpoints", "service", "bad", 2, 2),
        ] {
            let row = row(list, key, name);
            assert_eq!((&row["total"], &row["errors"]), (&total.into(), &errors.into()), "{name}");
            let quantiles = ["p50_us", "p90_us", "p99_us"].map(|key| row[key].as_u64());
            assert!(quantiles.is_sorted() && quantiles[0] > Some(0), "{row}");
        }
        let idle = row("routes", "route", "idle");
        assert_eq!((&idle["total"], &idle["p99_us"]), (&0.into(), &Value::Null));
        let metrics = options.observer.metrics.render();
        for line in [
            "aqueduct_http_request_errors_total{route=\"ill\"} 2".to_owned(),
            format!(
                "aqueduct_http_attempt_errors_total{{service=\"bad\",endpoint=\"{}\"}} 2",
                bad.address
            ),
            format!(
                "aqueduct_http_attempt_seconds_count{{service=\"good\",endpoint=\"{}\"}} 3",
                good.address
            ),
        ] {
            assert!(metrics.contains(&line), "{line}: {metrics}");
        }
        running.finished().await.expect("no panic");
    })
    .await;
}

/// O1: a rate is that of the last ten seconds, and falls to nothing when nobody asks.
#[tokio::test]
async fn rates_are_of_the_last_seconds() {
    local(async {
        let gateway = "    routes:\n      - { name: old, path: /*, to: user, sunset: 2020-01-01 }";
        let rig = Rig::new(&topology("  user: { endpoints: [127.0.0.1:9] }", gateway));
        let traffic = Traffic::new(&rig.published, &rig.observer);
        let rate = || traffic.show()["routes"][0]["per_second"].as_f64().expect("a number");
        let begun = Instant::now();
        let close = |rate: f64, wanted: f64| (rate - wanted).abs() < 1e-9;
        traffic.measure(begun);
        for _ in 0..20 {
            rig.get("/", "").await;
        }
        assert!(close(rate(), 0.0), "not measured yet");
        traffic.measure(begun + Duration::from_secs(10));
        assert!(close(rate(), 2.0), "20 in ten seconds: {}", rate());
        traffic.measure(begun + Duration::from_secs(20));
        assert!(close(rate(), 0.0), "{}", rate());
    })
    .await;
}

/// G19: twenty thousand requests, each of another path, method, host and header values, make no series:
/// labels are names of the file.
#[tokio::test]
async fn clients_make_no_series() {
    local(async {
        let gateway = "    routes:\n      - { name: old, path: /old/*, to: user, sunset: 2020-01-01 }";
        let rig = Rig::new(&topology("  user: { endpoints: [127.0.0.1:9] }", gateway));
        let ask = async |from: usize, many: usize| {
            let (stream, task) = rig.connect();
            let (mut read, mut write) = tokio::io::split(stream);
            let send = async {
                for n in from..from + many {
                    let folder = if n % 2 == 0 { "old" } else { "none" };
                    let last = if n + 1 == from + many { "Connection: close\r\n" } else { "" };
                    let request = format!(
                        "M{n} /{folder}/{n} HTTP/1.1\r\nHost: h{n}.example\r\nUser-Agent: a{n}\r\nCookie: c{n}={n}\r\n{last}\r\n"
                    );
                    write.write_all(request.as_bytes()).await.expect("taken");
                }
            };
            let mut answers = Vec::new();
            let (_sent, taken) = tokio::join!(send, read.read_to_end(&mut answers));
            taken.expect("an end");
            task.await.expect("no panic");
            memchr::memmem::find_iter(&answers, b"HTTP/1.1 4").count()
        };
        assert_eq!(ask(0, 10).await, 10);
        let series = |text: &str| text.lines().filter(|line| !line.starts_with('#')).count();
        let before = series(&rig.observer.metrics.render());
        for round in 0..20 {
            assert_eq!(ask(10 + round * 1000, 1000).await, 1000);
        }
        let after = rig.observer.metrics.render();
        assert_eq!(series(&after), before, "{after}");
        let counted = |start: &str| {
            let line = after.lines().find_map(|line| line.strip_prefix(start)).expect("shown");
            line.parse::<u64>().expect("a number")
        };
        assert_eq!(counted("aqueduct_http_request_seconds_count{route=\"old\"} "), 10_005);
    })
    .await;
}
