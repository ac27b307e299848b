//! A message of 1 KiB in JSON that becomes a gRPC call and back: ours beside Envoy's `grpc_json_transcoder`, both before
//! the demo's service. Not for gRPC that is passed on.
//!
//! Invariant: both go by the same description and are asked the same.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};
use protox::Compiler;
use protox::file::{ChainFileResolver, GoogleFileResolver, IncludeFileResolver};

use crate::figures::Column as _;
use crate::goals::Want;
use crate::l7::auth::parts::Own;
use crate::l7::cases::speed::turn;
use crate::l7::cases::{Terms, in_turns};
use crate::l7::load::Load;
use crate::l7::party::{Kind, Wanted};
use crate::l7::rig::{Rig, Running, beside_party};
use crate::l7::{Goal, Sheet};
use crate::process::{Program, beside};

/// How the demo's service is called.
pub(super) const ECHO: &str = include_str!("../../../../topology/stacks/protos/echo.proto");
const ANNOTATIONS: &str =
    include_str!("../../../../l7-gateway/src/transcode/google/api/annotations.proto");
const HTTP: &str = include_str!("../../../../l7-gateway/src/transcode/google/api/http.proto");
const ENVOY: &str = include_str!("../../../rivals/l7/envoy-transcoder.yaml");

const CALLS: &str = "127.0.77.1:18082";
const OURS: &str = "127.0.77.35:18080";
const THEIRS: &str = "127.0.77.36:18080";
const NAME: &str = "1 KiB of JSON to gRPC and back";
/// With the message's other members and the JSON around them, 1 KiB.
const TEXT: usize = 1000;

pub(super) fn goals() -> Vec<Goal> {
    vec![Goal::new(&format!("{NAME}: cpu per request"), Want::AtMostOf(Kind::Envoy, 1.3))]
}

pub(super) fn transcode(rig: &Rig, terms: Terms, sheet: &mut Sheet) -> Result<()> {
    let shared = rig.shared();
    fs::write(shared.join("echo.proto"), ECHO)?;
    let demo = beside("demo")?;
    let mut demo = beside_party(&demo.to_string_lossy());
    let log = shared.join("calls.log");
    let _service = Program::start("demo", demo.args(["grpc", "--listen", CALLS]), &log, CALLS)?;
    let mut parties = Vec::new();
    for (kind, address, started) in
        [(Kind::Gateway, OURS, gateway(rig)), (Kind::Envoy, THEIRS, envoy(&shared))]
    {
        if !rig.kinds().contains(&kind) {
            continue;
        }
        match started {
            Ok(program) => parties.push(Running {
                kind,
                address: address.to_owned(),
                wanted: Wanted::pinned(false),
                folder: shared.clone(),
                program: Some(program),
            }),
            Err(fault) => sheet.notes.push(format!("{}: {fault:#}", kind.name())),
        }
    }
    let script = shared.join("echo.lua");
    let body = format!("{{\\\"text\\\":\\\"{}\\\"}}", "a".repeat(TEXT));
    fs::write(
        &script,
        format!(
            "wrk.method = \"POST\"\nwrk.body = \"{body}\"\nwrk.headers[\"Content-Type\"] = \"application/json\"\n"
        ),
    )?;
    let load = Load { path: "/v1/echo/say", script: Some(script), ..Load::http1(64) };
    in_turns(NAME, &parties, terms.rounds, sheet, &mut |party, round, sheet| {
        turn(NAME, &load, terms.seconds, party, round, sheet)
    });
    Ok(())
}

fn gateway(rig: &Rig) -> Result<Program> {
    let topology = format!(
        "aqueduct: 1
services: {{ echo: {{ endpoints: [{CALLS}] }} }}
gateways:
  app:
    instances: {{ gw-calls: {{ listen: {OURS} }} }}
    access-log: off
    upstreams: {{ echo: {{ protocol: http2 }} }}
    routes: [{{ path: /v1/echo/*, to: echo, transcode: {{ protos: echo.proto }} }}]
"
    );
    Own { instance: "gw-calls", listen: OURS.parse()?, processor: "0" }.start(rig, &topology)
}

fn envoy(folder: &Path) -> Result<Program> {
    let program = Kind::Envoy.program().with_context(|| Kind::Envoy.installed_by())?;
    fs::write(folder.join("echo.pb"), described(folder)?)?;
    let (listen_host, listen_port) = THEIRS.split_once(':').unwrap_or_default();
    let (host, port) = CALLS.split_once(':').unwrap_or_default();
    let places = [
        ("LISTEN_HOST", listen_host),
        ("LISTEN_PORT", listen_port),
        ("SERVICE_HOST", host),
        ("SERVICE_PORT", port),
        ("DIR", &folder.to_string_lossy()),
    ];
    let text = places.iter().fold(ENVOY.to_owned(), |text, (key, value)| text.replace(key, value));
    let file = folder.join("envoy-transcoder.yaml");
    fs::write(&file, text)?;
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "TERM", "taskset", "-c", "0"]).arg(program);
    command.args(["--concurrency", "1", "-l", "error", "--base-id-path"]).arg(folder.join("base"));
    command.args(["--use-dynamic-base-id", "-c"]).arg(&file);
    Program::start("envoy", &mut command, &folder.join("envoy.log"), THEIRS)
}

/// The description as a descriptor set, with all that it imports.
fn described(folder: &Path) -> Result<Vec<u8>> {
    let google = folder.join("google/api");
    fs::create_dir_all(&google)?;
    fs::write(google.join("annotations.proto"), ANNOTATIONS)?;
    fs::write(google.join("http.proto"), HTTP)?;
    let mut resolver = ChainFileResolver::new();
    resolver.add(GoogleFileResolver::new());
    resolver.add(IncludeFileResolver::new(folder.to_owned()));
    let mut compiler = Compiler::with_file_resolver(resolver);
    compiler.include_imports(true).open_file("echo.proto")?;
    Ok(compiler.encode_file_descriptor_set())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_description_has_its_rules() {
        let folder = tempfile::tempdir().expect("a folder");
        fs::write(folder.path().join("echo.proto"), ECHO).expect("written");
        let set = described(folder.path()).expect("described");
        let has = |text: &[u8]| set.windows(text.len()).any(|part| part == text);
        assert!(has(b"google/api/http.proto") && has(b"/v1/echo/say"));
    }
}
