//! Routes that lead to files: a directory's files as answers to GET and HEAD, with validators, ranges
//! and precompressed forms (spec G22). Not for listing, and not for changing anything. Called by
//! `dispatch`.
//!
//! Invariant: a file is opened by the kernel's own walk below the directory, so that no name and no
//! link leads out of it; and a worker never waits for a disk.

use std::sync::Arc;
use std::time::SystemTime;

use http::{HeaderMap, HeaderValue, Method, header};
use thiserror::Error;
use topology::Place;
use topology::gateway::Files;
use topology::units::PathPattern;

use self::body::FileBody;
use self::open::{Directory, Found, Lack, Opened};
use super::held::conditions::{self, Verdict};
use super::held::ranges::{self, Asked, Layout};
use super::held::{Validators, stamp};
use crate::body::AnswerBody;
use crate::coding::{self, Coding};
use crate::exchange::{Answered, AnsweredBy, Exchange, Prepared, ResponseHead};
use crate::halt::{Halt, Held, Kind, Reply};

pub mod body;
pub mod names;
pub mod open;

/// A directory that cannot be served.
#[derive(Debug, Error)]
#[error(
    "files cannot be served from {path}: {source} — make the directory, or let this user read it"
)]
pub struct FilesError {
    path: String,
    source: std::io::Error,
    place: Place,
}

impl FilesError {
    /// Where the directory is named.
    pub fn place(&self) -> Place {
        self.place
    }
}

/// What one directory answers, for all workers.
#[derive(Debug)]
pub struct Site {
    directory: Arc<Directory>,
    index: Option<String>,
    cache_control: Option<HeaderValue>,
    precompressed: bool,
}

impl Site {
    /// Checks that it can be opened: blocking.
    ///
    /// # Errors
    /// It is not there, is no directory, or may not be read.
    pub fn new(model: &Files) -> Result<Self, FilesError> {
        let directory = Directory::new(model);
        directory.check().map_err(|source| FilesError {
            path: model.directory.value.display().to_string(),
            source,
            place: model.directory.place,
        })?;
        let text = model.cache_control.as_deref();
        Ok(Self {
            directory: Arc::new(directory),
            index: model.index.clone(),
            cache_control: text.and_then(|text| HeaderValue::from_str(text).ok()),
            precompressed: model.precompressed,
        })
    }

    /// The answer to a request whose route has this pattern. Dropping the future abandons it; a read
    /// that was begun ends by itself.
    ///
    /// # Errors
    /// There is no such file, or not for this method, or not in this state.
    pub async fn answer(
        &self,
        x: &Exchange,
        pattern: &PathPattern,
        request: Prepared,
    ) -> Result<Answered, Halt> {
        let head = request.head;
        if head.method != Method::GET && head.method != Method::HEAD {
            let allow = HeaderValue::from_static("GET, HEAD");
            return Err(Reply::new(Kind::MethodNotAllowed).header(header::ALLOW, allow).into());
        }
        let name = names::below(pattern, head.uri.path(), self.index.as_deref());
        let name = name.ok_or(Lack::Missing)?;
        let kind = names::media_type(&name);
        let varies = self.precompressed && names::compressible(&kind);
        let codings = if varies { coding::accepted(&head.headers) } else { Vec::new() };
        let body = head.method == Method::GET;
        let found = match self.directory.find(name, codings, body).await {
            Ok(found) => found,
            Err(Lack::Folder) => return Err(self.moved(&head.uri)),
            Err(lack) => return Err(lack.into()),
        };
        let mut headers = self.headers(&found.opened, found.coding, &kind);
        if varies {
            headers.insert(header::VARY, HeaderValue::from_static("accept-encoding"));
        }
        respond(x, &head, found, headers)
    }

    /// A directory whose name lacks its slash: relative links in its index would lead astray.
    fn moved(&self, uri: &http::Uri) -> Halt {
        let query = uri.query().map(|query| format!("?{query}")).unwrap_or_default();
        let to = HeaderValue::try_from(format!("{}/{query}", uri.path()));
        match (&self.index, to) {
            (Some(_), Ok(to)) => Reply::new(Kind::Moved).header(header::LOCATION, to).into(),
            _ => Kind::NotFound.into(),
        }
    }

    fn headers(&self, opened: &Opened, coding: Option<Coding>, kind: &HeaderValue) -> HeaderMap {
        let mut headers = HeaderMap::with_capacity(12);
        headers.insert(header::CONTENT_TYPE, kind.clone());
        if let Some(coding) = coding {
            headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static(coding.name()));
        }
        headers.insert(header::ETAG, opened.tag());
        headers.insert(header::LAST_MODIFIED, stamp(opened.modified()));
        headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        if let Some(value) = &self.cache_control {
            headers.insert(header::CACHE_CONTROL, value.clone());
        }
        headers
    }
}

/// Conditions, then ranges, then the body (RFC 9110 §13.2.2).
fn respond(
    x: &Exchange,
    head: &http::request::Parts,
    found: Found,
    mut headers: HeaderMap,
) -> Result<Answered, Halt> {
    let Found { opened, read, .. } = found;
    let held = Validators::of(&headers);
    match conditions::judge(&head.headers, &held) {
        Verdict::Failed => return Err(Kind::PreconditionFailed.into()),
        Verdict::Unchanged => {
            // RFC 9110 §15.4.5: what a cache already has is not said again.
            for name in [header::CONTENT_TYPE, header::CONTENT_ENCODING, header::ACCEPT_RANGES] {
                headers.remove(name);
            }
            return Ok(held_answer(Held::Unchanged, headers, AnswerBody::Empty));
        }
        Verdict::Go => {}
    }
    let size = opened.size();
    let get = head.method == Method::GET;
    let asked = if get && conditions::range_holds(&head.headers, &held, now(x)) {
        ranges::asked(&head.headers, size)
    } else {
        Asked::Whole
    };
    let (what, layout) = match asked {
        Asked::Whole => (Held::Whole, Layout::whole(size)),
        Asked::Parts(spans) => {
            let boundary = format!("{:032x}", rand::random::<u128>());
            (Held::Part, Layout::parts(&spans, size, &boundary, &mut headers))
        }
        Asked::Refused => return Err(out_of_range(size)),
    };
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(layout.length()));
    let body = match read {
        _ if !get => AnswerBody::Empty,
        Some(whole) => AnswerBody::Whole(layout.cut(&whole)),
        None => AnswerBody::File(Box::new(FileBody::new(opened, layout))),
    };
    Ok(held_answer(what, headers, body))
}

fn held_answer(what: Held, headers: HeaderMap, body: AnswerBody) -> Answered {
    Answered { head: ResponseHead::held(what, headers), body, by: AnsweredBy::Gateway }
}

/// 416 with the size (RFC 9110 §15.5.17).
pub(super) fn out_of_range(size: u64) -> Halt {
    let reply = Reply::new(Kind::RangeNotSatisfiable);
    match HeaderValue::try_from(format!("bytes */{size}")) {
        Ok(range) => reply.header(header::CONTENT_RANGE, range).into(),
        Err(_) => reply.into(),
    }
}

fn now(x: &Exchange) -> SystemTime {
    x.wall + x.began.elapsed()
}
