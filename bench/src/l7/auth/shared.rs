//! Limits: what sharing them through Redis adds to a request, and how much memory a million keys take
//! in a gateway. Not for how exact they are: tests say that.
//!
//! Invariant: what is counted at Redis was asked for by the load of the same run.

use std::fs;
use std::net::SocketAddr;

use anyhow::{Result, ensure};

use super::Case;
use super::issuer::{ALGORITHMS, Issuer};
use super::parts::{self, Own, REDIS, commands};
use crate::figures::Better;
use crate::goals::Want;
use crate::l7::Goal;
use crate::l7::Sheet;
use crate::l7::cases::Terms;
use crate::l7::cases::speed::answered;
use crate::l7::client::{Outcome, ask, request};
use crate::l7::load::Load;
use crate::l7::party::{Kind, SERVICE};
use crate::l7::rig::{Rig, client};
use crate::progress;

const TRIPS: &str = "limits in redis: scripts per request";
const MEMORY: &str = "memory of a million limit keys";
const KEYS: u64 = 1_000_000;
const LOCAL: &str = "127.0.77.32:18080";
const SHARED: &str = "127.0.77.33:18080";

pub(super) fn goals(case: Case) -> Vec<Goal> {
    match case {
        // wrk ends with requests under way that Redis has counted; a second script would be another 1.
        Case::Redis => vec![Goal::new(TRIPS, Want::AtMost(1.05))],
        Case::Keys => vec![Goal::new(MEMORY, Want::AtMost(64.0))],
        _ => Vec::new(),
    }
}

pub(super) fn redis(rig: &Rig, terms: Terms, sheet: &mut Sheet) -> Result<()> {
    let issuer = Issuer::new("https://id.example", &rig.shared().join("jwks.json"))?;
    let _redis = parts::redis(rig)?;
    let topology = |name: &str, listen: &str, store: &str| {
        format!(
            "aqueduct: 1
services:
  user: {{ endpoints: [{SERVICE}] }}
gateways:
  app:
    instances: {{ {name}: {{ listen: {listen} }} }}
    access-log: off
    issuers:
      app: {{ issuer: \"https://id.example\", audience: api, jwks: file:jwks.json, algorithms: [ES256] }}
    limits:
      user: {{ by: user, rate: 4000000/s }}
      total: {{ by: all, rate: 4000000/s }}
{store}    defaults: {{ auth: app, limits: [total, user] }}
    routes:
      - {{ path: /*, to: user }}
"
        )
    };
    let store =
        format!("    limit-store: {{ redis: \"redis://{REDIS}\", when-away: fail-closed }}\n");
    let own = |instance, listen: &str| {
        Ok::<_, anyhow::Error>(Own { instance, listen: listen.parse()?, processor: "0" })
    };
    let (local, shared) = (own("gw-local", LOCAL)?, own("gw-shared", SHARED)?);
    let programs = [
        local.start(rig, &topology("gw-local", LOCAL, ""))?,
        shared.start(rig, &topology("gw-shared", SHARED, &store))?,
    ];
    let token = issuer.token(ALGORITHMS[0])?.0;
    let headers = vec![format!("Authorization: Bearer {token}")];
    let load = Load { headers, ..Load::http1(64) };
    let asked = ask(&mut shared.connect()?, request(shared.listen, Some(&token)).as_bytes())?;
    ensure!(asked == 200, "status {asked} with limits in Redis");
    for round in 0..terms.rounds {
        progress(&format!("redis: round {} of {}", round + 1, terms.rounds));
        for (own, program, name) in [
            (&local, &programs[0], "limits in process"),
            (&shared, &programs[1], "limits in redis"),
        ] {
            let mut note = |figure: &str, unit, value| {
                let figure = format!("{name}: {figure}");
                sheet.note((&figure, unit, Better::Low), Kind::Gateway, round, value);
            };
            let (cpu, scripts) = (program.cpu(), commands(&["eval", "evalsha", "script"])?);
            let run = load.run(&own.url(load.path), terms.seconds)?;
            let requests = run.requests as f64;
            let cpu = (program.cpu() - cpu).as_secs_f64() * 1e6 / requests;
            let scripts = commands(&["eval", "evalsha", "script"])? - scripts;
            note("cpu per request", "µs", cpu);
            note("scripts per request", "", scripts as f64 / requests);
            note("p50 at 1000 req/s", "µs", pace(own.listen, &token, terms)?.p50_us);
        }
    }
    Ok(())
}

fn pace(to: SocketAddr, token: &str, terms: Terms) -> Result<Outcome> {
    let (to, millis) = (to.to_string(), (terms.seconds * 1000).to_string());
    let words = ["client", "pace", "--to", &to, "--millis", &millis, "--token", token];
    let outcome: Outcome = client(&words)?;
    answered(&outcome)?;
    Ok(outcome)
}

/// A million addresses that a trusted proxy names, each with a bucket that is not full again soon.
pub(super) fn keys(rig: &Rig, sheet: &mut Sheet) -> Result<()> {
    let topology = format!(
        "aqueduct: 1
services:
  user: {{ endpoints: [{SERVICE}] }}
gateways:
  app:
    instances: {{ gw-keys: {{ listen: {LOCAL} }} }}
    access-log: off
    trust-forwarded-for: {{ from: [127.0.0.0/8] }}
    limits:
      address: {{ by: address, rate: 100/d }}
    defaults: {{ limits: [address] }}
    routes:
      - {{ path: /*, to: user }}
"
    );
    let own = Own { instance: "gw-keys", listen: LOCAL.parse()?, processor: "0" };
    let program = own.start(rig, &topology)?;
    let script = rig.shared().with_file_name("addresses.lua");
    fs::write(&script, include_str!("../../../rivals/l7/addresses.lua"))?;
    let script = Some(script);
    // The same load on one address first: connections and buffers are there afterwards.
    Load::http1(16).run_anyway(&own.url("/"), 1)?;
    let before = program.rss_kib();
    let load = Load { script, ..Load::http1(16) };
    progress("keys: how fast");
    let rate = load.run(&own.url(load.path), 2)?.per_second;
    // wrk begins with the first address again, so one run it must be.
    let seconds = (KEYS as f64 * 1.15 / rate).ceil().min(300.0);
    progress(&format!("keys: {seconds} s"));
    let asked = load.run(&own.url(load.path), seconds as u32)?.requests;
    ensure!(asked >= KEYS, "{asked} keys only in {seconds} s");
    let grown = (program.rss_kib() - before) as f64 / 1024.0;
    let each = grown * KEYS as f64 / asked as f64;
    sheet.note((MEMORY, "MiB", Better::Low), Kind::Gateway, 0, each);
    Ok(())
}
