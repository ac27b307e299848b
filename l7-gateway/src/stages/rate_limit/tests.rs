//! Counters' keys, what is an error at start, and when a refused request may come again.

use std::path::Path;

use common::observe::Observer;
use topology::Topology;

use super::*;

fn topology(issuers: &str, store: &str) -> Topology {
    let text = format!(
        "aqueduct: 1
services:
  user: {{ endpoints: [127.0.0.1:9] }}
gateways:
  app:
    instances: {{ gw: {{ listen: 127.0.0.1:0 }} }}
    issuers:{issuers}
    limits:
      user: {{ by: user, rate: 100/min, algorithm: sliding-window }}
      place: {{ by: address, rate: 10/s }}
    limit-store: {{ {store} }}
    routes:
      - {{ path: /*, to: user, auth: riders, limits: [user, place] }}
"
    );
    let parsed = topology::parse("test.yaml", &text, Path::new("/nowhere"));
    parsed.unwrap_or_else(|problems| panic!("{problems}"))
}

fn limits(topology: &Topology) -> Result<Arc<Limits>, LimitsError> {
    let (group, _) = topology.gateway("gw").expect("the instance");
    Limits::new(group, Observer::new("gw"))
}

const RIDERS: &str = "\n      riders: { issuer: \"https://r.example\", audience: a, jwks: \"http://127.0.0.1:9/\", algorithms: [ES256] }";
const NOBODY_THERE: &str = "redis: \"redis://127.0.0.1:9\"";

/// G10: keys that an operator can read, spread over the slots of a cluster.
#[test]
fn keys_in_the_store() {
    let limits = limits(&topology(RIDERS, NOBODY_THERE)).expect("it builds");
    let [user, place] = &limits.rules[..] else { unreachable!("two limits") };
    let key = |rule, subject| limits.key(rule, &subject);
    assert_eq!(key(user, Subject::User("99".into())), "ratelimit:app:user:user:99");
    let address = Subject::address("2001:db8::7".parse().expect("an address"));
    assert_eq!(key(place, address), "ratelimit:app:place:address:2001:db8::");
    assert_eq!(key(place, Subject::Route("/*".into())), "ratelimit:app:place:route:/*");
    assert_eq!(key(place, Subject::All), "ratelimit:app:place:all");
    let both = |user: &str, route: &str| {
        key(place, Subject::Each(vec![Subject::User(user.into()), Subject::Route(route.into())]))
    };
    assert_eq!(both("99", "/a"), "ratelimit:app:place:7:user:99;8:route:/a;");
    assert_ne!(both("9;8:route:/a", "b"), both("9", "/a;b"));
}

/// G10: a store that is away at start is fatal only where it would refuse every request; the
/// message has its place.
#[tokio::test]
async fn a_store_that_is_away_at_start() {
    for policy in ["fail-open", "local-share"] {
        let store = format!("{NOBODY_THERE}, when-away: {policy}");
        let limits = limits(&topology(RIDERS, &store)).expect("it builds");
        assert!(limits.reach().await.is_ok(), "{policy}");
    }
    let store = format!("{NOBODY_THERE}, when-away: fail-closed");
    let fault = limits(&topology(RIDERS, &store)).expect("it builds").reach().await;
    let fault = fault.expect_err("nobody is there");
    assert_eq!(fault.place().line, 12);
    assert!(fault.to_string().starts_with("limit-store: "), "{fault}");
}

/// The last of those that refuse decides; less than a second is one.
#[test]
fn when_to_come_again() {
    let standing = |verdict, next| Standing { verdict, remaining: 0, next, wait: 0 };
    let admit = standing(Verdict::Admit, 90_000_000);
    assert_eq!(verdict(&[]), Ok(()));
    assert_eq!(verdict(&[admit]), Ok(()));
    let soon = standing(Verdict::Refuse, 1);
    assert_eq!(verdict(&[admit, soon]), Err(LimitError::Exceeded { retry_after: 1 }));
    let later = standing(Verdict::Refuse, 2_000_001);
    assert_eq!(verdict(&[soon, later]), Err(LimitError::Exceeded { retry_after: 3 }));
}
