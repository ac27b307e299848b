//! Publishing immutable state to many readers: built aside, swapped in at once. Not for counters
//! or anything that changes in place.
//!
//! Invariant: a reader sees a whole old value or a whole new one.

use std::sync::Arc;

use arc_swap::ArcSwap;
pub use arc_swap::Guard;

/// One published value; readers never wait.
#[derive(Debug)]
pub struct Published<T>(ArcSwap<T>);

impl<T> Published<T> {
    /// Publishes a first value.
    pub fn new(first: T) -> Self {
        Self(ArcSwap::from_pointee(first))
    }

    /// Publishes a first value that is shared already.
    pub fn of(first: Arc<T>) -> Self {
        Self(ArcSwap::new(first))
    }

    /// The value in force, borrowed for a short, synchronous use.
    pub fn load(&self) -> Guard<Arc<T>> {
        self.0.load()
    }

    /// The value in force, kept across an await.
    pub fn load_full(&self) -> Arc<T> {
        self.0.load_full()
    }

    /// Replaces the value. The old one lives until its last reader has let go.
    pub fn publish(&self, next: T) {
        self.replace(Arc::new(next));
    }

    /// The same with a value that is shared already.
    pub fn replace(&self, next: Arc<T>) {
        self.0.store(next);
    }
}
