//! The topology file of Aqueduct: parse, validate, resolve. Values only: no socket, no runtime, no
//! clock. Every tier and the tool call [`load`]; nothing else opens the file.
//!
//! # The file in one page
//!
//! YAML 1.2, at most 4 MiB. Unknown and duplicate keys are errors; every number that measures
//! something has a unit (`5s`, `250ms`, `64KiB`, `100/min`). Four kinds of things are named and
//! wired by name; each section may be absent, so a file may hold one tier alone.
//!
//! ```yaml
//! aqueduct: 1                       # version of the format
//!
//! services:                         # who does the work
//!   user: { endpoints: [10.0.0.5:80, { address: 10.0.0.6:80, weight: 2, name: user-b }],
//!           health: { http: /healthz } }
//!   game: { endpoints: [10.0.0.7:7801], health: { udp: ping } }
//!
//! nlbs:                             # l4-nlb: TCP and UDP by address
//!   edge:
//!     instances: { nlb-1: { address: 10.0.1.1, admin: 127.0.0.1:9101 } }
//!     hash-key: file:secrets/hash-key
//!     listeners:
//!       game:  { udp: "*:7777", to: game }                  # `*`: each instance's address
//!       https: { tcp: "*:443", to: app, proxy-protocol: v2 }
//!   internal:
//!     instances: { ilb-1: { address: 10.0.2.1 } }
//!     listeners: { user: { tcp: "*:80", to: user, balance: least-connections } }
//!
//! gateways:                         # l7-gateway: TLS, tokens, limits, routes
//!   app:
//!     instances: { gw-1: { listen: "10.0.3.1:443" } }
//!     trust-proxy-protocol-from: [10.0.1.0/24]
//!     tls: { certificates: [{ chain: file:pki/api.pem, key: file:pki/api.key }] }
//!     issuers: { app: { issuer: "https://id.example", audience: api, algorithms: [ES256],
//!                       jwks: "https://id.example/jwks.json" } }
//!     limits: { user: { by: user, rate: 100/min }, search: { by: route, rate: 10/s } }
//!     defaults: { auth: app, limits: [user] }
//!     routes:
//!       - { path: /api/user/*, to: internal/user }          # GROUP/LISTENER, or a service
//!       - { path: /api/find, to: internal/user, limits: [+search] }
//!
//! pools:                            # pgpool: PostgreSQL connections
//!   data:
//!     instances: { pool-1: { listen: "10.0.4.1:5432" } }
//!     databases: { app: { primary: 10.0.5.1:5432, replicas: [10.0.5.2:5432], pool-size: 20 } }
//!     users: { app: { secret: file:secrets/app.scram } }
//! ```
//!
//! Secrets and large things are never in the file: `file:PATH` (relative to the file's folder) or
//! `env:NAME`. `run:` and `uses:` serve `aqueduct up` and `aqueduct graph`; the tiers ignore them.
//! All keys with units and defaults: `docs/config.md`, or `schema.json` in an editor.
//!
//! # From text to model
//!
//! `tree` (YAML with places) → `raw` (typed fields) → `resolve` (names, defaults, rules) →
//! [`Topology`]. All problems of a file are found in one run.
#![forbid(unsafe_code)]

pub mod answers;
pub mod cache;
pub mod contract;
pub mod discover;
pub mod effective;
pub mod expression;
pub mod external;
pub mod files;
pub mod gateway;
pub mod identity;
pub mod l4;
pub mod list;
pub mod meant;
pub mod model;
pub mod openapi;
pub mod pgbouncer;
pub mod pool;
pub mod problem;
pub mod register;
pub mod split;
pub mod telemetry;
pub mod template;
pub mod tls;
pub mod transcode;
pub mod transform;
pub mod units;
pub mod upstream;

mod docs;
mod raw;
mod resolve;
mod tree;

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use l4::Balance;
pub use model::{Endpoint, Form, HealthCheck, Service, SourceFile, Topology};
pub use problem::{LoadError, Problem, Problems, Severity, Shown};
pub use tls::Tls;
pub use units::{At, EndpointName, Place, SecretRef, ServiceName, Weight};

use raw::FromTree as _;

/// Reads and resolves a topology file. Blocks while reading; reads nothing but this file.
pub fn load(path: impl AsRef<Path>) -> Result<Topology, LoadError> {
    let path = path.as_ref();
    let io = |source| LoadError::Io { path: path.to_owned(), source };
    let mut bytes = Vec::new();
    // One byte more than is allowed tells a file that is too long from one that just fits.
    let most = u64::try_from(tree::MAX_BYTES).unwrap_or(u64::MAX).saturating_add(1);
    File::open(path).and_then(|file| file.take(most).read_to_end(&mut bytes)).map_err(io)?;
    let text = String::from_utf8(bytes).map_err(|error| {
        let what = format!("byte {} is not UTF-8", error.utf8_error().valid_up_to() + 1);
        io(std::io::Error::new(std::io::ErrorKind::InvalidData, what))
    })?;
    let folder = std::path::absolute(path).map_err(io)?;
    let folder = folder.parent().map_or_else(PathBuf::new, Path::to_path_buf);
    parse(&path.display().to_string(), &text, &folder).map_err(LoadError::Problems)
}

/// Reads the file behind a topology again, in the form that it was written in. Blocks while reading.
///
/// # Errors
/// As [`load`], or `pgbouncer::load`.
pub fn reload(source: &SourceFile) -> Result<Topology, LoadError> {
    match &source.form {
        model::Form::Topology => load(&source.name),
        model::Form::PgBouncer(process) => {
            let loaded = pgbouncer::load_again(Path::new(&source.name), process);
            loaded.map(|loaded| loaded.topology)
        }
    }
}

/// Resolves a topology from its text. `name` is how messages call it; relative paths in it start
/// from `folder`, which should be absolute.
pub fn parse(name: &str, text: &str, folder: &Path) -> Result<Topology, Problems> {
    let source = Arc::new(SourceFile {
        name: name.to_owned(),
        folder: folder.to_owned(),
        text: text.to_owned(),
        form: model::Form::Topology,
    });
    let mut out = raw::Findings::default();
    let found = read(&source, &mut out);
    match found {
        Some(mut topology) if !out.failed() => {
            problem::tidy(&mut out.list);
            topology.warnings = out.list;
            Ok(topology)
        }
        _ => Err(Problems::new(source, out.list, out.unlisted)),
    }
}

fn read(source: &Arc<SourceFile>, out: &mut raw::Findings) -> Option<Topology> {
    let node = match tree::read(&source.text, &mut out.list) {
        Ok(node) => node,
        Err(problem) => {
            out.list.push(problem);
            return None;
        }
    };
    let file = raw::File::from_tree(&node, &raw::Spot::default(), out)?;
    Some(resolve::topology(source, file, out))
}

/// The JSON schema of the file (draft 7), for editors; `schema.json` is this text.
pub fn schema() -> String {
    let mut text = serde_json::to_string_pretty(&raw::document()).unwrap_or_default();
    text.push('\n');
    text
}

/// The manual of all keys in Markdown, with meaning, unit and default; `docs/config.md` is this
/// text.
pub fn docs() -> String {
    docs::render(&raw::document())
}
