//! Changes of a JSON document by path. Only what lies on the way to a member is read; all else, numbers of
//! any length among it, stays as it was written. Not for schemas. Called by `transform`.
//!
//! Invariant: a document in which a member on the way stands twice is refused: two programs would read it
//! differently (RFC 8259 §4). No document grows by more than was said when it was read.

use std::collections::HashSet;
use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;
use thiserror::Error;
use topology::transform::{JsonName, JsonStep, JsonValue};

/// Why a document cannot be changed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum JsonError {
    /// It is none.
    #[error("it is no JSON")]
    Syntax,
    /// A name stands twice in one object.
    #[error("`{0}` stands twice in an object")]
    Twice(String),
    /// A member is wanted of what has none.
    #[error("`{0}` cannot be set there")]
    NoObject(String),
    /// There is nothing to set a member to.
    #[error("there is no value for `{0}`")]
    NoValue(String),
    /// What is put into it is more than it may grow by.
    #[error("it would grow by more than `max`")]
    TooLarge,
}

/// A document, read as far as was needed.
#[derive(Debug)]
pub struct Document<'a> {
    tree: Tree<'a>,
    room: Room,
}

/// Bytes by which a document may still grow.
#[derive(Clone, Copy, Debug)]
struct Room(u64);

impl Room {
    fn take(&mut self, bytes: usize) -> Result<(), JsonError> {
        self.0 = self.0.checked_sub(bytes as u64).ok_or(JsonError::TooLarge)?;
        Ok(())
    }
}

#[derive(Clone, Debug)]
enum Tree<'a> {
    /// As it was written.
    Raw(&'a str),
    /// Ours.
    Made(String),
    Object(Vec<(String, Tree<'a>)>),
    List(Vec<Tree<'a>>),
}

/// An object or a list, one level of it.
enum Level<'a> {
    Object(Vec<(String, Tree<'a>)>),
    List(Vec<Tree<'a>>),
}

impl<'a> Document<'a> {
    /// Of a text.
    ///
    /// # Errors
    /// It is no JSON.
    pub fn read(text: &'a str) -> Result<Self, JsonError> {
        Self::bounded(text, u64::MAX)
    }

    /// Of a text; it may grow by so many bytes.
    ///
    /// # Errors
    /// It is no JSON.
    pub fn bounded(text: &'a str, room: u64) -> Result<Self, JsonError> {
        let whole: &RawValue = serde_json::from_str(text).map_err(|_| JsonError::Syntax)?;
        Ok(Self { tree: Tree::Raw(whole.get()), room: Room(room) })
    }

    /// Carries a step out; `texts` are those of templates.
    ///
    /// # Errors
    /// The document is as it was then, or of no use.
    pub fn apply(
        &mut self,
        step: &JsonStep,
        texts: &mut impl Iterator<Item = Option<String>>,
    ) -> Result<(), JsonError> {
        let (tree, room) = (&mut self.tree, &mut self.room);
        match step {
            JsonStep::Set(path, value) => {
                let made = match value {
                    JsonValue::Json(json) => json.clone(),
                    JsonValue::Text(_) => {
                        let text = texts.next().flatten();
                        let text = text.ok_or_else(|| JsonError::NoValue(name_of(path)))?;
                        serde_json::Value::String(text).to_string()
                    }
                };
                tree.set(path, &Tree::Made(made), room)
            }
            JsonStep::Remove(path) => tree.each(path, &mut |members, at| {
                members.remove(at);
                Ok(())
            }),
            JsonStep::Rename(path, to) => tree.each(path, &mut |members, at| {
                room.take(to.len())?;
                if let Some((name, _)) = members.get_mut(at) {
                    name.clone_from(to);
                }
                // What had the name before makes room.
                let mut place = 0..;
                members.retain(|(name, _)| place.next() == Some(at) || name != to);
                Ok(())
            }),
            JsonStep::Move(from, to) => {
                let mut taken = None;
                tree.each(from, &mut |members, at| {
                    taken = Some(members.remove(at).1);
                    Ok(())
                })?;
                let Some(value) = taken else { return Ok(()) };
                // It was there before: it takes no more room than it had.
                room.0 = room.0.saturating_add(value.size() as u64);
                tree.set(to, &value, room)
            }
        }
    }

    /// Takes the members of another document; of two of one name the new one stands.
    ///
    /// # Errors
    /// One of both is no object.
    pub fn extend(&mut self, text: &'a str) -> Result<(), JsonError> {
        let mut other = Self::read(text)?;
        let (Tree::Object(own), Tree::Object(new)) = (self.tree.open()?, other.tree.open()?) else {
            return Err(JsonError::NoObject(String::new()));
        };
        let new = std::mem::take(new);
        let names: HashSet<&str> = new.iter().map(|(name, _)| name.as_str()).collect();
        own.retain(|(known, _)| !names.contains(known.as_str()));
        drop(names);
        own.extend(new);
        Ok(())
    }

    /// Puts a text that is JSON there; objects on the way are made.
    ///
    /// # Errors
    /// Something else is in the way, or it is too large.
    pub fn put(&mut self, path: &[JsonName], text: &'a str) -> Result<(), JsonError> {
        self.tree.set(path, &Tree::Raw(text), &mut self.room)
    }

    /// As text.
    pub fn written(&self) -> String {
        let mut out = String::with_capacity(self.tree.size());
        self.tree.write(&mut out);
        out
    }
}

/// Whether a text is an object whose members can stand beside others.
///
/// # Errors
/// It is none, or has two of one name.
pub fn members(text: &str) -> Result<(), JsonError> {
    match serde_json::from_str(text).map_err(|_| JsonError::Syntax)? {
        Level::Object(members) => distinct(&members),
        Level::List(_) => Err(JsonError::NoObject(String::new())),
    }
}

/// A part of a text that is JSON, by names of members and places in lists; `None`: there is none, or two.
pub fn part<'t>(text: &'t str, path: &[String]) -> Option<&'t str> {
    path.iter().try_fold(text, |text, name| {
        let found = match serde_json::from_str(text).ok()? {
            Level::Object(members) => {
                distinct(&members).ok()?;
                members.into_iter().find(|(known, _)| known == name).map(|(_, value)| value)
            }
            Level::List(items) => items.into_iter().nth(name.parse().ok()?),
        };
        match found? {
            Tree::Raw(text) => Some(text),
            _ => None,
        }
    })
}

/// An object of members that are JSON.
pub fn object<'t>(members: impl Iterator<Item = (&'t str, &'t str)>) -> String {
    let member = |(name, value): (&str, &'t str)| (name.to_owned(), Tree::Raw(value));
    let whole = Tree::Object(members.map(member).collect());
    let mut out = String::with_capacity(whole.size());
    whole.write(&mut out);
    out
}

fn name_of(path: &[JsonName]) -> String {
    let name = path.iter().rev().find_map(|name| match name {
        JsonName::Member(name) => Some(name.clone()),
        JsonName::Each => None,
    });
    name.unwrap_or_default()
}

impl<'a> Tree<'a> {
    /// Reads one level, where that is not done yet.
    fn open(&mut self) -> Result<&mut Self, JsonError> {
        if let Self::Raw(text) = self
            && text.starts_with(['{', '['])
        {
            *self = match serde_json::from_str(text).map_err(|_| JsonError::Syntax)? {
                Level::List(items) => Self::List(items),
                Level::Object(members) => {
                    distinct(&members)?;
                    Self::Object(members)
                }
            };
        } else if let Self::Made(text) = self
            && text.starts_with(['{', '['])
        {
            // Ours, out of the file: small.
            let value: serde_json::Value =
                serde_json::from_str(text).map_err(|_| JsonError::Syntax)?;
            let made = |value: serde_json::Value| Self::Made(value.to_string());
            *self = match value {
                serde_json::Value::Array(items) => {
                    Self::List(items.into_iter().map(made).collect())
                }
                serde_json::Value::Object(map) => {
                    Self::Object(map.into_iter().map(|(name, value)| (name, made(value))).collect())
                }
                other => made(other),
            };
        }
        Ok(self)
    }

    /// Calls `change` for every member that the path leads to, with its place among its siblings.
    fn each(
        &mut self,
        path: &[JsonName],
        change: &mut impl FnMut(&mut Vec<(String, Self)>, usize) -> Result<(), JsonError>,
    ) -> Result<(), JsonError> {
        let Some((first, rest)) = path.split_first() else { return Ok(()) };
        match (self.open()?, first) {
            (Self::List(items), JsonName::Each) => {
                items.iter_mut().try_for_each(|item| item.each(rest, change))
            }
            (Self::Object(members), JsonName::Member(wanted)) => {
                let Some(at) = members.iter().position(|(name, _)| name == wanted) else {
                    return Ok(());
                };
                if rest.is_empty() {
                    return change(members, at);
                }
                members.get_mut(at).map_or(Ok(()), |(_, value)| value.each(rest, change))
            }
            _ => Ok(()),
        }
    }

    fn set(&mut self, path: &[JsonName], new: &Self, room: &mut Room) -> Result<(), JsonError> {
        let Some((first, rest)) = path.split_first() else {
            room.take(new.size())?;
            *self = new.clone();
            return Ok(());
        };
        match (self.open()?, first) {
            (Self::List(items), JsonName::Each) => {
                items.iter_mut().try_for_each(|item| item.set(rest, new, room))
            }
            (Self::Object(members), JsonName::Member(wanted)) => {
                let known = members.iter().position(|(name, _)| name == wanted);
                let at = known.unwrap_or(members.len());
                if known.is_none() {
                    // With its quotes, its colon and its comma.
                    room.take(wanted.len() + 4)?;
                    members.push((wanted.clone(), Self::Object(Vec::new())));
                }
                members.get_mut(at).map_or(Ok(()), |(_, value)| value.set(rest, new, room))
            }
            // There is no list, and so nothing in it.
            (_, JsonName::Each) => Ok(()),
            (_, JsonName::Member(name)) => Err(JsonError::NoObject(name.clone())),
        }
    }

    /// Bytes of it as text, about.
    fn size(&self) -> usize {
        match self {
            Self::Raw(text) => text.len(),
            Self::Made(text) => text.len(),
            Self::Object(members) => {
                members.iter().map(|(name, value)| name.len() + 4 + value.size()).sum::<usize>() + 2
            }
            Self::List(items) => items.iter().map(|item| item.size() + 1).sum::<usize>() + 2,
        }
    }

    fn write(&self, out: &mut String) {
        let name = |name: &String| serde_json::Value::String(name.clone()).to_string();
        match self {
            Self::Raw(text) => out.push_str(text),
            Self::Made(text) => out.push_str(text),
            Self::Object(members) => {
                out.push('{');
                for (index, (key, value)) in members.iter().enumerate() {
                    out.push_str(if index > 0 { "," } else { "" });
                    out.push_str(&name(key));
                    out.push(':');
                    value.write(out);
                }
                out.push('}');
            }
            Self::List(items) => {
                out.push('[');
                for (index, item) in items.iter().enumerate() {
                    out.push_str(if index > 0 { "," } else { "" });
                    item.write(out);
                }
                out.push(']');
            }
        }
    }
}

/// Refuses an object in which a name stands twice, in time that its size bounds.
fn distinct(members: &[(String, Tree<'_>)]) -> Result<(), JsonError> {
    let mut names: Vec<&str> = members.iter().map(|(name, _)| name.as_str()).collect();
    names.sort_unstable();
    let twice = names.iter().zip(names.iter().skip(1)).find(|(one, other)| one == other);
    twice.map_or(Ok(()), |(name, _)| Err(JsonError::Twice((*name).to_owned())))
}

impl<'de> Deserialize<'de> for Level<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = Level<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object or a list")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some((name, value)) = map.next_entry::<String, &'de RawValue>()? {
                    members.push((name, Tree::Raw(value.get())));
                }
                Ok(Level::Object(members))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
                let mut items = Vec::new();
                while let Some(value) = list.next_element::<&'de RawValue>()? {
                    items.push(Tree::Raw(value.get()));
                }
                Ok(Level::List(items))
            }
        }
        deserializer.deserialize_any(Reader)
    }
}

#[cfg(test)]
mod tests;
