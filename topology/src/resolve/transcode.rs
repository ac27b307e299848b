//! Where calls of a route are described. Not for whether the descriptions can be read: that is found where they
//! are.
//!
//! Invariant: none beyond `resolve`'s.

use crate::files::RouteTo;
use crate::gateway::Cors;
use crate::raw::{self, Findings, Flag, Spot, Text, Typed};
use crate::resolve::cors::for_calls;
use crate::resolve::held;
use crate::resolve::names::Names;
use crate::resolve::upstream::Upstreams;
use crate::transcode::{Descriptions, Transcode};
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
    callable(&raw.spot, to, upstreams, out);
    let services = raw.services.unwrap_or_default().into_iter();
    Some(Transcode {
        from,
        services: services.map(|typed| typed.value.0).collect(),
        most: held(raw.max, 4 << 20, out),
        place: raw.spot.extent.place,
    })
}

/// Whether browsers may call a route's service in gRPC; what its cross-origin rules lack for that is added.
pub(super) fn web(
    flag: Option<&Typed<Flag>>,
    (to, described, upstreams): (Option<RouteTo>, bool, &Upstreams),
    cors: Option<&mut Cors>,
    out: &mut Findings,
) -> bool {
    let Some(flag) = flag.filter(|flag| flag.value.0) else { return false };
    if described {
        out.error(&flag.spot, "no call is as `validate` asks: descriptions know JSON alone")
            .allowed("one of `grpc-web` and `validate`; on a route `validate: none` if `defaults` have it");
    }
    callable(&flag.spot, to, upstreams, out);
    cors.into_iter().for_each(for_calls);
    true
}

/// Notes where no service is that speaks gRPC.
fn callable(at: &Spot, to: Option<RouteTo>, upstreams: &Upstreams, out: &mut Findings) {
    let speaks = to.map(|to| to.service().and_then(|id| upstreams.speaks(id)));
    match speaks {
        Some(None) => {
            out.error(at, "there is no service behind this route to be called")
                .allowed("a route with `to`");
        }
        Some(Some((UpstreamProtocol::Http1, name))) => {
            out.error(at, format!("`{name}` is spoken to in HTTP/1.1, and gRPC needs HTTP/2"))
                .allowed(format!(
                    "`upstreams: {{ {name}: {{ protocol: http2 }} }}`, or `auto` over TLS"
                ));
        }
        Some(Some(_)) | None => {}
    }
}
