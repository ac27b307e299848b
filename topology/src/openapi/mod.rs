//! OpenAPI 3 documents: an interface's description becomes a topology file, and a gateway's routes become a
//! description. Not for checking messages against schemas. Called by the tool.
//!
//! Invariant: what is written here is read back by this crate, or noted as left out.

mod export;
mod import;

pub use export::{Offered, Surface, export, omitted};
pub use import::{Imported, OpenApiError, Wishes, import, prefix, read};

#[cfg(test)]
mod tests;
