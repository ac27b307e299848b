//! Newtypes for every id and unit that crosses a boundary: the topology file gives text, these are
//! the only forms in which the rest of the suite sees it. No I/O and no defaults here: defaults
//! belong to the section that has the key.
//!
//! Invariant: a value of these types is valid; there is no second check downstream.

mod text;

use std::fmt;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

pub(crate) use text::{LISTEN_AT, PATH, PERCENT, QUOTA, RATE, SIZE, TIME, is_token};
pub use text::{Size, Time, UnitError};

/// Declares a name: cheap to clone, compared by text.
macro_rules! name {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Takes the text as it stands; the topology file's conversion has checked it.
            pub fn new(text: &str) -> Self {
                Self(Arc::from(text))
            }

            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", &*self.0)
            }
        }
    };
}

name! {
    /// A key below `services:`, or the name of a group whose instances stand as a service.
    ServiceName
}
name! {
    /// An endpoint's stable name: hashing depends on it, so it does not change with the order in
    /// the file. Its address as text unless the file names it.
    EndpointName
}
name! {
    /// A balancer, gateway or pool group.
    GroupName
}
name! {
    /// One running process of a group; unique in the file.
    InstanceName
}
name! {
    /// A listener of a balancer group; unique in its group.
    ListenerName
}
name! {
    /// Where servers stand near each other: a rack, a data centre, a cloud's availability zone.
    ZoneName
}
name! {
    /// A route: its `name:`, or its path pattern as text.
    RouteName
}
name! {
    /// A key below `issuers:`.
    IssuerName
}
name! {
    /// A key below `api-keys:`.
    ApiKeysName
}
name! {
    /// A key below `limits:`.
    LimitName
}
name! {
    /// One OAuth 2.0 scope (RFC 6749 §3.3): printable ASCII without space, `"` and `\`.
    Scope
}
name! {
    /// A database as clients name it.
    DatabaseName
}
name! {
    /// A PostgreSQL role.
    UserName
}

/// Where something stands in the topology file; both start at 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Place {
    /// Line, from 1.
    pub line: u32,
    /// Column in characters, from 1.
    pub column: u32,
}

/// A value that keeps its place, so that an error found later (a certificate that does not match
/// its key, a port that is busy) is still reported at `file:line:column`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct At<T> {
    /// The value.
    pub value: T,
    /// Where it was written.
    pub place: Place,
}

/// A reference to something secret or large outside of the file. Nothing is read here;
/// `common::secret::read` does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecretRef {
    /// `file:PATH`, made absolute against the topology file's folder.
    File(PathBuf),
    /// `env:NAME`.
    Env(String),
    /// What a file of another form holds itself (`pgbouncer`); no topology file can say it.
    Given(Given),
}

/// A secret that is already here.
#[derive(Clone, PartialEq, Eq)]
pub struct Given(std::sync::Arc<str>);

impl Given {
    /// Keeps it.
    pub fn new(secret: &str) -> Self {
        Self(secret.into())
    }

    /// The secret itself.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Given {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

/// A share of traffic among endpoints, 1 to 1000.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Weight(pub u16);

impl Default for Weight {
    fn default() -> Self {
        Self(1)
    }
}

/// A part of a whole as written: `50%`, 0 to 100.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Percent(pub u8);

/// `100/min`: so many per so long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// How many.
    pub count: NonZeroU32,
    /// Within this time.
    pub per: Duration,
}

/// `100000/month`: so many per day or month of the calendar (UTC).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    /// How many.
    pub count: NonZeroU32,
    /// In each of these.
    pub per: Calendar,
}

/// What begins anew for everybody at the same moment, in UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Calendar {
    /// A day.
    Day,
    /// A month.
    Month,
}

/// Which host a route answers for, compared without case and port.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum HostPattern {
    /// `api.example`.
    Exact(String),
    /// `*.example`: one or more labels before the suffix; the text kept is `.example`.
    Suffix(String),
}

/// Which canonical path a route matches.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum PathPattern {
    /// `/api/search`: this path alone.
    Exact(String),
    /// `/api/user/*`: the path before `/*` itself and everything below it. Kept without `/*`;
    /// the root `/*` is kept as the empty text.
    Prefix(String),
    /// `/api/user/{id}/posts`: each name in braces stands for one whole segment.
    Template(String),
    /// `~/v[0-9]+/.*`: the whole path matches this regular expression. Kept without `~`.
    Regex(String),
}

impl PathPattern {
    /// What a regular expression of a route is compiled as, here and wherever it is matched: it must
    /// fit the whole path.
    pub fn whole(pattern: &str) -> String {
        format!("^(?:{pattern})$")
    }

    /// Names of what a path stands for in it: those in braces, groups of a regular expression, and `rest`
    /// for what `/*` takes.
    pub fn names(&self) -> Vec<String> {
        match self {
            Self::Exact(_) => Vec::new(),
            Self::Prefix(_) => vec!["rest".to_owned()],
            Self::Template(text) => {
                let braced = |s: &str| Some(s.strip_prefix('{')?.strip_suffix('}')?.to_owned());
                text.split('/').filter_map(braced).collect()
            }
            Self::Regex(pattern) => {
                let read = regex::Regex::new(&Self::whole(pattern));
                let read = read.expect("invariant: it was compiled when the file was read");
                read.capture_names().flatten().map(str::to_owned).collect()
            }
        }
    }
}

/// A calendar day (UTC), for `sunset`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Day {
    /// Year, 1970 to 9999.
    pub year: u16,
    /// Month, 1 to 12.
    pub month: u8,
    /// Day of the month, 1 to 31, valid for its month.
    pub day: u8,
}

impl Day {
    /// Seconds from 1970 to its first.
    pub fn begins(self) -> u64 {
        // Years that begin in March, so that the day that is not always there is the last.
        let (year, month) = (u64::from(self.year), u64::from(self.month));
        let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
        let days = (153 * month + 2) / 5 + u64::from(self.day) - 1;
        let before = year * 365 + year / 4 - year / 100 + year / 400;
        (before + days - 719_468) * 86_400
    }
}
