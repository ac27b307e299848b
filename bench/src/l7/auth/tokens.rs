//! Speed of the whole of a gateway's work: HTTPS, a signed token, two limits, a record of each request in
//! a file; beside Envoy, which does the same, and nginx, which only passes on. Not for what instances
//! share.
//!
//! Invariant: the judge is the party's processor time per request.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;
use jsonwebtoken::Algorithm;

use super::Case;
use super::issuer::{ALGORITHMS, Issuer};
use crate::figures::Better;
use crate::goals::Want;
use crate::l7::Goal;
use crate::l7::Sheet;
use crate::l7::cases::speed::turn;
use crate::l7::cases::{Terms, in_turns};
use crate::l7::load::Load;
use crate::l7::party::{Kind, Wanted};
use crate::l7::rig::{Rig, Running};
use crate::progress;

/// More than a worker of ours or of Envoy remembers, so that asking for them in turn finds none.
const TOKENS: usize = 20_000;

const COST: &str = "policy over the bare proxy: cpu per request";

fn name(algorithm: Algorithm, protocol: &str) -> String {
    format!("{protocol} + token ({algorithm:?}) + limits + log")
}

fn new_name(algorithm: Algorithm) -> String {
    format!("https + token ({algorithm:?}), each once, + limits + log")
}

/// Envoy's work 1.7 and 2 times as fast, 1.4 times with RS256 and 1.3 with ES256 where every token is new.
pub(super) fn goals(case: Case) -> Vec<Goal> {
    let goal = |name: &str, want| Goal::new(&format!("{name}: cpu per request"), want);
    match case {
        Case::Tokens => ALGORITHMS
            .into_iter()
            .flat_map(|algorithm| {
                let name = name(algorithm, "https");
                [
                    goal(&name, Want::AtMostOf(Kind::Envoy, 0.588)),
                    goal(&name, Want::AtMostOf(Kind::Envoy, 0.5)),
                    goal(&name, Want::AtMostOf(Kind::Nginx, 1.0)),
                ]
            })
            .collect(),
        Case::NewTokens => vec![
            goal(&new_name(Algorithm::RS256), Want::AtMostOf(Kind::Envoy, 0.714)),
            goal(&new_name(Algorithm::ES256), Want::AtMostOf(Kind::Envoy, 0.769)),
        ],
        Case::Cost => vec![Goal::new(COST, Want::AtMost(5.0))],
        _ => Vec::new(),
    }
}

fn able(kind: Kind) -> bool {
    matches!(kind, Kind::Gateway | Kind::Envoy | Kind::Nginx)
}

fn issuer(rig: &Rig) -> Result<Issuer> {
    Issuer::new("https://id.example", &rig.shared().join("jwks.json"))
}

fn bearer(issuer: &Issuer, algorithm: Algorithm, load: Load) -> Result<Load> {
    let (token, _) = issuer.token(algorithm)?;
    Ok(Load { headers: vec![format!("Authorization: Bearer {token}")], ..load })
}

pub(super) fn kept(rig: &Rig, terms: Terms, sheet: &mut Sheet) -> Result<()> {
    let issuer = issuer(rig)?;
    let wanted = Wanted { policy: true, ..Wanted::pinned(true) };
    let parties = rig.start_all(&wanted, able, sheet);
    for algorithm in ALGORITHMS {
        for (protocol, load) in [("https", Load::http1(64)), ("http/2", Load::http2(8, 16))] {
            let load = bearer(&issuer, algorithm, load)?;
            let name = name(algorithm, protocol);
            in_turns(&name, &parties, terms.rounds, sheet, &mut |party, round, sheet| {
                turn(&name, &load, terms.seconds, party, round, sheet)
            });
        }
    }
    Ok(())
}

pub(super) fn new(rig: &Rig, terms: Terms, sheet: &mut Sheet) -> Result<()> {
    let issuer = issuer(rig)?;
    let wanted = Wanted { policy: true, ..Wanted::pinned(true) };
    let parties = rig.start_all(&wanted, able, sheet);
    for algorithm in ALGORITHMS {
        let name = new_name(algorithm);
        progress(&format!("{name}: signing"));
        let script = Some(script(&issuer, algorithm, &rig.shared())?);
        let load = Load { script, ..Load::http1(64) };
        in_turns(&name, &parties, terms.rounds, sheet, &mut |party, round, sheet| {
            turn(&name, &load, terms.seconds, party, round, sheet)
        });
    }
    Ok(())
}

/// Tokens, and what tells wrk to show another one with each request.
fn script(issuer: &Issuer, algorithm: Algorithm, shared: &Path) -> Result<PathBuf> {
    let mut tokens = String::new();
    for _ in 0..TOKENS {
        tokens += &issuer.token(algorithm)?.0;
        tokens.push('\n');
    }
    let list = shared.with_file_name(format!("tokens-{algorithm:?}"));
    fs::write(&list, tokens)?;
    let text = include_str!("../../../rivals/l7/tokens.lua")
        .replace("TOKENS", &list.to_string_lossy())
        .replace("PATH", Load::http1(1).path);
    let script = list.with_extension("lua");
    fs::write(&script, text)?;
    Ok(script)
}

pub(super) fn cost(rig: &Rig, terms: Terms, sheet: &mut Sheet) -> Result<()> {
    let issuer = issuer(rig)?;
    let able = |kind| matches!(kind, Kind::Gateway | Kind::Envoy);
    let policed = Wanted { policy: true, ..Wanted::pinned(true) };
    let bare = Wanted { place: 1, ..Wanted::pinned(true) };
    let with = rig.start_all(&policed, able, sheet);
    let without = rig.start_all(&bare, able, sheet);
    let load = bearer(&issuer, Algorithm::ES256, Load::http1(64))?;
    in_turns(COST, &with, terms.rounds, sheet, &mut |party, round, sheet| {
        let Some(bare) = without.iter().find(|bare| bare.kind == party.kind) else { return Ok(()) };
        let spent = |party: &Running| {
            let before = party.cpu();
            let run = load.run(&party.url(load.path), terms.seconds)?;
            Ok::<_, anyhow::Error>((party.cpu() - before).as_secs_f64() * 1e6 / run.requests as f64)
        };
        // By turns the one or the other first.
        let (with, without) = if round % 2 == 0 {
            (spent(party)?, spent(bare)?)
        } else {
            let without = spent(bare)?;
            (spent(party)?, without)
        };
        sheet.note((COST, "µs", Better::Low), party.kind, round, with - without);
        let share = "policy over the bare proxy: part of the whole";
        sheet.note((share, "%", Better::Low), party.kind, round, 100.0 * (1.0 - without / with));
        Ok(())
    });
    Ok(())
}
