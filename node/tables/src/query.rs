//! Statements and their results: text cells, exact, in bounded time, memory and number.

use crate::Error;
use crate::engine::{Engine, StartError, start};
use crate::scan::ScanFault;
use arrow_array::{Array, RecordBatch};
use arrow_cast::display::{ArrayFormatter, FormatOptions};
use arrow_schema::{ArrowError, DataType, Field, Schema};
use datafusion::common::DataFusionError;
use datafusion::execution::session_state::SessionState;
use futures::StreamExt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::task::JoinHandle;
use tokio::time::Sleep;

/// Longest query text, in bytes.
pub(crate) const QUERY_BYTES: usize = 64 << 10;
/// Most characters of an engine's explanation.
const REASON_CHARACTERS: usize = 1000;
/// Batches that a query may be ahead of its reader.
const BATCHES_AHEAD: usize = 2;

/// What a statement may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Time from asking to the last row, the reader's own time included. Default 30 s.
    pub time: Duration,
    /// Memory of the operators (sort, group, join), and again that of a result that is gathered whole, in bytes. Default
    /// 256 MiB.
    pub memory_bytes: usize,
    /// Rows of the result; one more is an error, not a cut. Default 100,000.
    pub rows: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { time: Duration::from_secs(30), memory_bytes: 256 << 20, rows: 100_000 }
    }
}

/// What kind of values a result's column has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ValueKind {
    /// Text.
    Text,
    /// Whole numbers.
    Integer,
    /// Exact decimal numbers.
    Decimal,
    /// Binary floating-point numbers, such as those of `avg` over integers.
    Float,
    /// `true` or `false`.
    Boolean,
    /// Days, `YYYY-MM-DD`.
    Date,
    /// Anything else, as the engine writes it.
    Other,
}

impl ValueKind {
    fn of(kind: &DataType) -> Self {
        match kind {
            DataType::Utf8 | DataType::Utf8View | DataType::LargeUtf8 => Self::Text,
            DataType::Decimal32(..) | DataType::Decimal64(..) | DataType::Decimal128(..) | DataType::Decimal256(..) => {
                Self::Decimal
            }
            DataType::Boolean => Self::Boolean,
            DataType::Date32 | DataType::Date64 => Self::Date,
            kind if kind.is_integer() => Self::Integer,
            kind if kind.is_floating() => Self::Float,
            _ => Self::Other,
        }
    }

    /// The name used in interfaces.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Integer => "integer",
            Self::Decimal => "decimal",
            Self::Float => "float",
            Self::Boolean => "boolean",
            Self::Date => "date",
            Self::Other => "other",
        }
    }
}

/// A result's column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResultColumn {
    /// Its name.
    pub name: String,
    /// What its values are.
    pub kind: ValueKind,
}

/// A row: each cell as text that reads back exactly, `None` where there is no value.
pub type Row = Vec<Option<String>>;

/// A result, gathered whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueryResult {
    /// Its columns.
    pub columns: Vec<ResultColumn>,
    /// Its rows.
    pub rows: Vec<Row>,
}

/// A result that is read as it comes. Dropping it stops the query.
pub struct Rows {
    columns: Vec<ResultColumn>,
    batches: mpsc::Receiver<Message>,
    /// Stops the query when the reader goes, before the engine may be dropped.
    _task: Task,
    deadline: Pin<Box<Sleep>>,
    limits: Limits,
    rows: usize,
    ended: bool,
    _turn: OwnedSemaphorePermit,
    /// Keeps the threads until the query has ended; never the last owner within them.
    _engine: Arc<Engine>,
}

/// A query's task, which ends with its reader.
struct Task(JoinHandle<()>);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

enum Message {
    Columns(Vec<ResultColumn>),
    Batch(RecordBatch),
    Failed(Error),
    /// Without it, the end of the messages means that the task died.
    Ended,
}

impl Rows {
    /// Starts a query on an engine.
    pub(crate) async fn start(
        engine: Arc<Engine>,
        session: SessionState,
        fault: ScanFault,
        query: &str,
        limits: Limits,
    ) -> Result<Self, Error> {
        let mut deadline = Box::pin(tokio::time::sleep(limits.time));
        let turn = Arc::clone(&engine.turns).acquire_owned();
        let turn = within(&mut deadline, limits, turn).await?.map_err(|_| Error::Engine)?;
        let (sender, batches) = mpsc::channel(BATCHES_AHEAD);
        let task = run(session, fault, query.to_owned(), limits, sender);
        let task = Task(engine.handle().spawn(task));
        let columns = Vec::new();
        let mut rows = Self {
            columns,
            batches,
            _task: task,
            deadline,
            limits,
            rows: 0,
            ended: false,
            _turn: turn,
            _engine: engine,
        };
        if let Message::Columns(columns) = rows.message().await? {
            rows.columns = columns;
        }
        Ok(rows)
    }

    /// The result's columns.
    #[must_use]
    pub fn columns(&self) -> &[ResultColumn] {
        &self.columns
    }

    /// The next rows, a few thousand at a time; `None` at the end.
    pub async fn next(&mut self) -> Result<Option<Vec<Row>>, Error> {
        if self.ended {
            return Ok(None);
        }
        let message = self.message().await;
        self.ended = !matches!(message, Ok(Message::Batch(_)));
        match message? {
            Message::Batch(batch) => {
                self.rows += batch.num_rows();
                if self.rows > self.limits.rows {
                    return Err(Error::TooManyRows { limit: self.limits.rows });
                }
                cells(&batch).map(Some)
            }
            Message::Columns(_) | Message::Failed(_) | Message::Ended => Ok(None),
        }
    }

    /// Gathers the whole result.
    pub async fn gather(mut self) -> Result<QueryResult, Error> {
        let mut rows: Vec<Row> = Vec::new();
        let mut bytes = 0;
        while let Some(more) = self.next().await? {
            let held = |cell: &Option<String>| size_of::<Option<String>>() + cell.as_ref().map_or(0, String::len);
            bytes += more.iter().flatten().map(held).sum::<usize>();
            if bytes > self.limits.memory_bytes {
                return Err(Error::Memory { bytes: self.limits.memory_bytes });
            }
            rows.extend(more);
        }
        Ok(QueryResult { columns: std::mem::take(&mut self.columns), rows })
    }

    async fn message(&mut self) -> Result<Message, Error> {
        match within(&mut self.deadline, self.limits, self.batches.recv()).await? {
            Some(Message::Failed(error)) => Err(error),
            Some(message) => Ok(message),
            // The task always says how it ended, unless it panicked.
            None => Err(Error::Engine),
        }
    }
}

/// Waits for something until the deadline.
async fn within<T>(
    deadline: &mut Pin<Box<Sleep>>,
    limits: Limits,
    waited_for: impl Future<Output = T>,
) -> Result<T, Error> {
    tokio::select! {
        biased;
        () = deadline => Err(Error::TimeOut { milliseconds: limits.time.as_millis() }),
        done = waited_for => Ok(done),
    }
}

/// Runs a query on the engine's threads. A reader that has gone ends it at the next message.
async fn run(session: SessionState, fault: ScanFault, query: String, limits: Limits, to: mpsc::Sender<Message>) {
    let last = match answer(&session, &query, &to).await {
        Ok(()) => Message::Ended,
        Err(StartError::NotAQuery) => Message::Failed(Error::NotAQuery),
        Err(StartError::Engine(error)) => Message::Failed(explain(&error, &fault, limits)),
    };
    // Nobody is left to be told if the reader has gone.
    let _told = to.send(last).await.is_ok();
}

async fn answer(session: &SessionState, query: &str, to: &mpsc::Sender<Message>) -> Result<(), StartError> {
    let mut stream = start(session, query).await?;
    let mut listening = to.send(Message::Columns(columns_of(&stream.schema()))).await.is_ok();
    while listening {
        let Some(batch) = stream.next().await else {
            break;
        };
        listening = to.send(Message::Batch(batch?)).await.is_ok();
    }
    Ok(())
}

/// The error behind the engine's words.
fn explain(error: &DataFusionError, fault: &ScanFault, limits: Limits) -> Error {
    if let Some(error) = fault.take() {
        return error;
    }
    if matches!(error.find_root(), DataFusionError::ResourcesExhausted(_)) {
        return Error::Memory { bytes: limits.memory_bytes };
    }
    Error::Query { reason: error.strip_backtrace().chars().take(REASON_CHARACTERS).collect() }
}

fn columns_of(schema: &Schema) -> Vec<ResultColumn> {
    let column =
        |field: &Arc<Field>| ResultColumn { name: field.name().clone(), kind: ValueKind::of(field.data_type()) };
    schema.fields().iter().map(column).collect()
}

/// A batch's rows as text.
fn cells(batch: &RecordBatch) -> Result<Vec<Row>, Error> {
    let unreadable = |error: ArrowError| Error::Query { reason: error.to_string() };
    let options = FormatOptions::default();
    let columns = batch.columns().iter();
    let formatters = columns.map(|column| ArrayFormatter::try_new(column.as_ref(), &options).map_err(unreadable));
    let formatters: Vec<_> = formatters.collect::<Result<_, Error>>()?;
    let cell = |row: usize, (column, formatter): (&Arc<dyn Array>, &ArrayFormatter<'_>)| match column.is_null(row) {
        true => Ok(None),
        false => formatter.value(row).try_to_string().map(Some).map_err(unreadable),
    };
    (0..batch.num_rows())
        .map(|row| batch.columns().iter().zip(&formatters).map(|column| cell(row, column)).collect())
        .collect()
}
