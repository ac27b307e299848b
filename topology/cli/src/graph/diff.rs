//! What a change of the file adds to the picture and takes away. Not for values that are not drawn:
//! those are seen in the file. Called by `mod`.
//!
//! Invariant: all of the new picture is in the outcome, and all of the old that is gone.

use super::wiring::{Box, Line, Mark, Row, Wiring};

/// The new picture with the old one's remains.
pub(crate) fn marked(old: Wiring, mut new: Wiring) -> Wiring {
    for one in &mut new.boxes {
        match old.find(&one.id) {
            Some(before) => rows(before, one),
            None => added(one),
        }
    }
    for mut gone in old.boxes {
        if new.find(&gone.id).is_none() {
            gone.mark = Mark::Removed;
            gone.rows.iter_mut().for_each(|row| row.mark = Mark::Removed);
            new.boxes.push(gone);
        }
    }
    let same = |a: &Line, b: &Line| a.from == b.from && a.to == b.to;
    for line in &mut new.lines {
        if !old.lines.iter().any(|before| same(before, line)) {
            line.mark = Mark::Added;
        }
    }
    for mut gone in old.lines {
        if !new.lines.iter().any(|line| same(line, &gone)) {
            gone.mark = Mark::Removed;
            new.lines.push(gone);
        }
    }
    new
}

/// The same in words: whole boxes, rows of others, and who connects to whom.
pub(crate) fn words(marked: &Wiring) -> Vec<String> {
    let sign = |mark: Mark| match mark {
        Mark::Same => None,
        Mark::Added => Some('+'),
        Mark::Removed => Some('−'),
    };
    let mut all = Vec::new();
    for one in &marked.boxes {
        if let Some(sign) = sign(one.mark) {
            all.push(format!("{sign} {} ({})", one.title, one.what));
            continue;
        }
        let rows = one.rows.iter().filter_map(|row| Some((sign(row.mark)?, row)));
        all.extend(rows.map(|(sign, row)| format!("{sign} {}: {}", one.title, row.text)));
    }
    let end = |end: &super::wiring::End| {
        let title = marked.find(&end.of).map_or(end.of.as_str(), |one| one.title.as_str());
        match &end.row {
            Some(row) => format!("{title}/{row}"),
            None => title.to_owned(),
        }
    };
    let lines = marked.lines.iter().filter_map(|line| Some((sign(line.mark)?, line)));
    all.extend(lines.map(|(sign, line)| format!("{sign} {} → {}", end(&line.from), end(&line.to))));
    all
}

fn added(one: &mut Box) {
    one.mark = Mark::Added;
    one.rows.iter_mut().for_each(|row| row.mark = Mark::Added);
}

/// A row that says something else now is one that went and one that came.
fn rows(before: &Box, one: &mut Box) {
    let has = |rows: &[Row], row: &Row| rows.iter().any(|r| r.id == row.id && r.text == row.text);
    let gone: Vec<Row> = before.rows.iter().filter(|row| !has(&one.rows, row)).cloned().collect();
    for row in &mut one.rows {
        if !has(&before.rows, row) {
            row.mark = Mark::Added;
        }
    }
    one.rows.extend(gone.into_iter().map(|row| Row { mark: Mark::Removed, ..row }));
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn whole(endpoints: &[u16]) -> Wiring {
        let each: Vec<String> = endpoints.iter().map(|n| format!("127.0.0.1:{n}")).collect();
        let text = format!(
            "aqueduct: 1\nservices: {{ a: {{ endpoints: [{}] }} }}\nnlbs:\n  edge:\n    instances: {{ nlb-1: \
             {{ address: 127.0.0.1 }} }}\n    listeners: {{ a: {{ tcp: \"*:9000\", to: a }} }}\n",
            each.join(", ")
        );
        Wiring::whole(&topology::parse("a.yaml", &text, Path::new(".")).expect("valid"))
    }

    /// T6: a change beyond the rows that are shown is told, and seen.
    #[test]
    fn changes_of_long_boxes_are_told() {
        let before: Vec<u16> = (7101..7120).collect();
        let after: Vec<u16> = (7101..7119).chain([7200]).collect();
        let marked = marked(whole(&before), whole(&after));
        assert_eq!(words(&marked), ["+ a: 127.0.0.1:7200", "− a: 127.0.0.1:7119"]);
        let cut = marked.cut();
        let rows = &cut.find("service:a").expect("there").rows;
        let changed: Vec<&str> =
            rows.iter().filter(|row| row.mark != Mark::Same).map(|row| row.text.as_str()).collect();
        assert_eq!(changed, ["127.0.0.1:7200", "127.0.0.1:7119"]);
        assert_eq!(rows.last().map(|row| row.text.as_str()), Some("… 9 more"));
    }
}
