//! Headers that must not pass: hop-by-hop ones, framing, and every one that only we may set. Not for
//! setting ours: stage 7 does, last. Called by stage 2.
//!
//! Invariant: after `scrub`, no header is left that any service could read as one of ours, whatever
//! its spelling.

use http::header::{self, HeaderMap, HeaderName, HeaderValue};

use super::NormaliseError;
use crate::hops::{hop_by_hop, only_ours};

/// Removes them from a request.
///
/// # Errors
/// `Connection` names a header that is no hop's business: a known trick to strip what proxies add.
pub fn scrub(headers: &mut HeaderMap) -> Result<(), NormaliseError> {
    for value in headers.get_all(header::CONNECTION) {
        let text = value.to_str().map_err(|_| NormaliseError::Connection)?;
        if text.split(',').any(|name| protected(name.trim())) {
            return Err(NormaliseError::Connection);
        }
    }
    hop_by_hop(headers);
    let spoofed: Vec<HeaderName> = headers.keys().filter(|name| only_ours(name)).cloned().collect();
    for name in spoofed {
        headers.remove(name);
    }
    join_cookies(headers);
    // Framing is made anew from the parsed body; the host travels in the target; 100 was our answer.
    headers.remove(header::HOST);
    for name in [header::CONTENT_LENGTH, header::EXPECT] {
        // Looked for first: most requests have neither.
        if headers.keys().any(|known| *known == name) {
            headers.remove(name);
        }
    }
    Ok(())
}

/// RFC 9113 §8.2.3: cookies that HTTP/2 sent apart are one field towards HTTP/1.1.
fn join_cookies(headers: &mut HeaderMap) {
    if headers.get_all(header::COOKIE).iter().nth(1).is_some() {
        let crumbs: Vec<&[u8]> =
            headers.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes).collect();
        if let Ok(joined) = HeaderValue::from_bytes(&crumbs.join(&b"; "[..])) {
            headers.insert(header::COOKIE, joined);
        }
    }
}

/// Whether naming it in `Connection` is an attack.
fn protected(name: &str) -> bool {
    const NEVER: [HeaderName; 6] = [
        header::HOST,
        header::AUTHORIZATION,
        header::CONTENT_LENGTH,
        header::CONTENT_TYPE,
        header::COOKIE,
        header::TRANSFER_ENCODING,
    ];
    HeaderName::from_bytes(name.as_bytes())
        .is_ok_and(|name| NEVER.contains(&name) || only_ours(&name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(&str, &str)]) -> HeaderMap {
        let line = |(name, value): &(&str, &str)| {
            let name = HeaderName::from_bytes(name.as_bytes()).expect("a name");
            (name, HeaderValue::from_str(value).expect("a value"))
        };
        lines.iter().map(line).collect()
    }

    /// G6: our headers are removed in every spelling.
    #[test]
    fn spoofed_headers_are_removed_in_every_spelling() {
        let spellings = [
            "X-User-Id",
            "x-user-id",
            "X_USER_ID",
            "X-User_Id",
            "x_user-id",
            "X.User.Id",
            "X-User.Id",
            "x~user~id",
            "X-USER-ID",
            "x!user!id",
            "X'User'Id",
            "x|user|id",
            "X-Forwarded-For",
            "X_Forwarded_Proto",
            "Forwarded",
            "X-Real-IP",
            "x-scopes",
            "X-Consumer-Name",
            "X_Client_Principal",
            "X-User-Claim-Tenant",
            "x_aqueduct_identity",
            "X-Original-URL",
            "X-HTTP-Method-Override",
            "traceparent",
            "Transfer_Encoding",
            "content_length",
            "Proxy.Authorization",
        ];
        for name in spellings {
            let mut map = headers(&[(name, "1"), ("accept", "*/*"), ("x-custom", "stays")]);
            scrub(&mut map).expect("clean");
            assert_eq!(map.len(), 2, "{name}");
        }
    }

    #[test]
    fn hop_by_hop_headers_go_with_what_connection_names() {
        let mut map = headers(&[
            ("connection", "keep-alive, X-Hop"),
            ("connection", "te"),
            ("x-hop", "1"),
            ("te", "trailers"),
            ("keep-alive", "5"),
            ("proxy-authorization", "secret"),
            ("upgrade", "h2c"),
            ("accept", "*/*"),
        ]);
        scrub(&mut map).expect("clean");
        assert_eq!(map.keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["accept"]);
    }

    #[test]
    fn crumbs_become_one_cookie() {
        let mut map = headers(&[("cookie", "a=1"), ("cookie", "b=2"), ("accept", "x")]);
        scrub(&mut map).expect("clean");
        assert_eq!(map.len(), 2);
        assert_eq!(map["cookie"], "a=1; b=2");
    }

    /// G6: nobody strips what we add by naming it in `Connection`.
    #[test]
    fn naming_a_protected_header_is_refused() {
        for name in ["X-Forwarded-For", "x_user_id", "Authorization", "host", "Content-Length"] {
            let mut map = headers(&[("connection", &format!("close, {name}"))]);
            assert_eq!(scrub(&mut map), Err(NormaliseError::Connection), "{name}");
        }
    }
}
