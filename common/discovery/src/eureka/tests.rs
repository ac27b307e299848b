//! Eureka as its servers answer: the whole registry, what changed lately, and the hash over all.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use serde_json::json;
use topology::model::{DiscoverSource, Registry as At};
use topology::register::RegisterEureka;

use super::*;
use crate::testing::{self, Registry, Server, address};

#[cfg(feature = "verify")]
mod judge;

/// What the server knows.
#[derive(Clone, Default)]
struct Book(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    /// Instances by application and id, as JSON.
    rows: BTreeMap<(String, String), Value>,
    /// What changed since the server forgot older changes.
    changes: Vec<(String, Value)>,
    nonsense: bool,
    /// A change is missing from the delta, as after a long pause of a client.
    forgetful: bool,
    asked: Vec<String>,
    login: Option<&'static str>,
}

fn row(number: u16, status: &str) -> Value {
    let at = address(number);
    json!({
        "instanceId": format!("host-{number}:user:80"), "hostName": format!("host-{number}"), "app": "USER",
        "vipAddress": "user", "ipAddr": at.ip().to_string(), "status": status, "overriddenstatus": "UNKNOWN",
        "port": { "$": at.port(), "@enabled": "true" },
        "securePort": { "$": 443, "@enabled": "false" },
        "dataCenterInfo": { "@class": "com.netflix.appinfo.InstanceInfo$DefaultDataCenterInfo",
            "name": "MyOwn" },
        "metadata": { "management.port": "81" },
    })
}

impl Book {
    fn with<T>(&self, work: impl FnOnce(&mut State) -> T) -> T {
        work(&mut self.0.lock().expect("whole"))
    }

    fn put(&self, application: &str, row: Value) {
        self.with(|state| {
            let id = row["instanceId"].as_str().expect("an id").to_owned();
            let known = state.rows.insert((application.to_owned(), id), row.clone());
            let mut change = row;
            change["actionType"] = json!(if known.is_some() { "MODIFIED" } else { "ADDED" });
            state.changes.push((application.to_owned(), change));
        });
    }

    fn remove(&self, application: &str, id: &str) {
        self.with(|state| {
            let Some(mut row) = state.rows.remove(&(application.to_owned(), id.to_owned())) else {
                return;
            };
            row["actionType"] = json!("DELETED");
            state.changes.push((application.to_owned(), row));
        });
    }

    async fn answer(self, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
        let (path, login) =
            (request.uri().path().to_owned(), request.headers().get("authorization"));
        let wanted = request.headers().get("accept").cloned();
        let login = login.and_then(|value| value.to_str().ok());
        if request.method() != http::Method::GET {
            let (method, path) = (request.method().clone(), path.replace("%3A", ":"));
            let body = request.into_body().collect().await.expect("a body").to_bytes();
            let response = Response::builder().status(self.told(&method, &path, &body));
            return Ok(response.body(Full::new(Bytes::new())).expect("a response"));
        }
        let (status, body) = match wanted {
            Some(wanted) if wanted == "application/json" => {
                self.with(|state| state.answer(path.trim_end_matches('/'), login))
            }
            // So do its servers, to whoever does not ask for JSON.
            _ => (StatusCode::OK, "<applications/>".to_owned()),
        };
        let response = Response::builder().status(status);
        Ok(response.body(Full::new(Bytes::from(body))).expect("a response"))
    }
}

impl Book {
    /// An instance registers, lives, or leaves.
    fn told(&self, method: &http::Method, path: &str, body: &[u8]) -> StatusCode {
        let rest = path.trim_start_matches("/eureka/apps/");
        let (application, id) = rest.split_once('/').unwrap_or((rest, ""));
        // Its servers know applications by large letters.
        let application = application.to_uppercase();
        let key = (application.clone(), id.to_owned());
        match method.as_str() {
            "POST" => {
                let body: Value = serde_json::from_slice(body).expect("JSON");
                let mut instance = body["instance"].clone();
                let needed = ["instanceId", "hostName", "ipAddr", "app", "dataCenterInfo"];
                if needed.iter().any(|key| instance[key].is_null()) {
                    return StatusCode::BAD_REQUEST;
                }
                instance["app"] = json!(application);
                self.put(&application, instance);
                StatusCode::NO_CONTENT
            }
            _ if !self.with(|state| state.rows.contains_key(&key)) => StatusCode::NOT_FOUND,
            "DELETE" => {
                self.remove(&application, id);
                StatusCode::OK
            }
            _ => StatusCode::OK,
        }
    }
}

impl State {
    fn answer(&mut self, path: &str, login: Option<&str>) -> (StatusCode, String) {
        self.asked.push(path.to_owned());
        if self.login.is_some() && login != self.login {
            return (StatusCode::UNAUTHORIZED, String::new());
        }
        if self.nonsense {
            return (StatusCode::OK, "{\"applications\":".to_owned());
        }
        let rows: Vec<(String, Value)> = match path {
            "/eureka/apps" => {
                let rows = self.rows.iter();
                rows.map(|((application, _), row)| (application.clone(), row.clone())).collect()
            }
            "/eureka/apps/delta" if self.forgetful => Vec::new(),
            "/eureka/apps/delta" => self.changes.clone(),
            _ => return (StatusCode::NOT_FOUND, String::new()),
        };
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        for row in self.rows.values() {
            *counts.entry(row["status"].as_str().unwrap_or_default().to_owned()).or_default() += 1;
        }
        let hash: String = counts.iter().map(|(status, n)| format!("{status}_{n}_")).collect();
        let mut applications: Vec<Value> = Vec::new();
        for (name, row) in rows {
            // In the order of changes, as the server keeps them.
            match applications.last_mut().filter(|last| last["name"] == name) {
                Some(last) => last["instance"].as_array_mut().expect("a list").push(row),
                None => applications.push(json!({ "name": name, "instance": [row] })),
            }
        }
        let all =
            json!({ "versions__delta": "1", "apps__hashcode": hash, "application": applications });
        (StatusCode::OK, json!({ "applications": all }).to_string())
    }
}

fn settings(server: &Server) -> Settings {
    Settings {
        registry: At { address: format!("{}/eureka", server.address()), ca: None },
        application: "user".to_owned(),
        login: None,
        interval: Duration::from_millis(2),
    }
}

struct Fake {
    book: Book,
    server: Server,
}

impl Fake {
    async fn new() -> Self {
        let book = Book::default();
        // Somebody else is always there.
        let mut other = row(9999, "UP");
        (other["app"], other["vipAddress"]) = (json!("OTHER"), json!("other"));
        book.put("OTHER", other);
        let answers = book.clone();
        let server = Server::start(move |request| answers.clone().answer(request)).await;
        Self { book, server }
    }
}

impl Registry for Fake {
    fn source(&self) -> DiscoverSource {
        DiscoverSource::Eureka(settings(&self.server))
    }

    async fn name(&mut self, numbers: &[u16]) {
        let id = |number: &u16| format!("host-{number}:user:80");
        let known: Vec<String> = self.book.with(|state| {
            state.nonsense = false;
            let own = state.rows.keys().filter(|(application, _)| application == "USER");
            own.map(|(_, id)| id.clone()).collect()
        });
        for gone in known.iter().filter(|known| !numbers.iter().any(|n| id(n) == **known)) {
            self.book.remove("USER", gone);
        }
        for number in numbers.iter().filter(|number| !known.contains(&id(number))) {
            self.book.put("USER", row(*number, "UP"));
        }
    }

    async fn babble(&mut self) {
        self.book.with(|state| state.nonsense = true);
    }

    async fn vanish(&mut self) {
        self.server.stop();
    }

    async fn come_back(&mut self, numbers: &[u16]) {
        self.name(numbers).await;
        let answers = self.book.clone();
        self.server.again(move |request| answers.clone().answer(request)).await;
    }
}

/// D2, D3: the contract, with Eureka.
#[tokio::test]
async fn eureka_keeps_the_contract() {
    testing::contract(Fake::new().await).await;
}

/// D3: a registry that is away for ten minutes, comes back empty and then knows all again.
#[tokio::test]
async fn ten_minutes_without_eureka_change_nothing() {
    testing::outage(Fake::new().await).await;
}

/// D2: after the whole registry only changes are read; where they do not add up to the registry's hash,
/// the whole again.
#[tokio::test]
async fn eureka_is_read_by_changes() {
    let mut fake = Fake::new().await;
    fake.name(&[1, 2]).await;
    let mut eureka = Eureka::new(&settings(&fake.server));
    let asked = |fake: &Fake| fake.book.with(|state| std::mem::take(&mut state.asked));
    assert_eq!(eureka.ask().await.expect("an answer").instances.len(), 2);
    fake.name(&[2, 3, 4]).await;
    assert_eq!(eureka.ask().await.expect("an answer").instances.len(), 3);
    assert_eq!(asked(&fake), ["/eureka/apps", "/eureka/apps/delta"]);
    fake.book.with(|state| state.forgetful = true);
    fake.name(&[4]).await;
    assert_eq!(eureka.ask().await.expect("an answer").instances.len(), 1);
    assert_eq!(asked(&fake), ["/eureka/apps/delta", "/eureka/apps"], "it does not add up");
}

/// D2, D3: only who is UP takes traffic; zones, versions and weights come from the metadata; an instance
/// of no use is told.
#[tokio::test]
async fn eureka_says_all_of_an_instance() {
    let fake = Fake::new().await;
    for (number, status) in [(1, "UP"), (2, "OUT_OF_SERVICE"), (3, "STARTING"), (4, "DOWN")] {
        fake.book.put("USER", row(number, status));
    }
    let mut described = row(5, "UP");
    described["metadata"] = json!({ "zone": "b", "version": "v2", "weight": "7" });
    described["port"] = json!({ "$": 80, "@enabled": "false" });
    described["securePort"] = json!({ "$": "443", "@enabled": "true" });
    fake.book.put("USER", described);
    let mut odd = row(6, "UP");
    odd["ipAddr"] = json!("user.example");
    fake.book.put("USER", odd);
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("password"), "secret\n").expect("written");
    fake.book.with(|state| state.login = Some("Basic Z3c6c2VjcmV0"));
    let password = topology::SecretRef::File(folder.path().join("password"));
    let login = Some(("gw".to_owned(), password));
    let mut eureka = Eureka::new(&Settings { login, ..settings(&fake.server) });
    let answer = eureka.ask().await.expect("an answer");
    assert!(answer.nonsense.expect("told").contains("user.example"));
    let [first, second] = answer.instances.as_slice() else { panic!("{:?}", answer.instances) };
    assert_eq!((first.address, first.zone.as_deref()), (address(1), None));
    assert_eq!((second.address.port(), second.weight.0), (443, 7));
    assert_eq!((second.zone.as_deref(), second.version.as_deref()), (Some("b"), Some("v2")));
}

/// O5: a single application or instance may stand without a list around it.
#[test]
fn single_items_need_no_list() {
    let text = json!({ "applications": { "apps__hashcode": "UP_1_",
        "application": { "name": "USER", "instance": row(1, "UP") } } });
    let root: Root = serde_json::from_value(text).expect("right");
    let mut known = Known::default();
    let server = At { address: String::new(), ca: None };
    let settings = Settings {
        registry: server,
        application: "user".to_owned(),
        login: None,
        interval: Duration::ZERO,
    };
    let stated = root.applications.hash.clone();
    known.apply(root.applications, &settings);
    assert_eq!((known.hash(), known.own.len()), (stated, 1));
}

/// D2: what is entered in Eureka is what our reader finds there: while it is ready, under its address; and again
/// where the registry has forgotten it.
#[tokio::test]
async fn eureka_is_told_of_ourselves() {
    let fake = Fake::new().await;
    let mut reader = Eureka::new(&settings(&fake.server));
    let ours = RegisterEureka {
        registry: settings(&fake.server).registry,
        application: "user".to_owned(),
        login: None,
        ttl: Duration::from_secs(15),
    };
    let mut entry = crate::register::tests::entered_in::<crate::register::eureka::Eureka>(ours);
    let forget = || fake.book.with(|state| (state.rows.clear(), state.changes.clear())).0;
    crate::register::tests::round(&mut entry, &mut reader, forget).await;
}
