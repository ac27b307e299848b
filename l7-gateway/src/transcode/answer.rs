//! A service's messages as JSON. Called by stage 9.
//!
//! Invariant: no message is larger than the bound, as JSON than four times that, and one that is compressed, cut or too deep is
//! refused.

use std::io;

use bytes::{Buf as _, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue};
use http_body::Body;
use http_body_util::BodyExt as _;
use prost_reflect::{DynamicMessage, FieldDescriptor, MessageDescriptor, SerializeOptions};
use thiserror::Error;

use super::bindings::Binding;
use super::depth;
use super::errors::Ending;
use crate::body::BodyFault;
use crate::hops::{self, Internal};
use crate::transform::json;

/// A call under way, for whoever tells its end.
#[derive(Clone, Debug)]
pub struct Calling {
    output: MessageDescriptor,
    part: Option<FieldDescriptor>,
    /// How deep its messages may be with what they pack; `None`: they cannot pack any.
    deepest: Option<usize>,
    /// Whether its message is a body of a type of its own (`google.api.HttpBody`).
    raw: bool,
    /// Whether it gives several messages.
    pub streams: bool,
    /// Whether they are told as events (a browser's EventSource), not as lines.
    pub events: bool,
    /// Most bytes of a message.
    pub most: usize,
}

/// Why an answer cannot be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum AnswerError {
    /// It is no gRPC.
    #[error("the answer is no gRPC")]
    Foreign,
    /// A message is larger than it may be.
    #[error("a message is too large")]
    TooLarge,
    /// A message is none of its kind, or compressed.
    #[error("a message cannot be read")]
    Malformed,
    /// Nothing says how the call ended, so nobody knows whether it was carried out.
    #[error("the call has no end")]
    Endless,
    /// The body broke off.
    #[error(transparent)]
    Body(BodyFault),
}

impl Calling {
    /// Of a binding.
    pub fn new(binding: &Binding, events: bool, most: usize) -> Self {
        let (call, part) = (&binding.call, binding.answer.clone());
        // Pieces of a stream have no one type: they are told as messages.
        let raw = !call.streams && is_body(&call.output, part.as_ref());
        let (output, streams) = (call.output.clone(), call.streams);
        let deepest = call.packs.then_some(depth::MOST);
        Self { output, part, deepest, raw, streams, events, most }
    }

    /// How the call ended, as fields say it.
    pub fn ending(&self, fields: &HeaderMap) -> Option<Ending> {
        Ending::read(fields, self.output.parent_pool())
    }

    /// A message as its client takes it.
    ///
    /// # Errors
    /// It is none of its kind.
    pub fn told(&self, bytes: &[u8]) -> Result<Told, AnswerError> {
        if !self.raw {
            let kind = HeaderValue::from_static("application/json");
            return Ok(Told { kind, body: self.json(bytes)? });
        }
        let message = DynamicMessage::decode(self.output.clone(), bytes);
        let mut message = message.map_err(|_| AnswerError::Malformed)?;
        if let Some(field) = &self.part {
            let part = message.get_field(field).as_message().cloned();
            message = part.ok_or(AnswerError::Malformed)?;
        }
        let text = |name: &str| message.get_field_by_name(name).map(std::borrow::Cow::into_owned);
        let kind = text("content_type").and_then(|kind| HeaderValue::try_from(kind.as_str()?).ok());
        let kind = kind.filter(|kind| !kind.is_empty());
        let kind = kind.unwrap_or(HeaderValue::from_static("application/octet-stream"));
        let body = text("data").and_then(|data| Some(data.as_bytes()?.to_vec()));
        Ok(Told { kind, body: body.unwrap_or_default() })
    }

    /// A message as JSON: default values too, so that clients meet the same members always.
    pub fn json(&self, bytes: &[u8]) -> Result<Vec<u8>, AnswerError> {
        let message = DynamicMessage::decode(self.output.clone(), bytes);
        let message = message.map_err(|_| AnswerError::Malformed)?;
        if self.deepest.is_some_and(|deepest| !depth::within(&message, deepest)) {
            return Err(AnswerError::Malformed);
        }
        let options = SerializeOptions::new().skip_default_fields(false);
        let told = Vec::with_capacity(bytes.len().saturating_mul(2));
        let mut bounded = Bounded { told, left: self.most.saturating_mul(GROWTH) };
        let mut writer = serde_json::Serializer::new(&mut bounded);
        message.serialize_with_options(&mut writer, &options).map_err(|fault| {
            if fault.is_io() { AnswerError::TooLarge } else { AnswerError::Malformed }
        })?;
        let told = bounded.told;
        if let Some(field) = &self.part {
            // As it was written just now: none of it is read into values again.
            let text = std::str::from_utf8(&told).map_err(|_| AnswerError::Malformed)?;
            let part = json::part(text, &[field.json_name().to_owned()]);
            return Ok(part.unwrap_or("null").as_bytes().to_vec());
        }
        Ok(told)
    }
}

/// How much larger than the bound of a message its JSON may be: names and default values are written out.
const GROWTH: usize = 4;

/// Takes no more than so many bytes: two bytes of a message can be hundreds of JSON.
struct Bounded {
    told: Vec<u8>,
    left: usize,
}

impl io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.left = self.left.checked_sub(bytes.len()).ok_or(io::ErrorKind::FileTooLarge)?;
        self.told.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What a message is to a client.
#[derive(Debug, PartialEq, Eq)]
pub struct Told {
    /// Its media type.
    pub kind: HeaderValue,
    /// The body.
    pub body: Vec<u8>,
}

/// Whether a message, or this field of it, is a body of a type of its own.
pub fn is_body(message: &MessageDescriptor, part: Option<&FieldDescriptor>) -> bool {
    match part.map(|part| (part.is_list(), part.kind())) {
        None => message.full_name() == BODY,
        Some((list, kind)) => !list && kind.as_message().is_some_and(|m| m.full_name() == BODY),
    }
}

const BODY: &str = "google.api.HttpBody";

/// Messages out of a stream of bytes.
#[derive(Debug, Default)]
pub struct Messages {
    held: BytesMut,
}

impl Messages {
    /// More bytes.
    pub fn push(&mut self, bytes: &[u8]) {
        self.held.extend_from_slice(bytes);
    }

    /// The next whole one.
    ///
    /// # Errors
    /// It is compressed or too large.
    pub fn next(&mut self, most: usize) -> Result<Option<Bytes>, AnswerError> {
        let Some((flag, rest)) = self.held.split_first() else { return Ok(None) };
        if *flag != 0 {
            return Err(AnswerError::Malformed);
        }
        let Some(length) = rest.first_chunk::<4>() else { return Ok(None) };
        let length = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
        if length > most {
            return Err(AnswerError::TooLarge);
        }
        if self.held.len() < length + 5 {
            return Ok(None);
        }
        self.held.advance(5);
        Ok(Some(self.held.split_to(length).freeze()))
    }

    /// Whether nothing of a message is left over.
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }
}

/// A call of one message, when it has ended.
#[derive(Debug)]
pub struct Ended {
    /// How.
    pub ending: Ending,
    /// Its message, if it ended well.
    pub told: Option<Told>,
    /// What else stood behind the message.
    pub behind: HeaderMap,
}

/// The one message of a call, and how it ended.
///
/// # Errors
/// Anything else than one message and an end, or an end that is an error.
pub async fn unary<B>(calling: &Calling, mut body: B) -> Result<Ended, AnswerError>
where
    B: Body<Data = Bytes, Error = BodyFault> + Unpin,
{
    let (mut messages, mut told, mut behind) = (Messages::default(), None, None);
    while let Some(frame) = body.frame().await {
        match frame.map_err(AnswerError::Body)?.into_data() {
            Ok(data) => messages.push(&data),
            Err(frame) => behind = frame.into_trailers().ok(),
        }
        while let Some(message) = messages.next(calling.most)? {
            if told.is_some() {
                return Err(AnswerError::Malformed);
            }
            told = Some(calling.told(&message)?);
        }
    }
    let mut behind = behind.ok_or(AnswerError::Endless)?;
    let ending = calling.ending(&behind).ok_or(AnswerError::Endless)?;
    if !messages.is_empty() || (ending.code == 0 && told.is_none()) {
        return Err(AnswerError::Malformed);
    }
    strip(&mut behind);
    Ok(Ended { told: told.filter(|_| ending.code == 0), ending, behind })
}

/// Fields of gRPC's own, which HTTP clients are not told.
pub fn strip(headers: &mut HeaderMap) {
    let ours = |name: &HeaderName| name.as_str().starts_with("grpc-");
    let names: Vec<HeaderName> = headers.keys().filter(|name| ours(name)).cloned().collect();
    for name in names {
        headers.remove(name);
    }
}

/// Says in the head what stood behind the message, under names that cannot be taken for what a head says
/// (`Grpc-Trailer-…`, as grpc-gateway has it).
pub fn behind(headers: &mut HeaderMap, mut fields: HeaderMap, internal: &Internal) {
    hops::trailers(&mut fields, internal);
    for (name, value) in &fields {
        if let Ok(name) = HeaderName::try_from(format!("grpc-trailer-{name}")) {
            headers.append(name, value.clone());
        }
    }
}
