//! Heads of requests through all stages with templates: paths, hosts, parameters, redirects and headers that are filled with what a
//! client says. Run by `make fuzz`.
//!
//! Invariant: what a client says stays where the file puts it, whatever it is.
#![no_main]

use std::path::Path;
use std::time::SystemTime;

use http::{HeaderName, HeaderValue, Request};
use l7_gateway::exchange::Transport;
use l7_gateway::preview::{Foreseen, Preview, Question};
use libfuzzer_sys::fuzz_target;
use topology::units::InstanceName;

const FILE: &str = r#"
aqueduct: 1
services:
  user: { endpoints: [127.0.0.1:9] }
gateways:
  app:
    instances: { gw: { listen: 127.0.0.1:8443 } }
    defaults: { auth: none }
    routes:
      - path: /a/{id}
        to: user
        transform:
          request:
            path: "/in/${path.id}/${request.query.q|none}/end"
            query: { set: { told: "${request.header.x-told|nothing}" } }
            headers: { set: { x-seen: "<${request.cookie.seen|-}>" } }
      - { path: /b/*, redirect: { to: "https://${request.host}/c/${path.rest}" } }
      - { path: /d/*, to: user }
"#;

thread_local! {
    static RUNTIME: tokio::runtime::Runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    static PREVIEW: Preview = RUNTIME.with(|runtime| {
        let _inside = runtime.enter();
        let topology = topology::parse("fuzz.yaml", FILE, Path::new("/"));
        let topology = topology.unwrap_or_else(|problems| panic!("{problems}"));
        let (group, _) = topology.gateway("gw").expect("the instance");
        Preview::new(group, &InstanceName::new("gw")).expect("it builds")
    });
}

// A target, and lines of fields by turns.
fuzz_target!(|bytes: &[u8]| {
    let mut lines = bytes.split(|byte| *byte == b'\n');
    let Some(target) = lines.next() else { return };
    let mut request = Request::get(target);
    for (name, line) in ["host", "x-told", "cookie"].into_iter().zip(lines) {
        let Ok(value) = HeaderValue::from_bytes(line) else { return };
        request = request.header(HeaderName::from_static(name), value);
    }
    let Ok(request) = request.body(()) else { return };
    let head = request.into_parts().0;
    let client = "192.0.2.7:4711".parse().expect("an address");
    let question =
        Question { client, transport: Transport::Plain, head, wall: SystemTime::UNIX_EPOCH };
    let foreseen =
        RUNTIME.with(|runtime| PREVIEW.with(|preview| runtime.block_on(preview.ask(question))));
    judge(&foreseen);
});

fn judge(foreseen: &Foreseen) {
    let route = foreseen.canonical.as_ref().map_or("", |(_, path)| path.as_str());
    if let Some(sent) = &foreseen.sent {
        let path = sent.uri.path();
        assert!(!path.split('/').any(|part| part == ".." || part == "."), "{path}");
        if route.starts_with("/a/") {
            let parts: Vec<_> = path.split('/').collect();
            assert!(matches!(parts[..], ["", "in", _, _, "end"]), "{path}");
            let query = sent.uri.query().unwrap_or_default();
            assert_eq!(
                query.split('&').filter(|pair| pair.starts_with("told=")).count(),
                1,
                "{query}"
            );
            let seen = sent.headers.get("x-seen").expect("it is set").as_bytes();
            assert!(seen.starts_with(b"<") && seen.ends_with(b">"));
        }
    }
    for (name, value) in &foreseen.answer.headers {
        if name == "location" {
            assert!(value.starts_with("https://") && value[8..].contains("/c/"), "{value}");
        }
    }
}
