//! Who the client is where trusted proxies in front say so in `X-Forwarded-For` or `Forwarded`. Not for what services
//! are told: stage 7 writes that. Called by stage 2, before the header is scrubbed.
//!
//! Invariant: what a client writes itself is never believed: only the entries that trusted proxies have
//! put behind it are counted, from the right.

use std::net::{IpAddr, SocketAddr};

use http::{HeaderMap, HeaderName};
use topology::gateway::{ForwardedIn, TrustForwarded};

use crate::forwarded::{self, Unlawful};

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// The client's address; `None`: it is the peer's. So it is where the peer is nobody's proxy, where the
/// list is shorter than the row of proxies (who sent it came past one of them), and where the entry is no
/// address: such requests share what the proxy's own address may have.
///
/// # Errors
/// A trusted proxy's `Forwarded` cannot be read: with an open quote its client has made the proxy's word its own, and
/// is not to have the proxy's share for it.
pub fn client(
    trust: &TrustForwarded,
    peer: IpAddr,
    headers: &HeaderMap,
) -> Result<Option<SocketAddr>, Unlawful> {
    if !trust.from.iter().any(|network| network.contains(&peer)) {
        return Ok(None);
    }
    let back = usize::try_from(trust.hops.get() - 1).unwrap_or(usize::MAX);
    if trust.header == ForwardedIn::Forwarded {
        return Ok(forwarded::node(headers, back)?.and_then(|node| address(&node)));
    }
    Ok(entry(headers, back))
}

/// The entry of `X-Forwarded-For` that is so many from the right.
fn entry(headers: &HeaderMap, back: usize) -> Option<SocketAddr> {
    let lines = headers.get_all(FORWARDED_FOR).iter().rev();
    let mut entries = lines.flat_map(|line| line.as_bytes().rsplit(|byte| *byte == b','));
    let entry = entries.nth(back)?;
    address(std::str::from_utf8(entry).ok()?.trim())
}

/// With or without a port, IPv6 with or without brackets: as proxies write it.
fn address(text: &str) -> Option<SocketAddr> {
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    bare.parse().map(|ip: IpAddr| SocketAddr::new(ip, 0)).or_else(|_| text.parse()).ok()
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use http::HeaderValue;

    use super::*;

    fn found(hops: u32, peer: &str, lines: &[&str]) -> Option<String> {
        let from = vec!["10.0.0.0/8".parse().expect("a network")];
        let hops = NonZeroU32::new(hops).expect("one at least");
        let trust = TrustForwarded { from, hops, header: ForwardedIn::XForwardedFor };
        let mut headers = HeaderMap::new();
        for line in lines {
            let value = HeaderValue::from_bytes(line.as_bytes()).expect("a value");
            headers.append(FORWARDED_FOR, value);
        }
        let client = client(&trust, peer.parse().expect("an address"), &headers);
        client.expect("it has no `Forwarded`").map(|address| address.to_string())
    }

    /// G10, G23: entries are counted from the right, over all lines; what is left of them is nobody's word.
    #[test]
    fn trusted_hops_are_counted_from_the_right() {
        let proxy = "10.0.0.1";
        for (hops, peer, lines, client) in [
            (1, proxy, &["198.51.100.7"][..], Some("198.51.100.7:0")),
            (1, proxy, &["1.1.1.1, 198.51.100.7"], Some("198.51.100.7:0")),
            (1, proxy, &["1.1.1.1", "2.2.2.2,198.51.100.7"], Some("198.51.100.7:0")),
            (2, proxy, &["1.1.1.1, 198.51.100.7", "10.0.0.2"], Some("198.51.100.7:0")),
            (1, proxy, &["198.51.100.7:4000"], Some("198.51.100.7:4000")),
            (1, proxy, &["2001:db8::7"], Some("[2001:db8::7]:0")),
            (1, proxy, &["[2001:db8::7]"], Some("[2001:db8::7]:0")),
            (1, proxy, &["[2001:db8::7]:4000"], Some("[2001:db8::7]:4000")),
            (1, proxy, &["ö, 198.51.100.7"], Some("198.51.100.7:0")),
            (1, "192.0.2.1", &["198.51.100.7"], None),
            (2, proxy, &["198.51.100.7"], None),
            (1, proxy, &[], None),
            (1, proxy, &["198.51.100.7, unknown"], None),
            (1, proxy, &["198.51.100.7,"], None),
            (1, proxy, &["198.51.100.7, 300.1.1.1"], None),
        ] {
            assert_eq!(found(hops, peer, lines).as_deref(), client, "{hops} {peer} {lines:?}");
        }
    }
}
