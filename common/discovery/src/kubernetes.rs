//! Endpoints from Kubernetes: all EndpointSlices of a service, and from that version on what changes
//! (decision 36). Not for what a slice says, that is `slices`. Asked by `keep`.
//!
//! Invariant: a watch begins at the version of the list, or of the last word of the watch before it; where
//! it cannot (410, an error, silence, a watch without a word), everything is listed again.

mod slices;

use std::collections::BTreeMap;
use std::time::Duration;

use common::escape::escaped;
use common::rng::Rng;
use http::StatusCode;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::time::{Instant, timeout};
use topology::model::{Kubernetes as Settings, Registry};

use crate::fault::Fault;
use crate::instance::MOST;
use crate::keep::{Answer, Source};
use crate::web::{Stream, Web, bearer, read};

use self::slices::{Meta, SERVICE_LABEL, Slice};

/// One service's watch.
pub(crate) struct Kubernetes {
    settings: Settings,
    /// `None`: nobody has been asked yet.
    web: Option<Web>,
    /// By name.
    known: BTreeMap<String, Slice>,
    /// There are more than are known.
    cut: bool,
    watch: Option<Watch>,
    rng: Rng,
}

/// What goes on from what is known.
struct Watch {
    stream: Stream,
    since: Instant,
    /// That of its last word.
    version: Option<String>,
}

/// What a watch says.
enum Heard {
    News,
    /// It has ended as it should: the next one goes on from this version, if it has said any.
    End(Option<String>),
    /// It does not go on.
    Lost,
}

impl Kubernetes {
    pub(crate) fn new(settings: &Settings) -> Self {
        Self {
            settings: settings.clone(),
            web: None,
            known: BTreeMap::new(),
            cut: false,
            watch: None,
            rng: Rng::from_os(),
        }
    }

    /// Everything page by page, and a watch on what comes after it.
    async fn list(&mut self) -> Result<(), Fault> {
        let headers = bearer(self.settings.token.as_ref())?;
        let mut known = BTreeMap::new();
        let (mut first, mut more) = (None, String::new());
        for _ in 0..PAGES {
            let next = if more.is_empty() { None } else { Some(("continue", more.as_str())) };
            let path = self.path(next.into_iter().chain([("limit", SLICES)]));
            let answer = self.web()?.get(&path, &headers, PATIENCE).await?;
            let page: Page = read(answer.body())?;
            if page.kind != "EndpointSliceList" {
                return Err(Fault::Nonsense("it is no list of slices".to_owned()));
            }
            first.get_or_insert(page.metadata.resource_version);
            let slices = page.items.unwrap_or_default();
            let slices = slices.into_iter().filter(|slice| slice.is_of(&self.settings.service));
            known.extend(slices.map(|slice| (slice.metadata.name.clone(), slice.trimmed())));
            more = page.metadata.more.unwrap_or_default();
            if more.is_empty() || size(&known) > LIMIT {
                break;
            }
        }
        self.cut = !more.is_empty() || size(&known) > LIMIT;
        self.known = known;
        self.begin(&first.unwrap_or_default()).await
    }

    /// Watches from a version on.
    async fn begin(&mut self, version: &str) -> Result<(), Fault> {
        let headers = bearer(self.settings.token.as_ref())?;
        let lasts = self.rng.jitter(LASTS, 10).as_secs().to_string();
        let path = self.path([
            ("watch", "true"),
            ("allowWatchBookmarks", "true"),
            ("resourceVersion", version),
            ("timeoutSeconds", &lasts),
        ]);
        let stream = self.web()?.stream(&path, &headers, None, PATIENCE).await?;
        self.watch = Some(Watch { stream, since: Instant::now(), version: None });
        Ok(())
    }

    fn path<'q>(&self, query: impl IntoIterator<Item = (&'q str, &'q str)>) -> String {
        let Settings { namespace, service, .. } = &self.settings;
        let selector = format!("{SERVICE_LABEL}={service}");
        let (namespace, selector) = (escaped(namespace), escaped(&selector));
        let mut path = format!(
            "/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices\
             ?labelSelector={selector}"
        );
        for (key, value) in query {
            path.push_str(&format!("&{key}={}", escaped(value)));
        }
        path
    }

    fn web(&mut self) -> Result<&mut Web, Fault> {
        if self.web.is_none() {
            let of = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
            let address = match &self.settings.api {
                Some(address) => address.clone(),
                None => inside(of("KUBERNETES_SERVICE_HOST"), of("KUBERNETES_SERVICE_PORT"))?,
            };
            self.web = Some(Web::new(&Registry { address, ca: self.settings.ca.clone() }));
        }
        self.web.as_mut().ok_or(Fault::NoPod)
    }

    /// Waits until something changed, or until nothing more comes.
    async fn follow(&mut self) -> Result<Heard, Fault> {
        loop {
            let Some(watch) = &mut self.watch else { return Ok(Heard::Lost) };
            let Ok(line) = timeout(QUIET, watch.stream.line()).await else {
                return Ok(Heard::Lost);
            };
            let Some(line) = line? else { return Ok(Heard::End(watch.version.take())) };
            let event: Event<'_> = read(&line)?;
            let object = event.object.get().as_bytes();
            match event.kind {
                "BOOKMARK" => {
                    let mark: Mark = read(object)?;
                    watch.version = Some(mark.metadata.resource_version);
                    continue;
                }
                "ERROR" => {
                    let refusal: Refusal = read(object)?;
                    return match StatusCode::from_u16(refusal.code) {
                        Ok(StatusCode::GONE) => Ok(Heard::Lost),
                        Ok(status) => Err(Fault::Status(status)),
                        Err(_) => Err(Fault::Nonsense("the watch says an error".to_owned())),
                    };
                }
                "ADDED" | "MODIFIED" | "DELETED" => {}
                _ => return Err(Fault::Nonsense("the watch says what is no change".to_owned())),
            }
            let slice: Slice = read(object)?;
            watch.version = Some(slice.metadata.resource_version.clone());
            if event.kind == "DELETED" || !slice.is_of(&self.settings.service) {
                self.known.remove(&slice.metadata.name);
            } else {
                self.known.insert(slice.metadata.name.clone(), slice.trimmed());
            }
            // What is left out of a list, or should have been, no watch can tell.
            let lacks = self.cut || size(&self.known) > LIMIT;
            return Ok(if lacks { Heard::Lost } else { Heard::News });
        }
    }

    /// Brings what is known up to date; back: how long that holds.
    async fn refresh(&mut self) -> Result<Duration, Fault> {
        let mut holds = Duration::ZERO;
        if let Some(since) = self.watch.as_ref().map(|watch| watch.since) {
            let heard = self.follow().await?;
            if matches!(heard, Heard::News) {
                return Ok(holds);
            }
            self.watch = None;
            // Somebody on the way may end each watch: that must not become a storm.
            holds = BRIEF.saturating_sub(since.elapsed());
            match heard {
                Heard::End(Some(version)) if holds.is_zero() => match self.begin(&version).await {
                    Err(Fault::Status(StatusCode::GONE)) => {}
                    begun => return begun.map(|()| holds),
                },
                // Without a word, not even a bookmark, its version may be one that is yet to come: a
                // server that was set up anew counts from the beginning.
                _ => {}
            }
        }
        self.list().await?;
        Ok(holds)
    }
}

impl Source for Kubernetes {
    async fn ask(&mut self) -> Result<Answer, Fault> {
        let holds = match self.refresh().await {
            Ok(holds) => holds,
            Err(fault) => {
                self.watch = None;
                return Err(fault);
            }
        };
        let (instances, odd) = slices::instances(&self.known, self.settings.port.as_ref());
        if instances.is_empty() && odd.is_some() {
            // It is asked less often now, and then for what is true by then.
            self.watch = None;
        }
        let cut = self.cut.then(|| format!("the service has more than {LIMIT} endpoints"));
        Ok(Answer { instances, holds, nonsense: odd.or(cut) })
    }

    fn forget(&mut self) {
        self.watch = None;
    }
}

/// The API of the cluster that this process runs in, as each pod is told.
fn inside(host: Option<String>, port: Option<String>) -> Result<String, Fault> {
    let host = host.ok_or(Fault::NoPod)?;
    let port = port.unwrap_or_else(|| "443".to_owned());
    Ok(if host.contains(':') {
        format!("https://[{host}]:{port}")
    } else {
        format!("https://{host}:{port}")
    })
}

fn size(known: &BTreeMap<String, Slice>) -> usize {
    // An empty slice is one more to look at, too.
    known.values().map(|slice| slice.size().max(1)).sum()
}

#[derive(Deserialize)]
struct Page {
    kind: String,
    metadata: PageMeta,
    items: Option<Vec<Slice>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PageMeta {
    resource_version: String,
    #[serde(rename = "continue")]
    more: Option<String>,
}

#[derive(Deserialize)]
struct Event<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    #[serde(borrow)]
    object: &'a RawValue,
}

/// How far a watch is.
#[derive(Deserialize)]
struct Mark {
    metadata: Meta,
}

/// A status: why a watch does not go on.
#[derive(Deserialize)]
struct Refusal {
    #[serde(default)]
    code: u16,
}

/// For one answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long a watch is asked for: its server ends it then, and says a bookmark before that.
const LASTS: Duration = Duration::from_secs(60);

/// A watch that is silent for longer than it may last is dead.
const QUIET: Duration = Duration::from_secs(80);

/// A watch lives longer.
const BRIEF: Duration = Duration::from_secs(1);

/// Slices of a page, of 100 endpoints each as Kubernetes makes them.
const SLICES: &str = "100";

/// Pages of a list, at most.
const PAGES: usize = 40;

/// Endpoints that are listed: more than are taken, so that those that are not ready leave room.
const LIMIT: usize = 4 * MOST;

#[cfg(test)]
mod tests;
