//! From a canonical path to a name below a directory, and from a name to its media type. Not for
//! whether there is such a file. Called by `files`.
//!
//! Invariant: a name is relative, not empty, without dot segments and zero bytes; it is data for the
//! kernel's walk, which keeps it inside whatever it is.

use http::HeaderValue;
use topology::units::PathPattern;

/// A name below a directory, as bytes of the file system.
pub type Name = Vec<u8>;

/// The name that a path means; the index where it means a directory. `None`: it means nothing.
///
/// What a prefix pattern leaves of the path counts; of other patterns, the whole path.
pub fn below(pattern: &PathPattern, path: &str, index: Option<&str>) -> Option<Name> {
    let rest = match pattern {
        // By segments: the path is canonical, the pattern need not be.
        PathPattern::Prefix(text) => {
            after(path, 1 + text.split('/').filter(|segment| !segment.is_empty()).count())
        }
        PathPattern::Exact(_) | PathPattern::Template(_) | PathPattern::Regex(_) => path,
    };
    let mut name = decode(rest.trim_start_matches('/'))?;
    if name.is_empty() || name.ends_with(b"/") {
        name.extend_from_slice(index?.as_bytes());
    }
    let lawful = |segment: &[u8]| !segment.is_empty() && segment != b"." && segment != b"..";
    (name.split(|b| *b == b'/').all(lawful) && !name.contains(&0)).then_some(name)
}

/// What is behind so many segments, the empty one before the first slash included.
fn after(path: &str, segments: usize) -> &str {
    let mut rest = path;
    for _ in 0..segments {
        rest = rest.split_once('/').map_or("", |(_, rest)| rest);
    }
    rest
}

/// Percent escapes undone, once.
fn decode(text: &str) -> Option<Name> {
    let mut bytes = text.bytes();
    let mut name = Vec::with_capacity(text.len());
    let digit = |b: Option<u8>| b.and_then(|b| char::from(b).to_digit(16));
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let value = digit(bytes.next())? << 4 | digit(bytes.next())?;
            name.push(u8::try_from(value).ok().filter(|b| *b != b'/')?);
        } else {
            name.push(byte);
        }
    }
    Some(name)
}

/// Whether a segment begins with a dot. What RFC 8615 has sites put under `.well-known` is meant to
/// be found.
pub fn hidden(name: &[u8]) -> bool {
    let dotted = |segment: &[u8]| segment.starts_with(b".") && segment != b".well-known";
    name.split(|b| *b == b'/').any(dotted)
}

/// The media type that the last part of a name stands for.
pub fn media_type(name: &[u8]) -> HeaderValue {
    let last = name.rsplit(|b| *b == b'/').next().unwrap_or_default();
    let dot = last.iter().rposition(|b| *b == b'.').filter(|at| *at > 0);
    let extension = dot.and_then(|at| str::from_utf8(last.get(at + 1..)?).ok());
    let text = extension.and_then(|text| mime_guess::from_ext(text).first_raw());
    let text = text.unwrap_or("application/octet-stream");
    if text.starts_with("text/") || text == "application/javascript" {
        // RFC 9239: the one name for scripts.
        let text = if text.starts_with("text/") { text } else { "text/javascript" };
        let text = format!("{text}; charset=utf-8");
        return HeaderValue::try_from(text).expect("invariant: media types are visible ASCII");
    }
    HeaderValue::from_static(text)
}

/// Whether files of a type are worth compressing: then compressed forms may stand beside them.
pub fn compressible(kind: &HeaderValue) -> bool {
    const OTHERS: [&str; 9] = [
        "application/json",
        "application/manifest+json",
        "application/wasm",
        "application/xml",
        "application/vnd.ms-fontobject",
        "application/pdf",
        "font/ttf",
        "font/otf",
        "image/bmp",
    ];
    let text = kind.to_str().unwrap_or_default();
    text.starts_with("text/")
        || text.ends_with("+xml")
        || text.ends_with("+json")
        || OTHERS.contains(&text)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// G22: what a path means below a directory.
    #[test]
    fn paths_mean_names() {
        let prefix = PathPattern::Prefix("/static".to_owned());
        let root = PathPattern::Prefix(String::new());
        let exact = PathPattern::Exact("/favicon.ico".to_owned());
        let cases: [(&PathPattern, &str, Option<&[u8]>); 14] = [
            (&prefix, "/static/avatar.jpg", Some(b"avatar.jpg")),
            (&prefix, "/static/a/b.css", Some(b"a/b.css")),
            (&prefix, "/static/", Some(b"index.html")),
            (&prefix, "/static", Some(b"index.html")),
            (&prefix, "/static/a/", Some(b"a/index.html")),
            (&prefix, "/static/%C3%A9%20x", Some(b"\xc3\xa9 x")),
            (&prefix, "/static/%25%32", Some(b"%2")),
            (&prefix, "/static/a%2Fb", None),
            (&prefix, "/static/../b", None),
            (&prefix, "/static/%2E%2E/b", None),
            (&prefix, "/static/%00", None),
            (&root, "/", Some(b"index.html")),
            (&root, "/a", Some(b"a")),
            (&exact, "/favicon.ico", Some(b"favicon.ico")),
        ];
        for (pattern, path, expected) in cases {
            assert_eq!(below(pattern, path, Some("index.html")).as_deref(), expected, "{path}");
        }
        assert_eq!(below(&prefix, "/static/", None), None);
    }

    /// G22: names that begin with a dot, `.well-known` apart.
    #[test]
    fn dotted_names_are_hidden() {
        for name in ["a", "a.b", "a/b.", ".well-known/x"] {
            assert!(!hidden(name.as_bytes()), "{name}");
        }
        for name in [".git/config", "a/.env", ".well-known/.x", "..a", "a/.b/c"] {
            assert!(hidden(name.as_bytes()), "{name}");
        }
    }

    /// G22: types by extension; nothing is guessed from content.
    #[test]
    fn types_follow_extensions() {
        let cases = [
            ("a/avatar.jpg", "image/jpeg", false),
            ("a.b/x", "application/octet-stream", false),
            (".html", "application/octet-stream", false),
            ("x.HTML", "text/html; charset=utf-8", true),
            ("x.js", "text/javascript; charset=utf-8", true),
            ("x.mjs", "text/javascript; charset=utf-8", true),
            ("x.svg", "image/svg+xml", true),
            ("x.json", "application/json", true),
            ("x.wasm", "application/wasm", true),
            ("x.woff2", "font/woff2", false),
        ];
        for (name, expected, text) in cases {
            let kind = media_type(name.as_bytes());
            assert_eq!(
                (kind.as_bytes(), compressible(&kind)),
                (expected.as_bytes(), text),
                "{name}"
            );
        }
    }
}
