//! The two file formats: pcap (either byte order, microseconds or nanoseconds) and pcapng
//! (draft-ietf-opsawg-pcap, draft-ietf-opsawg-pcapng). Not for what is inside a frame (`headers`).
//! Used by `capture`.
//!
//! Invariant: each step goes forward in the file or ends the walk.

use std::time::Duration;

use super::Fault;

/// What a frame begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Link {
    /// An Ethernet header.
    Ethernet,
    /// Linux "cooked" capture, first and second version.
    Cooked,
    Cooked2,
    /// An IP header.
    Raw,
    /// A word that names the protocol family, then an IP header (BSD loopback).
    Family,
    /// Something that this program cannot look into.
    Unknown(u32),
}

impl Link {
    /// <https://www.tcpdump.org/linktypes.html>
    fn of(number: u32) -> Self {
        match number {
            1 => Self::Ethernet,
            113 => Self::Cooked,
            276 => Self::Cooked2,
            12 | 14 | 101 | 228 | 229 => Self::Raw,
            0 | 108 => Self::Family,
            other => Self::Unknown(other),
        }
    }
}

/// A frame as it stands in the file.
#[derive(Debug)]
pub(super) struct Raw<'a> {
    pub(super) link: Link,
    pub(super) at: Duration,
    pub(super) bytes: &'a [u8],
    pub(super) offset: usize,
    pub(super) number: u64,
}

impl Raw<'_> {
    /// A fault of this frame.
    pub(super) fn fault(&self, what: impl Into<String>) -> Fault {
        Fault { offset: self.offset, frame: self.number, what: what.into() }
    }
}

/// Walks over the frames of a file.
pub(super) struct Frames<'a> {
    file: &'a [u8],
    at: usize,
    number: u64,
    big: bool,
    kind: Kind,
}

enum Kind {
    Pcap { link: Link, per_second: u32 },
    PcapNg { interfaces: Vec<Interface> },
}

#[derive(Clone, Copy)]
struct Interface {
    link: Link,
    /// Ticks per second.
    resolution: u64,
    /// Seconds to add.
    offset: i64,
}

/// No frame is longer; a greater length is a broken file (libpcap's own bound).
const LONGEST: usize = 256 << 10;
const SECTION: u32 = 0x0a0d_0d0a;

impl<'a> Frames<'a> {
    /// Looks at the file's beginning.
    pub(super) fn new(file: &'a [u8]) -> Result<Self, Fault> {
        let no = |what: &str| Fault { offset: 0, frame: 0, what: what.to_owned() };
        let magic = word(file, 0, true)
            .ok_or_else(|| no("the file is empty or shorter than any capture's beginning"))?;
        let (big, per_second) = match magic {
            SECTION => {
                let kind = Kind::PcapNg { interfaces: Vec::new() };
                return Ok(Self { file, at: 0, number: 0, big: true, kind });
            }
            0xa1b2_c3d4 => (true, 1_000_000),
            0xd4c3_b2a1 => (false, 1_000_000),
            0xa1b2_3c4d => (true, 1_000_000_000),
            0x4d3c_b2a1 => (false, 1_000_000_000),
            _ => return Err(no("neither pcap nor pcapng begins like this")),
        };
        let link = word(file, 20, big).ok_or_else(|| no("the pcap header is cut off"))?;
        // The upper half says whether frames end in a checksum.
        let kind = Kind::Pcap { link: Link::of(link & 0xffff), per_second };
        Ok(Self { file, at: 24, number: 0, big, kind })
    }

    /// The next frame; a fault that hides where the next one begins is the last.
    pub(super) fn next(&mut self) -> Option<Result<Raw<'a>, Fault>> {
        loop {
            if self.at >= self.file.len() {
                return None;
            }
            let step = match self.kind {
                Kind::Pcap { link, per_second } => self.record(link, per_second).map(Some),
                Kind::PcapNg { .. } => self.block(),
            };
            match step {
                Ok(Some(raw)) => return Some(Ok(raw)),
                Ok(None) => {}
                Err(fault) => return Some(Err(fault)),
            }
        }
    }

    fn fault(&self, offset: usize, what: impl Into<String>) -> Fault {
        Fault { offset, frame: self.number, what: what.into() }
    }

    /// Ends the walk: where the next frame begins is unknown.
    fn lost(&mut self, what: &str) -> Fault {
        let offset = std::mem::replace(&mut self.at, self.file.len());
        self.fault(offset, format!("{what}; the rest cannot be read"))
    }

    fn word(&self, at: usize) -> Option<u32> {
        word(self.file, at, self.big)
    }

    /// A record of a pcap file.
    fn record(&mut self, link: Link, per_second: u32) -> Result<Raw<'a>, Fault> {
        self.number += 1;
        let start = self.at;
        let [seconds, fraction, length] = [0, 4, 8].map(|at| self.word(start + at));
        let (Some(seconds), Some(fraction), Some(length), Some(_)) =
            (seconds, fraction, length, self.word(start + 12))
        else {
            return Err(self.lost("the record's header is cut off"));
        };
        if length as usize > LONGEST {
            return Err(self.lost(&format!("a record of {length} bytes")));
        }
        let Some(bytes) = self.file.get(start + 16..start + 16 + length as usize) else {
            return Err(self.lost("the record is cut off"));
        };
        self.at = start + 16 + bytes.len();
        let ticks = u64::from(seconds) * u64::from(per_second) + u64::from(fraction);
        let at = ticks_to_time(ticks, per_second.into(), 0);
        Ok(Raw { link, at, bytes, offset: start, number: self.number })
    }

    /// A block of a pcapng file; `None`: one that is no packet.
    fn block(&mut self) -> Result<Option<Raw<'a>>, Fault> {
        let start = self.at;
        let kind = self.word(start);
        if kind == Some(SECTION) {
            // Its own byte order, by its mark.
            self.big = match word(self.file, start + 8, true) {
                Some(0x1a2b_3c4d) => true,
                Some(0x4d3c_2b1a) => false,
                _ => return Err(self.lost("a section without its byte order")),
            };
        }
        let (Some(kind), Some(length)) = (kind, self.word(start + 4)) else {
            return Err(self.lost("the block's header is cut off"));
        };
        let length = length as usize;
        if length < 12 || !length.is_multiple_of(4) {
            return Err(self.lost(&format!("a block of {length} bytes")));
        }
        let end = start.saturating_add(length);
        let Some(body) = self.file.get(start + 8..end.saturating_sub(4)) else {
            return Err(self.lost("the block is cut off"));
        };
        if self.word(end - 4) != Some(length as u32) {
            return Err(self.lost("the block's two lengths differ"));
        }
        self.at = end;
        self.read_block(kind, body, start)
    }

    fn read_block(
        &mut self,
        kind: u32,
        body: &'a [u8],
        start: usize,
    ) -> Result<Option<Raw<'a>>, Fault> {
        let big = self.big;
        let Kind::PcapNg { interfaces } = &mut self.kind else { return Ok(None) };
        match kind {
            SECTION => interfaces.clear(),
            1 => match interface(body, big) {
                Some(interface) => interfaces.push(interface),
                None => return Err(self.fault(start, "an interface without a link type")),
            },
            2 | 3 | 6 => {
                self.number += 1;
                let raw = packet(kind, body, big, interfaces).map(|(link, at, bytes)| Raw {
                    link,
                    at,
                    bytes,
                    offset: start,
                    number: self.number,
                });
                return match raw {
                    Ok(raw) => Ok(Some(raw)),
                    Err(what) => Err(self.fault(start, what)),
                };
            }
            _ => {}
        }
        Ok(None)
    }
}

/// A packet block: enhanced (6), simple (3) or the obsolete one (2).
fn packet<'a>(
    kind: u32,
    body: &'a [u8],
    big: bool,
    interfaces: &[Interface],
) -> Result<(Link, Duration, &'a [u8]), &'static str> {
    let cut = "the packet block is cut off";
    let at = |at| word(body, at, big).ok_or(cut);
    let (number, stamped, from) = match kind {
        6 => (at(0)?, true, 20),
        2 => (u32::from(half(body, 0, big).ok_or(cut)?), true, 20),
        _ => (0, false, 4),
    };
    let interface = usize::try_from(number).ok().and_then(|n| interfaces.get(n));
    let interface = interface.ok_or("a packet of an interface that was not described")?;
    let held = body.len().saturating_sub(from);
    let length = if stamped { at(12)? as usize } else { held.min(at(0)? as usize) };
    let time = if stamped {
        let ticks = u64::from(at(4)?) << 32 | u64::from(at(8)?);
        ticks_to_time(ticks, interface.resolution, interface.offset)
    } else {
        Duration::ZERO
    };
    let bytes = body.get(from..from + length).ok_or("a packet longer than its block")?;
    Ok((interface.link, time, bytes))
}

/// An interface description block.
fn interface(body: &[u8], big: bool) -> Option<Interface> {
    let link = Link::of(half(body, 0, big)?.into());
    let mut found = Interface { link, resolution: 1_000_000, offset: 0 };
    let mut at = 8;
    while let (Some(code), Some(length)) = (half(body, at, big), half(body, at + 2, big)) {
        let length = usize::from(length);
        let value = body.get(at + 4..at + 4 + length).unwrap_or_default();
        match (code, value) {
            (0, _) => break,
            (9, [exponent]) => found.resolution = resolution(*exponent).unwrap_or(1_000_000),
            (14, value) => {
                let high = word(value, 0, big).map(u64::from);
                let low = word(value, 4, big).map(u64::from);
                if let (Some(first), Some(second)) = (high, low) {
                    let (high, low) = if big { (first, second) } else { (second, first) };
                    found.offset = (high << 32 | low).cast_signed();
                }
            }
            _ => {}
        }
        at += 4 + length.next_multiple_of(4);
    }
    Some(found)
}

/// `if_tsresol`: a power of ten, or of two when the highest bit is set.
fn resolution(exponent: u8) -> Option<u64> {
    let base: u64 = if exponent & 0x80 == 0 { 10 } else { 2 };
    base.checked_pow(u32::from(exponent & 0x7f))
}

fn ticks_to_time(ticks: u64, per_second: u64, offset: i64) -> Duration {
    let per_second = per_second.max(1);
    let rest = u128::from(ticks % per_second) * 1_000_000_000 / u128::from(per_second);
    let seconds = (ticks / per_second).saturating_add_signed(offset).min(MOST_SECONDS);
    Duration::new(seconds, u32::try_from(rest).unwrap_or(0))
}

/// Times stay sums and differences of each other without overflow.
const MOST_SECONDS: u64 = 1 << 40;

fn word(bytes: &[u8], at: usize, big: bool) -> Option<u32> {
    let four = bytes.get(at..)?.first_chunk()?;
    Some(if big { u32::from_be_bytes(*four) } else { u32::from_le_bytes(*four) })
}

fn half(bytes: &[u8], at: usize, big: bool) -> Option<u16> {
    let two = bytes.get(at..)?.first_chunk()?;
    Some(if big { u16::from_be_bytes(*two) } else { u16::from_le_bytes(*two) })
}
