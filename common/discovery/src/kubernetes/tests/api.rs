//! The API server of a cluster, as much of it as EndpointSlices need: lists by pages, watches with bookmarks,
//! versions that are forgotten, tokens; and what `kubectl` asks before. Not for product code.
//!
//! Invariant: a list, all its pages and a watch tell one history; what is compacted is answered with 410.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{self, StreamExt as _};
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

/// A server's history. Cheap to clone.
#[derive(Clone)]
pub(super) struct Api {
    state: watch::Sender<State>,
    /// Targets of the questions, percent signs undone.
    asked: Arc<Mutex<Vec<String>>>,
}

#[derive(Clone, Default)]
pub(super) struct State {
    version: u64,
    /// What there was at each version.
    objects: BTreeMap<u64, Objects>,
    changes: Vec<(u64, &'static str, Arc<Value>)>,
    /// Nobody knows what was before.
    compacted: u64,
    /// What it asks for, if anything.
    pub(super) token: Option<&'static str>,
    /// Instead of any answer.
    pub(super) nonsense: Option<&'static str>,
    /// Lists have pages of so many at most.
    pub(super) page: Option<usize>,
    /// Ends all watches when it changes.
    pub(super) ends: u32,
    /// Whether those of versions that are forgotten are refused, or begin and say so.
    pub(super) refuses: bool,
    /// It has never heard of bookmarks.
    pub(super) unmarked: bool,
}

/// By name.
type Objects = Arc<BTreeMap<String, Arc<Value>>>;

type Body = UnsyncBoxBody<Bytes, Infallible>;

impl Api {
    pub(super) fn new() -> Self {
        let mut state = State { version: 1000, ..State::default() };
        state.objects.insert(1000, Objects::default());
        Self { state: watch::Sender::new(state), asked: Arc::default() }
    }

    /// Another server's beginning.
    pub(super) fn reset(&self, version: u64) {
        self.state.send_modify(|state| {
            *state = State { version, ends: state.ends + 1, ..State::default() };
            state.objects.insert(version, Objects::default());
        });
    }

    pub(super) fn set(&self, change: impl FnOnce(&mut State)) {
        self.state.send_modify(change);
    }

    /// Time passes without a change of slices: versions go on for all objects together.
    pub(super) fn tick(&self) {
        self.set(State::tick);
    }

    /// Makes or replaces a slice.
    pub(super) fn put(&self, slice: Value) {
        self.set(|state| {
            let name = slice["metadata"]["name"].as_str().expect("a name").to_owned();
            state.change(&name, Some(slice));
        });
    }

    pub(super) fn remove(&self, name: &str) {
        self.set(|state| state.change(name, None));
    }

    /// Forgets what was before now.
    pub(super) fn compact(&self) {
        self.set(|state| {
            state.tick();
            state.compacted = state.version;
            state.changes.clear();
            let version = state.version;
            state.objects.retain(|known, _| *known >= version);
        });
    }

    pub(super) fn names(&self) -> Vec<String> {
        let state = self.state.borrow();
        state.now().keys().cloned().collect()
    }

    /// What was asked so far.
    pub(super) fn asked(&self) -> Vec<String> {
        self.asked.lock().expect("whole").clone()
    }

    /// How often slices were listed and watched.
    pub(super) fn counts(&self) -> (usize, usize) {
        let asked = self.asked();
        let slices = asked.iter().filter(|target| target.contains("labelSelector"));
        let watches = slices.clone().filter(|target| target.contains("watch=true")).count();
        (slices.count() - watches, watches)
    }

    pub(super) async fn answer(
        self,
        request: Request<Incoming>,
    ) -> Result<Response<Body>, Infallible> {
        let (path, query) = (request.uri().path().to_owned(), query(request.uri().query()));
        let of = |key: &str| query.get(key).cloned();
        let asked =
            query.iter().fold(path.clone(), |all, (key, value)| format!("{all} {key}={value}"));
        self.asked.lock().expect("whole").push(asked);
        let state = self.state.borrow().clone();
        let shown = request.headers().get(header::AUTHORIZATION).map(HeaderValue::as_bytes);
        let wanted = state.token.map(|token| format!("Bearer {token}"));
        if wanted.is_some_and(|wanted| shown != Some(wanted.as_bytes())) {
            return Ok(refused(StatusCode::UNAUTHORIZED, "Unauthorized"));
        }
        if let Some(nonsense) = state.nonsense {
            return Ok(whole(StatusCode::OK, nonsense.to_owned()));
        }
        if let Some(found) = discovered(&path) {
            return Ok(whole(StatusCode::OK, found.to_string()));
        }
        if path != "/apis/discovery.k8s.io/v1/namespaces/shop/endpointslices" {
            return Ok(refused(StatusCode::NOT_FOUND, "NotFound"));
        }
        let selector = of("labelSelector").unwrap_or_default();
        if !matches!(of("watch").as_deref(), Some("true" | "1")) {
            return Ok(state.list(&selector, of("limit"), query.get("continue")));
        }
        let version = of("resourceVersion").and_then(|text| text.parse().ok());
        let version = version.unwrap_or(state.version);
        if version < state.compacted {
            let line = json!({ "type": "ERROR", "object": status(StatusCode::GONE, "Expired") });
            return Ok(if state.refuses {
                refused(StatusCode::GONE, "Expired")
            } else {
                whole(StatusCode::OK, format!("{line}\n"))
            });
        }
        let bookmarks = of("allowWatchBookmarks").as_deref() == Some("true") && !state.unmarked;
        let lasts = of("timeoutSeconds").and_then(|text| text.parse().ok()).unwrap_or(1800);
        let until = Instant::now() + Duration::from_secs(lasts);
        let watching = Watching {
            state: self.state.subscribe(),
            ends: state.ends,
            version,
            selector,
            bookmarks,
            until,
        };
        let lines = stream::unfold(Some(watching), |watching| async move {
            let (lines, next) = watching?.next().await;
            Some((lines, next))
        });
        let frames = lines.map(|lines| Ok(Frame::data(Bytes::from(lines))));
        let response = Response::builder().header(header::CONTENT_TYPE, "application/json");
        Ok(response.body(StreamBody::new(frames).boxed_unsync()).expect("a response"))
    }
}

impl State {
    fn now(&self) -> Objects {
        self.objects.last_key_value().map(|(_, objects)| Arc::clone(objects)).unwrap_or_default()
    }

    fn tick(&mut self) {
        let now = self.now();
        self.version += 1;
        self.objects.insert(self.version, now);
    }

    fn change(&mut self, name: &str, slice: Option<Value>) {
        let mut now = BTreeMap::clone(&self.now());
        self.version += 1;
        let former = now.remove(name);
        let kind = match (&slice, &former) {
            (Some(_), None) => "ADDED",
            (Some(_), Some(_)) => "MODIFIED",
            (None, _) => "DELETED",
        };
        let stays = slice.is_some();
        let former = former.map(|former| Value::clone(&former));
        let Some(mut object) = slice.or(former) else { return };
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        let object = Arc::new(object);
        self.changes.push((self.version, kind, Arc::clone(&object)));
        if stays {
            now.insert(name.to_owned(), object);
        }
        self.objects.insert(self.version, Arc::new(now));
    }

    fn list(&self, selector: &str, limit: Option<String>, more: Option<&String>) -> Response<Body> {
        let limit = limit.and_then(|text| text.parse().ok()).unwrap_or(usize::MAX);
        let limit = limit.min(self.page.unwrap_or(usize::MAX));
        let (version, after) = more
            .and_then(|more| more.split_once('/'))
            .map_or((self.version, String::new()), |(version, after)| {
                (version.parse().expect("a version of ours"), after.to_owned())
            });
        let Some(objects) = self.objects.get(&version) else {
            return refused(StatusCode::GONE, "Expired");
        };
        let objects = objects.iter().filter(|(name, _)| **name > after);
        let mut objects: Vec<_> =
            objects.filter(|(_, object)| selected(object, selector)).collect();
        let rest = objects.len().saturating_sub(limit);
        objects.truncate(limit);
        let last = objects.last().filter(|_| rest > 0);
        let more = last.map(|(name, _)| format!("{version}/{name}"));
        let items: Vec<_> = objects.into_iter().map(|(_, object)| &**object).collect();
        let mut metadata = json!({ "resourceVersion": version.to_string() });
        if let Some(more) = more {
            metadata["continue"] = json!(more);
            metadata["remainingItemCount"] = json!(rest);
        }
        let list = json!({ "kind": "EndpointSliceList", "apiVersion": "discovery.k8s.io/v1",
            "metadata": metadata, "items": items });
        whole(StatusCode::OK, list.to_string())
    }
}

/// One watch, until its next word.
struct Watching {
    state: watch::Receiver<State>,
    ends: u32,
    version: u64,
    selector: String,
    bookmarks: bool,
    until: Instant,
}

impl Watching {
    /// What it says next, and how it goes on.
    async fn next(mut self) -> (String, Option<Self>) {
        let state = self.state.borrow_and_update().clone();
        if let Some(nonsense) = state.nonsense {
            // A long one has no end.
            let end = if nonsense.len() < 1 << 20 { "\n" } else { "" };
            return (format!("{nonsense}{end}"), None);
        }
        let fresh = state.changes.iter().filter(|(version, ..)| *version > self.version);
        let fresh = fresh.filter(|(_, _, object)| selected(object, &self.selector));
        let line = |(_, kind, object): &(u64, &str, Arc<Value>)| {
            format!("{}\n", json!({ "type": kind, "object": **object }))
        };
        let said: String = fresh.map(line).collect();
        if self.version <= state.version {
            self.version = state.version;
        }
        if !said.is_empty() {
            return (said, Some(self));
        }
        let over = state.ends != self.ends;
        let left = self.until - Instant::now();
        if over || timeout(left, self.state.changed()).await.is_err() {
            // A version that is yet to come has no bookmark.
            let marks = self.bookmarks && self.version <= self.state.borrow().version;
            let object = json!({ "kind": "EndpointSlice", "apiVersion": "discovery.k8s.io/v1",
                "metadata": { "resourceVersion": self.version.to_string(), "creationTimestamp": null },
                "endpoints": null, "ports": null, "addressType": "" });
            let line = format!("{}\n", json!({ "type": "BOOKMARK", "object": object }));
            return (if marks { line } else { String::new() }, None);
        }
        (String::new(), Some(self))
    }
}

/// What a client asks before it asks for slices: which groups, versions and kinds there are.
fn discovered(path: &str) -> Option<Value> {
    let slices = json!({ "name": "endpointslices", "singularName": "endpointslice",
        "namespaced": true, "kind": "EndpointSlice",
        "verbs": ["get", "list", "watch"], "shortNames": [] });
    let version = json!({ "groupVersion": "discovery.k8s.io/v1", "version": "v1" });
    match path {
        "/api" => Some(json!({ "kind": "APIVersions", "versions": ["v1"] })),
        "/api/v1" => {
            Some(json!({ "kind": "APIResourceList", "groupVersion": "v1", "resources": [] }))
        }
        "/apis" => Some(json!({ "kind": "APIGroupList", "apiVersion": "v1", "groups": [{
            "name": "discovery.k8s.io", "versions": [version], "preferredVersion": version }] })),
        "/apis/discovery.k8s.io/v1" => Some(json!({ "kind": "APIResourceList", "apiVersion": "v1",
            "groupVersion": "discovery.k8s.io/v1", "resources": [slices] })),
        _ => None,
    }
}

fn selected(object: &Value, selector: &str) -> bool {
    selector.split(',').filter(|part| !part.is_empty()).all(|part| {
        let (key, value) = part.split_once('=').expect("KEY=VALUE");
        object["metadata"]["labels"][key] == value.trim_start_matches('=')
    })
}

fn query(query: Option<&str>) -> BTreeMap<String, String> {
    let pairs = query.unwrap_or_default().split('&').filter_map(|pair| pair.split_once('='));
    let undone = |text: &str| text.replace("%2F", "/").replace("%2f", "/").replace("%3D", "=");
    pairs.map(|(key, value)| (undone(key), undone(value))).collect()
}

fn status(code: StatusCode, reason: &str) -> Value {
    json!({ "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": "no", "reason": reason, "code": code.as_u16() })
}

fn refused(code: StatusCode, reason: &str) -> Response<Body> {
    whole(code, status(code, reason).to_string())
}

fn whole(code: StatusCode, body: String) -> Response<Body> {
    let response =
        Response::builder().status(code).header(header::CONTENT_TYPE, "application/json");
    response.body(Full::new(Bytes::from(body)).boxed_unsync()).expect("a response")
}
