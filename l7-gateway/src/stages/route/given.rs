//! Answers that the file itself gives: redirects and texts. Not for services' answers. Called by stage 6,
//! where such a route ends.
//!
//! Invariant: what a client sends never chooses the host that others are sent to.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use topology::answers::Given;

use crate::body::AnswerBody;
use crate::exchange::{Answered, AnsweredBy, ResponseHead};
use crate::transform::TransformError;
use crate::transform::facts::Facts;

/// The answer.
///
/// # Errors
/// A redirect's place cannot be made of this request.
pub fn answer(given: &Given, facts: &Facts<'_>) -> Result<Answered, TransformError> {
    let mut headers = HeaderMap::new();
    let (status, body) = match given {
        Given::Redirect { to, status, query } => {
            let asked = facts.seen.query.filter(|_| *query);
            let place = facts.link(to, asked)?;
            headers.insert(header::LOCATION, place);
            (*status, Bytes::new())
        }
        Given::Text { status, kind, body } => {
            let kind = HeaderValue::from_str(kind);
            headers.extend(kind.ok().map(|kind| (header::CONTENT_TYPE, kind)));
            (*status, Bytes::from(body.clone()))
        }
    };
    // The topology knows no other statuses.
    let status = StatusCode::from_u16(status).unwrap_or_default();
    let head = ResponseHead { status, headers };
    Ok(Answered { head, body: AnswerBody::Whole(body), by: AnsweredBy::Gateway })
}
