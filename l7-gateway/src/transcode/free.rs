//! JSON of any form as `google.protobuf.Value` has it. Called by `json`.
//!
//! Invariant: no name stands twice in an object (RFC 8259 §4).

use std::fmt;

use prost::encoding::WireType;
use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use std::collections::HashSet;

use super::json::{Making, name};

/// What a `Value` holds.
pub(super) struct Free<'m>(pub(super) &'m mut Making);

impl<'de> DeserializeSeed<'de> for Free<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Free<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        self.0.wire.key(NOTHING, WireType::Varint);
        self.0.wire.varint(0);
        Ok(())
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<(), E> {
        self.0.wire.key(TRUTH, WireType::Varint);
        self.0.wire.varint(value.into());
        Ok(())
    }

    #[expect(clippy::cast_precision_loss, reason = "a `Value` has no other numbers")]
    fn visit_i64<E: Error>(self, value: i64) -> Result<(), E> {
        self.visit_f64(value as f64)
    }

    #[expect(clippy::cast_precision_loss, reason = "a `Value` has no other numbers")]
    fn visit_u64<E: Error>(self, value: u64) -> Result<(), E> {
        self.visit_f64(value as f64)
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<(), E> {
        self.0.wire.key(NUMBER, WireType::SixtyFourBit);
        self.0.wire.put(&value.to_le_bytes());
        Ok(())
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<(), E> {
        self.0.wire.key(TEXT, WireType::LengthDelimited);
        self.0.wire.text(value.as_bytes());
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<(), A::Error> {
        self.0.wire.key(LIST, WireType::LengthDelimited);
        let open = self.0.wire.open();
        FreeList(self.0).visit_seq(list)?;
        self.0.wire.close(&open);
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<(), A::Error> {
        self.0.wire.key(OBJECT, WireType::LengthDelimited);
        let open = self.0.wire.open();
        FreeMap(self.0).visit_map(map)?;
        self.0.wire.close(&open);
        Ok(())
    }
}

/// Members of `google.protobuf.Value`.
const NOTHING: u32 = 1;
const NUMBER: u32 = 2;
const TEXT: u32 = 3;
const TRUTH: u32 = 4;
const OBJECT: u32 = 5;
const LIST: u32 = 6;

/// What a `ListValue` holds.
pub(super) struct FreeList<'m>(pub(super) &'m mut Making);

impl<'de> Visitor<'de> for FreeList<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        self.0.enter()?;
        while list.next_element_seed(Held(self.0, 1))?.is_some() {}
        self.0.leave();
        Ok(())
    }
}

/// What a `Struct` holds: a map of names.
pub(super) struct FreeMap<'m>(pub(super) &'m mut Making);

impl<'de> Visitor<'de> for FreeMap<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let making = self.0;
        making.enter()?;
        let mut seen = HashSet::new();
        while let Some(name) = name(&mut map)? {
            making.wire.key(1, WireType::LengthDelimited);
            let open = making.wire.open();
            making.wire.key(1, WireType::LengthDelimited);
            making.wire.text(name.as_bytes());
            if !seen.insert(name) {
                return Err(A::Error::custom("a name stands twice in an object"));
            }
            map.next_value_seed(Held(making, 2))?;
            making.wire.close(&open);
        }
        making.leave();
        Ok(())
    }
}

/// A `Value` with its key and its length.
struct Held<'m>(&'m mut Making, u32);

impl<'de> DeserializeSeed<'de> for Held<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        let Self(making, field) = self;
        making.bounded()?;
        making.wire.key(field, WireType::LengthDelimited);
        let open = making.wire.open();
        Free(making).deserialize(from)?;
        making.wire.close(&open);
        Ok(())
    }
}
