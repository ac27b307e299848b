//! Tokens and key set of the issuer, verified by an independent reader of both.

use std::path::PathBuf;

use super::*;
use jsonwebtoken::jwk::JwkSet;
use jsonwebtoken::{DecodingKey, Validation, decode, decode_header};

/// A folder of its own, removed at the end.
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.0));
    }
}

fn issuer(name: &str) -> (Folder, IssuerArgs) {
    let folder = std::env::temp_dir().join(format!("demo-issuer-{name}-{}", std::process::id()));
    let args = IssuerArgs {
        listen: "127.0.0.1:0".parse().expect("valid"),
        keys: folder.clone(),
        issuer: "https://id.example".into(),
        audience: "api".into(),
        name: "issuer".into(),
    };
    (Folder(folder), args)
}

fn token(issuer: &Issuer, wish: &Value) -> String {
    let answer = issuer.token(&Bytes::from(wish.to_string())).expect("signed");
    answer.body["access_token"].as_str().expect("text").to_owned()
}

fn verify(issuer: &Issuer, token: &str) -> Result<Value, jsonwebtoken::errors::Error> {
    let set: JwkSet = serde_json::from_value(issuer.jwks.clone()).expect("a key set");
    let header = decode_header(token)?;
    let key = set.find(header.kid.as_deref().unwrap_or("es256-1")).expect("published");
    let mut rules = Validation::new(header.alg);
    rules.set_issuer(&["https://id.example"]);
    rules.set_audience(&["api"]);
    rules.validate_nbf = true;
    Ok(decode::<Value>(token, &DecodingKey::from_jwk(key)?, &rules)?.claims)
}

/// T10: tokens of both algorithms verify against the published keys and carry `userId`.
#[test]
fn tokens_verify_against_the_published_keys() {
    let (_folder, args) = issuer("verify");
    let issuer = Issuer::new(&args).expect("keys made");
    for alg in ["ES256", "RS256"] {
        let token = token(&issuer, &json!({ "userId": 7, "scope": "user:read pay", "alg": alg }));
        let claims = verify(&issuer, &token).expect("valid");
        assert_eq!(claims["userId"], 7);
        assert_eq!(claims["scope"], "user:read pay");
    }
    let plain = token(&issuer, &json!({ "kid": false }));
    assert_eq!(decode_header(&plain).expect("a header").kid, None);
    assert!(verify(&issuer, &plain).is_ok());
}

#[test]
fn an_expired_or_foreign_token_does_not_verify() {
    let (_folder, args) = issuer("faults");
    let issuer = Issuer::new(&args).expect("keys made");
    assert!(verify(&issuer, &token(&issuer, &json!({ "expired": true }))).is_err());
    assert!(verify(&issuer, &token(&issuer, &json!({ "audience": "other" }))).is_err());
    assert!(issuer.token(&Bytes::from_static(b"{\"alg\":\"none\"}")).is_err());
    assert!(issuer.token(&Bytes::from_static(b"{\"user\":1}")).is_err());
}

#[test]
fn keys_are_made_once() {
    let (_folder, args) = issuer("once");
    let first = Issuer::new(&args).expect("keys made");
    let second = Issuer::new(&args).expect("keys read");
    assert_eq!(first.jwks, second.jwks);
    assert!(verify(&second, &token(&first, &json!({}))).is_ok());
}
