//! The HTML page of an HTTPS replay. Not for its numbers. Called by `report::https`.
//!
//! Invariant: a plot without anything to show is left out.

use super::super::html::{Page, Plot, Table, Tile};
use super::super::plot::short;
use super::super::udp::page::{loss, percentiles, rate, shares, times};
use super::{Difference, HttpsReport, RouteLine, percent};

/// The page.
pub(super) fn page(report: &HttpsReport) -> Page {
    Page {
        title: "Replay of HTTPS traffic".into(),
        lead: format!(
            "{}, {} requests/s for {:.1} s",
            report.url,
            short(report.rate),
            report.seconds
        ),
        tiles: tiles(report),
        plots: plots(report),
        tables: tables(report),
    }
}

fn tiles(r: &HttpsReport) -> Vec<Tile> {
    let ms = |ms: f64| format!("{} ms", short(ms));
    let failures = r.failures();
    let mut tiles = vec![
        Tile::new("requests", short(r.requests as f64), format!("{} connections", r.connections)),
        Tile::new(
            "errors",
            format!("{}%", short(percent(failures, r.requests))),
            format!("{failures} without an answer or 5xx"),
        )
        .bad_when(failures > 0),
    ];
    if r.answered() > 0 {
        tiles.extend([
            Tile::new(
                "latency p50",
                ms(r.latency_ms.p50),
                format!("mean {}", ms(r.latency_ms.mean)),
            ),
            Tile::new("latency p99", ms(r.latency_ms.p99), format!("max {}", ms(r.latency_ms.max))),
            Tile::new("latency p99.9", ms(r.latency_ms.p99_9), "from the scheduled time".into()),
        ]);
    }
    if r.compared > 0 {
        let changed: u64 = r.differences.iter().map(|d| d.requests).sum();
        let note = format!("of {} with a recorded status", r.compared);
        tiles.push(Tile::new("other status", changed.to_string(), note).bad_when(changed > 0));
    }
    let late = format!("{}%", short(r.late_percent));
    let note = format!("timing error p99 {}", ms(r.lateness_ms.p99));
    tiles.push(Tile::new("sent late", late, note).bad_when(r.late_percent > 1.0));
    tiles
}

fn plots(report: &HttpsReport) -> Vec<Plot> {
    let course = &report.course;
    let end = course.end(report.seconds);
    let mut plots = vec![rate(course, end)];
    if !report.percentiles.is_empty() {
        plots.extend([times(course, end), percentiles(&report.percentiles)]);
    }
    plots.extend(shares(course, end, "Statuses"));
    if !report.errors.is_empty() {
        plots.push(Plot { heading: "Without an answer", ..loss(course, end) });
    }
    plots
}

fn tables(report: &HttpsReport) -> Vec<Table> {
    let route = |r: &RouteLine| {
        vec![
            r.route.clone(),
            r.requests.to_string(),
            r.failed.to_string(),
            short(r.p50_ms),
            short(r.p99_ms),
            r.statuses_changed.to_string(),
            r.sizes_changed.to_string(),
            r.bodies_changed.to_string(),
        ]
    };
    let share = |count: u64| format!("{:.2}%", percent(count, report.requests));
    let status = |(status, n): (&u16, &u64)| vec![status.to_string(), n.to_string(), share(*n)];
    let error = |(class, n): (&&str, &u64)| vec![(*class).to_owned(), n.to_string(), share(*n)];
    let difference = |Difference { recorded, now, requests }: &Difference| {
        let now = now.map_or("no answer".to_owned(), |status| status.to_string());
        vec![recorded.to_string(), now, requests.to_string()]
    };
    let ends = report.statuses.iter().map(status);
    let table = |heading: &str, head: &[&'static str], rows| Table {
        heading: heading.to_owned(),
        head: head.to_vec(),
        rows,
    };
    vec![
        table("Routes", &ROUTES, report.routes.iter().map(route).collect()),
        table(
            "Answers",
            &["status or error", "requests", "share"],
            ends.chain(report.errors.iter().map(error)).collect(),
        ),
        table(
            "Otherwise than recorded",
            &["recorded", "now", "requests"],
            report.differences.iter().map(difference).collect(),
        ),
        table(
            "Broken places of the recording",
            &["place"],
            report.broken.iter().map(|fault| vec![fault.clone()]).collect(),
        ),
    ]
}

const ROUTES: [&str; 8] =
    ["route", "requests", "failed", "p50 ms", "p99 ms", "other status", "other size", "other body"];
