//! Compressed forms of bodies: which a client takes (RFC 9110 §12.5.3), and how they are made and read.
//! Called by `files`, `transform` and stage 9.
//!
//! Invariant: a form that the client refuses is never among those that it is sent.

use http::{HeaderMap, HeaderValue, header};

pub mod compress;
pub mod expand;

/// A compressed form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coding {
    /// RFC 7932.
    Brotli,
    /// RFC 8878.
    Zstd,
    /// RFC 1952.
    Gzip,
}

impl Coding {
    /// The smallest first.
    pub const ALL: [Self; 3] = [Self::Brotli, Self::Zstd, Self::Gzip];

    /// In `Content-Encoding`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Brotli => "br",
            Self::Zstd => "zstd",
            Self::Gzip => "gzip",
        }
    }

    /// The form that a message says it has; `None`: it has none. Several, one upon another, are nobody's.
    pub fn of(headers: &HeaderMap) -> Result<Option<Self>, Unknown> {
        let mut all = headers.get_all(header::CONTENT_ENCODING).iter();
        let Some(value) = all.next() else { return Ok(None) };
        if all.next().is_some() {
            return Err(Unknown);
        }
        let text = value.to_str().unwrap_or("?").trim().to_ascii_lowercase();
        match text.as_str() {
            "identity" => Ok(None),
            "x-gzip" => Ok(Some(Self::Gzip)),
            name => Self::ALL.into_iter().find(|form| form.name() == name).map(Some).ok_or(Unknown),
        }
    }

    /// In `Content-Encoding`.
    pub const fn header(self) -> HeaderValue {
        HeaderValue::from_static(self.name())
    }

    /// Behind the file's name.
    pub const fn extension(self) -> &'static str {
        match self {
            Self::Brotli => ".br",
            Self::Zstd => ".zst",
            Self::Gzip => ".gz",
        }
    }
}

/// A form that is not known here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unknown;

/// The forms that a client takes rather than the plain one, what it likes best first.
pub fn accepted(headers: &HeaderMap) -> Vec<Coding> {
    let mut wishes: Vec<(String, u16)> = Vec::new();
    for value in headers.get_all(header::ACCEPT_ENCODING) {
        let items = value.to_str().unwrap_or_default().split(',');
        wishes.extend(items.filter_map(wish));
    }
    let weight = |names: &[&str]| {
        let named = wishes.iter().find(|(name, _)| names.contains(&name.as_str()));
        named.map(|(_, weight)| *weight)
    };
    let any = weight(&["*"]);
    // What is not named is as good as any other form, unless something better is.
    let plain = weight(&["identity"]).unwrap_or(0);
    let mut forms: Vec<(Coding, u16)> = Coding::ALL
        .into_iter()
        .filter_map(|coding| {
            let own = match coding {
                Coding::Gzip => weight(&["gzip", "x-gzip"]),
                other => weight(&[other.name()]),
            };
            Some((coding, own.or(any).filter(|weight| *weight > 0 && *weight >= plain)?))
        })
        .collect();
    forms.sort_by_key(|(_, weight)| std::cmp::Reverse(*weight));
    forms.into_iter().map(|(coding, _)| coding).collect()
}

/// A name with its weight in thousandths; what cannot be read is refused.
fn wish(item: &str) -> Option<(String, u16)> {
    let mut parts = item.split(';').map(str::trim);
    let name = parts.next().filter(|name| !name.is_empty())?.to_ascii_lowercase();
    let weight = match parts.next() {
        None => 1000,
        Some(text) => {
            let text = text.strip_prefix("q=").or_else(|| text.strip_prefix("Q=")).unwrap_or("");
            weight(text).filter(|_| parts.next().is_none()).unwrap_or(0)
        }
    };
    Some((name, weight))
}

/// RFC 9110 §12.4.2: `0` or `1` with up to three digits behind a point, of one all zero.
fn weight(text: &str) -> Option<u16> {
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    if part.len() > 3 || !part.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let part: u16 = format!("{part:0<3}").parse().ok()?;
    match whole {
        "0" => Some(part),
        "1" if part == 0 => Some(1000),
        _ => None,
    }
}

#[cfg(test)]
mod tests;

#[cfg(test)]
mod negotiation {
    use super::*;
    use http::HeaderValue;

    /// G22: the form is the client's choice, by weight, then by size.
    #[test]
    fn forms_are_the_clients_choice() {
        use Coding::{Brotli, Gzip, Zstd};
        let cases: [(&str, &[Coding]); 18] = [
            ("", &[]),
            ("identity", &[]),
            ("gzip", &[Gzip]),
            ("x-gzip", &[Gzip]),
            ("gzip, deflate, br, zstd", &[Brotli, Zstd, Gzip]),
            ("gzip;q=1, br;q=0.5", &[Gzip, Brotli]),
            ("GZIP; q=0.001, br;q=0", &[Gzip]),
            ("*", &[Brotli, Zstd, Gzip]),
            ("*;q=0.5, br;q=0", &[Zstd, Gzip]),
            ("identity;q=1, gzip;q=0.5", &[]),
            ("identity;q=0.5, gzip", &[Gzip]),
            ("gzip;q=7, br;q=x", &[]),
            ("gzip;q=1e-1, br;q=.5, zstd;q=+1", &[]),
            ("gzip;q=0.1234, br;q=1.001, zstd;q=0.5;x=1", &[]),
            ("gzip;q=1.000, br;q=0.999, zstd;q=0.", &[Gzip, Brotli]),
            ("gzip;q=NaN, br;q=-0.5, zstd;q=inf", &[]),
            ("identity;q=0, gzip;q=0.001", &[Gzip]),
            ("identity;q=0, *;q=0", &[]),
        ];
        for (text, expected) in cases {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static(text));
            assert_eq!(accepted(&headers), expected, "{text}");
        }
        assert_eq!(accepted(&HeaderMap::new()), []);
    }
}
