//! The log of a process: text on a terminal, one JSON object per line otherwise, to standard
//! error. Not for access records. Called once, by a `main`.
//!
//! Invariant: the subscriber is the one global of a process, and only `main` sets it.

use std::fmt;
use std::io::IsTerminal;
use std::sync::Arc;

use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Registry, reload};

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// Text on a terminal, JSON otherwise.
    #[default]
    Auto,
    /// For people.
    Text,
    /// One object per line.
    Json,
}

/// A wrong level or filter.
#[derive(Debug, thiserror::Error)]
#[error(
    "log filter '{filter}' is not understood: {reason}; write a level (error, warn, info, debug, trace) or target=level,…"
)]
pub struct LogFilterError {
    filter: String,
    reason: String,
}

/// Changes the level of a running process.
#[derive(Clone)]
pub struct LogLevel(Arc<Setter>);

type Setter = dyn Fn(&str) -> Result<(), LogFilterError> + Send + Sync;

impl LogLevel {
    /// Puts a new filter in force.
    ///
    /// # Errors
    /// When the text is no filter; the old one stays.
    pub fn set(&self, filter: &str) -> Result<(), LogFilterError> {
        (self.0)(filter)
    }
}

impl fmt::Debug for LogLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LogLevel")
    }
}

/// Sets the process's log up.
///
/// # Errors
/// When `filter` is not understood.
pub fn init(filter: &str, format: LogFormat) -> Result<LogLevel, LogFilterError> {
    let (filter, handle) = reload::Layer::<EnvFilter, Registry>::new(parse(filter)?);
    let json = match format {
        LogFormat::Auto => !std::io::stderr().is_terminal(),
        LogFormat::Text => false,
        LogFormat::Json => true,
    };
    let registry = tracing_subscriber::registry().with(filter);
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_target(false);
    // A subscriber that is already set stays: in a test process the first one wins.
    let _ = if json {
        registry.with(lines.json().flatten_event(true)).try_init()
    } else {
        registry.with(lines.compact()).try_init()
    };
    Ok(LogLevel(Arc::new(move |text| {
        let filter = parse(text)?;
        handle
            .reload(filter)
            .map_err(|fault| LogFilterError { filter: text.to_owned(), reason: fault.to_string() })
    })))
}

fn parse(filter: &str) -> Result<EnvFilter, LogFilterError> {
    EnvFilter::try_new(filter)
        .map_err(|fault| LogFilterError { filter: filter.to_owned(), reason: fault.to_string() })
}
