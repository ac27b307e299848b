//! The one host of a request. Not for choosing a certificate. Called by stage 2.
//!
//! Invariant: a host that leaves here is lower case, has no port, no user and no trailing dot.

use http::header::HOST;
use http::request::Parts;
use http::uri::Authority;

use super::NormaliseError;

/// The authority a request is for: the same from `Host` and from the target, or it is refused
/// (RFC 9112 §3.2).
///
/// # Errors
/// None, two, different ones, or one that is no `host [":" port]`.
pub fn authority(head: &Parts) -> Result<Authority, NormaliseError> {
    let mut named = head.headers.get_all(HOST).iter();
    let host = named.next();
    if named.next().is_some() {
        return Err(NormaliseError::Host);
    }
    let host = host
        .map(|value| value.to_str().map_err(|_| NormaliseError::Host))
        .transpose()?
        .map(|text| text.parse::<Authority>().map_err(|_| NormaliseError::Host))
        .transpose()?;
    let authority = match (head.uri.authority(), host) {
        (None, None) => return Err(NormaliseError::Host),
        (Some(target), None) => target.clone(),
        (None, Some(host)) => host,
        (Some(target), Some(host)) if target == &host => host,
        (Some(_), Some(_)) => return Err(NormaliseError::Host),
    };
    if well_formed(&authority) { Ok(authority) } else { Err(NormaliseError::Host) }
}

/// The part that routes are matched by.
pub fn name(authority: &Authority) -> Box<str> {
    let host = authority.host();
    host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase().into()
}

fn well_formed(authority: &Authority) -> bool {
    let host = authority.host();
    let rest = &authority.as_str()[host.len().min(authority.as_str().len())..];
    // Digits alone: what parses numbers takes a sign too.
    let number = |p: &str| p.bytes().all(|b| b.is_ascii_digit()) && p.parse::<u16>().is_ok();
    let port = rest.is_empty() || rest.strip_prefix(':').is_some_and(number);
    let name = |b: u8| b.is_ascii_alphanumeric() || b"-._".contains(&b);
    let literal = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
    let host_ok = match literal {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => {
            let inner = host.strip_suffix('.').unwrap_or(host);
            !inner.is_empty()
                && inner.len() <= 253
                && inner.bytes().all(name)
                && !inner.starts_with('.')
                && !inner.ends_with('.')
                && !inner.contains("..")
        }
    };
    // A user part would stand before the host, so the host would not be a prefix of the text.
    host_ok && port && authority.as_str().starts_with(host)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(target: &str, hosts: &[&str]) -> Result<Box<str>, NormaliseError> {
        let mut request = http::Request::builder().uri(target);
        for host in hosts {
            request = request.header(HOST, *host);
        }
        let (head, ()) = request.body(()).expect("a request").into_parts();
        authority(&head).map(|found| name(&found))
    }

    #[test]
    fn one_host_is_taken() {
        assert_eq!(of("/", &["Api.Example:8443"]).as_deref(), Ok("api.example"));
        assert_eq!(of("/", &["api.example."]).as_deref(), Ok("api.example"));
        assert_eq!(of("http://api.example/", &["API.example"]).as_deref(), Ok("api.example"));
        assert_eq!(of("https://api.example/", &[]).as_deref(), Ok("api.example"));
        assert_eq!(of("/", &["[::1]:80"]).as_deref(), Ok("[::1]"));
    }

    /// G23: a bad host is refused.
    #[test]
    fn bad_hosts_are_refused() {
        let cases: [(&str, &[&str]); 15] = [
            ("/", &[]),
            ("/", &["a", "a"]),
            ("/", &["a", "b"]),
            ("http://a/", &["b"]),
            ("/", &["user@a"]),
            ("/", &["a:b"]),
            ("/", &["a:99999"]),
            ("/", &["a:+80"]),
            ("/", &[".a"]),
            ("/", &["a.."]),
            ("/", &["a..b"]),
            ("/", &["[::x]"]),
            ("/", &["a/b"]),
            ("/", &["a b"]),
            ("/", &[""]),
        ];
        for (target, hosts) in cases {
            assert_eq!(of(target, hosts), Err(NormaliseError::Host), "{target} {hosts:?}");
        }
    }
}
