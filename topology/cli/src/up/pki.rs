//! A certificate authority of this machine's own and the server certificates that it signs. Made
//! once and used again until 30 days before they end. Not for production, and not for reading
//! certificates that a user brings. Called by `up` before anything starts.
//!
//! Invariant: a certificate and its key are written together and fit each other.

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, anyhow};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};

use crate::up::folder::{Folder, write_private, write_public};

/// The local authority, ready to sign.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// Whether it was made just now: then what it signed before is of no use.
    pub(crate) fresh: Fresh,
}

/// Whether something was made by this run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fresh {
    /// Made now.
    Made,
    /// Kept from an earlier run.
    Kept,
}

/// Opens `ca.pem` and `ca.key` of the folder, or makes them.
pub(crate) fn authority(folder: &Folder, now: SystemTime) -> anyhow::Result<Authority> {
    let (certificate, key) = (folder.path("ca.pem"), folder.path("ca.key"));
    if lasts(&certificate, now)
        && let Ok(text) = std::fs::read_to_string(&key)
        && let Ok(pair) = KeyPair::from_pem(&text)
    {
        let issuer = Issuer::new(authority_params(now), pair);
        return Ok(Authority { issuer, fresh: Fresh::Kept });
    }
    let pair = KeyPair::generate()?;
    let params = authority_params(now);
    write_private(&key, pair.serialize_pem().as_bytes())?;
    write_public(&certificate, params.self_signed(&pair)?.pem().as_bytes())?;
    Ok(Authority { issuer: Issuer::new(params, pair), fresh: Fresh::Made })
}

/// A certificate for these names at `chain` and `key`, to be used so, unless a lasting one is there.
pub(crate) fn certificate(
    authority: &Authority,
    chain: &Path,
    key: &Path,
    hosts: &[String],
    (usage, now): (ExtendedKeyUsagePurpose, SystemTime),
) -> anyhow::Result<Fresh> {
    if authority.fresh == Fresh::Kept && key.exists() && lasts(chain, now) && names(chain, hosts) {
        return Ok(Fresh::Kept);
    }
    let pair = KeyPair::generate()?;
    let mut params = CertificateParams::new(hosts.to_vec())
        .with_context(|| format!("cannot make a certificate for {}", hosts.join(", ")))?;
    let first = hosts.first().map_or("localhost", String::as_str);
    params.distinguished_name.push(DnType::CommonName, first);
    params.use_authority_key_identifier_extension = true;
    params.key_usages.push(KeyUsagePurpose::DigitalSignature);
    params.extended_key_usages.push(usage);
    span(&mut params, now, LEAF);
    let signed = params.signed_by(&pair, &authority.issuer)?;
    write_private(key, pair.serialize_pem().as_bytes())?;
    write_public(chain, signed.pem().as_bytes())?;
    Ok(Fresh::Made)
}

/// The same at every run, so that the kept key goes on signing for the kept certificate.
fn authority_params(now: SystemTime) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "Aqueduct local authority");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    span(&mut params, now, CA);
    params
}

fn span(params: &mut CertificateParams, now: SystemTime, length: Duration) {
    let now = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    let epoch = date_time_ymd(1970, 1, 1);
    // A day back, for clocks that are a little behind this one.
    params.not_before = epoch + now.saturating_sub(DAY);
    params.not_after = epoch + now + length;
}

/// Whether a certificate is there and ends more than 30 days from now.
fn lasts(path: &Path, now: SystemTime) -> bool {
    let ends = with_parsed(path, |parsed| parsed.validity().not_after.timestamp());
    let margin = now.duration_since(UNIX_EPOCH).unwrap_or_default() + MARGIN;
    ends.is_ok_and(|ends| u64::try_from(ends).is_ok_and(|ends| ends > margin.as_secs()))
}

/// Whether a certificate names all of these hosts.
fn names(path: &Path, hosts: &[String]) -> bool {
    let listed = with_parsed(path, |parsed| match parsed.subject_alternative_name() {
        Ok(Some(extension)) => {
            extension.value.general_names.iter().filter_map(general_name).collect::<Vec<_>>()
        }
        _ => Vec::new(),
    });
    listed.is_ok_and(|listed| hosts.iter().all(|host| listed.contains(host)))
}

fn general_name(name: &x509_parser::extensions::GeneralName<'_>) -> Option<String> {
    match name {
        x509_parser::extensions::GeneralName::DNSName(name) => Some((*name).to_owned()),
        x509_parser::extensions::GeneralName::IPAddress(bytes) => match bytes.len() {
            4 => <[u8; 4]>::try_from(*bytes).ok().map(|b| std::net::Ipv4Addr::from(b).to_string()),
            16 => {
                <[u8; 16]>::try_from(*bytes).ok().map(|b| std::net::Ipv6Addr::from(b).to_string())
            }
            _ => None,
        },
        _ => None,
    }
}

fn with_parsed<T>(
    path: &Path,
    look: impl FnOnce(&x509_parser::certificate::X509Certificate<'_>) -> T,
) -> anyhow::Result<T> {
    let text = std::fs::read(path)?;
    let (_, pem) = x509_parser::pem::parse_x509_pem(&text).map_err(|_| anyhow!("no PEM"))?;
    let parsed = pem.parse_x509().map_err(|_| anyhow!("no certificate"))?;
    Ok(look(&parsed))
}

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const MARGIN: Duration = Duration::from_secs(30 * 24 * 60 * 60);
/// Browsers refuse server certificates that live longer than 398 days.
const LEAF: Duration = Duration::from_secs(397 * 24 * 60 * 60);
const CA: Duration = Duration::from_secs(3650 * 24 * 60 * 60);

#[cfg(test)]
mod tests {
    use super::*;

    fn made(folder: &Folder, hosts: &[&str], now: SystemTime) -> (Fresh, Fresh, Vec<u8>) {
        let authority = authority(folder, now).expect("an authority");
        let (chain, key) = (folder.path("pki/api.pem"), folder.path("pki/api.key"));
        let hosts: Vec<String> = hosts.iter().map(|host| (*host).to_owned()).collect();
        let usage = ExtendedKeyUsagePurpose::ServerAuth;
        let fresh =
            certificate(&authority, &chain, &key, &hosts, (usage, now)).expect("a certificate");
        (authority.fresh, fresh, std::fs::read(chain).expect("written"))
    }

    /// T2: authority and certificate are made once and kept until 30 days before they end.
    #[test]
    fn certificates_are_made_once_and_renewed_in_time() {
        let scratch = tempfile::tempdir().expect("a folder");
        let folder = Folder::named(Some(scratch.path()), "x").expect("absolute");
        let now = SystemTime::now();
        let hosts = ["api.example", "localhost", "127.0.0.1", "::1"];
        let (ca, leaf, first) = made(&folder, &hosts, now);
        assert_eq!((ca, leaf), (Fresh::Made, Fresh::Made));
        let (ca, leaf, second) = made(&folder, &hosts, now + DAY);
        assert_eq!((ca, leaf), (Fresh::Kept, Fresh::Kept));
        assert_eq!(first, second);
        let (ca, leaf, third) = made(&folder, &hosts, now + LEAF - MARGIN + DAY);
        assert_eq!((ca, leaf), (Fresh::Kept, Fresh::Made));
        assert_ne!(first, third);
        let (_, leaf, _) = made(&folder, &["api.example", "new.example"], now + LEAF - MARGIN);
        assert_eq!(leaf, Fresh::Made, "another host needs another certificate");
    }

    #[test]
    fn the_kept_authority_verifies_what_it_signs_later() {
        let scratch = tempfile::tempdir().expect("a folder");
        let folder = Folder::named(Some(scratch.path()), "x").expect("absolute");
        let now = SystemTime::now();
        made(&folder, &["a.example"], now);
        made(&folder, &["b.example"], now);
        let issued_by = with_parsed(&folder.path("pki/api.pem"), |c| c.issuer().to_string());
        let subject = with_parsed(&folder.path("ca.pem"), |c| c.subject().to_string());
        assert_eq!(issued_by.expect("leaf"), subject.expect("authority"));
    }
}
