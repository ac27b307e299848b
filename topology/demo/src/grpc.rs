//! The gRPC service: echoes, one message, many, or as they come, and says that it is well. Not for HTTP
//! beneath: `http` accepts and hyper frames. Run by `main`.
//!
//! Invariant: every call ends with a status, unless it was asked never to.

mod messages;

use std::convert::Infallible;
use std::future::{pending, ready};
use std::pin::Pin;
use std::sync::Arc;

use futures_util::{Stream, StreamExt as _, stream};
use http::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tonic::body::Body;
use tonic::metadata::MetadataValue;
use tonic::server::{Grpc, ServerStreamingService, StreamingService, UnaryService};
use tonic::{Code, Response, Status, Streaming};
use tonic_prost::ProstCodec;

use crate::grpc::messages::{
    Detail, EchoReply, EchoRequest, HealthReply, HealthRequest, RichStatus,
};
use crate::http::accept;
use crate::options::GrpcArgs;
use crate::shutdown::{asked, say};

/// Listens and serves until TERM or INT.
pub(crate) async fn run(args: GrpcArgs) -> anyhow::Result<()> {
    let listener = TcpListener::bind(args.listen)
        .await
        .map_err(|error| anyhow::anyhow!("cannot listen on {}: {error}", args.listen))?;
    say(&format!("{} listens on {}", args.name, listener.local_addr()?));
    let echo = Echo(args.name.into());
    accept(listener, asked(), |stream, draining| connection(stream, echo.clone(), draining)).await
}

/// One connection, until its peer closes it or the program drains.
async fn connection(stream: TcpStream, echo: Echo, mut draining: watch::Receiver<()>) {
    drop(stream.set_nodelay(true));
    let service = service_fn(move |request| {
        let echo = echo.clone();
        async move { Ok::<_, Infallible>(echo.route(request).await) }
    });
    let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    tokio::select! {
        _ = connection.as_mut() => return,
        _ = draining.changed() => connection.as_mut().graceful_shutdown(),
    }
    drop(connection.await);
}

/// The service, under its server's name.
#[derive(Debug, Clone)]
struct Echo(Arc<str>);

impl Echo {
    async fn route(&self, request: Request<Incoming>) -> http::Response<Body> {
        match request.uri().path() {
            "/aqueduct.demo.v1.Echo/Say" => codec().unary(Say(self.clone()), request).await,
            "/aqueduct.demo.v1.Echo/Repeat" => {
                codec().server_streaming(Repeat(self.clone()), request).await
            }
            "/aqueduct.demo.v1.Echo/Talk" => codec().streaming(Talk(self.clone()), request).await,
            "/grpc.health.v1.Health/Check" => {
                Grpc::new(ProstCodec::<HealthReply, HealthRequest>::default())
                    .unary(Health, request)
                    .await
            }
            path => Status::unimplemented(format!("nothing is at {path}")).into_http(),
        }
    }

    fn reply(&self, request: &EchoRequest, number: u32) -> EchoReply {
        EchoReply { text: request.text.clone(), number, server: self.0.to_string() }
    }
}

fn codec() -> Grpc<ProstCodec<EchoReply, EchoRequest>> {
    Grpc::new(ProstCodec::default())
}

/// The failure that was asked for, with what was said as its detail (google.rpc.Status) and a trailer of its own.
fn failure(request: &EchoRequest) -> Option<Status> {
    let code = (request.fail != 0).then(|| Code::from(request.fail))?;
    let kind = "type.googleapis.com/aqueduct.demo.v1.EchoRequest".to_owned();
    let detail = Detail { kind, value: request.encode_to_vec() };
    let details =
        RichStatus { code: request.fail, message: request.text.clone(), details: vec![detail] };
    let details = details.encode_to_vec();
    let mut status = Status::with_details(code, request.text.clone(), details.into());
    status.metadata_mut().insert("x-echo", MetadataValue::from_static("failed"));
    Some(status)
}

type Later<T> = Pin<Box<dyn Future<Output = Result<Response<T>, Status>> + Send>>;
type Replies = Pin<Box<dyn Stream<Item = Result<EchoReply, Status>> + Send>>;

fn now<T: Send + 'static>(result: Result<T, Status>) -> Later<T> {
    Box::pin(ready(result.map(Response::new)))
}

struct Say(Echo);

impl UnaryService<EchoRequest> for Say {
    type Response = EchoReply;
    type Future = Later<EchoReply>;

    fn call(&mut self, request: tonic::Request<EchoRequest>) -> Self::Future {
        // Comes back as it is.
        let heard = request.metadata().get("x-echo").cloned();
        let request = request.into_inner();
        match failure(&request) {
            _ if request.hold => Box::pin(pending()),
            Some(status) => now(Err(status)),
            None => {
                let mut response = Response::new(self.0.reply(&request, 1));
                if let Some(heard) = heard {
                    response.metadata_mut().insert("x-echo", heard);
                }
                Box::pin(ready(Ok(response)))
            }
        }
    }
}

struct Repeat(Echo);

impl ServerStreamingService<EchoRequest> for Repeat {
    type Response = EchoReply;
    type ResponseStream = Replies;
    type Future = Later<Replies>;

    fn call(&mut self, request: tonic::Request<EchoRequest>) -> Self::Future {
        let (echo, request) = (self.0.clone(), request.into_inner());
        let last = failure(&request).map(Err);
        let hold = request.hold;
        let replies =
            stream::iter(1..=request.times).map(move |number| Ok(echo.reply(&request, number)));
        let replies = replies.chain(stream::iter(last));
        now(Ok(if hold { replies.chain(stream::pending()).boxed() } else { replies.boxed() }))
    }
}

struct Talk(Echo);

impl StreamingService<EchoRequest> for Talk {
    type Response = EchoReply;
    type ResponseStream = Replies;
    type Future = Later<Replies>;

    fn call(&mut self, request: tonic::Request<Streaming<EchoRequest>>) -> Self::Future {
        let echo = self.0.clone();
        let replies = request.into_inner().zip(stream::iter(1..)).map(move |(request, number)| {
            let request = request?;
            failure(&request).map_or_else(|| Ok(echo.reply(&request, number)), Err)
        });
        now(Ok(replies.boxed()))
    }
}

/// Well as long as it runs.
struct Health;

impl UnaryService<HealthRequest> for Health {
    type Response = HealthReply;
    type Future = Later<HealthReply>;

    fn call(&mut self, request: tonic::Request<HealthRequest>) -> Self::Future {
        let service = request.into_inner().service;
        let known = ["", "aqueduct.demo.v1.Echo"].contains(&service.as_str());
        now(if known {
            Ok(HealthReply { status: SERVING })
        } else {
            Err(Status::not_found("no such service"))
        })
    }
}

const SERVING: i32 = 1;
