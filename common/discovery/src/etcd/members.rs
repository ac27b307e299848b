//! The servers of one etcd, asked one at a time: which of them, and what shows who we are. Not for what is asked.
//! Used by the reader and by `register::etcd`.
//!
//! Invariant: a token is shown to the server that gave it, and asked for anew where it has ended.

use std::time::Duration;

use common::secret;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use topology::SecretRef;
use topology::model::Registry;

use crate::fault::Fault;
use crate::web::{Stream, Web, read, sensitive};

/// All servers of one etcd.
pub(crate) struct Members {
    servers: Vec<String>,
    login: Option<(String, SecretRef)>,
    ca: Option<SecretRef>,
    /// Which of them is asked.
    at: usize,
    web: Web,
    /// What shows who we are.
    token: Option<HeaderValue>,
}

impl Members {
    /// Asks nobody yet.
    pub(crate) fn new(
        servers: &[String],
        login: Option<&(String, SecretRef)>,
        ca: Option<&SecretRef>,
    ) -> Self {
        let (servers, ca) = (servers.to_vec(), ca.cloned());
        let web = web(&servers, 0, ca.as_ref());
        Self { servers, login: login.cloned(), ca, at: 0, web, token: None }
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.servers.len()
    }

    /// What the server answers to this. Cancel safe as `Web::post`.
    pub(crate) async fn ask<T: DeserializeOwned>(
        &mut self,
        path: &str,
        body: &Value,
        patience: Duration,
    ) -> Result<T, Fault> {
        loop {
            let known = self.token.is_some();
            let headers = self.headers(patience).await?;
            match self.web.post(path, &headers, body, patience).await {
                Err(Fault::Status(StatusCode::UNAUTHORIZED)) if known => self.token = None,
                answer => return read(answer?.body()),
            }
        }
    }

    /// What the server answers to this, line by line.
    pub(crate) async fn stream(
        &mut self,
        path: &str,
        body: &Value,
        patience: Duration,
    ) -> Result<Stream, Fault> {
        let headers = self.headers(patience).await?;
        self.web.stream(path, &headers, Some(body), patience).await
    }

    /// Another server may know better, and a token may have been forgotten.
    pub(crate) fn turn(&mut self) {
        self.token = None;
        self.at = (self.at + 1) % self.servers.len().max(1);
        self.web = web(&self.servers, self.at, self.ca.as_ref());
    }

    async fn headers(&mut self, patience: Duration) -> Result<HeaderMap, Fault> {
        let mut headers = HeaderMap::new();
        // A member that is cut off from the others tells old news, and promises what it cannot keep.
        headers.insert(HAS_LEADER, HeaderValue::from_static("true"));
        if let (Some((user, password)), None) = (&self.login, &self.token) {
            let password = secret::read(password)?;
            let login = json!({ "name": user, "password": password.as_str()? });
            let bare = HeaderMap::new();
            let path = "/v3/auth/authenticate";
            let answer = self.web.post(path, &bare, &login, patience).await?;
            let granted: Granted = read(answer.body())?;
            // Tokens end after some minutes.
            self.token = Some(sensitive(&granted.token)?);
        }
        if let Some(token) = &self.token {
            headers.insert(header::AUTHORIZATION, token.clone());
        }
        Ok(headers)
    }
}

fn web(servers: &[String], at: usize, ca: Option<&SecretRef>) -> Web {
    let address = servers.get(at).cloned().unwrap_or_default();
    Web::new(&Registry { address, ca: ca.cloned() })
}

#[derive(Deserialize)]
struct Granted {
    token: String,
}

const HAS_LEADER: HeaderName = HeaderName::from_static("grpc-metadata-hasleader");
