//! Directories whose files are answers, resolved: what a route with `files` leads to. Not for opening
//! anything: that is stage 8. Read by it.
//!
//! Invariant: none beyond the model's.

use std::path::PathBuf;

use crate::answers::{AggregateId, GivenId};
use crate::gateway::Unplaced;
use crate::units::{At, Place};
use crate::upstream::UpstreamId;

/// Where a route leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RouteTo {
    /// To a service.
    Service(UpstreamId),
    /// To files.
    Files(FilesId),
    /// To an answer that is in the file.
    Given(GivenId),
    /// To several services, whose answers become one.
    Aggregate(AggregateId),
}

impl RouteTo {
    /// The service, if it is one.
    pub fn service(self) -> Option<UpstreamId> {
        match self {
            Self::Service(id) => Some(id),
            Self::Files(_) | Self::Given(_) | Self::Aggregate(_) => None,
        }
    }
}

/// Index into [`Group::files`](crate::gateway::Group::files).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FilesId(pub usize);

/// A directory whose files are answers (spec G22).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Files {
    /// Opened anew for each request, so that a link to it can be turned to a new release.
    pub directory: At<PathBuf>,
    /// The file that stands for a directory; `None`: a directory is not found.
    pub index: Option<String>,
    /// `Cache-Control` of every file; `None`: it is left out.
    pub cache_control: Option<String>,
    /// Whether names that begin with a dot are found.
    pub hidden: bool,
    /// Where symbolic links may lead.
    pub links: Links,
    /// Whether `NAME.br`, `NAME.zst` and `NAME.gz` are sent in place of `NAME`.
    pub precompressed: bool,
}

/// Where symbolic links below a directory may lead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Links {
    /// Only to what is below it too.
    Inside,
    /// Wherever the process may read.
    Anywhere,
}

impl Unplaced for Files {
    fn unplaced(&self) -> Self {
        let directory = At { value: self.directory.value.clone(), place: Place::default() };
        Self { directory, ..self.clone() }
    }
}
