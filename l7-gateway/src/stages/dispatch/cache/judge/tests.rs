//! The rules of RFC 9111 as tables: what is said, what follows.

use super::*;

const NOW: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
const LATER: &str = "Sun, 06 Nov 1994 08:50:37 GMT";
const BEFORE: &str = "Sun, 06 Nov 1994 08:49:07 GMT";

/// Header lines.
type Lines<'l> = &'l [(&'l str, &'l str)];

fn headers(lines: Lines<'_>) -> HeaderMap {
    let line = |(name, value): &(&str, &str)| {
        (
            name.parse::<HeaderName>().expect("a name"),
            HeaderValue::from_str(value).expect("a value"),
        )
    };
    lines.iter().map(line).collect()
}

fn kept(lines: Lines<'_>, needed: Open, policy: &CachePolicy) -> Option<Terms> {
    let at = httpdate::parse_http_date(NOW).expect("a date");
    let came = Came { at, delay: Duration::from_secs(2) };
    terms(needed, StatusCode::OK, &headers(lines), policy, came)
}

/// G22: how long an answer is fresh, or that it is not kept at all (RFC 9111 §3, §4.2.1).
#[test]
fn only_what_says_so_is_kept() {
    let cases: [(Lines<'_>, Option<u64>); 24] = [
        (&[], None),
        (&[("last-modified", BEFORE)], None),
        (&[("cache-control", "max-age=60")], Some(60)),
        (&[("cache-control", "max-age=60, s-maxage=5")], Some(5)),
        (&[("cache-control", "max-age=60"), ("expires", BEFORE)], Some(60)),
        (&[("expires", LATER), ("date", NOW)], Some(60)),
        (&[("expires", LATER)], Some(60)),
        (&[("expires", LATER), ("date", BEFORE)], Some(90)),
        (&[("expires", "0")], None),
        (&[("expires", BEFORE), ("etag", "\"a\"")], Some(0)),
        (&[("cache-control", "max-age=0")], None),
        (&[("cache-control", "max-age=0"), ("etag", "\"a\"")], Some(0)),
        (&[("cache-control", "no-store, max-age=60")], None),
        (&[("cache-control", "private, max-age=60")], None),
        (&[("cache-control", "private=\"x\", max-age=60")], None),
        (&[("cache-control", "no-cache")], None),
        (&[("cache-control", "no-cache"), ("etag", "\"a\"")], Some(0)),
        (&[("cache-control", "no-cache, max-age=60"), ("etag", "\"a\"")], Some(60)),
        (&[("cache-control", "max-age=60"), ("set-cookie", "a=b")], None),
        (&[("cache-control", "max-age=60"), ("vary", "*")], None),
        (&[("cache-control", "max-age=60"), ("vary", "accept, *")], None),
        (&[("cache-control", "max-age=60"), ("vary", "a,b,c,d,e,f,g,h,i")], None),
        (&[("cache-control", "max-age=60"), ("content-range", "bytes 0-1/2")], None),
        (&[("cache-control", "max-age=60"), ("vary", "accept, accept-language")], Some(60)),
    ];
    for (lines, expected) in cases {
        let terms = kept(lines, Open::ToStrangers, &CachePolicy::default());
        let lifetime = terms.map(|terms| terms.lifetime);
        assert_eq!(lifetime, expected.map(Duration::from_secs), "{lines:?}");
    }
    let asked_for = CachePolicy { fresh: Some(Duration::from_secs(9)), ..CachePolicy::default() };
    let lifetime = |lines: Lines<'_>| {
        kept(lines, Open::ToStrangers, &asked_for).map(|terms| terms.lifetime.as_secs())
    };
    assert_eq!(lifetime(&[]), Some(9));
    assert_eq!(lifetime(&[("cache-control", "max-age=1")]), Some(1));
    assert_eq!(lifetime(&[("cache-control", "no-cache")]), None);
    assert_eq!(lifetime(&[("cache-control", "no-store")]), None);
}

/// G22: statuses that are kept; an error or a part never is.
#[test]
fn only_final_whole_answers_are_kept() {
    let at = httpdate::parse_http_date(NOW).expect("a date");
    let came = Came { at, delay: Duration::ZERO };
    let lines = headers(&[("cache-control", "public, max-age=60")]);
    let keeps = |status: u16| {
        let status = StatusCode::from_u16(status).expect("a status");
        terms(Open::ToStrangers, status, &lines, &CachePolicy::default(), came).is_some()
    };
    for status in [200, 203, 204, 300, 301, 302, 307, 308, 404, 405, 410] {
        assert!(keeps(status), "{status}");
    }
    for status in [201, 206, 303, 304, 400, 401, 403, 429, 500, 502, 503, 504] {
        assert!(!keeps(status), "{status}");
    }
}

/// G22: what came for somebody with a token or a cookie is kept only where it is said to be for all
/// (RFC 9111 §3.5).
#[test]
fn answers_to_somebody_are_kept_only_if_said() {
    let cases = [
        ("max-age=60", Open::ToStrangers),
        ("must-revalidate, max-age=60", Open::ToAuthorised),
        ("public, max-age=60", Open::ToAll),
        ("s-maxage=60", Open::ToAll),
    ];
    for (control, open) in cases {
        for needed in [Open::ToStrangers, Open::ToAuthorised, Open::ToAll] {
            let terms = kept(&[("cache-control", control)], needed, &CachePolicy::default());
            assert_eq!(terms.is_some(), needed <= open, "{control} {needed:?}");
        }
    }
    assert_eq!(Open::needed(&headers(&[])), Open::ToStrangers);
    assert_eq!(Open::needed(&headers(&[("authorization", "Bearer x")])), Open::ToAuthorised);
    assert_eq!(
        Open::needed(&headers(&[("authorization", "Bearer x"), ("cookie", "a=b")])),
        Open::ToAll
    );
}

/// G22: age on arrival (RFC 9111 §4.2.3).
#[test]
fn an_answer_has_an_age_when_it_comes() {
    let cases: [(Lines<'_>, u64); 6] = [
        (&[], 2),
        (&[("age", "10")], 12),
        (&[("age", "x")], 2),
        (&[("date", NOW)], 2),
        (&[("date", BEFORE)], 29),
        (&[("date", LATER), ("age", "1")], 3),
    ];
    for (lines, expected) in cases {
        let lines = [&[("cache-control", "max-age=60")], lines].concat();
        let terms = kept(&lines, Open::ToStrangers, &CachePolicy::default()).expect("kept");
        assert_eq!(terms.age, Duration::from_secs(expected), "{lines:?}");
    }
}

/// G22: what a kept answer is good for, by its age and what the request says.
#[test]
fn kept_answers_are_used_while_they_hold() {
    use Use::{Answer, AnswerAndFetch, Ask};
    let cases = [
        ("max-age=60", 59, "", Answer),
        ("max-age=60", 60, "", Ask),
        ("max-age=60", 30, "no-cache", Ask),
        ("max-age=60", 30, "max-age=0", Ask),
        ("max-age=60", 30, "max-age=30", Answer),
        ("max-age=60", 31, "max-age=30", Ask),
        ("max-age=60", 50, "min-fresh=9", Answer),
        ("max-age=60", 50, "min-fresh=10", Ask),
        ("max-age=60", 70, "max-stale", Answer),
        ("max-age=60", 70, "max-stale=10", Answer),
        ("max-age=60", 71, "max-stale=10", Ask),
        ("max-age=60, must-revalidate", 70, "max-stale", Ask),
        ("max-age=60, proxy-revalidate", 70, "max-stale", Ask),
        ("s-maxage=60", 70, "max-stale", Ask),
        ("no-cache, max-age=60", 1, "", Ask),
        ("max-age=60, stale-while-revalidate=30", 89, "", AnswerAndFetch),
        ("max-age=60, stale-while-revalidate=30", 90, "", Ask),
        ("max-age=60, stale-while-revalidate=30, must-revalidate", 61, "", Ask),
        ("s-maxage=60, stale-while-revalidate=30", 61, "", AnswerAndFetch),
        ("max-age=60, stale-while-revalidate=30", 61, "no-cache", Ask),
    ];
    for (control, age, asked, expected) in cases {
        let lines = [("cache-control", control), ("etag", "\"a\"")];
        let terms = kept(&lines, Open::ToStrangers, &CachePolicy::default()).expect("kept");
        let asked = Control::of(&headers(&[("cache-control", asked)]));
        assert_eq!(reuse(&terms, Duration::from_secs(age), &asked), expected, "{control} {age}");
    }
}

/// G22: what stands in for an error (RFC 5861 §4), and for how long.
#[test]
fn stale_answers_stand_in_for_errors_where_allowed() {
    let cases = [
        ("max-age=60, stale-if-error=30", 89, true),
        ("max-age=60, stale-if-error=30", 90, false),
        ("max-age=60", 64, true),
        ("max-age=60", 65, false),
        ("max-age=60, must-revalidate", 61, false),
        ("max-age=60, stale-if-error=30, must-revalidate", 61, false),
        ("s-maxage=60", 61, false),
        ("max-age=60, no-cache, stale-if-error=30", 61, false),
    ];
    let policy = CachePolicy { stale_if_error: Duration::from_secs(5), ..CachePolicy::default() };
    for (control, age, expected) in cases {
        let lines = [("cache-control", control), ("etag", "\"a\"")];
        let terms = kept(&lines, Open::ToStrangers, &policy).expect("kept");
        assert_eq!(instead_of_error(&terms, Duration::from_secs(age)), expected, "{control} {age}");
    }
}
