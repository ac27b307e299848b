//! Instructions of a request, counted by callgrind: on a route without filters in a file without any and in one where
//! other routes have all of them, and on routes with one filter each. Not for the gateway that is counted: `inside`.
//!
//! Invariant: both files have the same routes, so that nothing but filters makes a difference.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use super::inside::Outcome;
use crate::figures::Better;
use crate::goals::Want;
use crate::l7::cases::Terms;
use crate::l7::party::Kind;
use crate::l7::rig::{Rig, client};
use crate::l7::{Goal, Sheet};
use crate::process::on_path;
use crate::progress;

/// What a route without filters pays because others have some.
const EXISTENCE: &str = "no filter, where other routes have them";
const HEADERS: &str = "headers of request and answer";

/// Each filter that is counted, by its path.
const COUNTED: [(&str, &str, &str); 6] = [
    (
        HEADERS,
        "/headers",
        "transform: { request: { headers: { set: { x-tenant: \"${request.header.x-shop|none}\", x-way: \"${request.path}\" }, \
         rename: { x-a: x-b }, remove: [x-debug] } }, response: { headers: { set: { x-asked: \"${request.path}\" }, \
         rename: { x-old: x-new }, remove: [x-secret] } } }",
    ),
    (
        "path and query",
        "/path",
        "transform: { request: { path: \"/base${request.path}\", query: { set: { via: gateway } } } }",
    ),
    (
        "a member of a JSON answer",
        "/json",
        "transform: { response: { body: { json: [{ remove: cost }] } } }",
    ),
    (
        "cross-origin rules",
        "/cors",
        "cors: { origins: [\"https://app.example\"], expose: [x-total] }",
    ),
    ("careful headers", "/careful", "security-headers: api"),
    ("deprecation", "/old", "deprecated: 2026-01-31, successor: /headers"),
];

/// Further ones, which are only there.
const THERE: [(&str, &str); 5] = [
    ("/external", "external: { url: \"http://127.0.0.1:9/\" }"),
    ("/v1/echo/*", "transcode: { protos: echo.proto }"),
    ("/web/*", "grpc-web: true"),
    ("/small", "compress: true"),
    ("/api/*", "validate: api.yaml"),
];

const CONTRACT: &str = "openapi: 3.0.3\ninfo: { title: api, version: '1' }\npaths:\n  /api/items: { get: { parameters: \
     [{ name: page, in: query, schema: { type: integer } }], responses: { '200': { description: items } } } }\n";

/// The first number of requests, and how many more the second one is: what comes once is in both.
const FEW: u32 = 200;
const MORE: u32 = 1000;
/// Timed, to know how long an instruction takes here.
const TIMED: u32 = 40_000;

pub(super) fn goals() -> Vec<Goal> {
    vec![
        Goal::new(&format!("{EXISTENCE}: more time"), Want::AtMost(50.0)),
        Goal::new(&format!("{HEADERS}: more time"), Want::AtMost(1000.0)),
    ]
}

pub(super) fn instructions(rig: &Rig, terms: Terms, sheet: &mut Sheet) -> Result<()> {
    let (without, with) = files(&rig.shared())?;
    for round in 0..terms.rounds {
        let says =
            |what: &str| progress(&format!("{what}: round {} of {}", round + 1, terms.rounds));
        says("instructions");
        let bare = each(&without, "/plain")?;
        let outcome: Outcome = client(&arguments(&without, "/plain", TIMED))?;
        let nanos = outcome.user_us as f64 * 1000.0 / f64::from(TIMED) / bare;
        let mut note = |figure: &str, unit, value| {
            sheet.note((figure, unit, Better::Low), Kind::Gateway, round, value);
        };
        note("a request without filters: instructions", "", bare);
        note("an instruction", "ns", nanos);
        let mut more = |name: &str, instructions: f64| {
            note(&format!("{name}: more instructions"), "", instructions - bare);
            note(&format!("{name}: more time"), "ns", (instructions - bare) * nanos);
        };
        more(EXISTENCE, each(&with, "/plain")?);
        for (name, path, _) in COUNTED {
            says(name);
            // Over the same route without it, whose path is as long.
            let own = each(&without, path)?;
            more(name, each(&with, path)? - own + bare);
        }
    }
    Ok(())
}

/// The file without filters, and the one with them.
fn files(folder: &Path) -> Result<(PathBuf, PathBuf)> {
    fs::write(folder.join("echo.proto"), super::transcode::ECHO)?;
    fs::write(folder.join("api.yaml"), CONTRACT)?;
    let write = |name: &str, filters: bool| {
        let path = folder.join(name);
        fs::write(&path, topology(filters))?;
        Ok::<_, anyhow::Error>(path)
    };
    Ok((write("without.yaml", false)?, write("with.yaml", true)?))
}

fn topology(filters: bool) -> String {
    let counted = COUNTED.iter().map(|(_, path, filter)| (*path, *filter));
    let route = |(path, filter): (&str, &str)| {
        let to =
            if path.starts_with("/v1/echo") || path.starts_with("/web") { "calls" } else { "user" };
        let filter = if filters { format!(", {filter}") } else { String::new() };
        format!("      - {{ path: \"{path}\", to: {to}{filter} }}\n")
    };
    let routes: String = counted.chain(THERE).map(route).collect();
    format!(
        "aqueduct: 1
services: {{ user: {{ endpoints: [SERVICE] }}, calls: {{ endpoints: [SERVICE] }} }}
gateways:
  app:
    instances: {{ gw: {{ listen: 127.0.0.1:0 }} }}
    access-log: off
    upstreams: {{ calls: {{ protocol: http2 }} }}
    routes:
      - {{ path: /plain, to: user }}
{routes}"
    )
}

fn arguments(file: &Path, path: &str, requests: u32) -> Vec<OsString> {
    let words = ["inside", "--path", path, "--requests", &requests.to_string(), "--topology"];
    let words = words.map(OsString::from).into_iter();
    words.chain([file.as_os_str().to_owned()]).collect()
}

/// Instructions of one request.
fn each(file: &Path, path: &str) -> Result<f64> {
    let (few, all) = (counted(file, path, FEW)?, counted(file, path, FEW + MORE)?);
    Ok((all - few) / f64::from(MORE))
}

/// Instructions of a whole run.
fn counted(file: &Path, path: &str, requests: u32) -> Result<f64> {
    let valgrind = on_path("valgrind").context("apt-get install -y valgrind")?;
    let mut command = Command::new(valgrind);
    command.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]);
    command.arg(std::env::current_exe()?).args(arguments(file, path, requests));
    let output = command.output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{path}: {said}");
    collected(&said).with_context(|| format!("valgrind said: {said}"))
}

fn collected(said: &str) -> Option<f64> {
    said.lines().find_map(|line| line.split_once("Collected :")?.1.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_read() {
        let said = "==7== Events    : Ir\n==7== Collected : 123456\n==7== \n==7== I   refs:      123,456\n";
        assert_eq!(collected(said), Some(123_456.0));
        assert_eq!(collected(""), None);
    }

    /// What is counted is a file that works, with and without filters.
    #[test]
    fn both_files_are_clean() {
        let folder = tempfile::tempdir().expect("a folder");
        let (without, with) = files(folder.path()).expect("written");
        for file in [without, with] {
            let text = fs::read_to_string(&file).expect("there").replace("SERVICE", "127.0.0.1:1");
            let parsed = topology::parse("filters.yaml", &text, folder.path());
            let topology = parsed.map_err(|problems| problems.to_string()).expect("valid");
            assert!(topology.warnings.is_empty(), "{:?}", topology.warnings);
        }
    }
}
