//! Where the boxes of a picture stand: columns from left to right, in each the boxes as near as may
//! be to those that they are joined with. Not for how they look: that is `svg`. Called by it.
//!
//! Invariant: no two boxes overlap, and no line from left to right runs behind a box.

use std::collections::BTreeSet;

use super::wiring::{Box, Column, End, Wiring};

/// Pixels.
pub(crate) const HEAD: f64 = 46.0;
pub(crate) const ROW: f64 = 22.0;
const FOOT: f64 = 6.0;
const GAP: f64 = 26.0;
const BETWEEN: f64 = 96.0;
pub(crate) const MARGIN: f64 = 28.0;
/// Of one letter of the fixed-width face that rows are written in.
const LETTER: f64 = 7.3;
/// Of one letter of a title, bold and in the widest face that a page may take for it.
const TITLE_LETTER: f64 = 9.7;
/// Beside a title, for the live page's count and mark.
const TOLD: f64 = 62.0;
/// Between two lines that lead back.
const BACK: f64 = 14.0;
/// How far beside their boxes such lines turn: the first, and the last.
const TURN: f64 = 20.0;
const LAST_TURN: f64 = 76.0;
/// What a line that passes a column takes of it.
const LANE: f64 = 8.0;
const NARROWEST: f64 = 140.0;
/// Passes over the columns; more change nothing that one sees.
const SWEEPS: usize = 6;

/// Where one box stands.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Area {
    pub x: f64,
    pub y: f64,
    pub width: f64,
    pub height: f64,
}

/// A picture's measures; `areas` is in the order of the wiring's boxes, `vias` of its lines.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    pub areas: Vec<Area>,
    /// Where a line passes columns between its ends, so that it runs behind no box.
    pub vias: Vec<Vec<Area>>,
    /// Where a line that leads back runs below all boxes.
    pub lanes: Vec<Option<Lane>>,
    pub width: f64,
    pub height: f64,
}

/// The way of a line that leads back: out of a box's right side, below all, into a box's left side.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Lane {
    /// Where it goes down.
    pub out: f64,
    /// How low it runs.
    pub y: f64,
    /// Where it goes up.
    pub back: f64,
}

/// What is put in order: boxes first, then the places where lines pass a column.
#[derive(Debug, Default)]
struct Plan {
    areas: Vec<Area>,
    /// What stands in each column, from left to right.
    columns: Vec<Vec<usize>>,
    /// Two neighbours, left and right, and how far below their tops the line between them is.
    links: Vec<(Spot, Spot)>,
    vias: Vec<Vec<usize>>,
    /// Of lines that lead back: from which box to which.
    backs: Vec<Option<(usize, usize)>>,
}

/// A place at the side of something.
type Spot = (usize, f64);

/// Gives every box its place.
pub(crate) fn of(wiring: &Wiring) -> Layout {
    let mut plan = Plan::of(wiring);
    let (mut x, mut tallest) = (MARGIN, 0.0_f64);
    for members in &plan.columns {
        let width = members.iter().map(|n| plan.areas[*n].width).fold(0.0, f64::max);
        for n in members {
            plan.areas[*n] = Area { x, width, ..plan.areas[*n] };
        }
        x += width + BETWEEN;
        tallest = stack(members, &mut plan.areas).max(tallest);
    }
    for sweep in 0..SWEEPS {
        let count = plan.columns.len();
        for at in 0..count {
            let forth = sweep % 2 == 0;
            plan.arrange(if forth { at } else { count - 1 - at }, forth, tallest);
        }
    }
    let top = plan.areas.iter().map(|area| area.y).fold(f64::INFINITY, f64::min);
    plan.areas.iter_mut().for_each(|area| area.y += MARGIN - top);
    let height = plan.areas.iter().map(|area| area.y + area.height).fold(0.0, f64::max) + MARGIN;
    let mut backs: Vec<Option<Lane>> = Vec::new();
    let count = plan.backs.iter().flatten().count();
    let step = if count > 1 { ((LAST_TURN - TURN) / float(count - 1)).min(5.0) } else { 0.0 };
    for ends in &plan.backs {
        let n = float(backs.iter().flatten().count());
        backs.push(ends.map(|(from, to)| {
            let (from, to, turn) = (plan.areas[from], plan.areas[to], n.mul_add(step, TURN));
            let y = n.mul_add(BACK, height - MARGIN / 2.0);
            Lane { out: from.x + from.width + turn, y, back: to.x - turn }
        }));
    }
    // Where they turn beside the outermost boxes the page is wider.
    let far = float(count.saturating_sub(1)).mul_add(step, TURN) + MARGIN / 2.0;
    let aside = if count > 0 { (far - MARGIN).max(0.0) } else { 0.0 };
    plan.areas.iter_mut().for_each(|area| area.x += aside);
    backs.iter_mut().flatten().for_each(|lane| {
        lane.out += aside;
        lane.back += aside;
    });
    let area = |n: &usize| plan.areas[*n];
    let vias = plan.vias.iter().map(|via| via.iter().map(area).collect()).collect();
    plan.areas.truncate(wiring.boxes.len());
    let width = 2.0_f64.mul_add(aside, x - BETWEEN + MARGIN);
    Layout {
        areas: plan.areas,
        vias,
        lanes: backs,
        width,
        height: float(count).mul_add(BACK, height),
    }
}

#[expect(clippy::cast_precision_loss, reason = "few lines, short texts")]
fn float(count: usize) -> f64 {
    count as f64
}

impl Plan {
    fn of(wiring: &Wiring) -> Self {
        let used: BTreeSet<Column> = wiring.boxes.iter().map(|one| one.column).collect();
        let column = |one: &Box| used.iter().position(|column| *column == one.column);
        let mut plan = Self { columns: vec![Vec::new(); used.len()], ..Self::default() };
        for one in &wiring.boxes {
            let area = size(one);
            plan.put(column(one).unwrap_or_default(), area);
        }
        for line in &wiring.lines {
            let spot = |end: &End| {
                let n = wiring.boxes.iter().position(|one| one.id == end.of)?;
                let one = wiring.boxes.get(n)?;
                Some(((n, offset(one, end)), column(one)?))
            };
            let (mut via, mut back) = (Vec::new(), None);
            if let (Some((mut left, from)), Some((right, to))) = (spot(&line.from), spot(&line.to))
            {
                back = (from >= to).then_some((left.0, right.0));
                for between in from + 1..to {
                    let area = Area { x: 0.0, y: 0.0, width: 0.0, height: LANE };
                    let n = plan.put(between, area);
                    plan.links.push((left, (n, LANE / 2.0)));
                    left = (n, LANE / 2.0);
                    via.push(n);
                }
                if from < to {
                    plan.links.push((left, right));
                }
            }
            plan.vias.push(via);
            plan.backs.push(back);
        }
        plan
    }

    fn put(&mut self, column: usize, area: Area) -> usize {
        self.areas.push(area);
        let n = self.areas.len() - 1;
        self.columns[column].push(n);
        n
    }

    /// Orders a column by where its neighbours are, and moves each as near to them as the others and
    /// the page let.
    fn arrange(&mut self, column: usize, forth: bool, height: f64) {
        let mut wished: Vec<(f64, usize)> =
            self.columns[column].iter().map(|n| (self.wish(*n, forth), *n)).collect();
        wished.sort_by(|a, b| a.0.total_cmp(&b.0));
        let mut free = 0.0;
        for (y, n) in &wished {
            let area = &mut self.areas[*n];
            area.y = y.max(free);
            free = area.y + area.height + GAP;
        }
        let mut end = height;
        for (_, n) in wished.iter().rev() {
            let area = &mut self.areas[*n];
            area.y = area.y.min(end - area.height);
            end = area.y - GAP;
        }
        self.columns[column] = wished.into_iter().map(|(_, n)| n).collect();
    }

    /// The y at which the lines to one side would be level.
    fn wish(&self, n: usize, forth: bool) -> f64 {
        let (mut sum, mut count) = (0.0, 0.0);
        for (left, right) in &self.links {
            let (mine, other) = if forth { (right, left) } else { (left, right) };
            if mine.0 == n {
                sum += self.areas[other.0].y + other.1 - mine.1;
                count += 1.0;
            }
        }
        if count > 0.0 { sum / count } else { self.areas[n].y }
    }
}

fn size(one: &Box) -> Area {
    let widest = one.rows.iter().map(|row| row.text.chars().count()).max().unwrap_or_default();
    let letters = widest.max(one.what.chars().count());
    let title = float(one.title.chars().count()).mul_add(TITLE_LETTER, 14.0 + TOLD);
    Area {
        x: 0.0,
        y: 0.0,
        width: float(letters).mul_add(LETTER, 24.0).max(title).max(NARROWEST),
        height: float(one.rows.len()).mul_add(ROW, HEAD + FOOT),
    }
}

/// One below the other; answers how high all of them are.
fn stack(members: &[usize], areas: &mut [Area]) -> f64 {
    let mut y = 0.0;
    for n in members {
        areas[*n].y = y;
        y += areas[*n].height + GAP;
    }
    y - GAP
}

/// How far below a box's top a line meets it.
pub(crate) fn offset(one: &Box, end: &End) -> f64 {
    let row = end.row.as_ref().and_then(|row| one.rows.iter().position(|r| r.id == *row));
    row.map_or(HEAD / 2.0, |n| (float(n) + 0.5).mul_add(ROW, HEAD))
}

#[cfg(test)]
mod tests;
