//! Schemas: those of OpenAPI 3.0 as JSON Schema 2020-12 has them, compiled, and values held against them.
//!
//! Invariant: patterns are matched in linear time, and a reason repeats nothing of a value.

use jsonschema::{Draft, PatternOptions, Validator};
use serde_json::{Map, Value, json};

/// Compiles a schema that may refer to the description's components.
///
/// # Errors
/// In words.
pub fn compile(schema: &Value, components: &Value) -> Result<Validator, String> {
    let mut root = json!({ "allOf": [schema] });
    if let Some(root) = root.as_object_mut() {
        root.insert("components".to_owned(), components.clone());
    }
    let options = jsonschema::options()
        .with_draft(Draft::Draft202012)
        .should_validate_formats(true)
        .with_pattern_options(PatternOptions::regex());
    options.build(&root).map_err(|fault| fault.to_string())
}

/// Where a value is not as its schema says, and why.
///
/// # Errors
/// The first place.
pub fn judge(validator: &Validator, value: &Value) -> Result<(), (String, String)> {
    // Told from `validate`, it remembers what it has found of each part: the reasons of all branches of
    // `oneOf` and `anyOf` together are as many as branches to the power of levels.
    if validator.is_valid(value) {
        return Ok(());
    }
    if !is_shallow(value, DEEPEST) {
        return Err((String::new(), "it is not as its schema says".to_owned()));
    }
    validator.validate(value).map_err(|fault| {
        let at = fault.instance_path().to_string();
        let why: String = fault.masked().to_string().chars().take(LONGEST).collect();
        (at, why)
    })
}

/// Whether it nests no deeper than that.
fn is_shallow(value: &Value, levels: usize) -> bool {
    let below = |inner: &Value| levels > 0 && is_shallow(inner, levels - 1);
    match value {
        Value::Array(all) => all.iter().all(below),
        Value::Object(all) => all.values().all(below),
        _ => true,
    }
}

/// Most levels of a value whose fault is looked for.
const DEEPEST: usize = 8;

/// Most letters of a reason.
const LONGEST: usize = 200;

/// Keywords whose value is a schema, a list of them, or schemas by name.
const ONE: [&str; 9] = [
    "items",
    "additionalProperties",
    "not",
    "if",
    "then",
    "else",
    "contains",
    "propertyNames",
    "unevaluatedProperties",
];
const SEVERAL: [&str; 4] = ["allOf", "anyOf", "oneOf", "prefixItems"];
const NAMED: [&str; 4] = ["properties", "patternProperties", "$defs", "dependentSchemas"];

/// As requests are held against it: what answers alone have is not required (OpenAPI 3.1 §4.8.24), and what 3.0
/// writes otherwise is written as 3.1 does.
pub fn modern(schema: &mut Value, old: bool) {
    let Some(members) = schema.as_object_mut() else { return };
    if old {
        nullable(members);
        exclusive(members, "minimum", "exclusiveMinimum");
        exclusive(members, "maximum", "exclusiveMaximum");
    }
    let answers = |name: &Value| {
        let own = members.get("properties")?.get(name.as_str()?)?;
        own.get("readOnly")?.as_bool().filter(|only| *only)
    };
    let kept = members.get("required").and_then(Value::as_array).map(|names| {
        names.iter().filter(|name| answers(name).is_none()).cloned().collect::<Value>()
    });
    if let Some(kept) = kept {
        members.insert("required".to_owned(), kept);
    }
    for (name, value) in members.iter_mut() {
        match value {
            inner if ONE.contains(&name.as_str()) => modern(inner, old),
            Value::Array(all) if SEVERAL.contains(&name.as_str()) => {
                all.iter_mut().for_each(|one| modern(one, old));
            }
            Value::Object(all) if NAMED.contains(&name.as_str()) => {
                all.values_mut().for_each(|one| modern(one, old));
            }
            _ => {}
        }
    }
}

/// `nullable: true` (OpenAPI 3.0) is a further type.
fn nullable(members: &mut Map<String, Value>) {
    if members.remove("nullable") != Some(Value::Bool(true)) {
        return;
    }
    if let Some(Value::String(kind)) = members.get("type").cloned() {
        members.insert("type".to_owned(), json!([kind, "null"]));
    }
    if let Some(Value::Array(values)) = members.get_mut("enum")
        && !values.contains(&Value::Null)
    {
        values.push(Value::Null);
    }
}

/// `exclusiveMinimum: true` beside `minimum` (OpenAPI 3.0) is a bound of its own.
fn exclusive(members: &mut Map<String, Value>, bound: &str, name: &str) {
    let Some(Value::Bool(exclusive)) = members.get(name).cloned() else { return };
    members.remove(name);
    if exclusive && let Some(value) = members.remove(bound) {
        members.insert(name.to_owned(), value);
    }
}
