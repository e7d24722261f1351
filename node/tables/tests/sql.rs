//! The table engine through its public doors: effects over a real journal in memory, statements over the effects.

use arrow_array::builder::{Decimal128Builder, Int64Builder, StringBuilder};
use arrow_array::{ArrayRef, RecordBatch};
use arrow_ipc::CompressionType;
use arrow_ipc::writer::{IpcWriteOptions, StreamWriter};
use arrow_schema::{DataType, Field, Schema};
use jincai_crypto::sha256;
use jincai_journal::{Config, Engine, MemoryBlobs, MemoryDisk, Record, Urgency};
use jincai_tables::{Error, Limits, QueryResult, Tables, ValueKind};
use jincai_types::{Column, ColumnType, Month, PartKey, PartRecord, TableEffect, TableSchema};
use std::sync::Arc;
use std::time::Duration;

const COUNTY: &str = "370502000";
const OTHER: &str = "370522000";

/// Payments: `id` is the key, `amount` in fen, `lines` a whole number.
struct Payment(&'static str, i64, Option<i64>);

/// A journal and the tables over it.
struct World {
    journal: Engine<MemoryDisk>,
    tables: Tables,
}

fn column(name: &str, kind: ColumnType, required: bool, key: bool) -> Column {
    Column { name: name.into(), kind, required, key }
}

fn shape(name: &str) -> TableSchema {
    let columns = vec![
        column("id", ColumnType::Text, true, true),
        column("amount", ColumnType::Amount, true, false),
        column("lines", ColumnType::Integer, false, false),
    ];
    TableSchema { name: name.into(), columns }
}

fn part(authority: &str, month: u8) -> PartKey {
    let authority = authority.parse().expect("nine digits");
    PartKey { authority, month: Month { year: 2026, month }, system: "pay".into() }
}

fn encode(batch: &RecordBatch) -> Vec<u8> {
    let mut out = Vec::new();
    let options = IpcWriteOptions::default().try_with_compression(Some(CompressionType::ZSTD)).expect("zstd");
    let mut writer = StreamWriter::try_new_with_options(&mut out, &batch.schema(), options).expect("a Vec");
    writer.write(batch).and_then(|()| writer.finish()).expect("a Vec");
    drop(writer);
    out
}

fn ipc(rows: &[Payment]) -> Vec<u8> {
    let (mut id, mut lines) = (StringBuilder::new(), Int64Builder::new());
    let mut amount = Decimal128Builder::new().with_precision_and_scale(18, 2).expect("decimal(18,2)");
    for row in rows {
        id.append_value(row.0);
        amount.append_value(row.1.into());
        lines.append_option(row.2);
    }
    let fields = vec![
        Field::new("id", DataType::Utf8, false),
        Field::new("amount", DataType::Decimal128(18, 2), false),
        Field::new("lines", DataType::Int64, true),
    ];
    let columns: Vec<ArrayRef> = vec![Arc::new(id.finish()), Arc::new(amount.finish()), Arc::new(lines.finish())];
    encode(&RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).expect("the columns fit"))
}

impl World {
    fn new() -> Self {
        let config = Config { segment_bytes: 1 << 20, ..Config::default() };
        let (journal, _) =
            Engine::open(MemoryDisk::new(), Arc::new(MemoryBlobs::new()), config).expect("an empty disk");
        let tables = Tables::new(Arc::new(journal.reader()));
        tables.apply(TableEffect::Define(shape("pay"))).expect("a good shape");
        Self { journal, tables }
    }

    /// Appends bytes behind a few others, as an effect would lie in a record.
    fn append(&mut self, bytes: &[u8]) -> PartRecord {
        let payload = [b"head", bytes].concat().into();
        let number = self.journal.append(0, &[Record { kind: 9, payload }], Urgency::Normal).expect("memory");
        self.journal.sync().expect("memory");
        let length = u32::try_from(bytes.len()).expect("small");
        PartRecord { record: number, start: 4, length, digest: sha256(bytes) }
    }

    fn set(&self, key: PartKey, records: Vec<PartRecord>, rows: u64) {
        let effect = TableEffect::SetPart { table: "pay".into(), part: key, version: 3, records, rows };
        self.tables.apply(effect).expect("the table is there");
    }

    /// Makes a part of these rows in one record.
    fn put(&mut self, key: PartKey, rows: &[Payment]) {
        let record = self.append(&ipc(rows));
        self.set(key, vec![record], rows.len() as u64);
    }

    async fn query(&self, query: &str) -> Result<QueryResult, Error> {
        self.tables.sql(query, Limits::default()).await
    }

    /// The rows of a query that must succeed, cells separated by bars.
    async fn rows(&self, query: &str) -> Vec<String> {
        let result = self.query(query).await.unwrap_or_else(|error| panic!("{query}: {error}"));
        let cell = |cell: &Option<String>| cell.clone().unwrap_or_else(|| "-".into());
        result.rows.iter().map(|row| row.iter().map(cell).collect::<Vec<_>>().join("|")).collect()
    }

    async fn code(&self, query: &str) -> &'static str {
        match self.query(query).await {
            Ok(result) => panic!("{query}: {result:?}"),
            Err(error) => error.code(),
        }
    }
}

#[tokio::test]
async fn sums_are_exact() {
    let mut world = World::new();
    let big = 999_999_999_999_999_999;
    world.put(part(COUNTY, 1), &[Payment("a", 1, Some(i64::MAX)), Payment("b", big, Some(i64::MAX))]);
    world.put(part(OTHER, 1), &[Payment("c", 2, Some(i64::MAX)), Payment("d", big, None), Payment("e", -5, Some(-1))]);
    assert_eq!(world.rows("SELECT sum(amount) FROM pay").await, ["19999999999999999.96"]);
    assert_eq!(world.rows("SELECT sum(lines) FROM pay").await, ["27670116110564327420"]);
    let grouped =
        "SELECT _authority, sum(lines) AS n, count(*) FROM pay GROUP BY _authority HAVING sum(lines) > 0 ORDER BY n";
    assert_eq!(world.rows(grouped).await, ["370522000|9223372036854775806|3", "370502000|18446744073709551614|2"]);
    let window = "SELECT id, sum(lines) OVER (ORDER BY id) FROM pay ORDER BY id LIMIT 2";
    assert_eq!(world.rows(window).await, ["a|9223372036854775807", "b|18446744073709551614"]);
    let result = world.query("SELECT sum(lines) n, sum(amount), min(lines), avg(lines) FROM pay").await.expect("good");
    let kinds: Vec<ValueKind> = result.columns.iter().map(|column| column.kind).collect();
    assert_eq!(kinds, [ValueKind::Decimal, ValueKind::Decimal, ValueKind::Integer, ValueKind::Float]);
    assert_eq!(result.columns[0].name, "n");
}

#[tokio::test]
async fn rows_come_back_as_they_were_stored() {
    let mut world = World::new();
    world.put(part(COUNTY, 12), &[Payment("市辖区", -1, None), Payment("b", 100, Some(7))]);
    assert_eq!(
        world.rows("SELECT * FROM pay ORDER BY id").await,
        ["b|1.00|7|370502000|2026-12|pay|3", "市辖区|-0.01|-|370502000|2026-12|pay|3"]
    );
    assert_eq!(world.rows("SELECT lines, id FROM pay WHERE amount > 0.5").await, ["7|b"]);
    assert_eq!(world.rows("SELECT 1 FROM pay").await, ["1", "1"]);
    let status = world.tables.status();
    assert_eq!((status.len(), status[0].parts, status[0].rows), (1, 1, 2));
}

#[tokio::test]
async fn a_query_sees_each_part_whole_old_or_new() {
    let mut world = World::new();
    for month in 1..=12 {
        let rows: Vec<Payment> = (0..9000).map(|n| Payment("old", n, Some(i64::from(month)))).collect();
        world.put(part(COUNTY, month), &rows);
    }
    let mut before =
        world.tables.rows("SELECT id FROM pay", Limits { rows: 1 << 20, ..Limits::default() }).await.expect("good");
    let mut seen = before.next().await.expect("good").expect("rows");
    for month in 1..=12 {
        world.put(part(COUNTY, month), &[Payment("new", 1, None)]);
    }
    world.set(part(COUNTY, 12), Vec::new(), 0);
    assert_eq!(world.rows("SELECT id, count(*) FROM pay GROUP BY id").await, ["new|11"]);
    while let Some(more) = before.next().await.expect("good") {
        seen.extend(more);
    }
    assert_eq!(before.next().await.expect("still the end"), None);
    assert_eq!(seen.len(), 12 * 9000);
    assert!(seen.iter().all(|row| row[0].as_deref() == Some("old")));
}

#[tokio::test]
async fn rows_of_several_records_merge_by_key() {
    let mut world = World::new();
    let first = world.append(&ipc(&[Payment("a", 1, Some(1)), Payment("b", 2, Some(2)), Payment("c", 3, Some(3))]));
    let second = world.append(&ipc(&[Payment("c", 30, None), Payment("d", 40, Some(4))]));
    let third = world.append(&ipc(&[Payment("a", 100, Some(10))]));
    world.set(part(COUNTY, 1), vec![first, second, third], 4);
    assert_eq!(
        world.rows("SELECT id, amount, lines FROM pay ORDER BY id").await,
        ["a|1.00|10", "b|0.02|2", "c|0.30|-", "d|0.40|4"]
    );
    assert_eq!(world.rows("SELECT sum(amount) FROM pay").await, ["1.72"], "the key need not be asked for");
    assert_eq!(world.rows("SELECT count(*) FROM pay").await, ["4"]);
}

#[tokio::test]
async fn every_statement_but_a_query_is_refused() {
    let mut world = World::new();
    world.put(part(COUNTY, 1), &[Payment("a", 1, None)]);
    for statement in [
        "INSERT INTO pay SELECT * FROM pay",
        "DELETE FROM pay",
        "UPDATE pay SET amount = 0",
        "DROP TABLE pay",
        "CREATE TABLE x AS SELECT * FROM pay",
        "CREATE VIEW x AS SELECT * FROM pay",
        "CREATE EXTERNAL TABLE x STORED AS CSV LOCATION '/etc/passwd'",
        "COPY pay TO '/tmp/x.csv'",
        "COPY (SELECT 1) TO '/tmp/x.csv' STORED AS CSV",
        "SET datafusion.execution.batch_size = 1",
        "SHOW TABLES",
        "EXPLAIN SELECT 1",
        "EXPLAIN ANALYZE SELECT * FROM pay",
        "BEGIN",
        "PREPARE p AS SELECT 1",
        "TRUNCATE TABLE pay",
    ] {
        assert_eq!(world.code(statement).await, "JC-1603", "{statement}");
    }
    for query in [
        "",
        ";",
        "SELEC 1",
        "SELECT 1; SELECT 2",
        "SELECT nothing FROM pay",
        "SELECT * FROM nothing",
        "SELECT * FROM '/etc/passwd'",
        "SELECT * FROM 'file:///etc/passwd.csv'",
        "SELECT * FROM read_csv('/etc/passwd')",
        "SELECT * FROM generate_series(1, 1000000000000)",
        "SELECT repeat('x', 2000000000)",
        "SELECT * INTO x FROM pay",
        "WITH x AS (DELETE FROM pay) SELECT 1",
        "SELECT 1 / 0",
        "SELECT amount / 0 FROM pay",
        "SELECT * FROM information_schema.df_settings",
    ] {
        assert_eq!(world.code(query).await, "JC-1604", "{query}");
    }
    assert_eq!(world.code(&format!("SELECT 1 -- {}", "x".repeat(64 << 10))).await, "JC-1605");
    let deep = format!("SELECT {}1{}", "(".repeat(5000), ")".repeat(5000));
    assert_eq!(world.code(&deep).await, "JC-1604");
    assert_eq!(world.rows("SELECT count(*) FROM pay").await, ["1"], "nothing has changed");
}

#[tokio::test]
async fn a_query_that_would_run_for_ever_ends_in_time() {
    let mut world = World::new();
    let rows: Vec<Payment> = (0..1000).map(|n| Payment("x", n, None)).collect();
    world.put(part(COUNTY, 1), &rows);
    let limits = Limits { time: Duration::from_millis(300), ..Limits::default() };
    for query in [
        "WITH RECURSIVE n AS (SELECT 1 AS x UNION ALL SELECT x + 0 FROM n) SELECT count(*) FROM n",
        "SELECT sum(a.amount * b.amount) FROM pay a, pay b, pay c",
    ] {
        let ended = world.tables.sql(query, limits).await;
        assert!(matches!(ended, Err(Error::TimeOut { milliseconds: 300 })), "{query}: {ended:?}");
    }
    assert_eq!(world.rows("SELECT count(*) FROM pay").await, ["1000"], "the engine goes on");
}

#[tokio::test]
async fn a_query_that_needs_too_much_memory_ends() {
    let mut world = World::new();
    for month in 1..=12 {
        let rows: Vec<Payment> = (0..9000).map(|n| Payment("x", n + 9000 * i64::from(month), Some(n))).collect();
        world.put(part(COUNTY, month), &rows);
    }
    let limits = Limits { memory_bytes: 256 << 10, ..Limits::default() };
    for query in [
        "SELECT amount, count(*) FROM pay GROUP BY amount",
        "SELECT count(*) FROM (SELECT * FROM pay ORDER BY lines, amount LIMIT 100000)",
        "SELECT count(*) FROM pay a JOIN pay b ON a.amount = b.amount",
        "SELECT amount FROM pay LIMIT 90000",
    ] {
        let ended = world.tables.sql(query, limits).await;
        assert!(matches!(ended, Err(Error::Memory { bytes: 262_144 })), "{query}: {ended:?}");
    }
    assert_eq!(world.rows("SELECT count(DISTINCT amount) FROM pay").await, ["108000"], "more memory is enough");
}

#[tokio::test]
async fn a_result_with_too_many_rows_is_refused_not_cut() {
    let mut world = World::new();
    let rows: Vec<Payment> = (0..1000).map(|n| Payment("x", n, None)).collect();
    world.put(part(COUNTY, 1), &rows);
    let limits = Limits { rows: 999, ..Limits::default() };
    let ended = world.tables.sql("SELECT * FROM pay", limits).await;
    assert!(matches!(ended, Err(Error::TooManyRows { limit: 999 })));
    let enough = world.tables.sql("SELECT * FROM pay LIMIT 999", limits).await.expect("it fits");
    assert_eq!(enough.rows.len(), 999);
}

#[tokio::test]
async fn damage_is_named_with_its_record() {
    let mut world = World::new();
    let good = world.append(&ipc(&[Payment("a", 1, None)]));
    let text = world.append(b"this is no Arrow stream");
    let strange = {
        let batch =
            RecordBatch::try_from_iter([("amount", Arc::new(arrow_array::Int32Array::from(vec![1])) as ArrayRef)]);
        world.append(&encode(&batch.expect("one column")))
    };
    let check = async |record: PartRecord, rows: u64, says: &str| {
        world.set(part(COUNTY, 1), vec![record], rows);
        match world.query("SELECT sum(amount) FROM pay").await {
            Err(Error::Damaged { record: number, reason, part, .. }) => {
                assert_eq!((number, part.as_str()), (record.record, "370502000/2026-01/pay"));
                assert!(reason.contains(says), "{reason}");
            }
            other => panic!("{says}: {other:?}"),
        }
    };
    check(PartRecord { digest: sha256(b"another"), ..good }, 1, "digest").await;
    check(PartRecord { start: 5, ..good }, 1, "too short").await;
    check(PartRecord { start: u32::MAX, length: u32::MAX, ..good }, 1, "too short").await;
    check(PartRecord { start: 3, ..good }, 1, "digest").await;
    check(good, 2, "1 rows where 2").await;
    check(text, 1, "").await;
    check(strange, 1, "type").await;
    world.set(part(COUNTY, 1), vec![PartRecord { record: 99, ..good }], 1);
    assert_eq!(world.code("SELECT sum(amount) FROM pay").await, "JC-1610");
    world.set(part(COUNTY, 1), vec![good], 1);
    assert_eq!(world.rows("SELECT sum(amount) FROM pay").await, ["0.01"]);
}

#[tokio::test]
async fn only_parts_that_can_match_are_read() {
    let mut world = World::new();
    world.put(part(COUNTY, 1), &[Payment("a", 1, None)]);
    world.put(part(COUNTY, 2), &[Payment("b", 2, None)]);
    // Reading this one fails, so a query that succeeds has left it out.
    let broken = PartRecord { record: 1, start: 0, length: 1, digest: sha256(b"broken") };
    world.set(part(OTHER, 3), vec![broken], 5);
    for filter in [
        "_authority = '370502000'",
        "'370502000' = _authority",
        "_authority IN ('370502000', '110000000')",
        "_month < '2026-03'",
        "_month BETWEEN '2026-01' AND '2026-02'",
        "_month <> '2026-03' AND amount > 0",
        "_authority = '370502000' OR _month = '2026-02'",
        "_system = 'pay' AND _month <= '2026-02'",
    ] {
        assert_eq!(world.rows(&format!("SELECT sum(amount) FROM pay WHERE {filter}")).await, ["0.03"], "{filter}");
    }
    for filter in
        ["_authority = '370522000'", "_authority LIKE '3705%'", "_system = 'pay'", "_month <> '2026-01' OR amount > 0"]
    {
        assert_eq!(world.code(&format!("SELECT sum(amount) FROM pay WHERE {filter}")).await, "JC-1609", "{filter}");
    }
    let counts = "SELECT _authority, count(*) FROM pay GROUP BY _authority ORDER BY 1";
    assert_eq!(world.rows(counts).await, ["370502000|2", "370522000|5"], "the manifest knows");
}

#[tokio::test]
async fn a_table_may_gain_columns() {
    let mut world = World::new();
    world.put(part(COUNTY, 1), &[Payment("a", 1, Some(2))]);
    let mut wider = shape("pay");
    wider.columns.insert(0, column("note", ColumnType::Text, false, false));
    world.tables.apply(TableEffect::Define(wider.clone())).expect("a good shape");
    assert_eq!(world.rows("SELECT note, id, amount, lines FROM pay").await, ["-|a|0.01|2"]);
    wider.columns[0].required = true;
    world.tables.apply(TableEffect::Define(wider)).expect("a good shape");
    assert_eq!(world.code("SELECT note FROM pay").await, "JC-1609", "a value must be there");
    assert_eq!(world.rows("SELECT id FROM pay").await, ["a"]);
}

#[tokio::test]
async fn bad_effects_are_refused() {
    let world = World::new();
    let unknown =
        TableEffect::SetPart { table: "none".into(), part: part(COUNTY, 1), version: 1, records: vec![], rows: 0 };
    assert!(matches!(world.tables.apply(unknown), Err(Error::UnknownTable { .. })));
    let refuse = |change: &dyn Fn(&mut TableSchema)| {
        let mut bad = shape("bad");
        change(&mut bad);
        assert!(matches!(world.tables.apply(TableEffect::Define(bad)), Err(Error::Schema { .. })));
    };
    refuse(&|bad| bad.name = "Bad".into());
    refuse(&|bad| bad.name.clear());
    refuse(&|bad| bad.columns.clear());
    refuse(&|bad| bad.columns[0].name = "a b".into());
    refuse(&|bad| bad.columns[0].name = "amount".into());
    refuse(&|bad| bad.columns[0].name = "_month".into());
    assert_eq!(world.tables.status().len(), 1);
}

#[tokio::test]
async fn the_engine_comes_with_the_first_statement_and_goes_when_released() {
    let mut world = World::new();
    assert!(!world.tables.is_engaged());
    assert_eq!(world.rows("SELECT id FROM pay").await, [""; 0]);
    assert!(world.tables.is_engaged());
    let rows: Vec<Payment> = (0..90_000).map(|n| Payment("x", n, None)).collect();
    world.put(part(COUNTY, 1), &rows);
    let mut running = world.tables.rows("SELECT amount FROM pay", Limits::default()).await.expect("good");
    world.tables.release();
    assert!(!world.tables.is_engaged());
    let mut seen = 0;
    while let Some(more) = running.next().await.expect("a query that runs goes on") {
        seen += more.len();
    }
    assert_eq!(seen, 90_000);
    drop(running);
    assert_eq!(world.rows("SELECT count(*) FROM pay").await, ["90000"]);
}

#[tokio::test]
async fn queries_take_turns_and_a_dropped_one_gives_its_turn_back() {
    let mut world = World::new();
    let rows: Vec<Payment> = (0..60_000).map(|n| Payment("x", n, None)).collect();
    world.put(part(COUNTY, 1), &rows);
    let mut held = Vec::new();
    for _ in 0..4 {
        held.push(world.tables.rows("SELECT amount FROM pay", Limits::default()).await.expect("good"));
    }
    let limits = Limits { time: Duration::from_millis(100), ..Limits::default() };
    let waits = world.tables.sql("SELECT 1", limits).await;
    assert!(matches!(waits, Err(Error::TimeOut { .. })), "{waits:?}");
    held.pop();
    assert_eq!(world.rows("SELECT 1").await, ["1"]);
}
