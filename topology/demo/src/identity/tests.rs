//! Identity by header and by token, the latter against a real issuer on a free port.

use bytes::Bytes;
use http::{HeaderMap, Request};

use super::*;
use crate::http::{Program, serve};
use crate::issuer::Issuer;
use crate::options::IssuerArgs;
use tokio::net::TcpListener;

fn args(auth: AuthMode, jwks: Option<String>) -> WebArgs {
    WebArgs {
        listen: "127.0.0.1:0".parse().expect("valid"),
        name: "user-1".into(),
        auth: Some(auth),
        jwks,
        issuer: "https://id.example".into(),
        audience: "api".into(),
        uses: Vec::new(),
        register: None,
    }
}

fn with(name: &'static str, value: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(name, value.parse().expect("valid"));
    headers
}

/// T10: `auth: header` refuses without X-User-Id.
#[tokio::test]
async fn the_header_is_believed_and_required() {
    let identity = Identity::new(&args(AuthMode::Header, None)).expect("valid");
    assert_eq!(identity.user(&with("x-user-id", "98765")).await, Ok(UserId(98765)));
    for headers in [HeaderMap::new(), with("x-user-id", "me"), with("authorization", "Bearer x")] {
        let refusal = identity.user(&headers).await.expect_err("nobody");
        assert_eq!(refusal.status, StatusCode::UNAUTHORIZED);
    }
}

/// T10: `auth: token` verifies by itself; a header proves nothing.
#[tokio::test]
async fn a_token_is_verified_against_the_key_set() {
    let folder = std::env::temp_dir().join(format!("demo-identity-{}", std::process::id()));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let at = listener.local_addr().expect("bound");
    let issuer = Issuer::new(&IssuerArgs {
        listen: at,
        keys: folder.clone(),
        issuer: "https://id.example".into(),
        audience: "api".into(),
        name: "issuer".into(),
    })
    .expect("keys made");
    let mut tokens = Vec::new();
    for wish in ["{}", r#"{"kid":false,"alg":"RS256"}"#, r#"{"expired":true}"#] {
        let request = Request::post("/token").body(Bytes::from_static(wish.as_bytes()));
        let answer = issuer.answer(request.expect("valid")).await;
        tokens.push(answer.body["access_token"].as_str().expect("text").to_owned());
    }
    let served = tokio::spawn(serve(listener, "issuer", issuer, std::future::pending()));
    let url = format!("http://{at}/jwks.json");
    let identity = Identity::new(&args(AuthMode::Token, Some(url))).expect("valid");
    for (token, expected) in tokens.iter().zip([true, true, false]) {
        let user = identity.user(&with("authorization", &format!("Bearer {token}"))).await;
        assert_eq!(user.is_ok(), expected, "{user:?}");
    }
    let forged = format!("{}x", tokens[0]);
    assert!(identity.user(&with("authorization", &format!("Bearer {forged}"))).await.is_err());
    assert!(identity.user(&with("x-user-id", "98765")).await.is_err());
    served.abort();
    drop(std::fs::remove_dir_all(folder));
}
