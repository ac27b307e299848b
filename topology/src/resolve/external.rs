//! Programs that see requests on their way. Not for whether they answer.
//!
//! Invariant: none beyond `resolve`'s.

use std::time::Duration;

use crate::external::External;
use crate::identity::UnansweredIs;
use crate::raw::{self, Findings};
use crate::resolve::identity::url;
use crate::resolve::{held, or, positive};
use crate::units::is_token;

/// Longest time that every request may wait.
const LONGEST: Duration = Duration::from_secs(5);

/// What a place of the file says of it.
pub(super) fn external(raw: raw::External, out: &mut Findings) -> Option<External> {
    let url = url(raw.url?, out);
    if let Some(timeout) = raw.timeout.as_ref().filter(|typed| typed.value.0 > LONGEST) {
        out.error(&timeout.spot, "every request would wait so long").allowed("up to 5s");
    }
    let headers = raw.headers.map(|all| {
        for typed in all.iter().filter(|typed| !is_token(&typed.value.0)) {
            out.error(&typed.spot, format!("`{}` is no header's name", typed.value.0))
                .allowed("names of headers: accept-language");
        }
        all.into_iter().map(|typed| typed.value.0.to_ascii_lowercase()).collect()
    });
    let answers = raw.answer_body.is_some();
    Some(External {
        url,
        timeout: positive(raw.timeout, Duration::from_millis(200), out),
        when_away: or(raw.when_away, UnansweredIs::Refused),
        headers,
        body: raw.body.map(|size| held(Some(size), 0, out)),
        answers: answers || raw.answers.is_some_and(|flag| flag.value.0),
        answer_body: raw.answer_body.map(|size| held(Some(size), 0, out)),
    })
}
