//! Rates and quantiles of made-up answers.

use std::time::Duration;

use super::*;

fn answer(work: u64, latency: &[(u64, u64)]) -> Answer {
    let summary = format!(
        r#"{{"unit":"requests","connections":1,"work_total":{work},"errors_total":0,
        "p50_us":null,"p99_us":null,"latency_us":{}}}"#,
        serde_json::to_string(latency).expect("JSON")
    );
    Answer {
        summary: serde_json::from_str(&summary).expect("a summary"),
        unready: Vec::new(),
        services: Vec::new(),
        traffic: super::super::answer::Traffic::default(),
        requests: Vec::new(),
        limited: Vec::new(),
        series: Vec::new(),
    }
}

/// T6: a rate needs two looks, and a restarted instance begins anew.
#[tokio::test(start_paused = true)]
async fn a_rate_is_of_one_process() {
    let (mut past, start) = (Past::default(), Instant::now());
    let mut seen = |work, seconds| {
        past.see("gw-1", answer(work, &[]), start + Duration::from_secs(seconds)).rate
    };
    assert_eq!(seen(10, 0), None);
    assert_eq!(seen(30, 2), Some(10.0));
    assert_eq!(seen(5, 3), None, "a new process has counted less");
    assert_eq!(seen(6, 4), Some(1.0));
}

/// T6: quantiles are of the last seconds, not of all time.
#[tokio::test(start_paused = true)]
async fn quantiles_are_of_the_last_seconds() {
    let (mut past, now) = (Past::default(), Instant::now());
    let mut seen = |latency: &[(u64, u64)]| {
        let seen = past.see("gw-1", answer(0, latency), now);
        (seen.p50, seen.p99)
    };
    assert_eq!(seen(&[(100, 1000)]), (None, None));
    assert_eq!(seen(&[(100, 1000), (900, 10)]), (Some(900), Some(900)));
    assert_eq!(seen(&[(100, 1030), (900, 10)]), (Some(100), Some(900)));
    for _ in 0..SPAN {
        seen(&[(100, 1030), (900, 10)]);
    }
    assert_eq!(seen(&[(100, 1030), (900, 10)]), (None, None), "nothing came");
    assert_eq!(seen(&[(100, 1)]), (None, None), "a new process");
}

/// T6: a balancer's endpoints have a rate of new flows and the failures among them, a gateway's their service's
/// line; what nobody counts is missing.
#[tokio::test(start_paused = true)]
async fn endpoints_have_what_their_instance_counts() {
    let (mut past, start) = (Past::default(), Instant::now());
    let mut seen = |counts: &str, line: &str, seconds| {
        let said = format!(
            r#"[{{"service":"game","endpoints":[{{"name":"a","address":"127.0.0.1:1","weight":1,
            "condition":"up","active":2{counts}}}]{line}}}]"#
        );
        let mut answer = answer(0, &[]);
        answer.services = serde_json::from_str(&said).expect("services");
        let seen = past.see("nlb-1", answer, start + Duration::from_secs(seconds));
        let one = &seen.endpoints[0];
        (one.rate, one.unit, one.errors, one.queue)
    };
    let balancer = |flows| format!(r#","flows_total":{flows},"failures_total":3"#);
    assert_eq!(seen(&balancer(10), "", 0), (None, "flows", Some(3), None));
    assert_eq!(seen(&balancer(30), "", 2), (Some(10.0), "flows", Some(3), None));
    assert_eq!(seen("", r#","waiting":7"#, 3), (None, "requests", None, Some(7)));
    assert_eq!(seen("", r#","waiting":null"#, 4), (None, "requests", None, None));
}

/// T6: of a listener and of a pool, series of one name are summed, and states are told apart.
#[tokio::test(start_paused = true)]
async fn series_become_rows() {
    let series = |name: &str, labels: &[(&str, &str)], value| Series {
        name: name.to_owned(),
        labels: labels.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect(),
        value,
    };
    let (mut past, start) = (Past::default(), Instant::now());
    let mut seen = |up, down, waiting, seconds| {
        let mut answer = answer(0, &[]);
        let bytes = "aqueduct_l4_bytes_total";
        answer.series = vec![
            series(bytes, &[("listener", "game"), ("direction", "up")], up),
            series(bytes, &[("listener", "game"), ("direction", "down")], down),
            series("aqueduct_pg_clients", &[("database", "app"), ("state", "waiting")], waiting),
            series("aqueduct_pg_server_failures_total", &[("database", "app")], waiting),
        ];
        past.see("nlb-1", answer, start + Duration::from_secs(seconds))
    };
    assert_eq!(seen(0.0, 0.0, 0.0, 0).listeners[0].bytes, None);
    let later = seen(100.0, 50.0, 3.0, 1);
    assert_eq!(later.listeners[0].bytes, Some(150.0));
    assert_eq!(later.pools[0].clients, [0.0, 3.0, 0.0]);
    assert_eq!((later.pools[0].failing, later.pools[0].failed), (Some(3.0), 3.0));
}
