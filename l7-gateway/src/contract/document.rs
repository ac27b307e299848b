//! A description on its way to a contract: what refers to what, and what its operations take. Called by `contract`.
//!
//! Invariant: whatever refers to something that is not in the document is refused, with both places.

use std::collections::HashMap;

use http::Method;
use serde_json::{Map, Value};

use super::parameter::Parameter;
use super::schema::{Components, Schema, modern};
use super::{Content, Operation, Part};
use crate::media;

/// The methods of a path (OpenAPI 3.1 §4.8.9).
const METHODS: [Method; 8] = [
    Method::GET,
    Method::PUT,
    Method::POST,
    Method::DELETE,
    Method::OPTIONS,
    Method::HEAD,
    Method::PATCH,
    Method::TRACE,
];

/// A document.
#[derive(Debug)]
pub struct Document {
    whole: Value,
    components: Components,
    old: bool,
}

impl Document {
    /// Of what was read.
    ///
    /// # Errors
    /// In words.
    pub fn new(whole: Value) -> Result<Self, String> {
        let old = whole.get("openapi").and_then(Value::as_str).unwrap_or_default();
        let old = old.starts_with("3.0");
        let mut all = whole.get("components").cloned().unwrap_or_default();
        for (kind, parts) in all.as_object_mut().into_iter().flatten() {
            for part in parts.as_object_mut().into_iter().flat_map(Map::values_mut) {
                // What others may refer to: schemas, and those in parameters, bodies and answers.
                match kind.as_str() {
                    "schemas" => modern(part, old, &whole),
                    _ => inner(part, old, &whole),
                }
            }
        }
        let components = Components::new(all)?;
        Ok(Self { whole, components, old })
    }

    /// Its paths.
    pub fn paths(&self) -> Vec<(String, Part)> {
        let paths = self.whole.get("paths").and_then(Value::as_object);
        let own = |(path, item): (&String, &Value)| (path.clone(), item.clone());
        paths.into_iter().flatten().map(own).collect()
    }

    /// What the methods of a path take.
    ///
    /// # Errors
    /// In words.
    pub(super) fn operations(&self, item: &Part) -> Result<HashMap<Method, Operation>, String> {
        let item = self.resolved(item)?;
        let mut all = HashMap::new();
        for method in METHODS {
            let name = method.as_str().to_ascii_lowercase();
            if let Some(own) = item.get(&name) {
                let told = |what| format!("{name}: {what}");
                all.insert(method, self.operation(item, own).map_err(told)?);
            }
        }
        Ok(all)
    }

    fn operation(&self, item: &Part, own: &Part) -> Result<Operation, String> {
        let mut parameters: Vec<Parameter> = Vec::new();
        // An operation's stand in for the path's of the same name and place.
        for list in [own, item] {
            let list = list.get("parameters").and_then(Value::as_array);
            for one in list.into_iter().flatten() {
                let one = self.parameter(self.resolved(one)?)?;
                if let Some(one) = one.filter(|one| !parameters.iter().any(|p| p.is(one))) {
                    parameters.push(one);
                }
            }
        }
        let body = own.get("requestBody").map(|body| self.body(body)).transpose()?;
        Ok(Operation { parameters, body })
    }

    fn parameter(&self, part: &Part) -> Result<Option<Parameter>, String> {
        let name = part.get("name").and_then(Value::as_str).ok_or("a parameter has no name")?;
        let told = |what: String| format!("parameter `{name}`: {what}");
        let Some(schema) = part.get("schema") else { return Ok(Parameter::new(part, None, None)) };
        let mut bare = self.resolved(schema).map_err(told)?.clone();
        if let Some(items) = bare.get_mut("items") {
            *items = self.resolved(items).map_err(told)?.clone();
        }
        let compiled = self.compiled(schema).map_err(told)?;
        Ok(Parameter::new(part, Some(&bare), Some(compiled)))
    }

    fn body(&self, part: &Part) -> Result<Content, String> {
        let part = self.resolved(part)?;
        let kinds = part.get("content").and_then(Value::as_object);
        let mut all = Vec::new();
        for (kind, model) in kinds.into_iter().flatten() {
            let kind = media::bare(kind);
            let schema = model.get("schema").filter(|schema| !is_any_text(&kind, schema));
            let schema = schema.map(|schema| self.compiled(schema)).transpose();
            all.push((kind, schema.map_err(|what| format!("the body: {what}"))?));
        }
        // The narrower first.
        all.sort_by_key(|(kind, _)| kind.matches('*').count());
        let required = part.get("required").and_then(Value::as_bool).unwrap_or_default();
        Ok(Content { required, kinds: all })
    }

    fn compiled(&self, schema: &Part) -> Result<Schema, String> {
        let mut schema = schema.clone();
        modern(&mut schema, self.old, &self.whole);
        Schema::new(&schema, &self.components)
    }

    /// Follows references within the document.
    fn resolved<'d>(&'d self, mut part: &'d Part) -> Result<&'d Part, String> {
        for _ in 0..MOST_STEPS {
            let Some(reference) = part.get("$ref").and_then(Value::as_str) else { return Ok(part) };
            let pointer = reference.strip_prefix('#');
            let pointer = pointer.ok_or_else(|| format!("`{reference}` is not in this file"))?;
            let found = self.whole.pointer(pointer);
            part = found.ok_or_else(|| format!("`{reference}` leads nowhere"))?;
        }
        Err("references lead in a circle".to_owned())
    }
}

/// Schemas within a part that is none.
fn inner(part: &mut Value, old: bool, whole: &Value) {
    match part {
        Value::Array(all) => all.iter_mut().for_each(|one| inner(one, old, whole)),
        Value::Object(members) => {
            for (name, value) in members {
                match name.as_str() {
                    "schema" => modern(value, old, whole),
                    "example" | "examples" => {}
                    _ => inner(value, old, whole),
                }
            }
        }
        _ => {}
    }
}

/// Whether a schema says no more than that a body of this type, no JSON, is text or bytes.
fn is_any_text(kind: &str, schema: &Part) -> bool {
    let bare = ["type", "format", "description", "title", "example", "examples"];
    let members = schema.as_object();
    !kind.contains('*')
        && !media::is_json(kind)
        && schema.get("type").and_then(Value::as_str) == Some("string")
        && members.is_some_and(|all| all.keys().all(|name| bare.contains(&name.as_str())))
}

/// References to references.
const MOST_STEPS: usize = 16;
