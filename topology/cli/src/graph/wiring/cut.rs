//! Long boxes, cut for a picture. Not for what a change was, which is found before. Called by `graph` and by
//! whatever draws.
//!
//! Invariant: every line still ends at a row that is there.

use super::{Line, Mark, ROWS, Row, Wiring};

impl Wiring {
    /// Sums up in one row what is too much of a box; what a change marks stays as long as it can.
    pub(crate) fn cut(mut self) -> Self {
        for one in &mut self.boxes {
            if one.rows.len() <= ROWS {
                continue;
            }
            let changed = |row: &Row| row.mark != Mark::Same;
            let mut order: Vec<usize> = (0..one.rows.len()).collect();
            order.sort_by_key(|n| !one.rows.get(*n).is_some_and(changed));
            order.truncate(ROWS - 1);
            let (mut kept, mut hidden) = (Vec::new(), Vec::new());
            for (n, row) in std::mem::take(&mut one.rows).into_iter().enumerate() {
                if order.contains(&n) { kept.push(row) } else { hidden.push(row) }
            }
            let text = match hidden.iter().filter(|row| changed(row)).count() {
                0 => format!("… {} more", hidden.len()),
                n => format!("… {} more, {n} of them changed", hidden.len()),
            };
            for end in self.lines.iter_mut().flat_map(|line| [&mut line.from, &mut line.to]) {
                let at = |rows: &[Row]| rows.iter().any(|row| end.is_at(row));
                if end.of == one.id && at(&hidden) && !at(&kept) {
                    end.row = Some("more".to_owned());
                }
            }
            one.rows = kept;
            one.rows.push(Row::new("more", &text));
        }
        let mut kept: Vec<Line> = Vec::new();
        for line in self.lines.drain(..) {
            if !kept.contains(&line) {
                kept.push(line);
            }
        }
        self.lines = kept;
        self
    }
}
