//! What standard storage writes into the journal, and what travels between nodes.

use crate::model::{Spec, Totals};
use jincai_types::{Digest, PartKey};
use minicbor::bytes::ByteVec;
use minicbor::{Decode, Encode};

/// An effect on standard storage. Rows stand at an effect's very end, so that their place in the record is known.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub(crate) enum Effect {
    /// A spec counts from now on.
    #[n(0)]
    Spec {
        #[n(0)]
        spec: Spec,
    },
    /// Rows were written here: each part named becomes these rows.
    #[n(1)]
    Written {
        #[n(0)]
        table: String,
        #[n(1)]
        parts: Vec<PartRows>,
        #[n(2)]
        rows: ByteVec,
    },
    /// A collected batch became a part.
    #[n(2)]
    Landed {
        #[n(0)]
        table: String,
        #[n(1)]
        part: PartRows,
        #[n(2)]
        rows: ByteVec,
    },
    /// Parts were handed to the exchange in these versions.
    #[n(3)]
    Sent {
        #[n(0)]
        table: String,
        #[n(1)]
        part: PartKey,
        #[n(2)]
        version: u64,
    },
    /// A batch that was sent from here before this node was set back is a part again.
    #[n(6)]
    Retaken {
        #[n(0)]
        table: String,
        #[n(1)]
        part: PartRows,
        #[n(2)]
        rows: ByteVec,
    },
    /// The collector could not take this version (this node was set back meanwhile): the part gets the next one, and is
    /// collected again.
    #[n(5)]
    Renumbered {
        #[n(0)]
        table: String,
        #[n(1)]
        part: PartKey,
        #[n(2)]
        version: u64,
    },
    /// The collector refused a version.
    #[n(4)]
    Refused {
        #[n(0)]
        table: String,
        #[n(1)]
        part: PartKey,
        #[n(2)]
        version: u64,
        #[n(3)]
        reason: String,
    },
}

/// One part within an effect's rows.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub(crate) struct PartRows {
    #[n(0)]
    pub(crate) part: PartKey,
    #[n(1)]
    pub(crate) version: u64,
    #[n(2)]
    pub(crate) totals: Totals,
    /// Start of its Arrow IPC stream within the rows.
    #[n(3)]
    pub(crate) start: u32,
    #[n(4)]
    pub(crate) length: u32,
    /// SHA-256 of the stream.
    #[n(5)]
    pub(crate) digest: Digest,
}

/// A collected batch as it travels: the payload of a `jincai.storage.batch` message.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub(crate) struct Batch {
    #[n(0)]
    pub(crate) spec: String,
    #[n(1)]
    pub(crate) spec_version: u64,
    #[n(2)]
    pub(crate) part: PartKey,
    #[n(3)]
    pub(crate) version: u64,
    #[n(4)]
    pub(crate) totals: Totals,
    /// The rows ([`crate::rows::to_wire`]), or empty if they travel as bulk parts.
    #[n(5)]
    pub(crate) rows: ByteVec,
    /// Digests of the bulk parts that hold the rows, in order.
    #[n(6)]
    pub(crate) parts: Vec<Digest>,
}
