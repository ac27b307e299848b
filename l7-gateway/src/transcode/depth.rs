//! How deep a message goes with what stands packed in it. Not for what it says. Called by `answer` and `errors`.
//!
//! Invariant: what is told as JSON is no deeper than what one decoding may be, however often it begins anew in an `Any`: the
//! serializer takes a worker's stack for each level.

use std::collections::HashSet;

use prost_reflect::{DynamicMessage, Kind, MessageDescriptor, ReflectMessage as _, Value};

/// As prost decodes.
pub const MOST: usize = 100;
const ANY: &str = "google.protobuf.Any";

/// Whether a message of this kind can hold messages that its description does not name.
pub fn may_pack(message: &MessageDescriptor) -> bool {
    let (mut seen, mut left) = (HashSet::new(), vec![message.clone()]);
    while let Some(one) = left.pop() {
        if one.full_name() == ANY {
            return true;
        }
        if seen.insert(one.full_name().to_owned()) {
            left.extend(one.fields().filter_map(|field| match field.kind() {
                Kind::Message(inner) => Some(inner),
                _ => None,
            }));
        }
    }
    false
}

/// Whether a message has at most so many levels, unpacked.
pub fn within(message: &DynamicMessage, levels: usize) -> bool {
    let Some(levels) = levels.checked_sub(1) else { return false };
    if message.descriptor().full_name() == ANY {
        return unpacked(message).is_none_or(|inner| within(&inner, levels));
    }
    message.fields().all(|(_, value)| value_within(value, levels))
}

fn value_within(value: &Value, levels: usize) -> bool {
    match value {
        Value::Message(inner) => within(inner, levels),
        Value::List(all) => all.iter().all(|one| value_within(one, levels)),
        Value::Map(all) => all.values().all(|one| value_within(one, levels)),
        _ => true,
    }
}

/// `None`: nobody knows what it is, so nobody unpacks it.
fn unpacked(any: &DynamicMessage) -> Option<DynamicMessage> {
    let (kind, value) = (any.get_field_by_name("type_url")?, any.get_field_by_name("value")?);
    let name = kind.as_str()?.rsplit('/').next()?;
    let descriptor = any.descriptor();
    let known = descriptor.parent_pool().get_message_by_name(name)?;
    DynamicMessage::decode(known, value.as_bytes()?.as_ref()).ok()
}

#[cfg(test)]
mod tests {
    use prost::Message as _;
    use prost_reflect::DescriptorPool;

    use super::*;

    /// An `Any` in an `Any`, so often.
    fn packed(levels: usize) -> DynamicMessage {
        let any = DescriptorPool::global().get_message_by_name(ANY).expect("it is well known");
        let mut message = DynamicMessage::new(any.clone());
        for _ in 1..levels {
            let mut outer = DynamicMessage::new(any.clone());
            outer.set_field_by_name("type_url", Value::String(format!("/{ANY}")));
            outer.set_field_by_name("value", Value::Bytes(message.encode_to_vec().into()));
            message = outer;
        }
        message
    }

    /// G15: a service cannot make a worker's stack overflow: each `Any` begins a decoding of its own.
    #[test]
    fn packed_messages_count() {
        assert!(within(&packed(MOST), MOST));
        assert!(!within(&packed(MOST + 1), MOST));
        assert!(!within(&packed(3000), MOST));
        assert!(may_pack(&packed(1).descriptor()));
    }
}
