//! Small answers over kept connections, full handshakes, and latency at a fixed pace. Not for large
//! bodies.
//!
//! Invariant: the judge is the party's processor time per request, which neither a slow load nor a
//! busy machine distorts much.

use anyhow::{Result, ensure};

use super::{Case, Terms, in_turns};
use crate::figures::Better;
use crate::goals::Want;
use crate::l7::Goal;
use crate::l7::Sheet;
use crate::l7::client::Outcome;
use crate::l7::load::{ANY, BESIDE, Load};
use crate::l7::party::{Kind, Wanted};
use crate::l7::rig::{Rig, Running, client};

const HTTP: &str = "http, 64 connections";
const HTTPS: &str = "https, 64 connections";
const HTTP2: &str = "http/2 over tls, 8 x 16";
const SHAKES: &str = "full handshakes";
/// What one processor that does nothing else would carry.
const CAPACITY: &str = "per second of its processor";
const PACE: &str = "1000 req/s";
const PACE_TLS: &str = "1000 req/s over tls";

pub(super) fn goals(case: Case) -> Vec<Goal> {
    let of =
        |name: &str, figure: &str, want| Goal::new(&format!("{name}, 1 worker: {figure}"), want);
    match case {
        Case::Http => vec![
            of(HTTP, "cpu per request", Want::AtMostOf(Kind::Nginx, 0.95)),
            of(HTTP, "cpu per request", Want::AtMostOf(Kind::Nginx, 0.85)),
            of(HTTP, "cpu per request", Want::AtMostOf(Kind::Envoy, 0.45)),
        ],
        Case::Https => vec![
            of(HTTPS, CAPACITY, Want::AtLeastOf(Kind::Nginx, 1.1)),
            of(HTTPS, CAPACITY, Want::AtLeastOf(Kind::Nginx, 1.25)),
        ],
        Case::Handshakes => vec![
            of(SHAKES, CAPACITY, Want::AtLeastOf(Kind::Nginx, 2.0)),
            of(SHAKES, CAPACITY, Want::AtLeastOf(Kind::Envoy, 1.7)),
        ],
        Case::Http2 => vec![
            of(HTTP2, "cpu per request", Want::AtMostOf(Kind::Haproxy, 1.0)),
            of(HTTP2, "cpu per request", Want::AtMostOf(Kind::Envoy, 0.5)),
        ],
        Case::Pace => vec![
            Goal::new(&format!("{PACE}: p50"), Want::AtMostOver(Kind::Nginx, 10.0)),
            Goal::new(&format!("{PACE}: p50"), Want::AtMost(200.0)),
            Goal::new(&format!("{PACE}: p99"), Want::AtMost(500.0)),
        ],
        _ => Vec::new(),
    }
}

pub(super) fn http(rig: &Rig, terms: Terms, sheet: &mut Sheet) {
    kept(rig, terms, sheet, (HTTP, false), &Load::http1(64));
}

pub(super) fn https(rig: &Rig, terms: Terms, sheet: &mut Sheet) {
    kept(rig, terms, sheet, (HTTPS, true), &Load::http1(64));
}

pub(super) fn http2(rig: &Rig, terms: Terms, sheet: &mut Sheet) {
    kept(rig, terms, sheet, (HTTP2, true), &Load::http2(8, 16));
}

/// The settings of a case: with its name, who is asked for, and whether the load is pinned.
fn settings(name: &str, tls: bool, terms: Terms) -> Vec<(String, Wanted)> {
    let mut all = vec![(format!("{name}, 1 worker"), Wanted::pinned(tls))];
    if terms.free {
        all.push((format!("{name}, 2 workers"), Wanted::free(tls)));
    }
    all
}

fn kept(rig: &Rig, terms: Terms, sheet: &mut Sheet, (name, tls): (&str, bool), load: &Load) {
    for (name, wanted) in settings(name, tls, terms) {
        let processors = if wanted.pinned { BESIDE } else { ANY };
        let load = Load { processors, ..load.clone() };
        let parties = rig.start_all(&wanted, |kind| !tls || kind != Kind::Direct, sheet);
        for party in &parties {
            // So that the first round finds what the others find.
            if let Err(fault) = load.run(&party.url(load.path), 1) {
                sheet.notes.push(format!("{name}: warming up: {fault:#}"));
            }
        }
        in_turns(&name, &parties, terms.rounds, sheet, &mut |party, round, sheet| {
            turn(&name, &load, terms.seconds, party, round, sheet)
        });
    }
}

/// One run of load through one party.
pub(in crate::l7) fn turn(
    name: &str,
    load: &Load,
    seconds: u32,
    party: &Running,
    round: u32,
    sheet: &mut Sheet,
) -> Result<()> {
    let before = party.cpu();
    let run = load.run(&party.url(load.path), seconds)?;
    let cpu = (party.cpu() - before).as_secs_f64() * 1e6 / run.requests as f64;
    let mut note = |figure: &str, unit, better, value| {
        sheet.note((&format!("{name}: {figure}"), unit, better), party.kind, round, value);
    };
    if party.program.is_some() {
        note("cpu per request", "µs", Better::Low, cpu);
        note(CAPACITY, "", Better::High, 1e6 / cpu);
    }
    note("requests", "per s", Better::High, run.per_second);
    let middle = if load.streams == 0 { "p50" } else { "mean" };
    note(middle, "ms", Better::Low, run.p50_ms);
    if let Some(p99) = run.p99_ms {
        note("p99", "ms", Better::Low, p99);
    }
    Ok(())
}

pub(super) fn handshakes(rig: &Rig, terms: Terms, sheet: &mut Sheet) {
    let name = format!("{SHAKES}, 1 worker");
    let parties = rig.start_all(&Wanted::pinned(true), |kind| kind != Kind::Direct, sheet);
    in_turns(&name, &parties, terms.rounds, sheet, &mut |party, round, sheet| {
        let before = party.cpu();
        let millis = (terms.seconds * 1000).to_string();
        let arguments = ["client", "handshakes", "--to", &party.address, "--millis", &millis];
        let outcome: Outcome = client(&arguments)?;
        let cpu = (party.cpu() - before).as_secs_f64() * 1e6 / outcome.done.max(1) as f64;
        let mut note = |figure: &str, unit, better, value| {
            sheet.note((&format!("{name}: {figure}"), unit, better), party.kind, round, value);
        };
        answered(&outcome)?;
        note("cpu each", "µs", Better::Low, cpu);
        note(CAPACITY, "", Better::High, 1e6 / cpu);
        note("rate", "per s", Better::High, outcome.done as f64 / outcome.seconds);
        note("failed", "", Better::Low, outcome.failed as f64);
        Ok(())
    });
}

pub(super) fn pace(rig: &Rig, terms: Terms, sheet: &mut Sheet) {
    for (name, tls) in [(PACE, false), (PACE_TLS, true)] {
        let parties =
            rig.start_all(&Wanted::pinned(tls), |kind| !tls || kind != Kind::Direct, sheet);
        in_turns(name, &parties, terms.rounds, sheet, &mut |party, round, sheet| {
            let millis = (terms.seconds * 1000).to_string();
            let mut arguments = vec!["client", "pace", "--to", &party.address, "--millis", &millis];
            arguments.extend(tls.then_some("--tls"));
            let outcome: Outcome = client(&arguments)?;
            answered(&outcome)?;
            let mut note = |figure: &str, unit, value| {
                let name = format!("{name}: {figure}");
                sheet.note((&name, unit, Better::Low), party.kind, round, value);
            };
            note("p50", "µs", outcome.p50_us);
            note("p99", "µs", outcome.p99_us);
            note("failed", "", outcome.failed as f64);
            Ok(())
        });
    }
}

/// Refuses to make figures of failures.
pub(in crate::l7) fn answered(outcome: &Outcome) -> Result<()> {
    let fault = outcome.fault.as_deref().unwrap_or_default();
    let Outcome { done, failed, .. } = *outcome;
    ensure!(failed * 100 < done, "{failed} failed, {done} did not: {fault}");
    Ok(())
}
