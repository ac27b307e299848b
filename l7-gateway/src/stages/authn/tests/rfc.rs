//! The examples of RFC 7515, RFC 7517, RFC 7519 and RFC 8037, as they are printed there.

use serde_json::{Value, json};
use topology::gateway::Algorithm::{self, *};

use super::super::jwt::{JwtFault, Token};
use super::super::key_file::{Audience, key_set};

const ALL: [Algorithm; 9] = [RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384, EdDSA];

/// The payload that RFC 7515 §A.1 to §A.3 and RFC 7519 §3.1 share.
const JOE: &str = "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ";

/// Verifies with the only key of a set, for this algorithm.
fn verifies(jwk: &Value, algorithm: Algorithm, token: &str) -> bool {
    let text = json!({ "keys": [jwk] }).to_string();
    let keys = key_set(text.as_bytes(), &[algorithm], Audience::Private).expect("a sound key").keys;
    let (signed, signature) = token.rsplit_once('.').expect("a token");
    let signature = super::super::jwt::decode(signature.as_bytes()).expect("base64url");
    let mut found = keys.candidates(None, algorithm);
    found.any(|key| key.verify(algorithm, signed.as_bytes(), &signature))
}

/// G5: RFC 7515 §A.1 to §A.3, RFC 7519 §3.1, RFC 8037 §A.4: what is signed there is believed, and
/// not with one letter changed.
#[test]
fn examples_of_the_rfcs_verify() {
    let table = [
        (
            json!({"kty": "oct", "k": "AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow"}),
            HS256,
            "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9",
            JOE,
            "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk",
        ),
        (
            json!({"kty": "RSA", "e": "AQAB", "n": "ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ"}),
            RS256,
            "eyJhbGciOiJSUzI1NiJ9",
            JOE,
            "cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw",
        ),
        (
            json!({"kty": "EC", "crv": "P-256", "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU", "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}),
            ES256,
            "eyJhbGciOiJFUzI1NiJ9",
            JOE,
            "DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q",
        ),
        (
            json!({"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}),
            EdDSA,
            "eyJhbGciOiJFZERTQSJ9",
            "RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc",
            "hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg",
        ),
    ];
    for (jwk, algorithm, header, payload, signature) in table {
        assert!(verifies(&jwk, algorithm, &format!("{header}.{payload}.{signature}")), "{jwk}");
        let changed = format!("A{}", &payload[1..]);
        assert!(!verifies(&jwk, algorithm, &format!("{header}.{changed}.{signature}")), "{jwk}");
    }
}

/// G5: RFC 7515 §A.5, RFC 7519 §6.1 (unsecured), RFC 7515 §A.4 (ES512, which is not offered), §A.6
/// (JSON serialisation), §E (`crit`), RFC 7797 §4.2 (`b64`): none of them is taken for a token.
#[test]
fn examples_that_are_refused() {
    let es512 = format!("eyJhbGciOiJFUzUxMiJ9.{JOE}.AdwMgeerwtHohA");
    for (token, fault) in [
        (format!("eyJhbGciOiJub25lIn0.{JOE}."), None),
        (es512, None),
        (format!("{{\"payload\":\"{JOE}\"}}"), Some(JwtFault::Malformed)),
        (
            format!(
                "eyJhbGciOiJub25lIiwNCiAiY3JpdCI6WyJodHRwOi8vZXhhbXBsZS5jb20vVU5ERUZJTkVEIl0sDQogImh0dHA6Ly9leGFtcGxlLmNvbS9VTkRFRklORUQiOnRydWUNCn0.{JOE}."
            ),
            Some(JwtFault::UnsupportedHeader),
        ),
        (
            format!(
                "eyJhbGciOiJIUzI1NiIsImI2NCI6ZmFsc2UsImNyaXQiOlsiYjY0Il19.{JOE}.A5dxf2s96_n5FLueVuW1Z_vh161FwXZC4YLPff6dmDY"
            ),
            Some(JwtFault::UnsupportedHeader),
        ),
    ] {
        match (Token::parse(token.as_bytes()), fault) {
            (Err(found), Some(fault)) => assert_eq!(found, fault, "{token}"),
            (Ok(parsed), None) => {
                let keys = super::super::key::KeySet::new();
                let found = parsed.verify_signature(&ALL, &keys);
                assert_eq!(found, Err(JwtFault::OtherAlgorithm), "{token}");
            }
            (outcome, _) => panic!("{token}: {outcome:?}"),
        }
    }
}

/// G5: the key set of RFC 7517 §A.1: its key for encryption is left out, the RSA key is for RS256
/// alone, as its `alg` says.
#[test]
fn the_key_set_of_rfc_7517() {
    let set = json!({"keys": [
        {"kty": "EC", "crv": "P-256", "x": "MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4",
         "y": "4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM", "use": "enc", "kid": "1"},
        {"kty": "RSA", "e": "AQAB", "alg": "RS256", "kid": "2011-04-29", "n": "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw"},
    ]});
    let read = key_set(set.to_string().as_bytes(), &ALL, Audience::Public).expect("a set");
    assert_eq!(read.keys.len(), 1);
    assert_eq!(read.refused, [(0, super::super::key::KeyFault::OtherUse)]);
    assert_eq!(read.keys.candidates(Some("2011-04-29"), RS256).count(), 1);
    assert_eq!(read.keys.candidates(Some("2011-04-29"), PS256).count(), 0);
}
