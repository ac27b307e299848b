//! An instance of an application in Eureka. Told by `hold`.
//!
//! Invariant: a change of health is a new registration with a later time, so that a status which an operator
//! has set over ours (`OUT_OF_SERVICE`) stays.

use std::time::{Duration, SystemTime};

use common::escape::escaped;
use http::{Method, StatusCode};
use serde_json::{Value, json};
use topology::register::RegisterEureka as Settings;

use crate::eureka::headers;
use crate::fault::Fault;
use crate::register::{Health, PATIENCE, Registry, Target};
use crate::web::Web;

/// One instance.
pub(crate) struct Eureka {
    target: Target<Settings>,
    web: Web,
    /// What the registry knows, as far as we know.
    told: Option<Health>,
    /// When that was said, in ms since 1970: the registry goes by the latest.
    dirty: u64,
}

impl Eureka {
    fn instance(&self, health: Health) -> Value {
        let Target { settings, entry } = &self.target;
        let (ip, name) = (entry.address.ip().to_string(), settings.application.to_uppercase());
        json!({ "instance": {
            "instanceId": id(&self.target), "app": name, "hostName": ip, "ipAddr": ip,
            "vipAddress": settings.application.to_lowercase(),
            "status": word(health), "overriddenstatus": "UNKNOWN",
            "port": { "$": entry.address.port(), "@enabled": "true" },
            "securePort": { "$": 443, "@enabled": "false" },
            "countryId": 1,
            "dataCenterInfo": { "@class": "com.netflix.appinfo.InstanceInfo$DefaultDataCenterInfo",
                "name": "MyOwn" },
            "leaseInfo": {
                "renewalIntervalInSecs": (settings.ttl / 3).as_secs(),
                "durationInSecs": settings.ttl.as_secs(),
            },
            "metadata": entry.metadata(),
            "lastUpdatedTimestamp": self.dirty.to_string(),
            "lastDirtyTimestamp": self.dirty.to_string(),
        } })
    }

    async fn send(
        &mut self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<(), Fault> {
        let headers = headers(self.target.settings.login.as_ref())?;
        self.web.send((method, path), &headers, body, PATIENCE).await.map(drop)
    }

    async fn register(&mut self, health: Health) -> Result<(), Fault> {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        self.dirty = (now.as_millis() as u64).max(self.dirty + 1);
        self.told = None;
        let path = format!("/apps/{}", application(&self.target));
        let instance = self.instance(health);
        self.send(Method::POST, &path, Some(&instance)).await?;
        self.told = Some(health);
        Ok(())
    }

    fn path(&self) -> String {
        format!("/apps/{}/{}", application(&self.target), escaped(&id(&self.target)))
    }
}

impl Registry for Eureka {
    type Settings = Settings;
    const KIND: &'static str = "eureka";

    fn new(target: &Target<Settings>) -> Self {
        let web = Web::new(&target.settings.registry);
        Self { target: target.clone(), web, told: None, dirty: 0 }
    }

    fn ttl(settings: &Settings) -> Duration {
        settings.ttl
    }

    fn replaces(next: &Target<Settings>, former: &Target<Settings>) -> bool {
        next.settings.registry == former.settings.registry
            && (application(next), id(next)) == (application(former), id(former))
    }

    async fn tell(&mut self, health: Health) -> Result<(), Fault> {
        if self.told == Some(health) {
            let (status, dirty) = (word(health), self.dirty);
            let path = format!("{}?status={status}&lastDirtyTimestamp={dirty}", self.path());
            match self.send(Method::PUT, &path, None).await {
                // It has forgotten us, or knows something older.
                Err(Fault::Status(StatusCode::NOT_FOUND)) => {}
                told => return told,
            }
        }
        self.register(health).await
    }

    async fn leave(&mut self) -> Result<(), Fault> {
        self.told = None;
        let path = self.path();
        self.send(Method::DELETE, &path, None).await
    }
}

fn application(target: &Target<Settings>) -> String {
    escaped(&target.settings.application.to_uppercase()).to_string()
}

fn id(target: &Target<Settings>) -> String {
    format!("{}:{}", target.settings.application.to_lowercase(), target.entry.instance)
}

/// `DOWN`, not `OUT_OF_SERVICE`: a registry takes that one back only by its own API, and keeps `UP` until then.
fn word(health: Health) -> &'static str {
    match health {
        Health::Ready => "UP",
        Health::Unready => "DOWN",
    }
}
