//! Standard storage: specs, files of rows, collected batches; and the policy of a link.

use crate::Verdict;
use crate::world::{NOW, NoParts, delivery, world};
use jincai_exchange::{Decision, Place, Room};
use jincai_policies::LinkPolicy;
use jincai_storage::rows::{Row, from_ipc, from_wire, key_of, month_of, to_ipc, to_wire, totals};
use jincai_storage::{ReconcileLine, Spec, SpecColumn, Storage, Totals, judge};
use jincai_types::{
    Attributes, AuthorityId, ColumnType, Destination, Digest, Lane, PartKey, PartRecord, Priority, decode, encode,
    limits,
};
use minicbor::bytes::ByteVec;
use minicbor::{Decode, Encode};
use std::collections::BTreeMap;

/// A collected batch, laid out as the room does.
#[derive(Encode, Decode)]
pub(crate) struct Batch {
    #[n(0)]
    pub(crate) spec: String,
    #[n(1)]
    pub(crate) spec_version: u64,
    #[n(2)]
    pub(crate) part: PartKey,
    #[n(3)]
    pub(crate) version: u64,
    #[n(4)]
    pub(crate) totals: Totals,
    /// Plain canonical rows in an input, compressed in what the room is given.
    #[n(5)]
    pub(crate) rows: ByteVec,
    #[n(6)]
    pub(crate) parts: Vec<Digest>,
}

/// The spec of every target here.
pub(crate) fn payments() -> Spec {
    let column = |name: &str, kind, required, key, code_set: Option<&str>| SpecColumn {
        name: name.into(),
        kind,
        required,
        key,
        code_set: code_set.map(Into::into),
        title: String::new(),
    };
    Spec {
        id: "mof.payments".into(),
        version: 1,
        title: "payments".into(),
        table: "payments".into(),
        columns: vec![
            column("line_id", ColumnType::Text, true, true, None),
            column("pay_date", ColumnType::Date, true, false, None),
            column("payee", ColumnType::Text, false, false, None),
            column("amount", ColumnType::Amount, true, false, None),
            column("pieces", ColumnType::Integer, false, false, None),
            column("currency", ColumnType::Text, true, false, Some("CURRENCY")),
        ],
        month_of: "pay_date".into(),
        totals: vec!["amount".into()],
        collector: world().ids[0],
        every_seconds: 60,
        line: "national".into(),
        release: 1,
    }
}

/// A spec, as it travels and as people write it.
pub(crate) fn spec(bytes: &[u8]) -> Verdict {
    let travelled = decode::<Spec>("spec", bytes, limits::PAYLOAD_BYTES).ok();
    let text = std::str::from_utf8(bytes).unwrap_or_default();
    let read = [travelled, toml::from_str(text).ok(), serde_json::from_str(text).ok()];
    let mut accepted = false;
    for spec in read.into_iter().flatten().filter(|spec| spec.check().is_ok()) {
        accepted = true;
        assert_eq!(decode::<Spec>("spec", &encode(&spec), limits::BATCH_BYTES).as_ref(), Ok(&spec));
        let written = serde_json::to_string(&spec).expect("a spec can be written");
        assert_eq!(serde_json::from_str::<Spec>(&written).ok().as_ref(), Some(&spec));
        assert_eq!(spec.schema().columns.len(), spec.columns.len());
        assert!(to_ipc(&spec, [].iter()).is_ok(), "its table can be made");
    }
    Verdict::of(accepted)
}

/// A link's policy.
pub(crate) fn policy(bytes: &[u8]) -> Verdict {
    let Some(policy) = std::str::from_utf8(bytes).ok().and_then(|text| toml::from_str::<LinkPolicy>(text).ok()) else {
        return Verdict::Refused;
    };
    let accepted = policy.fault().is_none();
    if accepted {
        let written = toml::to_string(&policy).expect("a policy can be written");
        assert_eq!(toml::from_str::<LinkPolicy>(&written).ok(), Some(policy));
    }
    Verdict::of(accepted)
}

/// A file of rows, written into the table, read back and sent.
pub(crate) fn rows(mut bytes: &[u8]) -> Verdict {
    let spec = payments();
    let has_code = |set: &str, code: &str| set == "CURRENCY" && ["CNY", "GBP"].contains(&code);
    let Ok(judged) = judge(&spec, &mut bytes, &has_code) else { return Verdict::Refused };
    assert_eq!(judged.accepted, judged.months.values().map(|rows| rows.len() as u64).sum::<u64>());
    assert!(judged.refusals.len() as u64 <= judged.refused);
    let months = judged.months.clone();
    for (month, rows) in &months {
        for (key, row) in rows {
            assert_eq!((key_of(&spec, row), month_of(&spec, row)), (key.clone(), Some(*month)));
        }
        travels(&spec, &rows.values().cloned().collect::<Vec<_>>());
    }
    let mut node = Node::new(world().ids[2]);
    let written = node.storage.write("payments", "pay", judged, false, &|_| unreachable!("nothing was there"));
    if let Ok((Some(effect), _)) = written {
        node.apply(&effect);
        assert_eq!(node.table(), months.into_values().collect::<Vec<_>>());
    }
    Verdict::of(!node.records.is_empty())
}

/// Rows are the same after every way they take.
fn travels(spec: &Spec, rows: &[Row]) {
    let wire = to_wire(rows.iter());
    assert_eq!(from_wire(spec, &wire).expect("what is sent is taken"), rows);
    let stored = from_ipc(spec, &to_ipc(spec, rows.iter()).expect("it can be stored")).expect("and read");
    assert!(stored.values().eq(rows), "and is what it was");
    assert_eq!(totals(spec, stored.values()), totals(spec, rows.iter()));
}

/// Rows as they travel: compressed here, or (after a first byte of 1) as they come.
pub(crate) fn wire_rows(bytes: &[u8]) -> Verdict {
    let spec = payments();
    let (choice, rest) = bytes.split_first().unwrap_or((&0, &[]));
    let wire = if *choice == 1 { rest.to_vec() } else { compressed(rest) };
    let Ok(rows) = from_wire(&spec, &wire) else { return Verdict::Refused };
    assert!(rows.is_sorted_by(|a, b| key_of(&spec, a) < key_of(&spec, b)));
    travels(&spec, &rows);
    Verdict::Accepted
}

fn compressed(plain: &[u8]) -> Vec<u8> {
    zstd::encode_all(plain, 1).expect("from memory into memory")
}

/// A room, and the records that its effects went into.
struct Node {
    storage: Storage,
    records: BTreeMap<u64, Vec<u8>>,
}

impl Node {
    fn new(authority: AuthorityId) -> Self {
        let mut node = Self { storage: Storage::new(authority), records: BTreeMap::new() };
        let staged = node.storage.release_spec(payments(), NOW).expect("a good spec");
        node.storage.apply(&Place { number: 1, offset: 0, cause: None }, &staged.effect).expect("it applies");
        node
    }

    fn apply(&mut self, effect: &[u8]) {
        let number = self.records.len() as u64 + 2;
        self.records.insert(number, effect.to_vec());
        let place = Place { number, offset: 0, cause: None };
        self.storage.apply(&place, effect).expect("what was decided applies");
    }

    fn read(&self, at: &PartRecord) -> Vec<u8> {
        let bytes = self.records[&at.record][at.start as usize..(at.start + at.length) as usize].to_vec();
        assert_eq!(jincai_crypto::sha256(&bytes), at.digest);
        bytes
    }

    /// The rows of every part, by key.
    fn table(&self) -> Vec<BTreeMap<Row, Row>> {
        let parts = self.storage.parts();
        parts.map(|(_, part)| from_ipc(&payments(), &self.read(&part.record)).expect("it reads back")).collect()
    }
}

/// Messages to the collector: after a first byte of 0 a spec, of 1 a batch, of 2 a batch whose rows are plain and whose
/// figures are made right here.
pub(crate) fn collected(bytes: &[u8]) -> Verdict {
    let (choice, rest) = bytes.split_first().unwrap_or((&0, &[]));
    let (kind, payload) = match choice {
        0 => ("jincai.storage.spec", rest.to_vec()),
        1 => ("jincai.storage.batch", rest.to_vec()),
        _ => match summed(rest) {
            Some(payload) => ("jincai.storage.batch", payload),
            None => return Verdict::Refused,
        },
    };
    let mut node = Node::new(world().ids[0]);
    let origin = if *choice == 0 { world().ids[1] } else { world().ids[2] };
    let destination = if *choice == 0 { Destination::Below(origin) } else { Destination::Authority(world().ids[0]) };
    let lane = Lane { origin, destination, class: Priority::Record };
    let attributes = Attributes { id: "1".into(), kind: kind.into(), ..Attributes::default() };
    let delivery = delivery(lane, &attributes, &payload);
    let Decision::Apply { effect, .. } = node.storage.decide(NOW, &delivery, &NoParts) else {
        return Verdict::Refused;
    };
    assert!(effect.len() <= jincai_journal::RECORD_BYTES_MAX);
    node.apply(&effect);
    let lines = node.storage.reconcile(&|at| Ok(node.read(at))).expect("what was taken can be computed again");
    assert!(lines.iter().all(|line| line.equal), "and gives what was signed");
    let shown = |line: &ReconcileLine| line.part.split('/').count() == 4 && !line.part.contains(char::is_control);
    assert!(lines.iter().all(shown), "and can be shown");
    Verdict::Accepted
}

/// The batch with its rows compressed and figures over them.
pub(crate) fn summed(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut batch: Batch = decode("batch", bytes, limits::PAYLOAD_BYTES).ok()?;
    let wire = compressed(&batch.rows);
    let spec = payments();
    batch.totals = totals(&spec, from_wire(&spec, &wire).ok()?.iter());
    batch.rows = wire.into();
    Some(encode(&batch))
}
