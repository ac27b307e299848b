//! What stands at a place of a file that reads well: whose keys, and how much text. Not for finding faults: the
//! file's reader says of its own where they stand. Called by `aqueduct check` for what the world lacks.
//!
//! Invariant: what may hold a secret is not to be shown.

use crate::effective::without_secrets;
use crate::problem::Problem;
use crate::tree::{self, Kind, Tree};
use crate::units::Place;

/// Keys and width of what stands at a place.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Meant {
    path: String,
    width: u32,
}

/// Says in findings that name a place alone what they are about.
pub fn complete(text: &str, found: &mut [Problem]) {
    let lacking = |problem: &Problem| problem.path.is_empty() && problem.at != Place::default();
    if !found.iter().any(lacking) {
        return;
    }
    let Ok(tree) = tree::read(text, &mut Vec::new()) else { return };
    for problem in found.iter_mut().filter(|problem| lacking(problem)) {
        if let Some(meant) = within(&tree, problem.at, "") {
            (problem.path, problem.width) = (meant.path, meant.width);
        }
    }
}

/// What of a tree stands there: a thing of a list as a whole, else the narrowest.
fn within(tree: &Tree, at: Place, path: &str) -> Option<Meant> {
    let meant = |width| Some(Meant { path: path.to_owned(), width });
    match &tree.kind {
        Kind::Text(text) if tree.extent.place == at => {
            let secret = without_secrets(text) != *text;
            meant(if secret { 0 } else { tree.extent.width })
        }
        Kind::Map(entries) => entries.iter().find_map(|(key, value)| {
            let path = match path {
                "" => key.text.clone(),
                path => format!("{path}.{}", key.text),
            };
            if key.extent.place == at {
                return Some(Meant { path, width: key.extent.width });
            }
            within(value, at, &path)
        }),
        Kind::List(items) => items.iter().enumerate().find_map(|(index, item)| {
            let path = format!("{path}[{index}]");
            let whole = item.extent.place == at && matches!(item.kind, Kind::Map(_));
            if whole { Some(Meant { path, width: 1 }) } else { within(item, at, &path) }
        }),
        Kind::Empty | Kind::Text(_) => None,
    }
    .or_else(|| (tree.extent.place == at).then(|| meant(tree.extent.width)).flatten())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::problem::Severity;

    const TEXT: &str = "pools:\n  data: { users: { app: { secret: file:app.password } } }\nroutes:\n  - path: /a\n    \
                        to: x\n  - { path: /b }\nstore: redis://u:secret@h:1\n";

    fn meant(line: u32, column: u32) -> (String, u32) {
        let mut found = [Problem {
            at: Place { line, column },
            width: 1,
            path: String::new(),
            what: "is not there".to_owned(),
            allowed: None,
            hint: None,
            severity: Severity::Error,
        }];
        complete(TEXT, &mut found);
        let [problem] = found;
        (problem.path, problem.width)
    }

    /// T4: a place has its keys, a thing of a list is meant whole, and a password is not shown.
    #[test]
    fn places_have_their_keys() {
        assert_eq!(meant(2, 35), ("pools.data.users.app.secret".to_owned(), 17));
        assert_eq!(meant(2, 18), ("pools.data.users".to_owned(), 1));
        assert_eq!(meant(2, 3), ("pools.data".to_owned(), 4));
        assert_eq!(meant(4, 5), ("routes[0]".to_owned(), 1));
        assert_eq!(meant(5, 9), ("routes[0].to".to_owned(), 1));
        assert_eq!(meant(6, 5), ("routes[1]".to_owned(), 1));
        assert_eq!(meant(7, 8), ("store".to_owned(), 0));
        assert_eq!(meant(9, 9), (String::new(), 1));
    }
}
