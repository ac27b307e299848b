//! HTTP/2 towards services: shared connections, refusals, and what hostile ones cannot do.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;

use common::tls::server;
use rcgen::{CertifiedKey, generate_simple_self_signed};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio_rustls::TlsAcceptor;
use topology::gateway::{Certificate, Tls};
use topology::{At, Place, SecretRef, Topology};

use crate::fakes::{Act, Fake};
use crate::peers::{Fake2, Secure, frame, raw, rest};
use crate::rig::{Rig, local, topology, until};

/// What a service of bytes says to a request.
type Frames = Box<dyn Fn(usize, u32) -> Vec<u8>>;

/// Services that speak HTTP/2, and one route to them.
pub(crate) fn http2(addresses: &[SocketAddr], upstream: &str) -> Topology {
    let list: Vec<_> = addresses.iter().map(ToString::to_string).collect();
    topology(
        &format!("  user: {{ endpoints: [{}] }}", list.join(", ")),
        &format!(
            "    upstreams: {{ user: {{ protocol: http2{upstream} }} }}\n    \
             routes:\n      - {{ path: /*, to: user }}"
        ),
    )
}

fn post(path: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "POST {path} HTTP/1.1\r\nHost: a.example\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
    )
}

/// G4: a service is spoken to in HTTP/2 with prior knowledge; heads and bodies are HTTP/2's.
#[tokio::test]
async fn services_are_asked_over_http2() {
    local(async {
        let fake = Fake2::new(100, |mut asked| {
            Box::pin(async move {
                let body = asked.body().await;
                assert_eq!(body, b"hello");
                asked.answer("world");
            })
        })
        .await;
        let rig = Rig::new(&http2(&[fake.address], ""));
        let answer = rig.raw(&post("/a?b=c", "hello")).await;
        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("world"), "{answer}");
        let uri = fake.seen.heads.borrow()[0].1.uri().to_string();
        assert_eq!(uri, "http://a.example/a?b=c");
        assert_eq!(fake.seen.header("content-length").as_deref(), Some("5"));
        assert_eq!(fake.seen.header("x-forwarded-host").as_deref(), Some("a.example"));
        for gone in ["host", "connection", "transfer-encoding"] {
            assert_eq!(fake.seen.header(gone), None, "{gone}");
        }
    })
    .await;
}

/// G4: requests share a connection up to what the service allows; the next ones get a further one,
/// and none is opened in vain.
#[tokio::test]
async fn requests_share_connections() {
    local(async {
        for (streams, expected) in [(100, 1), (2, 4), (1, 7)] {
            let (go, here) = (Rc::new(Notify::new()), Rc::new(Cell::new(0)));
            let (wait, count) = (Rc::clone(&go), Rc::clone(&here));
            let fake = Fake2::new(streams, move |mut asked| {
                let (wait, count) = (Rc::clone(&wait), Rc::clone(&count));
                Box::pin(async move {
                    count.set(count.get() + 1);
                    if count.get() == 7 {
                        wait.notify_waiters();
                    } else {
                        wait.notified().await;
                    }
                    asked.answer("ok");
                })
            })
            .await;
            let rig = Rig::new(&http2(&[fake.address], ""));
            let asked = (0..7).map(|_| rig.get("/", ""));
            for answer in futures_util::future::join_all(asked).await {
                assert!(answer.contains("ok"), "{answer}");
            }
            assert_eq!(fake.seen.connections.get(), expected, "{streams} at a time");
            assert_eq!(fake.seen.most.get(), 7.min(streams as usize));
        }
    })
    .await;
}

/// G18: a request that the service refuses unseen goes elsewhere, also with a body and an unsafe
/// method; its body arrives whole.
#[tokio::test]
async fn what_was_refused_unseen_goes_elsewhere() {
    local(async {
        let refusing = Fake2::new(100, |mut asked| Box::pin(async move { asked.refuse() })).await;
        let (goodbye, asked) = raw(|_, _| frame(7, 0, 0, &[0, 0, 0, 0, 0, 0, 0, 0])).await;
        for sick in [refusing.address, goodbye] {
            let well = Fake2::new(100, |mut asked| {
                Box::pin(async move {
                    assert_eq!(asked.body().await, b"an order");
                    asked.answer("done");
                })
            })
            .await;
            let rig = Rig::new(&http2(&[sick, well.address], ""));
            for _ in 0..4 {
                let answer = rig.raw(&post("/orders", "an order")).await;
                assert!(answer.contains("done"), "{answer}");
            }
            assert_eq!(well.seen.count(), 4);
        }
        assert!(refusing.seen.count() > 0 && asked.get() > 0);
    })
    .await;
}

/// G18: what a service may have looked at is not sent again, however the connection ends.
#[tokio::test]
async fn what_a_service_may_have_seen_is_sent_once() {
    local(async {
        let cancel = |_, stream| frame(3, 0, stream, &[0, 0, 0, 8]);
        let over = |_, stream: u32| {
            let [a, b, c, d] = stream.to_be_bytes();
            // It has seen this stream, then goes.
            [frame(7, 0, 0, &[a, b, c, d, 0, 0, 0, 0]), frame(9, 0, 0, &[])].concat()
        };
        let ends = |_, _| Vec::new();
        let kinds: [Frames; 3] = [Box::new(cancel), Box::new(over), Box::new(ends)];
        for kind in kinds {
            let (first, one) = raw(kind).await;
            let second = Fake2::saying("twice").await;
            let rig = Rig::new(&http2(&[first, second.address], ""));
            let answer = rig.raw(&post("/orders", "an order")).await;
            assert!(answer.starts_with("HTTP/1.1 502 "), "{answer}");
            assert_eq!((one.get(), second.seen.count()), (1, 0));
        }
    })
    .await;
}

/// G18: whatever two services do with it, no order is taken twice.
#[tokio::test]
async fn no_order_is_taken_twice() {
    /// Answers, refuses, takes and resets, takes and breaks off.
    async fn moody(seed: usize, taken: Rc<RefCell<HashMap<Vec<u8>, u32>>>) -> Fake2 {
        Fake2::new(3, move |mut asked| {
            let taken = Rc::clone(&taken);
            Box::pin(async move {
                let mood = (asked.number * 7 + seed * 5 + asked.connection * 3) % 11;
                if mood < 4 {
                    return asked.refuse();
                }
                let order = asked.body().await;
                *taken.borrow_mut().entry(order).or_default() += 1;
                match mood {
                    4 | 5 => asked.respond.send_reset(h2::Reason::INTERNAL_ERROR),
                    6 => asked.respond.send_reset(h2::Reason::CANCEL),
                    _ => asked.answer("taken"),
                }
            })
        })
        .await
    }
    local(async {
        let taken = Rc::default();
        let (one, two) = (moody(1, Rc::clone(&taken)).await, moody(2, Rc::clone(&taken)).await);
        let rig = Rig::new(&http2(&[one.address, two.address], ", max-attempts: 5"));
        let orders: Vec<_> = (0..200).map(|n| post("/orders", &format!("order {n}"))).collect();
        let mut done = 0;
        for some in orders.chunks(20) {
            let answers = futures_util::future::join_all(some.iter().map(|o| rig.raw(o))).await;
            done += answers.iter().filter(|a| a.contains("taken")).count();
        }
        let taken = taken.borrow();
        assert!(taken.values().all(|times| *times == 1), "{taken:?}");
        assert!(done > 50 && taken.len() >= done, "{done} of {}", taken.len());
    })
    .await;
}

/// G17: behind a balancer a connection has one request at a time, unless it may have more, and is
/// capped.
#[tokio::test]
async fn shared_connections_behind_a_balancer_are_asked_for() {
    local(async {
        for (upstream, connections, most) in
            [("", 4, 1), (", max-streams-per-connection: 4", 1, 4), (", max-streams-per-connection: 4, max-requests-per-connection: 2", 2, 2)]
        {
            let (go, here) = (Rc::new(Notify::new()), Rc::new(Cell::new(0)));
            let fake = Fake2::new(100, move |mut asked| {
                let (go, here) = (Rc::clone(&go), Rc::clone(&here));
                Box::pin(async move {
                    here.set(here.get() + 1);
                    if here.get() == 4 {
                        go.notify_waiters();
                    } else {
                        go.notified().await;
                    }
                    asked.answer("ok");
                })
            })
            .await;
            let port = fake.address.port();
            let rig = Rig::new(&topology(
                &format!(
                    "  user: {{ endpoints: [127.0.0.1:9] }}\nnlbs:\n  internal:\n    instances: {{ ilb: {{ address: 127.0.0.1 }} }}\n    \
                     listeners: {{ user: {{ tcp: \"*:{port}\", to: user }} }}"
                ),
                &format!(
                    "    upstreams: {{ internal/user: {{ protocol: http2{upstream} }} }}\n    routes:\n      - {{ path: /*, to: internal/user }}"
                ),
            ));
            let asked = (0..4).map(|_| rig.get("/", ""));
            for answer in futures_util::future::join_all(asked).await {
                assert!(answer.contains("ok"), "{answer}");
            }
            assert_eq!((fake.seen.connections.get(), fake.seen.most.get()), (connections, most));
        }
    })
    .await;
}

/// G23: a service that floods is cut off, and the others are served on.
#[tokio::test]
async fn hostile_services_are_cut_off() {
    local(async {
        let interim = |stream| frame(1, 4, stream, &[0x08, 3, b'1', b'0', b'3']);
        let floods: [Frames; 5] = [
            Box::new(|_, _| frame(6, 0, 0, &[0; 8]).repeat(20_000)),
            Box::new(|_, _| frame(4, 0, 0, &[]).repeat(20_000)),
            Box::new(|_, stream| frame(3, 0, stream, &[0, 0, 0, 8]).repeat(20_000)),
            Box::new(move |_, stream| interim(stream).repeat(20_000)),
            Box::new(|_, stream| {
                let open = frame(1, 0, stream, &[0x88]);
                [open, frame(9, 0, stream, &[0; 100]).repeat(20_000)].concat()
            }),
        ];
        for flood in floods {
            let (hostile, asked) = raw(flood).await;
            let well = Fake2::saying("fine").await;
            let rig = Rig::new(&http2(&[hostile, well.address], ", max-attempts: 1"));
            let answers = [rig.get("/", "").await, rig.get("/", "").await];
            let good = answers.iter().filter(|a| a.contains("fine")).count();
            let bad = answers.iter().filter(|a| a.contains("HTTP/1.1 502 ")).count();
            assert_eq!((good, bad, asked.get()), (1, 1, 1), "{answers:?}");
        }
    })
    .await;
}

/// G23: a service that does not speak HTTP/2 is sent no request.
#[tokio::test]
async fn nothing_is_sent_to_who_speaks_no_http2() {
    local(async {
        let fake =
            Fake::new(Act::Keep("HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")).await;
        let rig = Rig::new(&http2(&[fake.address], ""));
        let answer = rig.raw(&post("/", "secret")).await;
        assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
        let seen = fake.seen.requests.borrow();
        assert!(
            !seen.is_empty() && seen.iter().all(|(_, text)| !text.contains("secret")),
            "{seen:?}"
        );
    })
    .await;
}

/// G18: a service that falls silent with requests open is asked whether it lives, and left when it
/// does not say so.
#[tokio::test(start_paused = true)]
async fn a_dead_connection_is_left() {
    local(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let dead = listener.local_addr().expect("an address");
        tokio::task::spawn_local(async move {
            let mut kept = Vec::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                stream.write_all(&frame(4, 0, 0, &[])).await.expect("taken");
                kept.push(stream);
            }
        });
        let well = Fake2::saying("fine").await;
        let rig = Rig::new(&http2(&[dead, well.address], ""));
        for _ in 0..2 {
            let begun = tokio::time::Instant::now();
            assert!(rig.get("/", "").await.contains("fine"));
            // Five of silence, five for a pong.
            assert!(begun.elapsed().as_secs() <= 10, "{:?}", begun.elapsed());
        }
    })
    .await;
}

/// G4: clients that do not read hold up nobody else on the connection.
#[tokio::test]
async fn slow_clients_hold_up_nobody() {
    local(async {
        let fake = Fake2::new(100, |mut asked| {
            Box::pin(async move {
                if asked.request.uri().path() == "/small" {
                    return asked.answer("small");
                }
                let mut to =
                    asked.respond.send_response(http::Response::new(()), false).expect("open");
                to.send_data(vec![b'x'; 8 << 20].into(), true).expect("open");
                // The rest is the connection's work, as far as it is let.
            })
        })
        .await;
        let rig = Rig::new(&http2(&[fake.address], ""));
        let mut slow = Vec::new();
        for _ in 0..40 {
            let (mut stream, task) = rig.connect();
            stream.write_all(b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n").await.expect("taken");
            until(&mut stream, "xxx").await;
            slow.push((stream, task));
        }
        for _ in 0..3 {
            assert!(rig.get("/small", "").await.contains("small"));
        }
        assert_eq!(fake.seen.connections.get(), 1);
    })
    .await;
}

/// G3, G4: over TLS the protocol is what both sides want (ALPN), and HTTP/2 is never assumed.
#[tokio::test]
async fn alpn_chooses_the_protocol() {
    local(async {
        let folder = tempfile::tempdir().expect("a folder");
        let made = generate_simple_self_signed(["service.internal".to_owned()]).expect("made");
        let CertifiedKey { cert, signing_key } = made;
        std::fs::write(folder.path().join("s.pem"), cert.pem()).expect("written");
        std::fs::write(folder.path().join("s.key"), signing_key.serialize_pem()).expect("written");
        let at = |name: &str| At {
            value: SecretRef::File(folder.path().join(name)),
            place: Place::default(),
        };
        let tls = Tls::of(vec![Certificate { chain: at("s.pem"), key: at("s.key") }]);
        for (protocol, offered, served) in [
            ("auto", &b"h2"[..], true),
            ("http2", b"h2", true),
            ("http1", b"h2", false),
            ("http2", b"http/1.1", false),
        ] {
            let acceptor = TlsAcceptor::from(server::config(&tls, &[offered]).expect("TLS"));
            let fake = Fake2::over(Some(acceptor), 100, |mut asked| {
                Box::pin(async move { asked.answer("over tls") })
            })
            .await;
            let text = format!(
                "aqueduct: 1\nservices:\n  user: {{ endpoints: [{}] }}\ngateways:\n  app:\n    instances:\n      \
                 gw: {{ listen: 127.0.0.1:0 }}\n    upstreams: {{ user: {{ protocol: {protocol}, tls: {{ ca: file:s.pem, name: service.internal }} }} }}\n    \
                 routes:\n      - {{ path: /*, to: user }}\n",
                fake.address
            );
            let parsed = topology::parse("test.yaml", &text, folder.path()).expect("a topology");
            let rig = Rig::new(&parsed);
            let answer = rig.get("/", "").await;
            assert_eq!(answer.contains("over tls"), served, "{protocol} {offered:?}: {answer}");
            if served {
                assert_eq!(fake.seen.heads.borrow()[0].1.uri().scheme_str(), Some("https"));
            }
        }
    })
    .await;
}

/// G4: a request's body is still on its way while its answer streams, both unbuffered.
#[tokio::test]
async fn bodies_stream_both_ways_at_once() {
    local(async {
        let fake = Fake2::new(100, |mut asked| {
            Box::pin(async move {
                let answer = http::Response::new(());
                let mut to = asked.respond.send_response(answer, false).expect("open");
                while let Some(data) = asked.request.body_mut().data().await {
                    let data = data.expect("whole");
                    let flow = asked.request.body_mut().flow_control();
                    flow.release_capacity(data.len()).expect("taken");
                    to.send_data(data, false).expect("open");
                }
                to.send_data(bytes::Bytes::new(), true).expect("open");
            })
        })
        .await;
        let services = format!("  user: {{ endpoints: [{}] }}", fake.address);
        let gateway = "    upstreams: { user: { protocol: http2 } }\n    routes:\n      - { path: /*, to: user }";
        let mut secure = Secure::new(&services, gateway);
        let mut client = secure.client().await;
        let ask = http::Request::post("https://api.example/echo").body(()).expect("a request");
        let (answer, mut to) = client.send_request(ask, false).expect("open");
        let mut body = answer.await.expect("an answer").into_body();
        for word in ["one", "two", "three"] {
            to.send_data(word.into(), false).expect("open");
            assert_eq!(body.data().await.expect("open").expect("whole"), word);
        }
        to.send_data(bytes::Bytes::new(), true).expect("open");
        assert_eq!(rest(&mut body).await.expect("an end"), (Vec::new(), None));
        drop((client, body));
        let records = secure.rig.records();
        assert_eq!((&records[0]["complete"], &records[0]["bytes_in"]), (&true.into(), &11.into()));
    })
    .await;
}
