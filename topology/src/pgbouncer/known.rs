//! Every key of `[pgbouncer]` in PgBouncer 1.25, in the order in which its `SHOW CONFIG` has them, and ours after
//! them: the default, and when another value holds. Not for what values mean. Read by `with` and by the console.
//!
//! Invariant: a key that `import` heeds is here.

/// When another value of a key holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// As soon as it is said.
    Now,
    /// After a restart.
    Restart,
    /// Never: what it is about is settled otherwise here.
    Never,
}

use Change::{Never, Now, Restart};

/// A key, its default, and when another value holds.
pub type Known = (&'static str, Option<&'static str>, Change);

/// All keys.
pub const KNOWN: [Known; 104] = [
    ("admin_users", Some(""), Now),
    ("application_name_add_host", Some("0"), Never),
    ("auth_dbname", None, Now),
    ("auth_file", None, Now),
    ("auth_hba_file", Some(""), Now),
    ("auth_ident_file", None, Now),
    ("auth_ldap_options", None, Never),
    ("auth_query", Some(crate::pool::LOOKUP), Now),
    ("auth_type", Some("md5"), Now),
    ("auth_user", None, Now),
    ("autodb_idle_timeout", Some("3600"), Now),
    ("cancel_wait_timeout", Some("10"), Now),
    ("client_idle_timeout", Some("0"), Now),
    ("client_login_timeout", Some("60"), Now),
    ("client_tls13_ciphers", None, Never),
    ("client_tls_ca_file", Some(""), Now),
    ("client_tls_cert_file", Some(""), Now),
    ("client_tls_ciphers", Some("default"), Never),
    ("client_tls_dheparams", Some("auto"), Never),
    ("client_tls_ecdhcurve", Some("auto"), Never),
    ("client_tls_key_file", Some(""), Now),
    ("client_tls_protocols", Some("secure"), Never),
    ("client_tls_sslmode", Some("disable"), Now),
    ("conffile", None, Restart),
    ("default_pool_size", Some("20"), Now),
    ("disable_pqexec", Some("0"), Never),
    ("dns_max_ttl", Some("15"), Now),
    ("dns_nxdomain_ttl", Some("15"), Now),
    ("dns_zone_check_period", Some("0"), Never),
    ("idle_transaction_timeout", Some("0"), Now),
    ("ignore_startup_parameters", Some(""), Now),
    ("job_name", Some("pgbouncer"), Never),
    ("listen_addr", Some(""), Restart),
    ("listen_backlog", Some("128"), Never),
    ("listen_port", Some("6432"), Restart),
    ("log_connections", Some("1"), Now),
    ("log_disconnections", Some("1"), Now),
    ("log_pooler_errors", Some("1"), Now),
    ("log_stats", Some("1"), Now),
    ("logfile", Some(""), Now),
    ("max_client_conn", Some("100"), Now),
    ("max_db_client_connections", Some("0"), Now),
    ("max_db_connections", Some("0"), Now),
    ("max_packet_size", Some("2147483647"), Never),
    ("max_prepared_statements", Some("200"), Now),
    ("max_user_client_connections", Some("0"), Now),
    ("max_user_connections", Some("0"), Now),
    ("min_pool_size", Some("0"), Now),
    ("peer_id", Some("0"), Restart),
    ("pidfile", Some(""), Restart),
    ("pkt_buf", Some("4096"), Never),
    ("pool_mode", Some("session"), Now),
    ("query_timeout", Some("0"), Now),
    ("query_wait_notify", Some("5"), Now),
    ("query_wait_timeout", Some("120"), Now),
    ("reserve_pool_size", Some("0"), Now),
    ("reserve_pool_timeout", Some("5"), Now),
    ("resolv_conf", Some(""), Never),
    ("sbuf_loopcnt", Some("5"), Never),
    ("scram_iterations", Some("4096"), Never),
    ("server_check_delay", Some("30"), Now),
    ("server_check_query", Some("<empty>"), Now),
    ("server_connect_timeout", Some("15"), Now),
    ("server_fast_close", Some("0"), Now),
    ("server_idle_timeout", Some("600"), Now),
    ("server_lifetime", Some("3600"), Now),
    ("server_login_retry", Some("15"), Now),
    ("server_reset_query", Some("DISCARD ALL"), Now),
    ("server_reset_query_always", Some("0"), Now),
    ("server_round_robin", Some("0"), Now),
    ("server_tls13_ciphers", None, Never),
    ("server_tls_ca_file", Some(""), Now),
    ("server_tls_cert_file", Some(""), Now),
    ("server_tls_ciphers", Some("default"), Never),
    ("server_tls_key_file", Some(""), Now),
    ("server_tls_protocols", Some("secure"), Never),
    ("server_tls_sslmode", Some("prefer"), Now),
    ("service_name", None, Never),
    ("so_reuseport", Some("0"), Never),
    ("stats_period", Some("60"), Now),
    ("stats_users", Some(""), Now),
    ("suspend_timeout", Some("10"), Never),
    ("syslog", Some("0"), Never),
    ("syslog_facility", Some("daemon"), Never),
    ("syslog_ident", Some("pgbouncer"), Never),
    ("tcp_defer_accept", Some("1"), Never),
    ("tcp_keepalive", Some("1"), Now),
    ("tcp_keepcnt", Some("0"), Now),
    ("tcp_keepidle", Some("0"), Now),
    ("tcp_keepintvl", Some("0"), Now),
    ("tcp_socket_buffer", Some("0"), Never),
    ("tcp_user_timeout", Some("0"), Now),
    ("track_extra_parameters", Some("IntervalStyle"), Never),
    ("transaction_timeout", Some("0"), Now),
    ("unix_socket_dir", Some("/tmp"), Restart),
    ("unix_socket_group", Some(""), Restart),
    ("unix_socket_mode", Some("0777"), Restart),
    ("user", None, Restart),
    ("verbose", None, Now),
    ("admin_listen", None, Restart),
    ("admin_token_file", None, Restart),
    ("max_listen_channels", Some("100"), Now),
    ("pool_shards", Some("1"), Restart),
    ("shared_listen", Some("0"), Now),
];

/// A key as it is known.
pub fn known(key: &str) -> Option<&'static Known> {
    KNOWN.iter().find(|(name, ..)| *name == key)
}
