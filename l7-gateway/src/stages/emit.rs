//! Stage 10: the answer's way out. The exchange travels with the body, and is logged and counted
//! when the last byte is out, or when the client or the service has gone. Called by `pipeline`.
//!
//! Invariant: every exchange leaves exactly one record.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use http::{Method, Response};
use http_body::{Body, Frame, SizeHint};
use tokio::time::Instant;

use crate::access_log::End;
use crate::body::{AnswerBody, BodyFault, Tunnel};
use crate::exchange::{Answered, AnsweredBy, Exchange, Stage, Transformed};

/// What the engine sends.
#[derive(Debug)]
pub enum Emitted {
    /// This.
    Answer(Response<EmitBody>),
    /// A head, then the connection is the tunnel's; the exchange ends with it.
    Switch(Response<()>, Box<Tunnel>, Box<Exchange>),
    /// Nothing: the connection or stream ends.
    Disconnect,
}

/// The stage.
#[derive(Debug, Default)]
pub struct Emit;

impl Emit {
    /// Hands the answer over.
    pub fn finish(&self, mut x: Box<Exchange>, answer: Transformed) -> Emitted {
        x.progress.finish(Instant::now());
        x.progress.enter(Stage::Emit);
        let Transformed(Answered { head, body, by }) = answer;
        if by == AnsweredBy::Nobody {
            return Emitted::Disconnect;
        }
        x.record.status = Some(head.status);
        let mut response = Response::new(());
        *response.status_mut() = head.status;
        *response.headers_mut() = head.headers;
        match body {
            AnswerBody::Tunnel(tunnel) => Emitted::Switch(response, tunnel, x),
            body => Emitted::Answer(response.map(|()| EmitBody { body, x })),
        }
    }
}

/// An answer's body with the exchange that it ends.
#[derive(Debug)]
pub struct EmitBody {
    body: AnswerBody,
    x: Box<Exchange>,
}

impl Body for EmitBody {
    type Data = Bytes;
    type Error = BodyFault;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyFault>>> {
        let this = &mut *self;
        let polled = Pin::new(&mut this.body).poll_frame(cx);
        if let Poll::Ready(Some(Ok(frame))) = &polled {
            this.x.record.bytes_out += frame.data_ref().map_or(0, Buf::remaining) as u64;
        }
        if let Poll::Ready(None) = &polled {
            this.x.record.end = End::Complete;
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for EmitBody {
    fn drop(&mut self) {
        if self.body.is_end_stream() || self.x.record.method == Method::HEAD {
            self.x.record.end = End::Complete;
        }
    }
}
