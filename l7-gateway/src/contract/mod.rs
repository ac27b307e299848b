//! What an OpenAPI 3 description says of requests (spec G23), compiled, and requests held against it. Not for
//! answers. Called by stage 7 where a route asks for it.
//!
//! Invariant: nothing is fetched to understand a description, and no request costs more than its bound.

use std::borrow::Cow;
use std::cmp::Reverse;
use std::collections::HashMap;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use aws_lc_rs::digest::SHA256;
use http::{HeaderMap, HeaderValue, Method};
use serde_json::Value;
use thiserror::Error;
use topology::contract::Contract as Model;
use topology::{Place, openapi};

pub mod document;
pub mod parameter;
pub mod schema;

use self::document::Document;
use self::parameter::Parameter;
use self::schema::Schema;
use crate::{media, strict};

/// Why a description cannot be used.
#[derive(Debug, Error)]
#[error("{what}")]
pub struct ContractError {
    what: String,
    place: Place,
}

impl ContractError {
    /// Where it is named.
    pub fn place(&self) -> Place {
        self.place
    }
}

/// Why a request is not what it should be.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Breach {
    /// Its path is not described.
    #[error("the path is not described")]
    NoPath,
    /// Its method is not described.
    #[error("the method is not described")]
    Method {
        /// Value of `Allow`.
        allow: HeaderValue,
    },
    /// A parameter or the body is missing.
    #[error("{0} is missing")]
    Missing(String),
    /// Several types, or one that cannot be read.
    #[error("the body has no one type")]
    Kinds,
    /// A body of another type, or of one that cannot be held against its schema.
    #[error("the body has none of the types {0}")]
    Kind(String),
    /// A body in a coding that is not known.
    #[error("the body has an unknown coding")]
    Coding,
    /// It is no JSON, or a name stands twice in an object.
    #[error("the body is no JSON: {0}")]
    Json(String),
    /// Its values would take several times the memory that a body may.
    #[error("the body has too many values")]
    TooLarge,
    /// Something is not as its schema says.
    #[error("{place}: {why}")]
    Schema {
        /// What.
        place: String,
        /// Why.
        why: String,
    },
}

/// A description, for all workers.
#[derive(Debug)]
pub struct Contract {
    /// Those without names in their path first, then those with most around the names.
    paths: Vec<Described>,
    /// Most bytes of a body.
    pub most: u64,
    from: Source,
}

/// What it was read from.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Source {
    model: Model,
    /// Of the file's bytes.
    digest: [u8; 32],
}

/// One path.
#[derive(Debug)]
struct Described {
    segments: Vec<Segment>,
    operations: HashMap<Method, Operation>,
}

/// A segment of a path.
#[derive(Debug)]
enum Segment {
    Text(Box<str>),
    /// A name with what stands before and behind it.
    Name(Box<str>, Box<str>, Box<str>),
}

impl fmt::Display for Segment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => write!(f, "/{text}"),
            Self::Name(before, name, behind) => write!(f, "/{before}{{{name}}}{behind}"),
        }
    }
}

/// What one method of a path takes.
#[derive(Debug)]
struct Operation {
    parameters: Vec<Parameter>,
    body: Option<Content>,
}

/// A body.
#[derive(Debug)]
struct Content {
    required: bool,
    /// By media type, lower case.
    kinds: Vec<(String, Option<Schema>)>,
}

/// A request whose operation is known.
#[derive(Debug)]
pub struct Meant<'c> {
    operation: &'c Operation,
    captured: Vec<(&'c str, String)>,
}

impl Contract {
    /// Reads a description: blocking. One that was read before and is the same is kept.
    ///
    /// # Errors
    /// With its place in the topology file.
    pub fn new(model: &Model, before: &[Option<Arc<Self>>]) -> Result<Arc<Self>, ContractError> {
        let named = |what: String| format!("{}: {what}", model.file.display());
        let wrong = |what| ContractError { what: named(what), place: model.place };
        let text = text_of(&model.file).map_err(wrong)?;
        let from = Source::new(model, &text);
        if let Some(same) = before.iter().flatten().find(|known| known.from == from) {
            return Ok(Arc::clone(same));
        }
        let whole = openapi::read(&text).map_err(|fault| wrong(fault.to_string()))?;
        let prefix = model.prefix.clone().unwrap_or_else(|| openapi::prefix(&whole));
        let document = Document::new(whole).map_err(wrong)?;
        let mut paths = Vec::new();
        for (path, item) in document.paths() {
            let told = |what| wrong(format!("{path}: {what}"));
            let segments = segments(&format!("{prefix}{path}")).map_err(told)?;
            let operations = document.operations(&item).map_err(told)?;
            paths.push(Described { segments, operations });
        }
        paths.sort_by_cached_key(Described::rank);
        Ok(Arc::new(Self { paths, most: model.most, from }))
    }

    /// Bodies that no request can have, in words: their schema is said, and they are no JSON.
    pub fn unheld(&self) -> Vec<String> {
        let mut all = Vec::new();
        for path in &self.paths {
            let name: String = path.segments.iter().map(ToString::to_string).collect();
            for (method, operation) in &path.operations {
                let kinds = operation.body.iter().flat_map(|body| &body.kinds);
                let unheld = kinds.filter(|(kind, schema)| {
                    schema.is_some() && !media::is_json(kind) && !kind.contains('*')
                });
                all.extend(unheld.map(|(kind, _)| {
                    format!("{method} {name}: a body of {kind} is always 415, only JSON is held against a schema")
                }));
            }
        }
        all.sort_unstable();
        all
    }

    /// The operation that a request means.
    ///
    /// # Errors
    /// It is not described.
    pub fn find(&self, method: &Method, path: &str) -> Result<Meant<'_>, Breach> {
        let mut allowed: Vec<&str> = Vec::new();
        for described in &self.paths {
            let Some(captured) = described.captured(path) else { continue };
            // A HEAD is a GET without its body (RFC 9110 §9.3.2).
            let own = described.operations.get(method);
            let own = own.or_else(|| match *method {
                Method::HEAD => described.operations.get(&Method::GET),
                _ => None,
            });
            if let Some(operation) = own {
                return Ok(Meant { operation, captured });
            }
            allowed.extend(described.operations.keys().map(Method::as_str));
        }
        allowed.sort_unstable();
        allowed.dedup();
        match HeaderValue::try_from(allowed.join(", ")) {
            Ok(allow) if !allowed.is_empty() => Err(Breach::Method { allow }),
            _ => Err(Breach::NoPath),
        }
    }
}

impl Source {
    fn new(model: &Model, text: &str) -> Self {
        let mut digest = [0; 32];
        digest.copy_from_slice(aws_lc_rs::digest::digest(&SHA256, text.as_bytes()).as_ref());
        Self { model: Model { place: Place::default(), ..model.clone() }, digest }
    }
}

impl Meant<'_> {
    /// Holds what stands in the head against it.
    ///
    /// # Errors
    /// The first thing that is not as described.
    pub fn head(&self, query: Option<&str>, headers: &HeaderMap) -> Result<(), Breach> {
        let asked = parameter::Asked::new(&self.captured, query, headers);
        self.operation.parameters.iter().try_for_each(|parameter| parameter.judge(&asked))
    }

    /// Whether anything is said of a body.
    pub fn has_body(&self) -> bool {
        self.operation.body.is_some()
    }

    /// Whether its body is looked into: `None`: it need not be read.
    ///
    /// # Errors
    /// There is none where one must be, or it is of another type: one that is no JSON passes only where no schema
    /// is said for it.
    pub fn kind(&self, headers: &HeaderMap, empty: bool) -> Result<Option<&Schema>, Breach> {
        let Some(content) = &self.operation.body else { return Ok(None) };
        if empty {
            let missing = || Breach::Missing("the body".to_owned());
            return if content.required { Err(missing()) } else { Ok(None) };
        }
        let given = media::only(headers).map_err(|_| Breach::Kinds)?;
        let fits = |kind: &str| {
            kind == given
                || kind == "*/*"
                || kind.strip_suffix('*').is_some_and(|begin| given.starts_with(begin))
        };
        let found = content.kinds.iter().find(|(kind, _)| fits(kind));
        match found {
            Some((_, None)) => Ok(None),
            Some((_, Some(schema))) if media::is_json(&given) => Ok(Some(schema)),
            _ => {
                let all: Vec<&str> = content.kinds.iter().map(|(kind, _)| kind.as_str()).collect();
                Err(Breach::Kind(all.join(", ")))
            }
        }
    }
}

/// Holds a body against its schema; its values may take [`GROWTH`] times as much memory as the largest body has bytes.
///
/// # Errors
/// Where it is not as described.
pub fn body(schema: &Schema, bytes: &[u8], most: u64) -> Result<(), Breach> {
    let room = usize::try_from(most).unwrap_or(usize::MAX).saturating_mul(GROWTH);
    let value = strict::read(bytes, room).map_err(|fault| match fault {
        strict::Fault::Json(why) => Breach::Json(why),
        strict::Fault::TooLarge => Breach::TooLarge,
    })?;
    schema.judge(&value).map_err(|(at, why)| {
        let place = if at.is_empty() { "the body".to_owned() } else { format!("the body at {at}") };
        Breach::Schema { place, why }
    })
}

impl Described {
    /// The less first: what is written out before names, and of names those with most written around them.
    fn rank(&self) -> (Vec<bool>, Vec<Reverse<usize>>) {
        let segments = self.segments.iter().map(|segment| match segment {
            Segment::Text(_) => (false, Reverse(0)),
            Segment::Name(before, _, behind) => (true, Reverse(before.len() + behind.len())),
        });
        segments.unzip()
    }

    /// What its names stand for, if it is this path.
    fn captured(&self, path: &str) -> Option<Vec<(&str, String)>> {
        let mut given = path.strip_prefix('/')?.split('/');
        let mut captured = Vec::new();
        for segment in &self.segments {
            // Before either kind is compared: a text in other letters is no value of a name.
            let text = decoded(given.next()?)?;
            match segment {
                Segment::Text(own) => (**own == *text).then_some(())?,
                Segment::Name(before, name, behind) => {
                    let value = text.strip_prefix(&**before)?.strip_suffix(&**behind)?;
                    captured.push((&**name, (!value.is_empty()).then(|| value.to_owned())?));
                }
            }
        }
        given.next().is_none().then_some(captured)
    }
}

/// A segment without escapes; `None`: it is no text.
fn decoded(text: &str) -> Option<Cow<'_, str>> {
    percent_encoding::percent_decode_str(text).decode_utf8().ok()
}

fn segments(path: &str) -> Result<Vec<Segment>, String> {
    let rest = path.strip_prefix('/').ok_or("a path begins with a slash")?;
    let plain = |text: &str| decoded(text).map(Box::from).ok_or("a segment is no text");
    let segment = |text: &str| match text.split_once('{') {
        None if text.contains('}') => Err("a brace stands alone".to_owned()),
        None => Ok(Segment::Text(plain(text)?)),
        Some((before, rest)) => match rest.split_once('}') {
            Some((name, behind)) if !behind.contains(['{', '}']) && !name.contains('{') => {
                Ok(Segment::Name(plain(before)?, name.into(), plain(behind)?))
            }
            _ => Err("only one name in a segment is understood".to_owned()),
        },
    };
    rest.split('/').map(segment).collect()
}

/// Members of small objects take some twenty times their letters, longer texts next to nothing: most bodies of the largest size
/// have room, and a worker has one at a time.
pub const GROWTH: usize = 16;

/// Most bytes of a description.
const MOST: u64 = 16 << 20;

fn text_of(path: &Path) -> Result<String, String> {
    let size = std::fs::metadata(path).map_err(|fault| fault.to_string())?.len();
    if size > MOST {
        return Err(format!("it is over {MOST} bytes"));
    }
    std::fs::read_to_string(path).map_err(|fault| fault.to_string())
}

/// A part of a description.
type Part = Value;

#[cfg(test)]
mod tests;
