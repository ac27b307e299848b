//! The `external:` key of `defaults`, routes and upstreams as typed.
//!
//! Invariant: none beyond `raw`'s.

use crate::identity::UnansweredIs;
use crate::raw::schema::section;
use crate::raw::{Flag, Text, Typed};
use crate::units::{Size, Time};

section! {
    /// Somebody is told of each request by a POST of JSON, and says by JSON what becomes of it: it goes on, perhaps
    /// with other headers, or is answered. Who fails five times in a row is left alone for a while.
    External {
        /// `http(s)://HOST[:PORT]/PATH`.
        must "url" url: Typed<Text>,
        /// How long an answer may take, at most 5s. Default: 200ms.
        may "timeout" timeout: Typed<Time>,
        /// What becomes of requests while there is none: `refuse` (503) or `allow` (as if it were not there). One that
        /// is too large is refused whatever stands here. Default: `refuse`.
        may "when-away" when_away: Typed<UnansweredIs>,
        /// Headers that it is told. Default: all but `Authorization`, `Cookie`, `Set-Cookie` and those of API keys.
        may "headers" headers: Vec<Typed<Text>>,
        /// Most bytes of a request's body, which it is then told whole, out of any compressed form, and may change; a
        /// larger one is 413. Calls in gRPC to a service of HTTP/2 pass untold. Default: it is told none.
        may "body" body: Typed<Size>,
        /// Whether it is told of answers too. Default: false.
        may "answers" answers: Typed<Flag>,
        /// Most bytes of an answer's body, which it is then told whole and may change; a larger one is 502. Implies
        /// `answers: true`. Streams (events, lines, gRPC) pass untold. Default: it is told none.
        may "answer-body" answer_body: Typed<Size>,
    }
}
