//! Schemas: those of OpenAPI 3.0 as JSON Schema 2020-12 has them, compiled, and values held against them.
//!
//! Invariant: patterns are matched in linear time, and a reason repeats nothing of a value.

use std::collections::HashSet;

use jsonschema::{Draft, PatternOptions, Registry, RegistryBuilder, Validator};
use serde_json::{Map, Value, json};

/// A schema, compiled.
#[derive(Debug)]
pub struct Schema {
    validator: Validator,
    /// It, or what it refers to, has `oneOf` or `anyOf`.
    branches: bool,
}

impl Schema {
    /// Compiles a schema that may refer to the description's components.
    ///
    /// # Errors
    /// In words.
    pub fn new(schema: &Value, components: &Components) -> Result<Self, String> {
        let mut root = schema.clone();
        lead(&mut root);
        let options = jsonschema::options()
            .with_draft(Draft::Draft202012)
            .with_registry(&components.known)
            .should_validate_formats(true)
            .with_pattern_options(PatternOptions::regex());
        let validator = options.build(&root).map_err(|fault| fault.to_string())?;
        Ok(Self { validator, branches: branches(schema, &components.all) })
    }

    /// Where a value is not as it says, and why.
    ///
    /// # Errors
    /// The first place.
    pub fn judge(&self, value: &Value) -> Result<(), (String, String)> {
        // Told from `validate`, it remembers what it has found of each part.
        if self.validator.is_valid(value) {
            return Ok(());
        }
        // The reasons of all branches are gathered, each with a copy of its part: as many as parts, and where
        // branches lie in branches as branches to the power of levels. Without any the first one is the last.
        let (levels, mut parts) = if self.branches { BRANCHED } else { (DEEPEST, usize::MAX) };
        if !is_within(value, levels, &mut parts) {
            return Err((String::new(), "it is not as its schema says".to_owned()));
        }
        self.validator.validate(value).map_err(|fault| {
            let at = fault.instance_path().to_string();
            let why: String = fault.masked().to_string().chars().take(LONGEST).collect();
            (at, why)
        })
    }
}

/// Schemas that others refer to, read once for all of them.
#[derive(Debug)]
pub struct Components {
    all: Value,
    known: Registry<'static>,
}

impl Components {
    /// What stands under `components`.
    ///
    /// # Errors
    /// In words.
    pub fn new(all: Value) -> Result<Self, String> {
        let whole = Draft::Draft202012.create_resource(json!({ "components": all }));
        let known = Registry::new().draft(Draft::Draft202012).add(HOME, whole);
        let known = known.and_then(RegistryBuilder::prepare).map_err(|fault| fault.to_string())?;
        Ok(Self { all, known })
    }
}

/// Where components are, for a schema that stands elsewhere. Nobody is asked for it.
const HOME: &str = "description:/";

/// Leads references within the description to its components.
fn lead(part: &mut Value) {
    match part {
        Value::Array(all) => all.iter_mut().for_each(lead),
        Value::Object(members) => {
            for (name, value) in members {
                match value {
                    Value::String(to) if name == "$ref" && to.starts_with('#') => {
                        to.insert_str(0, HOME);
                    }
                    inner => lead(inner),
                }
            }
        }
        _ => {}
    }
}

/// Whether branches can be met from a schema: what leads elsewhere than to a component may.
fn branches(schema: &Value, components: &Value) -> bool {
    let (mut seen, mut open) = (HashSet::new(), vec![schema]);
    while let Some(part) = open.pop() {
        match part {
            Value::Array(all) => open.extend(all),
            Value::Object(members) => {
                if MANY.iter().any(|name| members.contains_key(*name)) {
                    return true;
                }
                if let Some(reference) = members.get("$ref").and_then(Value::as_str) {
                    let pointer = reference.strip_prefix("#/components");
                    match pointer.and_then(|pointer| components.pointer(pointer)) {
                        Some(part) if seen.insert(reference) => open.push(part),
                        Some(_) => {}
                        None => return true,
                    }
                }
                open.extend(members.values());
            }
            _ => {}
        }
    }
    false
}

/// What has branches, or leads to what is not known.
const MANY: [&str; 5] = ["oneOf", "anyOf", "$id", "$dynamicRef", "$recursiveRef"];

/// Whether it nests no deeper than that, and has no more parts.
fn is_within(value: &Value, levels: usize, parts: &mut usize) -> bool {
    let Some(left) = parts.checked_sub(1) else { return false };
    *parts = left;
    let mut below = |inner: &Value| levels > 0 && is_within(inner, levels - 1, parts);
    match value {
        Value::Array(all) => all.iter().all(&mut below),
        Value::Object(all) => all.values().all(below),
        _ => true,
    }
}

/// Most levels and parts of a value whose fault is looked for where there are branches.
const BRANCHED: (usize, usize) = (3, 64);

/// Most levels where there are none.
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
/// writes otherwise is written as 3.1 does. What it refers to is looked up in the whole description.
pub fn modern(schema: &mut Value, old: bool, whole: &Value) {
    let mut answers = HashSet::new();
    of_answers(schema, whole, DEEPEST, &mut answers);
    rewritten(schema, (old, whole), &answers);
}

/// Names of members that answers alone have, those of `allOf` and of what is referred to, too.
fn of_answers(schema: &Value, whole: &Value, levels: usize, names: &mut HashSet<String>) {
    let Some(left) = levels.checked_sub(1) else { return };
    let schema = led(schema, whole);
    for (name, own) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
        if is_of_answers(own, whole, left) {
            names.insert(name.clone());
        }
    }
    for part in schema.get("allOf").and_then(Value::as_array).into_iter().flatten() {
        of_answers(part, whole, left, names);
    }
}

fn is_of_answers(schema: &Value, whole: &Value, levels: usize) -> bool {
    let Some(left) = levels.checked_sub(1) else { return false };
    // In 3.1 something may stand beside a reference.
    let only = |part: &Value| part.get("readOnly").and_then(Value::as_bool) == Some(true);
    let (own, target) = (schema, led(schema, whole));
    let mut parts = target.get("allOf").and_then(Value::as_array).into_iter().flatten();
    only(own) || only(target) || parts.any(|part| is_of_answers(part, whole, left))
}

/// What a schema refers to, if it does.
fn led<'v>(mut schema: &'v Value, whole: &'v Value) -> &'v Value {
    for _ in 0..DEEPEST {
        let reference = schema.get("$ref").and_then(Value::as_str);
        let found = reference.and_then(|text| whole.pointer(text.strip_prefix('#')?));
        let Some(found) = found else { return schema };
        schema = found;
    }
    schema
}

fn rewritten(schema: &mut Value, (old, whole): (bool, &Value), answers: &HashSet<String>) {
    let Some(members) = schema.as_object_mut() else { return };
    if old {
        nullable(members);
        exclusive(members, "minimum", "exclusiveMinimum");
        exclusive(members, "maximum", "exclusiveMaximum");
    }
    if let Some(Value::Array(names)) = members.get_mut("required") {
        names.retain(|name| !name.as_str().is_some_and(|name| answers.contains(name)));
    }
    for (name, value) in members.iter_mut() {
        match value {
            inner if ONE.contains(&name.as_str()) => modern(inner, old, whole),
            Value::Array(all) if name == "allOf" => {
                for part in all {
                    // They speak of the same object.
                    let mut of_all = answers.clone();
                    of_answers(part, whole, DEEPEST, &mut of_all);
                    rewritten(part, (old, whole), &of_all);
                }
            }
            Value::Array(all) if SEVERAL.contains(&name.as_str()) => {
                all.iter_mut().for_each(|one| modern(one, old, whole));
            }
            Value::Object(all) if NAMED.contains(&name.as_str()) => {
                all.values_mut().for_each(|one| modern(one, old, whole));
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
