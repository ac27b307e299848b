//! Descriptions that requests are held against. Not for whether they can be read: that is found where they are.
//!
//! Invariant: none beyond `resolve`'s.

use crate::answers::{Attached, Word};
use crate::contract::Contract;
use crate::raw::{Findings, Validate, ValidateChoice};
use crate::resolve::held;
use crate::resolve::names::Names;

/// What a place says of it.
pub(super) fn contract(
    raw: Option<ValidateChoice>,
    by: Attached,
    names: &Names,
    out: &mut Findings,
) -> Word<Contract> {
    match raw {
        None => Word::Silent,
        Some(ValidateChoice::None) => Word::Never,
        Some(raw) => described(raw, by, names, out).map_or(Word::Silent, Word::So),
    }
}

fn described(
    raw: ValidateChoice,
    by: Attached,
    names: &Names,
    out: &mut Findings,
) -> Option<Contract> {
    let (file, prefix, max) = match raw {
        ValidateChoice::None => return None,
        ValidateChoice::File(file) => (file, None, None),
        ValidateChoice::Section(raw) => {
            let Validate { openapi, prefix, max } = *raw;
            (openapi?, prefix, max)
        }
    };
    if let Some(prefix) = &prefix
        && !prefix.value.0.is_empty()
        && (!prefix.value.0.starts_with('/') || prefix.value.0.ends_with('/'))
    {
        out.error(&prefix.spot, format!("`{}` stands before no path", prefix.value.0))
            .allowed("/api/v1, without a slash at its end");
    }
    Some(Contract {
        file: names.folder.join(&file.value.0),
        prefix: prefix.map(|typed| typed.value.0),
        most: held(max, 1 << 20, out),
        by,
        place: file.spot.extent.place,
    })
}
