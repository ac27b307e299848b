//! Key sets and key files as issuers and administrators write them.

use proptest::prelude::*;
use serde_json::json;
use topology::gateway::Algorithm::*;

use super::super::forge::{Signer, set, text};
use super::*;

fn public(text: &str) -> Result<Read, SetFault> {
    key_set(text.as_bytes(), &[RS256, ES256, EdDSA], Audience::Public)
}

/// G5: what is wrong in a set costs that key alone.
#[test]
fn bad_keys_are_left_out_and_named() {
    let (rsa, ec) = (Signer::rsa(), Signer::es256());
    let with = |mut key: Value, name: &str, value: Value| {
        key[name] = value;
        key
    };
    let table = [
        (rsa.jwk("a"), None),
        (with(ec.jwk("b"), "use", json!("sig")), None),
        (with(ec.jwk("c"), "use", json!("enc")), Some(KeyFault::OtherUse)),
        (with(ec.jwk("d"), "key_ops", json!(["sign"])), Some(KeyFault::OtherUse)),
        (with(ec.jwk("e"), "key_ops", json!(["verify"])), None),
        (with(rsa.jwk("f"), "alg", json!("RS512")), Some(KeyFault::OtherAlgorithm)),
        (with(rsa.jwk("g"), "alg", json!("ES256")), Some(KeyFault::OtherAlgorithm)),
        (with(rsa.jwk("h"), "n", json!(text(&[0xff; 128]))), Some(KeyFault::Weak)),
        (with(ec.jwk("i"), "x", json!(text(&[1; 31]))), Some(KeyFault::Malformed)),
        (with(ec.jwk("j"), "x", json!(text(&[1; 32]))), Some(KeyFault::Malformed)),
        (with(ec.jwk("k"), "crv", json!("secp256k1")), Some(KeyFault::OtherAlgorithm)),
        (with(ec.jwk("l"), "d", json!(text(&[1; 32]))), Some(KeyFault::Private)),
        (Signer::Secret(vec![7; 32]).jwk("m"), Some(KeyFault::PublicSecret)),
        (ec.jwk("b"), Some(KeyFault::Duplicate)),
        (json!(7), Some(KeyFault::Malformed)),
        (json!({"kid": "n"}), Some(KeyFault::Malformed)),
        (with(Signer::ed().jwk("o"), "kid", json!(1)), Some(KeyFault::Malformed)),
    ];
    let keys: Vec<Value> = table.iter().map(|(key, _)| key.clone()).collect();
    let read = public(&set(&keys)).unwrap();
    let expected: Vec<_> =
        table.iter().enumerate().filter_map(|(at, (_, fault))| Some((at, (*fault)?))).collect();
    assert_eq!(read.refused, expected);
    assert_eq!(read.keys.len(), table.len() - expected.len());
}

/// G5: a set that is no set, or too large.
#[test]
fn odd_sets_are_refused() {
    let key = Signer::es256().jwk("a");
    let twice = format!(r#"{{"keys":[{key}],"keys":[{key}]}}"#);
    assert_eq!(public(&twice).err(), Some(SetFault::Malformed));
    assert_eq!(public("[]").err(), Some(SetFault::Malformed));
    assert_eq!(public(r#"{"keys":{}}"#).err(), Some(SetFault::Malformed));
    assert_eq!(public(r#"{"keys":[]}"#).err(), Some(SetFault::Empty));
    assert_eq!(public(&set(&vec![json!({}); 65])).err(), Some(SetFault::TooMany));
    assert_eq!(public(&" ".repeat(LARGEST_SET + 1)).err(), Some(SetFault::TooLarge));
}

/// G5: keys also from files, a secret only where HS256 is allowed.
#[test]
fn key_files() {
    let signer = Signer::rsa();
    assert!(key_file(signer.pem().as_bytes(), &[RS256]).is_ok());
    assert!(key_file(b"an hmac secret of thirty-two bytes\n", &[HS256]).is_ok());
    let secret = key_file(b"an hmac secret of thirty-two bytes\n", &[RS256]);
    assert_eq!(secret.err(), Some(KeyFault::OtherAlgorithm));
    let private = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
    assert_eq!(key_file(private.as_bytes(), &[RS256]).err(), Some(KeyFault::Private));
    let cut = "-----BEGIN PUBLIC KEY-----\nAAAA\n";
    assert_eq!(key_file(cut.as_bytes(), &[RS256, HS256]).err(), Some(KeyFault::Malformed));
}

/// A modulus with leading zeros is the same key.
#[test]
fn leading_zeros_do_not_count() {
    assert_eq!(significant(&[0, 0, 1, 0]), [1, 0]);
    assert_eq!(significant(&[0]), [0; 0]);
}

proptest! {
    #[test]
    fn bytes_never_panic(text in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = key_set(&text, &[RS256, ES256, EdDSA], Audience::Private);
        let _ = key_file(&text, &[RS256, ES256, EdDSA, HS256]);
    }

    #[test]
    fn odd_members_never_panic(
        kind in prop::sample::select(vec!["RSA", "EC", "OKP", "oct", "x"]),
        values in proptest::collection::vec("[A-Za-z0-9_-]{0,90}", 6),
    ) {
        let [n, e, x, y, k, id] = values.try_into().unwrap();
        let key = json!({"kty": kind, "crv": "P-256", "n": n, "e": e, "x": x, "y": y, "k": k, "kid": id});
        let _ = key_set(set(&[key]).as_bytes(), &[RS256, ES256, EdDSA, HS256], Audience::Private);
    }
}
