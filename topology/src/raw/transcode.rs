//! The `transcode:` key of a route as typed.
//!
//! Invariant: none beyond `raw`'s.

use crate::raw::schema::section;
use crate::raw::{OneOrMany, Text, Typed};
use crate::units::Size;

section! {
    /// Requests in HTTP and JSON become gRPC calls, by the `google.api.http` rules of their descriptions; a method
    /// without a rule is called by `POST /package.Service/Method`. Several answers come as lines of JSON, or as
    /// events where a client asks for `text/event-stream`. Exactly one of `protos` and `descriptors`.
    Transcode at spot {
        /// `.proto` files, one or a list. Exactly one of `protos` and `descriptors`.
        may "protos" protos: OneOrMany<Typed<Text>>,
        /// Folders in which imports are looked for, besides those of the files. Default: none.
        may "include" include: Vec<Typed<Text>>,
        /// A descriptor set, as `protoc --include_imports -o FILE` writes it. Exactly one of `protos` and
        /// `descriptors`.
        may "descriptors" descriptors: Typed<Text>,
        /// Full names of the services that can be called, `shop.v1.Cart`. Default: those of the named files; of a set
        /// those of files that no other file in it imports.
        may "services" services: Vec<Typed<Text>>,
        /// Most bytes of a message, either way. A request's body takes at most 8 times as much memory while it becomes a
        /// message, which may be four times as large; a larger one is 413. Default: 4MiB.
        may "max" max: Typed<Size>,
    }
}
