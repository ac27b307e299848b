//! Routes whose patterns meet: told where a template or a regular expression takes requests that
//! somebody may expect elsewhere, or never sees them (T4). Not for routes that are the same: `gateway`
//! refuses those.
//!
//! Invariant: only warnings, at most one for each route.

use std::collections::HashMap;

use regex::Regex;

use crate::gateway::Route;
use crate::raw::{Findings, Spot};
use crate::units::PathPattern;

/// Looks at the first thousand templates and regular expressions of a group. Routes are sorted by their
/// first segment, at which nearly all part, so that it is quick among thousands.
pub(super) fn check(routes: &[(Route, Spot)], out: &mut Findings) {
    let mut leads: HashMap<Option<&str>, Vec<usize>> = HashMap::new();
    for (index, (route, _)) in routes.iter().enumerate() {
        leads.entry(lead(&route.path)).or_default().push(index);
    }
    let fluid = routes.iter().enumerate().filter(|(_, (route, _))| {
        matches!(route.path, PathPattern::Template(_) | PathPattern::Regex(_))
    });
    for (index, (route, spot)) in fluid.take(MOST) {
        let own = match &route.path {
            PathPattern::Regex(text) => Regex::new(&PathPattern::whole(text)).ok(),
            _ => None,
        };
        let first = lead(&route.path);
        let mut others: Vec<usize> = match first {
            None => (0..routes.len()).collect(),
            Some(_) => {
                let near = [first, None].into_iter().filter_map(|lead| leads.get(&lead));
                near.flatten().copied().collect()
            }
        };
        others.sort_unstable();
        let others = others.into_iter().filter_map(|at| Some((at, &routes.get(at)?.0)));
        let mut others = others.filter(|(at, other)| {
            *at != index && hosts_meet(route, other) && methods_meet(route, other)
        });
        let found = others.find_map(|(at, other)| meet(route, own.as_ref(), other, at < index));
        if let Some(what) = found {
            out.warning(spot, what);
        }
    }
}

/// What is to be said of a route and another one; `earlier`: the other is above it.
fn meet(route: &Route, own: Option<&Regex>, other: &Route, earlier: bool) -> Option<String> {
    let line = other.place.line;
    let whole = other.when.is_empty();
    match (&route.path, &other.path) {
        (PathPattern::Regex(_), PathPattern::Exact(path)) if whole => {
            let met = own?.is_match(path);
            met.then(|| format!("`{path}` fits this, and goes to the route on line {line}: regular expressions come last"))
        }
        (PathPattern::Regex(text), PathPattern::Prefix(prefix)) if whole => {
            if under(literal(text), prefix) && other.methods.is_empty() {
                return Some(format!(
                    "nothing comes to this: the route on line {line} takes all below `{prefix}/` before regular expressions are tried"
                ));
            }
            let sample = SAMPLES.iter().map(|end| format!("{prefix}{end}"));
            let met = sample.into_iter().find(|path| own.is_some_and(|own| own.is_match(path)))?;
            Some(format!(
                "`{met}` fits this, and goes to the route on line {line}: regular expressions come last"
            ))
        }
        (PathPattern::Regex(_), PathPattern::Template(template)) if whole => {
            let path = filled(template);
            let met = own?.is_match(&path);
            met.then(|| format!("`{path}` fits this, and goes to the route on line {line}: regular expressions come last"))
        }
        (PathPattern::Regex(text), PathPattern::Regex(before)) if earlier => {
            let (one, two) = (literal(text), literal(before));
            let met = one.starts_with(two) || two.starts_with(one);
            met.then(|| format!("what fits this and the expression on line {line} goes there: of regular expressions the first wins"))
        }
        (PathPattern::Template(text), PathPattern::Template(before)) if earlier => {
            crossing(text, before, line, route.when == other.when && route.methods == other.methods)
        }
        (PathPattern::Template(text), PathPattern::Prefix(prefix)) => {
            let pairs = text.split('/').zip(prefix.split('/'));
            let fits = prefix.split('/').count() <= text.split('/').count()
                && pairs.clone().all(|(own, plain)| own == plain || any(own));
            let crossed = fits && pairs.clone().any(|(own, plain)| own != plain);
            crossed.then(|| format!("this takes requests below `{prefix}/` from the route on line {line}: templates come before prefixes"))
        }
        _ => None,
    }
}

/// Two templates that a path may fit, of which neither is the other with more said.
fn crossing(own: &str, other: &str, line: u32, same: bool) -> Option<String> {
    let pairs = || own.split('/').zip(other.split('/'));
    let level = own.split('/').count() == other.split('/').count();
    if !level || pairs().any(|(a, b)| a != b && !any(a) && !any(b)) {
        return None;
    }
    let ours = pairs().any(|(a, b)| !any(a) && any(b));
    let theirs = pairs().any(|(a, b)| any(a) && !any(b));
    match (ours, theirs) {
        (false, false) if same => Some(format!(
            "nothing comes to this: the route on line {line} has the same template, under other names"
        )),
        (true, true) => {
            let path: Vec<&str> = pairs().map(|(a, b)| if any(a) { b } else { a }).collect();
            let path = filled(&path.join("/"));
            Some(format!(
                "`{path}` fits this and the template on line {line}: whose first difference is a plain segment wins"
            ))
        }
        _ => None,
    }
}

fn any(segment: &str) -> bool {
    segment.starts_with('{')
}

/// A path that fits the template.
fn filled(template: &str) -> String {
    let segments: Vec<&str> =
        template.split('/').map(|segment| if any(segment) { "1" } else { segment }).collect();
    segments.join("/")
}

/// What every path that an expression fits begins with.
fn literal(text: &str) -> &str {
    let end = text.find(|c: char| !(c.is_ascii_alphanumeric() || b"/-_~%".contains(&(c as u8))));
    let Some(end) = end else { return text };
    // A quantifier or a choice takes back what stands before it.
    if text.contains('|') {
        return "";
    }
    let taken = text.get(end..).is_some_and(|rest| rest.starts_with(['*', '?', '{']));
    text.get(..if taken { end.saturating_sub(1) } else { end }).unwrap_or_default()
}

/// The first segment of all that fits; `None`: there are several.
fn lead(path: &PathPattern) -> Option<&str> {
    let text = match path {
        PathPattern::Exact(text) | PathPattern::Template(text) => text,
        PathPattern::Prefix(text) if text.is_empty() => return None,
        PathPattern::Prefix(text) => text,
        // Without an end the segment may go on.
        PathPattern::Regex(text) => {
            return literal(text).strip_prefix('/')?.split_once('/').map(|(first, _)| first);
        }
    };
    text.strip_prefix('/')?.split('/').next().filter(|segment| !any(segment))
}

/// Whether everything that begins so is the prefix or below it.
fn under(begin: &str, prefix: &str) -> bool {
    begin.strip_prefix(prefix).is_some_and(|rest| rest.starts_with('/'))
}

fn hosts_meet(one: &Route, two: &Route) -> bool {
    (one.hosts.is_empty() && two.hosts.is_empty())
        || one.hosts.iter().any(|host| two.hosts.contains(host))
}

fn methods_meet(one: &Route, two: &Route) -> bool {
    one.methods.is_empty()
        || two.methods.is_empty()
        || one.methods.iter().any(|method| two.methods.contains(method))
}

/// Templates and expressions that are looked at.
const MOST: usize = 1000;
/// Ends of paths below a prefix that are tried.
const SAMPLES: [&str; 6] = ["", "/", "/a", "/1", "/a/b", "/1/2"];
