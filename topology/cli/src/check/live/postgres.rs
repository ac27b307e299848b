//! Whether PostgreSQL lets the pooler in, which server is the primary, and how many connections it has. The
//! login is the pooler's own. Not for databases' contents. Called by `live`.
//!
//! Invariant: one connection per server and database, closed at once.

use pgpool::family::Said;
use pgpool::family::watch::who;
use pgpool::server::auth::Caught;
use pgpool::server::connect::{self, ConnectError, Ready};
use pgpool::snapshot::{Credential, Database, Snapshot, User};
use pgpool_wire::backend::{self, tag};
use pgpool_wire::frame::{self, Found};
use pgpool_wire::frontend;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use topology::pool::{Group, ServerAddress, Servers};
use topology::problem::Problem;
use topology::units::At;
use topology::{Place, Topology};

use super::{Trial, bounded, known, odd, wrong};

/// Of one group.
pub(super) fn trials<'t>(topology: &'t Topology, group: &'t Group, trials: &mut Vec<Trial<'t>>) {
    let Some(instance) = group.instances.first() else { return };
    let snapshot = match Snapshot::build(topology, instance.name.as_str(), None) {
        Ok((snapshot, ..)) => std::rc::Rc::new(snapshot),
        Err(error) => {
            let at = error.place().unwrap_or(group.place);
            let told = wrong(at, error.to_string(), "make the file or variable that it names");
            trials.push(Box::pin(async move { vec![told] }));
            return;
        }
    };
    for database in group.databases.iter().filter(|one| one.name.as_str() != "*") {
        let role = match &database.servers {
            Servers::Primary(_) => Role::Primary,
            Servers::Replicas(_) => Role::Replica,
        };
        let servers: Vec<&At<ServerAddress>> = match &database.servers {
            Servers::Primary(at) => vec![at],
            Servers::Replicas(all) => all.iter().collect(),
        };
        for at in servers.into_iter().chain(&database.also) {
            let (snapshot, name) = (std::rc::Rc::clone(&snapshot), database.name.as_str());
            let asked = Asked { at, role, wanted: wanted(group, at) };
            trials.push(Box::pin(async move { server(&snapshot, group, name, asked).await }));
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    Primary,
    Replica,
}

/// One server of one database.
struct Asked<'t> {
    at: &'t At<ServerAddress>,
    role: Role,
    /// Connections that all pools of it may make together.
    wanted: u64,
}

/// Connections that a server may get: of every database on it, for every user, from every instance.
fn wanted(group: &Group, server: &At<ServerAddress>) -> u64 {
    let users = (group.users.len() as u64).max(1);
    let sizes = group.databases.iter().filter(|database| match &database.servers {
        Servers::Primary(at) => at.value == server.value,
        Servers::Replicas(all) => all.iter().any(|at| at.value == server.value),
    });
    let bound = |most: u32| if most == 0 { u64::MAX } else { u64::from(most) };
    let sum: u64 = sizes
        .map(|database| {
            let users = if database.login.is_some() { 1 } else { users };
            let size = u64::from(database.pool_size.get()) * users;
            size.min(bound(
                database.terms.max_connections.unwrap_or(group.settings.max_db_connections),
            ))
        })
        .sum();
    sum * group.instances.len() as u64
}

async fn server(snapshot: &Snapshot, group: &Group, name: &str, asked: Asked<'_>) -> Vec<Problem> {
    let (address, place) = (&asked.at.value, asked.at.place);
    if let ServerAddress::Name(host, port) = address {
        let unknown = known(host, *port, place).await;
        if !unknown.is_empty() {
            return unknown;
        }
    }
    let Some(database) = snapshot.database(name) else { return Vec::new() };
    let users = group.users.iter().filter_map(|user| {
        snapshot.server_user(&database, snapshot.role(name, user.name.as_str()))
    });
    let Some(user) = users.into_iter().find(|user| can_log_in(user)) else {
        let reached = bounded(connect::dial(address.clone())).await;
        let hint = "start it, or correct its address";
        let told = |why| wrong(place, format!("{address} is not reached: {why}"), hint);
        return reached.err().map(told).into_iter().collect();
    };
    match bounded(log_in(&database, &user, address)).await {
        Ok(mut ready) => {
            let said = who(&mut ready.io).await;
            let most = bounded(most(&mut ready)).await.ok();
            judge(&asked, place, said, most)
        }
        Err(why) => {
            let hint = "start it, or correct its address, the role, its secret or pg_hba.conf";
            vec![wrong(place, format!("{address} does not let {} in: {why}", user.name), hint)]
        }
    }
}

/// Whether a password, or none, is enough; a verifier alone proves nothing to a server.
fn can_log_in(user: &User) -> bool {
    !matches!(user.credential, Credential::Scram(_)) || user.password().is_some()
}

async fn log_in(
    database: &Database,
    user: &User,
    address: &ServerAddress,
) -> Result<Ready, ConnectError> {
    let attempt = async |way| {
        let dialled = connect::dial(address.clone()).await?;
        let secured = database.security.secure(dialled, address, way).await?;
        connect::login(secured, database, user, &Caught::default()).await
    };
    database.security.try_ways(address, attempt).await
}

fn judge(asked: &Asked<'_>, place: Place, said: Option<Said>, most: Option<u64>) -> Vec<Problem> {
    let mut all = Vec::new();
    let address = &asked.at.value;
    match (asked.role, said.map(|said| said.recovers)) {
        (Role::Primary, Some(true)) => {
            let hint =
                "write the server that takes writes; pgpool would look for it among the replicas";
            all.push(odd(place, format!("{address} is a replica and named as the primary"), hint));
        }
        (Role::Replica, Some(false)) => {
            let hint = "make it follow the primary, or take it out";
            all.push(odd(place, format!("{address} is named as a replica and takes writes"), hint));
        }
        _ => {}
    }
    if let Some(most) = most.filter(|most| *most < asked.wanted) {
        let what = format!(
            "the pools may ask {address} for {} connections, and it has {most} (max_connections without those reserved)",
            asked.wanted
        );
        let hint =
            "lower pool-size, set max_db_connections, or raise max_connections of the server";
        all.push(odd(place, what, hint));
    }
    all
}

/// Connections that a server has for ordinary roles.
async fn most(ready: &mut Ready) -> Result<u64, String> {
    let row = ask(ready, MOST).await.ok_or("it does not say")?;
    row.first().and_then(|text| text.parse().ok()).ok_or_else(|| "it says no number".to_owned())
}

const MOST: &str = "SELECT pg_catalog.current_setting('max_connections')::int \
     - pg_catalog.current_setting('superuser_reserved_connections')::int";

/// The first row of a query's answer.
async fn ask(ready: &mut Ready, sql: &str) -> Option<Vec<String>> {
    let mut out = Vec::new();
    frontend::put_query(&mut out, sql.as_bytes());
    ready.io.write_all(&out).await.ok()?;
    let (mut input, mut first) = (Vec::new(), None);
    loop {
        while let Found::Whole(frame) = frame::next(&input, LONGEST).ok()? {
            match frame.tag {
                tag::DATA_ROW if first.is_none() => first = Some(backend::row(frame.body).ok()?),
                tag::READY => return first,
                _ => {}
            }
            let used = frame.raw.len();
            input.drain(..used);
        }
        if ready.io.read_buf(&mut input).await.ok()? == 0 {
            return None;
        }
    }
}

/// More than any answer has.
const LONGEST: u32 = 64 * 1024;

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// T4: pools are summed over databases, users and instances, as far as each is bounded.
    #[test]
    fn wants_are_summed() {
        let text = "aqueduct: 1\npools:\n  data:\n    instances: { a: { listen: 127.0.0.1:1 }, b: { listen: 127.0.0.1:2 } }\n    \
                    settings: { max_db_connections: 50 }\n    databases:\n      x: { primary: 10.0.0.1:5432, pool-size: 20 }\n      \
                    y: { primary: 10.0.0.1:5432, pool-size: 40 }\n      z: { primary: 10.0.0.2:5432 }\n    \
                    users: { u: { secret: env:U }, v: { secret: env:V } }\n";
        let topology = topology::parse("a.yaml", text, std::path::Path::new("/")).expect("valid");
        let group = topology.pools.first().expect("one");
        let wants: BTreeMap<&str, u64> = group
            .databases
            .iter()
            .filter_map(|database| match &database.servers {
                Servers::Primary(at) => Some((database.name.as_str(), wanted(group, at))),
                Servers::Replicas(_) => None,
            })
            .collect();
        assert_eq!(wants, BTreeMap::from([("x", 180), ("y", 180), ("z", 80)]));
    }
}
