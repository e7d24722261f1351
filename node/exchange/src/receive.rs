//! What a neighbour's frames mean. The three outcomes begin here: what fails authentication moves nothing and is counted;
//! what is verified is taken into custody; what contradicts its own chain holds the lane.

use crate::chain::Verdict;
use crate::exchange::Exchange;
use crate::held::Held;
use crate::link::LinkKind;
use crate::output::{Context, Payload};
use crate::record::{self, Cleared, kind};
use crate::{Error, Frame, HopOrder, PROTOCOL_VERSION, ReceiptList};
use jincai_crypto::{BatchView, Purpose, Verified, signer_of};
use jincai_types::{
    AuthorityId, Destination, Epoch, Lane, LanePosition, Mutation, Priority, decode_canonical, limits, mutated,
};

impl Exchange {
    /// Takes a frame from a neighbour. An error means that the frame was refused and nothing changed but counters; the
    /// shell logs it and may drop the connection. A journal or room error is not the peer's: the node must stop.
    pub fn frame(&mut self, peer: AuthorityId, bytes: &[u8], ctx: &mut Context<'_>) -> Result<(), Error> {
        let link = self.links.get(&peer).ok_or(Error::NotANeighbour(peer))?;
        let frame = Frame::from_bytes(bytes)?;
        if link.refused && !matches!(frame, Frame::Hello { .. }) {
            return Err(Error::NotANeighbour(peer));
        }
        match frame {
            Frame::Hello { low, high, authority, epoch, heard, known, restored } => {
                self.hello(peer, (low, high), authority, (epoch, heard), ctx)?;
                self.told_of_epoch(known, ctx);
                self.accepted |= known == self.epoch;
                if restored {
                    self.say_ends(peer, ctx);
                } else if let Some(link) = self.links.get_mut(&peer) {
                    link.keep_nothing();
                }
                Ok(())
            }
            Frame::Ends { lanes, more } => {
                self.ends(peer, lanes, more, ctx);
                Ok(())
            }
            Frame::Batch { .. } if self.full => {
                self.counters.batches_held_off += 1;
                self.say_intake(peer, ctx);
                Ok(())
            }
            Frame::Batch { hop, bytes } => self.batch(peer, hop, bytes, ctx),
            Frame::Intake { open, held } => {
                self.intake(peer, open, held, ctx.now);
                Ok(())
            }
            Frame::Durable { lane, position } => {
                if let Some(link) = self.links.get_mut(&peer) {
                    link.confirm(&lane, position, ctx.now);
                    if mutated(Mutation::ClearOnUnsignedDurable) {
                        link.discard(&lane, position);
                    }
                }
                Ok(())
            }
            Frame::Receipts { signed } => self.receipts(peer, &signed, ctx),
            Frame::Gap { lane, have } => {
                self.gap(peer, lane, have, ctx);
                Ok(())
            }
            Frame::Slot { signed } => self.slot(Some(peer), &signed, ctx),
            Frame::Offer { ids } => {
                self.slots_offered(peer, ids, ctx);
                Ok(())
            }
            Frame::Want { ids } => {
                self.slots_wanted(peer, &ids, ctx);
                Ok(())
            }
            Frame::Demand { granted, waiting } => {
                self.demand(peer, (granted, waiting), ctx);
                Ok(())
            }
            Frame::Grant { windows } => {
                self.granted(peer, windows);
                Ok(())
            }
        }?;
        self.poll_links(ctx);
        Ok(())
    }

    fn hello(
        &mut self,
        peer: AuthorityId,
        (low, high): (u16, u16),
        authority: AuthorityId,
        (epoch, heard): (Epoch, bool),
        ctx: &mut Context<'_>,
    ) -> Result<(), Error> {
        if authority != peer {
            return Err(Error::NotANeighbour(authority));
        }
        let Some(link) = self.links.get_mut(&peer) else { return Ok(()) };
        link.refused = !(low..=high).contains(&PROTOCOL_VERSION);
        if link.refused {
            return Err(Error::Version { low, high, ours: PROTOCOL_VERSION });
        }
        link.greeted = true;
        self.heard_epoch(peer, epoch, ctx);
        if !heard {
            self.say_hello(peer, ctx);
        }
        if self.full || !heard {
            // Said when there is room too: what was said last may have been lost.
            self.say_intake(peer, ctx);
        }
        Ok(())
    }

    fn verify_batch<'b>(&mut self, bytes: &'b [u8]) -> Result<Verified<BatchView<'b>>, Error> {
        let verified = BatchView::parse(bytes).and_then(|view| match mutated(Mutation::SkipSignatures) {
            true => Ok(view.verified_before()),
            false => view.verify(&self.directory),
        });
        match verified {
            Ok(view) => Ok(view),
            Err(error @ jincai_crypto::Error::UnknownKey { .. }) => {
                self.counters.batches_not_yet += 1;
                Err(error.into())
            }
            Err(error) => {
                self.counters.batches_bad += 1;
                Err(error.into())
            }
        }
    }

    fn batch(
        &mut self,
        peer: AuthorityId,
        HopOrder { floor, after }: HopOrder,
        bytes: &[u8],
        ctx: &mut Context<'_>,
    ) -> Result<(), Error> {
        self.counters.batches_received += 1;
        self.counters.bytes_received += bytes.len() as u64;
        let view = self.verify_batch(bytes)?;
        let lane = view.statement.lane;
        let member = self.directory.tree().is_member(lane.destination, self.me);
        let hops = self.hops(&lane, Some(peer));
        let group = !matches!(lane.destination, Destination::Authority(_));
        if lane.origin == self.me {
            return self.take_back(peer, &view, (bytes, after), ctx);
        }
        if !member && hops.is_empty() && !group {
            self.counters.batches_not_yet += 1;
            return Err(Error::NoRoute(lane.destination));
        }
        if let Some(link) = self.links.get_mut(&peer) {
            link.last_batch = ctx.now;
        }
        self.arrived(peer, lane.class, bytes.len());
        if self.held_lanes.contains_key(&lane) && !self.passes_fork(&view, member) {
            return Err(Error::Fork { lane });
        }
        let chain = self.chains.entry(lane).or_default();
        // A relay that has forgotten the lane takes its place from the first batch that the sender still holds: its floor
        // is then what the batch itself, signed, says comes before it.
        if !member && floor == view.statement.previous {
            chain.raise_to(floor);
        }
        let (verdict, have) = (mutate(chain.judge(&view.statement, view.digest)), chain.position());
        match verdict {
            // Between the end that a new epoch names and the epoch itself, the sender holds something that we lack.
            Verdict::New if view.statement.epoch != have.epoch && after.key() > have.key() => {
                self.ask(peer, lane, have, ctx);
                Ok(())
            }
            Verdict::New => self.accept(peer, &view, bytes, ctx),
            Verdict::Duplicate => {
                self.counters.duplicates_dropped += 1;
                self.serve_wanted(&view, bytes, after, ctx);
                self.owe(peer, lane, have, ctx);
                if view.end().key() < have.key()
                    && let Some(link) = self.links.get_mut(&peer)
                {
                    // A sender that holds nothing newer cannot compare our position with anything; it can compare this.
                    link.owe_exactly(lane, view.end());
                }
                Ok(())
            }
            Verdict::Gap => {
                self.ask(peer, lane, have, ctx);
                Ok(())
            }
            Verdict::Late => self.late(peer, &view, (bytes, after), ctx),
            Verdict::Fork => {
                self.counters.forks += 1;
                let record = ctx.out.record(kind::FORK, bytes.to_vec());
                self.held_lanes.insert(lane, (view.digest, record));
                ctx.out.notice(true, "JC-1207", format!("lane {lane} is held: two batches claim one place"));
                Err(Error::Fork { lane })
            }
        }
    }

    /// Whether a batch of a lane that is held because of a fork lies before that: what was taken stays taken, and whoever
    /// lacks it beyond here gets it. A relay that has forgotten it hands it on too, and leaves it to the destination to
    /// judge.
    fn passes_fork(&self, view: &BatchView<'_>, member: bool) -> bool {
        let chain = self.chains.get(&view.statement.lane);
        let verdict = chain.map(|chain| chain.judge(&view.statement, view.digest));
        verdict == Some(Verdict::Duplicate) || (!member && verdict == Some(Verdict::Late))
    }

    fn accept(
        &mut self,
        peer: AuthorityId,
        view: &Verified<BatchView<'_>>,
        bytes: &[u8],
        ctx: &mut Context<'_>,
    ) -> Result<(), Error> {
        let lane = view.statement.lane;
        let record = ctx.out.record(kind::BATCH, record::batch_record(Some(peer), ctx.now, bytes));
        let chain = self.chains.entry(lane).or_default();
        let held = Held::new(record, view, bytes.len(), chain.position());
        chain.advance(&view.statement, view.digest);
        let end = held.end;
        self.provenance.took(lane, &held, Some(peer), ctx.now, self.policy.provenance_batches);
        self.take(lane, held, Some(peer), ctx.now);
        self.tell_again(peer, &lane, ctx);
        self.owe(peer, lane, end, ctx);
        self.apply_arrived(held, view, ctx)?;
        self.unblock(ctx)
    }

    /// The neighbour shall hear that a lane is durable here up to a position: at once unsigned, soon signed.
    fn owe(&mut self, peer: AuthorityId, lane: Lane, position: LanePosition, ctx: &mut Context<'_>) {
        let Some(link) = self.links.get_mut(&peer) else { return };
        link.owed.insert(lane, position);
        if link.up == Some(LinkKind::Session) {
            let frame = Frame::Durable { lane, position };
            ctx.out.send(peer, Priority::Control, Payload::Frame(frame.to_bytes()));
            if mutated(Mutation::ReceiptBeforeDurable) {
                ctx.out.sends.iter_mut().for_each(|send| send.after = 0);
            }
        }
    }

    pub(crate) fn ask(&mut self, peer: AuthorityId, lane: Lane, have: LanePosition, ctx: &mut Context<'_>) {
        let Some(link) = self.links.get_mut(&peer) else { return };
        if link.may_ask(lane, have, &self.policy, ctx.now) {
            self.counters.gaps_asked += 1;
            let frame = Frame::Gap { lane, have };
            ctx.out.send(peer, Priority::Control, Payload::Frame(frame.to_bytes()));
        }
    }

    fn receipts(&mut self, peer: AuthorityId, signed: &[u8], ctx: &mut Context<'_>) -> Result<(), Error> {
        let payload = self.directory.verify(Purpose::Receipts, signed, peer)?;
        let list: ReceiptList = decode_canonical("receipt list", &payload, limits::FRAME_BYTES)?;
        if list.version != 1 || list.issuer != peer || list.neighbour != self.me {
            return Err(Error::NotANeighbour(list.issuer));
        }
        self.counters.receipts_received += 1;
        self.clear_custody(peer, (list.epoch, &list.receipts), signed, ctx);
        Ok(())
    }

    /// A neighbour has signed that it holds lanes up to here: custody of that ends.
    pub(crate) fn clear_custody(
        &mut self,
        peer: AuthorityId,
        (epoch, receipts): (Epoch, &[crate::Receipt]),
        signed: &[u8],
        ctx: &mut Context<'_>,
    ) {
        let Some(link) = self.links.get_mut(&peer) else { return };
        if epoch < link.epoch && !mutated(Mutation::TrustOldReceipts) {
            // Signed before the neighbour was set back, perhaps: what it says may not be true any more.
            return;
        }
        let mut cleared = Vec::new();
        for receipt in receipts.iter().take(crate::frame::RECEIPTS) {
            match link.clear(&receipt.lane, receipt.position, ctx.now) {
                Ok(true) => cleared.push((receipt.lane, receipt.position)),
                Ok(false) => {}
                Err(()) => {
                    let text = format!("lane {}: {peer} signed for a batch that is not the one sent", receipt.lane);
                    ctx.out.notice(true, "JC-1212", text);
                }
            }
        }
        for (lane, position) in &cleared {
            self.satisfied(peer, lane, *position);
        }
        if !cleared.is_empty() {
            let record = Cleared { neighbour: peer, lanes: cleared, time: ctx.now, signed: signed.to_vec().into() };
            self.provenance.handed(&record);
            ctx.out.record(kind::CLEARED, record::to_body(&record));
        }
    }

    /// Signs the receipts that are owed to a neighbour, at most once per `receipt_ms`, or at once when it has fallen silent.
    pub(crate) fn sign_receipts(&mut self, peer: AuthorityId, ctx: &mut Context<'_>) {
        let Some(link) = self.links.get_mut(&peer) else { return };
        let due = ctx.now.saturating_sub(link.receipts_sent) >= self.policy.receipt_ms;
        let idle = ctx.now.saturating_sub(link.last_batch) >= self.policy.receipt_ms / 5;
        if link.up.is_none() || (link.owed.is_empty() && link.owed_exactly.is_empty()) || !(due || idle) {
            return;
        }
        let mut owed = Vec::new();
        while owed.len() < crate::frame::RECEIPTS
            && let Some(next) = link.owed_exactly.pop_first().or_else(|| link.owed.pop_first())
        {
            owed.push(next);
        }
        let receipts =
            owed.into_iter().map(|(lane, position)| crate::Receipt { lane, position, refusals: 0 }).collect();
        link.receipts_sent = ctx.now;
        let list = ReceiptList { version: 1, issuer: self.me, epoch: self.epoch, neighbour: peer, receipts };
        let signed = jincai_crypto::sign(Purpose::Receipts, record::to_body(&list), &self.keys.signing);
        self.counters.receipts_sent += 1;
        let frame = Frame::Receipts { signed: signed.into() };
        ctx.out.send(peer, Priority::Control, Payload::Frame(frame.to_bytes()));
    }
}

/// What a broken node takes a verdict for.
fn mutate(verdict: Verdict) -> Verdict {
    match verdict {
        Verdict::Gap if mutated(Mutation::IgnoreGaps) => Verdict::New,
        Verdict::Duplicate if mutated(Mutation::SkipDuplicateCheck) => Verdict::New,
        Verdict::Fork if mutated(Mutation::DropForks) => Verdict::Duplicate,
        verdict => verdict,
    }
}

/// The issuer that a signed slot names, unverified: to find the key.
pub(crate) fn claimed_slot(signed: &[u8]) -> Result<crate::SlotValue, Error> {
    let (payload, _) = signer_of(Purpose::Slot, signed)?;
    Ok(decode_canonical("slot", &payload, crate::frame::SLOT_BYTES)?)
}
