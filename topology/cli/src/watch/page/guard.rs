//! Who may read the page and who may change something. Not for what is answered: `serve`.
//!
//! Invariant: without the page's token nothing is changed, and a foreign website reads nothing even
//! where its name was made to point here.

use std::net::{IpAddr, SocketAddr};

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::rand::fill;
use http::header::{AUTHORIZATION, HOST, ORIGIN};
use http::{HeaderMap, StatusCode};

/// What is asked of requests.
#[derive(Clone)]
pub(crate) struct Guard {
    token: String,
    /// Reading asks for the token too: others on the network reach the page.
    closed: bool,
}

impl std::fmt::Debug for Guard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Guard")
    }
}

/// Why a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Refusal(pub(crate) StatusCode, pub(crate) &'static str);

impl Guard {
    /// For a page at this address.
    pub(crate) fn new(token: String, at: SocketAddr) -> Self {
        Self { token, closed: !at.ip().is_loopback() }
    }

    /// A token that nobody can guess.
    pub(crate) fn fresh_token() -> anyhow::Result<String> {
        let mut bytes = [0; 16];
        fill(&mut bytes)?;
        Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
    }

    /// The page itself: it holds nothing that is worth hiding.
    pub(crate) fn visit(headers: &HeaderMap) -> Result<(), Refusal> {
        // A site whose name was rebound to this address still says its own name.
        let host = headers.get(HOST).and_then(|host| host.to_str().ok());
        if host.is_some_and(is_literal) {
            return Ok(());
        }
        let told = "ask for this page by its address or as localhost, not by another name\n";
        Err(Refusal(StatusCode::MISDIRECTED_REQUEST, told))
    }

    /// What is seen of the stack.
    pub(crate) fn read(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        Self::visit(headers)?;
        if self.closed { self.admit(headers) } else { Ok(()) }
    }

    /// A change.
    pub(crate) fn write(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        Self::visit(headers)?;
        let host = headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
        let own = |origin: &str| origin.strip_prefix("http://") == Some(host);
        if headers.get(ORIGIN).is_some_and(|origin| !origin.to_str().is_ok_and(own)) {
            return Err(Refusal(StatusCode::FORBIDDEN, "another site asks for this\n"));
        }
        self.admit(headers)
    }

    fn admit(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        let given = headers.get(AUTHORIZATION).map_or(&b""[..], |value| value.as_bytes());
        let given = given.strip_prefix(b"Bearer ").unwrap_or_default();
        let told = "send the page's token as Authorization: Bearer TOKEN\n";
        verify_slices_are_equal(given, self.token.as_bytes())
            .map_err(|_| Refusal(StatusCode::UNAUTHORIZED, told))
    }
}

/// An address or `localhost`, with a port or without.
fn is_literal(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    };
    let bare = name.trim_start_matches('[').trim_end_matches(']');
    name == "localhost" || bare.parse::<IpAddr>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(list: &[(&'static str, &str)]) -> HeaderMap {
        let pairs = list.iter().map(|(name, value)| {
            (http::HeaderName::from_static(name), value.parse().expect("a value"))
        });
        pairs.collect()
    }

    fn status(outcome: Result<(), Refusal>) -> u16 {
        outcome.err().map_or(200, |Refusal(status, _)| status.as_u16())
    }

    /// T6: the page is read by address alone, and changed with the token alone, from itself alone.
    #[test]
    fn foreign_sites_and_guests_change_nothing() {
        let guard = Guard::new("secret".into(), "127.0.0.1:9180".parse().expect("an address"));
        for host in ["127.0.0.1:9180", "localhost:9180", "[::1]:9180", "10.0.0.7"] {
            assert_eq!(status(guard.read(&headers(&[("host", host)]))), 200, "{host}");
        }
        for host in ["evil.example:9180", "127.0.0.1.evil.example", "localhost.evil.example", ""] {
            assert_eq!(status(guard.read(&headers(&[("host", host)]))), 421, "{host}");
        }
        let host = ("host", "127.0.0.1:9180");
        let bearer = ("authorization", "Bearer secret");
        assert_eq!(status(guard.write(&headers(&[host]))), 401);
        assert_eq!(status(guard.write(&headers(&[host, ("authorization", "Bearer x")]))), 401);
        assert_eq!(status(guard.write(&headers(&[host, bearer]))), 200);
        for (origin, expected) in
            [("http://127.0.0.1:9180", 200), ("http://evil.example", 403), ("null", 403)]
        {
            let all = headers(&[host, bearer, ("origin", origin)]);
            assert_eq!(status(guard.write(&all)), expected, "{origin}");
        }
    }

    /// T6: where others reach the page, reading asks for the token too.
    #[test]
    fn off_loopback_reading_asks_too() {
        let guard = Guard::new("secret".into(), "10.0.0.7:9180".parse().expect("an address"));
        let host = ("host", "10.0.0.7:9180");
        assert_eq!(status(Guard::visit(&headers(&[host]))), 200);
        assert_eq!(status(guard.read(&headers(&[host]))), 401);
        assert_eq!(status(guard.read(&headers(&[host, ("authorization", "Bearer secret")]))), 200);
    }
}
