//! Random sequences of messages, said to PostgreSQL directly and to clients that share servers: the
//! same answers. Not for what is said concurrently to one row. Real PostgreSQL; `ORACLE_SEEDS` makes
//! it longer.
//!
//! Invariant: a script depends on nothing but its own session.

use common::rng::Rng;

use crate::pooler::{Pooler, Setup};
use crate::postgres::Postgres;
use crate::raw::{Message, Raw, bare, bind, data, execute, parse, query, subject, tags, text};

const NAMES: [&str; 3] = ["", "s1", "s2"];
const PORTALS: [&str; 3] = ["", "", "p1"];
const STATEMENTS: [&str; 12] = [
    "select 1, 'one'",
    "select $1::text",
    "select generate_series(1, 3)",
    "selekt",
    "select 1/0",
    "begin",
    "commit",
    "set work_mem = '91kB'",
    "show work_mem",
    "select * from t@",
    "set local work_mem = '92kB'",
    "",
];
const QUERIES: [&str; 33] = [
    "select 1; select 2",
    "select 1/0",
    "begin",
    "begin; select 1",
    "commit",
    "rollback",
    "savepoint a",
    "rollback to a",
    "set work_mem = '93kB'",
    "set local work_mem = '94kB'",
    "reset work_mem",
    "show work_mem",
    "set datestyle = 'German, DMY'; select date '2020-02-01'",
    "set datestyle = 'SQL, MDY'",
    "select date '03/04/2020'",
    "set timezone = 'Asia/Tokyo'",
    "select timestamptz '2020-01-01 00:00'",
    "reset all",
    "discard all",
    "deallocate all",
    "deallocate s1",
    "prepare q1 as select 7",
    "execute q1",
    "declare c cursor for select generate_series(1, 5)",
    "fetch 2 from c",
    "declare h cursor with hold for select generate_series(1, 5)",
    "fetch 2 from h",
    "create temp table mine (a int)",
    "select * from mine",
    "",
    "select set_config('work_mem', '95kB', true)",
    "do $$ begin raise notice 'heard'; end $$",
    "select 1; selekt; select 2",
];

/// One message or more; how many ReadyForQuery follow it.
fn say(rng: &Rng) -> (Vec<u8>, usize) {
    let pick = |from: &'static [&'static str]| from[rng.below(from.len())];
    match rng.below(16) {
        0..=2 => (parse(pick(&NAMES), pick(&STATEMENTS)), 0),
        3..=6 => {
            let parameters: &[&str] = if rng.below(3) == 0 { &["x"] } else { &[] };
            (bind(pick(&PORTALS), pick(&NAMES), parameters), 0)
        }
        7 => (subject(b'D', b'S', pick(&NAMES)), 0),
        8 => (subject(b'D', b'P', pick(&PORTALS)), 0),
        9..=11 => (execute(pick(&PORTALS), [0, 0, 1, 2][rng.below(4)]), 0),
        12 => (subject(b'C', [b'S', b'P'][rng.below(2)], pick(&NAMES)), 0),
        13 => (bare(b'H'), 0),
        14 => match rng.below(3) {
            0 => {
                let bytes = [query("copy t@ from stdin"), data("1\tx\n"), bare(b'c')];
                (bytes.concat(), 1)
            }
            1 => ([query("copy t@ from stdin"), data("x\n"), bare(b'c')].concat(), 1),
            _ => (query("copy (values (1), (2)) to stdout"), 1),
        },
        _ => (query(pick(&QUERIES)), 1),
    }
}

/// Pieces that end with ReadyForQuery, and how many of these are due then.
fn script(rng: &Rng, who: u8, transactions: bool) -> Vec<(Vec<u8>, usize)> {
    let pieces = 2 + rng.below(8);
    let piece = |_| {
        let (mut bytes, mut ready) = (Vec::new(), 1);
        let mut skipping = false;
        for _ in 0..rng.below(6) {
            let (message, more) = say(rng);
            // A query among messages that may have failed is skipped: give it a Sync of its own.
            if more > 0 && skipping {
                bytes.extend(bare(b'S'));
                ready += 1;
            }
            skipping = more == 0;
            bytes.extend(message);
            ready += more;
        }
        bytes.extend(bare(b'S'));
        (bytes, ready)
    };
    let mut all: Vec<_> = (0..pieces).map(piece).collect();
    all.push((query("rollback"), 1));
    all.push((query("truncate t@"), 1));
    let calm = |bytes: &mut Vec<u8>| {
        let found: Vec<_> = bytes
            .windows(5)
            .enumerate()
            .filter(|(_, w)| *w == b"begin")
            .map(|(at, _)| at)
            .collect();
        found.into_iter().for_each(|at| bytes[at..at + 5].copy_from_slice(b"abort"));
    };
    if !transactions {
        all.iter_mut().for_each(|(bytes, _)| calm(bytes));
    }
    // Each has a table of its own: nobody waits for another's lock.
    let own = |bytes: &mut Vec<u8>| {
        let found = bytes.windows(2).enumerate().filter(|(_, two)| *two == b"t@");
        let found: Vec<_> = found.map(|(at, _)| at + 1).collect();
        found.into_iter().for_each(|at| bytes[at] = b'0' + who);
    };
    all.iter_mut().for_each(|(bytes, _)| own(bytes));
    all
}

/// What can be compared: an error's text may show a statement under the name that the server has.
pub(crate) fn comparable(messages: &[Message], reports: bool) -> Vec<Message> {
    let one = |(tag, body): &Message| match tag {
        b'E' | b'N' => {
            let code = body.split(|b| *b == 0).find(|field| field.first() == Some(&b'C'));
            (*tag, code.unwrap_or_default().to_vec())
        }
        b'T' => (*tag, without_tables(body)),
        _ => (*tag, body.clone()),
    };
    messages.iter().filter(|(tag, _)| reports || *tag != b'S').map(one).collect()
}

/// A description of rows without the numbers of tables: a temporary one has another each time.
fn without_tables(body: &[u8]) -> Vec<u8> {
    let (mut body, mut at) = (body.to_vec(), 2);
    while let Some(name) = body.get(at..).and_then(|rest| rest.iter().position(|b| *b == 0)) {
        let table = at + name + 1;
        body[table..table + 4].fill(0);
        at = table + 18;
    }
    body
}

/// P1, P3: whatever is said in whatever order, whoever has used the server before: what PostgreSQL
/// alone would have answered.
#[tokio::test]
async fn the_same_bytes_the_same_answers() {
    compare("transaction", 4, 60).await;
}

/// P1, P2: the same where a client keeps its server.
#[tokio::test]
async fn the_same_bytes_in_session_mode() {
    compare("session", 3, 20).await;
}

/// P1, P2: the same where each message has a server of its own; transactions are one message long there.
#[tokio::test]
async fn the_same_bytes_in_statement_mode() {
    compare("statement", 4, 40).await;
}

#[expect(clippy::print_stdout, reason = "shown when it fails: the seed is all that is needed")]
async fn compare(mode: &str, size: u32, seeds: u64) {
    let server = Postgres::start().await;
    let root = server.root().await;
    for who in 0..3 {
        let sql = format!("create table t{who} (a int, b text); grant all on t{who} to public");
        root.batch_execute(&sql).await.expect("schema");
    }
    let setup = Setup { mode, size, settings: "max_prepared_statements: 3", ..Setup::default() };
    let pooler = Pooler::start(&server, setup).await;
    let seeds = std::env::var("ORACLE_SEEDS").ok().and_then(|n| n.parse().ok()).unwrap_or(seeds);
    let first = std::env::var("ORACLE_FIRST").ok().and_then(|n| n.parse().ok()).unwrap_or(0);
    for seed in first..first + seeds {
        let rng = Rng::seeded(seed);
        // With settings of its own, a client hears of a RESET twice: the server's, then its own.
        let reports = mode == "session" || seed % 2 == 0;
        let own =
            [("timezone", "Asia/Kolkata"), ("options", "-c work_mem=90kB -c DateStyle=SQL,MDY")];
        let asked = if reports { &own[..0] } else { &own[..] };
        let transactions = reports && mode != "statement";
        let scripts: Vec<_> = (0..3).map(|who| script(&rng, who, transactions)).collect();
        let mut alone = Vec::new();
        for script in &scripts {
            let name = [("application_name", "pgpool")];
            let mut raw = Raw::login_with(server.port, &[&name, asked].concat()).await;
            let mut heard = Vec::new();
            for (bytes, ready) in script {
                raw.send(bytes).await;
                heard.push(raw.until_ready(*ready).await);
            }
            alone.push(heard);
        }
        let mut clients = Vec::new();
        for _ in &scripts {
            clients.push((Raw::login_with(pooler.port, asked).await, 0));
        }
        let mut left: usize = scripts.iter().map(Vec::len).sum();
        while left > 0 {
            let who = rng.below(clients.len());
            let (raw, at) = &mut clients[who];
            let Some((bytes, ready)) = scripts[who].get(*at) else { continue };
            raw.send(bytes).await;
            // Shown when an answer never comes.
            println!("seed {seed}, client {who}, piece {at}: {:?}", String::from_utf8_lossy(bytes));
            let heard = raw.until_ready(*ready).await;
            let expected = &alone[who][*at];
            assert!(
                comparable(&heard, reports) == comparable(expected, reports),
                "seed {seed}, client {who}, piece {at}: {:?}\nheard {}\n{}\ninstead of {}\n{}",
                scripts[who][..=*at]
                    .iter()
                    .map(|(b, _)| String::from_utf8_lossy(b))
                    .collect::<Vec<_>>(),
                tags(&heard),
                text(&heard),
                tags(expected),
                text(expected),
            );
            *at += 1;
            left -= 1;
        }
    }
}
