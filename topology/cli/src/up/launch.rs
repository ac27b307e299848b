//! How each part of a plan is started: its program, arguments and environment, and what has to be
//! made before and done after. Not for watching it: that is `fleet`. Called by `fleet`, once per
//! part.
//!
//! Invariant: a part is launched only when all that it needs is ready.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, bail};
use common::escape::escaped;

use crate::up::folder::Folder;
use crate::up::isolate::Isolation;
use crate::up::plan::{Does, Part, Plan, Reach, Tier, Use};
use crate::up::postgres::{Postgres, unprivileged};
use crate::up::provide::Provided;
use crate::up::spawn::{Launch, find_program};

/// Everything that launching needs.
#[derive(Debug)]
pub(crate) struct Workshop {
    /// Where things are kept.
    pub(crate) folder: Folder,
    /// The copy of the topology that the tiers read.
    pub(crate) topology: PathBuf,
    /// The folder of our programs.
    pub(crate) programs: PathBuf,
    /// When the plan has a database.
    pub(crate) postgres: Option<Postgres>,
    /// Secrets.
    pub(crate) provided: Provided,
    /// `--log` of the tiers.
    pub(crate) log: String,
    /// The namespaces that parts run in; `None`: they run here.
    pub(crate) isolation: Option<Arc<Isolation>>,
}

impl Workshop {
    /// How to start the part; for a database, after its data folder was made.
    pub(crate) async fn launch(&self, part: &Part) -> anyhow::Result<Launch> {
        let Some(isolation) = &self.isolation else { return self.launched(part).await };
        // Inside it is where the file says.
        let inside = isolation.original(&part.name).unwrap_or(part);
        let namespace = isolation.of(&part.name);
        Ok(Launch { namespace, ..self.launched(inside).await? })
    }

    async fn launched(&self, part: &Part) -> anyhow::Result<Launch> {
        Ok(match &part.does {
            Does::Tier(tier) => {
                let mut launch =
                    Launch::new(self.programs.join(tier.binary())).with(["--topology"]);
                launch = launch.with([&self.topology]).with(["--instance", &part.name]);
                // The file's secrets are for the tiers alone.
                launch.variables.clone_from(&self.provided.variables);
                if *tier == Tier::Pool {
                    // A former primary gets no writes after the next start either.
                    launch = launch.with(["--state"]).with([self.folder.path("pools")]);
                }
                launch.with(["--log", &self.log, "--log-format", "text"])
            }
            Does::Demo { words, uses } => self.demo(part, words, uses)?,
            Does::Issuer { issuer, audience } => {
                let launch = self.listening("issuer", part).with(["--keys"]);
                // The one that most stacks have needs no name of its own.
                let keys = match part.name.as_str() {
                    "issuer" => self.folder.path("keys"),
                    _ => self.folder.further_keys(issuer),
                };
                let launch = launch.with([keys]);
                launch.with(["--issuer", issuer, "--audience", audience])
            }
            Does::Primary(_) => {
                let postgres = self.postgres()?;
                postgres.make_primary(&part.name).await?;
                postgres.server(&part.name, part.address(), None)
            }
            Does::Replica { primary } => {
                let postgres = self.postgres()?;
                postgres.make_replica(&part.name, primary.port()).await?;
                postgres.server(&part.name, part.address(), Some(*primary))
            }
            Does::Redis => redis(part.address())?,
        })
    }

    /// What takes a while when a part starts for the first time.
    pub(crate) fn first_time(&self, part: &Part) -> Option<&'static str> {
        if self.postgres.as_ref().is_none_or(|postgres| postgres.is_made(&part.name)) {
            return None;
        }
        match &part.does {
            Does::Primary(_) => Some("a new PostgreSQL with initdb, this time only"),
            Does::Replica { .. } => Some("a replica with pg_basebackup, this time only"),
            _ => None,
        }
    }

    /// What remains to be done once the part answers.
    pub(crate) async fn finish(&self, part: &Part) -> anyhow::Result<()> {
        let Does::Primary(primary) = &part.does else { return Ok(()) };
        let secrets: Vec<(String, Option<String>)> = primary
            .roles
            .iter()
            .map(|role| {
                let known = self.provided.credentials.get(&role.name);
                (role.name.clone(), known.and_then(|known| known.secret.clone()))
            })
            .collect();
        self.postgres()?.fill(part.address().port(), primary, &secrets).await
    }

    fn demo(&self, part: &Part, words: &[String], uses: &[Use]) -> anyhow::Result<Launch> {
        let Some((program, more)) = words.split_first() else {
            bail!("`run: demo` names no program: write `run: demo user`");
        };
        let mut launch = self.listening(program, part).with(more);
        for used in uses {
            launch = launch.with(["--use".to_owned(), self.used(used)?]);
        }
        Ok(launch)
    }

    fn used(&self, used: &Use) -> anyhow::Result<String> {
        Ok(match &used.to {
            Reach::Http(address) => format!("{}=http://{address}", used.name),
            Reach::Sql { address, database, role } => {
                let (user, password) =
                    (escaped(&role.name), escaped(self.provided.password(&role.name)?));
                format!(
                    "{}=postgres://{user}:{password}@{address}/{}",
                    used.name,
                    escaped(database)
                )
            }
        })
    }

    fn listening(&self, program: &str, part: &Part) -> Launch {
        let address = part.address().to_string();
        let launch = Launch::new(self.programs.join("demo")).with([program]);
        launch.with(["--listen", address.as_str(), "--name", &part.name])
    }

    fn postgres(&self) -> anyhow::Result<&Postgres> {
        self.postgres.as_ref().context("invariant: a plan with a database has a PostgreSQL")
    }
}

/// The folder of this program, when all programs that the plan needs lie in it.
pub(crate) fn programs(plan: &Plan, own: &Path) -> anyhow::Result<PathBuf> {
    let folder = own.parent().context("this program lies in no folder")?;
    let mut missing: Vec<&str> = Vec::new();
    for part in &plan.parts {
        let name = match &part.does {
            Does::Tier(tier) => tier.binary(),
            Does::Demo { .. } | Does::Issuer { .. } => "demo",
            Does::Primary(_) | Does::Replica { .. } | Does::Redis => continue,
        };
        if !missing.contains(&name) && !folder.join(name).is_file() {
            missing.push(name);
        }
    }
    if missing.is_empty() {
        return Ok(folder.to_owned());
    }
    bail!(
        "{} not beside aqueduct in {}: build all programs with `cargo build --release --workspace \
         --bins`, or install them into one folder",
        match missing.as_slice() {
            [one] => format!("the program {one} is"),
            many => format!("the programs {} are", many.join(", ")),
        },
        folder.display()
    )
}

/// A Redis without persistence that only this machine reaches; never as root.
fn redis(at: SocketAddr) -> anyhow::Result<Launch> {
    let program = find_program("redis-server").or_else(|| find_program("valkey-server"));
    let program = program.context(
        "Redis is not on this machine. Install it with `apt-get install -y redis-server` (or your \
         system's like), or take `limit-store:` out of the topology file",
    )?;
    let mut launch = Launch::new(program).with(["--bind".to_owned(), at.ip().to_string()]);
    launch = launch.with(["--port".to_owned(), at.port().to_string()]);
    launch.user = unprivileged();
    Ok(launch.with(["--dir", "/", "--save", "", "--appendonly", "no", "--daemonize", "no"]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::up::source;

    /// O5: missing programs are named all at once, with the command that builds them.
    #[test]
    fn missing_programs_are_named() {
        let scratch = tempfile::tempdir().expect("a folder");
        let topology = topology::parse("stack.yaml", source::BUILT_IN, scratch.path());
        let plan = Plan::new(&topology.expect("valid")).expect("a plan");
        std::fs::write(scratch.path().join("demo"), "").expect("written");
        let refusal = programs(&plan, &scratch.path().join("aqueduct")).expect_err("missing");
        let text = refusal.to_string();
        assert!(text.contains("pgpool, l4-nlb, l7-gateway are not beside"), "{text}");
        assert!(text.contains("cargo build"), "{text}");
    }
}
