//! Lengths of files, functions and mains, module headers, and how deep folders go.

use proc_macro2::Span;
use syn::spanned::Spanned;
use syn::visit::Visit;

use crate::tree::{Source, none, sources};

const FILE_LINES: usize = 600;
const FUNCTION_LINES: usize = 80;
const MAIN_LINES: usize = 80;
const FOLDERS_BELOW_SRC: usize = 3;

#[test]
fn files_are_short() {
    let long = |source: &Source| {
        let lines = source.product_lines().count();
        let limit = if source.path.ends_with("/main.rs") { MAIN_LINES } else { FILE_LINES };
        (source.is_product() && lines > limit)
            .then(|| format!("{}: {lines} lines, at most {limit}", source.path))
    };
    none("split these files by topic", &sources().iter().filter_map(long).collect::<Vec<_>>());
}

#[test]
fn half_of_the_files_fit_on_three_screens() {
    let mut lengths: Vec<_> = sources()
        .iter()
        .filter(|source| source.is_product())
        .map(|source| source.product_lines().count())
        .collect();
    lengths.sort_unstable();
    let (median, p90) = (lengths[lengths.len() / 2], lengths[lengths.len() * 9 / 10]);
    assert!(median <= 200, "the median file has {median} lines");
    assert!(p90 <= 420, "one file in ten has more than {p90} lines");
}

#[test]
fn every_file_says_what_it_is_for() {
    let silent = |source: &Source| (!source.text.starts_with("//! ")).then(|| source.path.clone());
    none("begin with a //! header", &sources().iter().filter_map(silent).collect::<Vec<_>>());
}

#[test]
fn folders_are_shallow() {
    let deep = |source: &Source| {
        let below = source.path.split_once("/src/")?.1.matches('/').count();
        (source.is_product() && below > FOLDERS_BELOW_SRC).then(|| source.path.clone())
    };
    none("too deep below src", &sources().iter().filter_map(deep).collect::<Vec<_>>());
}

struct Functions<'a> {
    path: &'a str,
    findings: Vec<String>,
}

impl Functions<'_> {
    fn measure(&mut self, name: &syn::Ident, span: Span) {
        let lines = span.end().line + 1 - span.start().line;
        if lines > FUNCTION_LINES {
            self.findings.push(format!("{}: {name} has {lines} lines", self.path));
        }
    }
}

impl<'ast> Visit<'ast> for Functions<'_> {
    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        self.measure(&item.sig.ident, item.block.span());
        syn::visit::visit_item_fn(self, item);
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        self.measure(&item.sig.ident, item.block.span());
        syn::visit::visit_impl_item_fn(self, item);
    }
}

#[test]
fn functions_are_short() {
    let mut findings = Vec::new();
    for source in sources() {
        let file = syn::parse_file(&source.text)
            .unwrap_or_else(|fault| panic!("{} does not parse: {fault}", source.path));
        let mut functions = Functions { path: &source.path, findings: Vec::new() };
        functions.visit_file(&file);
        findings.append(&mut functions.findings);
    }
    none("split these functions", &findings);
}
