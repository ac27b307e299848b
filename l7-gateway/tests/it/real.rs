//! Real clients of other packages through the gateway, over TLS by its own certificate: curl, h2load and
//! a headless Chromium. `make verify` installs them; not part of `make test`.
//!
//! Invariant: every program that is started here ends with the test.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures_util::stream;
use http::{Request, Response, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use l7_gateway::Running;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpSocket;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::{JoinHandle, spawn_blocking, spawn_local};

use crate::instance::{folder, run};
use crate::rig::local;

mod cors;

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// A service with a page, uploads, events and a WebSocket.
struct Service {
    address: SocketAddr,
    reports: mpsc::UnboundedReceiver<String>,
    task: JoinHandle<()>,
}

impl Drop for Service {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What its connections share.
struct Shared {
    /// Events that the client has confirmed.
    heard: Semaphore,
    reports: mpsc::UnboundedSender<String>,
}

impl Service {
    async fn start() -> Self {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.bind(([127, 0, 0, 1], 0).into()).expect("a port");
        // h2load asks for hundreds of connections at once.
        let listener = socket.listen(4096).expect("it listens");
        let address = listener.local_addr().expect("an address");
        let (send, reports) = mpsc::unbounded_channel();
        let shared = Arc::new(Shared { heard: Semaphore::new(0), reports: send });
        let task = spawn_local(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let shared = Arc::clone(&shared);
                spawn_local(async move {
                    let serve = service_fn(|request| answer(Arc::clone(&shared), request));
                    let connection =
                        http1::Builder::new().serve_connection(TokioIo::new(stream), serve);
                    // A client may leave in the middle.
                    let _ended = connection.with_upgrades().await;
                });
            }
        });
        Self { address, reports, task }
    }
}

fn whole(text: impl Into<Bytes>) -> Body {
    Full::new(text.into()).boxed_unsync()
}

async fn answer(
    shared: Arc<Shared>,
    request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    let response = Response::builder();
    let built = match request.uri().path() {
        "/page" => response.header(header::CONTENT_TYPE, "text/html").body(whole(PAGE)),
        "/events" => {
            let events = response.header(header::CONTENT_TYPE, "text/event-stream");
            events.body(StreamBody::new(events_of(shared)).boxed_unsync())
        }
        "/heard" => {
            shared.heard.add_permits(1);
            response.body(whole("ok"))
        }
        "/ws" => websocket(request),
        "/report" => {
            let body = request.into_body().collect().await.expect("a whole body").to_bytes();
            let text = String::from_utf8_lossy(&body).into_owned();
            shared.reports.send(text).expect("the test waits");
            response.body(whole("thanks"))
        }
        "/size" => {
            let body = request.into_body().collect().await.expect("a whole body").to_bytes();
            let sum = body.iter().fold(0_u64, |sum, byte| sum + u64::from(*byte));
            response.body(whole(format!("{} {sum}", body.len())))
        }
        path => response.body(whole(format!("hello {path}"))),
    };
    Ok(built.expect("an answer"))
}

/// Three events; each but the first comes after the one before it was heard, so that a gateway which
/// holds them back ends in silence.
fn events_of(
    shared: Arc<Shared>,
) -> impl futures_util::Stream<Item = Result<Frame<Bytes>, Infallible>> {
    stream::unfold(0, move |number| {
        let shared = Arc::clone(&shared);
        async move {
            if number > 0 {
                shared.heard.acquire().await.expect("open").forget();
            }
            let text = format!("data: event {number}\n\n");
            (number < 3).then(|| (Ok(Frame::data(Bytes::from(text))), number + 1))
        }
    })
}

/// RFC 6455 §4.2.2, then an echo of short messages.
fn websocket(mut request: Request<Incoming>) -> http::Result<Response<Body>> {
    let key = request.headers().get(header::SEC_WEBSOCKET_KEY).expect("a key");
    let text = [key.as_bytes(), b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"].concat();
    let accept = STANDARD.encode(digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, &text));
    let upgrade = hyper::upgrade::on(&mut request);
    spawn_local(async move {
        let mut stream = TokioIo::new(upgrade.await.expect("it switches"));
        let mut head = [0; 6];
        // Clients mask what they send (§5.3); 125 bytes at most need no longer length.
        while stream.read_exact(&mut head).await.is_ok() {
            let mut text = vec![0; usize::from(head[1] & 0x7f)];
            stream.read_exact(&mut text).await.expect("a message");
            let masks = head[2..].iter().cycle();
            text.iter_mut().zip(masks).for_each(|(byte, mask)| *byte ^= mask);
            let message = [&[head[0], text.len() as u8][..], &text].concat();
            stream.write_all(&message).await.expect("taken");
        }
    });
    Response::builder()
        .status(101)
        .header(header::CONNECTION, "upgrade")
        .header(header::UPGRADE, "websocket")
        .header(header::SEC_WEBSOCKET_ACCEPT, accept)
        .body(whole(""))
}

const PAGE: &str = r#"<!doctype html><meta charset="utf-8"><script>
const report = { protocol: performance.getEntriesByType("navigation")[0].nextHopProtocol };
const fetches = Promise.all([...Array(50).keys()].map(async number => {
  const answer = await fetch("/item/" + number);
  return answer.ok && await answer.text() === "hello /item/" + number;
})).then(all => report.fetched = all.filter(fine => fine).length);
const upload = fetch("/size", { method: "PUT", body: new Uint8Array(1 << 20).fill(1) })
  .then(answer => answer.text()).then(text => report.upload = text);
const events = new Promise(done => {
  const heard = [], source = new EventSource("/events");
  source.onmessage = async event => {
    heard.push(event.data);
    await fetch("/heard", { method: "POST" });
    if (heard.length === 3) { source.close(); report.events = heard; done(); }
  };
});
const socket = new Promise((done, failed) => {
  const echoed = [], socket = new WebSocket("wss://" + location.host + "/ws");
  socket.onopen = () => ["one", "two", "three"].forEach(text => socket.send(text));
  socket.onerror = () => failed("WebSocket");
  socket.onmessage = event => {
    echoed.push(event.data);
    if (echoed.length === 3) { socket.close(); report.echoed = echoed; done(); }
  };
});
Promise.all([fetches, upload, events, socket])
  .catch(fault => report.fault = String(fault))
  .then(() => fetch("/report", { method: "POST", body: JSON.stringify(report) }));
</script>"#;

fn port(running: &Running) -> u16 {
    running.listeners[0].1.port()
}

/// What a program prints; it must succeed.
async fn output(mut command: Command) -> String {
    let output = spawn_blocking(move || command.output()).await.expect("no panic");
    let output = output.expect("it is installed");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    String::from_utf8(output.stdout).expect("text")
}

fn curl(folder: &Path, running: &Running, more: &[&str], paths: &[&str]) -> Command {
    let port = port(running);
    let mut command = Command::new("curl");
    command.args(["-sS", "--cacert", "api.pem", "--max-time", "60"]).current_dir(folder);
    command.arg("--resolve").arg(format!("api.example:{port}:127.0.0.1")).args(more);
    for path in paths {
        command.arg(format!("https://api.example:{port}{path}"));
    }
    command
}

/// G4: curl over HTTP/1.1 and HTTP/2: connections kept, uploads of every kind, a wait for 100, HEAD.
#[tokio::test]
async fn curl_is_served() {
    local(async {
        let (folder, service) = (folder(), Service::start().await);
        let (running, options) = run(folder.path(), service.address).await;
        let body = vec![3; 5 << 20];
        std::fs::write(folder.path().join("body"), &body).expect("written");
        let size = format!("{} {}", body.len(), 3 * body.len());
        for (flag, version) in [("--http1.1", "1.1"), ("--http2", "2")] {
            let format = "%{http_version} %{num_connects} %{http_code}\\n";
            let many = ["/a", "/b", "/c"];
            let shown = [flag, "-w", format, "-o", "/dev/null"];
            let mut kept = curl(folder.path(), &running, &shown, &many);
            kept.args(["-o", "/dev/null", "-o", "/dev/null"]);
            let expected = format!("{version} 1 200\n{version} 0 200\n{version} 0 200\n");
            assert_eq!(output(kept).await, expected);
            let uploads: [&[&str]; 5] = [
                &["-T", "body"],
                &["--data-binary", "@body"],
                &["-T", "body", "-H", "Expect: 100-continue", "--expect100-timeout", "30"],
                &["-T", "body", "-H", "Expect:"],
                &["-T", "-", "-H", "Content-Type: a/b"],
            ];
            for upload in uploads {
                let all = [&[flag], upload].concat();
                let mut command = curl(folder.path(), &running, &all, &["/size"]);
                let file = std::fs::File::open(folder.path().join("body")).expect("a file");
                command.stdin(Stdio::from(file));
                assert_eq!(output(command).await, size, "{all:?}");
            }
            let head = output(curl(folder.path(), &running, &[flag, "-I"], &["/a"])).await;
            assert!(head.to_lowercase().contains("content-length: 8\r\n"), "{head}");
        }
        options.lifecycle.stop();
        running.finished().await.expect("no panic");
    })
    .await;
}

/// G4: h2load over HTTP/2 and HTTP/1.1: every request of many at once succeeds.
#[tokio::test]
async fn h2load_is_served() {
    local(async {
        let (folder, service) = (folder(), Service::start().await);
        let (running, options) = run(folder.path(), service.address).await;
        for more in [&["-m", "32"][..], &["--h1"]] {
            let mut command = Command::new("h2load");
            command.args(["-n", "5000", "-c", "16"]).args(more);
            command.arg(format!("--connect-to=127.0.0.1:{}", port(&running)));
            command.arg("https://api.example/a");
            let said = output(command).await;
            let all = "5000 total, 5000 started, 5000 done, 5000 succeeded, 0 failed, 0 errored, 0 timeout";
            assert!(said.contains(all) && said.contains("5000 2xx"), "{said}\n{}", options.observer.metrics.render());
        }
        options.lifecycle.stop();
        running.finished().await.expect("no panic");
    })
    .await;
}

/// G4: a browser: a page and fifty fetches over HTTP/2, an upload, events one by one, a WebSocket.
#[tokio::test]
async fn chromium_is_served() {
    local(async {
        let (folder, mut service) = (folder(), Service::start().await);
        let (running, options) = run(folder.path(), service.address).await;
        let browser = browse(folder.path(), &running, "https://api.example/page");
        let report = tokio::time::timeout(PATIENCE, service.reports.recv()).await;
        let report = report.expect("a report in time").expect("a report");
        let report: serde_json::Value = serde_json::from_str(&report).expect("JSON");
        assert_eq!(report["fault"], serde_json::Value::Null, "{report}");
        assert_eq!(
            (&report["protocol"], &report["fetched"]),
            (&"h2".into(), &50.into()),
            "{report}"
        );
        assert_eq!(report["upload"], "1048576 1048576", "{report}");
        assert_eq!(
            report["events"],
            serde_json::json!(["event 0", "event 1", "event 2"]),
            "{report}"
        );
        assert_eq!(report["echoed"], serde_json::json!(["one", "two", "three"]), "{report}");
        drop(browser);
        options.lifecycle.stop();
        running.finished().await.expect("no panic");
    })
    .await;
}

/// Shows this page, all hosts of `example` being the gateway.
fn browse(folder: &Path, running: &Running, page: &str) -> Browser {
    let mut command = Command::new("chromium");
    command.args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]);
    command.args(["--no-first-run", "--disable-background-networking", "--disable-sync"]);
    command.arg(format!("--user-data-dir={}", folder.join("profile").display()));
    command.arg(format!("--host-resolver-rules=MAP *.example 127.0.0.1:{}", port(running)));
    command.arg(format!("--ignore-certificate-errors-spki-list={}", key_of(folder)));
    // Without a port to debug by it would print the page and leave before the script is done.
    command.arg("--remote-debugging-port=0").arg(page);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    Browser(command.spawn().expect("chromium is installed"))
}

/// Ends with the test.
struct Browser(Child);

impl Drop for Browser {
    fn drop(&mut self) {
        // It may have ended before: then there is nothing to end.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// For a browser that starts on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// How Chromium is told to believe in the gateway's certificate: by the digest of its public key.
fn key_of(folder: &Path) -> String {
    let certificate = CertificateDer::from_pem_file(folder.join("api.pem")).expect("a certificate");
    let key = rustls::server::ParsedCertificate::try_from(&certificate).expect("a certificate");
    let key = key.subject_public_key_info();
    STANDARD.encode(digest::digest(&digest::SHA256, key.as_ref()))
}
