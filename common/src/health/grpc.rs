//! The check `grpc: SERVICE`: `grpc.health.v1.Health/Check` answers SERVING, over HTTP/2 without TLS.
//! Called by `health`.
//!
//! Invariant: at most [`LONGEST`] bytes of the answer are held.

use std::net::SocketAddr;
use std::pin::pin;

use ::http::{HeaderMap, Method, Request, header};
use bytes::{BufMut, Bytes, BytesMut};
use futures_util::future::{Either, select};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use tokio::net::TcpStream;

use super::{Answer, Fault};

/// Which service is asked about.
#[derive(Clone, PartialEq, Message)]
struct HealthCheckRequest {
    #[prost(string, tag = "1")]
    service: String,
}

/// How it stands: 1 is SERVING.
#[derive(Clone, PartialEq, Message)]
struct HealthCheckResponse {
    #[prost(int32, tag = "1")]
    status: i32,
}

pub(super) async fn ask(address: SocketAddr, service: &str) -> Result<Answer, Fault> {
    let stream = TokioIo::new(TcpStream::connect(address).await?);
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), stream).await?;
    let mut message = BytesMut::new();
    let request = HealthCheckRequest { service: service.to_owned() };
    // gRPC over HTTP/2: not compressed, then the length.
    message.put_u8(0);
    message.put_u32(request.encoded_len() as u32);
    request.encode(&mut message).map_err(|fault| Fault::Grpc(fault.to_string()))?;
    let request = Request::builder()
        .method(Method::POST)
        .uri(format!("http://{address}/grpc.health.v1.Health/Check"))
        .header(header::CONTENT_TYPE, "application/grpc")
        .header(header::TE, "trailers")
        .header(header::USER_AGENT, "aqueduct-health")
        .body(Full::new(message.freeze()))
        .map_err(|fault| Fault::Grpc(fault.to_string()))?;
    let asked = async {
        let answer = sender.send_request(request).await?;
        let (head, body) = answer.into_parts();
        if !head.status.is_success() {
            return Err(Fault::Status(head.status.as_u16()));
        }
        // Without a message the status stands in the head.
        status(&head.headers)?;
        let body = Limited::new(body, LONGEST).collect().await;
        let body = body.map_err(|fault| Fault::Grpc(fault.to_string()))?;
        body.trailers().map_or(Ok(()), status)?;
        serving(&body.to_bytes())
    };
    match select(pin!(asked), pin!(connection)).await {
        Either::Left((answer, _connection)) => answer,
        Either::Right((ended, answer)) => {
            ended?;
            answer.await
        }
    }
}

/// `grpc-status` 0 or none.
fn status(headers: &HeaderMap) -> Result<(), Fault> {
    let Some(status) = headers.get("grpc-status").filter(|status| *status != "0") else {
        return Ok(());
    };
    let status = status.to_str().unwrap_or("?");
    let text = headers.get("grpc-message").and_then(|text| text.to_str().ok()).unwrap_or_default();
    Err(Fault::Grpc(format!("status {status} {text}")))
}

fn serving(answer: &Bytes) -> Result<Answer, Fault> {
    let message = answer.get(5..).ok_or_else(|| Fault::Grpc("no message".to_owned()))?;
    let answer = HealthCheckResponse::decode(message);
    match answer.map_err(|fault| Fault::Grpc(fault.to_string()))?.status {
        1 => Ok(Answer::Ready),
        2 => Err(Fault::Grpc("NOT_SERVING".to_owned())),
        3 => Err(Fault::Grpc("SERVICE_UNKNOWN".to_owned())),
        other => Err(Fault::Grpc(format!("serving status {other}"))),
    }
}

/// Of the answer's body.
const LONGEST: usize = 4096;
