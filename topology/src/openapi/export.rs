//! From a gateway's routes to a description: what clients can call, with which credentials, and what the gateway
//! itself may answer. Schemas of bodies are the services' own.
//!
//! Invariant: an operation that is listed is one that a route takes.

use std::collections::HashMap;

use serde_json::{Map, Value, json};

use super::{OpenApiError, read};
use crate::gateway::{Auth, Certified, Group, Route};
use crate::units::PathPattern;

/// What a route's own descriptions offer: calls of gRPC services by HTTP and JSON.
#[derive(Clone, Debug, Default)]
pub struct Surface {
    /// In the order of paths.
    pub offered: Vec<Offered>,
    /// What they refer to, by kind (`schemas`) and name.
    pub components: Map<String, Value>,
}

impl Surface {
    /// Of a description that requests are held against.
    ///
    /// # Errors
    /// It is none.
    pub fn described(text: &str, prefix: Option<&str>) -> Result<Self, OpenApiError> {
        let whole = read(text)?;
        let prefix = prefix.map_or_else(|| super::prefix(&whole), str::to_owned);
        let mut offered = Vec::new();
        for (path, item) in whole.get("paths").and_then(Value::as_object).into_iter().flatten() {
            let reference = item.get("$ref").and_then(Value::as_str);
            let place = reference.and_then(|text| whole.pointer(text.strip_prefix('#')?));
            let Some(item) = place.unwrap_or(item).as_object() else { continue };
            let shared = item.get("parameters").and_then(Value::as_array);
            for method in METHODS {
                let Some(operation) = item.get(method).and_then(Value::as_object) else { continue };
                let mut operation = operation.clone();
                // Those of the path stand before an operation's own, which count where both say something.
                let own = operation.remove("parameters");
                let own = own.as_ref().and_then(Value::as_array).into_iter().flatten();
                let named = |one: &Value| (one.get("name").cloned(), one.get("in").cloned());
                let own: Vec<Value> = own.cloned().collect();
                let shared = shared.into_iter().flatten();
                let shared = shared.filter(|one| {
                    one.get("$ref").is_some() || own.iter().all(|o| named(o) != named(one))
                });
                let all: Vec<Value> = shared.cloned().chain(own.iter().cloned()).collect();
                if !all.is_empty() {
                    operation.insert("parameters".to_owned(), all.into());
                }
                operation.remove("security");
                operation.remove("servers");
                let (method, path) = (method.to_owned(), format!("{prefix}{path}"));
                offered.push(Offered { method, path, operation });
            }
        }
        let components = whole.get("components").and_then(Value::as_object);
        let mut components = components.cloned().unwrap_or_default();
        components.remove("securitySchemes");
        Ok(Self { offered, components })
    }
}

/// The methods of a path item that a gateway passes.
const METHODS: [&str; 7] = ["get", "put", "post", "delete", "options", "head", "patch"];

/// One operation.
#[derive(Clone, Debug)]
pub struct Offered {
    /// In lower case.
    pub method: String,
    /// With names in braces.
    pub path: String,
    /// Name, parameters, body and answers.
    pub operation: Map<String, Value>,
}

/// The description of a group's routes, OpenAPI 3.1. What a route that transcodes or validates offers, `surface` says,
/// where its descriptions are there.
pub fn export(group: &Group, surface: &dyn Fn(&Route) -> Option<Surface>) -> Value {
    let (mut paths, mut components) = (Map::new(), Map::new());
    for route in &group.routes {
        if let Some(own) = surface(route) {
            let offered = own.offered.into_iter().filter(|one| takes(route, one));
            for Offered { method, path, operation: known } in offered {
                let item = paths.entry(path).or_insert_with(|| Value::Object(Map::new()));
                if let Some(item) = item.as_object_mut().filter(|item| !item.contains_key(&method))
                {
                    item.insert(method, called(&operation(group, route), known));
                }
            }
            join(&mut components, own.components);
            continue;
        }
        let Some((path, parameters)) = path(&route.path) else { continue };
        let item = paths.entry(path).or_insert_with(|| {
            let mut item = Map::new();
            if !parameters.is_empty() {
                item.insert("parameters".to_owned(), parameters.into());
            }
            Value::Object(item)
        });
        for method in methods(route) {
            // Routes with predicates share a path: the first one that a client can meet without any.
            if let Some(item) = item.as_object_mut().filter(|item| !item.contains_key(&method)) {
                item.insert(method, operation(group, route));
            }
        }
    }
    components.insert("securitySchemes".to_owned(), schemes(group).into());
    json!({
        "openapi": "3.1.0",
        "info": { "title": group.name.as_str(), "version": "1" },
        "paths": paths,
        "components": components,
    })
}

/// Adds what is referred to; of two of one kind and name the first one stays.
fn join(known: &mut Map<String, Value>, more: Map<String, Value>) {
    for (kind, all) in more {
        let place = known.entry(kind).or_insert_with(|| Value::Object(Map::new()));
        if let (Some(place), Value::Object(all)) = (place.as_object_mut(), all) {
            for (name, one) in all {
                place.entry(name).or_insert(one);
            }
        }
    }
}

/// Whether a route takes what its service offers there, whatever stands for names.
fn takes(route: &Route, offered: &Offered) -> bool {
    let method = offered.method.to_ascii_uppercase();
    if !route.methods.is_empty() && !route.methods.contains(&method) {
        return false;
    }
    // Its service is asked for another path than its clients ask for.
    let path = route.transform.as_ref().and_then(|change| change.request.path.as_ref());
    if route.transcode.is_some() && path.is_some() {
        return false;
    }
    let alike = |(own, theirs): (&str, &str)| own == theirs || own.starts_with('{');
    let theirs: Vec<&str> = offered.path.split('/').collect();
    match &route.path {
        PathPattern::Exact(text) => *text == offered.path,
        PathPattern::Prefix(text) => {
            let text = text.trim_end_matches('/');
            offered
                .path
                .strip_prefix(text)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        }
        PathPattern::Template(text) => {
            let own: Vec<&str> = text.split('/').collect();
            own.len() == theirs.len() && own.into_iter().zip(theirs).all(alike)
        }
        PathPattern::Regex(_) => false,
    }
}

/// What a gateway says of an operation, and its service's description.
fn called(ours: &Value, theirs: Map<String, Value>) -> Value {
    let mut whole = theirs;
    for (key, value) in ours.as_object().cloned().unwrap_or_default() {
        match (key.as_str(), whole.get_mut(&key).and_then(Value::as_object_mut)) {
            ("responses", Some(known)) => {
                let more = value.as_object().cloned().unwrap_or_default().into_iter();
                known.extend(more.filter(|(status, _)| status != "default"));
            }
            ("operationId", _) => {}
            _ => drop(whole.insert(key, value)),
        }
    }
    Value::Object(whole)
}

/// What cannot be written in one description, in words: routes whose path is a regular expression, and those that
/// another host's route has the path and method of.
pub fn omitted(group: &Group) -> Vec<String> {
    let (mut notes, mut known) = (Vec::new(), HashMap::new());
    for route in &group.routes {
        let name = route.name.as_str();
        let Some((path, _)) = path(&route.path) else {
            notes.push(format!(
                "{name}: left out, a regular expression is no path of a description"
            ));
            continue;
        };
        let mut hidden = Vec::new();
        for method in methods(route) {
            let hosts = known.entry((path.clone(), method.clone())).or_insert(&route.hosts);
            if **hosts != route.hosts {
                hidden.push(method.to_ascii_uppercase());
            }
        }
        if !hidden.is_empty() {
            let hosts: Vec<String> = route.hosts.iter().map(ToString::to_string).collect();
            let hosts = if hosts.is_empty() { "other hosts".to_owned() } else { hosts.join(", ") };
            let methods = hidden.join(", ");
            notes.push(format!(
                "{name}: {methods} of {hosts} left out, another host has this path and method"
            ));
        }
    }
    notes
}

/// Methods in lower case; a route without any takes all.
fn methods(route: &Route) -> Vec<String> {
    if route.methods.is_empty() {
        return ["get", "put", "post", "delete", "patch"].map(str::to_owned).to_vec();
    }
    let methods = route.methods.iter().map(|method| method.to_ascii_lowercase());
    // Whoever takes GET takes HEAD (RFC 9110 §9.3.2), which no description has to say.
    let get = route.methods.iter().any(|method| method == "GET");
    methods.filter(|m| METHODS.contains(&m.as_str()) && !(get && m == "head")).collect()
}

/// A path with names, and what they are; `None`: it cannot be written.
fn path(pattern: &PathPattern) -> Option<(String, Vec<Value>)> {
    let text = match pattern {
        PathPattern::Exact(text) | PathPattern::Template(text) => text.clone(),
        PathPattern::Prefix(text) => format!("{text}/{{rest}}"),
        PathPattern::Regex(_) => return None,
    };
    let parameter = |name: String| json!({ "name": name, "in": "path", "required": true, "schema": { "type": "string" } });
    Some((text, pattern.names().into_iter().map(parameter).collect()))
}

fn operation(group: &Group, route: &Route) -> Value {
    let mut answers = Map::new();
    answers.insert("default".to_owned(), json!({ "description": "The service's answer" }));
    let mut refusal = |status: &str, why: &str| {
        answers.insert(
            status.to_owned(),
            json!({
                "description": why,
                "content": { "application/problem+json": { "schema": { "type": "object" } } },
            }),
        );
    };
    let mut operation = Map::new();
    operation.insert("operationId".to_owned(), route.name.as_str().into());
    if let Auth::Asked(ways) = &route.policy.auth {
        refusal("401", "No valid credentials");
        if !route.policy.scopes.is_empty() || !route.policy.allow.is_empty() {
            refusal("403", "The caller may not do this");
        }
        let scopes: Vec<Value> =
            route.policy.scopes.iter().map(|scope| scope.as_str().into()).collect();
        let issuers = ways.issuers.iter().filter_map(|id| group.issuers.get(id.0));
        let keys = ways.api_keys.iter().filter_map(|id| group.api_keys.get(id.0));
        let certificate = (ways.certificate == Certified::Enough).then(|| "certificate".to_owned());
        let names = issuers.map(|issuer| issuer.name.to_string());
        let names = names.chain(keys.map(|keys| keys.name.to_string())).chain(certificate);
        let ways: Vec<Value> = names.map(|name| json!({ name: scopes })).collect();
        operation.insert("security".to_owned(), ways.into());
    }
    if route.contract.is_some() {
        refusal("400", "The request is not as its description says");
    }
    if !route.policy.limits.is_empty() {
        refusal("429", "Too many requests");
    }
    if let Some(last) = route.sunset {
        refusal("410", &format!("Withdrawn after {last}"));
    }
    if route.sunset.is_some() || route.deprecation.since.is_some() {
        operation.insert("deprecated".to_owned(), true.into());
    }
    operation.insert("responses".to_owned(), answers.into());
    Value::Object(operation)
}

fn schemes(group: &Group) -> Map<String, Value> {
    let issuers = group.issuers.iter().map(|issuer| {
        let text = format!("A token of {}", issuer.issuer);
        (
            issuer.name.to_string(),
            json!({ "type": "http", "scheme": "bearer", "description": text }),
        )
    });
    let keys = group.api_keys.iter().map(|keys| {
        let (place, name) = match (&keys.header, &keys.query) {
            (Some(header), _) => ("header", header.as_str()),
            (None, query) => ("query", query.as_deref().unwrap_or_default()),
        };
        (keys.name.to_string(), json!({ "type": "apiKey", "in": place, "name": name }))
    });
    let certificate = group.tls.as_ref().and_then(|tls| tls.client_ca.as_ref());
    let certificate =
        certificate.map(|_| ("certificate".to_owned(), json!({ "type": "mutualTLS" })));
    issuers.chain(keys).chain(certificate).collect()
}
