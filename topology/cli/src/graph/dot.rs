//! The wiring as Graphviz text. Called by `mod`.
//!
//! Invariant: no text of the file ends a label early.

use std::fmt::Write as _;

use super::svg::escaped;
use super::wiring::{Box, End, Line, Mark, Wiring};

/// The whole text.
pub(crate) fn text(wiring: &Wiring) -> String {
    let mut out = String::from(
        "digraph aqueduct {\n  rankdir=LR; nodesep=0.3; ranksep=1.2;\n  \
         node [shape=plain, fontname=\"sans-serif\"];\n",
    );
    for one in &wiring.boxes {
        let _ = writeln!(out, "  {} [label=<{}>];", quoted(&one.id), table(one));
    }
    for line in &wiring.lines {
        let (from, to) = (end(wiring, &line.from, "e"), end(wiring, &line.to, "w"));
        let _ = writeln!(out, "  {from} -> {to}{};", look(line));
    }
    out.push_str("}\n");
    out
}

fn table(one: &Box) -> String {
    let mut out = format!(
        "<table border=\"1\" cellborder=\"0\" cellspacing=\"0\" cellpadding=\"4\"{}>\
         <tr><td port=\"head\"><b>{}</b><br/>{}</td></tr>",
        colour(one.mark).map(|c| format!(" color=\"{c}\"")).unwrap_or_default(),
        escaped(&one.title),
        escaped(&one.what)
    );
    for (n, row) in one.rows.iter().enumerate() {
        let text = match colour(row.mark) {
            Some(colour) => format!("<font color=\"{colour}\">{}</font>", escaped(&row.text)),
            None => escaped(&row.text),
        };
        let _ = write!(out, "<tr><td align=\"left\" port=\"r{n}\">{text}</td></tr>");
    }
    out + "</table>"
}

fn end(wiring: &Wiring, end: &End, side: &str) -> String {
    let row = end
        .row
        .as_ref()
        .and_then(|row| wiring.find(&end.of)?.rows.iter().position(|one| one.id == *row));
    let port = row.map_or_else(|| "head".to_owned(), |n| format!("r{n}"));
    format!("{}:{port}:{side}", quoted(&end.of))
}

fn look(line: &Line) -> String {
    let dashed = if line.mark == Mark::Removed { ", style=dashed" } else { "" };
    colour(line.mark).map(|colour| format!(" [color=\"{colour}\"{dashed}]")).unwrap_or_default()
}

fn colour(mark: Mark) -> Option<&'static str> {
    match mark {
        Mark::Same => None,
        Mark::Added => Some("#1a7f37"),
        Mark::Removed => Some("#cf222e"),
    }
}

fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}
