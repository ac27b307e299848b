//! Figures of all parties over all rounds: medians, spreads, and ratios taken within a round. Not
//! for measuring.
//!
//! Invariant: a ratio never mixes two rounds.

use std::collections::BTreeMap;

use serde::Serialize;

/// A party of a comparison: a column of its table.
pub trait Column: Copy + Ord {
    /// The path without anybody between, the limit.
    const DIRECT: Self;
    /// Our own program.
    const OURS: Self;

    /// Its name in reports.
    fn name(self) -> &'static str;
}

/// Whether more is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Better {
    /// More is.
    High,
    /// Less is.
    Low,
}

/// All figures of a run.
#[derive(Debug)]
pub struct Sheet<K> {
    figures: Vec<Figure<K>>,
    /// Why a party has no figures of a part.
    pub notes: Vec<String>,
}

impl<K> Default for Sheet<K> {
    fn default() -> Self {
        Self { figures: Vec::new(), notes: Vec::new() }
    }
}

#[derive(Debug)]
struct Figure<K> {
    name: String,
    unit: &'static str,
    better: Better,
    // By party, by round.
    values: BTreeMap<K, BTreeMap<u32, f64>>,
}

/// A figure as it is written down.
#[derive(Debug, Serialize)]
pub struct Row {
    /// What was measured.
    pub name: String,
    /// In what.
    pub unit: &'static str,
    /// Which way is good.
    pub better: Better,
    /// By party.
    pub parties: BTreeMap<&'static str, Cell>,
}

/// One party's figure.
#[derive(Debug, Serialize)]
pub struct Cell {
    /// Median over the rounds.
    pub median: f64,
    /// Lowest and highest.
    pub spread: [f64; 2],
    /// Median of the ratios to the direct path, each within a round.
    pub of_direct: Option<f64>,
    /// Median of the differences to the direct path, each within a round.
    pub over_direct: Option<f64>,
    /// Median of the ratios of ours to this party, each within a round.
    pub ours_to_it: Option<f64>,
}

impl<K: Column> Sheet<K> {
    /// Takes note of a value.
    pub fn note(
        &mut self,
        (name, unit, better): (&str, &'static str, Better),
        kind: K,
        round: u32,
        value: f64,
    ) {
        let known = self.figures.iter().position(|figure| figure.name == name);
        let at = known.unwrap_or_else(|| {
            let values = BTreeMap::new();
            self.figures.push(Figure { name: name.to_owned(), unit, better, values });
            self.figures.len() - 1
        });
        self.figures[at].values.entry(kind).or_default().insert(round, value);
    }

    /// The figures as they are written down.
    pub fn rows(&self) -> Vec<Row> {
        self.figures.iter().map(Figure::row).collect()
    }
}

impl<K: Column> Figure<K> {
    fn row(&self) -> Row {
        let cell = |(&kind, own): (&K, &BTreeMap<u32, f64>)| {
            let all = sorted(own.values().copied());
            let cell = Cell {
                median: median(&all)?,
                spread: [*all.first()?, *all.last()?],
                of_direct: self.paired(kind, K::DIRECT, |own, direct| own / direct),
                over_direct: self.paired(kind, K::DIRECT, |own, direct| own - direct),
                ours_to_it: self.paired(K::OURS, kind, |ours, own| ours / own),
            };
            Some((kind.name(), cell))
        };
        let parties = self.values.iter().filter_map(cell).collect();
        Row { name: self.name.clone(), unit: self.unit, better: self.better, parties }
    }

    /// The median over the rounds that both have.
    fn paired(&self, one: K, two: K, combine: impl Fn(f64, f64) -> f64) -> Option<f64> {
        if one == two {
            return None;
        }
        let (one, two) = (self.values.get(&one)?, self.values.get(&two)?);
        let pairs = one.iter().filter_map(|(round, one)| Some(combine(*one, *two.get(round)?)));
        median(&sorted(pairs.filter(|value| value.is_finite())))
    }
}

fn sorted(values: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values
}

fn median(sorted: &[f64]) -> Option<f64> {
    let middle = sorted.len() / 2;
    let high = *sorted.get(middle)?;
    let low = if sorted.len().is_multiple_of(2) { *sorted.get(middle - 1)? } else { high };
    Some(low.midpoint(high))
}

/// The rows for people: one line a figure, one column a party.
pub fn table<K: Column>(rows: &[Row], kinds: &[K]) -> String {
    let width = rows.iter().map(|row| row.name.len() + row.unit.len() + 2).max().unwrap_or(0);
    let mut out = format!("{:width$}", "");
    for kind in kinds {
        out += &format!(" {:>16}", kind.name());
    }
    out.push('\n');
    for row in rows {
        out += &format!("{:width$}", format!("{}, {}", row.name, row.unit));
        for kind in kinds {
            let cell = row.parties.get(kind.name());
            let text = cell.map_or_else(|| "-".to_owned(), |cell| short(row, cell));
            out += &format!(" {text:>16}");
        }
        out.push('\n');
    }
    out
}

fn short(row: &Row, cell: &Cell) -> String {
    let value = number(cell.median);
    match (row.better, cell.of_direct, cell.over_direct) {
        (Better::High, Some(ratio), _) => format!("{value} ({ratio:.2})"),
        (Better::Low, _, Some(over)) => {
            let sign = if over < 0.0 { "-" } else { "+" };
            format!("{value} ({sign}{})", number(over.abs()))
        }
        _ => value,
    }
}

pub(crate) fn number(value: f64) -> String {
    match value.abs() {
        large if large >= 1000.0 => format!("{value:.0}"),
        middle if middle >= 10.0 => format!("{value:.1}"),
        small if small >= 0.1 || small == 0.0 => format!("{value:.2}"),
        _ => format!("{value:.4}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::l4::party::Kind;

    #[test]
    fn ratios_are_taken_within_a_round() {
        let mut sheet = Sheet::default();
        let what = ("rate", "pps", Better::High);
        for (round, speed) in [(0, 1.0), (1, 4.0), (2, 2.0)] {
            sheet.note(what, Kind::Direct, round, 100.0 * speed);
            sheet.note(what, Kind::L4Nlb, round, 50.0 * speed);
        }
        sheet.note(what, Kind::Nginx, 1, 100.0);
        let rows = sheet.rows();
        let cell = |name| &rows[0].parties[name];
        assert_eq!(cell("l4-nlb").of_direct, Some(0.5));
        assert_eq!(cell("l4-nlb").median, 100.0);
        assert_eq!(cell("l4-nlb").spread, [50.0, 200.0]);
        assert_eq!(cell("nginx").ours_to_it, Some(2.0), "only the round that both have");
        assert!(table(&rows, &[Kind::Direct, Kind::Haproxy]).contains('-'));
    }
}
