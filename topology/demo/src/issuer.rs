//! The token issuer: publishes its keys and signs any token it is asked for. For tests and demos
//! only: it asks nobody for a password. Run by `main`.
//!
//! Invariant: what `/jwks.json` says verifies every token that carries no fault on purpose.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use jsonwebtoken::{Header, encode};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio::net::TcpListener;

use crate::answer::Answer;
use crate::http::{Program, serve};
use crate::keys::Keys;
use crate::options::IssuerArgs;
use crate::shutdown::{asked, say};

/// Listens and serves until TERM or INT.
pub(crate) async fn run(args: IssuerArgs) -> anyhow::Result<()> {
    let issuer = Issuer::new(&args)?;
    let listener = TcpListener::bind(args.listen)
        .await
        .map_err(|error| anyhow::anyhow!("cannot listen on {}: {error}", args.listen))?;
    say(&format!("{} listens on {}", args.name, listener.local_addr()?));
    serve(listener, &args.name, issuer, asked()).await
}

/// Keys and claims of one issuer.
pub(crate) struct Issuer {
    keys: Keys,
    jwks: Value,
    issuer: String,
    audience: String,
}

/// What `POST /token` asks for.
#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct Wish {
    user_id: i64,
    scope: String,
    /// A token whose time has passed an hour ago.
    expired: bool,
    /// Whether the header names the key.
    kid: bool,
    /// `ES256` or `RS256`.
    alg: String,
    /// Another `iss` than this issuer's.
    issuer: Option<String>,
    /// Another `aud`.
    audience: Option<String>,
    /// Further claims.
    claims: Map<String, Value>,
}

impl Default for Wish {
    fn default() -> Self {
        Self {
            user_id: 98765,
            scope: "user:read".into(),
            expired: false,
            kid: true,
            alg: "ES256".into(),
            issuer: None,
            audience: None,
            claims: Map::new(),
        }
    }
}

impl Issuer {
    /// Reads or makes the keys.
    pub(crate) fn new(args: &IssuerArgs) -> anyhow::Result<Self> {
        let keys = Keys::open(&args.keys)?;
        let jwks = serde_json::to_value(keys.public()?)?;
        Ok(Self { keys, jwks, issuer: args.issuer.clone(), audience: args.audience.clone() })
    }

    fn token(&self, body: &Bytes) -> Result<Answer, Answer> {
        let wish = match body.is_empty() {
            true => Wish::default(),
            false => serde_json::from_slice(body)
                .map_err(|error| Answer::bad_request(format!("the body: {error}")))?,
        };
        let signing = match wish.alg.as_str() {
            "ES256" => &self.keys.es256,
            "RS256" => &self.keys.rs256,
            other => {
                return Err(Answer::bad_request(format!("alg {other}: write ES256 or RS256")));
            }
        };
        let mut header = Header::new(signing.algorithm);
        header.kid = wish.kid.then(|| signing.kid.to_owned());
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let fault = |what: String| Answer::refuse(StatusCode::INTERNAL_SERVER_ERROR, "sign", what);
        let id = fresh_id().ok_or_else(|| fault("the system has no random numbers".into()))?;
        let token = encode(&header, &self.claims(&wish, &id, now), &signing.key)
            .map_err(|error| fault(error.to_string()))?;
        Ok(Answer::ok(json!({
            "access_token": token, "token_type": "Bearer", "expires_in": LIFETIME.as_secs(),
        })))
    }

    /// RFC 9068's claims, with the user's number as `userId`.
    fn claims(&self, wish: &Wish, id: &str, now: Duration) -> Value {
        let issued = if wish.expired { now.saturating_sub(LIFETIME * 2) } else { now };
        let mut claims = json!({
            "iss": wish.issuer.as_ref().unwrap_or(&self.issuer),
            "aud": wish.audience.as_ref().unwrap_or(&self.audience),
            "iat": issued.as_secs(),
            "nbf": issued.as_secs(),
            "exp": (issued + LIFETIME).as_secs(),
            "jti": id,
            "sub": wish.user_id.to_string(),
            "userId": wish.user_id,
            "scope": wish.scope,
        });
        for (name, value) in &wish.claims {
            claims[name] = value.clone();
        }
        claims
    }
}

impl Program for Issuer {
    async fn answer(&self, request: Request<Bytes>) -> Answer {
        match (request.method(), request.uri().path()) {
            (&Method::GET, "/jwks.json") => Answer::ok(self.jwks.clone()),
            (&Method::POST, "/token") => {
                self.token(request.body()).unwrap_or_else(|refusal| refusal)
            }
            (_, path) => Answer::not_found(format!(
                "{path}: ask GET /jwks.json or POST /token {{\"userId\":98765,\"scope\":\"user:read\"}}"
            )),
        }
    }
}

/// 128 random bits in hex.
fn fresh_id() -> Option<String> {
    let mut id = [0; 16];
    aws_lc_rs::rand::fill(&mut id).ok()?;
    Some(id.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// How long a token is valid.
const LIFETIME: Duration = Duration::from_secs(3600);

#[cfg(test)]
#[path = "issuer/tests.rs"]
mod tests;
