//! Openings that are lawful, that are not, and that come in pieces. Not for the login that
//! follows. Run by the test harness.
//!
//! Invariant: nothing here needs a socket.

use proptest::prelude::*;

use super::*;

fn login(parameters: &[(&str, &str)]) -> Vec<u8> {
    let mut out = Vec::new();
    put_startup(&mut out, V3_0, parameters);
    out
}

/// P1: a login is read whole, and not before it is whole.
#[test]
fn a_login_in_pieces() {
    let bytes = login(&[("user", "app"), ("database", "shop")]);
    for cut in 0..bytes.len() {
        assert_eq!(opening(&bytes[..cut]), Ok(None), "{cut} bytes");
    }
    let Ok(Some((Opening::Startup(startup), used))) = opening(&bytes) else { panic!("no login") };
    assert_eq!(used, bytes.len());
    assert_eq!(startup.parameter("user"), Some("app"));
    assert_eq!(startup.parameter("database"), Some("shop"));
    assert_eq!(startup.negotiated(), V3_0);
}

/// O5: what cannot be a login is refused for a stated reason.
#[test]
fn refused() {
    let twice = login(&[("user", "a"), ("user", "b")]);
    assert_eq!(opening(&twice), Err(StartupError::Duplicate("user".into())));
    assert_eq!(opening(b"GET / HTTP/1.1\r\n"), Err(StartupError::Length(0x4745_5420)));
    assert_eq!(opening(&[0, 0, 0, 7, 0, 0, 0]), Err(StartupError::Length(7)));
    assert_eq!(opening(&[0xff; 8]), Err(StartupError::Length(0xffff_ffff)));
    let mut old = Vec::new();
    put_startup(&mut old, Version { major: 2, minor: 0 }, &[("user", "a")]);
    assert!(matches!(opening(&old), Err(StartupError::Version(_))));
    let mut split = login(&[("user", "a")]);
    let end = split.len() - 1;
    split[end] = b'x';
    assert!(matches!(opening(&split), Err(StartupError::Malformed(_))));
    let trailing = [0, 0, 0, 12, 4, 0xd2, 0x16, 0x2f, 1, 2, 3, 4];
    assert!(matches!(opening(&trailing), Err(StartupError::Malformed(_))));
}

/// P1: a cancel key of any lawful length comes back.
#[test]
fn cancel_keys() {
    for length in [4, 32, 256] {
        let key = CancelKey { pid: 7, secret: vec![9; length] };
        let mut out = Vec::new();
        put_cancel(&mut out, &key);
        assert_eq!(opening(&out), Ok(Some((Opening::Cancel(key), out.len()))));
    }
    let mut long = Vec::new();
    put_cancel(&mut long, &CancelKey { pid: 7, secret: vec![9; 257] });
    assert!(opening(&long).is_err());
}

/// P1: a client of a later minor version is met at the newest that we know.
#[test]
fn later_versions() {
    let mut out = Vec::new();
    put_startup(&mut out, Version { major: 3, minor: 9999 }, &[("user", "a"), ("_pq_.x", "1")]);
    let Ok(Some((Opening::Startup(startup), _))) = opening(&out) else { panic!("no login") };
    assert_eq!(startup.negotiated(), V3_2);
    assert_eq!(startup.protocol_options().collect::<Vec<_>>(), ["_pq_.x"]);
}

/// P1: a connection is for replication as PostgreSQL would have it.
#[test]
fn replication_is_asked_for() {
    let asked = |value: &str| {
        let bytes = login(&[("user", "a"), ("replication", value)]);
        let Ok(Some((Opening::Startup(startup), _))) = opening(&bytes) else { panic!("no login") };
        startup.replication().map_err(str::to_owned)
    };
    for (value, replication) in [
        ("true", Replication::Physical),
        ("YES", Replication::Physical),
        ("t", Replication::Physical),
        ("on", Replication::Physical),
        ("1", Replication::Physical),
        ("database", Replication::Logical),
        ("off", Replication::No),
        ("0", Replication::No),
        ("fal", Replication::No),
    ] {
        assert_eq!(asked(value), Ok(replication), "{value}");
    }
    for value in ["", "o", "Database", "2", "truely", " true"] {
        assert_eq!(asked(value), Err(value.to_owned()));
    }
}

proptest! {
    #[test]
    fn any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
        let _ = opening(&bytes);
    }

    #[test]
    fn any_lawful_login(names in proptest::collection::btree_map("[a-z]{1,8}", "[^\0]{0,20}", 0..6)) {
        let pairs: Vec<_> = names.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        let bytes = login(&pairs);
        let Ok(Some((Opening::Startup(startup), used))) = opening(&bytes) else {
            return Err(TestCaseError::fail("not read"));
        };
        prop_assert_eq!(used, bytes.len());
        let back: Vec<_> = startup.parameters.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        prop_assert_eq!(back, pairs);
    }
}
