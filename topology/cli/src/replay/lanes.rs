//! Threads that generate load, each with a runtime of its own, so that one core's work never
//! delays another's schedule. Not for what they do. Used by `udp` and `https`.
//!
//! Invariant: a lane that fails or panics is an error of the replay, never a smaller result.

use std::future::Future;
use std::num::NonZeroUsize;

use anyhow::{Context, Result};
use tokio::sync::oneshot;
use tokio::task::LocalSet;

/// Runs `body(lane)` on `count` threads and gathers the results in lane order.
///
/// # Errors
/// A thread could not be started, or a lane failed. Cancel unsafe: threads run to their end.
pub(super) async fn run<F, Fut, T>(count: usize, body: F) -> Result<Vec<T>>
where
    F: Fn(usize) -> Fut + Send + Clone + 'static,
    Fut: Future<Output = Result<T>> + 'static,
    T: Send + 'static,
{
    let started: Vec<_> =
        (0..count).map(|lane| start(lane, body.clone())).collect::<Result<_>>()?;
    let mut results = Vec::with_capacity(count);
    for lane in started {
        results.push(lane.await.context("a sending thread panicked")??);
    }
    Ok(results)
}

fn start<F, Fut, T>(lane: usize, body: F) -> Result<oneshot::Receiver<Result<T>>>
where
    F: Fn(usize) -> Fut + Send + 'static,
    Fut: Future<Output = Result<T>> + 'static,
    T: Send + 'static,
{
    let (done, result) = oneshot::channel();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::Builder::new()
        .name(format!("replay-{lane}"))
        .spawn(move || {
            let _ = done.send(LocalSet::new().block_on(&runtime, body(lane)));
        })
        .context("no thread to send from")?;
    Ok(result)
}

/// How many lanes there are: what the user said, else a core each, but none without work.
pub(super) fn count(asked: Option<NonZeroUsize>, work: u64) -> usize {
    let cores = || std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
    let most = usize::try_from(work).unwrap_or(usize::MAX).max(1);
    asked.unwrap_or_else(cores).get().min(most)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn results_come_in_order_and_failures_come_out() {
        assert_eq!(run(3, |lane| async move { Ok(lane) }).await.unwrap(), [0, 1, 2]);
        let failed = run(2, |lane| async move {
            anyhow::ensure!(lane == 0, "lane {lane} broke");
            Ok(())
        });
        assert_eq!(failed.await.unwrap_err().to_string(), "lane 1 broke");
    }

    #[test]
    fn no_lane_without_work() {
        assert_eq!(count(NonZeroUsize::new(8), 3), 3);
        assert_eq!(count(NonZeroUsize::new(2), 0), 1);
    }
}
