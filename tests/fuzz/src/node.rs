//! The exchange of a province between the ministry and a county, told anything by both: what they sign themselves, too.
//!
//! Whatever a neighbour says, the node goes on: no frame is an error of its journal or its rooms, a refused frame stages
//! nothing, what it sends can be read, and what it has written down can be opened again, to the same state.

use crate::Verdict;
use crate::crypto::signed_batch;
use crate::read::Input;
use crate::world::{NOW, keys_of, world};
use jincai_core::{Inbox, RoomSet};
use jincai_crypto::{BatchView, Purpose, Recipient, SealInput, SeededEntropy, seal};
use jincai_dictionary::Dictionary;
use jincai_exchange::{
    Context, Error, Exchange, Frame, HopOrder, LinkKind, Opening, Output, Payload, Setup, open, read_batch,
};
use jincai_files::Files;
use jincai_journal::{Log, MemoryBlobs, Stored};
use jincai_storage::Storage;
use jincai_types::{
    AuthorityId, Destination, Epoch, Lane, LanePosition, Level, Millis, Priority, RecordNumber, limits,
};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Most steps of one input: signing takes its time.
const STEPS: usize = 24;
/// In which the neighbours' messages stand.
pub(crate) const EPOCH: Epoch = Epoch { number: 1, salt: 2 };
/// Where a message of a neighbour may go; see [`Node::message`].
pub(crate) const LANES: u8 = 5;
/// Kinds of steps; see [`Node::take`].
pub(crate) mod step {
    pub(crate) const RAW: u8 = 0;
    pub(crate) const SLOT: u8 = 1;
    pub(crate) const RECEIPTS: u8 = 2;
    pub(crate) const BATCH: u8 = 3;
    pub(crate) const BATCH_ON_ITS_FLOOR: u8 = 4;
    pub(crate) const TIME: u8 = 5;
    pub(crate) const UP: u8 = 6;
    pub(crate) const DOWN: u8 = 7;
    pub(crate) const FULL: u8 = 8;
    pub(crate) const RESTART: u8 = 9;
    pub(crate) const MESSAGE: u8 = 10;
    pub(crate) const COUNT: u8 = 11;
}

/// The records of a node, all durable.
struct Book(Vec<Stored>);

impl Log for Book {
    fn read(&self, number: RecordNumber) -> Result<Stored, jincai_journal::Error> {
        let found = number.checked_sub(1).and_then(|at| self.0.get(usize::try_from(at).ok()?));
        found.cloned().ok_or_else(|| jincai_journal::Error::NoRecord { number, last: self.end() })
    }

    fn replay(
        &self,
        from: RecordNumber,
        each: &mut dyn FnMut(Stored) -> Result<(), jincai_journal::Error>,
    ) -> Result<(), jincai_journal::Error> {
        self.0.iter().filter(|stored| stored.number >= from).try_for_each(|stored| each(stored.clone()))
    }

    fn end(&self) -> RecordNumber {
        self.0.len() as u64
    }
}

struct Node {
    exchange: Exchange,
    rooms: RoomSet,
    book: Book,
    now: Millis,
    /// Where the neighbours' own lanes stand.
    lanes: BTreeMap<Lane, LanePosition>,
    accepted: bool,
}

/// A node that takes steps from the input.
pub(crate) fn node(bytes: &[u8]) -> Verdict {
    let mut node = Node::new();
    let mut input = Input(bytes);
    for _ in 0..STEPS {
        if input.is_empty() {
            break;
        }
        let (choice, peer) = (input.byte() % step::COUNT, usize::from(input.byte() % 2) * 2);
        node.take(choice, peer, input.piece());
        node.look();
    }
    node.reopen();
    Verdict::of(node.accepted)
}

fn rooms() -> RoomSet {
    let dictionary = Dictionary::new(Arc::new(MemoryBlobs::new()));
    let me = world().ids[1];
    RoomSet { dictionary, storage: Storage::new(me), files: Files::new(me), inbox: Inbox::default() }
}

fn setup() -> Setup {
    Setup {
        authority: world().ids[1],
        keys: keys_of(2),
        entropy: Box::new(SeededEntropy::new(9)),
        directory: world().directory.clone(),
        policy: Default::default(),
        limits: Default::default(),
    }
}

fn start(opening: Opening, book: &Book, rooms: &mut RoomSet, now: Millis) -> (Exchange, Output) {
    open(setup(), opening, None, now, book, rooms).expect("what a node has written down, it opens")
}

impl Node {
    fn new() -> Self {
        let (book, mut rooms) = (Book(Vec::new()), rooms());
        let (exchange, out) = start(Opening::Unclean, &book, &mut rooms, NOW);
        let mut node = Self { exchange, rooms, book, now: NOW, lanes: BTreeMap::new(), accepted: false };
        node.keep(out);
        for peer in [0, 2] {
            node.step(|exchange, ctx| exchange.link_up(world().ids[peer], LinkKind::Session, ctx));
        }
        node
    }

    /// One step; its records are durable at once.
    fn step<T>(&mut self, act: impl FnOnce(&mut Exchange, &mut Context<'_>) -> T) -> (T, usize) {
        let mut out = Output::new(self.book.end() + 1);
        let mut ctx = Context { now: self.now, log: &self.book, rooms: &mut self.rooms, out: &mut out };
        let done = act(&mut self.exchange, &mut ctx);
        let staged = out.records.len();
        self.keep(out);
        (done, staged)
    }

    fn keep(&mut self, out: Output) {
        for record in out.records {
            assert!(record.payload.len() <= jincai_journal::RECORD_BYTES_MAX, "the journal can take it");
            let number = self.book.end() + 1;
            self.book.0.push(Stored { number, kind: record.kind, payload: record.payload });
        }
        for send in out.sends {
            assert!(send.after <= self.book.end(), "what it waits for will be durable");
            match send.what {
                Payload::Frame(frame) => {
                    assert!(Frame::from_bytes(&frame).is_ok(), "the neighbour can read it");
                }
                Payload::Batch { record, hop, bytes } => {
                    let batch = read_batch(&self.book, record).expect("the record holds a batch");
                    assert_eq!(batch.len() as u64, bytes);
                    assert!(Frame::batch_bytes(&hop, &batch).len() <= limits::FRAME_BYTES);
                }
            }
        }
    }

    fn take(&mut self, choice: u8, peer: usize, piece: &[u8]) {
        let (world, id) = (world(), world().ids[peer]);
        match choice {
            step::RAW => self.frame(id, piece),
            step::SLOT => {
                // The first byte says who signs: slots travel.
                let (by, value) = piece.split_first().unwrap_or((&0, &[]));
                let signed = world.sign(usize::from(*by), Purpose::Slot, value);
                self.frame(id, &Frame::Slot { signed: signed.into() }.to_bytes());
            }
            step::RECEIPTS => {
                let signed = world.sign(peer, Purpose::Receipts, piece);
                self.frame(id, &Frame::Receipts { signed: signed.into() }.to_bytes());
            }
            step::BATCH | step::BATCH_ON_ITS_FLOOR => {
                let Some(batch) = signed_batch(world, peer, piece) else { return };
                let on_floor = choice == step::BATCH_ON_ITS_FLOOR;
                let previous = BatchView::parse(&batch).ok().filter(|_| on_floor).map(|view| view.statement.previous);
                let floor = previous.unwrap_or(LanePosition::START);
                self.frame(id, &Frame::batch_bytes(&HopOrder { floor, after: floor }, &batch));
            }
            step::MESSAGE => self.message(peer, piece),
            step::TIME => {
                let step = piece.iter().rev().take(5).fold(0, |n, byte| n << 8 | u64::from(*byte));
                self.now += step;
                self.step(Exchange::tick).0.expect("time passes");
            }
            step::UP => drop(self.step(|exchange, ctx| {
                let kind = if piece.is_empty() { LinkKind::Session } else { LinkKind::Mailbox };
                exchange.link_up(id, kind, ctx);
            })),
            step::DOWN => self.exchange.link_down(id, self.now),
            step::FULL => drop(self.step(|exchange, ctx| exchange.set_full(!piece.is_empty(), ctx))),
            _ => self.restart(piece),
        }
    }

    /// A message as its neighbour would seal it, the next on its lane: the first byte says which lane, then come the
    /// attributes with their length, and the payload.
    fn message(&mut self, peer: usize, content: &[u8]) {
        let (world, mut input) = (world(), Input(content));
        let (choice, origin) = (input.byte(), world.ids[peer]);
        let destination = match choice % LANES {
            0 => Destination::Authority(world.ids[1]),
            1 => Destination::Authority(world.ids[2 - peer]),
            2 => Destination::Below(origin),
            3 => Destination::Superiors(origin),
            _ => Destination::Level(origin, Level::ALL[usize::from(choice) % 3]),
        };
        let lane = Lane { origin, destination, class: Priority::ALL[usize::from(choice / LANES) % 4] };
        let previous = self.lanes.get(&lane).copied().unwrap_or_default();
        let messages = [(input.piece().to_vec(), input.0.to_vec())];
        let reader =
            |id: AuthorityId| world.directory.card(id).map(|c| Recipient { authority: id, key: c.encryption() });
        let recipients: Vec<Recipient> = match destination {
            Destination::Authority(to) => reader(to).into_iter().collect(),
            Destination::Below(_) | Destination::Superiors(_) | Destination::Level(..) => Vec::new(),
        };
        let input = SealInput {
            lane,
            epoch: EPOCH,
            first: if previous == LanePosition::START { 1 } else { previous.sequence + 1 },
            previous,
            messages: &messages,
            recipients: &recipients,
            now: self.now,
        };
        let entropy = &mut SeededEntropy::new(self.book.end());
        let (batch, end) = seal(&input, &world.keys[peer], entropy).expect("one small message can be sealed");
        self.lanes.insert(lane, end);
        self.frame(origin, &Frame::batch_bytes(&HopOrder { floor: LanePosition::START, after: previous }, &batch));
    }

    fn frame(&mut self, peer: AuthorityId, bytes: &[u8]) {
        let (done, staged) = self.step(|exchange, ctx| exchange.frame(peer, bytes, ctx));
        match done {
            Ok(()) => self.accepted = true,
            Err(error @ (Error::Journal(_) | Error::Room(_))) => panic!("a frame stops the node: {error}"),
            Err(Error::Fork { .. }) => {}
            Err(error) => assert_eq!(staged, 0, "a refused frame changes nothing: {error}"),
        }
        self.step(Exchange::flush).0.expect("what the frame has set off can be sealed");
    }

    fn restart(&mut self, piece: &[u8]) {
        let opening = match piece.first() {
            None => Opening::Clean,
            Some(0) => Opening::Restored,
            Some(_) => Opening::Unclean,
        };
        self.rooms = rooms();
        let (exchange, out) = start(opening, &self.book, &mut self.rooms, self.now);
        self.exchange = exchange;
        self.keep(out);
    }

    /// What people are shown can be shown.
    fn look(&self) {
        let exchange = &self.exchange;
        for report in exchange.inbound() {
            let position = exchange.held_up_to(&report.lane);
            let found = exchange.find(&report.lane, position.epoch, position.sequence);
            assert!(found.is_none_or(|(record, _)| record <= self.book.end()));
        }
        let (links, outbound) = (exchange.links(), exchange.outbound());
        assert!(links.len() >= 2 && outbound.len() < STEPS * limits::BATCH_MESSAGES);
    }

    /// From its records alone the node comes to be what it was; and from a snapshot of that, again.
    fn reopen(&mut self) {
        let mut rooms = rooms();
        let (replayed, _) = start(Opening::Clean, &self.book, &mut rooms, self.now);
        assert_eq!(replayed.epoch(), self.exchange.epoch());
        let applied = |exchange: &Exchange| {
            let reports = exchange.inbound().into_iter().filter(|report| report.applied != LanePosition::START);
            reports.map(|r| (r.lane, r.applied, r.refusals, r.waiting, r.held)).collect::<Vec<_>>()
        };
        assert_eq!(applied(&replayed), applied(&self.exchange), "every message counts once");
        assert!(replayed.dead_letters().eq(self.exchange.dead_letters()));
        let saved = replayed.save();
        let through = self.book.end();
        let opened = open(setup(), Opening::Clean, Some((through, &saved)), self.now, &self.book, &mut rooms);
        let (restored, _) = opened.expect("a snapshot opens");
        assert_eq!(applied(&restored), applied(&replayed));
    }
}
