//! Answers that the file itself gives: redirects, texts, and several services' answers put together (spec
//! G13, G16), resolved. Not for asking anybody: stages 6 and 8 do. Read by them.
//!
//! Invariant: a call names only calls before it in its order, so that no two wait for each other.

use std::fmt;
use std::time::Duration;

use crate::template::Template;
use crate::transform::JsonPath;
use crate::upstream::UpstreamId;

/// Index into [`Group::given`](crate::gateway::Group::given).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct GivenId(pub usize);

/// Index into [`Group::aggregates`](crate::gateway::Group::aggregates).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AggregateId(pub usize);

/// An answer that is in the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Given {
    /// Elsewhere, please.
    Redirect {
        /// Where, a path or a URL; its host is the file's.
        to: Template,
        /// 301, 302, 303, 307 or 308 (default 308).
        status: u16,
        /// Whether the request's query goes along (default true).
        query: bool,
    },
    /// A text.
    Text {
        /// Its status (default 200).
        status: u16,
        /// Its type (default `text/plain; charset=utf-8`).
        kind: String,
        /// The text.
        body: String,
    },
}

impl Given {
    /// Every template in it.
    pub fn templates(&self) -> impl Iterator<Item = &Template> {
        match self {
            Self::Redirect { to, .. } => Some(to),
            Self::Text { .. } => None,
        }
        .into_iter()
    }
}

/// Several calls whose answers become one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Aggregate {
    /// Each after all that it waits for; 1 to 16.
    pub calls: Vec<Call>,
    /// How answers are put together.
    pub merge: Merge,
    /// What status the whole has.
    pub status: StatusRule,
    /// Most bytes of all answers together (default 4 MiB).
    pub most: u64,
}

/// One call of an aggregate: a GET.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// Its name: the member that its answer becomes.
    pub name: String,
    /// Whom it asks.
    pub to: UpstreamId,
    /// For what, a template.
    pub path: Template,
    /// Parameters, by name.
    pub query: Vec<(String, Template)>,
    /// How long it may take (default 1 s).
    pub timeout: Duration,
    /// What becomes of the whole when it fails.
    pub failing: Failing,
    /// Places in `calls` of those whose answers it needs.
    pub after: Vec<usize>,
}

impl Aggregate {
    /// Every template in it.
    pub fn templates(&self) -> impl Iterator<Item = &Template> {
        self.calls.iter().flat_map(|call| {
            std::iter::once(&call.path).chain(call.query.iter().map(|(_, value)| value))
        })
    }
}

/// What becomes of an aggregate when a call fails.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failing {
    /// It fails too.
    Fails,
    /// Its member is missing.
    Omitted,
    /// Its member is this JSON.
    Default(String),
    /// Its member is what the same caller was last told, if that is known; else it is missing.
    LastGood,
}

/// What status an aggregate's answer has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StatusRule {
    /// 200, or 502 or 504 without the others' answers if a needed call fails (default).
    Ok,
    /// The greatest of what the needed calls were answered with, and what came of the others.
    WorstRequired,
}

/// A member of an answer that is made by a template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Where it stands, without lists.
    pub at: JsonPath,
    /// The call's name, and names of members of its answer.
    pub from: Vec<String>,
}

/// How answers are put together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Merge {
    /// A member for each call, of its name (default).
    ByName,
    /// The members of all answers side by side; of two of one name the later call's.
    Flat,
    /// These members, none of which stands in another.
    Members(Vec<Member>),
}

/// Which version of an interface a route is, and how it ends (RFC 9745, RFC 8594).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deprecation {
    /// Its name; who calls it is counted.
    pub version: Option<String>,
    /// The day since which nobody should begin to use it.
    pub since: Option<crate::units::Day>,
    /// Where that is explained.
    pub link: Option<String>,
    /// What follows it.
    pub successor: Option<String>,
}

/// A route is closed for a while.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Maintenance {
    /// When clients may ask again (default 1 min).
    pub retry_after: Duration,
    /// What they are told.
    pub detail: Option<String>,
}

/// Where filters stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attached {
    /// In `defaults`.
    Listener,
    /// In `consumers`.
    Consumer,
    /// In `routes`.
    Route,
    /// In `upstreams`.
    Service,
}

impl fmt::Display for Attached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Listener => "the listener",
            Self::Consumer => "the consumer",
            Self::Route => "the route",
            Self::Service => "the service",
        })
    }
}

/// What one place says of a filter that an exchange passes once, whatever places speak of it. The most special one
/// that does counts: the consumer's, then the route's, the service's, the listener's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Word<T> {
    /// Nothing.
    #[default]
    Silent,
    /// It is not passed.
    Never,
    /// It is, and so.
    So(T),
}

impl<T> Word<T> {
    /// As `f` has it.
    pub fn map<U>(&self, f: impl FnOnce(&T) -> U) -> Word<U> {
        match self {
            Self::Silent => Word::Silent,
            Self::Never => Word::Never,
            Self::So(rules) => Word::So(f(rules)),
        }
    }

    /// Whether it says that the filter is passed.
    pub fn rules(&self) -> Option<&T> {
        match self {
            Self::So(rules) => Some(rules),
            Self::Silent | Self::Never => None,
        }
    }

    /// Whether it says nothing.
    pub fn is_silent(&self) -> bool {
        matches!(self, Self::Silent)
    }
}

/// Which answers are compressed for clients that take it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compress {
    /// Media types, lower case; `text/` means all that begin so, `+json` all that end so.
    pub types: Vec<String>,
    /// Answers of fewer bytes are not, where that is known (default 1 KiB).
    pub least: u64,
}

/// Headers by which browsers are told to be careful, where a service says nothing itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SecurityHeaders {
    /// For answers that programs read: nothing in them is to be shown or run.
    Api,
    /// For pages.
    Web,
}
