//! What `up` says while it works: one line per event, the same on a terminal (with colour) and in
//! a file. Not the live view. Used by `up` and `fleet`.
//!
//! Invariant: a line is written whole, or not at all when nobody reads it.

use std::io::{IsTerminal, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;

use crate::up::plan::Part;

/// Writes event lines; cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Progress {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    started: Instant,
    colour: Colour,
    /// Lines that wait to be taken, while they are not printed.
    kept: Mutex<Option<Vec<String>>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Colour {
    Always,
    Never,
}

impl Progress {
    /// Counts time from now.
    pub(crate) fn new(now: Instant) -> Self {
        let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let colour =
            if std::io::stdout().is_terminal() && !plain { Colour::Always } else { Colour::Never };
        Self { inner: Arc::new(Inner { started: now, colour, kept: Mutex::default() }) }
    }

    /// Something was made, or is otherwise worth a line.
    pub(crate) fn note(&self, word: &str, text: &str) {
        self.line(word, BLUE, text);
    }

    /// A part answers.
    pub(crate) fn ready(&self, part: &Part, remark: &str) {
        let text = format!("{:<11} {:<10} {}", part.kind(), part.name, part.addresses());
        let text = if remark.is_empty() { text } else { format!("{text}  {remark}") };
        self.line("ready", GREEN, &text);
    }

    /// Something is wrong, but the rest goes on.
    pub(crate) fn warn(&self, word: &str, text: &str) {
        self.line(word, YELLOW, text);
    }

    /// Something ended the start.
    pub(crate) fn failed(&self, text: &str) {
        self.line("failed", RED, text);
    }

    /// A line without time, as it stands.
    pub(crate) fn plain(&self, text: &str) {
        if let Some(kept) = &mut *self.lock() {
            kept.push(text.to_owned());
            return;
        }
        drop(writeln!(std::io::stdout().lock(), "{text}"));
    }

    /// A heading.
    pub(crate) fn bold(&self, text: &str) {
        self.plain(&self.paint(BOLD, text));
    }

    /// Seconds since the start.
    pub(crate) fn elapsed(&self) -> f64 {
        self.inner.started.elapsed().as_secs_f64()
    }

    /// From now on lines are kept, since a live view has the terminal; or printed.
    pub(crate) fn keep(&self, kept: bool) {
        *self.lock() = kept.then(Vec::new);
    }

    /// What was kept; from now on lines are printed.
    pub(crate) fn kept(&self) -> Vec<String> {
        self.lock().take().unwrap_or_default()
    }

    fn lock(&self) -> MutexGuard<'_, Option<Vec<String>>> {
        self.inner.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn line(&self, word: &str, colour: &str, text: &str) {
        let time = self.paint(DIM, &format!("{:6.2} s", self.elapsed()));
        let word = self.paint(colour, &format!("{word:<8}"));
        self.plain(&format!("{time}  {word} {text}"));
    }

    fn paint(&self, colour: &str, text: &str) -> String {
        match self.inner.colour {
            Colour::Always if self.lock().is_none() => format!("\x1b[{colour}m{text}\x1b[0m"),
            _ => text.to_owned(),
        }
    }
}

const BOLD: &str = "1";
const DIM: &str = "2";
const RED: &str = "31";
const GREEN: &str = "32";
const YELLOW: &str = "33";
const BLUE: &str = "34";
