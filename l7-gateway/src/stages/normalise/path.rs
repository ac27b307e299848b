//! The one canonical path that is matched, judged and forwarded. Not for hosts or headers. Called by
//! stage 2 and, for patterns, by the matcher.
//!
//! Invariant: canonical text begins with `/`, has no empty segment but the last, no dot segment in
//! any spelling, no escaped separator, and its percent escapes are upper case and necessary; so it
//! is its own canonical form.

use std::borrow::Cow;

use super::NormaliseError;

/// The canonical form of a path as it came.
///
/// # Errors
/// A path that different programs would read differently.
pub fn canonical(raw: &str) -> Result<Cow<'_, str>, NormaliseError> {
    if !raw.starts_with('/') {
        return Err(NormaliseError::Path);
    }
    if raw.bytes().all(|b| plain(b) || b == b'/') && !raw.contains("//") {
        dot_free(raw)?;
        return Ok(Cow::Borrowed(raw));
    }
    let mut out = String::with_capacity(raw.len());
    let mut bytes = raw.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            // Empty segments are merged: `//admin` is `/admin`.
            b'/' if out.ends_with('/') => {}
            b'%' => push_escape(&mut out, bytes.next(), bytes.next())?,
            b if plain(b) || b == b'/' => out.push(char::from(b)),
            _ => return Err(NormaliseError::Path),
        }
    }
    dot_free(&out)?;
    Ok(Cow::Owned(out))
}

/// The canonical form of a route's pattern, as paths are compared with it; a pattern that has none matches nothing.
pub fn canonical_pattern(text: &str) -> Box<str> {
    if text.is_empty() {
        return text.into();
    }
    canonical(text).map_or_else(|_| text.into(), |path| compared(&path).into())
}

/// A canonical path as it is compared with patterns: what may stand bare in a segment does. RFC 3986 §6.2.2.2 calls
/// only escapes of unreserved characters the same, so that `/users/%40me` is forwarded as it came; services decode
/// it all the same, and what is asked of `/users/@me` must be asked of it too.
pub fn compared(path: &str) -> Cow<'_, str> {
    if !path.contains('%') {
        return Cow::Borrowed(path);
    }
    let mut rest = path.split('%');
    let (mut out, mut bare) = (String::with_capacity(path.len()), false);
    out.push_str(rest.next().unwrap_or_default());
    for piece in rest {
        let code = piece.get(..2).and_then(|digits| u8::from_str_radix(digits, 16).ok());
        if let Some(byte) = code.filter(|byte| plain(*byte)) {
            bare = true;
            out.push(char::from(byte));
            out.push_str(piece.get(2..).unwrap_or_default());
        } else {
            out.push('%');
            out.push_str(piece);
        }
    }
    if bare { Cow::Owned(out) } else { Cow::Borrowed(path) }
}

/// Decodes what needs no escape (RFC 3986 §6.2.2.2), writes the others in upper case, refuses those
/// that change the structure of the path.
fn push_escape(out: &mut String, high: Option<u8>, low: Option<u8>) -> Result<(), NormaliseError> {
    let digit = |b: Option<u8>| b.and_then(|b| char::from(b).to_digit(16));
    let (Some(high), Some(low)) = (digit(high), digit(low)) else {
        return Err(NormaliseError::Path);
    };
    let byte = u8::try_from(high << 4 | low).map_err(|_| NormaliseError::Path)?;
    match byte {
        0..=0x1f | 0x7f | b'/' | b'\\' => Err(NormaliseError::Path),
        b if b.is_ascii_alphanumeric() || b"-._~".contains(&b) => {
            out.push(char::from(b));
            Ok(())
        }
        b => {
            let hex = |n: u8| char::from(b"0123456789ABCDEF"[usize::from(n & 15)]);
            out.extend(['%', hex(b >> 4), hex(b)]);
            Ok(())
        }
    }
}

/// `pchar` without the percent sign (RFC 3986 §3.3).
fn plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@".contains(&byte)
}

/// No segment is `.` or `..`, also not with parameters behind it (`..;a=b`), which some servers cut, and
/// not where the semicolon is escaped, which some decode first.
fn dot_free(path: &str) -> Result<(), NormaliseError> {
    let dots = |segment: &str| {
        let name = segment.split(';').next().unwrap_or_default();
        let name = name.split("%3B").next().unwrap_or_default();
        name == "." || name == ".."
    };
    if path.contains("/.") && path.split('/').any(dots) {
        return Err(NormaliseError::Path);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// G23: one form for what means the same.
    #[test]
    fn equal_paths_have_one_form() {
        let cases = [
            ("/", "/"),
            ("//admin", "/admin"),
            ("/a//b///c/", "/a/b/c/"),
            ("/%41%7e", "/A~"),
            ("/a%3ab", "/a%3Ab"),
            ("/%c3%a9", "/%C3%A9"),
            ("/a.b/..c/.d", "/a.b/..c/.d"),
            ("/a%25b", "/a%25b"),
            ("/a%3Fb", "/a%3Fb"),
        ];
        for (raw, expected) in cases {
            assert_eq!(canonical(raw).as_deref(), Ok(expected), "{raw}");
        }
    }

    /// G23: what services decode is compared decoded, once; what separates or is no letter of a path stays.
    #[test]
    fn escapes_of_bare_letters_are_compared_bare() {
        for (path, form) in [
            ("/users/@me", "/users/@me"),
            ("/users/%40me", "/users/@me"),
            ("/a%3Ab%2Bc%3B", "/a:b+c;"),
            ("/a%20%C3%A9%25", "/a%20%C3%A9%25"),
            ("/%2540", "/%2540"),
            ("/%25%40", "/%25@"),
        ] {
            assert_eq!(compared(path), form, "{path}");
        }
        assert_eq!(&*canonical_pattern("/users/%40me"), "/users/@me");
    }

    /// G23: what programs read differently is refused.
    #[test]
    fn ambiguous_paths_are_refused() {
        let cases = [
            "",
            "a",
            "/a/../b",
            "/a/%2e%2E/b",
            "/.",
            "/a/..",
            "/a/.%2e",
            "/a%2fb",
            "/a%2F",
            "/a%5cb",
            "/a\\b",
            "/a#b",
            "/a%00",
            "/a%0d",
            "/a%7f",
            "/a%",
            "/a%4",
            "/a%zz",
            "/a/..;/b",
            "/a/.;x",
            "/a/..%3b/b",
            "/a b",
            "/\u{e9}",
            "/a\"",
            "/a<b>",
            "/a{b}",
            "/a^b",
            "/a`b",
            "/a|b",
            "/a\u{1}",
        ];
        for raw in cases {
            assert_eq!(canonical(raw), Err(NormaliseError::Path), "{raw}");
        }
    }

    proptest! {
        #[test]
        fn a_canonical_path_is_its_own_form(raw in "/([a-c.;/%\\\\#]|%2[eEfF]|%4[19]|%[cC]3){0,12}") {
            if let Ok(path) = canonical(&raw) {
                let again = canonical(&path);
                prop_assert_eq!(again.as_deref(), Ok(&*path));
                prop_assert!(!path.contains("//"));
            }
        }

        #[test]
        fn any_text_is_judged_without_a_panic(raw in any::<String>()) {
            let _ = canonical(&raw);
        }
    }
}
