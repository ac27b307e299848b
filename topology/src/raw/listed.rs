//! A file that lists the endpoints of one service, as typed.
//!
//! Invariant: none beyond `raw`'s.

use std::net::SocketAddr;

use schemars::{Schema, SchemaGenerator, json_schema};

use crate::raw::schema::section;
use crate::raw::{Findings, FromTree, Spot, Text, Typed};
use crate::tree::{Kind, Tree};
use crate::units::Weight;

section! {
    /// Endpoints of one service.
    EndpointList {
        /// All of them.
        must "endpoints" endpoints: Vec<Listed>,
    }
}

section! {
    /// One endpoint.
    ListedSection at spot {
        /// Where it listens, `ADDRESS:PORT`.
        must "address" address: Typed<SocketAddr>,
        /// Its share of the traffic, 1 to 1000. Default: 1.
        may "weight" weight: Typed<Weight>,
        /// A stable name, which hashing goes by. Default: the address.
        may "name" name: Typed<Text>,
        /// Where it stands. Default: not said.
        may "zone" zone: Typed<Text>,
        /// What runs there. Default: not said.
        may "version" version: Typed<Text>,
        /// `up`, `draining` (nothing new) or `down`. Default: up.
        may "health" health: Typed<Text>,
    }
}

/// An endpoint, in its short or long form.
#[derive(Debug)]
pub(crate) struct Listed(pub(crate) ListedSection);

impl FromTree for Listed {
    fn from_tree(tree: &Tree, at: &Spot, out: &mut Findings) -> Option<Self> {
        if !matches!(tree.kind, Kind::Text(_)) {
            return ListedSection::from_tree(tree, at, out).map(Self);
        }
        let address = Some(Typed::from_tree(tree, at, out)?);
        let (weight, name, zone, version, health) = (None, None, None, None, None);
        Some(Self(ListedSection { spot: at.clone(), address, weight, name, zone, version, health }))
    }

    fn schema(generator: &mut SchemaGenerator) -> Schema {
        let short = Typed::<SocketAddr>::schema(generator);
        json_schema!({ "anyOf": [short, ListedSection::schema(generator)] })
    }
}
