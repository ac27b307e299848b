//! A real etcd, of the package `etcd-server`.

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};

use serde_json::Value;
use topology::model::DiscoverSource;

use super::*;
use crate::testing::{self, address};

const PREFIX: &str = "/services/user/";

/// A server with a folder of its own.
struct Server {
    folder: tempfile::TempDir,
    port: u16,
    process: Option<Child>,
}

impl Server {
    async fn start() -> Self {
        // Free a moment ago; nobody else asks for it by number.
        let port = TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr());
        let port = port.expect("a port").port();
        let folder = tempfile::tempdir().expect("a folder");
        let mut server = Self { folder, port, process: None };
        server.run().await;
        server
    }

    async fn run(&mut self) {
        let (at, folder) = (self.address(), self.folder.path());
        let process = Command::new("etcd")
            .current_dir(folder)
            .args(["--data-dir", "data", "--listen-peer-urls", "unix://peers:0"])
            .args(["--listen-client-urls", &at, "--advertise-client-urls", &at])
            .args(["--initial-advertise-peer-urls", "http://localhost:1"])
            .args(["--initial-cluster", "default=http://localhost:1", "--log-level", "error"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        self.process = Some(process.expect("etcd of the package etcd-server"));
        // Ready when it answers a question that needs a leader.
        let mut members = members(&self.settings());
        let wanted = json!({ "key": "eA==" });
        while members.ask::<Value>("/v3/kv/range", &wanted, PATIENCE).await.is_err() {
            let process = self.process.as_mut().expect("started");
            assert!(process.try_wait().expect("its state").is_none(), "etcd has ended");
            tokio::task::yield_now().await;
        }
    }

    fn address(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    fn stop(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ended = process.kill();
            let _status = process.wait();
        }
    }

    async fn ask(&self, path: &str, body: &Value) -> Value {
        members(&self.settings()).ask(path, body, PATIENCE).await.expect(path)
    }

    async fn put(&self, number: u16, value: &str, lease: &Value) -> Value {
        let (key, value) = (STANDARD.encode(key(number)), STANDARD.encode(value));
        self.ask("/v3/kv/put", &json!({ "key": key, "value": value, "lease": lease })).await
    }

    fn settings(&self) -> Settings {
        let (servers, prefix) = (vec![self.address()], PREFIX.to_owned());
        Settings { servers, prefix, login: None, ca: None }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

fn key(number: u16) -> String {
    format!("{PREFIX}{number}")
}

fn text(number: u16) -> String {
    address(number).to_string()
}

impl testing::Registry for Server {
    fn source(&self) -> DiscoverSource {
        DiscoverSource::Etcd(self.settings())
    }

    async fn name(&mut self, numbers: &[u16]) {
        let end = STANDARD.encode(after(PREFIX.as_bytes()));
        let all = json!({ "key": STANDARD.encode(PREFIX), "range_end": end, "keys_only": true });
        let known = self.ask("/v3/kv/range", &all).await["kvs"].as_array().cloned();
        let known: Vec<String> = known
            .into_iter()
            .flatten()
            .map(|pair| pair["key"].as_str().expect("a key").to_owned())
            .collect();
        let wanted: Vec<String> = numbers.iter().map(|n| STANDARD.encode(key(*n))).collect();
        let gone = known.iter().filter(|key| !wanted.contains(key));
        let gone = gone.map(|key| json!({ "requestDeleteRange": { "key": key } }));
        let new = numbers.iter().zip(&wanted).filter(|(_, key)| !known.contains(key));
        let new = new.map(|(number, key)| {
            json!({ "requestPut": { "key": key, "value": STANDARD.encode(text(*number)) } })
        });
        let all: Vec<Value> = gone.chain(new).collect();
        // As many as one transaction may have.
        for some in all.chunks(100) {
            self.ask("/v3/kv/txn", &json!({ "success": some })).await;
        }
    }

    async fn babble(&mut self) {
        self.put(9999, "nonsense", &json!("0")).await;
    }

    async fn vanish(&mut self) {
        self.stop();
    }

    async fn come_back(&mut self, numbers: &[u16]) {
        self.run().await;
        self.name(numbers).await;
    }
}

/// D2, D3: the contract, with a real etcd.
#[tokio::test]
async fn etcd_keeps_the_contract() {
    testing::contract(Server::start().await).await;
}

/// D2: a lease that ends takes its endpoint away; a value of no use leaves the key's former one; where
/// the watch's past was compacted away, everything is listed again.
#[tokio::test]
async fn etcd_is_watched_from_its_revision() {
    let server = Server::start().await;
    let none = json!("0");
    let lease = server.ask("/v3/lease/grant", &json!({ "TTL": "600" })).await["ID"].clone();
    server.put(1, &text(1), &lease).await;
    let long = r#"{"address":"10.0.0.2:80","weight":7,"zone":"b","version":"v2"}"#;
    server.put(2, long, &none).await;
    let mut etcd = Etcd::new(&server.settings());
    let first = etcd.ask().await.expect("an answer").instances;
    assert_eq!(first.len(), 2);
    assert_eq!((first[1].weight.0, first[1].version.as_deref()), (7, Some("v2")));
    server.ask("/v3/lease/revoke", &json!({ "ID": lease })).await;
    assert_eq!(etcd.ask().await.expect("an answer").instances.len(), 1);
    server.put(2, "nonsense", &none).await;
    let odd = etcd.ask().await.expect("an answer");
    assert_eq!((odd.instances.len(), odd.instances[0].weight.0), (1, 7), "as it was");
    assert!(odd.nonsense.expect("told").contains(&key(2)));
    let gone = json!({ "key": STANDARD.encode(key(2)) });
    server.ask("/v3/kv/deleterange", &gone).await;
    let put = server.put(3, &text(3), &none).await;
    let compaction = json!({ "revision": put["header"]["revision"] });
    server.ask("/v3/kv/compaction", &compaction).await;
    let past = json!({ "create_request": { "key": gone["key"], "start_revision": "1" } });
    let watch = etcd.members.stream("/v3/watch", &past, PATIENCE).await;
    etcd.watch = Some((watch.expect("begun"), Instant::now()));
    let answer = etcd.ask().await.expect("an answer");
    assert_eq!(answer.instances.iter().map(|i| i.address).collect::<Vec<_>>(), [address(3)]);
}

/// O1, O5: who logs in is let in, by the server of several that answers; a wrong password is told without
/// the password.
#[tokio::test]
async fn etcd_asks_who_we_are() {
    let server = Server::start().await;
    server.put(1, &text(1), &json!("0")).await;
    server.ask("/v3/auth/role/add", &json!({ "name": "root" })).await;
    server.ask("/v3/auth/user/add", &json!({ "name": "root", "password": "secret" })).await;
    server.ask("/v3/auth/user/grant", &json!({ "user": "root", "role": "root" })).await;
    server.ask("/v3/auth/enable", &json!({})).await;
    let folder = tempfile::tempdir().expect("a folder");
    for (password, lets_in) in [("secret", true), ("wrong-password", false)] {
        let path = folder.path().join(password);
        std::fs::write(&path, password).expect("written");
        let login = Some(("root".to_owned(), topology::SecretRef::File(path)));
        let servers = vec!["http://127.0.0.1:9".to_owned(), server.address()];
        let mut etcd = Etcd::new(&Settings { login, servers, ..server.settings() });
        assert!(etcd.ask().await.is_err(), "nobody is there");
        match etcd.ask().await {
            Ok(answer) => assert!(lets_in && answer.instances.len() == 1),
            Err(fault) => assert!(!lets_in && !fault.to_string().contains(password), "{fault}"),
        }
    }
}

/// D2: what is entered in etcd is what our reader finds there: while it is ready, under its address; and again
/// where the server has lost it.
#[tokio::test]
async fn etcd_is_told_of_ourselves() {
    let server = Server::start().await;
    let ours = topology::register::RegisterEtcd {
        servers: vec![server.address()],
        prefix: PREFIX.to_owned(),
        login: None,
        ca: None,
        ttl: Duration::from_secs(15),
    };
    let mut reader = Etcd::new(&server.settings());
    let leases = async || {
        let all = server.ask("/v3/lease/leases", &json!({})).await;
        for lease in all["leases"].as_array().into_iter().flatten() {
            server.ask("/v3/lease/revoke", lease).await;
        }
    };
    let keys = json!({
        "key": STANDARD.encode(PREFIX), "range_end": STANDARD.encode(after(PREFIX.as_bytes())),
    });
    for lost in ["leases", "keys"] {
        let mut entry =
            crate::register::tests::entered_in::<crate::register::etcd::Etcd>(ours.clone());
        crate::register::tests::begins(&mut entry, &mut reader).await;
        match lost {
            "leases" => leases().await,
            _ => _ = server.ask("/v3/kv/deleterange", &keys).await,
        }
        crate::register::tests::goes_on(&mut entry, &mut reader).await;
    }
}
