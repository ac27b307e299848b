//! What Google's descriptions say that others import; nobody needs a copy of them. Called by `transcode` and `errors`.
//!
//! Invariant: fields and numbers as Google has them.

use std::sync::LazyLock;

use prost_reflect::DescriptorPool;
use protox::Compiler;
use protox::file::{ChainFileResolver, File, FileResolver, GoogleFileResolver};

/// By name, the files beside `google/protobuf`, which `protox` has.
const FILES: [(&str, &str); 5] = [
    ("google/api/annotations.proto", include_str!("google/api/annotations.proto")),
    ("google/api/http.proto", include_str!("google/api/http.proto")),
    ("google/api/httpbody.proto", include_str!("google/api/httpbody.proto")),
    (DETAILS, include_str!("google/rpc/error_details.proto")),
    ("google/rpc/status.proto", include_str!("google/rpc/status.proto")),
];

const DETAILS: &str = "google/rpc/error_details.proto";

/// Finds them.
#[derive(Debug)]
pub struct Annotations;

impl FileResolver for Annotations {
    fn open_file(&self, name: &str) -> Result<File, protox::Error> {
        let known = FILES.iter().find(|(known, _)| *known == name);
        let (_, text) = known.ok_or_else(|| protox::Error::file_not_found(name))?;
        File::from_source(name, text)
    }
}

/// What services may say of an error.
pub fn details() -> &'static DescriptorPool {
    static KNOWN: LazyLock<DescriptorPool> = LazyLock::new(|| {
        let mut resolver = ChainFileResolver::new();
        resolver.add(Annotations);
        resolver.add(GoogleFileResolver::new());
        let mut compiler = Compiler::with_file_resolver(resolver);
        compiler.include_imports(true);
        compiler.open_file(DETAILS).map(|compiler| compiler.descriptor_pool()).unwrap_or_default()
    });
    &KNOWN
}
