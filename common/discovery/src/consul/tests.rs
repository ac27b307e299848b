//! Consul as its agents answer: blocking queries by index, filters, tokens.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use serde_json::{Value, json};
use tokio::sync::watch;
use topology::model::{DiscoverSource, Registry as At};
use topology::register::RegisterConsul;

use super::*;
use crate::testing::{self, Registry, Server, address};

#[cfg(feature = "verify")]
mod judge;

/// What the agent knows, and the index of its last change.
#[derive(Clone)]
struct Agent {
    state: watch::Sender<State>,
    /// Targets of the questions, with how they were answered.
    asked: Arc<Mutex<Vec<String>>>,
}

#[derive(Clone)]
struct State {
    index: u64,
    rows: Vec<Value>,
    /// Instead of rows.
    nonsense: Option<&'static str>,
    token: Option<&'static str>,
}

fn row(number: u16) -> Value {
    let at = address(number);
    json!({
        "Node": { "Node": "n", "Address": at.ip().to_string(), "Meta": { "zone": "node" } },
        "Service": { "ID": format!("user-{number}"), "Service": "user", "Tags": [], "Address": "",
            "Port": at.port(), "Meta": {}, "Weights": { "Passing": 1, "Warning": 1 } },
        "Checks": [{ "CheckID": "serfHealth", "Status": "passing" }],
    })
}

impl Agent {
    fn new() -> Self {
        let state = State { index: 7, rows: Vec::new(), nonsense: None, token: None };
        Self { state: watch::Sender::new(state), asked: Arc::default() }
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        self.state.send_modify(|state| {
            state.index += 1;
            change(state);
        });
    }

    async fn answer(self, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
        if request.method() == http::Method::PUT {
            let path = request.uri().path().replace("%3A", ":");
            let body = request.into_body().collect().await.expect("a body").to_bytes();
            let response = Response::builder().status(self.told(&path, &body));
            return Ok(response.body(Full::new(Bytes::new())).expect("a response"));
        }
        let query = request.uri().query().unwrap_or_default().to_owned();
        let known = request.uri().path() == "/v1/health/service/user";
        self.asked.lock().expect("whole").push(request.uri().to_string());
        let of = |key: &str| {
            let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
            pairs.filter(|(name, _)| *name == key).map(|(_, value)| value.to_owned()).next()
        };
        let mut state = self.state.subscribe();
        if let Some(index) = of("index").and_then(|text| text.parse::<u64>().ok()) {
            let wait = of("wait").and_then(|text| text.trim_end_matches('s').parse().ok());
            let wait = Duration::from_secs(wait.unwrap_or(300));
            // An index that is ahead of the agent's is answered at once.
            let news = state.wait_for(|state| state.index != index);
            let _late = tokio::time::timeout(wait, news).await.map(drop);
        }
        let state = self.state.borrow().clone();
        let token = request.headers().get(TOKEN).and_then(|token| token.to_str().ok());
        let reply = |status, body: String| {
            let response = Response::builder().status(status).header(INDEX, state.index);
            let response = response.header(header::CONTENT_TYPE, "application/json");
            Ok(response.body(Full::new(Bytes::from(body))).expect("a response"))
        };
        if state.token.is_some() && token != state.token {
            return reply(StatusCode::FORBIDDEN, "Permission denied".to_owned());
        }
        if !known {
            return reply(StatusCode::NOT_FOUND, "Invalid URL path".to_owned());
        }
        if let Some(nonsense) = state.nonsense {
            return reply(StatusCode::OK, nonsense.to_owned());
        }
        let passes = |row: &&Value| {
            let checks = row["Checks"].as_array().into_iter().flatten();
            of("passing").is_none() || checks.clone().all(|check| check["Status"] == "passing")
        };
        let tagged = |row: &&Value| {
            let tags = row["Service"]["Tags"].as_array().cloned().unwrap_or_default();
            of("tag").is_none_or(|tag| tags.iter().any(|known| *known == tag))
        };
        let rows: Vec<_> = state.rows.iter().filter(passes).filter(tagged).collect();
        reply(StatusCode::OK, json!(rows).to_string())
    }
}

impl Agent {
    /// A service registers, says how it is, or leaves.
    fn told(&self, path: &str, body: &[u8]) -> StatusCode {
        let body: Value = serde_json::from_slice(body).unwrap_or_default();
        let (verb, id) = path.rsplit_once('/').expect("a path");
        let status = match verb {
            "/v1/agent/check/pass" => json!("passing"),
            "/v1/agent/check/fail" => json!("critical"),
            _ => body["Status"].clone(),
        };
        let mut done = false;
        self.change(|state| {
            let known =
                |row: &Value| row["Service"]["ID"] == id || row["Checks"][0]["CheckID"] == id;
            match verb {
                "/v1/agent/service" if id == "register" => {
                    state.rows.retain(|row| row["Service"]["ID"] != body["ID"]);
                    state.rows.push(entered(&body));
                    done = true;
                }
                "/v1/agent/check/update" | "/v1/agent/check/pass" | "/v1/agent/check/fail" => {
                    for row in state.rows.iter_mut().filter(|row| known(row)) {
                        row["Checks"][0]["Status"] = status.clone();
                        done = true;
                    }
                }
                "/v1/agent/service/deregister" => {
                    done = state.rows.iter().any(known);
                    state.rows.retain(|row| !known(row));
                }
                _ => {}
            }
        });
        if done { StatusCode::OK } else { StatusCode::NOT_FOUND }
    }
}

/// What is not said is as agents have it: a check has its service's name, and is critical.
fn entered(service: &Value) -> Value {
    let check = &service["Check"];
    let or = |value: &Value, other: Value| if value.is_null() { other } else { value.clone() };
    let id = service["ID"].as_str().expect("an id");
    json!({
        "Node": { "Node": "n", "Address": "10.9.9.9", "Meta": {} },
        "Service": { "ID": service["ID"], "Service": service["Name"],
            "Tags": or(&service["Tags"], json!([])), "Address": or(&service["Address"], json!("")),
            "Port": service["Port"], "Meta": or(&service["Meta"], json!({})),
            "Weights": { "Passing": 1, "Warning": 1 } },
        "Checks": [{ "CheckID": or(&check["CheckID"], json!(format!("service:{id}"))),
            "Status": or(&check["Status"], json!("critical")) }],
    })
}

fn settings(address: &str) -> Settings {
    Settings {
        registry: At { address: address.to_owned(), ca: None },
        service: "user".to_owned(),
        tag: None,
        datacenter: None,
        token: None,
        zone: "zone".to_owned(),
    }
}

struct Fake {
    agent: Agent,
    server: Server,
}

impl Fake {
    async fn new() -> Self {
        let agent = Agent::new();
        let answers = agent.clone();
        let server = Server::start(move |request| answers.clone().answer(request)).await;
        Self { agent, server }
    }
}

impl Registry for Fake {
    fn source(&self) -> DiscoverSource {
        DiscoverSource::Consul(settings(&self.server.address()))
    }

    async fn name(&mut self, numbers: &[u16]) {
        let rows = numbers.iter().map(|&number| row(number)).collect();
        self.agent.change(|state| (state.rows, state.nonsense) = (rows, None));
    }

    async fn babble(&mut self) {
        self.agent.change(|state| state.nonsense = Some("<html>Welcome</html>"));
    }

    async fn vanish(&mut self) {
        self.server.stop();
    }

    async fn come_back(&mut self, numbers: &[u16]) {
        self.name(numbers).await;
        // Another agent, with a younger log.
        self.agent.change(|state| state.index = 3);
        let answers = self.agent.clone();
        self.server.again(move |request| answers.clone().answer(request)).await;
    }
}

/// D2, D3: the contract, with Consul.
#[tokio::test]
async fn consul_keeps_the_contract() {
    testing::contract(Fake::new().await).await;
}

/// D3: a registry that is away for ten minutes, comes back empty and then knows all again.
#[tokio::test]
async fn ten_minutes_without_consul_change_nothing() {
    testing::outage(Fake::new().await).await;
}

/// D2: weights, zones by the instance or its node, versions; instances that do not pass, have another tag
/// or no address are left out, and the latter told.
#[tokio::test]
async fn consul_says_all_of_an_instance() {
    let fake = Fake::new().await;
    let with = |number, path: [&str; 2], value: Value| {
        let mut row = row(number);
        row["Service"]["Tags"] = json!(["v2"]);
        row[path[0]][path[1]] = value;
        row
    };
    let rows = vec![
        with(1, ["Service", "Weights"], json!({ "Passing": 5000, "Warning": 1 })),
        with(2, ["Service", "Meta"], json!({ "zone": "own", "version": "2.1" })),
        with(3, ["Service", "Address"], json!("user.example")),
        with(4, ["Service", "Port"], json!(70_000)),
        {
            let mut sick = with(5, ["Service", "Meta"], json!({}));
            sick["Checks"][0]["Status"] = json!("critical");
            sick
        },
        row(6),
    ];
    fake.agent.change(|state| state.rows = rows);
    let tag = Some("v2".to_owned());
    let mut consul = Consul::new(&Settings { tag, ..settings(&fake.server.address()) });
    let answer = consul.ask().await.expect("an answer");
    let nonsense = answer.nonsense.expect("told");
    assert!(nonsense.contains("user-3") && nonsense.contains("user.example"), "{nonsense}");
    let [first, second] = answer.instances.as_slice() else { panic!("{:?}", answer.instances) };
    assert_eq!((first.address, first.weight.0), (address(1), 1000));
    assert_eq!(first.zone.as_deref(), Some("node"));
    assert_eq!((second.zone.as_deref(), second.version.as_deref()), (Some("own"), Some("2.1")));
}

/// D2: questions are held back by the index of the last answer, begin anew when it goes backwards, and
/// show the token that the file has by then.
#[tokio::test]
async fn consul_is_asked_by_its_index() {
    let fake = Fake::new().await;
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("token");
    std::fs::write(&path, "old\n").expect("written");
    fake.agent.change(|state| {
        state.rows = vec![row(1)];
        state.token = Some("new");
    });
    let token = Some(topology::SecretRef::File(path.clone()));
    let mut consul = Consul::new(&Settings { token, ..settings(&fake.server.address()) });
    let refused = consul.ask().await.expect_err("the wrong token").to_string();
    assert!(refused.contains("403") && !refused.contains("old"), "{refused}");
    std::fs::write(&path, "new\n").expect("written");
    assert_eq!(consul.ask().await.expect("an answer").instances.len(), 1);
    assert_eq!(consul.index, 8);
    fake.agent.change(|state| state.index = 2);
    consul.ask().await.expect("an answer");
    assert_eq!(consul.index, 0, "it went backwards");
    consul.ask().await.expect("an answer");
    assert_eq!(consul.index, 2);
    let asked = fake.agent.asked.lock().expect("whole").clone();
    let indexed: Vec<bool> = asked.iter().map(|target| target.contains("index=8&wait=")).collect();
    assert_eq!(indexed, [false, false, true, false]);
}

/// O5: an empty list that the token's rights have made is no empty service.
#[test]
fn a_list_cut_by_rights_is_no_answer() {
    let mut headers = HeaderMap::new();
    assert!(cut_by_rights(&headers).is_none());
    headers.insert(FILTERED, HeaderValue::from_static("true"));
    assert!(cut_by_rights(&headers).is_some_and(|cause| cause.contains("token")));
}

/// How we enter ourselves.
fn registers(address: &str) -> RegisterConsul {
    RegisterConsul {
        registry: settings(address).registry,
        service: "user".to_owned(),
        tags: vec!["v2".to_owned()],
        token: None,
        ttl: Duration::from_secs(15),
        deregister_after: Duration::from_secs(600),
    }
}

/// D2: what is entered in Consul is what our reader finds there: while it is ready, under its address; and again
/// where the agent has forgotten it.
#[tokio::test]
async fn consul_is_told_of_ourselves() {
    let fake = Fake::new().await;
    let mut reader = Consul::new(&settings(&fake.server.address()));
    let ours = registers(&fake.server.address());
    let mut entry = crate::register::tests::entered_in::<crate::register::consul::Consul>(ours);
    let forget = || fake.agent.change(|state| state.rows.clear());
    crate::register::tests::round(&mut entry, &mut reader, forget).await;
}
