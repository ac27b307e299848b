//! Who is counted as whom.

use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use super::*;
use crate::exchange::Identity;

fn group(routes: &str) -> Group {
    let text = format!(
        "aqueduct: 1\nservices:\n  user: {{ endpoints: [127.0.0.1:9] }}\ngateways:\n  app:\n    instances: {{ gw: {{ listen: 127.0.0.1:0 }} }}\n    routes:\n{routes}"
    );
    let read = topology::parse("t.yaml", &text, Path::new("/nowhere"));
    let read = read.unwrap_or_else(|problems| unreachable!("{problems}"));
    read.gateway("gw").map(|(group, _)| group.clone()).expect("the group")
}

fn row(usage: &Usage, route: &str, consumer: &str) -> Option<(u64, u64)> {
    let shown = usage.show();
    let rows = shown.as_array().expect("rows");
    let one = rows.iter().find(|row| row["route"] == route && row["consumer"] == consumer)?;
    Some((one["total"].as_u64()?, one["last"].as_u64()?))
}

const ROUTES: &str = "      - { name: v1, path: /v1/*, to: user, version: v1 }
      - { name: v2, path: /v2/*, to: user }
";

/// G14: whoever is known stays known by name when there are too many others, on every worker; and nobody is
/// counted where a route has no version.
#[test]
fn known_consumers_keep_their_names() {
    let (group, metrics) = (group(ROUTES), Metrics::new());
    let usage = Usage::new(&group, &metrics, None);
    let (one, other) = (Counters::new(&usage, &group.routes), Counters::new(&usage, &group.routes));
    let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
    let consumer = |n: usize| Caller::Known(Rc::new(Identity::consumed(&format!("c{n}"))));
    for n in 0..MOST + 50 {
        one.count(RouteId(0), &consumer(n), at(1));
    }
    for counters in [&one, &other] {
        counters.count(RouteId(0), &consumer(0), at(7));
        counters.count(RouteId(0), &consumer(MOST + 1), at(8));
        counters.count(RouteId(0), &Caller::Anonymous, at(9));
        counters.count(RouteId(1), &consumer(0), at(9));
    }
    assert_eq!(row(&usage, "v1", "c0"), Some((3, 7)));
    assert_eq!(row(&usage, "v1", "others"), Some((52, 8)));
    assert_eq!(row(&usage, "v1", "none"), Some((2, 9)));
    assert_eq!(row(&usage, "v2", "c0"), None, "it has no version");
    let rows = usage.show().as_array().map_or(0, Vec::len);
    assert_eq!(rows, MOST + 2);
    let metrics = metrics.render();
    let line =
        "aqueduct_http_version_requests_total{route=\"v1\",version=\"v1\",consumer=\"c0\"} 3";
    assert!(metrics.contains(line), "{line}");
}

/// G14: a changed file keeps what is known of versions that are still there, and makes room of the others.
#[test]
fn counts_outlive_a_change_of_the_file() {
    let (before, metrics) = (group(ROUTES), Metrics::new());
    let usage = Usage::new(&before, &metrics, None);
    let user = Caller::Known(Rc::new(Identity::made_up("u", &[], &[], json!({}))));
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(5);
    Counters::new(&usage, &before.routes).count(RouteId(0), &user, now);
    let after = Usage::new(&before, &metrics, Some(&usage));
    assert_eq!(row(&after, "v1", "users"), Some((1, 5)));
    let gone = group("      - { path: /v1/*, to: user }\n");
    let after = Usage::new(&gone, &metrics, Some(&after));
    assert_eq!(after.show(), json!([]));
}
