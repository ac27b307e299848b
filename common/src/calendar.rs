//! Days as dates, and moments as records have them. Not for time zones or for reading dates.
//!
//! Invariant: all dates are UTC, of the Gregorian calendar, from 1970 on.

use std::time::SystemTime;

/// RFC 3339 in UTC with microseconds.
pub fn timestamp(at: SystemTime, out: &mut Vec<u8>) {
    let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let (days, seconds) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    let (year, month, day) = civil(days);
    digits(year, 4, out);
    let fields = [(b'-', month, 2), (b'-', day, 2), (b'T', seconds / 3600, 2)];
    let fields = fields.into_iter().chain([(b':', seconds / 60 % 60, 2), (b':', seconds % 60, 2)]);
    for (mark, value, width) in fields.chain([(b'.', u64::from(since.subsec_micros()), 6)]) {
        out.push(mark);
        digits(value, width, out);
    }
    out.push(b'Z');
}

fn digits(value: u64, width: u32, out: &mut Vec<u8>) {
    for place in (0..width).rev() {
        out.push(b'0' + (value / 10_u64.pow(place) % 10) as u8);
    }
}

/// Year, month and day of a number of days since 1970-01-01: years counted from March, in eras of
/// 400 years, so that the leap day is the last of its year.
pub fn civil(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let (era, of_era) = (shifted / 146_097, shifted % 146_097);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let march_month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    (era * 400 + year + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_become_dates() {
        let cases = [
            (0, (1970, 1, 1)),
            (59, (1970, 3, 1)),
            (11_016, (2000, 2, 29)),
            (20_777, (2026, 11, 20)),
            (47_540, (2100, 2, 28)),
            (47_541, (2100, 3, 1)),
        ];
        for (days, date) in cases {
            assert_eq!(civil(days), date);
        }
    }
}
