//! What a statement leaves behind in the server's session, told from its text: nothing, a setting
//! that can be repeated elsewhere, or something that ties its client to this server. Not a parser
//! and not a guard: what hides inside a function cannot be seen here. Called by the relay for every
//! Query and Parse; `aqueduct explain` may ask the same.
//!
//! Invariant: pure and linear in the text; what cannot be told is [`Trace::Unknown`], never less.

mod lexer;
pub mod reads;

use std::rc::Rc;

use crate::variables::is_name;
use lexer::{Lexer, Token};

/// What a statement leaves behind when its transaction is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trace {
    /// Nothing; `SET LOCAL` and `SET TRANSACTION` included.
    Nothing,
    /// One `SET name …` that can be sent again as it is.
    Set(Rc<Setting>),
    /// One `RESET name`.
    Reset(Rc<str>),
    /// `RESET ALL`.
    ResetAll,
    /// `DEALLOCATE` or `DISCARD`: what was prepared may be gone.
    Forgets,
    /// `DEALLOCATE` of one statement, by itself.
    Unprepares(Rc<str>),
    /// Settings in a form that is not repeated; the server is reset when it is released.
    Settings,
    /// Anything: the text was not seen whole, or hides what it does.
    Unknown,
    /// Something that only lives in this server's session: the client keeps the server.
    Pin(Tie),
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
    let mut lexer = Lexer::new(sql);
    let mut all = Trace::Nothing;
    let mut count = 0;
    loop {
        let start = lexer.position();
        let (trace, end) = statement(&mut lexer);
        let text = sql.get(start..lexer.position()).unwrap_or_default();
        if let Some(trace) = trace {
            count += 1;
            all = join(all, finish(trace, text), count);
        }
        if end == End::Text {
            return all;
        }
        if end == End::Broken {
            return join(all, Trace::Unknown, 2);
        }
    }
}

/// Two statements in one text: only the strongest counts, and nothing is repeatable any more.
fn join(left: Trace, right: Trace, count: usize) -> Trace {
    if count <= 1 {
        return right;
    }
    let strength = |trace: &Trace| match trace {
        Trace::Nothing => 0,
        Trace::Set(_) | Trace::Reset(_) | Trace::ResetAll | Trace::Settings => 1,
        Trace::Unknown | Trace::Forgets | Trace::Unprepares(_) => 2,
        Trace::Pin(_) => 3,
    };
    let stronger = if strength(&right) > strength(&left) { right } else { left };
    match stronger {
        Trace::Set(_) | Trace::Reset(_) | Trace::ResetAll => Trace::Settings,
        Trace::Forgets | Trace::Unprepares(_) => Trace::Unknown,
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
}

fn finish(found: Found, text: &[u8]) -> Trace {
    match found {
        // A quoted name is not folded to lower case; nobody writes it so, and the server knows.
        Found::Plain(Trace::Unprepares(_)) if text.contains(&b'"') => Trace::Forgets,
        Found::Plain(trace) => trace,
        Found::Set(name) => {
            let text = String::from_utf8_lossy(text);
            let statement = text.trim().trim_end_matches(';').trim_end();
            if statement.len() > LONGEST_SETTING {
                return Trace::Settings;
            }
            Trace::Set(Rc::new(Setting { name, statement: Rc::from(statement) }))
        }
    }
}

/// A longer `SET` is not kept per client.
const LONGEST_SETTING: usize = 1024;

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
                scan.see(&token, &words);
                words.see(&token);
            }
        }
    }
}

/// The first words of a statement, in lower case, and the one before the current token.
#[derive(Default)]
struct Words {
    first: [String; 4],
    count: usize,
    tokens: usize,
    last: String,
    /// A dot came right after a word.
    dotted: bool,
}

impl Words {
    fn see(&mut self, token: &Token<'_>) {
        self.tokens += 1;
        self.last.clear();
        let dotted = std::mem::replace(&mut self.dotted, *token == Token::Dot && self.count > 0);
        let Token::Word(word) = token else { return };
        lower(word, &mut self.last);
        if dotted {
            // `a.b` is one name.
            if let Some(slot) = self.first.get_mut(self.count - 1) {
                slot.push('.');
                slot.push_str(&self.last);
            }
            return;
        }
        if let Some(slot) = self.first.get_mut(self.count) {
            slot.clone_from(&self.last);
        }
        self.count += 1;
    }

    fn starts(&self, words: &[&str]) -> bool {
        words.iter().zip(&self.first).all(|(wanted, is)| wanted == is)
    }
}

/// Longer words are no keyword and no function that matters.
const LONGEST_WORD: usize = 64;

fn lower(word: &[u8], into: &mut String) {
    let word = word.get(..LONGEST_WORD).unwrap_or(word);
    into.extend(word.iter().map(|b| b.to_ascii_lowercase() as char));
}

/// What was seen anywhere in a statement.
#[derive(Default)]
struct Scan {
    tie: Option<Tie>,
    settings: bool,
    hidden: bool,
    depth: u32,
    /// Depth of the parenthesis of a `set_config(` that is still open.
    config: Option<u32>,
}

impl Scan {
    fn see(&mut self, token: &Token<'_>, before: &Words) {
        match token {
            Token::Word(word) => self.word(word, before),
            Token::Text(body) if before.starts(&["do"]) => self.hidden |= hides(body),
            Token::Open => self.depth += 1,
            Token::Close => {
                self.depth = self.depth.saturating_sub(1);
                if self.config == Some(self.depth) {
                    self.config = None;
                    // `set_config(name, value, true)` ends with the transaction.
                    self.settings |= before.last != "true";
                }
            }
            _ => {}
        }
    }

    fn word(&mut self, word: &[u8], before: &Words) {
        let mut text = String::new();
        lower(word, &mut text);
        match text.as_str() {
            "temp" | "temporary"
                if matches!(
                    before.last.as_str(),
                    "create" | "into" | "local" | "global" | "replace"
                ) =>
            {
                self.tie = Some(Tie::Temporary);
            }
            "pg_temp" => self.tie = Some(Tie::Temporary),
            "hold" if before.last == "with" => self.tie = Some(Tie::Cursor),
            "pg_advisory_lock"
            | "pg_advisory_lock_shared"
            | "pg_try_advisory_lock"
            | "pg_try_advisory_lock_shared" => self.tie = Some(Tie::Lock),
            "set_config" => self.config = Some(self.depth),
            _ => {}
        }
    }

    fn verdict(&self, words: &Words) -> Option<Found> {
        if words.tokens == 0 {
            return None;
        }
        let plain = |trace| Some(Found::Plain(trace));
        if let Some(tie) = self.tie.or_else(|| first_words(words)) {
            return plain(Trace::Pin(tie));
        }
        if self.hidden {
            return plain(Trace::Unknown);
        }
        if self.settings || self.config.is_some() {
            return plain(Trace::Settings);
        }
        match words.first[0].as_str() {
            "set" => Some(set(words)),
            "deallocate" => plain(match words.first.each_ref().map(String::as_str) {
                [_, "all", ..] | [_, "prepare", "all", _] => Trace::Forgets,
                [_, "prepare", name, ""] | [_, name, "", ""]
                    if words.tokens == words.count && !name.is_empty() =>
                {
                    Trace::Unprepares(Rc::from(name))
                }
                _ => Trace::Forgets,
            }),
            "discard" => plain(Trace::Forgets),
            "reset" => plain(match words.first[1].as_str() {
                "all" => Trace::ResetAll,
                "" => Trace::Settings,
                "time" => Trace::Reset(Rc::from("timezone")),
                "session" | "role" => Trace::Unknown,
                name if is_name(name) => Trace::Reset(Rc::from(name)),
                _ => Trace::Settings,
            }),
            _ => plain(Trace::Nothing),
        }
    }
}

/// Ties that show in how a statement begins.
fn first_words(words: &Words) -> Option<Tie> {
    let tie = match words.first[0].as_str() {
        "listen" => Tie::Listen,
        "load" => Tie::Library,
        "prepare" if words.first[1] != "transaction" => Tie::Prepare,
        "set" if words.first[1] == "role" => Tie::Role,
        "set" if words.starts(&["set", "session", "authorization"]) => Tie::Role,
        "set" if words.starts(&["set", "session", "role"]) => Tie::Role,
        _ => return None,
    };
    Some(tie)
}

/// A `SET` that ties nobody down.
fn set(words: &Words) -> Found {
    let [_, second, third, _] = &words.first;
    let name = match second.as_str() {
        "local" | "transaction" | "constraints" => return Found::Plain(Trace::Nothing),
        "time" => "timezone",
        "session" if third == "characteristics" => return Found::Plain(Trace::Settings),
        "session" if third == "time" => "timezone",
        "session" => third,
        "names" => "client_encoding",
        "schema" => "search_path",
        name => name,
    };
    if is_name(name) { Found::Set(Rc::from(name)) } else { Found::Plain(Trace::Settings) }
}

/// Whether the body of a `DO` block may leave something behind.
fn hides(body: &[u8]) -> bool {
    let mut lexer = Lexer::new(body);
    let mut text = String::new();
    loop {
        match lexer.next_token() {
            Token::End => return false,
            Token::Broken => return true,
            // Text that is executed can hold anything.
            Token::Text(_) => {}
            Token::Word(word) => {
                text.clear();
                lower(word, &mut text);
                let leaves = matches!(
                    text.as_str(),
                    "temp" | "temporary" | "listen" | "set" | "set_config" | "execute" | "load"
                ) || text.contains("advisory_lock");
                if leaves {
                    return true;
                }
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests;
