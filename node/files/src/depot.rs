//! The store as callers of a node see it: files go in piece by piece, and whole files are read.

use crate::Error;
use crate::tree::Tree;
use jincai_types::Digest;

/// What a store holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes in use or set aside.
    pub used: u64,
    /// The limit.
    pub limit: u64,
    /// Whole files.
    pub files: u64,
    /// Parts of files that are being received.
    pub parts: u64,
}

/// A file that has been taken in. As long as this lives the store does not remove it, whether or not anybody needs it.
pub struct Taken {
    /// Its tree.
    pub tree: Tree,
    /// Lets go of it when it is dropped.
    pub hold: Box<dyn Send + Sync>,
}

/// A file on its way in. Dropped before it is whole, it leaves nothing behind.
pub trait Upload: Send {
    /// Takes the next bytes.
    fn write(&mut self, bytes: &[u8]) -> Result<(), Error>;
    /// Makes it a whole file, durably.
    fn finish(self: Box<Self>) -> Result<Taken, Error>;
}

/// A whole file that is open: it can be read to its end, whatever becomes of its name.
pub trait Content: Send {
    /// Reads from some place on; fewer bytes only at its end.
    fn read_at(&self, at: u64, bytes: &mut [u8]) -> Result<usize, Error>;
}

/// See the module's head.
pub trait Depot: Send + Sync {
    /// Begins to take a file in.
    fn upload(&self) -> Result<Box<dyn Upload>, Error>;
    /// Opens a whole file.
    fn open(&self, root: &Digest) -> Result<Box<dyn Content>, Error>;
    /// What is in use.
    fn usage(&self) -> Usage;
}
