//! Queries as text. Not for what they mean. Called by stage 3, `external` and `transcode`.
//!
//! Invariant: what is not taken out stays as it was written.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

/// A query without the parameters of this name; what is left stays as it was written.
pub fn without(query: &str, name: &str) -> Option<Box<str>> {
    let own = |pair: &&str| {
        let mut read = form_urlencoded::parse(pair.as_bytes());
        read.next().is_none_or(|(key, _)| key != name)
    };
    let left: Vec<&str> = query.split('&').filter(own).collect();
    (!left.is_empty()).then(|| left.join("&").into())
}

/// Names and values as they are meant; `None` for what is no UTF-8, which is nobody's text.
pub fn pairs(query: &str) -> impl Iterator<Item = Option<(Cow<'_, str>, Cow<'_, str>)>> {
    query.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        Some((text(name)?, text(value)?))
    })
}

/// As forms write it: a plus is a space (URL Standard, "application/x-www-form-urlencoded parsing").
fn text(part: &str) -> Option<Cow<'_, str>> {
    if part.contains('+') {
        let spaced = part.replace('+', " ");
        return Some(Cow::Owned(percent_decode_str(&spaced).decode_utf8().ok()?.into_owned()));
    }
    percent_decode_str(part).decode_utf8().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// G15: what stands in a query is read as a form, and never replaced.
    #[test]
    fn pairs_are_text_or_nothing() {
        let all = |query| pairs(query).collect::<Option<Vec<_>>>();
        let read = all("a=1+%2B&&b&c=d=e&%C3%A9=").expect("text");
        let read: Vec<(&str, &str)> =
            read.iter().map(|(name, value)| (&**name, &**value)).collect();
        assert_eq!(read, [("a", "1 +"), ("b", ""), ("c", "d=e"), ("\u{e9}", "")]);
        let theirs: Vec<_> = form_urlencoded::parse(b"a=1+%2B&&b&c=d=e&%C3%A9=").collect();
        assert!(theirs.iter().map(|(name, value)| (&**name, &**value)).eq(read));
        for bad in ["a=%FF", "%ff=1", "a=1&b=%C3", "a=+%ff"] {
            assert_eq!(all(bad), None, "{bad}");
        }
    }

    /// G7: a key in the query goes, however its name is escaped, and nothing else does.
    #[test]
    fn keys_are_taken_out_of_queries() {
        for (query, left) in [
            ("api_key=k", None),
            ("a=1&api_key=k&b=%2F", Some("a=1&b=%2F")),
            ("api%5Fkey=k&a", Some("a")),
            ("api_key=k&api_key=l", None),
            ("xapi_key=k&API_KEY=k", Some("xapi_key=k&API_KEY=k")),
            ("a=api_key=k", Some("a=api_key=k")),
        ] {
            assert_eq!(without(query, "api_key").as_deref(), left, "{query}");
        }
    }
}
