//! Slots: signed values of which only the latest counts. Hops keep the newest in memory and pass it on when it comes; there
//! is no sequence and no custody, because a newer value makes an older one worthless. What a neighbour may have missed it
//! is offered by name at link-up and then ever more rarely, and gets what it wants of that: most it has.
//!
//! Six kinds: `card` (an authority's chain of cards, for its superiors), `receipt:LANE` (the destination's end-to-end
//! receipt, for the lane's origin), `end:LANE` (how far a lane goes, for destinations that stay behind), `gone:LANE`
//! (what of it is lost for good, for its destinations), `restored` (a node was set back, for every node), and
//! `epoch:AUTHORITY` (a newer epoch of an authority is known than the one it speaks in).

use crate::exchange::Exchange;
use crate::frame::IDS;
use crate::link::Offer;
use crate::output::{Context, Payload};
use crate::receive::claimed_slot;
use crate::record::{self, Gone, kind};
use crate::{Error, Frame, Receipt, SlotId, SlotValue};
use jincai_crypto::{CardChain, Purpose, sha256, sign, verify};
use jincai_types::{AuthorityId, Destination, Epoch, Lane, LanePosition, Priority, decode_canonical};
use std::collections::BTreeMap;

/// Most slots kept; further ones are refused until some are replaced.
const SLOTS: usize = 200_000;
/// Most of them of one issuer, which signs as many as it likes: it shall not take the others' room.
const SLOTS_OF_ISSUER: usize = 50_000;
/// Most bytes of one issuer's slots.
const BYTES_OF_ISSUER: usize = 32 << 20;
/// Most bytes of all slots.
const BYTES: usize = 512 << 20;
const NAME_BYTES: usize = 200;
/// How many times something may be said without a new record, as a power of two.
const SAID_BITS: u32 = 24;
const CARD: &str = "card";
const RECEIPT: &str = "receipt:";
const END: &str = "end:";
const GONE: &str = "gone:";
const EPOCH: &str = "epoch:";
const RESTORED: &str = "restored";

#[derive(Clone, Debug)]
struct Slot {
    epoch: Epoch,
    number: u64,
    /// None: every node.
    to: Option<Destination>,
    from: Option<AuthorityId>,
    id: [u8; 16],
    signed: Vec<u8>,
}

/// See [`SlotId`].
fn id_of(signed: &[u8]) -> [u8; 16] {
    let mut id = [0; 16];
    id.copy_from_slice(&sha256(signed).0[..16]);
    id
}

/// The newest value of every slot that passed here.
#[derive(Clone, Debug, Default)]
pub(crate) struct Slots {
    all: BTreeMap<(AuthorityId, String), Slot>,
    ids: BTreeMap<[u8; 16], (AuthorityId, String)>,
    /// How many each issuer has here, and their bytes.
    issuers: BTreeMap<AuthorityId, (usize, usize)>,
    bytes: usize,
}

impl Slots {
    /// How many are kept.
    pub(crate) fn count(&self) -> usize {
        self.all.len()
    }

    /// Whether there is room for a slot of so many signed bytes, in the place of the one of that name if there is one.
    fn has_room(&self, of: &(AuthorityId, String), bytes: usize) -> bool {
        let old = self.all.get(of).map(|slot| slot.signed.len());
        let (count, held) = self.issuers.get(&of.0).copied().unwrap_or_default();
        let (more, freed) = (usize::from(old.is_none()), old.unwrap_or_default());
        self.count() + more <= SLOTS
            && count + more <= SLOTS_OF_ISSUER
            && held - freed + bytes <= BYTES_OF_ISSUER
            && self.bytes - freed + bytes <= BYTES
    }

    fn keep(&mut self, of: (AuthorityId, String), slot: Slot) {
        let (count, held) = self.issuers.entry(of.0).or_default();
        *count += 1;
        *held += slot.signed.len();
        self.bytes += slot.signed.len();
        let id = slot.id;
        if let Some(old) = self.all.insert(of.clone(), slot) {
            self.ids.remove(&old.id);
            *count -= 1;
            *held -= old.signed.len();
            self.bytes -= old.signed.len();
        }
        self.ids.insert(id, of);
    }

    /// The newest epoch in which an authority has signed one of them.
    pub(crate) fn newest_epoch(&self, of: AuthorityId) -> Epoch {
        let all = self.all.range((of, String::new())..).take_while(|((issuer, _), _)| *issuer == of);
        all.map(|(_, slot)| slot.epoch).max().unwrap_or_default()
    }
}

/// The name of the end-to-end receipt for a lane.
pub(crate) fn receipt_name(lane: &Lane) -> String {
    format!("{RECEIPT}{lane}")
}

fn send_slot(peer: AuthorityId, signed: &[u8], ctx: &mut Context<'_>) {
    let frame = Frame::Slot { signed: signed.to_vec().into() };
    ctx.out.send(peer, Priority::Control, Payload::Frame(frame.to_bytes()));
}

impl Exchange {
    fn make_slot(&mut self, name: String, number: u64, to: Option<Destination>, value: Vec<u8>) -> Vec<u8> {
        let slot = SlotValue { version: 1, issuer: self.me, epoch: self.epoch, name, number, to, value: value.into() };
        let signed = sign(Purpose::Slot, record::to_body(&slot), &self.keys.signing);
        let stored = Slot { epoch: slot.epoch, number, to, from: None, id: id_of(&signed), signed: signed.clone() };
        self.slots.keep((self.me, slot.name), stored);
        signed
    }

    pub(crate) fn issue_card_slot(&mut self) {
        if self.directory.tree().superior(self.me).is_none() {
            return;
        }
        let (Some(chain), Some(card)) = (self.directory.chain(self.me), self.directory.card(self.me)) else { return };
        let serial = card.serial;
        self.make_slot(CARD.into(), serial, Some(Destination::Superiors(self.me)), record::to_body(&chain));
    }

    /// Says to every node that this one was set back, if it ever was.
    pub(crate) fn issue_restored_slot(&mut self, ctx: &mut Context<'_>) {
        if let Some(restored) = self.catch_up.restored {
            let number = ctx.out.last();
            let signed = self.make_slot(RESTORED.into(), number, None, record::to_body(&restored.epoch));
            self.pass_on(RESTORED, &signed, None, None, ctx);
        }
    }

    /// Says where a lane ends: to all its destinations, or to single ones that stay behind.
    pub(crate) fn issue_end_slots(&mut self, lane: Lane, end: LanePosition, to: &[AuthorityId], ctx: &mut Context<'_>) {
        let value = record::to_body(&(lane, end));
        if to.is_empty() {
            return self.say_of_lane(END, lane, value, ctx);
        }
        for authority in to {
            let (number, to) = (self.next_number(ctx), Some(Destination::Authority(*authority)));
            let signed = self.make_slot(format!("{END}{lane}@{authority}"), number, to, value.clone());
            self.pass_on(END, &signed, to, None, ctx);
        }
    }

    /// The number of a slot that may say the same again, so that no record of its own numbers it. It goes up within an
    /// epoch, across clean restarts too, each of which makes a record; the clock, which may go back, would not do.
    fn next_number(&mut self, ctx: &Context<'_>) -> u64 {
        self.said_number = (ctx.out.last() << SAID_BITS).max(self.said_number + 1);
        self.said_number
    }

    /// Says to an authority which epoch of it is known here.
    pub(crate) fn issue_epoch_slot(&mut self, of: AuthorityId, epoch: Epoch, ctx: &mut Context<'_>) {
        let to = Some(Destination::Authority(of));
        let number = self.next_number(ctx);
        let signed = self.make_slot(format!("{EPOCH}{of}"), number, to, record::to_body(&epoch));
        self.pass_on(EPOCH, &signed, to, None, ctx);
    }

    /// Says to a lane's destinations what of it is lost for good.
    pub(crate) fn issue_gone_slot(&mut self, gone: Gone, ctx: &mut Context<'_>) {
        self.say_of_lane(GONE, gone.lane, record::to_body(&gone), ctx);
    }

    fn say_of_lane(&mut self, name: &str, lane: Lane, value: Vec<u8>, ctx: &mut Context<'_>) {
        let number = self.next_number(ctx);
        let to = Some(lane.destination);
        let signed = self.make_slot(format!("{name}{lane}"), number, to, value);
        self.pass_on(name, &signed, to, None, ctx);
    }

    /// Issues the end-to-end receipts that are out of date. For the neighbour that a lane comes from it is its receipt for
    /// custody too; if it gets lost, that sends again what it holds, and gets one of its own.
    pub(crate) fn issue_receipt_slots(&mut self, ctx: &mut Context<'_>) {
        for lane in std::mem::take(&mut self.receipts_due) {
            let Some(inbound) = self.inbound.get(&lane) else { continue };
            let receipt = Receipt { lane, position: inbound.applied_end, refusals: inbound.refusals };
            // Numbers of records never go back within an epoch, not even across a clean restart.
            let number = ctx.out.last();
            let to = Some(Destination::Authority(receipt.lane.origin));
            let signed = self.make_slot(receipt_name(&receipt.lane), number, to, record::to_body(&receipt));
            self.pass_on(RECEIPT, &signed, to, None, ctx);
            for hop in self.slot_hops(to, None) {
                if let Some(link) = self.links.get_mut(&hop).filter(|link| link.up.is_some()) {
                    link.owes_no_more(&receipt.lane, receipt.position);
                }
            }
        }
    }

    /// Where a slot goes from here.
    fn slot_hops(&self, to: Option<Destination>, from: Option<AuthorityId>) -> Vec<AuthorityId> {
        match to {
            Some(to) => self.directory.tree().next_hops(self.me, to, from),
            None => self.links.keys().copied().filter(|peer| Some(*peer) != from).collect(),
        }
    }

    fn pass_on(
        &mut self,
        name: &str,
        signed: &[u8],
        to: Option<Destination>,
        from: Option<AuthorityId>,
        ctx: &mut Context<'_>,
    ) {
        // Who misses a receipt or an end asks for it, or is told it again. Nobody asks for these, and who does not know an
        // issuer's card refuses whatever comes before it: if one gets lost, the next offer must not be a day away.
        let said_once = name == CARD || name == RESTORED || name.starts_with(EPOCH);
        for hop in self.slot_hops(to, from) {
            if let Some(link) = self.links.get_mut(&hop).filter(|link| link.up.is_some()) {
                send_slot(hop, signed, ctx);
                if said_once {
                    link.offer_soon(ctx.now);
                }
            }
        }
    }

    /// Whether a slot is for a neighbour, or for somebody beyond it.
    fn leads_to(&self, slot: &Slot, peer: AuthorityId) -> bool {
        slot.from != Some(peer) && slot.to.is_none_or(|to| self.directory.tree().leads(self.me, to, peer))
    }

    /// Offers a neighbour every slot that leads its way: by name, or outright where its answer may take days.
    pub(crate) fn offer_slots(&mut self, peer: AuthorityId, offer: Offer, ctx: &mut Context<'_>) {
        let slots = self.slots.all.values().filter(|slot| self.leads_to(slot, peer));
        let mut ids: Vec<SlotId> = Vec::new();
        for slot in slots {
            match offer {
                Offer::Names => ids.push(slot.id.into()),
                Offer::Slots => send_slot(peer, &slot.signed, ctx),
            }
        }
        if let Some(link) = self.links.get_mut(&peer) {
            link.offered = ids.len();
        }
        for ids in ids.chunks(IDS) {
            let frame = Frame::Offer { ids: ids.to_vec() };
            ctx.out.send(peer, Priority::Control, Payload::Frame(frame.to_bytes()));
        }
    }

    /// A neighbour holds these: what is not held here is wanted.
    pub(crate) fn slots_offered(&self, peer: AuthorityId, ids: Vec<SlotId>, ctx: &mut Context<'_>) {
        let lacking = ids.into_iter().take(IDS).filter(|id| !self.slots.ids.contains_key(&**id));
        let ids: Vec<SlotId> = lacking.collect();
        if !ids.is_empty() {
            ctx.out.send(peer, Priority::Control, Payload::Frame(Frame::Want { ids }.to_bytes()));
        }
    }

    /// A neighbour lacks these. It gets no more of them than it was offered, however often it asks.
    pub(crate) fn slots_wanted(&mut self, peer: AuthorityId, ids: &[SlotId], ctx: &mut Context<'_>) {
        let offered = self.links.get(&peer).map_or(0, |link| link.offered);
        let held = ids.iter().filter_map(|id| self.slots.ids.get(&**id)).filter_map(|of| self.slots.all.get(of));
        let mut sent = 0;
        for slot in held.filter(|slot| self.leads_to(slot, peer)).take(offered) {
            send_slot(peer, &slot.signed, ctx);
            sent += 1;
        }
        if let Some(link) = self.links.get_mut(&peer) {
            link.offered -= sent;
        }
    }

    /// Takes a slot: verified, newer than ours, kept, used if it is for us, passed on.
    pub(crate) fn slot(
        &mut self,
        from: Option<AuthorityId>,
        signed: &[u8],
        ctx: &mut Context<'_>,
    ) -> Result<(), Error> {
        if signed.len() > crate::frame::SLOT_BYTES {
            let (size, limit) = (signed.len() as u64, crate::frame::SLOT_BYTES as u64);
            return Err(jincai_types::Error::TooLarge { what: "a slot", size, limit }.into());
        }
        let claimed = claimed_slot(signed)?;
        let known = (claimed.issuer, claimed.name.clone());
        let newest = self.slots.all.get(&known).map(|s| (s.epoch, s.number));
        if claimed.issuer == self.me {
            return Ok(());
        }
        if newest >= Some((claimed.epoch, claimed.number)) {
            return self.older_slot(&claimed, signed, newest.map(|(epoch, _)| epoch), ctx);
        }
        if claimed.version != 1 || claimed.name.len() > NAME_BYTES {
            return Err(jincai_crypto::Error::Suite { what: "slot", found: u64::from(claimed.version) }.into());
        }
        if !self.slots.has_room(&known, signed.len()) {
            return Err(Error::Busy { bytes: self.slots.bytes as u64 });
        }
        // A card proves its own issuer; everything else needs a card that came before.
        if claimed.name == CARD {
            let chain: CardChain = decode_canonical("cards", &claimed.value, crate::frame::SLOT_BYTES)?;
            let card = chain.last()?;
            if card.authority != claimed.issuer {
                return Err(Error::NotANeighbour(claimed.issuer));
            }
            verify(Purpose::Slot, signed, claimed.issuer, &card.signing())?;
            let (_, new) = self.directory.add(&chain, ctx.now)?;
            if new {
                ctx.out.record(kind::CARDS, record::to_body(&chain));
                self.meet_neighbours();
                self.reroute_groups(ctx.now);
            }
        } else {
            self.directory.verify(Purpose::Slot, signed, claimed.issuer)?;
        }
        self.counters.slots_received += 1;
        self.use_slot((from, signed), &claimed, ctx)?;
        let (epoch, number, to) = (claimed.epoch, claimed.number, claimed.to);
        let slot = Slot { epoch, number, to, from, id: id_of(signed), signed: signed.to_vec() };
        self.slots.keep(known, slot);
        self.pass_on(&claimed.name, signed, claimed.to, from, ctx);
        Ok(())
    }

    /// A slot that is older than the one held says nothing new; but an issuer that speaks in an older epoch than it is known
    /// in was set back, perhaps without knowing how far, and is told so once.
    fn older_slot(
        &mut self,
        slot: &SlotValue,
        signed: &[u8],
        known: Option<Epoch>,
        ctx: &mut Context<'_>,
    ) -> Result<(), Error> {
        let Some(known) = known.filter(|known| *known > slot.epoch) else { return Ok(()) };
        if self.said_epochs.get(&slot.issuer).is_some_and(|said| *said >= known) {
            return Ok(());
        }
        self.directory.verify(Purpose::Slot, signed, slot.issuer)?;
        self.tell_epoch(slot.issuer, known, ctx);
        Ok(())
    }

    /// Says to an authority once which epoch of it is known here.
    pub(crate) fn tell_epoch(&mut self, of: AuthorityId, known: Epoch, ctx: &mut Context<'_>) {
        if self.said_epochs.get(&of).is_none_or(|said| *said < known) {
            self.said_epochs.insert(of, known);
            self.issue_epoch_slot(of, known, ctx);
        }
    }

    /// Acts on a verified slot that concerns this node.
    fn use_slot(
        &mut self,
        (from, signed): (Option<AuthorityId>, &[u8]),
        slot: &SlotValue,
        ctx: &mut Context<'_>,
    ) -> Result<(), Error> {
        let limit = crate::frame::SLOT_BYTES;
        if slot.name.starts_with(RECEIPT) {
            let receipt: Receipt = decode_canonical("receipt", &slot.value, limit)?;
            if from == Some(slot.issuer) {
                // What a neighbour has applied, it holds.
                let said = (slot.epoch, std::slice::from_ref(&receipt));
                self.clear_custody(slot.issuer, said, signed, ctx);
            }
            self.delivered(slot.issuer, slot.epoch, receipt, ctx);
        } else if slot.name.starts_with(END) {
            let (lane, end): (Lane, LanePosition) = decode_canonical("lane end", &slot.value, limit)?;
            if lane.origin == slot.issuer {
                self.told_end(lane, end, ctx);
            }
        } else if slot.name.starts_with(GONE) {
            let gone: Gone = decode_canonical("lost messages", &slot.value, limit)?;
            if gone.lane.origin == slot.issuer {
                self.told_gone(gone, ctx);
            }
        } else if slot.name.starts_with(EPOCH) && slot.to == Some(Destination::Authority(self.me)) {
            let epoch: Epoch = decode_canonical("known epoch", &slot.value, limit)?;
            self.told_of_epoch(epoch, ctx);
        } else if slot.name == RESTORED {
            let epoch: Epoch = decode_canonical("restored epoch", &slot.value, limit)?;
            self.peer_restored(slot.issuer, epoch);
        }
        Ok(())
    }
}
