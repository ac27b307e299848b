//! A wish as its client has sent it: one simple query, or a piece of the extended protocol (Parse, Bind, Execute up to
//! its Sync, as JDBC, Npgsql, asyncpg and tokio-postgres do it) that does nothing else. Not for what becomes of it.
//! Called for what idle clients send.
//!
//! Invariant: what PostgreSQL would answer otherwise than we do is no wish, and goes to a server as it is.

use pgpool_wire::backend;
use pgpool_wire::frame::{self, Found, Frame};
use pgpool_wire::frontend::{self, Bind, Parse, Subject, tag};

use crate::ear::wish::{self, Wish};
use crate::prepared::Names;

/// A statement: its name, and the rest of its Parse.
pub(super) type Made = (Box<[u8]>, Box<[u8]>);

/// A wish, and what its messages want beside it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Asked {
    /// What is wished for.
    pub(super) wish: Wish,
    /// Bytes of its messages.
    pub(super) length: usize,
    /// What is answered before the command.
    pub(super) before: Vec<u8>,
    /// What is answered after it, unless it is refused.
    pub(super) after: Vec<u8>,
    /// The statement that it makes.
    pub(super) made: Option<Made>,
    /// Statements that it closes, unless the command is refused.
    pub(super) closed: Vec<Box<[u8]>>,
}

impl Asked {
    /// By a simple query.
    pub(super) fn simply(wish: Wish, length: usize) -> Self {
        let (before, after) = (Vec::new(), Vec::new());
        Self { wish, length, before, after, made: None, closed: Vec::new() }
    }

    /// Whether it is a simple query.
    pub(super) fn is_simple(&self) -> bool {
        // Of a piece at least a Bind is answered.
        self.before.is_empty()
    }

    /// Whether it makes a statement with a name.
    pub(super) fn names(&self) -> bool {
        self.made.as_ref().is_some_and(|(name, _)| !name.is_empty())
    }
}

/// What the messages at the front are.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Piece {
    /// A wish.
    Wish(Box<Asked>),
    /// The front of what may be one; no answer is due yet.
    Partial,
    /// Something else.
    Other,
}

/// A wish with all around it is shorter.
const LONGEST: usize = 4096;

/// Whether a message may begin one: the look that every Parse and Bind pays for.
pub(super) fn may_begin(frame: Frame<'_>, names: &Names) -> bool {
    match frame.tag {
        tag::PARSE => {
            let end = frame.body.iter().position(|byte| *byte == 0);
            end.and_then(|end| frame.body.get(end + 1..)).is_some_and(wish::may_be)
        }
        tag::BIND => names.may_listen(),
        _ => false,
    }
}

/// Reads the piece at the front of `bytes`, sent by a client with these statements.
pub(super) fn read(bytes: &[u8], names: &Names) -> Piece {
    let mut reading = Reading::of(names);
    let (mut rest, mut flushed) = (bytes, false);
    loop {
        let used = bytes.len() - rest.len();
        let frame = match frame::next(rest, frame::LONGEST) {
            Ok(Found::Whole(frame)) => frame,
            Ok(Found::Nothing) if !flushed && used < LONGEST => return Piece::Partial,
            Ok(Found::Partial(head, _)) if !flushed && used + head.total() < LONGEST => {
                return Piece::Partial;
            }
            Ok(_) | Err(_) => return Piece::Other,
        };
        rest = rest.get(frame.raw.len()..).unwrap_or_default();
        match frame.tag {
            tag::SYNC => return reading.end(bytes.len() - rest.len()),
            // What is answered so far is due at once, unless all of it is there.
            tag::FLUSH => flushed = true,
            _ if reading.message(frame).is_none() => return Piece::Other,
            _ => {}
        }
    }
}

/// How far a piece is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum At {
    Start,
    Parsed,
    Bound,
    Executed,
}

struct Reading<'a> {
    names: &'a Names,
    at: At,
    statement: &'a [u8],
    portal: &'a [u8],
    wish: Option<Wish>,
    before: Vec<u8>,
    after: Vec<u8>,
    made: Option<Made>,
    closed: Vec<Box<[u8]>>,
}

impl<'a> Reading<'a> {
    fn of(names: &'a Names) -> Self {
        let (before, after, closed) = (Vec::new(), Vec::new(), Vec::new());
        let (statement, portal): (&[u8], &[u8]) = (b"", b"");
        let at = At::Start;
        Self { names, at, statement, portal, wish: None, before, after, made: None, closed }
    }

    /// One message; `None`: no piece that we know goes on so.
    fn message(&mut self, frame: Frame<'a>) -> Option<()> {
        match (frame.tag, self.at) {
            (tag::PARSE, At::Start) => self.parse(Parse::read(frame.body).ok()?),
            (tag::BIND, At::Start | At::Parsed) => self.bind(Bind::read(frame.body).ok()?),
            (tag::EXECUTE, At::Bound) => {
                // However many rows it asks for: there are none.
                let same = frontend::execute(frame.body).ok()? == self.portal;
                self.at = At::Executed;
                same.then_some(())
            }
            (tag::DESCRIBE, At::Parsed | At::Bound) => self.describe(frame.body),
            (tag::CLOSE, At::Executed) => {
                let (subject, name) = frontend::subject(frame.body).ok()?;
                if subject == Subject::Statement {
                    self.closed.push(name.into());
                }
                backend::put_empty(&mut self.after, backend::tag::CLOSE_COMPLETE);
                Some(())
            }
            _ => None,
        }
    }

    fn parse(&mut self, parse: Parse<'a>) -> Option<()> {
        // Types of parameters that it has not are PostgreSQL's to judge, and a name that is taken.
        let plain = parse.rest.len() == parse.query.len() + 3;
        let taken = !parse.name.is_empty() && self.names.find(parse.name).is_some();
        self.wish = Some(wish::read(parse.query).filter(|_| plain && !taken)?);
        (self.at, self.statement) = (At::Parsed, parse.name);
        self.made = Some((parse.name.into(), parse.rest.into()));
        backend::put_empty(&mut self.before, backend::tag::PARSE_COMPLETE);
        Some(())
    }

    fn bind(&mut self, bind: Bind<'a>) -> Option<()> {
        match self.at {
            At::Parsed if bind.statement != self.statement => return None,
            At::Parsed => {}
            _ if bind.statement.is_empty() => {
                self.wish = wish::read(self.names.unnamed.as_ref()?.text()?);
            }
            _ => self.wish = wish::read(self.names.find(bind.statement)?.text()?),
        }
        self.wish.as_ref()?;
        is_without_parameters(bind.rest)?;
        (self.at, self.portal) = (At::Bound, bind.portal);
        backend::put_empty(&mut self.before, backend::tag::BIND_COMPLETE);
        Some(())
    }

    fn describe(&mut self, body: &[u8]) -> Option<()> {
        let (subject, name) = frontend::subject(body).ok()?;
        let (own, due) = match subject {
            Subject::Statement => (self.statement, At::Parsed),
            Subject::Portal => (self.portal, At::Bound),
        };
        if name != own || self.at != due {
            return None;
        }
        if subject == Subject::Statement {
            let none = [0, 0];
            frame::put(&mut self.before, backend::tag::PARAMETER_DESCRIPTION, |out| {
                out.extend_from_slice(&none);
            });
        }
        backend::put_empty(&mut self.before, backend::tag::NO_DATA);
        Some(())
    }

    fn end(self, length: usize) -> Piece {
        let Self { at, wish, before, after, made, closed, .. } = self;
        match wish.filter(|_| at == At::Executed) {
            Some(wish) => {
                Piece::Wish(Box::new(Asked { wish, length, before, after, made, closed }))
            }
            None => Piece::Other,
        }
    }
}

/// The end of a Bind that gives no parameters; one format for all of none is lawful. Results have any: there are none.
fn is_without_parameters(rest: &[u8]) -> Option<()> {
    let number = |rest: &[u8]| Some(usize::from(u16::from_be_bytes(*rest.first_chunk()?)));
    let formats = number(rest).filter(|formats| *formats <= 1)?;
    let rest = rest.get(2 + 2 * formats..)?;
    number(rest).filter(|parameters| *parameters == 0)?;
    let rest = rest.get(2..)?;
    (rest.len() == 2 + 2 * number(rest)?).then_some(())
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use super::*;
    use crate::prepared::Statements;
    use crate::query;

    fn put_parse(out: &mut Vec<u8>, name: &str, sql: &str) {
        frontend::put_parse(out, name.as_bytes(), format!("{sql}\0\0\0").as_bytes());
    }

    fn put_bind(out: &mut Vec<u8>, portal: &str, statement: &str, rest: &[u8]) {
        let length = u32::try_from(rest.len()).expect("short");
        frontend::put_bind_head(out, portal.as_bytes(), statement.as_bytes(), length);
        out.extend_from_slice(rest);
    }

    fn put_subject(out: &mut Vec<u8>, message: u8, subject: Subject, name: &str) {
        frontend::put_subject(out, message, subject, name.as_bytes());
    }

    const NONE: &[u8] = &[0; 6];

    /// Puts what follows a Parse.
    type Fill<'a> = &'a dyn Fn(&mut Vec<u8>);

    fn tags(bytes: &[u8]) -> String {
        let (mut rest, mut all) = (bytes, String::new());
        while let Ok(Found::Whole(frame)) = frame::next(rest, 100) {
            all.push(frame.tag as char);
            rest = &rest[frame.raw.len()..];
        }
        all
    }

    /// As JDBC and Npgsql say it, all at once.
    fn whole() -> Vec<u8> {
        let mut out = Vec::new();
        put_parse(&mut out, "", "LISTEN jobs");
        put_bind(&mut out, "", "", &[0, 0, 0, 0, 0, 1, 0, 1]);
        put_subject(&mut out, tag::DESCRIBE, Subject::Portal, "");
        frontend::put_execute(&mut out, b"");
        frontend::put_empty(&mut out, tag::SYNC);
        out
    }

    /// P1: a LISTEN by the extended protocol is one from Parse, or Bind, to Sync; wherever it is cut, more is waited for.
    #[test]
    fn pieces_are_read_whole() {
        let (names, bytes) = (Names::default(), whole());
        for end in 5..bytes.len() {
            assert_eq!(read(&bytes[..end], &names), Piece::Partial, "{end}");
        }
        let Piece::Wish(asked) = read(&[&bytes[..], b"Q"].concat(), &names) else { panic!("one") };
        assert_eq!((&asked.wish, asked.length), (&Wish::Listen(Rc::from("jobs")), bytes.len()));
        assert_eq!((&*tags(&asked.before), &*tags(&asked.after)), ("12n", ""));
        assert!(!asked.names());

        // As asyncpg and tokio-postgres say it: prepared before.
        let (mut names, mut bytes) = (Names::default(), Vec::new());
        let rest = b"listen \"Own\"\0\0\0";
        let statement =
            Statements::default().make(Some(rest[..].into()), query::judge(b"listen \"Own\""));
        assert!(!names.may_listen());
        assert!(names.insert(b"s1", Rc::clone(&statement)));
        assert!(names.may_listen());
        put_bind(&mut bytes, "p", "s1", NONE);
        frontend::put_execute(&mut bytes, b"p");
        put_subject(&mut bytes, tag::CLOSE, Subject::Portal, "p");
        put_subject(&mut bytes, tag::CLOSE, Subject::Statement, "s1");
        frontend::put_empty(&mut bytes, tag::FLUSH);
        assert_eq!(read(&bytes, &names), Piece::Other, "an answer is due before its end");
        frontend::put_empty(&mut bytes, tag::SYNC);
        let Piece::Wish(asked) = read(&bytes, &names) else { panic!("one") };
        assert_eq!(asked.wish, Wish::Listen(Rc::from("Own")));
        assert_eq!((&*tags(&asked.before), &*tags(&asked.after)), ("2", "33"));
        assert_eq!(*asked.closed, [Box::from(&b"s1"[..])]);
        names.unnamed = Some(statement);
        assert!(names.remove(b"s1").is_some() && names.may_listen());
    }

    /// P1: what PostgreSQL refuses, or what does more, is nothing that we answer.
    #[test]
    fn other_pieces_are_left_alone() {
        let names = Names::default();
        let piece = |fill: &dyn Fn(&mut Vec<u8>)| {
            let mut out = Vec::new();
            put_parse(&mut out, "", "listen a");
            fill(&mut out);
            frontend::put_empty(&mut out, tag::SYNC);
            read(&out, &names)
        };
        let bound = |out: &mut Vec<u8>| put_bind(out, "", "", NONE);
        let run = |out: &mut Vec<u8>| frontend::put_execute(out, b"");
        assert!(matches!(piece(&|out| (bound(out), run(out)).1), Piece::Wish(_)));
        let others: [(&str, Fill<'_>); 8] = [
            ("it is only prepared", &|_| ()),
            ("it is not run", &bound),
            ("twice", &|out| (bound(out), run(out), run(out)).1),
            ("another portal", &|out| (bound(out), frontend::put_execute(out, b"p")).1),
            ("another statement", &|out| (put_bind(out, "", "s", NONE), run(out)).1),
            ("a parameter", &|out| {
                put_bind(out, "", "", &[0, 0, 0, 1, 0, 0, 0, 1, b'x', 0, 0]);
                run(out);
            }),
            ("formats of what is not there", &|out| {
                put_bind(out, "", "", &[0, 2, 0, 1, 0, 1, 0, 0, 0, 0]);
                run(out);
            }),
            ("another one after it", &|out| (bound(out), run(out), put_parse(out, "", "x")).2),
        ];
        for (what, fill) in others {
            assert_eq!(piece(fill), Piece::Other, "{what}");
        }
        let mut long = Vec::new();
        put_parse(&mut long, "", "listen a");
        put_bind(&mut long, "", "", &vec![0; LONGEST]);
        assert_eq!(read(&long[..long.len() / 2], &names), Piece::Other, "it grows too long");
    }
}
