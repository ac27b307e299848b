//! Endpoints as a file lists them, or as one value of a store says: `discover: { file: … }` and the
//! values below an etcd prefix. Not for the topology file itself. Called by the crate `discovery`.
//!
//! Invariant: a list that is returned is right as a whole: one mistake refuses all of it.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use crate::model::{Form, SourceFile};
use crate::problem::Problems;
use crate::raw::{EndpointList, Findings, FromTree, Listed as RawListed, Spot};
use crate::tree;
use crate::units::Weight;

/// One endpoint with all that is said of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// A stable name, if it has one.
    pub name: Option<String>,
    /// Where it listens.
    pub address: SocketAddr,
    /// Its share.
    pub weight: Weight,
    /// Where it stands.
    pub zone: Option<String>,
    /// What runs there.
    pub version: Option<String>,
    /// How it stands.
    pub health: ListedHealth,
}

/// What a list says of an endpoint's health.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListedHealth {
    /// It takes traffic.
    Up,
    /// It takes nothing new.
    Draining,
    /// It takes nothing.
    Down,
}

/// All endpoints of a list; `name` is how messages call it.
///
/// # Errors
/// With everything that is wrong with it, and where.
pub fn endpoints(name: &str, text: &str) -> Result<Vec<Listed>, Problems> {
    read(name, text, |list: EndpointList, out| {
        let mut known: HashMap<String, u32> = HashMap::new();
        let listed = list.endpoints.unwrap_or_default().into_iter().filter_map(|raw| {
            let spot = raw.0.spot.clone();
            let listed = endpoint_of(raw, out)?;
            let names = [Some(listed.address.to_string()), listed.name.clone()];
            for name in names.into_iter().flatten() {
                if let Some(first) = known.insert(name, spot.extent.place.line) {
                    out.error(&spot, format!("this endpoint is already on line {first}"))
                        .allowed("each address and each name once");
                }
            }
            Some(listed)
        });
        listed.collect()
    })
}

/// One endpoint: an address, or a section with more.
///
/// # Errors
/// With everything that is wrong with it.
pub fn endpoint(name: &str, text: &str) -> Result<Listed, Problems> {
    let listed = read(name, text, |raw, out| endpoint_of(raw, out).into_iter().collect())?;
    let mut listed: Vec<Listed> = listed;
    // What is not there has been told by `read`.
    listed.pop().ok_or_else(|| Problems::new(source(name, text), Vec::new(), 1))
}

fn endpoint_of(RawListed(raw): RawListed, out: &mut Findings) -> Option<Listed> {
    let address = raw.address?;
    if address.value.port() == 0 || address.value.ip().is_unspecified() {
        let what = format!("{} is no address to send to", address.value);
        out.error(&address.spot, what).allowed("the server's own address and port");
    }
    let health = match raw.health.as_ref().map(|typed| typed.value.0.as_str()) {
        None | Some("up") => ListedHealth::Up,
        Some("draining") => ListedHealth::Draining,
        Some("down") => ListedHealth::Down,
        Some(other) => {
            let what = format!("`{other}` is no health of an endpoint");
            if let Some(typed) = &raw.health {
                out.error(&typed.spot, what).allowed("up, draining, down");
            }
            return None;
        }
    };
    Some(Listed {
        name: raw.name.map(|typed| typed.value.0),
        address: address.value,
        weight: raw.weight.map_or_else(Weight::default, |typed| typed.value),
        zone: raw.zone.map(|typed| typed.value.0),
        version: raw.version.map(|typed| typed.value.0),
        health,
    })
}

fn source(name: &str, text: &str) -> Arc<SourceFile> {
    Arc::new(SourceFile {
        name: name.to_owned(),
        folder: PathBuf::new(),
        text: text.to_owned(),
        form: Form::Topology,
    })
}

fn read<T: FromTree>(
    name: &str,
    text: &str,
    resolve: impl FnOnce(T, &mut Findings) -> Vec<Listed>,
) -> Result<Vec<Listed>, Problems> {
    let mut out = Findings::default();
    let listed = match tree::read(text, &mut out.list) {
        Ok(tree) => {
            T::from_tree(&tree, &Spot::default(), &mut out).map(|raw| resolve(raw, &mut out))
        }
        Err(problem) => {
            out.list.push(problem);
            None
        }
    };
    match listed {
        Some(listed) if !out.failed() => Ok(listed),
        _ => Err(Problems::new(source(name, text), out.list, out.unlisted)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// D1: a list in its short and long form, in YAML and in JSON; also an empty one.
    #[test]
    fn lists_are_read() {
        let text = "endpoints:\n  - 10.0.0.1:80\n  - { address: 10.0.0.2:80, name: b, weight: 7, \
                    zone: z, version: v2, health: draining }\n";
        let listed = endpoints("list.yaml", text).expect("right");
        assert_eq!(
            (listed.len(), listed[0].weight, listed[0].health),
            (2, Weight(1), ListedHealth::Up)
        );
        let second = &listed[1];
        let texts = [&second.name, &second.zone, &second.version].map(Option::as_deref);
        assert_eq!(texts, [Some("b"), Some("z"), Some("v2")]);
        assert_eq!((second.weight, second.health), (Weight(7), ListedHealth::Draining));
        let json = r#"{ "endpoints": [{ "address": "10.0.0.1:80", "health": "down" }] }"#;
        assert_eq!(endpoints("list.json", json).expect("right")[0].health, ListedHealth::Down);
        assert_eq!(endpoints("list.yaml", "endpoints: []").expect("empty"), []);
        assert_eq!(endpoint("key", "10.0.0.1:80").expect("right").weight, Weight(1));
        assert_eq!(
            endpoint("key", r#"{"address":"[::1]:80","weight":3}"#).expect("right").weight.0,
            3
        );
    }

    /// O5: what is wrong with a list is told with its place, and one mistake refuses all of it.
    #[test]
    fn wrong_lists_are_refused_whole() {
        for (text, told) in [
            ("", "list.yaml"),
            ("endpoints:", "endpoints"),
            ("endpoints: [10.0.0.1:80, 10.0.0.1:80]", "already on line 1"),
            ("endpoints: [10.0.0.1:80, 10.0.0.1:0]", "no address to send to"),
            ("endpoints: [{ address: 10.0.0.1:80, health: sick }]", "`sick` is no health"),
            ("endpoints: [{ address: 10.0.0.1:80, wieght: 2 }]", "wieght"),
            ("- 10.0.0.1:80", "a list stands here"),
        ] {
            let problems = endpoints("list.yaml", text).expect_err(text).to_string();
            assert!(problems.contains(told), "{text}: {problems}");
        }
        assert!(endpoint("key", "nonsense").is_err() && endpoint("key", "").is_err());
    }
}
