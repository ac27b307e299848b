//! `Cache-Control` of requests and answers (RFC 9111 §5.2). Not for what follows from it: that is
//! `judge`. Called by it, by `cache` and by stage 9.
//!
//! Invariant: what cannot be read never makes an answer fresher.

use std::time::Duration;

use http::{HeaderMap, header};

/// The directives of a message, names in lower case.
#[derive(Clone, Debug, Default)]
pub struct Control(Vec<(String, Option<String>)>);

impl Control {
    /// Of all its fields together.
    pub fn of(headers: &HeaderMap) -> Self {
        let mut all = Vec::new();
        for value in headers.get_all(header::CACHE_CONTROL) {
            // Bytes beyond ASCII stand in no directive that is known.
            let text = String::from_utf8_lossy(value.as_bytes());
            let mut rest = text.as_ref();
            while !rest.is_empty() {
                let (item, behind) = split(rest);
                rest = behind;
                let (name, argument) = match item.split_once('=') {
                    Some((name, argument)) => (name, Some(argument.trim().trim_matches('"'))),
                    None => (item, None),
                };
                let name = name.trim().to_ascii_lowercase();
                if !name.is_empty() {
                    all.push((name, argument.map(str::to_owned)));
                }
            }
        }
        // RFC 9111 §5.4: what HTTP/1.0 says counts where nothing else is said.
        let pragma = headers.get(header::PRAGMA).and_then(|value| value.to_str().ok());
        if !headers.contains_key(header::CACHE_CONTROL)
            && pragma.is_some_and(|text| text.to_ascii_lowercase().contains("no-cache"))
        {
            all.push(("no-cache".to_owned(), None));
        }
        Self(all)
    }

    /// Whether a directive is there, with an argument or without. Those that name fields count as if
    /// they named none.
    pub fn has(&self, name: &str) -> bool {
        self.0.iter().any(|(own, _)| own == name)
    }

    /// Whether a directive is there without an argument.
    pub fn says_alone(&self, name: &str) -> bool {
        self.0.iter().any(|(own, argument)| own == name && argument.is_none())
    }

    /// The seconds of a directive, if it is there; none where they cannot be read or where it is
    /// there twice (RFC 9111 §4.2.1).
    pub fn seconds(&self, name: &str) -> Option<Duration> {
        let mut all = self.0.iter().filter(|(own, _)| own == name);
        let (_, argument) = all.next()?;
        let text = argument.as_deref().unwrap_or_default();
        let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        let seconds = if digits && all.next().is_none() {
            text.parse().unwrap_or(LONGEST).min(LONGEST)
        } else {
            0
        };
        Some(Duration::from_secs(seconds))
    }
}

/// RFC 9111 §1.2.2: more is as good as this.
const LONGEST: u64 = 1 << 31;

/// The text up to the next comma that is not within quotes, and what is behind it.
fn split(text: &str) -> (&str, &str) {
    let mut quoted = false;
    let mut escaped = false;
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b',' if !quoted => return text.split_at_checked(at).map_or((text, ""), cut),
            _ => {}
        }
    }
    (text, "")
}

/// Without the comma.
fn cut<'a>((item, rest): (&'a str, &'a str)) -> (&'a str, &'a str) {
    (item, rest.strip_prefix(',').unwrap_or(rest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{HeaderName, HeaderValue};

    fn of(lines: &[(&'static str, &str)]) -> Control {
        let line = |(name, value): &(&'static str, &str)| {
            (HeaderName::from_static(name), HeaderValue::from_str(value).expect("a value"))
        };
        Control::of(&lines.iter().map(line).collect())
    }

    /// G22: directives in every spelling; what cannot be read is no reason to keep anything.
    #[test]
    fn directives_are_read_strictly() {
        let cases: [(&str, &str, Option<u64>); 12] = [
            ("max-age=60", "max-age", Some(60)),
            ("Max-Age=60, s-maxage=5", "s-maxage", Some(5)),
            ("max-age=\"60\"", "max-age", Some(60)),
            ("public , max-age = 60", "max-age", Some(60)),
            ("max-age=60, max-age=70", "max-age", Some(0)),
            ("max-age=-1", "max-age", Some(0)),
            ("max-age=1.5", "max-age", Some(0)),
            ("max-age=", "max-age", Some(0)),
            ("max-age", "max-age", Some(0)),
            ("max-age=99999999999999999999", "max-age", Some(LONGEST)),
            ("private=\"a, max-age=60\"", "max-age", None),
            ("x=\"a\\\", max-age=1\", max-age=2", "max-age", Some(2)),
        ];
        for (text, name, expected) in cases {
            let seconds = of(&[("cache-control", text)]).seconds(name);
            assert_eq!(seconds, expected.map(Duration::from_secs), "{text}");
        }
        assert!(of(&[("cache-control", "a"), ("cache-control", "NO-STORE")]).has("no-store"));
        assert!(of(&[("cache-control", "no-cache=\"set-cookie\"")]).has("no-cache"));
        assert!(of(&[("pragma", "no-cache")]).has("no-cache"));
        assert!(!of(&[("pragma", "no-cache"), ("cache-control", "x")]).has("no-cache"));
        assert!(of(&[("cache-control", "a, No-Transform")]).has("no-transform"));
        assert!(
            !of(&[("cache-control", "private=\"no-transform\", x-no-transform")])
                .has("no-transform")
        );
    }
}
