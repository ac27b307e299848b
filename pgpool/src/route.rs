//! Which kind of server a client's next messages go to. Not for finding the server: that is the
//! pool, and not for SQL: that is `query::reads`. Called by the session before each checkout of a
//! client whose database has replicas.
//!
//! Invariant: only a whole piece of a pipeline (one Query, or all up to one Sync) is sent to a
//! replica, so nothing that follows it can be taken along.

use pgpool_wire::frame::{self, Found};
use pgpool_wire::frontend::{self, Bind, Parse, tag};
use topology::pool::Reads;

use crate::family::Functions;
use crate::prepared::Names;
use crate::query::reads::{Access, access};
use crate::relay::link::Memory;

/// Where messages belong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// The primary, and everything that follows on this server too.
    Primary,
    /// The primary for now: nothing in this piece can write.
    Harmless,
    /// A replica that has what the client wrote, until its transaction ends.
    Replica,
    /// A replica, as the client itself asks, until its transaction ends.
    Asked,
    /// A replica, or the primary if that cannot do it: this many bytes.
    Trial(usize),
    /// A replica for as long as the client has this setting.
    Session,
}

impl Way {
    /// As records and `explain` call it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Primary => "primary",
            Self::Harmless => "harmless",
            Self::Replica => "read-only",
            Self::Asked => "asked",
            Self::Trial(_) => "trial",
            Self::Session => "session",
        }
    }
}

/// Judges the messages at the front of `input`.
pub fn judge(input: &[u8], client: &Memory, level: Reads, functions: &Functions) -> Way {
    if level == Reads::Alias {
        return Way::Primary;
    }
    match client.variables.role() {
        Some(b"replica") => return Way::Session,
        Some(_) => return Way::Primary,
        None => {}
    }
    let functions = (level > Reads::Asked).then_some(functions);
    let Some((piece, length)) = read(input, &client.names, functions) else { return Way::Primary };
    let asks_to_write = || input.windows(5).any(|part| part.eq_ignore_ascii_case(b"write"));
    match piece.access {
        Some(Access::Replica) => Way::Asked,
        _ if level == Reads::Asked => Way::Primary,
        Some(Access::Primary) => Way::Primary,
        Some(Access::ReadOnly) => Way::Replica,
        Some(_) if client.variables.is_read_only() && !asks_to_write() => Way::Replica,
        Some(Access::Reads) if level == Reads::Automatic && !piece.names => Way::Trial(length),
        Some(Access::Reads) | None => Way::Harmless,
        Some(Access::Unknown) => Way::Primary,
    }
}

/// The way of a client that keeps its server for as long as it `stays`: in session mode the first choice
/// is for good, and only the login can say where.
pub fn kept(way: Way, stays: bool) -> Way {
    if stays && way != Way::Session { Way::Primary } else { way }
}

/// A piece of a pipeline.
#[derive(Default)]
struct Piece {
    /// What it needs all in all; `None`: it carries nothing out.
    access: Option<Access>,
    /// It gives a statement a name, so it cannot be repeated.
    names: bool,
}

impl Piece {
    fn needs(&mut self, more: Access) {
        self.access = Some(match (self.access, more) {
            // What follows runs in the transaction that this one begins, or on the server asked for.
            (Some(first @ (Access::ReadOnly | Access::Replica | Access::Primary)), _) => first,
            (None, more) => more,
            (Some(Access::Reads), Access::Reads) => Access::Reads,
            _ => Access::Unknown,
        });
    }
}

/// The first piece and its length; `None`: it is not there as a whole, or not to be understood.
fn read(input: &[u8], names: &Names, functions: Option<&Functions>) -> Option<(Piece, usize)> {
    let mut piece = Piece::default();
    let mut given: Vec<(&[u8], Access)> = Vec::new();
    let (mut portal, mut at) = (Access::Unknown, 0);
    while let Found::Whole(frame) = frame::next(input.get(at..)?, frame::LONGEST).ok()? {
        at += frame.raw.len();
        match frame.tag {
            tag::QUERY if at == frame.raw.len() => {
                piece.needs(access(frontend::query(frame.body).ok()?, functions));
                return Some((piece, at));
            }
            tag::PARSE => {
                let parse = Parse::read(frame.body).ok()?;
                piece.names |= !parse.name.is_empty();
                given.retain(|(name, _)| *name != parse.name);
                given.push((parse.name, access(parse.query, functions)));
            }
            tag::BIND => {
                let bind = Bind::read(frame.body).ok()?;
                let here = given.iter().find(|(name, _)| *name == bind.statement);
                portal = match here {
                    Some((_, access)) => *access,
                    None => known(names, bind.statement, functions),
                };
                // Other portals are not followed.
                if !bind.portal.is_empty() {
                    return None;
                }
            }
            tag::DESCRIBE => {}
            tag::EXECUTE => piece.needs(portal),
            tag::SYNC => return Some((piece, at)),
            _ => return None,
        }
    }
    None
}

fn known(names: &Names, name: &[u8], functions: Option<&Functions>) -> Access {
    let statement = if name.is_empty() { names.unnamed.as_ref() } else { names.find(name) };
    let Some(statement) = statement else { return Access::Unknown };
    statement.access(functions)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(out: &mut Vec<u8>, sql: &str) {
        frontend::put_query(out, sql.as_bytes());
    }

    fn extended(out: &mut Vec<u8>, name: &str, sql: &str) {
        frontend::put_parse(out, name.as_bytes(), format!("{sql}\0\0\0").as_bytes());
        frontend::put_bind_head(out, b"", name.as_bytes(), 6);
        out.extend_from_slice(&[0; 6]);
        out.extend_from_slice(b"E\0\0\0\x09\0\0\0\0\0");
    }

    fn way(input: &[u8], level: Reads) -> Way {
        judge(input, &Memory::default(), level, &Functions::default())
    }

    /// P5: one piece is judged, each level includes the one before, and what is not there as a whole
    /// goes to the primary.
    #[test]
    fn pieces() {
        let mut input = Vec::new();
        query(&mut input, "select 1");
        let length = input.len();
        query(&mut input, "insert into t values (1)");
        assert_eq!(way(&input, Reads::Automatic), Way::Trial(length));
        assert_eq!(way(&input, Reads::ReadOnly), Way::Harmless);
        assert_eq!(way(&input, Reads::Asked), Way::Primary);
        assert_eq!(way(&input[..length - 1], Reads::Automatic), Way::Primary);

        let mut input = Vec::new();
        extended(&mut input, "", "select 1");
        assert_eq!(way(&input, Reads::Automatic), Way::Primary, "no Sync yet");
        frontend::put_empty(&mut input, tag::SYNC);
        assert_eq!(way(&input, Reads::Automatic), Way::Trial(input.len()));

        let mut input = Vec::new();
        extended(&mut input, "", "select 1");
        extended(&mut input, "", "delete from t");
        frontend::put_empty(&mut input, tag::SYNC);
        assert_eq!(way(&input, Reads::Automatic), Way::Primary);

        let mut input = Vec::new();
        extended(&mut input, "", "begin read only");
        extended(&mut input, "", "select f()");
        frontend::put_empty(&mut input, tag::SYNC);
        assert_eq!(way(&input, Reads::ReadOnly), Way::Replica);
        assert_eq!(way(&input, Reads::Asked), Way::Primary);

        let mut input = Vec::new();
        extended(&mut input, "named", "select 1");
        frontend::put_empty(&mut input, tag::SYNC);
        assert_eq!(way(&input, Reads::Automatic), Way::Harmless, "it cannot be repeated");

        let mut input = Vec::new();
        query(&mut input, "/* pgpool: replica */ select f()");
        assert_eq!(way(&input, Reads::Asked), Way::Asked);
        assert_eq!(way(&input, Reads::Alias), Way::Primary);
    }
}
