//! The `pools:` section.
//!
//! Invariant: a database with replicas is two entries of the result.

use std::collections::HashSet;
use std::num::NonZeroU32;
use std::time::Duration;

use crate::pool::{
    Console, Database, DatabaseTerms, Group, HostOrder, Instance, Keepalive, LOOKUP, ListenAddress,
    Lookup, Peer, PoolMode, Reads, ReadyWhen, Replication, ServerAddress, Servers, Settings,
    SocketMode, SslMode, User, UserTerms,
};
use crate::raw::{self, Entry, Findings, Spot, Typed};
use crate::resolve::names::Names;
use crate::resolve::register::{advertised, register};
use crate::resolve::servers::{also, login, prelude, server_tls};
use crate::resolve::{
    count, drain, filled, or, positive, secret, service, telemetry, text, time, tls,
};
use crate::tls::{ClientCertificates, Tls};
use crate::units::Time;
use crate::units::{At, DatabaseName, GroupName, InstanceName, UserName};

/// One pool group.
pub(super) fn group(entry: Entry<raw::PoolGroup>, names: &Names, out: &mut Findings) -> Group {
    let Entry { name, spot, value: raw } = entry;
    filled(raw.instances.as_ref().map(|named| &*named.0), "instances", &spot, out);
    filled(raw.databases.as_ref().map(|named| &*named.0), "databases", &spot, out);
    let looks_up = |entry: &Entry<raw::Database>| entry.value.lookup.is_some();
    if raw.lookup.is_none() && !raw.databases.iter().flat_map(|all| &all.0).any(looks_up) {
        filled(raw.users.as_ref().map(|named| &*named.0), "users", &spot, out);
    }
    let settings = settings(raw.settings, out);
    let size = settings.default_pool_size;
    let around = Around { size, names, known: &known(raw.databases.as_ref()) };
    let lookup = raw.lookup.map(|raw| lookup(raw, around, out));
    let tls = raw.tls.map(|tls| tls::tls(tls, names, out));
    let sslmode = sslmode(raw.sslmode, tls.as_ref(), out);
    let instances = raw.instances.unwrap_or_default().into_iter();
    if let (Some(typed), None) = (&raw.ident, &raw.hba) {
        out.error(&typed.spot, "`ident` means nothing without rules that name a map")
            .hint("add `hba: file:PATH`".to_owned());
    }
    let mut databases = databases(raw.databases.unwrap_or_default().0, around, out);
    for database in &mut databases {
        database.lookup = database.lookup.take().or_else(|| lookup.clone());
    }
    let lookups = databases.iter().any(|database| database.lookup.is_some());
    let drain = drain(raw.drain);
    let proofs = Proofs { rules: raw.hba.is_some(), lookups };
    let users = raw.users.unwrap_or_default().into_iter();
    let peers = peers(raw.peers.map(|all| all.0).unwrap_or_default(), size, out);
    Group {
        name: GroupName::new(&name),
        instances: numbered(instances, &peers, raw.register.is_some(), out),
        databases,
        users: users.map(|entry| user(entry, proofs, names, out)).collect(),
        tls,
        sslmode,
        peers,
        hba: raw.hba.map(|typed| secret(typed, names)),
        ident: raw.ident.map(|typed| secret(typed, names)),
        settings,
        telemetry: telemetry::of_pool(raw.telemetry, out),
        register: raw.register.and_then(|raw| register(raw, drain, names, out)),
        drain,
        place: spot.extent.place,
    }
}

/// Highest number of a peer: seven bits of a cancel key.
const HIGHEST_PEER: u32 = 127;

fn peers(entries: Vec<Entry<raw::Peer>>, size: NonZeroU32, out: &mut Findings) -> Vec<Peer> {
    let mut all = Vec::new();
    for entry in entries {
        let id = entry.name.parse::<u8>().ok().filter(|id| (1..=127).contains(id));
        let Some(id) = id else {
            out.error(&entry.spot, "a peer is named by its number").allowed("1 to 127");
            continue;
        };
        let Some(at) = entry.value.at else { continue };
        all.push(Peer { id, at: at.value, most: or(entry.value.pool_size, size) });
    }
    all
}

/// The instances, each with a number of its own if there are peers.
fn numbered(
    entries: impl Iterator<Item = Entry<raw::PoolInstance>>,
    peers: &[Peer],
    registers: bool,
    out: &mut Findings,
) -> Vec<Instance> {
    let mut seen = HashSet::new();
    let mut all = Vec::new();
    for entry in entries {
        match &entry.value.peer_id {
            Some(typed) if !(1..=HIGHEST_PEER).contains(&typed.value) => {
                out.error(&typed.spot, "this is no number of a peer").allowed("1 to 127");
            }
            Some(typed) if !seen.insert(typed.value) => {
                out.error(&typed.spot, "another instance has this number")
                    .allowed("a number of its own");
            }
            None if !peers.is_empty() => {
                out.error(&entry.spot, "there are peers, but this instance has no number")
                    .hint("add `peer-id: NUMBER`".to_owned());
            }
            _ => {}
        }
        all.extend(instance(entry, registers, out));
    }
    all
}

fn instance(
    entry: Entry<raw::PoolInstance>,
    registers: bool,
    out: &mut Findings,
) -> Option<Instance> {
    let raw = entry.value;
    let listen = raw.listen?.0;
    filled(Some(&listen), "listen", &entry.spot, out);
    let sockets = listen.iter().any(|typed| matches!(typed.value, ListenAddress::Unix(..)));
    let mode = raw.socket_mode.as_ref().map(|typed| ("socket-mode", &typed.spot));
    let group = raw.socket_group.as_ref().map(|typed| ("socket-group", &typed.spot));
    for (key, spot) in mode.into_iter().chain(group).filter(|_| !sockets) {
        out.error(spot, format!("`{key}` means nothing without a unix socket"))
            .hint("add `unix:/FOLDER:PORT` to `listen`".to_owned());
    }
    let tcp = listen.iter().find_map(|typed| Some((typed.value.ip()?, &typed.spot)));
    let advertise = advertised(tcp, &entry.spot, raw.advertise, registers, out);
    Some(Instance {
        name: InstanceName::new(&entry.name),
        listen: listen.into_iter().map(Typed::at).collect(),
        socket_mode: or(raw.socket_mode, SocketMode(0o770)),
        socket_group: raw.socket_group.map(|typed| typed.value.0),
        peer_id: raw.peer_id.and_then(|typed| u8::try_from(typed.value).ok()),
        admin: raw.admin.map(Typed::at),
        advertise,
        place: entry.spot.extent.place,
    })
}

/// What TLS is to clients, held against what there is for it.
fn sslmode(raw: Option<Typed<SslMode>>, tls: Option<&Tls>, out: &mut Findings) -> SslMode {
    let Some(typed) = raw else {
        return if tls.is_some() { SslMode::Prefer } else { SslMode::Disable };
    };
    let mode = typed.value;
    let verified = tls.is_some_and(|tls| {
        tls.client_ca.is_some() && tls.client_certificates == ClientCertificates::Required
    });
    if mode > SslMode::Disable && tls.is_none() {
        out.error(&typed.spot, "there is no certificate to offer TLS with")
            .hint("add `tls: { certificates: [{ chain: file:PATH, key: file:PATH }] }`".to_owned());
    } else if mode >= SslMode::VerifyCa && !verified {
        out.error(&typed.spot, "nobody says which certificates of clients are believed").hint(
            "add `client-ca: file:PATH` to `tls`, with `client-certificates: required`".to_owned(),
        );
    }
    mode
}

/// What databases of a group have around them.
#[derive(Clone, Copy)]
struct Around<'a> {
    /// `default_pool_size`.
    size: NonZeroU32,
    names: &'a Names,
    /// What clients may name.
    known: &'a HashSet<String>,
}

fn known(databases: Option<&raw::Named<raw::Database>>) -> HashSet<String> {
    let entries = databases.iter().flat_map(|all| &all.0);
    entries.flat_map(|entry| [entry.name.clone(), alias(entry)]).collect()
}

/// The name under which clients reach a database's replicas.
pub(super) fn alias(entry: &Entry<raw::Database>) -> String {
    let own = text(entry.value.replica_alias.as_ref()).map(|(alias, _)| alias.to_owned());
    own.unwrap_or_else(|| format!("{}_ro", entry.name))
}

fn databases(
    entries: Vec<Entry<raw::Database>>,
    around: Around<'_>,
    out: &mut Findings,
) -> Vec<Database> {
    let mut all: Vec<Database> = Vec::new();
    for entry in entries {
        identifier("database", &entry.name, &entry.spot, out);
        let alias = alias(&entry);
        for database in database(entry, &alias, around, out) {
            let (database, spot) = database;
            if let Some(first) = all.iter().find(|other| other.name == database.name) {
                let (name, line) = (&database.name, first.place.line);
                let what = format!("the database `{name}` is already there by line {line}");
                out.error(&spot, what).hint("give `replica-alias` another name".to_owned());
            }
            all.push(database);
        }
    }
    all
}

/// The database, and its replicas under their alias.
fn database(
    entry: Entry<raw::Database>,
    alias: &str,
    around: Around<'_>,
    out: &mut Findings,
) -> Vec<(Database, Spot)> {
    let Around { size, names, .. } = around;
    let Entry { name, spot, value: mut raw } = entry;
    let replicas = raw.replicas.take().unwrap_or_default();
    if let Some(typed) = &raw.replica_alias {
        identifier("database", &typed.value.0, &typed.spot, out);
        if replicas.is_empty() {
            out.warning(&typed.spot, "an alias for replicas, but there are none")
                .hint("add `replicas: [ADDRESS:PORT]`, or leave it out".to_owned());
        }
    }
    let also = also(&mut raw, &replicas, out);
    let run = raw.run.as_ref().and_then(|run| service::program(run, &["postgres"], out));
    alone(&raw, &replicas, out);
    let prelude = prelude(&mut raw, out);
    let check_every = positive(raw.check_every, Duration::from_millis(500), out);
    let max_lag = positive(raw.max_lag, Duration::from_secs(10), out);
    if name == "*" && !replicas.is_empty() {
        out.error(&spot, "`*` has no replicas: they would need a name each")
            .hint("give the database an entry of its own".to_owned());
    }
    let Some(primary) = raw.primary else { return Vec::new() };
    let members = std::iter::once(&primary).chain(&replicas);
    let replication = (!replicas.is_empty()).then(|| Replication {
        name: DatabaseName::new(&name),
        alias: DatabaseName::new(alias),
        members: members.map(|server| server.value.clone()).collect(),
        reads: or(raw.reads, Reads::Asked),
        max_lag,
        check_every,
    });
    let main = Database {
        name: DatabaseName::new(&name),
        server_name: raw.server_name.map_or(name, |typed| typed.value.0),
        login: raw.login.map(|raw| login(raw, names, out)),
        lookup: raw.lookup.map(|raw| lookup(raw, around, out)),
        servers: Servers::Primary(primary.at()),
        also: also.into_iter().map(Typed::at).collect(),
        order: or(raw.load_balance_hosts, HostOrder::RoundRobin),
        prelude,
        replication,
        tls: server_tls(raw.tls.take(), names, out),
        mode: or(raw.mode, PoolMode::Transaction),
        pool_size: or(raw.pool_size, size),
        terms: DatabaseTerms {
            pool_shards: said(raw.pool_shards),
            min_pool_size: said(raw.min_pool_size),
            reserve_pool_size: said(raw.reserve_pool_size),
            max_connections: said(raw.max_connections),
            max_clients: said(raw.max_clients),
            server_lifetime: span(raw.server_lifetime),
        },
        run,
        place: spot.extent.place,
    };
    if replicas.is_empty() {
        return vec![(main, spot)];
    }
    let replicas = Database {
        name: DatabaseName::new(alias),
        servers: Servers::Replicas(replicas.into_iter().map(Typed::at).collect()),
        run: None,
        ..main.clone()
    };
    let alias_at = raw.replica_alias.map_or_else(|| spot.clone(), |typed| typed.spot);
    vec![(main, spot), (replicas, alias_at)]
}

/// Most servers of one database.
const MOST_MEMBERS: usize = 32;

/// What only makes sense beside replicas.
fn alone(raw: &raw::Database, replicas: &[Typed<ServerAddress>], out: &mut Findings) {
    let keys = [
        ("reads", raw.reads.as_ref().map(|typed| &typed.spot)),
        ("max-lag", raw.max_lag.as_ref().map(|typed| &typed.spot)),
        ("check-every", raw.check_every.as_ref().map(|typed| &typed.spot)),
    ];
    for (key, spot) in keys {
        if let Some(spot) = spot.filter(|_| replicas.is_empty()) {
            out.warning(spot, format!("`{key}` is about replicas, but there are none"))
                .hint("add `replicas: [ADDRESS:PORT]`, or leave it out".to_owned());
        }
    }
    if let Some(typed) = replicas.get(MOST_MEMBERS - 1) {
        let what = format!("more than {MOST_MEMBERS} servers of one database");
        out.error(&typed.spot, what).allowed("a primary and 31 replicas");
    }
}

/// An answer that holds longer would let in who may no more.
const LONGEST_CACHE: Duration = Duration::from_secs(60);

fn lookup(raw: raw::Lookup, around: Around<'_>, out: &mut Findings) -> Lookup {
    let Around { names, known, .. } = around;
    if let Some(typed) = &raw.user {
        identifier("user", &typed.value.0, &typed.spot, out);
    }
    if let Some(typed) = raw.query.as_ref().filter(|typed| !typed.value.0.contains("$1")) {
        out.error(&typed.spot, "the query does not say for which role it is asked")
            .allowed("a query with `$1` for the role's name");
    }
    let known = |name: &str| known.contains(name) || known.contains("*");
    if let Some(typed) = raw.database.as_ref().filter(|typed| !known(&typed.value.0)) {
        out.error(&typed.spot, format!("there is no database `{}` to ask", typed.value.0))
            .hint("name one of `databases`".to_owned());
    }
    if let Some(typed) = raw.cache.as_ref().filter(|typed| typed.value.0 > LONGEST_CACHE) {
        out.error(&typed.spot, "who may log in no more would get in for that long")
            .allowed("0s to 1m");
    }
    Lookup {
        user: UserName::new(raw.user.as_ref().map_or("", |typed| typed.value.0.as_str())),
        password: raw.password.map(|typed| secret(typed, names)),
        database: raw.database.map(|typed| At {
            place: typed.spot.extent.place,
            value: DatabaseName::new(&typed.value.0),
        }),
        query: raw.query.map_or_else(|| LOOKUP.to_owned(), |typed| typed.value.0),
        cache: time(raw.cache, Duration::from_secs(1)),
    }
}

/// PostgreSQL's names: at most 63 bytes (NAMEDATALEN - 1).
pub(super) fn identifier(kind: &str, name: &str, at: &Spot, out: &mut Findings) {
    if name.is_empty() || name.len() > 63 || name.chars().any(char::is_control) {
        out.error(at, format!("this is no name of a {kind}")).allowed("1 to 63 bytes of text");
    }
    if kind == "database" && name == "pgbouncer" {
        out.error(at, "`pgbouncer` is the admin database's name").allowed("any other name");
    }
}

fn said<T>(typed: Option<Typed<T>>) -> Option<T> {
    typed.map(|typed| typed.value)
}

fn span(typed: Option<Typed<Time>>) -> Option<Duration> {
    said(typed).map(|time| time.0)
}

/// What there is for a user that proves who it is by no secret of the file.
#[derive(Clone, Copy)]
struct Proofs {
    /// Rules say how.
    rules: bool,
    /// Some database looks roles up.
    lookups: bool,
}

fn user(entry: Entry<raw::User>, proofs: Proofs, names: &Names, out: &mut Findings) -> User {
    identifier("user", &entry.name, &entry.spot, out);
    let raw = entry.value;
    let looked_up = raw.looked_up.as_ref().filter(|typed| typed.value.0);
    if let Some(typed) = looked_up {
        if !proofs.lookups {
            out.error(&typed.spot, "nothing is looked up here")
                .hint("add `lookup: { user: ROLE }` to the group".to_owned());
        }
        if raw.secret.is_some() {
            out.error(&typed.spot, "what it must prove is here and looked up")
                .hint("leave `secret` or `looked-up` out".to_owned());
        }
    } else if raw.secret.is_none() && !proofs.rules && !out.wrong(&entry.spot) {
        let what = format!("`{}` has no `secret`: anybody may log in under this name", entry.name);
        out.warning(&entry.spot, what).hint("add `secret: file:PATH`".to_owned());
    }
    User {
        name: UserName::new(&entry.name),
        looked_up: looked_up.is_some(),
        terms: UserTerms {
            mode: said(raw.mode),
            pool_size: said(raw.pool_size),
            reserve_pool_size: said(raw.reserve_pool_size),
            max_connections: said(raw.max_connections),
            max_clients: said(raw.max_clients),
            query_timeout: span(raw.query_timeout),
            transaction_timeout: span(raw.transaction_timeout),
            idle_transaction_timeout: span(raw.idle_transaction_timeout),
            client_idle_timeout: span(raw.client_idle_timeout),
        },
        secret: raw.secret.map(|typed| secret(typed, names)),
        server_password: raw.server_password.map(|typed| secret(typed, names)),
        console: or(raw.console, Console::No),
        place: entry.spot.extent.place,
    }
}

fn settings(raw: Option<raw::Settings>, out: &mut Findings) -> Settings {
    let seconds = Duration::from_secs;
    let Some(raw) = raw else { return defaults() };
    let base = defaults();
    Settings {
        max_client_conn: count(raw.max_client_conn, base.max_client_conn.get()),
        default_pool_size: count(raw.default_pool_size, base.default_pool_size.get()),
        pool_shards: count(raw.pool_shards, base.pool_shards.get()),
        min_pool_size: or(raw.min_pool_size, 0),
        reserve_pool_size: or(raw.reserve_pool_size, 0),
        reserve_pool_timeout: time(raw.reserve_pool_timeout, base.reserve_pool_timeout),
        max_db_connections: or(raw.max_db_connections, 0),
        max_user_connections: or(raw.max_user_connections, 0),
        max_db_client_connections: or(raw.max_db_client_connections, 0),
        max_user_client_connections: or(raw.max_user_client_connections, 0),
        query_wait_timeout: time(raw.query_wait_timeout, base.query_wait_timeout),
        server_idle_timeout: time(raw.server_idle_timeout, base.server_idle_timeout),
        server_lifetime: time(raw.server_lifetime, base.server_lifetime),
        server_connect_timeout: positive(raw.server_connect_timeout, seconds(15), out),
        client_login_timeout: positive(raw.client_login_timeout, seconds(60), out),
        client_idle_timeout: time(raw.client_idle_timeout, Duration::ZERO),
        idle_transaction_timeout: time(raw.idle_transaction_timeout, Duration::ZERO),
        query_timeout: time(raw.query_timeout, Duration::ZERO),
        transaction_timeout: time(raw.transaction_timeout, Duration::ZERO),
        max_prepared_statements: or(raw.max_prepared_statements, base.max_prepared_statements),
        max_prepared_bytes: said(raw.max_prepared_bytes)
            .map_or(base.max_prepared_bytes, |size| usize::try_from(size.0).unwrap_or(usize::MAX)),
        max_pinned: or(raw.max_pinned, 0),
        shared_listen: said(raw.shared_listen).is_some_and(|flag| flag.0),
        max_listen_channels: or(raw.max_listen_channels, base.max_listen_channels),
        server_login_retry: positive(raw.server_login_retry, base.server_login_retry, out),
        ready_when: or(raw.ready_when, base.ready_when),
        server_away_after: positive(raw.server_away_after, base.server_away_after, out),
        query_wait_notify: time(raw.query_wait_notify, base.query_wait_notify),
        cancel_wait_timeout: positive(raw.cancel_wait_timeout, base.cancel_wait_timeout, out),
        server_check_query: match raw.server_check_query {
            Some(typed) if typed.value.0 == "-" => String::new(),
            Some(typed) => typed.value.0,
            None => base.server_check_query,
        },
        server_check_delay: time(raw.server_check_delay, base.server_check_delay),
        server_round_robin: said(raw.server_round_robin).is_some_and(|flag| flag.0),
        server_fast_close: said(raw.server_fast_close).is_some_and(|flag| flag.0),
        autodb_idle_timeout: time(raw.autodb_idle_timeout, base.autodb_idle_timeout),
        dns_max_ttl: time(raw.dns_max_ttl, base.dns_max_ttl),
        dns_nxdomain_ttl: time(raw.dns_nxdomain_ttl, base.dns_nxdomain_ttl),
        keepalive: Keepalive {
            on: said(raw.tcp_keepalive).is_none_or(|flag| flag.0),
            idle: positive(raw.tcp_keepidle, base.keepalive.idle, out),
            interval: span(raw.tcp_keepintvl).filter(|time| !time.is_zero()),
            count: said(raw.tcp_keepcnt).map(NonZeroU32::get),
            user_timeout: span(raw.tcp_user_timeout).filter(|time| !time.is_zero()),
        },
        server_reset_query: match raw.server_reset_query {
            Some(typed) if typed.value.0 == "-" => String::new(),
            Some(typed) => typed.value.0,
            None => base.server_reset_query,
        },
        server_reset_query_always: said(raw.server_reset_query_always).is_some_and(|flag| flag.0),
        ignore_startup_parameters: said(raw.ignore_startup_parameters)
            .map_or(Vec::new(), |names| listed(&names.0)),
        auth_type: said(raw.auth_type),
    }
}

/// Names that commas separate, in lower case.
fn listed(names: &str) -> Vec<String> {
    let names = names.split(',').map(|name| name.trim().to_ascii_lowercase());
    names.filter(|name| !name.is_empty()).collect()
}

fn defaults() -> Settings {
    Settings {
        max_client_conn: count(None, 1000),
        default_pool_size: count(None, 20),
        pool_shards: count(None, 1),
        min_pool_size: 0,
        reserve_pool_size: 0,
        reserve_pool_timeout: Duration::from_secs(5),
        max_db_connections: 0,
        max_user_connections: 0,
        max_db_client_connections: 0,
        max_user_client_connections: 0,
        query_wait_timeout: Duration::from_secs(120),
        server_idle_timeout: Duration::from_secs(600),
        server_lifetime: Duration::from_secs(3600),
        server_connect_timeout: Duration::from_secs(15),
        client_login_timeout: Duration::from_secs(60),
        client_idle_timeout: Duration::ZERO,
        idle_transaction_timeout: Duration::ZERO,
        query_timeout: Duration::ZERO,
        transaction_timeout: Duration::ZERO,
        max_prepared_statements: 200,
        max_prepared_bytes: 8 << 20,
        max_pinned: 0,
        shared_listen: false,
        max_listen_channels: 100,
        server_login_retry: Duration::from_secs(5),
        ready_when: ReadyWhen::SomeDatabase,
        server_away_after: Duration::from_secs(10),
        query_wait_notify: Duration::from_secs(5),
        cancel_wait_timeout: Duration::from_secs(10),
        server_check_query: "select 1".to_owned(),
        server_check_delay: Duration::from_secs(30),
        server_round_robin: false,
        server_fast_close: false,
        autodb_idle_timeout: Duration::from_secs(3600),
        dns_max_ttl: Duration::from_secs(15),
        dns_nxdomain_ttl: Duration::from_secs(15),
        keepalive: Keepalive {
            on: true,
            idle: Duration::from_secs(60),
            interval: None,
            count: None,
            user_timeout: None,
        },
        server_reset_query: "DISCARD ALL".to_owned(),
        server_reset_query_always: false,
        ignore_startup_parameters: Vec::new(),
        auth_type: None,
    }
}
