//! Endpoints from a file that somebody else writes: read again when its folder says that something
//! changed, and once a minute in case it does not. Not for what the text means: `topology::list`.
//!
//! Invariant: a file that is half written is not taken: it must be the same before and after it is read.

use std::ffi::OsStr;
use std::fs::{self, File, Metadata};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use notify::event::ModifyKind;
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::mpsc;
use tokio::time::sleep;
use topology::list;

use crate::fault::Fault;
use crate::instance::Instance;
use crate::keep::{Answer, Source};

/// A file with a watch on its folder.
pub(crate) struct Listed {
    path: PathBuf,
    /// The folder is watched, not the file: editors and Kubernetes put another in its place.
    watcher: Option<RecommendedWatcher>,
    events: mpsc::Sender<()>,
    inbox: mpsc::Receiver<()>,
}

impl Listed {
    pub(crate) fn new(path: &Path) -> Self {
        let (events, inbox) = mpsc::channel(1);
        Self { path: path.to_owned(), watcher: None, events, inbox }
    }

    /// Watches the folder, as soon as there is one.
    fn watch(&mut self) {
        if self.watcher.is_some() {
            return;
        }
        let events = self.events.clone();
        let name = self.path.file_name().map(ToOwned::to_owned);
        let told = move |event: notify::Result<Event>| {
            // A full inbox says it already.
            if event.is_ok_and(|event| concerns(&event, name.as_deref())) {
                let _full = events.try_send(());
            }
        };
        let folder = self.path.parent().filter(|folder| !folder.as_os_str().is_empty());
        let folder = folder.unwrap_or(Path::new("."));
        // Without a watch the file is looked at now and then.
        let watcher = notify::recommended_watcher(told);
        self.watcher = watcher.ok().and_then(|mut watcher| {
            watcher.watch(folder, RecursiveMode::NonRecursive).ok()?;
            Some(watcher)
        });
    }
}

impl Source for Listed {
    async fn ask(&mut self) -> Result<Answer, Fault> {
        self.watch();
        let path = self.path.clone();
        // A file may be on a disk that hangs; only this source waits for it.
        let read = tokio::task::spawn_blocking(move || read(&path)).await;
        let read = read.unwrap_or_else(|ended| Err(io::Error::other(ended)));
        let text = read.map_err(|source| Fault::Read { path: self.path.clone(), source })?;
        let name = self.path.display().to_string();
        let listed = list::endpoints(&name, &text).map_err(|problems| {
            let first = problems.list().first();
            let first = first.map(|problem| format!("{name}:{problem}"));
            Fault::Nonsense(first.unwrap_or(name))
        })?;
        let instances = listed.into_iter().filter_map(Instance::listed).collect();
        let holds = if self.watcher.is_some() { LOOK } else { POLL };
        Ok(Answer { instances, holds, nonsense: None })
    }

    async fn nudged(&mut self) {
        // It holds the other end itself, so there is no end.
        let _event = self.inbox.recv().await;
        sleep(DEBOUNCE).await;
        let _same = self.inbox.try_recv();
    }
}

/// Whether the list may be another one now: it was written, or something took its place, perhaps by way
/// of a link.
fn concerns(event: &Event, name: Option<&OsStr>) -> bool {
    match event.kind {
        // Reading is no news, ours least of all.
        EventKind::Access(_) => false,
        EventKind::Modify(ModifyKind::Data(_) | ModifyKind::Metadata(_)) => {
            event.paths.iter().any(|path| path.file_name() == name)
        }
        _ => true,
    }
}

/// The text, if nobody wrote meanwhile.
fn read(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let before = file.metadata()?;
    let mut text = String::new();
    let length = (&mut file).take(LONGEST + 1).read_to_string(&mut text)? as u64;
    if length > LONGEST {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "more than 1 MiB"));
    }
    if same(&before, &fs::metadata(path)?) {
        Ok(text)
    } else {
        Err(io::Error::new(io::ErrorKind::ResourceBusy, "it is being written"))
    }
}

fn same(before: &Metadata, after: &Metadata) -> bool {
    let facts = |of: &Metadata| (of.len(), of.modified().unwrap_or(SystemTime::UNIX_EPOCH));
    facts(before) == facts(after)
}

/// A list is not longer.
const LONGEST: u64 = 1 << 20;

/// Several events of one change are one.
const DEBOUNCE: Duration = Duration::from_millis(20);

/// A watched file is looked at nevertheless: network file systems tell nothing.
const LOOK: Duration = Duration::from_secs(60);

/// One that cannot be watched.
const POLL: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests;
