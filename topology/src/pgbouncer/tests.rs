//! Configurations of PgBouncer and what they become. Run by the test harness.
//!
//! Invariant: what is written is read back with the file's own reader.

use std::path::Path;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::SecretRef;
use crate::pool::{Console, PoolMode, Servers};

fn read(imported: &Imported) -> crate::Topology {
    let topology = crate::parse("imported.yaml", &imported.text, Path::new("/"));
    topology.unwrap_or_else(|fault| panic!("{fault}\n{}", imported.text))
}

const INI: &str = "
;; as Debian has it
[databases]
shop = host=db.internal port=5433 dbname='the shop' pool_size=7 pool_mode=statement
local = pool_shards=2 min_pool_size=1 reserve_pool_size=2 max_db_connections=3 max_db_client_connections=4 server_lifetime=5
\"odd name\" = host=10.0.0.7 connect_query='set x=''1''' timezone=Europe/Rome client_encoding=LATIN1 user=forced password=hunter2
* = host=fallback

[users]
app = pool_mode=session pool_size=3 query_timeout=2.5 client_idle_timeout=0 max_user_connections=-1

[pgbouncer]
listen_addr = *
listen_port = 6543
unix_socket_dir = /run/postgresql
auth_type = scram-sha-256
auth_file = /etc/pgbouncer/userlist.txt
admin_users = root
stats_users = monitor, app
pool_mode = transaction
max_client_conn = 400
query_wait_timeout = 2.5
server_lifetime = 1200
server_reset_query = DISCARD \"ALL\"
ignore_startup_parameters = extra_float_digits
logfile = /var/log/pgbouncer.log
nonsense
";
const USERS: &str =
    "\"app\" \"SCRAM-SHA-256$4096:abc\"\n\"root\" \"it\"\"s\" \"\"\n;\"no\" \"no\"\n";

/// P2, P4: names, modes, limits, users and their rights; and a note for all that is left out.
#[test]
fn a_configuration_is_translated() {
    let imported = import(INI, Some(USERS));
    let topology = read(&imported);
    let group = &topology.pools[0];
    let listen: Vec<_> = group.instances[0].listen.iter().map(|at| at.value.to_string()).collect();
    assert_eq!(listen.first().map(String::as_str), Some("0.0.0.0:6543"));
    assert_eq!(listen.last().map(String::as_str), Some("unix:/run/postgresql:6543"));
    let odd = group.databases.iter().find(|d| d.name.as_str() == "odd name").expect("a database");
    let login = odd.login.as_ref().expect("a login");
    assert_eq!(login.user.as_ref().map(crate::units::UserName::as_str), Some("forced"));
    assert!(login.password.is_some() && group.databases.iter().any(|d| d.name.as_str() == "*"));
    let database = |name: &str| {
        let found = group.databases.iter().find(|database| database.name.as_str() == name);
        let found = found.unwrap_or_else(|| panic!("no {name}: {}", imported.text));
        let Servers::Primary(at) = &found.servers else { panic!("replicas") };
        (at.value.to_string(), found.server_name.clone(), found.mode, found.pool_size.get())
    };
    let shop = ("db.internal:5433".to_owned(), "the shop".to_owned(), PoolMode::Statement, 7);
    assert_eq!(database("shop"), shop);
    assert_eq!(database("local").0, "unix:/run/postgresql:5432");
    assert_eq!(database("odd name").2, PoolMode::Transaction);
    let rights = |name: &str| {
        let user = group.users.iter().find(|user| user.name.as_str() == name).expect("a user");
        (user.console, user.secret.is_some())
    };
    assert_eq!(rights("root"), (Console::Admin, true));
    assert_eq!(rights("app"), (Console::Stats, true));
    assert_eq!(odd.prelude.query.as_deref(), Some("set x='1'"));
    let settings = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let said = [settings("client_encoding", "LATIN1"), settings("timezone", "Europe/Rome")];
    assert_eq!(odd.prelude.settings, said);
    let app = group.users.iter().find(|user| user.name.as_str() == "app").expect("a user");
    let terms = crate::pool::UserTerms {
        mode: Some(PoolMode::Session),
        pool_size: std::num::NonZeroU32::new(3),
        query_timeout: Some(Duration::from_millis(2500)),
        ..Default::default()
    };
    assert_eq!(app.terms, terms);
    let local = group.databases.iter().find(|d| d.name.as_str() == "local").expect("a database");
    let terms = crate::pool::DatabaseTerms {
        pool_shards: std::num::NonZeroU32::new(2),
        min_pool_size: Some(1),
        reserve_pool_size: Some(2),
        max_connections: Some(3),
        max_clients: Some(4),
        server_lifetime: Some(Duration::from_secs(5)),
    };
    assert_eq!(local.terms, terms);
    assert!(group.users.iter().all(|user| user.name.as_str() != "monitor"), "anybody would get in");
    let secret = |n: usize| (imported.secrets[n].0.as_str(), imported.secrets[n].1.as_str());
    assert_eq!(secret(0), ("odd name", "hunter2"));
    assert_eq!(secret(1), ("app", "SCRAM-SHA-256$4096:abc"));
    assert_eq!(secret(2), ("root", "it\"s"));
    assert_eq!(group.settings.max_client_conn.get(), 400);
    assert_eq!(group.settings.query_wait_timeout, Duration::from_millis(2500));
    assert_eq!(group.settings.server_reset_query, "DISCARD \"ALL\"");
    let notes: Vec<_> = imported.notes.iter().map(|note| note.what.as_str()).collect();
    for word in ["neither a section", "monitor has no secret"] {
        assert!(notes.iter().any(|note| note.contains(word)), "{word}: {notes:?}");
    }
    assert!(!notes.iter().any(|note| note.contains("hunter2") || note.contains("ignore_startup")));
}

/// P4: `auth_type` hba and cert become rules; without rules nobody is left without a secret.
#[test]
fn rules_are_translated() {
    let ini = |more: &str| {
        format!("[databases]\na = host=10.0.0.1\n[pgbouncer]\nadmin_users = boss\n{more}\n")
    };
    let hba = "auth_type = hba\nauth_hba_file = /etc/hba\nauth_ident_file = /etc/ident";
    let imported = import(&ini(hba), Some(USERS));
    let group = &read(&imported).pools[0];
    let path = |at: &Option<crate::At<SecretRef>>| at.as_ref().map(|at| at.value.to_string());
    assert_eq!(path(&group.hba).as_deref(), Some("file:/etc/hba"));
    assert_eq!(path(&group.ident).as_deref(), Some("file:/etc/ident"));
    let boss = |group: &crate::pool::Group| group.users.iter().any(|u| u.name.as_str() == "boss");
    assert!(boss(group) && !imported.notes.iter().any(|note| note.stops), "{:?}", imported.notes);
    let imported = import(&ini("auth_type = cert"), Some(USERS));
    assert!(read(&imported).pools[0].hba.is_some());
    let rule = ("hba".to_owned(), "hostssl all all all cert".to_owned());
    assert!(imported.secrets.contains(&rule), "{}", imported.text);
    let imported = import(&ini("auth_type = hba"), Some(USERS));
    let group = &read(&imported).pools[0];
    assert!(group.hba.is_some() && boss(group), "{}", imported.text);
    let told: Vec<_> = imported.notes.iter().map(|note| (note.stops, note.what.as_str())).collect();
    assert_eq!(told, [(false, "auth_type hba without auth_hba_file: no rule lets anybody in")]);
    assert!(imported.secrets.iter().any(|(name, rules)| name == "hba" && rules.starts_with('#')));
}

/// P4: `auth_user`, `auth_query` and `auth_dbname`, of all databases and of one; nobody needs to be in the
/// user list then.
#[test]
fn lookups_are_translated() {
    let ini = "[users]\nlate = pool_size=2\n[databases]\na = host=10.0.0.1\nb = host=10.0.0.1 auth_user=other auth_dbname=a\n\
               * = host=10.0.0.1\n[pgbouncer]\nauth_user = asker\nauth_query = select \"n\", $1\n";
    let imported = import(ini, None);
    assert!(imported.notes.is_empty(), "{:?}", imported.notes);
    let group = &read(&imported).pools[0];
    let late = group.users.first().expect("terms of a role that is looked up");
    assert!(late.looked_up && late.secret.is_none() && group.users.len() == 1);
    assert_eq!(late.terms.pool_size.map(std::num::NonZeroU32::get), Some(2));
    let lookup = |name: &str| {
        let found = group.databases.iter().find(|database| database.name.as_str() == name);
        let lookup = found.and_then(|database| database.lookup.clone()).expect("a lookup");
        let database = lookup.database.map(|at| at.value.to_string());
        (lookup.user.to_string(), lookup.query, database)
    };
    let query = "select \"n\", $1".to_owned();
    assert_eq!(lookup("a"), ("asker".to_owned(), query.clone(), None));
    assert_eq!(lookup("*"), ("asker".to_owned(), query.clone(), None));
    assert_eq!(lookup("b"), ("other".to_owned(), query, Some("a".to_owned())));
    let imported =
        import("[databases]\na = host=10.0.0.1\n[pgbouncer]\nauth_query = select $1\n", None);
    assert!(read(&imported).pools[0].databases[0].lookup.is_none(), "as in PgBouncer");
}

/// P4: `server_tls_*` hold for every database that is reached by network.
#[test]
fn tls_to_servers_is_translated() {
    use crate::pool::SslMode;
    let ini = |more: &str| {
        format!("[databases]\na = host=10.0.0.1\nb =\n* = host=db\n[pgbouncer]\n{more}\n")
    };
    let all = "server_tls_sslmode = verify-full\nserver_tls_ca_file = /ca.pem\n\
               server_tls_cert_file = /own.pem\nserver_tls_key_file = /own.key";
    let topology = read(&import(&ini(all), Some(USERS)));
    for database in &topology.pools[0].databases {
        let by_network = database.name.as_str() != "b";
        let (tls, mode) = (&database.tls.credentials, database.tls.mode);
        assert_eq!(mode == SslMode::VerifyFull, by_network, "{}", database.name);
        let authority = tls.ca.as_ref().map(|at| at.value.to_string());
        assert_eq!(authority.as_deref(), Some("file:/ca.pem").filter(|_| by_network));
        let key = tls.certificate.as_ref().map(|pair| pair.key.value.to_string());
        assert_eq!(key.as_deref(), Some("file:/own.key").filter(|_| by_network));
    }
    for (more, mode, stops) in [
        ("", SslMode::Prefer, false),
        ("server_tls_sslmode = disable", SslMode::Disable, false),
        ("server_tls_sslmode = require\nserver_tls_ca_file = /ca.pem", SslMode::Require, false),
        ("server_tls_sslmode = verify-ca", SslMode::VerifyCa, true),
        ("server_tls_sslmode = verify", SslMode::Prefer, true),
        ("server_tls_key_file = /own.key", SslMode::Prefer, true),
        ("server_tls_ciphers = HIGH", SslMode::Prefer, false),
    ] {
        let imported = import(&ini(more), Some(USERS));
        let database = &read(&imported).pools[0].databases[0];
        assert_eq!((database.tls.mode, database.tls.credentials.ca.is_some()), (mode, false));
        let stopped = imported.notes.iter().any(|note| note.stops && note.what.contains("_tls_"));
        assert_eq!(stopped, stops, "{more}: {:?}", imported.notes);
    }
}

/// What PgBouncer does by default is written where it is not ours.
#[test]
fn defaults_are_those_of_pgbouncer() {
    let topology = read(&import("[databases]\na = host=10.0.0.1\n", None));
    let group = &topology.pools[0];
    assert_eq!(group.databases[0].mode, PoolMode::Session);
    assert_eq!(group.settings.max_client_conn.get(), 100);
    assert_eq!(group.settings.query_wait_timeout, Duration::from_secs(120));
}

#[test]
fn includes_and_user_lists_are_found() {
    assert_eq!(ini::included(" %include /etc/more.ini "), Some("/etc/more.ini"));
    assert_eq!(ini::included("%included x"), None);
    assert_eq!(user_list(INI).as_deref(), Some("/etc/pgbouncer/userlist.txt"));
    assert_eq!(user_list("[pgbouncer]\nauth_file =\n"), None);
}

/// P2, T3: a configuration runs as it is, in pieces; secrets are in no text of it, and what it says
/// that we cannot do is told with file and line.
#[test]
fn a_configuration_is_loaded() {
    let folder = tempfile::tempdir().expect("folder");
    let path = |name: &str| folder.path().join(name).display().to_string();
    let write = |name: &str, text: &str| std::fs::write(path(name), text).expect("written");
    write("users", "\"app\" \"hunter2\"\n");
    write(
        "more.ini",
        "[databases]\n* = host=/run/pg\nreport = host=db user=boss password=hunter3\n",
    );
    let main = format!(
        "%include more.ini\n[pgbouncer]\nlisten_addr = 127.0.0.1\nunix_socket_dir =\nauth_file = {}\n\
         pidfile = /run/p.pid\nlog_connections = 0\nverbose = 1\nmax_client_conn = 7\n",
        path("users")
    );
    write("main.ini", &main);
    let loaded = load(Path::new(&path("main.ini"))).expect("lawful");
    let group = &loaded.topology.pools[0];
    assert_eq!(group.settings.max_client_conn.get(), 7);
    let Some(SecretRef::Given(given)) = group.users[0].secret.as_ref().map(|at| &at.value) else {
        panic!("the secret is here")
    };
    assert_eq!(given.reveal(), "hunter2");
    let shown = format!("{:?}", loaded.topology);
    assert!(!shown.contains("hunter"), "{shown}");
    assert_eq!(loaded.process.pid_file.as_deref(), Some(Path::new("/run/p.pid")));
    assert_eq!((loaded.process.verbose, loaded.process.log_connections), (1, Switch::Off));
    assert_eq!(crate::reload(&loaded.topology.source).expect("again").pools.len(), 1);

    write("more.ini", "[databases]\nx = host=db\ny = host=db sslmode='select 1'\n");
    let fault = load(Path::new(&path("main.ini"))).expect_err("a key without counterpart");
    let text = fault.to_string();
    assert!(text.contains("more.ini:3: database y: sslmode") && !text.contains("select"));
}

proptest! {
    /// O5: whatever the file says, the result reads back.
    #[test]
    fn what_is_written_is_lawful(
        lines in proptest::collection::vec("\\[(pgbouncer|databases|users)\\]|(listen_port|listen_addr|pool_mode|max_client_conn|query_timeout|client_tls_sslmode|admin_users|shop|\"a\"\"b\"|\\*) = (host=[a-z0-9.:/,]{0,8} )?(port=[0-9]{0,6} )?['\"\\\\:a-z0-9. -]{0,12}", 0..12),
        users in proptest::option::of("(\"[a-z:#\\\\ ]{0,5}\" \"[ -~]{0,5}\"\n){0,3}"),
    ) {
        read(&import(&lines.join("\n"), users.as_deref()));
    }
}

/// P2: what tunes PgBouncer is translated, or what is here in its place is told; none of it stops a start.
#[test]
fn every_setting_is_translated_or_named() {
    let ini = "[databases]\na = host=10.0.0.1\n[pgbouncer]\nserver_login_retry = 3\n\
        query_wait_notify = 0\ncancel_wait_timeout = 4\nserver_check_query =\nserver_check_delay = 5\n\
        server_fast_close = 1\nserver_round_robin = 1\ntcp_keepalive = 0\ntcp_keepcnt = 0\n\
        tcp_keepidle = 6\ntcp_keepintvl = 7\ntcp_user_timeout = 250\nsuspend_timeout = 11\n\
        pkt_buf = 8192\nlisten_backlog = 256\nmax_packet_size = 1\nsbuf_loopcnt = 6\n\
        tcp_socket_buffer = 0\ntcp_defer_accept = 1\ntransaction_timeout = 8\n\
        shared_listen = 1\nmax_listen_channels = 9\ndns_max_ttl = 3\ndns_nxdomain_ttl = 4.5\n\
        autodb_idle_timeout = 9\n";
    let imported = import(ini, Some(USERS));
    assert!(imported.notes.iter().all(|note| !note.stops), "{:?}", imported.notes);
    let told = |word: &str| imported.notes.iter().any(|note| note.what.starts_with(word));
    for key in ["suspend_timeout", "pkt_buf", "listen_backlog", "max_packet_size", "sbuf_loopcnt"] {
        assert!(told(key), "{key}: {:?}", imported.notes);
    }
    let settings = &read(&imported).pools[0].settings;
    let seconds = Duration::from_secs;
    assert_eq!(settings.server_login_retry, seconds(3));
    assert_eq!(settings.query_wait_notify, Duration::ZERO);
    assert_eq!(settings.cancel_wait_timeout, seconds(4));
    assert_eq!(
        (settings.server_check_query.as_str(), settings.server_check_delay),
        ("", seconds(5))
    );
    assert!(settings.server_fast_close && settings.server_round_robin);
    assert_eq!((settings.shared_listen, settings.max_listen_channels), (true, 9));
    assert_eq!(settings.autodb_idle_timeout, seconds(9));
    let dns = (settings.dns_max_ttl, settings.dns_nxdomain_ttl);
    assert_eq!(dns, (seconds(3), Duration::from_millis(4500)));
    let keepalive = crate::pool::Keepalive {
        on: false,
        idle: seconds(6),
        interval: Some(seconds(7)),
        count: None,
        user_timeout: Some(Duration::from_millis(250)),
    };
    assert_eq!((settings.keepalive, settings.transaction_timeout), (keepalive, seconds(8)));
}

/// All keys of `[pgbouncer]` as PgBouncer 1.25 shows them in `SHOW CONFIG`, at its defaults.
const DEFAULTS: &str = "
admin_users =
application_name_add_host = 0
auth_dbname =
auth_file =
auth_hba_file =
auth_ident_file =
auth_ldap_options =
auth_query = SELECT rolname, CASE WHEN rolvaliduntil < now() THEN NULL ELSE rolpassword END FROM pg_authid WHERE rolname=$1 AND rolcanlogin
auth_type = md5
auth_user =
autodb_idle_timeout = 3600
cancel_wait_timeout = 10
client_idle_timeout = 0
client_login_timeout = 60
client_tls13_ciphers =
client_tls_ca_file =
client_tls_cert_file =
client_tls_ciphers = default
client_tls_dheparams = auto
client_tls_ecdhcurve = auto
client_tls_key_file =
client_tls_protocols = secure
client_tls_sslmode = disable
conffile = /etc/pgbouncer/pgbouncer.ini
default_pool_size = 20
disable_pqexec = 0
dns_max_ttl = 15
dns_nxdomain_ttl = 15
dns_zone_check_period = 0
idle_transaction_timeout = 0
ignore_startup_parameters =
job_name = pgbouncer
listen_addr =
listen_backlog = 128
listen_port = 6432
log_connections = 1
log_disconnections = 1
log_pooler_errors = 1
log_stats = 1
logfile =
max_client_conn = 100
max_db_client_connections = 0
max_db_connections = 0
max_packet_size = 2147483647
max_prepared_statements = 200
max_user_client_connections = 0
max_user_connections = 0
min_pool_size = 0
peer_id = 0
pidfile =
pkt_buf = 4096
pool_mode = session
query_timeout = 0
query_wait_notify = 5
query_wait_timeout = 120
reserve_pool_size = 0
reserve_pool_timeout = 5
resolv_conf =
sbuf_loopcnt = 5
scram_iterations = 4096
server_check_delay = 30
server_check_query = <empty>
server_connect_timeout = 15
server_fast_close = 0
server_idle_timeout = 600
server_lifetime = 3600
server_login_retry = 15
server_reset_query = DISCARD ALL
server_reset_query_always = 0
server_round_robin = 0
server_tls13_ciphers =
server_tls_ca_file =
server_tls_cert_file =
server_tls_ciphers = default
server_tls_key_file =
server_tls_protocols = secure
server_tls_sslmode = prefer
so_reuseport = 0
stats_period = 60
stats_users =
suspend_timeout = 10
syslog = 0
syslog_facility = daemon
syslog_ident = pgbouncer
tcp_defer_accept = 1
tcp_keepalive = 1
tcp_keepcnt = 0
tcp_keepidle = 0
tcp_keepintvl = 0
tcp_socket_buffer = 0
tcp_user_timeout = 0
track_extra_parameters = IntervalStyle
transaction_timeout = 0
unix_socket_dir = /tmp
unix_socket_group =
unix_socket_mode = 0777
user =
verbose = 0
";

/// T3, P2: PgBouncer's defaults, spelled out, start and say nothing; what is dropped otherwise is told.
#[test]
fn defaults_may_be_spelled_out() {
    let spelled = format!("[databases]\na = host=10.0.0.1\n[pgbouncer]\n{DEFAULTS}");
    let imported = import(&spelled, Some(USERS));
    assert_eq!(imported.notes, [], "{}", imported.text);
    let silent = read(&import("[databases]\na = host=10.0.0.1\n", Some(USERS)));
    let (spelled, silent) = (&read(&imported).pools[0], &silent.pools[0]);
    assert_eq!(spelled.settings, silent.settings);
    assert_eq!(silent.settings.auth_type, Some(crate::pool::AuthType::Md5));
    for line in [
        "track_extra_parameters = work_mem",
        "so_reuseport = 1",
        "tcp_defer_accept = 0",
        "resolv_conf = /etc/other",
        "dns_zone_check_period = 3",
        "job_name = x",
        "scram_iterations = 10000",
        "auth_hba_file = /etc/hba",
        "syslog_facility = kern",
    ] {
        let ini = format!("[databases]\na = host=10.0.0.1\n[pgbouncer]\n{line}\n");
        let imported = import(&ini, Some(USERS));
        let key = line.split(' ').next().unwrap_or_default();
        let told = imported.notes.iter().filter(|note| note.what.starts_with(key) && !note.stops);
        assert_eq!(told.count(), 1, "{line}: {:?}", imported.notes);
    }
}

/// P2, P4, T3: what clients notice of `[pgbouncer]`: dropped startup parameters, how a user proves itself, a reset
/// at each release.
#[test]
fn what_clients_notice_is_translated() {
    use crate::pool::AuthType;
    let of = |more: &str| {
        let ini = format!("[databases]\na = host=10.0.0.1\n[pgbouncer]\n{more}\n");
        read(&import(&ini, Some(USERS))).pools[0].settings.clone()
    };
    let names = of("ignore_startup_parameters = Extra_Float_Digits, options,\n");
    assert_eq!(names.ignore_startup_parameters, ["extra_float_digits", "options"]);
    for (text, auth_type) in [
        ("auth_type = md5", Some(AuthType::Md5)),
        ("auth_type = scram-sha-256", Some(AuthType::Scram)),
        ("auth_type = plain", Some(AuthType::Plain)),
        ("auth_type = trust", None),
        ("auth_type = hba\nauth_hba_file = /etc/hba", None),
    ] {
        assert_eq!(of(text).auth_type, auth_type, "{text}");
    }
    assert!(of("server_reset_query_always = 1").server_reset_query_always);
}

/// Values that PgBouncer 1.25 takes, by key; a `!` before them: what is done instead is told, once. Every key of its
/// manual that is not on or off, a number or a time alone is here.
const LAWFUL: &str = "
listen_addr = * | 127.0.0.1 | ::1 | localhost | 127.0.0.1,::1
unix_socket_dir = /run/pg | | ! @abstract
unix_socket_mode = 0770 | 0700
pool_mode = session | transaction | statement | Transaction
server_round_robin = 0 | 1
track_extra_parameters = IntervalStyle | ! search_path
ignore_startup_parameters = extra_float_digits, options
application_name_add_host = 0 | ! 1
stats_period = 10
scram_iterations = 4096 | ! 8192
auth_type = md5 | scram-sha-256 | plain | trust | MD5
auth_ldap_options = ! ldapserver=ldap
syslog = 0 | 1
syslog_ident = pgbouncer | other
syslog_facility = daemon | local0 | ! kern
server_reset_query = DISCARD ALL | SELECT 1 |
server_reset_query_always = 0 | 1
server_check_query = select 1 | | <empty>
autodb_idle_timeout = 3600 | 0
dns_max_ttl = 0 | 15 | 2.5
dns_nxdomain_ttl = 0 | 15
dns_zone_check_period = 0 | ! 60
resolv_conf = | ! /etc/other
client_tls_protocols = secure | tlsv1.2,tlsv1.3 | ! all | ! tlsv1.3 | ! tlsv1.0,tlsv1.1,tlsv1.2,tlsv1.3
client_tls_ciphers = default | secure | fast | normal | ! all | ! HIGH:MEDIUM:+3DES:!aNULL
client_tls13_ciphers = | ! TLS_AES_256_GCM_SHA384
client_tls_ecdhcurve = auto | ! none | ! prime256v1
client_tls_dheparams = auto | ! none | ! legacy
server_tls_sslmode = disable | allow | prefer | require | Prefer
server_tls_protocols = secure | ! all | ! tlsv1.3
server_tls_ciphers = default | secure | ! HIGH
server_tls13_ciphers = | ! TLS_CHACHA20_POLY1305_SHA256
so_reuseport = 0 | ! 1
tcp_defer_accept = 1 | ! 0 | ! 45
tcp_socket_buffer = 0 | ! 65536
pkt_buf = 4096 | ! 8192
max_packet_size = 2147483647 | ! 1048576
sbuf_loopcnt = 5 | ! 0
listen_backlog = 128 | ! 1024
suspend_timeout = 10 | ! 5
service_name = pgbouncer | ! other
job_name = pgbouncer | ! other
query_wait_notify = 0 | 5
reserve_pool_timeout = 0 | 5
server_lifetime = 0 | 3600
server_idle_timeout = 0
client_idle_timeout = 0 | 5
tcp_keepalive = 0 | 1
log_connections = 0 | 1
verbose = 0 | 2
";

/// T3, P2: whatever PgBouncer takes starts; where something else is done it is told, in one line that names the key.
#[test]
fn every_lawful_value_starts() {
    for line in LAWFUL.lines().filter(|line| !line.is_empty()) {
        let (key, values) = line.split_once('=').expect("a key");
        let key = key.trim();
        for value in values.split(" |").map(str::trim) {
            let (told, value) = match value.strip_prefix("! ") {
                Some(value) => (true, value),
                None => (false, value),
            };
            let ini = format!(
                "[databases]\na = host=10.0.0.1\n[pgbouncer]\nlisten_addr = 127.0.0.1\n{key} = {value}\n"
            );
            let imported = import(&ini, Some(USERS));
            let notes: Vec<_> = imported.notes.iter().collect();
            assert!(notes.iter().all(|note| !note.stops), "{key} = {value}: {notes:?}");
            let about = notes.iter().filter(|note| note.what.starts_with(key)).count();
            assert_eq!(
                (about, notes.len()),
                (usize::from(told), usize::from(told)),
                "{ini}: {notes:?}"
            );
            read(&imported);
        }
    }
}

/// P2, P5: a list of hosts is servers that do the same, in turn or one after the other fails.
#[test]
fn lists_of_hosts_are_translated() {
    use crate::pool::HostOrder;
    let ini = "[databases]\na = host=10.0.0.1,db.internal,10.0.0.1 port=5433\n\
               b = host=10.0.0.1,/run/pg load_balance_hosts=disable\nc = load_balance_hosts=Round-Robin\n\
               [pgbouncer]\nserver_tls_sslmode = require\n";
    let imported = import(ini, Some(USERS));
    assert_eq!(imported.notes, []);
    let seen = |name: &str| {
        let topology = read(&imported);
        let found = topology.pools[0].databases.iter().find(|one| one.name.as_str() == name);
        let found = found.expect("a database").clone();
        let Servers::Primary(first) = &found.servers else { panic!("replicas") };
        let all = std::iter::once(first).chain(&found.also).map(|at| at.value.to_string());
        (all.collect::<Vec<_>>().join(" "), found.order, found.tls.mode)
    };
    use crate::pool::SslMode::{Prefer, Require};
    let all = "10.0.0.1:5433 db.internal:5433".to_owned();
    assert_eq!(seen("a"), (all, HostOrder::RoundRobin, Require));
    let all = "10.0.0.1:5432 unix:/run/pg:5432".to_owned();
    assert_eq!(seen("b"), (all, HostOrder::Sticky, Require));
    assert_eq!(seen("c"), ("unix:/tmp:5432".to_owned(), HostOrder::RoundRobin, Prefer));
}

/// O3, O5: whatever a line looks like, what is wrong with it is told without a password or a part of one.
#[test]
fn faults_tell_no_secret() {
    let ini = "
[databases]
one = host=h password=hunter2 swordfish
two = host=h password=hunter2 swordfish port=5
three = host=h password=hunter2 swordfish=5
four = host=h pool_szie=3
\"five\" \"swordfish\"
\"six\" \"swordfish=\"
\"seven\" \"SCRAM-SHA-256$4096:swordfish==$hunter2=\"
hunter2 swordfish hunter2 swordfish hunter2 swordfish hunter2 swordfish = host=h
[pgbouncer]
\"root\" \"hunter2 = swordfish\"
swordfish hunter2
swordfish hunter2 = x
";
    let imported = import(ini, None);
    let stops = imported.notes.iter().filter(|note| note.stops);
    let told: Vec<_> = stops.map(|note| note.what.as_str()).collect();
    for number in [3, 4, 5, 6, 7, 8, 9, 10, 12, 13, 14] {
        assert!(imported.notes.iter().any(|note| note.stops && note.line == number), "{number}");
    }
    for secret in ["swordfish", "hunter2", "SCRAM"] {
        assert!(told.iter().all(|what| !what.contains(secret)), "{told:?}");
    }
    assert!(told.iter().any(|what| what.contains("pool_szie")), "a slip of the pen is: {told:?}");
}
