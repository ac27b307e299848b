//! A hundred reloads in a minute under load: what clients feel, and what memory is left. Not for the
//! speed of a reload.
//!
//! Invariant: each reload changes something, so that no party can take it for none.

use std::time::Duration;

use anyhow::{Context as _, Result};

use super::{Terms, in_turns};
use crate::figures::{Better, Column as _};
use crate::goals::Want;
use crate::l4::clock::{now, pause};
use crate::l7::Goal;
use crate::l7::Sheet;
use crate::l7::client::mixed::{All, Found};
use crate::l7::party::{Kind, Wanted};
use crate::l7::rig::{ECHO, Held, Rig, Running};

const COUNT: u32 = 100;
const APART: Duration = Duration::from_millis(600);

fn name(figure: &str) -> String {
    format!("100 reloads in 60 s: {figure}")
}

pub(super) fn goals() -> Vec<Goal> {
    let none = |figure: &str| Goal::new(&name(figure), Want::AtMost(0.0));
    let mut all = Vec::new();
    for kind in ["kept", "new", "http/2", "websocket"] {
        all.push(none(&format!("{kind}, hard failures")));
        all.push(none(&format!("{kind}, races")));
    }
    all
}

pub(super) fn reloads(rig: &Rig, _: Terms, sheet: &mut Sheet) {
    let wanted = Wanted { service: ECHO, ..Wanted::free(true) };
    let _echo = match rig.echo() {
        Ok(echo) => echo,
        Err(fault) => return sheet.notes.push(format!("{fault:#}")),
    };
    let able = |kind| !matches!(kind, Kind::Direct | Kind::Caddy);
    let parties = rig.start_all(&wanted, able, sheet);
    in_turns("reloads", &parties, 1, sheet, &mut |party, round, sheet| {
        let mut note = |figure: &str, unit, value| {
            sheet.note((&name(figure), unit, Better::Low), party.kind, round, value);
        };
        let (found, memory) = under_load(party)?;
        for (kind, found) in [
            ("kept", &found.kept),
            ("new", &found.new),
            ("http/2", &found.http2),
            ("websocket", &found.websocket),
        ] {
            let Found { requests, hard, races, .. } = *found;
            note(&format!("{kind}, requests"), "", requests as f64);
            note(&format!("{kind}, hard failures"), "", hard as f64);
            note(&format!("{kind}, races"), "", races as f64);
        }
        for (when, kib) in ["after 10", "after 100", "10 s later"].iter().zip(memory) {
            note(&format!("memory {when}"), "MiB", kib as f64 / 1024.0);
        }
        for found in [found.kept, found.new, found.http2, found.websocket] {
            if let Some(fault) = found.fault {
                sheet.notes.push(format!("reloads: {}: {fault}", party.kind.name()));
            }
        }
        Ok(())
    });
}

fn under_load(party: &Running) -> Result<(All, [u64; 3])> {
    let mut load = Held::spawn(&["client", "mixed", "--to", &party.address])?;
    let begin = now();
    let (mut early, program) = (0, party.program.as_ref().context("it has no processes")?);
    for number in 1..=COUNT {
        let due = begin + APART.as_nanos() as u64 * u64::from(number);
        pause(Duration::from_nanos(due.saturating_sub(now())));
        // One route or another name more, or one less.
        let wanted = Wanted { turn: number % 2, ..party.wanted.clone() };
        party.kind.configure(&party.folder, &wanted)?;
        if let Some(signal) = party.kind.reloaded_by() {
            program.signal(signal)?;
        }
        if number == 10 {
            early = party.rss_kib();
        }
    }
    let late = party.rss_kib();
    let found = load.says()?;
    load.end()?;
    pause(Duration::from_secs(10));
    Ok((found, [early, late, party.rss_kib()]))
}
