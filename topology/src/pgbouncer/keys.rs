//! The keys of `[pgbouncer]` by what becomes of them, with PgBouncer's defaults where these say nothing. Not for
//! reading values. Used by `pgbouncer` alone.
//!
//! Invariant: a key at its default in PgBouncer 1.25 neither stops a start nor is told.

/// Numbers that mean the same here; PgBouncer itself does not know `pool_shards` and the last one.
pub(super) const COUNTS: [&str; 11] = [
    "max_client_conn",
    "default_pool_size",
    "pool_shards",
    "min_pool_size",
    "reserve_pool_size",
    "max_db_connections",
    "max_user_connections",
    "max_db_client_connections",
    "max_user_client_connections",
    "max_prepared_statements",
    "max_listen_channels",
];

/// Times in seconds that mean the same here.
pub(super) const TIMES: [&str; 19] = [
    "reserve_pool_timeout",
    "query_wait_timeout",
    "server_idle_timeout",
    "server_lifetime",
    "server_connect_timeout",
    "client_login_timeout",
    "client_idle_timeout",
    "idle_transaction_timeout",
    "query_timeout",
    "transaction_timeout",
    "server_login_retry",
    "query_wait_notify",
    "cancel_wait_timeout",
    "server_check_delay",
    "autodb_idle_timeout",
    "dns_max_ttl",
    "dns_nxdomain_ttl",
    "tcp_keepidle",
    "tcp_keepintvl",
];

/// What is on or off here as there; PgBouncer itself does not know the last one.
pub(super) const SWITCHES: [&str; 5] = [
    "server_round_robin",
    "server_fast_close",
    "server_reset_query_always",
    "tcp_keepalive",
    "shared_listen",
];

/// Keys that have no counterpart: their default in PgBouncer 1.25, which says nothing, and what is here in their
/// place.
pub(super) const INSTEAD: [(&str, &str, &str); 14] = [
    ("track_extra_parameters", "IntervalStyle", "every setting that a client makes follows it"),
    ("tcp_defer_accept", "1", "clients are taken as they come"),
    ("resolv_conf", "", "names are looked up as the system does"),
    (
        "dns_zone_check_period",
        "0",
        "serial numbers of zones are not watched: names are looked up again after dns_max_ttl",
    ),
    (
        "application_name_add_host",
        "0",
        "application_name stays as clients say it; SHOW CLIENTS and the log have their addresses",
    ),
    ("job_name", "pgbouncer", "the instance is called pool-1"),
    ("service_name", "pgbouncer", "it is about Windows"),
    ("scram_iterations", "4096", "passwords of the user list are proved with 4096 iterations"),
    ("suspend_timeout", "10", "SUSPEND has nothing to wait for: no bytes are held back"),
    ("pkt_buf", "4096", "clients have no buffers of their own; each worker has one of 64 KiB"),
    ("sbuf_loopcnt", "5", "a client that sends much takes turns with the others by the runtime"),
    ("max_packet_size", "2147483647", "a long message is passed on as it comes, never held"),
    ("listen_backlog", "128", "as long as the system allows (net.core.somaxconn)"),
    ("tcp_socket_buffer", "0", "the system sizes the buffers of sockets"),
];

/// Ends of keys about TLS, and what is here in place of a choice: TLS 1.2 and 1.3 with the ciphers and curves that
/// are held to be safe.
pub(super) const TLS: [(&str, &str); 5] = [
    ("_tls_protocols", "TLS 1.2 and 1.3 are spoken, nothing older"),
    ("_tls_ciphers", "ECDHE with AES-GCM or ChaCha20-Poly1305 is offered, nothing weaker"),
    ("_tls13_ciphers", "AES-GCM and ChaCha20-Poly1305 are offered, nothing weaker"),
    (
        "_tls_ecdhcurve",
        "X25519, P-256 and P-384 are offered, with ML-KEM where the other side knows it",
    ),
    ("_tls_dheparams", "keys are agreed on by elliptic curves, never by DHE"),
];

/// Values of these that mean what is so here.
pub(super) const TLS_DEFAULTS: [&str; 6] =
    ["secure", "default", "auto", "fast", "normal", "tlsv1.2,tlsv1.3"];

/// Whether a key is this one about TLS, towards clients or servers.
pub(super) fn is_tls(key: &str, end: &str) -> bool {
    let side = key.strip_suffix(end);
    side.is_some_and(|side| matches!(side, "client" | "server"))
}

/// Times that cannot be switched off.
pub(super) fn needed(key: &str) -> bool {
    let logins = ["server_connect_timeout", "client_login_timeout", "server_login_retry"];
    logins.contains(&key) || ["cancel_wait_timeout", "tcp_keepidle"].contains(&key)
}

/// What is said of a key of a connection string that nobody knows. A value is never told: it may be a secret; nor is what
/// may be the end of one that has blanks and no quotes.
pub(super) fn untranslated(key: &str) -> String {
    let word = key.bytes().all(|letter| letter.is_ascii_lowercase() || letter == b'_');
    if word && !key.is_empty() { format!("{key} is not translated") } else { UNTOLD.to_owned() }
}

/// The same of a key that must not be told.
pub(super) const UNTOLD: &str =
    "a key is not translated; a value with blanks in it stands between '";
