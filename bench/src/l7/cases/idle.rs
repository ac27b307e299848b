//! Memory of connections that wait. Not for busy ones.
//!
//! Invariant: every connection that is counted was answered before, and is still open.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::{Terms, in_turns};
use crate::figures::Better;
use crate::goals::Want;
use crate::l4::clock::pause;
use crate::l7::Goal;
use crate::l7::Sheet;
use crate::l7::client::idle;
use crate::l7::party::{Kind, Wanted};
use crate::l7::rig::{Held, Rig, Running};

const HTTPS: &str = "memory of 5000 idle connections, https: each";
const HTTP2: &str = "memory of 5000 idle connections, http/2 over tls: each";
const COUNT: u32 = 5000;

pub(super) fn goals() -> Vec<Goal> {
    vec![Goal::new(HTTPS, Want::AtMost(15.0)), Goal::new(HTTPS, Want::AtMostOf(Kind::Nginx, 1.0))]
}

pub(super) fn idle(rig: &Rig, terms: Terms, sheet: &mut Sheet) {
    for (name, http2) in [(HTTPS, false), (HTTP2, true)] {
        for round in 0..terms.rounds {
            // Anew each round: what a party keeps of closed connections would hide new ones.
            let parties = rig.start_all(&Wanted::pinned(true), |it| it != Kind::Direct, sheet);
            in_turns(name, &parties, 1, sheet, &mut |party, _, sheet| {
                let each = each(party, http2)?;
                sheet.note((name, "KiB", Better::Low), party.kind, round, each);
                Ok(())
            });
        }
    }
}

fn each(party: &Running, http2: bool) -> Result<f64> {
    let count = COUNT.to_string();
    let mut arguments = vec!["client", "idle", "--to", &party.address, "--connections", &count];
    arguments.extend(http2.then_some("--http2"));
    let before = party.rss_kib();
    let mut held = Held::spawn(&arguments)?;
    let said: idle::Held = held.says()?;
    ensure!(said.held == COUNT, "{} of {COUNT} connections were answered", said.held);
    pause(Duration::from_secs(1));
    let after = party.rss_kib();
    held.end()?;
    Ok((after as f64 - before as f64) / f64::from(COUNT))
}
