//! A value that is no message, out of JSON (ProtoJSON) or out of a text. Called by `json` and `message`.
//!
//! Invariant: a number is the one that was written, or refused; it is not made to fit.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::alphabet::{STANDARD, URL_SAFE};
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use prost::encoding::WireType;
use prost_reflect::Kind;
use serde::de::{DeserializeSeed, Deserializer, Error, Unexpected, Visitor};

use super::wire::Wire;

/// A value of this kind, to be written without its key; gives whether it is the kind's default.
#[derive(Debug)]
pub(super) struct Scalar<'w> {
    /// The kind.
    pub(super) kind: &'w Kind,
    /// Where it is written.
    pub(super) wire: &'w mut Wire,
}

impl<'de> DeserializeSeed<'de> for Scalar<'_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl Scalar<'_> {
    fn whole<E: Error>(self, value: i128) -> Result<bool, E> {
        fn fit<T: TryFrom<i128, Error: fmt::Display>, E: Error>(value: i128) -> Result<T, E> {
            T::try_from(value).map_err(E::custom)
        }
        match self.kind {
            // A negative one takes ten bytes, so that it is the same as 64 bits.
            Kind::Int32 | Kind::Enum(_) => {
                self.wire.varint(i64::from(fit::<i32, E>(value)?).cast_unsigned());
            }
            Kind::Int64 => self.wire.varint(fit::<i64, E>(value)?.cast_unsigned()),
            Kind::Uint32 => self.wire.varint(fit::<u32, E>(value)?.into()),
            Kind::Uint64 => self.wire.varint(fit::<u64, E>(value)?),
            Kind::Sint32 => self.wire.varint(zigzag(fit::<i32, E>(value)?.into())),
            Kind::Sint64 => self.wire.varint(zigzag(fit::<i64, E>(value)?)),
            Kind::Sfixed32 => self.wire.put(&fit::<i32, E>(value)?.to_le_bytes()),
            Kind::Sfixed64 => self.wire.put(&fit::<i64, E>(value)?.to_le_bytes()),
            Kind::Fixed32 => self.wire.put(&fit::<u32, E>(value)?.to_le_bytes()),
            Kind::Fixed64 => self.wire.put(&fit::<u64, E>(value)?.to_le_bytes()),
            _ => return Err(E::custom("it is no number")),
        }
        Ok(value == 0)
    }

    fn double(self, value: f64) -> bool {
        self.wire.put(&value.to_le_bytes());
        value.to_bits() == 0
    }

    fn float(self, value: f32) -> bool {
        self.wire.put(&value.to_le_bytes());
        value.to_bits() == 0
    }

    /// A number as JSON has it, whole or not.
    fn number<E: Error>(self, value: f64, told: Unexpected<'_>) -> Result<bool, E> {
        match self.kind {
            Kind::Double => Ok(self.double(value)),
            Kind::Float if value.abs() <= f64::from(f32::MAX) => Ok(self.float(narrow(value))),
            Kind::Float => Err(E::custom("float value out of range")),
            _ => Err(E::invalid_type(told, &self)),
        }
    }
}

impl Visitor<'_> for Scalar<'_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.kind {
            Kind::Double => "a 64-bit floating point value",
            Kind::Float => "a 32-bit floating point value",
            Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => "a 32-bit signed integer",
            Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => {
                "a 64-bit signed integer or decimal string"
            }
            Kind::Uint32 | Kind::Fixed32 => "a 32-bit unsigned integer or decimal string",
            Kind::Uint64 | Kind::Fixed64 => "a 64-bit unsigned integer or decimal string",
            Kind::Bool => "a boolean",
            Kind::String => "a string",
            Kind::Bytes => "a base64-encoded string",
            Kind::Enum(_) => "a string or integer",
            Kind::Message(_) => "a map",
        })
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<bool, E> {
        if *self.kind != Kind::Bool {
            return Err(E::invalid_type(Unexpected::Bool(value), &self));
        }
        self.wire.varint(value.into());
        Ok(!value)
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<bool, E> {
        if is_whole(self.kind) {
            return self.whole(value.into());
        }
        #[expect(clippy::cast_precision_loss, reason = "as every reader of JSON has it")]
        let number = value as f64;
        self.number(number, Unexpected::Signed(value))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<bool, E> {
        if is_whole(self.kind) {
            return self.whole(value.into());
        }
        #[expect(clippy::cast_precision_loss, reason = "as every reader of JSON has it")]
        let number = value as f64;
        self.number(number, Unexpected::Unsigned(value))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<bool, E> {
        if !is_whole(self.kind) || matches!(self.kind, Kind::Enum(_)) {
            return self.number(value, Unexpected::Float(value));
        }
        if value.fract() != 0.0 {
            return Err(E::custom("expected integer value"));
        }
        // What is larger than any kind ends at the ends of this type, which fit none.
        #[expect(clippy::cast_possible_truncation, reason = "it is whole")]
        self.whole(value as i128)
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<bool, E> {
        match self.kind {
            Kind::String => {
                self.wire.text(value.as_bytes());
                Ok(value.is_empty())
            }
            Kind::Bytes => {
                let bytes = bytes(value).ok_or_else(|| E::custom("invalid base64"))?;
                self.wire.text(&bytes);
                Ok(bytes.is_empty())
            }
            Kind::Enum(known) if known.full_name() == NULL && value == "NULL_VALUE" => {
                self.whole(0)
            }
            Kind::Enum(known) => match known.get_value_by_name(value) {
                Some(found) => self.whole(found.number().into()),
                None => Err(E::custom(format!("unrecognized enum value '{value}'"))),
            },
            Kind::Double => {
                let value = number(value, f64::is_finite);
                Ok(self.double(value.ok_or_else(|| E::custom("invalid float literal"))?))
            }
            Kind::Float => {
                let value = number(value, f32::is_finite);
                Ok(self.float(value.ok_or_else(|| E::custom("invalid float literal"))?))
            }
            kind if is_whole(kind) => self.whole(value.parse().map_err(E::custom)?),
            _ => Err(E::invalid_type(Unexpected::Str(value), &self)),
        }
    }

    fn visit_unit<E: Error>(self) -> Result<bool, E> {
        match self.kind {
            Kind::Enum(known) if known.full_name() == NULL => self.whole(0),
            _ => Err(E::invalid_type(Unexpected::Unit, &self)),
        }
    }
}

/// The enumeration whose only value is JSON's `null`.
pub(super) const NULL: &str = "google.protobuf.NullValue";

fn is_whole(kind: &Kind) -> bool {
    !matches!(
        kind,
        Kind::Double | Kind::Float | Kind::Bool | Kind::String | Kind::Bytes | Kind::Message(_)
    )
}

/// How values of a kind stand on the wire.
pub(super) fn wire_type(kind: &Kind) -> WireType {
    match kind {
        Kind::Double | Kind::Fixed64 | Kind::Sfixed64 => WireType::SixtyFourBit,
        Kind::Float | Kind::Fixed32 | Kind::Sfixed32 => WireType::ThirtyTwoBit,
        Kind::String | Kind::Bytes | Kind::Message(_) => WireType::LengthDelimited,
        _ => WireType::Varint,
    }
}

fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)).cast_unsigned()
}

#[expect(clippy::cast_possible_truncation, reason = "the nearest one is meant")]
fn narrow(value: f64) -> f32 {
    value as f32
}

/// A number, or one of the three words that JSON has for what is none (ProtoJSON); one that is too large is none.
pub(super) fn number<T: FromStr + Copy>(text: &str, is_finite: fn(T) -> bool) -> Option<T> {
    let word = matches!(text, "NaN" | "Infinity" | "-Infinity");
    text.parse().ok().filter(|number| word || is_finite(*number))
}

/// Base64 in either alphabet, with or without padding.
pub(super) fn bytes(text: &str) -> Option<Vec<u8>> {
    // `-_` is one byte, and four bits that nobody needs (conformance test `BytesFieldBase64Url`).
    const EITHER: GeneralPurposeConfig = GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(DecodePaddingMode::Indifferent);
    const PLAIN: GeneralPurpose = GeneralPurpose::new(&STANDARD, EITHER);
    const FOR_URLS: GeneralPurpose = GeneralPurpose::new(&URL_SAFE, EITHER);
    PLAIN.decode(text).or_else(|_| FOR_URLS.decode(text)).ok()
}
