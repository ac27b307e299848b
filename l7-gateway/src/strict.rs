//! JSON read so strictly that two readers cannot see different things in it: a member that occurs twice, at any depth, is an
//! error (RFC 8259 §4, RFC 8725 §2.4, RFC 7515 §4). Not a JSON library: `serde_json` does the reading. Called by `contract` and
//! by `authn`.
//!
//! Invariant: a value read here has the same members for every reader that accepts it, and takes no more memory than was said.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

/// Why a document cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// It is none, or says something twice: in words, without its content.
    #[error("{0}")]
    Json(String),
    /// Its values would take more memory than they may.
    #[error("it has too many values")]
    TooLarge,
}

/// A whole document, whose values take at most about `room` bytes. Nesting is bounded by `serde_json` (128 levels).
///
/// # Errors
/// Why there is none.
pub fn read(bytes: &[u8], room: usize) -> Result<Value, Fault> {
    let mut room = Room { left: room, short: false };
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let read = Reader(&mut room).deserialize(&mut reader);
    let read = read.and_then(|value| reader.end().map(|()| value));
    read.map_err(|fault| {
        let at = format!("line {}, column {}", fault.line(), fault.column());
        match fault.classify() {
            _ if room.short => Fault::TooLarge,
            // Only ours: `Value` takes everything that is JSON.
            serde_json::error::Category::Data => {
                Fault::Json(format!("a name stands twice before {at}"))
            }
            _ => Fault::Json(format!("it ends or goes wrong at {at}")),
        }
    })
}

/// One object that fills a text of bounded size; `None` when it is anything else.
pub fn object(text: &[u8]) -> Option<Map<String, Value>> {
    match read(text, usize::MAX).ok()? {
        Value::Object(members) => Some(members),
        _ => None,
    }
}

/// Bytes that values may yet take.
struct Room {
    left: usize,
    short: bool,
}

impl Room {
    fn take<E: Error>(&mut self, bytes: usize) -> Result<(), E> {
        match self.left.checked_sub(bytes) {
            Some(left) => self.left = left,
            None => {
                self.short = true;
                return Err(E::custom("too many values"));
            }
        }
        Ok(())
    }
}

/// Bytes of a value among others: a list doubles when it is full.
const VALUE: usize = 2 * size_of::<Value>();

/// Bytes of a text beside its letters.
const TEXT: usize = 24;

/// Bytes of an object's table, which has places for eleven members however few there are.
const TABLE: usize = 11 * (size_of::<String>() + size_of::<Value>()) + 24;

/// Members that one table holds, and bytes of each that comes after: tables are split when they are full.
const FIRST: usize = 11;
const MEMBER: usize = TABLE / 5;

struct Reader<'r>(&'r mut Room);

impl<'de> DeserializeSeed<'de> for Reader<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Value, D::Error> {
        self.0.take(VALUE)?;
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Reader<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON without repeated members")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Value, E> {
        self.0.take(TEXT + value.len())?;
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        let mut all = Vec::new();
        while let Some(value) = list.next_element_seed(Reader(self.0))? {
            all.push(value);
        }
        Ok(Value::Array(all))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut all = Map::new();
        while let Some(name) = map.next_key::<String>()? {
            let table = match all.len() {
                0 => TABLE,
                few if few < FIRST => 0,
                _ => MEMBER,
            };
            self.0.take(table + TEXT + name.len())?;
            if all.insert(name, map.next_value_seed(Reader(self.0))?).is_some() {
                return Err(A::Error::custom("a name stands twice"));
            }
        }
        Ok(Value::Object(all))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn repeated_members_are_refused_at_any_depth() {
        for bad in [
            r#"{"a":1,"a":1}"#,
            r#"{"a":{"b":1,"b":2}}"#,
            r#"{"a":[{"b":1,"\u0062":2}]}"#,
            r#"{"a":1} x"#,
            r#"[1]"#,
            "",
        ] {
            assert_eq!(object(bad.as_bytes()), None, "{bad}");
        }
        assert!(object("[".repeat(100_000).as_bytes()).is_none(), "depth is bounded");
    }

    /// O3: what a document takes is counted, whatever it is made of.
    #[test]
    fn small_values_are_not_cheap() {
        for (each, bytes) in [("0,", 64), ("{},", 64), ("{\"a\":0},", 800), ("\"\",", 88)] {
            let text = format!("[{}0]", each.repeat(1000));
            assert!(read(text.as_bytes(), 1001 * bytes + 64).is_ok(), "{each}");
            assert_eq!(read(text.as_bytes(), 900 * bytes), Err(Fault::TooLarge), "{each}");
        }
    }

    proptest! {
        #[test]
        fn what_is_accepted_reads_the_same_elsewhere(text in r#"\{("[ab]":(1|"x"|null|\{"a":2\}|\[true\]),?){0,3}\}"#) {
            if let Some(members) = object(text.as_bytes()) {
                let plain: Value = serde_json::from_str(&text).unwrap();
                prop_assert_eq!(Value::Object(members), plain);
            }
        }

        #[test]
        fn bytes_never_panic(text in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = object(&text);
        }
    }
}
