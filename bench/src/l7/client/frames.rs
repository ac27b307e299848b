//! Frames of HTTP/2 (RFC 9113) written by hand, lawful and not. Not for reading answers beyond their
//! end.
//!
//! Invariant: header blocks use literals and the static table alone, so no state is kept.

use anyhow::{Result, ensure};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

pub(super) const DATA: u8 = 0;
pub(super) const HEADERS: u8 = 1;
pub(super) const RST_STREAM: u8 = 3;
pub(super) const SETTINGS: u8 = 4;
pub(super) const PING: u8 = 6;
pub(super) const GOAWAY: u8 = 7;
pub(super) const WINDOW_UPDATE: u8 = 8;
pub(super) const CONTINUATION: u8 = 9;
pub(super) const END_STREAM: u8 = 1;
pub(super) const END_HEADERS: u8 = 4;

/// The client's preface (RFC 9113 §3.4) with empty settings.
pub(super) fn preface() -> Vec<u8> {
    let mut out = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    out.extend(frame(SETTINGS, 0, 0, &[]));
    out
}

/// One frame (RFC 9113 §4.1).
pub(super) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX).to_be_bytes();
    let mut out = length[1..].to_vec();
    out.extend([kind, flags]);
    out.extend(stream.to_be_bytes());
    out.extend(payload);
    out
}

/// The header block of a request; a `POST` has a body to come.
pub(super) fn block(post: bool) -> Vec<u8> {
    // Indexed: :method, :scheme https (RFC 7541 appendix A).
    let mut out = vec![if post { 0x83 } else { 0x82 }, 0x87];
    // Literal without indexing, name indexed: :path, :authority.
    for (name, value) in [(4, "/api/user/profile"), (1, "api.example")] {
        out.push(name);
        out.push(value.len() as u8);
        out.extend(value.as_bytes());
    }
    out
}

/// A field as a literal with a name of its own; `value` has fewer than 16 510 bytes.
pub(super) fn field(name: &str, value: &[u8]) -> Vec<u8> {
    let mut out = vec![0, name.len() as u8];
    out.extend(name.as_bytes());
    match value.len() {
        short @ ..127 => out.push(short as u8),
        // RFC 7541 §5.1: a prefix of ones, then seven bits each.
        long => {
            let rest = long - 127;
            out.extend([127, 128 | (rest & 127) as u8, (rest >> 7) as u8]);
        }
    }
    out.extend(value);
    out
}

/// A whole request without a body.
pub(super) fn request(stream: u32) -> Vec<u8> {
    frame(HEADERS, END_HEADERS | END_STREAM, stream, &block(false))
}

/// Begins a connection, asks once and reads to the answer's end.
pub(super) async fn ask<IO>(io: &mut IO) -> Result<()>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    io.write_all(&[preface(), request(1)].concat()).await?;
    io.flush().await?;
    loop {
        let (kind, flags, stream) = next(io).await?;
        ensure!(kind != GOAWAY && kind != RST_STREAM, "refused");
        if kind == SETTINGS && flags == 0 {
            io.write_all(&frame(SETTINGS, 1, 0, &[])).await?;
            io.flush().await?;
        }
        if stream == 1 && matches!(kind, DATA | HEADERS) && flags & END_STREAM > 0 {
            return Ok(());
        }
    }
}

/// Kind, flags and stream of the next frame, whose payload is thrown away.
pub(super) async fn next<IO: AsyncRead + Unpin>(io: &mut IO) -> Result<(u8, u8, u32)> {
    let mut head = [0; 9];
    io.read_exact(&mut head).await?;
    let [a, b, c, kind, flags, stream @ ..] = head;
    let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
    io.read_exact(&mut payload).await?;
    Ok((kind, flags, u32::from_be_bytes(stream) & 0x7fff_ffff))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_have_the_standards_form() {
        assert_eq!(frame(PING, 1, 0, &[7; 8])[..9], [0, 0, 8, 6, 1, 0, 0, 0, 0]);
        let block = block(false);
        assert_eq!(block[..4], [0x82, 0x87, 4, 17]);
        let field = field("x", &[b'a'; 300]);
        assert_eq!(field[..6], [0, 1, b'x', 127, 128 | 45, 1], "127 + 45 + 128");
    }
}
