//! hyper as a second opinion on a request that the codec took. Not for what the codec refuses: it is
//! the stricter one. Called by `http1_request`.
//!
//! Invariant: what we take, hyper takes, with the same meaning.

use std::cell::RefCell;
use std::rc::Rc;

use bytes::Bytes;
use http::request::Parts;
use http_body_util::{BodyExt as _, Empty};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::AsyncWriteExt as _;

thread_local! {
    static RUNTIME: tokio::runtime::Runtime =
        tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
}

type Heard = Rc<RefCell<Option<(Parts, Vec<u8>)>>>;

/// Panics if hyper reads the request in another way, or refuses it.
pub fn agrees(bytes: &[u8], ours: &Parts, body: &[u8]) {
    let heard: Heard = Rc::default();
    RUNTIME.with(|runtime| runtime.block_on(listen(bytes, &heard)));
    let heard = heard.take();
    let Some((theirs, read)) = heard else { panic!("hyper refuses {}", bytes.escape_ascii()) };
    assert_eq!(theirs.method, ours.method);
    assert_eq!(theirs.uri, ours.uri);
    assert_eq!(theirs.version, ours.version);
    let fields = |parts: &Parts| {
        let all = parts.headers.iter();
        all.map(|(name, value)| (name.clone(), value.clone())).collect::<Vec<_>>()
    };
    assert_eq!(fields(&theirs), fields(ours));
    assert_eq!(read, body);
}

async fn listen(bytes: &[u8], heard: &Heard) {
    let (mut client, server) = tokio::io::duplex(bytes.len() + 64 * 1024);
    client.write_all(bytes).await.expect("there is room");
    let serve = service_fn(|request: http::Request<hyper::body::Incoming>| {
        let heard = Rc::clone(heard);
        async move {
            let (parts, body) = request.into_parts();
            if let Ok(body) = body.collect().await {
                heard.borrow_mut().get_or_insert((parts, body.to_bytes().to_vec()));
            }
            Ok::<_, std::convert::Infallible>(http::Response::new(Empty::<Bytes>::new()))
        }
    });
    let mut builder = http1::Builder::new();
    let connection = builder.keep_alive(false).serve_connection(TokioIo::new(server), serve);
    // However it ends: what was heard counts.
    let _ended = connection.await;
}
