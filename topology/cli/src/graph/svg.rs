//! The wiring as a picture: one SVG that needs no font, script or other file, for light and dark pages.
//! Called by `mod`.
//!
//! Invariant: every text of the file is escaped.

use std::fmt::Write as _;

use super::layout::{self, Area, HEAD, Lane, Layout, ROW};
use super::wiring::{Box, Column, End, Line, Mark, Wiring};

/// The whole file.
pub(crate) fn text(wiring: &Wiring) -> String {
    let (drawn, width, height) = drawn(wiring);
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width:.0} {height:.0}\" \
         width=\"{width:.0}\" height=\"{height:.0}\" role=\"img\" aria-labelledby=\"title\">\n<title \
         id=\"title\">Wiring of the topology</title>\n<style>{STYLE}</style>\n<rect class=\"page\" \
         width=\"100%\" height=\"100%\"/>\n{drawn}</svg>\n"
    )
}

/// The same for a page that has the styles.
pub(crate) fn fragment(wiring: &Wiring) -> String {
    let (drawn, width, height) = drawn(wiring);
    format!(
        "<svg id=\"wiring\" viewBox=\"0 0 {width:.0} {height:.0}\" role=\"group\" \
         aria-label=\"Wiring of the topology\">\n{drawn}</svg>\n"
    )
}

/// Lines and boxes, and the size of the page that they are on.
fn drawn(wiring: &Wiring) -> (String, f64, f64) {
    let layout = layout::of(wiring);
    let lines = wiring.lines.iter().enumerate();
    let mut out: String = lines.filter_map(|(n, line)| path(wiring, &layout, n, line)).collect();
    for (one, area) in wiring.boxes.iter().zip(&layout.areas) {
        draw(&mut out, one, *area);
    }
    (out, layout.width, layout.height)
}

fn draw(out: &mut String, one: &Box, area: Area) {
    let Area { x, y, width, height } = area;
    let _ = writeln!(
        out,
        "<g class=\"{} {}\" id=\"{}\">\n<rect class=\"box\" x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" \
         height=\"{height:.1}\" rx=\"9\"/>\n<rect class=\"bar\" x=\"{x:.1}\" y=\"{bar:.1}\" width=\"4\" \
         height=\"{bar_height:.1}\" rx=\"2\"/>",
        colour(one),
        class(one.mark),
        escaped(&one.id),
        bar = y + 9.0,
        bar_height = HEAD - 16.0,
    );
    let left = x + 14.0;
    let mut line = |class: &str, y: f64, text: &str| {
        let text = escaped(text);
        let _ = writeln!(out, "<text class=\"{class}\" x=\"{left:.1}\" y=\"{y:.1}\">{text}</text>");
    };
    line("title", y + 20.0, &one.title);
    line("what", y + 36.0, &one.what);
    let mut at = y + HEAD + 15.0;
    for row in &one.rows {
        line(&format!("row {}", class(row.mark)), at, &row.text);
        at += ROW;
    }
    out.push_str("</g>\n");
}

/// From the right side of one box to the left side of another; a line that leads back runs below all
/// boxes, each in a lane of its own.
fn path(wiring: &Wiring, layout: &Layout, n: usize, line: &Line) -> Option<String> {
    let (from, (x1, y1)) = point(wiring, layout, &line.from, true)?;
    let (to, (x2, y2)) = point(wiring, layout, &line.to, false)?;
    let d = if let Some(Lane { out, y, back }) = *layout.lanes.get(n)? {
        format!(
            "M{x1:.1} {y1:.1}C{out:.1} {y1:.1} {out:.1} {y1:.1} {out:.1} {a:.1}V{b:.1}Q{out:.1} {y:.1} \
             {c:.1} {y:.1}H{e:.1}Q{back:.1} {y:.1} {back:.1} {b:.1}V{f:.1}C{back:.1} {y2:.1} {back:.1} \
             {y2:.1} {x2:.1} {y2:.1}",
            a = y1 + 14.0,
            b = y - 10.0,
            c = out - 10.0,
            e = back + 10.0,
            f = y2 + 14.0,
        )
    } else {
        let mut d = format!("M{x1:.1} {y1:.1}");
        let mut at = (x1, y1);
        for via in layout.vias.get(n)? {
            let y = via.y + via.height / 2.0;
            d.push_str(&curve(at, (via.x, y)));
            at = (via.x + via.width, y);
            let _ = write!(d, "H{:.1}", at.0);
        }
        d + &curve(at, (x2, y2))
    };
    let name = |one: &Box, end: &End| match &end.row {
        Some(row) if !row.is_empty() => format!("{} {row}", one.title),
        _ => one.title.clone(),
    };
    let title = escaped(&format!("{} → {}", name(from, &line.from), name(to, &line.to)));
    let class = class(line.mark);
    Some(format!(
        "<path class=\"line {class}\" id=\"line-{n}\" d=\"{d}\"><title>{title}</title></path>\n"
    ))
}

fn curve((x1, y1): (f64, f64), (x2, y2): (f64, f64)) -> String {
    let bend = (x2 - x1) / 2.0;
    let (a, b) = (x1 + bend, x2 - bend);
    format!("C{a:.1} {y1:.1} {b:.1} {y2:.1} {x2:.1} {y2:.1}")
}

fn point<'a>(
    wiring: &'a Wiring,
    layout: &Layout,
    end: &End,
    right: bool,
) -> Option<(&'a Box, (f64, f64))> {
    let n = wiring.boxes.iter().position(|one| one.id == end.of)?;
    let (one, area) = (wiring.boxes.get(n)?, layout.areas.get(n)?);
    let x = if right { area.x + area.width } else { area.x };
    Some((one, (x, area.y + layout::offset(one, end))))
}

fn class(mark: Mark) -> &'static str {
    match mark {
        Mark::Same => "same",
        Mark::Added => "added",
        Mark::Removed => "removed",
    }
}

fn colour(one: &Box) -> &'static str {
    match one.column {
        Column::Edge => "balancer",
        Column::Internal if one.id.starts_with("nlb:") => "balancer",
        Column::Clients | Column::Internal => "other",
        Column::Gateway | Column::Inner => "gateway",
        Column::Service => "service",
        Column::Pool => "pool",
        Column::Database => "database",
    }
}

/// For the text and the attributes of XML.
pub(crate) fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            '"' => out.push_str("&quot;"),
            c if c.is_control() => out.push(' '),
            c => out.push(c),
        }
    }
    out
}

const STYLE: &str = "\
:root{--page:#fff;--box:#f6f8fa;--edge:#d0d7de;--ink:#1f2328;--dim:#59636e;--line:#8c959f}\
@media(prefers-color-scheme:dark){:root{--page:#0d1117;--box:#161b22;--edge:#30363d;--ink:#e6edf3;\
--dim:#9198a1;--line:#6e7681}}\
.page{fill:var(--page)}.box{fill:var(--box);stroke:var(--edge)}.bar{fill:var(--tier)}\
.other{--tier:#8c959f}.balancer{--tier:#0969da}.gateway{--tier:#8250df}.service{--tier:#1a7f37}\
.pool{--tier:#bf8700}.database{--tier:#bc4c00}\
text{fill:var(--ink);font:12px ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;white-space:pre}\
.title{font:600 14px system-ui,sans-serif}.what{fill:var(--dim);font:11px system-ui,sans-serif}\
.line{fill:none;stroke:var(--line);stroke-width:1.5}.line:hover{stroke:var(--ink);stroke-width:3}\
.added>.box,.line.added{stroke:#1a7f37;stroke-width:2.5}text.added{fill:#1a7f37;font-weight:600}\
.removed>.box,.line.removed{stroke:#cf222e;stroke-dasharray:5 4}\
text.removed{fill:#cf222e;text-decoration:line-through}";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_escaped() {
        assert_eq!(escaped("<a b=\"c\">&\u{1}"), "&lt;a b=&quot;c&quot;&gt;&amp; ");
    }
}
