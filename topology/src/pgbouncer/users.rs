//! Who may log in, and how it proves that: the user list, `auth_type`, the console's users. Not for lookups:
//! those are `lookup`. Used by `pgbouncer` alone.
//!
//! Invariant: nobody who had to prove who it is gets in without.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::{Out, StandIn, quoted};

impl Out {
    /// The users, and the secrets that their entries name.
    pub(super) fn users(
        &mut self,
        known: Vec<(String, String)>,
        mut terms: BTreeMap<String, String>,
        text: &mut String,
    ) {
        let list = |line: Option<String>| -> Vec<String> {
            let text = line.unwrap_or_default();
            text.split(',').map(|name| name.trim().to_owned()).filter(|n| !n.is_empty()).collect()
        };
        let admins = list(self.value("admin_users"));
        let viewers = list(self.value("stats_users"));
        let kind = self.take("auth_type");
        let number = kind.as_ref().map_or(0, |line| line.number);
        let kind = kind.map_or_else(|| "md5".to_owned(), |line| line.value.to_ascii_lowercase());
        let trust = matches!(kind.as_str(), "trust" | "any");
        match kind.as_str() {
            "trust" | "hba" | "cert" => {}
            "md5" => self.auth_type = Some("md5"),
            "scram-sha-256" => self.auth_type = Some("scram-sha-256"),
            "plain" => self.auth_type = Some("plain"),
            "any" => self.stop(number, "auth_type any: each role is written by its name"),
            other => {
                let what = format!("auth_type {other}: users prove who they are by secret");
                self.stop(number, what);
            }
        }
        self.take("auth_file");
        let ruled = self.rules(&kind, number, text);
        let mut all: BTreeMap<String, Option<String>> =
            admins.iter().chain(&viewers).map(|name| (name.clone(), None)).collect();
        all.extend(known.into_iter().map(|(name, secret)| (name, Some(secret))));
        for name in terms.keys() {
            all.entry(name.clone()).or_insert(None);
        }
        let mut any = false;
        let start = text.len();
        text.push_str("    users:\n");
        for (name, secret) in &all {
            if name.is_empty() || name.len() > 63 {
                self.note(0, "a user of the user list has no name that a role may have");
                continue;
            }
            let secret = secret.as_ref().filter(|secret| !secret.is_empty());
            let terms = terms.remove(name).unwrap_or_default();
            if secret.is_none() && !trust && self.looks_up {
                // What it must prove is looked up.
                if admins.contains(name) || viewers.contains(name) {
                    let what = "has no secret in the user list: no console for who is looked up";
                    self.note(0, format!("user {name} {what}"));
                }
                let _ = writeln!(text, "      {}: {{ looked-up: true,{terms} }}", quoted(name));
                any = true;
                continue;
            }
            if secret.is_none() && !trust && !ruled {
                self.note(0, format!("user {name} has no secret in the user list: it is left out"));
                continue;
            }
            any = true;
            let _ = write!(text, "      {}: {{", quoted(name));
            if let Some(secret) = secret {
                // With trust it serves towards servers alone; a verifier cannot.
                let key = if trust { "server-password" } else { "secret" };
                if !trust || !(secret.starts_with("SCRAM-SHA-256$") || secret.starts_with("md5")) {
                    let _ = write!(text, " {key}: {},", self.secret(name, secret));
                }
            }
            text.push_str(&terms);
            if admins.contains(name) {
                text.push_str(" console: admin");
            } else if viewers.contains(name) {
                text.push_str(" console: stats");
            }
            text.push_str(" }\n");
        }
        if !any && self.looks_up {
            text.truncate(start);
            text.push_str("    users: {}\n");
        } else if !any {
            self.note(0, "no user has a secret: `app` is written; put its secret into secrets/app");
            text.push_str("      app: { secret: \"file:secrets/app\" }\n");
            self.stand_ins.push(StandIn::User);
        }
    }

    /// The rules of `auth_type = hba`, and the one that `cert` stands for; whether there are any, without
    /// which a user that has no secret would be everybody's.
    fn rules(&mut self, kind: &str, number: u32, text: &mut String) -> bool {
        let (rules, maps) = (self.value("auth_hba_file"), self.value("auth_ident_file"));
        match (kind, rules) {
            ("hba", Some(path)) => {
                let _ = writeln!(text, "    hba: {}", quoted(&format!("file:{path}")));
                if let Some(maps) = maps {
                    let _ = writeln!(text, "    ident: {}", quoted(&format!("file:{maps}")));
                }
                true
            }
            ("hba", None) => {
                self.note(number, "auth_type hba without auth_hba_file: no rule lets anybody in");
                let none = self.secret("hba", "# There is no auth_hba_file.");
                let _ = writeln!(text, "    hba: {none}");
                true
            }
            ("cert", _) => {
                let rule = self.secret("hba", "hostssl all all all cert");
                let _ = writeln!(text, "    hba: {rule}");
                true
            }
            (_, Some(_)) => {
                self.note(0, "auth_hba_file: without `auth_type = hba` no rule is read");
                false
            }
            _ => false,
        }
    }
}
