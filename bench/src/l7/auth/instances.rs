//! Several gateways at a time: how soon both refuse what was revoked, and what a surge before one does to
//! the other. Not for rivals: none of them has a list of revoked tokens.
//!
//! Invariant: a time to the first refusal counts from before `aqueduct revoke` is started.

use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::Case;
use super::issuer::{ALGORITHMS, Issuer};
use super::parts::{Own, REDIS, redis};
use crate::figures::Better;
use crate::goals::Want;
use crate::l4::clock::{now, pause};
use crate::l7::Goal;
use crate::l7::Sheet;
use crate::l7::cases::Terms;
use crate::l7::cases::speed::answered;
use crate::l7::client::{Outcome, ask, request};
use crate::l7::load::Load;
use crate::l7::party::{Kind, SERVICE};
use crate::l7::rig::{Rig, client};
use crate::process::beside;
use crate::progress;

const REFUSED: &str = "revocation: the last of two instances refuses";
const RATIO: &str = "drivers' p99 while riders surge, by p99 in peace";
const DRIVERS: &str = "127.0.77.31:18080";
const RIDERS: &str = "127.0.77.30:18080";

pub(super) fn goals(case: Case) -> Vec<Goal> {
    match case {
        Case::Revocation => vec![Goal::new(REFUSED, Want::AtMost(1000.0))],
        Case::Surge => vec![Goal::new(RATIO, Want::AtMost(1.2))],
        _ => Vec::new(),
    }
}

pub(super) fn revocation(rig: &Rig, terms: Terms, sheet: &mut Sheet) -> Result<()> {
    let aqueduct = beside("aqueduct")?;
    let issuer = Issuer::new("https://id.example", &rig.shared().join("jwks.json"))?;
    let _redis = redis(rig)?;
    let topology = format!(
        "aqueduct: 1
services:
  user: {{ endpoints: [{SERVICE}] }}
gateways:
  app:
    instances: {{ gw-1: {{ listen: {RIDERS} }}, gw-2: {{ listen: {DRIVERS} }} }}
    access-log: off
    issuers:
      app: {{ issuer: \"https://id.example\", audience: api, jwks: file:jwks.json, algorithms: [ES256] }}
    denylist: {{ redis: \"redis://{REDIS}\" }}
    defaults: {{ auth: app }}
    routes:
      - {{ path: /*, to: user }}
"
    );
    let one = Own { instance: "gw-1", listen: RIDERS.parse()?, processor: "0" };
    let two = Own { instance: "gw-2", listen: DRIVERS.parse()?, processor: "0" };
    let _programs = [one.start(rig, &topology)?, two.start(rig, &topology)?];
    for round in 0..terms.rounds {
        progress(&format!("revocation: round {} of {}", round + 1, terms.rounds));
        let (token, jti) = issuer.token(ALGORITHMS[0])?;
        let watch = |own: &Own<'_>| {
            let (mut stream, request) = (own.connect()?, request(own.listen, Some(&token)));
            // Remembered as verified by then, and the denylist is there.
            until(200, || ask(&mut stream, request.as_bytes()))?;
            Ok::<_, anyhow::Error>(thread::spawn(move || {
                until(401, || ask(&mut stream, request.as_bytes()))
            }))
        };
        let watching = [watch(&one)?, watch(&two)?];
        let begun = now();
        let url = format!("redis://{REDIS}");
        let words = ["revoke", "--redis", &url, "--iss", "https://id.example", "--jti", &jti];
        let status = Command::new(&aqueduct).args(words).status()?;
        let told = now();
        ensure!(status.success(), "aqueduct revoke ended with {status}");
        let mut refused = begun;
        for watching in watching {
            let at = watching.join().ok().context("a thread ended in a panic")??;
            refused = refused.max(at);
        }
        let mut note = |figure: &str, nanos: u64| {
            let millis = nanos as f64 / 1e6;
            sheet.note((figure, "ms", Better::Low), Kind::Gateway, round, millis);
        };
        note(REFUSED, refused - begun);
        note("revocation: of that, `aqueduct revoke` itself", told - begun);
    }
    Ok(())
}

/// Asks again and again until it is told this; when that was.
fn until(status: u16, mut asked: impl FnMut() -> Result<u16>) -> Result<u64> {
    let end = now() + 10_000_000_000;
    loop {
        let told = asked()?;
        let at = now();
        if told == status {
            return Ok(at);
        }
        ensure!(at < end, "still {told} and not {status} after 10 s");
        pause(Duration::from_micros(200));
    }
}

/// Riders have the first processor with their gateway, drivers the second: each group has machines of its
/// own, and what is looked for is what they share in spite of that.
pub(super) fn surge(rig: &Rig, terms: Terms, sheet: &mut Sheet) -> Result<()> {
    let riders = Issuer::new("https://riders.example", &rig.shared().join("riders.json"))?;
    let drivers = Issuer::new("https://drivers.example", &rig.shared().join("drivers.json"))?;
    let group = |name: &str, listen: &str| {
        format!(
            "  {name}:
    instances: {{ gw-{name}: {{ listen: {listen} }} }}
    access-log: file:{name}.ndjson
    issuers:
      {name}: {{ issuer: \"https://{name}.example\", audience: api, jwks: file:{name}.json, algorithms: [ES256] }}
    limits:
      user: {{ by: user, rate: 2000/s }}
      total: {{ by: all, rate: 2000/s }}
    defaults: {{ auth: {name}, limits: [total, user] }}
    routes:
      - {{ path: /*, to: user }}
"
        )
    };
    let topology = format!(
        "aqueduct: 1\nservices:\n  user: {{ endpoints: [{SERVICE}] }}\ngateways:\n{}{}",
        group("riders", RIDERS),
        group("drivers", DRIVERS)
    );
    let riding = Own { instance: "gw-riders", listen: RIDERS.parse()?, processor: "0" };
    let driving = Own { instance: "gw-drivers", listen: DRIVERS.parse()?, processor: "1" };
    let _programs = [riding.start(rig, &topology)?, driving.start(rig, &topology)?];
    let rider = riders.token(ALGORITHMS[0])?.0;
    let driver = drivers.token(ALGORITHMS[0])?.0;
    let foreign = ask(&mut driving.connect()?, request(driving.listen, Some(&rider)).as_bytes())?;
    ensure!(foreign == 401, "a rider's token is {foreign} before the drivers' gateway");
    for round in 0..terms.rounds {
        progress(&format!("surge: round {} of {}", round + 1, terms.rounds));
        let peace = drive(&driver, terms)?;
        let load = Load {
            headers: vec![format!("Authorization: Bearer {rider}")],
            processors: "0",
            ..Load::http1(64)
        };
        let url = riding.url(load.path);
        let seconds = terms.seconds + 2;
        let surging = thread::spawn(move || load.run_anyway(&url, seconds));
        pause(Duration::from_secs(1));
        let driven = drive(&driver, terms);
        let surge = surging.join().ok().context("a thread ended in a panic")??;
        let driven = driven?;
        let mut note = |figure: &str, unit, value| {
            sheet.note((figure, unit, Better::Low), Kind::Gateway, round, value);
        };
        note(RATIO, "", driven.p99_us / peace.p99_us);
        note("drivers' p99 in peace", "µs", peace.p99_us);
        note("drivers' p99 while riders surge", "µs", driven.p99_us);
        note("drivers' failures while riders surge", "", driven.failed as f64);
        let share = 100.0 * surge.refused as f64 / surge.requests as f64;
        note("riders' requests", "per s", surge.per_second);
        note("riders refused", "%", share);
    }
    Ok(())
}

fn drive(token: &str, terms: Terms) -> Result<Outcome> {
    let millis = (terms.seconds * 1000).to_string();
    let words = ["client", "pace", "--to", DRIVERS, "--millis", &millis, "--token", token];
    let outcome: Outcome = client(&words)?;
    answered(&outcome)?;
    Ok(outcome)
}
