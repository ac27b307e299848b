//! Plots as SVG, coloured by the page's own styles so that they suit dark and light. Not for what is
//! shown. Used by `html` and the two reports.
//!
//! Invariant: text that came from outside is escaped.

use std::fmt::Write as _;

use super::html::escape;
use crate::replay::series::Mark;

/// One curve: its points in order of x; `None` interrupts it.
pub(super) struct Curve {
    pub(super) name: &'static str,
    /// A style of the page: `c0` to `c7`, `bad`.
    pub(super) style: &'static str,
    pub(super) points: Vec<(f64, Option<f64>)>,
}

/// How values become heights.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Scale {
    Linear,
    Log,
}

/// What surrounds the curves.
pub(super) struct Axes<'a> {
    /// What the values are, such as `ms`.
    pub(super) unit: &'a str,
    pub(super) scale: Scale,
    /// Greatest value that must have room.
    pub(super) at_least: f64,
    /// What is counted from left to right: `s`, or nothing.
    pub(super) along: &'a str,
    pub(super) end: f64,
    pub(super) marks: &'a [Mark],
}

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 250.0;
const LEFT: f64 = 62.0;
const RIGHT: f64 = 14.0;
const TOP: f64 = 26.0;
const BOTTOM: f64 = 30.0;

/// Curves over time.
pub(super) fn over_time(axes: &Axes<'_>, curves: &[Curve]) -> String {
    let values = || curves.iter().flat_map(|c| &c.points).filter_map(|(_, y)| *y);
    let most = values().fold(axes.at_least, f64::max);
    let least = values().filter(|y| *y > 0.0).fold(f64::INFINITY, f64::min);
    let y = Y::new(axes.scale, least, most);
    let x = |seconds: f64| LEFT + seconds / axes.end.max(1e-9) * (WIDTH - LEFT - RIGHT);
    let mut out = open(&curves.iter().map(|c| c.name).collect::<Vec<_>>().join(", "));
    y.draw(&mut out, axes.unit);
    steps(&mut out, axes.end, axes.along, &x);
    for curve in curves {
        let points = curve.points.iter().map(|(at, value)| (x(*at), value.map(|v| y.at(v))));
        path(&mut out, curve.style, points);
    }
    marks(&mut out, axes.marks, &x);
    close(out)
}

/// Shares over time, one above the other, of their sum.
pub(super) fn stacked(end: f64, layers: &[Vec<f64>], times: &[f64], all_marks: &[Mark]) -> String {
    let y = Y { scale: Scale::Linear, low: 0.0, high: 100.0, step: 25.0 };
    let x = |seconds: f64| LEFT + seconds / end.max(1e-9) * (WIDTH - LEFT - RIGHT);
    let mut out = open("shares over time");
    let sums: Vec<f64> =
        (0..times.len()).map(|i| layers.iter().filter_map(|l| l.get(i)).sum()).collect();
    let mut floor = vec![0.0; times.len()];
    for (number, layer) in layers.iter().enumerate() {
        let below = floor.clone();
        for ((floor, share), sum) in floor.iter_mut().zip(layer).zip(&sums) {
            *floor += if *sum > 0.0 { share / sum * 100.0 } else { 0.0 };
        }
        let step = times.get(1).map_or(end, |second| second - times.first().unwrap_or(&0.0));
        let mut shape = String::new();
        let mut edge = |(at, value): (&f64, &f64), backwards: bool| {
            let (first, second) = if backwards { (*at + step, *at) } else { (*at, *at + step) };
            for at in [first, second] {
                let command = if shape.is_empty() { 'M' } else { 'L' };
                let _ = write!(shape, "{command}{:.1} {:.1}", x(at.min(end)), y.at(*value));
            }
        };
        times.iter().zip(&floor).for_each(|pair| edge(pair, false));
        times.iter().zip(&below).rev().for_each(|pair| edge(pair, true));
        let _ = write!(out, r#"<path class="area c{}" d="{shape}Z"/>"#, number % 8);
    }
    y.draw(&mut out, "%");
    steps(&mut out, end, "s", &x);
    marks(&mut out, all_marks, &x);
    close(out)
}

/// Times by quantile; both axes are logarithmic, so that the slowest few have the most room.
pub(super) fn percentiles(points: &[(f64, f64)], style: &str) -> String {
    let all = || points.iter();
    let most = all().map(|(_, ms)| *ms).fold(0.001, f64::max);
    let least = all().map(|(_, ms)| *ms).filter(|ms| *ms > 0.0).fold(f64::INFINITY, f64::min);
    let nines = |quantile: f64| -(1.0 - quantile).max(1e-9).log10();
    let last = all().map(|(quantile, _)| nines(*quantile)).fold(1.0, f64::max);
    let y = Y::new(Scale::Log, least, most);
    let x = |quantile: f64| LEFT + nines(quantile) / last * (WIDTH - LEFT - RIGHT);
    let mut out = open("latency by percentile");
    y.draw(&mut out, "ms");
    let ticks = [(0.0, "0%"), (0.5, "50%"), (0.9, "90%"), (0.99, "99%"), (0.999, "99.9%")];
    let more = [(0.9999, "99.99%"), (0.99999, "99.999%"), (0.999_999, "99.9999%")];
    for (quantile, label) in ticks.into_iter().chain(more) {
        if nines(quantile) <= last + 1e-6 {
            upright(&mut out, x(quantile), label);
        }
    }
    path(&mut out, style, points.iter().map(|(q, ms)| (x(*q), Some(y.at(*ms)))));
    close(out)
}

fn open(title: &str) -> String {
    format!(r#"<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{}">"#, escape(title))
}

fn close(mut out: String) -> String {
    out.push_str("</svg>");
    out
}

/// The upright axis.
struct Y {
    scale: Scale,
    low: f64,
    high: f64,
    step: f64,
}

impl Y {
    fn new(scale: Scale, least: f64, most: f64) -> Self {
        match scale {
            Scale::Linear => {
                let step = nice(most.max(1e-9) / 4.0);
                Self { scale, low: 0.0, high: (most.max(1e-9) / step).ceil() * step, step }
            }
            Scale::Log => {
                let least = if least.is_finite() { least } else { 0.1 };
                let low = 10_f64.powf(least.log10().floor());
                let high = 10_f64.powf(most.max(low * 1.01).log10().ceil());
                Self { scale, low, high, step: 10.0 }
            }
        }
    }

    fn at(&self, value: f64) -> f64 {
        let share = match self.scale {
            Scale::Linear => (value - self.low) / (self.high - self.low),
            Scale::Log => {
                let depth = (self.high / self.low).log10();
                (value.max(self.low) / self.low).log10() / depth
            }
        };
        HEIGHT - BOTTOM - share.clamp(0.0, 1.0) * (HEIGHT - TOP - BOTTOM)
    }

    fn draw(&self, out: &mut String, unit: &str) {
        let mut value = self.low;
        for _ in 0..32 {
            if value > self.high * 1.0001 {
                break;
            }
            let at = self.at(value);
            let _ = write!(
                out,
                r#"<line class="grid" x1="{LEFT}" x2="{:.1}" y1="{at:.1}" y2="{at:.1}"/>"#,
                WIDTH - RIGHT
            );
            let (right, down) = (LEFT - 8.0, at + 4.0);
            let label = short(value);
            let _ = write!(out, r#"<text class="y" x="{right}" y="{down:.1}">{label}</text>"#);
            value = match self.scale {
                Scale::Linear => value + self.step,
                Scale::Log => value * self.step,
            };
        }
        let _ = write!(out, r#"<text class="y" x="{}" y="14">{}</text>"#, LEFT - 8.0, escape(unit));
    }
}

fn steps(out: &mut String, end: f64, unit: &str, x: &impl Fn(f64) -> f64) {
    let step = nice(end / 8.0);
    let mut at = 0.0;
    while at <= end * 1.0001 && step > 0.0 {
        upright(out, x(at), format!("{} {unit}", short(at)).trim_end());
        at += step;
    }
}

fn upright(out: &mut String, x: f64, label: &str) {
    let (foot, text) = (HEIGHT - BOTTOM, HEIGHT - BOTTOM + 20.0);
    let end = if x > WIDTH - RIGHT - 24.0 { " end" } else { "" };
    let _ = write!(
        out,
        r#"<line class="grid" x1="{x:.1}" x2="{x:.1}" y1="{TOP}" y2="{foot}"/><text class="x{end}" x="{x:.1}" y="{text}">{label}</text>"#
    );
}

fn marks(out: &mut String, marks: &[Mark], x: &impl Fn(f64) -> f64) {
    for mark in marks {
        let (at, foot) = (x(mark.at_s), HEIGHT - BOTTOM);
        let end = if at > WIDTH * 0.7 { " end" } else { "" };
        let beside = if end.is_empty() { at + 5.0 } else { at - 5.0 };
        let _ = write!(
            out,
            r#"<line class="mark" x1="{at:.1}" x2="{at:.1}" y1="{TOP}" y2="{foot}"/><text class="mark{end}" x="{beside:.1}" y="{}">{}</text>"#,
            TOP - 6.0,
            escape(&mark.what)
        );
    }
}

fn path(out: &mut String, style: &str, points: impl Iterator<Item = (f64, Option<f64>)>) {
    let (mut shape, mut drawing) = (String::new(), false);
    for (x, y) in points {
        match y {
            Some(y) => {
                let command = if drawing { 'L' } else { 'M' };
                let _ = write!(shape, "{command}{x:.1} {y:.1}");
                // A point on its own is still seen.
                if !drawing {
                    let _ = write!(shape, "h.1");
                }
                drawing = true;
            }
            None => drawing = false,
        }
    }
    let _ = write!(out, r#"<path class="line {style}" d="{shape}"/>"#);
}

/// 1, 2 or 5 times a power of ten, not below.
fn nice(value: f64) -> f64 {
    if !(value.is_finite() && value > 0.0) {
        return 1.0;
    }
    let ten = 10_f64.powf(value.log10().floor());
    let factor = [1.0, 2.0, 5.0, 10.0].into_iter().find(|f| f * ten >= value * 0.999_999);
    factor.unwrap_or(10.0) * ten
}

/// A number as short as can be: `1.5k`, `0.02`.
pub(super) fn short(value: f64) -> String {
    let (number, suffix) = match value.abs() {
        v if v >= 1e9 => (value / 1e9, "G"),
        v if v >= 1e6 => (value / 1e6, "M"),
        v if v >= 1e3 => (value / 1e3, "k"),
        _ => (value, ""),
    };
    let digits = match number.abs() {
        v if v >= 100.0 => 0,
        v if v >= 1.0 || v == 0.0 => 2,
        v => (2.0 - v.log10().floor()) as usize,
    };
    let text = format!("{number:.digits$}");
    let text =
        if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    format!("{text}{suffix}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn numbers_are_short_and_steps_are_nice() {
        for (value, text) in [
            (0.0, "0"),
            (1500.0, "1.5k"),
            (0.02, "0.02"),
            (120.0, "120"),
            (2e6, "2M"),
            (0.001, "0.001"),
        ] {
            assert_eq!(short(value), text);
        }
        assert_eq!([nice(0.3), nice(1.0), nice(7.0), nice(0.0)], [0.5, 1.0, 10.0, 1.0]);
    }

    #[test]
    fn a_mark_from_outside_stays_text() {
        let mark = Mark { at_s: 1.0, what: "<script>".into() };
        let svg = stacked(2.0, &[vec![1.0, 2.0]], &[0.0, 1.0], &[mark]);
        assert!(svg.contains("&lt;script&gt;") && !svg.contains("<script"), "{svg}");
    }

    proptest! {
        #[test]
        fn every_height_is_in_the_picture(values in proptest::collection::vec(proptest::option::of(0.0f64..1e12), 0..30), log: bool) {
            let points: Vec<_> = values.iter().enumerate().map(|(i, v)| (i as f64, *v)).collect();
            let curves = [Curve { name: "a", style: "c0", points }];
            let scale = if log { Scale::Log } else { Scale::Linear };
            let axes = Axes { unit: "ms", scale, at_least: 0.0, along: "s", end: 30.0, marks: &[] };
            let svg = over_time(&axes, &curves);
            prop_assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
        }
    }
}
