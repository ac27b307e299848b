//! YAML text into a tree in which every key and value has its place: the one module that knows
//! YAML. Not for what keys mean: that is `raw`. Scalars stay text; what they are is decided by the
//! field that reads them, so `no` is a name and `0x10` is no number behind one's back.
//!
//! Invariant: a tree has at most `MAX_VALUES` values and `MAX_DEPTH` levels, aliases included.

use std::collections::HashMap;

use serde_saphyr::granit_parser::{Event, Options, Parser, ScalarStyle, ScanError, Span, StrInput};

use crate::problem::{Problem, Severity};
use crate::units::Place;

/// Most bytes of a topology file.
pub(crate) const MAX_BYTES: usize = 4 << 20;
/// Most keys and values, each use of an alias counted anew.
pub(crate) const MAX_VALUES: usize = 200_000;
/// Most levels of nesting; the format itself needs 8.
pub(crate) const MAX_DEPTH: usize = 32;

/// Where something stands and how wide it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Extent {
    pub(crate) place: Place,
    pub(crate) width: u32,
}

/// A value.
#[derive(Clone, Debug)]
pub(crate) struct Tree {
    pub(crate) extent: Extent,
    pub(crate) kind: Kind,
}

/// What a value is.
#[derive(Clone, Debug)]
pub(crate) enum Kind {
    /// Nothing is written, or `null`, or `~`.
    Empty,
    Text(String),
    List(Vec<Tree>),
    Map(Vec<(Key, Tree)>),
}

impl Kind {
    /// The kind in words, for messages.
    pub(crate) fn words(&self) -> &'static str {
        match self {
            Self::Empty => "nothing",
            Self::Text(_) => "a single value",
            Self::List(_) => "a list",
            Self::Map(_) => "a group of keys",
        }
    }
}

/// A key of a map.
#[derive(Clone, Debug)]
pub(crate) struct Key {
    pub(crate) extent: Extent,
    pub(crate) text: String,
}

/// Reads one document. Duplicate keys are findings and the first one counts; anything after which
/// the text can no longer be followed ends it with an error.
pub(crate) fn read(text: &str, found: &mut Vec<Problem>) -> Result<Tree, Problem> {
    if text.len() > MAX_BYTES {
        let what = format!("the file has {} bytes", text.len());
        return Err(fault(Extent::default(), what, &format!("at most {MAX_BYTES} bytes")));
    }
    let mut options = Options::default();
    options.set_emit_comments(false);
    options.flow_nesting_limit = MAX_DEPTH;
    options.block_nesting_limit = MAX_DEPTH;
    options.disallow_directives = true;
    let parser = Parser::new_from_str_with_options(text, options);
    Reader { parser, anchors: HashMap::new(), values: 0, found }.document()
}

/// Turns the parser's events into a tree.
struct Reader<'t, 'f> {
    parser: Parser<'t, StrInput<'t>>,
    /// What an alias stands for, by the parser's anchor number, and how many values that is.
    anchors: HashMap<usize, (Tree, usize)>,
    values: usize,
    found: &'f mut Vec<Problem>,
}

impl<'t> Reader<'t, '_> {
    fn document(&mut self) -> Result<Tree, Problem> {
        let mut root = None;
        loop {
            let (event, span) = self.next()?;
            match event {
                Event::StreamEnd => {
                    let empty = Tree { extent: Extent::default(), kind: Kind::Empty };
                    return Ok(root.unwrap_or(empty));
                }
                Event::StreamStart | Event::DocumentStart(..) | Event::DocumentEnd => {}
                event if root.is_none() => root = Some(self.value(event, &span)?),
                _ => {
                    return Err(fault(
                        extent(&span),
                        "a second document begins here",
                        "one document",
                    ));
                }
            }
        }
    }

    fn next(&mut self) -> Result<(Event<'t>, Span), Problem> {
        match self.parser.next() {
            Some(Ok(event)) => Ok(event),
            Some(Err(error)) => Err(syntax(&error)),
            None => Ok((Event::StreamEnd, Span::default())),
        }
    }

    /// The value that begins with `event`. Recursion is bounded by the parser's nesting limits.
    fn value(&mut self, event: Event<'t>, span: &Span) -> Result<Tree, Problem> {
        let before = self.values;
        self.count(1, span)?;
        let start = extent(span);
        let (anchor, kind) = match event {
            Event::Scalar(text, style, anchor, _) => (anchor, scalar(text.into_owned(), style)),
            Event::SequenceStart(_, anchor, _) => (anchor, Kind::List(self.list()?)),
            Event::MappingStart(_, anchor, _) => (anchor, Kind::Map(self.map()?)),
            Event::Alias(anchor) => return self.alias(anchor, span),
            _ => return Err(fault(start, "a value is missing here", "a value")),
        };
        let tree = Tree { extent: start, kind };
        if anchor != 0 {
            self.anchors.insert(anchor, (tree.clone(), self.values - before));
        }
        Ok(tree)
    }

    /// A copy of what the anchor stands for, counted in full so that aliases cannot multiply.
    fn alias(&mut self, anchor: usize, span: &Span) -> Result<Tree, Problem> {
        let Some((tree, values)) = self.anchors.get(&anchor).cloned() else {
            return Err(fault(
                extent(span),
                "an alias stands inside of what it names",
                "an earlier anchor",
            ));
        };
        self.count(values, span)?;
        Ok(tree)
    }

    fn count(&mut self, values: usize, span: &Span) -> Result<(), Problem> {
        self.values = self.values.saturating_add(values);
        if self.values > MAX_VALUES {
            let what = "the file has too many values up to here, uses of aliases included";
            return Err(fault(extent(span), what, &format!("at most {MAX_VALUES}")));
        }
        Ok(())
    }

    fn list(&mut self) -> Result<Vec<Tree>, Problem> {
        let mut items = Vec::new();
        loop {
            match self.next()? {
                (Event::SequenceEnd, _) => return Ok(items),
                (event, span) => items.push(self.value(event, &span)?),
            }
        }
    }

    fn map(&mut self) -> Result<Vec<(Key, Tree)>, Problem> {
        let mut entries = Vec::new();
        let mut seen: HashMap<String, Place> = HashMap::new();
        loop {
            let (event, span) = self.next()?;
            if matches!(event, Event::MappingEnd) {
                return Ok(entries);
            }
            let key = self.value(event, &span)?;
            let (event, span) = self.next()?;
            let value = self.value(event, &span)?;
            let text = match key.kind {
                Kind::Text(text) => text,
                kind => {
                    let what = format!("{} stands where a key should be", kind.words());
                    self.found.push(fault(key.extent, what, "a word before the colon"));
                    continue;
                }
            };
            match seen.get(&text) {
                None => {
                    seen.insert(text.clone(), key.extent.place);
                    entries.push((Key { extent: key.extent, text }, value));
                }
                Some(first) => {
                    let what = format!("the key `{text}` is already on line {}", first.line);
                    self.found.push(fault(key.extent, what, "each key once"));
                }
            }
        }
    }
}

/// YAML 1.2 core schema: only a plain scalar can be null.
fn scalar(text: String, style: ScalarStyle) -> Kind {
    let empty = matches!(text.as_str(), "" | "~" | "null" | "Null" | "NULL");
    if style == ScalarStyle::Plain && empty { Kind::Empty } else { Kind::Text(text) }
}

fn extent(span: &Span) -> Extent {
    let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    let place = Place { line: number(span.start.line()), column: number(span.start.col() + 1) };
    let same_line = span.start.line() == span.end.line();
    let width = if same_line { span.end.col().saturating_sub(span.start.col()) } else { 1 };
    Extent { place, width: number(width).max(1) }
}

fn syntax(error: &ScanError) -> Problem {
    let marker = Span::empty(*error.marker());
    let why = error.kind().to_string();
    let tab = why.contains("tab");
    let allowed = if tab { "spaces for indentation" } else { "YAML 1.2" };
    fault(extent(&marker), format!("this is not YAML: {why}"), allowed)
}

fn fault(at: Extent, what: impl Into<String>, allowed: &str) -> Problem {
    Problem {
        at: at.place,
        width: at.width.max(1),
        path: String::new(),
        what: what.into(),
        allowed: Some(allowed.to_owned()),
        hint: None,
        severity: Severity::Error,
    }
}
