//! A request as a message: its body, its query and its path (google.api.http, "Path template syntax" and
//! "Rules for HTTP mapping"). Called by stage 7.
//!
//! Invariant: every part of a request ends in a field or in a refusal that names it.

use bytes::{BufMut, Bytes, BytesMut};
use prost::Message as _;
use prost_reflect::{
    DynamicMessage, FieldDescriptor, Kind, MessageDescriptor, ReflectMessage, Value,
};
use serde_json::Deserializer;
use serde_json::value::RawValue;
use thiserror::Error;

use super::Meant;
use super::bindings::{BodyIs, field, leads};

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
    /// A body where none is meant.
    #[error("this call takes no body")]
    NoBody,
    /// A parameter that is no field.
    #[error("there is no field `{0}`")]
    Field(String),
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
    let binding = meant.binding;
    let mut message = match &binding.body {
        BodyIs::Nothing if body.is_empty() => DynamicMessage::new(binding.call.input.clone()),
        BodyIs::Nothing => return Err(MessageError::NoBody),
        BodyIs::Everything if body.is_empty() => DynamicMessage::new(binding.call.input.clone()),
        BodyIs::Everything => read(&binding.call.input, body)?,
        BodyIs::Field(name) => {
            // The field alone, as a document of its own would hold it; what ends it early is no value.
            let body = if body.is_empty() { b"null" } else { body };
            let value: &RawValue =
                serde_json::from_slice(body).map_err(|fault| no(&binding.call.input, &fault))?;
            let name = serde_json::Value::from(name.as_str()).to_string();
            read(&binding.call.input, format!("{{{name}:{}}}", value.get()).as_bytes())?
        }
    };
    for (name, value) in form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
        let names: Vec<String> = name.split('.').map(str::to_owned).collect();
        let free = match &binding.body {
            BodyIs::Nothing => true,
            BodyIs::Everything => false,
            BodyIs::Field(field) => names.first() != Some(field),
        };
        if !free || binding.gives(&names) {
            return Err(MessageError::Field(name.into_owned()));
        }
        set(&mut message, &names, &value)?;
    }
    for (names, value) in &meant.captured {
        set(&mut message, names, value)?;
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
    let mut deserializer = Deserializer::from_slice(body);
    let message =
        DynamicMessage::deserialize(descriptor.clone(), &mut deserializer).map_err(wrong)?;
    deserializer.end().map_err(wrong)?;
    Ok(message)
}

/// Sets the field that names lead to; one of a list gets another element.
fn set(message: &mut DynamicMessage, names: &[String], text: &str) -> Result<(), MessageError> {
    let unknown = || MessageError::Field(names.join("."));
    let last = leads(&message.descriptor(), names).ok_or_else(unknown)?;
    let (_, outer) = names.split_last().ok_or_else(unknown)?;
    let mut inner = message;
    for name in outer {
        let step = field(&inner.descriptor(), name).ok_or_else(unknown)?;
        inner = inner.get_field_mut(&step).as_message_mut().ok_or_else(unknown)?;
    }
    let value = value(&last, text).ok_or_else(|| MessageError::Value {
        field: names.join("."),
        value: text.chars().take(64).collect(),
    })?;
    if last.is_list() {
        inner.get_field_mut(&last).as_list_mut().ok_or_else(unknown)?.push(value);
    } else if last.is_map() {
        return Err(unknown());
    } else {
        inner.set_field(&last, value);
    }
    Ok(())
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
        Kind::Float => Value::F32(text.parse().ok()?),
        Kind::Double => Value::F64(text.parse().ok()?),
        Kind::Bytes => Value::Bytes(bytes(text)?.into()),
        Kind::Enum(known) => match known.get_value_by_name(text) {
            Some(value) => Value::EnumNumber(value.number()),
            None => Value::EnumNumber(text.parse().ok()?),
        },
        // Times, masks and wrapped values have a text in JSON.
        Kind::Message(inner) => {
            let quoted = serde_json::Value::from(text).to_string();
            let read = |json: &str| {
                DynamicMessage::deserialize(inner.clone(), &mut Deserializer::from_str(json)).ok()
            };
            Value::Message(read(&quoted).or_else(|| read(text))?)
        }
    })
}

/// Base64 in either alphabet, with or without padding.
fn bytes(text: &str) -> Option<Vec<u8>> {
    use base64::Engine as _;
    use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
    let bare = text.trim_end_matches('=');
    STANDARD_NO_PAD.decode(bare).or_else(|_| URL_SAFE_NO_PAD.decode(bare)).ok()
}
