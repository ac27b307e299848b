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
        format!("stack.yaml:3:23 warning: services.user.endpoints[0]: 127.0.0.1:{dead} is not reached"),
        format!("stack.yaml:7:30 nlbs.edge.listeners.web.tcp: 127.0.0.1:{busy} cannot be listened on: it is busy"),
        "stack.yaml:12:65 gateways.app.issuers.app.jwks: issuer app gives no keys: cannot connect to".to_owned(),
        "stack.yaml:14:27 gateways.app.limit-store.redis: Redis does not let us in: ".to_owned(),
        format!("stack.yaml:20:23 pools.data.databases.app.primary: 127.0.0.1:{database} does not let app in: "),
        "stack.yaml:21:23 pools.data.databases.far.primary: DNS knows no nowhere.invalid: ".to_owned(),
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
  eds: {{ discover: {{ eds: {{ address: \"http://127.0.0.1:{registry}\", service: user }} }} }}
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
        "4:18 services.srv-unknown.discover: SRV records of _feed._tcp.example gives no answer: DNS knows no _feed._tcp.example\n",
        "8:18 services.dns-unknown.discover: DNS of nowhere.invalid (port 7001) gives no answer: ",
        "10:15 services.unlisted.discover: the file ",
        "11:13 services.consul.discover: Consul at http://127.0.0.1:",
        "12:11 services.etcd.discover: etcd at http://127.0.0.1:",
        "13:13 services.eureka.discover: Eureka at http://127.0.0.1:",
        "14:17 services.kubernetes.discover: Kubernetes at http://127.0.0.1:",
        "15:10 services.eds.discover: EDS at http://127.0.0.1:",
    ]
    .map(|line| format!("stack.yaml:{line}"))
    .to_vec();
    wanted.push(format!(
        "stack.yaml:6:15 warning: services.dns-dead.discover: 127.0.0.1:{dead} is not reached: "
    ));
    for line in &wanted {
        assert!(told.contains(line), "{line} is missing in\n{told}");
    }
    let live = |word: &str| told.matches(word).count();
    assert_eq!((live("gives no answer"), live("is not reached")), (8, 1), "{told}");
}

/// T4: whatever keeps a gateway or a balancer from starting is told at its place, with its keys: absent
/// certificates, authorities, key sets, secrets. Without `--live` they may be another host's.
#[test]
fn absent_files_are_told() {
    let folder = folder("absent");
    let free = closed();
    let content = format!(
        "aqueduct: 1
services: {{ user: {{ discover: {{ file: user.yaml }} }} }}
nlbs:
  edge:
    instances: {{ nlb-1: {{ address: 127.0.0.1 }} }}
    hash-key: env:NO_SUCH_HASH_KEY
    listeners: {{ web: {{ tcp: \"127.0.0.1:{free}\", to: user }} }}
gateways:
  app:
    instances: {{ gw-1: {{ listen: 127.0.0.1:0 }} }}
    tls:
      certificates:
        - {{ chain: file:api.pem, key: file:api.key }}
        - {{ chain: file:web.pem, key: file:web.key }}
    issuers:
      app: {{ issuer: \"https://id.example\", audience: api, jwks: \"file:keys.json\", algorithms: [ES256] }}
    upstreams:
      user: {{ tls: {{ name: user.example, ca: file:inner.pem }} }}
    routes: [{{ path: /*, to: user, auth: app }}]
  inner:
    instances: {{ gw-2: {{ listen: 127.0.0.1:0 }} }}
    tls: {{ certificates: [{{ chain: file:own.pem, key: file:own.key }}], client-ca: file:clients.pem }}
    upstreams:
      user: {{ tls: {{ name: user.example, certificate: {{ chain: file:me.pem, key: file:me.key }} }} }}
    routes: [{{ path: /*, to: user }}]
"
    );
    std::fs::write(folder.path().join("user.yaml"), "endpoints: []\n").expect("written");
    let own = rcgen::generate_simple_self_signed(["a.example".to_owned()]).expect("made");
    std::fs::write(folder.path().join("own.pem"), own.cert.pem()).expect("written");
    std::fs::write(folder.path().join("own.key"), own.signing_key.serialize_pem())
        .expect("written");
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
    let at = folder.path().display().to_string();
    for (place, keys, file) in [
        ("6:15", "nlbs.edge.hash-key", "NO_SUCH_HASH_KEY"),
        ("13:20", "gateways.app.tls.certificates[0].chain", "api.pem"),
        ("14:20", "gateways.app.tls.certificates[1].chain", "web.pem"),
        ("16:65", "gateways.app.issuers.app.jwks", "keys.json"),
        ("18:46", "gateways.app.upstreams.user.tls.ca", "inner.pem"),
        ("22:83", "gateways.inner.tls.client-ca", "clients.pem"),
        ("24:64", "gateways.inner.upstreams.user.tls.certificate.chain", "me.pem"),
    ] {
        let place = format!("stack.yaml:{place} {keys}: ");
        let line = told.lines().find(|line| line.contains(&place)).unwrap_or_default();
        assert!(line.contains(file), "{place} with {file} is missing in\n{told}");
        assert!(!file.contains('.') || line.contains(&at), "{line}");
    }
    assert!(told.contains("^^^^^^^^^^^^^^^^"), "{told}");
    assert!(told.contains("7 problems"), "{told}");
}

/// T4: what cannot be written in a format is refused, not left out.
#[test]
fn sarif_has_no_place_for_values() {
    let mut command = aqueduct();
    let words = ["check", "--format", "sarif", "--print-effective", "instagram-valorant"];
    let output = command.args(words).output().expect("run");
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(text(&output.stderr).contains("--format text or json"), "{output:?}");
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
