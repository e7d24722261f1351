//! Writing a delta's parts. Each chunk is flushed, so that the size of a part is known before the next chunk goes in.

use super::{ADD, CHANGE, CHUNK_BYTES, FORMAT, Operation, PART_BYTES, PARTS, PLAIN_BYTES, REMOVE};
use crate::Error;
use minicbor::Encoder;
use std::io::Write;

/// Compression level: 9 makes the first national release a seventh smaller than 3 does (5.4 MB), and a release is made once but
/// travels to thousands of nodes.
const LEVEL: i32 = 9;
/// More than what a chunk can take compressed (zstd adds less than 1 KiB to 64 KiB), and the end of the frame.
const CHUNK_ROOM: usize = CHUNK_BYTES + (4 << 10);

/// Takes operations in strictly ascending order and cuts them into parts.
pub(crate) struct DeltaWriter<'a> {
    line: &'a str,
    number: u64,
    parts: Vec<Vec<u8>>,
    frame: Option<Frame>,
    chunk: Vec<u8>,
    previous_set: String,
}

struct Frame {
    encoder: zstd::Encoder<'static, Vec<u8>>,
    plain: usize,
}

/// zstd compresses from memory to memory here: it fails only when memory does.
const IN_MEMORY: &str = "compressing into a Vec cannot fail";

impl<'a> DeltaWriter<'a> {
    pub(crate) fn new(line: &'a str, number: u64) -> Self {
        Self { line, number, parts: Vec::new(), frame: None, chunk: Vec::new(), previous_set: String::new() }
    }

    /// Appends an operation.
    pub(crate) fn push(&mut self, operation: &Operation) -> Result<(), Error> {
        if self.frame.is_none() {
            self.begin_part()?;
        }
        let (set, _) = operation.key();
        let same = set == self.previous_set;
        encode_operation(&mut self.chunk, if same { "" } else { set }, operation);
        if !same {
            set.clone_into(&mut self.previous_set);
        }
        if self.chunk.len() + super::OPERATION_BYTES > CHUNK_BYTES { self.write_chunk() } else { Ok(()) }
    }

    /// The parts; none if there was no operation.
    pub(crate) fn finish(mut self) -> Result<Vec<Vec<u8>>, Error> {
        self.write_chunk()?;
        self.end_part();
        Ok(self.parts)
    }

    fn begin_part(&mut self) -> Result<(), Error> {
        if self.parts.len() == PARTS {
            return Err(Error::TooLarge { what: "parts of a release", limit: PARTS as u64 });
        }
        let encoder = zstd::Encoder::new(Vec::new(), LEVEL).expect(IN_MEMORY);
        self.frame = Some(Frame { encoder, plain: 0 });
        self.previous_set.clear();
        Encoder::new(&mut self.chunk)
            .array(4)
            .and_then(|e| e.u8(FORMAT)?.str(self.line)?.u64(self.number)?.u64(self.parts.len() as u64))
            .expect("a Vec never refuses a write");
        Ok(())
    }

    fn write_chunk(&mut self) -> Result<(), Error> {
        let Some(frame) = &mut self.frame else {
            return Ok(());
        };
        frame.encoder.write_all(&self.chunk).expect(IN_MEMORY);
        frame.encoder.flush().expect(IN_MEMORY);
        frame.plain += self.chunk.len();
        self.chunk.clear();
        let full = frame.encoder.get_ref().len() + CHUNK_ROOM > PART_BYTES || frame.plain + CHUNK_BYTES > PLAIN_BYTES;
        if full {
            self.end_part();
        }
        Ok(())
    }

    fn end_part(&mut self) {
        if let Some(frame) = self.frame.take() {
            let part = frame.encoder.finish().expect(IN_MEMORY);
            assert!(part.len() <= PART_BYTES, "a part keeps its limit");
            self.parts.push(part);
        }
    }
}

fn encode_operation(out: &mut Vec<u8>, set: &str, operation: &Operation) {
    let mut encoder = Encoder::new(out);
    let written = match operation {
        Operation::Add(entry) | Operation::Change(entry) => {
            let kind = if matches!(operation, Operation::Add(_)) { ADD } else { CHANGE };
            encoder.array(6).and_then(|e| {
                e.u8(kind)?.str(set)?.str(&entry.code)?.str(&entry.name)?.str(&entry.level)?.str(&entry.parent)
            })
        }
        Operation::Remove { code, .. } => encoder.array(3).and_then(|e| e.u8(REMOVE)?.str(set)?.str(code)),
    };
    written.expect("a Vec never refuses a write");
}
