//! A table as the query engine sees it: parts streamed one by one, pruned by their authority, month and system.

use crate::Error;
use crate::manifest::{Part, Table};
use crate::part::{BATCH_ROWS, PartReader};
use crate::prune::may_match;
use arrow_array::RecordBatch;
use arrow_schema::SchemaRef;
use arrow_select::coalesce::BatchCoalescer;
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::DataFusionError;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown, TableType};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::streaming::{PartitionStream, StreamingTableExec};
use futures::stream;
use jincai_journal::Log;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

/// Where a query's scans leave the error that stopped them: the engine would turn it into text.
#[derive(Clone, Default)]
pub(crate) struct ScanFault(Arc<Mutex<Option<Error>>>);

impl ScanFault {
    fn set(&self, error: Error) -> DataFusionError {
        let text = error.to_string();
        // Only whole values are stored, so a panic elsewhere leaves nothing half done.
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
        DataFusionError::Execution(text)
    }

    /// The error that stopped a scan, if one did.
    pub(crate) fn take(&self) -> Option<Error> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// A table as it was when the query began.
pub(crate) struct TableScan {
    pub(crate) log: Arc<dyn Log>,
    pub(crate) table: Arc<Table>,
    pub(crate) partitions: usize,
    pub(crate) fault: ScanFault,
}

impl fmt::Debug for TableScan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TableScan").field("table", &self.table.shape.name).finish_non_exhaustive()
    }
}

#[async_trait]
impl TableProvider for TableScan {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.table.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    /// Every filter is offered to pruning and applied again by the engine.
    fn supports_filters_pushdown(
        &self,
        filters: &[&Expr],
    ) -> Result<Vec<TableProviderFilterPushDown>, DataFusionError> {
        Ok(vec![TableProviderFilterPushDown::Inexact; filters.len()])
    }

    async fn scan(
        &self,
        _: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>, DataFusionError> {
        let wanted = projection.cloned().unwrap_or_else(|| (0..self.table.schema.fields().len()).collect());
        let reader = PartReader::new(Arc::clone(&self.log), Arc::clone(&self.table), wanted)?;
        let schema = Arc::clone(reader.schema());
        let mut shares = vec![Vec::new(); self.partitions];
        let matching = self.table.parts.values().filter(|part| filters.iter().all(|filter| may_match(part, filter)));
        for (number, part) in matching.enumerate() {
            shares[number % self.partitions].push(Arc::clone(part));
        }
        let share = |parts: Vec<Arc<Part>>| {
            let parts: Arc<[Arc<Part>]> = parts.into();
            Arc::new(Share { reader: reader.clone(), parts, fault: self.fault.clone() }) as Arc<dyn PartitionStream>
        };
        let shares = shares.into_iter().map(share).collect();
        Ok(Arc::new(StreamingTableExec::try_new(schema, shares, None, [], false, limit)?))
    }
}

/// The parts that one partition of a scan reads.
struct Share {
    reader: PartReader,
    parts: Arc<[Arc<Part>]>,
    fault: ScanFault,
}

impl fmt::Debug for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Share").field("parts", &self.parts.len()).finish_non_exhaustive()
    }
}

impl PartitionStream for Share {
    fn schema(&self) -> &SchemaRef {
        self.reader.schema()
    }

    fn execute(&self, _: Arc<TaskContext>) -> SendableRecordBatchStream {
        let schema = Arc::clone(self.schema());
        let batches = Batches {
            reader: self.reader.clone(),
            parts: Arc::clone(&self.parts),
            next: 0,
            gathered: BatchCoalescer::new(Arc::clone(&schema), BATCH_ROWS),
            ended: false,
        };
        let fault = self.fault.clone();
        let batches = batches.map(move |batch| batch.map_err(|error| fault.set(error)));
        Box::pin(RecordBatchStreamAdapter::new(schema, stream::iter(batches)))
    }
}

/// Reads a share's parts when they are asked for, and hands out small ones together.
struct Batches {
    reader: PartReader,
    parts: Arc<[Arc<Part>]>,
    next: usize,
    gathered: BatchCoalescer,
    ended: bool,
}

impl Batches {
    fn step(&mut self) -> Result<Option<RecordBatch>, Error> {
        let engine = |error: arrow_schema::ArrowError| Error::Query { reason: error.to_string() };
        loop {
            if let Some(batch) = self.gathered.next_completed_batch() {
                return Ok(Some(batch));
            }
            if self.ended {
                return Ok(None);
            }
            let Some(part) = self.parts.get(self.next) else {
                self.ended = true;
                self.gathered.finish_buffered_batch().map_err(engine)?;
                continue;
            };
            self.next += 1;
            for batch in self.reader.read(part)? {
                self.gathered.push_batch(batch).map_err(engine)?;
            }
        }
    }
}

impl Iterator for Batches {
    type Item = Result<RecordBatch, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        let step = self.step();
        if step.is_err() {
            // After an error there is nothing more.
            self.ended = true;
            self.gathered = BatchCoalescer::new(Arc::clone(self.reader.schema()), BATCH_ROWS);
        }
        step.transpose()
    }
}
