//! Collection specs, control totals and the parts of tables as this node holds them.

use crate::Error;
use jincai_types::{AuthorityId, Column, ColumnType, Digest, PartKey, PartRecord, Requirement, System, TableSchema};
use minicbor::{Decode, Encode};
use serde::{Deserialize, Serialize};

/// Most columns of a table.
const COLUMNS: usize = 256;

/// A column of a spec: a table column, and the dictionary code set its values come from.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SpecColumn {
    /// Name: lower-case letters, digits and underscores.
    #[n(0)]
    pub name: String,
    /// Type.
    #[n(1)]
    #[serde(rename = "type")]
    pub kind: ColumnType,
    /// Whether a value must be there.
    #[n(2)]
    #[serde(default)]
    pub required: bool,
    /// Whether it belongs to the row key within a partition.
    #[n(3)]
    #[serde(default)]
    pub key: bool,
    /// The code set of the spec's dictionary line that values must come from.
    #[n(4)]
    #[serde(default)]
    pub code_set: Option<String>,
    /// What it means, for people.
    #[n(5)]
    #[serde(default)]
    pub title: String,
}

/// A collection spec (采集规范): one table, its checks, who collects it and how often.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spec {
    /// Its id, such as `mof.payments`.
    #[n(0)]
    pub id: String,
    /// Counts up from 1.
    #[n(1)]
    pub version: u64,
    /// What it is, for people.
    #[n(2)]
    pub title: String,
    /// The table's name.
    #[n(3)]
    pub table: String,
    /// Its columns.
    #[n(4)]
    pub columns: Vec<SpecColumn>,
    /// The date column whose month makes the partition.
    #[n(5)]
    pub month_of: String,
    /// Amount columns whose sums are signed at the source and compared on arrival.
    #[n(6)]
    pub totals: Vec<String>,
    /// The authority that collects.
    #[n(7)]
    pub collector: AuthorityId,
    /// Seconds between two collections; only partitions that changed travel.
    #[n(8)]
    pub every_seconds: u64,
    /// The dictionary line that code sets belong to.
    #[n(9)]
    pub line: String,
    /// The lowest release of that line that a node must hold before it uses the spec.
    #[n(10)]
    pub release: u64,
}

fn is_name(text: &str) -> bool {
    let plain = text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
    (1..=63).contains(&text.len()) && plain && !text.starts_with(|c: char| c.is_ascii_digit() || c == '_')
}

impl Spec {
    /// Refuses a spec that nodes could not carry out.
    pub fn check(&self) -> Result<(), Error> {
        let wrong = |reason: String| Err(Error::Spec { id: self.id.clone(), reason });
        let id_ok = self.id.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(&b));
        if !id_ok || !(1..=64).contains(&self.id.len()) || self.title.len() > 512 {
            return wrong(
                "an id of 1 to 64 characters a-z 0-9 . _ - and a title of at most 512 bytes are wanted".into(),
            );
        }
        if !is_name(&self.table) {
            return wrong(format!("table «{}»: lower-case letters, digits and underscores are wanted", self.table));
        }
        if self.columns.is_empty() || self.columns.len() > COLUMNS {
            return wrong(format!("1 to {COLUMNS} columns are wanted"));
        }
        for (index, column) in self.columns.iter().enumerate() {
            if !is_name(&column.name) || self.columns[..index].iter().any(|c| c.name == column.name) {
                return wrong(format!("column «{}»: the name is malformed or stands twice", column.name));
            }
            if column.code_set.is_some() && column.kind != ColumnType::Text {
                return wrong(format!("column {}: only text comes from a code set", column.name));
            }
            if column.key && !column.required {
                return wrong(format!("column {}: a key column must be required", column.name));
            }
        }
        if !self.columns.iter().any(|c| c.key) {
            return wrong("no column belongs to the key".into());
        }
        let has = |name: &str, kind| self.columns.iter().any(|c| c.name == name && c.kind == kind);
        let month = self.columns.iter().find(|c| c.name == self.month_of);
        if !month.is_some_and(|c| c.kind == ColumnType::Date && c.required) {
            return wrong(format!("month_of «{}» is no required date column", self.month_of));
        }
        if let Some(total) = self.totals.iter().find(|t| !has(t, ColumnType::Amount)) {
            return wrong(format!("total «{total}» is no amount column"));
        }
        if !(1..=366 * 86_400).contains(&self.every_seconds) {
            return wrong("every_seconds must lie between 1 and 31622400".into());
        }
        Ok(())
    }

    /// The table's shape.
    #[must_use]
    pub fn schema(&self) -> TableSchema {
        let column = |c: &SpecColumn| Column { name: c.name.clone(), kind: c.kind, required: c.required, key: c.key };
        TableSchema { name: self.table.clone(), columns: self.columns.iter().map(column).collect() }
    }

    /// What a node must hold before it can use the spec.
    #[must_use]
    pub fn requires(&self) -> Vec<Requirement> {
        let coded = self.columns.iter().any(|c| c.code_set.is_some());
        if !coded {
            return Vec::new();
        }
        vec![Requirement::Release { line: self.line.clone(), number: self.release }]
    }
}

/// The figures that a source signs for a partition, and that its collector computes again.
#[derive(Clone, Debug, PartialEq, Eq, Default, Encode, Decode, Serialize, Deserialize)]
pub struct Totals {
    /// Rows.
    #[n(0)]
    pub rows: u64,
    /// Sum of each total column, in fen, as decimal text (sums may exceed 64 bits).
    #[n(1)]
    pub sums: Vec<(String, String)>,
    /// SHA-256 over the canonical rows in key order.
    #[n(2)]
    pub digest: Digest,
}

/// A partition of a table as this node holds it.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Part {
    /// Its rows lie here.
    #[n(0)]
    pub record: PartRecord,
    /// Figures over its rows.
    #[n(1)]
    pub totals: Totals,
    /// Counts up with every change at the source; the collector holds the source's number.
    #[n(2)]
    pub version: u64,
    /// Where it stands.
    #[n(3)]
    pub state: PartState,
}

/// Where a partition stands on its way up.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum PartState {
    /// Written here and not collected in this version.
    #[n(0)]
    Changed,
    /// Handed to the exchange in this version.
    #[n(1)]
    Sent,
    /// The collector refused this version; the reason.
    #[n(2)]
    Refused(#[n(0)] String),
    /// Collected from below and equal to what its source signed.
    #[n(3)]
    Reconciled,
}

/// Table and part.
pub type PartId = (String, PartKey);

/// Whether a business system may be called so: what the API takes from callers.
pub(crate) fn is_system(text: &str) -> bool {
    text.parse::<System>().is_ok()
}

/// A partition's name for people and in message ids: `370502000/payments/2026-01/default`.
#[must_use]
pub fn part_name(table: &str, part: &PartKey) -> String {
    format!("{}/{table}/{}/{}", part.authority, part.month, part.system)
}
