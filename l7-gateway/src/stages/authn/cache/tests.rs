//! What the cache keeps, what it forgets, and that it never grows beyond its bounds.

use proptest::prelude::*;

use super::super::identity::{Facts, Voucher};
use super::*;

fn identity(user: &str) -> Rc<Identity> {
    let facts = Facts::of(Voucher::Issuer(IssuerId(0)));
    Rc::new(Identity::new(user, facts).unwrap())
}

fn user(cache: &mut Cache, token: &[u8], generation: u64) -> Option<String> {
    cache.find(token, |_| Some(generation)).map(|known| known.subject().to_owned())
}

/// G5: other keys, or none, and what was verified with the old ones is worth nothing.
#[test]
fn an_entry_is_bound_to_its_keys() {
    let mut cache = Cache::default();
    cache.insert(b"token", identity("1"), 5);
    assert_eq!(user(&mut cache, b"token", 5).as_deref(), Some("1"));
    assert_eq!(user(&mut cache, b"token", 6), None);
    assert!(cache.find(b"token", |_| None).is_none());
    assert_eq!(user(&mut cache, b"toker", 5), None);
    cache.insert(b"token", identity("1"), 6);
    assert_eq!(user(&mut cache, b"token", 6).as_deref(), Some("1"));
    assert_eq!(cache.len(), 1);
}

#[test]
fn what_is_used_stays() {
    let mut cache = Cache::new(8, 1 << 20);
    cache.insert(b"used", identity("1"), 1);
    for n in 0..100_u8 {
        cache.insert(&[n], identity("2"), 1);
        assert!(user(&mut cache, b"used", 1).is_some(), "after {n} others");
    }
    assert!(!cache.is_empty() && cache.len() <= 8);
}

proptest! {
    #[test]
    fn never_beyond_the_bounds(tokens in proptest::collection::vec((0..40_usize, any::<bool>()), 1..200)) {
        let mut cache = Cache::new(16, 400);
        for (length, find) in tokens {
            let token = vec![b'x'; length];
            if find {
                let _ = user(&mut cache, &token, 1);
            } else {
                cache.insert(&token, identity("1"), 1);
            }
            let held = |g: &Generation| g.entries.keys().map(|k| k.len()).sum::<usize>();
            prop_assert_eq!(held(&cache.young), cache.young.bytes);
            prop_assert_eq!(held(&cache.old), cache.old.bytes);
            prop_assert!(cache.len() <= 16 && cache.young.bytes + cache.old.bytes <= 400);
        }
    }
}
