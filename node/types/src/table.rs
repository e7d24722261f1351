//! Tables of standard storage as values: storage decides [`TableEffect`]s, the table engine (or its twin) executes them.

use crate::{AuthorityId, Digest, Month, RecordNumber};
use minicbor::{Decode, Encode};

/// The type of a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Encode, Decode, serde::Serialize, serde::Deserialize)]
#[cbor(index_only)]
#[serde(rename_all = "snake_case")]
pub enum ColumnType {
    /// UTF-8 text (Arrow Utf8).
    #[n(0)]
    Text,
    /// An amount of money, decimal(18,2) (Arrow Decimal128(18, 2)); an integer of fen in memory.
    #[n(1)]
    Amount,
    /// A day (Arrow Date32).
    #[n(2)]
    Date,
    /// A whole number (Arrow Int64).
    #[n(3)]
    Integer,
}

/// One column of a table.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, serde::Serialize, serde::Deserialize)]
pub struct Column {
    /// Name: lower-case letters, digits and underscores.
    #[n(0)]
    pub name: String,
    /// Type.
    #[n(1)]
    pub kind: ColumnType,
    /// Whether a value must be there.
    #[n(2)]
    pub required: bool,
    /// Whether it belongs to the row key within a partition.
    #[n(3)]
    pub key: bool,
}

/// The shape of a table.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, serde::Serialize, serde::Deserialize)]
pub struct TableSchema {
    /// Name: lower-case letters, digits and underscores.
    #[n(0)]
    pub name: String,
    /// Columns in order.
    #[n(1)]
    pub columns: Vec<Column>,
}

/// Which part of a table: one authority's rows of one month from one business system. It is replaced whole, or not at all.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub struct PartKey {
    /// Whose rows.
    #[n(0)]
    pub authority: AuthorityId,
    /// Of which month.
    #[n(1)]
    pub month: Month,
    /// From which business system.
    #[n(2)]
    pub system: String,
}

/// What the table engine must do once the record that decided it is durable. Row bytes stay in the journal: an effect
/// names the records that hold them (Arrow IPC streams, zstd-compressed buffers allowed).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TableEffect {
    /// A table appears, or gets this shape.
    Define(TableSchema),
    /// A part becomes exactly these rows; no records removes the part.
    SetPart {
        /// Table name.
        table: String,
        /// Which part.
        part: PartKey,
        /// Version of the part, for people; larger is newer.
        version: u64,
        /// Records whose rows make up the part, in order: a row with the key of an earlier one replaces it.
        records: Vec<PartRecord>,
        /// Rows in the part after merging.
        rows: u64,
    },
}

/// Where some rows of a part lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct PartRecord {
    /// The journal record.
    #[n(0)]
    pub record: RecordNumber,
    /// Byte range of the Arrow IPC stream within the record's payload: start.
    #[n(1)]
    pub start: u32,
    /// Byte range of the Arrow IPC stream within the record's payload: length.
    #[n(2)]
    pub length: u32,
    /// SHA-256 of those bytes.
    #[n(3)]
    pub digest: Digest,
}
