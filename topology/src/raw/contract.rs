//! The `validate:` key as typed: a path, or a section.
//!
//! Invariant: none beyond `raw`'s.

use schemars::{Schema, SchemaGenerator, json_schema};

use crate::raw::schema::section;
use crate::raw::{Findings, FromTree, Spot, Text, Typed};
use crate::tree::{Kind, Tree};
use crate::units::Size;

section! {
    /// Requests must be as an OpenAPI 3 description says: path and method, parameters, body. What is not is 400
    /// with the place of the fault; a path or method that is not described 404 or 405.
    Validate {
        /// The description, JSON or YAML, whole in one file.
        must "openapi" openapi: Typed<Text>,
        /// What stands before its paths. Default: the path of its first server.
        may "prefix" prefix: Typed<Text>,
        /// Most bytes of a body; a larger one is 413, and so is one whose values would take about 16 times as much memory.
        /// Default: 1MiB.
        may "max" max: Typed<Size>,
    }
}

/// A path alone, or a section with more; or that nothing is asked.
#[derive(Debug)]
pub(crate) enum ValidateChoice {
    None,
    File(Typed<Text>),
    Section(Box<Validate>),
}

impl FromTree for ValidateChoice {
    fn from_tree(tree: &Tree, at: &Spot, out: &mut Findings) -> Option<Self> {
        match &tree.kind {
            Kind::Text(text) if text == "none" => Some(Self::None),
            Kind::Text(_) => Typed::from_tree(tree, at, out).map(Self::File),
            _ => Validate::from_tree(tree, at, out).map(|all| Self::Section(Box::new(all))),
        }
    }

    fn schema(generator: &mut SchemaGenerator) -> Schema {
        json_schema!({ "anyOf": [Typed::<Text>::schema(generator), Validate::schema(generator)] })
    }
}
