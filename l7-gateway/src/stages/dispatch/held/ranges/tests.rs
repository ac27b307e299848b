//! Ranges as tables.

use super::*;
use proptest::prelude::*;

fn of(text: &str, size: u64) -> Asked {
    let mut headers = HeaderMap::new();
    headers.insert(header::RANGE, HeaderValue::from_str(text).expect("a value"));
    asked(&headers, size)
}

/// G22: what a `Range` asks for (RFC 9110 §14.1.2, §14.2).
#[test]
fn ranges_are_read_or_ignored_or_refused() {
    let parts = |spans: &[(u64, u64)]| {
        Asked::Parts(spans.iter().map(|&(first, last)| Span { first, last }).collect())
    };
    let cases = [
        ("bytes=0-0", parts(&[(0, 0)])),
        ("bytes=0-", parts(&[(0, 9)])),
        ("bytes=4-99", parts(&[(4, 9)])),
        ("bytes=-3", parts(&[(7, 9)])),
        ("bytes=-99", parts(&[(0, 9)])),
        ("Bytes = 1-2 , 5-6", parts(&[(1, 2), (5, 6)])),
        ("bytes=5-6,1-2", parts(&[(5, 6), (1, 2)])),
        ("bytes=1-2,50-60", parts(&[(1, 2)])),
        ("bytes=1-99999999999999999999999", parts(&[(1, 9)])),
        ("bytes=10-", Asked::Refused),
        ("bytes=-0", Asked::Refused),
        ("bytes=0-5,3-7", Asked::Refused),
        ("bytes=0-,0-,0-", Asked::Refused),
        ("bytes=0-0,1-1,2-2,3-3,4-4,5-5,6-6,7-7,8-8,9-9,0-,0-,0-,0-,0-,0-,0-", Asked::Refused),
        ("bytes=", Asked::Whole),
        ("bytes=5-4", Asked::Whole),
        ("bytes=a-b", Asked::Whole),
        ("bytes=+1-2", Asked::Whole),
        ("bytes=-", Asked::Whole),
        ("bytes=1", Asked::Whole),
        ("lines=1-2", Asked::Whole),
        ("none", Asked::Whole),
    ];
    for (text, expected) in cases {
        assert_eq!(of(text, 10), expected, "{text}");
    }
    assert_eq!(of("bytes=0-", 0), Asked::Refused);
}

proptest! {
    /// G22: whatever is asked for, what is answered lies within and is not longer than the whole and
    /// what frames its parts.
    #[test]
    fn parts_lie_within(text in "bytes=([0-9]{0,3}-[0-9]{0,3},?){1,20}|[ -~]{0,30}", size in 0u64..400) {
        if let Asked::Parts(spans) = of(&text, size) {
            prop_assert!(spans.iter().all(|span| span.first <= span.last && span.last < size));
            prop_assert!(spans.iter().map(|span| span.length()).sum::<u64>() <= size);
            let whole = Bytes::from(vec![7; usize::try_from(size).expect("small")]);
            let layout = Layout::parts(&spans, size, "b", &mut HeaderMap::new());
            prop_assert_eq!(layout.cut(&whole).len() as u64, layout.length());
        }
    }
}
