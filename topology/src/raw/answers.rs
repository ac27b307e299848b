//! Answers that the file itself gives, as typed.
//!
//! Invariant: none beyond `raw`'s.

use crate::answers::Merge;
use crate::raw::schema::section;
use crate::raw::{Flag, Named, Text, Typed};
use crate::template::Template;
use crate::units::{Size, Time};

section! {
    /// Clients are told to ask elsewhere.
    Redirect {
        /// Where: a path, or a URL whose host is written out, a template: `/v2/${path.rest}`,
        /// `https://${request.host}${request.path}`.
        must "to" to: Typed<Template>,
        /// 301, 302, 303, 307 or 308. Default: 308.
        may "status" status: Typed<u16>,
        /// Whether the query goes along. Default: true.
        may "query" query: Typed<Flag>,
    }
}

section! {
    /// An answer that is in the file.
    Answer {
        /// The text, one line.
        must "body" body: Typed<Text>,
        /// 200 to 599. Default: 200.
        may "status" status: Typed<u16>,
        /// Its media type. Default: text/plain; charset=utf-8.
        may "type" kind: Typed<Text>,
    }
}

section! {
    /// Several services' answers become one: `{"NAME": answer, …}`. The calls are GETs and begin at once, except
    /// those that need another's answer.
    Aggregate at spot {
        /// The calls by name, 1 to 16.
        must "calls" calls: Named<Call>,
        /// How answers are put together: `by-name`, or `flat` (members of all answers, side by side).
        /// Default: by-name.
        may "merge" merge: Typed<Merge>,
        /// What stands where in the answer, in place of `merge`: `{ user.name: profile.name, orders: orders.items }`.
        /// What a call's answer lacks is left out. Default: all of the answers, as `merge` says.
        may "template" template: Named<Typed<Text>>,
        /// `ok`: the whole is 200, and a call that fails and is needed (`on-failure: fail`) makes it 502 or 504
        /// without the others' answers; or `worst-required`: what came is told, with the greatest status from 400
        /// on that a needed call was answered with, 502 and 504 for those that were not answered. Default: ok.
        may "status" status: Typed<Text>,
        /// Most bytes of all answers together. Default: 4MiB.
        may "max" max: Typed<Size>,
    }
}

section! {
    /// One call of an aggregate.
    Call {
        /// Whom it asks: a service, or GROUP/LISTENER of the balancers in front of one.
        must "to" to: Typed<Text>,
        /// The path, a template: `/orders/${user}`. `${call.NAME.MEMBER}` is a member of another call's answer,
        /// which is waited for.
        must "path" path: Typed<Template>,
        /// Query parameters by name, templates. Default: none.
        may "query" query: Named<Typed<Template>>,
        /// How long it may take. Default: 1s.
        may "timeout" timeout: Typed<Time>,
        /// What happens when it fails, is late, or is answered by anything but JSON and 200 to 299: `fail` (the
        /// whole fails), `omit` (its member is missing), or `last-good` (what the same caller was last told of the same
        /// request, all its headers included, at most 10 minutes before, else it is missing, as it is where the service
        /// answers 300 to 499 but for 408 and 429: that counts, and what it said before is forgotten; all workers know
        /// it, also after a reload that leaves route, calls and callers as they are; of 64 KiB each, at most 16384 and
        /// 16 MiB in all, beyond which a few of them go). Default: fail.
        may "on-failure" on_failure: Typed<Text>,
        /// JSON that stands in for a failed call's answer, in place of `on-failure`. Default: none.
        may "default" default: Typed<Text>,
    }
}

section! {
    /// A route is closed for a while: its callers are told 503.
    Maintenance {
        /// When they may ask again. Default: 1m.
        may "retry-after" retry_after: Typed<Time>,
        /// What they are told. Default: nothing more.
        may "detail" detail: Typed<Text>,
    }
}

section! {
    /// Which answers are compressed for clients that take it (gzip, br, zstd). An answer that holds both a secret
    /// and what its reader has sent should not be (BREACH).
    Compress {
        /// Media types; `text/` means all that begin so, `+json` all that end so. Default: text/, +json, +xml,
        /// application/json, application/javascript, application/xml, application/wasm, image/svg+xml.
        may "types" types: Vec<Typed<Text>>,
        /// Answers of fewer bytes are not, where that is known. Default: 1KiB.
        may "min" min: Typed<Size>,
    }
}
