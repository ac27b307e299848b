//! A request as a message: its body, its query and its path (google.api.http, "Path template syntax" and
//! "Rules for HTTP mapping"). Called by stage 7.
//!
//! Invariant: every part of a request ends in a field or in a refusal that names it.

use std::str::FromStr;

use bytes::{BufMut, Bytes, BytesMut};
use prost::Message as _;
use prost_reflect::{DynamicMessage, FieldDescriptor, Kind, MessageDescriptor, Value};
use serde_json::Deserializer;
use serde_json::value::RawValue;
use thiserror::Error;

use super::bindings::{BodyIs, leads, numbers, within};
use super::{Meant, strict};

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
    /// A body of another type.
    #[error("the body is no JSON")]
    Foreign,
    /// A body in a coding that is not known.
    #[error("the body has an unknown coding")]
    Coding,
    /// A body where none is meant.
    #[error("this call takes no body")]
    NoBody,
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

/// The message that a request means.
///
/// # Errors
/// What of it fits nowhere.
pub fn message(
    meant: &Meant<'_>,
    query: Option<&str>,
    body: &[u8],
) -> Result<DynamicMessage, MessageError> {
    let input = &meant.binding.call.input;
    let message = match &meant.binding.body {
        BodyIs::Nothing if !body.is_empty() => return Err(MessageError::NoBody),
        BodyIs::Nothing => DynamicMessage::new(input.clone()),
        BodyIs::Everything | BodyIs::Field(_) if body.is_empty() => {
            DynamicMessage::new(input.clone())
        }
        BodyIs::Everything => read(input, body)?,
        BodyIs::Field(field) => {
            // The field alone, as a document of its own would hold it; what ends it early is no value.
            let value: &RawValue =
                serde_json::from_slice(body).map_err(|fault| no(input, &fault))?;
            let name = serde_json::Value::from(field.name()).to_string();
            read(input, format!("{{{name}:{}}}", value.get()).as_bytes())?
        }
    };
    filled(meant, query, message)
}

/// The message of a request whose body is passed as it is (`google.api.HttpBody`).
///
/// # Errors
/// As [`message`].
pub fn raw(
    meant: &Meant<'_>,
    query: Option<&str>,
    (kind, body): (&str, Bytes),
) -> Result<DynamicMessage, MessageError> {
    let mut message = DynamicMessage::new(meant.binding.call.input.clone());
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
    filled(meant, query, message)
}

/// A message with what query and path give of it.
fn filled(
    meant: &Meant<'_>,
    query: Option<&str>,
    mut message: DynamicMessage,
) -> Result<DynamicMessage, MessageError> {
    let input = &meant.binding.call.input;
    let mut said: Vec<Vec<u32>> = Vec::new();
    for (name, value) in form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
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
        set(&mut message, &steps, (&name, &value))?;
        said.push(place);
    }
    for (names, value) in &meant.captured {
        let name = names.join(".");
        let steps = leads(input, names).ok_or_else(|| MessageError::Field(name.clone()))?;
        set(&mut message, &steps, (&name, value))?;
    }
    Ok(message)
}

/// The message as it is sent: not compressed, with its length (gRPC, "Length-Prefixed-Message").
pub fn framed(message: &DynamicMessage) -> Bytes {
    let length = message.encoded_len();
    let mut out = BytesMut::with_capacity(length + 5);
    out.put_u8(0);
    out.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    message.encode(&mut out).expect("invariant: there is room for what was measured");
    out.freeze()
}

fn no(descriptor: &MessageDescriptor, fault: &serde_json::Error) -> MessageError {
    MessageError::Body { name: descriptor.name().to_owned(), why: fault.to_string() }
}

fn read(descriptor: &MessageDescriptor, body: &[u8]) -> Result<DynamicMessage, MessageError> {
    let wrong = |fault| no(descriptor, &fault);
    strict::read(descriptor, body).map_err(wrong)?;
    let mut deserializer = Deserializer::from_slice(body);
    let message =
        DynamicMessage::deserialize(descriptor.clone(), &mut deserializer).map_err(wrong)?;
    deserializer.end().map_err(wrong)?;
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
        "DoubleValue" | "FloatValue" | "Int64Value" | "UInt64Value" | "Int32Value"
        | "UInt32Value" | "BoolValue" | "StringValue" | "BytesValue" => {
            let field = message.get_field(1)?;
            let mut wrapped = DynamicMessage::new(message.clone());
            wrapped.set_field(&field, value(&field, text)?);
            Some(wrapped)
        }
        _ => None,
    }
}

/// A number, or one of the three words that JSON has for what is none (ProtoJSON); one that is too large is none.
fn number<T: FromStr + Copy>(text: &str, is_finite: fn(T) -> bool) -> Option<T> {
    let word = matches!(text, "NaN" | "Infinity" | "-Infinity");
    text.parse().ok().filter(|number| word || is_finite(*number))
}

/// Base64 in either alphabet, with or without padding.
fn bytes(text: &str) -> Option<Vec<u8>> {
    use base64::Engine as _;
    use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
    let bare = text.trim_end_matches('=');
    STANDARD_NO_PAD.decode(bare).or_else(|_| URL_SAFE_NO_PAD.decode(bare)).ok()
}
