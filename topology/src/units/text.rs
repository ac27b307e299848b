//! The units' text forms, both ways. No place and no file here: the reader of the field adds them.
//! Called by `raw`; the gateway and the tool may use them for what they show.
//!
//! Invariant: parsing what was displayed gives the same value; no text makes it panic.

use std::borrow::Cow;
use std::fmt;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use crate::l4::ListenAt;
use crate::units::{
    Calendar, Day, HostPattern, PathPattern, Percent, Quota, Rate, Scope, SecretRef, Weight,
};

/// Why a text is no value of a unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnitError {
    /// What is wrong with it; never quotes a secret.
    pub what: String,
    /// What would be right.
    pub allowed: Cow<'static, str>,
    /// What was probably meant.
    pub hint: Option<String>,
}

impl UnitError {
    pub(crate) fn new(what: impl Into<String>, allowed: impl Into<Cow<'static, str>>) -> Self {
        Self { what: what.into(), allowed: allowed.into(), hint: None }
    }

    /// Names the text that was probably meant.
    pub(crate) fn meant(self, text: impl fmt::Display) -> Self {
        Self { hint: Some(format!("did you mean `{text}`?")), ..self }
    }
}

impl fmt::Display for UnitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; allowed: {}", self.what, self.allowed)
    }
}

impl std::error::Error for UnitError {}

/// A token (RFC 9110 §5.6.2): names of headers and methods are.
pub(crate) fn is_token(text: &str) -> bool {
    let lawful = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    !text.is_empty() && text.bytes().all(lawful)
}

/// A length of time as written: `250ms`, `5s`, `2m`, `1h`, `1d`; whole numbers, at most 366 days.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Time(pub Duration);

/// Units of time in milliseconds, the largest first.
const TIMES: [(&str, u64); 5] =
    [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

/// The longest time in milliseconds.
const LONGEST: u64 = 366 * 86_400_000;

/// What may be written for a time.
pub(crate) const TIME: &str = "a whole number with a unit: 250ms, 5s, 2m, 1h, 1d";

impl FromStr for Time {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let (digits, unit) = split_number(text);
        let wrong = |what: String| UnitError::new(what, TIME);
        let count: u64 =
            digits.parse().map_err(|_| wrong(format!("`{text}` is no length of time")))?;
        if unit.is_empty() {
            return Err(wrong(format!("`{text}` has no unit")).meant(format_args!("{text}s")));
        }
        let Some((_, millis)) = TIMES.iter().find(|(name, _)| *name == unit) else {
            let error = wrong(format!("`{unit}` is no unit of time"));
            return Err(match time_word(unit) {
                Some(known) => error.meant(format_args!("{digits}{known}")),
                None => error,
            });
        };
        match count.checked_mul(*millis) {
            Some(total) if total <= LONGEST => Ok(Self(Duration::from_millis(total))),
            _ => Err(UnitError::new(format!("`{text}` is too long"), "at most 366d")),
        }
    }
}

/// The unit behind a common other spelling.
fn time_word(unit: &str) -> Option<&'static str> {
    match unit.trim().to_ascii_lowercase().as_str() {
        "sec" | "secs" | "second" | "seconds" | "s" => Some("s"),
        "min" | "mins" | "minute" | "minutes" | "m" => Some("m"),
        "hr" | "hrs" | "hour" | "hours" | "h" => Some("h"),
        "day" | "days" | "d" => Some("d"),
        "msec" | "millis" | "milliseconds" | "ms" => Some("ms"),
        _ => None,
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = self.0.as_millis();
        let fits = |unit: u64| millis != 0 && millis.is_multiple_of(u128::from(unit));
        match TIMES.iter().find(|(_, unit)| fits(*unit)) {
            Some((name, unit)) => write!(f, "{}{name}", millis / u128::from(*unit)),
            None => f.write_str("0s"),
        }
    }
}

/// A number of bytes as written: `512B`, `64KiB`, `10MiB`, `1GiB`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

/// Units of size, the largest first.
const SIZES: [(&str, u64); 4] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

/// What may be written for a size.
pub(crate) const SIZE: &str = "a whole number with a unit: 512B, 64KiB, 10MiB, 1GiB";

impl FromStr for Size {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let (digits, unit) = split_number(text);
        let wrong = |what: String| UnitError::new(what, SIZE);
        let count: u64 = digits.parse().map_err(|_| wrong(format!("`{text}` is no size")))?;
        if unit.is_empty() {
            return Err(wrong(format!("`{text}` has no unit")).meant(format_args!("{text}B")));
        }
        let Some((_, bytes)) = SIZES.iter().find(|(name, _)| *name == unit) else {
            let error = wrong(format!("`{unit}` is no unit of size"));
            let first = unit.trim().chars().next().map(|c| c.to_ascii_uppercase());
            return Err(match SIZES.iter().find(|(name, _)| name.chars().next() == first) {
                Some((known, _)) => error.meant(format_args!("{digits}{known}")),
                None => error,
            });
        };
        count
            .checked_mul(*bytes)
            .filter(|total| *total <= 1 << 50)
            .map(Self)
            .ok_or_else(|| UnitError::new(format!("`{text}` is too large"), "less than 1024 TiB"))
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match SIZES.iter().find(|(_, unit)| self.0 != 0 && self.0.is_multiple_of(*unit)) {
            Some((name, unit)) => write!(f, "{}{name}", self.0 / unit),
            None => f.write_str("0B"),
        }
    }
}

/// Leading digits and the rest.
fn split_number(text: &str) -> (&str, &str) {
    text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()))
}

/// What may be written for a rate.
pub(crate) const RATE: &str = "a count, a slash and a time: 10/s, 100/min, 5000/h, 20000/d";

impl FromStr for Rate {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let wrong = |what: String| UnitError::new(what, RATE);
        let Some((count, per)) = text.split_once('/') else {
            let error = wrong(format!("`{text}` does not say within which time"));
            let bare = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
            return Err(if bare { error.meant(format_args!("{text}/s")) } else { error });
        };
        let count: u32 = count.parse().map_err(|_| wrong(format!("`{count}` is no count")))?;
        let count = NonZeroU32::new(count)
            .ok_or_else(|| wrong("a rate of 0 lets nothing through".to_owned()))?;
        let seconds = match per {
            "s" => 1,
            "min" => 60,
            "h" => 3_600,
            "d" => 86_400,
            _ => {
                let error = wrong(format!("`{per}` is no time of a rate"));
                return Err(match time_word(per) {
                    Some("m") => error.meant(format_args!("{count}/min")),
                    Some(known) => error.meant(format_args!("{count}/{known}")),
                    None => error,
                });
            }
        };
        Ok(Self { count, per: Duration::from_secs(seconds) })
    }
}

/// What may be written for a quota.
pub(crate) const QUOTA: &str = "a count, a slash and what it is for: 1000/d, 100000/month";

impl FromStr for Quota {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let wrong = || UnitError::new(format!("`{text}` is no quota"), QUOTA);
        let (count, per) = text.split_once('/').ok_or_else(wrong)?;
        let count = count.parse::<NonZeroU32>().map_err(|_| wrong())?;
        let per = match per {
            "d" => Calendar::Day,
            "month" => Calendar::Month,
            _ => return Err(wrong()),
        };
        Ok(Self { count, per })
    }
}

impl fmt::Display for Quota {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let per = match self.per {
            Calendar::Day => "d",
            Calendar::Month => "month",
        };
        write!(f, "{}/{per}", self.count)
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.per.as_secs() {
            1 => write!(f, "{}/s", self.count),
            60 => write!(f, "{}/min", self.count),
            3_600 => write!(f, "{}/h", self.count),
            86_400 => write!(f, "{}/d", self.count),
            _ => write!(f, "{}/{}", self.count, Time(self.per)),
        }
    }
}

impl FromStr for Weight {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        const ALLOWED: &str = "a whole number from 1 to 1000";
        match text.parse::<u16>() {
            Ok(weight @ 1..=1000) => Ok(Self(weight)),
            Ok(0) => Err(UnitError::new("a weight of 0 gets no traffic", ALLOWED)),
            Ok(_) => Err(UnitError::new(format!("{text} is over 1000"), ALLOWED)),
            Err(_) => Err(UnitError::new(format!("`{text}` is no weight"), ALLOWED)),
        }
    }
}

impl fmt::Display for Weight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Scope {
    type Err = UnitError;

    /// RFC 6749 §3.3: `scope-token = 1*( %x21 / %x23-5B / %x5D-7E )`.
    fn from_str(text: &str) -> Result<Self, UnitError> {
        const ALLOWED: &str = "printable ASCII without space, \" and \\ (RFC 6749 §3.3)";
        let lawful = |b: u8| b.is_ascii_graphic() && b != b'"' && b != b'\\';
        if !text.is_empty() && text.bytes().all(lawful) {
            return Ok(Self::new(text));
        }
        let error = UnitError::new(format!("`{text}` is no scope"), ALLOWED);
        let words: Vec<&str> = text.split_whitespace().collect();
        let several = words.len() > 1;
        Err(if several { error.meant(format_args!("[{}]", words.join(", "))) } else { error })
    }
}

impl FromStr for SecretRef {
    type Err = UnitError;

    /// The path stays as it is written. The text is never quoted in an error: it may be a secret.
    fn from_str(text: &str) -> Result<Self, UnitError> {
        const ALLOWED: &str = "file:PATH or env:NAME";
        let name = |c: char| c.is_ascii_alphanumeric() || c == '_';
        match text.split_once(':') {
            Some(("file", path)) if !path.trim().is_empty() && !path.contains('\0') => {
                Ok(Self::File(PathBuf::from(path.trim_start())))
            }
            Some(("env", variable))
                if variable.chars().all(name)
                    && variable.starts_with(|c: char| !c.is_ascii_digit()) =>
            {
                Ok(Self::Env(variable.to_owned()))
            }
            Some(("file", _)) => Err(UnitError::new("`file:` names no path", ALLOWED)),
            Some(("env", _)) => {
                Err(UnitError::new("what follows `env:` is no name of a variable", ALLOWED))
            }
            _ => Err(UnitError::new("this is no reference to a file or variable", ALLOWED)),
        }
    }
}

impl fmt::Display for SecretRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "file:{}", path.display()),
            Self::Env(name) => write!(f, "env:{name}"),
            Self::Given(_) => f.write_str("***"),
        }
    }
}

impl FromStr for Day {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        const ALLOWED: &str = "a day as YEAR-MONTH-DAY, 2027-06-30, from 1970 to 9999";
        let wrong = |what: String| UnitError::new(what, ALLOWED);
        let parts: Vec<&str> = text.split('-').collect();
        let [year, month, day] = parts.as_slice() else {
            return Err(wrong(format!("`{text}` is no day")));
        };
        let digits = |part: &str, length: usize| {
            (part.len() == length && part.bytes().all(|b| b.is_ascii_digit()))
                .then(|| part.parse::<u16>().ok())
                .flatten()
        };
        let (Some(year), Some(month), Some(day)) =
            (digits(year, 4), digits(month, 2), digits(day, 2))
        else {
            return Err(wrong(format!("`{text}` is no day")));
        };
        let (month, day) = (u8::try_from(month).unwrap_or(0), u8::try_from(day).unwrap_or(0));
        if year < 1970 || !(1..=12).contains(&month) {
            return Err(wrong(format!("`{text}` is not in the calendar")));
        }
        let last = days_of(year, month);
        if day == 0 || day > last {
            let what = format!("month {month} of {year} has no day {day}");
            return Err(wrong(what).meant(Self { year, month, day: last }));
        }
        Ok(Self { year, month, day })
    }
}

/// How many days a month has.
fn days_of(year: u16, month: u8) -> u8 {
    let leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    match month {
        2 if leap => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

impl fmt::Display for Day {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04}-{:02}-{:02}", self.year, self.month, self.day)
    }
}

impl FromStr for Percent {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let wrong = |what: String| UnitError::new(what, PERCENT);
        let Some(digits) = text.strip_suffix('%') else {
            let error = wrong(format!("`{text}` has no percent sign"));
            return Err(if text.parse::<u8>().is_ok() {
                error.meant(format_args!("{text}%"))
            } else {
                error
            });
        };
        match digits.parse() {
            Ok(percent @ 0..=100) => Ok(Self(percent)),
            _ => Err(wrong(format!("`{text}` is no part of a whole"))),
        }
    }
}

/// What may be written for a part of a whole.
pub(crate) const PERCENT: &str = "a whole number from 0 to 100 with its sign: 50%";

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}%", self.0)
    }
}

impl FromStr for HostPattern {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        const ALLOWED: &str = "a host name (api.example), or *.example for every host below it";
        let wrong = |what: String| UnitError::new(what, ALLOWED);
        let lower = text.to_ascii_lowercase();
        let literal = lower.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        if let Some(address) = literal
            && address.parse::<std::net::Ipv6Addr>().is_ok()
        {
            return Ok(Self::Exact(lower));
        }
        if let Some((host, port)) = lower.rsplit_once(':')
            && !port.is_empty()
            && port.bytes().all(|b| b.is_ascii_digit())
        {
            return Err(
                wrong(format!("`{text}` has a port: hosts are compared without")).meant(host)
            );
        }
        let name = lower.strip_prefix("*.").unwrap_or(&lower);
        let label = |l: &str| {
            let lawful = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
            !l.is_empty() && l.len() <= 63 && l.bytes().all(lawful)
        };
        if name.len() > 253 || !name.split('.').all(label) {
            return Err(wrong(format!("`{text}` is no host name")));
        }
        let suffix = lower.starts_with("*.");
        Ok(if suffix { Self::Suffix(format!(".{name}")) } else { Self::Exact(lower) })
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(host) => f.write_str(host),
            Self::Suffix(suffix) => write!(f, "*{suffix}"),
        }
    }
}

impl FromStr for PathPattern {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let wrong = |what: String| UnitError::new(what, PATH);
        if let Some(pattern) = text.strip_prefix('~') {
            // By itself, so that the message shows what was written; and as it is matched, as a comment
            // at its end would swallow what follows.
            let sound = regex::Regex::new(pattern);
            let sound = sound.and_then(|_| regex::Regex::new(&Self::whole(pattern)));
            return match sound {
                Ok(_) => Ok(Self::Regex(pattern.to_owned())),
                Err(fault) => Err(wrong(format!("`{pattern}` is no regular expression: {fault}"))),
            };
        }
        if !text.starts_with('/') {
            return Err(
                wrong(format!("`{text}` does not begin with /")).meant(format_args!("/{text}"))
            );
        }
        let (path, prefix) = match text.strip_suffix("/*") {
            Some(path) => (path, true),
            None => (text, false),
        };
        if path.contains('*') {
            return Err(wrong(format!("`{text}` has a * before its end")));
        }
        let inner = path.strip_prefix('/').unwrap_or(path);
        let name = |segment: &str| {
            segment.strip_prefix('{').and_then(|s| s.strip_suffix('}')).is_some_and(word)
        };
        let template = inner.split('/').any(name);
        let plain = inner.split('/').filter(|segment| !name(segment));
        let mut letters = plain.flat_map(str::chars);
        if let Some(odd) = letters.find(|c| !c.is_ascii_graphic() || "?#\\\"<>^`{|}".contains(*c)) {
            return Err(wrong(format!("{odd:?} cannot be in a path")));
        }
        if template && prefix {
            return Err(wrong(format!("`{text}` has a name in braces and ends in /*")));
        }
        let last = inner.split('/').count().saturating_sub(1);
        for (n, segment) in inner.split('/').enumerate() {
            let hole = segment.is_empty() && n != last;
            if hole
                || segment == "."
                || segment == ".."
                || (prefix && segment.is_empty() && !path.is_empty())
            {
                return Err(wrong(format!("`{text}` has an empty, `.` or `..` segment")));
            }
        }
        canonical_escapes(path).map_err(wrong)?;
        let path = path.to_owned();
        Ok(match () {
            () if prefix => Self::Prefix(path),
            () if template => Self::Template(path),
            () => Self::Exact(path),
        })
    }
}

/// What may be written for a path.
pub(crate) const PATH: &str = "a path (/api/search), one that ends in /* for all below it, one with \
                               names for segments (/api/user/{id}), or ~ and a regular expression";

/// A name in braces.
fn word(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// A pattern is compared with canonical paths, so an escape must have the one form that those keep
/// (RFC 3986 §6.2.2: upper case, and none for unreserved characters).
fn canonical_escapes(path: &str) -> Result<(), String> {
    for part in path.split('%').skip(1) {
        let hex = part.get(..2).unwrap_or("");
        let byte = u8::from_str_radix(hex, 16).ok().filter(|_| !hex.starts_with('+'));
        let Some(byte) = byte.filter(|_| hex.len() == 2) else {
            return Err(format!("`%{hex}` is no escape"));
        };
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            return Err(format!("`%{hex}` is the character `{}`: write it plainly", byte as char));
        }
        if hex != hex.to_ascii_uppercase() {
            return Err(format!("`%{hex}` has to be upper case: `%{}`", hex.to_ascii_uppercase()));
        }
    }
    Ok(())
}

impl fmt::Display for PathPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(path) => f.write_str(path),
            Self::Template(path) => f.write_str(path),
            Self::Prefix(path) => write!(f, "{path}/*"),
            Self::Regex(pattern) => write!(f, "~{pattern}"),
        }
    }
}

/// What may be written for a listener's address.
pub(crate) const LISTEN_AT: &str =
    "*:PORT for each instance's own address, or ADDRESS:PORT ([::1]:443 for IPv6)";

impl FromStr for ListenAt {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let wrong = |what: String| UnitError::new(what, LISTEN_AT);
        if let Some(port) = text.strip_prefix("*:") {
            let digits = port.bytes().all(|b| b.is_ascii_digit());
            return match port.parse() {
                Ok(port) if digits => Ok(Self::Instance(port)),
                _ => Err(wrong(format!("`{port}` is no port (0 to 65535)"))),
            };
        }
        if let Ok(address) = text.parse() {
            return Ok(Self::Address(address));
        }
        let error = wrong(format!("`{text}` is no address with a port"));
        let port = text.strip_prefix(':').unwrap_or(text);
        let bare = port.parse::<u16>().is_ok();
        Err(if bare { error.meant(format_args!("*:{port}")) } else { error })
    }
}

impl fmt::Display for ListenAt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Instance(port) => write!(f, "*:{port}"),
            Self::Address(address) => address.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests;
