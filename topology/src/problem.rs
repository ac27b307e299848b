//! What is wrong with a topology file, and where: collected in one run, shown with the offending
//! line. Not for what fails while running; but a tier that finds such a fault at a place of the
//! file shows it with [`SourceFile::frame`]. Called by the file's reader and resolver.
//!
//! Invariant: a problem says what, where, and what to write instead.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use crate::model::SourceFile;
use crate::units::Place;

/// One finding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where; the default place (0:0) means the file as a whole.
    pub at: Place,
    /// How many characters are meant, from `at` on; 0: the line may hold a secret and is not
    /// shown.
    pub width: u32,
    /// The path of keys, `gateways.app.routes[2].weight`; empty for the file as a whole.
    pub path: String,
    /// What is wrong.
    pub what: String,
    /// What would be right.
    pub allowed: Option<String>,
    /// What to write instead, where a guess is possible.
    pub hint: Option<String>,
    /// Whether the file can be used all the same.
    pub severity: Severity,
}

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Severity {
    /// The file cannot be used.
    Error,
    /// Lawful, but it looks wrong or dangerous.
    Warning,
}

impl fmt::Display for Problem {
    /// One line without the file's name: `41:13 routes[2].weight: 120 is over 100`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.at != Place::default() {
            write!(f, "{}:{} ", self.at.line, self.at.column)?;
        }
        if self.severity == Severity::Warning {
            f.write_str("warning: ")?;
        }
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.what)
    }
}

/// All findings about one file that cannot be used, its warnings included, in the file's order.
#[derive(Clone, Debug)]
pub struct Problems {
    source: Arc<SourceFile>,
    list: Vec<Problem>,
    unlisted: usize,
}

impl Problems {
    /// Findings about `source`; sorted by place, the same finding only once.
    pub(crate) fn new(source: Arc<SourceFile>, mut list: Vec<Problem>, unlisted: usize) -> Self {
        tidy(&mut list);
        Self { source, list, unlisted }
    }

    /// The findings; the first 1000 of a file that has more.
    pub fn list(&self) -> &[Problem] {
        &self.list
    }

    /// How many errors more there are.
    pub fn unlisted(&self) -> usize {
        self.unlisted
    }

    /// The file that they are about.
    pub fn source(&self) -> &Arc<SourceFile> {
        &self.source
    }
}

impl fmt::Display for Problems {
    /// Every finding with its source line, then one line that counts them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for problem in &self.list {
            writeln!(f, "{}", Shown { problem, source: &self.source })?;
        }
        let warnings = self.list.iter().filter(|p| p.severity == Severity::Warning).count();
        let errors = self.list.len() - warnings;
        let count = |n: usize, what: &str| format!("{n} {what}{}", if n == 1 { "" } else { "s" });
        write!(f, "{}: {}", self.source.name, count(errors, "problem"))?;
        if warnings > 0 {
            write!(f, ", {}", count(warnings, "warning"))?;
        }
        if self.unlisted > 0 {
            write!(f, ", and {} more that are not shown", self.unlisted)?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}

/// A finding beside the text that it is about: the form that people read.
#[derive(Clone, Copy, Debug)]
pub struct Shown<'a> {
    /// The finding.
    pub problem: &'a Problem,
    /// The file that it is about.
    pub source: &'a SourceFile,
}

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { problem, source } = self;
        let colon = if problem.at == Place::default() { ": " } else { ":" };
        writeln!(f, "{}{colon}{problem}", source.name)?;
        if problem.width > 0 {
            f.write_str(&source.frame(problem.at, problem.width))?;
        }
        let indent = " ".repeat(gutter(problem.at));
        if let Some(allowed) = &problem.allowed {
            writeln!(f, "{indent} = allowed: {allowed}")?;
        }
        if let Some(hint) = &problem.hint {
            writeln!(f, "{indent} = {hint}")?;
        }
        Ok(())
    }
}

impl SourceFile {
    /// The line at a place with a mark of `width` characters under it, each line ended by a
    /// newline; empty when there is no such line. Long lines are cut around the place.
    pub fn frame(&self, at: Place, width: u32) -> String {
        let Some(line) = (at.line as usize).checked_sub(1).and_then(|n| self.text.lines().nth(n))
        else {
            return String::new();
        };
        let column = (at.column as usize).saturating_sub(1);
        let skipped = if column > WIDEST { column - WIDEST / 2 } else { 0 };
        let shown: String = line.chars().skip(skipped).take(2 * WIDEST).map(visible).collect();
        let room = shown.chars().count().saturating_sub(column - skipped).max(1);
        let mark = "^".repeat((width as usize).clamp(1, room));
        let (number, indent) = (at.line, " ".repeat(gutter(at)));
        let blank = " ".repeat(column - skipped);
        format!("{indent} |\n{number:>4} | {shown}\n{indent} | {blank}{mark}\n")
    }
}

/// Most characters of a line shown on either side of the place.
const WIDEST: usize = 100;

/// Width of the column of line numbers.
fn gutter(at: Place) -> usize {
    at.line.to_string().len().max(4)
}

/// Keeps hostile bytes from moving the terminal's cursor, and tabs one column wide.
fn visible(c: char) -> char {
    match c {
        '\t' => ' ',
        c if c.is_control() => char::REPLACEMENT_CHARACTER,
        c => c,
    }
}

/// Replaces what would move the cursor in texts that quote the file.
fn plain(text: &mut String) {
    if text.chars().any(char::is_control) {
        *text = text.chars().map(visible).collect();
    }
}

/// Sorts by place and drops repetitions (an alias makes the same text be read twice). A line that
/// may hold a secret is shown by no problem.
pub(crate) fn tidy(list: &mut Vec<Problem>) {
    let hidden: Vec<u32> = list.iter().filter(|p| p.width == 0).map(|p| p.at.line).collect();
    for problem in list.iter_mut().filter(|p| hidden.contains(&p.at.line)) {
        problem.width = 0;
    }
    for problem in list.iter_mut() {
        plain(&mut problem.path);
        plain(&mut problem.what);
        problem.allowed.iter_mut().chain(&mut problem.hint).for_each(plain);
    }
    list.sort_by(|a, b| (a.at, &a.path, &a.what).cmp(&(b.at, &b.path, &b.what)));
    list.dedup_by(|a, b| a.at == b.at && a.what == b.what);
}

/// Why a topology could not be had.
#[derive(Debug)]
pub enum LoadError {
    /// The file could not be read.
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It was read, and it is wrong.
    Problems(Problems),
    /// A file in another form says what has no counterpart here; each with its place.
    Foreign(Vec<String>),
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io { path, source } => {
                write!(f, "cannot read the topology file {}: {source}", path.display())
            }
            Self::Problems(problems) => problems.fmt(f),
            Self::Foreign(all) => f.write_str(&all.join("\n")),
        }
    }
}

impl std::error::Error for LoadError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io { source, .. } => Some(source),
            Self::Problems(_) | Self::Foreign(_) => None,
        }
    }
}

/// The word of `known` that `typed` was probably meant to be.
pub(crate) fn nearest<'a>(
    typed: &str,
    known: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    let folded = typed.to_lowercase().replace('_', "-");
    known
        .into_iter()
        .map(|name| {
            (strsim::damerau_levenshtein(&folded, &name.to_lowercase().replace('_', "-")), name)
        })
        .filter(|(distance, name)| *distance <= 1 + name.chars().count().min(typed.len()) / 4)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}
