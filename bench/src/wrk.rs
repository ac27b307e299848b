//! One run of `wrk`, the load generator. Not for open-loop latency: `aqueduct replay` has that.
//!
//! Invariant: what wrk reports as an error is never counted as a request.

use std::process::Command;

use anyhow::{Context as _, Result, ensure};

/// What one run found.
#[derive(Clone, Copy, Debug)]
pub struct Run {
    /// Answered.
    pub requests: u64,
    /// Answered per second.
    pub per_second: f64,
    /// Median and 99th percentile of the latency, in ms.
    pub p50_ms: f64,
    /// 99th percentile, in ms.
    pub p99_ms: f64,
    /// Answers other than 2xx and 3xx.
    pub refused: u64,
}

/// Loads `url` for `seconds` over `connections` kept connections from one thread.
///
/// # Errors
/// When wrk is missing or its report is not understood.
pub fn run(url: &str, connections: u32, seconds: u32, headers: &[String]) -> Result<Run> {
    let mut command = Command::new("wrk");
    command.args(["-t1", "--latency"]);
    command.arg(format!("-c{connections}")).arg(format!("-d{seconds}s"));
    for header in headers {
        command.args(["-H", header]);
    }
    let output = command.arg(url).output().context("wrk is missing: apt-get install -y wrk")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(output.status.success(), "wrk failed: {text}");
    parse(&text).with_context(|| format!("wrk said:\n{text}"))
}

fn parse(text: &str) -> Option<Run> {
    let after = |key: &str| text.lines().find_map(|line| line.trim().strip_prefix(key));
    let requests = text.lines().find(|line| line.contains("requests in"))?;
    Some(Run {
        requests: requests.split_whitespace().next()?.parse().ok()?,
        per_second: after("Requests/sec:")?.trim().parse().ok()?,
        p50_ms: millis(after("50%")?.trim())?,
        p99_ms: millis(after("99%")?.trim())?,
        refused: after("Non-2xx or 3xx responses:")
            .and_then(|count| count.trim().parse().ok())
            .unwrap_or(0),
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
        let run = parse(text).expect("read");
        assert_eq!((run.requests, run.refused), (181_000, 7));
        assert!((run.p50_ms - 0.912).abs() < 1e-9 && (run.p99_ms - 2.85).abs() < 1e-9);
        assert!(parse("").is_none());
    }
}
