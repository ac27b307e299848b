//! Which values a change of the file changes: limits, times, weights and all else that is not drawn. Not for
//! boxes and lines: that is `diff`. Called by `mod`.
//!
//! Invariant: no secret is in it, as none is among the values that hold.

use std::collections::{BTreeMap, HashMap, VecDeque};

use topology::SourceFile;
use topology::effective::{Effective, ValueFrom, effective};

/// Lines that are told; of more than these only the number.
const MOST: usize = 24;

/// The values that differ: `~ PATH: OLD → NEW  (FILE:LINE)`, and those that came and went.
pub(super) fn words(old: &SourceFile, new: &SourceFile) -> Vec<String> {
    let read = |source: &SourceFile| {
        let all = effective(&source.name, &source.text, &source.folder).unwrap_or_default();
        all.into_iter().map(|one| (one.path.clone(), one)).collect::<Vec<_>>()
    };
    let mut words = Vec::new();
    compare(&read(old), &read(new), &new.name, &mut words);
    if words.len() > MOST {
        let more = words.len() - MOST;
        words.truncate(MOST);
        words.push(format!("… {more} more values"));
    }
    words
}

/// A value by what is left of its path.
type Left = (String, Effective);

/// Values outside of lists, and the items of each list.
#[derive(Default)]
struct Parted<'a> {
    own: BTreeMap<&'a str, &'a Effective>,
    lists: BTreeMap<&'a str, Vec<Vec<Left>>>,
}

fn compare(old: &[Left], new: &[Left], file: &str, words: &mut Vec<String>) {
    let (mut old, new) = (parted(old), parted(new));
    for (rest, one) in &new.own {
        match old.own.get(rest) {
            Some(before) if before.value == one.value => {}
            Some(before) => {
                let (path, place) = (&one.path, at(file, one));
                words.push(format!("~ {path}: {} → {}{place}", before.value, one.value));
            }
            None => words.extend(came('+', file, one)),
        }
    }
    let gone = old.own.iter().filter(|(rest, _)| !new.own.contains_key(*rest));
    words.extend(gone.filter_map(|(_, one)| came('−', "", one)));
    for (name, items) in new.lists {
        let (pairs, left) = paired(old.lists.remove(name).unwrap_or_default(), &items);
        for (item, before) in items.iter().zip(pairs) {
            compare(&before.unwrap_or_default(), item, file, words);
        }
        left.iter().for_each(|item| compare(item, &[], file, words));
    }
    old.lists.values().flatten().for_each(|item| compare(item, &[], file, words));
}

/// What each item was before, and the items that are gone: first what is the same, then what has the same
/// name, path or address, wherever it stood.
fn paired(old: Vec<Vec<Left>>, new: &[Vec<Left>]) -> (Vec<Option<Vec<Left>>>, Vec<Vec<Left>>) {
    let mut left: Vec<Option<Vec<Left>>> = old.into_iter().map(Some).collect();
    let mut pairs: Vec<Option<Vec<Left>>> = vec![None; new.len()];
    for known_by in [content as Known, called] {
        let mut known: HashMap<String, VecDeque<usize>> = HashMap::new();
        for (n, item) in left.iter().enumerate() {
            if let Some(key) = item.as_deref().and_then(known_by) {
                known.entry(key).or_default().push_back(n);
            }
        }
        for (item, pair) in new.iter().zip(&mut pairs).filter(|(_, pair)| pair.is_none()) {
            let found = known_by(item).and_then(|key| known.get_mut(&key)?.pop_front());
            *pair = found.and_then(|n| left.get_mut(n)?.take());
        }
    }
    (pairs, left.into_iter().flatten().collect())
}

fn parted(values: &[Left]) -> Parted<'_> {
    let mut parted = Parted::default();
    let mut last = None;
    for (rest, one) in values {
        let item = rest.split_once('[').and_then(|(name, more)| {
            let (number, more) = more.split_once(']')?;
            Some((name, number, more))
        });
        let Some((name, number, more)) = item else {
            parted.own.insert(rest.as_str(), one);
            continue;
        };
        let items = parted.lists.entry(name).or_default();
        if last != Some((name, number)) {
            items.push(Vec::new());
            last = Some((name, number));
        }
        if let Some(item) = items.last_mut() {
            item.push((more.to_owned(), one.clone()));
        }
    }
    parted
}

/// What an item is known by.
type Known = fn(&[Left]) -> Option<String>;

/// All that an item says.
fn content(item: &[Left]) -> Option<String> {
    Some(item.iter().map(|(rest, one)| format!("{rest}={}\n", one.value)).collect())
}

/// The name, path or address that it has, of which there is one in a list.
fn called(item: &[Left]) -> Option<String> {
    [".name", ".path", ".address"].into_iter().find_map(|key| {
        let (_, one) = item.iter().find(|(rest, _)| rest == key)?;
        (one.from != ValueFrom::Default).then(|| format!("{key}={}", one.value))
    })
}

/// A value that was written or is written no more; defaults come and go with what they belong to.
fn came(sign: char, file: &str, one: &Effective) -> Option<String> {
    let place = if sign == '+' { at(file, one) } else { String::new() };
    (one.from != ValueFrom::Default).then(|| format!("{sign} {} = {}{place}", one.path, one.value))
}

fn at(file: &str, one: &Effective) -> String {
    match one.from {
        ValueFrom::File(place) => format!("  ({file}:{}:{})", place.line, place.column),
        ValueFrom::Default => "  (default)".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn source(text: &str) -> Arc<SourceFile> {
        topology::parse("a.yaml", text, std::path::Path::new(".")).expect("valid").source
    }

    const FILE: &str = "\
aqueduct: 1
services: { a: { endpoints: [{ address: 127.0.0.1:7001, weight: 2 }, 127.0.0.1:7002] } }
gateways:
  app:
    instances: { gw-1: { listen: 127.0.0.1:9441 } }
    limits: { total: { by: all, rate: 100/s } }
    limit-store: { redis: redis://127.0.0.1:6379 }
    routes:
      - { path: /a, to: a, timeout: 5s, limits: [total] }
      - { path: /b, to: a }
";

    /// T9: limits, weights and times that changed are told with their places, wherever their route stands.
    #[test]
    fn changed_values_are_told() {
        let new = FILE
            .replace("100/s", "200/s")
            .replace("weight: 2", "weight: 3")
            .replace("    routes:\n", "    routes:\n      - { path: /new, to: a }\n")
            .replace("timeout: 5s, ", "");
        let words = words(&source(FILE), &source(&new));
        let told =
            |text: &str| assert!(words.iter().any(|w| w.starts_with(text)), "{text} in {words:#?}");
        told("~ gateways.app.limits.total.rate: 100/s → 200/s  (a.yaml:6:");
        told("~ services.a.endpoints[0].weight: 2 → 3  (a.yaml:2:");
        told("~ gateways.app.routes[1].timeout: 5s → ");
        told("+ gateways.app.routes[0].path = /new  (a.yaml:9:");
        assert_eq!(words.len(), 5, "{words:#?}");
        assert!(super::words(&source(FILE), &source(FILE)).is_empty());
    }

    /// T9: many changes are counted.
    #[test]
    fn many_changes_are_counted() {
        let routes: String =
            (0..40).map(|n| format!("      - {{ path: /r{n}, to: a }}\n")).collect();
        let words = words(&source(FILE), &source(&format!("{FILE}{routes}")));
        assert_eq!((words.len(), words[MOST].as_str()), (MOST + 1, "… 56 more values"));
    }
}
