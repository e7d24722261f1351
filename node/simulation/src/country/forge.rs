//! The one mismatch: a county's program that signs a total which is not the total of its rows.
//!
//! Production's own storage cannot make such a batch, so a second storage beside the county's makes a good one, a fen is
//! added to the total that it states, and the county signs and sends it as any other message. What the ministry must do
//! is what it does to every batch: compute the figures from the rows, compare, refuse, and name the partition.

use super::work::{TABLE, spec};
use super::{Country, HOUR, Happening};
use jincai_exchange::{Outgoing, Place, Room};
use jincai_storage::{Storage, Totals, judge};
use jincai_types::{PartKey, PartRecord, decode, encode, limits};
use minicbor::bytes::ByteVec;
use minicbor::{Decode, Encode};

/// The business system whose partition it is.
pub(crate) const SYSTEM: &str = "legacy";

/// A collected batch as it travels; the payload of a `jincai.storage.batch` message.
#[derive(Encode, Decode)]
struct Batch {
    #[n(0)]
    spec: String,
    #[n(1)]
    spec_version: u64,
    #[n(2)]
    part: PartKey,
    #[n(3)]
    version: u64,
    #[n(4)]
    totals: Totals,
    #[n(5)]
    rows: ByteVec,
    #[n(6)]
    parts: Vec<jincai_types::Digest>,
}

impl Country {
    pub(crate) fn forge(&mut self, county: usize) -> Result<(), String> {
        if self.sites[county].running.is_none() {
            self.heap.push(self.now + HOUR, Happening::Forge(county));
            return Ok(());
        }
        let csv = self.month();
        let site = &self.sites[county];
        let told = |error: &dyn std::fmt::Display| format!("{}: the wrong batch: {error}", site.id);
        let mut message = good_batch(site.id, self.now, self.plan.every / 1000, &csv).map_err(|e| told(&e))?;
        let read: Result<Batch, _> = decode("batch", &message.payload, limits::PAYLOAD_BYTES);
        let mut batch = read.map_err(|e| told(&e))?;
        for (_, sum) in &mut batch.totals.sums {
            let fen: i128 = sum.parse().map_err(|e| told(&e))?;
            *sum = (fen + 1).to_string();
        }
        message.payload = encode(&batch);
        let id = message.attributes.id.clone();
        let Some(running) = &mut self.sites[county].running else { return Err("the forger's county is down".into()) };
        running.core.submit(message).map_err(|error| error.to_string())?;
        self.report.mismatch = Some((id, String::new()));
        self.drive(county)
    }
}

/// The batch that production would send.
fn good_batch(
    county: jincai_types::AuthorityId,
    now: u64,
    every_seconds: u64,
    csv: &str,
) -> Result<Outgoing, Box<dyn std::error::Error>> {
    let spec = spec(every_seconds);
    let mut storage = Storage::new(county);
    let place = Place { number: 1, offset: 0, cause: None };
    let defined = storage.release_spec(spec.clone(), now)?;
    storage.apply(&place, &defined.effect)?;
    let judged = judge(&spec, &mut csv.as_bytes(), &|_, _| true)?;
    let nothing = |_: &PartRecord| Ok(Vec::new());
    let (effect, _) = storage.write(TABLE, SYSTEM, judged, true, &nothing)?;
    let effect = effect.ok_or("no rows")?;
    storage.apply(&place, &effect)?;
    let rows = |at: &PartRecord| Ok(effect[at.start as usize..][..at.length as usize].to_vec());
    let staged = storage.collect(now, true, &rows)?;
    let message = staged.into_iter().flat_map(|staged| staged.messages).next();
    message.ok_or_else(|| "nothing to collect".into())
}
