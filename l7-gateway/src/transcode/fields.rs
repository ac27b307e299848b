//! Objects of JSON whose names are known: messages, and the maps in them. Called by `json` and `packed`.
//!
//! Invariant: of a oneof one member is set, here or by who gives fields from elsewhere.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;

use prost::encoding::WireType;
use prost_reflect::{FieldDescriptor, Kind, MessageDescriptor};
use serde::de::{Error, MapAccess, Visitor};

use super::json::{Given, Making, Member, Slot, member, name, one};
use super::scalar::{Scalar, wire_type};

/// A message's fields.
pub(super) struct Fields<'m> {
    message: &'m MessageDescriptor,
    making: &'m mut Making,
    given: Given<'m>,
    /// Numbers that stood there: few at first, a look at each is less than a table.
    seen: Vec<u32>,
    many: HashSet<u32>,
    /// Those of oneofs that have a value.
    set: Vec<u32>,
}

/// A field that is known.
pub(super) struct Found {
    member: Member,
    field: Option<FieldDescriptor>,
}

impl<'m> Fields<'m> {
    pub(super) fn new(
        message: &'m MessageDescriptor,
        making: &'m mut Making,
        given: Given<'m>,
    ) -> Self {
        let (seen, many, set) = (Vec::new(), HashSet::new(), Vec::new());
        Self { message, making, given, seen, many, set }
    }

    /// The field that has this name, for the first time.
    pub(super) fn find<E: Error>(&mut self, name: &str) -> Result<Found, E> {
        let (member, field) = member(self.message, name)
            .ok_or_else(|| E::custom(format!("unrecognized field name '{name}'")))?;
        let number = member.number;
        let new =
            !self.seen.contains(&number) && (self.seen.len() < FEW || self.many.insert(number));
        if !new {
            let name = field.as_ref().map_or(name, FieldDescriptor::name);
            return Err(E::custom(format!("the field `{name}` stands twice")));
        }
        if self.seen.len() < FEW {
            self.seen.push(number);
        }
        Ok(Found { member, field })
    }

    /// Where its value goes.
    pub(super) fn slot<'s>(&'s mut self, found: &'s Found) -> Slot<'s> {
        let number = found.member.number;
        let below = |place: &&'m [u32]| place.strip_prefix(&[number]);
        let given = self.given.iter().filter_map(below).collect();
        Slot { member: &found.member, making: self.making, given }
    }

    /// It has a value, or is as if it had not been said.
    pub(super) fn settle<E: Error>(&mut self, found: &Found, set: bool) -> Result<(), E> {
        let Some(oneof) = found.field.as_ref().and_then(FieldDescriptor::containing_oneof) else {
            return Ok(());
        };
        if !set {
            return Ok(());
        }
        let number = found.member.number;
        let given = |other: u32| self.given.iter().any(|place| place.first() == Some(&other));
        let mut others = oneof.fields().map(|other| other.number()).filter(|n| *n != number);
        if others.any(|other| self.set.contains(&other) || given(other)) {
            let name = oneof.name();
            return Err(E::custom(format!("multiple fields provided for oneof '{name}'")));
        }
        self.set.push(number);
        Ok(())
    }

    /// All that an object has yet to say.
    pub(super) fn rest<'de, A: MapAccess<'de>>(&mut self, map: &mut A) -> Result<(), A::Error> {
        while let Some(name) = name(map)? {
            let found = self.find(&name)?;
            let set = map.next_value_seed(self.slot(&found))?;
            self.settle(&found, set)?;
        }
        Ok(())
    }
}

/// Fields that are looked through one by one.
const FEW: usize = 32;

impl<'de> Visitor<'de> for Fields<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<(), A::Error> {
        self.making.enter()?;
        self.rest(&mut map)?;
        self.making.leave();
        Ok(())
    }
}

/// A map's entries, each a message of a key and a value (protobuf, "Maps").
pub(super) struct Entries<'m> {
    pub(super) member: &'m Member,
    pub(super) making: &'m mut Making,
}

impl<'de> Visitor<'de> for Entries<'_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<bool, A::Error> {
        let Self { member, making } = self;
        let (key, value) = member.entry().ok_or_else(|| A::Error::custom("it is no map"))?;
        making.enter()?;
        let mut seen = Keys::default();
        while let Some(name) = name(&mut map)? {
            making.wire.key(member.number, WireType::LengthDelimited);
            let open = making.wire.open();
            making.wire.key(1, wire_type(&key));
            let new = match key {
                Kind::Bool => {
                    let value: bool = name.parse().map_err(A::Error::custom)?;
                    making.wire.varint(value.into());
                    seen.texts.insert(name)
                }
                Kind::String => {
                    making.wire.text(name.as_bytes());
                    seen.texts.insert(name)
                }
                _ => {
                    let scalar = Scalar { kind: &key, wire: &mut making.wire };
                    scalar.visit_str(&name)?;
                    // In its one form: `01` is 1.
                    seen.numbers.insert(name.parse().map_err(A::Error::custom)?)
                }
            };
            if !new {
                return Err(A::Error::custom("a name stands twice in an object"));
            }
            map.next_value_seed(Value { member: &value, making })?;
            making.wire.close(&open);
        }
        making.leave();
        Ok(!seen.numbers.is_empty() || !seen.texts.is_empty())
    }
}

/// Keys of an open map.
#[derive(Default)]
struct Keys<'de> {
    texts: HashSet<Cow<'de, str>>,
    numbers: HashSet<i128>,
}

struct Value<'m> {
    member: &'m Member,
    making: &'m mut Making,
}

impl<'de> serde::de::DeserializeSeed<'de> for Value<'_> {
    type Value = ();

    fn deserialize<D: serde::Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        one(self.member, self.making, (Vec::new(), from)).map(drop)
    }
}
