//! Connections of HTTP/2 to somebody outside, for streams that last. Not for services, and not for what
//! the streams say. Called by `discovery`.
//!
//! Invariant: what was sent and is not read yet is bounded, for each stream and for the connection.

use std::error::Error;

use hyper::body::Body;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::task::AbortOnDropHandle;

use super::{FetchError, HttpFetch, Reached};
use crate::tls::client::Roots;

/// A connection of HTTP/2; ends with its handle.
pub struct Lines<B> {
    /// Takes requests, side by side.
    pub sender: http2::SendRequest<B>,
    _driver: AbortOnDropHandle<()>,
}

impl HttpFetch {
    /// As [`trusting`](Self::trusting), for somebody who speaks HTTP/2: at once without TLS, by ALPN with it.
    ///
    /// # Errors
    /// When the address is none, or the authorities cannot be read. Blocking: they are read here.
    pub fn over_http2(address: &str, roots: &Roots) -> Result<Self, FetchError> {
        Self::believing(address, 80, roots, b"h2")
    }

    /// A connection of its own. Cancel safe.
    ///
    /// # Errors
    /// When nobody is there, it is not who it should be, or it speaks something else.
    pub async fn open_http2<B>(&self) -> Result<Lines<B>, FetchError>
    where
        B: Body<Data: Send, Error: Into<Box<dyn Error + Send + Sync>>> + Unpin + Send + 'static,
    {
        match self.connect().await? {
            Reached::Plain(stream) => self.lines(stream).await,
            Reached::Tls(stream) => self.lines(*stream).await,
        }
    }

    async fn lines<S, B>(&self, stream: S) -> Result<Lines<B>, FetchError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        B: Body<Data: Send, Error: Into<Box<dyn Error + Send + Sync>>> + Unpin + Send + 'static,
    {
        let broken = |_| FetchError::Broken { host: self.peer() };
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder
            .initial_stream_window_size(WINDOW)
            .initial_connection_window_size(2 * WINDOW)
            .max_header_list_size(HEADERS);
        let (sender, connection) = builder.handshake(TokioIo::new(stream)).await.map_err(broken)?;
        let driver = tokio::spawn(async move {
            // Its end is seen by the streams.
            let _ended = connection.await;
        });
        Ok(Lines { sender, _driver: AbortOnDropHandle::new(driver) })
    }
}

/// Bytes of a stream that nobody has read yet.
const WINDOW: u32 = 1 << 20;

/// Bytes of headers, or of trailers.
const HEADERS: u32 = 16 << 10;
