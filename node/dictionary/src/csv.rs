//! A strict reader of CSV files with the header `code,name,level,parent`.
//!
//! It is our own because the file comes from people: it bounds a line at 4 KiB before it holds it, and it refuses what
//! lenient readers repair in silence (an unclosed quote, text behind a closing quote, a row with a column too many), each
//! with the number of the line. RFC 4180, UTF-8, an optional byte order mark, LF or CRLF; a value never spans lines.

use crate::Error;
use std::io::{BufRead, BufReader, ErrorKind, Read};

/// The columns, which are also the header.
pub(crate) const COLUMNS: [&str; 4] = ["code", "name", "level", "parent"];
/// Longest line in bytes, its end included.
const LINE_BYTES: usize = 4 << 10;

/// Reads rows one by one.
pub(crate) struct Rows<'a> {
    reader: BufReader<&'a mut dyn Read>,
    line: u32,
    bytes: Vec<u8>,
    fields: [String; COLUMNS.len()],
}

impl<'a> Rows<'a> {
    /// Reads and checks the header.
    pub(crate) fn new(source: &'a mut dyn Read) -> Result<Self, Error> {
        let reader = BufReader::with_capacity(64 << 10, source);
        let mut rows = Self { reader, line: 0, bytes: Vec::new(), fields: Default::default() };
        if !rows.read_line()? {
            return Err(Error::Row { line: 1, reason: "the file is empty".into() });
        }
        if rows.bytes.starts_with("\u{feff}".as_bytes()) {
            rows.bytes.drain(..3);
        }
        if rows.split().is_err() || rows.fields != COLUMNS {
            return Err(rows.refuse("the header must be code,name,level,parent, separated by commas"));
        }
        Ok(rows)
    }

    /// The number of the line that was read last, from 1.
    pub(crate) fn line(&self) -> u32 {
        self.line
    }

    /// The next row's values in the order of [`COLUMNS`]; `None` at the end.
    pub(crate) fn next(&mut self) -> Result<Option<&[String; COLUMNS.len()]>, Error> {
        if !self.read_line()? {
            return Ok(None);
        }
        self.split()?;
        Ok(Some(&self.fields))
    }

    /// An error about the line that was read last.
    pub(crate) fn refuse(&self, reason: impl Into<String>) -> Error {
        Error::Row { line: self.line, reason: reason.into() }
    }

    /// Reads a line without its end; `false` behind the last one.
    fn read_line(&mut self) -> Result<bool, Error> {
        self.bytes.clear();
        let mut bounded = self.reader.by_ref().take(LINE_BYTES as u64);
        if let Err(error) = bounded.read_until(b'\n', &mut self.bytes) {
            // A decompressor or transcoder in front of us reports bad content this way: it is the file, not the disk.
            if error.kind() == ErrorKind::InvalidData {
                return Err(self.refuse(error.to_string()));
            }
            return Err(Error::Read(error));
        }
        if self.bytes.is_empty() {
            return Ok(false);
        }
        self.line = self.line.saturating_add(1);
        if self.bytes.ends_with(b"\n") {
            self.bytes.pop();
            if self.bytes.ends_with(b"\r") {
                self.bytes.pop();
            }
        } else if self.bytes.len() >= LINE_BYTES {
            return Err(self.refuse("the line is longer than 4 KiB"));
        }
        Ok(true)
    }

    fn split(&mut self) -> Result<(), Error> {
        let split = split_line(&self.bytes, &mut self.fields);
        split.map_err(|reason| self.refuse(reason))
    }
}

/// Splits a line into exactly as many values as there are columns.
fn split_line(bytes: &[u8], fields: &mut [String; COLUMNS.len()]) -> Result<(), String> {
    let Ok(mut rest) = std::str::from_utf8(bytes) else {
        return Err("it is not UTF-8".into());
    };
    let mut columns = 0;
    loop {
        let mut surplus = String::new();
        let field = fields.get_mut(columns).unwrap_or(&mut surplus);
        field.clear();
        let after = if let Some(quoted) = rest.strip_prefix('"') {
            take_quoted(quoted, field)?
        } else {
            let (plain, after) = rest.split_at(rest.find(',').unwrap_or(rest.len()));
            if plain.contains('"') {
                return Err("a quote stands inside a value that does not begin with one".into());
            }
            field.push_str(plain);
            after
        };
        columns += 1;
        match after.strip_prefix(',') {
            Some(more) if columns <= COLUMNS.len() => rest = more,
            _ => break,
        }
    }
    match columns.cmp(&COLUMNS.len()) {
        std::cmp::Ordering::Equal => Ok(()),
        std::cmp::Ordering::Less => Err(format!("it has {columns} columns where 4 are wanted")),
        std::cmp::Ordering::Greater => Err("it has more than 4 columns".into()),
    }
}

/// Reads up to the closing quote; what follows it must be a comma or the end.
fn take_quoted<'t>(mut rest: &'t str, field: &mut String) -> Result<&'t str, String> {
    loop {
        let Some((text, after)) = rest.split_once('"') else {
            return Err("a quote is not closed".into());
        };
        field.push_str(text);
        match after.strip_prefix('"') {
            Some(more) => {
                field.push('"');
                rest = more;
            }
            None if after.is_empty() || after.starts_with(',') => return Ok(after),
            None => return Err("text follows a closing quote".into()),
        }
    }
}
