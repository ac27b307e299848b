//! Parcels as they are sent, damaged, and out of bounds.

use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use proptest::{option, sample};

use super::*;

fn prepared() -> impl Strategy<Value = Prepared> {
    let parts = (vec(1_u8.., 0..40), vec(any::<u8>(), 0..4), option::of(any::<u64>()));
    parts.prop_map(|(sql, types, terms)| {
        let mut rest = sql;
        rest.extend_from_slice(&[0, 0, types.len() as u8]);
        rest.extend(types.iter().flat_map(|kind| [0, 0, 0, *kind]));
        Prepared { rest: Octets(rest), terms }
    })
}

fn settings() -> impl Strategy<Value = Vec<Setting>> {
    let means = ("[^\0]{0,30}", 0..3_u8).prop_map(|(text, kind)| match kind {
        0 => Means::Reported(text),
        1 => Means::Is(text),
        _ => Means::Statement(text),
    });
    let all = btree_map("[a-z_][a-z0-9_]{0,9}(\\.[a-z]{1,5})?", means, 0..6);
    all.prop_map(|all| all.into_iter().map(|(name, means)| Setting(name, means)).collect())
}

fn parcel() -> impl Strategy<Value = Parcel> {
    let who = (1_u32.., vec(any::<u8>(), 4..33), vec("[^\0]{0,12}", 3), any::<u64>());
    let from = prop_oneof![
        any::<([u8; 4], u16)>().prop_map(|(ip, port)| Whence::Ip((ip, port).into())),
        any::<(u32, i32, u16)>().prop_map(|(uid, pid, port)| Whence::Unix(uid, pid, port)),
    ];
    let named = btree_map(vec(1_u8.., 1..9), prepared(), 0..5);
    let proof = (1..MOST_ITERATIONS, vec(any::<u8>(), 64)).prop_map(|(iterations, keys)| Proof {
        salt: "c2FsdA==".to_owned(),
        iterations,
        keys: Hidden(BASE64.encode(keys)),
    });
    let learned = sample::select(vec![None, Some("md50123456789abcdef0123456789abcdef")]);
    let rest = (named, option::of(prepared()), any::<bool>(), option::of(proof), learned);
    (who, from, settings(), settings(), rest).prop_map(|(who, source, initial, variables, rest)| {
        let (named, unnamed, wrote, proof, learned) = rest;
        let (pid, secret, mut names, connected) = who;
        let mut name = || names.pop().unwrap_or_default();
        Parcel {
            pid,
            secret: Octets(secret),
            database: name(),
            user: name(),
            application: name(),
            source,
            connected,
            initial,
            variables,
            named: named.into_iter().map(|(name, it)| (Octets(name), it)).collect(),
            unnamed,
            wrote,
            proof,
            learned: learned.map(|text| Hidden(text.to_owned())),
        }
    })
}

fn plain() -> Parcel {
    let rest = Octets(b"select $1\0\0\x01\0\0\0\x17".to_vec());
    Parcel {
        pid: 5,
        secret: Octets(vec![1; 4]),
        database: "shop".to_owned(),
        user: "app".to_owned(),
        application: String::new(),
        source: Whence::Unix(1, 2, 6432),
        connected: 9,
        initial: Vec::new(),
        variables: vec![Setting("work_mem".to_owned(), Means::Is("1MB".to_owned()))],
        named: vec![(Octets(b"s".to_vec()), Prepared { rest, terms: None })],
        unnamed: None,
        wrote: false,
        proof: None,
        learned: None,
    }
}

/// P7, O5: what a client that logs in may not have, none has that comes from another process.
#[test]
fn bounds_hold_for_who_moves() {
    assert!(plain().is_lawful());
    let wrong: [fn(&mut Parcel); 14] = [
        |it| it.pid = 0,
        |it| it.secret.0.clear(),
        |it| it.secret.0 = vec![0; startup::LONGEST_SECRET + 1],
        |it| it.user = "a\0b".to_owned(),
        |it| it.database = "a".repeat(LONGEST_NAME + 1),
        |it| it.variables[0].0 = "x;drop table t".to_owned(),
        |it| it.variables[0].0 = "Work_Mem".to_owned(),
        |it| it.variables[0].1 = Means::Is("x".repeat(LONGEST_SETTING + 1)),
        |it| it.initial = vec![it.variables[0].clone(); MOST_SETTINGS + 1],
        |it| it.named[0].0.0.clear(),
        |it| it.named[0].1.rest.0.truncate(11),
        |it| it.named.push(it.named[0].clone()),
        |it| it.learned = Some(Hidden("a password".to_owned())),
        |it| {
            it.proof = Some(Proof {
                salt: "c2FsdA==".to_owned(),
                iterations: MOST_ITERATIONS + 1,
                keys: Hidden(BASE64.encode([0; 64])),
            });
        },
    ];
    for (n, break_it) in wrong.into_iter().enumerate() {
        let mut parcel = plain();
        break_it(&mut parcel);
        let text = serde_json::to_vec(&parcel).expect("a text");
        assert_eq!(read(&text), None, "{n}");
    }
    let shown = format!("{:?}", Parcel { learned: Some(Hidden("md5".repeat(12))), ..plain() });
    assert!(!shown.contains("md5") && !shown.contains("select"), "{shown}");
}

proptest! {
    /// P7: a parcel arrives as it was sent.
    #[test]
    fn parcels_arrive_as_they_were_sent(parcel in parcel()) {
        prop_assert!(parcel.is_lawful());
        let text = serde_json::to_vec(&parcel).expect("a text");
        prop_assert_eq!(read(&text), Some(parcel));
    }

    /// P7, O5: any bytes, and any change of lawful ones, are refused or lawful.
    #[test]
    fn damaged_parcels_are_refused_or_lawful(
        parcel in parcel(),
        at in any::<sample::Index>(),
        with in any::<u8>(),
        cut in any::<bool>(),
        noise in vec(any::<u8>(), 0..200),
    ) {
        let mut text = serde_json::to_vec(&parcel).expect("a text");
        let at = at.index(text.len());
        text[at] = with;
        if cut {
            text.truncate(at);
        }
        for bytes in [text, noise] {
            if let Some(read) = read(&bytes) {
                prop_assert!(read.is_lawful());
            }
        }
    }
}
