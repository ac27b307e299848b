//! Endpoints from Eureka: the whole registry once, then what changed, and the whole again where the sum
//! of what is known is not the registry's. Not for registering anything. Asked by `keep`.
//!
//! Invariant: changes are believed only while the hash over all instances is the one that the registry
//! states.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use common::secret;
use http::{HeaderMap, header};
use serde::Deserialize;
use serde_json::Value;
use topology::model::Eureka as Settings;
use topology::{SecretRef, Weight};
use zeroize::Zeroizing;

use crate::fault::Fault;
use crate::instance::{Instance, Takes};
use crate::keep::{Answer, Source};
use crate::web::{Web, read, sensitive};

/// One application's reader.
pub(crate) struct Eureka {
    settings: Settings,
    web: Web,
    /// What was read; `None`: the next answer is the whole registry.
    known: Option<Known>,
}

/// All instances of a registry, as far as they matter here.
#[derive(Default)]
struct Known {
    /// Statuses by application and instance: the hash is over all of them.
    statuses: HashMap<(String, String), String>,
    /// Our application's instances that take traffic, or why one is of no use.
    own: BTreeMap<String, Result<Instance, String>>,
}

impl Eureka {
    pub(crate) fn new(settings: &Settings) -> Self {
        Self { settings: settings.clone(), web: Web::new(&settings.registry), known: None }
    }

    async fn read(&mut self, path: &str) -> Result<Applications, Fault> {
        let headers = headers(self.settings.login.as_ref())?;
        let answer = self.web.get(path, &headers, PATIENCE).await?;
        read(answer.body()).map(|root: Root| root.applications)
    }

    async fn refresh(&mut self) -> Result<(), Fault> {
        if let Some(mut known) = self.known.take() {
            let delta = self.read("/apps/delta").await?;
            let stated = delta.hash.clone();
            known.apply(delta, &self.settings);
            if known.hash() == stated {
                self.known = Some(known);
                return Ok(());
            }
        }
        let whole = self.read("/apps").await?;
        let mut known = Known::default();
        known.apply(whole, &self.settings);
        self.known = Some(known);
        Ok(())
    }
}

impl Source for Eureka {
    async fn ask(&mut self) -> Result<Answer, Fault> {
        self.refresh().await?;
        let own = self.known.iter().flat_map(|known| known.own.values());
        let (mut instances, mut nonsense) = (Vec::new(), None);
        for instance in own {
            match instance {
                Ok(instance) => instances.push(instance.clone()),
                Err(cause) => nonsense = nonsense.or_else(|| Some(cause.clone())),
            }
        }
        Ok(Answer { instances, holds: self.settings.interval, nonsense })
    }

    fn forget(&mut self) {
        self.known = None;
    }
}

/// What shows who we are. The password is read for each question: a file may have a new one.
pub(crate) fn headers(login: Option<&(String, SecretRef)>) -> Result<HeaderMap, Fault> {
    let mut headers = HeaderMap::new();
    if let Some((user, password)) = login {
        let password = secret::read(password)?;
        let pair = Zeroizing::new(format!("{user}:{}", password.as_str()?));
        let basic = Zeroizing::new(format!("Basic {}", STANDARD.encode(pair.as_bytes())));
        headers.insert(header::AUTHORIZATION, sensitive(&basic)?);
    }
    Ok(headers)
}

impl Known {
    fn apply(&mut self, read: Applications, settings: &Settings) {
        for application in read.applications.0 {
            let own = application.name.eq_ignore_ascii_case(&settings.application);
            for row in application.instances.0 {
                let id = row.id();
                if own {
                    self.own.remove(&id);
                }
                if row.action.as_deref() == Some("DELETED") {
                    self.statuses.remove(&(application.name.clone(), id));
                    continue;
                }
                let key = (application.name.clone(), id.clone());
                self.statuses.insert(key, row.status.clone());
                if own && row.status == "UP" {
                    self.own.insert(id.clone(), row.instance(&id));
                }
            }
        }
    }

    /// Each status with the number of its instances, by name.
    fn hash(&self) -> String {
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for status in self.statuses.values() {
            *counts.entry(status).or_default() += 1;
        }
        counts.iter().map(|(status, count)| format!("{status}_{count}_")).collect()
    }
}

#[derive(Deserialize)]
struct Root {
    applications: Applications,
}

#[derive(Deserialize)]
struct Applications {
    #[serde(default, rename = "apps__hashcode")]
    hash: String,
    #[serde(default, rename = "application")]
    applications: Many<Application>,
}

#[derive(Deserialize)]
struct Application {
    name: String,
    #[serde(default, rename = "instance")]
    instances: Many<Row>,
}

/// A list; registries of old write a single item without one.
struct Many<T>(Vec<T>);

impl<T> Default for Many<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Many<T> {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Form<T> {
            Many(Vec<T>),
            One(T),
        }
        Ok(match Form::<T>::deserialize(from)? {
            Form::Many(all) => Self(all),
            Form::One(one) => Self(vec![one]),
        })
    }
}

/// An instance as Eureka has it.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    instance_id: Option<String>,
    #[serde(default)]
    host_name: String,
    #[serde(default)]
    ip_addr: String,
    #[serde(default)]
    status: String,
    port: Option<Port>,
    secure_port: Option<Port>,
    #[serde(default)]
    metadata: HashMap<String, Value>,
    #[serde(default)]
    data_center_info: DataCenter,
    #[serde(rename = "actionType")]
    action: Option<String>,
}

#[derive(Deserialize, Default)]
struct DataCenter {
    #[serde(default)]
    metadata: HashMap<String, Value>,
}

/// Numbers and truths may be texts.
#[derive(Deserialize)]
struct Port {
    #[serde(rename = "$")]
    number: Value,
    #[serde(default, rename = "@enabled")]
    enabled: Value,
}

impl Port {
    fn open(&self) -> Option<u16> {
        let enabled = text(&self.enabled).is_some_and(|text| text == "true");
        let number = text(&self.number)?.parse().ok()?;
        (enabled && number != 0).then_some(number)
    }
}

/// A single value as text.
fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(_) | Value::Bool(_) => Some(value.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

impl Row {
    /// Instances of old have no id of their own.
    fn id(&self) -> String {
        self.instance_id.clone().unwrap_or_else(|| self.host_name.clone())
    }

    fn instance(&self, id: &str) -> Result<Instance, String> {
        let ip: IpAddr = self.ip_addr.parse().map_err(|_| {
            format!("instance `{id}` has `{}`, which is no IP address", self.ip_addr)
        })?;
        let port = self.port.as_ref().and_then(Port::open);
        let port = port.or_else(|| self.secure_port.as_ref().and_then(Port::open));
        let port = port.ok_or_else(|| format!("instance `{id}` has no port"))?;
        let own = |key: &str| self.metadata.get(key).and_then(text);
        let weight = own("weight").and_then(|text| text.parse::<u16>().ok()).unwrap_or(1);
        let placed = || self.data_center_info.metadata.get("availability-zone").and_then(text);
        Ok(Instance {
            name: None,
            address: SocketAddr::new(ip, port),
            weight: Weight(weight.clamp(1, 1000)),
            zone: own("zone").or_else(placed),
            version: own("version"),
            takes: Takes::New,
        })
    }
}

/// For one answer.
const PATIENCE: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests;
