//! Rows: read from CSV and checked one by one, so that each bad one is named with its reason; in key order; as Arrow IPC.

use crate::Error;
use crate::model::{Spec, Totals};
use arrow_array::builder::{Date32Builder, Decimal128Builder, Int64Builder, StringBuilder};
use arrow_array::cast::AsArray;
use arrow_array::types::{Date32Type, Decimal128Type, Int64Type};
use arrow_array::{Array, ArrayRef, RecordBatch};
use arrow_ipc::CompressionType;
use arrow_ipc::reader::StreamReader;
use arrow_ipc::writer::{IpcWriteOptions, StreamWriter};
use arrow_schema::{ArrowError, DataType, Field, Schema};
use jincai_crypto::Hasher;
use jincai_types::{ColumnType, Date, Month, format_fen, parse_fen};
use minicbor::Encoder;
use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::sync::Arc;

/// Most rows of one request.
pub const REQUEST_ROWS: u64 = 100_000;
/// Most refusals that are spelled out; all are counted.
const REFUSALS: usize = 1_000;
/// Most bytes of a partition's rows before compression.
const WIRE_BYTES: u64 = 64 << 20;
/// Longest text value in bytes.
const TEXT_BYTES: usize = 4_096;
/// Largest amount in fen, either way: decimal(18,2).
const AMOUNT_FEN: u64 = 999_999_999_999_999_999;

/// A value of a row.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Value {
    /// Nothing.
    Null,
    /// Text.
    Text(String),
    /// An amount in fen.
    Amount(i64),
    /// Days since 1970-01-01.
    Date(i32),
    /// A whole number.
    Integer(i64),
}

/// A row, in the spec's column order.
pub type Row = Vec<Value>;

/// A row that breaks the spec.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct RowRefusal {
    /// Its line in the file, counted from 1 with the header.
    pub line: u64,
    /// Its key values, joined by `/`, as far as they could be read.
    pub key: String,
    /// The column that breaks the spec.
    pub column: String,
    /// Stable code.
    pub code: &'static str,
    /// Why.
    pub reason: String,
}

/// Rows of a request, judged.
#[derive(Debug, Default)]
pub struct Judged {
    /// Good rows by month, then by key.
    pub months: BTreeMap<Month, BTreeMap<Row, Row>>,
    /// How many good rows.
    pub accepted: u64,
    /// How many bad rows.
    pub refused: u64,
    /// The first thousand of them, spelled out.
    pub refusals: Vec<RowRefusal>,
}

/// Reads a CSV file with the spec's columns as its header (any order, none missing, none more) and judges every row.
/// `has_code` answers whether a code set holds a code. An error means that the file as a whole cannot be read.
pub fn judge(spec: &Spec, file: &mut dyn Read, has_code: &dyn Fn(&str, &str) -> bool) -> Result<Judged, Error> {
    let mut reader = csv::ReaderBuilder::new().flexible(true).from_reader(SkipBom::new(file));
    let header = reader.byte_headers().map_err(|e| file_error(&e))?.clone();
    let places = columns(spec, &header)?;
    let mut judged = Judged::default();
    let mut known: BTreeMap<(usize, String), bool> = BTreeMap::new();
    let mut record = csv::ByteRecord::new();
    let mut rows = 0u64;
    while reader.read_byte_record(&mut record).map_err(|e| file_error(&e))? {
        rows += 1;
        if rows > REQUEST_ROWS {
            return Err(Error::TooManyRows { limit: REQUEST_ROWS });
        }
        let line = record.position().map_or(0, csv::Position::line);
        if record.len() != header.len() {
            let reason = format!("{} fields, the header has {}", record.len(), header.len());
            judged.refuse(line, String::new(), "", reason);
            continue;
        }
        let mut check = |index: usize, text: &str| {
            let set = spec.columns[index].code_set.as_deref()?;
            let good = *known.entry((index, text.to_owned())).or_insert_with(|| has_code(set, text));
            (!good).then(|| format!("«{text}» is no code of {set}"))
        };
        match read_row(spec, &places, &record, &mut check) {
            Ok(row) => judged.accept(spec, line, row),
            Err((key, column, reason)) => judged.refuse(line, key, column, reason),
        }
    }
    Ok(judged)
}

impl Judged {
    fn refuse(&mut self, line: u64, key: String, column: &str, reason: String) {
        self.refused += 1;
        if self.refusals.len() < REFUSALS {
            let column = column.to_owned();
            self.refusals.push(RowRefusal { line, key, column, code: "JC-1510", reason });
        }
    }

    fn accept(&mut self, spec: &Spec, line: u64, row: Row) {
        let key = key_of(spec, &row);
        let Some(month) = month_of(spec, &row) else {
            return self.refuse(line, show(&key), &spec.month_of, "the partition's date is missing".into());
        };
        let month = self.months.entry(month).or_default();
        if month.contains_key(&key) {
            return self.refuse(line, show(&key), "", "its key stands twice in this request".into());
        }
        month.insert(key, row);
        self.accepted += 1;
    }
}

fn file_error(error: &csv::Error) -> Error {
    let line = error.position().map_or(1, csv::Position::line);
    Error::File { line, reason: error.to_string() }
}

fn columns(spec: &Spec, header: &csv::ByteRecord) -> Result<Vec<usize>, Error> {
    let wrong = |reason| Err(Error::File { line: 1, reason });
    let mut seen = BTreeSet::new();
    for name in header {
        let name = String::from_utf8_lossy(name).into_owned();
        if !spec.columns.iter().any(|c| c.name == name) {
            return wrong(format!("the table has no column «{}»", name.chars().take(40).collect::<String>()));
        }
        if !seen.insert(name.clone()) {
            return wrong(format!("column «{name}» stands twice"));
        }
    }
    let place = |name: &str| header.iter().position(|h| h == name.as_bytes());
    let mut places = Vec::with_capacity(spec.columns.len());
    for column in &spec.columns {
        match place(&column.name) {
            Some(at) => places.push(at),
            None => return wrong(format!("column «{}» is missing", column.name)),
        }
    }
    Ok(places)
}

type RowFault<'s> = (String, &'s str, String);

fn read_row<'s>(
    spec: &'s Spec,
    places: &[usize],
    record: &csv::ByteRecord,
    check: &mut dyn FnMut(usize, &str) -> Option<String>,
) -> Result<Row, RowFault<'s>> {
    let raw = |at: usize| String::from_utf8_lossy(&record[places[at]]).chars().take(40).collect::<String>();
    let key_columns = || spec.columns.iter().enumerate().filter(|(_, c)| c.key);
    let key = || key_columns().map(|(at, _)| raw(at)).collect::<Vec<_>>().join("/");
    let mut row = Row::with_capacity(places.len());
    for (index, column) in spec.columns.iter().enumerate() {
        let wrong = |reason: String| (key(), column.name.as_str(), reason);
        let text = std::str::from_utf8(&record[places[index]]).map_err(|_| wrong("not UTF-8".into()))?;
        if text.is_empty() {
            if column.required {
                return Err(wrong("a value is required".into()));
            }
            row.push(Value::Null);
            continue;
        }
        if !is_plain(text) {
            return Err(wrong(format!("longer than {TEXT_BYTES} bytes, or with control characters")));
        }
        let value = match column.kind {
            ColumnType::Text => Value::Text(text.to_owned()),
            ColumnType::Amount => Value::Amount(parse_fen(text).map_err(|e| wrong(e.to_string()))?),
            ColumnType::Date => Value::Date(text.parse::<Date>().map_err(|e| wrong(e.to_string()))?.days()),
            ColumnType::Integer => {
                Value::Integer(text.parse().map_err(|_| wrong(format!("«{}» is no whole number", raw(index))))?)
            }
        };
        if let Some(reason) = check(index, text) {
            return Err(wrong(reason));
        }
        row.push(value);
    }
    Ok(row)
}

/// The key values of a row.
#[must_use]
pub fn key_of(spec: &Spec, row: &Row) -> Row {
    spec.columns.iter().zip(row).filter(|(c, _)| c.key).map(|(_, v)| v.clone()).collect()
}

fn show(key: &Row) -> String {
    let one = |v: &Value| match v {
        Value::Null => String::new(),
        Value::Text(t) => t.chars().take(40).collect(),
        Value::Amount(a) => format_fen(i128::from(*a)),
        Value::Date(d) => Date::from_days(*d).map_or_else(String::new, |d| d.to_string()),
        Value::Integer(i) => i.to_string(),
    };
    key.iter().map(one).collect::<Vec<_>>().join("/")
}

/// Control totals over rows in key order.
pub fn totals<'r>(spec: &Spec, rows: impl Iterator<Item = &'r Row>) -> Totals {
    let measured: Vec<usize> =
        spec.totals.iter().filter_map(|t| spec.columns.iter().position(|c| c.name == *t)).collect();
    let mut sums = vec![0i128; measured.len()];
    let mut hasher = Hasher::default().with(b"jincai/rows/1\0");
    let mut count = 0;
    let mut canonical = Vec::new();
    for row in rows {
        count += 1;
        for (sum, at) in sums.iter_mut().zip(&measured) {
            if let Value::Amount(fen) = row[*at] {
                *sum += i128::from(fen);
            }
        }
        canonical.clear();
        write_canonical(row, &mut canonical);
        hasher.update(&canonical);
    }
    let sums = spec.totals.iter().cloned().zip(sums.iter().map(ToString::to_string)).collect();
    Totals { rows: count, sums, digest: hasher.finish() }
}

/// A row as canonical CBOR: an array of null, text or integers in column order.
fn write_canonical(row: &Row, out: &mut Vec<u8>) {
    let mut encoder = Encoder::new(out);
    let mut write = || -> Result<(), minicbor::encode::Error<std::convert::Infallible>> {
        encoder.array(row.len() as u64)?;
        for value in row {
            match value {
                Value::Null => encoder.null()?,
                Value::Text(text) => encoder.str(text)?,
                Value::Amount(n) | Value::Integer(n) => encoder.i64(*n)?,
                Value::Date(days) => encoder.i32(*days)?,
            };
        }
        Ok(())
    };
    write().expect("encoding into a Vec cannot fail");
}

fn arrow_type(kind: ColumnType) -> DataType {
    match kind {
        ColumnType::Text => DataType::Utf8,
        ColumnType::Amount => DataType::Decimal128(18, 2),
        ColumnType::Date => DataType::Date32,
        ColumnType::Integer => DataType::Int64,
    }
}

fn arrow_schema(spec: &Spec) -> Arc<Schema> {
    let field = |c: &crate::SpecColumn| Field::new(&c.name, arrow_type(c.kind), !c.required);
    Arc::new(Schema::new(spec.columns.iter().map(field).collect::<Vec<_>>()))
}

fn arrow_error(error: &ArrowError) -> Error {
    Error::Arrow(error.to_string())
}

/// Rows as one Arrow IPC stream with zstd-compressed buffers.
pub fn to_ipc<'r>(spec: &Spec, rows: impl Iterator<Item = &'r Row> + Clone) -> Result<Vec<u8>, Error> {
    let mut arrays: Vec<ArrayRef> = Vec::with_capacity(spec.columns.len());
    for (at, column) in spec.columns.iter().enumerate() {
        let values = rows.clone().map(|row| &row[at]);
        arrays.push(array(column.kind, values)?);
    }
    let schema = arrow_schema(spec);
    let batch = RecordBatch::try_new(schema.clone(), arrays).map_err(|e| arrow_error(&e))?;
    let options =
        IpcWriteOptions::default().try_with_compression(Some(CompressionType::ZSTD)).map_err(|e| arrow_error(&e))?;
    let mut out = Vec::new();
    let mut writer = StreamWriter::try_new_with_options(&mut out, &schema, options).map_err(|e| arrow_error(&e))?;
    writer.write(&batch).and_then(|()| writer.finish()).map_err(|e| arrow_error(&e))?;
    drop(writer);
    Ok(out)
}

fn array<'r>(kind: ColumnType, values: impl Iterator<Item = &'r Value>) -> Result<ArrayRef, Error> {
    let mismatch = || Error::Arrow("a value does not have its column's type".into());
    macro_rules! build {
        ($builder:expr, $variant:path) => {{
            let mut builder = $builder;
            for value in values {
                match value {
                    Value::Null => builder.append_null(),
                    $variant(v) => builder.append_value(v.clone().into()),
                    _ => return Err(mismatch()),
                }
            }
            builder
        }};
    }
    Ok(match kind {
        ColumnType::Text => {
            let mut builder = StringBuilder::new();
            for value in values {
                match value {
                    Value::Null => builder.append_null(),
                    Value::Text(text) => builder.append_value(text),
                    _ => return Err(mismatch()),
                }
            }
            Arc::new(builder.finish())
        }
        ColumnType::Amount => {
            let builder = Decimal128Builder::new().with_precision_and_scale(18, 2).map_err(|e| arrow_error(&e))?;
            Arc::new(build!(builder, Value::Amount).finish())
        }
        ColumnType::Date => Arc::new(build!(Date32Builder::new(), Value::Date).finish()),
        ColumnType::Integer => Arc::new(build!(Int64Builder::new(), Value::Integer).finish()),
    })
}

/// Reads what [`to_ipc`] wrote, in key order; refuses other columns, doubled keys and more rows than fit a partition.
pub fn from_ipc(spec: &Spec, bytes: &[u8]) -> Result<BTreeMap<Row, Row>, Error> {
    let reader = StreamReader::try_new(bytes, None).map_err(|e| arrow_error(&e))?;
    if reader.schema() != arrow_schema(spec) {
        return Err(Error::Arrow("its columns are not those of the spec".into()));
    }
    let mut out = BTreeMap::new();
    for batch in reader {
        let batch = batch.map_err(|e| arrow_error(&e))?;
        for at in 0..batch.num_rows() {
            let row: Row = spec.columns.iter().zip(batch.columns()).map(|(c, a)| value(c.kind, a, at)).collect();
            if out.insert(key_of(spec, &row), row).is_some() {
                return Err(Error::Arrow("a key stands twice".into()));
            }
        }
    }
    Ok(out)
}

fn value(kind: ColumnType, array: &ArrayRef, at: usize) -> Value {
    if array.is_null(at) {
        return Value::Null;
    }
    match kind {
        ColumnType::Text => Value::Text(array.as_string::<i32>().value(at).to_owned()),
        // Within decimal(18,2) every amount fits 64 bits; a wider one is forged, and its digest will say so.
        ColumnType::Amount => {
            Value::Amount(i64::try_from(array.as_primitive::<Decimal128Type>().value(at)).unwrap_or(i64::MAX))
        }
        ColumnType::Date => Value::Date(array.as_primitive::<Date32Type>().value(at)),
        ColumnType::Integer => Value::Integer(array.as_primitive::<Int64Type>().value(at)),
    }
}

/// Rows as they travel: zstd over the canonical CBOR rows in key order, the same bytes that the digest covers.
#[must_use]
pub fn to_wire<'r>(rows: impl Iterator<Item = &'r Row>) -> Vec<u8> {
    let mut plain = Vec::new();
    rows.for_each(|row| write_canonical(row, &mut plain));
    zstd::encode_all(plain.as_slice(), 3).expect("compressing from memory into memory cannot fail")
}

/// Reads what [`to_wire`] wrote: bounded, values that a file of rows could have held, in key order, no key twice.
pub fn from_wire(spec: &Spec, bytes: &[u8]) -> Result<Vec<Row>, Error> {
    let wrong = |reason: &str| Error::Arrow(format!("collected rows: {reason}"));
    let mut plain = Vec::new();
    let decoder = zstd::Decoder::new(bytes).map_err(|e| wrong(&e.to_string()))?;
    decoder.take(WIRE_BYTES + 1).read_to_end(&mut plain).map_err(|e| wrong(&e.to_string()))?;
    if plain.len() as u64 > WIRE_BYTES {
        return Err(wrong("more than 64 MiB when decompressed"));
    }
    let mut decoder = minicbor::Decoder::new(&plain);
    let mut rows: Vec<Row> = Vec::new();
    while decoder.position() < plain.len() {
        let row = read_canonical(spec, &mut decoder).map_err(|e| wrong(&e.to_string()))?;
        if rows.last().is_some_and(|last| key_of(spec, last) >= key_of(spec, &row)) {
            return Err(wrong("not in key order, or a key stands twice"));
        }
        rows.push(row);
    }
    Ok(rows)
}

fn read_canonical(spec: &Spec, decoder: &mut minicbor::Decoder<'_>) -> Result<Row, minicbor::decode::Error> {
    let wrong = |what| Err(minicbor::decode::Error::message(what));
    if decoder.array()? != Some(spec.columns.len() as u64) {
        return wrong("a row does not have the spec's columns");
    }
    let mut row = Row::with_capacity(spec.columns.len());
    for column in &spec.columns {
        if decoder.datatype()? == minicbor::data::Type::Null {
            if column.required {
                return wrong("a required value is missing");
            }
            decoder.null()?;
            row.push(Value::Null);
            continue;
        }
        row.push(match column.kind {
            ColumnType::Text => Value::Text(decoder.str()?.to_owned()),
            ColumnType::Amount => Value::Amount(decoder.i64()?),
            ColumnType::Date => Value::Date(decoder.i32()?),
            ColumnType::Integer => Value::Integer(decoder.i64()?),
        });
        if !row.last().is_some_and(is_possible) {
            return wrong("a value is none that its column can hold");
        }
    }
    Ok(row)
}

/// Whether a file of rows could have held the value.
fn is_possible(value: &Value) -> bool {
    match value {
        Value::Text(text) => !text.is_empty() && is_plain(text),
        Value::Amount(fen) => fen.unsigned_abs() <= AMOUNT_FEN,
        Value::Date(days) => Date::from_days(*days).is_some(),
        Value::Null | Value::Integer(_) => true,
    }
}

fn is_plain(text: &str) -> bool {
    text.len() <= TEXT_BYTES && !text.contains(char::is_control)
}

/// The month that a row belongs to.
#[must_use]
pub fn month_of(spec: &Spec, row: &Row) -> Option<Month> {
    let at = spec.columns.iter().position(|c| c.name == spec.month_of)?;
    match row.get(at) {
        Some(Value::Date(days)) => Date::from_days(*days).map(|d| d.month()),
        _ => None,
    }
}

/// Leaves out a UTF-8 byte-order mark at the start of a file.
struct SkipBom<'f> {
    file: &'f mut dyn Read,
    start: Option<Vec<u8>>,
}

impl<'f> SkipBom<'f> {
    fn new(file: &'f mut dyn Read) -> Self {
        Self { file, start: None }
    }
}

impl Read for SkipBom<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if self.start.is_none() {
            let mut start = Vec::new();
            (&mut self.file).take(3).read_to_end(&mut start)?;
            if start == [0xef, 0xbb, 0xbf] {
                start.clear();
            }
            self.start = Some(start);
        }
        if let Some(start) = self.start.as_mut().filter(|s| !s.is_empty()) {
            let count = start.len().min(buffer.len());
            buffer[..count].copy_from_slice(&start[..count]);
            start.drain(..count);
            return Ok(count);
        }
        self.file.read(buffer)
    }
}
