//! The response cache: its size, and which routes have it.
//!
//! Invariant: none beyond `resolve`'s.

use std::time::Duration;

use crate::cache::{CachePolicy, CacheStore};
use crate::raw::{self, Findings};
use crate::resolve::{or, time};
use crate::units::Size;

/// What a route says of it.
pub(super) fn policy(
    raw: Option<raw::Choice<raw::CachePolicy>>,
    out: &mut Findings,
) -> Option<CachePolicy> {
    let raw = match raw? {
        raw::Choice::Flag(flag) => return flag.value.0.then(CachePolicy::default),
        raw::Choice::Section(raw) => *raw,
    };
    for typed in [&raw.fresh, &raw.stale_while_revalidate, &raw.stale_if_error] {
        if let Some(typed) = typed
            && typed.value.0 > LONGEST
        {
            out.error(&typed.spot, "nothing is kept for so long").allowed("at most 365d");
        }
    }
    Some(CachePolicy {
        shared: raw.shared.is_some_and(|typed| typed.value.0),
        fresh: raw.fresh.map(|typed| typed.value.0),
        stale_while_revalidate: time(raw.stale_while_revalidate, Duration::ZERO),
        stale_if_error: time(raw.stale_if_error, Duration::ZERO),
    })
}

/// A year.
const LONGEST: Duration = Duration::from_secs(365 * 86_400);

/// What a group says of it.
pub(super) fn store(raw: Option<raw::CacheStore>, out: &mut Findings) -> CacheStore {
    let (size, max_body) = raw.map_or((None, None), |raw| (raw.size, raw.max_body));
    if let Some(typed) = &size
        && !(1 << 20..=64 << 30).contains(&typed.value.0)
    {
        out.error(&typed.spot, format!("{} is no size of a cache", typed.value))
            .allowed("1MiB to 64GiB");
    }
    let size = or(size, Size(64 << 20)).0;
    if let Some(typed) = &max_body
        && (typed.value.0 > size / 8 || typed.value.0 == 0)
    {
        let what = format!("a body of {} would push out too much", typed.value);
        out.error(&typed.spot, what).allowed("1B to an eighth of `size`");
    }
    CacheStore { size, max_body: or(max_body, Size((1 << 20).min(size / 8))).0 }
}
