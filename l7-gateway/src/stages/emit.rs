//! Stage 10: the answer's way out. The exchange travels with the body, and is logged and counted
//! when the last byte is out, or when the client or the service has gone. Called by `pipeline`.
//!
//! Invariant: every exchange leaves exactly one record.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use http::header::CONTENT_LENGTH;
use http::{HeaderMap, Method, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use tokio::time::Instant;

use crate::access_log::End;
use crate::body::{AnswerBody, BodyFault, Tunnel};
use crate::exchange::{Answered, AnsweredBy, Exchange, ResponseHead, Stage, Transformed};
use crate::grpc;
use crate::halt::broken_call;
use crate::hops::{self, Internal};

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

/// The stage, one per worker.
#[derive(Debug)]
pub struct Emit {
    internal: Rc<Internal>,
}

impl Emit {
    /// Says these names to nobody.
    pub fn new(internal: &Rc<Internal>) -> Self {
        Self { internal: Rc::clone(internal) }
    }

    /// Hands the answer over.
    pub fn finish(&self, mut x: Box<Exchange>, answer: Transformed) -> Emitted {
        x.progress.finish(Instant::now());
        x.progress.enter(Stage::Emit);
        let Transformed(Answered { mut head, body, by }) = answer;
        if by == AnsweredBy::Nobody {
            return Emitted::Disconnect;
        }
        let body = sent(&x.record.method, &mut head, body);
        x.record.status = Some(head.status);
        if x.grpc {
            x.record.grpc = grpc::status(&head.headers);
        }
        let mut response = Response::new(());
        *response.status_mut() = head.status;
        *response.headers_mut() = head.headers;
        match body {
            AnswerBody::Tunnel(tunnel) => Emitted::Switch(response, tunnel, x),
            body => {
                let internal = Rc::clone(&self.internal);
                Emitted::Answer(response.map(|()| EmitBody { body, x, internal, broken: false }))
            }
        }
    }
}

/// What follows the head: nothing where nothing may (RFC 9110 §6.4.1, §9.3.2), whoever has made the answer. An
/// engine would send what it is given.
fn sent(method: &Method, head: &mut ResponseHead, body: AnswerBody) -> AnswerBody {
    let none = [StatusCode::NO_CONTENT, StatusCode::RESET_CONTENT, StatusCode::NOT_MODIFIED];
    match body {
        body @ (AnswerBody::Tunnel(_) | AnswerBody::Empty) => body,
        _ if none.contains(&head.status) => AnswerBody::Empty,
        body if method == Method::HEAD => {
            // As long as it would be.
            if let Some(bytes) = body.size_hint().exact()
                && !body.is_end_stream()
            {
                head.headers.entry(CONTENT_LENGTH).or_insert_with(|| bytes.into());
            }
            AnswerBody::Empty
        }
        body => body,
    }
}

/// An answer's body with the exchange that it ends.
#[derive(Debug)]
pub struct EmitBody {
    body: AnswerBody,
    x: Box<Exchange>,
    internal: Rc<Internal>,
    /// It is a call whose client was told that it broke off.
    broken: bool,
}

impl EmitBody {
    /// What may follow a body (RFC 9110 §6.5.1); how a call ended is noted.
    fn trailers(&mut self, mut fields: HeaderMap) -> Frame<Bytes> {
        hops::trailers(&mut fields, &self.internal);
        if self.x.grpc {
            self.x.record.grpc = grpc::status(&fields);
        }
        Frame::trailers(fields)
    }

    /// A call's client is told in trailers, any other by a body without an end, also a browser inside of a message.
    fn break_off(&mut self, fault: BodyFault) -> Result<Frame<Bytes>, BodyFault> {
        if !self.x.grpc {
            return Err(fault);
        }
        if matches!(self.body, AnswerBody::Enveloped(_)) {
            self.x.record.grpc = grpc::status(&broken_call(fault));
            self.broken = true;
            return Err(fault);
        }
        self.body = AnswerBody::Empty;
        self.broken = true;
        Ok(self.trailers(broken_call(fault)))
    }
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
        match ready!(polled) {
            Some(Ok(frame)) => match frame.into_trailers() {
                Ok(fields) => Poll::Ready(Some(Ok(this.trailers(fields)))),
                Err(frame) => {
                    this.x.record.bytes_out += frame.data_ref().map_or(0, Buf::remaining) as u64;
                    if let (Some(tape), Some(piece)) = (&mut this.x.record.tape, frame.data_ref()) {
                        tape.answer(piece);
                    }
                    if let AnswerBody::Enveloped(body) = &this.body
                        && let Some(end) = body.end()
                    {
                        (this.x.record.grpc, this.broken) = (end.code, end.broken);
                    }
                    Poll::Ready(Some(Ok(frame)))
                }
            },
            Some(Err(fault)) => Poll::Ready(Some(this.break_off(fault))),
            None => {
                if !this.broken {
                    this.x.record.end = End::Complete;
                }
                Poll::Ready(None)
            }
        }
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
        if self.broken {
            return;
        }
        if self.body.is_end_stream() || self.x.record.method == Method::HEAD {
            self.x.record.end = End::Complete;
        }
    }
}
