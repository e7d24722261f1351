//! The manifest: which parts a table has now, and which records hold their rows.
//!
//! A reader takes a copy of it and keeps it as long as its query runs. The copy shares everything with the original, which
//! is cloned only if it changes meanwhile; so a query sees every part whole, old or new, never a mixture.

use crate::Error;
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use jincai_types::{Column, ColumnType, PartKey, PartRecord, TableEffect, TableSchema};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Whose rows: the part's authority.
pub(crate) const AUTHORITY: &str = "_authority";
/// Of which month, `YYYY-MM`.
pub(crate) const MONTH: &str = "_month";
/// From which business system.
pub(crate) const SYSTEM: &str = "_system";
/// Version of the part.
pub(crate) const VERSION: &str = "_version";

/// Most columns of a table.
const COLUMNS: usize = 1024;
/// Longest name of a table or column, in bytes.
const NAME_BYTES: usize = 64;

/// One authority's rows of one month from one business system.
#[derive(Clone, Debug)]
pub(crate) struct Part {
    pub(crate) key: PartKey,
    pub(crate) version: u64,
    pub(crate) records: Vec<PartRecord>,
    pub(crate) rows: u64,
}

impl Part {
    /// The part's name, for people.
    pub(crate) fn name(&self) -> String {
        format!("{}/{}/{}", self.key.authority, self.key.month, self.key.system)
    }
}

/// A table's shape and its parts.
#[derive(Clone, Debug)]
pub(crate) struct Table {
    pub(crate) shape: TableSchema,
    /// The shape's columns, then the system columns.
    pub(crate) schema: SchemaRef,
    pub(crate) parts: BTreeMap<PartKey, Arc<Part>>,
}

/// All tables by name.
#[derive(Clone, Debug, Default)]
pub(crate) struct Manifest {
    pub(crate) tables: BTreeMap<String, Arc<Table>>,
}

impl Manifest {
    /// Carries an effect out. The same effect twice changes nothing more.
    pub(crate) fn apply(&mut self, effect: TableEffect) -> Result<(), Error> {
        match effect {
            TableEffect::Define(shape) => {
                let schema = schema_of(&shape)?;
                let parts = self.tables.get(&shape.name).map_or_else(BTreeMap::new, |table| table.parts.clone());
                self.tables.insert(shape.name.clone(), Arc::new(Table { shape, schema, parts }));
            }
            TableEffect::SetPart { table, part, version, records, rows } => {
                let Some(known) = self.tables.get_mut(&table) else {
                    return Err(Error::UnknownTable { table });
                };
                let parts = &mut Arc::make_mut(known).parts;
                if records.is_empty() {
                    parts.remove(&part);
                } else {
                    parts.insert(part.clone(), Arc::new(Part { key: part, version, records, rows }));
                }
            }
        }
        Ok(())
    }
}

/// The columns that every table has beside its own.
fn system_fields() -> [Field; 4] {
    let text = |name| Field::new(name, DataType::Utf8, false);
    [text(AUTHORITY), text(MONTH), text(SYSTEM), Field::new(VERSION, DataType::Int64, false)]
}

fn schema_of(shape: &TableSchema) -> Result<SchemaRef, Error> {
    let wrong = |reason| Err(Error::Schema { table: shape.name.clone(), reason });
    let plain = |name: &str| {
        (1..=NAME_BYTES).contains(&name.len())
            && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
    };
    if !plain(&shape.name) || !shape.columns.iter().all(|column| plain(&column.name)) {
        return wrong("names have 1 to 64 lower-case letters, digits and underscores");
    }
    if shape.columns.is_empty() || shape.columns.len() > COLUMNS {
        return wrong("a table has 1 to 1,024 columns");
    }
    let field = |column: &Column| Field::new(&column.name, data_type(column.kind), !column.required);
    let fields: Vec<Field> = shape.columns.iter().map(field).chain(system_fields()).collect();
    let names: BTreeSet<&String> = fields.iter().map(Field::name).collect();
    if names.len() < fields.len() {
        return wrong("a column stands twice, or has the name of a system column");
    }
    Ok(Arc::new(Schema::new(fields)))
}

fn data_type(kind: ColumnType) -> DataType {
    match kind {
        ColumnType::Text => DataType::Utf8,
        ColumnType::Amount => DataType::Decimal128(18, 2),
        ColumnType::Date => DataType::Date32,
        ColumnType::Integer => DataType::Int64,
    }
}
