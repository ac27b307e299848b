//! Why a source gave no answer. Not for operators by itself: `keep` tells it, once per cause.
//!
//! Invariant: no secret is in a message, and what others have written is one short line of it.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use common::fetch::FetchError;
use common::secret::SecretError;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::rr::RecordType;
use http::StatusCode;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Fault {
    /// DNS cannot be asked at all.
    #[error("the system's resolver cannot be used: {0}")]
    System(NetError),
    /// DNS was asked in vain.
    #[error("{}", said(.0))]
    Lookup(#[from] NetError),
    /// DNS knows the name and no address of it.
    #[error("the answer has no endpoint")]
    Empty,
    /// The list cannot be read.
    #[error("cannot read {path}: {source}", path = path.display())]
    Read { path: PathBuf, source: io::Error },
    /// Nobody is there, or it is not who it should be.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// No answer in time.
    #[error("no answer within {} s", .0.as_secs())]
    Late(Duration),
    /// The connection broke, or what came is no HTTP.
    #[error("the answer broke off")]
    Broken,
    /// The answer is longer than any that makes sense.
    #[error("the answer is longer than {} MiB", .0 >> 20)]
    TooLarge(usize),
    /// Another answer than that it was done.
    #[error("it answers {0}")]
    Status(StatusCode),
    /// A call of gRPC ended otherwise than well.
    #[error("it ends the stream with {name}: {text}")]
    Call { name: &'static str, text: String },
    /// What proves who we are cannot be read.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// What proves who we are cannot be sent.
    #[error("the token or login has bytes that no header may have")]
    Token,
    /// The file names no API server, and nobody else does.
    #[error("no `api` is named, and KUBERNETES_SERVICE_HOST is not set: this is no pod")]
    NoPod,
    /// Nothing in the answer is of use.
    #[error("the answer is of no use: {}", short(.0))]
    Nonsense(String),
}

/// What others may have written, on one line that is not endless.
pub(crate) fn short(text: &str) -> String {
    let mut line: String = text
        .chars()
        .take(LONGEST)
        .map(|letter| if letter.is_control() { ' ' } else { letter })
        .collect();
    if text.chars().nth(LONGEST).is_some() {
        line.push('…');
    }
    line
}

/// Letters of a text of somebody else's: more than any honest one has.
const LONGEST: usize = 300;

/// What a resolver says, in words of zones.
fn said(error: &NetError) -> String {
    let NetError::Dns(DnsError::NoRecordsFound(none)) = error else { return error.to_string() };
    let name = none.query.name().to_string();
    let name = name.trim_end_matches('.');
    match none.query.query_type() {
        _ if error.is_nx_domain() => format!("DNS knows no {name}"),
        RecordType::A | RecordType::AAAA => format!("DNS knows no address of {name}"),
        kind => format!("DNS has no {kind} record of {name}"),
    }
}
