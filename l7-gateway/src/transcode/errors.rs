//! How a call ended, in JSON (google.rpc.Status). Called by `answer` and `stream`.
//!
//! Invariant: what a service says of an error is told as it said it; nothing of the gateway's own is added.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use http::HeaderMap;
use percent_encoding::percent_decode;
use prost::Message as _;
use prost_reflect::{DescriptorPool, DynamicMessage};
use serde_json::{Value, json};

use super::json::is_special;
use super::{depth, google};
use crate::grpc;
use crate::grpc::details::{self, Detail, Status};

/// How a call ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ending {
    /// Its code; 0: well.
    pub code: u8,
    /// What clients are told if not.
    pub status: Value,
}

impl Ending {
    /// As trailers, or a head without a body, say it; `None`: they do not.
    pub fn read(fields: &HeaderMap, pool: &DescriptorPool) -> Option<Self> {
        let code = grpc::status(fields)?;
        let message = fields
            .get(grpc::MESSAGE)
            .map(|value| percent_decode(value.as_bytes()).decode_utf8_lossy().into_owned());
        let details = fields.get(details::NAME).and_then(|value| {
            let text = value.as_bytes();
            let bytes = STANDARD.decode(text).or_else(|_| STANDARD_NO_PAD.decode(text)).ok()?;
            Status::decode(bytes.as_slice()).ok()
        });
        let details = details.map(|status| status.details).unwrap_or_default();
        let details: Vec<Value> = details.iter().map(|one| detail(one, pool)).collect();
        let message = message.unwrap_or_default();
        Some(Self { code, status: json!({ "code": code, "message": message, "details": details }) })
    }
}

/// A detail by its type where that is known, else as bytes.
fn detail(one: &Detail, pool: &DescriptorPool) -> Value {
    let name = one.kind.rsplit('/').next().unwrap_or_default();
    // Services may send what their descriptions do not name.
    let known =
        pool.get_message_by_name(name).or_else(|| google::details().get_message_by_name(name));
    let message = known.and_then(|known| DynamicMessage::decode(known, one.value.as_slice()).ok());
    let message = message.filter(|message| depth::within(message, depth::MOST));
    let mut value = match message.and_then(|message| serde_json::to_value(&message).ok()) {
        // Of a message whose JSON is no object of its fields, names in it are not its fields' (ProtoJSON, "Any").
        Some(Value::Object(members)) if !is_special(name) => Value::Object(members),
        Some(other) => json!({ "value": other }),
        None => json!({ "value": STANDARD.encode(&one.value) }),
    };
    if let Some(members) = value.as_object_mut() {
        members.insert("@type".to_owned(), one.kind.as_str().into());
    }
    value
}
