//! System calls per request, counted by `strace`. Not for speed: who is traced is slow.
//!
//! Invariant: calls are counted from before the first request to after the last.

use anyhow::Result;

use super::{Terms, in_turns};
use crate::figures::Better;
use crate::l7::Sheet;
use crate::l7::load::Load;
use crate::l7::party::{Kind, Wanted};
use crate::l7::rig::{Rig, Running};
use crate::process::Program;
use crate::strace;

pub(super) fn syscalls(rig: &Rig, _: Terms, sheet: &mut Sheet) {
    for (name, tls, load) in [
        ("http, 64 connections", false, Load::http1(64)),
        ("https, 64 connections", true, Load::http1(64)),
        ("http/2 over tls, 8 x 16", true, Load::http2(8, 16)),
    ] {
        let name = format!("{name}: system calls per request");
        let parties = rig.start_all(&Wanted::pinned(tls), |it| it != Kind::Direct, sheet);
        in_turns(&name, &parties, 1, sheet, &mut |party, round, sheet| {
            let calls = traced(party, &load)?;
            sheet.note((&name, "", Better::Low), party.kind, round, calls);
            Ok(())
        });
    }
}

fn traced(party: &Running, load: &Load) -> Result<f64> {
    let pids = party.program.as_ref().map(Program::pids).unwrap_or_default();
    let (calls, run) = strace::during(&pids, || load.run(&party.url(load.path), 2))?;
    Ok(calls / run.requests as f64)
}
