//! The wiring as Mermaid text, which many wikis and code hosts draw. Called by `mod`.
//!
//! Invariant: no text of the file ends a label early.

use std::collections::HashMap;
use std::fmt::Write as _;

use super::wiring::{Column, Line, Mark, Wiring};

/// The whole text.
pub(crate) fn text(wiring: &Wiring) -> String {
    let mut out = String::from("flowchart LR\n");
    let names: HashMap<&str, String> = wiring
        .boxes
        .iter()
        .enumerate()
        .map(|(n, one)| (one.id.as_str(), format!("n{n}")))
        .collect();
    for (column, title) in COLUMNS {
        let mut boxes = wiring.boxes.iter().filter(|one| one.column == column).peekable();
        if boxes.peek().is_none() {
            continue;
        }
        let _ = writeln!(out, "  subgraph {title}");
        for one in boxes {
            let name = &names[one.id.as_str()];
            let rows = one.rows.iter().map(|row| marked(row.mark, &row.text));
            let head = format!("<b>{}</b><br/>{}", escaped(&one.title), escaped(&one.what));
            let label = std::iter::once(head).chain(rows).collect::<Vec<_>>().join("<br/>");
            let _ = writeln!(out, "    {name}[\"{label}\"]{}", class(one.mark));
        }
        out.push_str("  end\n");
    }
    for line in &wiring.lines {
        let (Some(from), Some(to)) =
            (names.get(line.from.of.as_str()), names.get(line.to.of.as_str()))
        else {
            continue;
        };
        let arrow = if line.mark == Mark::Removed { "-.->" } else { "-->" };
        let _ = writeln!(out, "  {from} {arrow}{} {to}", label(wiring, line));
    }
    if wiring.boxes.iter().any(|one| one.mark != Mark::Same) {
        out.push_str("  classDef added stroke:#1a7f37,stroke-width:3px\n");
        out.push_str("  classDef removed stroke:#cf222e,stroke-dasharray:4\n");
    }
    out
}

const COLUMNS: [(Column, &str); 8] = [
    (Column::Clients, "clients"),
    (Column::Edge, "edge"),
    (Column::Gateway, "gateways"),
    (Column::Inner, "inner"),
    (Column::Internal, "internal"),
    (Column::Service, "services"),
    (Column::Pool, "pools"),
    (Column::Database, "databases"),
];

/// What a line is for, where it begins or ends at a row.
fn label(wiring: &Wiring, line: &Line) -> String {
    let text = [&line.from, &line.to].into_iter().find_map(|end| {
        let row = end.row.as_ref()?;
        let found = wiring.find(&end.of)?.rows.iter().find(|one| one.id == *row)?;
        Some(escaped(&found.text))
    });
    text.map(|text| format!("|\"{text}\"|")).unwrap_or_default()
}

fn class(mark: Mark) -> &'static str {
    match mark {
        Mark::Same => "",
        Mark::Added => ":::added",
        Mark::Removed => ":::removed",
    }
}

fn marked(mark: Mark, text: &str) -> String {
    let sign = match mark {
        Mark::Same => "",
        Mark::Added => "+ ",
        Mark::Removed => "− ",
    };
    format!("{sign}{}", escaped(text))
}

/// Labels are HTML in double quotes.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '"' => out.push_str("#quot;"),
            '#' => out.push_str("#35;"),
            '<' => out.push_str("#lt;"),
            '>' => out.push_str("#gt;"),
            '&' => out.push_str("#amp;"),
            '*' => out.push_str("#42;"),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_cannot_be_ended() {
        assert_eq!(escaped("a\"]<b>#"), "a#quot;]#lt;b#gt;#35;");
    }
}
