//! Thread per core: so many threads, each with its own current-thread runtime, so that what a
//! worker owns needs no lock and its futures need not be `Send`. Not for slow work: discovery,
//! health, key sets, the admin listener and logs run on the control runtime.
//!
//! Invariant: a worker's futures never leave its thread.

use std::any::Any;
use std::io;
use std::num::NonZeroUsize;
use std::sync::mpsc;
use std::thread;

use tokio::runtime::{Builder, LocalOptions, LocalRuntime};
use tokio::sync::oneshot;

/// Index of a worker, from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WorkerId(pub usize);

/// A worker's body ended in a panic.
#[derive(Debug, thiserror::Error)]
#[error("worker {worker} ended in a panic: {message}")]
pub struct WorkerPanic {
    /// Which one.
    pub worker: usize,
    /// What it said.
    pub message: String,
}

/// Running worker threads.
#[derive(Debug)]
pub struct Workers {
    ends: Vec<oneshot::Receiver<Result<(), String>>>,
}

/// As many workers as the process may use cores.
pub fn available() -> NonZeroUsize {
    thread::available_parallelism().unwrap_or(NonZeroUsize::MIN)
}

/// Starts `count` threads named `name-N`; each runs `body` to its end and then every task that
/// `body` left on its runtime is dropped.
///
/// # Errors
/// When the system refuses a thread or a runtime.
pub fn spawn<F, Fut>(name: &str, count: NonZeroUsize, body: F) -> io::Result<Workers>
where
    F: Fn(WorkerId) -> Fut + Send + Clone + 'static,
    Fut: Future<Output = ()> + 'static,
{
    let ends = (0..count.get())
        .map(|index| start(format!("{name}-{index}"), WorkerId(index), body.clone()))
        .collect::<io::Result<_>>()?;
    Ok(Workers { ends })
}

fn start<F, Fut>(
    name: String,
    id: WorkerId,
    body: F,
) -> io::Result<oneshot::Receiver<Result<(), String>>>
where
    F: Fn(WorkerId) -> Fut + Send + 'static,
    Fut: Future<Output = ()> + 'static,
{
    let (ended, end) = oneshot::channel();
    let (made, is_made) = mpsc::sync_channel(1);
    thread::Builder::new().name(name).spawn(move || {
        // Made here, for it is this thread's alone: a `LocalSet` on a runtime that others may use as well takes
        // locks and wakes itself.
        let runtime =
            Builder::new_current_thread().enable_all().build_local(LocalOptions::default());
        let runtime = match runtime {
            Ok(runtime) => runtime,
            Err(fault) => return drop(made.send(Err(fault))),
        };
        drop(made.send(Ok(())));
        let run = std::panic::AssertUnwindSafe(|| run(runtime, id, body));
        let outcome = std::panic::catch_unwind(run).map_err(|panic| text_of(&*panic));
        // Nobody waits any more: then nobody needs to know.
        let _ = ended.send(outcome);
    })?;
    is_made.recv().unwrap_or_else(|_| Err(io::Error::other("the thread was lost")))?;
    Ok(end)
}

/// Drops what is left of the worker's tasks when its body has ended.
fn run<F, Fut>(runtime: LocalRuntime, id: WorkerId, body: F)
where
    F: Fn(WorkerId) -> Fut,
    Fut: Future<Output = ()> + 'static,
{
    // A task like any other: what the runtime itself waits for would be polled at its every turn.
    let main = async {
        let ended = tokio::task::spawn_local(body(id)).await;
        if let Some(panic) = ended.err().and_then(|fault| fault.try_into_panic().ok()) {
            std::panic::resume_unwind(panic);
        }
    };
    runtime.block_on(main);
    drop(runtime);
}

impl Workers {
    /// Waits for all bodies. Cancel safe: the threads go on.
    ///
    /// # Errors
    /// The first body that panicked.
    pub async fn join(self) -> Result<(), WorkerPanic> {
        let mut first = Ok(());
        for (worker, end) in self.ends.into_iter().enumerate() {
            let outcome = end.await.unwrap_or_else(|_| Err("the thread was lost".to_owned()));
            if let Err(message) = outcome
                && first.is_ok()
            {
                first = Err(WorkerPanic { worker, message });
            }
        }
        first
    }
}

fn text_of(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "?".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn each_worker_runs_once_on_its_own_thread() {
        let (told, heard) = std::sync::mpsc::channel();
        let count = NonZeroUsize::new(3).expect("invariant: not zero");
        let body = move |id: WorkerId| {
            let told = told.clone();
            async move {
                told.send((id, thread::current().id())).expect("invariant: receiver is kept");
            }
        };
        spawn("test", count, body).expect("threads").join().await.expect("no panic");
        let (ids, threads): (Vec<_>, std::collections::HashSet<_>) = heard.try_iter().unzip();
        assert_eq!(ids.len(), 3);
        assert_eq!(threads.len(), 3);
    }

    #[tokio::test]
    async fn a_panic_is_reported_and_the_others_end() {
        let count = NonZeroUsize::new(2).expect("invariant: not zero");
        let body = |id: WorkerId| async move { assert_ne!(id.0, 1, "worker one fell") };
        let fault = spawn("test", count, body).expect("threads").join().await.expect_err("panic");
        assert_eq!(fault.worker, 1);
        assert!(fault.message.contains("worker one fell"));
    }
}
