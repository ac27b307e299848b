//! The cross-origin protocol of the Fetch standard (§3.3, "HTTP-CORS protocol") as Chromium judges it: a script of
//! https://app.shop.example asks https://api.shop.example through a gateway with one kind of rules per route. Not for what the
//! headers say: `pipeline` and stage 2 have that. Both are of one site, so that the browser takes cookies along.
//!
//! Invariant: each row has a path of its own, so that no answer to a preflight serves another row.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use http::{Request, Response, header};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, spawn_local};

use super::{Body, PATIENCE, browse, whole};
use crate::instance::{folder, run_text};
use crate::rig::local;

/// What a script does, what it is left with, how many preflights the gateway saw, how many requests the service.
/// An outcome is a status, what the service was told of cookies, and which headers can be read.
type Row = (&'static str, &'static str, &'static str, usize, usize);

/// Of a script at https://app.shop.example.
const TABLE: [Row; 40] = [
    // Simple requests: sent at once, and shown or not.
    ("/none/get", "{}", "TypeError", 0, 1),
    ("/none/opaque", r#"{"mode":"no-cors"}"#, "opaque", 0, 1),
    ("/any/get", "{}", "200 -", 0, 1),
    ("/listed/get", "{}", "200 - x-total", 0, 1),
    ("/listed/head", r#"{"method":"HEAD"}"#, "200  x-total", 0, 1),
    ("/listed/text", r#"{"method":"POST","body":"a"}"#, "200 - x-total", 0, 1),
    ("/listed/safe", r#"{"headers":{"Accept-Language":"la"}}"#, "200 - x-total", 0, 1),
    ("/others/get", "{}", "TypeError", 0, 1),
    ("/moved/get", "{}", "200 - x-total", 0, 0),
    ("/secret/get", "{}", "401 x-total", 0, 0),
    // Preflighted ones: sent only after a yes.
    ("/none/put", r#"{"method":"PUT"}"#, "TypeError", 1, 1),
    ("/others/put", r#"{"method":"PUT"}"#, "TypeError", 1, 0),
    ("/any/put", r#"{"method":"PUT"}"#, "200 -", 1, 1),
    ("/any/delete", r#"{"method":"DELETE"}"#, "TypeError", 1, 0),
    ("/listed/put", r#"{"method":"PUT","body":"a"}"#, "200 - x-total", 1, 1),
    ("/listed/delete", r#"{"method":"DELETE"}"#, "200 - x-total", 1, 1),
    ("/listed/patch", r#"{"method":"PATCH"}"#, "200 - x-total", 1, 1),
    // Methods are compared letter by letter, and only some are put into capitals.
    ("/listed/small", r#"{"method":"patch"}"#, "TypeError", 1, 0),
    ("/listed/header", r#"{"headers":{"X-A":"1"}}"#, "200 - x-total", 1, 1),
    ("/listed/other", r#"{"headers":{"X-A":"1","X-B":"1"}}"#, "TypeError", 1, 0),
    ("/listed/long", r#"{"headers":{"Accept":"LONG"}}"#, "TypeError", 1, 0),
    (
        "/any/json",
        r#"{"method":"POST","body":"{}","headers":{"Content-Type":"application/json"}}"#,
        "200 -",
        1,
        1,
    ),
    (
        "/listed/json",
        r#"{"method":"POST","body":"{}","headers":{"Content-Type":"application/json"}}"#,
        "TypeError",
        1,
        0,
    ),
    ("/any/token", r#"{"headers":{"Authorization":"Bearer t"}}"#, "200 -", 1, 1),
    ("/secret/token", r#"{"headers":{"Authorization":"Bearer t"}}"#, "401 x-total", 1, 0),
    // Credentials: only where the rules say so, and never for everybody.
    ("/cookies/set", r#"{"credentials":"include"}"#, "200 -", 0, 1),
    ("/cookies/same", "{}", "200 -", 0, 1),
    ("/cookies/omit", r#"{"credentials":"omit"}"#, "200 -", 0, 1),
    ("/cookies/get", r#"{"credentials":"include"}"#, "200 c=1", 0, 1),
    ("/cookies/put", r#"{"credentials":"include","method":"PUT"}"#, "200 c=1", 1, 1),
    ("/any/cookies", r#"{"credentials":"include"}"#, "TypeError", 0, 1),
    ("/any/kept-out", r#"{"credentials":"include","method":"PUT"}"#, "TypeError", 1, 0),
    ("/listed/cookies", r#"{"credentials":"include"}"#, "TypeError", 0, 1),
    // What services say widens nothing.
    ("/any/widened", "{}", "200 -", 0, 1),
    ("/others/widened", "{}", "TypeError", 0, 1),
    ("/listed/widened", r#"{"credentials":"include"}"#, "TypeError", 0, 1),
    // A yes is kept for as long as the rules say, for its own path.
    ("/listed/twice", r#"{"method":"PUT","times":2}"#, "200 - x-total", 1, 2),
    ("/brief/twice", r#"{"method":"PUT","times":2,"pause":2500}"#, "200 -", 2, 2),
    // A kept answer is not shown to whom it was not meant for (`Vary`), and serves everybody where everybody may see it.
    ("/listed/kept", r#"{"first":"no-cors"}"#, "200 - x-total", 0, 2),
    ("/any/kept", r#"{"first":"no-cors"}"#, "200 -", 0, 1),
];

/// Of a script in a sandbox, whose origin is `null`.
const OF_NOBODY: [Row; 3] = [
    ("/any/nobody", "{}", "200 -", 0, 1),
    ("/listed/nobody", "{}", "TypeError", 0, 1),
    ("/listed/nobody-put", r#"{"method":"PUT"}"#, "TypeError", 1, 0),
];

const RULES: &str = r#"    routes:
      - { path: /none/*, host: api.shop.example, to: user }
      - { path: /any/*, host: api.shop.example, to: user, cors: { origins: "*", methods: [GET, POST, PUT] } }
      - path: /listed/*
        host: api.shop.example
        to: user
        cors: &listed
          origins: ["https://other.example", "https://app.shop.example"]
          methods: [GET, PUT, DELETE, PATCH]
          headers: [X-A]
          expose: [X-Total]
      - { path: /moved/*, host: api.shop.example, redirect: { to: "/listed/moved" }, cors: *listed }
      - { path: /others/*, host: api.shop.example, to: user, cors: { origins: ["https://other.example"], methods: [PUT] } }
      - { path: /cookies/*, host: api.shop.example, to: user, cors: { origins: ["https://app.shop.example"], methods: [PUT], credentials: true } }
      - { path: /brief/*, host: api.shop.example, to: user, cors: { origins: "*", methods: [PUT], max-age: 1s } }
      - path: /secret/*
        host: api.shop.example
        to: user
        auth: app
        cors: { origins: ["https://app.shop.example"], headers: [Authorization], expose: [X-Total] }
        response-headers: { X-Total: "7" }
      - { path: /*, host: app.shop.example, to: user }
"#;

fn gateway(service: SocketAddr) -> String {
    format!(
        "aqueduct: 1
services:
  user: {{ endpoints: [{service}] }}
gateways:
  app:
    instances:
      gw: {{ listen: 127.0.0.1:0, admin: 127.0.0.1:0 }}
    access-log: file:access.ndjson
    tls: {{ certificates: [{{ chain: file:api.pem, key: file:api.key }}] }}
    issuers:
      app: {{ issuer: \"https://id.example\", audience: api, jwks: \"http://127.0.0.1:9/jwks.json\", algorithms: [ES256] }}
{RULES}"
    )
}

const PAGE: &str = r#"<!doctype html><meta charset="utf-8"><script>
const readable = ["x-total", "x-hidden", "x-request-id"];
async function once(path, init) {
  const answer = await fetch("https://api.shop.example" + path, init);
  if (answer.type === "opaque") return "opaque";
  const text = await answer.text();
  const said = answer.ok ? [answer.status, text] : [answer.status];
  return [...said, ...readable.filter(name => answer.headers.has(name))].join(" ");
}
async function judged([path, { times = 1, pause = 0, first, ...init }]) {
  try {
    if (first) await once(path, { ...init, mode: first });
    let said;
    for (let n = 0; n < times; n += 1) {
      if (n > 0) await new Promise(done => setTimeout(done, pause));
      said = await once(path, init);
    }
    return said;
  } catch (fault) { return fault.name; }
}
async function all(rows) {
  const said = [];
  for (const row of rows) said.push(await judged(row));
  return said;
}
const [mine, nobodys] = ROWS;
if (self !== top) all(nobodys).then(said => top.postMessage(said, "*"));
else all(mine).then(async said => {
  const frame = document.createElement("iframe");
  frame.sandbox = "allow-scripts";
  frame.src = "/page";
  const heard = new Promise(done => addEventListener("message", event => done(event.data)));
  document.documentElement.append(frame);
  fetch("/report", { method: "POST", body: JSON.stringify([said, await heard]) });
});
</script>"#;

fn page() -> String {
    let row = |(path, init, ..): &Row| {
        // Over 128 bytes no header is safe.
        let init = init.replace("LONG", &"a".repeat(129));
        format!("[\"{path}\",{init}]")
    };
    let list = |rows: &[Row]| rows.iter().map(row).collect::<Vec<_>>().join(",");
    PAGE.replace("ROWS", &format!("[[{}],[{}]]", list(&TABLE), list(&OF_NOBODY)))
}

/// A service that says what it was told of cookies, and remembers what it was asked.
struct Service {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<String>>>,
    reports: mpsc::UnboundedReceiver<Vec<Vec<String>>>,
    task: JoinHandle<()>,
}

impl Drop for Service {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Service {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let (send, reports) = mpsc::unbounded_channel();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let remembered = Arc::clone(&asked);
        let task = spawn_local(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (asked, send) = (Arc::clone(&remembered), send.clone());
                spawn_local(async move {
                    let serve = service_fn(|request| answer(request, asked.clone(), send.clone()));
                    let connection =
                        http1::Builder::new().serve_connection(TokioIo::new(stream), serve);
                    // The gateway may leave.
                    let _ended = connection.await;
                });
            }
        });
        Self { address, asked, reports, task }
    }
}

async fn answer(
    request: Request<Incoming>,
    asked: Arc<Mutex<Vec<String>>>,
    reports: mpsc::UnboundedSender<Vec<Vec<String>>>,
) -> Result<Response<Body>, Infallible> {
    let path = request.uri().path().to_owned();
    asked.lock().expect("whole").push(path.clone());
    let response = Response::builder();
    let built = match path.as_str() {
        "/page" => response.header(header::CONTENT_TYPE, "text/html").body(whole(page())),
        "/report" => {
            let body = request.into_body().collect().await.expect("a whole body").to_bytes();
            reports.send(serde_json::from_slice(&body).expect("JSON")).expect("the test waits");
            response.body(whole("thanks"))
        }
        path => {
            let cookie =
                request.headers().get(header::COOKIE).and_then(|value| value.to_str().ok());
            let kept = if path.ends_with("/kept") { "max-age=600" } else { "no-store" };
            let mut response = response.header("x-total", "7").header("x-hidden", "1");
            response = response.header(header::CACHE_CONTROL, kept);
            if path.ends_with("/set") {
                response =
                    response.header(header::SET_COOKIE, "c=1; Path=/; Secure; SameSite=None");
            }
            if path.ends_with("/widened") {
                response = response
                    .header(header::ACCESS_CONTROL_ALLOW_ORIGIN, "https://app.shop.example")
                    .header(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, "true")
                    .header(header::ACCESS_CONTROL_EXPOSE_HEADERS, "x-hidden");
            }
            response.body(whole(cookie.unwrap_or("-").to_owned()))
        }
    };
    Ok(built.expect("an answer"))
}

/// G13: who may call, with what, and what a script may read, as a browser judges our answers.
#[tokio::test]
async fn chromium_judges_cross_origin_rules() {
    local(async {
        let (folder, mut service) = (folder(), Service::start().await);
        let (running, options) = run_text(folder.path(), &gateway(service.address)).await;
        let browser = browse(folder.path(), &running, "https://app.shop.example/page");
        let report = tokio::time::timeout(PATIENCE, service.reports.recv()).await;
        let report = report.expect("a report in time").expect("a report");
        drop(browser);
        options.lifecycle.stop();
        running.finished().await.expect("no panic");
        let records =
            std::fs::read_to_string(folder.path().join("access.ndjson")).expect("records");
        let records = records.lines().map(|line| serde_json::from_str(line).expect("JSON"));
        let records: Vec<serde_json::Value> = records.collect();
        let asked = service.asked.lock().expect("whole");
        let [mine, nobodys] = report.as_slice() else { unreachable!("two lists: {report:?}") };
        let found = mine.iter().chain(nobodys);
        let rows = TABLE.iter().chain(&OF_NOBODY);
        assert_eq!(found.clone().count(), rows.clone().count());
        let mut wrong = Vec::new();
        for ((path, init, outcome, preflights, served), found) in rows.zip(found) {
            let named = format!("OPTIONS {path}");
            let seen = records.iter().filter(|record| record["endpoint"] == *named).count();
            let reached = asked.iter().filter(|one| *one == path).count();
            if (found.as_str(), seen, reached) != (*outcome, *preflights, *served) {
                wrong
                    .push(format!("{path} {init}: {found:?}, {seen} preflights, {reached} served"));
            }
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    })
    .await;
}
