//! The mark of something whose signature, digests and place were checked.

use std::ops::Deref;

/// A value that this crate has verified. Nothing else can make one, so what takes a `Verified<T>` cannot be handed
/// anything unchecked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified<T>(T);

impl<T> Verified<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(value)
    }

    /// The value, no longer marked.
    pub fn into_inner(self) -> T {
        self.0
    }
}

impl<T> Deref for Verified<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.0
    }
}
