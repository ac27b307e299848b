//! Reading the configuration again while the instance runs. Not for what a worker does with it. Called
//! on SIGHUP, by `RELOAD` of the admin database and by tests.
//!
//! Invariant: a change is made whole or not at all, and one at a time.

use std::fmt;
use std::sync::Arc;

use common::lifecycle::{Lifecycle, Phase};
use common::observe::Observer;
use common::snapshot::Published;
use tokio::sync::{Mutex, oneshot};
use topology::{SourceFile, Topology};

use crate::admin::report::Report;
use crate::admin::setting;
use crate::admin::verbs::Command;
use crate::events::{Noted, ReloadRefused, Reloaded};
use crate::snapshot::Snapshot;
use crate::worker::{Message, Peers};
use crate::{StartError, build};

/// How a running instance is asked to go by a changed file; cheap to clone, of no use once it has
/// ended.
#[derive(Clone)]
pub struct Handle(Arc<Shared>);

struct Shared {
    published: Published<Snapshot>,
    peers: Peers,
    observer: Observer,
    lifecycle: Lifecycle,
    instance: String,
    file: Arc<SourceFile>,
    /// Held while a change is made.
    turn: Mutex<()>,
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "handle of {}", self.0.instance)
    }
}

impl Handle {
    /// For an instance that is about to run.
    pub(crate) fn new(
        snapshot: Arc<Snapshot>,
        peers: Peers,
        options: &common::cli::Options,
        file: Arc<SourceFile>,
    ) -> Self {
        Self(Arc::new(Shared {
            instance: snapshot.instance.clone(),
            published: Published::of(snapshot),
            peers,
            observer: options.observer.clone(),
            lifecycle: options.lifecycle.clone(),
            file,
            turn: Mutex::new(()),
        }))
    }

    /// The configuration in force.
    pub(crate) fn snapshot(&self) -> Arc<Snapshot> {
        self.0.published.load_full()
    }

    /// Goes by a changed file: databases, users, secrets, limits, times, TLS. Open connections stay;
    /// clients of a database or user that is gone are told so, and servers that would be reached or
    /// logged in to otherwise are closed when they are free. Returns when every worker goes by it.
    ///
    /// # Errors
    /// When the instance is not in the file or something it names cannot be read; then nothing has
    /// changed.
    pub async fn publish(&self, topology: Arc<Topology>) -> Result<(), StartError> {
        let Shared { published, observer, lifecycle, instance, turn, .. } = &*self.0;
        let _turn = turn.lock().await;
        if lifecycle.phase() > Phase::Running {
            return Err(StartError::Ended);
        }
        let before = published.load_full();
        let snapshot = Arc::new(build(&topology, instance, Some(&before))?);
        let waiting = if snapshot.addresses == before.addresses { &[][..] } else { &["listen"] };
        self.spread(snapshot).await;
        observer.emit(Reloaded { waiting });
        Ok(())
    }

    /// Tells every worker.
    pub async fn tell(&self, command: &Command) {
        for peer in self.0.peers.iter() {
            let (to, from) = oneshot::channel();
            if peer.send(Message::Command(command.clone(), to)).is_ok() {
                // A worker that has ended has nothing to do it to.
                let _ended = from.await;
            }
        }
    }

    /// Tells an operator.
    pub(crate) fn note(&self, what: &str) {
        self.0.observer.emit(Noted { what });
    }

    /// What all workers have.
    pub async fn report(&self) -> Report {
        Report::of_all(&self.0.peers).await
    }

    async fn spread(&self, snapshot: Arc<Snapshot>) {
        self.0.published.replace(Arc::clone(&snapshot));
        for peer in self.0.peers.iter() {
            let (to, from) = oneshot::channel();
            if peer.send(Message::Snapshot(Arc::clone(&snapshot), to)).is_ok() {
                // A worker that has ended has nothing to change.
                let _ended = from.await;
            }
        }
    }

    /// Changes one setting until the file is read again; a time in seconds.
    ///
    /// # Errors
    /// What is wrong with the key or the value; nothing has changed.
    pub async fn set(&self, key: &str, value: &str) -> Result<(), String> {
        let _turn = self.0.turn.lock().await;
        let mut snapshot = (*self.snapshot()).clone();
        setting::set(&mut snapshot.settings, key, value)?;
        self.spread(Arc::new(snapshot)).await;
        Ok(())
    }

    /// Reads the file again and goes by it, whole (T9); or says what is wrong with it, and what ran
    /// before goes on.
    ///
    /// # Errors
    /// What is wrong; it has been logged.
    pub async fn reload(&self) -> Result<(), String> {
        let outcome = match topology::reload(&self.0.file) {
            Ok(topology) => {
                self.publish(Arc::new(topology)).await.map_err(|fault| fault.to_string())
            }
            Err(problems) => Err(problems.to_string()),
        };
        if let Err(cause) = &outcome {
            self.0.observer.emit(ReloadRefused { cause });
        }
        outcome
    }
}
