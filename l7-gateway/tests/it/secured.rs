//! TLS towards services: verified, with a name, with a certificate of ours.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use common::tls::server::config;
use rcgen::{CertifiedKey, generate_simple_self_signed};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use topology::gateway::{Certificate, Tls};
use topology::{At, Place, SecretRef};

use crate::rig::{Rig, local};

/// Certificates for `service.internal` and for `gateway.internal`, each its own authority.
fn folder() -> TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    for name in ["service", "gateway"] {
        let made = generate_simple_self_signed([format!("{name}.internal")]).expect("made");
        let CertifiedKey { cert, signing_key } = made;
        let write = |end: &str, text: String| {
            std::fs::write(folder.path().join(format!("{name}.{end}")), text).expect("written");
        };
        write("pem", cert.pem());
        write("key", signing_key.serialize_pem());
    }
    folder
}

fn at<T>(value: T) -> At<T> {
    At { value, place: Place::default() }
}

/// A service that speaks TLS, and wants a certificate of the gateway.
async fn service(folder: &Path) -> SocketAddr {
    let file = |name: &str| at(SecretRef::File(folder.join(name)));
    let certificate = Certificate { chain: file("service.pem"), key: file("service.key") };
    let client_ca = Some(file("gateway.pem"));
    let tls = Tls { client_ca, ..Tls::of(vec![certificate]) };
    let acceptor = TlsAcceptor::from(config(&tls, &[b"http/1.1"]).expect("a configuration"));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::task::spawn_local(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(mut stream) = acceptor.accept(stream).await else { continue };
            let mut bytes = Vec::new();
            while !bytes.ends_with(b"\r\n\r\n") {
                match stream.read_u8().await {
                    Ok(byte) => bytes.push(byte),
                    Err(_) => break,
                }
            }
            let name = stream.get_ref().1.server_name().unwrap_or_default().to_owned();
            let answer = format!(
                "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{name}",
                name.len()
            );
            // Who does not want the answer has seen enough.
            let _gone = stream.write_all(answer.as_bytes()).await;
            let _gone = stream.shutdown().await;
        }
    });
    address
}

fn rig(folder: &Path, address: SocketAddr, tls: &str) -> Rig {
    let text = format!(
        "aqueduct: 1\nservices:\n  user: {{ endpoints: [{address}] }}\ngateways:\n  app:\n    instances:\n      \
         gw: {{ listen: 127.0.0.1:0 }}\n    upstreams: {{ user: {{ tls: {{ {tls} }} }} }}\n    routes:\n      \
         - {{ path: /*, to: user }}\n"
    );
    let parsed = topology::parse("test.yaml", &text, folder);
    Rig::new(&Arc::new(parsed.map_err(|problems| problems.to_string()).expect("a topology")))
}

/// G3: a service is asked by its name, its certificate is verified against the given authority, and
/// ours is shown; whatever does not fit is 503, or 502 where the service
/// refuses us after the handshake (TLS 1.3), and never plain text.
#[tokio::test]
async fn services_are_verified_and_verify() {
    local(async {
        let folder = folder();
        let address = service(folder.path()).await;
        let ours = "certificate: { chain: file:gateway.pem, key: file:gateway.key }";
        for (tls, served) in [
            (format!("ca: file:service.pem, name: service.internal, {ours}"), true),
            (format!("ca: file:service.pem, name: other.internal, {ours}"), false),
            (format!("ca: file:service.pem, {ours}"), false),
            (format!("ca: file:gateway.pem, name: service.internal, {ours}"), false),
            (format!("name: service.internal, {ours}"), false),
            ("ca: file:service.pem, name: service.internal".to_owned(), false),
        ] {
            let answer = rig(folder.path(), address, &tls).get("/", "").await;
            if served {
                assert!(answer.starts_with("HTTP/1.1 200"), "{tls}: {answer}");
                assert!(answer.ends_with("service.internal"), "{answer}");
            } else {
                assert!(answer.starts_with("HTTP/1.1 50"), "{tls}: {answer}");
            }
        }
    })
    .await;
}
