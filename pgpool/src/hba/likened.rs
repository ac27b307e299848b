//! Rules of files that PgBouncer has read: lists of names in files, words that mean nothing, and lines that it
//! warns about and goes on. Not for a topology's rules: those are read to the letter. Called by `snapshot`.
//!
//! Invariant: a line that cannot be used lets nobody in: whom it could mean is rejected, and that is told.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use super::{
    ClientCert, Commas, Field, Kind, Maps, Method, Name, Net, Place, Rule, Rules, fields, kind,
    lines, mapping, names, network, rule,
};

/// Files of names that name files.
const DEEPEST: usize = 10;

impl Rules {
    /// Reads a file as PgBouncer does, with what an operator should know; `folder`: where files of names are.
    pub fn like_pgbouncer(text: &str, folder: &Path) -> (Self, Vec<String>) {
        let (mut all, mut notes) = (Vec::new(), Vec::new());
        for (line, fields) in lines(text, Commas::Part) {
            let read = fields.as_ref().map_err(Clone::clone);
            match read.and_then(|fields| rule(fields, Some(folder))) {
                Ok(rule) => {
                    if let Some((net, bits)) = rule.net.beyond() {
                        let what = "PgBouncer lets nobody match it, here it is the whole network";
                        notes.push(format!(
                            "line {line}: {net}/{bits} has bits beyond its mask: {what}"
                        ));
                    }
                    if rule.method == Method::Password
                        && matches!(rule.kind, Kind::Host | Kind::HostNoSsl)
                    {
                        let what =
                            "without TLS a proof is asked for in place of the password in clear";
                        notes.push(format!("line {line}: {what}"));
                    }
                    all.push(rule);
                }
                Err(what) => {
                    notes.push(format!("line {line}: {what}: whom it could mean is rejected"));
                    all.extend(rejecting(fields.as_deref().unwrap_or_default(), folder));
                }
            }
        }
        (Self(all), notes)
    }
}

impl Maps {
    /// Reads a file as PgBouncer does: a line that cannot be used leads to nobody.
    pub fn like_pgbouncer(text: &str) -> (Self, Vec<String>) {
        let (mut all, mut notes) = (Vec::new(), Vec::new());
        for (line, fields) in lines(text, Commas::Belong) {
            match fields.and_then(|fields| mapping(&fields)) {
                Ok(mapping) => all.push(mapping),
                Err(what) => notes.push(format!("line {line}: {what}: it leads to nobody")),
            }
        }
        (Self(all), notes)
    }
}

impl Net {
    /// The network as written, if its address has bits that its mask leaves out.
    fn beyond(self) -> Option<(IpAddr, u8)> {
        let Self::In(net, bits) = self else { return None };
        let plain = match net {
            IpAddr::V4(ip) => ip.to_bits().checked_shl(bits.into()).unwrap_or(0) == 0,
            IpAddr::V6(ip) => ip.to_bits().checked_shl(bits.into()).unwrap_or(0) == 0,
        };
        (!plain).then_some((net, bits))
    }
}

/// Rules that reject whom a line could mean that cannot be used.
fn rejecting(line: &[Field], folder: &Path) -> Vec<Rule> {
    let word = |at: usize| match line.get(at).map(Vec::as_slice) {
        Some([word]) => word.text.as_str(),
        _ => "",
    };
    let kinds = match (kind(word(0)), word(0)) {
        (Ok(kind), _) => vec![kind],
        // Nobody comes by GSSAPI.
        (_, "hostgssenc") => return Vec::new(),
        (_, "hostnogssenc") => vec![Kind::Host],
        _ => vec![Kind::Local, Kind::Host],
    };
    let list = |at: usize, place| {
        let named = line.get(at).and_then(|field| names(field, place, Some(folder)).ok());
        named.unwrap_or_else(|| vec![Name::All, Name::Replication])
    };
    let (databases, users) = (list(1, Place::Databases), list(2, Place::Users));
    let nets = match word(3) {
        "localhost" => {
            vec![Net::In(Ipv4Addr::LOCALHOST.into(), 8), Net::In(Ipv6Addr::LOCALHOST.into(), 128)]
        }
        text => vec![network(text).unwrap_or(Net::All)],
    };
    let mut all = Vec::new();
    for kind in kinds {
        for net in if kind == Kind::Local { &[Net::All][..] } else { &nets } {
            all.push(Rule {
                kind,
                databases: databases.clone(),
                users: users.clone(),
                net: *net,
                method: Method::Reject,
                map: None,
                client_cert: ClientCert::Any,
            });
        }
    }
    all
}

/// The names in a file, with commas or one per line; a file that it names is beside it.
pub(super) fn names_in(file: &Path, place: Place, depth: usize) -> Result<Vec<Name>, String> {
    let path = file.display();
    if depth > DEEPEST {
        return Err(format!("{path}: files of names name each other"));
    }
    let text = fs::read(file).map_err(|fault| format!("{path}: {fault}"))?;
    let folder = file.parent().unwrap_or(Path::new(""));
    let mut all = Vec::new();
    for line in String::from_utf8_lossy(&text).lines() {
        // A list may go on with the next line.
        let line = line.trim().trim_end_matches(',');
        for field in fields(line, Commas::Part).map_err(|what| format!("{path}: {what}"))? {
            for word in field {
                match word.text.strip_prefix('@').filter(|_| !word.quoted) {
                    Some(other) => all.extend(names_in(&folder.join(other), place, depth + 1)?),
                    None => all.extend(names(&vec![word], place, Some(folder))?),
                }
            }
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::super::Asking;
    use super::*;
    use crate::client::source::Source;
    use pgpool_wire::startup::Replication;

    /// P4: files that PgBouncer reads are read: names in files, maps where none is meant, and lines that it
    /// leaves out, by which nobody gets in.
    #[test]
    fn files_of_pgbouncer_are_read() {
        let folder = tempfile::tempdir().expect("folder");
        fs::write(folder.path().join("dbs"), "shop,\n\"my db\"\n@more\n").expect("written");
        fs::write(folder.path().join("more"), "# none\ncrm\n").expect("written");
        let text = "host @dbs app all md5 map=x\n\
                    host all bad localhost trust\n\
                    host logs +staff 10.0.0.0/8 trust\n\
                    host all eve all ident\n\
                    hostgssenc all all all trust\n\
                    host all net 192.168.1.10/24 trust\n\
                    host all,replication all all scram-sha-256\n";
        let (rules, notes) = Rules::like_pgbouncer(text, folder.path());
        let told: Vec<_> =
            notes.iter().map(|note| &note[..note.find(':').expect("a place")]).collect();
        assert_eq!(told, ["line 2", "line 3", "line 4", "line 5", "line 6"], "{notes:?}");
        for (database, user, ip, method) in [
            ("shop", "app", "1.1.1.1", Method::Md5),
            ("my db", "app", "1.1.1.1", Method::Md5),
            ("crm", "app", "1.1.1.1", Method::Md5),
            ("other", "app", "1.1.1.1", Method::Scram),
            ("x", "bad", "127.0.0.1", Method::Reject),
            ("x", "bad", "::1", Method::Reject),
            ("x", "bad", "1.1.1.1", Method::Scram),
            ("logs", "app", "10.1.1.1", Method::Reject),
            ("logs", "app", "11.1.1.1", Method::Scram),
            ("x", "eve", "1.1.1.1", Method::Reject),
            ("x", "net", "192.168.1.99", Method::Trust),
            ("x", "net", "192.168.2.99", Method::Scram),
        ] {
            let source = Source::Ip((ip.parse::<IpAddr>().expect("an address"), 1).into());
            let replication = Replication::No;
            let asking = Asking { database, user, source, encrypted: false, replication };
            let found = rules.find(&asking).map(|rule| rule.method);
            assert_eq!(found, Some(method), "{database} {user} {ip}");
        }
        let (maps, notes) = Maps::like_pgbouncer("os root postgres\nos x\nos /^a{1,2}$ b\n");
        assert!(notes.len() == 1 && notes[0].starts_with("line 2"), "{notes:?}");
        assert!(maps.allow(Some("os"), "root", "postgres") && maps.allow(Some("os"), "aa", "b"));
    }
}
