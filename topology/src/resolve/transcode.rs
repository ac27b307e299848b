//! Where calls of a route are described. Not for whether the descriptions can be read: that is found where they
//! are.
//!
//! Invariant: none beyond `resolve`'s.

use crate::files::RouteTo;
use crate::raw::{self, Findings, Text, Typed};
use crate::resolve::names::Names;
use crate::resolve::or;
use crate::resolve::upstream::Upstreams;
use crate::transcode::{Descriptions, Transcode};
use crate::units::Size;
use crate::upstream::UpstreamProtocol;

/// What a route says of it.
pub(super) fn transcode(
    raw: raw::Transcode,
    to: Option<RouteTo>,
    upstreams: &Upstreams,
    names: &Names,
    out: &mut Findings,
) -> Option<Transcode> {
    let place = |typed: Typed<Text>| names.folder.join(typed.value.0);
    let include = raw.include.unwrap_or_default().into_iter().map(place).collect();
    let from = match (raw.protos, raw.descriptors) {
        (Some(files), None) => {
            Descriptions::Sources { files: files.0.into_iter().map(place).collect(), include }
        }
        (None, Some(set)) => Descriptions::Set(place(set)),
        _ => {
            out.error(&raw.spot, "methods are described in one place")
                .allowed("exactly one of `protos` and `descriptors`");
            return None;
        }
    };
    let speaks = to.map(|to| to.service().and_then(|id| upstreams.speaks(id)));
    match speaks {
        Some(None) => {
            out.error(&raw.spot, "there is no service behind this route to be called")
                .allowed("a route with `to`");
        }
        Some(Some((UpstreamProtocol::Http1, name))) => {
            out.error(
                &raw.spot,
                format!("`{name}` is spoken to in HTTP/1.1, and gRPC needs HTTP/2"),
            )
            .allowed(format!(
                "`upstreams: {{ {name}: {{ protocol: http2 }} }}`, or `auto` over TLS"
            ));
        }
        Some(Some(_)) | None => {}
    }
    if let Some(max) = raw.max.as_ref().filter(|max| !(1..=64 << 20).contains(&max.value.0)) {
        out.error(&max.spot, format!("{} is too much to hold", max.value)).allowed("1B to 64MiB");
    }
    let services = raw.services.unwrap_or_default().into_iter();
    Some(Transcode {
        from,
        services: services.map(|typed| typed.value.0).collect(),
        most: or(raw.max, Size(4 << 20)).0,
        place: raw.spot.extent.place,
    })
}
