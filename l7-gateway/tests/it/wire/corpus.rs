//! Reads the tables of `tests/corpus/`; its README.md says what their lines mean.

use std::path::Path;

/// One row: what is sent and what must become of it.
#[derive(Debug)]
pub(crate) struct Row {
    /// The file and the row's name.
    pub(crate) name: String,
    /// The bytes.
    pub(crate) bytes: Vec<u8>,
    /// The lines that say what is expected, with their first letter.
    pub(crate) expected: Vec<(char, String)>,
}

impl Row {
    /// The expectations that begin with this letter.
    pub(crate) fn of(&self, kind: char) -> impl Iterator<Item = &str> {
        self.expected.iter().filter(move |(k, _)| *k == kind).map(|(_, text)| text.as_str())
    }
}

/// All rows of a folder.
pub(crate) fn rows(folder: &str) -> Vec<Row> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus").join(folder);
    let mut files: Vec<_> =
        std::fs::read_dir(folder).expect("the corpus").flatten().map(|e| e.path()).collect();
    files.sort();
    files.iter().flat_map(|file| read(file)).collect()
}

fn read(file: &Path) -> Vec<Row> {
    let text = std::fs::read_to_string(file).expect("text");
    let stem = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let mut rows: Vec<Row> = Vec::new();
    for line in text.lines().filter(|line| !line.is_empty()) {
        let rest = line.get(2..).unwrap_or_default();
        if line.starts_with("##") {
            let name = format!("{stem}: {}", rest.trim());
            rows.push(Row { name, bytes: Vec::new(), expected: Vec::new() });
            continue;
        }
        if line.starts_with('#') {
            continue;
        }
        let row = rows.last_mut().expect("a row begins with its name");
        match line.as_bytes()[0] {
            b'>' => row.bytes.extend([expand(rest), b"\r\n".to_vec()].concat()),
            b'+' => row.bytes.extend(expand(rest)),
            kind => {
                let text = String::from_utf8(expand(rest)).expect("text is expected");
                row.expected.push((char::from(kind), text));
            }
        }
    }
    rows
}

/// Escapes and repetitions.
fn expand(text: &str) -> Vec<u8> {
    let mut rest = text.as_bytes();
    let out = until(&mut rest, false);
    assert!(rest.is_empty(), "a brace too many in {text}");
    out
}

fn until(rest: &mut &[u8], nested: bool) -> Vec<u8> {
    let mut out = Vec::new();
    while let [byte, more @ ..] = *rest {
        match byte {
            b'}' if nested => return out,
            b'{' => {
                *rest = more;
                out.extend(repeated(rest));
                continue;
            }
            b'\\' => {
                let (byte, used) = escape(more);
                out.push(byte);
                *rest = &more[used..];
                continue;
            }
            byte => out.push(*byte),
        }
        *rest = more;
    }
    out
}

/// `text*20}`.
fn repeated(rest: &mut &[u8]) -> Vec<u8> {
    let inner = until(rest, true);
    *rest = &rest[1..];
    let star = inner.iter().rposition(|b| *b == b'*').expect("text*count");
    let count = std::str::from_utf8(&inner[star + 1..]).expect("a count");
    inner[..star].repeat(count.parse().expect("a count"))
}

/// The byte that stands behind a backslash, and how many letters spell it.
fn escape(text: &[u8]) -> (u8, usize) {
    match text[0] {
        b'r' => (b'\r', 1),
        b'n' => (b'\n', 1),
        b't' => (b'\t', 1),
        b's' => (b' ', 1),
        b'0' => (0, 1),
        b'x' => {
            let digits = std::str::from_utf8(&text[1..3]).expect("two digits");
            (u8::from_str_radix(digits, 16).expect("two digits"), 3)
        }
        other => (other, 1),
    }
}
