//! A service tells Eureka where it is: when it starts, again and again while it lives, and before it goes. Not the
//! registry: that is `eureka`. Used by `web` and `echo`.
//!
//! Invariant: a service that is asked to end leaves the registry first and serves on until those who asked it know.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, bail};
use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST};
use http::{Method, Request, StatusCode, Uri};
use http_body_util::Full;
use hyper::client::conn::http1::handshake;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::time::{interval, sleep};

use crate::options::WebArgs;

/// A place in the registry, or none.
#[derive(Debug)]
pub(crate) struct Registered(Option<Entry>);

#[derive(Debug)]
struct Entry {
    registry: String,
    application: String,
    id: String,
    at: SocketAddr,
}

impl Registered {
    /// Registers, where the command line says so.
    pub(crate) async fn new(args: &WebArgs) -> anyhow::Result<Self> {
        let Some(application) = &args.register else { return Ok(Self(None)) };
        let registry = args.service("eureka").context("--register needs --use eureka=http://…")?;
        let entry = Entry {
            registry: registry.trim_start_matches("http://").trim_end_matches('/').to_owned(),
            application: application.to_uppercase(),
            id: format!("{}:{}", args.name, args.listen),
            at: args.listen,
        };
        entry.tell(Method::POST, &Bytes::from(entry.instance().to_string())).await?;
        Ok(Self(Some(entry)))
    }

    /// Waits until `stop`, and keeps the place until then; gives it up, and waits until it is known.
    pub(crate) async fn until(
        self,
        stop: impl Future<Output = anyhow::Result<()>>,
    ) -> anyhow::Result<()> {
        let Some(entry) = self.0 else { return stop.await };
        tokio::select! {
            stopped = stop => stopped?,
            () = entry.renew() => {}
        }
        // A registry that is gone forgets it without our help.
        drop(entry.tell(Method::DELETE, &Bytes::new()).await);
        sleep(KNOWN).await;
        Ok(())
    }
}

impl Entry {
    /// For ever; a registry that has forgotten it, or was away, is told anew.
    async fn renew(&self) {
        let mut again = interval(RENEWED);
        loop {
            again.tick().await;
            if self.tell(Method::PUT, &Bytes::new()).await.is_err() {
                drop(self.tell(Method::POST, &Bytes::from(self.instance().to_string())).await);
            }
        }
    }

    fn instance(&self) -> Value {
        json!({ "instance": {
            "instanceId": self.id, "app": self.application, "hostName": self.at.ip().to_string(),
            "ipAddr": self.at.ip().to_string(), "status": "UP", "overriddenstatus": "UNKNOWN",
            "port": { "$": self.at.port(), "@enabled": "true" },
            "securePort": { "$": 443, "@enabled": "false" },
            "dataCenterInfo": { "@class": "com.netflix.appinfo.InstanceInfo$DefaultDataCenterInfo",
                "name": "MyOwn" },
        } })
    }

    async fn tell(&self, method: Method, body: &Bytes) -> anyhow::Result<()> {
        let place = match method {
            Method::POST => String::new(),
            _ => format!("/{}", self.id),
        };
        let uri: Uri = format!("/eureka/apps/{}{place}", self.application).parse()?;
        let telling = async {
            let stream = TcpStream::connect(&self.registry).await?;
            let (mut sender, connection) = handshake(TokioIo::new(stream)).await?;
            tokio::spawn(connection);
            let request = Request::builder().method(method).uri(uri).header(HOST, &self.registry);
            let request = request.header(CONTENT_TYPE, "application/json");
            Ok::<StatusCode, anyhow::Error>(
                sender.send_request(request.body(Full::new(body.clone()))?).await?.status(),
            )
        };
        let answer = tokio::time::timeout(PATIENCE, telling).await;
        let status = answer.with_context(|| format!("{} did not answer", self.registry))??;
        if !status.is_success() {
            bail!("{} answered {status}", self.registry);
        }
        Ok(())
    }
}

/// A registry waits three times as long before it gives an instance up.
const RENEWED: Duration = Duration::from_secs(10);
/// Those who ask once a second have asked by then, also those who were late.
const KNOWN: Duration = Duration::from_secs(3);
const PATIENCE: Duration = Duration::from_secs(3);
