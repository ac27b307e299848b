//! An instance as a key of etcd under a lease that we keep alive, over the JSON form of its API
//! (decision 33). Told by `hold`.
//!
//! Invariant: the key is put under a lease that the server has confirmed; one that it does not know any more is
//! followed by a new one and a new key.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::time::timeout;
use topology::model::Registry as Server;
use topology::register::RegisterEtcd as Settings;

use crate::etcd::{HAS_LEADER, read, token};
use crate::fault::Fault;
use crate::register::{Health, PATIENCE, Registry, Target};
use crate::web::Web;

/// One key.
pub(crate) struct Etcd {
    target: Target<Settings>,
    /// Which of the servers is told.
    at: usize,
    web: Web,
    /// What shows who we are.
    token: Option<HeaderValue>,
    lease: Option<String>,
    /// What the key says, under that lease.
    told: Option<Health>,
}

impl Etcd {
    async fn renew(&mut self, health: Health) -> Result<(), Fault> {
        if let Some(lease) = self.lease.clone() {
            let kept: Kept = self.ask("/v3/lease/keepalive", &json!({ "ID": lease })).await?;
            let left = kept.result.ttl.unwrap_or_default();
            if left.parse::<i64>().unwrap_or_default() <= 0 {
                (self.lease, self.told) = (None, None);
            }
        }
        let lease = match &self.lease {
            Some(lease) => lease.clone(),
            None => {
                let ttl = self.target.settings.ttl.as_secs().to_string();
                let lease: Lease = self.ask("/v3/lease/grant", &json!({ "TTL": ttl })).await?;
                self.lease.insert(lease.id).clone()
            }
        };
        let (key, value) = (self.key(), STANDARD.encode(self.value(health).to_string()));
        let put = json!({ "key": key, "value": value, "lease": lease });
        if self.told == Some(health) {
            // Somebody may have deleted it, or another process of our name may have ended with it.
            let lost = json!([{ "key": key, "target": "CREATE", "result": "EQUAL", "create_revision": "0" }]);
            let again = json!({ "compare": lost, "success": [{ "request_put": put }] });
            let _done: Value = self.ask("/v3/kv/txn", &again).await?;
        } else {
            let _done: Value = self.ask("/v3/kv/put", &put).await?;
            self.told = Some(health);
        }
        Ok(())
    }

    async fn ask<T: DeserializeOwned>(&mut self, path: &str, body: &Value) -> Result<T, Fault> {
        let mut headers = HeaderMap::new();
        // A member that is cut off from the others would promise what it cannot keep.
        headers.insert(HAS_LEADER, HeaderValue::from_static("true"));
        // Less than the lease lasts, so that another server can be asked in time.
        let patience = PATIENCE.min(self.target.settings.ttl / 5);
        loop {
            let known = self.token.is_some();
            if let (Some(login), None) = (&self.target.settings.login, &self.token) {
                self.token = Some(token(&mut self.web, login).await?);
            }
            if let Some(token) = &self.token {
                headers.insert(header::AUTHORIZATION, token.clone());
            }
            match self.web.post(path, &headers, body, patience).await {
                // Tokens end after some minutes.
                Err(Fault::Status(StatusCode::UNAUTHORIZED)) if known => self.token = None,
                answer => return read(answer?.body()),
            }
        }
    }

    /// Another server may do it, and a token may have been forgotten.
    fn turn(&mut self) {
        self.token = None;
        self.at = (self.at + 1) % self.target.settings.servers.len().max(1);
        self.web = web(&self.target.settings, self.at);
    }

    fn key(&self) -> String {
        STANDARD.encode(key(&self.target))
    }

    /// As our reader and `topology::list` have it.
    fn value(&self, health: Health) -> Value {
        let entry = &self.target.entry;
        let mut value = entry.metadata();
        value["address"] = json!(entry.address.to_string());
        value["name"] = json!(&*entry.instance);
        value["health"] = json!(match health {
            Health::Ready => "up",
            Health::Unready => "down",
        });
        value
    }
}

impl Registry for Etcd {
    type Settings = Settings;
    const KIND: &'static str = "etcd";

    fn new(target: &Target<Settings>) -> Self {
        let web = web(&target.settings, 0);
        Self { target: target.clone(), at: 0, web, token: None, lease: None, told: None }
    }

    fn ttl(settings: &Settings) -> Duration {
        settings.ttl
    }

    fn replaces(next: &Target<Settings>, former: &Target<Settings>) -> bool {
        let same = |server: &String| former.settings.servers.contains(server);
        next.settings.servers.iter().any(same) && key(next) == key(former)
    }

    async fn tell(&mut self, health: Health) -> Result<(), Fault> {
        let renewed = self.renew(health).await;
        if renewed.is_err() {
            // The lease is all servers'; what the key says is not known.
            self.told = None;
            self.turn();
        }
        renewed
    }

    async fn leave(&mut self) -> Result<(), Fault> {
        let (key, lease) = (self.key(), self.lease.take());
        self.told = None;
        // The key goes with the lease, unless another process has put it under one of its own.
        let (path, what) = match lease {
            Some(lease) => ("/v3/lease/revoke", json!({ "ID": lease })),
            None => ("/v3/kv/deleterange", json!({ "key": key })),
        };
        let mut outcome = Ok(());
        for _server in 0..self.target.settings.servers.len() {
            outcome = match timeout(HASTE, self.ask::<Value>(path, &what)).await {
                // A lease that has ended has taken the key with it.
                Ok(Ok(_) | Err(Fault::Status(StatusCode::NOT_FOUND))) => return Ok(()),
                Ok(Err(fault)) => Err(fault),
                Err(_late) => Err(Fault::Late(HASTE)),
            };
            self.turn();
        }
        outcome
    }
}

/// A server has so long to answer where another one can be asked.
const HASTE: Duration = Duration::from_millis(600);

fn key(target: &Target<Settings>) -> String {
    format!("{}{}", target.settings.prefix, target.entry.instance)
}

fn web(settings: &Settings, at: usize) -> Web {
    let address = settings.servers.get(at).cloned().unwrap_or_default();
    Web::new(&Server { address, ca: settings.ca.clone() })
}

/// Numbers of 64 bits are texts, and what is 0 is not there.
#[derive(Deserialize)]
struct Lease {
    #[serde(rename = "ID")]
    id: String,
}

#[derive(Deserialize)]
struct Kept {
    result: Left,
}

#[derive(Deserialize)]
struct Left {
    #[serde(rename = "TTL")]
    ttl: Option<String>,
}
