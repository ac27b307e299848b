//! The HTML page of a UDP replay. Not for its numbers. Called by `report::udp`.
//!
//! Invariant: a plot without anything to show is left out.

use super::super::html::{Page, Plot, Table, Tile};
use super::super::plot::{self, Axes, Curve, Scale, short};
use super::{Player, UdpReport, percent};
use crate::replay::series::{Course, Point};

/// The page.
pub(super) fn page(report: &UdpReport) -> Page {
    let rate = report.sent as f64 / report.seconds.max(f64::MIN_POSITIVE);
    Page {
        title: "Replay of game traffic".into(),
        lead: format!(
            "{} players to {}, {} packets/s for {:.1} s",
            report.players,
            report.target,
            short(rate),
            report.seconds
        ),
        tiles: tiles(report),
        plots: plots(report),
        tables: tables(report),
    }
}

fn tiles(r: &UdpReport) -> Vec<Tile> {
    let ms = |ms: f64| format!("{} ms", short(ms));
    let mut tiles = vec![
        Tile::new("sent", short(r.sent as f64), format!("{} players", r.players)),
        Tile::new("lost", format!("{}%", short(r.loss_percent)), format!("{} packets", r.lost))
            .bad_when(r.lost > 0),
    ];
    if r.received > 0 && !r.raw {
        tiles.extend([
            Tile::new("round trip p50", ms(r.rtt_ms.p50), format!("mean {}", ms(r.rtt_ms.mean))),
            Tile::new("round trip p99", ms(r.rtt_ms.p99), format!("max {}", ms(r.rtt_ms.max))),
            Tile::new(
                "jitter",
                ms(r.jitter_ms.mean),
                format!("worst player {}", ms(r.jitter_ms.max)),
            ),
            Tile::new(
                "moved players",
                r.affinity_violations.to_string(),
                "met more than one endpoint".into(),
            )
            .bad_when(r.affinity_violations > 0),
        ]);
    }
    let order = format!("{} duplicates", r.duplicates);
    tiles.push(Tile::new("out of order", r.reordered.to_string(), order));
    let late = format!("{}%", short(r.late_percent));
    let note = format!("timing error p99 {}", ms(r.lateness_ms.p99));
    tiles.push(Tile::new("sent late", late, note).bad_when(r.late_percent > 1.0));
    tiles
}

fn plots(report: &UdpReport) -> Vec<Plot> {
    let course = &report.course;
    let end = course.end(report.seconds);
    let mut plots = vec![rate(course, end), loss(course, end)];
    if !report.percentiles.is_empty() {
        plots.extend([times(course, end), percentiles(&report.percentiles)]);
    }
    plots.extend(shares(course, end, "Endpoint shares"));
    plots.extend(players(&report.each));
    plots
}

/// Round trips of each player, the slowest to the right.
fn players(each: &[Player]) -> Option<Plot> {
    let mut measured: Vec<_> = each.iter().filter_map(|p| p.p50_ms.zip(p.p99_ms)).collect();
    measured.sort_by(|a, b| a.1.total_cmp(&b.1));
    let of = |value: fn(&(f64, f64)) -> f64| {
        measured.iter().enumerate().map(|(i, p)| (i as f64, Some(value(p)))).collect()
    };
    let curves = [
        Curve { name: "p99", style: "c1", points: of(|p| p.1) },
        Curve { name: "p50", style: "c0", points: of(|p| p.0) },
    ];
    let end = measured.len().saturating_sub(1) as f64;
    let axes = Axes { unit: "ms", scale: Scale::Log, at_least: 0.0, along: "", end, marks: &[] };
    let svg = plot::over_time(&axes, &curves);
    let heading = "Round trips by player, sorted";
    (measured.len() > 1).then(|| Plot { heading, legend: legend(&curves), svg })
}

/// Packets or requests per second.
pub(in crate::replay::report) fn rate(course: &Course, end: f64) -> Plot {
    let per_second = |count: fn(&Point) -> u64| {
        let value = |p: &Point| (course.middle(p), Some(count(p) as f64 / course.step_s));
        whole(course, end).map(value).collect()
    };
    let curves = [
        Curve { name: "sent", style: "c0", points: per_second(|p| p.sent) },
        Curve { name: "answered", style: "c2", points: per_second(|p| p.answered) },
    ];
    let axes = Axes {
        unit: "per s",
        scale: Scale::Linear,
        at_least: 1.0,
        along: "s",
        end,
        marks: &course.marks,
    };
    Plot { heading: "Rate", legend: legend(&curves), svg: plot::over_time(&axes, &curves) }
}

/// The steps but one that the replay ended in: that has less than its share, and its middle may lie beyond
/// the axis.
fn whole(course: &Course, end: f64) -> impl Iterator<Item = &Point> {
    let single = course.points.len() == 1;
    course.points.iter().filter(move |p| p.at_s + course.step_s <= end * 1.001 || single)
}

/// What was not answered.
pub(in crate::replay::report) fn loss(course: &Course, end: f64) -> Plot {
    let lost = |p: &Point| {
        let share = percent(p.sent.saturating_sub(p.answered), p.sent);
        (course.middle(p), (p.sent > 0).then_some(share))
    };
    let points = whole(course, end).map(lost).collect();
    let curves = [Curve { name: "lost", style: "bad-line", points }];
    let axes = Axes {
        unit: "%",
        scale: Scale::Linear,
        at_least: 1.0,
        along: "s",
        end,
        marks: &course.marks,
    };
    Plot { heading: "Loss", legend: legend(&curves), svg: plot::over_time(&axes, &curves) }
}

/// Latency over time.
pub(in crate::replay::report) fn times(course: &Course, end: f64) -> Plot {
    let of = |value: fn(&Point) -> Option<f64>| {
        whole(course, end).map(|p| (course.middle(p), value(p))).collect()
    };
    let curves = [
        Curve { name: "max", style: "c7", points: of(|p| p.max_ms) },
        Curve { name: "p99", style: "c1", points: of(|p| p.p99_ms) },
        Curve { name: "p50", style: "c0", points: of(|p| p.p50_ms) },
    ];
    let axes = Axes {
        unit: "ms",
        scale: Scale::Log,
        at_least: 0.0,
        along: "s",
        end,
        marks: &course.marks,
    };
    let svg = plot::over_time(&axes, &curves);
    Plot { heading: "Latency over time", legend: legend(&curves), svg }
}

/// Latency by percentile.
pub(in crate::replay::report) fn percentiles(points: &[(f64, f64)]) -> Plot {
    let svg = plot::percentiles(points, "c4");
    Plot { heading: "Latency by percentile", legend: Vec::new(), svg }
}

/// Who answered.
pub(in crate::replay::report) fn shares(
    course: &Course,
    end: f64,
    heading: &'static str,
) -> Option<Plot> {
    let layer = |name: usize| {
        let share = |p: &Point| p.shares.get(name).copied().unwrap_or(0) as f64;
        course.points.iter().map(share).collect::<Vec<_>>()
    };
    let layers: Vec<_> = (0..course.names.len()).map(layer).collect();
    let times: Vec<_> = course.points.iter().map(|p| p.at_s).collect();
    let svg = plot::stacked(end, &layers, &times, &course.marks);
    let style = |(number, name): (usize, &String)| (format!("c{}", number % 8), name.clone());
    let legend = course.names.iter().enumerate().map(style).collect();
    (!course.names.is_empty()).then_some(Plot { heading, legend, svg })
}

fn legend(curves: &[Curve]) -> Vec<(String, String)> {
    curves.iter().map(|curve| (curve.style.to_owned(), curve.name.to_owned())).collect()
}

fn tables(report: &UdpReport) -> Vec<Table> {
    let share = |count: u64| format!("{:.1}%", percent(count, report.received));
    let server =
        |(name, answers): (&String, &u64)| vec![name.clone(), answers.to_string(), share(*answers)];
    let player = |p: &&Player| {
        let ms = |ms: Option<f64>| ms.map_or("–".to_owned(), short);
        vec![
            p.player.to_string(),
            p.sent.to_string(),
            p.lost.to_string(),
            p.reordered.to_string(),
            ms(p.p50_ms),
            ms(p.p99_ms),
            short(p.jitter_ms),
            p.servers.join(" "),
            p.switches.to_string(),
        ]
    };
    let mut tables = vec![
        Table {
            heading: "Endpoints".into(),
            head: vec!["endpoint", "answers", "share"],
            rows: report.servers.iter().map(server).collect(),
        },
        Table {
            heading: "Players with the most loss and jitter".into(),
            head: vec![
                "player",
                "sent",
                "lost",
                "reordered",
                "p50 ms",
                "p99 ms",
                "jitter ms",
                "endpoints",
                "switches",
            ],
            rows: report.worst().iter().map(player).collect(),
        },
    ];
    if let Some(from) = &report.recording {
        let row = |name: &str, value: String| vec![name.to_owned(), value];
        let mut rows = vec![
            row("datagrams in it", from.datagrams.to_string()),
            row("played", format!("{} (to port {})", from.played, from.port)),
            row("speed", format!("{}×", from.speed)),
            row("fragments left out", from.fragments.to_string()),
            row("other frames left out", from.other.to_string()),
            row("cut by the capture", from.cut.to_string()),
        ];
        rows.extend(from.faults.iter().take(20).map(|fault| row("broken", fault.clone())));
        tables.push(Table { heading: from.file.clone(), head: vec!["capture", ""], rows });
    }
    tables
}

#[cfg(test)]
mod tests {
    use super::*;

    /// R3: a step that the replay ended in is drawn nowhere: its middle lies beyond the axis.
    #[test]
    fn nothing_is_drawn_beyond_the_axis() {
        let point = |step: u32, sent| Point { at_s: f64::from(step), sent, ..Point::default() };
        let points: Vec<Point> = (0..10).map(|step| point(step, 100)).collect();
        let mut course = Course { step_s: 1.0, points, ..Course::default() };
        let kept = [rate(&course, 10.2).svg, loss(&course, 10.2).svg, times(&course, 10.2).svg];
        course.points.push(point(10, 1));
        let end = course.end(10.2);
        assert_eq!([rate(&course, end).svg, loss(&course, end).svg, times(&course, end).svg], kept);
    }
}
