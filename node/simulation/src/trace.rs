//! What happened in a world, in order: a running digest always, readable lines on request.

use jincai_crypto::{BatchView, Purpose, signer_of};
use jincai_exchange::{Frame, Receipt, ReceiptList, SlotValue};
use jincai_types::{AuthorityId, Lane, LanePosition, Millis, decode};

/// See the module's head.
#[derive(Default)]
pub(crate) struct Trace {
    digest: u64,
    lines: Option<Vec<String>>,
}

impl Trace {
    pub(crate) fn new(readable: bool) -> Self {
        Self { digest: 0, lines: readable.then(Vec::new) }
    }

    pub(crate) fn digest(&self) -> u64 {
        self.digest
    }

    pub(crate) fn into_lines(self) -> Vec<String> {
        self.lines.unwrap_or_default()
    }

    pub(crate) fn mix(&mut self, value: u64) {
        self.digest = (self.digest ^ value).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(17);
    }

    pub(crate) fn mix_bytes(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks::<8>();
        words.iter().for_each(|word| self.mix(u64::from_le_bytes(*word)));
        rest.iter().for_each(|byte| self.mix(u64::from(*byte)));
    }

    /// Adds a line, which is made only if somebody reads it.
    pub(crate) fn line(&mut self, at: Millis, text: impl FnOnce() -> String) {
        if let Some(lines) = &mut self.lines {
            lines.push(format!("{:>9.3} {}", at as f64 / 1000.0, text()));
        }
    }
}

/// A frame in a few words.
pub(crate) fn show_frame(bytes: &[u8]) -> String {
    match Frame::from_bytes(bytes) {
        Err(_) => format!("{} bytes that are no frame", bytes.len()),
        Ok(Frame::Batch { hop, bytes }) => match BatchView::parse(bytes) {
            Ok(view) => {
                let s = &view.statement;
                let (after, floor) = (hop.after, hop.floor);
                format!(
                    "batch {} {}#{}..{} previous {}#{} after {}#{} floor {}#{}",
                    s.lane,
                    s.epoch,
                    s.first,
                    s.last,
                    s.previous.epoch,
                    s.previous.sequence,
                    after.epoch,
                    after.sequence,
                    floor.epoch,
                    floor.sequence
                )
            }
            Err(_) => "a batch that cannot be read".into(),
        },
        Ok(Frame::Durable { lane, position }) => format!("durable {lane} {}#{}", position.epoch, position.sequence),
        Ok(Frame::Gap { lane, have }) => format!("gap {lane} {}#{}", have.epoch, have.sequence),
        Ok(Frame::Receipts { signed }) => show_signed("receipts", &signed),
        Ok(Frame::Slot { signed }) => show_signed("slot", &signed),
        Ok(Frame::Ends { lanes, more }) => {
            let lanes: Vec<String> =
                lanes.iter().map(|(lane, end)| format!("{lane} {}#{}", end.epoch, end.sequence)).collect();
            format!("ends {} more {more}", lanes.join(", "))
        }
        Ok(Frame::Offer { ids }) => format!("offers {} slots", ids.len()),
        Ok(Frame::Want { ids }) => format!("wants {} slots", ids.len()),
        Ok(frame @ (Frame::Hello { .. } | Frame::Intake { .. } | Frame::Demand { .. } | Frame::Grant { .. })) => {
            format!("{frame:?}")
        }
    }
}

fn show_signed(what: &str, signed: &[u8]) -> String {
    let show = |(lane, end): &(Lane, LanePosition)| format!("{lane} {}#{}", end.epoch, end.sequence);
    let receipts = receipts(signed);
    if !receipts.is_empty() {
        return format!("{what} {}", receipts.iter().map(show).collect::<Vec<_>>().join(", "));
    }
    let payload = signer_of(Purpose::Slot, signed).ok().map(|(payload, _)| payload);
    match payload.and_then(|payload| decode::<SlotValue>("slot", &payload, payload.len()).ok()) {
        Some(slot) => format!("{what} {} of {} in {} number {}", slot.name, slot.issuer, slot.epoch, slot.number),
        None => what.to_owned(),
    }
}

/// What a frame's signer says that it holds: in a list for its neighbour, or, having applied it, in a slot of its own.
pub(crate) fn signed_for(frame: &[u8], signer: AuthorityId) -> Vec<(Lane, LanePosition)> {
    match Frame::from_bytes(frame) {
        Ok(Frame::Receipts { signed }) => receipts(&signed),
        Ok(Frame::Slot { signed }) => applied(&signed, signer).into_iter().collect(),
        _ => Vec::new(),
    }
}

/// The position in an end-to-end receipt of this signer.
fn applied(signed: &[u8], signer: AuthorityId) -> Option<(Lane, LanePosition)> {
    let (payload, _) = signer_of(Purpose::Slot, signed).ok()?;
    let slot: SlotValue = decode("slot", &payload, payload.len()).ok()?;
    let of_receipt = slot.issuer == signer && slot.name.starts_with("receipt:");
    let receipt: Receipt = decode("receipt", &slot.value, slot.value.len()).ok().filter(|_| of_receipt)?;
    Some((receipt.lane, receipt.position))
}

/// The positions in a signed receipt list.
fn receipts(signed: &[u8]) -> Vec<(Lane, LanePosition)> {
    let Ok((payload, _)) = signer_of(Purpose::Receipts, signed) else { return Vec::new() };
    let list: Option<ReceiptList> = decode("receipt list", &payload, payload.len()).ok();
    list.into_iter().flat_map(|list| list.receipts).map(|receipt| (receipt.lane, receipt.position)).collect()
}
