//! A small PostgreSQL: statements, one portal, transactions, errors, skipping to Sync. Not for SQL:
//! a query's text says what it does. Used by the tests of the relay.
//!
//! Invariant: it answers each message as the manual's "Message Flow" says.

use std::collections::HashMap;

use pgpool_wire::backend::{self, Severity, Status, tag};
use pgpool_wire::frame::{self, Found};
use pgpool_wire::{SqlState, frontend};

/// One server.
pub(super) struct Model {
    input: Vec<u8>,
    named: HashMap<Vec<u8>, String>,
    portal: Option<String>,
    skipping: bool,
    status: Status,
}

impl Default for Model {
    fn default() -> Self {
        Self {
            input: Vec::new(),
            named: HashMap::new(),
            portal: None,
            skipping: false,
            status: Status::Idle,
        }
    }
}

type Code = &'static [u8; 5];

impl Model {
    /// Takes bytes in, answers whole messages.
    pub(super) fn read(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        self.input.extend_from_slice(bytes);
        while let Ok(Found::Whole(frame)) = frame::next(&self.input, 1 << 20) {
            let (message, body, used) = (frame.tag, frame.body.to_vec(), frame.raw.len());
            self.input.drain(..used);
            self.message(message, &body, out);
        }
    }

    fn message(&mut self, message: u8, body: &[u8], out: &mut Vec<u8>) {
        match message {
            frontend::tag::SYNC => {
                self.skipping = false;
                if self.status == Status::Idle {
                    self.portal = None;
                }
                backend::put_ready(out, self.status);
            }
            _ if self.skipping => {}
            frontend::tag::QUERY => {
                let sql = frontend::query(body).expect("lawful").to_vec();
                self.named.remove(&b""[..]);
                self.portal = None;
                let done = self.run(&String::from_utf8_lossy(&sql), out);
                self.fail(done, out);
                backend::put_ready(out, self.status);
            }
            message => {
                let done = self.extended(message, body, out);
                self.skipping = done.is_err();
                self.fail(done, out);
            }
        }
    }

    fn fail(&mut self, done: Result<(), Code>, out: &mut Vec<u8>) {
        if let Err(code) = done {
            if self.status == Status::Transaction {
                self.status = Status::Failed;
            }
            self.portal = None;
            backend::put_error(out, Severity::Error, SqlState::new(code), "m", None);
        }
    }

    fn extended(&mut self, message: u8, body: &[u8], out: &mut Vec<u8>) -> Result<(), Code> {
        let aborted = self.status == Status::Failed;
        match message {
            frontend::tag::PARSE => {
                let parse = frontend::Parse::read(body).expect("lawful");
                let sql = String::from_utf8_lossy(parse.query).into_owned();
                if parse.name.is_empty() {
                    self.named.remove(&b""[..]);
                }
                match sql.as_str() {
                    "unparsable" => return Err(b"42601"),
                    _ if aborted => return Err(b"25P02"),
                    _ if self.named.contains_key(parse.name) => return Err(b"42P05"),
                    _ => {}
                }
                self.named.insert(parse.name.to_vec(), sql);
                backend::put_empty(out, tag::PARSE_COMPLETE);
            }
            frontend::tag::BIND => {
                let bind = frontend::Bind::read(body).expect("lawful");
                let sql = self.named.get(bind.statement).ok_or(b"26000")?;
                if aborted {
                    return Err(b"25P02");
                }
                self.portal = Some(sql.clone());
                backend::put_empty(out, tag::BIND_COMPLETE);
            }
            frontend::tag::DESCRIBE => {
                let (_, name) = frontend::subject(body).expect("lawful");
                let sql = self.named.get(name).ok_or(b"26000")?;
                if aborted {
                    return Err(b"25P02");
                }
                backend::put_columns(out, &[(sql, backend::TEXT)]);
            }
            frontend::tag::CLOSE => {
                let (_, name) = frontend::subject(body).expect("lawful");
                self.named.remove(name);
                backend::put_empty(out, tag::CLOSE_COMPLETE);
            }
            frontend::tag::EXECUTE => {
                let sql = self.portal.clone().ok_or(b"34000")?;
                self.run(&sql, out)?;
            }
            other => panic!("message {}", other as char),
        }
        Ok(())
    }

    fn run(&mut self, sql: &str, out: &mut Vec<u8>) -> Result<(), Code> {
        match sql {
            "commit" => {
                self.status = Status::Idle;
                backend::put_command(out, "COMMIT");
                return Ok(());
            }
            _ if self.status == Status::Failed => return Err(b"25P02"),
            "begin" => {
                self.status = Status::Transaction;
                backend::put_command(out, "BEGIN");
            }
            "deallocate all" => {
                self.named.clear();
                backend::put_command(out, "DEALLOCATE ALL");
            }
            "boom" => return Err(b"22012"),
            sql => {
                backend::put_row(out, [Some(sql.as_bytes())].into_iter());
                backend::put_command(out, "SELECT 1");
            }
        }
        Ok(())
    }
}
