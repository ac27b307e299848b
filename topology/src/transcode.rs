//! HTTP and JSON in front of a service that speaks gRPC, resolved (spec G15). Not for reading descriptions: the
//! gateway does. Read by stages 7 and 9.
//!
//! Invariant: none beyond the model's.

use std::path::PathBuf;

use crate::units::Place;

/// How requests of a route become calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transcode {
    /// Where the methods are described.
    pub from: Descriptions,
    /// Full names of the services that can be called; empty: those of the named files.
    pub services: Vec<String>,
    /// Most bytes of a message, either way (default 4 MiB).
    pub most: u64,
    /// Where its key stands.
    pub place: Place,
}

/// Where methods and messages are described.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Descriptions {
    /// A descriptor set with all that it imports, as `protoc --include_imports -o` writes it.
    Set(PathBuf),
    /// `.proto` files, and folders in which their imports are looked for.
    Sources {
        /// The files.
        files: Vec<PathBuf>,
        /// The folders; those of the files too.
        include: Vec<PathBuf>,
    },
}

impl Descriptions {
    /// Whether they are on this host.
    pub fn is_here(&self) -> bool {
        match self {
            Self::Set(path) => path.exists(),
            Self::Sources { files, .. } => files.iter().all(|file| file.exists()),
        }
    }
}
