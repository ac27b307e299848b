//! The gateway beside nginx: HTTPS with JWT, scopes, limits and an access record on our side,
//! plain HTTPS proxying on nginx's. One worker each, the same service, in turns. Not for TLS
//! handshakes: connections are kept.
//!
//! Invariant: a run with a refused request is an error, not a figure.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use serde::Serialize;

use crate::process::{Program, beside};
use crate::wrk;

const SERVICE: &str = "127.0.77.1:18080";
const NGINX: &str = "127.0.77.1:18443";
const GATEWAY: &str = "127.0.77.1:18444";
const ISSUER: &str = "127.0.77.1:17900";

/// How the comparison is run.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Turns, each one run of either party.
    pub rounds: u32,
    /// Length of a run in seconds.
    pub seconds: u32,
    /// Kept connections.
    pub connections: u32,
}

/// One party's figures, medians over the rounds.
#[derive(Clone, Debug, Serialize)]
pub struct Figures {
    /// Who.
    pub party: String,
    /// Requests per second.
    pub per_second: f64,
    /// Processor time per request, in µs.
    pub cpu_us: f64,
    /// Lowest and highest processor time per request of all rounds, in µs.
    pub cpu_us_spread: [f64; 2],
    /// Median latency in ms.
    pub p50_ms: f64,
    /// 99th percentile in ms.
    pub p99_ms: f64,
    /// Resident memory before the first request, in MiB.
    pub rss_idle_mib: f64,
    /// Resident memory after the last one, in MiB.
    pub rss_mib: f64,
}

/// Runs both parties in turns. Needs nginx and wrk, and the binaries beside this one.
///
/// # Errors
/// When a party cannot be started or refuses a request.
pub fn compare(plan: Plan) -> Result<Vec<Figures>> {
    let folder = tempfile::tempdir()?;
    let folder = folder.path();
    certificate(folder)?;
    let _service = nginx(folder, "service", include_str!("../rivals/nginx/service.conf"), SERVICE)?;
    let rival = nginx(folder, "nginx", include_str!("../rivals/nginx/nginx.conf"), NGINX)?;
    let _issuer = Program::start(
        "issuer",
        Command::new(beside("demo")?)
            .args(["issuer", "--listen", ISSUER, "--keys"])
            .arg(folder.join("keys")),
        &folder.join("issuer.log"),
        ISSUER,
    )?;
    let ours = gateway(folder)?;
    let token = format!("Authorization: Bearer {}", token()?);
    let parties = [(&ours, GATEWAY, vec![token]), (&rival, NGINX, Vec::new())];
    let idle = parties.each_ref().map(|(program, ..)| program.rss_kib());
    let mut runs = [Vec::new(), Vec::new()];
    for _ in 0..plan.rounds {
        for ((program, address, headers), runs) in parties.iter().zip(&mut runs) {
            let before = program.cpu();
            let url = format!("https://{address}/api/user/profile");
            let run = wrk::run(&url, plan.connections, plan.seconds, headers)?;
            ensure!(run.refused == 0, "{} refused {} requests", program.name(), run.refused);
            ensure!(run.requests > 0, "{} answered nothing", program.name());
            let cpu = program.cpu() - before;
            runs.push((run, cpu.as_secs_f64() * 1e6 / run.requests as f64));
        }
    }
    let figures = parties.iter().zip(&runs).zip(idle);
    Ok(figures.map(|(((program, ..), runs), idle)| summarise(program, runs, idle)).collect())
}

fn summarise(program: &Program, runs: &[(wrk::Run, f64)], idle_kib: u64) -> Figures {
    let cpu = sorted(runs.iter().map(|(_, cpu)| *cpu));
    let median = |values: Vec<f64>| values[values.len() / 2];
    Figures {
        party: program.name().to_owned(),
        per_second: median(sorted(runs.iter().map(|(run, _)| run.per_second))),
        cpu_us: cpu[cpu.len() / 2],
        cpu_us_spread: [cpu[0], cpu[cpu.len() - 1]],
        p50_ms: median(sorted(runs.iter().map(|(run, _)| run.p50_ms))),
        p99_ms: median(sorted(runs.iter().map(|(run, _)| run.p99_ms))),
        rss_idle_mib: idle_kib as f64 / 1024.0,
        rss_mib: program.rss_kib() as f64 / 1024.0,
    }
}

fn sorted(values: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values
}

fn certificate(folder: &Path) -> Result<()> {
    let made = rcgen::generate_simple_self_signed(["api.example".to_owned()])?;
    fs::write(folder.join("api.pem"), made.cert.pem())?;
    fs::write(folder.join("api.key"), made.signing_key.serialize_pem())?;
    Ok(())
}

fn nginx(folder: &Path, name: &str, template: &str, listen: &str) -> Result<Program> {
    let text = template
        .replace("DIR", &folder.to_string_lossy())
        .replace("SERVICE", SERVICE)
        .replace("LISTEN", listen);
    let conf = folder.join(format!("{name}.conf"));
    fs::write(&conf, text)?;
    let log = folder.join(format!("{name}.log"));
    let mut command = Command::new("nginx");
    Program::start(name, command.arg("-e").arg(&log).arg("-c").arg(&conf), &log, listen)
        .context("nginx is the rival: apt-get install -y nginx-light")
}

fn gateway(folder: &Path) -> Result<Program> {
    let topology = format!(
        "aqueduct: 1
services:
  user: {{ endpoints: [{SERVICE}] }}
gateways:
  app:
    instances: {{ gw-1: {{ listen: {GATEWAY} }} }}
    tls: {{ certificates: [{{ chain: file:api.pem, key: file:api.key }}] }}
    access-log: file:access.ndjson
    issuers:
      app: {{ issuer: \"https://id.example\", audience: api, jwks: \"http://{ISSUER}/jwks.json\",
             algorithms: [RS256, ES256], user: userId }}
    limits:
      user:  {{ by: user, rate: 4000000/s }}
      total: {{ by: all,  rate: 4000000/s }}
    defaults: {{ auth: app, limits: [total, user] }}
    routes:
      - {{ path: /api/user/*, to: user, scopes: [user:read] }}
"
    );
    let file = folder.join("bench.yaml");
    fs::write(&file, topology)?;
    Program::start(
        "l7-gateway",
        Command::new(beside("l7-gateway")?).args(["--workers", "1", "--topology"]).arg(&file),
        &folder.join("gateway.log"),
        GATEWAY,
    )
}

/// A token of the demo's issuer that is good for longer than the bench takes.
fn token() -> Result<String> {
    let wanted = r#"{"userId":98765,"scope":"user:read","alg":"ES256"}"#;
    let output = Command::new("curl")
        .args(["-sf", "-X", "POST", "-d", wanted, &format!("http://{ISSUER}/token")])
        .output()
        .context("curl is missing: apt-get install -y curl")?;
    let answer: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    Ok(answer["access_token"].as_str().context("the issuer gave no token")?.to_owned())
}
