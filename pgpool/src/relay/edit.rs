//! Bytes that pass through, with pieces left out and put in. Not for deciding which. Used by
//! `forward` and `answer`.
//!
//! Invariant: without an edit the result is a slice of the input and nothing was copied.

/// Output made from an input that is read from front to back.
pub struct Edit<'a> {
    input: &'a [u8],
    /// Start of the run that passes and is not copied yet.
    run: usize,
    at: usize,
    out: &'a mut Vec<u8>,
}

impl<'a> Edit<'a> {
    /// Over `input`; edited bytes go to `out`, which must be empty.
    pub fn new(input: &'a [u8], out: &'a mut Vec<u8>) -> Self {
        debug_assert!(out.is_empty(), "left over from another edit");
        Self { input, run: 0, at: 0, out }
    }

    /// What was not looked at yet.
    pub fn rest(&self) -> &'a [u8] {
        self.input.get(self.at..).unwrap_or_default()
    }

    /// How much was looked at.
    pub fn consumed(&self) -> usize {
        self.at
    }

    /// The next `count` bytes go on as they are.
    pub fn pass(&mut self, count: usize) {
        self.at = (self.at + count).min(self.input.len());
    }

    /// The next `count` bytes go no further.
    pub fn skip(&mut self, count: usize) {
        self.flush();
        self.at = (self.at + count).min(self.input.len());
        self.run = self.at;
    }

    /// Puts bytes in at this point.
    pub fn put(&mut self, fill: impl FnOnce(&mut Vec<u8>)) {
        self.flush();
        fill(self.out);
    }

    fn flush(&mut self) {
        self.out.extend_from_slice(self.input.get(self.run..self.at).unwrap_or_default());
        self.run = self.at;
    }

    /// The result.
    pub fn finish(mut self) -> &'a [u8] {
        if self.out.is_empty() {
            self.input.get(self.run..self.at).unwrap_or_default()
        } else {
            self.flush();
            self.out
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_copied_without_an_edit() {
        let mut out = Vec::new();
        let input = b"abcdef";
        let mut edit = Edit::new(input, &mut out);
        edit.skip(1);
        edit.pass(3);
        assert_eq!(edit.finish(), b"bcd");
        assert!(out.is_empty());
    }

    #[test]
    fn pieces_in_and_out() {
        let mut out = Vec::new();
        let mut edit = Edit::new(b"abcdef", &mut out);
        edit.pass(1);
        edit.put(|o| o.extend_from_slice(b"--"));
        edit.skip(2);
        edit.pass(2);
        assert_eq!((edit.consumed(), edit.rest()), (5, &b"f"[..]));
        assert_eq!(edit.finish(), b"a--de");
    }
}
