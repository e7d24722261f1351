//! Every decoder of bytes or text from outside, each with the properties it must keep whatever it is given.
//!
//! A target takes any bytes, hands them to a decoder through public doors, and asserts: that what is accepted is written
//! again as the same bytes, verifies again, keeps its limits, reads back from what it became. Bytes that a node takes only
//! behind a signature, a digest or a checksum have those made here, so that what lies behind is reached. It keeps no state
//! from one call to the next, reads no clock and no file: an input that fails once fails always.
//!
//! `tests/replay.rs` runs the corpus of every target and thousands of mutations of it in `make test`; `search.sh` looks for
//! new inputs with libFuzzer; `cargo run -p jincai-fuzz --example seeds` writes the seeds of the corpora anew.

mod crypto;
mod dictionary;
mod exchange;
mod files;
mod journal;
pub mod mutate;
mod node;
mod read;
pub mod seeds;
mod storage;
mod text;
mod wires;
mod world;

/// What a decoder made of its input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It took the input, and every property held.
    Accepted,
    /// It refused the input with an error.
    Refused,
}

impl Verdict {
    fn of(accepted: bool) -> Self {
        if accepted { Self::Accepted } else { Self::Refused }
    }
}

/// A target: it panics if a property is broken.
pub type Target = fn(&[u8]) -> Verdict;

/// All targets, by the names of their corpora.
pub const TARGETS: &[(&str, Target)] = &[
    ("text", text::text),
    ("attributes", text::attributes),
    ("places", text::places),
    ("statement", crypto::statement),
    ("batch", crypto::batch),
    ("batch_signed", crypto::batch_signed),
    ("cards", crypto::cards),
    ("cards_signed", crypto::cards_signed),
    ("key_ring", crypto::key_ring),
    ("signature", crypto::signature),
    ("evidence", crypto::evidence),
    ("evidence_signed", crypto::evidence_signed),
    ("certificate", crypto::certificate),
    ("frame", exchange::frame),
    ("lists", exchange::lists),
    ("records", exchange::records),
    ("node", node::node),
    ("codes", dictionary::codes),
    ("release", dictionary::release),
    ("delta", dictionary::delta),
    ("snapshot", dictionary::snapshot),
    ("spec", storage::spec),
    ("policy", storage::policy),
    ("rows", storage::rows),
    ("wire_rows", storage::wire_rows),
    ("collected", storage::collected),
    ("transfer", files::transfer),
    ("journal", journal::journal),
    ("carry", journal::carry),
    ("mailbox", wires::mailbox),
    ("stream", wires::stream),
];

/// The target of a name.
#[must_use]
pub fn target(name: &str) -> Option<Target> {
    TARGETS.iter().find(|(known, _)| *known == name).map(|(_, target)| *target)
}
