//! Where a request says who it comes from, and taking that out of it. Not for believing it. Called by
//! `mod`.
//!
//! Invariant: what a request is identified by goes no further than stage 3, wherever it stood.

use http::{HeaderMap, HeaderName, HeaderValue, header};
use topology::gateway::{ApiKeys, ApiKeysId, Certified, Ways};

use super::{AuthnError, Wanted};
use crate::exchange::{Exchange, Request};
use crate::query::without;

/// What a request shows, of the ways that its route accepts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Presented {
    /// This `Authorization` value holds a token.
    Token(HeaderValue),
    /// This text is a key of one of these sources.
    Key(Box<[u8]>, Vec<ApiKeysId>),
    /// The client's verified certificate names this principal.
    Principal(Box<str>),
}

/// Finds it: a token counts before a key, a key before the certificate. One that is there and wrong is
/// never passed over for the next.
pub fn find(
    x: &Exchange,
    request: &Request,
    ways: &Ways,
    sources: &[ApiKeys],
) -> Result<Presented, AuthnError> {
    if !ways.issuers.is_empty() && request.headers.contains_key(header::AUTHORIZATION) {
        return token(&request.headers).map(|value| Presented::Token(value.clone()));
    }
    if let Some((key, ids)) = key(request, ways, sources)? {
        return Ok(Presented::Key(key, ids));
    }
    match x.peer.principal().filter(|_| ways.certificate == Certified::Enough) {
        Some(principal) => Ok(Presented::Principal(principal.as_str().into())),
        None => Err(AuthnError::Missing(wanted(ways))),
    }
}

fn wanted(ways: &Ways) -> Wanted {
    match (ways.issuers.is_empty(), ways.api_keys.is_empty()) {
        (false, true) => Wanted::Token,
        (true, false) => Wanted::Key,
        (false, false) => Wanted::TokenOrKey,
        (true, true) => Wanted::Certificate,
    }
}

/// The one `Authorization` value, if it is `Bearer` and a token (RFC 6750 §2.1).
fn token(headers: &HeaderMap) -> Result<&HeaderValue, AuthnError> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    match (values.next(), values.next()) {
        (Some(value), None) if bearer(value).is_some() => Ok(value),
        _ => Err(AuthnError::Malformed),
    }
}

/// The token of a `Bearer` value; the scheme's name is compared without case (RFC 9110 §11.1).
pub fn bearer(value: &HeaderValue) -> Option<&[u8]> {
    let (scheme, rest) = value.as_bytes().split_at_checked(6)?;
    let token = rest.trim_ascii_start();
    let separate = token.len() < rest.len();
    let plain = !token.is_empty() && !token.contains(&b' ');
    (scheme.eq_ignore_ascii_case(b"bearer") && separate && plain).then_some(token)
}

/// The one key of a request, and the sources that it may be of; two different ones are none.
type Key = Option<(Box<[u8]>, Vec<ApiKeysId>)>;

fn key(request: &Request, ways: &Ways, sources: &[ApiKeys]) -> Result<Key, AuthnError> {
    let mut found: Key = None;
    for id in &ways.api_keys {
        let Some(source) = sources.get(id.0) else { continue };
        let header = source.header.as_deref().map(|name| request.headers.get_all(name).iter());
        let header = header.into_iter().flatten().map(|value| Box::from(value.as_bytes()));
        let query = source.query.as_deref().into_iter().flat_map(|name| {
            let pairs = request.target.query.as_deref().unwrap_or_default().as_bytes();
            let pairs = form_urlencoded::parse(pairs).filter(move |(key, _)| key == name);
            pairs.map(|(_, value)| Box::from(value.as_bytes()))
        });
        for key in header.chain(query) {
            match &mut found {
                None => found = Some((key, vec![*id])),
                Some((known, ids)) if *known == key => {
                    if !ids.contains(id) {
                        ids.push(*id);
                    }
                }
                Some(_) => return Err(AuthnError::SeveralKeys),
            }
        }
    }
    Ok(found)
}

/// Takes every credential that the group knows out of a request whose route asks for one.
pub fn strip(request: &mut Request, sources: &[ApiKeys]) {
    request.headers.remove(header::AUTHORIZATION);
    for source in sources {
        if let Some(name) = &source.header
            && let Ok(name) = HeaderName::from_bytes(name.as_bytes())
        {
            request.headers.remove(name);
        }
        if let (Some(name), Some(query)) = (&source.query, &request.target.query) {
            request.target.query = without(query, name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// G5: one `Authorization`, `Bearer`, one token; anything else is nobody.
    #[test]
    fn what_is_credentials() {
        let read = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(header::AUTHORIZATION, HeaderValue::from_str(value).unwrap());
            }
            token(&headers).map(|value| bearer(value).unwrap().to_vec())
        };
        for good in ["Bearer a.b.c", "bearer a.b.c", "BEARER   a.b.c"] {
            assert_eq!(read(&[good]).unwrap(), b"a.b.c", "{good}");
        }
        for bad in [
            &["Bearer a.b.c", "Bearer a.b.c"][..],
            &["Bearer a.b.c", "Basic eDp5"],
            &["Basic eDp5"],
            &["Bearer"],
            &["Bearer "],
            &["Bearera.b.c"],
            &["Bearer a.b.c d"],
            &["a.b.c"],
            &[""],
        ] {
            assert_eq!(read(bad), Err(AuthnError::Malformed), "{bad:?}");
        }
    }
}
