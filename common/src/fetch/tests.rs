//! Who is reached over TLS, and in which form of HTTP.

use std::net::SocketAddr;
use std::path::Path;

use http_body_util::BodyExt as _;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::TokioExecutor;
use rcgen::{CertificateParams, KeyPair, SanType};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use topology::tls::{Certificate, Tls};
use topology::{At, Place, SecretRef};

use super::*;
use crate::tls::server;

fn file(folder: &Path, name: &str, text: &str) -> At<SecretRef> {
    let path = folder.join(name);
    std::fs::write(&path, text).expect("written");
    At { value: SecretRef::File(path), place: Place::default() }
}

/// Its own authority, for 127.0.0.1.
fn certificate(folder: &Path, name: &str) -> Certificate {
    let key = KeyPair::generate().expect("a key");
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![SanType::IpAddress([127, 0, 0, 1].into())];
    let leaf = params.self_signed(&key).expect("signed");
    Certificate {
        chain: file(folder, &format!("{name}.pem"), &leaf.pem()),
        key: file(folder, &format!("{name}.key"), &key.serialize_pem()),
    }
}

/// Answers over HTTP/2 with the path that it was asked for, to who agrees with one of `alpn`.
async fn server(certificate: Certificate, alpn: &[&[u8]]) -> SocketAddr {
    let config = server::config(&Tls::of(vec![certificate]), alpn).expect("taken");
    let acceptor = TlsAcceptor::from(config);
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let at = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(stream) = acceptor.accept(stream).await else { continue };
            let service = service_fn(async |request: Request<_>| {
                let _: &hyper::body::Incoming = request.body();
                let path = Bytes::from(request.uri().path().to_owned());
                Ok::<_, std::convert::Infallible>(Response::new(Full::new(path)))
            });
            let builder = http2::Builder::new(TokioExecutor::new());
            let _ended = builder.serve_connection(TokioIo::new(stream), service).await;
        }
    });
    at
}

/// D2, G3: streams over TLS go to who shows the file's authority and agrees on HTTP/2, and to nobody else.
#[tokio::test]
async fn http2_is_agreed_on_over_tls() {
    let folder = tempfile::tempdir().expect("a folder");
    let [ours, theirs] = ["ours", "theirs"].map(|name| certificate(folder.path(), name));
    let trusted = Roots::Pem(ours.chain.clone());
    let open = async |at: SocketAddr| {
        let whom = HttpFetch::over_http2(&format!("https://{at}"), &trusted).expect("an address");
        whom.open_http2::<Empty<Bytes>>().await
    };
    let at = server(ours.clone(), &[b"h2", b"http/1.1"]).await;
    let mut lines = open(at).await.expect("reached");
    let request = Request::get(format!("https://{at}/news")).body(Empty::new()).expect("one");
    let answer = lines.sender.send_request(request).await.expect("an answer");
    assert_eq!(answer.into_body().collect().await.expect("whole").to_bytes(), "/news");
    let stranger = open(server(theirs, &[b"h2"]).await).await.err();
    assert!(matches!(stranger, Some(FetchError::Connect { .. })), "{stranger:?}");
    let older = open(server(ours, &[b"http/1.1"]).await).await.err();
    assert!(matches!(older, Some(FetchError::Connect { .. })), "{older:?}");
}

/// O5: a port that is none is told, and not taken for the default: a token would go elsewhere.
#[test]
fn ports_are_numbers() {
    let table = [
        ("http://consul", Some("consul:80")),
        ("https://consul", Some("consul:443")),
        ("http://consul:8500/v1", Some("consul:8500")),
        ("http://[::1]:8500", Some("::1:8500")),
        ("http://[::1]", Some("::1:80")),
        ("http://consul:85000", None),
        ("http://consul:850O", None),
        ("http://consul:", None),
        ("ftp://consul", None),
    ];
    for (address, peer) in table {
        let fetch = HttpFetch::new(address).ok();
        assert_eq!(fetch.map(|fetch| fetch.peer()).as_deref(), peer, "{address}");
    }
}
