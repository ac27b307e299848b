//! What ours shall reach: figures of a run held against rivals of the same run, or against a number.
//! Not for measuring.
//!
//! Invariant: a goal whose figures are not there is neither met nor missed.

use serde::Serialize;

use crate::figures::{Column, Row, number};

/// A goal for a figure of ours.
#[derive(Clone, Debug)]
pub struct Goal<K> {
    /// The figure's name.
    pub figure: String,
    /// What is asked of it.
    pub want: Want<K>,
}

/// What is asked of a figure.
#[derive(Clone, Copy, Debug)]
pub enum Want<K> {
    /// At most so many times a rival's.
    AtMostOf(K, f64),
    /// At least so many times a rival's.
    AtLeastOf(K, f64),
    /// At most a rival's and so much.
    AtMostOver(K, f64),
    /// At most so much.
    AtMost(f64),
}

/// A goal as it came out.
#[derive(Clone, Debug, Serialize)]
pub struct Verdict {
    /// The figure.
    pub figure: String,
    /// The goal in words.
    pub goal: String,
    /// What it is.
    pub value: f64,
    /// Whether that is enough.
    pub met: bool,
}

impl<K: Column> Goal<K> {
    /// Of a figure with this name.
    pub fn new(figure: &str, want: Want<K>) -> Self {
        Self { figure: figure.to_owned(), want }
    }

    /// How it came out, where its figures are.
    pub fn verdict(&self, rows: &[Row]) -> Option<Verdict> {
        let row = rows.iter().find(|row| row.name == self.figure)?;
        let cell = |kind: K| row.parties.get(kind.name());
        let ours = cell(K::OURS)?;
        let (goal, value, met) = match self.want {
            Want::AtMostOf(kind, bound) => {
                let value = cell(kind)?.ours_to_it?;
                (format!("<= {bound} x {}", kind.name()), value, value <= bound)
            }
            Want::AtLeastOf(kind, bound) => {
                let value = cell(kind)?.ours_to_it?;
                (format!(">= {bound} x {}", kind.name()), value, value >= bound)
            }
            Want::AtMostOver(kind, bound) => {
                let value = ours.median - cell(kind)?.median;
                let words = format!("<= {} + {bound} {}", kind.name(), row.unit);
                (words, value, value <= bound)
            }
            Want::AtMost(bound) => {
                (format!("<= {bound} {}", row.unit), ours.median, ours.median <= bound)
            }
        };
        Some(Verdict { figure: self.figure.clone(), goal, value, met })
    }
}

/// The verdicts for people.
pub fn table(verdicts: &[Verdict]) -> String {
    let width = |text: fn(&Verdict) -> &String| verdicts.iter().map(|it| text(it).len()).max();
    let figure = width(|it| &it.figure).unwrap_or(0);
    let goal = width(|it| &it.goal).unwrap_or(0);
    let mut out = String::new();
    for one in verdicts {
        let met = if one.met { "met" } else { "MISSED" };
        let value = number(one.value);
        out += &format!("{:figure$}  {:goal$}  {value:>8}  {met}\n", one.figure, one.goal);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figures::Better;
    use crate::l7::Sheet;
    use crate::l7::party::Kind;

    #[test]
    fn goals_are_held_against_the_rows() {
        let mut sheet = Sheet::default();
        for (kind, value) in [(Kind::Gateway, 90.0), (Kind::Nginx, 100.0)] {
            sheet.note(("cpu", "µs", Better::Low), kind, 0, value);
        }
        let rows = sheet.rows();
        let met = |want| Goal::new("cpu", want).verdict(&rows).map(|verdict| verdict.met);
        assert_eq!(met(Want::AtMostOf(Kind::Nginx, 0.95)), Some(true));
        assert_eq!(met(Want::AtMostOf(Kind::Nginx, 0.85)), Some(false));
        assert_eq!(met(Want::AtLeastOf(Kind::Nginx, 0.95)), Some(false));
        assert_eq!(met(Want::AtMostOver(Kind::Nginx, 0.0)), Some(true));
        assert_eq!(met(Want::AtMost(89.0)), Some(false));
        assert_eq!(met(Want::AtMostOf(Kind::Envoy, 1.0)), None, "was not measured");
    }
}
