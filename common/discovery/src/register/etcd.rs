//! An instance as a key of etcd under a lease that we keep alive, over the JSON form of its API
//! (decision 33). Told by `hold`.
//!
//! Invariant: the key is put under a lease that the server has confirmed; one that it does not know any more is
//! followed by a new one and a new key.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, HeaderValue, header};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
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
        if self.told != Some(health) {
            let (key, value) = (self.key(), STANDARD.encode(self.value(health).to_string()));
            let put = json!({ "key": key, "value": value, "lease": lease });
            let _done: Value = self.ask("/v3/kv/put", &put).await?;
            self.told = Some(health);
        }
        Ok(())
    }

    async fn ask<T: DeserializeOwned>(&mut self, path: &str, body: &Value) -> Result<T, Fault> {
        let mut headers = HeaderMap::new();
        // A member that is cut off from the others would promise what it cannot keep.
        headers.insert(HAS_LEADER, HeaderValue::from_static("true"));
        if let (Some(login), None) = (&self.target.settings.login, &self.token) {
            self.token = Some(token(&mut self.web, login).await?);
        }
        if let Some(token) = &self.token {
            headers.insert(header::AUTHORIZATION, token.clone());
        }
        let answer = self.web.post(path, &headers, body, PATIENCE).await?;
        read(answer.body())
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
        next.settings.servers == former.settings.servers && key(next) == key(former)
    }

    async fn tell(&mut self, health: Health) -> Result<(), Fault> {
        let renewed = self.renew(health).await;
        if renewed.is_err() {
            // Another server may do it, and a token may have been forgotten. The lease is all servers'; what
            // the key says is not known.
            (self.token, self.told) = (None, None);
            self.at = (self.at + 1) % self.target.settings.servers.len().max(1);
            self.web = web(&self.target.settings, self.at);
        }
        renewed
    }

    async fn leave(&mut self) -> Result<(), Fault> {
        let (key, lease) = (self.key(), self.lease.take());
        self.told = None;
        let _done: Value = match lease {
            // The key goes with it, unless another process has put it under a lease of its own.
            Some(lease) => self.ask("/v3/lease/revoke", &json!({ "ID": lease })).await?,
            None => self.ask("/v3/kv/deleterange", &json!({ "key": key })).await?,
        };
        Ok(())
    }
}

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
