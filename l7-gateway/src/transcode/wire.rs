//! A message in the making, as the bytes that are sent: its frame (gRPC, "Length-Prefixed-Message") and its fields (protobuf,
//! "Encoding"). Not for what stands in it: that is `json` and `message`. Called by them.
//!
//! Invariant: it holds what it was given, once, and for each message of 128 bytes or more in it one place of eight bytes.

use bytes::{BufMut as _, Bytes, BytesMut};
use prost::Message as _;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint};
use prost_reflect::DynamicMessage;

/// A message in the making.
#[derive(Debug)]
pub struct Wire {
    /// The frame's head, and what follows without the lengths that `nested` has.
    bytes: Vec<u8>,
    nested: Vec<Nested>,
    /// Bytes that the lengths in `nested` will take.
    grown: usize,
    most: usize,
}

/// A message in it whose length is not written yet.
#[derive(Clone, Copy, Debug)]
struct Nested {
    at: u32,
    length: u32,
}

/// A message in it that has begun.
#[derive(Debug)]
pub struct Open {
    index: usize,
    grown: usize,
}

/// How much there was.
#[derive(Clone, Copy, Debug)]
pub struct Here {
    bytes: usize,
    nested: usize,
    grown: usize,
}

impl Wire {
    /// One of at most so many bytes.
    pub fn new(most: usize, about: usize) -> Self {
        let mut bytes = Vec::with_capacity(HEAD + about.min(ROOM));
        bytes.extend_from_slice(&[0; HEAD]);
        Self { bytes, nested: Vec::new(), grown: 0, most: most.min(LARGEST) }
    }

    /// Whether it is larger than it may be.
    pub fn is_over(&self) -> bool {
        self.length() > self.most
    }

    /// Whether nothing was said.
    pub fn is_empty(&self) -> bool {
        self.length() == 0
    }

    fn length(&self) -> usize {
        self.bytes.len() - HEAD + self.grown
    }

    /// What a field begins with.
    pub fn key(&mut self, field: u32, kind: WireType) {
        encode_key(field, kind, &mut self.bytes);
    }

    /// A number of as many bytes as it needs.
    pub fn varint(&mut self, value: u64) {
        encode_varint(value, &mut self.bytes);
    }

    /// Bytes as they are.
    pub fn put(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Bytes with their length.
    pub fn text(&mut self, bytes: &[u8]) {
        self.varint(bytes.len() as u64);
        self.put(bytes);
    }

    /// A message begins, or whatever else has its length before it.
    pub fn open(&mut self) -> Open {
        let at = u32::try_from(self.bytes.len()).unwrap_or(u32::MAX);
        self.nested.push(Nested { at, length: 0 });
        Open { index: self.nested.len() - 1, grown: self.grown }
    }

    /// It ends, and all that began in it.
    pub fn close(&mut self, open: &Open) {
        let last = open.index + 1 == self.nested.len();
        let Some(nested) = self.nested.get_mut(open.index) else { return };
        let at = nested.at as usize;
        let length = self.bytes.len().saturating_sub(at) + (self.grown - open.grown);
        match u8::try_from(length) {
            // Most are short: their length is put before them at once, and no place of theirs is kept.
            Ok(short) if last && short < 0x80 => {
                self.nested.pop();
                self.bytes.insert(at, short);
            }
            _ => {
                nested.length = u32::try_from(length).unwrap_or(u32::MAX);
                self.grown += encoded_len_varint(length as u64);
            }
        }
    }

    /// For going back.
    pub fn here(&self) -> Here {
        Here { bytes: self.bytes.len(), nested: self.nested.len(), grown: self.grown }
    }

    /// Takes back what was said since.
    pub fn back(&mut self, here: Here) {
        self.bytes.truncate(here.bytes);
        self.nested.truncate(here.nested);
        self.grown = here.grown;
    }

    /// As it is sent, not compressed, with other fields of the same message behind its own.
    pub fn sent(mut self, more: &DynamicMessage) -> Bytes {
        let more_length = more.encoded_len();
        let length = u32::try_from(self.length() + more_length).unwrap_or(u32::MAX).to_be_bytes();
        if let Some(place) = self.bytes.get_mut(1..HEAD) {
            place.copy_from_slice(&length);
        }
        if self.nested.is_empty() {
            self.bytes.reserve_exact(more_length);
            more.encode(&mut self.bytes).expect("invariant: there is room for what was measured");
            return self.bytes.into();
        }
        let mut out = BytesMut::with_capacity(self.bytes.len() + self.grown + more_length);
        let mut rest = self.bytes.as_slice();
        let mut from = 0;
        for nested in &self.nested {
            let at = nested.at as usize;
            let (before, after) = rest.split_at_checked(at - from).unwrap_or((rest, &[]));
            out.put_slice(before);
            encode_varint(u64::from(nested.length), &mut out);
            (rest, from) = (after, at);
        }
        out.put_slice(rest);
        more.encode(&mut out).expect("invariant: there is room for what was measured");
        out.freeze()
    }
}

/// Bytes of a frame's head: whether it is compressed, and its length.
const HEAD: usize = 5;

/// Most bytes that are set aside before it is known how many are needed.
const ROOM: usize = 64 << 10;

/// What a frame's length can say, with room for what is written before its size is looked at.
const LARGEST: usize = 1 << 31;
