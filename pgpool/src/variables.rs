//! Session settings that follow their client: what a client has set, what a server has, and the one
//! query that makes the second equal to the first. Not for finding `SET` in SQL: that is `query`.
//! Called when a server is linked to a client and when either learns of a change.
//!
//! Invariant: sets are compared by value; equal sets cost no query.

use std::collections::BTreeMap;
use std::rc::Rc;

/// Settings that servers report (`GUC_REPORT`; some only in newer versions) and that a client may
/// change. The others that are reported belong to the server.
const THEIRS: [&str; 9] = [
    "application_name",
    "client_encoding",
    "datestyle",
    "default_transaction_read_only",
    "intervalstyle",
    "scram_iterations",
    "search_path",
    "standard_conforming_strings",
    "timezone",
];

/// Settings that do not change how a text is understood.
const HARMLESS: [&str; 13] = [
    "application_name",
    "client_min_messages",
    "default_transaction_isolation",
    "default_transaction_read_only",
    "extra_float_digits",
    "idle_in_transaction_session_timeout",
    "idle_session_timeout",
    "lock_timeout",
    "pgpool.role",
    "scram_iterations",
    "statement_timeout",
    "synchronous_commit",
    "work_mem",
];

/// Settings that last no longer than a transaction, or a call of `random()`: they are in force nowhere afterwards, and
/// PostgreSQL refuses to reset them (`GUC_NO_RESET`).
const PASSING: [&str; 4] =
    ["seed", "transaction_deferrable", "transaction_isolation", "transaction_read_only"];

/// Settings that say who somebody is, and so what else may be set: set last, and unmade first. `RESET ALL` leaves them
/// (`GUC_NO_RESET_ALL`).
pub const IDENTITY: [&str; 2] = ["session_authorization", "role"];

/// The setting by which a client says where it wants to read: `replica` or `primary`.
const ROLE: &str = "pgpool.role";

/// Where tables are made.
pub const PATH: &str = "search_path";

/// Settings that `ignore_startup_parameters` cannot drop: PgBouncer follows them for every client.
const FOLLOWED: [&str; 6] = [
    "application_name",
    "client_encoding",
    "datestyle",
    "intervalstyle",
    "standard_conforming_strings",
    "timezone",
];

/// Whether `ignore_startup_parameters` drops a parameter, `options` those that stand in it.
pub fn is_ignored(name: &str, ignored: &[String]) -> bool {
    !is_followed(name) && ignored.iter().any(|known| known.eq_ignore_ascii_case(name))
}

fn is_followed(name: &str) -> bool {
    FOLLOWED.iter().any(|known| known.eq_ignore_ascii_case(name))
}

/// Startup parameters that are no settings.
const NOT_SETTINGS: [&str; 3] = ["user", "database", "replication"];

/// How a server reads a text.
const READING: [&str; 3] = ["backslash_quote", "client_encoding", "standard_conforming_strings"];

/// How long a server rests before it ends by itself.
const REST: &str = "idle_session_timeout";

/// Most settings that one client may carry, and the longest value.
const MOST: usize = 64;
const LONGEST: usize = 1024;

/// How a setting is made again.
#[derive(Clone, Debug)]
pub enum Value {
    /// By its value, in the server's own words.
    Reported(Rc<str>),
    /// By its value, as a client asked for it.
    Is(Rc<str>),
    /// By the statement that made it.
    Statement(Rc<str>),
}

impl PartialEq for Value {
    /// Who said it does not matter.
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Statement(left), Self::Statement(right)) => left == right,
            (Self::Reported(left) | Self::Is(left), Self::Reported(right) | Self::Is(right)) => {
                left == right
            }
            _ => false,
        }
    }
}

impl Eq for Value {}

/// Settings by name in lower case.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Variables(BTreeMap<Rc<str>, Value>);

/// The settings of a server, and whose they are known to equal: a client that comes back to it, and all
/// that began alike, cost one look at a pointer.
#[derive(Debug, Default)]
pub struct InForce {
    values: Variables,
    equal: Option<Rc<Variables>>,
}

impl From<Variables> for InForce {
    fn from(values: Variables) -> Self {
        Self { values, equal: None }
    }
}

impl std::ops::Deref for InForce {
    type Target = Variables;

    fn deref(&self) -> &Variables {
        &self.values
    }
}

impl std::ops::DerefMut for InForce {
    /// Whoever may change them has to compare again.
    fn deref_mut(&mut self) -> &mut Variables {
        self.equal = None;
        &mut self.values
    }
}

impl InForce {
    /// Whether they are known to equal a client's; `false` may be wrong.
    pub fn equals(&self, client: &Rc<Variables>) -> bool {
        self.equal.as_ref().is_some_and(|known| Rc::ptr_eq(known, client))
    }

    /// The queries that make them a client's; none: they are.
    pub fn towards(&mut self, client: &Rc<Variables>) -> Vec<String> {
        if self.equals(client) {
            return Vec::new();
        }
        let difference = client.difference(&self.values);
        if difference.is_empty() {
            self.equal = Some(Rc::clone(client));
        }
        difference
    }
}

/// Whether a setting that a server reports is one that clients may change.
pub fn is_theirs(name: &str) -> bool {
    THEIRS.iter().any(|known| known.eq_ignore_ascii_case(name))
}

impl Variables {
    /// What the client has set `pgpool.role` to; `None`: it has not.
    pub fn role(&self) -> Option<&'static [u8]> {
        let (Value::Reported(text) | Value::Is(text) | Value::Statement(text)) =
            self.0.get(ROLE)?;
        let text = text.to_ascii_lowercase();
        match text.contains("replica") {
            true => Some(b"replica"),
            false => (!text.contains("default")).then_some(b"primary"),
        }
    }

    /// Whether its transactions are read-only unless they say otherwise.
    pub fn is_read_only(&self) -> bool {
        self.value("default_transaction_read_only") == Some("on")
    }

    /// The value of a setting that is known by value.
    pub fn value(&self, name: &str) -> Option<&str> {
        match self.0.get(name.to_ascii_lowercase().as_str())? {
            Value::Reported(value) | Value::Is(value) => Some(value),
            Value::Statement(_) => None,
        }
    }

    /// Whether a server has reported this one.
    pub fn is_reported(&self, name: &str) -> bool {
        matches!(self.0.get(name.to_ascii_lowercase().as_str()), Some(Value::Reported(_)))
    }

    /// On a server: whether there are any that it does not report.
    pub fn has_unreported(&self) -> bool {
        self.0.values().any(|value| !matches!(value, Value::Reported(_)))
    }

    /// Sets one; returns whether anything changed.
    pub fn set(&mut self, name: &str, value: Value) -> bool {
        let name = name.to_ascii_lowercase();
        if self.0.get(name.as_str()) == Some(&value) {
            return false;
        }
        self.0.insert(Rc::from(name), value);
        true
    }

    /// Whether another setting would be too many.
    pub fn is_full(&self) -> bool {
        self.0.len() >= MOST
    }

    /// On a server: one that it does not report is as after the login.
    pub fn remove_unreported(&mut self, name: &str) {
        if !self.is_reported(name) {
            self.0.remove(name.to_ascii_lowercase().as_str());
        }
    }

    /// On a client: one is as it was at its login.
    pub fn restore(&mut self, name: &str, initial: &Self) {
        let name = name.to_ascii_lowercase();
        match initial.0.get_key_value(name.as_str()) {
            Some((name, value)) => drop(self.0.insert(Rc::clone(name), value.clone())),
            None => drop(self.0.remove(name.as_str())),
        }
    }

    /// Takes over what a client asks for when it logs in, but for what is `ignored`.
    ///
    /// # Errors
    /// The name of the first parameter that cannot be a setting.
    pub fn start(
        &mut self,
        parameters: &[(String, String)],
        ignored: &[String],
    ) -> Result<(), String> {
        for (name, value) in parameters {
            if name == "options" {
                let all = is_ignored(name, ignored);
                let Some(inner) = options(value) else {
                    if all { continue } else { return Err(name.clone()) }
                };
                let kept = |(name, _): &(String, String)| !all || is_followed(name);
                let inner: Vec<_> = inner.into_iter().filter(kept).collect();
                self.start(&inner, ignored)?;
                continue;
            }
            if is_ignored(name, ignored) || Self::ends_with_transaction(name) {
                continue;
            }
            if NOT_SETTINGS.contains(&name.as_str()) || name.starts_with("_pq_.") {
                continue;
            }
            if !is_name(name) || value.len() > LONGEST || self.is_full() {
                return Err(name.chars().take(64).collect());
            }
            self.set(name, Value::Is(Rc::from(value.as_str())));
        }
        Ok(())
    }

    /// On a server: what it does not report is now as `client` has it.
    pub fn take_unreported(&mut self, client: &Self) {
        self.0.retain(|_, value| matches!(value, Value::Reported(_)));
        for (name, value) in &client.0 {
            if !self.0.contains_key(name) {
                self.0.insert(Rc::clone(name), value.clone());
            }
        }
    }

    /// Whether a setting has this value.
    pub fn is(&self, name: &str, value: &Value) -> bool {
        self.0.get(name.to_ascii_lowercase().as_str()) == Some(value)
    }

    /// Whether a setting may change what a text means when it is parsed.
    pub fn is_read_by_parsing(name: &str) -> bool {
        !HARMLESS.iter().any(|known| known.eq_ignore_ascii_case(name))
    }

    /// Whether a setting is over when its transaction is.
    pub fn ends_with_transaction(name: &str) -> bool {
        PASSING.iter().any(|known| known.eq_ignore_ascii_case(name))
    }

    /// Whether tables may be made among the temporary ones without being called so.
    pub fn makes_temporary(&self) -> bool {
        self.value(PATH).is_some_and(|path| has_temporary(path.as_bytes()))
    }

    /// Whether there is something to take over from what a server reports.
    pub fn differs(&self, server: &Self) -> bool {
        let news = |(name, value): (&Rc<str>, &Value)| {
            matches!(value, Value::Reported(_)) && self.0.get(name) != Some(value)
        };
        server.0.iter().any(news)
    }

    /// On a client: takes over what a server reports, which is how it understood what it was told.
    pub fn take_reported(&mut self, server: &Self) {
        for (name, value) in &server.0 {
            if matches!(value, Value::Reported(_)) && self.0.get(name) != Some(value) {
                self.0.insert(Rc::clone(name), value.clone());
            }
        }
    }

    /// What a client asks for goes over what its server is by itself.
    pub fn overlay(&mut self, asked: &Self) {
        for (name, value) in &asked.0 {
            if self.0.get(name) != Some(value) {
                self.0.insert(Rc::clone(name), value.clone());
            }
        }
    }

    /// A hash of the settings that may change what a text means when it is parsed: constants are
    /// read then (`date '01/02/2020'`), and names looked up. Two clients share a prepared statement
    /// only if theirs are equal.
    pub fn terms(&self) -> u64 {
        use std::hash::{BuildHasher, Hash, Hasher};
        let mut hasher = foldhash::fast::FixedState::with_seed(0).build_hasher();
        for (name, value) in &self.0 {
            if !HARMLESS.contains(&&**name) {
                let (Value::Reported(value) | Value::Is(value) | Value::Statement(value)) = value;
                (name, value).hash(&mut hasher);
            }
        }
        hasher.finish()
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.0.iter().map(|(name, value)| (&**name, value))
    }

    /// What a server reported, for telling a client that logs in.
    pub fn values(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().filter_map(|(name, value)| match value {
            Value::Reported(value) | Value::Is(value) => Some((&**name, &**value)),
            Value::Statement(_) => None,
        })
    }

    /// Whether a server that nobody uses would end by itself.
    pub fn ends_rest(&self) -> bool {
        self.0.contains_key(REST)
    }

    /// The queries that turn a session with `from` into one with `self`; none: they are equal. A server reads the
    /// whole of a query before it carries out its first statement: how it reads is said by one of its own.
    pub fn difference(&self, from: &Self) -> Vec<String> {
        if self == from {
            return Vec::new();
        }
        let mut all = [String::new(), String::new()];
        let [reading, others] = &mut all;
        let mut put = |name: &str, sql: &str| {
            let reads = READING.contains(&name);
            if reads { &mut *reading } else { &mut *others }.push_str(sql);
        };
        let is_who = |name: &str| IDENTITY.contains(&name);
        let gone = |name: &str| from.0.contains_key(name) && !self.0.contains_key(name);
        let who = IDENTITY.into_iter().filter(|name| gone(name));
        let rest = from.0.keys().map(|name| &**name).filter(|name| gone(name) && !is_who(name));
        for name in who.chain(rest) {
            // A part of a name may be a word that is reserved.
            put(name, &format!("RESET \"{}\";", name.replace('.', "\".\"")));
        }
        let rest = self.0.iter().filter(|(name, _)| !is_who(name));
        let who = IDENTITY.into_iter().filter_map(|name| self.0.get_key_value(name));
        for (name, value) in rest.chain(who) {
            if from.0.get(name) == Some(value) {
                continue;
            }
            match value {
                // set_config takes lists (search_path) as text, which SET does not.
                Value::Reported(value) | Value::Is(value) => {
                    let value = literal(value);
                    put(name, &format!("SELECT pg_catalog.set_config('{name}',{value},false);"));
                }
                // Had it a comment at its end, that would go no further.
                Value::Statement(statement) => put(name, &format!("{statement}\n;")),
            }
        }
        all.into_iter().filter(|sql| !sql.is_empty()).collect()
    }
}

/// The settings in the startup parameter `options`: `-c name=value` and `--name=value`, split at
/// white space that no backslash precedes (manual, "Message Formats"). `None`: anything else.
fn options(text: &str) -> Option<Vec<(String, String)>> {
    let mut words = vec![String::new()];
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        match (letter, words.last_mut()) {
            ('\\', Some(word)) => word.extend(letters.next()),
            (' ' | '\t' | '\n' | '\r', _) => words.push(String::new()),
            (letter, Some(word)) => word.push(letter),
            (_, None) => {}
        }
    }
    let mut words = words.into_iter().filter(|word| !word.is_empty());
    let mut all = Vec::new();
    while let Some(word) = words.next() {
        let setting = match word.strip_prefix("--").or_else(|| word.strip_prefix("-c")) {
            Some("") => words.next()?,
            Some(setting) => setting.to_owned(),
            None => return None,
        };
        let (name, value) = setting.split_once('=').filter(|(name, _)| *name != "options")?;
        // The server takes a dash for an underscore here.
        all.push((name.replace('-', "_"), value.to_owned()));
    }
    Some(all)
}

/// A setting's name: an identifier, or two joined by a dot. Goes into SQL without quotes.
pub fn is_name(name: &str) -> bool {
    name.len() <= 64
        && name.split('.').count() <= 2
        && name.split('.').all(|part| {
            let first = part.bytes().next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_');
            first && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
        })
}

/// Whether tables may be made among the temporary ones where this is the `search_path`.
pub fn has_temporary(path: &[u8]) -> bool {
    let wanted = b"pg_temp";
    path.windows(wanted.len()).any(|part| part.eq_ignore_ascii_case(wanted))
}

/// A string constant that means the same whatever `standard_conforming_strings` is.
fn literal(value: &str) -> String {
    let quoted = value.replace('\'', "''");
    if quoted.contains('\\') {
        format!("E'{}'", quoted.replace('\\', "\\\\"))
    } else {
        format!("'{quoted}'")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(pairs: &[(&str, &str)]) -> Variables {
        let mut all = Variables::default();
        for (name, value) in pairs {
            all.set(name, Value::Is(Rc::from(*value)));
        }
        all
    }

    fn only(queries: &[String]) -> String {
        assert_eq!(queries.len(), 1, "{queries:?}");
        queries.concat()
    }

    /// P3: how texts are read is settled before a text comes that it changes.
    #[test]
    fn what_reads_comes_first() {
        let server = of(&[("client_encoding", "LATIN1"), ("backslash_quote", "on")]);
        let mut client = of(&[("client_encoding", "UTF8"), ("a.b", "x")]);
        client.set("app.name", Value::Statement(Rc::from("set app.name = 'M\u{fc}ller'")));
        let queries = client.difference(&server);
        let [reading, others] = &*queries else { panic!("{queries:?}") };
        assert!(reading.contains("client_encoding") && reading.contains("backslash_quote"));
        assert!(others.contains("'a.b'") && others.contains("ller"), "{others}");
    }

    /// P3: only what differs is sent, and what the client never set is reset.
    #[test]
    fn differences() {
        let server = of(&[("TimeZone", "UTC"), ("work_mem", "1MB")]);
        let client = of(&[("timezone", "Europe/Rome")]);
        assert_eq!(
            client.difference(&server),
            ["RESET \"work_mem\";SELECT pg_catalog.set_config('timezone','Europe/Rome',false);"]
        );
        assert!(client.difference(&client.clone()).is_empty());
        let reserved = of(&[("app.user", "x")]);
        assert_eq!(Variables::default().difference(&reserved), ["RESET \"app\".\"user\";"]);
    }

    /// P3: who somebody is, is set when all else is, and unmade before.
    #[test]
    fn identity_comes_last_and_goes_first() {
        let none = Variables::default();
        let all = of(&[("role", "a"), ("session_authorization", "b"), ("work_mem", "1MB")]);
        let set = |name: &str| format!("SELECT pg_catalog.set_config('{name}',");
        let sql = only(&all.difference(&none));
        let at = |name: &str| sql.find(&set(name)).expect("set");
        assert!(at("work_mem") < at("session_authorization"), "{sql}");
        assert!(at("session_authorization") < at("role"), "{sql}");
        let reset = "RESET \"session_authorization\";RESET \"role\";RESET \"work_mem\";";
        assert_eq!(none.difference(&all), [reset]);
    }

    /// P3: what is said behind a statement is not part of its comment.
    #[test]
    fn a_statement_ends_where_it_is_repeated() {
        let mut all = of(&[("b", "1")]);
        all.set("a", Value::Statement(Rc::from("set a = 1 -- x")));
        let sql = only(&all.difference(&Variables::default()));
        assert!(sql.starts_with("set a = 1 -- x\n;SELECT"), "{sql}");
    }

    /// P3: what no server keeps beyond a transaction is not asked of the next one.
    #[test]
    fn passing_settings_are_not_kept() {
        let mut all = Variables::default();
        let options = "-c transaction_isolation=serializable -c seed=0.5 -c search_path=a,PG_temp";
        assert_eq!(all.start(&[("options".to_owned(), options.to_owned())], &[]), Ok(()));
        assert_eq!(all.iter().map(|(name, _)| name).collect::<Vec<_>>(), [PATH]);
        assert!(all.makes_temporary());
    }

    /// O5: a startup parameter cannot carry SQL.
    #[test]
    fn startup_parameters_are_names_and_literals() {
        let mut all = Variables::default();
        let evil = [("x;drop table t".to_owned(), "1".to_owned())];
        assert!(all.start(&evil, &[]).is_err());
        let quoted = [("application_name".to_owned(), "a'b\\c".to_owned())];
        assert_eq!(all.start(&quoted, &[]), Ok(()));
        let sql = only(&all.difference(&Variables::default()));
        assert!(sql.contains(r"E'a''b\\c'"), "{sql}");
    }

    /// P3: what libpq's PGOPTIONS carries is a setting like any other, and only that.
    #[test]
    fn startup_options_are_settings() {
        let start = |text: &str| {
            let mut all = Variables::default();
            all.start(&[("options".to_owned(), text.to_owned())], &[]).map(|()| all)
        };
        let all =
            start(r"-c search_path=a,b\ c  -cwork_mem=1MB --statement-timeout=5").expect("read");
        assert_eq!(all.value("search_path"), Some("a,b c"));
        assert_eq!(all.value("work_mem"), Some("1MB"));
        assert_eq!(all.value("statement_timeout"), Some("5"));
        for wrong in ["-x", "search_path=a", "-c", "-c x;y=1", "-c user", "-d 5"] {
            assert!(start(wrong).is_err(), "{wrong}");
        }
    }

    /// T3, P3: what `ignore_startup_parameters` names is neither set nor a reason to refuse, also within
    /// `options`; what every client has is set nonetheless.
    #[test]
    fn ignored_parameters() {
        let start = |ignored: &[&str], name: &str, value: &str| {
            let mut all = Variables::default();
            let ignored: Vec<_> = ignored.iter().map(|name| (*name).to_owned()).collect();
            all.start(&[(name.to_owned(), value.to_owned())], &ignored).map(|()| all)
        };
        let none = |all: Result<Variables, String>| all.expect("let in").iter().next().is_none();
        assert!(none(start(&["search_path"], "Search_Path", "x")));
        assert!(none(start(&["odd name"], "odd name", "x")), "it could not even be a setting");
        assert!(none(start(&["geqo"], "options", "-c geqo=off --geqo=on")));
        assert!(none(start(&["options"], "options", "-c geqo=off")));
        assert!(none(start(&["options"], "options", "-x nonsense")));
        for all in [
            start(&["timezone"], "TimeZone", "UTC"),
            start(&["options", "timezone"], "options", "-c geqo=off -c TimeZone=UTC"),
        ] {
            let all = all.expect("let in");
            assert_eq!((all.value("timezone"), all.value("geqo")), (Some("UTC"), None));
        }
        assert!(start(&["geqo"], "options", "-x nonsense").is_err());
    }

    proptest! {
        #[test]
        fn a_literal_has_no_lonely_quote(value in "[a'\\\\]{0,12}") {
            let text = literal(&value);
            let inner = text.trim_start_matches('E');
            let inner = &inner[1..inner.len() - 1];
            let quotes: Vec<_> = inner.split("''").collect();
            prop_assert!(quotes.iter().all(|part| !part.contains('\'')), "{}", text);
        }
    }
}
