//! What a message says that its body is. Not for whether that is so. Called by stages 7 and 9 and by `contract`.
//!
//! Invariant: one reader: what is JSON to one part of this gateway is to all.

use http::{HeaderMap, header};

/// Without parameters, in lower case; empty: nothing is said, or nothing that can be read.
pub fn kind(headers: &HeaderMap) -> String {
    bare(
        headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default(),
    )
}

/// There are several media types, or what stands for one cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Several;

/// The one kind, as [`kind`] says it: for who lets nothing pass that somebody else could read as something else.
///
/// # Errors
/// Programs that read lists take one or the other, so a list has none; nor has what is no text.
pub fn only(headers: &HeaderMap) -> Result<String, Several> {
    let mut all = headers.get_all(header::CONTENT_TYPE).iter();
    let text = match (all.next(), all.next()) {
        (None, _) => "",
        (Some(only), None) => only.to_str().map_err(|_| Several)?,
        (Some(_), Some(_)) => return Err(Several),
    };
    if text.contains(',') { Err(Several) } else { Ok(bare(text)) }
}

/// A media type without its parameters, in lower case.
pub fn bare(text: &str) -> String {
    text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

/// `application/json`, or a type that is written as JSON, of whichever family (RFC 6839 §3.1): `model/gltf+json`.
pub fn is_json(kind: &str) -> bool {
    kind == "application/json" || kind.strip_suffix("+json").is_some_and(|kind| kind.contains('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// G13, G23: one answer to what is JSON.
    #[test]
    fn types_are_read_alike() {
        for (text, bare_one, json) in [
            ("application/json", "application/json", true),
            ("Application/JSON ; charset=utf-8", "application/json", true),
            ("application/problem+json", "application/problem+json", true),
            ("model/x+json", "model/x+json", true),
            ("+json", "+json", false),
            ("text/json", "text/json", false),
            ("application/jsonp", "application/jsonp", false),
            ("", "", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::CONTENT_TYPE, text.parse().expect("a value"));
            assert_eq!((kind(&headers).as_str(), is_json(&kind(&headers))), (bare_one, json));
        }
        assert_eq!(kind(&HeaderMap::new()), "");
    }
}
