//! WebSocket over HTTP/2 (RFC 8441), told to the pipeline and to services as HTTP/1.1 would tell it. Not
//! for WebSocket's frames. Called by `http2`.
//!
//! Invariant: a stream becomes a tunnel only after the service has answered 101 and has proved that it
//! understood.

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{self, HeaderValue};
use http::{Method, Request, Response, Version};
use hyper::body::Incoming;
use hyper::ext::Protocol;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::AsyncWriteExt as _;

use super::stall::Stall;
use super::tunnel::{self, TUNNEL_IDLE};
use crate::body::Tunnel;
use crate::exchange::Exchange;

/// A client's stream that is to become a WebSocket.
#[derive(Debug)]
pub(super) struct WebSocket {
    client: OnUpgrade,
    key: String,
}

/// RFC 6455 §1.3.
const GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

impl WebSocket {
    /// If the request is one for a WebSocket, it is made one that HTTP/1.1 knows.
    pub(super) fn of(request: &mut Request<Incoming>) -> Option<Self> {
        let protocol = request.extensions().get::<Protocol>();
        let websocket = protocol.is_some_and(|protocol| protocol.as_str() == "websocket");
        if request.method() != Method::CONNECT || !websocket {
            return None;
        }
        let mut nonce = [0; 16];
        aws_lc_rs::rand::fill(&mut nonce).ok()?;
        let key = STANDARD.encode(nonce);
        let client = hyper::upgrade::on(&mut *request);
        *request.method_mut() = Method::GET;
        *request.version_mut() = Version::HTTP_11;
        let headers = request.headers_mut();
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(header::SEC_WEBSOCKET_KEY, HeaderValue::try_from(&key).ok()?);
        Some(Self { client, key })
    }

    /// The answer to the client, if the service has understood (RFC 6455 §4.1): RFC 8441 §5.1 has no 101
    /// and no proof of its own.
    pub(super) fn accepted(&self, head: &Response<()>) -> Option<Response<()>> {
        let text = [self.key.as_bytes(), GUID.as_bytes()].concat();
        let proof = STANDARD.encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, &text));
        let said = head.headers().get(header::SEC_WEBSOCKET_ACCEPT)?;
        if said.as_bytes() != proof.as_bytes() {
            return None;
        }
        let mut answer = Response::new(());
        answer.headers_mut().clone_from(head.headers());
        for name in [
            header::CONNECTION,
            header::UPGRADE,
            header::SEC_WEBSOCKET_ACCEPT,
            header::CONTENT_LENGTH,
        ] {
            answer.headers_mut().remove(name);
        }
        Some(answer)
    }

    /// Copies both ways until one side ends.
    pub(super) async fn pass(self, tunnel: Tunnel, x: Box<Exchange>) {
        let Ok(client) = self.client.await else { return };
        let Some((upstream, said)) = tunnel.upstream.into_stream() else { return };
        let mut client = Stall::of_stream(TokioIo::new(client), TUNNEL_IDLE);
        if client.write_all(&said).await.is_ok() {
            tunnel::join(client, &[], upstream, x).await;
        }
    }
}
