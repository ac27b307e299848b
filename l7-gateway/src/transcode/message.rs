//! A request as a message: its body, its query and its path (google.api.http, "Path template syntax" and
//! "Rules for HTTP mapping"). Called by stage 7.
//!
//! Invariant: every part of a request ends in a field or in a refusal that names it.

use bytes::Bytes;
use prost_reflect::{DynamicMessage, FieldDescriptor, Kind, MessageDescriptor, Value};
use thiserror::Error;

use super::Meant;
use super::bindings::{BodyIs, leads, numbers, within};
use super::json::{self, Fault, WRAPPERS};
use super::scalar::{bytes, number};
use super::wire::Wire;
use crate::query;

/// Why a request is no message.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum MessageError {
    /// The body.
    #[error("the body is no {name}: {why}")]
    Body {
        /// What it should be.
        name: String,
        /// Why it is not.
        why: String,
    },
    /// A body whose message is several times as large as a body may be.
    #[error("the body is too large as a message")]
    TooLarge,
    /// A body of another type.
    #[error("the body is no JSON")]
    Foreign,
    /// A body in a coding that is not known.
    #[error("the body has an unknown coding")]
    Coding,
    /// A body where none is meant.
    #[error("this call takes no body")]
    NoBody,
    /// A query that is no UTF-8.
    #[error("the query is no text")]
    Query,
    /// A parameter that is no field.
    #[error("there is no field `{0}`")]
    Field(String),
    /// A field that has a value already, or another one that it cannot stand beside.
    #[error("`{0}` cannot be said again, nor beside another of its oneof")]
    Twice(String),
    /// A value that does not fit its field.
    #[error("`{value}` is no value of `{field}`")]
    Value {
        /// The field.
        field: String,
        /// The value.
        value: String,
    },
}

/// The message that a request means, as it is sent. What its path gives counts, whatever its body says of it: of the body are
/// "all fields not bound by the path" (google.api.http).
///
/// # Errors
/// What of it fits nowhere.
pub fn message(
    meant: &Meant<'_>,
    query: Option<&str>,
    (body, most): (&[u8], usize),
) -> Result<Bytes, MessageError> {
    let (binding, input) = (meant.binding, &meant.binding.call.input);
    let most = most.saturating_mul(GROWTH);
    let wire = match &binding.body {
        BodyIs::Nothing if !body.is_empty() => return Err(MessageError::NoBody),
        _ if body.is_empty() => Ok(Wire::new(most, 0)),
        BodyIs::Nothing | BodyIs::Everything => {
            json::whole(input, body, (binding.given(&[]), most))
        }
        BodyIs::Field(field) => {
            json::of_field(field, body, (binding.given(&[field.number()]), most))
        }
    };
    let wire = wire.map_err(|fault| match fault {
        Fault::Json(fault) => {
            MessageError::Body { name: input.name().to_owned(), why: fault.to_string() }
        }
        Fault::TooLarge => MessageError::TooLarge,
    })?;
    let field = match &binding.body {
        BodyIs::Field(field) if !wire.is_empty() => Some(field),
        _ => None,
    };
    let more = filled(meant, (query, field), DynamicMessage::new(input.clone()))?;
    Ok(wire.sent(&more))
}

/// How much larger than its bound the message of a body may be: a digit can be a number of eight bytes.
const GROWTH: usize = 4;

/// The message of a request whose body is passed as it is (`google.api.HttpBody`).
///
/// # Errors
/// As [`message`].
pub fn raw(
    meant: &Meant<'_>,
    query: Option<&str>,
    (kind, body): (&str, Bytes),
) -> Result<Bytes, MessageError> {
    let (length, mut message) = (body.len(), DynamicMessage::new(meant.binding.call.input.clone()));
    if !body.is_empty() {
        let whole = match &meant.binding.body {
            BodyIs::Field(field) => message.get_field_mut(field).as_message_mut(),
            BodyIs::Everything | BodyIs::Nothing => Some(&mut message),
        };
        if let Some(whole) = whole {
            let _ = whole.try_set_field_by_name("content_type", Value::String(kind.to_owned()));
            let _ = whole.try_set_field_by_name("data", Value::Bytes(body));
        }
    }
    let message = filled(meant, (query, None), message)?;
    Ok(Wire::new(usize::MAX, length).sent(&message))
}

/// A message with what query and path give of it. Of the field that its body is it holds nothing; others of its oneof have no
/// place beside it.
fn filled(
    meant: &Meant<'_>,
    (asked, body): (Option<&str>, Option<&FieldDescriptor>),
    mut message: DynamicMessage,
) -> Result<DynamicMessage, MessageError> {
    let input = &meant.binding.call.input;
    let beside = |steps: &[FieldDescriptor], name: &str| {
        let oneof = body.and_then(FieldDescriptor::containing_oneof);
        let other = steps.first().filter(|first| Some(*first) != body);
        match other.and_then(FieldDescriptor::containing_oneof) {
            Some(of) if Some(&of) == oneof.as_ref() => Err(MessageError::Twice(name.to_owned())),
            _ => Ok(()),
        }
    };
    let mut said: Vec<Vec<u32>> = Vec::new();
    for pair in query::pairs(asked.unwrap_or_default()) {
        let (name, value) = pair.ok_or(MessageError::Query)?;
        let unknown = || MessageError::Field(name.as_ref().to_owned());
        let names: Vec<String> = name.split('.').map(str::to_owned).collect();
        let steps = leads(input, &names).ok_or_else(unknown)?;
        let place = numbers(&steps);
        if meant.binding.gives(&place) {
            return Err(unknown());
        }
        let list = steps.last().is_some_and(FieldDescriptor::is_list);
        if said.iter().any(|said| within(said, &place) && !(list && *said == place)) {
            return Err(MessageError::Twice(name.into_owned()));
        }
        beside(&steps, &name)?;
        set(&mut message, &steps, (&name, &value))?;
        said.push(place);
    }
    for (names, value) in &meant.captured {
        let name = names.join(".");
        let steps = leads(input, names).ok_or_else(|| MessageError::Field(name.clone()))?;
        beside(&steps, &name)?;
        set(&mut message, &steps, (&name, value))?;
    }
    Ok(message)
}

/// Sets the field that steps lead to; one of a list gets another element.
fn set(
    message: &mut DynamicMessage,
    steps: &[FieldDescriptor],
    (name, text): (&str, &str),
) -> Result<(), MessageError> {
    let unknown = || MessageError::Field(name.to_owned());
    let (last, outer) = steps.split_last().ok_or_else(unknown)?;
    let value = value(last, text).ok_or_else(|| MessageError::Value {
        field: name.to_owned(),
        value: text.chars().take(64).collect(),
    })?;
    let mut inner = message;
    for step in outer {
        alone(inner, step, name)?;
        inner = inner.get_field_mut(step).as_message_mut().ok_or_else(unknown)?;
    }
    alone(inner, last, name)?;
    if last.is_list() {
        inner.get_field_mut(last).as_list_mut().ok_or_else(unknown)?.push(value);
    } else {
        inner.set_field(last, value);
    }
    Ok(())
}

/// Of a oneof there is no other: setting this one would take it away unseen.
fn alone(
    message: &DynamicMessage,
    field: &FieldDescriptor,
    name: &str,
) -> Result<(), MessageError> {
    let Some(oneof) = field.containing_oneof() else { return Ok(()) };
    let other = oneof.fields().any(|other| other != *field && message.has_field(&other));
    if other { Err(MessageError::Twice(name.to_owned())) } else { Ok(()) }
}

/// A text as a value of a field: as JSON would have it, with or without quotes.
fn value(field: &FieldDescriptor, text: &str) -> Option<Value> {
    Some(match field.kind() {
        Kind::String => Value::String(text.to_owned()),
        Kind::Bool => Value::Bool(text.parse().ok()?),
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => Value::I32(text.parse().ok()?),
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => Value::I64(text.parse().ok()?),
        Kind::Uint32 | Kind::Fixed32 => Value::U32(text.parse().ok()?),
        Kind::Uint64 | Kind::Fixed64 => Value::U64(text.parse().ok()?),
        Kind::Float => Value::F32(number(text, f32::is_finite)?),
        Kind::Double => Value::F64(number(text, f64::is_finite)?),
        Kind::Bytes => Value::Bytes(bytes(text)?.into()),
        Kind::Enum(known) => match known.get_value_by_name(text) {
            Some(value) => Value::EnumNumber(value.number()),
            None => Value::EnumNumber(text.parse().ok()?),
        },
        Kind::Message(inner) => Value::Message(worded(&inner, text)?),
    })
}

/// The messages that are one text in JSON: times, masks and wrapped values. Others are given field by field.
fn worded(message: &MessageDescriptor, text: &str) -> Option<DynamicMessage> {
    match message.full_name().strip_prefix("google.protobuf.")? {
        "Timestamp" | "Duration" | "FieldMask" => {
            let quoted = serde_json::Value::from(text);
            DynamicMessage::deserialize(message.clone(), quoted).ok()
        }
        name if WRAPPERS.contains(&name) => {
            let field = message.get_field(1)?;
            let mut wrapped = DynamicMessage::new(message.clone());
            wrapped.set_field(&field, value(&field, text)?);
            Some(wrapped)
        }
        _ => None,
    }
}
