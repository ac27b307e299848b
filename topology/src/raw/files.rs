//! The `files:` key of a route as typed: a path, or a section.
//!
//! Invariant: none beyond `raw`'s.

use schemars::{Schema, SchemaGenerator, json_schema};

use crate::files::Links;
use crate::raw::schema::section;
use crate::raw::{Findings, Flag, FromTree, Spot, Text, Typed};
use crate::tree::{Kind, Tree};

section! {
    /// A directory whose files are answers to GET and HEAD; directories are never listed.
    Files {
        /// Its path. What follows the `/*` of the route's path is looked for in it; where that has
        /// none, the whole path is.
        must "directory" directory: Typed<Text>,
        /// The file that stands for a directory, or `none`. Default: index.html.
        may "index" index: Typed<Text>,
        /// `Cache-Control` of every file, or `none`. Default: no-cache, which lets caches keep a file
        /// but has them ask whether it has changed.
        may "cache-control" cache_control: Typed<Text>,
        /// Whether names that begin with a dot are found; `.well-known` always is. Default: false.
        may "hidden" hidden: Typed<Flag>,
        /// Where symbolic links may lead: `inside` of the directory, or `anywhere`. Default: `inside`.
        may "links" links: Typed<Links>,
        /// Whether `NAME.br`, `NAME.zst` or `NAME.gz` beside a file of text is sent to who takes it.
        /// One older than the file is not. Default: true.
        may "precompressed" precompressed: Typed<Flag>,
    }
}

/// A path alone, or a section with more.
#[derive(Debug)]
pub(crate) enum FilesChoice {
    Directory(Typed<Text>),
    Section(Box<Files>),
}

impl FromTree for FilesChoice {
    fn from_tree(tree: &Tree, at: &Spot, out: &mut Findings) -> Option<Self> {
        match &tree.kind {
            Kind::Text(_) => Typed::from_tree(tree, at, out).map(Self::Directory),
            _ => Files::from_tree(tree, at, out).map(|files| Self::Section(Box::new(files))),
        }
    }

    fn schema(generator: &mut SchemaGenerator) -> Schema {
        json_schema!({ "anyOf": [Typed::<Text>::schema(generator), Files::schema(generator)] })
    }
}
