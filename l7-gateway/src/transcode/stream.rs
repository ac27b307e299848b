//! Messages of a streaming call as lines of JSON, or as a browser's events, as they come. Called by stage 9.
//!
//! Invariant: a stream whose call failed ends with what the service said, and one that broke off without an end of
//! its own is broken off.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame};
use serde_json::json;

use super::answer::{AnswerError, Calling, Messages};
use crate::body::{AnswerBody, BodyFault};

/// A body of lines or events.
#[derive(Debug)]
pub struct Lines {
    inner: AnswerBody,
    calling: Calling,
    messages: Messages,
    ended: bool,
}

impl Lines {
    /// Of a service's answer.
    pub fn new(inner: AnswerBody, calling: Calling) -> Self {
        Self { inner, calling, messages: Messages::default(), ended: false }
    }

    /// The next message as a line or an event.
    fn next(&mut self) -> Result<Option<Bytes>, AnswerError> {
        let Some(message) = self.messages.next(self.calling.most)? else { return Ok(None) };
        let json = self.calling.json(&message)?;
        let parts: [&[u8]; 3] =
            if self.calling.events { [b"data: ", &json, b"\n\n"] } else { [b"", &json, b"\n"] };
        Ok(Some(parts.concat().into()))
    }
}

impl Body for Lines {
    type Data = Bytes;
    type Error = BodyFault;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyFault>>> {
        let this = &mut *self;
        loop {
            if this.ended {
                return Poll::Ready(None);
            }
            match this.next() {
                Ok(Some(line)) => return Poll::Ready(Some(Ok(Frame::data(line)))),
                Ok(None) => {}
                Err(_) => {
                    this.ended = true;
                    return Poll::Ready(Some(Err(BodyFault::Broken)));
                }
            }
            match ready!(Pin::new(&mut this.inner).poll_frame(cx)) {
                None => {
                    // Without trailers nobody knows whether this was all.
                    this.ended = true;
                    return Poll::Ready(Some(Err(BodyFault::Broken)));
                }
                Some(Err(fault)) => {
                    this.ended = true;
                    return Poll::Ready(Some(Err(fault)));
                }
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => this.messages.push(&data),
                    Err(frame) => {
                        this.ended = true;
                        let ending = frame.trailers_ref().and_then(|f| this.calling.ending(f));
                        let Some(ending) = ending.filter(|_| this.messages.is_empty()) else {
                            return Poll::Ready(Some(Err(BodyFault::Broken)));
                        };
                        if ending.code != 0 {
                            let json = json!({ "error": ending.status });
                            let line = if this.calling.events {
                                format!("event: error\ndata: {json}\n\n")
                            } else {
                                format!("{json}\n")
                            };
                            return Poll::Ready(Some(Ok(Frame::data(line.into()))));
                        }
                    }
                },
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.ended
    }
}
