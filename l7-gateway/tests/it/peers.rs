//! Services that speak HTTP/2, and HTTP/2 clients over in-memory TLS.
//!
//! Invariant: what a service was sent is remembered before it answers.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::rc::Rc;

use bytes::Bytes;
use common::tls::client::{Roots, config};
use h2::client::SendRequest;
use h2::server::SendResponse;
use h2::{Reason, RecvStream};
use http::{HeaderMap, Request, Response};
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet, spawn_local};
use tokio_rustls::{TlsAcceptor, TlsConnector};
use topology::{At, Place, SecretRef, Topology};

use crate::instance;
use crate::rig::Rig;

/// What a service does with a request.
pub(crate) type Doing = Pin<Box<dyn Future<Output = ()>>>;

/// A request as a service sees it.
pub(crate) struct Asked {
    /// Of its connection (from 1).
    pub(crate) connection: usize,
    /// Of all requests (from 1).
    pub(crate) number: usize,
    pub(crate) request: Request<RecvStream>,
    pub(crate) respond: SendResponse<Bytes>,
}

impl Asked {
    /// The whole body.
    pub(crate) async fn body(&mut self) -> Vec<u8> {
        let mut whole = Vec::new();
        let body = self.request.body_mut();
        while let Some(Ok(data)) = body.data().await {
            whole.extend_from_slice(&data);
            body.flow_control().release_capacity(data.len()).expect("taken");
        }
        whole
    }

    /// 200 with a body.
    pub(crate) fn answer(&mut self, body: &'static str) {
        let mut to = self.respond.send_response(Response::new(()), false).expect("open");
        to.send_data(Bytes::from_static(body.as_bytes()), true).expect("open");
    }

    /// The service has not looked at it.
    pub(crate) fn refuse(&mut self) {
        self.respond.send_reset(Reason::REFUSED_STREAM);
    }
}

/// What services remember.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub(crate) connections: Cell<usize>,
    /// Heads, with the number of their connection.
    pub(crate) heads: RefCell<Vec<(usize, Request<()>)>>,
    /// Most requests at a time on a connection.
    pub(crate) most: Cell<usize>,
}

impl Seen {
    pub(crate) fn count(&self) -> usize {
        self.heads.borrow().len()
    }

    /// A header of the last request.
    pub(crate) fn header(&self, name: &str) -> Option<String> {
        let heads = self.heads.borrow();
        let value = heads.last()?.1.headers().get(name)?;
        Some(value.to_str().expect("text").to_owned())
    }
}

/// A service that speaks HTTP/2 in clear text.
pub(crate) struct Fake2 {
    pub(crate) address: SocketAddr,
    pub(crate) seen: Rc<Seen>,
    task: JoinHandle<()>,
}

impl Drop for Fake2 {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Fake2 {
    /// With so many requests at a time on a connection.
    pub(crate) async fn new(streams: u32, act: impl Fn(Asked) -> Doing + 'static) -> Self {
        Self::over(None, streams, act).await
    }

    /// Over TLS, if so.
    pub(crate) async fn over(
        tls: Option<TlsAcceptor>,
        streams: u32,
        act: impl Fn(Asked) -> Doing + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let (seen, act) = (Rc::new(Seen::default()), Rc::new(act));
        let remember = Rc::clone(&seen);
        let task = spawn_local(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let number = remember.connections.get() + 1;
                remember.connections.set(number);
                let (act, seen, tls) = (Rc::clone(&act), Rc::clone(&remember), tls.clone());
                connections.spawn_local(async move {
                    match tls {
                        None => serve(stream, number, streams, act, seen).await,
                        Some(tls) => {
                            let Ok(stream) = tls.accept(stream).await else { return };
                            serve(stream, number, streams, act, seen).await;
                        }
                    }
                });
            }
        });
        Self { address, seen, task }
    }

    /// Answers everything with this.
    pub(crate) async fn saying(body: &'static str) -> Self {
        Self::new(100, move |mut asked| {
            Box::pin(async move {
                asked.body().await;
                asked.answer(body);
            })
        })
        .await
    }
}

async fn serve<IO: AsyncRead + AsyncWrite + Unpin + 'static>(
    stream: IO,
    connection: usize,
    streams: u32,
    act: Rc<impl Fn(Asked) -> Doing + 'static>,
    seen: Rc<Seen>,
) {
    let mut builder = h2::server::Builder::new();
    builder.max_concurrent_streams(streams).enable_connect_protocol();
    let Ok(mut http2) = builder.handshake(stream).await else { return };
    let mut requests = JoinSet::new();
    let open = Rc::new(Cell::new(0));
    while let Some(Ok((request, respond))) = http2.accept().await {
        let mut head = Request::new(());
        *head.method_mut() = request.method().clone();
        *head.uri_mut() = request.uri().clone();
        head.headers_mut().clone_from(request.headers());
        seen.heads.borrow_mut().push((connection, head));
        open.set(open.get() + 1);
        seen.most.set(seen.most.get().max(open.get()));
        let doing = act(Asked { connection, number: seen.count(), request, respond });
        let open = Rc::clone(&open);
        requests.spawn_local(async move {
            doing.await;
            open.set(open.get() - 1);
        });
    }
}

/// A frame (RFC 9113 §4.1).
pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    bytes.extend_from_slice(&[kind, flags]);
    bytes.extend_from_slice(&stream.to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

/// A service made of bytes: its settings at once; then, for every request, the frames that `act` makes
/// of the number of the connection and the stream; it ends when those are empty.
pub(crate) async fn raw(
    act: impl Fn(usize, u32) -> Vec<u8> + 'static,
) -> (SocketAddr, Rc<Cell<usize>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let (act, asked) = (Rc::new(act), Rc::new(Cell::new(0)));
    let count = Rc::clone(&asked);
    spawn_local(async move {
        let mut connections = 0;
        while let Ok((stream, _)) = listener.accept().await {
            connections += 1;
            let (act, count) = (Rc::clone(&act), Rc::clone(&count));
            let connection = connections;
            spawn_local(async move {
                // However it ends: the gateway may cut it off.
                let _ended = frames(stream, |stream| {
                    count.set(count.get() + 1);
                    act(connection, stream)
                })
                .await;
            });
        }
    });
    (address, asked)
}

async fn frames(mut io: TcpStream, act: impl Fn(u32) -> Vec<u8>) -> std::io::Result<()> {
    io.read_exact(&mut [0; 24]).await?;
    io.write_all(&frame(4, 0, 0, &[])).await?;
    loop {
        let mut head = [0; 9];
        io.read_exact(&mut head).await?;
        let [a, b, c, kind, flags, d, e, f, g] = head;
        let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
        io.read_exact(&mut payload).await?;
        match (kind, flags & 1) {
            (1, _) => {
                let answer = act(u32::from_be_bytes([d, e, f, g]));
                if answer.is_empty() {
                    return Ok(());
                }
                io.write_all(&answer).await?;
            }
            (4, 0) => io.write_all(&frame(4, 1, 0, &[])).await?,
            (6, 0) => io.write_all(&frame(6, 1, 0, &payload)).await?,
            _ => {}
        }
    }
}

/// A gateway with TLS, and what its clients need.
pub(crate) struct Secure {
    pub(crate) rig: Rig,
    folder: TempDir,
}

impl Secure {
    /// Its services, and the inner lines of its section.
    pub(crate) fn new(services: &str, gateway: &str) -> Self {
        let folder = instance::folder();
        let rig = Rig::new(&secure(folder.path(), services, gateway));
        Self { rig, folder }
    }

    /// A client's connection that speaks HTTP/2.
    pub(crate) async fn client(&self) -> SendRequest<Bytes> {
        self.client_as(&h2::client::Builder::new()).await
    }

    /// One with settings of its own.
    pub(crate) async fn client_as(&self, builder: &h2::client::Builder) -> SendRequest<Bytes> {
        let (stream, _task) = self.rig.connect();
        let value = SecretRef::File(self.folder.path().join("api.pem"));
        let roots = Roots::Pem(At { value, place: Place::default() });
        let config = config(&roots, &[b"h2"]).expect("a client");
        let name = "api.example".try_into().expect("a name");
        let stream = TlsConnector::from(config).connect(name, stream).await.expect("a handshake");
        let (send, connection) = builder.handshake(stream).await.expect("HTTP/2");
        spawn_local(async move {
            // Its streams say how it ended.
            let _ended = connection.await;
        });
        send
    }
}

fn secure(folder: &Path, services: &str, gateway: &str) -> Topology {
    let text = format!(
        "aqueduct: 1\nservices:\n{services}\ngateways:\n  app:\n    instances:\n      \
         gw: {{ listen: 127.0.0.1:0 }}\n    tls: {{ certificates: [{{ chain: file:api.pem, \
         key: file:api.key }}] }}\n{gateway}\n"
    );
    let parsed = topology::parse("test.yaml", &text, folder);
    parsed.map_err(|problems| problems.to_string()).expect("a valid topology")
}

/// The rest of a body, and its trailers.
pub(crate) async fn rest(body: &mut RecvStream) -> Result<(Vec<u8>, Option<HeaderMap>), h2::Error> {
    let mut whole = Vec::new();
    while let Some(data) = body.data().await {
        let data = data?;
        whole.extend_from_slice(&data);
        body.flow_control().release_capacity(data.len())?;
    }
    Ok((whole, body.trailers().await?))
}
