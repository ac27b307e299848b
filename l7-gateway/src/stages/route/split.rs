//! Parts of a route's requests: who is in which, and the cookie that keeps them there. Not for
//! experiments, which change nothing of where a request goes. Called by `route`.
//!
//! Invariant: nobody's ticket moves when parts do: of ten thousand everybody holds one, by a hash of
//! the route's name and of who it is; each part has the lowest that are left.

use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

use common::balance::HashKey;
use common::observe::Metrics;
use http::{HeaderMap, HeaderValue};
use topology::gateway::{Part, Route, Sticky, UpstreamId};
use topology::units::{Percent, ServiceName};

use crate::access_log::VariantStats;
use crate::predicate;

/// Who asks, as far as divisions care.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// The verified user.
    pub user: Option<&'a HeaderValue>,
    /// The client's address.
    pub address: IpAddr,
    /// What it sent.
    pub headers: &'a HeaderMap,
}

impl Subject<'_> {
    /// Its ticket, below [`TICKETS`].
    pub fn ticket(&self, key: &HashKey, by: &Sticky) -> u64 {
        let address = || key.client(self.address);
        let hash = match by {
            Sticky::Address => address(),
            Sticky::User => self.user.map_or_else(address, |user| key.hash(user.as_bytes())),
            Sticky::Cookie(name) => predicate::cookie(self.headers, name)
                .map_or_else(address, |value| key.hash(value.as_bytes())),
        };
        hash % TICKETS
    }
}

/// How many tickets there are: a hundredth of a percent each.
pub const TICKETS: u64 = 10_000;

/// Which part has a ticket.
pub fn holder(ticket: u64, parts: impl IntoIterator<Item = Percent>) -> Option<usize> {
    let mut sum = 0;
    parts.into_iter().position(|part| {
        sum += u64::from(part.0) * (TICKETS / 100);
        ticket < sum
    })
}

/// A cookie as it is handed out, over TLS and in clear (RFC 6265 §4.1.2).
#[derive(Clone, Debug)]
pub struct Cookie([HeaderValue; 2]);

impl Cookie {
    /// For the whole site, out of reach of scripts; not sent along from other sites' pages but when
    /// somebody follows a link. `None`: its name or value is none.
    pub fn new(name: &str, value: &str, age: Duration) -> Option<Self> {
        let seconds = age.as_secs();
        let text = format!("{name}={value}; Path=/; Max-Age={seconds}; HttpOnly; SameSite=Lax");
        let secure = HeaderValue::from_str(&format!("{text}; Secure")).ok()?;
        Some(Self([HeaderValue::from_str(&text).ok()?, secure]))
    }

    /// For an answer.
    pub fn value(&self, secure: bool) -> &HeaderValue {
        let Self([clear, tls]) = self;
        if secure { tls } else { clear }
    }
}

/// A divided route on one worker.
#[derive(Debug)]
pub struct Split {
    key: HashKey,
    cookies: Vec<Option<Cookie>>,
    /// One per part, and one for the rest.
    stats: Vec<Rc<VariantStats>>,
}

impl Split {
    /// With where its parts lead by name.
    pub fn new(route: &Route, services: &[ServiceName], metrics: &Metrics) -> Self {
        let of = ("route", route.name.as_str());
        let sides = route.split.iter().map(|part| Some(part.to)).chain([route.to.service()]);
        let name = |to: Option<UpstreamId>| {
            to.and_then(|to| services.get(to.0)).map_or("", ServiceName::as_str)
        };
        let cookie = |part: &Part| {
            let cookie = part.cookie.as_ref()?;
            Cookie::new(&cookie.name, &cookie.value, cookie.max_age)
        };
        Self {
            key: HashKey::from_names([route.name.as_str()]),
            cookies: route.split.iter().map(cookie).collect(),
            stats: sides.map(|to| VariantStats::new(of, name(to), metrics)).collect(),
        }
    }

    /// The part that somebody is in, and whether its cookie is to be handed out: to who has none.
    pub fn part(&self, route: &Route, who: &Subject<'_>) -> Option<(usize, bool)> {
        let borne = |part: &Part| {
            let cookie = part.cookie.as_ref()?;
            Some(predicate::cookie(who.headers, &cookie.name)? == cookie.value)
        };
        // A part that is nobody's is not even theirs who were in it: the way back is short.
        let kept = |part: &Part| part.part.0 > 0 && borne(part) == Some(true);
        if let Some(index) = route.split.iter().position(kept) {
            return Some((index, false));
        }
        let ticket = who.ticket(&self.key, &route.sticky);
        let index = holder(ticket, route.split.iter().map(|part| part.part))?;
        let part = route.split.get(index)?;
        // Who bears another value wants out.
        (borne(part) != Some(false)).then_some((index, part.cookie.is_some()))
    }

    /// Where a side is counted.
    pub fn stats(&self, part: Option<usize>) -> Option<&Rc<VariantStats>> {
        match part {
            Some(index) => self.stats.get(index),
            None => self.stats.last(),
        }
    }

    /// The cookie of a part.
    pub fn cookie(&self, part: Option<usize>, secure: bool) -> Option<&HeaderValue> {
        Some(self.cookies.get(part?)?.as_ref()?.value(secure))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// G12: of a hundred thousand users each part gets what it was given within half of a hundredth;
    /// who was in 5 % is in 10 %; with 0 % nobody is.
    #[test]
    fn parts_are_what_they_say() {
        let (key, headers) = (HashKey::from_names(["checkout"]), HeaderMap::new());
        let address = IpAddr::from([192, 0, 2, 1]);
        let parts = |first| [first, 30, 20].map(Percent);
        let mut counts = [0_u32; 4];
        let mut fewer = 0;
        for user in 0..100_000 {
            let user = HeaderValue::from(user);
            let who = Subject { user: Some(&user), address, headers: &headers };
            let ticket = who.ticket(&key, &Sticky::User);
            assert_eq!(ticket, who.ticket(&key, &Sticky::User));
            counts[holder(ticket, parts(10)).unwrap_or(3)] += 1;
            let five = holder(ticket, parts(5)) == Some(0);
            fewer += u32::from(five);
            assert!(!five || holder(ticket, parts(10)) == Some(0));
            assert_ne!(holder(ticket, parts(0)), Some(0));
            assert_eq!(holder(ticket, [Percent(100)]), Some(0));
        }
        for (count, percent) in counts.into_iter().zip([10, 30, 20, 40]).chain([(fewer, 5)]) {
            assert!(count.abs_diff(percent * 1000) <= 500, "{count} for {percent} %");
        }
    }
}
