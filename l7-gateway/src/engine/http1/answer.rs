//! An answer's way to the client: how its body is framed, and its bytes as they come. Not for what it
//! says: the pipeline has made it. Called by `http1`.
//!
//! Invariant: an answer whose body breaks off never looks whole: its length is not reached, its last
//! chunk is missing, and the connection ends by a reset, which no close-delimited body ends with.

use std::cell::RefCell;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use common::net::relay::Wire;
use http::{HeaderMap, Method, Response, StatusCode, Version, header};
use http_body::{Body as _, Frame};

use super::client::{Came, Client};
use crate::codec::Persistence;
use crate::codec::response::bodiless;
use crate::codec::write::{self, Framing};
use crate::connection::Line;
use crate::stages::emit::EmitBody;

/// What the answer depends on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked {
    head: bool,
    version: Version,
    persistence: Persistence,
    /// The client takes fields behind the body (RFC 9110 §6.5.1).
    trailers: bool,
}

/// What comes after an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum After {
    /// The next request.
    Next,
    /// The end, after a farewell.
    Close,
    /// The end, at once.
    Abort,
}

impl Asked {
    pub(super) fn new(came: &Came) -> Self {
        let Ok(head) = came else {
            let (version, persistence) = (Version::HTTP_11, Persistence::Close);
            return Self { head: false, version, persistence, trailers: false };
        };
        let (version, persistence) = (head.parts.version, head.persistence);
        let trailers = version == Version::HTTP_11 && takes_trailers(&head.parts.headers);
        Self { head: head.parts.method == Method::HEAD, version, persistence, trailers }
    }

    /// Whether an answer of this status is all head.
    fn bodiless(self, status: StatusCode) -> bool {
        bodiless(if self.head { &Method::HEAD } else { &Method::GET }, status)
    }

    fn framing(self, response: &Response<EmitBody>) -> Framing {
        let bodiless = self.bodiless(response.status());
        let told = || response.headers().contains_key(header::CONTENT_LENGTH);
        match (response.status(), response.body().size_hint().exact()) {
            (StatusCode::NO_CONTENT, _) => Framing::Silent,
            (StatusCode::NOT_MODIFIED, _) => Framing::AsTold,
            _ if bodiless && told() => Framing::AsTold,
            (_, Some(0) | None) if bodiless => Framing::Silent,
            (_, Some(bytes)) => Framing::Exact(bytes),
            (_, None) if self.version == Version::HTTP_11 => Framing::Chunked,
            (_, None) => Framing::Silent,
        }
    }
}

fn takes_trailers(headers: &HeaderMap) -> bool {
    let values = headers.get_all(header::TE).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|one| one.trim().eq_ignore_ascii_case("trailers"))
}

/// Sends it. Dropping the future ends the connection in the middle of it.
pub(super) async fn send<IO>(
    client: &Rc<RefCell<Client<IO>>>,
    line: &Line,
    asked: Asked,
    response: Response<EmitBody>,
    leaving: bool,
) -> After
where
    IO: Wire,
{
    let framing = asked.framing(&response);
    let bodiless = asked.bodiless(response.status());
    let (mut head, body) = response.into_parts();
    let refused = head.headers.remove(header::CONNECTION).is_some_and(|v| v == "close");
    // Nobody reads what is left of the request: its answer is the connection's last.
    let unread = || Rc::strong_count(client) == 1 && !client.borrow_mut().discard();
    let ends = framing == Framing::Silent && !bodiless;
    let close = refused || leaving || ends || asked.persistence == Persistence::Close || unread();
    {
        let mut client = client.borrow_mut();
        client.answering();
        let dated = head.headers.contains_key(header::DATE);
        let lines = |out: &mut Vec<u8>| {
            match (close, asked.version) {
                (true, _) => out.extend_from_slice(b"connection: close\r\n"),
                (false, Version::HTTP_10) => out.extend_from_slice(b"connection: keep-alive\r\n"),
                (false, _) => {}
            }
            if !dated {
                line.date(out);
            }
        };
        write::response(client.link.output(), head.status, &head.headers, framing, lines);
    }
    let left = match framing {
        Framing::Exact(bytes) if !bodiless => bytes,
        _ => 0,
    };
    let phase = if bodiless { Phase::Whole } else { Phase::Body };
    let mut sending =
        Sending { client, line, body, framing, left, phase, takes: asked.trailers, fields: None };
    let sent = poll_fn(|cx| sending.poll(cx)).await;
    drop(sending);
    match sent {
        Err(Broken) => After::Abort,
        Ok(()) if close || !client.borrow().is_done() => After::Close,
        Ok(()) => After::Next,
    }
}

/// The answer cannot be finished.
#[derive(Debug)]
struct Broken;

/// How far it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// More of its body is to come.
    Body,
    /// All of it has been put.
    Whole,
    /// It broke off; what there is may still leave.
    Broken,
}

/// An answer on its way, its head put already.
struct Sending<'a, IO: Wire> {
    client: &'a Rc<RefCell<Client<IO>>>,
    line: &'a Line,
    body: EmitBody,
    framing: Framing,
    /// Bytes that are owed of a body whose length was told.
    left: u64,
    phase: Phase,
    /// Whether the client takes fields behind the body.
    takes: bool,
    fields: Option<HeaderMap>,
}

impl<IO: Wire> Sending<'_, IO> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        while self.phase == Phase::Body {
            if self.client.borrow().link.is_full() {
                ready!(self.poll_flush(cx))?;
            }
            // Not within a borrow: the service may be reading the request while it answers.
            match Pin::new(&mut self.body).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => self.add(frame),
                Poll::Ready(Some(Err(_))) => self.phase = Phase::Broken,
                Poll::Ready(None) => self.finish(),
                Poll::Pending => {
                    ready!(self.poll_flush(cx))?;
                    ready!(self.client.borrow_mut().poll_gone(cx, &mut self.line.scratch()));
                    return Poll::Ready(Err(Broken));
                }
            }
        }
        ready!(self.poll_flush(cx))?;
        Poll::Ready(if self.phase == Phase::Whole { Ok(()) } else { Err(Broken) })
    }

    fn add(&mut self, frame: Frame<Bytes>) {
        let data = match frame.into_data() {
            Ok(data) => data,
            Err(frame) => {
                self.fields = frame.into_trailers().ok().filter(|_| self.takes);
                return;
            }
        };
        if data.is_empty() {
            return;
        }
        let link = &mut self.client.borrow_mut().link;
        let size = data.len();
        match self.framing {
            Framing::Chunked => {
                write::chunk(link.output(), size);
                link.put(data, b"\r\n");
            }
            Framing::Exact(_) => match self.left.checked_sub(size as u64) {
                Some(left) => {
                    self.left = left;
                    link.put(data, b"");
                    if left == 0 {
                        self.phase = Phase::Whole;
                    }
                }
                // More than was told would be read as the next answer.
                None => self.phase = Phase::Broken,
            },
            Framing::Silent | Framing::AsTold => link.put(data, b""),
        }
    }

    fn finish(&mut self) {
        self.phase = if self.left > 0 { Phase::Broken } else { Phase::Whole };
        if self.framing == Framing::Chunked {
            let link = &mut self.client.borrow_mut().link;
            write::trailers(link.output(), self.fields.as_ref());
        }
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        self.client.borrow_mut().link.poll_flush(cx).map_err(|_| Broken)
    }
}

impl<IO: Wire> Drop for Sending<'_, IO> {
    fn drop(&mut self) {
        let link = &mut self.client.borrow_mut().link;
        if self.phase != Phase::Whole || link.has_output() {
            link.abort();
        }
    }
}
