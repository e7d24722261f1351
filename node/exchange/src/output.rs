//! What a step produces: records to append, frames to send once those are durable, and notices for the log.

use crate::record::{Cause, Effects, kind};
use crate::{HopOrder, Rooms};
use bytes::Bytes;
use jincai_journal::{Log, Record, Stored};
use jincai_types::{AuthorityId, Millis, Priority, RecordNumber};
use std::collections::VecDeque;

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
    /// Records of earlier turns that are not known to be durable, consecutive up to `first`. While the disk is slow they
    /// wait to be written, and no log holds them yet; the next message may need them all the same.
    in_flight: VecDeque<Record>,
    /// The record that effects are being added to, which will be the next one.
    effects: Option<Effects>,
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
        let (records, sends, notices) = (Vec::new(), Vec::new(), Vec::new());
        Self { first: next, bytes: 0, in_flight: VecDeque::new(), effects: None, records, sends, notices }
    }

    /// Ends a turn: gives out what it has collected. Its records can still be read here until they are durable.
    pub fn take(&mut self) -> Self {
        self.end_effects();
        let mut next = Self::new(self.last() + 1);
        next.in_flight = std::mem::take(&mut self.in_flight);
        next.in_flight.extend(self.records.iter().cloned());
        std::mem::replace(self, next)
    }

    /// Records up to this number are in the journal for good.
    pub fn note_durable(&mut self, number: RecordNumber) {
        let in_flight = self.first - self.in_flight.len() as u64;
        let done = number.saturating_add(1).saturating_sub(in_flight);
        let done = usize::try_from(done).map_or(self.in_flight.len(), |done| done.min(self.in_flight.len()));
        self.in_flight.drain(..done);
    }

    /// Stages a record; returns the number it will have.
    pub fn record(&mut self, kind: u16, payload: Vec<u8>) -> RecordNumber {
        self.end_effects();
        self.bytes += payload.len();
        self.records.push(Record { kind, payload: Bytes::from(payload) });
        self.last()
    }

    /// Stages the effect of a message in one record with those of the messages before it, if it follows them; returns the
    /// number that this record will have, and where the effect's bytes begin in it.
    pub(crate) fn effect(&mut self, cause: Cause, room: &str, effect: &[u8]) -> (RecordNumber, usize) {
        if self.effects.as_ref().is_some_and(|open| !open.takes(&cause, room)) {
            self.end_effects();
        }
        let open = self.effects.get_or_insert_with(|| Effects::new(cause, room));
        let offset = open.push(effect);
        (self.last(), offset)
    }

    /// Whatever comes next stands in a record of its own.
    pub(crate) fn end_effects(&mut self) {
        if let Some(effects) = self.effects.take() {
            self.record(kind::EFFECTS, effects.into_body());
        }
    }

    /// The number of the last record staged (or appended before).
    #[must_use]
    pub fn last(&self) -> RecordNumber {
        self.first + self.records.len() as u64 + u64::from(self.effects.is_some()) - 1
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
        let in_flight = self.first - self.in_flight.len() as u64;
        let at = number.checked_sub(in_flight).and_then(|at| usize::try_from(at).ok());
        let known = at.and_then(|at| match at.checked_sub(self.in_flight.len()) {
            None => self.in_flight.get(at),
            Some(staged) => self.records.get(staged),
        });
        match known {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_read_while_they_wait_for_a_slow_disk() {
        struct Empty;
        impl Log for Empty {
            fn read(&self, number: RecordNumber) -> Result<Stored, jincai_journal::Error> {
                Err(jincai_journal::Error::NoRecord { number, last: 0 })
            }
            fn replay(
                &self,
                _: RecordNumber,
                _: &mut dyn FnMut(Stored) -> Result<(), jincai_journal::Error>,
            ) -> Result<(), jincai_journal::Error> {
                Ok(())
            }
            fn end(&self) -> RecordNumber {
                0
            }
        }
        let kind_of = |out: &Output, number| out.read(&Empty, number).map(|stored| stored.kind).ok();
        let mut out = Output::new(7);
        for kind in 1..=3 {
            out.record(kind, Vec::new());
        }
        assert_eq!(out.take().records.len(), 3);
        assert_eq!(out.record(4, Vec::new()), 10);
        let all = |out: &Output| (6..=11).map(|number| kind_of(out, number)).collect::<Vec<_>>();
        assert_eq!(all(&out), [None, Some(1), Some(2), Some(3), Some(4), None]);
        out.note_durable(6);
        out.note_durable(8);
        assert_eq!(all(&out), [None, None, None, Some(3), Some(4), None]);
        out.note_durable(9);
        out.note_durable(9);
        assert_eq!(all(&out), [None, None, None, None, Some(4), None]);
    }
}
