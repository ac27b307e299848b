//! One run of a load generator of others: `wrk` for HTTP/1.1, `h2load` for HTTP/2. Not for a fixed
//! pace: `client::pace` has that.
//!
//! Invariant: what a generator reports as an error is never counted as a request.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

/// The processor that load and service have while a party has the first.
pub const BESIDE: &str = "1";
/// All of them.
pub const ANY: &str = "0,1";

/// What to ask for, and how.
#[derive(Clone, Debug)]
pub struct Load {
    /// HTTP/2 with so many streams at a time per connection; 0: HTTP/1.1.
    pub streams: u32,
    /// Kept connections.
    pub connections: u32,
    /// What is asked for.
    pub path: &'static str,
    /// Sent along.
    pub headers: Vec<String>,
    /// The processors that it may have.
    pub processors: &'static str,
    /// Of wrk: what to ask for instead, in Lua.
    pub script: Option<PathBuf>,
}

/// What one run found.
#[derive(Clone, Copy, Debug)]
pub struct Run {
    /// Answered.
    pub requests: u64,
    /// Answered per second.
    pub per_second: f64,
    /// Median latency in ms; of HTTP/2 the mean.
    pub p50_ms: f64,
    /// 99th percentile in ms; of HTTP/2 unknown.
    pub p99_ms: Option<f64>,
    /// Answers other than 2xx and 3xx, and none.
    pub refused: u64,
}

impl Load {
    /// HTTP/1.1 with small answers.
    pub fn http1(connections: u32) -> Self {
        Self {
            streams: 0,
            connections,
            path: "/api/user/profile",
            headers: Vec::new(),
            processors: BESIDE,
            script: None,
        }
    }

    /// HTTP/2 with small answers.
    pub fn http2(connections: u32, streams: u32) -> Self {
        Self { streams, ..Self::http1(connections) }
    }

    /// Loads `url` with it for so long.
    ///
    /// # Errors
    /// When the generator is missing or not understood, or a request was refused.
    pub fn run(&self, url: &str, seconds: u32) -> Result<Run> {
        let run = self.run_anyway(url, seconds)?;
        ensure!(run.refused == 0, "{} refused at {url}", run.refused);
        Ok(run)
    }

    /// The same where refusals are wanted.
    ///
    /// # Errors
    /// When the generator is missing or not understood.
    pub fn run_anyway(&self, url: &str, seconds: u32) -> Result<Run> {
        let (program, parse): (_, fn(&str) -> Option<Run>) =
            if self.streams == 0 { ("wrk", wrk) } else { ("h2load", h2load) };
        let mut command = Command::new("taskset");
        command.args(["-c", self.processors, program, "-t1"]);
        command.arg(format!("-c{}", self.connections));
        if self.streams == 0 {
            command.arg("--latency").arg(format!("-d{seconds}s"));
        } else {
            command.arg(format!("-m{}", self.streams)).arg(format!("-D{seconds}"));
        }
        for header in &self.headers {
            command.args(["-H", header]);
        }
        if let Some(script) = &self.script {
            command.arg("-s").arg(script);
        }
        let output = command.arg(url).output().with_context(|| installed_by(program))?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let fault = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{program} failed ({}): {fault}", installed_by(program));
        let run = parse(&text).with_context(|| format!("{program} said:\n{text}"))?;
        ensure!(run.requests > 0, "no answer at {url}");
        Ok(run)
    }
}

fn installed_by(program: &str) -> &'static str {
    if program == "wrk" { "apt-get install -y wrk" } else { "apt-get install -y nghttp2-client" }
}

fn wrk(text: &str) -> Option<Run> {
    let after = |key: &str| text.lines().find_map(|line| line.trim().strip_prefix(key));
    let requests = text.lines().find(|line| line.contains("requests in"))?;
    Some(Run {
        requests: requests.split_whitespace().next()?.parse().ok()?,
        per_second: after("Requests/sec:")?.trim().parse().ok()?,
        p50_ms: millis(after("50%")?.trim())?,
        p99_ms: millis(after("99%")?.trim()),
        refused: after("Non-2xx or 3xx responses:")
            .and_then(|count| count.trim().parse().ok())
            .unwrap_or(0),
    })
}

fn h2load(text: &str) -> Option<Run> {
    let line = |key: &str| text.lines().find_map(|line| line.trim().strip_prefix(key));
    let number = |text: &str, before: &str| -> Option<f64> {
        text.split(before).next()?.split_whitespace().last()?.parse().ok()
    };
    let requests = line("requests:")?;
    let statuses = line("status codes:")?;
    Some(Run {
        requests: number(statuses, " 2xx")? as u64,
        per_second: number(line("finished in")?, " req/s")?,
        // min, max, mean, …
        p50_ms: millis(line("time for request:")?.split_whitespace().nth(2)?)?,
        p99_ms: None,
        refused: (number(requests, " failed")?
            + number(statuses, " 4xx")?
            + number(statuses, " 5xx")?) as u64,
    })
}

fn millis(text: &str) -> Option<f64> {
    let split = text.find(|letter: char| letter.is_ascii_alphabetic())?;
    let (number, unit) = text.split_at(split);
    let factor = match unit {
        "us" => 0.001,
        "ms" => 1.0,
        "s" => 1000.0,
        "m" => 60_000.0,
        _ => return None,
    };
    Some(number.parse::<f64>().ok()? * factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_read() {
        let text = "  Latency Distribution\n     50%  912.00us\n     99%    2.85ms\n  \
                    181000 requests in 3.00s, 40MB read\n  Non-2xx or 3xx responses: 7\n\
                    Requests/sec:  60333.3\n";
        let run = wrk(text).expect("read");
        assert_eq!((run.requests, run.refused), (181_000, 7));
        assert!((run.p50_ms - 0.912).abs() < 1e-9 && run.p99_ms == Some(2.85));
        assert!(wrk("").is_none());
    }

    #[test]
    fn a_report_of_http2_is_read() {
        let text = "finished in 3.00s, 60123.50 req/s, 5.00MB/s\n\
                    requests: 180371 total, 180371 started, 180371 done, 180370 succeeded, 1 failed, 0 errored, 0 timeout\n\
                    status codes: 180368 2xx, 0 3xx, 1 4xx, 1 5xx\n\
                    time for request:      233us      8.40ms      1.13ms       400us    78.00%\n";
        let run = h2load(text).expect("read");
        assert_eq!((run.requests, run.refused), (180_368, 3));
        assert!((run.per_second - 60_123.5).abs() < 1e-9 && (run.p50_ms - 1.13).abs() < 1e-9);
        assert!(h2load("").is_none());
    }
}
