//! An explanation as a tree of lines, written for people or for programs. Not for what it says. Filled by
//! the other parts of `explain`.
//!
//! Invariant: what comes from a question or a file cannot move the terminal's cursor.

use serde_json::{Map, Value, json};

/// One line, and what hangs below it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Step {
    pub text: String,
    pub tone: Tone,
    pub below: Vec<Step>,
}

/// What a line means to its reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tone {
    /// A place that the traffic passes.
    Place,
    /// What happens there.
    Plain,
    /// A way that is not taken.
    Not,
    /// Here it ends.
    Refused,
    /// What is not sure, or not here.
    Doubt,
}

impl Tone {
    fn word(self) -> &'static str {
        match self {
            Self::Place => "place",
            Self::Plain => "plain",
            Self::Not => "not",
            Self::Refused => "refused",
            Self::Doubt => "doubt",
        }
    }

    /// What the terminal is told before and after (ECMA-48 §8.3.117).
    fn colours(self) -> (&'static str, &'static str) {
        match self {
            Self::Place => ("\u{1b}[1m", "\u{1b}[0m"),
            Self::Plain => ("", ""),
            Self::Not => ("\u{1b}[2m", "\u{1b}[0m"),
            Self::Refused => ("\u{1b}[31m", "\u{1b}[0m"),
            Self::Doubt => ("\u{1b}[33m", "\u{1b}[0m"),
        }
    }
}

impl Step {
    pub(crate) fn new(tone: Tone, text: impl Into<String>) -> Self {
        Self { text: text.into(), tone, below: Vec::new() }
    }

    pub(crate) fn place(text: impl Into<String>) -> Self {
        Self::new(Tone::Place, text)
    }

    pub(crate) fn add(&mut self, tone: Tone, text: impl Into<String>) -> &mut Self {
        self.below.push(Self::new(tone, text));
        self
    }

    pub(crate) fn plain(&mut self, text: impl Into<String>) -> &mut Self {
        self.add(Tone::Plain, text)
    }

    fn json(&self) -> Value {
        let below: Vec<Value> = self.below.iter().map(Self::json).collect();
        match below.is_empty() {
            true => json!({ "text": self.text, "tone": self.tone.word() }),
            false => json!({ "text": self.text, "tone": self.tone.word(), "below": below }),
        }
    }
}

/// The answer to one question.
#[derive(Clone, Debug)]
pub(crate) struct Explained {
    /// The question in one line.
    pub question: String,
    pub steps: Vec<Step>,
    /// What programs look for.
    pub facts: Map<String, Value>,
}

impl Explained {
    pub(crate) fn new(question: String) -> Self {
        Self { question, steps: Vec::new(), facts: Map::new() }
    }

    pub(crate) fn fact(&mut self, name: &str, value: impl Into<Value>) {
        self.facts.insert(name.to_owned(), value.into());
    }

    /// For people.
    pub(crate) fn text(&self, coloured: bool) -> String {
        let mut out = format!("{}\n", visible(&self.question));
        lines(&self.steps, "", coloured, &mut out);
        out
    }

    /// For programs.
    pub(crate) fn json(&self) -> Value {
        let steps: Vec<Value> = self.steps.iter().map(Step::json).collect();
        json!({ "question": self.question, "facts": self.facts, "steps": steps })
    }
}

fn lines(steps: &[Step], indent: &str, coloured: bool, out: &mut String) {
    for (index, step) in steps.iter().enumerate() {
        let last = index + 1 == steps.len();
        let (branch, rest) = if last { ("└─ ", "   ") } else { ("├─ ", "│  ") };
        let mark = match step.tone {
            Tone::Not => "✗ ",
            Tone::Refused => "■ ",
            Tone::Doubt => "? ",
            Tone::Place | Tone::Plain => "",
        };
        let (before, after) = if coloured { step.tone.colours() } else { ("", "") };
        let text = visible(&step.text);
        out.push_str(&format!("{indent}{branch}{before}{mark}{text}{after}\n"));
        lines(&step.below, &format!("{indent}{rest}"), coloured, out);
    }
}

fn visible(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// T5: a tree reads the same with and without colours, and hostile text stays in its line.
    #[test]
    fn a_tree_is_drawn() {
        let mut explained = Explained::new("GET /".to_owned());
        let mut edge = Step::place("edge");
        edge.plain("round\u{1b}[2J robin").add(Tone::Not, "other");
        explained.steps = vec![edge, Step::new(Tone::Refused, "404")];
        let plain = "GET /\n├─ edge\n│  ├─ round\u{fffd}[2J robin\n│  └─ ✗ other\n└─ ■ 404\n";
        assert_eq!(explained.text(false), plain);
        let coloured = explained.text(true);
        assert!(coloured.contains("\u{1b}[31m■ 404\u{1b}[0m\n"), "{coloured:?}");
        assert_eq!(coloured.matches('\u{1b}').count(), 6);
        assert_eq!(explained.json()["steps"][0]["below"][1]["tone"], "not");
    }
}
