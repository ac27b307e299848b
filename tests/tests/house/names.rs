//! One word per thing: the words that docs/lexicon.md bans from names of types, modules and
//! functions.

use syn::visit::Visit;

use crate::tree::{Source, none, sources};

/// Banned in names of types and modules, word by word.
const BANNED: [&str; 18] = [
    "Frontend",
    "Backend",
    "Vip",
    "Inbound",
    "Remote",
    "Origin",
    "Cluster",
    "Node",
    "Middleware",
    "Plugin",
    "Handler",
    "Ctx",
    "Utils",
    "Util",
    "Helpers",
    "Helper",
    "Misc",
    "Globals",
];

/// Names that keep a banned word, with the reason.
const KEPT: [(&str, &str); 2] = [
    ("pgpool/wire/", "PostgreSQL's manual says frontend and backend"),
    ("topology/src/gateway.rs", "CORS says origin (Fetch standard)"),
];

const BANNED_FUNCTIONS: [&str; 3] = ["get_", "do_", "process_"];

struct Names<'a> {
    source: &'a Source,
    findings: Vec<String>,
}

impl Names<'_> {
    fn check(&mut self, name: &syn::Ident) {
        let name = name.to_string();
        if words(&name).iter().any(|word| BANNED.contains(&word.as_str())) {
            self.findings.push(format!("{}: {name}", self.source.path));
        }
    }

    fn check_function(&mut self, name: &syn::Ident) {
        let name = name.to_string();
        if BANNED_FUNCTIONS.iter().any(|prefix| name.starts_with(prefix)) || name == "process" {
            self.findings.push(format!("{}: fn {name}", self.source.path));
        }
    }
}

/// `HttpBackend` and `http_backend` are `Http`, `Backend`.
fn words(name: &str) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    let mut begins = true;
    for letter in name.chars() {
        if letter == '_' {
            begins = true;
            continue;
        }
        if begins || letter.is_uppercase() {
            words.push(letter.to_uppercase().collect());
        } else if let Some(word) = words.last_mut() {
            word.push(letter);
        }
        begins = false;
    }
    words
}

impl<'ast> Visit<'ast> for Names<'_> {
    fn visit_item_struct(&mut self, item: &'ast syn::ItemStruct) {
        self.check(&item.ident);
        syn::visit::visit_item_struct(self, item);
    }
    fn visit_item_enum(&mut self, item: &'ast syn::ItemEnum) {
        self.check(&item.ident);
    }
    fn visit_item_trait(&mut self, item: &'ast syn::ItemTrait) {
        self.check(&item.ident);
        syn::visit::visit_item_trait(self, item);
    }
    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        self.check(&item.ident);
        syn::visit::visit_item_mod(self, item);
    }
    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        self.check_function(&item.sig.ident);
        syn::visit::visit_item_fn(self, item);
    }
    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        self.check_function(&item.sig.ident);
        syn::visit::visit_impl_item_fn(self, item);
    }
}

#[test]
fn names_are_the_lexicons() {
    let mut findings = Vec::new();
    for source in sources().iter().filter(|source| source.is_product()) {
        if KEPT.iter().any(|(path, _)| source.path.starts_with(path)) {
            continue;
        }
        let file = syn::parse_file(&source.text).expect("source that compiles");
        let mut names = Names { source, findings: Vec::new() };
        names.visit_file(&file);
        findings.append(&mut names.findings);
    }
    none("words that docs/lexicon.md bans", &findings);
}
