//! `--baseline`: what changed since an earlier report. Not for judging: that is `slo`. Used by
//! `report::finish`.
//!
//! Invariant: figures of different kinds of replay are never compared.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::plot::short;
use crate::replay::slo::{self, Figures};

/// The figures of an earlier report.
#[derive(Debug)]
pub(in crate::replay) struct Baseline(Vec<(String, f64)>);

/// One figure, then and now.
#[derive(Debug, PartialEq)]
pub(super) struct Change {
    pub(super) name: String,
    pub(super) then: f64,
    pub(super) now: f64,
}

impl Baseline {
    /// Reads a report that `--json` wrote for the same kind of replay.
    ///
    /// # Errors
    /// It cannot be read, or is none.
    pub(in crate::replay) fn read(path: &Path, kind: &str) -> Result<Self> {
        let name = path.display();
        let text = std::fs::read_to_string(path).with_context(|| format!("{name}: cannot read"))?;
        let report: Value =
            serde_json::from_str(&text).with_context(|| format!("{name}: no JSON report"))?;
        let found = report.get("kind").and_then(Value::as_str).unwrap_or("something else");
        ensure!(found == kind, "{name}: a report of {found}, not of replay {kind}");
        let figures = report.get("figures").and_then(Value::as_object);
        let figures = figures.with_context(|| format!("{name}: it has no figures"))?;
        let number = |(name, value): (&String, &Value)| Some((name.clone(), value.as_f64()?));
        Ok(Self(figures.iter().filter_map(number).collect()))
    }

    /// Every figure that both have.
    pub(super) fn changes(&self, now: &Figures) -> Vec<Change> {
        let change = |(name, then): &(String, f64)| {
            let now = *now.get(name.as_str())?;
            Some(Change { name: name.clone(), then: *then, now })
        };
        self.0.iter().filter_map(change).collect()
    }
}

impl Change {
    /// `1.2 → 1.5 ms`.
    pub(super) fn values(&self) -> String {
        let unit = slo::unit_of(&self.name).unwrap_or("");
        let space = if unit == "ms" { " " } else { "" };
        format!("{} → {}{space}{unit}", short(self.then), short(self.now))
    }

    /// `+25%`, `unchanged`.
    pub(super) fn relative(&self) -> String {
        if (self.now - self.then).abs() <= self.then.abs() * 0.0005 {
            "unchanged".to_owned()
        } else if self.then == 0.0 {
            "new".to_owned()
        } else {
            format!("{:+.1}%", (self.now - self.then) / self.then * 100.0)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// R3: the same kind is compared figure by figure, another kind is refused.
    #[test]
    fn changes_are_told() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let old = r#"{"kind":"udp","figures":{"p99":1.2,"loss":0.0,"gone":1}}"#;
        std::fs::write(file.path(), old).unwrap();
        let old = Baseline::read(file.path(), "udp").unwrap();
        let changes = old.changes(&Figures::from([("p99", 1.5), ("loss", 0.0), ("late", 3.0)]));
        let told: Vec<_> = changes.iter().map(|c| (c.values(), c.relative())).collect();
        assert_eq!(
            told,
            [("0 → 0%".into(), "unchanged".into()), ("1.2 → 1.5 ms".into(), "+25.0%".into())]
        );
        let refusal = Baseline::read(file.path(), "https").unwrap_err().to_string();
        assert!(refusal.contains("a report of udp"), "{refusal}");
    }
}
