//! The demo's data: real published files, compiled in, so that the demo runs from any directory.

use crate::error::Error;
use flate2::read::GzDecoder;
use jincai_crypto::{Hasher, sha256};
use jincai_types::hex;
use std::io::Read;

/// Administrative divisions of China 2.5.0, 2.6.0 and 2.6.1, one CSV after the other (tests/data/SOURCES.md).
const DIVISIONS: &[u8] = include_bytes!("../../../../tests/data/divisions.csv.zst");
/// ISO 4217 currency codes.
pub(crate) const CURRENCY: &[u8] = include_bytes!("../../../../tests/data/currency.csv");
/// Payments of two public bodies.
pub(crate) const SALFORD: &[u8] = include_bytes!("../../../../tests/data/payments-salford.csv.gz");
/// See [`SALFORD`].
pub(crate) const LONDON: &[u8] = include_bytes!("../../../../tests/data/payments-london.csv.gz");
/// The collection spec.
pub(crate) const SPEC: &str = include_str!("../../../../conf/demo/spec.toml");
/// The independent computation of the totals.
pub(crate) const TOTALS: &[u8] = include_bytes!("totals.py");

const HEADER: &[u8] = b"code,name,level,parent\n";
/// The three files decompressed.
const PLAIN_BYTES: u64 = 128 << 20;

fn broken(what: &str) -> Error {
    Error::Check(format!("the demo's own data cannot be read: {what}"))
}

/// The three editions of the divisions.
pub(crate) fn divisions() -> Result<Vec<Vec<u8>>, Error> {
    let mut decoder = zstd::Decoder::new(DIVISIONS).map_err(|e| broken(&e.to_string()))?;
    decoder.window_log_max(27).map_err(|e| broken(&e.to_string()))?;
    let mut plain = Vec::new();
    decoder.take(PLAIN_BYTES).read_to_end(&mut plain).map_err(|e| broken(&e.to_string()))?;
    let mut starts: Vec<usize> = Vec::new();
    let mut at = 0;
    while let Some(found) = find(&plain[at..], HEADER) {
        starts.push(at + found);
        at += found + HEADER.len();
    }
    starts.push(plain.len());
    Ok(starts.windows(2).map(|pair| plain[pair[0]..pair[1]].to_vec()).collect())
}

fn find(text: &[u8], what: &[u8]) -> Option<usize> {
    // Only the start of a line can be a header.
    if text.starts_with(what) {
        return Some(0);
    }
    let mut at = 0;
    while let Some(end) = text[at..].iter().position(|b| *b == b'\n') {
        at += end + 1;
        if text[at..].starts_with(what) {
            return Some(at);
        }
    }
    None
}

/// A county's rows for the spec's table, in requests of so many rows.
pub(crate) struct Requests {
    /// CSV files with a header.
    pub(crate) files: Vec<Vec<u8>>,
    /// Rows in all.
    pub(crate) rows: u64,
}

/// The header of every request.
pub(crate) const COLUMNS: &str = "line_id,division,pay_date,doc_no,payee,amount,currency,department,account\n";

/// Turns a payments file into requests: the columns of the spec, payees as pseudonyms.
pub(crate) fn payments(packed: &[u8], division: &str, per_request: usize) -> Result<Requests, Error> {
    let mut reader = csv::Reader::from_reader(GzDecoder::new(packed));
    let wrong = |e: csv::Error| broken(&e.to_string());
    let header = reader.headers().map_err(wrong)?.clone();
    let place = |name: &str| header.iter().position(|h| h == name).ok_or_else(|| broken(name));
    let columns = ["source_line", "pay_date", "doc_no", "supplier", "amount", "currency", "department", "account"];
    let places: Vec<usize> = columns.iter().map(|c| place(c)).collect::<Result<_, _>>()?;
    let mut requests = Requests { files: Vec::new(), rows: 0 };
    let mut writer: Option<csv::Writer<Vec<u8>>> = None;
    let mut in_file = 0;
    for record in reader.records() {
        let record = record.map_err(wrong)?;
        let field = |at: usize| record.get(places[at]).unwrap_or_default();
        let payee = pseudonym(field(3));
        let target = writer.get_or_insert_with(|| csv::Writer::from_writer(COLUMNS.as_bytes().to_vec()));
        let row = [field(0), division, field(1), field(2), payee.as_str(), field(4), field(5), field(6), field(7)];
        target.write_record(row).map_err(wrong)?;
        in_file += 1;
        requests.rows += 1;
        if in_file == per_request {
            finish(&mut writer, &mut requests)?;
            in_file = 0;
        }
    }
    finish(&mut writer, &mut requests)?;
    Ok(requests)
}

fn finish(writer: &mut Option<csv::Writer<Vec<u8>>>, requests: &mut Requests) -> Result<(), Error> {
    if let Some(writer) = writer.take() {
        requests.files.push(writer.into_inner().map_err(|e| broken(&e.to_string()))?);
    }
    Ok(())
}

/// The same payee always gets the same pseudonym, and nobody can read the name from it without trying names.
fn pseudonym(name: &str) -> String {
    let key = sha256(b"jincai demo payees");
    let digest = Hasher::default().with(&key.0).with(name.trim().to_lowercase().as_bytes()).finish();
    format!("P-{}", hex(&digest.0[..8]))
}

/// Rows that break the spec, one for each of its rules: (line id, column that is named).
pub(crate) fn bad_rows(division: &str) -> (Vec<u8>, Vec<(&'static str, &'static str)>) {
    let rows = [
        ("bad-1", "currency", format!("bad-1,{division},2021-03-01,1,P-1,10.00,ZZZ,,\n")),
        ("bad-2", "pay_date", format!("bad-2,{division},2021-02-30,1,P-1,10.00,GBP,,\n")),
        ("bad-3", "amount", format!("bad-3,{division},2021-03-01,1,P-1,10.005,GBP,,\n")),
        ("bad-4", "division", "bad-4,999999,2021-03-01,1,P-1,10.00,GBP,,\n".to_owned()),
        ("bad-5", "amount", format!("bad-5,{division},2021-03-01,1,P-1,,GBP,,\n")),
        ("bad-6", "amount", format!("bad-6,{division},2021-03-01,1,P-1,(250.00),GBP,,\n")),
    ];
    let text: String = rows.iter().map(|(_, _, row)| row.as_str()).collect();
    (text.into_bytes(), rows.iter().map(|(id, column, _)| (*id, *column)).collect())
}
