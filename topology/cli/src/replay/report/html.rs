//! A report as one HTML page: no script, nothing fetched, dark or light as the reader's system is.
//! Not for what is in it: each report makes its own [`Page`]. Used by `report::finish`.
//!
//! Invariant: text that came from outside is escaped.

use std::fmt::Write as _;

/// What a page shows, from top to bottom.
#[derive(Default)]
pub(in crate::replay) struct Page {
    pub(super) title: String,
    pub(super) lead: String,
    pub(super) tiles: Vec<Tile>,
    pub(super) plots: Vec<Plot>,
    pub(super) tables: Vec<Table>,
}

/// One figure.
pub(super) struct Tile {
    pub(super) label: &'static str,
    pub(super) value: String,
    pub(super) note: String,
    pub(super) bad: bool,
}

impl Tile {
    pub(super) fn new(label: &'static str, value: String, note: String) -> Self {
        Self { label, value, note, bad: false }
    }

    pub(super) fn bad_when(self, bad: bool) -> Self {
        Self { bad, ..self }
    }
}

/// A picture with its legend: style and name.
pub(super) struct Plot {
    pub(super) heading: &'static str,
    pub(super) legend: Vec<(String, String)>,
    pub(super) svg: String,
}

/// Rows of text.
pub(super) struct Table {
    pub(super) heading: String,
    pub(super) head: Vec<&'static str>,
    pub(super) rows: Vec<Vec<String>>,
}

/// A bound and whether it was kept.
pub(super) struct Verdict {
    pub(super) kept: bool,
    pub(super) text: String,
}

/// The whole page.
pub(super) fn write(page: &Page, verdicts: &[Verdict]) -> String {
    let mut out = String::with_capacity(64 << 10);
    let title = escape(&page.title);
    let _ = write!(
        out,
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\
         <meta name=\"color-scheme\" content=\"light dark\"><title>{title}</title>\
         <style>{STYLE}</style></head>\n<body><main><header><h1>{title}</h1><p>{}</p></header>\n",
        escape(&page.lead)
    );
    write_verdicts(&mut out, verdicts);
    out.push_str("<section class=\"tiles\" aria-label=\"figures\">");
    for Tile { label, value, note, bad } in &page.tiles {
        let class = if *bad { "tile bad" } else { "tile" };
        let (value, note) = (escape(value), escape(note));
        let _ = write!(
            out,
            "<div class=\"{class}\"><span>{label}</span><strong>{value}</strong><small>{note}</small></div>"
        );
    }
    out.push_str("</section>\n<section class=\"plots\">");
    for Plot { heading, legend, svg } in &page.plots {
        let _ = write!(out, "<figure><figcaption><h2>{heading}</h2><ul>");
        for (style, name) in legend {
            let _ = write!(out, "<li><i class=\"{style}\"></i>{}</li>", escape(name));
        }
        let _ = writeln!(out, "</ul></figcaption>{svg}</figure>");
    }
    out.push_str("</section>\n");
    page.tables.iter().filter(|t| !t.rows.is_empty()).for_each(|t| write_table(&mut out, t));
    out.push_str("</main></body></html>\n");
    out
}

fn write_verdicts(out: &mut String, verdicts: &[Verdict]) {
    if verdicts.is_empty() {
        return;
    }
    out.push_str("<ul class=\"verdicts\">");
    for Verdict { kept, text } in verdicts {
        let (class, word) = if *kept { ("kept", "kept") } else { ("broken", "broken") };
        let _ = write!(out, "<li class=\"{class}\"><b>{word}</b> {}</li>", escape(text));
    }
    out.push_str("</ul>\n");
}

fn write_table(out: &mut String, table: &Table) {
    let _ = write!(
        out,
        "<section class=\"table\"><h2>{}</h2><div><table><thead><tr>",
        escape(&table.heading)
    );
    for head in &table.head {
        let _ = write!(out, "<th scope=\"col\">{head}</th>");
    }
    out.push_str("</tr></thead><tbody>");
    for row in &table.rows {
        out.push_str("<tr>");
        for cell in row {
            let _ = write!(out, "<td>{}</td>", escape(cell));
        }
        out.push_str("</tr>");
    }
    out.push_str("</tbody></table></div></section>\n");
}

/// For text and for attributes; control characters become dots.
pub(super) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c if c.is_control() => out.push('·'),
            c => out.push(c),
        }
    }
    out
}

const STYLE: &str = include_str!("page.css");

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// R3: whatever a server calls itself, the page has no element and no attribute of its making.
        #[test]
        fn outside_text_stays_text(text in any::<String>()) {
            let cell = escape(&text);
            prop_assert!(!cell.contains(['<', '>', '"', '\'']));
            prop_assert!(!cell.chars().any(char::is_control));
        }
    }

    /// R3: the page fetches nothing and runs nothing.
    #[test]
    fn a_page_stands_alone() {
        let page = Page { title: "<b>".into(), ..Page::default() };
        let html = write(&page, &[Verdict { kept: false, text: "p99".into() }]);
        for word in ["http:", "https:", "url(", "@import", "<script", "<link", "src="] {
            assert!(!html.contains(word), "{word}");
        }
        assert!(html.contains("&lt;b&gt;") && html.contains("broken"));
    }
}
