//! Endpoints from Consul: a blocking query for the passing instances of a service. Not for registering
//! anything. Asked by `keep`.
//!
//! Invariant: an index that goes backwards, or is no index, begins anew; so nothing is waited for that has
//! happened already.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use common::escape::escaped;
use common::rng::Rng;
use common::secret;
use http::{HeaderMap, HeaderName};
use serde::Deserialize;
use tokio::time::Instant;
use topology::model::Consul as Settings;
use topology::{SecretRef, Weight};

use crate::fault::Fault;
use crate::instance::{Instance, Takes};
use crate::keep::{Answer, Source};
use crate::web::{Web, read, sensitive};

/// One service's watch.
pub(crate) struct Consul {
    settings: Settings,
    web: Web,
    /// Of the last answer; 0: the next one comes at once.
    index: u64,
    rng: Rng,
}

impl Consul {
    pub(crate) fn new(settings: &Settings) -> Self {
        let web = Web::new(&settings.registry);
        Self { settings: settings.clone(), web, index: 0, rng: Rng::from_os() }
    }

    fn path(&self, wait: Duration) -> String {
        let settings = &self.settings;
        let mut path = format!("/v1/health/service/{}?passing=true", escaped(&settings.service));
        for (key, value) in [("dc", &settings.datacenter), ("tag", &settings.tag)] {
            if let Some(value) = value {
                path.push_str(&format!("&{key}={}", escaped(value)));
            }
        }
        if self.index > 0 {
            path.push_str(&format!("&index={}&wait={}s", self.index, wait.as_secs()));
        }
        path
    }

    async fn query(&mut self) -> Result<Answer, Fault> {
        let wait = self.rng.jitter(WAIT, 20);
        // Consul adds up to a sixteenth of its own.
        let patience = if self.index > 0 { wait + wait / 16 } else { Duration::ZERO } + PATIENCE;
        let (path, headers) = (self.path(wait), headers(self.settings.token.as_ref())?);
        let asked = Instant::now();
        let answer = self.web.get(&path, &headers, patience).await?;
        let index = answer.headers().get(INDEX).and_then(|value| value.to_str().ok());
        let index = index.and_then(|text| text.parse().ok()).unwrap_or(0);
        let rows: Vec<Row> = read(answer.body())?;
        if let Some(cause) = cut_by_rights(answer.headers()).filter(|_| rows.is_empty()) {
            return Err(Fault::Nonsense(cause));
        }
        // Without an index, or where nobody holds a question back, each is answered at once.
        let held = index != self.index || asked.elapsed() >= SPURIOUS;
        let holds = if index == 0 || !held { POLL } else { PAUSE };
        self.index = if index < self.index { 0 } else { index };
        let (mut instances, mut nonsense) = (Vec::with_capacity(rows.len()), None);
        for row in rows.into_iter().filter(Row::passes) {
            match row.instance(&self.settings) {
                Ok(instance) => instances.push(instance),
                Err(cause) => nonsense = nonsense.or(Some(cause)),
            }
        }
        Ok(Answer { instances, holds, nonsense })
    }
}

impl Source for Consul {
    async fn ask(&mut self) -> Result<Answer, Fault> {
        let answer = self.query().await;
        if answer.is_err() {
            self.index = 0;
        }
        answer
    }

    fn forget(&mut self) {
        self.index = 0;
    }
}

/// What shows who we are. The token is read for each question: a file may have a new one.
pub(crate) fn headers(token: Option<&SecretRef>) -> Result<HeaderMap, Fault> {
    let mut headers = HeaderMap::new();
    if let Some(token) = token {
        let token = secret::read(token)?;
        headers.insert(TOKEN, sensitive(token.as_str()?)?);
    }
    Ok(headers)
}

/// An instance as Consul has it.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Row {
    node: Host,
    service: Registered,
    #[serde(default)]
    checks: Vec<Check>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Host {
    #[serde(default)]
    address: String,
    #[serde(default)]
    meta: Option<HashMap<String, String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Registered {
    #[serde(default, rename = "ID")]
    id: String,
    #[serde(default)]
    address: String,
    #[serde(default)]
    port: i64,
    #[serde(default)]
    meta: Option<HashMap<String, String>>,
    #[serde(default)]
    weights: Option<Weights>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Weights {
    #[serde(default)]
    passing: i64,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Check {
    #[serde(default)]
    status: String,
}

impl Row {
    /// As asked for; an agent that has never heard of `passing` answers with all.
    fn passes(&self) -> bool {
        self.checks.iter().all(|check| check.status == "passing")
    }

    fn instance(self, settings: &Settings) -> Result<Instance, String> {
        let Self { node, service, .. } = self;
        // Without an address of its own it has its node's.
        let text = if service.address.is_empty() { &node.address } else { &service.address };
        let ip: IpAddr = text.parse().map_err(|_| {
            format!("instance `{}` has `{text}`, which is no IP address", service.id)
        })?;
        let port = u16::try_from(service.port).ok().filter(|port| *port != 0);
        let port = port.ok_or_else(|| format!("instance `{}` has no port", service.id))?;
        let of = |meta: &Option<HashMap<String, String>>, key: &str| {
            meta.as_ref().and_then(|meta| meta.get(key)).cloned()
        };
        let zone = of(&service.meta, &settings.zone).or_else(|| of(&node.meta, &settings.zone));
        let passing = service.weights.map_or(1, |weights| weights.passing);
        Ok(Instance {
            name: None,
            address: SocketAddr::new(ip, port),
            weight: Weight(u16::try_from(passing.clamp(1, 1000)).unwrap_or(1)),
            zone,
            version: of(&service.meta, "version"),
            takes: Takes::New,
        })
    }
}

/// Why a list may lack what is there: Consul leaves out what a token may not read, and says so.
fn cut_by_rights(headers: &HeaderMap) -> Option<String> {
    let cut = headers.get(FILTERED).is_some_and(|value| value == "true");
    cut.then(|| "the token may not read the service or its nodes".to_owned())
}

/// How long a question may be held back.
const WAIT: Duration = Duration::from_secs(60);

/// For an answer that is not held back.
const PATIENCE: Duration = Duration::from_secs(10);

/// Between an answer and the next question: a service that changes all the time is not asked for ever.
const PAUSE: Duration = Duration::from_millis(20);

/// An answer that is no news comes later than that.
const SPURIOUS: Duration = Duration::from_secs(1);

/// The same where nothing is held back.
const POLL: Duration = Duration::from_secs(5);

const INDEX: HeaderName = HeaderName::from_static("x-consul-index");
const FILTERED: HeaderName = HeaderName::from_static("x-consul-results-filtered-by-acls");
const TOKEN: HeaderName = HeaderName::from_static("x-consul-token");

#[cfg(test)]
mod tests;
