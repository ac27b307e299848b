//! Whole handshakes in memory: who is let in, and which sessions resume.

use std::path::PathBuf;
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, IsCa,
    KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SanType, SerialNumber, date_time_ymd,
};
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::version::{TLS12, TLS13};
use rustls::{
    ClientConfig, ClientConnection, HandshakeKind, ProtocolVersion, SupportedProtocolVersion,
};
use tempfile::TempDir;
use topology::Place;
use topology::tls::{Certificate, Sni};

use super::*;

type Authority = CertifiedIssuer<'static, KeyPair>;

/// A folder with an authority's certificate, and a server certificate of it for `api.example`.
struct Pki {
    folder: TempDir,
    authority: Authority,
}

fn authority() -> Authority {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("made")
}

impl Pki {
    fn new() -> Self {
        let pki = Self { folder: tempfile::tempdir().expect("a folder"), authority: authority() };
        pki.write("ca.pem", &pki.authority.pem());
        let key = KeyPair::generate().expect("a key");
        let leaf = CertificateParams::new(vec!["api.example".to_owned()]).expect("names");
        let leaf = leaf.signed_by(&key, &pki.authority).expect("signed");
        pki.write("api.pem", &leaf.pem());
        pki.write("api.key", &key.serialize_pem());
        pki
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).expect("written");
    }

    fn reference(&self, name: &str) -> At<SecretRef> {
        At { value: SecretRef::File(self.path(name)), place: Place { line: 9, column: 3 } }
    }

    /// The section with nothing but the certificate.
    fn plain(&self) -> Tls {
        let (chain, key) = (self.reference("api.pem"), self.reference("api.key"));
        Tls::of(vec![Certificate { chain, key }])
    }

    /// The same, with client certificates of the authority asked for.
    fn mutual(&self, client_certificates: ClientCertificates) -> Tls {
        let client_ca = Some(self.reference("ca.pem"));
        Tls { client_ca, client_certificates, ..self.plain() }
    }

    /// Lists these serial numbers as revoked, until a year.
    fn revoke(&self, serials: &[u8], until: i32) {
        let revoked = |serial: &u8| RevokedCertParams {
            serial_number: SerialNumber::from(vec![*serial]),
            revocation_time: date_time_ymd(2020, 1, 1),
            reason_code: None,
            invalidity_date: None,
        };
        let list = CertificateRevocationListParams {
            this_update: date_time_ymd(2020, 1, 1),
            next_update: date_time_ymd(until, 1, 1),
            crl_number: SerialNumber::from(vec![1]),
            issuing_distribution_point: None,
            revoked_certs: serials.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let list = list.signed_by(&self.authority).expect("signed");
        self.write("ca.crl", &list.pem().expect("text"));
    }

    /// A client that trusts the authority.
    fn client(&self, version: &'static SupportedProtocolVersion, shows: Option<Shown>) -> Config {
        let mut roots = RootCertStore::empty();
        roots.add(self.authority.der().clone()).expect("a root");
        let builder = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[version])
            .expect("a version")
            .with_root_certificates(roots);
        Arc::new(match shows {
            None => builder.with_no_client_auth(),
            Some((chain, key)) => {
                let key = PrivatePkcs8KeyDer::from(key.serialize_der());
                builder.with_client_auth_cert(vec![chain], key.into()).expect("a pair")
            }
        })
    }
}

type Config = Arc<ClientConfig>;
type Shown = (CertificateDer<'static>, KeyPair);

/// A client certificate with these URIs.
fn shown(by: &Authority, serial: u8, uris: &[&str]) -> Option<Shown> {
    let mut params = CertificateParams::default();
    params.serial_number = Some(SerialNumber::from(vec![serial]));
    let uri = |text: &&str| SanType::URI((*text).try_into().expect("ASCII"));
    params.subject_alt_names = uris.iter().map(uri).collect();
    let key = KeyPair::generate().expect("a key");
    let made = params.signed_by(&key, by).expect("signed");
    Some((made.der().clone(), key))
}

/// Both sides of a finished handshake and of one byte sent each way, or why the server refused.
fn shake(client: &Config, server: &Server, name: &'static str) -> Result<Ends, Error> {
    let name = name.try_into().expect("a name");
    let mut client = ClientConnection::new(Arc::clone(client), name).expect("a client");
    let mut server = ServerConnection::new(Arc::clone(&server.config)).expect("a server");
    // Tickets of TLS 1.3 come after the handshake.
    for _ in 0..8 {
        let mut bytes = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut bytes).expect("memory");
        }
        let mut bytes = bytes.as_slice();
        while !bytes.is_empty() {
            server.read_tls(&mut bytes).expect("memory");
            server.process_new_packets()?;
        }
        let mut bytes = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut bytes).expect("memory");
        }
        let mut bytes = bytes.as_slice();
        while !bytes.is_empty() {
            client.read_tls(&mut bytes).expect("memory");
            client.process_new_packets()?;
        }
    }
    assert!(!client.is_handshaking() && !server.is_handshaking());
    Ok((client, server))
}

type Ends = (ClientConnection, ServerConnection);

fn kind(client: &Config, server: &Server) -> Option<HandshakeKind> {
    shake(client, server, "api.example").expect("a handshake").1.handshake_kind()
}

/// G3: TLS 1.2 and 1.3 with ciphers that have forward secrecy and authentication, nothing older;
/// sessions of both resume on every worker (they share the configuration), on an instance with the same
/// ticket keys, and after a reload; with other keys they do not.
#[test]
fn sessions_resume() {
    let pki = Pki::new();
    pki.write("keys", "0123456789abcdef0123456789abcdef\n");
    let shared = Tls { ticket_keys: Some(pki.reference("keys")), ..pki.plain() };
    for (version, number) in
        [(&TLS12, ProtocolVersion::TLSv1_2), (&TLS13, ProtocolVersion::TLSv1_3)]
    {
        let (plain, alone) = (pki.plain(), pki.client(version, None));
        let one = Server::new(&plain, &[], None).expect("taken");
        let (_, ends) = shake(&alone, &one, "api.example").expect("a handshake");
        assert_eq!(ends.protocol_version(), Some(number));
        let suite = ends.negotiated_cipher_suite().expect("a suite").suite();
        let suite = format!("{suite:?}");
        assert!(suite.contains("GCM") || suite.contains("CHACHA20"), "{suite}");
        assert!(suite.starts_with("TLS13") || suite.contains("ECDHE"), "{suite}");
        assert_eq!(kind(&alone, &one), Some(HandshakeKind::Resumed));
        let reloaded = Server::new(&plain, &[], Some(&one)).expect("taken");
        assert_eq!(kind(&alone, &reloaded), Some(HandshakeKind::Resumed));
        let stranger = Server::new(&plain, &[], None).expect("taken");
        assert_eq!(kind(&alone, &stranger), Some(HandshakeKind::Full));
        let client = pki.client(version, None);
        let [one, two] = [(); 2].map(|()| Server::new(&shared, &[], None).expect("taken"));
        assert_eq!(kind(&client, &one), Some(HandshakeKind::Full));
        assert_eq!(kind(&client, &two), Some(HandshakeKind::Resumed));
    }
    let mut server =
        ServerConnection::new(Server::new(&pki.plain(), &[], None).expect("taken").config)
            .expect("a server");
    // A hello of TLS 1.1 (RFC 4346 §7.4.1.2) that offers RSA with AES-CBC.
    let mut hello = vec![0x16, 3, 1, 0, 45, 1, 0, 0, 41, 3, 2];
    hello.extend([7; 32]);
    hello.extend([0, 0, 2, 0, 0x2f, 1, 0]);
    server.read_tls(&mut hello.as_slice()).expect("memory");
    assert!(server.process_new_packets().is_err());
}

/// O5: ticket keys that are none are refused at their place.
#[test]
fn weak_ticket_keys_are_refused() {
    let pki = Pki::new();
    let many = "0123456789abcdef0123456789abcdef\n".repeat(9);
    for (text, says) in [("\n", "no secret"), ("short\n", "32"), (&many, "more than 8")] {
        pki.write("keys", text);
        let tls = Tls { ticket_keys: Some(pki.reference("keys")), ..pki.plain() };
        let fault = Server::new(&tls, &[], None).expect_err("refused");
        assert!(fault.place().line == 9 && fault.to_string().contains(says), "{fault}");
    }
}

/// G3: where a certificate is required, who shows none, one of another authority, or one that does not
/// say who it is, gets no connection; no session resumes. Where it is optional, who shows none is
/// anonymous, and a foreign one is refused all the same.
#[test]
fn clients_are_who_their_certificates_say() {
    let (pki, foreign) = (Pki::new(), authority());
    let id = "spiffe://prod.example/cart";
    for version in [&TLS12, &TLS13] {
        let required = pki.mutual(ClientCertificates::Required);
        let required = Server::new(&required, &[], None).expect("taken");
        let optional = pki.mutual(ClientCertificates::Optional);
        let optional = Server::new(&optional, &[], None).expect("taken");
        let who = |server: &Server, shows: Option<Shown>| {
            let (_, ends) = shake(&pki.client(version, shows), server, "api.example")?;
            Ok::<_, Error>(client(&ends).map(|principal| principal.to_string()))
        };
        let cart = || shown(&pki.authority, 1, &[id]);
        assert_eq!(who(&required, cart()), Ok(Some(id.to_owned())));
        assert_eq!(who(&optional, cart()), Ok(Some(id.to_owned())));
        assert_eq!(who(&required, None), Err(Error::NoCertificatesPresented));
        assert_eq!(who(&optional, None), Ok(None));
        for server in [&required, &optional] {
            let fault = who(server, shown(&foreign, 1, &[id])).expect_err("a stranger");
            assert!(matches!(fault, Error::InvalidCertificate(_)), "{fault}");
        }
        for uris in [&[id, "urn:x"][..], &["spiffe://Prod/x"], &[]] {
            let fault = who(&required, shown(&pki.authority, 1, uris)).expect_err("nobody");
            let nobody =
                Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure);
            assert_eq!(fault, nobody, "{uris:?}");
            assert_eq!(who(&optional, shown(&pki.authority, 1, uris)), Ok(None));
        }
        let client = pki.client(version, cart());
        for _ in 0..2 {
            assert_eq!(kind(&client, &required), Some(HandshakeKind::Full));
        }
    }
}

/// G3: who is on the list is refused, others are not; a list that is past its next update lets nobody
/// in; one that is no list is refused at its place.
#[test]
fn the_revoked_are_refused() {
    let pki = Pki::new();
    let listed = || Tls {
        client_crl: vec![pki.reference("ca.crl")],
        ..pki.mutual(ClientCertificates::Required)
    };
    let who = |serial: u8| {
        let server = Server::new(&listed(), &[], None).expect("taken");
        let shows = shown(&pki.authority, serial, &["urn:me"]);
        shake(&pki.client(&TLS13, shows), &server, "api.example").map(|_| ())
    };
    pki.revoke(&[7], 3000);
    assert_eq!(who(7), Err(Error::InvalidCertificate(CertificateError::Revoked)));
    assert_eq!(who(8), Ok(()));
    pki.revoke(&[], 2021);
    let fault = who(8).expect_err("nobody");
    let expired = matches!(
        fault,
        Error::InvalidCertificate(
            CertificateError::ExpiredRevocationList
                | CertificateError::ExpiredRevocationListContext { .. }
        )
    );
    assert!(expired, "{fault:?}");
    for (text, says) in
        [("", "no list"), ("-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n", "")]
    {
        pki.write("ca.crl", text);
        let fault = Server::new(&listed(), &[], None).expect_err("refused");
        assert!(fault.place().line == 9 && fault.to_string().contains(says), "{fault}");
    }
}

/// G3: where a name is asked for, who names none of ours gets no connection.
#[test]
fn a_name_may_be_asked_for() {
    let pki = Pki::new();
    let strict = Server::new(&Tls { sni: Sni::Required, ..pki.plain() }, &[], None).expect("taken");
    let lax = Server::new(&pki.plain(), &[], None).expect("taken");
    let client = pki.client(&TLS13, None);
    let mut silent = (*client).clone();
    silent.enable_sni = false;
    let silent = Arc::new(silent);
    for (client, name, served) in [
        (&client, "api.example", true),
        (&client, "other.example", false),
        (&silent, "api.example", false),
    ] {
        let refused = shake(client, &strict, name).err();
        assert_eq!(refused.is_none(), served, "{name}");
        assert!(served || matches!(refused, Some(Error::General(_))), "{refused:?}");
    }
    assert!(shake(&silent, &lax, "api.example").is_ok());
}
