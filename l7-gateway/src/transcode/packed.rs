//! A message of a type that it names (`google.protobuf.Any`). Called by `json`.
//!
//! Invariant: what is packed is read as strictly as what is not, at every level, wherever its type stands.

use std::borrow::Cow;
use std::fmt;

use prost::encoding::WireType;
use prost_reflect::{DescriptorPool, MessageDescriptor};
use serde::de::{DeserializeSeed, Error, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::fields::Fields;
use super::json::{Content, Making, is_special, name};

/// What an `Any` holds.
pub(super) struct Packed<'m> {
    pub(super) pool: &'m DescriptorPool,
    pub(super) making: &'m mut Making,
}

/// What stood before the type, as it was written.
type Before<'de> = Vec<(Cow<'de, str>, &'de RawValue)>;

impl<'de> Visitor<'de> for Packed<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let Self { pool, making } = self;
        making.enter()?;
        let mut before: Before<'de> = Vec::new();
        let kind: String = loop {
            match name(&mut map)? {
                Some(name) if name == TYPE => break map.next_value()?,
                Some(name) => {
                    let value: &RawValue = map.next_value()?;
                    // A type that comes late is looked for again in each that lies in another.
                    let left = making.again.checked_sub(value.get().len());
                    making.again = left.ok_or_else(late)?;
                    before.push((name, value));
                }
                None => return Err(A::Error::custom("expected '@type' field")),
            }
        };
        let message = known(pool, &kind).map_err(A::Error::custom)?;
        making.wire.key(1, WireType::LengthDelimited);
        making.wire.text(kind.as_bytes());
        making.wire.key(2, WireType::LengthDelimited);
        let open = making.wire.open();
        if is_special(message.full_name()) {
            special(&message, making, (before, &mut map))?;
        } else {
            let mut fields = Fields::new(&message, making, Vec::new());
            for (name, value) in before {
                let found = fields.find(&name)?;
                let set = fields.slot(&found).deserialize(value).map_err(A::Error::custom)?;
                fields.settle(&found, set)?;
            }
            fields.rest(&mut map)?;
        }
        making.wire.close(&open);
        making.leave();
        Ok(())
    }
}

/// The member that names the type.
const TYPE: &str = "@type";

fn late<E: Error>() -> E {
    E::custom("too much stands before '@type'")
}

fn known(pool: &DescriptorPool, kind: &str) -> Result<MessageDescriptor, String> {
    let (_, name) = kind
        .rsplit_once('/')
        .ok_or_else(|| format!("unsupported type url '{kind}': missing at least one '/'"))?;
    pool.get_message_by_name(name).ok_or_else(|| format!("message '{name}' not found"))
}

/// A message whose JSON is no object of its fields stands under one name.
fn special<'de, A: MapAccess<'de>>(
    message: &MessageDescriptor,
    making: &mut Making,
    (before, map): (Before<'de>, &mut A),
) -> Result<(), A::Error> {
    let mut there = false;
    for (name, value) in before {
        fits(&name, &mut there)?;
        let content = Content { message, making: &mut *making, given: Vec::new() };
        content.deserialize(value).map_err(A::Error::custom)?;
    }
    while let Some(name) = name(map)? {
        fits(&name, &mut there)?;
        map.next_value_seed(Content { message, making: &mut *making, given: Vec::new() })?;
    }
    if there { Ok(()) } else { Err(A::Error::custom("expected 'value' field")) }
}

fn fits<E: Error>(name: &str, there: &mut bool) -> Result<(), E> {
    match name {
        "value" if !std::mem::replace(there, true) => Ok(()),
        "value" => Err(E::custom("a name stands twice in an object")),
        name => Err(E::custom(format!("unrecognized field name '{name}'"))),
    }
}
