//! A collected batch with a figure that its rows do not have. Production's own storage cannot make one: a second storage
//! beside it makes a good one, and a figure in that is changed before somebody signs it and sends it as any other message.

use jincai_exchange::{Outgoing, Place, Room};
use jincai_storage::{Spec, Storage, Totals, judge};
use jincai_types::{AuthorityId, Digest, Millis, PartKey, PartRecord, decode, encode, limits};
use minicbor::bytes::ByteVec;
use minicbor::{Decode, Encode};

/// A collected batch as it travels; the payload of a `jincai.storage.batch` message.
#[derive(Encode, Decode)]
pub(crate) struct Batch {
    #[n(0)]
    spec: String,
    #[n(1)]
    spec_version: u64,
    #[n(2)]
    part: PartKey,
    #[n(3)]
    pub(crate) version: u64,
    #[n(4)]
    pub(crate) totals: Totals,
    #[n(5)]
    rows: ByteVec,
    #[n(6)]
    parts: Vec<Digest>,
}

/// The batch that an authority's storage would send for these rows of a system, but for what `change` does to it.
pub(crate) fn forge(
    authority: AuthorityId,
    now: Millis,
    spec: &Spec,
    (system, csv): (&str, &str),
    change: impl FnOnce(&mut Batch),
) -> Result<Outgoing, Box<dyn std::error::Error>> {
    let mut message = good_batch(authority, now, spec, (system, csv))?;
    let mut batch: Batch = decode("batch", &message.payload, limits::PAYLOAD_BYTES)?;
    change(&mut batch);
    message.payload = encode(&batch);
    if let Some((name, _)) = message.attributes.id.rsplit_once('@') {
        message.attributes.id = format!("{name}@{}", batch.version);
    }
    Ok(message)
}

fn good_batch(
    authority: AuthorityId,
    now: Millis,
    spec: &Spec,
    (system, csv): (&str, &str),
) -> Result<Outgoing, Box<dyn std::error::Error>> {
    let mut storage = Storage::new(authority);
    let place = Place { number: 1, offset: 0, cause: None };
    let defined = storage.release_spec(spec.clone(), now)?;
    storage.apply(&place, &defined.effect)?;
    let judged = judge(spec, &mut csv.as_bytes(), &|_, _| true)?;
    let nothing = |_: &PartRecord| Ok(Vec::new());
    let (effect, _) = storage.write(&spec.table, system, judged, true, &nothing)?;
    let effect = effect.ok_or("no rows")?;
    storage.apply(&place, &effect)?;
    let rows = |at: &PartRecord| Ok(effect[at.start as usize..][..at.length as usize].to_vec());
    let staged = storage.collect(now, true, &|_| true, &rows)?;
    let message = staged.into_iter().flat_map(|staged| staged.messages).next();
    message.ok_or_else(|| "nothing to collect".into())
}

impl Batch {
    /// A fen is added to every sum that it states.
    pub(crate) fn add_a_fen(&mut self) {
        for (_, sum) in &mut self.totals.sums {
            let fen: i128 = sum.parse().expect("storage has just written it");
            *sum = (fen + 1).to_string();
        }
    }
}
