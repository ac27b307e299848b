//! The whole of a gateway's work: HTTPS, a signed token, limits, a record of each request in a file.
//! Not for rivals that cannot verify tokens.
//!
//! Invariant: both parties verify the same token against the same keys, and remember that they did.

use std::fs;
use std::process::Command;

use anyhow::{Context as _, Result};

use super::speed::turn;
use super::{Terms, in_turns};
use crate::goals::Want;
use crate::l7::Goal;
use crate::l7::Sheet;
use crate::l7::load::Load;
use crate::l7::party::{Kind, Wanted};
use crate::l7::rig::{Rig, beside_party};
use crate::process::{Program, beside};

const ISSUER: &str = "127.0.77.1:17900";
const ALGORITHMS: [&str; 2] = ["ES256", "RS256"];

fn name(algorithm: &str, protocol: &str) -> String {
    format!("{protocol} + token ({algorithm}) + limits + log")
}

pub(super) fn goals() -> Vec<Goal> {
    let want = Want::AtMostOf(Kind::Envoy, 0.5);
    let goal = |algorithm: &str| {
        Goal::new(&format!("{}: cpu per request", name(algorithm, "https")), want)
    };
    ALGORITHMS.map(goal).into()
}

pub(super) fn policy(rig: &Rig, terms: Terms, sheet: &mut Sheet) {
    if let Err(fault) = measure(rig, terms, sheet) {
        sheet.notes.push(format!("policy: {fault:#}"));
    }
}

fn measure(rig: &Rig, terms: Terms, sheet: &mut Sheet) -> Result<()> {
    let shared = rig.shared();
    let issuer = beside("demo")?;
    let mut command = beside_party(&issuer.to_string_lossy());
    let keys = shared.with_file_name("keys");
    let command = command.args(["issuer", "--listen", ISSUER, "--keys"]).arg(keys);
    let _issuer = Program::start("issuer", command, &shared.with_file_name("issuer.log"), ISSUER)?;
    fs::write(shared.join("jwks.json"), curl(&[&format!("http://{ISSUER}/jwks.json")])?)?;
    let wanted = Wanted { policy: true, ..Wanted::pinned(true) };
    let able = |kind| matches!(kind, Kind::Gateway | Kind::Envoy);
    let parties = rig.start_all(&wanted, able, sheet);
    for algorithm in ALGORITHMS {
        let header = format!("Authorization: Bearer {}", token(algorithm)?);
        for (protocol, load) in [("https", Load::http1(64)), ("http/2", Load::http2(8, 16))] {
            let load = Load { headers: vec![header.clone()], ..load };
            let name = name(algorithm, protocol);
            in_turns(&name, &parties, terms.rounds, sheet, &mut |party, round, sheet| {
                turn(&name, &load, terms.seconds, party, round, sheet)
            });
        }
    }
    Ok(())
}

/// A token of the demo's issuer that is good for longer than the bench takes.
fn token(algorithm: &str) -> Result<String> {
    let wanted = format!(r#"{{"userId":98765,"scope":"user:read","alg":"{algorithm}"}}"#);
    let said = curl(&["-X", "POST", "-d", &wanted, &format!("http://{ISSUER}/token")])?;
    let answer: serde_json::Value = serde_json::from_slice(&said)?;
    Ok(answer["access_token"].as_str().context("the issuer gave no token")?.to_owned())
}

fn curl(arguments: &[&str]) -> Result<Vec<u8>> {
    let output = Command::new("curl").arg("-sf").args(arguments).output();
    Ok(output.context("curl is missing: apt-get install -y curl")?.stdout)
}
