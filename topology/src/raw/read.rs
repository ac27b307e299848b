//! From tree to raw values: maps, lists, names, single values, with a problem for everything that
//! does not fit. Not for what a single text means: `scalar`.
//!
//! Invariant: every problem carries the path of keys that leads to it.

use std::fmt;
use std::rc::Rc;

use schemars::{Schema, SchemaGenerator, json_schema};

use crate::effective::{Effective, ValueFrom, without_secrets};
use crate::problem::{Problem, Severity, nearest};
use crate::raw::{Flag, Scalar};
use crate::tree::{Extent, Key, Kind, Tree};
use crate::units::{At, UnitError};

/// The keys that lead to a value.
#[derive(Clone, Debug, Default)]
pub(crate) struct Path(Option<Rc<(Path, String)>>);

impl Path {
    fn key(&self, key: &str) -> Self {
        let dot = if self.0.is_some() { "." } else { "" };
        Self(Some(Rc::new((self.clone(), format!("{dot}{key}")))))
    }

    fn item(&self, index: usize) -> Self {
        Self(Some(Rc::new((self.clone(), format!("[{index}]")))))
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some(last) => write!(f, "{}{}", last.0, last.1),
            None => Ok(()),
        }
    }
}

/// Where a value was written and by which path of keys.
#[derive(Clone, Debug, Default)]
pub(crate) struct Spot {
    pub(crate) extent: Extent,
    pub(crate) path: Path,
}

/// Collects problems.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    pub(crate) list: Vec<Problem>,
    /// How many errors came after the list was full.
    pub(crate) unlisted: usize,
    /// Every value that is read and every default that stands in; `None`: nobody wants to know.
    pub(crate) effective: Option<Vec<Effective>>,
}

/// Most problems that are listed; nobody reads more, and looking through them stays cheap.
const MOST: usize = 1000;

impl Findings {
    /// Tells those who want to know what a key's value is.
    fn is_given(&mut self, at: &Spot, tree: &Tree) {
        if let (Some(effective), Kind::Text(text)) = (&mut self.effective, &tree.kind) {
            let (path, value) = (at.path.to_string(), without_secrets(text));
            effective.push(Effective { path, value, from: ValueFrom::File(tree.extent.place) });
        }
    }

    /// Tells them what stands in for a key that is not there.
    fn is_left_out(&mut self, at: &Path, key: &KeySpec) {
        if let Some(effective) = &mut self.effective
            && !key.required
        {
            let meaning = prose(key.doc);
            let value = meaning.split_once("Default: ").map_or("none", |(_, value)| value);
            effective.push(Effective {
                path: at.key(key.name).to_string(),
                value: value.trim_end_matches('.').to_owned(),
                from: ValueFrom::Default,
            });
        }
    }

    /// Notes something that makes the file unusable.
    pub(crate) fn error(&mut self, at: &Spot, what: impl Into<String>) -> Note<'_> {
        self.note(at, what.into(), Severity::Error)
    }

    /// Notes something that looks wrong or dangerous.
    pub(crate) fn warning(&mut self, at: &Spot, what: impl Into<String>) -> Note<'_> {
        self.note(at, what.into(), Severity::Warning)
    }

    /// Notes that a name is not among the `known` ones of its kind.
    pub(crate) fn unknown<'k>(
        &mut self,
        at: &Spot,
        kind: &str,
        name: &str,
        known: impl IntoIterator<Item = &'k str>,
    ) {
        let known: Vec<&str> = known.into_iter().collect();
        let note = self.error(at, format!("there is no {kind} `{name}`"));
        let note = match known.as_slice() {
            [] => note.allowed(format!("nothing yet: the file has no {kind}")),
            names => note.allowed(names.join(", ")),
        };
        if let Some(near) = nearest(name, known) {
            note.meant(near);
        }
    }

    /// Notes why a text is no value of its unit.
    pub(crate) fn unit(&mut self, at: &Spot, error: UnitError) {
        let note = self.error(at, error.what).allowed(error.allowed);
        if let Some(hint) = error.hint {
            note.hint(hint);
        }
    }

    /// Whether something about this value, or about one of its keys, was noted as wrong: then what
    /// is missing further on is no news.
    pub(crate) fn wrong(&self, at: &Spot) -> bool {
        let path = at.path.to_string();
        self.list.iter().filter(|p| p.severity == Severity::Error).any(|problem| {
            let rest = problem.path.strip_prefix(&path);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
        })
    }

    /// Whether the file is unusable.
    pub(crate) fn failed(&self) -> bool {
        self.unlisted > 0 || self.list.iter().any(|p| p.severity == Severity::Error)
    }

    fn note(&mut self, at: &Spot, what: String, severity: Severity) -> Note<'_> {
        if self.list.len() >= MOST {
            self.unlisted += usize::from(severity == Severity::Error);
            return Note(None);
        }
        let path = at.path.to_string();
        let (at, width) = (at.extent.place, at.extent.width);
        let problem = Problem { at, width, path, what, allowed: None, hint: None, severity };
        self.list.push(problem);
        Note(self.list.last_mut())
    }
}

/// The problem just noted, to say more about it.
pub(crate) struct Note<'a>(Option<&'a mut Problem>);

impl Note<'_> {
    /// Says what would be right.
    pub(crate) fn allowed(mut self, allowed: impl Into<String>) -> Self {
        if let Some(problem) = &mut self.0 {
            problem.allowed = Some(allowed.into());
        }
        self
    }

    /// Says what to do.
    pub(crate) fn hint(self, hint: impl Into<String>) {
        if let Some(problem) = self.0 {
            problem.hint = Some(hint.into());
        }
    }

    /// Says what was probably meant.
    pub(crate) fn meant(self, text: &str) {
        self.hint(format!("did you mean `{text}`?"));
    }
}

/// A type that a tree can be read into.
pub(crate) trait FromTree: Sized {
    /// The value, or `None` after noting why not.
    fn from_tree(tree: &Tree, at: &Spot, out: &mut Findings) -> Option<Self>;

    /// What an editor is told about it.
    fn schema(generator: &mut SchemaGenerator) -> Schema;
}

/// A single value and where it was written.
#[derive(Clone, Debug)]
pub(crate) struct Typed<T> {
    pub(crate) value: T,
    pub(crate) spot: Spot,
}

impl<T> Typed<T> {
    /// The form of the model.
    pub(crate) fn at(self) -> At<T> {
        At { value: self.value, place: self.spot.extent.place }
    }
}

impl<T: Scalar> FromTree for Typed<T> {
    fn from_tree(tree: &Tree, at: &Spot, out: &mut Findings) -> Option<Self> {
        let Kind::Text(text) = &tree.kind else {
            out.error(at, format!("{} stands here", tree.kind.words())).allowed(T::allowed());
            return None;
        };
        let mut spot = at.clone();
        if T::SECRET {
            spot.extent.width = 0;
        }
        match T::parse(text) {
            Ok(value) => Some(Self { value, spot: at.clone() }),
            Err(error) => {
                out.unit(&spot, error);
                None
            }
        }
    }

    fn schema(_: &mut SchemaGenerator) -> Schema {
        T::schema()
    }
}

impl<T: FromTree> FromTree for Vec<T> {
    fn from_tree(tree: &Tree, at: &Spot, out: &mut Findings) -> Option<Self> {
        let Kind::List(items) = &tree.kind else {
            let note = out.error(at, format!("{} stands here", tree.kind.words()));
            let note = note.allowed("a list: [first, second], or one line with `- ` for each");
            if let Kind::Text(text) = &tree.kind {
                note.meant(&format!("[{text}]"));
            }
            return None;
        };
        let mut all = Vec::with_capacity(items.len());
        for (index, item) in items.iter().enumerate() {
            let spot = Spot { extent: item.extent, path: at.path.item(index) };
            out.is_given(&spot, item);
            all.extend(T::from_tree(item, &spot, out));
        }
        // A list of which nothing is right is not an empty one.
        (items.is_empty() || !all.is_empty()).then_some(all)
    }

    fn schema(generator: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "array", "items": T::schema(generator) })
    }
}

/// One value, or a list of them.
#[derive(Debug)]
pub(crate) struct OneOrMany<T>(pub(crate) Vec<T>);

impl<T: FromTree> FromTree for OneOrMany<T> {
    fn from_tree(tree: &Tree, at: &Spot, out: &mut Findings) -> Option<Self> {
        match tree.kind {
            Kind::Text(_) => Some(Self(vec![T::from_tree(tree, at, out)?])),
            _ => Vec::from_tree(tree, at, out).map(Self),
        }
    }

    fn schema(generator: &mut SchemaGenerator) -> Schema {
        let one = T::schema(generator);
        json_schema!({ "anyOf": [one, { "type": "array", "items": one }] })
    }
}

/// `true`, `false`, or a section with more.
#[derive(Debug)]
pub(crate) enum Choice<S> {
    Flag(Typed<Flag>),
    Section(Box<S>),
}

impl<S: FromTree> FromTree for Choice<S> {
    fn from_tree(tree: &Tree, at: &Spot, out: &mut Findings) -> Option<Self> {
        match tree.kind {
            Kind::Text(_) => Typed::from_tree(tree, at, out).map(Self::Flag),
            _ => S::from_tree(tree, at, out).map(|section| Self::Section(Box::new(section))),
        }
    }

    fn schema(generator: &mut SchemaGenerator) -> Schema {
        json_schema!({ "anyOf": [Typed::<Flag>::schema(generator), S::schema(generator)] })
    }
}

/// A key that somebody will look for where it cannot be: that is told at its place.
#[derive(Debug)]
pub(crate) struct Refused(pub(crate) Spot);

impl FromTree for Refused {
    fn from_tree(_tree: &Tree, at: &Spot, _out: &mut Findings) -> Option<Self> {
        Some(Self(at.clone()))
    }

    fn schema(_generator: &mut SchemaGenerator) -> Schema {
        json_schema!({ "not": {} })
    }
}

/// Things by name, in the file's order.
#[derive(Debug)]
pub(crate) struct Named<T>(pub(crate) Vec<Entry<T>>);

impl<T> Default for Named<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T> IntoIterator for Named<T> {
    type Item = Entry<T>;
    type IntoIter = std::vec::IntoIter<Entry<T>>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

/// A name and what it names; the spot is the name's.
#[derive(Debug)]
pub(crate) struct Entry<T> {
    pub(crate) name: String,
    pub(crate) spot: Spot,
    pub(crate) value: T,
}

impl<T: FromTree> FromTree for Named<T> {
    fn from_tree(tree: &Tree, at: &Spot, out: &mut Findings) -> Option<Self> {
        let Kind::Map(entries) = &tree.kind else {
            let what = format!("{} stands here", tree.kind.words());
            out.error(at, what).allowed("a name, a colon and what it names, for each");
            return None;
        };
        let mut all = Vec::with_capacity(entries.len());
        for (key, value) in entries {
            let named = Spot { extent: key.extent, path: at.path.key(&key.text) };
            let child = child(at, key, value);
            out.is_given(&child, value);
            if let Some(value) = T::from_tree(value, &child, out) {
                all.push(Entry { name: key.text.clone(), spot: named, value });
            }
        }
        (entries.is_empty() || !all.is_empty()).then_some(Self(all))
    }

    fn schema(generator: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "object", "additionalProperties": T::schema(generator) })
    }
}

/// Where a key's value counts as written: at the value when it is a single one, else at the key.
fn child(at: &Spot, key: &Key, value: &Tree) -> Spot {
    let extent = if matches!(value.kind, Kind::Text(_)) { value.extent } else { key.extent };
    Spot { extent, path: at.path.key(&key.text) }
}

/// One key that a section may have.
pub(crate) struct KeySpec {
    pub(crate) name: &'static str,
    pub(crate) required: bool,
    pub(crate) doc: &'static [&'static str],
}

/// Lines of a doc comment as one text.
pub(crate) fn prose(doc: &[&str]) -> String {
    doc.iter().map(|line| line.trim()).collect::<Vec<_>>().join(" ")
}

/// An opened map whose keys are known.
pub(crate) struct Fields<'n> {
    entries: &'n [(Key, Tree)],
    keys: &'static [KeySpec],
    at: Spot,
}

impl<'n> Fields<'n> {
    /// Opens a map; notes unknown keys, and those that must be there and are not.
    pub(crate) fn open(
        tree: &'n Tree,
        at: &Spot,
        keys: &'static [KeySpec],
        out: &mut Findings,
    ) -> Option<Self> {
        let known: Vec<&str> = keys.iter().map(|key| key.name).collect();
        let Kind::Map(entries) = &tree.kind else {
            let what = match (&tree.kind, &at.path.0) {
                (Kind::Empty, None) => "the file is empty".to_owned(),
                (kind, _) => format!("{} stands here", kind.words()),
            };
            out.error(at, what)
                .allowed(format!("keys and values; the keys are {}", known.join(", ")));
            return None;
        };
        for (key, _) in entries {
            if !known.contains(&key.text.as_str()) {
                let spot = Spot { extent: key.extent, path: at.path.key(&key.text) };
                let note = out.error(&spot, format!("there is no key `{}` here", key.text));
                let note = note.allowed(known.join(", "));
                if let Some(near) = nearest(&key.text, known.iter().copied()) {
                    note.meant(near);
                }
            }
        }
        for wanted in keys.iter().filter(|key| key.required) {
            if !entries.iter().any(|(key, _)| key.text == wanted.name) {
                out.error(at, format!("the key `{}` is missing", wanted.name)).hint(format!(
                    "{}: {}",
                    wanted.name,
                    prose(wanted.doc)
                ));
            }
        }
        Some(Self { entries, keys, at: at.clone() })
    }

    /// The value of a key; `None` when it is absent or wrong.
    pub(crate) fn take<T: FromTree>(&self, name: &str, out: &mut Findings) -> Option<T> {
        let Some((key, value)) = self.entries.iter().find(|(key, _)| key.text == name) else {
            let key = self.keys.iter().find(|key| key.name == name)?;
            out.is_left_out(&self.at.path, key);
            return None;
        };
        let spot = child(&self.at, key, value);
        out.is_given(&spot, value);
        if matches!(value.kind, Kind::Empty) {
            out.error(&spot, format!("`{name}` has no value"))
                .hint("write one, or leave the key out".to_owned());
            return None;
        }
        T::from_tree(value, &spot, out)
    }
}
