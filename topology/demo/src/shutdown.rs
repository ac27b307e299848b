//! The one signal that ends a demo program. Not for what is ended: each program decides. Awaited
//! by every `run`.
//!
//! Invariant: completes once, on the first TERM or INT.

use tokio::signal::unix::{SignalKind, signal};

/// Waits for TERM or INT; cancel safe.
pub(crate) async fn asked() -> anyhow::Result<()> {
    let mut term = signal(SignalKind::terminate())?;
    let mut int = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = term.recv() => {}
        _ = int.recv() => {}
    }
    Ok(())
}

/// Writes one line to standard output; a closed output is no reason to stop.
pub(crate) fn say(line: &str) {
    use std::io::Write;
    drop(writeln!(std::io::stdout().lock(), "{line}"));
}
