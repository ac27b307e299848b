//! `Date` of answers that have none, made once a second. Not for clocks of policy. Called by
//! `connection` for the HTTP/1.1 engine.
//!
//! Invariant: it is the time of its second, in UTC (RFC 9110 §5.6.7).

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The line of the present second.
#[derive(Debug, Default)]
pub struct Date {
    second: Option<u64>,
    line: String,
}

impl Date {
    /// Writes the line for this moment.
    pub fn write(&mut self, now: SystemTime, out: &mut Vec<u8>) {
        let second = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        if self.second != Some(second) {
            self.second = Some(second);
            let whole = UNIX_EPOCH + Duration::from_secs(second);
            self.line = format!("date: {}\r\n", httpdate::fmt_http_date(whole));
        }
        out.extend_from_slice(self.line.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_has_one_line() {
        let mut date = Date::default();
        let mut at = |millis| {
            let mut out = Vec::new();
            date.write(UNIX_EPOCH + Duration::from_millis(millis), &mut out);
            String::from_utf8(out).expect("text")
        };
        assert_eq!(at(1_000_000_000_500), "date: Sun, 09 Sep 2001 01:46:40 GMT\r\n");
        assert_eq!(at(1_000_000_000_999), at(1_000_000_000_000));
        assert_eq!(at(1_000_000_001_000), "date: Sun, 09 Sep 2001 01:46:41 GMT\r\n");
    }
}
