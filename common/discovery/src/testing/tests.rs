//! What the tests of this crate share: a source that says what a test wants. Not for product code.
//!
//! Invariant: a script answers exactly what it was told to.

#[cfg(feature = "verify")]
#[path = "tests/judge.rs"]
pub(crate) mod judge;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use common::observe::Observer;
use http::{Request, Response};
use hyper::body::{Body, Incoming};
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio::task::{JoinHandle, JoinSet};
use topology::model::{Discover, DiscoverSource};
use topology::{At, Endpoint, Place, ServiceName};

use crate::fault::Fault;
use crate::instance::Instance;
use crate::keep::{Answer, Keeper, Source};
use crate::{Endpoints, Publisher, Task};

/// A section with its defaults.
pub(crate) fn discover(source: DiscoverSource) -> Discover {
    Discover {
        source,
        resolver: None,
        floor: Duration::from_secs(1),
        version: None,
        empty_after: Duration::from_secs(120),
    }
}

/// What a source says now.
#[derive(Clone, Debug)]
pub(crate) enum Says {
    /// These are all.
    All(Vec<Instance>),
    /// These are of use, and something is not.
    Partly(Vec<Instance>),
    /// No answer.
    Nothing,
    /// No answer, for ever.
    Silence,
}

/// A source that a test speaks through.
#[derive(Clone, Debug)]
pub(crate) struct Script(Arc<Spoken>);

#[derive(Debug)]
struct Spoken {
    now: Mutex<Now>,
    news: Notify,
}

#[derive(Debug)]
struct Now {
    says: Says,
    asked: u32,
    forgot: u32,
}

impl Script {
    pub(crate) fn new(says: Says) -> Self {
        let now = Mutex::new(Now { says, asked: 0, forgot: 0 });
        Self(Arc::new(Spoken { now, news: Notify::new() }))
    }

    /// From now on; at once, if it tells changes by itself.
    pub(crate) fn say(&self, says: Says) {
        self.now().says = says;
        self.0.news.notify_one();
    }

    /// How often it was asked, and how often it was told to forget.
    pub(crate) fn asked(&self) -> (u32, u32) {
        let now = self.now();
        (now.asked, now.forgot)
    }

    fn now(&self) -> MutexGuard<'_, Now> {
        self.0.now.lock().expect("whole")
    }

    /// Watched as service `user`, with these settings.
    pub(crate) fn watch(&self, discover: Discover, observer: &Observer) -> Endpoints {
        let publisher = Publisher::of(&[], discover.source.to_string());
        let mut endpoints = publisher.endpoints();
        let discover = At { value: discover, place: Place::default() };
        let keeper = Keeper::new(&ServiceName::new("user"), &discover, publisher, observer);
        let task = tokio::spawn(keeper.run(self.clone()));
        endpoints.task = Some(Arc::new(Task(task.abort_handle())));
        endpoints
    }
}

impl Source for Script {
    async fn ask(&mut self) -> Result<Answer, Fault> {
        let says = {
            let mut now = self.now();
            now.asked += 1;
            now.says.clone()
        };
        let answer =
            |instances, nonsense| Answer { instances, holds: Duration::from_secs(10), nonsense };
        match says {
            Says::All(instances) => Ok(answer(instances, None)),
            Says::Partly(instances) => Ok(answer(instances, Some("an odd entry".to_owned()))),
            Says::Nothing => Err(Fault::Empty),
            Says::Silence => std::future::pending().await,
        }
    }

    fn forget(&mut self) {
        self.now().forgot += 1;
    }

    async fn nudged(&mut self) {
        self.0.news.notified().await;
    }
}

/// Instances at 10.0.0.N:80.
pub(crate) fn instances(last: &[u8]) -> Vec<Instance> {
    let at = |&last: &u8| Instance::at(SocketAddr::from(([10, 0, 0, last], 80)));
    last.iter().map(at).collect()
}

/// One of a set.
pub(crate) fn endpoint(last: u8) -> Endpoint {
    let settled = crate::instance::settle(instances(&[last]), None, Place::default());
    settled.endpoints.into_iter().next().expect("one")
}

/// The last numbers of a set's addresses.
pub(crate) fn numbers(set: &[Endpoint]) -> Vec<u8> {
    let last = |endpoint: &Endpoint| match endpoint.address.ip() {
        std::net::IpAddr::V4(ip) => ip.octets()[3],
        std::net::IpAddr::V6(_) => 0,
    };
    set.iter().map(last).collect()
}

/// A registry of a test: what it says is told to whoever asks for `user`.
pub(crate) trait Registry {
    fn source(&self) -> DiscoverSource;
    /// It names these from now on, and no others.
    async fn name(&mut self, numbers: &[u16]);
    /// It says something else than it should.
    async fn babble(&mut self);
    /// Nobody answers.
    async fn vanish(&mut self);
    /// It answers again, and names these.
    async fn come_back(&mut self, numbers: &[u16]);
}

/// The address of a number: 10.0.x.y:80.
pub(crate) fn address(number: u16) -> SocketAddr {
    let [high, low] = number.to_be_bytes();
    SocketAddr::from(([10, 0, high, low], 80))
}

/// What every source does, with a registry of its make: it follows what comes, goes and flaps; nonsense,
/// silence, an outage and emptiness change nothing; a huge answer is bounded.
pub(crate) async fn contract(registry: impl Registry) {
    // What never comes shows as a failure, and not as a test that hangs.
    let whole = tokio::time::timeout(Duration::from_secs(120), fulfils(registry));
    whole.await.expect("each step comes about");
}

async fn fulfils(mut registry: impl Registry) {
    registry.name(&[1, 2]).await;
    let floor = Duration::from_millis(1);
    let discover = Discover { floor, ..discover(registry.source()) };
    let discover = At { value: discover, place: Place::default() };
    let observer = Observer::new("gw-1");
    let watched = crate::watch(&ServiceName::new("user"), &[], Some(&discover), &observer);
    follows(&watched, &[1, 2]).await;
    registry.name(&[1, 2, 3]).await;
    follows(&watched, &[1, 2, 3]).await;
    registry.name(&[3]).await;
    follows(&watched, &[3]).await;
    for _ in 0..20 {
        registry.name(&[3, 4]).await;
        registry.name(&[3]).await;
    }
    registry.name(&[4]).await;
    follows(&watched, &[4]).await;
    let many: Vec<u16> = (1..=1500).collect();
    registry.name(&many).await;
    follows(&watched, &many[..1000]).await;
    registry.name(&[5]).await;
    follows(&watched, &[5]).await;
    let known = watched.status().show()["last_error"].clone();
    registry.babble().await;
    while watched.status().show()["last_error"] == known {
        tokio::task::yield_now().await;
    }
    assert_eq!(numbers_of(&watched), [5], "nonsense changes nothing");
    registry.name(&[6]).await;
    follows(&watched, &[6]).await;
    let known = watched.status().show()["last_error"].clone();
    registry.vanish().await;
    while watched.status().show()["last_error"] == known {
        tokio::task::yield_now().await;
    }
    assert_eq!(numbers_of(&watched), [6], "an outage changes nothing");
    registry.come_back(&[6, 7]).await;
    follows(&watched, &[6, 7]).await;
    registry.name(&[]).await;
    while watched.status().show()["empty_answer_doubted"] != true {
        tokio::task::yield_now().await;
    }
    assert_eq!(numbers_of(&watched), [6, 7], "emptiness must be confirmed");
    registry.name(&[7]).await;
    follows(&watched, &[7]).await;
}

/// What every source does whose registry is away for ten minutes, comes back empty, and then knows all again.
pub(crate) async fn outage(mut registry: impl Registry) {
    registry.name(&[1, 2]).await;
    let discover = At { value: discover(registry.source()), place: Place::default() };
    let observer = Observer::new("gw-1");
    let mut watched = crate::watch(&ServiceName::new("user"), &[], Some(&discover), &observer);
    let known = watched.changed().await;
    assert_eq!(numbers(&known), [1, 2]);
    registry.vanish().await;
    tokio::time::pause();
    let late = tokio::time::timeout(Duration::from_secs(600), watched.changed()).await;
    assert!(late.is_err() && Arc::ptr_eq(&known, &watched.current()));
    assert!(watched.status().show()["last_error"].is_string());
    registry.come_back(&[]).await;
    // The longest pause, and half of it.
    tokio::time::advance(Duration::from_secs(45)).await;
    tokio::time::resume();
    while watched.status().show()["empty_answer_doubted"] != true {
        tokio::task::yield_now().await;
    }
    assert_eq!(*watched.current(), *known, "an empty registry is not believed");
    registry.name(&[2, 3]).await;
    assert_eq!(numbers(&watched.changed().await), [2, 3]);
}

async fn follows(watched: &Endpoints, wanted: &[u16]) {
    while numbers_of(watched) != wanted {
        tokio::task::yield_now().await;
    }
}

fn numbers_of(watched: &Endpoints) -> Vec<u16> {
    let number = |endpoint: &Endpoint| match endpoint.address.ip() {
        std::net::IpAddr::V4(ip) => u16::from_be_bytes([ip.octets()[2], ip.octets()[3]]),
        std::net::IpAddr::V6(_) => 0,
    };
    watched.current().iter().map(number).collect()
}

type Answering<B> = Pin<Box<dyn Future<Output = Result<Response<B>, Infallible>> + Send>>;

/// An HTTP server that can be stopped and started again on its port.
pub(crate) struct Server {
    at: SocketAddr,
    speaks: Speaks,
    task: JoinHandle<()>,
}

/// Which form of HTTP a server has.
#[derive(Clone, Copy)]
enum Speaks {
    Http1,
    Http2,
}

impl Server {
    pub(crate) async fn start<F, B>(
        answer: impl Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = Result<Response<B>, Infallible>> + Send + 'static,
        B: Body<Data = Bytes, Error = Infallible> + Send + 'static,
    {
        Self::speaking(Speaks::Http1, answer).await
    }

    /// The same, for those who know that it speaks HTTP/2.
    pub(crate) async fn over_http2<F, B>(
        answer: impl Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = Result<Response<B>, Infallible>> + Send + 'static,
        B: Body<Data = Bytes, Error = Infallible> + Send + 'static,
    {
        Self::speaking(Speaks::Http2, answer).await
    }

    async fn speaking<F, B>(
        speaks: Speaks,
        answer: impl Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = Result<Response<B>, Infallible>> + Send + 'static,
        B: Body<Data = Bytes, Error = Infallible> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let at = listener.local_addr().expect("an address");
        Self { at, speaks, task: tokio::spawn(serve(listener, speaks, answer)) }
    }

    #[cfg(feature = "verify")]
    pub(crate) fn at(&self) -> SocketAddr {
        self.at
    }

    pub(crate) fn address(&self) -> String {
        format!("http://{}", self.at)
    }

    /// It hears nobody any more, and its connections end.
    pub(crate) fn stop(&mut self) {
        self.task.abort();
    }

    pub(crate) async fn again<F, B>(
        &mut self,
        answer: impl Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
    ) where
        F: Future<Output = Result<Response<B>, Infallible>> + Send + 'static,
        B: Body<Data = Bytes, Error = Infallible> + Send + 'static,
    {
        // What was there is gone, or goes this moment.
        let listener = loop {
            match TcpListener::bind(self.at).await {
                Ok(listener) => break listener,
                Err(_) => tokio::task::yield_now().await,
            }
        };
        self.task = tokio::spawn(serve(listener, self.speaks, answer));
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve<F, B>(
    listener: TcpListener,
    speaks: Speaks,
    answer: impl Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
) where
    F: Future<Output = Result<Response<B>, Infallible>> + Send + 'static,
    B: Body<Data = Bytes, Error = Infallible> + Send + 'static,
{
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let answer = answer.clone();
        let service = service_fn(move |request| -> Answering<B> { Box::pin(answer(request)) });
        let stream = TokioIo::new(stream);
        connections.spawn(async move {
            // Their end is their own matter.
            match speaks {
                Speaks::Http1 => {
                    let _ended = http1::Builder::new().serve_connection(stream, service).await;
                }
                Speaks::Http2 => {
                    let builder = http2::Builder::new(TokioExecutor::new());
                    let _ended = builder.serve_connection(stream, service).await;
                }
            }
        });
    }
}
