//! Both sides of a hand-over in two threads. Not for processes: those are the tiers' tests.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::fd::AsFd;
use std::thread;

use super::taking::Former;
use super::*;

/// A language of texts.
#[derive(Debug)]
struct Plain;

impl Language for Plain {
    const VERSION: u32 = 7;
    type Offer = String;
    type Gift = u8;
}

/// N11, P7: what is offered and given arrives in order, with its descriptors, and both sides go on only when
/// the other is ready.
#[test]
fn everything_arrives_in_order() {
    let (old, new) = UnixStream::pair().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let giving = thread::spawn(move || {
        let successor = giving::meet::<Plain>(old, 5).unwrap();
        let offers = [("a".to_owned(), vec![listener.as_fd()]), ("b".to_owned(), Vec::new())];
        successor.offer(offers).unwrap().give([(1, Vec::new()), (2, Vec::new())]).unwrap().process
    });
    let former = Former::<Plain>::new(new).unwrap();
    let mut offers = Vec::new();
    former.offers(|offer, with| offers.push((offer, with.len()))).unwrap();
    assert_eq!(offers, [("a".to_owned(), 1), ("b".to_owned(), 0)]);
    let mut gifts = Vec::new();
    former.gifts(|gift, _| gifts.push(gift)).unwrap();
    assert_eq!(gifts, [1, 2]);
    former.serving().unwrap();
    assert_eq!(giving.join().unwrap(), 5);
}

/// N11, O5: another version, a word out of turn, one that nobody knows and a process that ends are faults
/// that say so, on either side.
#[test]
fn what_goes_wrong_is_told() {
    let hear = |said: &str| {
        let (old, new) = UnixStream::pair().unwrap();
        descriptors::send(&old, said.as_bytes(), &[]).unwrap();
        drop(old);
        Former::<Plain>::new(new).unwrap().offers(|_, _| ()).unwrap_err().to_string()
    };
    assert_eq!(
        hear(r#"{"Hello":{"version":8}}"#),
        "the other process hands over in version 8, this one in version 7"
    );
    assert_eq!(hear(r#""Offered""#), "the other process said `Offered` out of turn");
    assert!(hear("{}").contains("something unknown"));
    assert!(hear(r#"{"Hello":{"version":7}}"#).contains("did not go on"));

    // Who was given up learns it when it would serve.
    let (old, new) = UnixStream::pair().unwrap();
    drop(old);
    Former::<Plain>::new(new).unwrap().serving().unwrap_err();

    let (old, mut new) = UnixStream::pair().unwrap();
    let giving = thread::spawn(move || {
        giving::meet::<Plain>(old, 5).unwrap().offer([]).unwrap_err().to_string()
    });
    new.read_exact(&mut [0; 8]).unwrap();
    new.write_all(b"\0\0\0\x09\0\0\0\0\"Serving\"").unwrap();
    assert_eq!(giving.join().unwrap(), "the other process said `Serving` out of turn");
}
