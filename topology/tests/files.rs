//! Whole files: the smallest of each tier, what they resolve to, the stacks that are shipped, and
//! the generated texts. Malformed files are in `golden.rs`.
//!
//! Invariant: nothing here depends on the folder it runs in.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use topology::gateway::{Allowance, Auth, IssuerKeys, LimitId, Unplaced as _, Via};
use topology::l4::{HashTable, ListenAt, OnDown, Protocol};
use topology::model::{Dependency, DiscoverSource, Probe};
use topology::pool::{PoolMode, Servers};
use topology::units::{HostPattern, Percent};
use topology::{Balance, LoadError, SecretRef, Topology, load, parse};

fn parsed(text: &str) -> Topology {
    match parse("test.yaml", text, Path::new("/etc/aqueduct")) {
        Ok(topology) => topology,
        Err(problems) => panic!("{problems}"),
    }
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// G16: services that only an aggregate asks are led to.
#[test]
fn calls_lead_to_services() {
    let topology = parsed(
        "aqueduct: 1
services: { user: { endpoints: [127.0.0.1:1] }, order: { endpoints: [127.0.0.1:2] } }
gateways:
  app:
    instances: { gw: { listen: 127.0.0.1:0 } }
    routes: [{ path: /d, aggregate: { calls: { one: { to: user, path: / }, two: { to: order, path: / } } } }]
",
    );
    assert!(topology.warnings.is_empty(), "{:?}", topology.warnings);
}

/// T3: a balancer alone in seven lines.
#[test]
fn smallest_balancer() {
    let topology = parsed(
        "services:
  game: { endpoints: [10.0.0.7:7801] }
nlbs:
  edge:
    instances: { nlb-1: { address: 127.0.0.1 } }
    listeners:
      game: { udp: \"*:0\", to: game }
",
    );
    assert!(topology.warnings.is_empty());
    let (group, instance) = topology.nlb("nlb-1").unwrap();
    let listener = &group.listeners[0];
    assert_eq!(listener.protocol, Protocol::Udp);
    assert_eq!(listener.at.value, ListenAt::Instance(0));
    assert_eq!(listener.at.value.on(instance), "127.0.0.1:0".parse().unwrap());
    assert_eq!(listener.balance, Balance::ClientAddress);
    assert_eq!(listener.idle, Duration::from_secs(120));
    assert_eq!(listener.max_flows.get(), 50_000);
    assert_eq!(listener.to().unwrap().endpoints[0].name.as_str(), "10.0.0.7:7801");
    assert_eq!((listener.place.line, listener.place.column), (7, 7));
    assert!(topology.nlb("nlb-2").is_none() && topology.gateway("nlb-1").is_none());
}

/// T3: a gateway alone in seven lines, in plain HTTP.
#[test]
fn smallest_gateway() {
    let topology = parsed(
        "services:
  user: { endpoints: [127.0.0.1:7011] }
gateways:
  app:
    instances: { gw-1: { listen: 127.0.0.1:0 } }
    routes: [{ path: /*, to: user }]
",
    );
    assert!(topology.warnings.is_empty());
    let (group, instance) = topology.gateway("gw-1").unwrap();
    assert_eq!(instance.listen.value.port(), 0);
    assert!(group.tls.is_none() && group.unmatched.is_none() && group.limit_store.is_none());
    assert_eq!(group.front.max_body_bytes, 10 << 20);
    let (route, upstream) =
        (&group.routes[0], &group.upstreams[group.routes[0].to.service().unwrap().0]);
    assert_eq!(route.name.as_str(), "/*");
    assert_eq!(route.policy.auth, Auth::None);
    assert_eq!(route.timeout, Duration::from_secs(15));
    assert_eq!(upstream.via, Via::Endpoints);
    assert_eq!(upstream.max_requests_per_connection, None);
}

/// T3: a pooler alone in five lines.
#[test]
fn smallest_pool() {
    let topology = parsed(
        "pools:
  data:
    instances: { pool-1: { listen: \"[::1]:0\" } }
    databases: { app: { primary: 10.0.0.1:5432 } }
    users: { app: { secret: file:app.scram } }
",
    );
    assert!(topology.warnings.is_empty());
    let (group, _) = topology.pool("pool-1").unwrap();
    let database = &group.databases[0];
    assert_eq!(database.mode, PoolMode::Transaction);
    assert_eq!((database.pool_size.get(), database.server_name.as_str()), (20, "app"));
    let secret = group.users[0].secret.as_ref().unwrap();
    assert_eq!(secret.value, SecretRef::File("/etc/aqueduct/app.scram".into()));
    assert_eq!((secret.place.line, secret.place.column), (5, 29));
}

/// N1, N2, N7: what a balancer's listener may say beyond its service, and what is filled in.
#[test]
fn a_listener_with_everything() {
    let topology = parsed(
        "services:
  game: { discover: { dns: Game.Internal.:7801, resolver: 127.0.0.1:53 }, slow-start: 30s, panic-threshold: 50% }
  web: { endpoints: [{ address: 127.0.0.1:1, zone: a }], health: { grpc: true } }
  mail: { endpoints: [127.0.0.1:2], health: { tls: mail.example } }
nlbs:
  edge:
    instances: { nlb-1: { address: 127.0.0.1, zone: a } }
    listeners:
      game: { udp: \"*:7777\", to: game, hash: rendezvous, new-flows: 50/s, packets-per-source: 9/s, proxy-protocol: v2 }
      tls: { tcp: \"*:443\", tls-routes: [{ sni: \"*.Mail.example\", alpn: [h2], to: mail }], to: web, on-down: reset }
      only: { tcp: \"*:444\", tls-routes: [{ sni: [a.example, b.example], to: mail }] }
",
    );
    let [game, tls, only] = topology.nlbs[0].listeners.as_slice() else { panic!("three") };
    let discover = &game.to().unwrap().discover.as_ref().unwrap().value;
    assert_eq!(discover.source, DiscoverSource::Dns { host: "game.internal".into(), port: 7801 });
    assert_eq!(discover.floor, Duration::from_secs(1));
    assert_eq!((game.hash, game.on_down), (HashTable::Rendezvous, OnDown::Rehash));
    assert_eq!(game.to().unwrap().panic_threshold, Percent(50));
    let names: Vec<_> = tls.services().map(|to| to.name.as_str()).collect();
    assert_eq!(names, ["mail", "web"], "the one for everybody is the last");
    let when = tls.targets[0].when.as_ref().unwrap();
    assert_eq!(when.names, [HostPattern::Suffix(".mail.example".into())]);
    assert_eq!((when.alpn.as_slice(), tls.on_down), (["h2".to_owned()].as_slice(), OnDown::Reset));
    assert!(only.targets.iter().all(|target| target.when.is_some()));
    assert_eq!(only.on_down, OnDown::Keep);
    let health = tls.to().unwrap().health.as_ref().unwrap();
    assert_eq!(health.probe, Probe::Grpc { service: String::new() });
    let zones = (&tls.to().unwrap().endpoints[0].zone, &topology.nlbs[0].instances[0].zone);
    assert_eq!(zones.0, zones.1);
}

/// T1, T3: the documented stack resolves to what it says, without a warning.
#[test]
fn documented_stack() {
    let topology = load(repository().join("topology/stacks/instagram-valorant.yaml")).unwrap();
    assert!(topology.warnings.is_empty(), "{:?}", topology.warnings);
    let (edge, _) = topology.nlb("nlb-1").unwrap();
    let https = &edge.listeners[1];
    assert_eq!((https.name.as_str(), https.to().unwrap().name.as_str()), ("https", "app"));
    let names: Vec<_> = https.to().unwrap().endpoints.iter().map(|e| e.name.as_str()).collect();
    assert_eq!(names, ["gw-1", "gw-2"]);
    assert_eq!(https.to().unwrap().health.as_ref().unwrap().probe, Probe::Tcp);
    let (app, _) = topology.gateway("gw-2").unwrap();
    let route = |path: &str| app.routes.iter().find(|r| r.name.as_str() == path).unwrap();
    let user = &app.upstreams[route("/api/user/*").to.service().unwrap().0];
    assert_eq!((user.service.as_str(), user.via), ("user", Via::Balancer));
    assert_eq!(user.endpoints[0].address, "127.0.0.1:7010".parse().unwrap());
    assert_eq!(user.max_requests_per_connection.unwrap().get(), 1000);
    assert_eq!(user.max_connection_age, Some(Duration::from_secs(60)));
    let echo = &app.upstreams[route("/v1/echo/*").to.service().unwrap().0];
    assert_eq!(
        (echo.service.as_str(), echo.via, echo.endpoints.len()),
        ("echo", Via::Endpoints, 2)
    );
    let search = &route("/api/search").policy.limits;
    let names: Vec<_> = search.iter().map(|LimitId(i)| app.limits[*i].name.as_str()).collect();
    assert_eq!(names, ["total", "address", "user", "search"]);
    assert_eq!(route("/api/v1/user/*").sunset.unwrap().to_string(), "2027-06-30");
    assert!(
        matches!(&app.issuers[0].keys, IssuerKeys::Url(url) if url.value.ends_with("jwks.json"))
    );
    let (data, _) = topology.pool("pool-1").unwrap();
    assert_eq!(data.databases[1].name.as_str(), "app_ro");
    assert!(matches!(&data.databases[1].servers, Servers::Replicas(all) if all.len() == 1));
    let feed = topology.services.iter().find(|s| s.name.as_str() == "feed").unwrap();
    assert!(matches!(feed.uses[1].value, Dependency::Listener(..)));
}

/// T4: every shipped stack checks clean and names the schema for editors.
#[test]
fn shipped_stacks_are_clean() {
    let mut seen = 0;
    for entry in fs::read_dir(repository().join("topology/stacks")).unwrap() {
        let path = entry.unwrap().path();
        // What a stack serves stands beside it.
        if path.is_dir() {
            continue;
        }
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.starts_with("# yaml-language-server: $schema=../schema.json\n"), "{path:?}");
        let topology = load(&path).unwrap_or_else(|error| panic!("{error}"));
        assert!(topology.warnings.is_empty(), "{path:?}: {:?}", topology.warnings);
        seen += 1;
    }
    assert!(seen >= 2);
}

/// The file in the crate's header is a file.
#[test]
fn header_example_is_clean() {
    let source = include_str!("../src/lib.rs");
    let lines =
        source.lines().map(|line| line.trim_start_matches("//!").strip_prefix(' ').unwrap_or(""));
    let text: Vec<&str> =
        lines.skip_while(|l| *l != "```yaml").skip(1).take_while(|l| *l != "```").collect();
    let topology = parsed(&text.join("\n"));
    assert!(topology.warnings.is_empty(), "{:?}", topology.warnings);
    assert_eq!((topology.nlbs.len(), topology.gateways.len(), topology.pools.len()), (2, 1, 1));
}

/// Policies: what a route says comes before the defaults, `+` adds to them, `none` removes them.
#[test]
fn routes_inherit() {
    let topology = parsed(
        "services: { user: { endpoints: [127.0.0.1:7011] } }
gateways:
  app:
    instances: { gw-1: { listen: 127.0.0.1:0 } }
    issuers:
      a: { issuer: a, audience: [api, web], key: env:KEY, algorithms: [HS256] }
    limits: { one: { by: all, rate: 10/s }, two: { by: route, rate: 5/s, burst: 9 } }
    defaults: { auth: a, scopes: [x], limits: [one], cors: { origins: \"*\" } }
    routes:
      - { path: /a, to: user }
      - { path: /b, to: user, auth: none, limits: [two], cors: none }
      - { path: /c, to: user, scopes: [y], limits: [+two, +one] }
      - { path: /c, to: user, methods: [POST] }
    upstreams: { user: { balance: least-connections, max-attempts: 1 } }
",
    );
    assert!(topology.warnings.is_empty(), "{:?}", topology.warnings);
    let group = &topology.gateways[0];
    let [a, b, c, post] = group.routes.as_slice() else { panic!("four routes") };
    assert!(matches!(&a.policy.auth, Auth::Asked(ways) if ways.issuers.len() == 1));
    assert_eq!(a.policy.scopes[0].as_str(), "x");
    assert_eq!(a.policy.limits, [LimitId(0)]);
    assert_eq!(a.policy.cors.as_ref().unwrap().methods, ["GET", "HEAD", "POST"]);
    assert_eq!(b.policy.auth, Auth::None);
    assert!(b.policy.scopes.is_empty() && b.policy.cors.is_none());
    assert_eq!(b.policy.limits, [LimitId(1)]);
    assert_eq!(c.policy.scopes[0].as_str(), "y");
    assert_eq!(c.policy.limits, [LimitId(0), LimitId(1)]);
    assert_eq!(post.name.as_str(), "POST /c");
    let burst = |at: usize| match group.limits[at].allows {
        Allowance::Rate { burst, .. } => burst.get(),
        Allowance::Concurrent(_) | Allowance::Quota(_) => panic!("a rate"),
    };
    assert_eq!((burst(0), burst(1)), (10, 9));
    assert_eq!(group.upstreams.len(), 1);
    assert_eq!(group.upstreams[0].retry.attempts, 1);
}

/// T1: instances on different hosts may have the same loopback admin port; on one host they may not.
#[test]
fn ports_are_per_host() {
    let file = |second: &str| {
        format!(
            "services: {{ user: {{ endpoints: [10.0.1.1:80] }} }}
nlbs:
  edge:
    instances:
      a: {{ address: 10.0.0.1, admin: 127.0.0.1:9101 }}
      b: {{ address: {second}, admin: 127.0.0.1:9101 }}
    listeners: {{ web: {{ tcp: \"*:443\", to: user }} }}
"
        )
    };
    parsed(&file("10.0.0.2"));
    let problems = parse("test.yaml", &file("10.0.0.1"), Path::new("/")).unwrap_err();
    assert_eq!(problems.list().len(), 2, "{problems}");
}

/// O5: hostile files end in a problem, in bounded time and memory.
#[test]
fn hostile_files_are_bounded() {
    let deep = "[".repeat(100_000);
    let deep_map = (0..2_000).map(|n| format!("{}a:\n", " ".repeat(n))).collect::<String>();
    let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for n in 1..12 {
        let row = vec![format!("*a{}", n - 1); 10].join(", ");
        bomb.push_str(&format!("a{n}: &a{n} [{row}]\n"));
    }
    let own = "services: &s { user: *s }\n".to_owned();
    let long = format!("services: {}", "x".repeat(5 << 20));
    let many = (0..250_000).map(|n| format!("k{n}: 1\n")).collect::<String>();
    for text in [deep, deep_map, bomb, own, long, many] {
        let problems = parse("hostile.yaml", &text, Path::new("/")).unwrap_err();
        assert!(!problems.list().is_empty());
        assert!(problems.to_string().len() < 4 << 20);
    }
}

/// O5: of very many problems the first thousand are told, and how many more there are.
#[test]
fn problems_are_bounded() {
    let text = (0..3_000).map(|n| format!("k{n}: 1\n")).collect::<String>();
    let problems = parse("test.yaml", &text, Path::new("/")).unwrap_err();
    assert_eq!(problems.list().len(), 1_000);
    assert!(problems.to_string().ends_with("1000 problems, and 2000 more that are not shown"));
}

/// O5: a byte order mark and the line ends of other systems change nothing.
#[test]
fn foreign_line_ends() {
    let text = "\u{feff}services:\r\n  user: { endpoints: [127.0.0.1] }\r\n";
    let problems = parse("test.yaml", text, Path::new("/")).unwrap_err();
    let at = problems.list()[0].at;
    assert_eq!((at.line, at.column), (2, 23), "{problems}");
}

/// O5: what the file quotes cannot move the terminal's cursor.
#[test]
fn escapes_are_not_printed() {
    let problems =
        parse("test.yaml", "\"a\\e[2J\": 1\nb: \"\u{9b}x\"\n", Path::new("/")).unwrap_err();
    let shown = problems.to_string();
    assert!(!shown.chars().any(|c| c.is_control() && c != '\n'), "{shown:?}");
}

/// An anchor may be used again, and the copy is read like the original.
#[test]
fn aliases_are_copies() {
    let topology = parsed(
        "services:
  a: &a { endpoints: [127.0.0.1:1] }
  b: *a
nlbs:
  edge:
    instances: { nlb-1: { address: 127.0.0.1 } }
    listeners: { a: { tcp: \"*:0\", to: a }, b: { tcp: \"*:0\", to: b } }
",
    );
    assert_eq!(topology.services[1].endpoints, topology.services[0].endpoints);
}

/// T4: relative paths start at the file's folder; a file that cannot be read is told as such.
#[test]
fn files_are_loaded() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pool.yaml");
    let text = "pools: { data: { instances: { p: { listen: 127.0.0.1:0 } }, databases: { a: { primary: 127.0.0.1:1 } }, users: { u: { secret: file:s } } } }";
    fs::write(&path, text).unwrap();
    let topology = load(&path).unwrap();
    let secret = topology.pools[0].users[0].secret.as_ref().unwrap();
    assert_eq!(secret.value, SecretRef::File(folder.path().join("s")));
    assert_eq!(topology.source.folder, folder.path());
    let missing = load(folder.path().join("none.yaml")).unwrap_err();
    assert!(matches!(&missing, LoadError::Io { .. }) && missing.to_string().contains("none.yaml"));
    fs::write(&path, b"a: \xff").unwrap();
    assert!(load(&path).unwrap_err().to_string().contains("byte 4 is not UTF-8"));
}

/// R5: what is said of a route or a service on another line is the same.
#[test]
fn places_make_no_difference() {
    let file = "
services:
  a: { endpoints: [127.0.0.1:1] }
gateways:
  g:
    instances: { gw: { listen: 127.0.0.1:0 } }
    defaults: { auth: none }
    upstreams: { a: { protocol: http2, external: { url: \"http://127.0.0.1:2/\" } } }
    routes:
      - { path: /a/*, to: a, external: { url: \"http://127.0.0.1:3/\" }, validate: api.yaml, authorize: { url: \"http://127.0.0.1:4/\" } }
      - { path: /b/*, to: a, transcode: { protos: a.proto } }
";
    let (one, other) = (parsed(file), parsed(&format!("# a comment\n{file}")));
    let (one, other) = (&one.gateways[0], &other.gateways[0]);
    assert_eq!(one.routes.len(), 2);
    for (one, other) in one.routes.iter().zip(&other.routes) {
        assert_eq!(one.unplaced(), other.unplaced());
    }
    assert_eq!(one.upstreams[0].unplaced(), other.upstreams[0].unplaced());
}

/// The texts made from the tables are the committed ones; `UPDATE_GOLDEN=1` writes them.
#[test]
fn generated_texts_are_fresh() {
    let texts =
        [("topology/schema.json", topology::schema()), ("docs/config.md", topology::docs())];
    for (name, text) in texts {
        let path = repository().join(name);
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            fs::write(&path, &text).unwrap();
        }
        let committed = fs::read_to_string(&path).unwrap_or_default();
        assert!(committed == text, "{name} is stale: run with UPDATE_GOLDEN=1");
    }
}

/// Every key of the schema says its meaning, and its default unless it must be there.
#[test]
fn every_key_is_described() {
    let schema: serde_json::Value = serde_json::from_str(&topology::schema()).unwrap();
    let definitions = schema["definitions"].as_object().unwrap().values();
    for section in definitions.chain([&schema]) {
        let required = section["required"].as_array().cloned().unwrap_or_default();
        for (key, property) in section["properties"].as_object().unwrap() {
            let text = property["description"].as_str().unwrap();
            let must = required.iter().any(|name| name == key);
            // Keys of which a section has exactly one.
            let checks = ["tcp", "udp", "http", "tls", "grpc"];
            let sources = [
                "jwks",
                "key",
                "dns",
                "srv",
                "file",
                "consul",
                "etcd",
                "eureka",
                "kubernetes",
                "eds",
            ];
            let one_of = [&checks[..], &sources].concat();
            let choice = text.contains("Exactly one") || one_of.contains(&key.as_str());
            assert!(must || choice || text.contains("Default:"), "{key}: {text}");
        }
    }
}
