//! EndpointSlices as API servers tell them: pages, watches, bookmarks, versions that are forgotten.

mod api;
#[cfg(feature = "verify")]
mod kubectl;

use serde_json::{Value, json};
use topology::Weight;
use topology::model::{DiscoverSource, ServicePort};

use self::api::Api;
use super::*;
use crate::instance::{Instance, Takes};
use crate::testing::{self, Registry as Contract, Server, address};

fn settings(address: &str) -> Settings {
    Settings {
        api: Some(address.to_owned()),
        service: "user".to_owned(),
        namespace: "shop".to_owned(),
        port: None,
        token: None,
        ca: None,
    }
}

fn member(number: u16) -> Value {
    json!({ "addresses": [address(number).ip().to_string()],
        "conditions": { "ready": true, "serving": true, "terminating": false },
        "nodeName": "node-1", "zone": "a",
        "targetRef": { "kind": "Pod", "namespace": "shop", "name": format!("user-{number}") } })
}

/// A slice of that name, as the controller makes them.
fn slice(name: &str, members: &[Value]) -> Value {
    let members = if members.is_empty() { Value::Null } else { json!(members) };
    json!({ "kind": "EndpointSlice", "apiVersion": "discovery.k8s.io/v1",
        "metadata": { "name": name, "namespace": "shop", "generateName": "user-",
            "labels": { SERVICE_LABEL: "user",
                "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io" } },
        "addressType": "IPv4", "endpoints": members,
        "ports": [{ "name": "http", "port": 80, "protocol": "TCP" }] })
}

struct Fake {
    api: Api,
    server: Server,
}

impl Fake {
    async fn new() -> Self {
        let api = Api::new();
        let answers = api.clone();
        let server = Server::start(move |request| answers.clone().answer(request)).await;
        Self { api, server }
    }

    fn source(&self) -> Kubernetes {
        Kubernetes::new(&settings(&self.server.address()))
    }

    async fn again(&mut self) {
        let answers = self.api.clone();
        self.server.again(move |request| answers.clone().answer(request)).await;
    }

    /// These, a hundred to a slice.
    fn say(&self, numbers: &[u16]) {
        self.api.set(|state| state.nonsense = None);
        let slices: Vec<_> = numbers.chunks(100).collect();
        for (index, numbers) in slices.iter().enumerate() {
            let members: Vec<_> = numbers.iter().map(|&number| member(number)).collect();
            self.api.put(slice(&format!("user-{index:02}"), &members));
        }
        for name in self.api.names().into_iter().skip(slices.len().max(1)) {
            self.api.remove(&name);
        }
        if let (true, Some(name)) = (numbers.is_empty(), self.api.names().first()) {
            self.api.put(slice(name, &[]));
        }
    }
}

impl Contract for Fake {
    fn source(&self) -> DiscoverSource {
        DiscoverSource::Kubernetes(settings(&self.server.address()))
    }

    async fn name(&mut self, numbers: &[u16]) {
        self.say(numbers);
    }

    async fn babble(&mut self) {
        self.api.set(|state| state.nonsense = Some("<html>Welcome</html>"));
    }

    async fn vanish(&mut self) {
        self.server.stop();
    }

    async fn come_back(&mut self, numbers: &[u16]) {
        // Another one, with a younger history.
        self.api.reset(3);
        self.say(numbers);
        self.again().await;
    }
}

fn last(answer: &Answer) -> Vec<u16> {
    let mut numbers: Vec<_> = answer.instances.iter().map(number).collect();
    numbers.sort_unstable();
    numbers
}

fn number(instance: &Instance) -> u16 {
    match instance.address.ip() {
        std::net::IpAddr::V4(ip) => u16::from(ip.octets()[3]),
        std::net::IpAddr::V6(ip) => ip.segments()[7],
    }
}

async fn asked(source: &mut Kubernetes) -> Vec<u16> {
    last(&source.ask().await.expect("an answer"))
}

/// D2, D3: the contract, with Kubernetes.
#[tokio::test]
async fn kubernetes_keeps_the_contract() {
    testing::contract(Fake::new().await).await;
}

/// D2: a list by pages that are of one version, and a watch from it on; a bookmark alone is no news, what
/// ends goes on from the last word.
#[tokio::test]
async fn kubernetes_is_watched_from_its_version() {
    let fake = Fake::new().await;
    for part in 0..5_u16 {
        fake.api.put(slice(&format!("user-{part}"), &[member(part + 1)]));
    }
    fake.api.put(json!({ "metadata": { "name": "feed-1", "labels": { SERVICE_LABEL: "feed" } },
        "addressType": "IPv4", "endpoints": [member(99)], "ports": [{ "port": 80 }] }));
    fake.api.set(|state| state.page = Some(2));
    let mut source = fake.source();
    assert_eq!(asked(&mut source).await, [1, 2, 3, 4, 5], "and none of another service");
    let lists = fake.api.asked();
    let pages: Vec<_> = lists.iter().filter(|target| target.contains("limit=100")).collect();
    assert!(pages[1].contains("continue=1006/user-1 "), "{pages:?}");
    assert_eq!(fake.api.counts(), (3, 1));
    let watched = lists.last().expect("a watch");
    for part in ["allowWatchBookmarks=true", "resourceVersion=1006 ", "timeoutSeconds="] {
        assert!(watched.contains(part), "{watched}");
    }
    fake.api.remove("user-2");
    assert_eq!(asked(&mut source).await, [1, 2, 4, 5]);
    fake.api.put(slice("user-4", &[member(5), member(6)]));
    assert_eq!(asked(&mut source).await, [1, 2, 4, 5, 6]);
    // Two versions later, of which only the bookmark tells.
    fake.api.tick();
    fake.api.tick();
    source.watch.as_mut().expect("a watch").since -= BRIEF;
    fake.api.set(|state| state.ends += 1);
    assert_eq!(asked(&mut source).await, [1, 2, 4, 5, 6]);
    assert_eq!(fake.api.counts(), (3, 2), "no list");
    let watched = fake.api.asked().pop().expect("a watch");
    assert!(watched.contains("resourceVersion=1010 "), "{watched}");
}

/// D2: 410 in each of its forms, an error, an end without a word, an end too soon: all is listed anew, and no
/// storm comes of it.
#[tokio::test]
async fn what_is_forgotten_is_listed_anew() {
    let fake = Fake::new().await;
    fake.say(&[1]);
    // Its watches end without a word.
    fake.api.set(|state| state.unmarked = true);
    let mut source = fake.source();
    asked(&mut source).await;
    for refuses in [false, true] {
        fake.api.compact();
        let (lists, watches) = fake.api.counts();
        fake.api.set(|state| {
            state.refuses = refuses;
            state.ends += 1;
        });
        // As if that were its last word.
        let watch = source.watch.as_mut().expect("a watch");
        (watch.version, watch.since) = (Some("5".to_owned()), watch.since - BRIEF);
        assert_eq!(asked(&mut source).await, [1]);
        if !refuses {
            // It begins, and says so.
            assert_eq!(asked(&mut source).await, [1]);
        }
        assert_eq!(fake.api.counts(), (lists + 1, watches + 2), "refuses: {refuses}");
    }
    // A watch that ends at once is not followed by another at once.
    fake.api.set(|state| state.ends += 1);
    let answer = source.ask().await.expect("an answer");
    assert!(answer.holds > Duration::ZERO, "{answer:?}");
    // A server that was set up anew and ends its watches as it should: its versions are far behind.
    fake.api.reset(5);
    source.watch.as_mut().expect("a watch").since -= BRIEF;
    fake.say(&[8]);
    while asked(&mut source).await != [8] {}
}

/// D3: a registry that is away for ten minutes, comes back empty and then knows all again.
#[tokio::test]
async fn ten_minutes_without_a_cluster_change_nothing() {
    testing::outage(Fake::new().await).await;
}

/// D3: a watch that falls silent is left for a new list.
#[tokio::test]
async fn a_silent_watch_is_left() {
    let fake = Fake::new().await;
    fake.say(&[1]);
    let mut source = fake.source();
    asked(&mut source).await;
    tokio::time::pause();
    let mut asking = Box::pin(source.ask());
    assert!(futures_util::poll!(&mut asking).is_pending());
    tokio::time::advance(QUIET).await;
    tokio::time::resume();
    assert_eq!(last(&asking.await.expect("an answer")), [1]);
    assert_eq!(fake.api.counts(), (2, 2));
}

/// D3: who does not answer holds nobody up for ever.
#[tokio::test(start_paused = true)]
async fn a_silent_cluster_is_left() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let at = format!("http://{}", listener.local_addr().expect("bound"));
    let mut source = Kubernetes::new(&settings(&at));
    let fault = source.ask().await.expect_err("nobody answers");
    assert!(matches!(fault, Fault::Late(PATIENCE)), "{fault}");
}

/// O5: a line of a watch, and a page, are bounded.
#[tokio::test]
async fn endless_words_are_cut_off() {
    let fake = Fake::new().await;
    fake.say(&[1]);
    let mut source = fake.source();
    asked(&mut source).await;
    let endless: &'static str = "x".repeat((16 << 20) + 2).leak();
    fake.api.set(|state| state.nonsense = Some(endless));
    let fault = source.ask().await.expect_err("a line without an end");
    assert!(matches!(fault, Fault::TooLarge(_)), "{fault}");
    let fault = source.ask().await.expect_err("a page without an end");
    assert!(matches!(fault, Fault::TooLarge(_)), "{fault}");
}

/// D2: the token that the file has by now is shown, and none of it told.
#[tokio::test]
async fn kubernetes_is_shown_the_token_of_the_hour() {
    let fake = Fake::new().await;
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("token");
    std::fs::write(&path, "old\n").expect("written");
    fake.say(&[1]);
    fake.api.set(|state| state.token = Some("new"));
    let token = Some(topology::SecretRef::File(path.clone()));
    let mut source = Kubernetes::new(&Settings { token, ..settings(&fake.server.address()) });
    let refused = source.ask().await.expect_err("the wrong token").to_string();
    assert!(refused.contains("401") && !refused.contains("old"), "{refused}");
    std::fs::write(&path, "new\n").expect("written");
    assert_eq!(asked(&mut source).await, [1]);
}

fn said(slices: &[Value], port: Option<&ServicePort>) -> (Vec<Instance>, Option<String>) {
    let read = |mut value: Value| {
        value["metadata"]["resourceVersion"] = json!("1");
        let slice: Slice = serde_json::from_value(value).expect("a slice");
        (slice.metadata.name.clone(), slice)
    };
    slices::instances(&slices.iter().cloned().map(read).collect(), port)
}

fn with(number: u16, key: &str, value: Value) -> Value {
    let mut member = member(number);
    member[key] = value;
    member
}

/// D3: conditions: who leaves and still serves may finish, who is not ready is not named, and what nobody
/// says counts as ready; a pod in two slices is one.
#[test]
fn conditions_say_who_takes_what() {
    let conditions = [
        json!(null),
        json!({}),
        json!({ "ready": false, "serving": false, "terminating": false }),
        json!({ "ready": false, "serving": true, "terminating": true }),
        json!({ "ready": false, "serving": false, "terminating": true }),
        json!({ "ready": true, "serving": true, "terminating": true }),
        json!({ "ready": false, "terminating": true }),
    ];
    let members = (1..).zip(conditions).map(|(number, value)| with(number, "conditions", value));
    let members: Vec<_> = members.collect();
    let again = slice("user-b", &[member(1)]);
    let (instances, odd) = said(&[slice("user-a", &members), again], None);
    let settled = crate::instance::settle(instances.clone(), None, topology::Place::default());
    assert_eq!((settled.endpoints.len(), settled.draining, odd), (2, 2, None));
    let leaving: Vec<_> =
        instances.iter().filter(|one| one.takes == Takes::Nothing).map(number).collect();
    assert_eq!(leaving, [4, 6]);
    let first = instances.first().expect("the first");
    assert_eq!((first.name.as_deref(), first.weight), (Some("user-1"), Weight(1)));
    assert_eq!(first.zone.as_deref(), Some("a"));
}

/// D3: hints move an endpoint to the zone that it is meant for, when all have them.
#[test]
fn hints_count_when_all_have_them() {
    let meant = |zones: &[&str]| {
        let zones: Vec<_> = zones.iter().map(|name| json!({ "name": name })).collect();
        json!({ "forZones": zones })
    };
    let hinted = [with(1, "hints", meant(&["b"])), with(2, "hints", meant(&["b", "a"]))];
    let zones = |members: &[Value]| {
        let (instances, _) = said(&[slice("user-a", members)], None);
        instances.into_iter().map(|one| one.zone.expect("a zone")).collect::<Vec<_>>()
    };
    assert_eq!(zones(&hinted), ["b", "a"]);
    let [first, second] = hinted;
    assert_eq!(zones(&[first.clone(), second.clone(), member(3)]), ["a", "a", "a"]);
    let leaves = json!({ "ready": false, "serving": true, "terminating": true });
    assert_eq!(zones(&[first, second, with(3, "conditions", leaves)])[..2], ["b", "a"]);
}

/// D2: families and ports: both families are read, a pod of both is one; names that would have to be looked up,
/// odd addresses and ports that are not there are left out, and told.
#[test]
fn families_and_ports_are_read() {
    let mut newer = slice(
        "user-v6",
        &[with(1, "addresses", json!(["fd00::1"])), with(7, "addresses", json!(["fd00::7"]))],
    );
    newer["addressType"] = json!("IPv6");
    let mut hosts = slice("user-fqdn", &[with(3, "addresses", json!(["user.example"]))]);
    hosts["addressType"] = json!("FQDN");
    let odd = with(4, "addresses", json!(["10.0.0.1; drop"]));
    let older =
        slice("user-v4", &[member(1), member(2), odd, with(5, "addresses", json!(["::5"]))]);
    let (instances, cause) = said(&[older.clone(), newer.clone()], None);
    assert_eq!(instances.iter().map(number).collect::<Vec<_>>(), [1, 2, 7]);
    assert!(cause.is_some_and(|cause| cause.contains("`10.0.0.1; drop`")));
    let away = json!({ "ready": false, "serving": false, "terminating": false });
    let gone = slice("user-v4", &[with(1, "conditions", away)]);
    let (instances, _) = said(&[gone, newer.clone()], None);
    assert_eq!(instances.iter().map(number).collect::<Vec<_>>(), [7], "not its other address");
    let (instances, cause) = said(&[hosts, newer], None);
    assert_eq!(instances.len(), 2);
    assert!(cause.is_some_and(|cause| cause.contains("user-fqdn") && cause.contains("FQDN")));
    let mut several = slice("user-a", &[member(1)]);
    several["ports"] =
        json!([{ "name": "http", "port": 8080 }, { "name": "metrics", "port": 9100 }]);
    let port = |wanted: Option<ServicePort>, slice: &Value| {
        let (instances, cause) = said(std::slice::from_ref(slice), wanted.as_ref());
        instances.first().map(|one| one.address.port()).ok_or_else(|| cause.expect("told"))
    };
    let name = |name: &str| Some(ServicePort::Name(name.to_owned()));
    assert_eq!(port(name("metrics"), &several), Ok(9100));
    assert_eq!(port(Some(ServicePort::Number(8080)), &several), Ok(8080));
    for (wanted, told) in [
        (None, "several ports"),
        (name("grpc"), "no port `grpc`"),
        (Some(ServicePort::Number(80)), "no port `80`"),
    ] {
        let cause = port(wanted, &several).expect_err(told);
        assert!(cause.contains(told), "{cause}");
    }
    let mut bare = slice("user-b", &[member(2)]);
    bare["ports"] = json!(null);
    let number = Some(&ServicePort::Number(8080));
    assert_eq!(said(&[several.clone(), bare], number).0.len(), 1, "a pod without that port");
    several["ports"] = json!(null);
    assert_eq!(port(Some(ServicePort::Number(80)), &several), Ok(80), "all ports");
    assert!(port(None, &several).expect_err("which").contains("names no port"));
}

/// D2: in a pod the API is where its environment says.
#[test]
fn a_pod_knows_its_cluster() {
    let at = |host: &str| inside(Some(host.to_owned()), Some("6443".to_owned())).expect("a host");
    assert_eq!(at("10.96.0.1"), "https://10.96.0.1:6443");
    assert_eq!(at("fd00::1"), "https://[fd00::1]:6443");
    let nowhere = inside(None, None).expect_err("no pod").to_string();
    assert!(nowhere.contains("`api`"), "{nowhere}");
}
