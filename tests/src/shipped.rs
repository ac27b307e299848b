//! A ready topology as it is shipped, on an address of its own: its demo services, issuers and Redis as the processes that
//! `aqueduct up` would start, gateways and balancers in the test's process. Databases are not started: what a story needs
//! of them, other tests show. Used by the tests of ready topologies.
//!
//! Invariant: a service that the file runs is run by the file's own words.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use bytes::Bytes;
use http_body_util::Full;
use serde_json::Value;
use topology::Topology;
use topology::gateway::IssuerKeys;
use topology::model::{Dependency, Run};

use crate::clients::http::{self, Answer, Connection, request};
use crate::fakes::demo;
use crate::fakes::redis::Redis;
use crate::program::{Program, sibling};
use crate::tier::{Draft, Stack};

/// A running ready topology.
#[derive(Debug)]
pub struct Shipped {
    /// Its gateways and balancers.
    pub stack: Stack,
    /// Its demo services, by name.
    programs: BTreeMap<String, Program>,
    _issuers: Vec<Program>,
    _redis: Option<Redis>,
}

impl Shipped {
    /// Starts `topology/stacks/NAME.yaml`.
    pub async fn start(name: &str) -> Self {
        Self::edited(name, |draft| draft).await
    }

    /// Starts it with a part of its text changed.
    ///
    /// # Panics
    /// When something does not start.
    pub async fn edited(name: &str, edit: impl FnOnce(Draft) -> Draft) -> Self {
        let path = format!("{}/../topology/stacks/{name}.yaml", env!("CARGO_MANIFEST_DIR"));
        let text = std::fs::read_to_string(path).expect("a ready topology");
        let draft = Draft::new(&text).recorded();
        // What is counted must not depend on how busy the machine is.
        let draft = draft.replace("when-away: local-share", "when-away: local-share, timeout: 1s");
        let draft = draft.replace("env:AQUEDUCT_HASH_KEY", "file:secrets/hash-key");
        let mut stack = edit(draft).stack();
        let issuers = issuers(&stack);
        let store = stack.topology().gateways.iter().any(|group| group.limit_store.is_some());
        let redis = store.then(|| Redis::start(stack.address.at(6379)));
        let programs = services(stack.topology());
        let topology = stack.topology();
        let gateways = topology.gateways.iter().flat_map(|group| &group.instances);
        let gateways = gateways.map(|instance| instance.name.to_string());
        let nlbs = topology.nlbs.iter().flat_map(|group| &group.instances);
        let names: Vec<String> =
            gateways.chain(nlbs.map(|instance| instance.name.to_string())).collect();
        for name in names {
            stack.start(&name).await;
        }
        Self { stack, programs, _issuers: issuers, _redis: redis }
    }

    /// A TLS connection to the port at which clients of most stacks arrive.
    ///
    /// # Panics
    /// When there is none.
    pub async fn connect(&self) -> Connection {
        self.connect_to(8443).await
    }

    /// One to another port.
    ///
    /// # Panics
    /// When there is none.
    pub async fn connect_to(&self, port: u16) -> Connection {
        let at = self.stack.address.at(port);
        Connection::tls(at, &self.stack.trust).await.expect("a connection")
    }

    /// One request over a connection of its own.
    ///
    /// # Panics
    /// When there is no answer.
    pub async fn ask(&self, method: &str, path: &str, fields: &[(&str, &str)]) -> Answer {
        let ask = request(method, path, fields).expect("a request");
        self.connect().await.send(ask).await.expect("an answer")
    }

    /// `Bearer …` of the issuer at this port; `wish` is what its `POST /token` takes.
    ///
    /// # Panics
    /// When it refuses.
    pub async fn bearer(&self, port: u16, wish: &Value) -> String {
        let mut ask = request("POST", "/token", &[]).expect("a request");
        *ask.body_mut() = Full::new(Bytes::from(wish.to_string()));
        let mut issuer = Connection::plain(self.stack.address.at(port)).await.expect("an issuer");
        let answer = issuer.send(ask).await.expect("an answer").json();
        format!("Bearer {}", answer["access_token"].as_str().expect("a token"))
    }

    /// Has the demo server at this port be slow or fail: `delay=MS&fail=PERCENT`.
    ///
    /// # Panics
    /// When it refuses.
    pub async fn behave(&self, port: u16, how: &str) {
        let ask = request("POST", &format!("/behave?{how}"), &[]).expect("a request");
        let mut server = Connection::plain(self.stack.address.at(port)).await.expect("a server");
        assert_eq!(server.send(ask).await.expect("an answer").status, 200);
    }

    /// How many requests reached the demo server at this port.
    ///
    /// # Panics
    /// When it does not say.
    pub async fn count(&self, port: u16) -> u64 {
        let answer = http::plain(self.stack.address.at(port), "/count").await.expect("an answer");
        answer.json()["requests"].as_u64().expect("a number")
    }

    /// A demo server, to be ended or signalled.
    ///
    /// # Panics
    /// When there is none of that name.
    pub fn take(&mut self, name: &str) -> Program {
        self.programs.remove(name).expect("a demo server of that name")
    }
}

/// Which demo server answered.
///
/// # Panics
/// When none did.
pub fn server(answer: &Answer) -> String {
    assert!(answer.status < 300, "{answer:?}");
    answer.json()["server"].as_str().expect("a demo server's answer").to_owned()
}

/// Which gateways wrote these access records.
pub fn gateways(records: &[Value]) -> BTreeSet<String> {
    records.iter().filter_map(|one| Some(one["gateway_instance"].as_str()?.to_owned())).collect()
}

/// The demo services in an order in which each finds what it uses.
fn services(topology: &Topology) -> BTreeMap<String, Program> {
    let mut services: Vec<_> = topology.services.iter().collect();
    services.sort_by_key(|service| service.uses.len());
    let mut programs = BTreeMap::new();
    for service in services {
        let Some(Run::Demo(words)) = service.run.as_ref().map(|run| &run.value) else { continue };
        let uses = service.uses.iter().filter_map(|used| {
            let Dependency::Service(name) = &used.value else { return None };
            let used = topology.services.iter().find(|service| service.name == *name)?;
            Some(format!("{name}=http://{}", used.endpoints.first()?.address))
        });
        let uses: Vec<String> = uses.collect();
        for (number, endpoint) in service.endpoints.iter().enumerate() {
            let name = format!("{}-{}", service.name, number + 1);
            programs.insert(name.clone(), demo::words(words, endpoint.address, &name, &uses));
        }
    }
    programs
}

/// One for each key set that gateways or services read.
fn issuers(stack: &Stack) -> Vec<Program> {
    let topology = stack.topology();
    let of_gateways = topology.gateways.iter().flat_map(|group| &group.issuers);
    let of_gateways = of_gateways.filter_map(|issuer| match &issuer.keys {
        IssuerKeys::Url(url) => {
            Some((url.value.clone(), issuer.issuer.clone(), issuer.audiences.first()?.clone()))
        }
        _ => None,
    });
    let of_services = topology.services.iter().filter_map(|service| {
        let Run::Demo(words) = &service.run.as_ref()?.value else { return None };
        let url = words.iter().skip_while(|word| *word != "--jwks").nth(1)?;
        Some((url.clone(), "https://id.example".to_owned(), "api".to_owned()))
    });
    let mut known: BTreeMap<SocketAddr, (String, String)> = BTreeMap::new();
    for (url, issuer, audience) in of_gateways.chain(of_services) {
        let at = url.trim_start_matches("http://").split('/').next().expect("an address");
        known.insert(at.parse().expect("an address"), (issuer, audience));
    }
    let start = |(at, (issuer, audience)): (SocketAddr, (String, String))| {
        let keys = stack.folder.path().join(format!("keys-{}", at.port())).display().to_string();
        let at = at.to_string();
        let words = ["issuer", "--listen", &at, "--keys", &keys, "--issuer", &issuer];
        let words = [words.as_slice(), &["--audience", &audience]].concat();
        let words: Vec<String> = words.into_iter().map(str::to_owned).collect();
        Program::start(sibling("demo"), &words, None, "listens on")
    };
    known.into_iter().map(start).collect()
}
