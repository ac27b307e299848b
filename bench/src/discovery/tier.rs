//! A gateway and a balancer whose services are all found in etcd. Not for what is asked of them.
//!
//! Invariant: each is ready for figures when it has every endpoint that etcd has.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use serde_json::Value;

use super::etcd::{self, ask};
use crate::l4::clock::pause;
use crate::process::{Program, beside};

/// Services, beside the one that has traffic.
pub const SERVICES: usize = 100;
/// Endpoints of each.
pub const ENDPOINTS: usize = 100;

/// Where the service with traffic is reached.
pub const PROBE: &str = "127.0.78.41:20000";
const ADMIN: &str = "127.0.78.41:19901";

/// Who is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Tier {
    /// Chooses per request.
    #[value(name = "l7-gateway")]
    Gateway,
    /// Chooses per connection, each listener by a table of its own.
    #[value(name = "l4-nlb")]
    Balancer,
}

impl Tier {
    /// Its program.
    pub fn name(self) -> &'static str {
        match self {
            Self::Gateway => "l7-gateway",
            Self::Balancer => "l4-nlb",
        }
    }

    /// Starts it with two workers and no endpoint.
    ///
    /// # Errors
    /// When it does not start.
    pub fn start(self, folder: &Path) -> Result<Program> {
        fs::create_dir_all(folder)?;
        let file = folder.join("tier.yaml");
        fs::write(&file, self.topology())?;
        let mut command = Command::new(beside(self.name())?);
        let instance = if self == Self::Gateway { "gw" } else { "nlb" };
        command.args(["--workers", "2", "--instance", instance, "--topology"]).arg(&file);
        Program::start(self.name(), &mut command, &folder.join("output.log"), ADMIN)
    }

    fn topology(self) -> String {
        let names = || std::iter::once("probe".to_owned()).chain((0..SERVICES).map(service));
        let source = |name: String| {
            let at = etcd::AT;
            format!(
                "  {name}: {{ discover: {{ etcd: {{ servers: [\"http://{at}\"], prefix: /{name}/ }} }} }}\n"
            )
        };
        let services: String = names().map(source).collect();
        let (ip, port) = PROBE.split_once(':').unwrap_or_default();
        let first: usize = port.parse().unwrap_or_default();
        let part = match self {
            Self::Gateway => {
                let route = |name: String| format!("      - {{ path: /{name}, to: {name} }}\n");
                format!(
                    "gateways:\n  app:\n    instances: {{ gw: {{ listen: \"{PROBE}\", admin: \"{ADMIN}\" }} }}\n    \
                     access-log: off\n    routes:\n{}",
                    names().map(route).collect::<String>()
                )
            }
            Self::Balancer => {
                let listener = |(at, name): (usize, String)| {
                    // The first has traffic whose next endpoint is foreseen; the others have tables.
                    let more = if at == 0 {
                        ", balance: round-robin"
                    } else {
                        ", balance: client-address"
                    };
                    format!("      {name}: {{ tcp: \"*:{}\", to: {name}{more} }}\n", first + at)
                };
                format!(
                    "nlbs:\n  edge:\n    instances: {{ nlb: {{ address: {ip}, admin: \"{ADMIN}\" }} }}\n    listeners:\n{}",
                    names().enumerate().map(listener).collect::<String>()
                )
            }
        };
        format!("aqueduct: 1\nservices:\n{services}{part}")
    }
}

/// A service's name.
pub fn service(number: usize) -> String {
    format!("s{number:03}")
}

/// Waits until the tier has so many endpoints, and this one among them.
///
/// # Errors
/// When it does not come so far within half a minute.
pub fn until_known(count: usize, one: &str) -> Result<()> {
    let mut seen = 0;
    for _ in 0..300 {
        let shown = ask(ADMIN.parse()?, "GET", "/endpoints", &Value::Null)?;
        ensure!(shown.starts_with("HTTP/1.1 200 "), "the admin listener says {shown}");
        seen = shown.matches("\"address\":").count();
        if seen == count && shown.contains(&format!("\"{one}\"")) {
            return Ok(());
        }
        pause(Duration::from_millis(100));
    }
    bail!("{seen} of {count} endpoints are known, or {one} is not")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is measured is a file that holds.
    #[test]
    fn both_files_are_clean() {
        for tier in [Tier::Gateway, Tier::Balancer] {
            let parsed = topology::parse("tier.yaml", &tier.topology(), Path::new("."));
            let topology = parsed.map_err(|problems| problems.to_string()).expect("valid");
            assert!(topology.warnings.is_empty(), "{tier:?}: {:?}", topology.warnings);
        }
    }
}
