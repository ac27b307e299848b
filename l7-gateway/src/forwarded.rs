//! `Forwarded` (RFC 7239): what proxies in front say in it, and what services are told. Not for whom to believe: stage 2
//! does that. Called by stages 2 and 7.
//!
//! Invariant: of a line that is not wholly lawful nothing is believed, and nothing that a client writes leaves its quotes.

use std::net::IpAddr;

use http::header::FORWARDED;
use http::{HeaderMap, HeaderValue};

/// Most elements of one line.
const MOST: usize = 64;
const OWS: [char; 2] = [' ', '\t'];

/// A line that is needed is not lawful.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unlawful;

/// What stands in `for` of the element that is so many from the right, 0 being the last. Lines on the left of those that
/// are needed are not looked at.
///
/// # Errors
/// Nobody knows what it says.
pub fn node(headers: &HeaderMap, mut back: usize) -> Result<Option<String>, Unlawful> {
    for line in headers.get_all(FORWARDED).iter().rev() {
        let mut elements = line.to_str().ok().and_then(elements).ok_or(Unlawful)?;
        if back < elements.len() {
            let at = elements.len() - 1 - back;
            return Ok(elements.swap_remove(at));
        }
        back -= elements.len();
    }
    Ok(None)
}

/// What `for` says in each element of a line (RFC 7239 §4); `None`: it is no such line.
fn elements(line: &str) -> Option<Vec<Option<String>>> {
    let (mut all, mut rest) = (Vec::new(), line);
    loop {
        let (mut node, mut says) = (None, false);
        loop {
            rest = rest.trim_start_matches(OWS);
            let (name, after) = token(rest);
            if !name.is_empty() {
                let (value, after) = value(after.strip_prefix('=')?)?;
                says = true;
                // "Each parameter MUST NOT occur more than once" there.
                if name.eq_ignore_ascii_case("for") && node.replace(value).is_some() {
                    return None;
                }
                rest = after.trim_start_matches(OWS);
            }
            match rest.strip_prefix(';') {
                Some(more) => rest = more,
                None => break,
            }
        }
        // Empty elements are none (RFC 9110 §5.6.1.2).
        all.extend(says.then_some(node));
        match rest.strip_prefix(',') {
            Some(more) if all.len() < MOST => rest = more,
            None if rest.is_empty() => return Some(all),
            _ => return None,
        }
    }
}

/// A token and what follows it.
fn token(text: &str) -> (&str, &str) {
    text.split_at(text.find(|letter| !is_token(letter)).unwrap_or(text.len()))
}

/// A token or a quoted text (RFC 9110 §5.6.4), and what follows.
fn value(text: &str) -> Option<(String, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        let (value, after) = token(text);
        return (!value.is_empty()).then(|| (value.to_owned(), after));
    };
    let (mut value, mut letters) = (String::new(), quoted.chars());
    loop {
        match letters.next()? {
            '"' => return Some((value, letters.as_str())),
            '\\' => value.push(letters.next()?),
            letter => value.push(letter),
        }
    }
}

/// RFC 9110 §5.6.2.
fn is_token(letter: char) -> bool {
    letter.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(letter)
}

/// One element, of the client alone: who it is, the host that it asked for, and how.
pub fn element(client: IpAddr, host: &HeaderValue, scheme: &str) -> Option<HeaderValue> {
    let mut text = match client {
        IpAddr::V4(address) => format!("for={address}"),
        // RFC 7239 §6.1: in brackets, and so in quotes.
        IpAddr::V6(address) => format!("for=\"[{address}]\""),
    };
    let host = host.to_str().unwrap_or_default();
    if !host.is_empty() && host.chars().all(is_token) {
        text.extend([";host=", host]);
    } else if !host.is_empty() && !host.contains(['"', '\\']) {
        text.extend([";host=\"", host, "\""]);
    }
    text.extend([";proto=", scheme]);
    HeaderValue::try_from(text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(lines: &[&str], back: usize) -> Result<Option<String>, Unlawful> {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(FORWARDED, HeaderValue::from_bytes(line.as_bytes()).expect("a value"));
        }
        node(&headers, back)
    }

    /// G13: elements are counted from the right, over all lines; a line that is not lawful is told from one that says
    /// nothing.
    #[test]
    fn elements_are_read_or_nothing() {
        for (lines, back, node) in [
            (&["for=192.0.2.60;proto=http;by=203.0.113.43"][..], 0, Ok(Some("192.0.2.60"))),
            (&["For=\"[2001:db8:cafe::17]:4711\""], 0, Ok(Some("[2001:db8:cafe::17]:4711"))),
            (&["for=192.0.2.43, for=198.51.100.17"], 0, Ok(Some("198.51.100.17"))),
            (&["for=192.0.2.43, for=198.51.100.17"], 1, Ok(Some("192.0.2.43"))),
            (&["for=192.0.2.43", "for=198.51.100.17"], 1, Ok(Some("192.0.2.43"))),
            (&["proto=http; FOR=\"a\\\"b, for=c\" ,, host=x"], 1, Ok(Some("a\"b, for=c"))),
            (&["for=unknown;;proto=http,"], 0, Ok(Some("unknown"))),
            // What a client has written on a line of its own spoils nothing that is behind it.
            (&["for=\"", "for=198.51.100.17"], 0, Ok(Some("198.51.100.17"))),
            (&["for=\"", "for=198.51.100.17"], 1, Err(Unlawful)),
            (&["proto=http"], 0, Ok(None)),
            (&["for=a"], 1, Ok(None)),
            (&[], 0, Ok(None)),
            // An open quote would swallow what proxies have put behind it.
            (&["for=\", for=198.51.100.17"], 0, Err(Unlawful)),
            (&["for=1;x=\", for=\"[2001:db8::7]\""], 0, Err(Unlawful)),
            (&["for=a;for=b"], 0, Err(Unlawful)),
            (&["for=a for=b"], 0, Err(Unlawful)),
            (&["for = a"], 0, Err(Unlawful)),
            (&["for="], 0, Err(Unlawful)),
            (&["for"], 0, Err(Unlawful)),
            (&["for=192.0.2.1:80"], 0, Err(Unlawful)),
            (&["for=\"a\\"], 0, Err(Unlawful)),
            (&["\u{f6}=a"], 0, Err(Unlawful)),
        ] {
            let wanted = node.map(|node: Option<&str>| node.map(str::to_owned));
            assert_eq!(found(lines, back), wanted, "{lines:?} {back}");
        }
        let many = |count: usize| vec!["for=a"; count].join(",");
        assert_eq!(found(&[&many(MOST)], 0), Ok(Some("a".to_owned())));
        assert_eq!(found(&[&many(MOST + 1)], 0), Err(Unlawful));
    }

    /// G13: what services are told is read again as it was meant.
    #[test]
    fn what_is_told_is_lawful() {
        for (client, host, text) in [
            ("192.0.2.7", "a.example", "for=192.0.2.7;host=a.example;proto=https"),
            ("2001:db8::7", "a:8080", "for=\"[2001:db8::7]\";host=\"a:8080\";proto=https"),
            ("192.0.2.7", "[::1]:80", "for=192.0.2.7;host=\"[::1]:80\";proto=https"),
            ("192.0.2.7", "a\";for=1", "for=192.0.2.7;proto=https"),
        ] {
            let host = HeaderValue::from_static(host);
            let told = element(client.parse().expect("an address"), &host, "https");
            let told = told.expect("a value");
            assert_eq!(told, text);
            let node = found(&[text], 0).expect("lawful");
            assert!(node.is_some_and(|node| node.contains(client)), "{text}");
        }
    }
}
