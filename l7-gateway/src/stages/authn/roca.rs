//! RSA moduli of a faulty library in chips (CVE-2017-15361, "ROCA"): who has one can compute the private
//! key. Not for other weaknesses of keys. Called by `key`.
//!
//! Invariant: a modulus of that library is always found; another one is taken for one of them less often
//! than a hash function collides.

/// Both primes of such a modulus are powers of this number, modulo all of these.
const GENERATOR: u32 = 65_537;
const PRIMES: [u32; 38] = [
    3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59, 61, 67, 71, 73, 79, 83, 89, 97,
    101, 103, 107, 109, 113, 127, 131, 137, 139, 149, 151, 157, 163, 167,
];

/// Whether a modulus, big endian, is one of that library.
pub(super) fn is_of_faulty_chip(modulus: &[u8]) -> bool {
    PRIMES.iter().all(|&prime| {
        let rest = modulus.iter().fold(0, |rest, &byte| (rest * 256 + u32::from(byte)) % prime);
        let step =
            |power: &u32| Some(power * (GENERATOR % prime) % prime).filter(|next| *next != 1);
        std::iter::successors(Some(1), step).any(|power| power == rest)
    })
}

/// The modulus of an RSA key in DER, as `SubjectPublicKeyInfo` or `RSAPublicKey` (RFC 8017 A.1.1).
pub(super) fn modulus(der: &[u8]) -> Option<&[u8]> {
    let (SEQUENCE, body, _) = element(der)? else { return None };
    match element(body)? {
        (INTEGER, modulus, _) => Some(modulus),
        (SEQUENCE, _, rest) => {
            let (BIT_STRING, bits, _) = element(rest)? else { return None };
            let (SEQUENCE, key, _) = element(bits.strip_prefix(&[0])?)? else { return None };
            let (INTEGER, modulus, _) = element(key)? else { return None };
            Some(modulus)
        }
        _ => None,
    }
}

const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const SEQUENCE: u8 = 0x30;

/// The first element: its tag, what is in it, what comes after it.
fn element(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (tag, rest) = der.split_first()?;
    let (first, rest) = rest.split_first()?;
    let (length, rest) = if *first < 0x80 {
        (usize::from(*first), rest)
    } else {
        let (octets, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
        let length = octets.iter().try_fold(0_usize, |length, &octet| {
            Some(length.checked_mul(256)? | usize::from(octet))
        });
        (length?, rest)
    };
    let (body, rest) = rest.split_at_checked(length)?;
    Some((*tag, body, rest))
}
