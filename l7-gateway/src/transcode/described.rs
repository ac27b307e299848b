//! What clients can call by descriptions of gRPC services, as a description of OpenAPI 3.1: paths, parameters, bodies
//! and the messages in them. Not for calling: `bindings` knows. Called by `aqueduct openapi`.
//!
//! Invariant: each operation is one binding's; a message is described once, under its full name.

use std::collections::{BTreeMap, BTreeSet};

use prost_reflect::{Cardinality, FieldDescriptor, Kind, MessageDescriptor};
use serde_json::{Map, Value, json};
use topology::openapi::{Offered, Surface};

use super::Interface;
use super::answer::is_body;
use super::bindings::{Binding, BodyIs};

impl Interface {
    /// All that it offers, in the order of paths.
    pub fn surface(&self) -> Surface {
        let mut schemas = Schemas::default();
        let mut offered = Vec::new();
        for (method, binding) in self.bindings.all() {
            let methods: Vec<&str> = match method {
                Some(method) => vec![method.as_str()],
                None => vec!["GET", "PUT", "POST", "DELETE", "PATCH"],
            };
            for method in methods {
                let operation = operation(binding, method, &mut schemas);
                let (method, path) = (method.to_ascii_lowercase(), binding.path());
                offered.push(Offered { method, path, operation });
            }
        }
        offered.sort_by(|one, other| (&one.path, &one.method).cmp(&(&other.path, &other.method)));
        let mut known = BTreeSet::new();
        for one in &mut offered {
            let Some(Value::String(name)) = one.operation.get_mut("operationId") else { continue };
            let bare = name.clone();
            for count in 2.. {
                if known.insert(name.clone()) {
                    break;
                }
                *name = format!("{bare}.{count}");
            }
        }
        let schemas = Value::Object(schemas.drawn());
        let components = [("schemas".to_owned(), schemas)].into_iter().collect();
        Surface { offered, components }
    }
}

/// What a call that failed is told as; every answer may be it, whether descriptions speak of it or not.
const STATUS: &str = "google.rpc.Status";

/// Messages that have to be described.
#[derive(Default)]
struct Schemas {
    wanted: BTreeMap<String, MessageDescriptor>,
}

fn operation(binding: &Binding, method: &str, schemas: &mut Schemas) -> Map<String, Value> {
    let input = &binding.call.input;
    let mut parameters = Vec::new();
    let mut known = BTreeSet::new();
    for (name, field) in binding.parameters() {
        let schema = leads(input, &field).map_or_else(string, |field| schemas.single(&field));
        parameters.push(json!({ "name": name, "in": "path", "required": true, "schema": schema }));
        known.insert(field);
    }
    let body = match &binding.body {
        BodyIs::Nothing => None,
        BodyIs::Everything => Some(schemas.message(input)),
        BodyIs::Field(field) => Some(schemas.field(field)),
    };
    if !matches!(binding.body, BodyIs::Everything) {
        if let BodyIs::Field(field) = &binding.body {
            known.insert(field.name().to_owned());
        }
        let mut query = Query { known: &known, schemas, parameters: &mut parameters };
        query.fields(input, (String::new(), String::new()), 0);
    }
    let mut operation = Map::new();
    let name = binding.call.path.trim_start_matches('/').replace('/', ".");
    operation
        .insert("operationId".to_owned(), format!("{name}.{}", method.to_ascii_lowercase()).into());
    if !parameters.is_empty() {
        operation.insert("parameters".to_owned(), parameters.into());
    }
    if let Some(schema) = body {
        let kind = if binding.takes_any() { "*/*" } else { "application/json" };
        let content = if binding.takes_any() { json!({}) } else { json!({ "schema": schema }) };
        operation.insert("requestBody".to_owned(), json!({ "content": { kind: content } }));
    }
    let raw = is_body(&binding.call.output, binding.answer.as_ref());
    let told = match &binding.answer {
        Some(field) => schemas.field(field),
        None => schemas.message(&binding.call.output),
    };
    let content = match (raw, binding.call.streams) {
        (true, _) => json!({ "*/*": {} }),
        (false, true) => json!({
            "application/x-ndjson": { "schema": told.clone() },
            "text/event-stream": { "schema": told },
        }),
        (false, false) => json!({ "application/json": { "schema": told } }),
    };
    let status = json!({ "$ref": format!("#/components/schemas/{STATUS}") });
    let failed = json!({ "application/json": { "schema": status } });
    operation.insert(
        "responses".to_owned(),
        json!({
            "200": { "description": "The message of the service", "content": content },
            "default": { "description": "How the call failed", "content": failed },
        }),
    );
    operation
}

/// Fields that a query may give: those of one value or a list of them, of messages by their path.
struct Query<'q> {
    known: &'q BTreeSet<String>,
    schemas: &'q mut Schemas,
    parameters: &'q mut Vec<Value>,
}

/// How deep fields of messages are told one by one; deeper ones may be given all the same.
const DEEPEST: usize = 2;

impl Query<'_> {
    fn fields(
        &mut self,
        message: &MessageDescriptor,
        (path, json): (String, String),
        depth: usize,
    ) {
        for field in message.fields() {
            let (path, json) =
                (format!("{path}{}", field.name()), format!("{json}{}", field.json_name()));
            if self.known.contains(&path) || field.is_map() {
                continue;
            }
            match field.kind().as_message().filter(|inner| special(inner).is_none()) {
                Some(_) if field.is_list() || depth == DEEPEST => {}
                Some(inner) => {
                    self.fields(inner, (format!("{path}."), format!("{json}.")), depth + 1);
                }
                None => {
                    let schema = self.schemas.field(&field);
                    self.parameters.push(json!({ "name": json, "in": "query", "schema": schema }));
                }
            }
        }
    }
}

fn string() -> Value {
    json!({ "type": "string" })
}

/// The field at the end of a path of names.
fn leads(message: &MessageDescriptor, path: &str) -> Option<FieldDescriptor> {
    match path.split_once('.') {
        None => message.get_field_by_name(path),
        Some((first, rest)) => leads(message.get_field_by_name(first)?.kind().as_message()?, rest),
    }
}

impl Schemas {
    /// A message by reference, or what stands for it.
    fn message(&mut self, message: &MessageDescriptor) -> Value {
        if let Some(schema) = special(message) {
            return schema;
        }
        let name = message.full_name();
        if !self.wanted.contains_key(name) {
            self.wanted.insert(name.to_owned(), message.clone());
            // Those that it has; a message that has itself is wanted already.
            message.fields().for_each(|field| drop(self.field(&field)));
        }
        json!({ "$ref": format!("#/components/schemas/{name}") })
    }

    fn field(&mut self, field: &FieldDescriptor) -> Value {
        if field.is_map() {
            let kind = field.kind();
            let value = kind.as_message().and_then(|entry| entry.get_field_by_name("value"));
            let value = value.map_or_else(|| json!({}), |value| self.single(&value));
            return json!({ "type": "object", "additionalProperties": value });
        }
        let single = self.single(field);
        match field.cardinality() {
            Cardinality::Repeated => json!({ "type": "array", "items": single }),
            Cardinality::Optional | Cardinality::Required => single,
        }
    }

    /// One value of a field (ProtoJSON).
    fn single(&mut self, field: &FieldDescriptor) -> Value {
        match field.kind() {
            Kind::Double => json!({ "type": "number", "format": "double" }),
            Kind::Float => json!({ "type": "number", "format": "float" }),
            Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => {
                json!({ "type": "integer", "format": "int32" })
            }
            Kind::Uint32 | Kind::Fixed32 => {
                json!({ "type": "integer", "format": "int64", "minimum": 0 })
            }
            Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => {
                json!({ "type": "string", "format": "int64" })
            }
            Kind::Uint64 | Kind::Fixed64 => json!({ "type": "string", "format": "uint64" }),
            Kind::Bool => json!({ "type": "boolean" }),
            Kind::String => string(),
            Kind::Bytes => json!({ "type": "string", "contentEncoding": "base64" }),
            Kind::Enum(of) => {
                let names: Vec<String> = of.values().map(|value| value.name().to_owned()).collect();
                json!({ "type": "string", "enum": names })
            }
            Kind::Message(message) => self.message(&message),
        }
    }

    fn drawn(mut self) -> Map<String, Value> {
        let wanted: Vec<_> = self.wanted.clone().into_iter().collect();
        let drawn = wanted.into_iter().map(|(name, message)| {
            let fields = message.fields();
            let fields = fields.map(|field| (field.json_name().to_owned(), self.field(&field)));
            let fields: Map<String, Value> = fields.collect();
            (name, json!({ "type": "object", "properties": fields }))
        });
        let status = json!({ "type": "object", "properties": {
            "code": { "type": "integer", "format": "int32" },
            "message": { "type": "string" },
            "details": { "type": "array", "items": { "type": "object" } },
        } });
        drawn.chain([(STATUS.to_owned(), status)]).collect()
    }
}

/// What stands for messages whose JSON is none of their fields (ProtoJSON); `None`: it is.
fn special(message: &MessageDescriptor) -> Option<Value> {
    Some(match message.full_name().strip_prefix("google.protobuf.")? {
        "Timestamp" => json!({ "type": "string", "format": "date-time" }),
        "Duration" | "FieldMask" | "StringValue" => string(),
        "BytesValue" => json!({ "type": "string", "contentEncoding": "base64" }),
        "DoubleValue" | "FloatValue" => json!({ "type": "number" }),
        "Int32Value" | "UInt32Value" => json!({ "type": "integer" }),
        "Int64Value" | "UInt64Value" => json!({ "type": "string" }),
        "BoolValue" => json!({ "type": "boolean" }),
        "ListValue" => json!({ "type": "array" }),
        "Value" => json!({}),
        "Struct" | "Any" | "Empty" => json!({ "type": "object" }),
        _ => return None,
    })
}
