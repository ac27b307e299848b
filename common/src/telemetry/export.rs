//! The exporter: empties the outboxes once a second, or sooner when one is half full, and sends what was
//! in them to the collector of the file that is in force. Not for making spans. Runs on the control
//! runtime, started by `lib`.
//!
//! Invariant: it holds one batch at a time; what cannot be delivered after a few tries is counted.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use opentelemetry_proto::tonic::collector::logs::v1::{
    ExportLogsServiceRequest, ExportLogsServiceResponse,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::InstrumentationScope;
use opentelemetry_proto::tonic::logs::v1::{ResourceLogs, ScopeLogs};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans};
use prost::Message;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use super::events::{CollectorAway, CollectorBack};
use super::pieces::text;
use super::post::{Collector, Post, PostError};
use super::{Batch, Lost, Outbox};
use crate::observe::Observer;

/// What the file that is in force says.
#[derive(Clone, Debug, Default)]
pub struct Wants {
    /// Where the collector is; `None`: there is none.
    pub collector: Option<String>,
    /// It takes records too.
    pub records: bool,
    /// Of which group the instance is.
    pub group: String,
}

impl Wants {
    fn records(&self) -> bool {
        self.records && self.collector.is_some()
    }
}

/// What sends.
#[derive(Debug)]
pub struct Exporter {
    tier: &'static str,
    outboxes: Vec<Arc<Outbox>>,
    pressing: Arc<Notify>,
    lost: Lost,
    observer: Observer,
    /// The collector of this address; `None`: it could not be set up.
    collector: Option<(String, Collector)>,
    away: bool,
}

/// Lets an exporter that runs end. Dropping it ends it too.
#[derive(Debug)]
pub struct Exporting {
    ending: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Exporting {
    /// Sends what is left, for as long as the last words may take.
    pub async fn end(self) {
        // An error: it has ended.
        let _ended = self.ending.send(true);
        let _panic = self.task.await;
    }
}

impl Exporter {
    /// Of a tier, for so many workers.
    pub fn new(tier: &'static str, workers: usize, observer: &Observer) -> Self {
        let (pressing, lost) = (Arc::new(Notify::new()), Lost::new(&observer.metrics));
        Self {
            tier,
            outboxes: (0..workers).map(|_| Outbox::new(&pressing, &lost)).collect(),
            pressing,
            lost,
            observer: observer.clone(),
            collector: None,
            away: false,
        }
    }

    /// The outbox of a worker.
    pub fn outbox(&self, worker: usize) -> Option<Arc<Outbox>> {
        self.outboxes.get(worker).cloned()
    }

    /// Starts it, inside a runtime; it asks again and again what is wanted.
    pub fn start(self, wants: impl Fn() -> Wants + Send + 'static) -> Exporting {
        // The first request may come before the exporter has had its first turn.
        let wanted = wants().records();
        self.outboxes.iter().for_each(|outbox| outbox.want_records(wanted));
        let (ending, ended) = watch::channel(false);
        Exporting { ending, task: tokio::spawn(self.run(wants, ended)) }
    }

    async fn run(
        mut self,
        wants: impl Fn() -> Wants + Send + 'static,
        mut ended: watch::Receiver<bool>,
    ) {
        let mut tick = interval(EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let over = tokio::select! {
                biased;
                _ = ended.wait_for(|over| *over) => true,
                () = self.pressing.notified() => false,
                _ = tick.tick() => false,
            };
            let wants = wants();
            let wanted = wants.records();
            let mut batch = Batch::default();
            for outbox in &self.outboxes {
                outbox.want_records(wanted);
                outbox.take(&mut batch);
            }
            // Without a collector nobody asked for what was left in an outbox.
            if let Some(address) = wants.collector.filter(|_| !batch.is_empty()) {
                let names = [self.tier, &wants.group, &self.observer.instance];
                let mut wrapped = Wrapped::new(batch, names);
                let sent = self.deliver(&address, &mut wrapped);
                if over {
                    // Either way it is the end.
                    let _late = timeout(LAST_WORDS, sent).await;
                } else {
                    tokio::select! {
                        () = sent => {}
                        () = late(&mut ended) => {}
                    }
                }
                wrapped.lose(&self.lost);
            }
            if over {
                return;
            }
        }
    }

    /// Sends both messages, several times where that may help.
    async fn deliver(&mut self, address: &str, wrapped: &mut Wrapped) {
        let known = self.collector.take().filter(|(known, _)| known == address);
        let made = known.map_or_else(|| Collector::new(address), |(_, collector)| Ok(collector));
        let collector = match made {
            Ok(collector) => collector,
            Err(fault) => return self.tell(address, Err(&fault)),
        };
        self.insist(&collector, address, wrapped).await;
        self.collector = Some((address.to_owned(), collector));
    }

    /// Tries again after 2 s and after 4 s more, if that may help.
    async fn insist(&mut self, to: &impl Post, address: &str, wrapped: &mut Wrapped) {
        for nth in 0..TRIES {
            if nth > 0 {
                sleep(EVERY * (1 << nth)).await;
            }
            let outcome = wrapped.send(to, &self.lost).await;
            self.tell(address, outcome.as_ref());
            if !matches!(outcome, Err(PostError::Away(_))) {
                break;
            }
        }
    }

    /// Tells operators once that a collector is away, and once that it is back.
    fn tell(&mut self, address: &str, outcome: Result<&(), &PostError>) {
        match outcome {
            Ok(()) if std::mem::take(&mut self.away) => self.observer.emit(CollectorBack),
            Err(fault) if !std::mem::replace(&mut self.away, true) => {
                self.observer.emit(CollectorAway { address, fault });
            }
            Ok(()) | Err(_) => {}
        }
    }
}

/// The end has come, and what was on its way has had its time.
async fn late(ended: &mut watch::Receiver<bool>) {
    // An error: whoever could ask for the end is gone.
    let _gone = ended.wait_for(|over| *over).await.is_err();
    sleep(LAST_WORDS).await;
}

/// How often outboxes are emptied.
const EVERY: Duration = Duration::from_secs(1);

/// How often a batch is tried.
const TRIES: u32 = 3;

/// One try.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long an instance that ends waits for its collector.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// A batch as the collector takes it.
struct Wrapped {
    /// With how many spans.
    traces: Option<(Bytes, u64)>,
    /// With how many records.
    logs: Option<(Bytes, u64)>,
}

impl Wrapped {
    fn new(batch: Batch, [tier, group, instance]: [&str; 3]) -> Self {
        let resource = Resource {
            attributes: vec![
                text("service.name", tier),
                text("service.namespace", group),
                text("service.instance.id", instance),
                text("service.version", env!("CARGO_PKG_VERSION")),
            ],
            ..Resource::default()
        };
        let scope = InstrumentationScope {
            name: "aqueduct".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            ..InstrumentationScope::default()
        };
        let (scope, resource) = (Some(scope), Some(resource));
        let schema_url = String::new;
        let Batch { spans, records: log_records } = batch;
        let (many, more) = (spans.len() as u64, log_records.len() as u64);
        let traces = (many > 0).then(|| {
            let spans = ScopeSpans { scope: scope.clone(), spans, schema_url: schema_url() };
            let resource = resource.clone();
            let all =
                ResourceSpans { resource, scope_spans: vec![spans], schema_url: schema_url() };
            let message = ExportTraceServiceRequest { resource_spans: vec![all] };
            (message.encode_to_vec().into(), many)
        });
        let logs = (more > 0).then(|| {
            let logs = ScopeLogs { scope, log_records, schema_url: schema_url() };
            let all = ResourceLogs { resource, scope_logs: vec![logs], schema_url: schema_url() };
            let message = ExportLogsServiceRequest { resource_logs: vec![all] };
            (message.encode_to_vec().into(), more)
        });
        Self { traces, logs }
    }

    /// Counts what was not delivered.
    fn lose(self, lost: &Lost) {
        lost.spans.increment(self.traces.map_or(0, |(_, many)| many));
        lost.records.increment(self.logs.map_or(0, |(_, many)| many));
    }

    /// What the collector took only in part is counted (`partial_success`).
    async fn send(&mut self, collector: &impl Post, lost: &Lost) -> Result<(), PostError> {
        if let Some((traces, _)) = &self.traces {
            let said = collector.post("/v1/traces", traces.clone(), PATIENCE).await?;
            let said = ExportTraceServiceResponse::decode(said).unwrap_or_default();
            let refused = said.partial_success.map_or(0, |part| part.rejected_spans);
            lost.spans.increment(refused.max(0).unsigned_abs());
            self.traces = None;
        }
        if let Some((logs, _)) = &self.logs {
            let said = collector.post("/v1/logs", logs.clone(), PATIENCE).await?;
            let said = ExportLogsServiceResponse::decode(said).unwrap_or_default();
            let refused = said.partial_success.map_or(0, |part| part.rejected_log_records);
            lost.records.increment(refused.max(0).unsigned_abs());
            self.logs = None;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use http::StatusCode;
    use opentelemetry_proto::tonic::logs::v1::LogRecord;
    use opentelemetry_proto::tonic::trace::v1::Span;
    use tokio::time::Instant;

    use super::*;

    /// Answers as it is told, the last first; then takes everything.
    #[derive(Default)]
    struct Fake {
        answers: Mutex<Vec<PostError>>,
        got: Mutex<Vec<String>>,
    }

    impl Post for Fake {
        async fn post(&self, path: &str, _: Bytes, _: Duration) -> Result<Bytes, PostError> {
            self.got.lock().expect("whole").push(path.to_owned());
            self.answers.lock().expect("whole").pop().map_or(Ok(Bytes::new()), Err)
        }
    }

    fn away() -> PostError {
        PostError::Away("busy".to_owned())
    }

    /// What was asked, how long it took, and what was lost, for these answers.
    async fn insist(answers: Vec<PostError>) -> (Vec<String>, Duration, String, bool) {
        let observer = Observer::new("gw");
        let mut exporter = Exporter::new("gw", 1, &observer);
        let batch = Batch { spans: vec![Span::default(); 3], records: vec![LogRecord::default()] };
        let (fake, began) = (Fake { answers: answers.into(), ..Fake::default() }, Instant::now());
        let mut wrapped = Wrapped::new(batch, ["gw", "app", "gw"]);
        exporter.insist(&fake, "http://a", &mut wrapped).await;
        wrapped.lose(&exporter.lost);
        let shown = observer.metrics.render();
        let of = |what: &str| {
            let start = format!("aqueduct_telemetry_dropped_total{{what=\"{what}\"}} ");
            shown.lines().find_map(|line| line.strip_prefix(&start)).expect("shown").to_owned()
        };
        let lost = format!("{} {}", of("span"), of("record"));
        (fake.got.into_inner().expect("whole"), began.elapsed(), lost, exporter.away)
    }

    /// O2: a batch is tried again where that may help, and never sent twice; else it is counted.
    #[tokio::test(start_paused = true)]
    async fn a_batch_is_tried_again_where_that_may_help() {
        let (traces, logs) = ("/v1/traces".to_owned(), "/v1/logs".to_owned());
        let (got, took, lost, away_now) = insist(vec![]).await;
        assert_eq!(
            (got, took.as_secs(), &*lost, away_now),
            (vec![traces.clone(), logs.clone()], 0, "0 0", false)
        );
        let (got, took, lost, away_now) = insist(vec![away(), away()]).await;
        let wanted = vec![traces.clone(), traces.clone(), traces.clone(), logs.clone()];
        assert_eq!((got, took.as_secs(), &*lost, away_now), (wanted, 6, "0 0", false));
        let (got, took, lost, away_now) = insist(vec![away(), away(), away()]).await;
        assert_eq!((got.len(), took.as_secs(), &*lost, away_now), (3, 6, "3 1", true));
        let (got, took, lost, _) = insist(vec![PostError::Refused(StatusCode::BAD_REQUEST)]).await;
        assert_eq!((got.len(), took.as_secs(), &*lost), (1, 0, "3 1"));
    }
}
