//! Answers in a compressed form, as they stream. Not for choosing the form (`coding`). Called by stage 9.
//!
//! Invariant: what a service has sent so far reaches the client when nothing more comes at the moment, so that
//! events of a stream are not held back; an answer that breaks off is never ended as if it were whole.

use std::fmt;
use std::io::{self, Write as _};
use std::pin::Pin;
use std::task::{Context, Poll};

use brotli::CompressorWriter;
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http_body::{Body, Frame};

use super::Coding;
use crate::body::{AnswerBody, BodyFault};
use crate::transform::DIGESTS;

/// A body in a compressed form.
#[derive(Debug)]
pub struct Compressed {
    inner: AnswerBody,
    encoder: Option<Encoder>,
    /// Something was written that has not been flushed.
    held: bool,
    /// What follows the last of the data.
    last: Option<Frame<Bytes>>,
}

/// Bytes that are gathered before they are sent on, while more come.
const PIECE: usize = 16 << 10;

impl Compressed {
    /// `None`: the form cannot be made.
    pub fn new(inner: AnswerBody, coding: Coding) -> Option<Self> {
        Some(Self { inner, encoder: Some(Encoder::new(coding).ok()?), held: false, last: None })
    }

    /// What is ready to be sent.
    fn take(&mut self) -> Option<Frame<Bytes>> {
        let out = std::mem::take(self.encoder.as_mut()?.out());
        (!out.is_empty()).then(|| Frame::data(Bytes::from(out)))
    }

    fn write(&mut self, data: &[u8]) -> io::Result<Option<Frame<Bytes>>> {
        let Some(encoder) = &mut self.encoder else { return Ok(None) };
        encoder.write(data)?;
        self.held = true;
        let full = encoder.out().len() >= PIECE;
        Ok(if full { self.take() } else { None })
    }

    fn flush(&mut self) -> io::Result<Option<Frame<Bytes>>> {
        if !std::mem::take(&mut self.held) {
            return Ok(None);
        }
        if let Some(encoder) = &mut self.encoder {
            encoder.flush()?;
        }
        Ok(self.take())
    }

    /// The rest, and the trailers behind it.
    fn end(&mut self, trailers: Option<Frame<Bytes>>) -> io::Result<Option<Frame<Bytes>>> {
        let Some(encoder) = self.encoder.take() else { return Ok(trailers) };
        let rest = encoder.finish()?;
        if rest.is_empty() {
            return Ok(trailers);
        }
        self.last = trailers;
        Ok(Some(Frame::data(Bytes::from(rest))))
    }
}

impl Body for Compressed {
    type Data = Bytes;
    type Error = BodyFault;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyFault>>> {
        let this = &mut *self;
        loop {
            if this.encoder.is_none() {
                return Poll::Ready(this.last.take().map(Ok));
            }
            let made = match Pin::new(&mut this.inner).poll_frame(cx) {
                Poll::Pending => match this.flush() {
                    Ok(None) => return Poll::Pending,
                    made => made,
                },
                Poll::Ready(None) => this.end(None),
                Poll::Ready(Some(Err(fault))) => {
                    this.encoder = None;
                    return Poll::Ready(Some(Err(fault)));
                }
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) => this.write(&data),
                    Err(trailers) => this.end(behind(trailers)),
                },
            };
            match made {
                Ok(Some(frame)) => return Poll::Ready(Some(Ok(frame))),
                Ok(None) => {}
                Err(_) => {
                    this.encoder = None;
                    return Poll::Ready(Some(Err(BodyFault::Broken)));
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.encoder.is_none() && self.last.is_none()
    }
}

/// What may still be said behind a body that has another form now: not what its bytes are (RFC 9530).
fn behind(trailers: Frame<Bytes>) -> Option<Frame<Bytes>> {
    let mut fields = trailers.into_trailers().ok()?;
    for name in DIGESTS {
        fields.remove(name);
    }
    (!fields.is_empty()).then(|| Frame::trailers(fields))
}

/// One of the forms being written.
enum Encoder {
    Gzip(GzEncoder<Vec<u8>>),
    Brotli(Box<CompressorWriter<Vec<u8>>>),
    Zstd(zstd::stream::write::Encoder<'static, Vec<u8>>),
}

impl Encoder {
    fn new(coding: Coding) -> io::Result<Self> {
        Ok(match coding {
            Coding::Gzip => Self::Gzip(GzEncoder::new(Vec::new(), Compression::new(5))),
            // Window and level such that a stream takes about as much memory as with the others.
            Coding::Brotli => {
                Self::Brotli(Box::new(CompressorWriter::new(Vec::new(), 4096, 4, 18)))
            }
            Coding::Zstd => {
                let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 3)?;
                // RFC 9659: browsers take windows of up to 8 MiB.
                encoder.window_log(18)?;
                Self::Zstd(encoder)
            }
        })
    }

    fn write(&mut self, data: &[u8]) -> io::Result<()> {
        match self {
            Self::Gzip(encoder) => encoder.write_all(data),
            Self::Brotli(encoder) => encoder.write_all(data),
            Self::Zstd(encoder) => encoder.write_all(data),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Gzip(encoder) => encoder.flush(),
            Self::Brotli(encoder) => encoder.flush(),
            Self::Zstd(encoder) => encoder.flush(),
        }
    }

    fn out(&mut self) -> &mut Vec<u8> {
        match self {
            Self::Gzip(encoder) => encoder.get_mut(),
            Self::Brotli(encoder) => encoder.get_mut(),
            Self::Zstd(encoder) => encoder.get_mut(),
        }
    }

    fn finish(self) -> io::Result<Vec<u8>> {
        match self {
            Self::Gzip(encoder) => encoder.finish(),
            Self::Brotli(encoder) => Ok(encoder.into_inner()),
            Self::Zstd(encoder) => encoder.finish(),
        }
    }
}

impl fmt::Debug for Encoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Gzip(_) => "gzip",
            Self::Brotli(_) => "br",
            Self::Zstd(_) => "zstd",
        })
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;

    use super::*;

    /// G13: what a digest says behind a body holds of the bytes that the service sent; the rest is passed on.
    #[test]
    fn digests_are_not_said_behind_another_form() {
        let fields = |lines: &[&'static str]| -> HeaderMap {
            let value = http::HeaderValue::from_static("1");
            lines.iter().map(|name| (http::HeaderName::from_static(name), value.clone())).collect()
        };
        for (lines, left) in [
            (&["x-cost"][..], Some(&["x-cost"][..])),
            (&["repr-digest", "x-cost", "content-digest"], Some(&["x-cost"])),
            (&["digest", "content-md5"], None),
        ] {
            let told = behind(Frame::trailers(fields(lines)));
            let told = told.map(|frame| frame.into_trailers().expect("fields"));
            assert_eq!(told, left.map(fields), "{lines:?}");
        }
    }
}
