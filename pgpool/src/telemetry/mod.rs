//! What operators hear of single queries: spans in the trace that an SQL comment names, and lines about
//! slow ones. Not for sending (`common::telemetry`) and not for counting (`pool::Meters`). Filled by the
//! relay, told when the answer has come.
//!
//! Invariant: nothing is noted that nobody asked for, and no constant of a text is ever told.

pub mod comment;

use std::rc::Rc;
use std::time::{Duration, SystemTime};

use common::calendar;
use common::telemetry::Wants;
use common::telemetry::pieces::{blank, judge, number, text};
use common::trace_parent::TraceParent;
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use serde_json::{Value, json};

use crate::client::Client;
use crate::events::QuerySlow;
use crate::prepared::Statement;
use crate::query::shape;
use crate::relay::link::Memory;
use crate::route::Way;
use crate::server::Facts;
use crate::snapshot::Snapshot;

/// So much of a text is noted, and so much of its shape is told.
const MOST_TEXT: usize = 2048;
/// See [`MOST_TEXT`].
const MOST_SHAPE: usize = 512;

/// What is noted of the query under way.
#[derive(Default)]
pub struct Noted {
    /// The span that sent it.
    pub parent: Option<TraceParent>,
    /// The front of its text, if it came with it.
    text: Vec<u8>,
    /// Its statement, if it was named before.
    statement: Option<Rc<Statement>>,
    /// One of its answers, which may come in several pieces, is an error.
    pub failed: bool,
}

impl Noted {
    /// A text is carried out.
    pub fn text(memory: &mut Memory, sql: &[u8]) {
        let noted = memory.noted.get_or_insert_default();
        noted.statement = None;
        noted.text.clear();
        noted.text.extend_from_slice(sql.get(..MOST_TEXT).unwrap_or(sql));
    }

    /// A statement is carried out.
    pub fn statement(memory: &mut Memory, statement: &Rc<Statement>) {
        memory.noted.get_or_insert_default().statement = Some(Rc::clone(statement));
    }

    /// Its text names a span.
    pub fn parent(memory: &mut Memory, parent: TraceParent) {
        memory.noted.get_or_insert_default().parent = Some(parent);
    }

    fn shape(&self) -> String {
        let known = self.statement.as_ref().and_then(|statement| statement.text());
        shape(known.unwrap_or(&self.text), MOST_SHAPE)
    }
}

/// How a query went.
pub struct Went<'a> {
    /// From its first message to ReadyForQuery: the server's share.
    pub took: Duration,
    /// Who carried it out.
    pub server: &'a Facts,
}

/// What the file in force says of a collector.
pub fn wants(snapshot: &Snapshot) -> Wants {
    let collector = snapshot.telemetry.otlp.as_ref().map(|at| at.value.clone());
    Wants { collector, records: false, group: snapshot.group.clone() }
}

/// Tells of a query that was slow, or that a sampled trace waits for.
#[cold]
pub fn tell(client: &mut Client, went: &Went<'_>) {
    let noted = client.memory.noted.take().unwrap_or_default();
    let snapshot = client.worker.snapshot();
    let waited = std::mem::take(&mut client.waited);
    let slow = snapshot.telemetry.slow_query.is_some_and(|bound| went.took >= bound);
    let wanted = noted.parent.filter(|parent| parent.is_sampled());
    let collector = client.worker.outbox.as_ref().filter(|_| snapshot.telemetry.otlp.is_some());
    let sends = wanted.zip(collector);
    let recent = &client.worker.recent;
    let shown = noted.parent.filter(|_| recent.wants(client.worker.now()));
    if !slow && sends.is_none() && shown.is_none() {
        return;
    }
    let shape = noted.shape();
    let id = rand::random();
    if let Some(parent) = shown {
        let own = parent.with_span(id);
        let record = record(client, went, (parent, own, waited), (&shape, noted.failed));
        recent.keep(record.to_string().as_bytes());
    }
    if let Some((parent, outbox)) = sends {
        let mut span = span(client, went, (parent, parent.with_span(id), waited), &shape);
        judge(&mut span, noted.failed.then(|| "error".to_owned()));
        outbox.span(span);
    }
    if slow {
        client.worker.observer.emit(QuerySlow {
            client: &client.entry,
            server: went.server,
            took: went.took,
            waited,
            trace: noted.parent,
            shape: &shape,
        });
    }
}

fn span(
    client: &Client,
    went: &Went<'_>,
    (parent, own, waited): (TraceParent, TraceParent, Duration),
    shape: &str,
) -> Span {
    // It began when the client came for a server.
    let whole = went.took + waited;
    let wall = SystemTime::now().checked_sub(whole).unwrap_or(SystemTime::UNIX_EPOCH);
    let mut span = blank(own, Some(parent), (wall, Duration::ZERO, whole), SpanKind::Server);
    let (entry, pool) = (&client.entry, &client.pool);
    let operation = shape.split_whitespace().next().unwrap_or_default().to_ascii_uppercase();
    let micros = |time: Duration| i64::try_from(time.as_micros()).unwrap_or(i64::MAX);
    span.name = format!("{operation} {}", entry.database).trim().to_owned();
    span.attributes = vec![
        text("db.system.name", "postgresql"),
        text("db.namespace", &pool.database().server_name),
        text("db.operation.name", &operation),
        text("server.address", &went.server.peer.host()),
        number("server.port", i64::from(went.server.peer.port())),
        text("aqueduct.user", &entry.user),
        number("aqueduct.wait_us", micros(waited)),
        number("aqueduct.server_us", micros(went.took)),
    ];
    if !shape.is_empty() {
        span.attributes.push(text("db.query.text", shape));
    }
    span
}

/// What `/requests` shows of a query; `latency_us` is what its client has seen, `wait_us` a part of it.
fn record(
    client: &Client,
    went: &Went<'_>,
    (parent, own, waited): (TraceParent, TraceParent, Duration),
    (shape, failed): (&str, bool),
) -> Value {
    let whole = went.took + waited;
    let began = SystemTime::now().checked_sub(whole).unwrap_or(SystemTime::UNIX_EPOCH);
    let entry = &client.entry;
    let mut timestamp = Vec::new();
    calendar::timestamp(began, &mut timestamp);
    let digits = |digits: &[u8]| String::from_utf8_lossy(digits).into_owned();
    let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
    json!({
        "timestamp": digits(&timestamp),
        "pooler_instance": client.worker.snapshot().instance,
        "trace_id": digits(&parent.trace_hex()),
        "parent_span_id": digits(&parent.span_hex()),
        "span_id": digits(&own.span_hex()),
        "database": &*entry.database,
        "user": &*entry.user,
        // Whose connections carried it out, and why these; none without a choice.
        "pool": &*client.pool.database().name,
        "way": client.way.map(Way::word),
        "server": went.server.peer.to_string(),
        "statement": shape,
        "failed": failed,
        "latency_us": micros(whole),
        "wait_us": micros(waited),
    })
}
