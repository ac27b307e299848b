//! `aqueduct check --live` as a person runs it.

use std::net::TcpListener;

use crate::name_server::name_server;
use crate::stack::{aqueduct, folder, text};

/// A port that nobody listens on.
fn closed() -> u16 {
    TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("bound").port()
}

/// T4: what the world lacks of a file is told at its place with a remedy, all at once: a busy port, a dead
/// service, an unknown name, Redis, PostgreSQL and an issuer that are away. Without `--live` it is fine.
#[test]
fn what_the_world_lacks_is_told() {
    let folder = folder("live");
    let held = TcpListener::bind("127.0.0.1:0").expect("a port");
    let busy = held.local_addr().expect("bound").port();
    let [dead, redis, issuer, database, free] = [(); 5].map(|()| closed());
    let content = format!(
        "aqueduct: 1
services:
  user: {{ endpoints: [127.0.0.1:{dead}] }}
nlbs:
  edge:
    instances: {{ nlb-1: {{ address: 127.0.0.1 }} }}
    listeners: {{ web: {{ tcp: \"127.0.0.1:{busy}\", to: user }} }}
gateways:
  app:
    instances: {{ gw-1: {{ listen: 127.0.0.1:{free} }} }}
    issuers:
      app: {{ issuer: \"https://id.example\", audience: api, jwks: \"http://127.0.0.1:{issuer}/jwks.json\", algorithms: [ES256] }}
    limits: {{ user: {{ by: user, rate: 10/s }} }}
    limit-store: {{ redis: \"redis://127.0.0.1:{redis}\" }}
    routes: [{{ path: /*, to: user, auth: app, limits: [user] }}]
pools:
  data:
    instances: {{ pool-1: {{ listen: 127.0.0.1:0 }} }}
    databases:
      app: {{ primary: 127.0.0.1:{database} }}
      far: {{ primary: nowhere.invalid:5432 }}
    users: {{ app: {{ secret: file:app.password }} }}
"
    );
    std::fs::write(folder.path().join("app.password"), "correct horse").expect("written");
    let file = folder.path().join("stack.yaml");
    std::fs::write(&file, content).expect("written");
    let check = |more: &[&str]| {
        let mut command = aqueduct();
        let output = command.arg("check").arg(&file).args(more).output().expect("run");
        (output.status.code(), text(&output.stdout))
    };
    assert_eq!(check(&[]).0, Some(0), "{}", check(&[]).1);
    let (code, told) = check(&["--live"]);
    assert_eq!(code, Some(2), "{told}");
    for line in [
        format!("stack.yaml:3:23 warning: 127.0.0.1:{dead} is not reached"),
        format!("stack.yaml:7:30 127.0.0.1:{busy} cannot be listened on: it is busy"),
        "stack.yaml:12:65 issuer app gives no keys: cannot connect to".to_owned(),
        "stack.yaml:14:27 Redis does not let us in: ".to_owned(),
        format!("stack.yaml:20:23 127.0.0.1:{database} does not let app in: "),
        "stack.yaml:21:23 DNS knows no nowhere.invalid: ".to_owned(),
    ] {
        assert!(told.contains(&line), "{line} is missing in\n{told}");
    }
    assert!(told.matches("\n      = ").count() >= 6 || told.matches(" = ").count() >= 6, "{told}");
    assert!(!told.contains(&format!("127.0.0.1:{free} ")), "{told}");
}

/// T4, D1: whoever names endpoints is asked as an instance asks, names of DNS and SRV at the file's own
/// resolver or the system's, and who is named is tried.
#[tokio::test]
async fn sources_of_endpoints_are_asked() {
    let folder = folder("sources");
    let held = TcpListener::bind("127.0.0.1:0").expect("a port");
    let open = held.local_addr().expect("bound").port();
    let [dead, registry] = [(); 2].map(|()| closed());
    let ((knows, names), (ignorant, _nobody)) = (name_server().await, name_server().await);
    names.send_replace(Some(open));
    let content = format!(
        "aqueduct: 1
services:
  srv-known: {{ discover: {{ srv: _user._tcp.example, resolver: \"{knows}\" }} }}
  srv-unknown: {{ discover: {{ srv: _feed._tcp.example, resolver: \"{ignorant}\" }} }}
  dns-known: {{ discover: {{ dns: \"user.example:{open}\", resolver: \"{knows}\" }} }}
  dns-dead: {{ discover: {{ dns: \"user.example:{dead}\", resolver: \"{knows}\" }} }}
  dns-game: {{ discover: {{ dns: \"user.example:{dead}\", resolver: \"{knows}\" }}, health: {{ udp: ping }} }}
  dns-unknown: {{ discover: {{ dns: \"nowhere.invalid:7001\" }} }}
  listed: {{ discover: {{ file: list.yaml }} }}
  unlisted: {{ discover: {{ file: none.yaml }} }}
  consul: {{ discover: {{ consul: {{ address: \"http://127.0.0.1:{registry}\", service: user }} }} }}
  etcd: {{ discover: {{ etcd: {{ servers: [\"http://127.0.0.1:{registry}\"], prefix: /user/ }} }} }}
  eureka: {{ discover: {{ eureka: {{ address: \"http://127.0.0.1:{registry}/eureka\", application: user }} }} }}
  kubernetes: {{ discover: {{ kubernetes: {{ api: \"http://127.0.0.1:{registry}\", service: user, namespace: shop }} }} }}
"
    );
    let list = format!("endpoints: [\"127.0.0.1:{open}\"]\n");
    std::fs::write(folder.path().join("list.yaml"), list).expect("written");
    let file = folder.path().join("stack.yaml");
    std::fs::write(&file, content).expect("written");
    let run = move || aqueduct().args(["check", "--live"]).arg(file).output().expect("run");
    let output = tokio::task::spawn_blocking(run).await.expect("run");
    let told = text(&output.stdout);
    assert_eq!(output.status.code(), Some(2), "{told}");
    let mut wanted: Vec<String> = [
        "4:18 SRV records of _feed._tcp.example gives no answer: DNS knows no _feed._tcp.example\n",
        "8:18 DNS of nowhere.invalid (port 7001) gives no answer: ",
        "10:15 the file ",
        "11:13 Consul at http://127.0.0.1:",
        "12:11 etcd at http://127.0.0.1:",
        "13:13 Eureka at http://127.0.0.1:",
        "14:17 Kubernetes at http://127.0.0.1:",
    ]
    .map(|line| format!("stack.yaml:{line}"))
    .to_vec();
    wanted.push(format!("stack.yaml:6:15 warning: 127.0.0.1:{dead} is not reached: "));
    for line in &wanted {
        assert!(told.contains(line), "{line} is missing in\n{told}");
    }
    let live = |word: &str| told.matches(word).count();
    assert_eq!((live("gives no answer"), live("is not reached")), (7, 1), "{told}");
}

/// T4: a file of 5 000 routes is checked in one go; how long that takes is measured, not asserted.
#[test]
fn five_thousand_routes_are_checked() {
    let folder = folder("large");
    let mut content =
        "aqueduct: 1\nservices: { user: { endpoints: [127.0.0.1:7011] } }\ngateways:\n  app:\n    \
                       instances: { gw-1: { listen: 127.0.0.1:9441 } }\n    routes:\n"
            .to_owned();
    for number in 0..5000 {
        content += &format!("      - {{ path: /api/{number}/*, to: user }}\n");
    }
    content += "      - { path: /last, to: nobody }\n";
    let file = folder.path().join("large.yaml");
    std::fs::write(&file, content).expect("written");
    let output = aqueduct().arg("check").arg(&file).output().expect("run");
    let told = text(&output.stdout);
    assert!(told.contains("large.yaml:5007:") && told.contains("1 problem"), "{told}");
}
