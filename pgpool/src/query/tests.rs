//! Statements and what they leave behind. Not for what PostgreSQL does with them. Run by the test
//! harness.
//!
//! Invariant: the table is the rule; a new case is a new line.

use proptest::prelude::*;

use super::*;

fn set(name: &str, statement: &str) -> Trace {
    Trace::Set(of(name, statement))
}

fn of(name: &str, statement: &str) -> Rc<Setting> {
    Rc::new(Setting { name: name.into(), statement: statement.into() })
}

fn ends(channels: &[&str]) -> Trace {
    Trace::Unlistens(channels.iter().map(|channel| Rc::from(*channel)).collect())
}

/// P3: an UNLISTEN ends what it names, also beside comments and other statements.
#[test]
fn what_unlisten_ends() {
    use Tie::Listen;
    let table = [
        ("UNLISTEN *", Trace::Unlistens(Rc::new([]))),
        (
            "select 1; unlisten \"A\"; unlisten b",
            Trace::Unlistens(Rc::new(["A".into(), "b".into()])),
        ),
        ("unlisten a; unlisten *", Trace::Unlistens(Rc::new([]))),
        ("unlisten /* */ a", ends(&["a"])),
        ("UNLISTEN * /* all */;", ends(&[])),
        ("/* all */ unlisten -- really\n*", ends(&[])),
        ("unlisten \"A\"\"b\" -- x", ends(&["A\"b"])),
        ("unlisten u&\"a\"", Trace::Unknown),
        ("unlisten *; reset all", Trace::Beside(Rc::new((Trace::Settings, Rc::new([]))))),
        (
            "unlisten a; listen b",
            Trace::Beside(Rc::new((Trace::Pin(Listen), Rc::new(["a".into()])))),
        ),
    ];
    for (sql, trace) in table {
        assert_eq!(judge(sql.as_bytes()), trace, "{sql}");
    }
}

/// P3, O5: what is taken back ends nothing, and neither do more channels than are followed: one that is heard
/// too much is better than one too little. A text of many pieces is read once.
#[test]
fn vague_unlistens_end_nothing() {
    assert_eq!(judge(b"unlisten a; rollback; unlisten b"), Trace::Nothing);
    assert_eq!(judge(b"unlisten a; abort and chain; select 1"), Trace::Nothing);
    assert_eq!(judge(b"rollback; unlisten b"), ends(&["b"]));
    assert_eq!(judge(b"unlisten a; unlisten a"), ends(&["a"]));
    let many: String = (0..20_000).map(|n| format!("unlisten c{n};")).collect();
    assert_eq!(judge(many.as_bytes()), Trace::Nothing);
    assert_eq!(judge((many + "reset all").as_bytes()), Trace::Settings);
}

/// P3: what ties, what is forgotten, and what is nothing.
#[test]
fn what_statements_leave_behind() {
    use Tie::{Cursor, Listen, Lock, Prepare, Temporary};
    let table = [
        ("select 1", Trace::Nothing),
        ("", Trace::Nothing),
        (" ; ; ", Trace::Nothing),
        ("begin; insert into t values (1); commit", Trace::Nothing),
        ("select 1; set b = 2", Trace::Settings),
        ("deallocate all", Trace::Forgets),
        ("discard all", Trace::Discards),
        ("DISCARD /* it */ ALL;", Trace::Discards),
        ("discard plans", Trace::Forgets),
        ("discard all all", Trace::Forgets),
        ("deallocate a", Trace::Unprepares("a".into())),
        ("DEALLOCATE PREPARE A;", Trace::Unprepares("a".into())),
        ("deallocate prepare", Trace::Unprepares("prepare".into())),
        ("deallocate prepare all", Trace::Forgets),
        ("deallocate \"A\"", Trace::Forgets),
        ("select 1; deallocate a", Trace::Unknown),
        ("select set_config('a.b', 'x', false)", Trace::Settings),
        ("select set_config('a.b', 'x', true), 1", Trace::Nothing),
        ("select set_config('a.b', f('true'), false)", Trace::Settings),
        ("select 'set_config(1)'", Trace::Nothing),
        ("select $$ pg_advisory_lock(1) $$", Trace::Nothing),
        ("select $x$ $$ $x$, pg_try_advisory_lock(1)", Trace::Pin(Lock)),
        ("select pg_advisory_xact_lock(1)", Trace::Nothing),
        ("-- select\nlisten a", Trace::Pin(Listen)),
        ("/* /* nested */ */ LISTEN a", Trace::Pin(Listen)),
        ("select 1; listen a", Trace::Pin(Listen)),
        ("prepare p as select 1", Trace::Pin(Prepare)),
        ("prepare transaction 'x'", Trace::Nothing),
        ("declare c cursor with hold for select 1", Trace::Pin(Cursor)),
        ("declare c cursor for select 1", Trace::Nothing),
        ("create temp table t (a int)", Trace::Pin(Temporary)),
        ("create local temporary table t (a int)", Trace::Pin(Temporary)),
        ("create or replace temp view v as select 1", Trace::Pin(Temporary)),
        ("select 1 into temp t", Trace::Pin(Temporary)),
        ("create table pg_temp.t (a int)", Trace::Pin(Temporary)),
        ("create table PG_TEMP_3.t (a int)", Trace::Pin(Temporary)),
        ("deallocate prepare prepare", Trace::Unprepares("prepare".into())),
        ("deallocate a.b", Trace::Forgets),
        ("select temp from weather", Trace::Nothing),
        ("do $$ begin perform 1; end $$", Trace::Nothing),
        ("do $$ begin execute 'x'; end $$", Trace::Unknown),
        ("select 'it\\'s'", Trace::Unknown),
        ("select E'it\\'s'", Trace::Nothing),
        ("select 'open", Trace::Unknown),
        ("select \"listen\"", Trace::Nothing),
        ("create table U&\"pg\\005ftemp\".users (a int)", Trace::Unknown),
        ("create table u&\"pg!005ftemp\" uescape '!'", Trace::Unknown),
        ("select a&\"b\"", Trace::Nothing),
        ("rollback and chain", Trace::Chains),
        ("ABORT WORK AND CHAIN;", Trace::Chains),
        ("rollback transaction and no chain", Trace::Nothing),
        ("commit and chain", Trace::Nothing),
        ("select chain", Trace::Nothing),
        ("select $1, a$b$c from t", Trace::Nothing),
    ];
    for (sql, expected) in table {
        assert_eq!(judge(sql.as_bytes()), expected, "{sql}");
    }
}

/// P3: what is repeated, what is reset, what ends with its transaction, and what ties.
#[test]
fn what_settings_leave_behind() {
    use Tie::{Role, Temporary};
    let table = [
        (
            "set local search_path = a; -- b",
            Trace::Local(Some(of("search_path", "set local search_path = a"))),
        ),
        ("begin; set local time zone 'UTC'", Trace::Local(None)),
        ("set local app.tenant = 'x'", Trace::Nothing),
        ("set local Statement_Timeout = 1", Trace::Nothing),
        ("set local role x", Trace::Nothing),
        ("set local session authorization x", Trace::Nothing),
        ("set local a.b.c = 1", Trace::Local(None)),
        ("SET SESSION TRANSACTION READ ONLY", Trace::Nothing),
        ("set transaction_read_only = on", Trace::Nothing),
        ("set seed to 0.5", Trace::Nothing),
        ("reset transaction_isolation", Trace::Nothing),
        (
            "set session characteristics as transaction read only",
            set(
                "default_transaction_read_only",
                "set session characteristics as transaction read only",
            ),
        ),
        (
            "SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL SERIALIZABLE;",
            set(
                "default_transaction_isolation",
                "SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL SERIALIZABLE",
            ),
        ),
        ("set session characteristics as transaction read only, deferrable", Trace::Settings),
        ("set time zone local", Trace::Reset("timezone".into())),
        ("set session time zone default", Trace::Reset("timezone".into())),
        (
            "set local time zone default",
            Trace::Local(Some(of("timezone", "set local time zone default"))),
        ),
        ("set work_mem = default", Trace::Reset("work_mem".into())),
        ("set session work_mem to DEFAULT", Trace::Reset("work_mem".into())),
        ("set a.b to local", set("a.b", "set a.b to local")),
        ("set search_path = \"default\"", set("search_path", "set search_path = \"default\"")),
        ("SET a = 1 -- x", set("a", "SET a = 1")),
        ("set a = 1 -- x\n ; -- y", set("a", "set a = 1")),
        ("-- x\nset a = '--' /* y */ /* z */", set("a", "set a = '--'")),
        ("SET TRANSACTION ISOLATION LEVEL SERIALIZABLE", Trace::Nothing),
        ("SET search_path TO a, b;", set("search_path", "SET search_path TO a, b")),
        ("/* x */ set session work_mem='1MB'", set("work_mem", "set session work_mem='1MB'")),
        ("set time zone 'UTC'", set("timezone", "set time zone 'UTC'")),
        ("set a = 1; set b = 2", Trace::Settings),
        ("set App.Who = 'x'", set("app.who", "set App.Who = 'x'")),
        ("set \"a b\" = 1", Trace::Settings),
        ("reset app.who", Trace::Reset("app.who".into())),
        ("reset time zone", Trace::Reset("timezone".into())),
        ("reset work_mem", Trace::Reset("work_mem".into())),
        ("reset all", Trace::ResetAll),
        ("reset all; select 1", Trace::Settings),
        ("set a.b.c = 1", Trace::Settings),
        ("reset \"\"", Trace::Settings),
        ("set role admin", Trace::Pin(Role)),
        ("set session authorization x", Trace::Pin(Role)),
        ("set session session authorization x", Trace::Pin(Role)),
        ("set session role x", Trace::Pin(Role)),
        ("set session_authorization to x", Trace::Pin(Role)),
        ("set \"role\" = x", Trace::Pin(Role)),
        ("set search_path = 'pg_temp'", Trace::Pin(Temporary)),
        ("set session search_path to a, 'PG_TEMP_3'", Trace::Pin(Temporary)),
        ("set local schema 'pg_temp'", Trace::Pin(Temporary)),
        ("set search_path = E'pg\\x5ftemp'", Trace::Unknown),
        ("set app.note = 'pg_temp'", set("app.note", "set app.note = 'pg_temp'")),
    ];
    for (sql, expected) in table {
        assert_eq!(judge(sql.as_bytes()), expected, "{sql}");
    }
}

/// P3: what is not UTF-8 is not said again in other bytes.
#[test]
fn another_encoding_is_not_repeated() {
    assert_eq!(judge(b"set a.b = '\xe9'"), Trace::Settings);
    assert_eq!(judge(b"set local x = '\xe9'"), Trace::Local(None));
}

proptest! {
    #[test]
    fn any_bytes(sql in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = judge(&sql);
    }

    /// A comment or white space in front changes nothing about ties.
    #[test]
    fn blanks_do_not_hide(blank in "( |\n|\t|/\\*[a-z ]{0,5}\\*/|--[a-z]{0,5}\n){0,5}") {
        let sql = format!("{blank}listen a");
        prop_assert_eq!(judge(sql.as_bytes()), Trace::Pin(Tie::Listen));
    }
}

/// P8: what is told of a text has no constant in it, wherever it ends.
#[test]
fn shapes_have_no_constants() {
    let table = [
        ("select 1, 'secret', $$secret$$ , 1.5e3 from t", "select ?, ?, ? , ?.? from t"),
        ("/* secret */ select\n  a -- secret\n from \"T\"", "select a from T"),
        ("alter role a password 'secret'", "alter role a password ?"),
        ("select * from t where a=$1 and b='secret'", "select * from t where a=$? and b=?"),
        ("select E'se\\'cret', 'secr", "select ?,…"),
        ("select 'a\\' , 'secret'", "select…"),
        ("", ""),
    ];
    for (sql, expected) in table {
        assert_eq!(shape(sql.as_bytes(), 100), expected, "{sql}");
    }
    assert_eq!(shape(b"select abcdefgh", 10), "select\u{2026}");
}

proptest! {
    /// P8: a string is never told, however the text is cut.
    #[test]
    fn shapes_hide_strings(front in "[a-z0-9 (,=.]{0,20}", cut in 0_usize..60) {
        let sql = format!("{front} 'SECRET' , $x$SECRET$x$ , 'SEC''RET'");
        let cut = cut.min(sql.len());
        let told = shape(&sql.as_bytes()[..cut], 512);
        prop_assert!(!told.contains("SEC"), "{}", told);
    }
}
