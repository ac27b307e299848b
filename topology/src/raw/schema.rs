//! The JSON schema of the file, made of the same tables that reading uses. Not for checking:
//! editors use it, `raw` and `resolve` do not.
//!
//! Invariant: every key has a description.

use schemars::generate::SchemaSettings;
use schemars::{Schema, json_schema};
use serde_json::{Map, Value};

use crate::raw::{File, KeySpec, prose};

/// Declares a section of the file: its keys, whether each `must` or `may` be there, what each
/// means, and the type that reads it. `at spot` keeps the section's own place too.
macro_rules! section {
    (
        $(#[doc = $doc:literal])+
        $name:ident $(at $spot:ident)? { $( $(#[doc = $field_doc:literal])+ $need:ident $key:literal $field:ident: $ty:ty, )+ }
    ) => {
        $(#[doc = $doc])+
        #[derive(Debug)]
        pub(crate) struct $name {
            $( pub(crate) $spot: $crate::raw::Spot, )?
            $( $(#[doc = $field_doc])+ pub(crate) $field: Option<$ty>, )+
        }

        impl $name {
            const KEYS: &[$crate::raw::KeySpec] = &[$( $crate::raw::KeySpec {
                name: $key,
                required: section!(@ $need),
                doc: &[$($field_doc),+],
            } ),+];
        }

        impl $crate::raw::FromTree for $name {
            fn from_tree(
                tree: &$crate::tree::Tree,
                at: &$crate::raw::Spot,
                out: &mut $crate::raw::Findings,
            ) -> Option<Self> {
                let fields = $crate::raw::Fields::open(tree, at, Self::KEYS, out)?;
                Some(Self { $( $field: fields.take($key, out), )+ $( $spot: at.clone(), )? })
            }

            fn schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
                generator.subschema_for::<Self>()
            }
        }

        impl schemars::JsonSchema for $name {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
                let mut section = $crate::raw::SectionSchema::new(&[$($doc),+]);
                let fields = [$( <$ty as $crate::raw::FromTree>::schema(generator) ),+];
                for (key, field) in Self::KEYS.iter().zip(fields) {
                    section.field(key, field);
                }
                section.finish()
            }
        }
    };
    (@ must) => { true };
    (@ may) => { false };
}
pub(crate) use section;

/// Builds the schema of one section.
pub(crate) struct SectionSchema {
    description: String,
    properties: Map<String, Value>,
    required: Vec<Value>,
}

impl SectionSchema {
    /// A section with its description, line by line.
    pub(crate) fn new(doc: &[&str]) -> Self {
        Self { description: prose(doc), properties: Map::new(), required: Vec::new() }
    }

    /// Adds a key.
    pub(crate) fn field(&mut self, key: &KeySpec, mut field: Schema) {
        field.insert("description".to_owned(), prose(key.doc).into());
        self.properties.insert(key.name.to_owned(), field.to_value());
        if key.required {
            self.required.push(key.name.into());
        }
    }

    /// The schema.
    pub(crate) fn finish(self) -> Schema {
        let mut schema = json_schema!({
            "type": "object",
            "description": self.description,
            "properties": self.properties,
            "additionalProperties": false,
        });
        if !self.required.is_empty() {
            schema.insert("required".to_owned(), self.required.into());
        }
        schema
    }
}

/// The schema of a whole file, the same text whichever features of `serde_json` other crates of a
/// build switch on.
pub(crate) fn document() -> Value {
    let generator = SchemaSettings::draft07().into_generator();
    sorted(generator.into_root_schema_for::<File>().to_value())
}

/// The value with all keys in alphabetical order.
fn sorted(value: Value) -> Value {
    match value {
        Value::Object(map) => {
            let mut entries: Vec<(String, Value)> = map.into_iter().collect();
            entries.sort_by(|a, b| a.0.cmp(&b.0));
            Value::Object(entries.into_iter().map(|(key, value)| (key, sorted(value))).collect())
        }
        Value::Array(items) => Value::Array(items.into_iter().map(sorted).collect()),
        single => single,
    }
}
