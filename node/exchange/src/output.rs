//! What a step produces: records to append, frames to send once those are durable, and notices for the log.

use crate::{HopOrder, Rooms};
use bytes::Bytes;
use jincai_journal::{Log, Record, Stored};
use jincai_types::{AuthorityId, Millis, Priority, RecordNumber};

/// Something to send, once every record up to `after` is durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Send {
    /// Released when this record is durable.
    pub after: RecordNumber,
    /// To which neighbour.
    pub peer: AuthorityId,
    /// On which class's stream.
    pub class: Priority,
    /// What.
    pub what: Payload,
}

/// What is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Payload {
    /// A small frame.
    Frame(Vec<u8>),
    /// A batch: the shell reads it from the journal (see [`crate::read_batch`]) when its turn comes, so that a backlog
    /// takes no memory.
    Batch {
        /// The record that holds it.
        record: RecordNumber,
        /// See [`crate::Frame::Batch`].
        hop: HopOrder,
        /// Size of the batch.
        bytes: u64,
    },
}

/// Something that an operator may want to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// Whether somebody must act.
    pub alarm: bool,
    /// Stable code, JC-####.
    pub code: &'static str,
    /// One sentence.
    pub text: String,
}

/// Collects what a step produces.
#[derive(Debug)]
pub struct Output {
    first: RecordNumber,
    bytes: usize,
    /// Records to append, in order, as one append.
    pub records: Vec<Record>,
    /// Frames to send, in order.
    pub sends: Vec<Send>,
    /// Notices.
    pub notices: Vec<Notice>,
}

impl Output {
    /// An empty output for a journal whose next record has this number.
    #[must_use]
    pub fn new(next: RecordNumber) -> Self {
        Self { first: next, bytes: 0, records: Vec::new(), sends: Vec::new(), notices: Vec::new() }
    }

    /// Stages a record; returns the number it will have.
    pub fn record(&mut self, kind: u16, payload: Vec<u8>) -> RecordNumber {
        self.bytes += payload.len();
        self.records.push(Record { kind, payload: Bytes::from(payload) });
        self.last()
    }

    /// The number of the last record staged (or appended before).
    #[must_use]
    pub fn last(&self) -> RecordNumber {
        self.first + self.records.len() as u64 - 1
    }

    /// Bytes staged.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn send(&mut self, peer: AuthorityId, class: Priority, what: Payload) {
        self.sends.push(Send { after: self.last(), peer, class, what });
    }

    pub(crate) fn notice(&mut self, alarm: bool, code: &'static str, text: String) {
        self.notices.push(Notice { alarm, code, text });
    }

    /// Reads a record, staged or appended.
    pub fn read(&self, log: &dyn Log, number: RecordNumber) -> Result<Stored, jincai_journal::Error> {
        let staged = number.checked_sub(self.first).and_then(|i| self.records.get(usize::try_from(i).ok()?));
        match staged {
            Some(record) => Ok(Stored { number, kind: record.kind, payload: record.payload.clone() }),
            None => log.read(number),
        }
    }
}

/// What every step of the exchange works with.
pub struct Context<'a> {
    /// The time.
    pub now: Millis,
    /// The journal, for reading.
    pub log: &'a dyn Log,
    /// The rooms.
    pub rooms: &'a mut dyn Rooms,
    /// What the step produces.
    pub out: &'a mut Output,
}

impl Context<'_> {
    pub(crate) fn read(&self, number: RecordNumber) -> Result<Stored, jincai_journal::Error> {
        self.out.read(self.log, number)
    }
}
