//! The body of an answer out of a file, read a piece at a time on threads that may wait. Not for small
//! files: those are read when they are opened. Made by `files`.
//!
//! Invariant: at most one piece is read ahead of what the client has taken; a file that changes
//! meanwhile ends the body as an error, never as a shorter or mixed one.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::task::JoinHandle;

use super::super::held::ranges::{Layout, Span};
use super::open::Opened;
use crate::body::BodyFault;

/// Bytes of a file, with text between them.
#[derive(Debug)]
pub struct FileBody {
    opened: Opened,
    pieces: VecDeque<Piece>,
    /// Bytes that were not handed out yet.
    left: u64,
    reading: Option<JoinHandle<io::Result<Bytes>>>,
}

/// What comes next.
#[derive(Debug)]
enum Piece {
    Text(Bytes),
    Read(Span),
}

impl FileBody {
    /// In this layout.
    pub fn new(opened: Opened, layout: Layout) -> Self {
        let left = layout.length();
        let pieces = layout.pieces.into_iter();
        let pieces = pieces.flat_map(|(text, span)| [Piece::Text(text), Piece::Read(span)]);
        let pieces = pieces.chain([Piece::Text(layout.tail)]);
        let pieces = pieces.filter(|p| !matches!(p, Piece::Text(text) if text.is_empty()));
        Self { opened, pieces: pieces.collect(), left, reading: None }
    }

    /// Begins to read, if a span is next.
    fn read_ahead(&mut self) {
        let Some(Piece::Read(span)) = self.pieces.front_mut() else { return };
        let (from, length) = (span.first, span.length().min(CHUNK));
        if length == span.length() {
            self.pieces.pop_front();
        } else {
            span.first += length;
        }
        let opened = self.opened.share();
        self.reading = Some(tokio::task::spawn_blocking(move || opened.read(from, length)));
    }

    fn hand_out(&mut self, bytes: Bytes) -> Poll<Option<Result<Frame<Bytes>, BodyFault>>> {
        self.left = self.left.saturating_sub(bytes.len() as u64);
        Poll::Ready(Some(Ok(Frame::data(bytes))))
    }
}

/// Bytes that are read at a time.
const CHUNK: u64 = 128 * 1024;

impl Body for FileBody {
    type Data = Bytes;
    type Error = BodyFault;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyFault>>> {
        let this = &mut *self;
        if this.reading.is_none() {
            if let Some(Piece::Text(_)) = this.pieces.front()
                && let Some(Piece::Text(text)) = this.pieces.pop_front()
            {
                return this.hand_out(text);
            }
            this.read_ahead();
        }
        let Some(reading) = &mut this.reading else { return Poll::Ready(None) };
        let read = ready!(Pin::new(reading).poll(cx));
        this.reading = None;
        match read {
            Ok(Ok(bytes)) => {
                this.read_ahead();
                this.hand_out(bytes)
            }
            _ => {
                this.pieces.clear();
                Poll::Ready(Some(Err(BodyFault::Broken)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}
