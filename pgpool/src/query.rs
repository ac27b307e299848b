//! What a statement leaves behind in the server's session, told from its text: nothing, a setting
//! that can be repeated elsewhere, or something that ties its client to this server. Not a parser
//! and not a guard: what hides inside a function cannot be seen here. Called by the relay for every
//! Query and Parse; `aqueduct explain` may ask the same.
//!
//! Invariant: pure and linear in the text; what cannot be told is [`Trace::Unknown`], never less.

mod body;
mod config;
mod lexer;
mod plain;
pub mod reads;
mod shape;
mod texts;

use std::rc::Rc;

use crate::ear::wish::{self, Channel};
use crate::variables::{IDENTITY, PATH, Variables, has_temporary, is_name};
use config::{Call, Made};
use lexer::{Lexer, Token};
pub use shape::shape;
use texts::{mode, setting, target};

/// What a statement leaves behind when its transaction is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trace {
    /// Nothing; `SET TRANSACTION` included, and `SET LOCAL` of what parsing does not read.
    Nothing,
    /// `SET LOCAL`, of what may change how a text is understood until the transaction ends; `None`: of what, is not
    /// known.
    Local(Option<Rc<Setting>>),
    /// One `SET name …` that can be sent again as it is.
    Set(Rc<Setting>),
    /// One `RESET name`.
    Reset(Rc<str>),
    /// `RESET ALL`.
    ResetAll,
    /// `DEALLOCATE`, or a `DISCARD` of less than all: what was prepared may be gone.
    Forgets,
    /// `DISCARD ALL`.
    Discards,
    /// `DEALLOCATE` of one statement, by itself.
    Unprepares(Rc<str>),
    /// `ROLLBACK AND CHAIN`: all is undone, though a transaction is open.
    Chains,
    /// `UNLISTEN` of these channels, and nothing else that would count; none are all.
    Unlistens(Rc<[Channel]>),
    /// `UNLISTEN` of these channels, as above, beside what counts more.
    Beside(Rc<(Trace, Rc<[Channel]>)>),
    /// Settings in a form that is not repeated; the server is reset when it is released.
    Settings,
    /// Anything: the text was not seen whole, or hides what it does.
    Unknown,
    /// Something that only lives in this server's session: the client keeps the server.
    Pin(Tie),
}

impl Trace {
    /// What counts most.
    pub fn strongest(&self) -> &Self {
        match self {
            Self::Beside(both) => &both.0,
            alone => alone,
        }
    }

    /// What its `UNLISTEN`s end; none are all. `None`: nothing is known of any.
    pub fn unlistened(&self) -> Option<&Rc<[Channel]>> {
        match self {
            Self::Unlistens(channels) => Some(channels),
            Self::Beside(both) => Some(&both.1),
            _ => None,
        }
    }
}

/// One setting made by a statement of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// Its name in lower case.
    pub name: Rc<str>,
    /// The whole statement.
    pub statement: Rc<str>,
}

/// What ties a client to a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tie {
    /// `PREPARE` in SQL.
    Prepare,
    /// A cursor `WITH HOLD`.
    Cursor,
    /// `LISTEN`.
    Listen,
    /// A temporary table, view or sequence.
    Temporary,
    /// A session-level advisory lock.
    Lock,
    /// `SET ROLE` or `SET SESSION AUTHORIZATION`.
    Role,
    /// `LOAD`.
    Library,
    /// A message too large to be kept for another server.
    Size,
}

/// Judges the statements in `sql`.
pub fn judge(sql: &[u8]) -> Trace {
    if plain::is_plain(sql) { Trace::Nothing } else { judge_whole(sql) }
}

/// Whether a text surely leaves nothing but settings that are followed: it runs no function, not even one that hides
/// in a view, a trigger, an operator or a cast. In doubt it does not.
pub fn says_nothing(sql: &[u8], trace: &Trace) -> bool {
    if matches!(trace, Trace::Set(_) | Trace::Reset(_) | Trace::ResetAll) {
        return true;
    }
    let text = sql.trim_ascii();
    let text = text.strip_suffix(b";").unwrap_or(text).trim_ascii();
    let mut words = text.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
    let (first, second, third) = (words.next(), words.next(), words.next());
    let among = |word: &[u8], all: &[&str]| all.iter().any(|one| is(word, one));
    let plain = |word: &[u8]| word.iter().all(|b| b.is_ascii_alphanumeric() || *b == b'_');
    match (first, second, third) {
        (None, ..) => true,
        (Some(one), None, _) => among(one, &["begin", "commit", "rollback", "end"]),
        (Some(one), Some(two), None) if is(one, "select") => two.iter().all(u8::is_ascii_digit),
        (Some(one), Some(two), None) if is(one, "show") => plain(two),
        (Some(one), Some(two), None) => {
            among(one, &["begin", "start", "commit", "rollback"])
                && among(two, &["transaction", "work"])
        }
        _ => false,
    }
}

fn judge_whole(sql: &[u8]) -> Trace {
    let mut lexer = Lexer::new(sql);
    let mut all = Trace::Nothing;
    let mut ended = Ended::default();
    let mut count = 0;
    loop {
        let start = lexer.position();
        let (trace, end) = statement(&mut lexer);
        let text = sql.get(start..lexer.position()).unwrap_or_default();
        if let Some(trace) = trace {
            count += 1;
            let trace = finish(trace, text);
            ended.see(&trace, text);
            all = join(all, trace, count);
        }
        if end == End::Text {
            return ended.beside(all);
        }
        if end == End::Broken {
            return ended.beside(join(all, Trace::Unknown, 2));
        }
    }
}

/// What the `UNLISTEN`s of a text end. One that is heard too much is better than one too little: where it
/// cannot be told, nothing is ended.
#[derive(Default)]
struct Ended {
    channels: Vec<Channel>,
    all: bool,
    seen: bool,
    /// There are too many, or some were taken back.
    vague: bool,
}

/// Channels that a text ends one by one; more are not followed.
const MOST_ENDED: usize = 64;

impl Ended {
    fn see(&mut self, trace: &Trace, text: &[u8]) {
        if let Trace::Unlistens(channels) = trace {
            self.seen = true;
            self.all |= channels.is_empty();
            let new = channels.iter().filter(|channel| !self.channels.contains(channel));
            let new: Vec<Channel> = new.cloned().collect();
            self.channels.extend(new);
            self.vague |= self.channels.len() > MOST_ENDED;
        } else if self.seen && !self.vague {
            let first = Lexer::new(text).next_token();
            let undoes = |word| is(word, "rollback") || is(word, "abort");
            self.vague = matches!(first, Token::Word(word) if undoes(word));
        }
    }

    /// What is ended, beside what counts more.
    fn beside(self, trace: Trace) -> Trace {
        let told = self.seen && !self.vague;
        let ended = || if self.all { Rc::default() } else { Rc::from(self.channels) };
        match trace {
            Trace::Unlistens(_) | Trace::Nothing if told => Trace::Unlistens(ended()),
            Trace::Unlistens(_) => Trace::Nothing,
            trace if told => Trace::Beside(Rc::new((trace, ended()))),
            trace => trace,
        }
    }
}

/// Two statements in one text: only the strongest counts, and nothing is repeatable any more.
fn join(left: Trace, right: Trace, count: usize) -> Trace {
    if count <= 1 {
        return right;
    }
    let strength = |trace: &Trace| match trace {
        Trace::Nothing | Trace::Chains => 0,
        Trace::Unlistens(_) => 1,
        Trace::Local(_) => 2,
        Trace::Set(_) | Trace::Reset(_) | Trace::ResetAll | Trace::Settings => 3,
        Trace::Unknown
        | Trace::Forgets
        | Trace::Discards
        | Trace::Unprepares(_)
        | Trace::Beside(_) => 4,
        Trace::Pin(_) => 5,
    };
    let stronger = if strength(&right) > strength(&left) { right } else { left };
    match stronger {
        Trace::Local(_) => Trace::Local(None),
        Trace::Set(_) | Trace::Reset(_) | Trace::ResetAll => Trace::Settings,
        Trace::Forgets | Trace::Discards | Trace::Unprepares(_) => Trace::Unknown,
        other => other,
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Semicolon,
    Text,
    Broken,
}

/// A trace whose text is not cut out yet.
enum Found {
    Plain(Trace),
    Set(Rc<str>),
    /// `SET … TO DEFAULT`.
    Default(Rc<str>),
    /// `SET SESSION CHARACTERISTICS`.
    Modes,
    Local(Rc<str>),
}

fn finish(found: Found, text: &[u8]) -> Trace {
    match found {
        // A quoted name is not folded to lower case; nobody writes it so, and the server knows.
        Found::Plain(Trace::Unprepares(_)) if text.contains(&b'"') => Trace::Forgets,
        Found::Plain(Trace::Unlistens(_)) => match wish::ended(target(text)) {
            Some(channel) => Trace::Unlistens(channel.into_iter().collect()),
            // One that is heard too much is better than one too little.
            None => Trace::Nothing,
        },
        Found::Plain(trace) => trace,
        // In quotes it would be a value.
        Found::Default(name) if !text.contains(&b'"') => Trace::Reset(name),
        Found::Set(name) | Found::Default(name) => {
            setting(name, text).map_or(Trace::Settings, Trace::Set)
        }
        Found::Modes => mode(text)
            .and_then(|name| setting(Rc::from(name), text))
            .map_or(Trace::Settings, Trace::Set),
        Found::Local(name) => Trace::Local(setting(name, text)),
    }
}

/// Reads one statement; `None` when it is empty.
fn statement(lexer: &mut Lexer<'_>) -> (Option<Found>, End) {
    let mut words = Words::default();
    let mut scan = Scan::default();
    loop {
        let token = lexer.next_token();
        match token {
            Token::Semicolon => return (scan.verdict(&words), End::Semicolon),
            Token::End => return (scan.verdict(&words), End::Text),
            Token::Broken => return (scan.verdict(&words), End::Broken),
            token => {
                let quoted = matches!(token, Token::Text(_)) && lexer.was_quoted();
                scan.see(&token, &words, quoted);
                words.see(&token);
            }
        }
    }
}

/// A word where it stands in the text, or two joined by a dot: one name.
#[derive(Clone, Copy, Default)]
struct Word<'a> {
    first: &'a [u8],
    second: Option<&'a [u8]>,
    /// More than two.
    long: bool,
}

impl Word<'_> {
    fn is(&self, text: &str) -> bool {
        self.second.is_none() && is(self.first, text)
    }

    fn is_any(&self, texts: &[&str]) -> bool {
        texts.iter().any(|text| self.is(text))
    }

    fn is_none(&self) -> bool {
        self.first.is_empty() && self.second.is_none()
    }

    /// As a setting or a statement is called: in lower case.
    fn name(&self) -> String {
        let second = self.second.filter(|_| !self.long);
        let parts = [self.first, second.map_or(&b""[..], |_| b"."), second.unwrap_or_default()];
        let text = String::from_utf8_lossy(&parts.concat()).to_ascii_lowercase();
        // What has three parts or more is no setting.
        if self.long { text + ".." } else { text }
    }
}

/// Keywords are the same in either case.
fn is(word: &[u8], text: &str) -> bool {
    word.eq_ignore_ascii_case(text.as_bytes())
}

/// The first words of a statement, and the one before the current token.
#[derive(Default)]
struct Words<'a> {
    first: [Word<'a>; 4],
    count: usize,
    tokens: usize,
    last: &'a [u8],
    /// A dot came right after a word.
    dotted: bool,
}

impl<'a> Words<'a> {
    fn see(&mut self, token: &Token<'a>) {
        self.tokens += 1;
        self.last = b"";
        let dotted = std::mem::replace(&mut self.dotted, *token == Token::Dot && self.count > 0);
        let Token::Word(word) = *token else { return };
        self.last = word;
        if dotted {
            if let Some(slot) = self.first.get_mut(self.count - 1) {
                slot.long = slot.second.replace(word).is_some();
            }
            return;
        }
        if let Some(slot) = self.first.get_mut(self.count) {
            slot.first = word;
        }
        self.count += 1;
    }

    fn starts(&self, words: &[&str]) -> bool {
        words.iter().zip(&self.first).all(|(wanted, word)| word.is(wanted))
    }

    /// Whether it is a `SET` of where names are looked up, and tables made.
    fn names_path(&self) -> bool {
        self.first.iter().skip(1).take(2).any(|word| word.is_any(&[PATH, "schema"]))
    }

    fn came_after(&self, words: &[&str]) -> bool {
        words.iter().any(|wanted| is(self.last, wanted))
    }
}

/// What was seen anywhere in a statement.
#[derive(Default)]
struct Scan<'a> {
    tie: Option<Tie>,
    settings: bool,
    local: bool,
    hidden: bool,
    /// A `set_config` whose parenthesis is not closed yet.
    config: Option<Call<'a>>,
}

impl<'a> Scan<'a> {
    fn see(&mut self, token: &Token<'a>, before: &Words<'_>, quoted: bool) {
        match token {
            Token::Word(word) => self.word(word, before),
            Token::Text(text) if before.starts(&["do"]) => self.hidden |= body::hides(text, quoted),
            Token::Text(text) if before.starts(&["set"]) && before.names_path() => {
                if has_temporary(text) {
                    self.tie = Some(Tie::Temporary);
                }
                // What its escapes stand for is not read.
                self.hidden |= text.contains(&b'\\');
            }
            _ => {}
        }
        if let Some(call) = &mut self.config
            && call.see(token)
        {
            let made = call.made();
            self.config = None;
            self.made(made);
        }
    }

    /// `set_config` was called.
    fn made(&mut self, made: Made) {
        match made {
            Made::Nothing => {}
            Made::Local => self.local = true,
            Made::Setting => self.settings = true,
            Made::Anything => self.hidden = true,
            Made::Tie(tie) => self.tie = self.tie.or(Some(tie)),
        }
    }

    fn word(&mut self, word: &[u8], before: &Words<'_>) {
        // Most words begin otherwise.
        match word.first().map(u8::to_ascii_lowercase) {
            Some(b't')
                if (is(word, "temp") || is(word, "temporary"))
                    && before.came_after(&["create", "into", "local", "global", "replace"]) =>
            {
                self.tie = Some(Tie::Temporary);
            }
            Some(b'h') if is(word, "hold") && before.came_after(&["with"]) => {
                self.tie = Some(Tie::Cursor);
            }
            // `pg_temp`, or the schema itself: `pg_temp_3`.
            Some(b'p') if word.get(..7).is_some_and(|front| is(front, "pg_temp")) => {
                self.tie = Some(Tie::Temporary);
            }
            Some(b'p') if LOCKS.iter().any(|lock| is(word, lock)) => self.tie = Some(Tie::Lock),
            // One within another's arguments: what the outer one makes is not read either.
            Some(b's') if is(word, "set_config") => match &self.config {
                None => self.config = Some(Call::default()),
                Some(_) => self.hidden = true,
            },
            _ => {}
        }
    }

    fn verdict(&self, words: &Words<'_>) -> Option<Found> {
        if words.tokens == 0 {
            return None;
        }
        let plain = |trace| Some(Found::Plain(trace));
        if let Some(tie) = self.tie.or_else(|| first_words(words)) {
            return plain(Trace::Pin(tie));
        }
        if self.hidden || body::is_foreign(words) {
            return plain(Trace::Unknown);
        }
        if self.settings || self.config.is_some() {
            return plain(Trace::Settings);
        }
        if self.local {
            return plain(Trace::Local(None));
        }
        let [first, ..] = &words.first;
        match first.first.first().map(u8::to_ascii_lowercase) {
            Some(b's') if first.is("set") => Some(set(words)),
            Some(b'd') if first.is("deallocate") => plain(deallocate(words)),
            Some(b'd') if first.is("discard") => {
                let all = words.starts(&["discard", "all"]) && words.tokens == 2;
                plain(if all { Trace::Discards } else { Trace::Forgets })
            }
            Some(b'r') if first.is("reset") => plain(reset(words)),
            Some(b'r' | b'a') if chains(words) => plain(Trace::Chains),
            Some(b'u') if first.is("unlisten") => plain(Trace::Unlistens(Rc::new([]))),
            _ => plain(Trace::Nothing),
        }
    }
}

/// `ROLLBACK AND CHAIN`, and not `AND NO CHAIN`.
fn chains(words: &Words<'_>) -> bool {
    let [first, others @ ..] = &words.first;
    let undoes = first.is_any(&["rollback", "abort"]);
    undoes && words.came_after(&["chain"]) && !others.iter().any(|word| word.is("no"))
}

/// Session-level locks.
const LOCKS: [&str; 4] = [
    "pg_advisory_lock",
    "pg_advisory_lock_shared",
    "pg_try_advisory_lock",
    "pg_try_advisory_lock_shared",
];

fn deallocate(words: &Words<'_>) -> Trace {
    let [_, second, third, fourth] = &words.first;
    // `DEALLOCATE prepare` means a statement of that name.
    let noise = second.is("prepare") && !third.is_none();
    let (name, next) = if noise { (third, fourth) } else { (second, third) };
    if name.is("all") || name.is_none() || !next.is_none() || words.tokens != words.count {
        return Trace::Forgets;
    }
    Trace::Unprepares(Rc::from(name.name()))
}

fn reset(words: &Words<'_>) -> Trace {
    let [_, second, ..] = &words.first;
    match second {
        word if word.is("all") => Trace::ResetAll,
        word if word.is("time") => Trace::Reset(Rc::from("timezone")),
        word if word.is_any(&["session", "role"]) => Trace::Unknown,
        word if Variables::ends_with_transaction(&word.name()) => Trace::Nothing,
        word if is_name(&word.name()) => Trace::Reset(Rc::from(word.name())),
        _ => Trace::Settings,
    }
}

/// Ties that show in how a statement begins.
fn first_words(words: &Words<'_>) -> Option<Tie> {
    let [first, second, ..] = &words.first;
    match first.first.first().map(u8::to_ascii_lowercase) {
        // PostgreSQL refuses a reserved word; where it does not, its answer ties.
        Some(b'l') if first.is("listen") => {
            (!wish::is_reserved(second.first)).then_some(Tie::Listen)
        }
        Some(b'l') if first.is("load") => Some(Tie::Library),
        Some(b'p') if first.is("prepare") && !second.is("transaction") => Some(Tie::Prepare),
        Some(b's') if first.is("set") => {
            let (_, word, next) = scope(words);
            let who = word.is("session") && next.is("authorization")
                || words.starts(&["set", "session", "authorization"])
                || IDENTITY.iter().any(|known| word.is(known));
            (who && !second.is("local")).then_some(Tie::Role)
        }
        _ => None,
    }
}

/// What a `SET` sets: whether for its transaction alone, and the words that say so.
fn scope<'a, 'b>(words: &'b Words<'a>) -> (bool, &'b Word<'a>, &'b Word<'a>) {
    let [_, second, third, fourth] = &words.first;
    let scoped = second.is_any(&["local", "session"]) && !third.is_none();
    let (word, next) = if scoped { (third, fourth) } else { (second, third) };
    (second.is("local"), word, next)
}

/// A `SET` that ties nobody down.
fn set(words: &Words<'_>) -> Found {
    let (local, word, _) = scope(words);
    let default = words.came_after(&["default"])
        || (word.is("time") && words.count >= 4 && words.came_after(&["local"]));
    let name = match word {
        word if word.is_any(&["transaction", "constraints"]) => {
            return Found::Plain(Trace::Nothing);
        }
        word if word.is_any(&["characteristics", "session"]) => {
            return if local { Found::Plain(Trace::Nothing) } else { Found::Modes };
        }
        word if word.is("time") => "timezone".to_owned(),
        word if word.is("names") => "client_encoding".to_owned(),
        word if word.is("schema") => PATH.to_owned(),
        word => word.name(),
    };
    if Variables::ends_with_transaction(&name) {
        return Found::Plain(Trace::Nothing);
    }
    match (local, is_name(&name)) {
        (true, true) if !config::is_felt(&name) => Found::Plain(Trace::Nothing),
        (true, true) => Found::Local(Rc::from(name)),
        (true, false) => Found::Plain(Trace::Local(None)),
        (false, true) if default => Found::Default(Rc::from(name)),
        (false, true) => Found::Set(Rc::from(name)),
        (false, false) => Found::Plain(Trace::Settings),
    }
}

#[cfg(test)]
mod tests;
