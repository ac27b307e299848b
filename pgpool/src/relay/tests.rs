//! Clients that share servers against clients that each have their own: the same messages, the
//! same answers, byte for byte. Not for sockets. Run by the test harness.
//!
//! Invariant: the model of PostgreSQL knows nothing of pooling.

mod model;

use std::collections::VecDeque;

use pgpool_wire::backend::Status;
use pgpool_wire::frontend::{self, Subject};
use proptest::prelude::*;
use topology::pool::PoolMode;

use super::answer::Answer;
use super::edit::Edit;
use super::forward::{Forward, Stop};
use super::link::{Conversation, Memory, Notes, Rules};
use crate::prepared::{Most, Statements};
use crate::server::status::{Due, To};
use model::Model;

/// One message of a client.
#[derive(Clone, Copy, Debug)]
enum Say {
    Parse(u8, u8),
    Bind(u8),
    Describe(u8),
    Execute,
    Close(u8),
    Query(u8),
    Sync,
}

/// Names: the unnamed statement, and two that every client uses.
fn name(n: u8) -> &'static [u8] {
    [&b""[..], b"s1", b"s2"][usize::from(n % 3)]
}

/// Statements: good ones, one that cannot be parsed, one that fails when it runs.
fn sql(n: u8) -> &'static str {
    ["one", "two", "three", "unparsable", "boom"][usize::from(n % 5)]
}

fn simple(n: u8) -> &'static str {
    ["one", "boom", "begin", "commit", "deallocate all"][usize::from(n % 5)]
}

fn put(say: Say, out: &mut Vec<u8>) {
    match say {
        Say::Parse(n, s) => {
            let rest = [sql(s).as_bytes(), b"\0\0\0"].concat();
            frontend::put_parse(out, name(n), &rest);
        }
        Say::Bind(n) => {
            frontend::put_bind_head(out, b"", name(n), 6);
            out.extend_from_slice(&[0; 6]);
        }
        Say::Describe(n) => frontend::put_subject(out, b'D', Subject::Statement, name(n)),
        Say::Execute => out.extend_from_slice(b"E\0\0\0\x09\0\0\0\0\0"),
        Say::Close(n) => frontend::put_subject(out, b'C', Subject::Statement, name(n)),
        Say::Query(n) => frontend::put_query(out, simple(n).as_bytes()),
        Say::Sync => frontend::put_empty(out, b'S'),
    }
}

fn say() -> impl Strategy<Value = Say> {
    prop_oneof![
        4 => (0u8..3, 0u8..5).prop_map(|(n, s)| Say::Parse(n, s)),
        6 => (0u8..3).prop_map(Say::Bind),
        2 => (0u8..3).prop_map(Say::Describe),
        5 => Just(Say::Execute),
        2 => (0u8..3).prop_map(Say::Close),
        2 => (0u8..5).prop_map(Say::Query),
    ]
}

/// Pieces that end with a Sync.
fn script() -> impl Strategy<Value = Vec<Vec<Say>>> {
    let piece = proptest::collection::vec(say(), 0..6).prop_map(|mut piece| {
        piece.push(Say::Sync);
        piece
    });
    proptest::collection::vec(piece, 1..6)
}

#[derive(Default)]
struct Client {
    memory: Memory,
    /// What it still has to send, piece by piece.
    pieces: VecDeque<Vec<u8>>,
    carry: Vec<u8>,
    server: Option<usize>,
    heard: Vec<u8>,
}

#[derive(Default)]
struct Server {
    talk: Conversation,
    model: Model,
    /// Bytes on their way to it and from it.
    inward: Vec<u8>,
    outward: Vec<u8>,
}

/// Everything between the clients and the servers.
struct Pool {
    clients: Vec<Client>,
    servers: Vec<Server>,
    statements: Statements,
    rules: Rules,
}

impl Pool {
    fn new(scripts: &[Vec<Vec<Say>>], servers: usize) -> Self {
        let client = |script: &Vec<Vec<Say>>| Client {
            pieces: script.iter().map(|piece| bytes(piece)).collect(),
            ..Client::default()
        };
        Self {
            clients: scripts.iter().map(client).collect(),
            servers: (0..servers).map(|_| Server::default()).collect(),
            statements: Statements::default(),
            rules: rules(),
        }
    }

    /// One small step somewhere, as `choice` says; `false`: nothing could be done there.
    fn step(&mut self, choice: u32) -> bool {
        let at = choice as usize / 8 % self.clients.len();
        let few = 1 + choice as usize / 64 % 40;
        match (self.clients[at].server, choice % 4) {
            (None, _) => self.link(at, choice as usize / 4096),
            (Some(server), 0) => self.forward(at, server),
            (Some(server), 1) => self.serve(server, few),
            (Some(server), _) => self.answer(at, server, few),
        }
    }

    fn link(&mut self, at: usize, hint: usize) -> bool {
        let client = &mut self.clients[at];
        if client.carry.is_empty() {
            let Some(piece) = client.pieces.pop_front() else { return false };
            client.carry = piece;
        }
        let taken: Vec<_> = self.clients.iter().filter_map(|client| client.server).collect();
        let free: Vec<_> = (0..self.servers.len()).filter(|n| !taken.contains(n)).collect();
        let Some(server) = free.get(hint % free.len().max(1)).copied() else { return false };
        self.clients[at].server = Some(server);
        let mut out = Vec::new();
        let Server { talk, inward, .. } = &mut self.servers[server];
        talk.adopt(&self.clients[at].memory, self.rules, &mut out);
        inward.extend(out);
        self.push(at, server);
        true
    }

    /// Sends what the client has, and more of it if nothing waits.
    fn forward(&mut self, at: usize, server: usize) -> bool {
        let client = &mut self.clients[at];
        // In a transaction a client waits for its answers, as the pooler cannot know what the
        // server has not said yet about it.
        let waits = self.servers[server].talk.ledger.status() != Status::Idle
            && !self.servers[server].talk.ledger.is_empty();
        if client.carry.is_empty() && !waits {
            let Some(piece) = client.pieces.pop_front() else { return false };
            client.carry = piece;
        }
        if client.carry.is_empty() {
            return false;
        }
        self.push(at, server);
        self.release(at, server);
        true
    }

    fn push(&mut self, at: usize, server: usize) {
        let client = &mut self.clients[at];
        let input = std::mem::take(&mut client.carry);
        let mut out = Vec::new();
        let mut edit = Edit::new(&input, &mut out);
        let stop = Forward {
            client: &mut client.memory,
            server: &mut self.servers[server].talk,
            statements: &mut self.statements,
            rules: self.rules,
        }
        .run(&mut edit)
        .expect("lawful messages");
        assert_ne!(stop, Stop::Terminate);
        client.carry = input[edit.consumed()..].to_vec();
        self.servers[server].inward.extend_from_slice(edit.finish());
        self.hear(at, server, &[]);
    }

    /// The server reads some bytes.
    fn serve(&mut self, server: usize, few: usize) -> bool {
        let Server { model, inward, outward, .. } = &mut self.servers[server];
        let count = few.min(inward.len());
        model.read(&inward[..count], outward);
        inward.drain(..count);
        count > 0
    }

    /// The client gets some of what the server has said.
    fn answer(&mut self, at: usize, server: usize, few: usize) -> bool {
        let outward = &mut self.servers[server].outward;
        // As in the relay, a message that is not whole waits for the rest of itself.
        let mut count = few.min(outward.len());
        let input = loop {
            let input = outward[..count].to_vec();
            let whole = matches!(
                pgpool_wire::frame::next(&input, 1 << 20),
                Ok(pgpool_wire::Found::Whole(_))
            );
            if whole || count == outward.len() {
                break input;
            }
            count += 1;
        };
        let used = self.hear(at, server, &input);
        self.servers[server].outward.drain(..used);
        self.release(at, server);
        used > 0
    }

    fn hear(&mut self, at: usize, server: usize, input: &[u8]) -> usize {
        let client = &mut self.clients[at];
        let mut out = Vec::new();
        let mut edit = Edit::new(input, &mut out);
        let mut answer =
            Answer { client: &mut client.memory, server: &mut self.servers[server].talk };
        answer.run(&mut edit).expect("the server is in order");
        let used = edit.consumed();
        client.heard.extend_from_slice(edit.finish());
        used
    }

    fn release(&mut self, at: usize, server: usize) {
        let Server { talk, inward, outward, .. } = &self.servers[server];
        if talk.is_clean() {
            assert!(inward.is_empty() && outward.is_empty(), "free with bytes on their way");
            assert_eq!(self.clients[at].memory.tie, None);
            self.clients[at].server = None;
        }
    }

    /// Runs to the end: first as `choices` say, then everybody in turn.
    fn run(&mut self, choices: &[u32]) {
        for choice in choices {
            self.step(*choice);
        }
        loop {
            let mut moved = false;
            for at in 0..self.clients.len() {
                moved |= match self.clients[at].server {
                    None => self.link(at, 0),
                    Some(server) => {
                        let forward = self.forward(at, server);
                        forward | self.serve(server, 1000) | self.answer(at, server, 1000)
                    }
                };
            }
            if !moved {
                break;
            }
        }
        assert!(self.clients.iter().all(|client| client.pieces.is_empty()), "stuck");
    }
}

fn bytes(piece: &[Say]) -> Vec<u8> {
    let mut out = Vec::new();
    piece.iter().for_each(|say| put(*say, &mut out));
    out
}

fn rules() -> Rules {
    let prepared = Most { count: 2, bytes: 30 };
    Rules { mode: PoolMode::Transaction, prepared, notes: Notes::No }
}

/// Forwards all of `input` that may be forwarded now: why it stopped, how much that was, and what is sent.
fn forward(client: &mut Memory, server: &mut Conversation, input: &[u8]) -> (Stop, usize, Vec<u8>) {
    let (mut out, mut statements) = (Vec::new(), Statements::default());
    let mut edit = Edit::new(input, &mut out);
    let stop = Forward { client, server, statements: &mut statements, rules: rules() }
        .run(&mut edit)
        .expect("lawful messages");
    let used = edit.consumed();
    (stop, used, edit.finish().to_vec())
}

/// P7: texts that are kept until their Parse is answered are bounded, and a server that answers only when it is
/// asked to is asked.
#[test]
fn statements_that_are_due_are_bounded() {
    let (mut client, mut server) = (Memory::default(), Conversation::default());
    let mut one = Vec::new();
    frontend::put_parse(&mut one, b"", &[&[b'x'; 30_000][..], b"\0\0\0"].concat());
    let all = one.repeat(200);
    let (stop, used, sent) = forward(&mut client, &mut server, &all);
    assert_eq!(stop, Stop::Replies);
    assert!(used < 40 * one.len(), "{used}");
    assert!(sent.ends_with(b"H\0\0\0\x04"));
    assert!(tags(&sent).trim_end_matches('H').chars().all(|tag| tag == 'P'));
    let answers = b"1\0\0\0\x04".repeat(used / one.len());
    let mut out = Vec::new();
    let mut edit = Edit::new(&answers, &mut out);
    Answer { client: &mut client, server: &mut server }.run(&mut edit).expect("in order");
    assert_eq!(server.ledger.bytes(), 0);
    let (_, again, _) = forward(&mut client, &mut server, &all[used..]);
    assert_eq!(again, used, "the next ones");
}

/// P3: a notification that comes with the answer to a query of ours is the client's once it has listened, and nobody's
/// before.
#[test]
fn notifications_come_at_any_time() {
    for (touched, heard) in [(false, ""), (true, "A")] {
        let (mut client, mut server) = (Memory::default(), Conversation::default());
        server.touched = touched;
        server.ledger.sent(Due::Query(To::Pool, crate::query::Trace::Nothing));
        let mut answers = Vec::new();
        pgpool_wire::frame::put(&mut answers, b'A', |out| {
            out.extend_from_slice(b"\0\0\0\x01x\0\0");
        });
        let mut out = Vec::new();
        let mut edit = Edit::new(&answers, &mut out);
        Answer { client: &mut client, server: &mut server }.run(&mut edit).expect("in order");
        assert_eq!(tags(edit.finish()), heard, "{touched}");
    }
}

/// P1: what we answer ourselves comes behind a long message, however many pieces that comes in.
#[test]
fn nothing_is_put_into_a_long_message() {
    let (mut client, mut server) = (Memory::default(), Conversation::default());
    let mut said = Vec::new();
    frontend::put_parse(&mut said, b"s", b"select\0\0\0");
    frontend::put_subject(&mut said, b'D', Subject::Statement, b"s");
    frontend::put_subject(&mut said, b'C', Subject::Statement, b"s");
    frontend::put_empty(&mut said, b'S');
    assert_eq!(forward(&mut client, &mut server, &said).1, said.len());
    let mut answers = b"1\0\0\0\x04t\0\0\0\x06\0\0".to_vec();
    pgpool_wire::frame::put(&mut answers, b'T', |out| out.extend_from_slice(&[7; 100_000]));
    let mut heard = Vec::new();
    for piece in answers.chunks(50_000) {
        let mut out = Vec::new();
        let mut edit = Edit::new(piece, &mut out);
        Answer { client: &mut client, server: &mut server }.run(&mut edit).expect("in order");
        assert_eq!(edit.consumed(), piece.len());
        heard.extend_from_slice(edit.finish());
    }
    assert!(heard.starts_with(&answers), "as it came");
    assert_eq!(heard[answers.len()..], *b"3\0\0\0\x04");
}

/// What a client of its own server hears.
fn alone(script: &[Vec<Say>]) -> Vec<u8> {
    let (mut model, mut out) = (Model::default(), Vec::new());
    script.iter().for_each(|piece| model.read(&bytes(piece), &mut out));
    out
}

/// Type bytes, for messages of failures.
fn tags(mut bytes: &[u8]) -> String {
    let mut seen = String::new();
    while let Ok(pgpool_wire::Found::Whole(frame)) = pgpool_wire::frame::next(bytes, 1 << 20) {
        seen.push(frame.tag as char);
        bytes = &bytes[frame.raw.len()..];
    }
    seen
}

proptest! {
    /// P1, P3: however messages interleave, fail and are cut, a client that shares servers hears
    /// what it would hear alone.
    #[test]
    fn sharing_cannot_be_told(
        scripts in proptest::collection::vec(script(), 1..4),
        servers in 1usize..4,
        choices in proptest::collection::vec(any::<u32>(), 0..200),
    ) {
        // Nobody may end inside a transaction: the others would wait for ever.
        let mut scripts = scripts;
        scripts.iter_mut().for_each(|script| script.push(vec![Say::Query(3), Say::Sync]));
        let mut pool = Pool::new(&scripts, servers);
        pool.run(&choices);
        for (client, script) in pool.clients.iter().zip(&scripts) {
            let expected = alone(script);
            prop_assert_eq!(tags(&client.heard), tags(&expected), "{:?}", script);
            prop_assert!(client.heard == expected, "the same tags with other bytes: {:?}", script);
        }
    }
}
