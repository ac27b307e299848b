//! `client_tls_*` and `server_tls_*` as sections of the topology file. Not for reading certificates. Called
//! by `pgbouncer`.
//!
//! Invariant: what PgBouncer would verify is verified.

use std::fmt::Write as _;

use super::{Out, quoted};

impl Out {
    /// Towards clients.
    pub(super) fn tls(&mut self, text: &mut String) {
        let number = self.main.get("client_tls_sslmode").map_or(0, |line| line.number);
        let mode = self.value("client_tls_sslmode").unwrap_or_else(|| "disable".to_owned());
        let mode = mode.to_ascii_lowercase();
        let (key, chain) = (self.value("client_tls_key_file"), self.value("client_tls_cert_file"));
        let authority = self.value("client_tls_ca_file");
        if mode == "disable" {
            return;
        }
        let (Some(key), Some(chain)) = (key, chain) else {
            let what = "client_tls_sslmode needs client_tls_key_file and client_tls_cert_file";
            return self.stop(number, what);
        };
        let (chain, key) = (quoted(&format!("file:{chain}")), quoted(&format!("file:{key}")));
        let verified = mode.starts_with("verify-");
        let known = verified || matches!(mode.as_str(), "allow" | "prefer" | "require");
        if !known {
            self.stop(number, format!("client_tls_sslmode {mode} is none: require is written"));
        } else if verified && authority.is_none() {
            self.stop(number, format!("client_tls_sslmode {mode} needs client_tls_ca_file"));
        }
        let lawful = known && (!verified || authority.is_some());
        let mode = if lawful { mode.as_str() } else { "require" };
        let _ = write!(text, "    tls: {{ certificates: [{{ chain: {chain}, key: {key} }}]");
        if let Some(authority) = authority {
            let _ = write!(text, ", client-ca: {}", quoted(&format!("file:{authority}")));
            if !verified {
                text.push_str(", client-certificates: optional");
            }
        }
        let _ = writeln!(text, " }}\n    sslmode: {mode}");
    }

    /// Towards servers, as the end of a database's section.
    pub(super) fn server_tls(&mut self) -> String {
        let line = self.take("server_tls_sslmode").filter(|line| !line.value.is_empty());
        let (mode, number) = line
            .map_or_else(|| ("prefer".to_owned(), 0), |l| (l.value.to_ascii_lowercase(), l.number));
        let authority = self.take("server_tls_ca_file").filter(|line| !line.value.is_empty());
        let (key, chain) = (self.value("server_tls_key_file"), self.value("server_tls_cert_file"));
        let verified = matches!(mode.as_str(), "verify-ca" | "verify-full");
        if !verified && !matches!(mode.as_str(), "disable" | "allow" | "prefer" | "require") {
            self.stop(number, format!("server_tls_sslmode {mode} is none"));
            return String::new();
        }
        let mut text = format!(", tls: {{ mode: {mode}");
        match authority {
            Some(line) if verified => {
                let _ = write!(text, ", ca: {}", quoted(&format!("file:{}", line.value)));
            }
            // Ours would hold servers to it, as libpq does.
            Some(line) => {
                let what = format!("server_tls_ca_file: {mode} verifies nobody; verify-ca does");
                self.note(line.number, what);
            }
            None if verified => {
                self.stop(number, format!("server_tls_sslmode {mode} needs server_tls_ca_file"));
            }
            None => {}
        }
        match (chain, key) {
            (Some(chain), Some(key)) => {
                let (chain, key) =
                    (quoted(&format!("file:{chain}")), quoted(&format!("file:{key}")));
                let _ = write!(text, ", certificate: {{ chain: {chain}, key: {key} }}");
            }
            (None, None) => {}
            _ => self.stop(number, "server_tls_cert_file and server_tls_key_file go together"),
        }
        text.push_str(" }");
        text
    }
}
