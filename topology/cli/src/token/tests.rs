//! Tokens verified with the public halves of the keys that signed them.

use clap::Parser;
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Validation, decode, decode_header};
use rcgen::KeyPair;
use serde_json::Value;

use super::signer::Alg;
use super::*;

#[derive(Debug, Parser)]
struct Line {
    #[command(flatten)]
    args: Args,
}

fn args(words: &[&str]) -> Args {
    Line::parse_from([&["token"], words].concat()).args
}

fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970")
}

/// Signs, then verifies against the key set entry made from the same key.
fn round(words: &[&str]) -> Result<Value, jsonwebtoken::errors::Error> {
    let args = args(words);
    let (pem, algorithm) = match args.grant.alg {
        Alg::Es256 => (KeyPair::generate().expect("a key"), Algorithm::ES256),
        Alg::Rs256 => {
            (KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).expect("a key"), Algorithm::RS256)
        }
    };
    let pem = pem.serialize_pem();
    let signer = Signer::new(&args.grant, pem.as_bytes(), Some("key-1")).expect("a key");
    let token = sign(&args, signer, now()).expect("signed");
    let kid = decode_header(&token)?.kid;
    assert_eq!(kid.is_none(), args.no_kid);
    let key = match args.grant.alg {
        Alg::Es256 => EncodingKey::from_ec_pem(pem.as_bytes())?,
        Alg::Rs256 => EncodingKey::from_rsa_pem(pem.as_bytes())?,
    };
    let public = DecodingKey::from_jwk(&Jwk::from_encoding_key(&key, algorithm)?)?;
    let mut rules = Validation::new(algorithm);
    rules.set_issuer(&["https://id.example"]);
    rules.set_audience(&["api"]);
    rules.validate_nbf = true;
    Ok(decode::<Value>(&token, &public, &rules)?.claims)
}

/// T2: real tokens, of both algorithms, with and without `kid`.
#[test]
fn tokens_verify_with_the_public_key() {
    let claims = round(&["--user", "7", "--scope", "user:read pay"]).expect("valid");
    assert_eq!((claims["userId"].as_i64(), claims["sub"].as_str()), (Some(7), Some("7")));
    assert_eq!(claims["scope"], "user:read pay");
    assert!(round(&["--alg", "rs256", "--no-kid"]).is_ok());
}

#[test]
fn expired_and_foreign_tokens_do_not() {
    for words in [
        &["--expired"][..],
        &["--issuer", "https://else.example"],
        &["--audience", "other"],
        &["--expired", "--lifetime", "60"],
    ] {
        assert!(round(words).is_err(), "{words:?}");
    }
}
