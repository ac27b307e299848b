//! Places of boxes, whatever is wired.

use proptest::prelude::*;

use super::super::wiring::{Line, Mark, Row};
use super::*;

const COLUMNS: [Column; 8] = [
    Column::Clients,
    Column::Edge,
    Column::Gateway,
    Column::Inner,
    Column::Internal,
    Column::Service,
    Column::Pool,
    Column::Database,
];

fn wiring(boxes: &[(usize, usize)], lines: &[(usize, usize)]) -> Wiring {
    let row = |n: usize| Row { id: n.to_string(), text: "row".repeat(n), mark: Mark::Same };
    let boxes: Vec<Box> = boxes
        .iter()
        .enumerate()
        .map(|(n, (column, rows))| Box {
            id: n.to_string(),
            column: COLUMNS[column % COLUMNS.len()],
            title: "box".to_owned(),
            what: "service".to_owned(),
            rows: (0..*rows).map(row).collect(),
            mark: Mark::Same,
        })
        .collect();
    let end = |n: usize| End::whole(&boxes[n % boxes.len()].id);
    let lines =
        lines.iter().map(|(a, b)| Line { from: end(*a), to: end(*b), mark: Mark::Same }).collect();
    Wiring { boxes, lines }
}

proptest! {
    /// T6: whatever is wired, no box hides another, and all are on the page.
    #[test]
    fn no_box_hides_another(
        boxes in prop::collection::vec((0..8_usize, 0..13_usize), 1..40),
        lines in prop::collection::vec((0..40_usize, 0..40_usize), 0..80),
    ) {
        let wiring = wiring(&boxes, &lines);
        let layout = of(&wiring);
        for (n, a) in layout.areas.iter().enumerate() {
            prop_assert!(a.x >= MARGIN && a.y >= MARGIN - 0.01, "{a:?}");
            prop_assert!(a.x + a.width <= layout.width && a.y + a.height <= layout.height);
            for b in layout.areas.iter().skip(n + 1) {
                let apart = a.x + a.width <= b.x || b.x + b.width <= a.x
                    || a.y + a.height <= b.y || b.y + b.height <= a.y;
                prop_assert!(apart, "{a:?} {b:?}");
            }
            for lane in layout.lanes.iter().flatten() {
                prop_assert!(lane.back > 0.0 && lane.out < layout.width, "{lane:?} {}", layout.width);
                prop_assert!(lane.y > a.y + a.height && lane.y < layout.height, "{a:?} {lane:?}");
                for x in [lane.out, lane.back] {
                    prop_assert!(x < a.x || x > a.x + a.width, "{a:?} {lane:?}");
                }
            }
            for via in layout.vias.iter().flatten() {
                let apart = via.x != a.x || via.y + via.height <= a.y || a.y + a.height <= via.y;
                prop_assert!(apart, "{a:?} {via:?}");
            }
        }
    }
}

/// T6: a title in bold stays in its box, beside what the live page tells there.
#[test]
fn long_titles_have_room() {
    let mut wiring = wiring(&[(5, 1)], &[]);
    "recommendation-servers".clone_into(&mut wiring.boxes[0].title);
    // As wide as DejaVu Sans Bold at 14 px, the widest of the usual faces, draws it.
    let drawn = 211.0;
    let width = of(&wiring).areas[0].width;
    assert!(14.0 + drawn + 60.0 <= width, "{width}");
}
