//! A body of JSON before it becomes a message: no field stands in it twice, whichever of its two names is used, and no key
//! of a map. Called by `message`.
//!
//! Invariant: of a body that passes, every reader takes the same message (RFC 8259 §4; ProtoJSON takes both names).

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;

use prost_reflect::{FieldDescriptor, Kind, MessageDescriptor};
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::bindings::field;

/// Reads a document that is to become this message.
///
/// # Errors
/// It is no JSON, or something stands twice.
pub fn read(message: &MessageDescriptor, body: &[u8]) -> serde_json::Result<()> {
    let mut reader = serde_json::Deserializer::from_slice(body);
    Shape::of(message).deserialize(&mut reader)?;
    reader.end()
}

/// What is known of a value.
#[derive(Clone, Debug)]
enum Shape {
    /// An object is this message.
    Message(MessageDescriptor),
    /// An object is a map with such keys and values.
    Map(Kind, Box<Shape>),
    /// A message of a type that it names: the two names of a field are told by their letters.
    Named,
    /// An object of any names, or no object.
    Other,
}

impl Shape {
    fn of(message: &MessageDescriptor) -> Self {
        match message.full_name() {
            "google.protobuf.Any" => Self::Named,
            // Their JSON is no object of fields.
            "google.protobuf.Struct" | "google.protobuf.Value" | "google.protobuf.ListValue" => {
                Self::Other
            }
            _ => Self::Message(message.clone()),
        }
    }

    fn of_field(field: &FieldDescriptor) -> Self {
        match field.kind() {
            Kind::Message(entry) if field.is_map() => {
                let value = Self::of_field(&entry.map_entry_value_field());
                Self::Map(entry.map_entry_key_field().kind(), Box::new(value))
            }
            Kind::Message(message) => Self::of(&message),
            _ => Self::Other,
        }
    }
}

impl<'de> DeserializeSeed<'de> for Shape {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Shape {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        while list.next_element_seed(self.clone())?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        match &self {
            Self::Message(message) => fields(message, &mut map),
            Self::Map(key, value) => keys(&mut map, |name| one_of(key, name), value),
            Self::Named => keys(&mut map, |name| Cow::Owned(camel(&name)), &Self::Other),
            Self::Other => keys(&mut map, |name| name, &Self::Other),
        }
    }
}

fn fields<'de, A: MapAccess<'de>>(
    message: &MessageDescriptor,
    map: &mut A,
) -> Result<(), A::Error> {
    // Messages have few fields, and bodies few of them: a look at each is less than a table.
    let mut seen: Vec<u32> = Vec::new();
    let mut many: HashSet<u32> = HashSet::new();
    while let Some(name) = map.next_key::<Cow<'de, str>>()? {
        let Some(field) = field(message, &name) else {
            // Refused when it is read.
            map.next_value::<IgnoredAny>()?;
            continue;
        };
        let number = field.number();
        let new = !seen.contains(&number) && (seen.len() < FEW || many.insert(number));
        if !new {
            return Err(A::Error::custom(format!("the field `{}` stands twice", field.name())));
        }
        if seen.len() < FEW {
            seen.push(number);
        }
        map.next_value_seed(Shape::of_field(&field))?;
    }
    Ok(())
}

/// Fields that are looked through one by one.
const FEW: usize = 32;

fn keys<'de, A: MapAccess<'de>>(
    map: &mut A,
    meant: impl Fn(Cow<'de, str>) -> Cow<'de, str>,
    value: &Shape,
) -> Result<(), A::Error> {
    let mut seen = HashSet::new();
    while let Some(name) = map.next_key::<Cow<'de, str>>()? {
        if !seen.insert(meant(name)) {
            return Err(A::Error::custom("a name stands twice in an object"));
        }
        map.next_value_seed(value.clone())?;
    }
    Ok(())
}

/// A map's key in its one form: `01` is 1.
fn one_of<'k>(kind: &Kind, name: Cow<'k, str>) -> Cow<'k, str> {
    match kind {
        Kind::String | Kind::Bool => name,
        _ => match name.parse::<i128>() {
            Ok(number) => Cow::Owned(number.to_string()),
            Err(_) => name,
        },
    }
}

/// A field's name as JSON has it.
fn camel(name: &str) -> String {
    let (mut out, mut upper) = (String::with_capacity(name.len()), false);
    for letter in name.chars() {
        match letter {
            '_' => upper = true,
            letter if upper => {
                out.push(letter.to_ascii_uppercase());
                upper = false;
            }
            letter => out.push(letter),
        }
    }
    out
}
