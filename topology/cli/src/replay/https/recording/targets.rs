//! A plain list of targets, as load generators take: `METHOD URL`, then header lines, then `@FILE`
//! for a body; an empty line ends a target. Used by `recording`.
//!
//! Invariant: a target is one request or one fault.

use anyhow::{Context, Result};

use super::{Bodies, Found, Timed, request, sort, whole};

/// Whether a file that begins with this line is such a list.
pub(super) fn begins(line: &str) -> bool {
    let (method, url) = line.split_once(' ').unwrap_or_default();
    let is_method = !method.is_empty() && method.bytes().all(|b| b.is_ascii_uppercase());
    is_method && ["http://", "https://", "/"].iter().any(|start| url.starts_with(start))
}

pub(super) fn parse(text: &str, bodies: Bodies<'_>) -> Found {
    let mut blocks: Vec<(usize, Vec<&str>)> = Vec::new();
    let mut open = false;
    for (i, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.starts_with('#') {
            continue;
        }
        if line.is_empty() {
            open = false;
        } else if let (Some((_, lines)), true, false) = (blocks.last_mut(), open, begins(line)) {
            lines.push(line);
        } else {
            blocks.push((i + 1, vec![line]));
            open = true;
        }
    }
    let read = |(line, block): (usize, Vec<&str>)| (format!("line {line}"), target(&block, bodies));
    sort(blocks.into_iter().map(read))
}

fn target(lines: &[&str], bodies: Bodies<'_>) -> Result<Timed> {
    lines.iter().try_for_each(|line| whole(line).map(drop))?;
    let (first, rest) = lines.split_first().context("nothing in it")?;
    let (method, url) = first
        .split_once(' ')
        .filter(|_| begins(first))
        .with_context(|| format!("{first:?}: write METHOD URL"))?;
    let (mut fields, mut body) = (Vec::new(), Vec::new());
    for line in rest {
        if let Some(file) = line.strip_prefix('@') {
            body = bodies(file).with_context(|| format!("{file}: cannot read"))?;
        } else {
            let (name, value) =
                line.split_once(':').with_context(|| format!("{line:?}: write NAME: VALUE"))?;
            fields.push((name.trim(), value.trim()));
        }
    }
    Ok((None, request(method, url.trim(), fields.into_iter(), body)?))
}
