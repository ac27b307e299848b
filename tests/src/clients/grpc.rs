//! tonic's client of the demo's gRPC service, over TLS. Used by the tests.
//!
//! Invariant: the messages are those of the demo's `echo.proto`.

use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use anyhow::Result;
use futures_util::Stream;
use http::Uri;
use http::uri::PathAndQuery;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tonic::client::Grpc;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Response, Status, Streaming};
use tonic_prost::ProstCodec;

use crate::clients::http2::secure;
use crate::pki::Trust;

/// What is said.
#[derive(Clone, PartialEq, prost::Message)]
pub struct EchoRequest {
    /// Comes back.
    #[prost(string, tag = "1")]
    pub text: String,
    /// How many answers `Repeat` gives.
    #[prost(uint32, tag = "2")]
    pub times: u32,
    /// Fails with this code.
    #[prost(int32, tag = "3")]
    pub fail: i32,
    /// Never answers.
    #[prost(bool, tag = "4")]
    pub hold: bool,
}

/// What comes back.
#[derive(Clone, PartialEq, prost::Message)]
pub struct EchoReply {
    /// What was said.
    #[prost(string, tag = "1")]
    pub text: String,
    /// Which answer it is, from 1.
    #[prost(uint32, tag = "2")]
    pub number: u32,
    /// Who answers.
    #[prost(string, tag = "3")]
    pub server: String,
}

/// A client on a channel of its own.
#[derive(Clone, Debug)]
pub struct Echo(Grpc<Channel>);

impl Echo {
    /// Connects to `api.example`.
    ///
    /// # Errors
    /// No connection, no trust, or no HTTP/2.
    pub async fn connect(to: SocketAddr, trust: &Trust) -> Result<Self> {
        let connector = Connector { to, trust: trust.clone() };
        let channel = Endpoint::from_static("https://api.example");
        Ok(Self(Grpc::new(channel.connect_with_connector(connector).await?)))
    }

    /// One message for one.
    ///
    /// # Errors
    /// What the service or a tier says.
    pub async fn say(&mut self, request: Request<EchoRequest>) -> Result<EchoReply, Status> {
        self.ready().await?;
        self.0.unary(request, path("Say"), codec()).await.map(Response::into_inner)
    }

    /// Many for one.
    ///
    /// # Errors
    /// As [`Echo::say`].
    pub async fn repeat(
        &mut self,
        request: Request<EchoRequest>,
    ) -> Result<Streaming<EchoReply>, Status> {
        self.ready().await?;
        let answer = self.0.server_streaming(request, path("Repeat"), codec()).await;
        answer.map(Response::into_inner)
    }

    /// One for each, as they come.
    ///
    /// # Errors
    /// As [`Echo::say`].
    pub async fn talk(
        &mut self,
        requests: impl Stream<Item = EchoRequest> + Send + 'static,
    ) -> Result<Streaming<EchoReply>, Status> {
        self.ready().await?;
        let answer = self.0.streaming(Request::new(requests), path("Talk"), codec()).await;
        answer.map(Response::into_inner)
    }

    async fn ready(&mut self) -> Result<(), Status> {
        self.0.ready().await.map_err(|error| Status::unavailable(error.to_string()))
    }
}

fn path(method: &str) -> PathAndQuery {
    let path = format!("/aqueduct.demo.v1.Echo/{method}");
    PathAndQuery::try_from(path).expect("a lawful path")
}

fn codec() -> ProstCodec<EchoRequest, EchoReply> {
    ProstCodec::default()
}

/// Gives tonic a connection through the stack.
#[derive(Clone, Debug)]
struct Connector {
    to: SocketAddr,
    trust: Trust,
}

impl tower_service::Service<Uri> for Connector {
    type Response = TokioIo<TlsStream<TcpStream>>;
    type Error = anyhow::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let this = self.clone();
        Box::pin(async move { Ok(TokioIo::new(secure(this.to, &this.trust).await?)) })
    }
}
