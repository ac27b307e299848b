//! What `check` found, for programs: JSON of our own and SARIF. Not for people: that is the text with
//! the lines that are meant. Called by `check`.
//!
//! Invariant: the keys are stable; new ones may come.

use serde_json::{Value, json};
use topology::effective::{Effective, ValueFrom};
use topology::problem::{Problem, Severity};
use topology::{Place, SourceFile};

/// Of a file that can be used.
pub(super) fn effective(source: &SourceFile) -> Vec<Effective> {
    topology::effective::effective(&source.name, &source.text, &source.folder).unwrap_or_default()
}

/// What was found, for programs.
pub(super) struct Report<'a> {
    pub found: &'a [Problem],
    pub source: &'a SourceFile,
    pub unlisted: usize,
}

impl Report<'_> {
    pub(super) fn json(&self, with_values: bool) -> Value {
        let problems: Vec<Value> = self.found.iter().map(plain).collect();
        let mut report =
            json!({ "file": self.source.name, "problems": problems, "unlisted": self.unlisted });
        if with_values {
            let values = effective(self.source).into_iter().map(|one| {
                let from = match one.from {
                    ValueFrom::File(at) => json!({ "line": at.line, "column": at.column }),
                    ValueFrom::Default => json!("default"),
                };
                json!({ "path": one.path, "value": one.value, "from": from })
            });
            report["effective"] = values.collect();
        }
        report
    }

    /// OASIS SARIF 2.1.0 §3: one run, one result for each problem.
    pub(super) fn sarif(&self) -> Value {
        let results: Vec<Value> = self.found.iter().map(|problem| self.result(problem)).collect();
        json!({
            "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
            "version": "2.1.0",
            "runs": [{
                "tool": { "driver": {
                    "name": "aqueduct check",
                    "version": env!("CARGO_PKG_VERSION"),
                    "rules": [{ "id": RULE, "shortDescription": { "text": "Topology file" } }],
                } },
                "columnKind": "unicodeCodePoints",
                "results": results,
            }],
        })
    }

    fn result(&self, problem: &Problem) -> Value {
        let mut text = match problem.path.as_str() {
            "" => problem.what.clone(),
            path => format!("{path}: {}", problem.what),
        };
        for (before, more) in [(". Allowed: ", &problem.allowed), (". ", &problem.hint)] {
            if let Some(more) = more {
                text = text + before + more;
            }
        }
        let mut place = json!({ "artifactLocation": { "uri": self.source.name } });
        // Lines and columns begin at 1 (§3.30); a problem of the whole file has none.
        if problem.at != Place::default() {
            let Place { line, column } = problem.at;
            let end = column + problem.width.max(1);
            place["region"] = json!({ "startLine": line, "startColumn": column, "endColumn": end });
        }
        json!({
            "ruleId": RULE,
            "level": level(problem.severity),
            "message": { "text": text },
            "locations": [{ "physicalLocation": place }],
        })
    }
}

const RULE: &str = "topology";

fn level(severity: Severity) -> &'static str {
    match severity {
        Severity::Error => "error",
        Severity::Warning => "warning",
    }
}

fn plain(problem: &Problem) -> Value {
    json!({
        "line": problem.at.line,
        "column": problem.at.column,
        "width": problem.width,
        "severity": level(problem.severity),
        "path": problem.path,
        "problem": problem.what,
        "allowed": problem.allowed,
        "hint": problem.hint,
    })
}
