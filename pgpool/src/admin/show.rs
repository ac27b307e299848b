//! The tables of SHOW, with PgBouncer 1.25's names and order of columns, so that its exporters
//! work. Not for gathering: that is `report`. Called by the console.
//!
//! Invariant: a column of PgBouncer's that we have nothing for is there, with the value that
//! PgBouncer shows when it is not in use.

use std::num::NonZeroU32;
use std::time::SystemTime;

use common::calendar::civil;
use pgpool_wire::backend::{self, INT8, TEXT};
use tokio::time::Instant;
use topology::Form;
use topology::pool::{HostOrder, ListenAddress, PoolMode, ServerAddress};

use super::report::{ClientRow, Report, ServerRow};
use super::stats;
use super::verbs::Hold;
use crate::names::NameRow;
use crate::snapshot::{CONSOLE, Database, Snapshot};

/// The version of PgBouncer whose tables these are.
pub const VERSION: &str = "1.25.2";

/// One table.
pub struct Table {
    pub(super) columns: Vec<(&'static str, u32)>,
    pub(super) rows: Vec<Vec<Cell>>,
}

/// One value.
#[derive(Clone)]
pub(super) enum Cell {
    Text(String),
    Number(u64),
    Null,
}

impl From<&str> for Cell {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}
impl From<String> for Cell {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}
impl From<u64> for Cell {
    fn from(number: u64) -> Self {
        Self::Number(number)
    }
}
impl From<usize> for Cell {
    fn from(number: usize) -> Self {
        Self::Number(number as u64)
    }
}
impl From<u16> for Cell {
    fn from(number: u16) -> Self {
        Self::Number(number.into())
    }
}
impl From<Option<&str>> for Cell {
    fn from(text: Option<&str>) -> Self {
        text.map_or(Self::Null, Self::from)
    }
}
impl From<u32> for Cell {
    fn from(number: u32) -> Self {
        Self::Number(number.into())
    }
}

macro_rules! row {
    ($($value:expr),* $(,)?) => { vec![$(Cell::from($value)),*] };
}

/// What `SHOW HELP` says, and what an unknown SHOW is answered with.
pub const HELP: &str = "SHOW HELP|CONFIG|DATABASES|POOLS|CLIENTS|SERVERS|USERS|VERSION|STATE|LISTS|\
FDS|SOCKETS|ACTIVE_SOCKETS|MEM|STATS|STATS_TOTALS|STATS_AVERAGES|TOTALS|DNS_HOSTS|DNS_ZONES|PEERS|\
PEER_POOLS; SET key = value; RELOAD; PAUSE [db]; RESUME [db]; DISABLE db; ENABLE db; RECONNECT [db]; \
KILL [db]; KILL_CLIENT id; SUSPEND; WAIT_CLOSE [db]; SHUTDOWN [WAIT_FOR_SERVERS|WAIT_FOR_CLIENTS]";

/// The table of `SHOW what`; `None`: there is none of this name.
pub fn table(what: &str, report: &Report, snapshot: &Snapshot) -> Option<Table> {
    Some(match what {
        "POOLS" => pools(report),
        "CLIENTS" => clients(report),
        "SERVERS" => servers(report),
        "STATS" => stats::stats(report),
        "STATS_TOTALS" => stats::totals_by_database(report),
        "STATS_AVERAGES" => stats::averages_by_database(report),
        "TOTALS" => stats::totals(report),
        "SOCKETS" => sockets(report, |_| true),
        "ACTIVE_SOCKETS" => sockets(report, |state| state == "active"),
        "FDS" => Table { columns: columns(DESCRIPTORS), rows: Vec::new() },
        "MEM" => {
            Table { columns: columns("name #size #used #free #memtotal"), rows: memory(report) }
        }
        "DNS_HOSTS" => hosts(snapshot),
        // Serial numbers of zones are not watched.
        "DNS_ZONES" => Table { columns: columns("zonename #serial #count"), rows: Vec::new() },
        "PEERS" => peers(snapshot),
        "PEER_POOLS" => peer_pools(snapshot),
        "DATABASES" => databases(report, snapshot),
        "USERS" => users(report, snapshot),
        "LISTS" => lists(report, snapshot),
        "CONFIG" => super::config::table(snapshot),
        "VERSION" => Table {
            columns: vec![("version", TEXT)],
            rows: vec![row![format!("PgBouncer {VERSION} (pgpool {})", env!("CARGO_PKG_VERSION"))]],
        },
        "STATE" => Table {
            columns: vec![("key", TEXT), ("value", TEXT)],
            rows: vec![
                row!["active", yes(!report.paused && !report.suspended)],
                row!["paused", yes(report.paused)],
                row!["suspended", yes(report.suspended)],
            ],
        },
        _ => return faked(what),
    })
}

/// What drivers ask for without need, as PgBouncer answers it.
fn faked(what: &str) -> Option<Table> {
    let (name, value) = match what {
        "CLIENT_ENCODING" => ("client_encoding", "UTF-8"),
        "DEFAULT_TRANSACTION_ISOLATION" => ("default_transaction_isolation", "read committed"),
        "STANDARD_CONFORMING_STRINGS" => ("standard_conforming_strings", "on"),
        "DATESTYLE" => ("datestyle", "ISO"),
        "TIMEZONE" => ("timezone", "GMT"),
        _ => return None,
    };
    Some(Table { columns: vec![(name, TEXT)], rows: vec![row![value]] })
}

impl Table {
    /// Appends the RowDescription.
    pub fn put_columns(&self, out: &mut Vec<u8>) {
        backend::put_columns(out, &self.columns);
    }

    /// Appends the rows and the command tag.
    pub fn put_rows(&self, out: &mut Vec<u8>) {
        for row in &self.rows {
            let texts: Vec<Option<String>> = row.iter().map(Cell::text).collect();
            backend::put_row(out, texts.iter().map(|text| text.as_deref().map(str::as_bytes)));
        }
        backend::put_command(out, "SHOW");
    }
}

impl Cell {
    fn text(&self) -> Option<String> {
        match self {
            Self::Text(text) => Some(text.clone()),
            Self::Number(number) => Some(number.to_string()),
            Self::Null => None,
        }
    }
}

pub(super) fn columns(names: &'static str) -> Vec<(&'static str, u32)> {
    // A name with `#` is a number.
    let column = |name: &'static str| match name.strip_prefix('#') {
        Some(name) => (name, INT8),
        None => (name, TEXT),
    };
    names.split_whitespace().map(column).collect()
}

fn mode(mode: PoolMode) -> &'static str {
    match mode {
        PoolMode::Session => "session",
        PoolMode::Transaction => "transaction",
        PoolMode::Statement => "statement",
    }
}

/// Where a console finds the pooler.
fn port(address: &ListenAddress) -> u16 {
    match address {
        ListenAddress::Ip(address) => address.port(),
        ListenAddress::Unix(_, port) => *port,
    }
}

/// As PgBouncer shows a server's host: a socket by its folder.
fn host(address: &ServerAddress) -> String {
    address.host()
}

pub(super) fn yes(is: bool) -> &'static str {
    if is { "yes" } else { "no" }
}

fn pools(report: &Report) -> Table {
    let rows = report.pools.iter().map(|pool| {
        row![
            pool.database.as_str(),
            pool.user.as_str(),
            pool.active,
            pool.load.waiting,
            pool.cancels,
            0u64,
            pool.load.active,
            // Each travels by a connection of its own.
            pool.cancels,
            pool.hit,
            pool.load.idle,
            0u64,
            pool.load.cleaning,
            pool.load.connecting,
            pool.waited.as_secs(),
            u64::from(pool.waited.subsec_micros()),
            mode(pool.mode),
            Cell::Null,
        ]
    });
    // The admin database has servers of nobody.
    let console = row![
        CONSOLE,
        CONSOLE,
        report.consoles.len(),
        0u64,
        0u64,
        0u64,
        0u64,
        0u64,
        0u64,
        0u64,
        0u64,
        0u64,
        0u64,
        0u64,
        0u64,
        "statement",
        Cell::Null,
    ];
    Table {
        columns: columns(
            "database user #cl_active #cl_waiting #cl_active_cancel_req #cl_waiting_cancel_req \
             #sv_active #sv_active_cancel #sv_being_canceled #sv_idle #sv_used #sv_tested \
             #sv_login #maxwait #maxwait_us pool_mode load_balance_hosts",
        ),
        rows: rows.chain([console]).collect(),
    }
}

const SOCKET: &str = "type user database replication state addr #port local_addr #local_port \
     connect_time request_time #wait #wait_us #close_needed ptr link #remote_pid tls \
     application_name #prepared_statements #id";

/// As in PgBouncer without the descriptors themselves: those are handed to nobody.
const DESCRIPTORS: &str = "#fd task user database addr #port #cancel #link client_encoding std_strings \
                           datestyle timezone password scram_client_key scram_server_key";
const PEER_POOLS: &str = "#peer_id #cl_active_cancel_req #cl_waiting_cancel_req #sv_active_cancel \
                          #sv_login";
const SOCKET_MORE: &str = "type user database replication state addr #port local_addr #local_port \
     connect_time request_time #wait #wait_us #close_needed ptr link #remote_pid tls \
     application_name #prepared_statements #id #recv_pos #pkt_pos #pkt_remain #send_pos #send_remain \
     #pkt_avail #send_avail";

/// Clients and servers in one table, their states with `cl_` and `sv_` before them; nothing is buffered between
/// two turns.
fn sockets(report: &Report, which: impl Fn(&str) -> bool) -> Table {
    let named = |front: &str, mut rows: Vec<Vec<Cell>>| {
        rows.retain(|row| matches!(row.get(STATE), Some(Cell::Text(state)) if which(state)));
        for row in &mut rows {
            if let Some(Cell::Text(state)) = row.get_mut(STATE) {
                // An idle client counts as active there.
                let idle = front == "cl_" && state == "idle";
                *state = format!("{front}{}", if idle { "active" } else { state.as_str() });
            }
            row.extend((0..7).map(|_| Cell::from(0u64)));
        }
        rows
    };
    let mut rows = named("cl_", clients(report).rows);
    rows.extend(named("sv_", servers(report).rows));
    Table { columns: columns(SOCKET_MORE), rows }
}

/// Where the state stands in a row of a socket.
const STATE: usize = 4;

/// How a connection is encrypted: `TLSv1.3/TLS_AES_256_GCM_SHA384`.
pub(crate) fn encryption(cipher: Option<&str>) -> String {
    match cipher.map(|cipher| (cipher, cipher.strip_prefix("TLS13_"))) {
        None => String::new(),
        Some((_, Some(rest))) => format!("TLSv1.3/TLS_{rest}"),
        Some((older, None)) => format!("TLSv1.2/{older}"),
    }
}

/// What there is one of per connection; the allocator is the system's and keeps nothing apart.
fn memory(report: &Report) -> Vec<Vec<Cell>> {
    let row = |name: &str, size: usize, used: usize| row![name, size, used, 0u64, size * used];
    vec![
        row("client_cache", size_of::<crate::client::Client>(), report.counts.clients),
        row("server_cache", size_of::<crate::server::Server>(), report.counts.servers),
        row("pool_cache", size_of::<crate::pool::Pool>(), report.pools.len()),
    ]
}

fn clients(report: &Report) -> Table {
    let row = |client: &ClientRow| {
        row![
            "C",
            client.user.as_str(),
            client.database.as_str(),
            client.replication.name(),
            client.phase.name(),
            client.source.host(),
            u64::from(client.source.port()),
            client.local.map_or_else(|| client.source.host(), |local| local.ip().to_string()),
            client.local.map_or(client.source.port(), |local| local.port()),
            timestamp(client.connected),
            timestamp(client.requested),
            client.waited.as_secs(),
            u64::from(client.waited.subsec_micros()),
            0u64,
            format!("c{}", client.pid),
            client.server.map_or_else(String::new, |id| format!("s{id}")),
            client.source.local_pid(),
            encryption(client.cipher),
            client.application.as_str(),
            client.prepared,
            client.pid,
        ]
    };
    Table {
        columns: columns(SOCKET),
        rows: report.clients.iter().chain(&report.consoles).map(row).collect(),
    }
}

fn servers(report: &Report) -> Table {
    let row = |server: &ServerRow| {
        row![
            "S",
            server.user.as_str(),
            server.database.as_str(),
            server.replication.name(),
            server.phase.name(),
            host(&server.address),
            u64::from(server.address.port()),
            server.local.map_or_else(String::new, |local| local.ip().to_string()),
            server.local.map_or(0, |local| u64::from(local.port())),
            timestamp(server.connected),
            timestamp(server.requested),
            0u64,
            0u64,
            u64::from(server.condemned),
            format!("s{}", server.id),
            server.client.map_or_else(String::new, |pid| format!("c{pid}")),
            server.pid,
            encryption(server.cipher),
            server.application.as_str(),
            server.prepared,
            server.id,
        ]
    };
    Table { columns: columns(SOCKET), rows: report.servers.iter().map(row).collect() }
}

fn databases(report: &Report, snapshot: &Snapshot) -> Table {
    let (settings, all) = (&snapshot.settings, snapshot.all_databases());
    let row = |database: &Database| {
        let first = database.servers.first();
        // One that is paused with all others as well.
        let held = |name: &str| report.held.contains(&(name.to_owned(), Hold::Paused));
        let paused = held(&database.name) || held("");
        let disabled = report.held.contains(&(database.name.clone(), Hold::Disabled));
        let terms = &database.terms;
        row![
            database.name.as_str(),
            database.servers.iter().map(host).collect::<Vec<_>>().join(","),
            first.map_or(0, |address| u64::from(address.port())),
            database.server_name.as_str(),
            Snapshot::forced(database),
            database.pool_size,
            terms.min_pool_size.unwrap_or(settings.min_pool_size),
            terms.reserve_pool_size.unwrap_or(settings.reserve_pool_size),
            terms.server_lifetime.unwrap_or(settings.server_lifetime).as_secs(),
            own_mode(database, snapshot),
            order(database),
            database.connections.most(),
            database.connections.now(),
            database.clients.most(),
            database.clients.now(),
            u64::from(paused),
            u64::from(disabled),
            // For exporters of old versions.
            settings.reserve_pool_size,
        ]
    };
    let console = row![
        CONSOLE,
        Cell::Null,
        snapshot.addresses.0.first().map_or(0, port),
        CONSOLE,
        CONSOLE,
        2u64,
        0u64,
        0u64,
        settings.server_lifetime.as_secs(),
        "statement",
        Cell::Null,
        0u64,
        0u64,
        0u64,
        report.consoles.len(),
        0u64,
        0u64,
        0u64,
    ];
    Table {
        columns: columns(
            "name host #port database force_user #pool_size #min_pool_size #reserve_pool_size \
             #server_lifetime pool_mode load_balance_hosts #max_connections #current_connections \
             #max_client_connections #current_client_connections #paused #disabled \
             #reserve_pool",
        ),
        rows: all.iter().map(|database| row(database)).chain([console]).collect(),
    }
}

/// The mode of a database; in PgBouncer's place only one that is its own, and not that of all.
fn own_mode(database: &Database, snapshot: &Snapshot) -> Cell {
    let Form::PgBouncer(process) = &snapshot.source.form else { return mode(database.mode).into() };
    let said = if snapshot.is_found(&database.name) { "*" } else { database.name.as_str() };
    if process.own_modes.contains(said) { mode(database.mode).into() } else { Cell::Null }
}

/// PgBouncer's word for how several servers are chosen among.
fn order(database: &Database) -> Cell {
    match database.order {
        _ if database.servers.len() < 2 || database.is_replica => Cell::Null,
        HostOrder::RoundRobin => "round-robin".into(),
        HostOrder::Sticky => "disable".into(),
    }
}

/// Names of servers, the seconds until each is looked up again, and where they lead.
fn hosts(snapshot: &Snapshot) -> Table {
    let rows = snapshot.names.rows((&snapshot.settings).into(), Instant::now());
    let row = |name: NameRow| {
        let addresses: Vec<_> = name.addresses.iter().map(ToString::to_string).collect();
        row![name.name, name.left.as_secs(), addresses.join(",")]
    };
    Table { columns: columns("hostname #ttl addrs"), rows: rows.into_iter().map(row).collect() }
}

fn peers(snapshot: &Snapshot) -> Table {
    let rows = snapshot.peers.iter().map(|(id, peer)| {
        row![u32::from(*id), host(&peer.at), u32::from(peer.at.port()), peer.requests.most()]
    });
    Table { columns: columns("#peer_id host #port #pool_size"), rows: rows.collect() }
}

fn peer_pools(snapshot: &Snapshot) -> Table {
    let rows = snapshot.peers.iter().map(|(id, peer)| {
        let requests = peer.requests.now();
        row![u32::from(*id), requests, 0u64, requests, 0u64]
    });
    Table { columns: columns(PEER_POOLS), rows: rows.collect() }
}

fn users(report: &Report, snapshot: &Snapshot) -> Table {
    let consoles = |name: &str| {
        let its = report.consoles.iter().filter(|console| console.user == name).count();
        u32::try_from(its).unwrap_or(u32::MAX)
    };
    let rows = snapshot.users.values().map(|user| {
        let (standing, terms) = (&user.standing, &user.standing.terms);
        let own = |count: Option<u32>| count.map_or(Cell::Null, Cell::from);
        row![
            user.name.as_str(),
            own(terms.pool_size.map(NonZeroU32::get)),
            own(terms.reserve_pool_size),
            terms.mode.map_or(Cell::Null, |own| mode(own).into()),
            standing.connections.most(),
            standing.connections.now(),
            standing.clients.most(),
            standing.clients.now().saturating_add(consoles(&user.name)),
        ]
    });
    let none = || Cell::Null;
    let owner = row![CONSOLE, none(), none(), none(), 0u32, 0u32, 0u32, consoles(CONSOLE)];
    Table {
        columns: columns(
            "name #pool_size #reserve_pool_size pool_mode #max_user_connections \
             #current_connections #max_user_client_connections #current_client_connections",
        ),
        rows: rows.chain((!snapshot.users.contains_key(CONSOLE)).then_some(owner)).collect(),
    }
}

fn lists(report: &Report, snapshot: &Snapshot) -> Table {
    let counts = &report.counts;
    let rows = [
        ("databases", snapshot.all_databases().len() + 1),
        // With whoever runs the process.
        ("users", snapshot.users.len() + usize::from(!snapshot.users.contains_key(CONSOLE))),
        ("peers", snapshot.peers.len()),
        ("pools", report.pools.len() + 1),
        ("peer_pools", snapshot.peers.len()),
        ("free_clients", 0),
        ("used_clients", counts.clients + report.consoles.len()),
        ("login_clients", counts.logins),
        // Room that is kept for connections to come: none.
        ("free_servers", 0),
        ("used_servers", counts.servers),
        ("dns_names", snapshot.names.count()),
        ("dns_zones", 0),
        ("dns_queries", snapshot.names.asking()),
        ("dns_pending", 0),
    ];
    Table {
        columns: columns("list #items"),
        rows: rows.into_iter().map(|(list, items)| row![list, items]).collect(),
    }
}

/// A time as PgBouncer's tables have it: `2026-11-21 00:20:55 UTC`.
pub(crate) fn timestamp(time: SystemTime) -> String {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    let (days, second) = (since / 86_400, since % 86_400);
    let (year, month, day) = civil(days);
    let (hour, minute) = (second / 3600, second % 3600 / 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{:02} UTC", second % 60)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn times_are_shown_as_dates() {
        for (seconds, text) in [
            (0, "1970-01-01 00:00:00 UTC"),
            (951_782_400, "2000-02-29 00:00:00 UTC"),
            (1_795_220_455, "2026-11-21 00:20:55 UTC"),
        ] {
            let time = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
            assert_eq!(timestamp(time), text);
        }
    }

    /// P6: PgBouncer's names, in its order.
    #[test]
    fn rows_have_as_many_values_as_columns() {
        let pools = pools(&Report::default());
        assert_eq!(pools.columns.first(), Some(&("database", TEXT)));
        assert_eq!(pools.columns.len(), 17);
        assert_eq!(columns(SOCKET).len(), 21);
        assert_eq!(encryption(Some("TLS13_AES_128_GCM_SHA256")), "TLSv1.3/TLS_AES_128_GCM_SHA256");
        assert_eq!(encryption(Some("TLS_ECDHE_X")), "TLSv1.2/TLS_ECDHE_X");
    }
}
