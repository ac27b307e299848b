//! Statements, names and what servers hold of them, against what must hold of each. Not for messages: that is the
//! relay's. Run by `cargo test`.
//!
//! Invariant: what is counted is what is held.

use proptest::prelude::*;

use super::*;

fn plain() -> Trace {
    Trace::Nothing
}

/// P3: the same text is one statement, another text another, whatever the clients' names.
#[test]
fn texts_are_kept_once() {
    let mut all = Statements::default();
    let a = all.intern(b"select 1\0\0\0", 0, plain);
    let b = all.intern(b"select 1\0\0\0", 0, plain);
    let c = all.intern(b"select 2\0\0\0", 0, plain);
    assert!(Rc::ptr_eq(&a, &b));
    assert_ne!(a.name(), c.name());
    let elsewhere = all.intern(b"select 1\0\0\0", 7, plain);
    assert_ne!(a.name(), elsewhere.name(), "constants may mean something else");
}

#[test]
fn texts_that_nobody_uses_are_dropped() {
    let mut all = Statements::default();
    for n in 0..10_000 {
        all.intern(format!("select {n}\0\0\0").as_bytes(), 0, plain);
    }
    assert!(all.known.len() <= 2048, "{} kept", all.known.len());
}

#[test]
fn a_client_is_bounded() {
    let all = Statements::default();
    let mut names = Names::default();
    let large = all.make(Some(vec![0; MOST_CLIENT_BYTES / 2].into()), plain());
    assert!(names.insert(b"a", Rc::clone(&large)));
    assert!(!names.insert(b"b", Rc::clone(&large)));
    assert!(names.remove(b"a").is_some());
    assert!(names.insert(b"b", large));
}

#[test]
fn the_oldest_goes_first() {
    let mut all = Statements::default();
    let mut server = Holdings::default();
    let statements: Vec<_> =
        (0..4).map(|n| all.intern(format!("{n}\0\0\0").as_bytes(), 0, plain)).collect();
    for statement in &statements {
        server.sent(statement, 1);
        assert_eq!(server.holding(statement, 1), Holding::SentHere);
        assert_eq!(server.holding(statement, 2), Holding::Unknown);
        server.confirm(statement.id());
    }
    assert_eq!(server.holding(&statements[0], 9), Holding::Held);
    let most = Most { count: 2, bytes: usize::MAX };
    let gone: Vec<_> = server.evict(most).iter().map(|s| s.id()).collect();
    assert_eq!(gone, [statements[1].id(), statements[2].id()]);
    assert_eq!(server.holding(&statements[1], 9), Holding::Missing);
}

/// One thing that happens to a server, or to a client, with its statements.
#[derive(Clone, Copy, Debug)]
enum Step {
    Send(usize),
    Confirm(usize),
    Use(usize),
    Forget(usize),
    Restore(usize),
    Forgotten,
    Misparsed,
    Evict(usize, usize),
}

fn step() -> impl Strategy<Value = Step> {
    let which = 0..TEXTS;
    prop_oneof![
        6 => which.clone().prop_map(Step::Send),
        6 => which.clone().prop_map(Step::Confirm),
        4 => which.clone().prop_map(Step::Use),
        1 => which.clone().prop_map(Step::Forget),
        1 => which.prop_map(Step::Restore),
        1 => Just(Step::Forgotten),
        1 => Just(Step::Misparsed),
        3 => (0usize..6, 0usize..400).prop_map(|(count, bytes)| Step::Evict(count, bytes)),
    ]
}

const TEXTS: usize = 12;

/// Statements of very different lengths; the last one is too large to be sent again.
fn texts(all: &mut Statements) -> Vec<Rc<Statement>> {
    let text = |n: usize| [&b"x".repeat(n * n * 3)[..], &[n as u8, 0, 0, 0]].concat();
    let mut texts: Vec<_> = (0..TEXTS - 1).map(|n| all.intern(&text(n), 0, plain)).collect();
    texts.push(all.make(None, plain()));
    texts
}

proptest! {
    /// P3: whatever happens, a server's bytes are those of what it holds; after an eviction both bounds
    /// hold unless what is left cannot go, and nothing goes that was used after something that stays.
    #[test]
    fn servers_are_bounded_by_count_and_bytes(steps in proptest::collection::vec(step(), 0..120)) {
        let statements = texts(&mut Statements::default());
        let mut server = Holdings::default();
        let mut used: Vec<usize> = Vec::new();
        let touch = |n: usize, used: &mut Vec<usize>| {
            used.retain(|other| *other != n);
            used.push(n);
        };
        for step in steps {
            match step {
                Step::Send(n) => {
                    server.sent(&statements[n], 1);
                    touch(n, &mut used);
                }
                Step::Confirm(n) => server.confirm(statements[n].id()),
                Step::Use(n) => {
                    if server.holding(&statements[n], 1) != Holding::Missing {
                        touch(n, &mut used);
                    }
                }
                Step::Forget(n) => server.forget(statements[n].id()),
                Step::Restore(n) => {
                    server.restore(&statements[n]);
                    touch(n, &mut used);
                }
                Step::Forgotten => server.clear_confirmed(),
                Step::Misparsed => server.misparsed(),
                Step::Evict(count, bytes) => {
                    let most = Most { count, bytes };
                    let before = server.held.len();
                    let gone = server.evict(most);
                    prop_assert_eq!(server.held.len() + gone.len(), before);
                    let may_go = |hold: &Hold| hold.confirmed && hold.statement.rest.is_some();
                    let stuck = !server.held.values().any(may_go);
                    prop_assert!(server.fits(most) || stuck);
                    // One less would not have been enough.
                    if let Some(last) = gone.last() {
                        let count = server.held.len() < most.count;
                        prop_assert!(!count || server.bytes + last.bytes() > most.bytes);
                    }
                    let place = |id: u64| used.iter().position(|n| statements[*n].id() == id);
                    let newest = gone.iter().map(|statement| place(statement.id())).max();
                    for hold in server.held.values().filter(|hold| may_go(hold)) {
                        prop_assert!(newest.is_none_or(|at| place(hold.statement.id()) > at));
                    }
                }
            }
            let sum: usize = server.held.values().map(|hold| hold.statement.bytes()).sum();
            prop_assert_eq!(server.bytes, sum);
        }
    }

    /// P3: a client's names never hold more than their bounds, and a name that is refused changes nothing.
    #[test]
    fn clients_are_bounded_by_count_and_bytes(
        steps in proptest::collection::vec((0u8..20, 0usize..6, any::<bool>()), 0..60),
    ) {
        let all = Statements::default();
        let sizes = [1, 1 << 10, MOST_CLIENT_BYTES / 3, MOST_CLIENT_BYTES / 2, 7, MOST_CLIENT_BYTES];
        let large: Vec<_> =
            sizes.iter().map(|size| all.make(Some(vec![0; *size].into()), plain())).collect();
        let mut names = Names::default();
        for (name, which, goes) in steps {
            let name = [name];
            if goes {
                names.remove(&name);
            } else {
                let (before, held) = (names.bytes, names.named.len());
                if !names.insert(&name, Rc::clone(&large[which])) {
                    prop_assert_eq!((names.bytes, names.named.len()), (before, held));
                }
            }
            let sum: usize = names.named.iter().map(|(n, held)| n.len() + held.bytes()).sum();
            prop_assert_eq!(names.bytes, sum);
            prop_assert!(sum <= MOST_CLIENT_BYTES);
        }
    }
}
