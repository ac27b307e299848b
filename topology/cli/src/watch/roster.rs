//! Whom the live page asks: every instance of a topology with its admin address. Not for asking:
//! `talk`. Made once from the file.
//!
//! Invariant: `of` is the id of a box of the file's wiring.

use std::net::SocketAddr;

use anyhow::anyhow;
use common::secret::Secret;
use serde::Serialize;
use topology::Topology;
use topology::units::{At, InstanceName, Place};

/// All instances and what they ask for.
#[derive(Clone, Debug)]
pub(crate) struct Roster {
    /// In the file's order.
    pub(crate) instances: Vec<Instance>,
    /// Sent to admin listeners.
    pub(crate) token: Option<Secret>,
}

/// One process.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Instance {
    pub(crate) name: String,
    pub(crate) tier: Tier,
    /// Its group's box in the picture.
    pub(crate) of: String,
    /// `None`: the file has no `admin:` for it, so nothing is known.
    pub(crate) admin: Option<SocketAddr>,
}

/// What it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) enum Tier {
    #[serde(rename = "l4-nlb")]
    Balancer,
    #[serde(rename = "l7-gateway")]
    Gateway,
    #[serde(rename = "pgpool")]
    Pool,
}

impl Tier {
    /// The program that it is.
    pub(crate) fn program(self) -> &'static str {
        match self {
            Self::Balancer => "l4-nlb",
            Self::Gateway => "l7-gateway",
            Self::Pool => "pgpool",
        }
    }
}

impl Roster {
    /// Of a file; `token` in place of its `admin-token`.
    pub(crate) fn of(topology: &Topology, token: Option<Secret>) -> anyhow::Result<Self> {
        let instances = instances(topology);
        let token = match token {
            Some(token) => Some(token),
            None => {
                let name = &topology.source.name;
                let told = |missing: common::secret::Missing| {
                    let Place { line, column } = missing.place;
                    anyhow!("{name}:{line}:{column}: {missing}")
                };
                common::secret::admin_token(topology).map_err(told)?
            }
        };
        Ok(Self { instances, token })
    }
}

/// Every instance, in the file's order.
pub(crate) fn instances(topology: &Topology) -> Vec<Instance> {
    let mut instances = Vec::new();
    let mut add = |name: &InstanceName, tier, of, admin: Option<&At<SocketAddr>>| {
        let (name, admin) = (name.to_string(), admin.map(|admin| admin.value));
        instances.push(Instance { name, tier, of, admin });
    };
    for group in &topology.nlbs {
        for one in &group.instances {
            let of = format!("nlb:{}", group.name);
            add(&one.name, Tier::Balancer, of, one.admin.as_ref());
        }
    }
    for group in &topology.gateways {
        for one in &group.instances {
            let of = format!("gateway:{}", group.name);
            add(&one.name, Tier::Gateway, of, one.admin.as_ref());
        }
    }
    for group in &topology.pools {
        for one in &group.instances {
            add(&one.name, Tier::Pool, format!("pool:{}", group.name), one.admin.as_ref());
        }
    }
    instances
}
