//! Reading a delta's part as a stream: bounded memory, whatever the bytes claim.

use super::{ADD, CHANGE, CHUNK_BYTES, FORMAT, OPERATION_BYTES, Operation, PART_BYTES, PLAIN_BYTES, PartName, REMOVE};
use crate::Error;
use crate::model::{EntryRef, check_code, check_id};
use minicbor::Decoder;
use std::io::{Cursor, Read};

/// The operations of one part. After an error there is nothing more.
pub(crate) struct PartReader {
    decoder: zstd::Decoder<'static, Cursor<Vec<u8>>>,
    chunk: Vec<u8>,
    /// Where in the chunk the next operation begins.
    position: usize,
    /// Plain bytes that may still come.
    allowance: usize,
    /// Whether the frame has ended.
    ended: bool,
    done: bool,
    previous_set: String,
}

fn malformed(reason: &'static str) -> Error {
    Error::Delta { reason }
}

impl PartReader {
    /// Begins to read a part, which must say that it is the part wanted.
    pub(crate) fn new(part: Vec<u8>, wanted: PartName<'_>) -> Result<Self, Error> {
        if part.len() > PART_BYTES {
            return Err(Error::TooLarge { what: "bytes in a part", limit: PART_BYTES as u64 });
        }
        let unreadable = |_| malformed("a part is no zstd frame");
        let mut decoder = zstd::Decoder::with_buffer(Cursor::new(part)).map_err(unreadable)?.single_frame();
        decoder.window_log_max(super::WINDOW_LOG).map_err(unreadable)?;
        let mut reader = Self {
            decoder,
            chunk: Vec::new(),
            position: 0,
            allowance: PLAIN_BYTES,
            ended: false,
            done: false,
            previous_set: String::new(),
        };
        reader.fill()?;
        let mut header = Decoder::new(&reader.chunk);
        let named = read_header(&mut header, wanted).map_err(|_| malformed("a part has no header"))?;
        if !named {
            return Err(malformed("a part belongs to another release or another place in it"));
        }
        reader.position = header.position();
        Ok(reader)
    }

    /// Makes sure that the next operation lies whole in the chunk, if there is one.
    fn fill(&mut self) -> Result<(), Error> {
        if self.ended || self.chunk.len() - self.position >= OPERATION_BYTES {
            return Ok(());
        }
        self.chunk.drain(..self.position);
        self.position = 0;
        let mut filled = self.chunk.len();
        self.chunk.resize(CHUNK_BYTES, 0);
        while filled < CHUNK_BYTES {
            let read =
                self.decoder.read(&mut self.chunk[filled..]).map_err(|_| malformed("a part is no zstd frame"))?;
            if read == 0 {
                self.ended = true;
                break;
            }
            filled += read;
            self.allowance = self
                .allowance
                .checked_sub(read)
                .ok_or(Error::TooLarge { what: "plain bytes in a part", limit: PLAIN_BYTES as u64 })?;
        }
        self.chunk.truncate(filled);
        let source = self.decoder.get_ref();
        if self.ended && source.position() != source.get_ref().len() as u64 {
            return Err(malformed("bytes are left over behind a part"));
        }
        Ok(())
    }

    fn step(&mut self) -> Result<Option<Operation>, Error> {
        self.fill()?;
        let rest = &self.chunk[self.position..];
        if rest.is_empty() {
            return Ok(None);
        }
        let mut decoder = Decoder::new(rest);
        let operation =
            read_operation(&mut decoder, &self.previous_set).map_err(|_| malformed("an operation cannot be read"))?;
        self.position += decoder.position();
        check(&operation)?;
        let (set, _) = operation.key();
        if set != self.previous_set {
            set.clone_into(&mut self.previous_set);
        }
        Ok(Some(operation))
    }
}

impl Iterator for PartReader {
    type Item = Result<Operation, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.done {
            return None;
        }
        let step = self.step();
        self.done = !matches!(step, Ok(Some(_)));
        step.transpose()
    }
}

/// Whether the header names the part that is wanted.
fn read_header(decoder: &mut Decoder<'_>, wanted: PartName<'_>) -> Result<bool, minicbor::decode::Error> {
    let shape = decoder.array()? == Some(4) && decoder.u8()? == FORMAT;
    Ok(shape
        && decoder.str()? == wanted.line
        && decoder.u64()? == wanted.number
        && decoder.u64()? == wanted.index as u64)
}

fn read_operation(decoder: &mut Decoder<'_>, previous_set: &str) -> Result<Operation, minicbor::decode::Error> {
    let fields = decoder.array()?;
    let kind = decoder.u8()?;
    let set = match decoder.str()? {
        "" => previous_set,
        set => set,
    };
    let code = decoder.str()?;
    match (kind, fields) {
        (ADD | CHANGE, Some(6)) => {
            let entry =
                EntryRef { set, code, name: decoder.str()?, level: decoder.str()?, parent: decoder.str()? }.to_entry();
            Ok(if kind == ADD { Operation::Add(entry) } else { Operation::Change(entry) })
        }
        (REMOVE, Some(3)) => Ok(Operation::Remove { set: set.into(), code: code.into() }),
        _ => Err(minicbor::decode::Error::message("no such operation")),
    }
}

fn check(operation: &Operation) -> Result<(), Error> {
    match operation {
        Operation::Add(entry) | Operation::Change(entry) => entry.borrowed().check(),
        Operation::Remove { set, code } => {
            check_id("set", set)?;
            if code.is_empty() { Ok(()) } else { check_code("code", code) }
        }
    }
}
