//! The rules of docs/architecture.md that a machine can check. Not for taste: a rule that needs
//! judgement stays in the document. Each module is one rule.

mod coverage;
mod dashboard;
mod edges;
mod leftovers;
mod names;
mod sizes;
mod tree;
mod walks;
