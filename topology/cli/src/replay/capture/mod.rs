//! Captures as files: the UDP datagrams of a pcap or pcapng file, with their times. Not for who plays
//! which of them (`udp`). Read by `udp`; `tests/fuzz` reads noise with it.
//!
//! Invariant: whatever bytes come, reading ends, and every fault is told with its place in the file.

mod container;
mod headers;

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use self::container::{Frames, Link};

/// One UDP datagram as it was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Datagram {
    /// Since the epoch, or whatever the capture counts from.
    pub(crate) at: Duration,
    pub(crate) from: SocketAddr,
    pub(crate) to: SocketAddr,
    /// What was captured of its bytes.
    pub(crate) payload: Vec<u8>,
    /// How long it was; more than was captured, when the capture cut it.
    pub(crate) length: usize,
}

/// What a capture held.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Capture {
    pub(crate) datagrams: Vec<Datagram>,
    /// Frames that are whole and no UDP datagram.
    pub(crate) other: u64,
    /// Fragments of IP packets: not put together.
    pub(crate) fragments: u64,
    /// Datagrams that the capture cut.
    pub(crate) cut: u64,
    /// Where the file is broken.
    pub(crate) faults: Vec<Fault>,
}

/// A broken place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    /// Bytes from the beginning of the file.
    pub(crate) offset: usize,
    /// Which frame, from 1; 0: before the first.
    pub(crate) frame: u64,
    pub(crate) what: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "byte {} (frame {}): {}", self.offset, self.frame, self.what)
    }
}

/// What one frame is to a replay.
enum Frame {
    Datagram(Datagram),
    Fragment,
    Other,
}

/// So many faults are kept; a file of noise has one per frame.
const MOST_FAULTS: usize = 1000;

/// Reads a whole file; `Err`: it is no capture at all.
///
/// # Errors
/// The file does not begin as a capture does.
pub(crate) fn read(file: &[u8]) -> Result<Capture, Fault> {
    let mut frames = Frames::new(file)?;
    let mut capture = Capture::default();
    while let Some(found) = frames.next() {
        match found.and_then(|raw| headers::read(&raw)) {
            Ok(Frame::Datagram(datagram)) => {
                capture.cut += u64::from(datagram.payload.len() < datagram.length);
                capture.datagrams.push(datagram);
            }
            Ok(Frame::Fragment) => capture.fragments += 1,
            Ok(Frame::Other) => capture.other += 1,
            Err(fault) if capture.faults.len() < MOST_FAULTS => capture.faults.push(fault),
            Err(_) => {}
        }
    }
    capture.datagrams.sort_by_key(|datagram| datagram.at);
    Ok(capture)
}

#[cfg(test)]
mod tests;
