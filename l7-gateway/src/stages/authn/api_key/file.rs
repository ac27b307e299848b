//! Keys in a file: one JSON object per line, the digest in `sha256`. Not for stores that are asked over
//! the network (`store`). Called by `directory` at start and on reload, and by `aqueduct key`.
//!
//! Invariant: a file is read whole or not at all, and replaced in one step.

use std::collections::HashMap;
use std::fs;
use std::io::{self, Write as _};
use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Digest, Entry, Odd, Record};

/// Largest file, in bytes: about half a million keys.
const LARGEST: u64 = 64 << 20;

/// Why a file of keys cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FileFault {
    /// It is not there, or may not be read or written.
    #[error("{path}: {source}")]
    Io {
        /// Which file.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// A line is not what is written of a key; its text is not shown.
    #[error("{path}:{line}: {cause}")]
    Line {
        /// Which file.
        path: String,
        /// Which line, from 1.
        line: usize,
        /// What is wrong.
        cause: Odd,
    },
}

#[derive(Serialize, Deserialize)]
struct Line {
    sha256: String,
    #[serde(flatten)]
    record: serde_json::Map<String, serde_json::Value>,
}

/// All keys of a file. Blocking.
///
/// # Errors
/// With the line that is at fault.
pub fn read(path: &Path) -> Result<HashMap<Digest, Arc<Entry>>, FileFault> {
    let mut all = HashMap::new();
    for (index, line) in text(path)?.lines().enumerate() {
        if line.trim().is_empty() {
            continue;
        }
        let fault =
            |cause| FileFault::Line { path: path.display().to_string(), line: index + 1, cause };
        let (digest, record) = parse(line).map_err(fault)?;
        let entry = Entry::new(&record).map_err(fault)?;
        if all.insert(digest, Arc::new(entry)).is_some() {
            return Err(fault(Odd("this key stands in the file twice")));
        }
    }
    Ok(all)
}

/// Appends a key. Blocking.
///
/// # Errors
/// When the file cannot be written.
pub fn append(path: &Path, digest: &Digest, record: &Record) -> Result<(), FileFault> {
    let mut line = serde_json::json!({ "sha256": digest.to_string() });
    if let (Some(line), Ok(serde_json::Value::Object(record))) =
        (line.as_object_mut(), serde_json::to_value(record))
    {
        line.extend(record);
    }
    let fault = |source| FileFault::Io { path: path.display().to_string(), source };
    let mut file = fs::OpenOptions::new().create(true).append(true).open(path).map_err(fault)?;
    file.write_all(format!("{line}\n").as_bytes()).map_err(fault)
}

/// Takes a key out, and answers whether it was there. Blocking.
///
/// # Errors
/// When the file cannot be read or written.
pub fn remove(path: &Path, digest: &Digest) -> Result<bool, FileFault> {
    let before = text(path)?;
    let own = |line: &&str| parse(line).is_ok_and(|(found, _)| found == *digest);
    let found = before.lines().any(|line| own(&line));
    if found {
        let fault = |source| FileFault::Io { path: path.display().to_string(), source };
        let left: String =
            before.lines().filter(|line| !own(line)).flat_map(|line| [line, "\n"]).collect();
        let fresh = path.with_extension("new");
        fs::write(&fresh, left).map_err(fault)?;
        fs::set_permissions(&fresh, fs::metadata(path).map_err(fault)?.permissions())
            .map_err(fault)?;
        fs::rename(&fresh, path).map_err(fault)?;
    }
    Ok(found)
}

fn text(path: &Path) -> Result<String, FileFault> {
    let fault = |source| FileFault::Io { path: path.display().to_string(), source };
    if fs::metadata(path).map_err(fault)?.len() > LARGEST {
        return Err(fault(io::Error::other("it is larger than 64 MiB")));
    }
    fs::read_to_string(path).map_err(fault)
}

fn parse(line: &str) -> Result<(Digest, Record), Odd> {
    let odd =
        |_| Odd("it is not {\"sha256\": …, \"consumer\": …} with `plan`, `scopes`, `expires`");
    let line: Line = serde_json::from_str(line).map_err(odd)?;
    let record = serde_json::from_value(serde_json::Value::Object(line.record)).map_err(odd)?;
    Ok((line.sha256.parse()?, record))
}
