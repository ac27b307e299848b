//! Conditions as tables: what is held, what is asked, what comes of it.

use super::*;

const DAY: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
const NEXT: &str = "Mon, 07 Nov 1994 08:49:37 GMT";
const FORMER: &str = "Sat, 05 Nov 1994 08:49:37 GMT";

fn held(tag: &str) -> Validators {
    let modified = httpdate::parse_http_date(DAY).ok();
    Validators { tag: HeaderValue::from_str(tag).ok().filter(|t| !t.is_empty()), modified }
}

fn asked(lines: &[(&str, &str)]) -> HeaderMap {
    let line = |(name, value): &(&str, &str)| {
        (
            name.parse::<HeaderName>().expect("a name"),
            HeaderValue::from_str(value).expect("a value"),
        )
    };
    lines.iter().map(line).collect()
}

/// G22: each condition, and which of several counts (RFC 9110 §13.2.2).
#[test]
fn conditions_are_judged_in_their_order() {
    use Verdict::{Failed, Go, Unchanged};
    let cases: [(&[(&str, &str)], Verdict); 25] = [
        (&[], Go),
        (&[("if-none-match", "\"a\"")], Unchanged),
        (&[("if-none-match", "W/\"a\"")], Unchanged),
        (&[("if-none-match", "\"b\"")], Go),
        (&[("if-none-match", "*")], Unchanged),
        (&[("if-none-match", "\"b\", \"a\"")], Unchanged),
        (&[("if-none-match", "\"b,\", W/\"x\" , \"a\"")], Unchanged),
        (&[("if-none-match", "\"b\""), ("if-none-match", "\"a\"")], Unchanged),
        (&[("if-none-match", "a")], Go),
        (&[("if-none-match", "\"b\" \"a\"")], Go),
        (&[("if-none-match", "\"b\""), ("if-modified-since", NEXT)], Go),
        (&[("if-modified-since", DAY)], Unchanged),
        (&[("if-modified-since", NEXT)], Unchanged),
        (&[("if-modified-since", FORMER)], Go),
        (&[("if-modified-since", "yesterday")], Go),
        (&[("if-match", "\"a\"")], Go),
        (&[("if-match", "*")], Go),
        (&[("if-match", "\"b\"")], Failed),
        (&[("if-match", "W/\"a\"")], Failed),
        (&[("if-match", "\"a\""), ("if-unmodified-since", FORMER)], Go),
        (&[("if-match", "\"a\""), ("if-none-match", "\"a\"")], Unchanged),
        (&[("if-unmodified-since", DAY)], Go),
        (&[("if-unmodified-since", FORMER)], Failed),
        (&[("if-unmodified-since", "never")], Go),
        (&[("if-unmodified-since", NEXT), ("if-modified-since", NEXT)], Unchanged),
    ];
    for (lines, expected) in cases {
        assert_eq!(judge(&asked(lines), &held("\"a\"")), expected, "{lines:?}");
    }
    assert_eq!(judge(&asked(&[("if-match", "\"a\"")]), &held("W/\"a\"")), Failed);
}

/// G22: a range is answered only of what the client already has a part of.
#[test]
fn if_range_must_be_exact() {
    let now = httpdate::parse_http_date(NEXT).expect("a date");
    let cases = [
        ("\"a\"", "\"a\"", true),
        ("\"a\"", "\"b\"", false),
        ("W/\"a\"", "W/\"a\"", false),
        ("\"a\"", "\"a\", \"b\"", false),
        ("\"a\"", DAY, true),
        ("\"a\"", NEXT, false),
        ("\"a\"", FORMER, false),
        ("\"a\"", "soon", false),
    ];
    for (tag, wanted, expected) in cases {
        let asked = asked(&[("if-range", wanted)]);
        assert_eq!(range_holds(&asked, &held(tag), now), expected, "{tag} {wanted}");
    }
    let at_once = httpdate::parse_http_date(DAY).expect("a date");
    assert!(!range_holds(&asked(&[("if-range", DAY)]), &held("\"a\""), at_once));
    assert!(range_holds(&asked(&[]), &held(""), now));
}
