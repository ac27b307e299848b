//! One hostile HTTP/2 connection: what it costs the party, and what it does to another client. Not
//! for floods of connections: tier 1 bounds those.
//!
//! Invariant: what an attack costs is measured without other clients, what it does to them with some.

use std::time::Duration;

use anyhow::Result;
use clap::ValueEnum as _;

use super::{Terms, in_turns};
use crate::figures::Better;
use crate::goals::Want;
use crate::l4::clock::pause;
use crate::l7::Goal;
use crate::l7::Sheet;
use crate::l7::client::Outcome;
use crate::l7::client::flood::{Attack, Cost};
use crate::l7::party::{Kind, Wanted};
use crate::l7::rig::{Held, Rig, Running, client};

const MILLIS: &str = "2500";
/// An attack that is cut is made so many times, as one is too short to be measured.
const TIMES: u32 = 5;
/// Seconds of a processor that can be told from none.
const LEAST: f64 = 50e-6;

fn name(attack: Attack) -> String {
    format!("flood, {}", word(attack))
}

fn word(attack: Attack) -> String {
    attack.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
}

pub(super) fn goals() -> Vec<Goal> {
    let cost = format!(
        "{}: cpu of the party by the attacker's, beyond a handshake",
        name(Attack::RapidReset)
    );
    let mut all = vec![Goal::new(&cost, Want::AtMost(1.0))];
    let failed = |attack| Goal::new(&format!("{}: others failed", name(attack)), Want::AtMost(0.0));
    all.extend(attacks().map(failed));
    all
}

fn attacks() -> impl Iterator<Item = Attack> {
    let all = Attack::value_variants().iter().copied();
    all.filter(|attack| *attack != Attack::Nothing)
}

pub(super) fn floods(rig: &Rig, terms: Terms, sheet: &mut Sheet) {
    let rounds = terms.rounds.min(2);
    let parties = rig.start_all(&Wanted::pinned(true), |kind| kind != Kind::Direct, sheet);
    in_turns("quiet", &parties, rounds, sheet, &mut |party, round, sheet| {
        let quiet: Outcome = client(&others(party))?;
        let name = "no flood: others' p99";
        sheet.note((name, "ms", Better::Low), party.kind, round, quiet.p99_us / 1e3);
        Ok(())
    });
    for attack in attacks() {
        let name = name(attack);
        in_turns(&name, &parties, rounds, sheet, &mut |party, round, sheet| {
            let mut note = |figure: &str, unit, value| {
                let name = format!("{name}: {figure}");
                sheet.note((&name, unit, Better::Low), party.kind, round, value);
            };
            let (lawful, own) = alone(party, Attack::Nothing)?;
            let (cost, cpu) = alone(party, attack)?;
            // A handshake costs every server more than its client, attack or not.
            let beyond = (cpu - own).max(0.0) / (cost.cpu - lawful.cpu).max(LEAST);
            note("cpu of the party by the attacker's, beyond a handshake", "", beyond);
            note("cpu of the party", "ms", cpu * 1e3);
            // The whole time: it was not cut.
            note("cut after", "ms", cost.cut_ms.unwrap_or(MILLIS.parse()?));
            let others = among_others(party, attack)?;
            note("others' p99", "ms", others.p99_us / 1e3);
            note("others failed", "", others.failed as f64);
            Ok(())
        });
    }
}

/// An attack with nobody else there, and the party's seconds of a processor.
fn alone(party: &Running, attack: Attack) -> Result<(Cost, f64)> {
    let (mut all, mut spent, mut times) = (Cost::default(), 0.0, 0);
    while times < TIMES {
        let (cost, cpu) = once(party, attack)?;
        times += 1;
        spent += cpu;
        all = Cost { cpu: all.cpu + cost.cpu, ..cost };
        if all.cut_ms.is_none_or(|cut| cut > 500.0) {
            break;
        }
    }
    all.cpu /= f64::from(times);
    Ok((all, spent / f64::from(times)))
}

fn once(party: &Running, attack: Attack) -> Result<(Cost, f64)> {
    let mut attacker = attacker(party, attack)?;
    // The lawful connection before it is over by then.
    pause(Duration::from_millis(50));
    let before = party.cpu();
    attacker.release();
    let cost = attacker.says()?;
    // What is still to be done for it.
    pause(Duration::from_millis(50));
    attacker.end()?;
    Ok((cost, (party.cpu() - before).as_secs_f64()))
}

/// Another client during an attack.
fn among_others(party: &Running, attack: Attack) -> Result<Outcome> {
    let mut attacker = attacker(party, attack)?;
    attacker.release();
    let outcome = client(&others(party));
    attacker.end()?;
    outcome
}

/// Ready, but not let go.
fn attacker(party: &Running, attack: Attack) -> Result<Held> {
    let mut attacker = Held::spawn(&words(party, attack))?;
    let _ready: String = attacker.says()?;
    Ok(attacker)
}

fn words(party: &Running, attack: Attack) -> Vec<String> {
    let mut words = ["client", "flood", "--millis", MILLIS].map(str::to_owned).to_vec();
    words.extend(["--to".to_owned(), party.address.clone()]);
    words.extend(["--attack".to_owned(), word(attack)]);
    words
}

fn others(party: &Running) -> Vec<String> {
    let pace =
        ["client", "pace", "--tls", "--rate", "200", "--connections", "4", "--millis", MILLIS];
    let mut words = pace.map(str::to_owned).to_vec();
    words.extend(["--to".to_owned(), party.address.clone()]);
    words
}
