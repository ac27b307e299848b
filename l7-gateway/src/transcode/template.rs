//! Path templates of `google.api.http`: `/v1/{name=shelves/*/books/*}:read`. Not for the gateway's own routes:
//! that is `matcher`. Called by `bindings`.
//!
//! Invariant: matching takes time in proportion to the path and the template.

use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str};

/// What stands in a path as it is not.
const ODD: &AsciiSet = &CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b'%')
    .add(b'/')
    .add(b'<')
    .add(b'>')
    .add(b'?')
    .add(b'#')
    .add(b'{')
    .add(b'}');

/// A template, read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    segments: Vec<Segment>,
    verb: Option<String>,
    variables: Vec<Variable>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Segment {
    /// Decoded: `/users/%40me` is `/users/@me`, as it is where routes are compared.
    Text(Vec<u8>),
    /// `*`
    One,
    /// `**`, the last.
    Rest,
}

/// A field that segments of a path give.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Variable {
    field: Vec<String>,
    from: usize,
    /// After the last one; `None`: to the end.
    to: Option<usize>,
    /// It may have several segments: an escaped slash stays escaped.
    several: bool,
}

impl Template {
    /// Reads a template.
    ///
    /// # Errors
    /// Why it is none.
    pub fn read(text: &str) -> Result<Self, String> {
        let wrong = |what: &str| format!("`{text}` is no path template: {what}");
        let rest = text.strip_prefix('/').ok_or_else(|| wrong("it does not begin with /"))?;
        let mut template = Self { segments: Vec::new(), verb: None, variables: Vec::new() };
        let mut rest = rest;
        loop {
            rest = if let Some(inner) = rest.strip_prefix('{') {
                let (variable, after) =
                    inner.split_once('}').ok_or_else(|| wrong("a brace is open"))?;
                template.variable(variable).map_err(|what| wrong(&what))?;
                after
            } else {
                let end = rest.find(['/', ':']).unwrap_or(rest.len());
                let (segment, after) = rest.split_at(end);
                template.segment(segment).map_err(|what| wrong(&what))?;
                after
            };
            match rest.split_at_checked(1) {
                None => break,
                Some(("/", after)) => rest = after,
                Some((":", verb)) if !verb.is_empty() && !verb.contains(['/', ':', '{', '*']) => {
                    template.verb = Some(verb.to_owned());
                    break;
                }
                Some(_) => return Err(wrong("something odd follows a segment")),
            }
        }
        let at = template.segments.iter().position(|segment| *segment == Segment::Rest);
        if at.is_some_and(|at| at + 1 != template.segments.len()) {
            return Err(wrong("something follows **"));
        }
        Ok(template)
    }

    fn segment(&mut self, text: &str) -> Result<(), String> {
        self.segments.push(match text {
            "" => return Err("a segment is empty".to_owned()),
            "*" => Segment::One,
            "**" => Segment::Rest,
            text if text.contains(['{', '}', '*', '=']) => {
                return Err(format!("`{text}` is no segment"));
            }
            text => Segment::Text(percent_decode_str(text).collect()),
        });
        Ok(())
    }

    fn variable(&mut self, text: &str) -> Result<(), String> {
        let (field, pattern) = text.split_once('=').unwrap_or((text, "*"));
        let field: Vec<String> = field.split('.').map(str::to_owned).collect();
        if field.iter().any(String::is_empty) {
            return Err(format!("`{text}` names no field"));
        }
        let from = self.segments.len();
        for segment in pattern.split('/') {
            self.segment(segment)?;
        }
        let open = self.segments.last() == Some(&Segment::Rest);
        let several = open || self.segments.len() - from > 1;
        let to = (!open).then_some(self.segments.len());
        self.variables.push(Variable { field, from, to, several });
        Ok(())
    }

    /// Its path with a name in braces for each segment that is not fixed; and those names, each with the field that the
    /// segment is of, if it is one's.
    pub fn named(&self) -> (String, Vec<(String, String)>) {
        let (mut path, mut names) = (String::new(), Vec::<(String, String)>::new());
        for (at, segment) in self.segments.iter().enumerate() {
            path.push('/');
            if let Segment::Text(text) = segment {
                path.extend(percent_encoding::percent_encode(text, ODD));
                continue;
            }
            let within = |one: &&Variable| one.from <= at && one.to.is_none_or(|to| at < to);
            let field = self.variables.iter().find(within).map(|one| one.field.join("."));
            let base = field.clone().unwrap_or_else(|| "segment".to_owned());
            let same = names.iter().filter(|(_, of)| *of == base).count();
            let name = if same == 0 { base.clone() } else { format!("{base}_{}", same + 1) };
            path.extend(["{", name.as_str(), "}"]);
            names.push((name, base));
        }
        if let Some(verb) = &self.verb {
            path.extend([":", verb.as_str()]);
        }
        (path, names)
    }

    /// Fields that it gives.
    pub fn fields(&self) -> impl Iterator<Item = &[String]> {
        self.variables.iter().map(|variable| variable.field.as_slice())
    }

    /// How much of it is written out: more is more specific. One with a verb comes before all others, whose `*` would
    /// take the verb for a part of a name.
    pub fn rank(&self) -> (bool, usize, usize, bool) {
        let texts = self.segments.iter().filter(|segment| matches!(segment, Segment::Text(_)));
        let open = self.segments.last() == Some(&Segment::Rest);
        (self.verb.is_some(), texts.count(), self.segments.len(), !open)
    }

    /// Whether it fits the same paths, whatever its fields are called.
    pub fn is_like(&self, other: &Self) -> bool {
        (&self.segments, &self.verb) == (&other.segments, &other.verb)
    }

    /// Values of its fields, if a path fits.
    pub fn find<'t>(&'t self, path: &str) -> Option<Vec<(&'t [String], String)>> {
        let path = path.strip_prefix('/')?;
        let path = match &self.verb {
            Some(verb) => path.strip_suffix(verb.as_str())?.strip_suffix(':')?,
            None => path,
        };
        // Most paths fit most templates not: nothing is set aside before one does.
        let mut left = path.split('/');
        let open = self.segments.last() == Some(&Segment::Rest);
        for segment in &self.segments {
            match (segment, left.next()) {
                (Segment::Text(text), Some(part)) if decodes_to(part, text) => {}
                (Segment::One, Some(part)) if !part.is_empty() => {}
                (Segment::Rest, _) => {}
                _ => return None,
            }
        }
        if !open && left.next().is_some() {
            return None;
        }
        let parts: Vec<&str> = path.split('/').collect();
        let value = |variable: &'t Variable| {
            let to = variable.to.unwrap_or(parts.len());
            let text = parts.get(variable.from..to).unwrap_or_default().join("/");
            let text = if variable.several { reserved(&text) } else { decoded(&text) };
            Some((variable.field.as_slice(), text?))
        };
        self.variables.iter().map(value).collect()
    }
}

fn decodes_to(part: &str, text: &[u8]) -> bool {
    part.as_bytes() == text && !part.contains('%')
        || percent_decode_str(part).eq(text.iter().copied())
}

fn decoded(text: &str) -> Option<String> {
    percent_decode_str(text).decode_utf8().ok().map(std::borrow::Cow::into_owned)
}

/// Decodes all but what separates segments (RFC 6570 §3.2.3).
fn reserved(text: &str) -> Option<String> {
    let kept = text.replace("%2F", "%252F").replace("%2f", "%252F");
    decoded(&kept)
}
