//! Digests and records.

mod stores;

use proptest::prelude::*;

use super::*;

/// G7: a digest is the SHA-256 of the key (FIPS 180-4, "abc"), and reads back as it prints.
#[test]
fn digests_are_sha_256() {
    let digest = Digest::of(b"abc");
    let text = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    assert_eq!(digest.to_string(), text);
    assert!(text.parse::<Digest>().unwrap() == digest);
    assert!(text.to_uppercase().parse::<Digest>().unwrap() == digest);
    assert!(Digest::of(b"abd") != digest);
    for bad in ["", "ba78", &text[1..], &format!("{text}0"), &text.replace('b', "x"), "+a"] {
        assert!(bad.parse::<Digest>().is_err(), "{bad}");
    }
}

/// G7: keys differ, are long enough and say what they are.
#[test]
fn made_keys_cannot_be_guessed() {
    let (one, other) = (make().unwrap(), make().unwrap());
    assert_ne!(one, other);
    assert!(one.starts_with("aqk_") && one.len() == 47 && LENGTHS.contains(&one.len()));
}

/// O5: a record is usable or says what is wrong with it.
#[test]
fn records_are_checked() {
    let good = Record { consumer: "acme".into(), scopes: vec!["a:b".into()], ..Record::default() };
    assert!(Entry::new(&good).is_ok());
    for bad in [
        Record { consumer: String::new(), ..good.clone() },
        Record { consumer: "a b".into(), ..good.clone() },
        Record { consumer: "x".repeat(256), ..good.clone() },
        Record { plan: Some("gold\r\nX: 1".into()), ..good.clone() },
        Record { scopes: vec![String::new()], ..good },
    ] {
        assert!(Entry::new(&bad).is_err(), "{bad:?}");
    }
}

/// G7: a file gives back what was written, refuses what is wrong by its line, and loses one key alone.
#[test]
fn files_of_keys() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys.ndjson");
    let record = |consumer: &str| Record {
        consumer: consumer.into(),
        plan: Some("gold".into()),
        scopes: vec!["read".into()],
        expires: Some(7),
    };
    let (one, other) = (Digest::of(b"one"), Digest::of(b"other"));
    file::append(&path, &one, &record("acme")).unwrap();
    file::append(&path, &other, &record("zenith")).unwrap();
    let read = file::read(&path).unwrap();
    assert_eq!(*read[&one], Entry::new(&record("acme")).unwrap());
    assert_eq!(read[&other].expires, 7000);
    assert!(file::remove(&path, &one).unwrap() && !file::remove(&path, &one).unwrap());
    assert_eq!(file::read(&path).unwrap().len(), 1);
    let digest = "0".repeat(64);
    for bad in [
        "{}".to_owned(),
        "secret".to_owned(),
        format!(r#"{{"sha256":"{digest}"}}"#),
        format!(r#"{{"sha256":"{digest}","consumer":"a","what":1}}"#),
        format!(r#"{{"sha256":"{digest}","consumer":"a b"}}"#),
        format!(r#"{{"sha256":"{other}","consumer":"again"}}"#),
        r#"{"sha256":"abc","consumer":"a"}"#.to_owned(),
    ] {
        file::append(&path, &one, &record("acme")).unwrap();
        let before = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, format!("{before}\n{bad}\n")).unwrap();
        let fault = file::read(&path).expect_err("unusable").to_string();
        assert!(fault.contains("keys.ndjson:4: ") && !fault.contains("secret"), "{bad}: {fault}");
        std::fs::write(&path, before).unwrap();
        assert!(file::remove(&path, &one).unwrap());
    }
}

proptest! {
    /// The bound holds, and what is in use is found.
    #[test]
    fn recent_is_bounded(keys in proptest::collection::vec(0..50_u32, 1..300)) {
        let mut recent = recent::Recent::new(16);
        for key in keys {
            recent.insert(key, key);
            prop_assert_eq!(recent.find(&key), Some(key));
            prop_assert!(recent.len() <= 16);
        }
    }
}
