//! From a gateway's routes to a description: what clients can call, with which credentials, and what the gateway
//! itself may answer. Schemas of bodies are the services' own.
//!
//! Invariant: an operation that is listed is one that a route takes.

use std::collections::HashMap;

use serde_json::{Map, Value, json};

use crate::gateway::{Auth, Certified, Group, Route};
use crate::units::PathPattern;

/// The description of a group's routes, OpenAPI 3.1.
pub fn export(group: &Group) -> Value {
    let mut paths = Map::new();
    for route in &group.routes {
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
    json!({
        "openapi": "3.1.0",
        "info": { "title": group.name.as_str(), "version": "1" },
        "paths": paths,
        "components": { "securitySchemes": schemes(group) },
    })
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
    let known = ["GET", "PUT", "POST", "DELETE", "OPTIONS", "HEAD", "PATCH"];
    let methods = route.methods.iter().filter(|method| known.contains(&method.as_str()));
    methods.map(|method| method.to_ascii_lowercase()).collect()
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
