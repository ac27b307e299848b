//! Certificates against keys, names and each other.

use std::path::{Path, PathBuf};

use rcgen::{CertificateParams, KeyPair};
use topology::Place;
use topology::tls::{Certificate, Sni};

use super::*;

mod handshakes;

const CHAIN_AT: Place = Place { line: 7, column: 3 };
const KEY_AT: Place = Place { line: 8, column: 5 };

fn write(folder: &Path, name: &str, text: &str) -> PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, text).expect("write");
    path
}

fn made(folder: &Path, name: &str, hosts: &[&str]) -> Certificate {
    let key = KeyPair::generate().expect("key");
    let hosts: Vec<String> = hosts.iter().map(|host| (*host).to_owned()).collect();
    let leaf = CertificateParams::new(hosts).expect("names").self_signed(&key).expect("signed");
    certificate(
        write(folder, &format!("{name}.pem"), &leaf.pem()),
        write(folder, &format!("{name}.key"), &key.serialize_pem()),
    )
}

fn certificate(chain: PathBuf, key: PathBuf) -> Certificate {
    Certificate {
        chain: At { value: SecretRef::File(chain), place: CHAIN_AT },
        key: At { value: SecretRef::File(key), place: KEY_AT },
    }
}

fn section(certificates: Vec<Certificate>) -> Tls {
    Tls::of(certificates)
}

/// G3: certificate and key that belong together make a configuration with the protocols asked for.
#[test]
fn a_pair_is_taken() {
    let folder = tempfile::tempdir().expect("folder");
    let tls = section(vec![made(folder.path(), "a", &["api.example"])]);
    let config = config(&tls, &[b"h2", b"http/1.1"]).expect("taken");
    assert_eq!(config.alpn_protocols, [b"h2".to_vec(), b"http/1.1".to_vec()]);
}

/// O5: a key of another certificate is reported at the place of its reference.
#[test]
fn a_foreign_key_is_reported_at_its_place() {
    let folder = tempfile::tempdir().expect("folder");
    let mut one = made(folder.path(), "a", &["api.example"]);
    one.key = made(folder.path(), "b", &["api.example"]).key;
    let fault = config(&section(vec![one]), &[]).expect_err("mismatch");
    assert!(matches!(fault, TlsError::Mismatch { .. }));
    assert_eq!(fault.place(), KEY_AT);
}

/// O5: a missing file and one without PEM are told apart, each at its place.
#[test]
fn what_is_no_certificate_is_reported_at_its_place() {
    let folder = tempfile::tempdir().expect("folder");
    let good = made(folder.path(), "a", &["api.example"]);
    let missing = Certificate {
        chain: At { value: SecretRef::File("/nonexistent.pem".into()), place: CHAIN_AT },
        key: good.key.clone(),
    };
    let fault = config(&section(vec![missing]), &[]).expect_err("missing");
    assert!(matches!(fault, TlsError::Unreadable { .. }) && fault.place() == CHAIN_AT);
    let empty = write(folder.path(), "empty", "hello\n");
    let fault = config(&section(vec![certificate(empty, folder.path().join("a.key"))]), &[])
        .expect_err("no PEM");
    assert!(matches!(fault, TlsError::NoPem { .. }) && fault.place() == CHAIN_AT);
}

/// G3: SNI chooses exactly, then by wildcard, then the first; case and trailing dot do not matter.
#[test]
fn names_choose_the_certificate() {
    let folder = tempfile::tempdir().expect("folder");
    let loaded: Vec<_> = [("a", "api.example"), ("b", "*.example"), ("c", "other.test")]
        .map(|(name, host)| load(&made(folder.path(), name, &[host])).expect("loaded"))
        .into();
    let by_sni = BySni::new(loaded, Sni::Optional).expect("some");
    let loaded = by_sni.all();
    let chosen = |name: &str| {
        let key = by_sni.choose(Some(name)).expect("the first at least");
        assert!(Arc::ptr_eq(&by_sni.shown(name).key, &key), "{name}");
        loaded.iter().position(|one| Arc::ptr_eq(&one.key, &key)).expect("one of them")
    };
    assert_eq!(chosen("api.example"), 0);
    assert_eq!(chosen("API.Example."), 0);
    assert_eq!(chosen("www.example"), 1);
    assert_eq!(chosen("a.b.example"), 0, "a wildcard covers one label; none fits: the first");
    assert_eq!(chosen("other.test"), 2);
    assert!(loaded[1].covers("WWW.example") && !loaded[1].covers("example"));
    assert!(by_sni.choose(None).is_some_and(|key| Arc::ptr_eq(&key, &loaded[0].key)));
}

/// Handshakes hash with SHA-256, whatever a client lists first.
#[test]
fn the_fastest_suite_comes_first() {
    let provider = preferring();
    let first = provider.cipher_suites.first().map(SupportedCipherSuite::suite);
    assert_eq!(first, Some(CipherSuite::TLS13_AES_128_GCM_SHA256));
}
