//! System calls of a program while something goes on, counted by `strace`. Not for speed: who is
//! traced is slow.
//!
//! Invariant: calls are counted from before the work to after it.

use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::l4::clock::pause;

/// Does `work` and counts the calls that the processes make meanwhile.
///
/// # Errors
/// Without strace, and when the work fails.
pub fn during<T>(pids: &[u32], work: impl FnOnce() -> Result<T>) -> Result<(f64, T)> {
    let mut command = Command::new("strace");
    command.args(["-c", "-f"]).stdin(Stdio::null()).stderr(Stdio::piped());
    for pid in pids {
        command.args(["-p", &pid.to_string()]);
    }
    let tracer = command.spawn().context("apt-get install -y strace")?;
    pause(Duration::from_millis(500));
    let done = work();
    kill(Pid::from_raw(i32::try_from(tracer.id())?), Signal::SIGINT)?;
    let output = tracer.wait_with_output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    let total = said.lines().find(|line| line.trim_end().ends_with("total"));
    // % time, seconds, usecs/call, calls, errors, name
    let calls = total.and_then(|line| line.split_whitespace().nth(3)?.parse::<f64>().ok());
    Ok((calls.with_context(|| format!("strace said: {said}"))?, done?))
}
