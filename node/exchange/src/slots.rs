//! Slots: signed values of which only the latest counts. Hops keep the newest in memory and offer it at link-up; there is
//! no sequence and no custody, because a newer value makes an older one worthless.
//!
//! Two kinds so far: `card` (an authority's chain of cards, for its superiors) and `receipt:LANE` (the destination's
//! end-to-end receipt, for the lane's origin).

use crate::exchange::Exchange;
use crate::output::{Context, Payload};
use crate::receive::claimed_slot;
use crate::record::{self, kind};
use crate::{Error, Frame, Receipt, SlotValue};
use jincai_crypto::{CardChain, Purpose, sign, verify};
use jincai_types::{AuthorityId, Destination, Epoch, Priority, decode_canonical};
use std::collections::BTreeMap;

/// Most slots kept; further ones are refused until some are replaced.
const SLOTS: usize = 200_000;
const NAME_BYTES: usize = 200;
const CARD: &str = "card";
const RECEIPT: &str = "receipt:";

#[derive(Clone, Debug)]
struct Slot {
    epoch: Epoch,
    number: u64,
    to: Destination,
    from: Option<AuthorityId>,
    signed: Vec<u8>,
}

/// The newest value of every slot that passed here.
#[derive(Clone, Debug, Default)]
pub(crate) struct Slots(BTreeMap<(AuthorityId, String), Slot>);

impl Slots {
    /// How many are kept.
    pub(crate) fn count(&self) -> usize {
        self.0.len()
    }
}

impl Exchange {
    fn make_slot(&mut self, name: String, number: u64, to: Destination, value: Vec<u8>) -> Vec<u8> {
        let slot = SlotValue { version: 1, issuer: self.me, epoch: self.epoch, name, number, to, value: value.into() };
        let signed = sign(Purpose::Slot, record::to_body(&slot), &self.keys.signing);
        let stored = Slot { epoch: slot.epoch, number, to, from: None, signed: signed.clone() };
        self.slots.0.insert((self.me, slot.name), stored);
        signed
    }

    pub(crate) fn issue_card_slot(&mut self) {
        if self.directory.tree().superior(self.me).is_none() {
            return;
        }
        let (Some(chain), Some(card)) = (self.directory.chain(self.me), self.directory.card(self.me)) else { return };
        let serial = card.serial;
        self.make_slot(CARD.into(), serial, Destination::Superiors(self.me), record::to_body(&chain));
    }

    /// Issues the end-to-end receipts that are out of date.
    pub(crate) fn issue_receipt_slots(&mut self, ctx: &mut Context<'_>) {
        let due: Vec<Receipt> = self
            .inbound
            .iter_mut()
            .filter(|(lane, inbound)| inbound.receipt_due && lane.origin != self.me)
            .map(|(lane, inbound)| {
                inbound.receipt_due = false;
                Receipt { lane: *lane, position: inbound.applied_end, refusals: inbound.refusals }
            })
            .collect();
        for receipt in due {
            // Numbers of records never go back within an epoch, not even across a clean restart.
            let number = ctx.out.last();
            let to = Destination::Authority(receipt.lane.origin);
            let signed = self.make_slot(format!("{RECEIPT}{}", receipt.lane), number, to, record::to_body(&receipt));
            self.pass_on(&signed, to, None, ctx);
        }
    }

    fn pass_on(&mut self, signed: &[u8], to: Destination, from: Option<AuthorityId>, ctx: &mut Context<'_>) {
        for hop in self.directory.tree().next_hops(self.me, to, from) {
            if self.links.get(&hop).is_some_and(|l| l.up.is_some()) {
                let frame = Frame::Slot { signed: signed.to_vec().into() };
                ctx.out.send(hop, Priority::Control, Payload::Frame(frame.to_bytes()));
            }
        }
    }

    /// Offers a neighbour that has just come up every slot that leads its way.
    pub(crate) fn offer_slots(&mut self, peer: AuthorityId, ctx: &mut Context<'_>) {
        for slot in self.slots.0.values() {
            let leads_there = self.directory.tree().next_hops(self.me, slot.to, slot.from).contains(&peer);
            if leads_there {
                let frame = Frame::Slot { signed: slot.signed.clone().into() };
                ctx.out.send(peer, Priority::Control, Payload::Frame(frame.to_bytes()));
            }
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
        let newest = self.slots.0.get(&known).map(|s| (s.epoch, s.number));
        if claimed.issuer == self.me || newest >= Some((claimed.epoch, claimed.number)) {
            return Ok(());
        }
        if claimed.version != 1 || claimed.name.len() > NAME_BYTES {
            return Err(jincai_crypto::Error::Suite { what: "slot", found: u64::from(claimed.version) }.into());
        }
        if newest.is_none() && self.slots.count() >= SLOTS {
            return Err(Error::Busy { bytes: (SLOTS * crate::frame::SLOT_BYTES) as u64 });
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
        if claimed.name.starts_with(RECEIPT) && claimed.to == Destination::Authority(self.me) {
            let receipt: Receipt = decode_canonical("receipt", &claimed.value, crate::frame::SLOT_BYTES)?;
            self.delivered.insert((receipt.lane, claimed.issuer), receipt);
        }
        let slot = Slot { epoch: claimed.epoch, number: claimed.number, to: claimed.to, from, signed: signed.to_vec() };
        self.slots.0.insert(known, slot);
        self.pass_on(signed, claimed.to, from, ctx);
        Ok(())
    }
}
