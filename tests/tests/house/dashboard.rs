//! The Grafana dashboard asks only for series that a tier really has.

use std::fs;

use crate::tree::{Source, none, root, sources};

#[test]
fn the_dashboard_names_series_that_exist() {
    let text = fs::read_to_string(root().join("deploy/grafana/aqueduct.json")).expect("dashboard");
    let is_name = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
    let product: String =
        sources().into_iter().filter(Source::is_product).map(|source| source.text).collect();
    let names = text.split(|letter| !is_name(letter)).filter(|word| word.starts_with("aqueduct_"));
    let unknown = names.filter(|name| {
        let base = name.strip_suffix("_bucket").unwrap_or(name);
        !product.contains(&format!("\"{base}\""))
    });
    none("series that no tier has", &unknown.map(str::to_owned).collect::<Vec<_>>());
}
