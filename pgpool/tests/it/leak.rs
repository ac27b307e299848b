//! Many clients over few servers, each doing anything at random, some killed in the middle of a
//! message: nobody ever sees another's rows, settings, tables, locks, statements or cancels. The
//! recorder of `docs/operations.md`. Real PostgreSQL; `LEAK_STEPS`, `LEAK_SEEDS` and
//! `LEAK_FIRST` make it longer or repeat a seed.
//!
//! Invariant: every row carries its client's nonce, and every nonce is used by one connection only.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use common::rng::Rng;
use tokio::io::AsyncWriteExt;
use tokio::sync::Notify;

use crate::pooler::{Pooler, Setup};
use crate::postgres::Postgres;
use crate::raw::{
    Message, Raw, bare, bind, columns, data, execute, parse, query, subject, tags, text,
};

/// What all clients together have been told.
#[derive(Default)]
struct Record {
    /// Commits that were acknowledged: nonce and number.
    committed: Vec<(String, u64)>,
    /// Commits that nobody was told of: their client was killed meanwhile.
    perhaps: BTreeSet<(String, u64)>,
    /// Rows read.
    rows: u64,
    /// Clients killed.
    kills: u64,
    /// Transactions.
    transactions: u64,
    /// Queries that were cancelled.
    cancelled: u64,
    /// A step was made somewhere.
    stepped: Rc<Notify>,
}

/// What a client has, as PostgreSQL alone would remember it.
#[derive(Default)]
struct Own {
    memory: Option<String>,
    setting: Option<String>,
    /// Named statements, by the number that marks them.
    named: BTreeMap<usize, u64>,
    unnamed: Option<u64>,
}

struct Client {
    raw: Raw,
    nonce: String,
    own: Own,
    number: u64,
    rng: Rng,
    id: usize,
    life: usize,
    /// Statement mode: no transaction over several messages.
    brief: bool,
    record: Rc<RefCell<Record>>,
}

impl Client {
    async fn new(port: u16, id: usize, seed: u64, of: (bool, Rc<RefCell<Record>>)) -> Self {
        let (brief, record) = of;
        let raw = Raw::login(port).await;
        let rng = Rng::seeded(seed.wrapping_mul(1000) + id as u64);
        let nonce = format!("n{id}x0");
        Self { raw, nonce, own: Own::default(), number: 0, rng, id, life: 0, brief, record }
    }

    fn chance(&self, of: usize) -> bool {
        self.rng.below(of) == 0
    }

    /// Sends, reads so many ReadyForQuery, and looks at every row.
    async fn say(&mut self, bytes: &[u8], ready: usize) -> Vec<Message> {
        self.raw.send(bytes).await;
        let messages = self.raw.until_ready(ready).await;
        let count = messages.iter().filter(|(tag, _)| *tag == b'Z').count();
        assert_eq!(count, ready, "{} was ended: {}", self.nonce, text(&messages));
        for (tag, body) in &messages {
            if *tag == b'D' {
                let row = columns(body);
                assert_eq!(row[0], self.nonce, "a foreign row: {row:?} {}", text(&messages));
                self.record.borrow_mut().rows += 1;
            }
            let cancelled = *tag == b'E' && body.windows(6).any(|code| code == b"C57014");
            assert!(!cancelled, "{} was cancelled by somebody else", self.nonce);
        }
        self.record.borrow_mut().transactions += ready as u64;
        messages
    }

    /// The same; the type bytes must be these.
    async fn expect(&mut self, bytes: &[u8], ready: usize, expected: &str) -> Vec<Message> {
        let messages = self.say(bytes, ready).await;
        // A setting that is as it was again is told in passing.
        let got = tags(&messages).replace('S', "");
        assert_eq!(got, expected, "{} ({:?}): {}", self.nonce, self.own.named, text(&messages));
        messages
    }

    fn next(&mut self) -> u64 {
        self.number += 1;
        self.number
    }

    /// The second column of the only row.
    fn second(messages: &[Message]) -> String {
        let row = messages.iter().find(|(tag, _)| *tag == b'D').expect("a row");
        columns(&row.1)[1].clone()
    }

    /// I3: what the session looks like is its own doing.
    async fn probe(&mut self) {
        self.own.unnamed = None;
        let sql = format!(
            "select '{}', current_setting('work_mem'), coalesce(current_setting('app.who', true), ''),
             (select count(*) from pg_class where relnamespace = pg_my_temp_schema()),
             (select count(*) from pg_locks where locktype = 'advisory' and pid = pg_backend_pid()),
             (select count(*) from pg_cursors), (select count(*) from pg_listening_channels()),
             (select count(*) from pg_prepared_statements where from_sql),
             current_setting('application_name')",
            self.nonce
        );
        let messages = self.expect(&query(&sql), 1, "TDCZ").await;
        let row = columns(&messages[1].1);
        let memory = self.own.memory.clone().unwrap_or_else(|| "4MB".to_owned());
        let setting = self.own.setting.clone().unwrap_or_default();
        let own = [&memory, &setting, "0", "0", "0", "0", "0", "pgpool"];
        assert_eq!(row[1..], own, "{} in its own session", self.nonce);
    }

    async fn step(&mut self) {
        if self.chance(3) {
            self.probe().await;
        }
        if self.chance(12) {
            return self.die().await;
        }
        match self.rng.below(15) {
            14 => self.dated().await,
            0 => self.simple().await,
            1 => self.extended().await,
            2 | 3 => self.named().await,
            4 => self.unnamed_later().await,
            5 => self.failing_pipeline().await,
            6 | 7 if self.brief => self.brief().await,
            6 | 7 => self.transaction().await,
            8 => self.copy().await,
            9 => self.settings().await,
            10 if self.chance(4) => self.session().await,
            11 if self.chance(3) => self.cancelled().await,
            12 => self.large().await,
            _ => self.rebind().await,
        }
    }

    async fn simple(&mut self) {
        let (nonce, n) = (self.nonce.clone(), self.next());
        let sql = format!("select '{nonce}', {n}; select '{nonce}', {n}, pg_sleep(0.001)");
        let messages = self.expect(&query(&sql), 1, "TDCTDCZ").await;
        assert_eq!(Self::second(&messages), n.to_string());
        self.own.unnamed = None;
    }

    async fn extended(&mut self) {
        let n = self.next();
        let sql = format!("select '{}', $1::int8", self.nonce);
        let bytes = [
            parse("", &sql),
            bind("", "", &[&n.to_string()]),
            subject(b'D', b'P', ""),
            execute("", 0),
            bare(b'S'),
        ];
        let messages = self.expect(&bytes.concat(), 1, "12TDCZ").await;
        assert_eq!(Self::second(&messages), n.to_string());
        self.own.unnamed = None;
    }

    /// Names that all clients use, for statements of their own.
    async fn named(&mut self) {
        let which = self.rng.below(4);
        let name = format!("s{which}");
        let mut bytes = Vec::new();
        let mut expected = String::new();
        let mark = match self.own.named.get(&which) {
            Some(mark) if !self.chance(4) => *mark,
            known => {
                if known.is_some() {
                    bytes.extend(subject(b'C', b'S', &name));
                    expected.push('3');
                }
                let mark = self.next();
                let sql = format!("select '{}', $1::int8 + {mark}", self.nonce);
                bytes.extend(parse(&name, &sql));
                expected.push('1');
                self.own.named.insert(which, mark);
                mark
            }
        };
        let times = 1 + self.rng.below(3);
        for n in 0..times {
            bytes.extend(bind("", &name, &[&n.to_string()]));
            bytes.extend(execute("", 0));
            expected.push_str("2DC");
        }
        bytes.extend(bare(b'S'));
        expected.push('Z');
        let messages = self.expect(&bytes, 1, &expected).await;
        let rows = messages.iter().filter(|(tag, _)| *tag == b'D');
        for (n, (_, body)) in rows.enumerate() {
            assert_eq!(columns(body)[1], (mark + n as u64).to_string(), "another statement");
        }
    }

    /// The same text of everybody, whose constant is read under each client's own setting, in the same
    /// pipeline or later.
    async fn dated(&mut self) {
        self.own.unnamed = None;
        let (style, month) = [("ISO, MDY", "1"), ("ISO, DMY", "2")][self.rng.below(2)];
        let set = format!("set datestyle = '{style}'");
        let text = "select $1::text, extract(month from date '01/02/2020')::text";
        let made = [parse("dated", text), bind("", "dated", &[&self.nonce]), execute("", 0)];
        let end = [subject(b'C', b'S', "dated"), bare(b'S')].concat();
        let messages = if self.chance(2) {
            let set = [parse("", &set), bind("", "", &[]), execute("", 0)];
            self.say(&[set.concat(), made.concat(), end].concat(), 1).await
        } else {
            self.say(&[query(&set), made.concat(), end].concat(), 2).await
        };
        assert_eq!(Self::second(&messages), month, "{} under {style}", self.nonce);
    }

    /// A Parse and its Sync; the Bind comes in another step, over whichever server.
    async fn unnamed_later(&mut self) {
        let n = self.next();
        let sql = format!("select '{}', {n}", self.nonce);
        self.expect(&[parse("", &sql), bare(b'S')].concat(), 1, "1Z").await;
        self.own.unnamed = Some(n);
    }

    async fn rebind(&mut self) {
        let Some(n) = self.own.unnamed else { return };
        let bytes = [bind("", "", &[]), execute("", 0), bare(b'S')].concat();
        let messages = self.expect(&bytes, 1, "2DCZ").await;
        assert_eq!(Self::second(&messages), n.to_string(), "another unnamed statement");
    }

    /// Three pieces at once; the middle one fails somewhere.
    async fn failing_pipeline(&mut self) {
        let n = self.next();
        let good = [
            parse("", &format!("select '{}', {n}", self.nonce)),
            bind("", "", &[]),
            execute("", 0),
            bare(b'S'),
        ]
        .concat();
        let kind = self.rng.below(4);
        let (bad, answer) = match kind {
            0 => (parse("", "selekt 1"), "EZ"),
            1 => (bind("", "never made", &[]), "EZ"),
            2 => ([parse("x", "select 1/0"), bind("", "x", &[])].concat(), "1EZ"),
            _ => (
                [parse("", "select $1::int4"), bind("", "", &["none"]), execute("", 0)].concat(),
                "1EZ",
            ),
        };
        let bytes = [&good[..], &bad, &good, &bare(b'S'), &good].concat();
        let expected = format!("12DCZ{answer}Z12DCZ");
        let messages = self.say(&bytes, 4).await;
        let got = tags(&messages);
        assert_eq!(got, expected, "{}: {}", self.nonce, text(&messages));
        self.own.unnamed = None;
        if kind == 2 {
            // A statement outlives the transaction in which it was made.
            self.expect(&[subject(b'C', b'S', "x"), bare(b'S')].concat(), 1, "3Z").await;
        }
    }

    async fn transaction(&mut self) {
        let (nonce, n) = (self.nonce.clone(), self.next());
        self.own.unnamed = None;
        self.expect(&query("begin"), 1, "CZ").await;
        let insert = format!("insert into ledger values ('{nonce}', {n})");
        self.expect(&query(&insert), 1, "CZ").await;
        let read = format!("select who, {n} from ledger where who = '{nonce}' and n = {n}");
        self.expect(&query(&read), 1, "TDCZ").await;
        if self.chance(3) {
            self.expect(&query(&format!("set local work_mem = '{}kB'", 64 + n)), 1, "CZ").await;
        }
        match self.rng.below(4) {
            0 => drop(self.expect(&query("rollback"), 1, "CZ").await),
            1 => {
                self.expect(&query("select 1/0"), 1, "EZ").await;
                self.expect(&query("commit"), 1, "CZ").await;
            }
            _ => {
                self.expect(&query("commit"), 1, "CZ").await;
                self.record.borrow_mut().committed.push((nonce, n));
            }
        }
    }

    /// In statement mode a transaction is one message. One that stays open ends its client, and nothing of it is left.
    async fn brief(&mut self) {
        let (nonce, n) = (self.nonce.clone(), self.next());
        self.own.unnamed = None;
        let insert = format!("insert into ledger values ('{nonce}', {n})");
        match self.rng.below(4) {
            0 => drop(self.expect(&query(&format!("{insert}; select 1/0")), 1, "CEZ").await),
            1 => {
                self.raw.send(&query(&format!("begin; {insert}"))).await;
                let messages = self.raw.until_ready(1).await;
                let (last, body) = messages.last().expect("a word");
                let refused = *last == b'E' && body.windows(7).any(|code| code == b"C0A000\0");
                assert!(refused, "{nonce}: {}", text(&messages));
                self.again().await;
            }
            kind => {
                let (sql, expected) = match kind {
                    2 => (format!("begin; {insert}; commit"), "CCCZ"),
                    _ => (insert, "CZ"),
                };
                self.expect(&query(&sql), 1, expected).await;
                self.record.borrow_mut().committed.push((nonce, n));
            }
        }
    }

    async fn copy(&mut self) {
        let (nonce, n) = (self.nonce.clone(), self.next());
        self.own.unnamed = None;
        if self.chance(2) {
            let sql = format!("copy (select '{nonce}' from generate_series(1, 200)) to stdout");
            let messages = self.say(&query(&sql), 1).await;
            let lines = messages.iter().filter(|(tag, _)| *tag == b'd');
            let own = format!("{nonce}\n");
            assert_eq!(lines.clone().count(), 200);
            assert!(lines.clone().all(|(_, body)| body == own.as_bytes()), "foreign COPY data");
            return;
        }
        let line = data(&format!("{nonce}\t{n}\n"));
        let fails = self.chance(3);
        let end = if fails { data("x\ty\tz\n") } else { Vec::new() };
        let bytes = [query("copy ledger from stdin"), line, end, bare(b'c')].concat();
        let expected = if fails { "GEZ" } else { "GCZ" };
        self.expect(&bytes, 1, expected).await;
        if !fails {
            self.record.borrow_mut().committed.push((nonce, n));
        }
    }

    async fn settings(&mut self) {
        let n = self.next();
        self.own.unnamed = None;
        let (sql, memory, setting) = match self.rng.below(4) {
            0 => {
                let value = format!("{}kB", 64 + n % 900);
                (format!("set work_mem = '{value}'"), Some(value), self.own.setting.clone())
            }
            1 => ("reset work_mem".to_owned(), None, self.own.setting.clone()),
            2 => {
                let value = format!("{}-{n}", self.nonce);
                (format!("set app.who = '{value}'"), self.own.memory.clone(), Some(value))
            }
            _ => ("reset all".to_owned(), None, None),
        };
        self.expect(&query(&sql), 1, "CZ").await;
        (self.own.memory, self.own.setting) = (memory, setting);
    }

    /// What only lives in a session, and its end.
    async fn session(&mut self) {
        self.own.unnamed = None;
        let nonce = self.nonce.clone();
        let (make, look) = match self.rng.below(5) {
            0 => (
                format!("create temp table mine as select '{nonce}'::text as who"),
                "select who from mine".to_owned(),
            ),
            1 => (
                format!("select '{nonce}', pg_advisory_lock({})", self.id),
                format!("select '{nonce}'"),
            ),
            2 => (format!("prepare mine as select '{nonce}'"), "execute mine".to_owned()),
            3 => ("listen mine".to_owned(), format!("select '{nonce}'")),
            _ => (
                format!("begin; declare mine cursor with hold for select '{nonce}'; commit"),
                "fetch mine".to_owned(),
            ),
        };
        self.say(&query(&make), 1).await;
        self.expect(&query(&look), 1, "TDCZ").await;
        if self.chance(3) {
            return self.die().await;
        }
        self.expect(&query("discard all"), 1, "CZ").await;
        self.own = Own::default();
    }

    async fn cancelled(&mut self) {
        self.own.unnamed = None;
        let (port, key) = (self.raw.port(), self.raw.key.clone());
        self.raw.send(&query(&format!("select '{}', pg_sleep(100)", self.nonce))).await;
        let over = Cell::new(false);
        let request = async {
            // It may come before the query has a server: then it means nothing, and is sent again.
            while !over.get() {
                Raw::cancel(port, &key).await;
            }
        };
        let answer = async {
            let messages = self.raw.until_ready(1).await;
            over.set(true);
            messages
        };
        let ((), messages) = tokio::join!(request, answer);
        assert!(matches!(&*tags(&messages), "TEZ" | "EZ"), "{}", text(&messages));
        self.record.borrow_mut().cancelled += 1;
    }

    async fn large(&mut self) {
        self.own.unnamed = None;
        let sql = format!("select '{}', repeat('{}', 20000)", self.nonce, self.nonce);
        let messages = self.expect(&query(&sql), 1, "TDCZ").await;
        assert_eq!(Self::second(&messages), self.nonce.repeat(20000));
        let sql = format!("select '{}', length('{}')", self.nonce, "y".repeat(50_000));
        let messages = self.expect(&query(&sql), 1, "TDCZ").await;
        assert_eq!(Self::second(&messages), "50000");
    }

    /// Sends the front of something and is gone; another client takes its place.
    async fn die(&mut self) {
        let n = self.next();
        let doomed = &self.nonce;
        let script = [
            parse("s0", &format!("select '{doomed}', $1::int8")),
            bind("", "s0", &["1"]),
            execute("", 0),
            bare(b'S'),
            query(&format!("set app.who = '{doomed}'")),
            query("set work_mem = '77kB'"),
            query(&format!("begin; insert into ledger values ('{doomed}', 0); listen dead")),
            query(&format!("select '{doomed}', repeat('{doomed}', 30000)")),
            query(&format!("copy (select '{doomed}' from generate_series(1, 9000)) to stdout")),
            query("copy ledger from stdin"),
            data(&format!("{doomed}\t{n}\n")),
            bare(b'c'),
            parse("", &format!("select '{doomed}'")),
        ];
        let from = self.rng.below(script.len());
        // A query that is sent whole is answered.
        let first = if script[from][0] == b'Q' { script[from].len() } else { usize::MAX };
        let script = script[from..].concat();
        let cut = self.rng.below(script.len() + 1);
        self.record.borrow_mut().perhaps.insert((doomed.clone(), n));
        let _ = self.raw.socket.write_all(&script[..cut]).await;
        if self.chance(2) && cut >= first {
            // Some of the answers are on their way.
            let _ = self.raw.message().await;
        }
        self.again().await;
        self.record.borrow_mut().kills += 1;
    }

    /// Another client in its place.
    async fn again(&mut self) {
        self.life += 1;
        self.nonce = format!("n{}x{}", self.id, self.life);
        self.own = Own::default();
        self.raw = Raw::login(self.raw.port()).await;
    }
}

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// P2, P3, P7: 64 clients over five servers, doing everything at random, killed at random bytes.
#[tokio::test]
async fn nobody_sees_anything_of_anybody() {
    leak("transaction", 64, 2).await;
}

/// P2, P3, P7: the same where a client keeps its server: the next one finds nothing of it.
#[tokio::test]
async fn nobody_sees_anything_in_session_mode() {
    leak("session", 24, 1).await;
}

/// P2, P3, P7: the same where each message has a server of its own.
#[tokio::test]
async fn nobody_sees_anything_in_statement_mode() {
    leak("statement", 64, 2).await;
}

#[expect(clippy::print_stdout, reason = "shown when it fails: the seed is all that is needed")]
async fn leak(mode: &str, clients: usize, seeds: u64) {
    let server = Postgres::start().await;
    let root = server.root().await;
    root.batch_execute("create table ledger (who text, n int8); grant all on ledger to public")
        .await
        .expect("schema");
    let first = setting("LEAK_FIRST", 0);
    for seed in first..first + setting("LEAK_SEEDS", seeds) {
        // Every other seed over two workers.
        let more = if seed % 2 == 1 { ", pool-shards: 2" } else { "" };
        let settings = "max_prepared_statements: 8, query_wait_timeout: 0s";
        let setup = Setup { mode, size: 5, settings, more, ..Setup::default() };
        let pooler = Pooler::start(&server, setup).await;
        root.batch_execute("truncate ledger").await.expect("empty");
        // Shown when something fails.
        println!("seed {seed}");
        let record = Rc::new(RefCell::new(Record::default()));
        let steps = setting("LEAK_STEPS", 40);
        let clients = (0..clients).map(|id| {
            let record = Rc::clone(&record);
            async move {
                let of = (mode == "statement", record);
                let mut client = Client::new(pooler.port, id, seed, of).await;
                for _ in 0..steps {
                    client.step().await;
                    client.record.borrow().stepped.notify_one();
                }
            }
        });
        let watch = async {
            // I6: as PostgreSQL counts them; the one that listens for all stands beside them.
            let count = "select count(*) from pg_stat_activity
                         where usename = 'open' and application_name <> 'pgpool listen'";
            let stepped = Rc::clone(&record.borrow().stepped);
            loop {
                stepped.notified().await;
                let open: i64 = root.query_one(count, &[]).await.expect("row").get(0);
                assert!(open <= 5, "{open} servers of a pool of five");
            }
        };
        tokio::select! {
            _ = futures_util::future::join_all(clients) => {}
            () = watch => {}
        }
        // I2: what was acknowledged is there once, and nothing twice.
        let rows = root.query("select who, n, count(*) from ledger group by 1, 2", &[]).await;
        let kept: BTreeMap<(String, i64), i64> =
            rows.expect("rows").iter().map(|r| ((r.get(0), r.get(1)), r.get(2))).collect();
        let record = record.borrow();
        assert!(kept.values().all(|count| *count == 1), "committed twice");
        for (who, n) in &record.committed {
            assert!(kept.contains_key(&(who.clone(), *n as i64)), "{who} {n} was acknowledged");
        }
        let told: BTreeSet<_> = record.committed.iter().chain(&record.perhaps).cloned().collect();
        for (who, n) in kept.keys() {
            assert!(told.contains(&(who.clone(), *n as u64)), "seed {seed}: {who} {n} was undone");
        }
        assert!(record.kills > 0 && record.rows > 0);
        println!(
            "seed {seed}: {} transactions, {} rows, {} kills, {} cancelled",
            record.transactions, record.rows, record.kills, record.cancelled
        );
    }
}
