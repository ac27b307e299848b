//! The table of tokens that must not be believed, and of those that must.

use std::time::Duration;

use proptest::prelude::*;
use serde_json::json;
use topology::gateway::Algorithm::*;
use topology::gateway::IssuerKeys;
use topology::units::{At, IssuerName, Place, SecretRef};

use super::super::forge::{Signer, set, text};
use super::super::key_file::{Audience, key_set};
use super::*;

const NOW: u64 = 1_800_000_000;

fn issuer(algorithms: &[Algorithm]) -> Issuer {
    let place = Place::default();
    Issuer {
        name: IssuerName::new("app"),
        issuer: "https://id.example".to_owned(),
        audiences: vec!["api".to_owned(), "other".to_owned()],
        keys: IssuerKeys::Key(At { value: SecretRef::Env("UNUSED".to_owned()), place }),
        algorithms: algorithms.to_vec(),
        user_claim: "userId".to_owned(),
        consumer_claim: None,
        scope_claim: "scope".to_owned(),
        role_claim: "realm.roles".to_owned(),
        leeway: Duration::from_secs(30),
        place,
    }
}

fn keys(signers: &[(&Signer, &str)], issuer: &Issuer) -> KeySet {
    let keys: Vec<Value> = signers.iter().map(|(signer, id)| signer.jwk(id)).collect();
    key_set(set(&keys).as_bytes(), &issuer.algorithms, Audience::Private).unwrap().keys
}

fn claims() -> Value {
    json!({
        "iss": "https://id.example", "aud": "api", "exp": NOW + 300, "nbf": NOW, "iat": NOW,
        "userId": 98765, "scope": "user:read pay",
    })
}

fn with(name: &str, value: Value) -> Value {
    let mut all = claims();
    all[name] = value;
    all
}

fn without(name: &str) -> Value {
    let mut all = claims();
    all.as_object_mut().unwrap().remove(name);
    all
}

fn verify(token: &str, issuer: &Issuer, keys: &KeySet) -> Result<Verified, JwtFault> {
    Token::parse(token.as_bytes())?.verify(issuer, keys, NOW * 1000)
}

/// G5: RS, PS, ES, EdDSA and HS256, with and without `kid`.
#[test]
fn every_algorithm_is_believed_when_allowed() {
    let table = [
        (Signer::rsa(), "RS256", RS256),
        (Signer::rsa(), "RS384", RS384),
        (Signer::rsa(), "RS512", RS512),
        (Signer::rsa(), "PS256", PS256),
        (Signer::rsa(), "PS384", PS384),
        (Signer::rsa(), "PS512", PS512),
        (Signer::es256(), "ES256", ES256),
        (Signer::es384(), "ES384", ES384),
        (Signer::ed(), "EdDSA", EdDSA),
        (Signer::Secret(vec![7; 40]), "HS256", HS256),
    ];
    for (signer, name, algorithm) in table {
        let issuer = issuer(&[algorithm]);
        let keys = keys(&[(&signer, "k")], &issuer);
        for id in [Some("k"), None] {
            let verified = verify(&signer.token(name, id, &claims()), &issuer, &keys).unwrap();
            assert_eq!(&*verified.user, "98765", "{name}");
            assert_eq!(verified.scopes, [Scope::new("user:read"), Scope::new("pay")]);
            assert_eq!(verified.expires, (NOW + 300) * 1000);
        }
    }
}

/// G5: `alg` none in every spelling, or one that the issuer does not use.
#[test]
fn an_algorithm_that_is_not_allowed() {
    let signer = Signer::es256();
    let issuer = issuer(&[ES256, RS256]);
    let keys = keys(&[(&signer, "k")], &issuer);
    for name in ["none", "None", "NONE", "nOnE", "", "es256", "ES256 ", "HS256", "ES384", "PS256"] {
        let token = signer.token(name, Some("k"), &claims());
        assert_eq!(verify(&token, &issuer, &keys), Err(JwtFault::OtherAlgorithm), "{name}");
        let unsigned = format!("{}.", token.rsplit_once('.').unwrap().0);
        assert_eq!(verify(&unsigned, &issuer, &keys), Err(JwtFault::OtherAlgorithm), "{name}");
    }
    // Allowed, and not for this key.
    let token = signer.token("RS256", Some("k"), &claims());
    assert_eq!(verify(&token, &issuer, &keys), Err(JwtFault::OtherAlgorithm));
    for header in [json!({}), json!({"alg": 1}), json!({"alg": ["ES256"]}), json!({"alg": null})] {
        let token = signer.raw("ES256", &header.to_string(), &claims().to_string());
        assert_eq!(verify(&token, &issuer, &keys), Err(JwtFault::Malformed), "{header}");
    }
}

/// G5: the public key of RS256 used as the secret of HS256, in the forms a forger would try.
#[test]
fn a_public_key_signs_nothing() {
    let rsa = Signer::rsa();
    let modulus = rsa.jwk("k")["n"].as_str().unwrap().as_bytes().to_vec();
    for allowed in [&[RS256][..], &[RS256, HS256]] {
        let issuer = issuer(allowed);
        let keys = keys(&[(&rsa, "k")], &issuer);
        for secret in
            [rsa.pem().into_bytes(), rsa.pem().trim().as_bytes().to_vec(), modulus.clone()]
        {
            let token = Signer::Secret(secret).token("HS256", Some("k"), &claims());
            assert_eq!(verify(&token, &issuer, &keys), Err(JwtFault::OtherAlgorithm));
        }
    }
}

/// G5: `kid` only selects, and key references in a token are not followed.
#[test]
fn the_key_is_the_issuers() {
    let (own, other, forger) = (Signer::es256(), Signer::es256(), Signer::es256());
    let issuer = issuer(&[ES256]);
    let keys = keys(&[(&own, "own"), (&other, "other")], &issuer);
    assert!(verify(&own.token("ES256", Some("own"), &claims()), &issuer, &keys).is_ok());
    assert!(verify(&other.token("ES256", None, &claims()), &issuer, &keys).is_ok());
    let wrong_key = own.token("ES256", Some("other"), &claims());
    assert_eq!(verify(&wrong_key, &issuer, &keys), Err(JwtFault::Forged));
    for id in ["../../dev/null", "' OR 1=1", "", "own\0", "OWN"] {
        let token = own.token("ES256", Some(id), &claims());
        assert_eq!(verify(&token, &issuer, &keys), Err(JwtFault::UnknownKey), "{id:?}");
    }
    let header = json!({
        "alg": "ES256", "jwk": forger.jwk("own"), "jku": "http://127.0.0.1:1/keys",
        "x5u": "http://127.0.0.1:1/cert", "x5c": ["AAAA"],
    });
    let token = forger.raw("ES256", &header.to_string(), &claims().to_string());
    assert_eq!(verify(&token, &issuer, &keys), Err(JwtFault::Forged));
    let long = own.token("ES256", Some(&"k".repeat(256)), &claims());
    assert_eq!(verify(&long, &issuer, &keys), Err(JwtFault::Malformed));
    let number = own.raw("ES256", r#"{"alg":"ES256","kid":1}"#, &claims().to_string());
    assert_eq!(verify(&number, &issuer, &keys), Err(JwtFault::Malformed));
}

/// G5: times at their edges; the leeway of 30 s counts for all three.
#[test]
fn times() {
    let signer = Signer::es256();
    let issuer = issuer(&[ES256]);
    let keys = keys(&[(&signer, "k")], &issuer);
    let unusable = |claim| Err(JwtFault::Unusable(claim));
    let table = [
        (with("exp", json!(NOW - 29)), Ok((NOW - 29) * 1000)),
        (with("exp", json!(NOW - 30)), Err(JwtFault::Expired { by: 30 })),
        (with("exp", json!(NOW - 31)), Err(JwtFault::Expired { by: 31 })),
        (with("exp", json!(0)), Err(JwtFault::Expired { by: NOW })),
        (with("exp", json!(NOW as f64 + 0.9)), Ok(NOW * 1000 + 900)),
        (without("exp"), Err(JwtFault::Missing("exp"))),
        (with("exp", json!((NOW + 300).to_string())), unusable("exp")),
        (with("exp", json!(-1)), unusable("exp")),
        (with("exp", json!(u64::MAX)), unusable("exp")),
        (with("exp", json!(9.3e18)), unusable("exp")),
        (with("exp", json!(null)), unusable("exp")),
        (with("exp", json!([NOW])), unusable("exp")),
        (without("nbf"), Ok((NOW + 300) * 1000)),
        (with("nbf", json!(NOW + 30)), Ok((NOW + 300) * 1000)),
        (with("nbf", json!(NOW + 31)), Err(JwtFault::Early { wait: 31 })),
        (with("nbf", json!("soon")), unusable("nbf")),
        (without("iat"), Ok((NOW + 300) * 1000)),
        (with("iat", json!(NOW + 30)), Ok((NOW + 300) * 1000)),
        (with("iat", json!(NOW + 31)), Err(JwtFault::IssuedLater)),
        (with("iat", json!(false)), unusable("iat")),
    ];
    for (claims, expected) in table {
        let outcome = verify(&signer.token("ES256", Some("k"), &claims), &issuer, &keys);
        assert_eq!(outcome.map(|verified| verified.expires), expected, "{claims}");
    }
}

/// G5: the edges of `exp`, `nbf` and `iat` to the millisecond, with and without leeway.
#[test]
fn edges_are_exact_to_the_millisecond() {
    let signer = Signer::es256();
    let exact = issuer(&[ES256]);
    let keys = keys(&[(&signer, "k")], &exact);
    for leeway in [0, 1, 30_000, 300_000_u64] {
        let issuer = Issuer { leeway: Duration::from_millis(leeway), ..exact.clone() };
        // Moment of the claim, and the first moment (for `exp`) at which it ends the token, or (for
        // the others) at which it lets it begin.
        for (claim, seconds, moment) in [
            ("exp", json!(NOW), NOW * 1000 + leeway),
            ("exp", json!(NOW as f64 + 0.25), NOW * 1000 + 250 + leeway),
            ("nbf", json!(NOW), NOW * 1000 - leeway),
            ("nbf", json!(NOW as f64 + 0.001), NOW * 1000 + 1 - leeway),
            ("iat", json!(NOW), NOW * 1000 - leeway),
        ] {
            let mut all = without("nbf");
            all["iat"] = json!(NOW - 1_000_000);
            all["exp"] = json!(NOW + 1_000_000);
            all[claim] = seconds;
            let token = signer.token("ES256", Some("k"), &all);
            let parsed = Token::parse(token.as_bytes()).unwrap();
            for at in moment - 2..moment + 2 {
                let valid = if claim == "exp" { at < moment } else { at >= moment };
                let outcome = parsed.verify(&issuer, &keys, at);
                assert_eq!(
                    outcome.is_ok(),
                    valid,
                    "{claim} {leeway} {}",
                    at as i64 - moment as i64
                );
            }
        }
    }
}

/// G5: issuer, audience, user and scopes.
#[test]
fn names() {
    let signer = Signer::es256();
    let issuer = issuer(&[ES256]);
    let keys = keys(&[(&signer, "k")], &issuer);
    let user = Err(JwtFault::Unusable("user"));
    let table = [
        (with("aud", json!(["x", "other"])), Ok("98765")),
        (with("aud", json!(["x"])), Err(JwtFault::OtherAudience)),
        (with("aud", json!([])), Err(JwtFault::OtherAudience)),
        (with("aud", json!("API")), Err(JwtFault::OtherAudience)),
        (with("aud", json!({"api": 1})), Err(JwtFault::OtherAudience)),
        (without("aud"), Err(JwtFault::Missing("aud"))),
        (without("iss"), Err(JwtFault::OtherIssuer)),
        (with("iss", json!("https://id.example/")), Err(JwtFault::OtherIssuer)),
        (with("iss", json!(["https://id.example"])), Err(JwtFault::OtherIssuer)),
        (with("userId", json!("auth0|7")), Ok("auth0|7")),
        (with("userId", json!(-1)), Ok("-1")),
        (with("userId", json!(1.5)), user.clone()),
        (with("userId", json!("")), user.clone()),
        (with("userId", json!("a\r\nX-Admin: 1")), user.clone()),
        (with("userId", json!("müller")), user.clone()),
        (with("userId", json!("u".repeat(256))), user.clone()),
        (with("userId", json!({"id": 1})), user),
        (without("userId"), Err(JwtFault::Missing("user"))),
        (with("scope", json!(["user:read", 7])), Err(JwtFault::Unusable("scope"))),
        (with("scope", json!(7)), Err(JwtFault::Unusable("scope"))),
    ];
    for (claims, expected) in table {
        let outcome = verify(&signer.token("ES256", Some("k"), &claims), &issuer, &keys);
        assert_eq!(outcome.map(|verified| verified.user), expected.map(Box::from), "{claims}");
    }
    for (scopes, expected) in [
        (json!(["a", "b"]), &["a", "b"][..]),
        (json!(" a  b "), &["a", "b"]),
        (json!(""), &[]),
        (json!(null), &[]),
    ] {
        let token = signer.token("ES256", Some("k"), &with("scope", scopes));
        let scopes = verify(&token, &issuer, &keys).unwrap().scopes;
        assert_eq!(scopes.iter().map(Scope::as_str).collect::<Vec<_>>(), expected);
    }
}

/// G9: roles stand in a claim, or in a member of one; what is neither a text nor a list of texts is none.
#[test]
fn roles() {
    let signer = Signer::es256();
    let issuer = issuer(&[ES256]);
    let keys = keys(&[(&signer, "k")], &issuer);
    let unusable = Err(JwtFault::Unusable("roles"));
    for (claims, expected) in [
        (without("scope"), Ok(&[][..])),
        (with("realm", json!({"roles": ["a", "b"]})), Ok(&["a", "b"][..])),
        (with("realm", json!({"roles": "a b"})), Ok(&["a", "b"])),
        (with("realm.roles", json!(["c"])), Ok(&["c"])),
        (with("realm", json!(["a"])), Ok(&[])),
        (with("realm", json!({"roles": {"a": 1}})), unusable.clone()),
        (with("realm", json!({"roles": ["a", 1]})), unusable),
    ] {
        let outcome = verify(&signer.token("ES256", Some("k"), &claims), &issuer, &keys);
        let roles = outcome
            .map(|verified| verified.roles.iter().map(ToString::to_string).collect::<Vec<_>>());
        let expected = expected.map(|all| all.iter().map(|role| (*role).to_owned()).collect());
        assert_eq!(roles, expected, "{claims}");
    }
}

/// G5: forms that are not one strict compact token.
#[test]
fn forms() {
    let signer = Signer::es256();
    let issuer = issuer(&[ES256]);
    let keys = keys(&[(&signer, "k")], &issuer);
    let good = signer.token("ES256", Some("k"), &claims());
    let (signed, signature) = good.rsplit_once('.').unwrap();
    let raw = |header: &str, payload: &str| signer.raw("ES256", header, payload);
    let body = claims().to_string();
    let twice = body.replacen('{', r#"{"userId":1,"#, 1);
    let deep = format!(r#"{{"a":{}"#, "[".repeat(4000));
    let table = [
        (String::new(), JwtFault::Malformed),
        ("..".to_owned(), JwtFault::Malformed),
        (signed.to_owned(), JwtFault::Malformed),
        (format!("{good}."), JwtFault::Malformed),
        (format!("{good}="), JwtFault::Malformed),
        (format!("{good}\n"), JwtFault::Malformed),
        (format!(" {good}"), JwtFault::Malformed),
        (good.replacen('.', "=.", 1), JwtFault::Malformed),
        (format!("{signed}."), JwtFault::Forged),
        (format!("{signed}.{}", &signature[..80]), JwtFault::Forged),
        (format!("{signed}.{}", text(&[0; 64])), JwtFault::Forged),
        (raw(r#"{"alg":"ES256","alg":"ES256"}"#, &body), JwtFault::Malformed),
        (raw(r#"{"alg":"none","alg":"ES256"}"#, &body), JwtFault::Malformed),
        (raw(r#"{"alg":"ES256"}"#, &twice), JwtFault::Malformed),
        (raw(r#"{"alg":"ES256"}"#, &deep), JwtFault::Malformed),
        (raw(r#"{"alg":"ES256"}"#, "[]"), JwtFault::Malformed),
        (raw("[]", &body), JwtFault::Malformed),
        (raw(r#"{"alg":"ES256","crit":["exp"],"exp":1}"#, &body), JwtFault::UnsupportedHeader),
        (raw(r#"{"alg":"ES256","crit":[]}"#, &body), JwtFault::UnsupportedHeader),
        (raw(r#"{"alg":"ES256","b64":false}"#, &body), JwtFault::UnsupportedHeader),
        (raw(r#"{"alg":"ES256","typ":"logout+jwt"}"#, &body), JwtFault::UnsupportedHeader),
        (raw(r#"{"alg":"ES256","typ":1}"#, &body), JwtFault::UnsupportedHeader),
        (
            raw(r#"{"alg":"ES256"}"#, &with("pad", json!("x".repeat(9000))).to_string()),
            JwtFault::TooLong,
        ),
    ];
    for (token, fault) in table {
        assert_eq!(verify(&token, &issuer, &keys).err(), Some(fault), "{token:.60}");
    }
    for typ in ["JWT", "jwt", "at+jwt", "application/at+JWT"] {
        let token = raw(&json!({"alg": "ES256", "typ": typ}).to_string(), &body);
        assert!(verify(&token, &issuer, &keys).is_ok(), "{typ}");
    }
}

/// G5: base64url in a second spelling of the same bytes is not the same token.
#[test]
fn stray_bits_are_refused() {
    let signer = Signer::es256();
    let good = signer.token("ES256", Some("k"), &claims());
    // Of the last letter's 6 bits the signature's 64 bytes use the upper 2: a careless reader takes
    // the next letter for the same.
    let (head, last) = good.split_at(good.len() - 1);
    let stray = match last {
        "A" => "B",
        "Q" => "R",
        "g" => "h",
        _ => "x",
    };
    let token = format!("{head}{stray}");
    assert_eq!(Token::parse(token.as_bytes()).err(), Some(JwtFault::Malformed));
}

/// What another library signs, we believe.
#[test]
fn tokens_of_another_library() {
    use jsonwebtoken::{EncodingKey, Header, encode};
    let secret = [9; 32];
    let issuer = issuer(&[HS256]);
    let keys = keys(&[(&Signer::Secret(secret.to_vec()), "k")], &issuer);
    let token = encode(&Header::default(), &claims(), &EncodingKey::from_secret(&secret)).unwrap();
    assert_eq!(&*verify(&token, &issuer, &keys).unwrap().user, "98765");
}

proptest! {
    #[test]
    fn bytes_never_panic(token in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = Token::parse(&token);
    }

    /// G5: no change of a single byte leaves a token that is believed.
    #[test]
    fn a_changed_token_is_not_believed(at in any::<prop::sample::Index>(), to in any::<u8>()) {
        let signer = Signer::Secret(vec![7; 32]);
        let issuer = issuer(&[HS256]);
        let keys = keys(&[(&signer, "k")], &issuer);
        let mut token = signer.token("HS256", Some("k"), &claims()).into_bytes();
        let at = at.index(token.len());
        prop_assume!(token[at] != to);
        token[at] = to;
        let believed = Token::parse(&token).is_ok_and(|t| t.verify(&issuer, &keys, NOW * 1000).is_ok());
        prop_assert!(!believed);
    }

    /// Claims of any shape are a fault or a user, never a panic.
    #[test]
    fn odd_claims_never_panic(text in r#"\{"(exp|nbf|aud|userId|scope)":(-?[0-9]{1,25}(\.[0-9]{1,5})?(e[0-9]{1,3})?|"[a-z ]{0,9}"|\[[0-9]\]|null|true)\}"#) {
        let signer = Signer::Secret(vec![7; 32]);
        let issuer = issuer(&[HS256]);
        let keys = keys(&[(&signer, "k")], &issuer);
        let token = signer.raw("HS256", r#"{"alg":"HS256"}"#, &text);
        if let Ok(parsed) = Token::parse(token.as_bytes()) {
            let _ = parsed.verify(&issuer, &keys, NOW * 1000);
        }
    }
}
