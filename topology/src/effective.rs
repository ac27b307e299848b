//! Every value that holds, with where it comes from: what is written, and what stands in for what is
//! not. Not for what runs, which is the model. Called by `aqueduct check --print-effective`.
//!
//! Invariant: no secret is in it.

use std::path::Path;
use std::sync::Arc;

use crate::model::SourceFile;
use crate::units::Place;
use crate::{Problems, raw};

/// One value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Effective {
    /// The path of keys, `gateways.app.routes[2].timeout`.
    pub path: String,
    /// As it is written; of a default what the manual says of it.
    pub value: String,
    /// Where it comes from.
    pub from: ValueFrom,
}

/// Where a value comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ValueFrom {
    /// It is written there.
    File(Place),
    /// Nothing is written.
    Default,
}

/// All values of a file that can be used, in the order of the manual. `name` and `folder` as
/// [`parse`](crate::parse) has them.
///
/// # Errors
/// What is wrong with the file.
pub fn effective(name: &str, text: &str, folder: &Path) -> Result<Vec<Effective>, Problems> {
    let source = Arc::new(SourceFile {
        name: name.to_owned(),
        folder: folder.to_owned(),
        text: text.to_owned(),
        form: crate::Form::Topology,
    });
    let mut out = raw::Findings { effective: Some(Vec::new()), ..raw::Findings::default() };
    let found = crate::read(&source, &mut out);
    match (found, out.effective.take()) {
        (Some(_), Some(effective)) if !out.failed() => Ok(effective),
        _ => Err(Problems::new(source, out.list, out.unlisted)),
    }
}

/// A text as it may be shown: of a URL not who logs in, nor with what. Secrets stand nowhere else in a
/// file that can be used.
pub fn without_secrets(text: &str) -> String {
    let authority = text.split_once("://").map(|(scheme, rest)| {
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        (scheme, rest.split_at(end))
    });
    match authority {
        Some((scheme, (authority, rest))) => match authority.rsplit_once('@') {
            Some((_, host)) => format!("{scheme}://{host}{rest}"),
            None => text.to_owned(),
        },
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// T4: what is written has its place, what is not its default.
    #[test]
    fn every_value_says_where_it_comes_from() {
        let text = "services: { game: { endpoints: [10.0.0.7:7801] } }\nnlbs:\n  edge:\n    instances: \
                    { nlb-1: { address: 127.0.0.1 } }\n    hash-key: env:KEY\n    listeners: { game: { udp: \
                    \"*:7777\", to: game, idle: 5s } }\n";
        let all = effective("a.yaml", text, Path::new(".")).expect("valid");
        let of = |path: &str| {
            let one = all.iter().find(|one| one.path == path);
            one.map(|one| (one.value.as_str(), one.from))
        };
        let at = |line, column| ValueFrom::File(Place { line, column });
        assert_eq!(of("services.game.endpoints[0]"), Some(("10.0.0.7:7801", at(1, 33))));
        assert_eq!(of("nlbs.edge.listeners.game.idle"), Some(("5s", at(6, 57))));
        assert_eq!(of("services.game.slow-start"), Some(("none", ValueFrom::Default)));
        let drain = of("nlbs.edge.drain");
        assert_eq!(drain, Some(("30s", ValueFrom::Default)));
        assert_eq!(of("gateways"), Some(("none", ValueFrom::Default)));
        // What must be there has no default, so a path comes once.
        let mut paths: Vec<&str> = all.iter().map(|one| one.path.as_str()).collect();
        let count = paths.len();
        paths.sort_unstable();
        paths.dedup();
        assert_eq!(paths.len(), count);
    }

    #[test]
    fn no_password_is_shown() {
        for (text, shown) in [
            ("redis://user:p@ss@host:6379/1", "redis://host:6379/1"),
            ("redis://host:6379", "redis://host:6379"),
            ("https://id.example/a@b", "https://id.example/a@b"),
            ("a@b", "a@b"),
        ] {
            assert_eq!(without_secrets(text), shown);
        }
    }
}
