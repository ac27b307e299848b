//! System calls per request, counted by `strace`. Not for speed: who is traced is slow.
//!
//! Invariant: calls are counted from before the first request to after the last.

use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{Terms, in_turns};
use crate::figures::Better;
use crate::l4::clock::pause;
use crate::l7::Sheet;
use crate::l7::load::Load;
use crate::l7::party::{Kind, Wanted};
use crate::l7::rig::{Rig, Running};
use crate::process::Program;

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
    let mut command = Command::new("strace");
    command.args(["-c", "-f"]).stdin(Stdio::null()).stderr(Stdio::piped());
    for pid in pids {
        command.args(["-p", &pid.to_string()]);
    }
    let tracer = command.spawn().context("apt-get install -y strace")?;
    pause(Duration::from_millis(500));
    let run = load.run(&party.url(load.path), 2);
    kill(Pid::from_raw(i32::try_from(tracer.id())?), Signal::SIGINT)?;
    let output = tracer.wait_with_output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    let total = said.lines().find(|line| line.trim_end().ends_with("total"));
    // % time, seconds, usecs/call, calls, errors, name
    let calls = total.and_then(|line| line.split_whitespace().nth(3)?.parse::<f64>().ok());
    Ok(calls.with_context(|| format!("strace said: {said}"))? / run?.requests as f64)
}
