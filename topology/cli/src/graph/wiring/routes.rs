//! The rows of a gateway's box: where its routes lead, and for whom. Called by `wiring`.
//!
//! Invariant: routes that lead to the same place share a row.

use topology::gateway::{Expected, Predicate, Route};

use super::Row;

/// A row, and how many routes it stands for.
#[derive(Debug, Default)]
pub(super) struct Rows(Vec<(Row, usize)>);

impl Rows {
    /// One route more to this place.
    pub(super) fn add(&mut self, place: &str, route: &Route) {
        match self.0.iter_mut().find(|(known, _)| known.id == place) {
            Some((_, count)) => *count += 1,
            None => self.0.push((Row::new(place, &text(route)), 1)),
        }
    }

    /// `/api/a/*`, `/api/a/* +1`, `/api/a/* +2`.
    pub(super) fn done(self) -> Vec<Row> {
        let counted = |(mut row, count): (Row, usize)| {
            if count > 1 {
                row.text.push_str(&format!(" +{}", count - 1));
            }
            row
        };
        self.0.into_iter().map(counted).collect()
    }
}

/// `/`, `shop.example/`, `/  client=mobile`, `/  x-country: IN`: its path, and what else a request must have.
fn text(route: &Route) -> String {
    let host = route.hosts.first().map(ToString::to_string).unwrap_or_default();
    let more = match route.hosts.len() {
        0 | 1 => String::new(),
        n => format!("(+{})", n - 1),
    };
    let path = format!("{host}{more}{}", route.path);
    let when: Vec<String> = route.when.iter().map(shown).collect();
    if when.is_empty() {
        return path;
    }
    let when = when.join(", ");
    match when.chars().count() > LONGEST {
        true => format!("{path}  {}…", when.chars().take(LONGEST).collect::<String>()),
        false => format!("{path}  {when}"),
    }
}

/// More of a condition would make the box wide.
const LONGEST: usize = 40;

fn shown(predicate: &Predicate) -> String {
    let wanted = |sign: &str, expected: &Expected| match expected {
        Expected::Any => String::new(),
        Expected::Exactly(value) => format!("{sign}{value}"),
    };
    match predicate {
        Predicate::Header(name, value) => format!("{name}{}", wanted(": ", value)),
        Predicate::Query(name, value) => format!("?{name}{}", wanted("=", value)),
        Predicate::Cookie(name, value) => format!("cookie {name}{}", wanted("=", value)),
        Predicate::AcceptVersion(versions) => {
            let each = versions.iter().map(|one| one.as_deref().unwrap_or("none"));
            format!("version {}", each.collect::<Vec<_>>().join(" or "))
        }
        Predicate::Client(client) => format!("{client:?}").to_lowercase(),
    }
}
