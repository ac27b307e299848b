//! Parts of routes, and experiments. Not for where they lead: `upstream`.
//!
//! Invariant: an id handed out is an index into what `finish` returns.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::raw::{self, Entry, Findings, Named, Spot, Text, Typed};
use crate::resolve::names::Names;
use crate::resolve::policy::token;
use crate::resolve::positive;
use crate::resolve::upstream::Upstreams;
use crate::split::{Experiment, ExperimentId, HandOut, Part, Sticky};
use crate::units::{Percent, Time};

/// The parts of a route.
pub(super) fn split(
    raw: Vec<raw::SplitPart>,
    upstreams: &mut Upstreams,
    names: &Names,
    out: &mut Findings,
) -> Vec<Part> {
    let mut all: Vec<Part> = Vec::new();
    let mut sum = 0;
    for share in raw {
        let cookie = share.cookie.and_then(|cookie| hand_out(&cookie, share.cookie_age, out));
        let (Some(to), Some(part)) = (share.to, share.part) else { continue };
        add(&part, &mut sum, "the parts of this route", "goes where `to` says", out);
        if let Some(to) = upstreams.lead(&to, names, out) {
            all.push(Part { to, part: part.value, cookie });
        }
    }
    all
}

fn add(part: &Typed<Percent>, sum: &mut u32, what: &str, rest: &str, out: &mut Findings) {
    *sum += u32::from(part.value.0);
    if *sum > 100 {
        out.error(&part.spot, format!("{what} are {sum} % together"))
            .allowed(format!("at most 100%; what is left {rest}"));
    }
}

fn hand_out(typed: &Typed<Text>, age: Option<Typed<Time>>, out: &mut Findings) -> Option<HandOut> {
    let max_age = positive(age, MONTH, out);
    match typed.value.0.split_once('=') {
        Some((name, value)) if token(name) && cookie_value(value) => {
            Some(HandOut { name: name.to_owned(), value: value.to_owned(), max_age })
        }
        _ => {
            out.error(&typed.spot, format!("`{}` is no cookie", typed.value.0))
                .allowed("NAME=VALUE of letters, digits and -._ (RFC 6265 §4.1.1)");
            None
        }
    }
}

/// What needs no quotes wherever it is written.
fn cookie_value(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b))
}

/// Who stays.
pub(super) fn sticky(raw: Option<&Typed<Text>>, out: &mut Findings) -> Sticky {
    let Some(typed) = raw else { return Sticky::User };
    match typed.value.0.as_str() {
        "user" => Sticky::User,
        "address" => Sticky::Address,
        text => match text.strip_prefix("cookie:").filter(|name| token(name)) {
            Some(name) => Sticky::Cookie(name.to_owned()),
            None => {
                out.error(&typed.spot, format!("`{text}` says nothing of who stays"))
                    .allowed("user, address or cookie:NAME");
                Sticky::User
            }
        },
    }
}

/// Experiments of a group, and which of them routes name.
pub(super) struct Experiments {
    all: Vec<(Experiment, Spot)>,
    used: BTreeSet<usize>,
}

impl Experiments {
    /// What routes can name.
    pub(super) fn new(raw: Option<Named<raw::Experiment>>, out: &mut Findings) -> Self {
        let all = raw.unwrap_or_default().into_iter().map(|entry| experiment(entry, out)).collect();
        Self { all, used: BTreeSet::new() }
    }

    /// Those that a route names.
    pub(super) fn ids(
        &mut self,
        names: Option<Vec<Typed<Text>>>,
        out: &mut Findings,
    ) -> Vec<ExperimentId> {
        let mut ids = Vec::new();
        for typed in names.unwrap_or_default() {
            let name = typed.value.0.as_str();
            match self.all.iter().position(|(known, _)| known.name == name) {
                Some(index) => {
                    self.used.insert(index);
                    if !ids.contains(&ExperimentId(index)) {
                        ids.push(ExperimentId(index));
                    }
                }
                None => {
                    let known = self.all.iter().map(|(known, _)| known.name.as_str());
                    out.unknown(&typed.spot, "experiment", name, known);
                }
            }
        }
        ids
    }

    /// All of them; warns of those that no route names.
    pub(super) fn finish(self, out: &mut Findings) -> Vec<Experiment> {
        for (index, (experiment, spot)) in self.all.iter().enumerate() {
            if !self.used.contains(&index) {
                out.warning(spot, format!("no route takes part in `{}`", experiment.name));
            }
        }
        self.all.into_iter().map(|(experiment, _)| experiment).collect()
    }
}

fn experiment(entry: Entry<raw::Experiment>, out: &mut Findings) -> (Experiment, Spot) {
    let Entry { name, spot, value: raw } = entry;
    let lawful = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    if !name.bytes().all(lawful) {
        out.error(&spot, format!("`{name}` cannot be part of a header's name"))
            .allowed("lower-case letters, digits and -");
    }
    let mut variants = Vec::new();
    let mut sum = 0;
    for Entry { name, spot, value } in raw.variants.unwrap_or_default() {
        if !cookie_value(&name) {
            out.error(&spot, format!("`{name}` cannot stand in a header or cookie"))
                .allowed("letters, digits and -._");
        }
        add(&value, &mut sum, "the variants of this experiment", "takes no part", out);
        variants.push((name, value.value));
    }
    if variants.is_empty() {
        out.error(&raw.spot, "`variants` is empty").allowed("at least one, by name");
    }
    let age = positive(raw.cookie_age, MONTH, out);
    let cookie = raw.cookie.and_then(|typed| {
        if token(&typed.value.0) {
            return Some((typed.value.0, age));
        }
        out.error(&typed.spot, format!("`{}` is no cookie's name", typed.value.0))
            .allowed("letters, digits and !#$%&'*+-.^_`|~ (RFC 6265 §4.1.1)");
        None
    });
    let by = sticky(raw.by.as_ref(), out);
    (Experiment { name, variants, by, cookie }, spot)
}

/// How long clients keep cookies.
const MONTH: Duration = Duration::from_secs(30 * 24 * 60 * 60);
