//! An instance as a key of etcd under a lease that we keep alive, over the JSON form of its API
//! (decision 33). Told by `hold`.
//!
//! Invariant: the key is put under a lease that the server has confirmed; one that it does not know any more is
//! followed by a new one and a new key.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::StatusCode;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::time::timeout;
use topology::register::RegisterEtcd as Settings;

use crate::etcd::Members;
use crate::fault::Fault;
use crate::register::{Health, PATIENCE, Registry, Target};

/// One key.
pub(crate) struct Etcd {
    target: Target<Settings>,
    members: Members,
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
        // Less than the lease lasts, so that another server can be asked in time.
        let patience = PATIENCE.min(self.target.settings.ttl / 5);
        self.members.ask(path, body, patience).await
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
        let Settings { servers, login, ca, .. } = &target.settings;
        let members = Members::new(servers, login.as_ref(), ca.as_ref());
        Self { target: target.clone(), members, lease: None, told: None }
    }

    fn ttl(settings: &Settings) -> Duration {
        settings.ttl
    }

    fn replaces(next: &Target<Settings>, former: &Target<Settings>) -> bool {
        let same = |server: &String| former.settings.servers.contains(server);
        next.settings.servers.iter().any(same) && key(next) == key(former)
    }

    async fn tell(&mut self, health: Health) -> Result<(), Fault> {
        // All questions of a round together: the next sign of life must come before the lease ends.
        let round = self.target.settings.ttl * 2 / 5;
        let renewed = timeout(round, self.renew(health)).await;
        let renewed = renewed.unwrap_or(Err(Fault::Late(round)));
        if renewed.is_err() {
            // The lease is all servers'; what the key says is not known.
            self.told = None;
            self.members.turn();
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
        for _server in 0..self.members.count() {
            outcome = match timeout(HASTE, self.ask::<Value>(path, &what)).await {
                // A lease that has ended has taken the key with it.
                Ok(Ok(_) | Err(Fault::Status(StatusCode::NOT_FOUND))) => return Ok(()),
                Ok(Err(fault)) => Err(fault),
                Err(_late) => Err(Fault::Late(HASTE)),
            };
            self.members.turn();
        }
        outcome
    }
}

/// A server has so long to answer where another one can be asked.
const HASTE: Duration = Duration::from_millis(600);

fn key(target: &Target<Settings>) -> String {
    format!("{}{}", target.settings.prefix, target.entry.instance)
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
