//! Spans and records on their way to a collector: put into a bounded outbox by the worker that makes
//! them, taken by the exporter on the control runtime. Not for deciding whose trace goes on. Used by the
//! gateway and the pooler.
//!
//! Invariant: a worker never waits for a collector; what does not fit is dropped and counted.

use std::mem::take;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use metrics::Counter;
use opentelemetry_proto::tonic::logs::v1::LogRecord;
use opentelemetry_proto::tonic::trace::v1::Span;
use tokio::sync::Notify;

use crate::observe::Metrics;

pub mod events;
pub mod export;
pub mod pieces;
pub mod post;

pub use export::{Exporter, Exporting, Wants};

/// Of one worker: about 4 MB of spans, and of records.
const CAPACITY: usize = 4096;

/// What one worker has for the collector.
#[derive(Debug)]
pub struct Outbox {
    waiting: Mutex<Batch>,
    /// Records are wanted too.
    records: AtomicBool,
    /// It is half full.
    pressing: Arc<Notify>,
    lost: Lost,
}

/// What is sent at once.
#[derive(Debug, Default)]
pub struct Batch {
    pub(crate) spans: Vec<Span>,
    pub(crate) records: Vec<LogRecord>,
}

/// Counters of what was dropped.
#[derive(Clone, Debug)]
pub(crate) struct Lost {
    pub(crate) spans: Counter,
    pub(crate) records: Counter,
}

impl Lost {
    pub(crate) fn new(metrics: &Metrics) -> Self {
        let help = "Spans and records that the collector did not get, by what they were";
        let of =
            |what| metrics.counter("aqueduct_telemetry_dropped_total", help, &[("what", what)]);
        Self { spans: of("span"), records: of("record") }
    }
}

impl Outbox {
    pub(crate) fn new(pressing: &Arc<Notify>, lost: &Lost) -> Arc<Self> {
        Arc::new(Self {
            waiting: Mutex::default(),
            records: AtomicBool::new(false),
            pressing: Arc::clone(pressing),
            lost: lost.clone(),
        })
    }

    /// Takes a span, or drops and counts it.
    pub fn span(&self, span: Span) {
        self.put(span, |batch| &mut batch.spans, &self.lost.spans);
    }

    /// Takes a record, or drops and counts it.
    pub fn record(&self, record: LogRecord) {
        self.put(record, |batch| &mut batch.records, &self.lost.records);
    }

    fn put<T>(&self, item: T, of: impl Fn(&mut Batch) -> &mut Vec<T>, lost: &Counter) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let items = of(&mut waiting);
        if items.len() >= CAPACITY {
            drop(waiting);
            return lost.increment(1);
        }
        items.push(item);
        let pressing = items.len() == CAPACITY / 2;
        drop(waiting);
        if pressing {
            self.pressing.notify_one();
        }
    }

    /// Whether records are wanted.
    pub fn wants_records(&self) -> bool {
        self.records.load(Ordering::Relaxed)
    }

    fn want_records(&self, wanted: bool) {
        self.records.store(wanted, Ordering::Relaxed);
    }

    fn take(&self, into: &mut Batch) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let Batch { spans, records } = take(&mut *waiting);
        drop(waiting);
        into.spans.extend(spans);
        into.records.extend(records);
    }
}

impl Batch {
    fn is_empty(&self) -> bool {
        self.spans.is_empty() && self.records.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// O2: an outbox that nobody empties holds so much and counts the rest.
    #[test]
    fn a_full_outbox_drops_and_counts() {
        let metrics = Metrics::new();
        let outbox = Outbox::new(&Arc::default(), &Lost::new(&metrics));
        (0..CAPACITY + 3).for_each(|_| outbox.span(Span::default()));
        (0..CAPACITY + 2).for_each(|_| outbox.record(LogRecord::default()));
        let shown = metrics.render();
        assert!(shown.contains("aqueduct_telemetry_dropped_total{what=\"span\"} 3"), "{shown}");
        assert!(shown.contains("aqueduct_telemetry_dropped_total{what=\"record\"} 2"), "{shown}");
        let mut batch = Batch::default();
        outbox.take(&mut batch);
        assert_eq!((batch.spans.len(), batch.records.len()), (CAPACITY, CAPACITY));
    }
}
