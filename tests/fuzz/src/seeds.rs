//! Valid inputs for every target, made by the project's own encoders: the same bytes on every run.

mod crypto;
mod disk;
mod exchange;
mod node;
mod rooms;
mod text;
pub mod vectors;

use crate::Verdict;

/// What the names of seeds' files begin with.
pub const PREFIX: &str = "seed-";

/// An input of a corpus.
pub struct Seed {
    /// Whose corpus.
    pub target: &'static str,
    /// What it shows.
    pub name: &'static str,
    /// The input.
    pub bytes: Vec<u8>,
    /// What the target must make of it.
    pub verdict: Verdict,
}

impl Seed {
    /// The name of its file.
    #[must_use]
    pub fn file(&self) -> String {
        format!("{PREFIX}{}", self.name)
    }
}

/// All seeds.
#[must_use]
pub fn all() -> Vec<Seed> {
    let seeds = [text::seeds(), crypto::seeds(), exchange::seeds(), node::seeds(), rooms::seeds(), disk::seeds()];
    seeds.into_iter().flatten().collect()
}

fn accepted(target: &'static str, name: &'static str, bytes: Vec<u8>) -> Seed {
    Seed { target, name, bytes, verdict: Verdict::Accepted }
}

fn refused(target: &'static str, name: &'static str, bytes: Vec<u8>) -> Seed {
    Seed { target, name, bytes, verdict: Verdict::Refused }
}
