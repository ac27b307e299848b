//! Directories whose files are answers. Not for whether the files are there: that is checked where they are
//! opened.
//!
//! Invariant: none beyond `resolve`'s.

use crate::files::{Files, Links};
use crate::raw::{self, Findings, Text, Typed};
use crate::resolve::names::Names;
use crate::resolve::or;
use crate::units::At;

/// A directory whose files are answers.
pub(super) fn files(raw: raw::FilesChoice, names: &Names, out: &mut Findings) -> Option<Files> {
    let raw = match raw {
        raw::FilesChoice::Section(raw) => *raw,
        raw::FilesChoice::Directory(directory) => raw::Files {
            directory: Some(directory),
            index: None,
            cache_control: None,
            hidden: None,
            links: None,
            precompressed: None,
        },
    };
    let directory = raw.directory?;
    if directory.value.0.contains('\0') {
        out.error(&directory.spot, "this is no path").allowed("a path without zero bytes");
    }
    let place = directory.spot.extent.place;
    Some(Files {
        directory: At { value: names.folder.join(&directory.value.0), place },
        index: index(raw.index, out),
        cache_control: text(raw.cache_control, "no-cache", out),
        hidden: raw.hidden.is_some_and(|typed| typed.value.0),
        links: or(raw.links, Links::Inside),
        precompressed: raw.precompressed.is_none_or(|typed| typed.value.0),
    })
}

/// One name, or `none`.
fn index(typed: Option<Typed<Text>>, out: &mut Findings) -> Option<String> {
    if let Some(typed) = &typed
        && (typed.value.0.contains(['/', '\0']) || [".", ".."].contains(&typed.value.0.as_str()))
    {
        out.error(&typed.spot, format!("`{}` is no name of a file", typed.value.0))
            .allowed("a name without `/`, or none");
    }
    let text = typed.map_or_else(|| "index.html".to_owned(), |typed| typed.value.0);
    (text != "none").then_some(text)
}

/// A header's value, or `none`.
fn text(typed: Option<Typed<Text>>, default: &str, out: &mut Findings) -> Option<String> {
    if let Some(typed) = &typed
        && !typed.value.0.bytes().all(|b| (b' '..=b'~').contains(&b))
    {
        out.error(&typed.spot, "this is no value of a header").allowed("visible ASCII");
    }
    let text = typed.map_or_else(|| default.to_owned(), |typed| typed.value.0);
    (text != "none").then_some(text)
}
