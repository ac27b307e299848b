//! A body of JSON as a message's bytes (ProtoJSON), in one pass and without a tree: nothing is kept of a value once it is
//! written, and of an open object only the names that may not come again. Called by `message`.
//!
//! Invariant: of a body that passes, every reader takes the same message: no field stands in it twice, whichever of its two
//! names is used, and no key of a map (RFC 8259 §4; ProtoJSON takes both names).

use std::borrow::Cow;
use std::fmt;

use prost::Message as _;
use prost::encoding::WireType;
use prost_reflect::{
    DynamicMessage, ExtensionDescriptor, FieldDescriptor, Kind, MessageDescriptor,
};
use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};

use super::bindings::field;
use super::fields::Fields;
use super::free::{Free, FreeList, FreeMap};
use super::packed::Packed;
use super::scalar::{NULL, Scalar, wire_type};
use super::wire::Wire;

/// A message in the making, with what bounds it.
#[derive(Debug)]
pub struct Making {
    /// What is written.
    pub wire: Wire,
    levels: usize,
    /// Bytes that were read again, and may be yet.
    pub again: usize,
}

impl Making {
    /// Of a body; it may become so many bytes.
    fn new(body: &[u8], most: usize) -> Self {
        Self { wire: Wire::new(most, body.len()), levels: 0, again: body.len() * AGAIN }
    }

    /// An object or a list begins.
    pub fn enter<E: Error>(&mut self) -> Result<(), E> {
        self.levels += 1;
        if self.levels > DEEPEST { Err(E::custom("recursion limit exceeded")) } else { Ok(()) }
    }

    /// It ends.
    pub fn leave(&mut self) {
        self.levels -= 1;
    }

    /// Refuses what has grown too large: asked for each value.
    pub fn bounded<E: Error>(&self) -> Result<(), E> {
        if self.wire.is_over() { Err(E::custom("it is too large as a message")) } else { Ok(()) }
    }
}

/// Levels of objects and lists, as `serde_json` has them for one text: a packed message may be read as one of its own.
const DEEPEST: usize = 128;

/// How often a body's bytes may be read again.
const AGAIN: usize = 4;

/// Fields that come from elsewhere, as what is left of their places at one level: what a body says of them is not kept.
pub type Given<'g> = Vec<&'g [u32]>;

/// Reads a whole body that is to become this message, but for the fields that are given.
///
/// # Errors
/// It is no JSON, no such message, says something twice or becomes too large.
pub fn whole(
    message: &MessageDescriptor,
    body: &[u8],
    (given, most): (Given<'_>, usize),
) -> Result<Wire, Fault> {
    made(body, most, |making, reader| Content { message, making, given }.deserialize(reader))
}

/// The same of a body that is to become one field of a message.
///
/// # Errors
/// As [`whole`].
pub fn of_field(
    field: &FieldDescriptor,
    body: &[u8],
    (given, most): (Given<'_>, usize),
) -> Result<Wire, Fault> {
    let member = Member::from(field);
    made(body, most, |making, reader| {
        Slot { member: &member, making, given }.deserialize(reader).map(drop)
    })
}

/// Why a body is no message.
#[derive(Debug)]
pub enum Fault {
    /// It is none of its kind.
    Json(serde_json::Error),
    /// It is larger than it may be.
    TooLarge,
}

fn made(
    body: &[u8],
    most: usize,
    read: impl FnOnce(&mut Making, &mut Reader<'_>) -> serde_json::Result<()>,
) -> Result<Wire, Fault> {
    let mut making = Making::new(body, most);
    let mut reader = serde_json::Deserializer::from_slice(body);
    let done = read(&mut making, &mut reader).and_then(|()| reader.end());
    match done {
        _ if making.wire.is_over() => Err(Fault::TooLarge),
        Ok(()) => Ok(making.wire),
        Err(fault) => Err(Fault::Json(fault)),
    }
}

type Reader<'b> = serde_json::Deserializer<serde_json::de::SliceRead<'b>>;

/// What a message holds: without its key and its length.
pub(super) struct Content<'m> {
    pub(super) message: &'m MessageDescriptor,
    pub(super) making: &'m mut Making,
    pub(super) given: Given<'m>,
}

impl<'de> DeserializeSeed<'de> for Content<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        let Self { message, making, given } = self;
        match message.full_name().strip_prefix("google.protobuf.") {
            Some("Any") => from.deserialize_any(Packed { pool: message.parent_pool(), making }),
            Some("Struct") => from.deserialize_map(FreeMap(making)),
            Some("ListValue") => from.deserialize_seq(FreeList(making)),
            Some("Value") => from.deserialize_any(Free(making)),
            // One text each, and read well: a few bytes that need not be written by us.
            Some("Timestamp" | "Duration" | "FieldMask") => {
                let read = DynamicMessage::deserialize(message.clone(), from)?;
                making.wire.put(&read.encode_to_vec());
                Ok(())
            }
            Some(name) if WRAPPERS.contains(&name) => {
                let field = message.get_field(1).as_ref().map(Member::from);
                let field = field.ok_or_else(|| D::Error::custom("it wraps nothing"))?;
                one(&field, making, (Vec::new(), from)).map(drop)
            }
            _ => from.deserialize_map(Fields::new(message, making, given)),
        }
    }
}

/// Whether a message is one text in JSON: times, masks and wrapped values.
pub(super) fn is_worded(message: &MessageDescriptor) -> bool {
    message.full_name().strip_prefix("google.protobuf.").is_some_and(|name| {
        WRAPPERS.contains(&name) || matches!(name, "Timestamp" | "Duration" | "FieldMask")
    })
}

/// Whether a message's JSON is no object of its fields: packed, it stands under `value`.
pub(super) fn is_special(name: &str) -> bool {
    name.strip_prefix("google.protobuf.")
        .is_some_and(|name| WRAPPERS.contains(&name) || OTHERS.contains(&name))
}

/// Messages of one value, which stands for them.
pub(super) const WRAPPERS: [&str; 9] = [
    "DoubleValue",
    "FloatValue",
    "Int64Value",
    "UInt64Value",
    "Int32Value",
    "UInt32Value",
    "BoolValue",
    "StringValue",
    "BytesValue",
];

const OTHERS: [&str; 8] =
    ["Any", "Struct", "Value", "ListValue", "Timestamp", "Duration", "FieldMask", "Empty"];

/// A field or an extension.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "as descriptions say them, one by one")]
pub(super) struct Member {
    pub(super) number: u32,
    kind: Kind,
    list: bool,
    map: bool,
    packed: bool,
    /// Whether a default value is another thing than none.
    presence: bool,
    group: bool,
}

/// Fields and extensions say the same by the same names, and have no trait in common.
macro_rules! member_of {
    ($descriptor:ty) => {
        impl From<&$descriptor> for Member {
            fn from(field: &$descriptor) -> Self {
                Self {
                    number: field.number(),
                    kind: field.kind(),
                    list: field.is_list(),
                    map: field.is_map(),
                    packed: field.is_packed(),
                    presence: field.supports_presence(),
                    group: field.is_group(),
                }
            }
        }
    };
}

member_of!(FieldDescriptor);
member_of!(ExtensionDescriptor);

/// A field's value, with its key; gives whether the field has one then.
pub(super) struct Slot<'m> {
    pub(super) member: &'m Member,
    pub(super) making: &'m mut Making,
    pub(super) given: Given<'m>,
}

impl<'de> DeserializeSeed<'de> for Slot<'_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<bool, D::Error> {
        if !self.given.iter().any(|left| left.is_empty()) {
            return from.deserialize_option(self);
        }
        // It comes from elsewhere; what is said of it must be sound all the same.
        let here = self.making.wire.here();
        let Self { member, making, .. } = self;
        from.deserialize_option(Slot { member, making: &mut *making, given: Vec::new() })?;
        making.wire.back(here);
        Ok(false)
    }
}

impl<'de> Visitor<'de> for Slot<'_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E: Error>(self) -> Result<bool, E> {
        self.visit_none()
    }

    fn visit_none<E: Error>(self) -> Result<bool, E> {
        let Self { member: Member { number, kind, list, .. }, making, .. } = self;
        match kind {
            // Of these `null` is a value.
            Kind::Message(message) if !list && message.full_name() == "google.protobuf.Value" => {
                making.wire.key(*number, WireType::LengthDelimited);
                let open = making.wire.open();
                Free(making).visit_unit::<E>()?;
                making.wire.close(&open);
                Ok(true)
            }
            Kind::Enum(known) if !list && known.full_name() == NULL => {
                if self.member.presence {
                    making.wire.key(*number, WireType::Varint);
                    making.wire.varint(0);
                }
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    fn visit_some<D: Deserializer<'de>>(self, from: D) -> Result<bool, D::Error> {
        let Self { member, making, given } = self;
        if member.list {
            from.deserialize_any(Items { member, making })
        } else if member.map {
            from.deserialize_any(super::fields::Entries { member, making })
        } else {
            one(member, making, (given, from))
        }
    }
}

/// One value with its key.
pub(super) fn one<'de, D: Deserializer<'de>>(
    member: &Member,
    making: &mut Making,
    (given, from): (Given<'_>, D),
) -> Result<bool, D::Error> {
    making.bounded()?;
    let (number, here) = (member.number, making.wire.here());
    match &member.kind {
        Kind::Message(message) if member.group => {
            making.wire.key(number, WireType::StartGroup);
            Content { message, making, given }.deserialize(from)?;
            making.wire.key(number, WireType::EndGroup);
        }
        Kind::Message(message) => {
            making.wire.key(number, WireType::LengthDelimited);
            let open = making.wire.open();
            Content { message, making, given }.deserialize(from)?;
            making.wire.close(&open);
        }
        kind => {
            making.wire.key(number, wire_type(kind));
            let wire = &mut making.wire;
            let default = Scalar { kind, wire }.deserialize(from)?;
            if default && !member.presence {
                making.wire.back(here);
                return Ok(false);
            }
        }
    }
    Ok(true)
}

impl Member {
    /// The same, whose default values are written too: an element of a list, a part of a map's entry.
    pub(super) fn always(field: &FieldDescriptor) -> Self {
        Self { presence: true, ..Self::from(field) }
    }

    /// What a map's entry holds.
    pub(super) fn entry(&self) -> Option<(Kind, Self)> {
        let entry = self.kind.as_message().filter(|_| self.map)?;
        Some((entry.map_entry_key_field().kind(), Self::always(&entry.map_entry_value_field())))
    }
}

/// A list.
struct Items<'m> {
    member: &'m Member,
    making: &'m mut Making,
}

impl<'de> Visitor<'de> for Items<'_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<bool, A::Error> {
        let Self { member, making } = self;
        making.enter()?;
        let each = Member { presence: true, kind: member.kind.clone(), ..*member };
        let here = making.wire.here();
        let mut any = false;
        if member.packed {
            making.wire.key(member.number, WireType::LengthDelimited);
            let open = making.wire.open();
            while let Some(_default) =
                list.next_element_seed(Scalar { kind: &member.kind, wire: &mut making.wire })?
            {
                making.bounded()?;
                any = true;
            }
            making.wire.close(&open);
            if !any {
                making.wire.back(here);
            }
        } else {
            while list.next_element_seed(Item(&each, making))?.is_some() {
                any = true;
            }
        }
        making.leave();
        Ok(any)
    }
}

/// One of a list.
struct Item<'m>(&'m Member, &'m mut Making);

impl<'de> DeserializeSeed<'de> for Item<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        one(self.0, self.1, (Vec::new(), from)).map(drop)
    }
}

/// A field of a message by a name that JSON has for it.
pub(super) fn member(
    message: &MessageDescriptor,
    name: &str,
) -> Option<(Member, Option<FieldDescriptor>)> {
    if let Some(field) = field(message, name) {
        return Some((Member::from(&field), Some(field)));
    }
    let extension = message.get_extension_by_json_name(name)?;
    Some((Member::from(&extension), None))
}

/// A name in an object, as it stands there where it can.
pub(super) struct Name;

impl<'de> DeserializeSeed<'de> for Name {
    type Value = Cow<'de, str>;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Self::Value, D::Error> {
        from.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for Name {
    type Value = Cow<'de, str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_borrowed_str<E>(self, name: &'de str) -> Result<Self::Value, E> {
        Ok(Cow::Borrowed(name))
    }

    fn visit_str<E>(self, name: &str) -> Result<Self::Value, E> {
        Ok(Cow::Owned(name.to_owned()))
    }
}

/// The next name of an object.
pub(super) fn name<'de, A: MapAccess<'de>>(map: &mut A) -> Result<Option<Cow<'de, str>>, A::Error> {
    map.next_key_seed(Name)
}

#[cfg(test)]
mod tests;
