//! The course of a replay: what was sent and what became of it, in even steps of time. Not for
//! drawing (`report`). Filled by the lanes of `udp` and `https`.
//!
//! Invariant: a unit counts in the step in which it was due, whenever its answer comes.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

/// One lane's, or all lanes' together.
#[derive(Clone, Debug)]
pub(super) struct Series {
    width: Duration,
    steps: Vec<Step>,
    names: Vec<String>,
}

#[derive(Clone, Debug)]
struct Step {
    sent: u64,
    answered: u64,
    times: Histogram<u64>,
    /// Answers by name, in the order of `names`.
    shares: Vec<u64>,
}

/// More steps than a plot has pixels are of no use.
const MOST_STEPS: usize = 240;
/// More names are told as others.
const MOST_NAMES: usize = 24;
/// What they are called.
const OTHERS: &str = "others";

impl Series {
    /// For a replay that takes about `span`.
    pub(super) fn new(span: Duration) -> Self {
        let enough =
            |width: &Duration| span.as_secs_f64() / width.as_secs_f64() <= MOST_STEPS as f64;
        let tens = (-1..7).flat_map(|ten| [1.0, 2.0, 5.0].map(|n| n * 10_f64.powi(ten)));
        let width = tens.map(Duration::from_secs_f64).find(enough).unwrap_or(span);
        Self { width, steps: Vec::new(), names: Vec::new() }
    }

    /// A unit left that was due then.
    pub(super) fn sent(&mut self, at: Duration) {
        self.step(at).sent += 1;
    }

    /// A unit that was due then was answered by `who`, so long after.
    pub(super) fn answered(&mut self, at: Duration, time: Duration, who: &[u8]) {
        let name = self.name(who);
        let step = self.step(at);
        step.answered += 1;
        let nanoseconds = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX).min(1 << 50);
        // The histogram grows as far as it must; below that bound it always can.
        let _ = step.times.record(nanoseconds.max(1));
        if step.shares.len() <= name {
            step.shares.resize(name + 1, 0);
        }
        if let Some(share) = step.shares.get_mut(name) {
            *share += 1;
        }
    }

    /// An answer of which nothing more is known.
    pub(super) fn counted(&mut self, at: Duration) {
        self.step(at).answered += 1;
    }

    fn name(&mut self, who: &[u8]) -> usize {
        if let Some(known) = self.names.iter().position(|name| name.as_bytes() == who) {
            return known;
        }
        if self.names.len() + 1 < MOST_NAMES {
            self.names.push(String::from_utf8_lossy(who).into_owned());
        } else if self.names.len() < MOST_NAMES {
            self.names.push(OTHERS.to_owned());
        }
        self.names.len() - 1
    }

    fn step(&mut self, at: Duration) -> &mut Step {
        let index = (at.as_nanos() / self.width.as_nanos().max(1)) as usize;
        let index = index.min(MOST_STEPS * 2 - 1);
        while self.steps.len() <= index {
            self.steps.push(Step::new());
        }
        self.steps.get_mut(index).expect("invariant: the steps reach to the index")
    }

    /// Adds another lane's of the same replay.
    pub(super) fn merge(&mut self, other: &Self) {
        let names: Vec<usize> = other.names.iter().map(|n| self.name(n.as_bytes())).collect();
        for (index, from) in other.steps.iter().enumerate() {
            let Ok(index) = u32::try_from(index) else { break };
            let to = self.step(self.width * index);
            to.sent += from.sent;
            to.answered += from.answered;
            let _ = to.times.add(&from.times);
            for (name, share) in names.iter().zip(&from.shares) {
                if to.shares.len() <= *name {
                    to.shares.resize(name + 1, 0);
                }
                if let Some(sum) = to.shares.get_mut(*name) {
                    *sum += share;
                }
            }
        }
    }

    /// For the report.
    pub(super) fn course(&self) -> Course {
        let mut order: Vec<usize> = (0..self.names.len()).collect();
        order.sort_by_key(|index| self.names.get(*index));
        let width = self.width.as_secs_f64();
        let point = |(index, step): (usize, &Step)| {
            let share = |name: &usize| step.shares.get(*name).copied().unwrap_or(0);
            let shares = order.iter().map(share).collect();
            step.point(index as f64 * width, shares)
        };
        Course {
            step_s: width,
            names: order.iter().filter_map(|index| self.names.get(*index).cloned()).collect(),
            points: self.steps.iter().enumerate().map(point).collect(),
            marks: Vec::new(),
        }
    }
}

impl Step {
    fn new() -> Self {
        let times = Histogram::new(2).expect("invariant: two digits are lawful");
        Self { sent: 0, answered: 0, times, shares: Vec::new() }
    }

    fn point(&self, at_s: f64, shares: Vec<u64>) -> Point {
        let at = |q| (!self.times.is_empty()).then(|| self.times.value_at_quantile(q) as f64 / 1e6);
        Point {
            at_s,
            sent: self.sent,
            answered: self.answered,
            p50_ms: at(0.5),
            p99_ms: at(0.99),
            max_ms: at(1.0),
            shares,
        }
    }
}

/// What a report shows over time.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Course {
    /// Length of a step.
    pub(crate) step_s: f64,
    /// Who answered; `shares` of the points are in this order.
    pub(crate) names: Vec<String>,
    pub(crate) points: Vec<Point>,
    pub(crate) marks: Vec<Mark>,
}

impl Course {
    /// Where a plot ends.
    pub(super) fn end(&self, seconds: f64) -> f64 {
        let last = self.points.last().map_or(0.0, |point| point.at_s);
        seconds.max(last).max(self.step_s)
    }

    /// Where a point is drawn.
    pub(super) fn middle(&self, point: &Point) -> f64 {
        point.at_s + self.step_s / 2.0
    }
}

/// One step.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Point {
    /// Where it begins.
    pub(crate) at_s: f64,
    pub(crate) sent: u64,
    pub(crate) answered: u64,
    pub(crate) p50_ms: Option<f64>,
    pub(crate) p99_ms: Option<f64>,
    pub(crate) max_ms: Option<f64>,
    pub(crate) shares: Vec<u64>,
}

/// Something that was done to the stack meanwhile.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Mark {
    pub(crate) at_s: f64,
    pub(crate) what: String,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_late_answer_counts_where_it_was_due() {
        let mut series = Series::new(Duration::from_secs(10));
        series.sent(Duration::from_millis(250));
        series.answered(Duration::from_millis(250), Duration::from_secs(3), b"a");
        let course = series.course();
        assert_eq!((course.step_s, course.points.len()), (0.1, 3));
        let point = &course.points[2];
        assert_eq!((point.sent, point.answered, &point.shares), (1, 1, &vec![1]));
        assert!((2950.0..3050.0).contains(&point.p50_ms.unwrap()));
        assert_eq!(course.points[0].p50_ms, None);
    }

    #[test]
    fn many_names_are_others_and_long_replays_have_few_steps() {
        let mut series = Series::new(Duration::from_secs(86_400));
        for i in 0..100 {
            series.answered(Duration::from_secs(i * 800), Duration::ZERO, i.to_string().as_bytes());
        }
        let course = series.course();
        assert!(course.points.len() <= MOST_STEPS && course.names.len() == MOST_NAMES);
        assert!(course.names.contains(&OTHERS.to_owned()));
        assert_eq!(course.points.iter().flat_map(|p| &p.shares).sum::<u64>(), 100);
    }

    proptest! {
        #[test]
        fn lanes_add_up(units in proptest::collection::vec((0u64..9_999, 0usize..3, 0u64..9), 0..60)) {
            let span = Duration::from_secs(10);
            let mut whole = Series::new(span);
            let mut lanes = vec![Series::new(span); 3];
            for (at, lane, who) in units {
                let (at, who) = (Duration::from_millis(at), who.to_string());
                for series in [&mut whole, &mut lanes[lane]] {
                    series.sent(at);
                    series.answered(at, Duration::from_millis(5), who.as_bytes());
                }
            }
            let mut sum = Series::new(span);
            lanes.iter().for_each(|lane| sum.merge(lane));
            prop_assert_eq!(sum.course(), whole.course());
        }
    }
}
