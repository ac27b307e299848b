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
    ("so_reuseport", Some("0"), Restart),
    ("stats_period", Some("60"), Now),
    ("stats_users", Some(""), Now),
    ("suspend_timeout", Some("10"), Never),
    ("syslog", Some("0"), Now),
    ("syslog_facility", Some("daemon"), Now),
    ("syslog_ident", Some("pgbouncer"), Now),
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

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::*;

    const USERS: &str = "\"app\" \"SCRAM-SHA-256$4096:abc\"\n\"root\" \"it\"\"s\" \"\"\n";

    fn read(imported: &Imported) -> crate::Topology {
        let topology = crate::parse("imported.yaml", &imported.text, Path::new("/"));
        topology.unwrap_or_else(|fault| panic!("{fault}\n{}", imported.text))
    }

    /// P6: every key that means something here is known by its name and default, and what `SET` says of one holds
    /// together with what was said before, or not at all.
    #[test]
    fn one_key_is_said_anew() {
        for key in COUNTS.iter().chain(&TIMES).chain(&SWITCHES) {
            assert!(known(key).is_some_and(|(.., change)| *change != Change::Never), "{key}");
        }
        for (key, default, _) in INSTEAD {
            let (_, theirs, change) = known(key).expect(key);
            assert_eq!(
                (theirs.unwrap_or_default(), *change),
                (default_of(key, default), Change::Never)
            );
        }
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("pgbouncer.ini");
        let users = folder.path().join("users");
        std::fs::write(&users, "\"app\" \"secret\"\n").expect("written");
        let ini = format!(
            "[pgbouncer]\nauth_file = {}\nquery_timeout = 3\n[databases]\nshop = host=127.0.0.1\n",
            users.display()
        );
        std::fs::write(&path, ini).expect("written");
        let loaded = load(&path).expect("read");
        assert_eq!(loaded.process.said["query_timeout"], "3");
        // What is read is read once.
        std::fs::remove_file(&path).expect("gone");
        let first = with(&loaded.process, "max_client_conn", "7").expect("lawful");
        let second = with(&first.process, "query_timeout", "0.5").expect("lawful");
        let settings = &second.topology.pools[0].settings;
        assert_eq!((settings.max_client_conn.get(), settings.query_timeout.as_millis()), (7, 500));
        assert_eq!(second.process.said["query_timeout"], "0.5");
        assert!(
            format!("{:?}", second.process).contains("texts of ")
                && !format!("{:?}", second.process).contains("secret")
        );
        for (key, value, word) in [
            ("query_timeout", "long", "is no time"),
            ("server_connect_timeout", "0", "the default is taken"),
            ("pool_mode", "none", "pool_mode none"),
            ("listen_port", "1", "restart"),
            ("pkt_buf", "1", "no effect"),
            ("nonsense", "1", "SHOW CONFIG"),
            ("auth_query", "a\nadmin_users = app", "one line"),
        ] {
            let fault = with(&second.process, key, value).expect_err(key).to_string();
            assert!(fault.contains(word), "{fault}");
        }
    }

    /// Where PgBouncer says nothing of an alias.
    fn default_of<'a>(key: &str, default: &'a str) -> &'a str {
        if key == "service_name" { "" } else { default }
    }

    /// O1: the admin listener has keys of its own, and beside loopback it asks for a token.
    #[test]
    fn an_admin_listener_is_translated() {
        let ini = |more: &str| format!("[databases]\na = host=10.0.0.1\n[pgbouncer]\n{more}\n");
        let own = import(&ini("admin_listen = 127.0.0.1:9127"), Some(USERS));
        let admin = |imported: &Imported| {
            read(imported).pools[0].instances[0].admin.as_ref().map(|at| at.value)
        };
        assert_eq!(admin(&own), Some("127.0.0.1:9127".parse().expect("an address")));
        let asked =
            import(&ini("admin_listen = 0.0.0.0:9127\nadmin_token_file = /etc/token"), Some(USERS));
        assert_eq!(admin(&asked), Some("0.0.0.0:9127".parse().expect("an address")));
        assert!(read(&asked).admin_token.is_some());
        for (wrong, word) in
            [("0.0.0.0:9127", "needs admin_token_file"), ("9127", "no ADDRESS:PORT")]
        {
            let imported = import(&ini(&format!("admin_listen = {wrong}")), Some(USERS));
            assert!(
                imported.notes.iter().any(|note| note.stops && note.what.contains(word)),
                "{wrong}"
            );
        }
        assert_eq!(admin(&import(&ini(""), Some(USERS))), None);
    }
}
