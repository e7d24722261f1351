//! Reading a part: records from the journal, checked against their digests, decoded, merged by row key.
//!
//! Only the columns that are asked for are decoded. A query that asks for none but the system columns is answered from the
//! manifest. It refuses to hand out rows of a record that is not the one the part names, and a part whose rows do not add
//! up to the number that was decided.

use crate::Error;
use crate::manifest::{AUTHORITY, MONTH, Part, SYSTEM, Table, VERSION};
use arrow_array::{ArrayRef, BooleanArray, Int64Array, RecordBatch, RecordBatchOptions, StringArray, new_null_array};
use arrow_ipc::reader::StreamReader;
use arrow_schema::{ArrowError, SchemaRef};
use arrow_select::filter::filter_record_batch;
use datafusion::arrow::row::{RowConverter, SortField};
use jincai_crypto::sha256;
use jincai_journal::Log;
use jincai_types::PartRecord;
use std::collections::HashSet;
use std::sync::Arc;

/// Rows a batch aims at: parts are small, and an operator's cost is per batch.
pub(crate) const BATCH_ROWS: usize = 8192;

/// Reads parts of one table for one query.
#[derive(Clone)]
pub(crate) struct PartReader {
    log: Arc<dyn Log>,
    table: Arc<Table>,
    /// The columns to hand out, by their place in the table's schema.
    wanted: Vec<usize>,
    schema: SchemaRef,
}

impl PartReader {
    pub(crate) fn new(log: Arc<dyn Log>, table: Arc<Table>, wanted: Vec<usize>) -> Result<Self, ArrowError> {
        let schema = Arc::new(table.schema.project(&wanted)?);
        Ok(Self { log, table, wanted, schema })
    }

    /// The columns that are handed out.
    pub(crate) fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// The rows of a part.
    pub(crate) fn read(&self, part: &Part) -> Result<Vec<RecordBatch>, Error> {
        let own = self.table.shape.columns.len();
        if self.wanted.iter().all(|column| *column >= own) {
            return self.without_columns(part);
        }
        let merges = part.records.len() > 1;
        let decoded: Vec<usize> = (0..own)
            .filter(|column| self.wanted.contains(column) || (merges && self.table.shape.columns[*column].key))
            .collect();
        let mut batches = Vec::new();
        for record in &part.records {
            self.decode(part, record, &decoded, &mut batches)?;
        }
        let damaged = |error: ArrowError| self.damaged(part, part.records[0], error.to_string());
        if merges {
            self.keep_last_by_key(&decoded, &mut batches).map_err(damaged)?;
        }
        let rows: u64 = batches.iter().map(|batch| batch.num_rows() as u64).sum();
        if rows != part.rows {
            let reason = format!("the part has {rows} rows where {} were decided", part.rows);
            return Err(self.damaged(part, part.records[0], reason));
        }
        let place = |column: &usize| decoded.binary_search(column).ok();
        let assemble = |batch: RecordBatch| {
            let columns = self.wanted.iter().map(|column| match place(column) {
                Some(place) => Arc::clone(batch.column(place)),
                None => self.system_column(*column, part, batch.num_rows()),
            });
            self.batch(columns.collect(), batch.num_rows())
        };
        batches.into_iter().map(assemble).collect::<Result<_, _>>().map_err(damaged)
    }

    /// The part's rows as far as the manifest knows them.
    fn without_columns(&self, part: &Part) -> Result<Vec<RecordBatch>, Error> {
        let mut left = usize::try_from(part.rows).unwrap_or(usize::MAX);
        let mut batches = Vec::new();
        while left > 0 {
            let rows = left.min(BATCH_ROWS);
            let columns = self.wanted.iter().map(|column| self.system_column(*column, part, rows)).collect();
            let batch = self.batch(columns, rows);
            batches.push(batch.map_err(|error| self.damaged(part, part.records[0], error.to_string()))?);
            left -= rows;
        }
        Ok(batches)
    }

    fn batch(&self, columns: Vec<ArrayRef>, rows: usize) -> Result<RecordBatch, ArrowError> {
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &options)
    }

    fn system_column(&self, column: usize, part: &Part, rows: usize) -> ArrayRef {
        let text = |value: &str| Arc::new(StringArray::from_iter_values(std::iter::repeat_n(value, rows))) as ArrayRef;
        match self.table.schema.field(column).name().as_str() {
            AUTHORITY => text(part.key.authority.as_str()),
            MONTH => text(&part.key.month.to_string()),
            SYSTEM => text(&part.key.system),
            VERSION => {
                let version = i64::try_from(part.version).unwrap_or(i64::MAX);
                Arc::new(Int64Array::from_value(version, rows))
            }
            other => unreachable!("«{other}» is neither decoded nor a system column"),
        }
    }

    /// Appends a record's rows: the columns `decoded`, by their place in the table's schema, in that order.
    fn decode(
        &self,
        part: &Part,
        record: &PartRecord,
        decoded: &[usize],
        batches: &mut Vec<RecordBatch>,
    ) -> Result<(), Error> {
        let stored = self.log.read(record.record)?;
        let (start, length) = (record.start as usize, record.length as usize);
        let bytes = start.checked_add(length).and_then(|end| stored.payload.get(start..end));
        let bytes = bytes.ok_or_else(|| self.damaged(part, *record, "it is too short".into()))?;
        if sha256(bytes) != record.digest {
            return Err(self.damaged(part, *record, "its digest is another one".into()));
        }
        let read = self.decode_stream(bytes, decoded);
        batches.extend(read.map_err(|error| self.damaged(part, *record, error.to_string()))?);
        Ok(())
    }

    fn decode_stream(&self, bytes: &[u8], decoded: &[usize]) -> Result<Vec<RecordBatch>, ArrowError> {
        let held = StreamReader::try_new(bytes, None)?.schema();
        // A record that is older than a column lacks it: its rows have no value there.
        let places: Vec<Option<usize>> =
            decoded.iter().map(|column| held.index_of(self.table.schema.field(*column).name()).ok()).collect();
        let mut projection: Vec<usize> = places.iter().flatten().copied().collect();
        projection.sort_unstable();
        let schema = Arc::new(self.table.schema.project(decoded)?);
        let mut batches = Vec::new();
        for batch in StreamReader::try_new(bytes, Some(projection.clone()))? {
            let batch = batch?;
            let columns = places.iter().zip(schema.fields()).map(|(place, field)| {
                let place = place.and_then(|place| projection.binary_search(&place).ok());
                place.map_or_else(
                    || new_null_array(field.data_type(), batch.num_rows()),
                    |place| Arc::clone(batch.column(place)),
                )
            });
            let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
            batches.push(RecordBatch::try_new_with_options(Arc::clone(&schema), columns.collect(), &options)?);
        }
        Ok(batches)
    }

    /// Drops every row whose key stands again further on. A table without key columns keeps all rows.
    fn keep_last_by_key(&self, decoded: &[usize], batches: &mut [RecordBatch]) -> Result<(), ArrowError> {
        let is_key = |column: &usize| self.table.shape.columns[*column].key;
        let keys: Vec<usize> = (0..decoded.len()).filter(|place| is_key(&decoded[*place])).collect();
        if keys.is_empty() {
            return Ok(());
        }
        let kind = |place: &usize| SortField::new(self.table.schema.field(decoded[*place]).data_type().clone());
        let converter = RowConverter::new(keys.iter().map(kind).collect())?;
        let mut seen = HashSet::new();
        for batch in batches.iter_mut().rev() {
            let columns: Vec<ArrayRef> = keys.iter().map(|place| Arc::clone(batch.column(*place))).collect();
            let rows = converter.convert_columns(&columns)?;
            let mut keep = vec![false; batch.num_rows()];
            for row in (0..batch.num_rows()).rev() {
                keep[row] = seen.insert(rows.row(row).as_ref().to_vec());
            }
            *batch = filter_record_batch(batch, &BooleanArray::from(keep))?;
        }
        Ok(())
    }

    fn damaged(&self, part: &Part, record: PartRecord, reason: String) -> Error {
        Error::Damaged { table: self.table.shape.name.clone(), part: part.name(), record: record.record, reason }
    }
}
