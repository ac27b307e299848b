//! What a route adds that puts three calls together: its latency over that of the slowest call, asked for without
//! anybody between. Not for speed under load.
//!
//! Invariant: the calls of a round go to the same service, in turns with the request that is asked directly.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use anyhow::{Result, ensure};

use crate::figures::{Better, Column as _};
use crate::goals::Want;
use crate::l4::clock::now;
use crate::l7::auth::parts::Own;
use crate::l7::cases::Terms;
use crate::l7::client::ask;
use crate::l7::party::Kind;
use crate::l7::rig::{Rig, beside_party};
use crate::l7::{Goal, Sheet};
use crate::process::Program;
use crate::progress;

const SLOW: &str = "127.0.77.1:18083";
const LISTEN: &str = "127.0.77.34:18080";
const THREE: &str = "three calls as one, the slowest 20 ms: over the slowest";
const ONE: &str = "one call of 20 ms: over it";
/// Requests of each kind in a second of a run.
const PER_SECOND: u32 = 16;

pub(super) fn goals() -> Vec<Goal> {
    vec![Goal::new(THREE, Want::AtMost(0.3))]
}

pub(super) fn aggregate(rig: &Rig, terms: Terms, sheet: &mut Sheet) -> Result<()> {
    let own = std::env::current_exe()?;
    let log = rig.shared().join("slow.log");
    let mut slow = beside_party(&own.to_string_lossy());
    let _slow = Program::start("slow", slow.args(["slow", "--listen", SLOW]), &log, SLOW)?;
    let topology = format!(
        "aqueduct: 1
services: {{ one: {{ endpoints: [{SLOW}] }}, two: {{ endpoints: [{SLOW}] }}, three: {{ endpoints: [{SLOW}] }} }}
gateways:
  app:
    instances: {{ gw-three: {{ listen: {LISTEN} }} }}
    access-log: off
    routes:
      - {{ path: /wait/*, to: one }}
      - path: /dashboard
        aggregate:
          calls: {{ profile: {{ to: one, path: /wait/20 }}, orders: {{ to: two, path: /wait/10 }}, notes: {{ to: three, path: /wait/5 }} }}
"
    );
    let gateway = Own { instance: "gw-three", listen: LISTEN.parse()?, processor: "0" };
    let _program = gateway.start(rig, &topology)?;
    let mut through = gateway.connect()?;
    let mut direct = TcpStream::connect(SLOW.parse::<SocketAddr>()?)?;
    direct.set_nodelay(true)?;
    for round in 0..terms.rounds {
        progress(&format!("aggregate: round {} of {}", round + 1, terms.rounds));
        let (mut alone, mut one, mut three) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..terms.seconds * PER_SECOND {
            alone.push(millis(&mut direct, "/wait/20")?);
            one.push(millis(&mut through, "/wait/20")?);
            three.push(millis(&mut through, "/dashboard")?);
        }
        let alone = median(&mut alone);
        let mut note = |figure: &str, kind, value| {
            sheet.note((figure, "ms", Better::Low), kind, round, value);
        };
        note("one call of 20 ms: p50", Kind::DIRECT, alone);
        note(ONE, Kind::OURS, median(&mut one) - alone);
        note(THREE, Kind::OURS, median(&mut three) - alone);
    }
    Ok(())
}

/// How long one request takes.
fn millis(stream: &mut (impl Read + Write), path: &str) -> Result<f64> {
    let request = format!("GET {path} HTTP/1.1\r\nhost: api.example\r\n\r\n");
    let begun = now();
    let status = ask(stream, request.as_bytes())?;
    let took = now() - begun;
    ensure!(status == 200, "{path}: status {status}");
    Ok(took as f64 / 1e6)
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_is_taken() {
        assert_eq!(median(&mut [3.0, 1.0, 2.0]), 2.0);
        assert!(median(&mut []).is_nan());
    }
}
