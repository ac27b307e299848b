//! The manual of all keys, written from the schema, so that it cannot differ from what is read.
//! Not for the ideas behind the file: the crate's header.
//!
//! Invariant: every section of the schema is written exactly once.

use std::fmt::Write as _;

use serde_json::Value;

/// The manual as Markdown.
pub(crate) fn render(schema: &Value) -> String {
    let mut text = String::from(HEAD);
    let mut sections = vec![("The file".to_owned(), schema)];
    let mut index = 0;
    while let Some((title, section)) = sections.get(index).cloned() {
        write_section(&mut text, &title, section);
        for (key, property) in properties(section) {
            let mut found = Vec::new();
            references(property, &mut found);
            for name in found {
                let definition = schema.pointer(&format!("/definitions/{name}"));
                let known = |(_, other): &(String, &Value)| {
                    definition.is_some_and(|definition| std::ptr::eq(*other, definition))
                };
                if let Some(definition) = definition.filter(|_| !sections.iter().any(known)) {
                    let title =
                        if title == "The file" { key.to_owned() } else { format!("{title}.{key}") };
                    sections.push((title, definition));
                }
            }
        }
        index += 1;
    }
    text
}

const HEAD: &str = "\
# The topology file: all keys

Written by `topology::docs()` from the tables that read the file; do not edit. How the file works is in
the header of the crate `topology`. Times have a unit (`250ms`, `5s`, `2m`, `1h`, `1d`), so have sizes
(`512B`, `64KiB`, `10MiB`, `1GiB`) and rates (`10/s`, `100/min`, `5000/h`, `20000/d`). A change takes
effect when the file is loaded again. A **bold** key must be there.
";

fn write_section(text: &mut String, title: &str, section: &Value) {
    let description = section.get("description").and_then(Value::as_str).unwrap_or_default();
    let required: Vec<&str> = section
        .get("required")
        .and_then(Value::as_array)
        .map_or(Vec::new(), |all| all.iter().filter_map(Value::as_str).collect());
    let _ =
        write!(text, "\n## {title}\n\n{description}\n\n| key | value | meaning |\n|---|---|---|\n");
    for (key, property) in properties(section) {
        let meaning = property.get("description").and_then(Value::as_str).unwrap_or_default();
        let name =
            if required.contains(&key) { format!("**`{key}`**") } else { format!("`{key}`") };
        let (value, meaning) = (cell(&form(property)), cell(meaning));
        let _ = writeln!(text, "| {name} | {value} | {meaning} |");
    }
}

/// Keeps a text inside of one cell of a table.
fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}

fn properties(section: &Value) -> impl Iterator<Item = (&str, &Value)> {
    let map = section.get("properties").and_then(Value::as_object);
    map.into_iter().flatten().map(|(key, value)| (key.as_str(), value))
}

/// Names of the sections that a value leads to.
fn references<'v>(value: &'v Value, found: &mut Vec<&'v str>) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                let name = value.as_str().and_then(|text| text.strip_prefix("#/definitions/"));
                match name.filter(|_| key == "$ref") {
                    Some(name) => found.push(name),
                    None => references(value, found),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| references(item, found)),
        _ => {}
    }
}

/// What a value looks like, in few words.
fn form(value: &Value) -> String {
    if let Some(words) = value.get("enum").and_then(Value::as_array) {
        let words = words.iter().map(|word| match word.as_str() {
            Some(word) => format!("`{word}`"),
            None => format!("`{word}`"),
        });
        return words.collect::<Vec<_>>().join(", ");
    }
    if let Some(choices) = value.get("anyOf").and_then(Value::as_array) {
        return choices.iter().map(form).collect::<Vec<_>>().join(" or ");
    }
    if value.get("$ref").is_some() || value.get("allOf").is_some() {
        return "section".to_owned();
    }
    if let Some(items) = value.get("items") {
        return format!("list of: {}", form(items));
    }
    if let Some(entry) = value.get("additionalProperties").filter(|entry| entry.is_object()) {
        return format!("by name: {}", form(entry));
    }
    match value.get("type").and_then(Value::as_str) {
        Some("integer") => range(value),
        Some("boolean") => "`true`, `false`".to_owned(),
        _ => value
            .get("title")
            .and_then(Value::as_str)
            .map_or_else(|| "text".to_owned(), str::to_owned),
    }
}

fn range(value: &Value) -> String {
    let number = |key| value.get(key).and_then(Value::as_u64);
    match (number("minimum"), number("maximum")) {
        (Some(least), Some(most)) if most < u64::from(u32::MAX) => format!("{least} to {most}"),
        (Some(least), _) => format!("number, {least} or more"),
        _ => "number".to_owned(),
    }
}
