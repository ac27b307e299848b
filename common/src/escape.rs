//! Texts as parts of addresses. Not for reading them back.
//!
//! Invariant: what comes out means itself wherever it stands in a URL.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, PercentEncode, utf8_percent_encode};

/// All but what means nothing anywhere in a URL (RFC 3986 §2.3).
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// A text as a segment of a path, a part of a query, or half of a login.
pub fn escaped(text: &str) -> PercentEncode<'_> {
    utf8_percent_encode(text, ESCAPED)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_survives_in_a_url() {
        assert_eq!(escaped("a@b/c:ü").to_string(), "a%40b%2Fc%3A%C3%BC");
        assert_eq!(escaped("a-b._~Z9").to_string(), "a-b._~Z9");
    }
}
