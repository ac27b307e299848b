//! The `tls:` section of gateways and poolers. Not for TLS towards services: `gateway`.
//!
//! Invariant: every path is relative to the file's folder.

use crate::raw::{self, Findings, Typed};
use crate::resolve::names::Names;
use crate::resolve::{file, filled, or, secret};
use crate::tls::{Certificate, ClientCertificates, Sni, Tls};

/// TLS towards clients.
pub(super) fn tls(raw: raw::Tls, names: &Names, out: &mut Findings) -> Tls {
    filled(raw.certificates.as_deref(), "certificates", &raw.spot, out);
    if raw.client_ca.is_none() {
        let crl = raw.client_crl.iter().flatten().map(|typed| ("client-crl", &typed.spot));
        let asked = raw.client_certificates.iter();
        let asked = asked.map(|typed| ("client-certificates", &typed.spot));
        if let Some((key, spot)) = asked.chain(crl).next() {
            let what = format!("`{key}` means nothing while no client certificate is asked for");
            out.error(spot, what).hint("add `client-ca: file:PATH`".to_owned());
        }
    }
    if let (Some(_), Some(typed)) = (&raw.client_ca, &raw.ticket_keys) {
        let what = "no session is resumed where clients show certificates";
        out.error(&typed.spot, what).hint("remove `ticket-keys`".to_owned());
    }
    let pair = |raw: raw::Certificate| {
        let (chain, key) = (raw.chain?, raw.key?);
        Some(Certificate { chain: secret(chain, names), key: secret(key, names) })
    };
    let reference = |typed: Typed<_>| secret(typed, names);
    Tls {
        certificates: raw.certificates.unwrap_or_default().into_iter().filter_map(pair).collect(),
        client_certificates: or(raw.client_certificates, ClientCertificates::Required),
        client_crl: raw.client_crl.unwrap_or_default().into_iter().map(reference).collect(),
        sni: or(raw.sni, Sni::Optional),
        ticket_keys: raw.ticket_keys.map(reference),
        client_ca: raw.client_ca.map(|typed| file(typed, names, out)),
        place: raw.spot.extent.place,
    }
}
