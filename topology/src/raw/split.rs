//! Splits, mirrors and experiments as typed.
//!
//! Invariant: none beyond `raw`'s.

use crate::raw::schema::section;
use crate::raw::{Named, Text, Typed};
use crate::units::{Percent, Time};

section! {
    /// A part of a route's requests that leads elsewhere.
    SplitPart {
        /// Where: a service, or GROUP/LISTENER of the balancers in front of one.
        must "to" to: Typed<Text>,
        /// How many of a hundred. Who is in stays in when it grows.
        must "part" part: Typed<Percent>,
        /// `NAME=VALUE`: who bears this cookie is in, however small the part, unless that is 0%; who bears it with another
        /// value is not; who is chosen is handed it. Default: none.
        may "cookie" cookie: Typed<Text>,
        /// How long clients keep the cookie. Default: 30d.
        may "cookie-age" cookie_age: Typed<Time>,
    }
}

section! {
    /// Where copies of a route's safe requests go.
    Mirror {
        /// Where: a service, or GROUP/LISTENER of the balancers in front of one.
        must "to" to: Typed<Text>,
        /// How many of a hundred.
        must "part" part: Typed<Percent>,
    }
}

section! {
    /// Users divided among variants, independently of every other experiment. Services learn of it by
    /// the header `X-Experiment-NAME: VARIANT`.
    Experiment at spot {
        /// How many of a hundred get each, by name; who is left takes no part.
        must "variants" variants: Named<Typed<Percent>>,
        /// Who always has the same variant: each `user` (its address while nobody is verified), each
        /// `address`, or each value of the cookie `cookie:NAME`. Default: `user`.
        may "by" by: Typed<Text>,
        /// A cookie of this name that is handed out with the variant and keeps it when parts move.
        /// Default: none.
        may "cookie" cookie: Typed<Text>,
        /// How long clients keep the cookie. Default: 30d.
        may "cookie-age" cookie_age: Typed<Time>,
    }
}
