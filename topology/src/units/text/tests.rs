//! Text forms of the units: tables for what is refused, properties for what is kept.

use std::fmt::{Debug, Display};
use std::str::FromStr;
use std::time::Duration;

use proptest::prelude::*;

use super::{Size, Time, UnitError};
use crate::l4::ListenAt;
use crate::telemetry::Sample;
use crate::units::{Day, HostPattern, PathPattern, Percent, Rate, Scope, SecretRef, Weight};

/// What is displayed is read as the same value; what is refused says why.
fn kept<T: FromStr<Err = UnitError> + Display + PartialEq + Debug>(text: &str) {
    match text.parse::<T>() {
        Ok(value) => assert_eq!(value.to_string().parse::<T>().as_ref(), Ok(&value), "{text:?}"),
        Err(error) => assert!(!error.what.is_empty() && !error.allowed.is_empty(), "{text:?}"),
    }
}

fn kept_by_all(text: &str) {
    kept::<Time>(text);
    kept::<Size>(text);
    kept::<Rate>(text);
    kept::<Weight>(text);
    kept::<Scope>(text);
    kept::<SecretRef>(text);
    kept::<Day>(text);
    kept::<HostPattern>(text);
    kept::<Percent>(text);
    kept::<Sample>(text);
    kept::<PathPattern>(text);
    kept::<ListenAt>(text);
}

proptest! {
    /// T4: no text makes a unit panic, and a value survives its own text form.
    #[test]
    fn any_text(text in "\\PC{0,40}") {
        kept_by_all(&text);
    }

    /// The same with texts that look right.
    #[test]
    fn plausible_text(
        text in "[0-9]{0,6}(ms|s|m|h|d|B|KiB|GiB|/s|/min|/h|x)?|(/[a-z.%2eE*]{0,4}){0,4}|(\\*[.:])?[a-z0-9.:]{0,12}|[0-9]{4}-[0-9]{2}-[0-9]{2}|(file|env):[a-zA-Z_]{0,5}"
    ) {
        kept_by_all(&text);
    }

    /// Every time, size, rate and day has a text.
    #[test]
    fn any_value(millis in 0u64..=366 * 86_400_000, bytes in 0u64..=1 << 50, count in 1u32.., year in 1970u16..=9999, month in 1u8..=12, day in 1u8..=28) {
        let time = Time(Duration::from_millis(millis));
        prop_assert_eq!(time.to_string().parse(), Ok(time));
        let size = Size(bytes);
        prop_assert_eq!(size.to_string().parse(), Ok(size));
        let rate: Rate = format!("{count}/min").parse().unwrap();
        prop_assert_eq!(rate.to_string(), format!("{count}/min"));
        let day = Day { year, month, day };
        prop_assert_eq!(day.to_string().parse(), Ok(day));
    }
}

/// What was probably meant by a text that is refused.
fn hint<T: FromStr<Err = UnitError> + Debug>(text: &str) -> String {
    text.parse::<T>().unwrap_err().hint.unwrap_or_default()
}

/// T4: the near miss is named.
#[test]
fn near_misses() {
    let cases = [
        (hint::<Time>("30"), "30s"),
        (hint::<Time>("5 min"), "5m"),
        (hint::<Time>("1Hour"), "1h"),
        (hint::<Size>("10MB"), "10MiB"),
        (hint::<Size>("1024"), "1024B"),
        (hint::<Rate>("100"), "100/s"),
        (hint::<Rate>("5/m"), "5/min"),
        (hint::<Scope>("a b"), "[a, b]"),
        (hint::<Day>("2027-02-29"), "2027-02-28"),
        (hint::<HostPattern>("api.example:443"), "api.example"),
        (hint::<PathPattern>("api"), "/api"),
        (hint::<ListenAt>("8080"), "*:8080"),
        (hint::<ListenAt>(":8080"), "*:8080"),
    ];
    for (hint, meant) in cases {
        assert_eq!(hint, format!("did you mean `{meant}`?"));
    }
}

/// What no unit accepts, each for a reason that a person ran into elsewhere.
#[test]
fn refused() {
    for text in ["", "s", "-1s", "1.5s", "0x1s", "367d", "99999999999999999999s", "5 s"] {
        assert!(text.parse::<Time>().is_err(), "{text}");
    }
    for text in [
        "/a//b",
        "/a/./b",
        "/..",
        "/%2E",
        "/%2f",
        "/%zz",
        "/%+1",
        "/a?b",
        "/é",
        "*",
        "//*",
        "/*/*",
        "/{a}/*",
        "/{}",
        "/x{a}",
        "/{a",
        "~[",
        "~(?x)/a # b",
    ] {
        assert!(text.parse::<PathPattern>().is_err(), "{text}");
    }
    for text in ["", "*", "*.", ".example", "a..b", "a b", "[::", "a/b", "*.*.example"] {
        assert!(text.parse::<HostPattern>().is_err(), "{text}");
    }
    for text in ["", "1970-1-1", "1969-12-31", "2100-02-29", "2027-04-31", "+027-01-01", "2027-06"]
    {
        assert!(text.parse::<Day>().is_err(), "{text}");
    }
    for text in ["*:", "*:+1", "*:65536", "*", "localhost:80", "1.2.3.4"] {
        assert!(text.parse::<ListenAt>().is_err(), "{text}");
    }
    for text in ["0", "1001", "-1", "1.0"] {
        assert!(text.parse::<Weight>().is_err(), "{text}");
    }
}

/// Forms that matter to the tiers.
#[test]
fn accepted() {
    assert_eq!("/*".parse(), Ok(PathPattern::Prefix(String::new())));
    assert_eq!("/api/user/*".parse(), Ok(PathPattern::Prefix("/api/user".to_owned())));
    assert_eq!("/".parse(), Ok(PathPattern::Exact("/".to_owned())));
    assert_eq!("/a/".parse(), Ok(PathPattern::Exact("/a/".to_owned())));
    assert_eq!("/a/{id}/b".parse(), Ok(PathPattern::Template("/a/{id}/b".to_owned())));
    assert_eq!("~/v[0-9]+".parse(), Ok(PathPattern::Regex("/v[0-9]+".to_owned())));
    assert_eq!("*.Example".parse(), Ok(HostPattern::Suffix(".example".to_owned())));
    assert_eq!("[::1]".parse(), Ok(HostPattern::Exact("[::1]".to_owned())));
    assert_eq!("*:0".parse(), Ok(ListenAt::Instance(0)));
    assert_eq!("[::]:53".parse(), Ok(ListenAt::Address("[::]:53".parse().unwrap())));
    assert_eq!("2028-02-29".parse(), Ok(Day { year: 2028, month: 2, day: 29 }));
    assert_eq!("env:A_1".parse(), Ok(SecretRef::Env("A_1".to_owned())));
}

/// O3: the error about a reference never quotes what may be the secret itself.
#[test]
fn secrets_are_not_quoted() {
    for text in ["hunter2", "env:hunter2 ", "env:2hunter2", "SCRAM-SHA-256$hunter2"] {
        let error = text.parse::<SecretRef>().unwrap_err();
        assert!(!error.to_string().contains("hunter2"), "{error}");
    }
}
