//! What the number of routes costs per request. Not for rivals: each has its own idea of a route.
//!
//! Invariant: tables of every size are asked for the same kinds of paths, in the same turn.

use std::fs;

use anyhow::Result;

use super::Terms;
use crate::figures::Better;
use crate::goals::Want;
use crate::l7::Goal;
use crate::l7::Sheet;
use crate::l7::load::Load;
use crate::l7::party::{Kind, Wanted, route_path};
use crate::l7::rig::Rig;
use crate::progress;

const SIZES: [usize; 4] = [10, 50, 500, 5000];
const CURVE: &str = "cpu per request, 5000 routes by 50";

pub(super) fn goals() -> Vec<Goal> {
    vec![Goal::new(CURVE, Want::AtMost(1.05))]
}

pub(super) fn routes(rig: &Rig, terms: Terms, sheet: &mut Sheet) {
    if !rig.kinds().contains(&Kind::Gateway) {
        return;
    }
    for round in 0..terms.rounds {
        let mut all = Vec::new();
        for count in SIZES {
            progress(&format!("{count} routes: round {} of {}", round + 1, terms.rounds));
            match cost(rig, terms, count) {
                Ok(cpu) => {
                    let name = format!("{count} routes: cpu per request");
                    sheet.note((&name, "µs", Better::Low), Kind::Gateway, round, cpu);
                    all.push(cpu);
                }
                Err(fault) => sheet.notes.push(format!("{count} routes: {fault:#}")),
            }
        }
        if let [_, few, _, many] = all[..] {
            sheet.note((CURVE, "", Better::Low), Kind::Gateway, round, many / few);
        }
    }
}

/// Processor time per request with so many routes, asked for the last of each kind, in µs.
fn cost(rig: &Rig, terms: Terms, count: usize) -> Result<f64> {
    let wanted = Wanted { routes: count, ..Wanted::pinned(false) };
    let party = rig.start(Kind::Gateway, &wanted)?;
    let paths: Vec<_> = (count - 8..count).map(|number| asked(&route_path(number))).collect();
    let script = party.folder.join("paths.lua");
    fs::write(&script, format!("{SCRIPT}local paths = {{{}}}\n", paths.join(", ")) + TURN)?;
    let load = Load { script: Some(script), ..Load::http1(64) };
    load.run(&party.url("/"), 1)?;
    let before = party.cpu();
    let run = load.run(&party.url("/"), terms.seconds)?;
    Ok((party.cpu() - before).as_secs_f64() * 1e6 / run.requests as f64)
}

const SCRIPT: &str = "-- One after the other.\nlocal turn = 0\n";
const TURN: &str = "request = function()\n  turn = turn % #paths + 1\n  return wrk.format('GET', paths[turn])\nend\n";

/// A path that a pattern matches, as Lua writes it.
fn asked(pattern: &str) -> String {
    format!("'{}'", pattern.replace("{id}", "77").replace('*', "a/b"))
}
