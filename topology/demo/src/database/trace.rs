//! The trace that a request belongs to, for the statements that it causes: as a comment, as sqlcommenter writes it.
//! Not for making traces. Set by `web`, asked by `database`.
//!
//! Invariant: nothing of a header gets into a statement but hexadecimal digits and dashes.

use http::HeaderMap;

tokio::task_local! {
    static PARENT: Option<String>;
}

/// Answers a request within its trace.
pub(crate) async fn within<T>(headers: &HeaderMap, work: impl Future<Output = T>) -> T {
    let header = headers.get("traceparent").and_then(|value| value.to_str().ok());
    PARENT.scope(header.filter(|text| is_lawful(text)).map(str::to_owned), work).await
}

/// A statement that says which trace it belongs to; `None`: it belongs to none.
pub(crate) fn commented(sql: &str) -> Option<String> {
    let parent = PARENT.try_with(Clone::clone).ok()??;
    Some(format!("{sql} /*traceparent='{parent}'*/"))
}

/// `00-…-…-01` (W3C Trace Context).
fn is_lawful(text: &str) -> bool {
    let lawful = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b) || b == b'-';
    text.len() == 55 && text.bytes().all(lawful)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// P8: a statement carries its request's trace, and nothing else that a header may say.
    #[tokio::test]
    async fn statements_name_their_trace() {
        let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let mut headers = HeaderMap::new();
        headers.insert("traceparent", parent.parse().expect("valid"));
        let said = within(&headers, async { commented("select 1") }).await;
        assert_eq!(said.as_deref(), Some(&*format!("select 1 /*traceparent='{parent}'*/")));
        let evil = format!("00-{}'*/; drop table users --", "0".repeat(28));
        headers.insert("traceparent", evil.parse().expect("valid"));
        assert_eq!(evil.len(), 55);
        assert_eq!(within(&headers, async { commented("select 1") }).await, None);
        assert_eq!(commented("select 1"), None);
    }
}
