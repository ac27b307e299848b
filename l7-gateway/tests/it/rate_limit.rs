//! Limits from the outside: who is refused when, what is told, what reaches the service.

use l7_gateway::snapshot::Snapshot;
use l7_gateway::stages::authn::api_key::{Digest, Record, file};
use serde_json::json;
use tokio::io::AsyncWriteExt as _;

use crate::authn::{Issuers, bearer, rider};
use crate::fakes::{Act, Fake};
use crate::rig::{Rig, local, topology, until};

const LIMITS: &str = "    limits:
      address: { by: address, rate: 7/h, algorithm: sliding-window }
      user: { by: user, rate: 100/h, algorithm: sliding-window }
      search: { by: route, rate: 10/h, burst: 3 }
      total: { by: all, rate: 5/h }
    routes:
      - { path: /user/*, to: user, auth: riders, limits: [user] }
      - { path: /address/*, to: user, auth: riders, limits: [address] }
      - { path: /search, to: user, auth: none, limits: [search, user] }
      - { path: /total/*, to: user, auth: none, limits: [total] }
      - { path: /both/*, to: user, auth: none, limits: [total, search] }";

fn rig(issuers: &Issuers, fake: &Fake, more: &str) -> Rig {
    let services = format!("  user: {{ endpoints: [{}] }}", fake.address);
    Rig::new(&topology(&services, &issuers.gateway(&format!("{more}{LIMITS}"))))
}

fn status(answer: &str) -> u16 {
    answer.split(' ').nth(1).and_then(|text| text.parse().ok()).unwrap_or(0)
}

fn user(issuers: &Issuers, id: u32) -> String {
    bearer(&issuers.riders.token("ES256", None, &rider(json!({ "userId": id }))))
}

/// G10: of 120 requests of one user within an hour exactly 100 pass; the rest get 429 and never
/// reach the service; other users are not concerned.
#[tokio::test]
async fn a_users_budget() {
    local(async {
        let (issuers, fake) = (Issuers::new(), Fake::new(Act::Answer("x")).await);
        let rig = rig(&issuers, &fake, "");
        let lines = user(&issuers, 99);
        let mut seen = Vec::new();
        for n in 0..120_u32 {
            let answer = rig.get("/user/1", &lines).await;
            assert!(answer.contains("ratelimit-policy: \"user\";q=100;w=3600\r\n"), "{answer}");
            let left = format!("ratelimit: \"user\";r={};t=", 99_u32.saturating_sub(n));
            assert!(answer.contains(&left), "{answer}");
            assert_eq!(answer.contains("\r\nretry-after: "), n >= 100, "{answer}");
            seen.push(status(&answer));
        }
        assert!(seen[..100].iter().all(|s| *s == 200) && seen[100..].iter().all(|s| *s == 429));
        assert_eq!(fake.seen.count(), 100);
        assert_eq!(status(&rig.get("/user/1", &user(&issuers, 98)).await), 200);
    })
    .await;
}

/// G10: an address's budget is charged before authentication, so that 401s count; a refusal comes
/// before the token is looked at.
#[tokio::test]
async fn refused_tokens_count_for_their_address() {
    local(async {
        let (issuers, fake) = (Issuers::new(), Fake::new(Act::Answer("x")).await);
        let rig = rig(&issuers, &fake, "");
        let good = user(&issuers, 99);
        for n in 0..9_u32 {
            let lines =
                if n == 3 || n > 6 { good.as_str() } else { "Authorization: Bearer a.b.c\r\n" };
            let answer = rig.get("/address/1", lines).await;
            let expected = if n > 6 {
                429
            } else if n == 3 {
                200
            } else {
                401
            };
            assert_eq!(status(&answer), expected, "{n}: {answer}");
            let left = format!("ratelimit: \"address\";r={};t=", 6_u32.saturating_sub(n));
            assert_eq!(answer.matches(&left).count(), 1, "{answer}");
        }
        let other = rig.connect_from("198.51.100.1:1".parse().expect("an address"));
        let (mut stream, _task) = other;
        let request = format!("GET /address/1 HTTP/1.1\r\nHost: a\r\n{good}\r\n");
        tokio::io::AsyncWriteExt::write_all(&mut stream, request.as_bytes()).await.expect("taken");
        assert!(crate::rig::until(&mut stream, "\r\n\r\n").await.starts_with("HTTP/1.1 200 "));
    })
    .await;
}

/// G10: a thousand claimed addresses are one address: the connection's.
#[tokio::test]
async fn a_claimed_address_has_no_budget_of_its_own() {
    local(async {
        let (issuers, fake) = (Issuers::new(), Fake::new(Act::Answer("x")).await);
        let rig = rig(&issuers, &fake, "");
        let good = user(&issuers, 99);
        let mut passed = 0;
        for n in 0..1000_u32 {
            let claimed = std::net::Ipv4Addr::from(0x0a00_0000 + n);
            let lines = format!(
                "{good}X-Forwarded-For: {claimed}\r\nForwarded: for={claimed}\r\nX-Real-IP: {claimed}\r\n"
            );
            let answer = status(&rig.get("/address/1", &lines).await);
            assert!(answer == 200 || answer == 429, "{answer}");
            passed += u32::from(answer == 200);
        }
        assert_eq!((passed, fake.seen.count()), (7, 7));
        assert!(!fake.seen.last().contains("10.0."), "{}", fake.seen.last());
    })
    .await;
}

/// G10, G23: behind a trusted proxy each client has a budget of its own, and a thousand addresses that
/// one of them claims add nothing to its own; a peer that is no such proxy is believed nothing.
#[tokio::test]
async fn a_proxys_client_is_counted_and_not_what_it_claims() {
    local(async {
        let (issuers, fake) = (Issuers::new(), Fake::new(Act::Answer("x")).await);
        let trust = "    trust-forwarded-for: { from: [192.0.2.7], hops: 1 }\n";
        let rig = rig(&issuers, &fake, trust);
        let good = user(&issuers, 99);
        for (claims, passes) in [(1000_u32, 7), (8, 7)] {
            let (mut passed, own) = (0, format!("203.0.113.{}", claims % 100));
            for n in 0..claims {
                let claimed = std::net::Ipv4Addr::from(0x0a00_0000 + n);
                let lines = match n % 3 {
                    0 => format!("{good}X-Forwarded-For: {claimed}, {own}\r\n"),
                    1 => format!("{good}X-Forwarded-For: {claimed}\r\nX-Forwarded-For: {own}\r\n"),
                    _ => format!("{good}Forwarded: for={claimed}\r\nX-Forwarded-For: {own}\r\n"),
                };
                let answer = status(&rig.get("/address/1", &lines).await);
                assert!(answer == 200 || answer == 429, "{answer}");
                passed += u32::from(answer == 200);
            }
            assert_eq!(passed, passes, "{own}");
            let sent = fake.seen.last().to_ascii_lowercase();
            assert!(sent.contains(&format!("x-forwarded-for: {own}\r\n")), "{sent}");
        }
        let mut passed = 0;
        for n in 0..100_u32 {
            let (mut stream, _task) = rig.connect_from("192.0.2.8:1".parse().expect("an address"));
            let request = format!(
                "GET /address/1 HTTP/1.1\r\nHost: a\r\n{good}X-Forwarded-For: 10.9.9.{n}\r\n\r\n"
            );
            let sent = tokio::io::AsyncWriteExt::write_all(&mut stream, request.as_bytes());
            sent.await.expect("taken");
            passed += u32::from(status(&crate::rig::until(&mut stream, "\r\n\r\n").await) == 200);
        }
        assert_eq!(passed, 7);
        // A change that believes nobody holds for the next request.
        let services = format!("  user: {{ endpoints: [{}] }}", fake.address);
        let changed = topology(&services, &issuers.gateway(LIMITS));
        let (group, instance) = changed.gateway("gw").expect("the instance");
        let before = rig.published.load_full();
        let next = Snapshot::build(group, &instance.name, &rig.observer, Some(&before));
        rig.published.publish(next.expect("it builds"));
        let lines = format!("{good}X-Forwarded-For: 203.0.113.77\r\n");
        assert_eq!(status(&rig.get("/address/1", &lines).await), 200);
        let sent = fake.seen.last().to_ascii_lowercase();
        assert!(sent.contains("x-forwarded-for: 192.0.2.7\r\n"), "{sent}");
    })
    .await;
}

/// G10: by route and for all; rate and burst are two numbers; what everybody shares is told only to
/// those it refuses; one refusal and none of a request's limits is charged.
#[tokio::test]
async fn budgets_of_many() {
    local(async {
        let (issuers, fake) = (Issuers::new(), Fake::new(Act::Answer("x")).await);
        let rig = rig(&issuers, &fake, "");
        for n in 0..5 {
            let answer = rig.get("/search", "").await;
            let refused = n >= 3;
            assert_eq!(status(&answer), if refused { 429 } else { 200 }, "{answer}");
            assert_eq!(answer.contains("ratelimit: \"search\";r=0"), refused, "{answer}");
            // Ten in an hour: the next one comes in six minutes, or what a slow machine left of them.
            let wait = answer.split("\r\nretry-after: ").nth(1);
            let wait = wait.and_then(|rest| rest.split("\r\n").next()?.parse::<u64>().ok());
            assert_eq!(wait.is_some_and(|wait| (300..=360).contains(&wait)), refused, "{answer}");
            assert!(!answer.contains("\"user\""), "nobody was identified: {answer}");
        }
        // Another route's budget is its own; the one for all is charged only when both have room.
        let both: Vec<u16> = {
            let mut all = Vec::new();
            for _ in 0..6 {
                all.push(status(&rig.get("/both/1", "").await));
            }
            all
        };
        assert_eq!(both, [200, 200, 200, 429, 429, 429]);
        for expected in [200, 200, 429] {
            assert_eq!(status(&rig.get("/total/1", "").await), expected);
        }
    })
    .await;
}

/// G10: what happens while Redis is away is what the file says.
#[tokio::test]
async fn policies_of_a_store_that_is_away() {
    local(async {
        for (policy, expected) in [("fail-open", 130), ("fail-closed", 0), ("local-share", 100)] {
            let (issuers, fake) = (Issuers::new(), Fake::new(Act::Answer("x")).await);
            // A port that nobody has.
            let store = format!(
                "    limit-store: {{ redis: \"redis://127.0.0.1:9\", when-away: {policy} }}\n"
            );
            let rig = rig(&issuers, &fake, &store);
            let lines = user(&issuers, 99);
            for n in 0..130 {
                let answer = rig.get("/user/1", &lines).await;
                let refused = if policy == "fail-closed" { 503 } else { 429 };
                assert_eq!(status(&answer), if n < expected { 200 } else { refused }, "{answer}");
                assert_eq!(answer.contains("\r\nretry-after: "), n >= expected, "{answer}");
            }
            assert_eq!(fake.seen.count(), expected);
        }
    })
    .await;
}

/// G10: a leaky bucket lets requests go on one after the other; who waits is answered in his turn, who
/// finds its line full at once.
#[tokio::test]
async fn a_leaky_bucket_spaces_requests() {
    local(async {
        let fake = Fake::new(Act::Answer("x")).await;
        let limits = "    limits:
      even: { by: address, rate: 1/s, burst: 1, algorithm: leaky-bucket }
    routes:
      - { path: /*, to: user, limits: [even] }";
        let rig =
            Rig::new(&topology(&format!("  user: {{ endpoints: [{}] }}", fake.address), limits));
        tokio::time::pause();
        assert_eq!(status(&rig.get("/1", "").await), 200);
        let mut second = std::pin::pin!(rig.get("/2", ""));
        assert!(futures_util::poll!(&mut second).is_pending());
        let refused = rig.get("/3", "").await;
        assert!(refused.contains(" 429 ") && refused.contains("retry-after: 1\r\n"), "{refused}");
        assert_eq!(fake.seen.count(), 1, "the second waits");
        let began = tokio::time::Instant::now();
        assert_eq!(status(&second.await), 200);
        assert!(began.elapsed().as_millis() <= 1001 && fake.seen.count() == 2);
    })
    .await;
}

/// G10: a limit by address and route is charged before authentication, each pair by itself; one by user
/// and route after it.
#[tokio::test]
async fn combinations_have_their_own_budgets() {
    local(async {
        let (issuers, fake) = (Issuers::new(), Fake::new(Act::Answer("x")).await);
        let limits = "    limits:
      place: { by: [route, address], rate: 2/h }
      person: { by: [user, route], rate: 1/h, algorithm: fixed-window }
    routes:
      - { path: /a, to: user, auth: riders, limits: [place] }
      - { path: /b, to: user, auth: riders, limits: [place] }
      - { path: /c, to: user, auth: riders, limits: [person] }
      - { path: /d, to: user, auth: riders, limits: [person] }";
        let services = format!("  user: {{ endpoints: [{}] }}", fake.address);
        let rig = Rig::new(&topology(&services, &issuers.gateway(limits)));
        for (path, expected) in [("/a", 401), ("/b", 401), ("/a", 401), ("/a", 429), ("/b", 401)] {
            assert_eq!(status(&rig.get(path, "").await), expected, "{path}");
        }
        let (one, two) = (user(&issuers, 1), user(&issuers, 2));
        let asked = [("/c", &one, 200), ("/d", &one, 200), ("/c", &two, 200), ("/c", &one, 429)];
        for (path, who, expected) in asked {
            assert_eq!(status(&rig.get(path, who).await), expected, "{path}");
        }
    })
    .await;
}

/// G10: requests of one key under way are bounded, until the last byte of each answer, also where it
/// broke off; others are not concerned.
#[tokio::test]
async fn requests_under_way_are_bounded() {
    local(async {
        let fake = Fake::new(Act::Keep("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf")).await;
        let limits = "    limits:
      few: { by: [address, route], concurrent: 2 }
    routes:
      - { path: /a, to: user, limits: [few] }
      - { path: /b, to: user, limits: [few] }";
        let rig =
            Rig::new(&topology(&format!("  user: {{ endpoints: [{}] }}", fake.address), limits));
        let ask = async |path: &str| {
            let (mut stream, task) = rig.connect();
            let request = format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n");
            stream.write_all(request.as_bytes()).await.expect("taken");
            (until(&mut stream, "\r\n\r\n").await, stream, task)
        };
        let (one, first, serving) = ask("/a").await;
        assert!(
            one.contains("few\";q=2;qu=\"concurrent-requests\"") && one.contains(";r=1;"),
            "{one}"
        );
        let (_, _second, _task) = ask("/a").await;
        let (third, ..) = ask("/a").await;
        assert!(third.contains(" 429 ") && third.contains("retry-after: 1\r\n"), "{third}");
        assert_eq!(status(&ask("/b").await.0), 200);
        drop(first);
        serving.await.expect("it ends with its client");
        assert_eq!(status(&ask("/a").await.0), 200);
    })
    .await;
}

/// G7, G10: consumers have the quota of their plan; users are not charged for it, nor consumers of
/// another plan.
#[tokio::test]
async fn consumers_have_the_quota_of_their_plan() {
    local(async {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("keys.ndjson");
        for (key, consumer, plan) in [
            ("aqk_gold-gold-gold-gold-1", "acme", Some("gold")),
            ("aqk_gold-gold-gold-gold-2", "acme", Some("gold")),
            ("aqk_free-free-free-free", "tiny", Some("free")),
            ("aqk_none-none-none-none", "none", None),
        ] {
            let record = Record {
                consumer: consumer.into(),
                plan: plan.map(Into::into),
                ..Record::default()
            };
            file::append(&path, &Digest::of(key.as_bytes()), &record).expect("written");
        }
        let (issuers, fake) = (Issuers::new(), Fake::new(Act::Answer("x")).await);
        let limits = format!(
            "    api-keys:
      partners: {{ from: \"file:{}\", header: X-API-Key }}
    limits:
      gold-day: {{ by: consumer, plan: gold, rate: 3/d, algorithm: fixed-window }}
      free-day: {{ by: consumer, plan: [free, trial], rate: 1/d, algorithm: fixed-window }}
    routes:
      - {{ path: /*, to: user, auth: [riders, partners], limits: [gold-day, free-day] }}",
            path.display()
        );
        let services = format!("  user: {{ endpoints: [{}] }}", fake.address);
        let rig = Rig::new(&topology(&services, &issuers.gateway(&limits)));
        let key = |key: &str| format!("X-API-Key: aqk_{key}\r\n");
        let asked = [
            (key("gold-gold-gold-gold-1"), 200),
            (key("gold-gold-gold-gold-2"), 200),
            (key("gold-gold-gold-gold-1"), 200),
            (key("gold-gold-gold-gold-2"), 429),
            (key("free-free-free-free"), 200),
            (key("free-free-free-free"), 429),
            (key("none-none-none-none"), 200),
            (key("none-none-none-none"), 200),
            (user(&issuers, 1), 200),
            (user(&issuers, 1), 200),
        ];
        for (nth, (lines, expected)) in asked.into_iter().enumerate() {
            assert_eq!(status(&rig.get("/a", &lines).await), expected, "{nth}");
        }
    })
    .await;
}

/// G10: a device is what a verified token names, never what a header says.
#[tokio::test]
async fn a_device_is_a_verified_claim() {
    local(async {
        let (issuers, fake) = (Issuers::new(), Fake::new(Act::Answer("x")).await);
        let limits = "    device-claim: device
    limits:
      device: { by: device, rate: 2/h }
    routes:
      - { path: /*, to: user, auth: riders, limits: [device] }";
        let services = format!("  user: {{ endpoints: [{}] }}", fake.address);
        let rig = Rig::new(&topology(&services, &issuers.gateway(limits)));
        let with = |user: u32, device: serde_json::Value| {
            let claims = rider(json!({ "userId": user, "device": device }));
            bearer(&issuers.riders.token("ES256", None, &claims)) + "X-Device-Id: other\r\n"
        };
        let asked = [
            (with(1, json!("phone-1")), 200),
            (with(2, json!("phone-1")), 200),
            (with(1, json!("phone-1")), 429),
            (with(1, json!("phone-2")), 200),
            (user(&issuers, 1), 200),
        ];
        for (nth, (lines, expected)) in asked.into_iter().enumerate() {
            assert_eq!(status(&rig.get("/a", &lines).await), expected, "{nth}");
        }
    })
    .await;
}

/// G10: a device is also who shows the cookie that was handed to it, on whichever instance, and under the
/// former secret; a forged one, another group's and none are no device, and are handed one.
#[tokio::test]
async fn a_device_shows_its_cookie() {
    local(async {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("key");
        let (old, new) =
            ("an old secret of more than 32 characters", "a new secret of more than 32 characters");
        std::fs::write(&path, old).expect("written");
        let fake = Fake::new(Act::Answer("x")).await;
        let rig = |group: &str| {
            let services = format!("  user: {{ endpoints: [{}] }}", fake.address);
            let gateway = format!(
                "    device-cookie: {{ key: \"file:{}\" }}
    limits: {{ device: {{ by: device, rate: 2/h }} }}
    routes:
      - {{ path: /free, to: user }}
      - {{ path: /*, to: user, limits: [device] }}",
                path.display()
            );
            let mut file = topology(&services, &gateway);
            file.gateways[0].name = topology::units::GroupName::new(group);
            Rig::new(&file)
        };
        let (one, other) = (rig("app"), rig("app"));
        let handed = |answer: &str| {
            let line = answer.lines().find_map(|line| line.strip_prefix("set-cookie: "));
            line.map(str::to_owned)
        };
        assert_eq!(handed(&one.get("/free", "").await), None);
        let cookie = handed(&one.get("/a", "").await).expect("a cookie");
        let (pair, attributes) = cookie.split_once("; ").expect("attributes");
        assert!(pair.starts_with("__Host-device="), "{cookie}");
        assert_eq!(attributes, "Path=/; Max-Age=31536000; Secure; HttpOnly; SameSite=Lax");
        assert_ne!(handed(&one.get("/a", "").await).expect("another"), cookie);
        let line = format!("Cookie: a=1; {pair}\r\n");
        for (rig, expected) in [(&one, 200), (&one, 200), (&one, 429), (&other, 200)] {
            let answer = rig.get("/a", &line).await;
            assert_eq!((status(&answer), handed(&answer)), (expected, None), "{answer}");
        }
        // The secret was changed; whoever has a cookie is still known.
        std::fs::write(&path, format!("{new}\n{old}\n")).expect("written");
        assert_eq!(handed(&rig("app").get("/a", &line).await), None);
        let (name, signature) = pair.split_once('.').expect("two parts");
        let forged = [
            format!("{name}.{}", "A".repeat(signature.len())),
            format!("{name}x.{signature}"),
            format!("{name}."),
            name.to_owned(),
            String::from("__Host-device="),
        ];
        for forged in forged {
            let answer = one.get("/a", &format!("Cookie: {forged}\r\n")).await;
            assert!(status(&answer) == 200 && handed(&answer).is_some(), "{forged}: {answer}");
        }
        assert!(handed(&rig("other").get("/a", &line).await).is_some(), "another group's");
        std::fs::write(&path, new).expect("written");
        assert!(handed(&rig("app").get("/a", &line).await).is_some(), "the secret is gone");
    })
    .await;
}
