//! HTTP and JSON in front, gRPC behind (spec G15): which call a request means, and both sides' messages in each
//! other's form. Not for calls that clients make in gRPC themselves: those pass as they are. Called by stages 7
//! and 9.
//!
//! Invariant: a message that is not exactly what its description says never reaches a service, and an answer that
//! breaks off never looks whole.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderValue, Method, header};
use prost_reflect::{DescriptorPool, ExtensionDescriptor, MessageDescriptor, MethodDescriptor};
use protox::Compiler;
use protox::file::{ChainFileResolver, GoogleFileResolver, IncludeFileResolver};
use thiserror::Error;
use topology::Place;
use topology::transcode::{Descriptions, Transcode};

pub mod answer;
pub mod bindings;
pub mod depth;
pub mod described;
pub mod errors;
mod fields;
mod free;
pub mod google;
pub mod json;
pub mod message;
mod packed;
mod scalar;
pub mod stream;
pub mod template;
pub mod wire;

pub use self::bindings::NoCall;
use self::bindings::{Binding, Bindings};
use self::google::Annotations;

/// Why descriptions cannot be used.
#[derive(Debug, Error)]
#[error("{what}")]
pub struct DescriptionError {
    what: String,
    place: Place,
}

impl DescriptionError {
    /// Where they are named.
    pub fn place(&self) -> Place {
        self.place
    }
}

/// What one route can say to its service, for all workers.
#[derive(Debug)]
pub struct Interface {
    bindings: Bindings,
    /// Services without a method that HTTP can call.
    mute: Vec<String>,
}

/// A call that a request means.
#[derive(Debug)]
pub struct Meant<'i> {
    /// Which.
    pub binding: &'i Binding,
    /// Fields that the path gives, by path, decoded.
    pub captured: Vec<(&'i [String], String)>,
}

impl Interface {
    /// Reads descriptions: blocking.
    ///
    /// # Errors
    /// With their place in the topology file.
    pub fn new(model: &Transcode) -> Result<Arc<Self>, DescriptionError> {
        let wrong = |what: String| DescriptionError { what, place: model.place };
        let (pool, own) = match &model.from {
            Descriptions::Set(path) => read_set(path).map_err(wrong)?,
            Descriptions::Sources { files, include } => compile(files, include).map_err(wrong)?,
        };
        let rule = pool.get_extension_by_name("google.api.http");
        let (mut bindings, mut mute) = (Bindings::default(), Vec::new());
        for service in pool.services() {
            let named = |name: &String| name == service.full_name();
            let wanted = match model.services.as_slice() {
                // Who names a file does not mean what it imports.
                [] => own.contains(service.parent_file().name()),
                some => some.iter().any(named),
            };
            if !wanted {
                continue;
            }
            for method in service.methods() {
                bindings.add(&method, rule.as_ref()).map_err(wrong)?;
            }
            if service.methods().all(|method| method.is_client_streaming()) {
                if !model.services.is_empty() {
                    return Err(wrong(silent(service.full_name())));
                }
                mute.push(service.full_name().to_owned());
            }
        }
        for wanted in &model.services {
            if pool.get_service_by_name(wanted).is_none() {
                return Err(wrong(format!("there is no service `{wanted}` in the descriptions")));
            }
        }
        if bindings.is_empty() {
            return Err(wrong(
                "there is no method in the descriptions that HTTP can call".to_owned(),
            ));
        }
        Ok(Arc::new(Self { bindings, mute }))
    }

    /// Services of the named files that nobody can call so, in words.
    pub fn unheard(&self) -> Vec<String> {
        self.mute.iter().map(|name| silent(name)).collect()
    }

    /// The call that a request means.
    ///
    /// # Errors
    /// There is none; or there is for other methods, which are told.
    pub fn find(&self, method: &Method, path: &str) -> Result<Meant<'_>, NoCall> {
        self.bindings.find(method, path)
    }
}

fn silent(service: &str) -> String {
    format!("`{service}` has no method that HTTP can call: each takes a stream, or there is none")
}

/// What a call says in its head, in place of what its request said of its body (gRPC over HTTP/2, "Requests"), and how
/// much time it has, if anything bounds it.
pub fn head(headers: &mut HeaderMap, left: Option<Duration>) {
    // Among them how the client would have messages compressed, which it gets as JSON.
    answer::strip(headers);
    for name in [header::ACCEPT, header::RANGE, header::IF_RANGE] {
        headers.remove(name);
    }
    headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    headers.insert("grpc-accept-encoding", HeaderValue::from_static("identity"));
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(header::TE, HeaderValue::from_static("trailers"));
    // At most eight digits.
    let millis = left.map(|left| left.as_millis().min(99_999_999));
    let value = millis.and_then(|millis| HeaderValue::try_from(format!("{millis}m")).ok());
    if let Some(value) = value {
        headers.insert("grpc-timeout", value);
    }
}

/// Most bytes of a description.
const MOST: u64 = 16 << 20;

/// Descriptions, and the files whose services are meant.
type Described = (DescriptorPool, HashSet<String>);

fn read_set(path: &Path) -> Result<Described, String> {
    let size =
        std::fs::metadata(path).map_err(|fault| format!("{}: {fault}", path.display()))?.len();
    if size > MOST {
        return Err(format!("{} is over {MOST} bytes", path.display()));
    }
    let bytes = std::fs::read(path).map_err(|fault| format!("{}: {fault}", path.display()))?;
    let pool = DescriptorPool::decode(bytes.as_slice()).map_err(|fault| {
        format!(
            "{} is no descriptor set: {fault} — make one with `protoc --include_imports -o set.pb`",
            path.display()
        )
    })?;
    // A set does not say for which of its files it was made: for those that none of the others needs.
    let needed: HashSet<String> = pool
        .files()
        .flat_map(|file| {
            file.dependencies().map(|needed| needed.name().to_owned()).collect::<Vec<_>>()
        })
        .collect();
    let own = pool.files().map(|file| file.name().to_owned());
    let own = own.filter(|name| !needed.contains(name)).collect();
    Ok((pool, own))
}

fn compile(files: &[PathBuf], include: &[PathBuf]) -> Result<Described, String> {
    let mut resolver = ChainFileResolver::new();
    resolver.add(Annotations);
    resolver.add(GoogleFileResolver::new());
    let folders = files.iter().filter_map(|file| file.parent().map(Path::to_owned));
    for folder in include.iter().cloned().chain(folders) {
        resolver.add(IncludeFileResolver::new(folder));
    }
    let mut compiler = Compiler::with_file_resolver(resolver);
    compiler.include_imports(true);
    for file in files {
        compiler.open_file(file).map_err(|fault| format!("{}: {fault}", file.display()))?;
    }
    let own = compiler.files().filter(|file| !file.is_import());
    let own = own.map(|file| file.name().to_owned()).collect();
    Ok((compiler.descriptor_pool(), own))
}

/// What a binding needs of its method.
#[derive(Clone, Debug)]
pub struct Signature {
    /// `/package.Service/Method`.
    pub path: String,
    /// What it takes.
    pub input: MessageDescriptor,
    /// What it gives.
    pub output: MessageDescriptor,
    /// Whether it gives several.
    pub streams: bool,
    /// Whether what it gives may hold messages that have to be unpacked.
    pub packs: bool,
}

impl Signature {
    /// `None`: it takes a stream, which HTTP and JSON cannot send.
    fn of(method: &MethodDescriptor) -> Option<Self> {
        (!method.is_client_streaming()).then(|| Self {
            path: format!("/{}/{}", method.parent_service().full_name(), method.name()),
            input: method.input(),
            output: method.output(),
            streams: method.is_server_streaming(),
            packs: depth::may_pack(&method.output()),
        })
    }
}

/// The annotation, where descriptions have it.
type Rule<'r> = Option<&'r ExtensionDescriptor>;

#[cfg(test)]
mod tests;
