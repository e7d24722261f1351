//! The node's core: events in, a turn of records and released actions out.

use crate::inbox::Inbox;
use crate::rooms::RoomSet;
use crate::{Error, NOTE};
use jincai_crypto::export_evidence;
use jincai_dictionary::{Applied, Dictionary, ImportReport, Release, ReleaseOrder};
use jincai_exchange::{Context, Exchange, LinkKind, Notice, Opening, Outgoing, Output, QueuedBatch, Room, Send, Setup};
use jincai_files::Files;
use jincai_journal::{Blobs, Log, Record};
use jincai_storage::{Judged, ReconcileLine, Spec, Staged, Storage, WriteReport, judge};
use jincai_types::{
    Address, Attributes, Audience, AuthorityId, Destination, Digest, Epoch, Lane, Millis, Mutation, PartRecord,
    Priority, RecordNumber, Sender, TableEffect, decode, encode, mutated,
};
use minicbor::bytes::ByteVec;
use minicbor::{Decode, Encode};
use std::collections::{BTreeSet, VecDeque};
use std::io::Read;
use std::sync::Arc;

/// While a commit is in flight, messages gather until so many bytes wait, which is about what one batch holds; then they are
/// sealed without waiting for it. A batch costs two signatures and a wrapped key for each reader, however many messages
/// share them.
const GATHER_BYTES: u64 = 768 << 10;
/// Collection pauses while more than this waits to be sealed.
const COLLECT_PENDING: u64 = 16 << 20;

/// Something that happened.
#[derive(Debug)]
pub enum Event {
    /// A neighbour can be reached.
    LinkUp(AuthorityId, LinkKind),
    /// A neighbour cannot be reached any more.
    LinkDown(AuthorityId),
    /// A frame from a neighbour.
    Frame(AuthorityId, Vec<u8>),
    /// Every record up to this number is durable.
    Durable(RecordNumber),
    /// Time passed; every 50 ms or so.
    Tick,
}

/// Something to do, all of whose reasons are durable.
#[derive(Debug)]
pub enum Action {
    /// Send a frame.
    Send(Send),
    /// Change a table.
    Table(TableEffect),
}

/// What the shell must do after some steps: append the records as one submission, carry the actions out, log the notices.
#[derive(Debug)]
pub struct Turn {
    /// To append, in order. Their numbers follow those of all earlier turns.
    pub records: Vec<Record>,
    /// To carry out now.
    pub actions: Vec<Action>,
    /// To log.
    pub notices: Vec<Notice>,
}

/// A node's state after a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// The record.
    pub through: RecordNumber,
    /// For [`Core::open`].
    pub state: Vec<u8>,
    /// Records up to `through` that are still read by their number.
    pub live: BTreeSet<RecordNumber>,
    /// Blobs that the rooms name.
    pub blobs: BTreeSet<Digest>,
}

const SNAPSHOT_FORMAT: u8 = 1;

#[derive(Encode, Decode)]
struct Saved {
    #[n(0)]
    format: u8,
    #[n(1)]
    exchange: ByteVec,
    #[n(2)]
    rooms: Vec<(String, ByteVec)>,
}

fn read_snapshot(bytes: &[u8]) -> Result<Saved, Error> {
    // The journal has checked the digest of these bytes: their size is what this node once wrote.
    let saved: Saved = decode("snapshot", bytes, bytes.len()).map_err(jincai_exchange::Error::from)?;
    if saved.format == SNAPSHOT_FORMAT {
        return Ok(saved);
    }
    let reason = format!("its format is {}, not {SNAPSHOT_FORMAT}", saved.format);
    Err(jincai_exchange::Error::from(jincai_types::Error::Cbor { what: "snapshot", reason }).into())
}

/// A node without I/O.
pub struct Core {
    pub(crate) exchange: Exchange,
    pub(crate) rooms: RoomSet,
    out: Output,
    tables: VecDeque<(RecordNumber, TableEffect)>,
    sends: VecDeque<Send>,
    durable: RecordNumber,
    appended: RecordNumber,
    pub(crate) read_only: bool,
    /// For how long delivered files are kept.
    pub(crate) keep_files: Millis,
}

impl Core {
    /// Rebuilds a node from its journal, or from a snapshot ([`Core::snapshot`]) and what the journal holds behind it. Table
    /// changes of the past are among the first turn's actions.
    pub fn open(
        setup: Setup,
        blobs: Arc<dyn Blobs>,
        opening: Opening,
        snapshot: Option<(RecordNumber, &[u8])>,
        now: Millis,
        log: &dyn Log,
    ) -> Result<Self, Error> {
        let mut rooms = RoomSet {
            dictionary: Dictionary::new(blobs),
            storage: Storage::new(setup.authority),
            files: Files::new(setup.authority),
            inbox: Inbox::default(),
        };
        let saved = snapshot.map(|(through, bytes)| read_snapshot(bytes).map(|saved| (through, saved))).transpose()?;
        if let Some((_, saved)) = &saved {
            rooms.load(&saved.rooms).map_err(jincai_exchange::Error::from)?;
        }
        let snapshot = saved.as_ref().map(|(through, saved)| (*through, &saved.exchange[..]));
        let (exchange, out) = jincai_exchange::open(setup, opening, snapshot, now, log, &mut rooms)?;
        let durable = log.end();
        let mut core = Self {
            exchange,
            rooms,
            out,
            tables: VecDeque::new(),
            sends: VecDeque::new(),
            durable,
            appended: durable,
            read_only: opening == Opening::ReadOnly,
            keep_files: Millis::MAX,
        };
        core.gather_tables();
        // What is being replayed is durable already.
        core.tables.iter_mut().for_each(|(after, _)| *after = durable);
        Ok(core)
    }

    /// Shares what releases give with other nodes of this process ([`Applied`]); a node of its own has no use for it.
    pub fn share_applied(&mut self, applied: Arc<Applied>) {
        self.rooms.dictionary.share_applied(applied);
    }

    /// The node's state after everything that was staged, for a snapshot that replaces the records up to there. It may be
    /// written once those are durable.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        let saved = Saved { format: SNAPSHOT_FORMAT, exchange: self.exchange.save().into(), rooms: self.rooms.save() };
        let mut live = self.exchange.live();
        self.rooms.live(&mut |number| {
            live.insert(number);
        });
        let blobs = self.rooms.dictionary.blobs_in_use();
        Snapshot { through: self.out.last(), state: encode(&saved), live, blobs }
    }

    /// Takes an event. A fatal error ([`Error::is_fatal`]) means that the node must stop; any other one is the peer's,
    /// has changed nothing, and is for the log.
    pub fn step(&mut self, now: Millis, event: Event, log: &dyn Log) -> Result<(), Error> {
        let ctx = &mut Context { now, log, rooms: &mut self.rooms, out: &mut self.out };
        match event {
            Event::LinkUp(peer, kind) => self.exchange.link_up(peer, kind, ctx),
            Event::LinkDown(peer) => self.exchange.link_down(peer, now),
            Event::Frame(peer, bytes) => self.exchange.frame(peer, &bytes, ctx)?,
            Event::Durable(number) => {
                self.durable = number;
                self.out.note_durable(number);
            }
            Event::Tick => {
                let behind = self.exchange.is_catching_up();
                self.exchange.tick(ctx)?;
                self.collect(now, false, log)?;
                self.drive_files(now, log, behind)?;
            }
        }
        Ok(())
    }

    /// The earliest time at which [`Event::Tick`] would do something, if nothing else happens before: a shell may sleep
    /// until then. Never too late; `now` or earlier means at once.
    #[must_use]
    pub fn next_wake(&self, now: Millis) -> Option<Millis> {
        let exchange = self.exchange.next_wake(now, &self.rooms);
        exchange.into_iter().chain(self.rooms.storage.next_collection(now)).chain(self.next_file_wake(now)).min()
    }

    /// Ends a group of steps. Messages that were submitted are sealed now, unless a commit is in flight: then they gather.
    pub fn turn(&mut self, now: Millis, log: &dyn Log) -> Result<Turn, Error> {
        let idle = self.durable == self.appended && self.out.records.is_empty();
        if self.exchange.pending() > 0
            && (idle || self.exchange.pending() >= GATHER_BYTES || !self.out.records.is_empty())
        {
            self.flush(now, log)?;
        }
        self.gather_tables();
        let out = self.out.take();
        self.appended = self.out.last();
        self.sends.extend(out.sends);
        let mut actions = Vec::new();
        while self.sends.front().is_some_and(|send| send.after <= self.durable || mutated(Mutation::SendBeforeDurable))
        {
            actions.extend(self.sends.pop_front().map(Action::Send));
        }
        let early = mutated(Mutation::TableBeforeDurable);
        while self.tables.front().is_some_and(|(after, _)| *after <= self.durable || early) {
            actions.extend(self.tables.pop_front().map(|(_, effect)| Action::Table(effect)));
        }
        Ok(Turn { records: out.records, actions, notices: out.notices })
    }

    fn flush(&mut self, now: Millis, log: &dyn Log) -> Result<(), Error> {
        let ctx = &mut Context { now, log, rooms: &mut self.rooms, out: &mut self.out };
        Ok(self.exchange.flush(ctx)?)
    }

    fn gather_tables(&mut self) {
        let after = self.out.last();
        self.tables.extend(self.rooms.storage.take_effects().into_iter().map(|effect| (after, effect)));
    }

    /// The number of the last record staged: an answer to a caller whose effect is in it waits until it is durable.
    #[must_use]
    pub fn staged(&self) -> RecordNumber {
        self.out.last()
    }

    /// Whether steps since the last turn have set anything off: records, sends, notices or messages to be sealed.
    #[must_use]
    pub fn has_output(&self) -> bool {
        !(self.out.records.is_empty() && self.out.sends.is_empty() && self.out.notices.is_empty())
            || self.exchange.pending() > 0
    }

    /// Bytes of records staged in this turn, and of messages that wait to be sealed.
    #[must_use]
    pub fn unwritten_bytes(&self) -> usize {
        self.out.bytes() + usize::try_from(self.exchange.pending()).unwrap_or(usize::MAX)
    }

    /// The number up to which records are known to be durable.
    #[must_use]
    pub fn durable(&self) -> RecordNumber {
        if mutated(Mutation::AcknowledgeBeforeDurable) { self.appended } else { self.durable }
    }

    /// The exchange, for reports.
    #[must_use]
    pub fn exchange(&self) -> &Exchange {
        &self.exchange
    }

    /// The rooms, for reports.
    #[must_use]
    pub fn rooms(&self) -> &RoomSet {
        &self.rooms
    }

    /// Submits a message. It lies in a record once [`Self::has_unsealed`] is false after a turn.
    pub fn submit(&mut self, message: Outgoing) -> Result<(), Error> {
        self.check_room()?;
        self.exchange.admit(message.destination, message.class)?;
        Ok(self.exchange.submit(message)?)
    }

    /// Submits a plain message.
    pub fn submit_note(
        &mut self,
        now: Millis,
        to: Destination,
        class: Priority,
        (id, subject): (String, String),
        payload: Vec<u8>,
    ) -> Result<(), Error> {
        let address = Address { destination: to, audience: Audience::default() };
        let sender = Sender { authority: self.exchange.authority(), part: None };
        self.submit_letter(now, (&sender, &address), class, (id, subject), payload)
    }

    /// Submits a plain message from a business system to an address.
    pub fn submit_letter(
        &mut self,
        now: Millis,
        (from, to): (&Sender, &Address),
        class: Priority,
        (id, subject): (String, String),
        payload: Vec<u8>,
    ) -> Result<(), Error> {
        let (source, kind) = (from.to_string(), NOTE.to_owned());
        let mut attributes = Attributes { id, source, kind, time: now, subject, ..Attributes::default() };
        to.audience.note_in(&mut attributes);
        self.submit(Outgoing { destination: to.destination, class, attributes, payload })
    }

    /// Whether messages wait that no record holds yet; an answer to their submitter must wait for a later turn.
    #[must_use]
    pub fn has_unsealed(&self) -> bool {
        self.exchange.pending() > 0
    }

    /// Replaces a code set in a line's draft by a CSV file's rows.
    pub fn import(
        &mut self,
        now: Millis,
        log: &dyn Log,
        (line, set, name): (&str, &str, &str),
        rows: &mut dyn Read,
    ) -> Result<ImportReport, Error> {
        self.check_open()?;
        let (effect, report) = self.rooms.dictionary.import(line, set, name, rows, self.exchange.authority())?;
        let room = self.rooms.dictionary.prefix();
        self.command(now, log, room, effect, Vec::new())?;
        Ok(report)
    }

    /// Makes a line's draft its next release and sends it down.
    pub fn release(&mut self, now: Millis, log: &dyn Log, order: ReleaseOrder<'_>) -> Result<Release, Error> {
        self.check_open()?;
        let staged = self.rooms.dictionary.release(order, self.exchange.authority(), now)?;
        let room = self.rooms.dictionary.prefix();
        self.command(now, log, room, staged.effect, staged.messages)?;
        Ok(staged.release)
    }

    /// Releases a collection spec to every authority below.
    pub fn release_spec(&mut self, now: Millis, log: &dyn Log, spec: Spec) -> Result<(), Error> {
        self.check_open()?;
        let staged = self.rooms.storage.release_spec(spec, now)?;
        self.command_storage(now, log, staged)
    }

    /// Checks rows against spec and dictionary and writes the good ones, or none if one is bad and `all_or_nothing`.
    pub fn write_rows(
        &mut self,
        now: Millis,
        log: &dyn Log,
        (table, system): (&str, &str),
        rows: &mut dyn Read,
        all_or_nothing: bool,
    ) -> Result<WriteReport, Error> {
        self.check_open()?;
        let judged = self.judge(table, rows)?;
        let out = &self.out;
        let read = |at: &PartRecord| read_rows(out, log, at);
        let (effect, report) = self.rooms.storage.write(table, system, judged, all_or_nothing, &read)?;
        if let Some(effect) = effect {
            let room = self.rooms.storage.prefix();
            self.command(now, log, room, effect, Vec::new())?;
        }
        Ok(report)
    }

    /// A node that was set back does not decide anything new before it knows what it had decided, and a full one nothing.
    pub(crate) fn check_open(&self) -> Result<(), Error> {
        self.check_room()?;
        if self.exchange.is_catching_up() { Err(Error::CatchingUp) } else { Ok(()) }
    }

    fn check_room(&self) -> Result<(), Error> {
        self.check_whole()?;
        if self.exchange.is_full() { Err(Error::NoRoom) } else { Ok(()) }
    }

    /// Refuses what needs a journal that can be written, or all of it.
    pub fn check_whole(&self) -> Result<(), Error> {
        if self.read_only { Err(Error::ReadOnly { last: self.durable }) } else { Ok(()) }
    }

    /// Whether this is only a look at what a damaged journal holds before the damage.
    #[must_use]
    pub fn is_read_only(&self) -> bool {
        self.read_only
    }

    /// Says whether the disk is full: then nothing new is taken, from neighbours either, and what is held goes on.
    pub fn set_full(&mut self, full: bool, now: Millis, log: &dyn Log) {
        let ctx = &mut Context { now, log, rooms: &mut self.rooms, out: &mut self.out };
        self.exchange.set_full(full, ctx);
    }

    /// Carries an operator's decision about what waits out.
    pub fn operate<T>(
        &mut self,
        now: Millis,
        log: &dyn Log,
        act: impl FnOnce(&mut Exchange, &mut Context<'_>) -> Result<T, jincai_exchange::Error>,
    ) -> Result<T, Error> {
        self.check_whole()?;
        let ctx = &mut Context { now, log, rooms: &mut self.rooms, out: &mut self.out };
        Ok(act(&mut self.exchange, ctx)?)
    }

    /// The batches in custody for a neighbour, of one lane or of all, with what every hop may read of their messages.
    pub fn queue(
        &self,
        log: &dyn Log,
        peer: AuthorityId,
        lane: Option<Lane>,
        limit: usize,
    ) -> Result<Vec<QueuedBatch>, Error> {
        Ok(self.exchange.queue(peer, lane, limit, &|record| self.out.read(log, record))?)
    }

    /// Decides that this node has caught up, although neighbours that may know more have not answered.
    pub fn stop_catching_up(&mut self, now: Millis, log: &dyn Log) -> Result<(), Error> {
        self.check_room()?;
        let ctx = &mut Context { now, log, rooms: &mut self.rooms, out: &mut self.out };
        let behind = self.exchange.is_catching_up();
        self.exchange.stop_catching_up(ctx);
        self.drive_files(now, log, behind)
    }

    fn judge(&self, table: &str, rows: &mut dyn Read) -> Result<Judged, Error> {
        let spec = self.rooms.storage.spec_of(table)?;
        let coded = spec.columns.iter().any(|c| c.code_set.is_some());
        let snapshot = if coded { Some(self.rooms.dictionary.snapshot(&spec.line, None)?) } else { None };
        let has = |set: &str, code: &str| snapshot.as_ref().is_some_and(|s| matches!(s.get(set, code), Ok(Some(_))));
        Ok(judge(spec, rows, &has)?)
    }

    /// Hands changed partitions to the exchange: those whose schedule is due, or all with `now_please`. Returns how many.
    pub fn collect(&mut self, now: Millis, now_please: bool, log: &dyn Log) -> Result<usize, Error> {
        if self.exchange.pending() > COLLECT_PENDING || self.check_open().is_err() {
            return Ok(0);
        }
        let out = &self.out;
        let read = |at: &PartRecord| read_rows(out, log, at);
        // Rows for a collector that others are refused for stay in their table; what is due is due until then.
        let takes = |collector| {
            let of = |class| self.exchange.admit(Destination::Authority(collector), class).is_ok();
            of(Priority::Record) && of(Priority::Bulk)
        };
        let staged = self.rooms.storage.collect(now, now_please, &takes, &read)?;
        let count = staged.len();
        for staged in staged {
            self.command_storage(now, log, staged)?;
        }
        Ok(count)
    }

    /// Holds every collected partition against what its source signed.
    pub fn reconcile(&self, log: &dyn Log) -> Result<Vec<ReconcileLine>, Error> {
        let out = &self.out;
        Ok(self.rooms.storage.reconcile(&|at: &PartRecord| read_rows(out, log, at))?)
    }

    /// Exports one message of one of our lanes as evidence.
    pub fn evidence(&self, log: &dyn Log, lane: Lane, epoch: Epoch, sequence: u64) -> Result<Vec<u8>, Error> {
        let found = self.exchange.find(&lane, epoch, sequence);
        let (record, index) = found.ok_or(Error::NoMessage { lane, sequence })?;
        let batch = jincai_exchange::read_batch(log, record)?;
        let reader = (self.exchange.authority(), self.exchange.keys());
        Ok(export_evidence(&batch, index, self.exchange.directory(), Some(reader))?)
    }

    fn command_storage(&mut self, now: Millis, log: &dyn Log, staged: Staged) -> Result<(), Error> {
        let room = self.rooms.storage.prefix();
        self.command(now, log, room, staged.effect, staged.messages)
    }

    /// A command's effect and the messages it sends are sealed in the same turn, so one append holds both.
    pub(crate) fn command(
        &mut self,
        now: Millis,
        log: &dyn Log,
        room: &str,
        effect: Vec<u8>,
        messages: Vec<Outgoing>,
    ) -> Result<(), Error> {
        let sends = !messages.is_empty();
        let ctx = &mut Context { now, log, rooms: &mut self.rooms, out: &mut self.out };
        self.exchange.command(room, effect, messages, ctx)?;
        if sends {
            self.flush(now, log)?;
        }
        Ok(())
    }
}

fn read_rows(out: &Output, log: &dyn Log, at: &PartRecord) -> Result<Vec<u8>, jincai_storage::Error> {
    let stored = out.read(log, at.record)?;
    let range = at.start as usize..at.start as usize + at.length as usize;
    let bytes = stored.payload.get(range).filter(|bytes| jincai_crypto::sha256(bytes) == at.digest);
    let damaged = || jincai_storage::Error::Arrow(format!("record {} does not hold the rows it should", at.record));
    bytes.map(<[u8]>::to_vec).ok_or_else(damaged)
}
