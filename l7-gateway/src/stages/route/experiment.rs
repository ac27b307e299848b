//! Experiments: which variant somebody has, told to services by a header. Not for where a request goes:
//! that is `split`. Called by `route`.
//!
//! Invariant: assignments of two experiments are independent: each hashes with its own name.

use std::rc::Rc;

use common::balance::HashKey;
use common::observe::Metrics;
use http::{HeaderName, HeaderValue};
use topology::gateway::Experiment;

use super::split::{Cookie, Subject, holder};
use crate::access_log::VariantStats;
use crate::predicate;

/// An experiment on one worker.
#[derive(Debug)]
pub struct Trial {
    model: Experiment,
    key: HashKey,
    header: Option<HeaderName>,
    variants: Vec<Variant>,
}

#[derive(Debug)]
struct Variant {
    value: Option<HeaderValue>,
    cookie: Option<Cookie>,
    stats: Rc<VariantStats>,
}

impl Trial {
    /// In this worker's own memory.
    pub fn new(model: &Experiment, metrics: &Metrics) -> Self {
        let of = ("experiment", model.name.as_str());
        let variant = |(name, _): &(String, topology::units::Percent)| Variant {
            value: HeaderValue::from_str(name).ok(),
            cookie: model.cookie.as_ref().and_then(|(key, age)| Cookie::new(key, name, *age)),
            stats: VariantStats::new(of, name, metrics),
        };
        Self {
            key: HashKey::from_names(["experiment", &model.name]),
            header: format!("x-experiment-{}", model.name).parse().ok(),
            variants: model.variants.iter().map(variant).collect(),
            model: model.clone(),
        }
    }

    /// The variant that somebody has, and whether its cookie is to be handed out: to who has none. A
    /// cookie that names a variant decides.
    pub fn variant(&self, who: &Subject<'_>) -> Option<(usize, bool)> {
        let borne = self.model.cookie.as_ref();
        let borne = borne.and_then(|(name, _)| predicate::cookie(who.headers, name));
        let known = |name| self.model.variants.iter().position(|(variant, _)| variant == name);
        if let Some(index) = borne.and_then(known) {
            return Some((index, false));
        }
        let ticket = who.ticket(&self.key, &self.model.by);
        let index = holder(ticket, self.model.variants.iter().map(|(_, part)| *part))?;
        Some((index, self.model.cookie.is_some()))
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.model.name
    }

    /// A variant's name.
    pub fn variant_name(&self, variant: usize) -> &str {
        self.model.variants.get(variant).map_or("", |(name, _)| name)
    }

    /// What services are told.
    pub fn header(&self, variant: usize) -> Option<(&HeaderName, &HeaderValue)> {
        Some((self.header.as_ref()?, self.variants.get(variant)?.value.as_ref()?))
    }

    /// The cookie of a variant.
    pub fn cookie(&self, variant: usize, secure: bool) -> Option<&HeaderValue> {
        Some(self.variants.get(variant)?.cookie.as_ref()?.value(secure))
    }

    /// Where a variant is counted.
    pub fn stats(&self, variant: usize) -> Option<&Rc<VariantStats>> {
        self.variants.get(variant).map(|variant| &variant.stats)
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;
    use std::time::Duration;

    use http::HeaderMap;
    use topology::gateway::Sticky;
    use topology::units::Percent;

    use super::*;

    fn trial(number: usize, cookie: Option<&str>) -> Trial {
        let half = |name: &str| (name.to_owned(), Percent(50));
        let model = Experiment {
            name: format!("e{number}"),
            variants: vec![half("a"), half("b")],
            by: Sticky::User,
            cookie: cookie.map(|name| (name.to_owned(), Duration::from_secs(60))),
        };
        Trial::new(&model, &Metrics::new())
    }

    /// G12: three hundred experiments divide the same users independently: knowing somebody's variant
    /// in one says nothing of another.
    #[test]
    fn experiments_are_independent() {
        let trials: Vec<Trial> = (0..300).map(|number| trial(number, None)).collect();
        let headers = HeaderMap::new();
        let mut both = vec![0_u32; trials.len()];
        for user in 0..2000 {
            let user = HeaderValue::from(user);
            let address = IpAddr::from([192, 0, 2, 1]);
            let who = Subject { user: Some(&user), address, headers: &headers };
            let has_a = |trial: &Trial| trial.variant(&who) == Some((0, false));
            if has_a(&trials[0]) {
                for (count, trial) in both.iter_mut().zip(&trials) {
                    *count += u32::from(has_a(trial));
                }
            }
        }
        // A quarter of 2000 is 500; five standard deviations of that are 97.
        assert!(both[1..].iter().all(|count| (403..=597).contains(count)), "{both:?}");
    }

    /// G12: a cookie that names a variant decides; one that names none is replaced.
    #[test]
    fn a_cookie_keeps_the_variant() {
        let trial = trial(7, Some("exp"));
        let address = IpAddr::from([192, 0, 2, 1]);
        for (cookie, expected) in [("exp=a", Some((0, false))), ("exp=b", Some((1, false)))] {
            let mut headers = HeaderMap::new();
            headers.insert("cookie", HeaderValue::from_static(cookie));
            let who = Subject { user: None, address, headers: &headers };
            assert_eq!(trial.variant(&who), expected);
        }
        let mut headers = HeaderMap::new();
        headers.insert("cookie", HeaderValue::from_static("exp=old"));
        let who = Subject { user: None, address, headers: &headers };
        assert!(trial.variant(&who).is_some_and(|(_, handed)| handed));
    }
}
