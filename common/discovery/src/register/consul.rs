//! An instance as a service of a Consul agent, with a check whose time we renew. Told by `hold`.
//!
//! Invariant: an agent that does not know the check any more is told of the whole service again.

use std::time::Duration;

use common::escape::escaped;
use http::{HeaderMap, Method};
use serde_json::{Value, json};
use topology::register::RegisterConsul as Settings;

use crate::consul::headers;
use crate::fault::Fault;
use crate::register::{Health, PATIENCE, Registry, Target};
use crate::web::Web;

/// One service of an agent.
pub(crate) struct Consul {
    target: Target<Settings>,
    id: String,
    web: Web,
    /// The agent has the service, as far as we know.
    entered: bool,
}

impl Consul {
    fn service(&self, health: Health) -> Value {
        let Target { settings, entry } = &self.target;
        json!({
            "ID": self.id, "Name": settings.service, "Tags": settings.tags,
            "Address": entry.address.ip().to_string(), "Port": entry.address.port(),
            "Meta": entry.metadata(),
            "Check": {
                "CheckID": check(&self.id), "Name": "readiness", "Status": word(health),
                "TTL": format!("{}s", settings.ttl.as_secs()),
                "DeregisterCriticalServiceAfter": format!("{}s", settings.deregister_after.as_secs()),
            },
        })
    }

    async fn put(&mut self, path: &str, body: Option<&Value>) -> Result<(), Fault> {
        let headers: HeaderMap = headers(self.target.settings.token.as_ref())?;
        self.web.send((Method::PUT, path), &headers, body, PATIENCE).await.map(drop)
    }
}

impl Registry for Consul {
    type Settings = Settings;
    const KIND: &'static str = "consul";

    fn new(target: &Target<Settings>) -> Self {
        let web = Web::new(&target.settings.registry);
        Self { id: id(target), target: target.clone(), web, entered: false }
    }

    fn ttl(settings: &Settings) -> Duration {
        settings.ttl
    }

    fn replaces(next: &Target<Settings>, former: &Target<Settings>) -> bool {
        next.settings.registry == former.settings.registry && id(next) == id(former)
    }

    async fn tell(&mut self, health: Health) -> Result<(), Fault> {
        if self.entered {
            let path = format!("/v1/agent/check/update/{}", escaped(&check(&self.id)));
            let output = if health == Health::Ready { "ready" } else { "not ready" };
            let status = json!({ "Status": word(health), "Output": output });
            match self.put(&path, Some(&status)).await {
                // 404, and 500 from agents of old: it has forgotten us.
                Err(Fault::Status(_)) => self.entered = false,
                told => return told,
            }
        }
        let service = self.service(health);
        self.put("/v1/agent/service/register?replace-existing-checks=true", Some(&service)).await?;
        self.entered = true;
        Ok(())
    }

    async fn leave(&mut self) -> Result<(), Fault> {
        self.entered = false;
        let path = format!("/v1/agent/service/deregister/{}", escaped(&self.id));
        self.put(&path, None).await
    }
}

fn id(target: &Target<Settings>) -> String {
    format!("{}-{}", target.settings.service, target.entry.instance)
}

fn check(id: &str) -> String {
    format!("service:{id}")
}

fn word(health: Health) -> &'static str {
    match health {
        Health::Ready => "passing",
        Health::Unready => "critical",
    }
}
