//! Which algorithms a key serves, and which keys serve none.

use topology::gateway::Algorithm::{self, *};

use super::super::forge::Signer;
use super::*;

const ALL: [Algorithm; 10] = [RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384, EdDSA, HS256];

fn from_pem(signer: &Signer, allowed: &[Algorithm]) -> Result<Key, KeyFault> {
    super::super::key_file::key_file(signer.pem().as_bytes(), allowed)
}

/// G5: the algorithm is one that configuration allows for a key of that kind, whatever a token says.
#[test]
fn a_key_serves_its_own_kind_alone() {
    let rsa = [RS256, RS384, RS512, PS256, PS384, PS512];
    let table: [(Signer, &[Algorithm]); 4] = [
        (Signer::rsa(), &rsa),
        (Signer::es256(), &[ES256]),
        (Signer::es384(), &[ES384]),
        (Signer::ed(), &[EdDSA]),
    ];
    for (signer, kinds) in table {
        let key = from_pem(&signer, &ALL).expect("a sound key");
        assert_eq!(key.algorithms().collect::<Vec<_>>(), kinds);
        let others: Vec<_> = ALL.into_iter().filter(|a| !kinds.contains(a)).collect();
        assert_eq!(from_pem(&signer, &others).err(), Some(KeyFault::OtherAlgorithm));
    }
}

/// G5: what one algorithm signed, no other verifies.
#[test]
fn a_signature_counts_under_its_own_algorithm() {
    let signer = Signer::rsa();
    let key = from_pem(&signer, &[RS256, PS256]).unwrap();
    for (name, own, other) in [("RS256", RS256, PS256), ("PS256", PS256, RS256)] {
        let signature = signer.sign(name, b"message");
        assert!(key.verify(own, b"message", &signature));
        assert!(!key.verify(other, b"message", &signature));
        assert!(!key.verify(own, b"massage", &signature));
        assert!(!key.verify(HS256, b"message", &signature));
    }
}

/// G5: the signatures of zeros that a careless verifier takes for anybody's, DER in place of the
/// fixed form, and cut or prolonged ones.
#[test]
fn odd_ecdsa_signatures_are_nobodys() {
    let signer = Signer::es256();
    let key = from_pem(&signer, &[ES256]).unwrap();
    let good = signer.sign("ES256", b"message");
    assert!(key.verify(ES256, b"message", &good));
    let mut order_as_s = good[..32].to_vec();
    order_as_s
        .extend((0..32).map(|i| u8::from_str_radix(&P256_ORDER[2 * i..2 * i + 2], 16).unwrap()));
    let der = [&[0x30, 0x44, 2, 32][..], &good[..32], &[2, 32], &good[32..]].concat();
    for bad in [&[0; 64][..], &[], &good[..63], &[&good[..], &[0]].concat(), &order_as_s, &der] {
        assert!(!key.verify(ES256, b"message", bad), "{bad:?}");
    }
}

/// G5: RSA signatures that are cut, prolonged, shifted, or padded in another way are nobody's.
#[test]
fn odd_rsa_signatures_are_nobodys() {
    let signer = Signer::rsa();
    let key = from_pem(&signer, &[RS256, PS256]).unwrap();
    for (name, algorithm) in [("RS256", RS256), ("PS256", PS256)] {
        let good = signer.sign(name, b"message");
        assert!(key.verify(algorithm, b"message", &good));
        let mut flipped: Vec<Vec<u8>> = Vec::new();
        for at in 0..good.len() {
            let mut one = good.clone();
            one[at] ^= 1;
            flipped.push(one);
        }
        let shifted = [&[0][..], &good].concat();
        let longer = [&good[..], &[0]].concat();
        let odd = [Vec::new(), vec![0; 256], vec![0xff; 256], vec![1; 256], shifted, longer];
        let short = vec![good[..255].to_vec(), good[1..].to_vec()];
        for bad in odd.into_iter().chain(short).chain(flipped) {
            assert!(!key.verify(algorithm, b"message", &bad), "{name}");
        }
        for hash in ["RS384", "RS512", "PS384", "PS512"] {
            assert!(!key.verify(algorithm, b"message", &signer.sign(hash, b"message")));
        }
    }
}

const P256_ORDER: &str = "ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551";

/// G5: weak keys verify nothing.
#[test]
fn weak_keys_are_refused() {
    let odd = |bits: usize| {
        let mut n = vec![0xff; bits / 8];
        n[bits / 8 - 1] = 1;
        n
    };
    let f4 = [1, 0, 1];
    for (n, e) in [
        (odd(1024), &f4[..]),
        (odd(2040), &f4),
        (odd(2048), &[1]),
        (odd(2048), &[2]),
        (odd(2048), &[]),
    ] {
        let made = Key::new(None, &Material::Rsa { n: &n, e }, &[RS256]);
        assert_eq!(made.err(), Some(KeyFault::Weak), "{} bits, e = {e:?}", n.len() * 8);
    }
    for secret in [&b"short"[..], &[7; 31]] {
        assert_eq!(Key::new(None, &Material::Secret(secret), &[HS256]).err(), Some(KeyFault::Weak));
    }
    assert!(Key::new(None, &Material::Secret(&[7; 32]), &[HS256]).is_ok());
}

/// G5: a public key is never taken for a secret that everybody knows.
#[test]
fn a_public_key_is_no_hmac_secret() {
    let signer = Signer::rsa();
    assert_eq!(from_pem(&signer, &[HS256]).err(), Some(KeyFault::OtherAlgorithm));
    let pem = signer.pem();
    let made = Key::new(None, &Material::Secret(pem.as_bytes()), &[HS256]);
    assert_eq!(made.err(), Some(KeyFault::OtherAlgorithm));
}

#[test]
fn a_set_takes_an_id_once_per_algorithm() {
    let point = |signer: &Signer, id| {
        let text = super::super::forge::set(&[signer.jwk(id)]);
        let audience = super::super::key_file::Audience::Public;
        super::super::key_file::key_set(text.as_bytes(), &ALL, audience)
            .unwrap()
            .keys
            .keys
            .remove(0)
    };
    let (a, b, other) = (Signer::es256(), Signer::es256(), Signer::ed());
    let mut set = KeySet::new();
    assert_eq!(set.add(point(&a, "k1")), Ok(()));
    assert_eq!(set.add(point(&b, "k1")), Err(KeyFault::Duplicate));
    assert_eq!(set.add(point(&other, "k1")), Ok(()), "RFC 7517 §4.5 allows other kinds");
    assert!(set.knows("k1") && !set.knows("k2"));
    assert_eq!(set.candidates(Some("k1"), ES256).count(), 1);
    assert_eq!(set.candidates(None, EdDSA).count(), 1);
    assert_eq!(set.candidates(Some("k2"), ES256).count(), 0);
}

/// G5: keys of chips with a faulty library (CVE-2017-15361) are refused, from a set and from a PEM file; keys of
/// others are not.
#[test]
fn keys_of_faulty_chips_are_refused() {
    // 65537 modulo all primes that are looked at: a small product of them, moved far up, plus 65537.
    let primes = [
        3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59, 61, 67, 71, 73, 79, 83, 89,
        97, 101, 103, 107, 109, 113, 127, 131, 137, 139, 149, 151, 157, 163, 167,
    ];
    let mut n = vec![1_u8];
    for prime in primes {
        let mut carry = 0_u32;
        for byte in n.iter_mut().rev() {
            carry += u32::from(*byte) * prime;
            *byte = carry as u8;
            carry >>= 8;
        }
        while carry > 0 {
            n.insert(0, carry as u8);
            carry >>= 8;
        }
    }
    n.resize(254, 0);
    n.extend([1, 0, 1]);
    let e = [1, 0, 1];
    let made = |n: &[u8]| Key::new(None, &Material::Rsa { n, e: &e }, &[RS256]).err();
    assert_eq!(made(&n), Some(KeyFault::Computable));
    let other = n.len() - 1;
    n[other] += 2;
    assert_ne!(made(&n), Some(KeyFault::Computable));
    n[other] -= 2;
    // In PEM.
    let tlv = |tag: u8, body: &[u8]| {
        let length = (body.len() as u16).to_be_bytes();
        [&[tag, 0x82][..], &length, body].concat()
    };
    let sign: &[u8] = if n[0] < 0x80 { &[] } else { &[0] };
    let der = tlv(0x30, &[tlv(2, &[sign, &n[..]].concat()), vec![2, 3, 1, 0, 1]].concat());
    let name = [0x30, 13, 6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 13, 1, 1, 1, 5, 0];
    let info = tlv(0x30, &[&name[..], &tlv(3, &[&[0], &der[..]].concat())].concat());
    for der in [&der, &info] {
        assert_eq!(roca::modulus(der).map(roca::is_of_faulty_chip), Some(true));
    }
    assert_eq!(Key::new(None, &Material::Der(&info), &[RS256]).err(), Some(KeyFault::Computable));
    for _ in 0..3 {
        assert!(from_pem(&Signer::rsa(), &[RS256]).is_ok());
    }
}
