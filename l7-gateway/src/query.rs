//! Queries as text. Not for what they mean. Called by stage 3 and by `external`.
//!
//! Invariant: what is not taken out stays as it was written.

/// A query without the parameters of this name; what is left stays as it was written.
pub fn without(query: &str, name: &str) -> Option<Box<str>> {
    let own = |pair: &&str| {
        let mut read = form_urlencoded::parse(pair.as_bytes());
        read.next().is_none_or(|(key, _)| key != name)
    };
    let left: Vec<&str> = query.split('&').filter(own).collect();
    (!left.is_empty()).then(|| left.join("&").into())
}

#[cfg(test)]
mod tests {
    use super::*;

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
