//! The `cache:` keys of a gateway group and of its routes as typed.
//!
//! Invariant: none beyond `raw`'s.

use crate::raw::schema::section;
use crate::raw::{Flag, Typed};
use crate::units::{Size, Time};

section! {
    /// What one instance keeps of answers, in memory.
    CacheStore {
        /// Most bytes of all of them together, 1MiB to 64GiB. Default: 64MiB.
        may "size" size: Typed<Size>,
        /// Most bytes of one body; at most an eighth of `size`. Default: 1MiB, or that eighth.
        may "max-body" max_body: Typed<Size>,
    }
}

section! {
    /// That a route's answers to GET are kept as long as the service's `Cache-Control` or `Expires`
    /// says (RFC 9111), for everybody who asks the same.
    CachePolicy {
        /// Whether answers to callers who were identified, or who sent `Authorization`, are kept too
        /// and given to others: only where they are the same for everybody who may call. What the
        /// service calls `private` is never kept. Default: false.
        may "shared" shared: Typed<Flag>,
        /// How long an answer is fresh whose service does not say. Default: it is not kept.
        may "fresh" fresh: Typed<Time>,
        /// How long a stale answer is still given while a fresh one is fetched, unless the service says
        /// so itself (RFC 5861). Default: 0s.
        may "stale-while-revalidate" stale_while_revalidate: Typed<Time>,
        /// How long a stale answer is given in place of an error, unless the service says so itself
        /// (RFC 5861). Default: 0s.
        may "stale-if-error" stale_if_error: Typed<Time>,
    }
}
