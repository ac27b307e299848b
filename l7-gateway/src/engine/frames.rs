//! What an HTTP/2 peer sends, frame by frame (RFC 9113 §4.1), and how much of it may be without use. The
//! library below counts streams, header lists and some resets; here is what it does not count. Not for
//! the frames' meaning. Fed by `watch`.
//!
//! Invariant: pieces do not matter: bytes cut anywhere give the same frames.

use std::time::Duration;

use tokio::time::Instant;

/// The head of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Its type.
    pub kind: u8,
    /// Its flags.
    pub flags: u8,
    /// Bytes of its payload.
    pub length: u32,
    /// Its stream; 0: the connection.
    pub stream: u32,
}

/// Finds frames in one direction of a connection.
#[derive(Debug, Default)]
pub struct Frames {
    preface: usize,
    head: [u8; HEAD],
    filled: usize,
    payload: usize,
}

impl Frames {
    /// Of a client: after its preface (RFC 9113 §3.4).
    pub fn of_client() -> Self {
        Self { preface: 24, ..Self::default() }
    }

    /// Of a server.
    pub fn of_server() -> Self {
        Self::default()
    }

    /// The next bytes; `each` is told of every frame whose head they complete.
    pub fn feed(&mut self, mut bytes: &[u8], mut each: impl FnMut(Frame)) {
        while !bytes.is_empty() {
            if self.preface > 0 || self.payload > 0 {
                let pending = if self.preface > 0 { &mut self.preface } else { &mut self.payload };
                let (passed, rest) = bytes.split_at((*pending).min(bytes.len()));
                *pending -= passed.len();
                bytes = rest;
                continue;
            }
            let (part, rest) = bytes.split_at((HEAD - self.filled).min(bytes.len()));
            if let Some(place) = self.head.get_mut(self.filled..self.filled + part.len()) {
                place.copy_from_slice(part);
            }
            self.filled += part.len();
            bytes = rest;
            if self.filled == HEAD {
                self.filled = 0;
                let [a, b, c, kind, flags, d, e, f, g] = self.head;
                let length = u32::from_be_bytes([0, a, b, c]);
                self.payload = length as usize;
                // The highest bit is reserved.
                let stream = u32::from_be_bytes([d & 0x7f, e, f, g]);
                each(Frame { kind, flags, length, stream });
            }
        }
    }

    /// Whether a frame may begin here.
    pub fn between(&self) -> bool {
        self.preface == 0 && self.filled == 0 && self.payload == 0
    }
}

/// Who is at the other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// It asks.
    Client,
    /// It answers.
    Service,
}

/// What a peer does too much of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Abuse {
    /// It asks and takes back (CVE-2023-44487), or takes back what it was not asked for.
    Resets,
    /// Frames that carry nothing: interim answers of a service, PING, SETTINGS, PRIORITY, WINDOW_UPDATE, CONTINUATION, empty DATA,
    /// unknown types (RFC 9113 §10.5).
    Control,
}

impl Abuse {
    /// The label of its counter.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Resets => "resets",
            Self::Control => "control",
        }
    }
}

/// How much of it one connection has left.
#[derive(Debug)]
pub struct Budget {
    side: Side,
    /// In halves of a reset.
    resets: u32,
    control: u32,
    refilled: Instant,
}

impl Budget {
    /// Full.
    pub fn new(side: Side, now: Instant) -> Self {
        Self { side, resets: MOST_RESETS, control: MOST_CONTROL, refilled: now }
    }

    /// A frame of the peer; `Some`: that was too much.
    pub fn spend(&mut self, frame: Frame, now: Instant) -> Option<Abuse> {
        match frame.kind {
            DATA if frame.length > 0 || frame.flags & END_STREAM != 0 => {
                self.control = (self.control + 1).min(MOST_CONTROL);
                None
            }
            // A client that takes back fewer than half of what it asks for never runs out.
            HEADERS if self.side == Side::Client => {
                self.resets = (self.resets + 1).min(MOST_RESETS);
                None
            }
            RST_STREAM => match self.resets.checked_sub(2) {
                Some(left) => {
                    self.resets = left;
                    None
                }
                None => Some(Abuse::Resets),
            },
            _ => self.control(now),
        }
    }

    /// A frame of ours, and what it allows the peer.
    pub fn said(&mut self, frame: Frame) {
        match (frame.kind, self.side) {
            // It may say that it has room again.
            (DATA, _) => self.control = (self.control + 2).min(MOST_CONTROL),
            // A request: a head, trailers and an interim answer, and it may be refused.
            (HEADERS, Side::Service) => {
                self.control = (self.control + 3).min(MOST_CONTROL);
                self.resets = (self.resets + 2).min(MOST_RESETS);
            }
            _ => {}
        }
    }

    fn control(&mut self, now: Instant) -> Option<Abuse> {
        if self.control == 0 {
            let since = now.saturating_duration_since(self.refilled).min(Duration::from_secs(60));
            let refill = u32::try_from(since.as_millis()).unwrap_or(0) * CONTROL_PER_SECOND / 1000;
            self.control = refill.min(MOST_CONTROL);
            if self.control > 0 {
                self.refilled = now;
            }
        }
        match self.control.checked_sub(1) {
            Some(left) => {
                self.control = left;
                None
            }
            None => Some(Abuse::Control),
        }
    }
}

/// GOAWAY with ENHANCE_YOUR_CALM (RFC 9113 §6.8, §7); `last` is the highest stream that was seen.
pub fn goaway(last: u32) -> [u8; HEAD + 8] {
    let [a, b, c, d] = last.to_be_bytes();
    [0, 0, 8, 7, 0, 0, 0, 0, 0, a, b, c, d, 0, 0, 0, 0x0b]
}

/// Bytes of a frame's head.
const HEAD: usize = 9;

/// Frame types (RFC 9113 §6).
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
/// The first frame of a connection.
pub const SETTINGS: u8 = 4;
/// The end of new streams.
pub const GOAWAY: u8 = 7;

const END_STREAM: u8 = 1;

/// Two hundred resets.
const MOST_RESETS: u32 = 400;

/// Frames without use that may come at once, and each second after that.
const MOST_CONTROL: u32 = 1000;
const CONTROL_PER_SECOND: u32 = 200;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frame(kind: u8, length: u32) -> Frame {
        Frame { kind, flags: 0, length, stream: 1 }
    }

    /// How many frames of these kinds, in turn, pass within a moment.
    fn passed(kinds: &[(u8, u32)]) -> (u32, Option<Abuse>) {
        let now = Instant::now();
        let mut budget = Budget::new(Side::Client, now);
        for (count, &(kind, length)) in kinds.iter().cycle().take(10_000).enumerate() {
            if let Some(abuse) = budget.spend(frame(kind, length), now) {
                return (count as u32, Some(abuse));
            }
        }
        (10_000, None)
    }

    /// G23: who resets all that it asks for is stopped after 400 pairs; who resets every third is not.
    #[tokio::test(start_paused = true)]
    async fn resets_are_bounded() {
        assert_eq!(passed(&[(1, 20), (3, 4)]), (799, Some(Abuse::Resets)));
        assert_eq!(passed(&[(1, 20), (1, 20), (3, 4)]).1, None);
    }

    /// G23: frames without use are stopped after a thousand at once; between data they are not.
    #[tokio::test(start_paused = true)]
    async fn frames_without_use_are_bounded() {
        for kind in [2, 4, 6, 8, 9, 0x77] {
            assert_eq!(passed(&[(kind, 8)]), (1000, Some(Abuse::Control)), "{kind}");
        }
        assert_eq!(passed(&[(0, 0)]), (1000, Some(Abuse::Control)), "empty data");
        assert_eq!(passed(&[(0, 100), (8, 4)]).1, None);
        let now = Instant::now();
        let mut budget = Budget::new(Side::Client, now);
        // Two hundred a second, for ever.
        for second in 0..100 {
            let now = now + Duration::from_secs(second);
            assert!((0..150).all(|_| budget.spend(frame(6, 8), now).is_none()), "{second}");
        }
    }

    /// G23: a service that answers what it is asked never runs out; one that sends interim answers or
    /// resets without end does.
    #[tokio::test(start_paused = true)]
    async fn a_services_frames_are_bounded() {
        let now = Instant::now();
        let mut budget = Budget::new(Side::Service, now);
        for _ in 0..10_000 {
            budget.said(frame(HEADERS, 50));
            for kind in [HEADERS, HEADERS, HEADERS, RST_STREAM] {
                assert_eq!(budget.spend(frame(kind, 20), now), None);
            }
        }
        for (kind, most, abuse) in
            [(HEADERS, 1000, Abuse::Control), (RST_STREAM, 200, Abuse::Resets)]
        {
            let mut budget = Budget::new(Side::Service, now);
            let passed = (0..5000).take_while(|_| budget.spend(frame(kind, 9), now).is_none());
            assert_eq!(passed.count(), most);
            assert_eq!(budget.spend(frame(kind, 9), now), Some(abuse));
        }
    }

    proptest! {
        /// G23: frames are the same however the bytes are cut.
        #[test]
        fn pieces_do_not_matter(
            frames in prop::collection::vec((any::<u8>(), any::<u8>(), 0_u32..40, any::<u32>()), 0..20),
            cuts in prop::collection::vec(1_usize..30, 1..50),
        ) {
            let mut bytes = vec![0; 24];
            let mut expected = Vec::new();
            for (kind, flags, length, stream) in frames {
                bytes.extend_from_slice(&length.to_be_bytes()[1..]);
                bytes.extend_from_slice(&[kind, flags]);
                bytes.extend_from_slice(&stream.to_be_bytes());
                bytes.extend(std::iter::repeat_n(0xaa, length as usize));
                expected.push(Frame { kind, flags, length, stream: stream & 0x7fff_ffff });
            }
            let (mut found, mut parser, mut rest) = (Vec::new(), Frames::of_client(), &bytes[..]);
            for cut in cuts.iter().cycle() {
                let (part, more) = rest.split_at((*cut).min(rest.len()));
                parser.feed(part, |frame| found.push(frame));
                rest = more;
                if rest.is_empty() {
                    break;
                }
            }
            prop_assert!(parser.between());
            prop_assert_eq!(found, expected);
        }
    }
}
