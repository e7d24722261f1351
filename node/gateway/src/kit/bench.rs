//! One case's world at work: the neighbour, the system under test, the files between them, and all that was said.
//!
//! Everything that the system under test says is read and verified by production code as it comes. Some of what it must never
//! do is judged here, whatever the case: a frame that no node reads, a signature that does not hold, a receipt for a place
//! where no batch ended that it was sent, an end of its process.

use super::driver::Outbound;
use super::neighbour::{self, Neighbour, World};
use super::sut::{Applied, Sut};
use super::{Failure, Judged, wrong};
use crate::clock;
use crate::error::Error;
use bytes::Bytes;
use jincai_core::Event;
use jincai_crypto::{BatchView, Purpose};
use jincai_exchange::{Frame, HopOrder, LinkKind, Receipt, ReceiptList, SlotValue};
use jincai_transports::{DropConfig, Link, LinkEvent, open_drop};
use jincai_types::{Destination, Lane, LanePosition, Priority, decode_canonical, hex, limits};
use std::path::Path;
use std::time::Duration;
use tokio::sync::mpsc;

/// How often the neighbour looks into its directory, and its clock ticks.
const POLL: Duration = Duration::from_millis(20);
const EVENTS: usize = 256;
const MOST_WAITING: usize = 4096;

/// What the system under test has said.
#[derive(Debug)]
pub(super) enum Said {
    /// Its hello.
    Hello(Greeting),
    /// A batch.
    Batch(Sealed),
    /// A list of receipts; its signature and its names hold.
    Receipts(ReceiptList),
    /// It lacks what follows.
    Gap(Lane, LanePosition),
    /// A slot, and the receipt in it; its signature holds.
    Slot(SlotValue, Option<Receipt>),
    /// Anything else that is well-formed.
    Other,
}

/// What a hello says of its speaker.
#[derive(Debug)]
pub(super) struct Greeting {
    pub(super) versions: (u16, u16),
    pub(super) authority: String,
}

/// A sealed batch and its place.
#[derive(Clone, Debug)]
pub(super) struct Sealed {
    pub(super) lane: Lane,
    pub(super) end: LanePosition,
    pub(super) bytes: Vec<u8>,
}

impl Sealed {
    fn read(bytes: &[u8]) -> Result<Self, jincai_crypto::Error> {
        let view = BatchView::parse(bytes)?;
        Ok(Self { lane: view.statement.lane, end: view.end(), bytes: bytes.to_vec() })
    }

    /// The frame that brings it, without a floor.
    pub(super) fn frame(&self) -> Vec<u8> {
        Frame::batch_bytes(&HopOrder::default(), &self.bytes)
    }
}

/// What passes between the two.
#[derive(Clone, Copy)]
pub(super) struct Gates {
    /// The neighbour's batches reach the system under test.
    pub(super) out: bool,
    /// Its batches reach the neighbour.
    pub(super) back: bool,
}

/// See the module's head.
pub(super) struct Bench {
    pub(super) world: World,
    pub(super) sut: Sut,
    pub(super) gates: Gates,
    /// All that was said so far, in order.
    pub(super) said: Vec<Said>,
    neighbour: Neighbour,
    /// What the neighbour has sealed for the system under test, and whether it was sent.
    sealed: Vec<(Sealed, bool)>,
    /// What must have been applied by now.
    expected: Vec<Applied>,
    barriers: u32,
    patience: Duration,
    events: mpsc::Receiver<LinkEvent>,
    /// What the neighbour has signed for.
    signed: Vec<(Lane, LanePosition)>,
    /// Dropped before its runtime.
    link: Link,
    runtime: tokio::runtime::Runtime,
}

impl Bench {
    /// Lays the directory and starts both sides; frames can be put from then on.
    pub(super) fn start(directory: &Path, command: &str, patience: Duration) -> Result<Self, Failure> {
        let world = World::new()?;
        let mut sut = Sut::prepare(directory, command, &world)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|source| Error::System { what: "the runtime", source })?;
        let (events, arrivals) = mpsc::channel(EVENTS);
        let (outgoing, incoming) = (sut.path("to-sut"), sut.path("from-sut"));
        let drop = DropConfig { peer: world.province, outgoing, incoming, poll: POLL, most_waiting: MOST_WAITING };
        let link = {
            let _entered = runtime.enter();
            open_drop(drop, events)?
        };
        let neighbour = neighbour::open(&world)?;
        sut.start()?;
        let mut bench = Self {
            world,
            sut,
            gates: Gates { out: true, back: true },
            said: Vec::new(),
            neighbour,
            sealed: Vec::new(),
            expected: Vec::new(),
            barriers: 0,
            signed: Vec::new(),
            patience,
            events: arrivals,
            link,
            runtime,
        };
        bench.wait("the neighbour's own directories", |bench| Ok(bench.link.is_up().then_some(())))?;
        Ok(bench)
    }

    /// The neighbour's core.
    pub(super) fn core(&mut self) -> &mut jincai_core::Core {
        self.neighbour.core()
    }

    /// Goes on until something is there, for as long as the kit's patience lasts.
    pub(super) fn wait<T>(
        &mut self,
        what: &str,
        mut look: impl FnMut(&mut Self) -> Result<Option<T>, Failure>,
    ) -> Result<T, Failure> {
        let started = clock::instant();
        loop {
            self.go_on()?;
            if let Some(found) = look(self)? {
                return Ok(found);
            }
            if let Some(how) = self.sut.ended() {
                return wrong(how);
            }
            if started.elapsed() > self.patience {
                return wrong(format!("waited {} s for {what}", self.patience.as_secs()));
            }
        }
    }

    /// Takes what comes next, for one tick at most, and sends what the neighbour has to say to it.
    fn go_on(&mut self) -> Judged {
        let next = async { tokio::time::timeout(POLL, self.events.recv()).await.ok().flatten() };
        let mut event = self.runtime.block_on(next);
        while let Some(now) = event {
            self.take(now)?;
            event = self.events.try_recv().ok();
        }
        self.neighbour.step(Event::Tick)?;
        self.send_out()
    }

    /// Seals what was submitted and sends it, if its gate is open.
    fn send_out(&mut self) -> Judged {
        for outbound in self.neighbour.turn()? {
            if let Ok(Frame::Batch { bytes, .. }) = Frame::from_bytes(&outbound.bytes) {
                let sealed = Sealed::read(bytes)?;
                // Barriers always pass.
                let open = self.gates.out || sealed.lane.class == Priority::Bulk;
                match self.sealed.iter_mut().find(|(known, _)| known.end == sealed.end && known.lane == sealed.lane) {
                    Some((_, sent)) => *sent |= open,
                    None => self.sealed.push((sealed, open)),
                }
                if !open {
                    continue;
                }
            }
            self.note_signed(&outbound.bytes)?;
            match self.put(outbound) {
                // What is lost comes again: the neighbour keeps it until it is signed for.
                Ok(()) | Err(jincai_transports::Error::Down { .. } | jincai_transports::Error::Full { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Remembers what the neighbour signs for.
    fn note_signed(&mut self, frame: &[u8]) -> Judged {
        let (purpose, signed) = match Frame::from_bytes(frame)? {
            Frame::Receipts { signed } => (Purpose::Receipts, signed),
            Frame::Slot { signed } => (Purpose::Slot, signed),
            _ => return Ok(()),
        };
        let payload = self.world.directory.verify(purpose, &signed, self.world.ministry);
        // Slots of others are passed on, too.
        let Ok(payload) = payload else { return Ok(()) };
        if purpose == Purpose::Receipts {
            let list: ReceiptList = decode_canonical("receipt list", &payload, limits::FRAME_BYTES)?;
            self.signed.extend(list.receipts.iter().map(|receipt| (receipt.lane, receipt.position)));
        } else {
            let slot: SlotValue = decode_canonical("slot", &payload, limits::FRAME_BYTES)?;
            if slot.name.starts_with("receipt:") {
                let receipt: Receipt = decode_canonical("receipt", &slot.value, limits::FRAME_BYTES)?;
                self.signed.push((receipt.lane, receipt.position));
            }
        }
        Ok(())
    }

    /// Whether the neighbour has signed for a batch of the system under test.
    pub(super) fn has_signed(&self, sealed: &Sealed) -> bool {
        self.signed.iter().any(|(lane, end)| *lane == sealed.lane && end.key() >= sealed.end.key())
    }

    fn put(&self, outbound: Outbound) -> Result<(), jincai_transports::Error> {
        self.link.try_send(outbound.class, Bytes::from(outbound.bytes))
    }

    fn take(&mut self, event: LinkEvent) -> Judged {
        match event {
            LinkEvent::Up { peer, .. } => Ok(self.neighbour.step(Event::LinkUp(peer, LinkKind::Mailbox))?),
            LinkEvent::Down { peer, .. } => Ok(self.neighbour.step(Event::LinkDown(peer))?),
            LinkEvent::Frame { peer, bytes } => {
                let said = self.read(&bytes)?;
                let passes = self.gates.back || !matches!(said, Said::Batch(_));
                self.said.push(said);
                if !passes {
                    return Ok(());
                }
                match self.neighbour.step(Event::Frame(peer, bytes)) {
                    Err(error) if error.is_fatal() => Err(error.into()),
                    Err(error) => wrong(format!("the neighbour refuses what it says: {error} [{}]", error.code())),
                    Ok(()) => Ok(()),
                }
            }
        }
    }

    /// Reads and verifies a frame of the system under test.
    fn read(&self, bytes: &[u8]) -> Result<Said, Failure> {
        let refused = |what: &str, error: &dyn std::fmt::Display| wrong(format!("{what} that no node takes: {error}"));
        let frame = match Frame::from_bytes(bytes) {
            Ok(frame) => frame,
            Err(error) => return refused("a frame", &error),
        };
        let peer = self.world.province;
        Ok(match frame {
            Frame::Hello { low, high, authority, .. } => {
                Said::Hello(Greeting { versions: (low, high), authority: authority.to_string() })
            }
            Frame::Batch { bytes, .. } => match Sealed::read(bytes) {
                Ok(sealed) => Said::Batch(sealed),
                Err(error) => return refused("a batch", &error),
            },
            Frame::Receipts { signed } => match self.world.directory.verify(Purpose::Receipts, &signed, peer) {
                Ok(payload) => self.receipts(&payload)?,
                Err(error) => return refused("receipts", &error),
            },
            Frame::Slot { signed } => match self.world.directory.verify(Purpose::Slot, &signed, peer) {
                Ok(payload) => self.slot(&payload)?,
                Err(error) => return refused("a slot", &error),
            },
            Frame::Gap { lane, have } => Said::Gap(lane, have),
            _ => Said::Other,
        })
    }

    fn receipts(&self, payload: &[u8]) -> Result<Said, Failure> {
        let list: ReceiptList = decode_canonical("receipt list", payload, limits::FRAME_BYTES).or_else(not_read)?;
        if (list.version, list.issuer, list.neighbour) != (1, self.world.province, self.world.ministry) {
            return wrong("a receipt list of another version, issuer or neighbour");
        }
        list.receipts.iter().try_for_each(|receipt| self.may_sign(receipt))?;
        Ok(Said::Receipts(list))
    }

    /// A slot, and what it signs for if it is a receipt.
    fn slot(&self, payload: &[u8]) -> Result<Said, Failure> {
        let slot: SlotValue = decode_canonical("slot", payload, limits::FRAME_BYTES).or_else(not_read)?;
        let receipt = match slot.name.strip_prefix("receipt:") {
            Some(_) => Some(decode_canonical("receipt", &slot.value, limits::FRAME_BYTES).or_else(not_read)?),
            None => None,
        };
        receipt.iter().try_for_each(|receipt| self.may_sign(receipt))?;
        Ok(Said::Slot(slot, receipt))
    }

    /// Nobody signs for what he cannot have had.
    fn may_sign(&self, receipt: &Receipt) -> Judged {
        let place = (receipt.lane, receipt.position);
        if self.sealed.iter().any(|(sealed, sent)| *sent && (sealed.lane, sealed.end) == place) {
            return Ok(());
        }
        let (lane, number) = (receipt.lane, receipt.position.sequence);
        wrong(format!("it signs for {number} of lane {lane}: no good batch that it was sent ends there"))
    }

    /// Has the neighbour seal plain messages as one batch, and, if its gate is open, send it. They are expected to be applied.
    pub(super) fn seal(&mut self, to: Destination, class: Priority, notes: &[(&str, &str)]) -> Result<Sealed, Failure> {
        for (id, text) in notes {
            let (id, payload) = ((*id).to_owned(), text.as_bytes().to_vec());
            self.core().submit_note(clock::now(), to, class, (id, String::new()), payload)?;
        }
        let sealed = self.sealed_now(Lane { origin: self.world.ministry, destination: to, class })?;
        let first = sealed.end.sequence + 1 - notes.len() as u64;
        let applied = notes.iter().zip(first..).map(|((id, text), sequence)| Applied {
            lane: sealed.lane.to_string(),
            sequence,
            id: (*id).to_owned(),
            payload: hex(text.as_bytes()),
        });
        self.expected.extend(applied);
        Ok(sealed)
    }

    /// The batch that the neighbour seals next on a lane, of what was submitted.
    pub(super) fn sealed_now(&mut self, lane: Lane) -> Result<Sealed, Failure> {
        let before = self.sealed.len();
        self.wait("the neighbour to seal a batch", |bench| {
            let new = bench.sealed.get(before..).unwrap_or_default();
            Ok(new.iter().find(|(sealed, _)| sealed.lane == lane).map(|(sealed, _)| sealed.clone()))
        })
    }

    /// As [`Self::seal`], on the lane of records to the system under test alone.
    pub(super) fn record(&mut self, notes: &[(&str, &str)]) -> Result<Sealed, Failure> {
        self.seal(Destination::Authority(self.world.province), Priority::Record, notes)
    }

    /// Puts a frame that was made here. Frames of one class are fetched in the order in which they were put; what is put here
    /// goes in the class of barriers.
    pub(super) fn put_frame(&self, frame: Vec<u8>) -> Judged {
        Ok(self.put(Outbound { class: Priority::Bulk, bytes: frame })?)
    }

    /// Sends a good batch again, or for the first time if its gate was closed.
    pub(super) fn put_batch(&mut self, sealed: &Sealed) -> Judged {
        self.let_through(sealed);
        self.put_frame(sealed.frame())
    }

    /// From now on the system under test may sign for a batch whose gate was closed.
    pub(super) fn let_through(&mut self, sealed: &Sealed) {
        for (known, sent) in &mut self.sealed {
            *sent |= known.lane == sealed.lane && known.end == sealed.end;
        }
    }

    /// Whether a batch was signed for since so many frames were said: in a list, or, as a destination does too, in the slot
    /// that says that it is applied.
    pub(super) fn signed_since(&self, from: usize, sealed: &Sealed) -> bool {
        let covers = |receipt: &Receipt| receipt.lane == sealed.lane && receipt.position.key() >= sealed.end.key();
        self.said.iter().skip(from).any(|said| match said {
            Said::Receipts(list) => list.receipts.iter().any(covers),
            Said::Slot(_, receipt) => receipt.as_ref().is_some_and(covers),
            Said::Hello(_) | Said::Batch(_) | Said::Gap(..) | Said::Other => false,
        })
    }

    /// Waits until a batch is signed for, from now on or before.
    pub(super) fn receipt(&mut self, sealed: &Sealed) -> Judged {
        self.receipt_since(0, sealed)
    }

    /// Waits until a batch is signed for since so many frames were said.
    pub(super) fn receipt_since(&mut self, from: usize, sealed: &Sealed) -> Judged {
        let what = format!("a receipt for {} of lane {}", sealed.end.sequence, sealed.lane);
        self.wait(&what, |bench| Ok(bench.signed_since(from, sealed).then_some(())))
    }

    /// Waits until a message that is put behind everything else is signed for and applied: what came before it has been
    /// read by then.
    pub(super) fn barrier(&mut self) -> Judged {
        self.barriers += 1;
        let id = format!("barrier-{}", self.barriers);
        let to = Destination::Authority(self.world.province);
        let sealed = self.seal(to, Priority::Bulk, &[(&id, "so far")])?;
        self.receipt(&sealed)?;
        self.applied(&id)
    }

    /// Waits until a message was applied.
    pub(super) fn applied(&mut self, id: &str) -> Judged {
        let what = format!("«{id}» in applied.jsonl");
        self.wait(&what, |bench| Ok(bench.sut.applied()?.iter().any(|line| line.id == id).then_some(())))
    }

    /// Of the messages expected, those that shall not be applied after all.
    pub(super) fn not_expected(&mut self, ids: &[&str]) {
        self.expected.retain(|line| !ids.contains(&line.id.as_str()));
    }

    /// Waits until everything expected was applied; more, twice, or in another order on its lane is wrong.
    pub(super) fn all_applied(&mut self) -> Judged {
        let ids: Vec<String> = self.expected.iter().map(|line| line.id.clone()).collect();
        ids.iter().try_for_each(|id| self.applied(id))?;
        self.nothing_else_applied()
    }

    /// Compares what was applied with what was expected, lane by lane.
    pub(super) fn nothing_else_applied(&mut self) -> Judged {
        let (mut found, mut wanted) = (self.sut.applied()?, self.expected.clone());
        // There is no order between lanes; within one the order found is the order applied.
        found.sort_by(|a, b| a.lane.cmp(&b.lane));
        wanted.sort_by(|a, b| (&a.lane, a.sequence).cmp(&(&b.lane, b.sequence)));
        if found == wanted {
            return Ok(());
        }
        let told = |lines: &[Applied]| {
            let each = lines.iter().map(|line| format!("{} {} «{}»", line.lane, line.sequence, line.id));
            each.collect::<Vec<_>>().join(", ")
        };
        wrong(format!("applied.jsonl holds [{}] instead of [{}]", told(&found), told(&wanted)))
    }

    /// Waits until the system under test has fetched all that was put for it.
    pub(super) fn fetched(&mut self) -> Judged {
        self.wait("its incoming directory to be empty", |bench| Ok(bench.sut.has_fetched().then_some(())))
    }

    /// The ids of the plain messages that the neighbour has applied, in order.
    pub(super) fn arrived(&mut self) -> Vec<String> {
        self.core().rooms().inbox.notes().map(|note| note.id.clone()).collect()
    }

    /// Hands the system under test a message and waits until it has said that it is durable there.
    pub(super) fn submit(&mut self, id: &str, text: &str) -> Judged {
        self.sut.submit(id, text.as_bytes())?;
        let what = format!("submit/{id}.json to be taken");
        self.wait(&what, |bench| Ok(bench.sut.took(id).then_some(())))
    }

    /// The batches that it has sent, since so many frames were said.
    pub(super) fn batches_since(&self, from: usize) -> impl Iterator<Item = &Sealed> {
        self.said.iter().skip(from).filter_map(|said| match said {
            Said::Batch(sealed) => Some(sealed),
            _ => None,
        })
    }

    /// Waits for its next batch.
    pub(super) fn batch_since(&mut self, from: usize) -> Result<Sealed, Failure> {
        self.wait("a batch of its own", |bench| Ok(bench.batches_since(from).next().cloned()))
    }
}

fn not_read<T>(error: jincai_types::Error) -> Result<T, Failure> {
    wrong(format!("something signed that no node reads: {error} [{}]", error.code()))
}
