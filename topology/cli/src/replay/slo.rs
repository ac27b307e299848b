//! `--slo`: bounds that a replay must keep. Not for measuring. Used by `report`.
//!
//! Invariant: a bound on something that was not measured is broken, never silently kept.

use std::collections::BTreeMap;
use std::str::FromStr;

/// Bounds by name: `loss=0.1%,p99=20ms,affinity=0`.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Slo(Vec<Bound>);

#[derive(Clone, Debug, PartialEq)]
struct Bound {
    name: String,
    most: f64,
    text: String,
}

/// What a replay measured, in the units of the bounds: milliseconds, percent, counts.
pub(super) type Figures = BTreeMap<&'static str, f64>;

impl Slo {
    /// One line per broken bound; empty when all are kept.
    pub(super) fn broken(&self, figures: &Figures) -> Vec<String> {
        self.0.iter().filter_map(|bound| bound.broken(figures)).collect()
    }

    /// Every bound: whether it was kept, and what was measured.
    pub(super) fn judged(&self, figures: &Figures) -> Vec<(bool, String)> {
        let judge = |bound: &Bound| match bound.broken(figures) {
            Some(text) => (false, text),
            None => {
                let value = figures.get(bound.name.as_str()).copied().unwrap_or_default();
                (true, format!("{} is {}, at most {}", bound.name, bound.shown(value), bound.text))
            }
        };
        self.0.iter().map(judge).collect()
    }
}

impl Bound {
    fn broken(&self, figures: &Figures) -> Option<String> {
        match figures.get(self.name.as_str()) {
            Some(value) if *value <= self.most => None,
            Some(value) => {
                Some(format!("{} is {}, at most {}", self.name, self.shown(*value), self.text))
            }
            None => Some(format!("{} was not measured, at most {}", self.name, self.text)),
        }
    }
}

impl Bound {
    /// A measured value with its unit.
    fn shown(&self, value: f64) -> String {
        match unit_of(&self.name) {
            Some("ms") => format!("{value:.3} ms"),
            Some("%") => format!("{value:.3}%"),
            _ => format!("{value:.0}"),
        }
    }
}

/// Names that a bound may have, with the unit of the figure.
const NAMES: [(&str, &str); 11] = [
    ("affinity", ""),
    ("duplicates", ""),
    ("errors", "%"),
    ("jitter", "ms"),
    ("late", "%"),
    ("loss", "%"),
    ("max", "ms"),
    ("p50", "ms"),
    ("p99", "ms"),
    ("p99.9", "ms"),
    ("reordered", ""),
];

/// Its unit; `None`: no such figure.
pub(super) fn unit_of(name: &str) -> Option<&'static str> {
    NAMES.iter().find(|(known, _)| *known == name).map(|(_, unit)| *unit)
}

impl FromStr for Slo {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.split(',').map(bound).collect::<Result<_, _>>().map(Self)
    }
}

fn bound(text: &str) -> Result<Bound, String> {
    let (name, most) = text
        .split_once('=')
        .ok_or_else(|| format!("{text:?} has no `=`; write it like p99=20ms"))?;
    let unit = unit_of(name).ok_or_else(|| {
        let known: Vec<_> = NAMES.iter().map(|(name, _)| *name).collect();
        format!("{name:?} is not measured; known are {}", known.join(", "))
    })?;
    let value = measure(most, unit)
        .ok_or_else(|| format!("{most:?} is no bound for {name}; write {}", example(unit)))?;
    Ok(Bound { name: name.into(), most: value, text: most.into() })
}

fn example(unit: &str) -> &'static str {
    match unit {
        "ms" => "20ms, 800us or 1s",
        "%" => "0.1%",
        _ => "a whole number",
    }
}

/// The value of `20ms`, `0.1%` or `3` in `unit`.
fn measure(text: &str, unit: &str) -> Option<f64> {
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, suffix) = text.split_at(split);
    let number: f64 = number.parse().ok()?;
    let factor = match (unit, suffix) {
        ("ms", "us" | "µs") => 1e-3,
        ("ms", "s") => 1e3,
        (wanted, given) if wanted == given => 1.0,
        _ => return None,
    };
    Some(number * factor)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn bounds_are_kept_or_broken() {
        let slo: Slo = "loss=0.1%,p99=20ms,affinity=0".parse().unwrap();
        let good = Figures::from([("loss", 0.1), ("p99", 19.9), ("affinity", 0.0)]);
        assert_eq!(slo.broken(&good), Vec::<String>::new());
        let bad = Figures::from([("loss", 0.2), ("p99", 19.9)]);
        assert_eq!(
            slo.broken(&bad),
            ["loss is 0.200%, at most 0.1%", "affinity was not measured, at most 0"]
        );
    }

    #[test]
    fn units_are_asked_for() {
        assert_eq!("p99=1s".parse::<Slo>().unwrap(), "p99=1s".parse().unwrap());
        for (text, word) in [
            ("p99", "`=`"),
            ("p98=1ms", "known are"),
            ("p99=20", "20ms"),
            ("loss=1", "0.1%"),
            ("affinity=x", "whole number"),
        ] {
            let error = text.parse::<Slo>().unwrap_err();
            assert!(error.contains(word), "{text}: {error}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_a_bound_or_an_error(text in "\\PC{0,30}") {
            let _ = text.parse::<Slo>();
        }
    }
}
