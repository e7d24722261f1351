//! The room: specs, parts and what happens to them. Pure; rows are read through a closure, tables change by the
//! [`TableEffect`]s that it emits.

use crate::Error;
use crate::effect::{Batch, Effect, PartRows};
use crate::model::{Part, PartId, PartState, Spec, Totals, is_system, part_name};
use crate::rows::{self, Judged, Row};
use jincai_crypto::sha256;
use jincai_exchange::{BULK_PART, Decision, Delivery, Outgoing, Parts, Place, Refusal, RefusalNote, Room, RoomError};
use jincai_types::{
    Attributes, AuthorityId, Destination, Millis, Mutation, PartKey, PartRecord, Priority, RecordNumber, Requirement,
    TableEffect, decode, encode, limits, mutated,
};
use std::collections::BTreeMap;

const PREFIX: &str = "jincai.storage.";
/// Format of the room's snapshots.
const FORMAT: u8 = 1;
/// The code of a refusal that says: another content is held under this version.
const STALE: &str = "JC-1511";
/// The code of a refusal that says: it came after this node, set back meanwhile, had ended the epoch.
const LATE: &str = "JC-1210";
const SPEC: &str = "jincai.storage.spec";
const BATCH: &str = "jincai.storage.batch";
/// Rows that fit a message; more travel as bulk parts of this size.
const INLINE_BYTES: usize = 512 << 10;
/// What one effect may hold, so that it fits a journal record.
const EFFECT_BYTES: usize = jincai_journal::RECORD_BYTES_MAX - (64 << 10);
/// How much one call of [`Storage::collect`] hands over, in bytes; the rest follows at the next call.
const COLLECT_BYTES: usize = 4 << 20;

/// Reads the bytes of some rows from the journal.
pub type ReadRows<'a> = &'a dyn Fn(&PartRecord) -> Result<Vec<u8>, Error>;

/// An effect to journal, and what it sends.
#[derive(Debug)]
pub struct Staged {
    /// For [`Room::apply`].
    pub effect: Vec<u8>,
    /// To submit in the same append.
    pub messages: Vec<Outgoing>,
}

/// What a write did.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct WriteReport {
    /// Rows written.
    pub accepted: u64,
    /// Good rows, written or not.
    pub judged: u64,
    /// Rows refused.
    pub refused: u64,
    /// The first thousand refused rows, spelled out.
    pub refusals: Vec<rows::RowRefusal>,
    /// The partitions that changed: name, version, rows.
    pub parts: Vec<(String, u64, u64)>,
}

/// One line of a reconciliation.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct ReconcileLine {
    /// The partition.
    pub part: String,
    /// Its version at the source.
    pub version: u64,
    /// What the source signed.
    pub signed: Totals,
    /// What stands here, computed from the rows now.
    pub found: Totals,
    /// Whether they are the same.
    pub equal: bool,
}

/// Standard storage of one node.
#[derive(Debug)]
pub struct Storage {
    me: AuthorityId,
    specs: BTreeMap<String, Spec>,
    parts: BTreeMap<PartId, Part>,
    collected_at: BTreeMap<String, Millis>,
    effects: Vec<TableEffect>,
}

impl Storage {
    /// Empty storage of an authority.
    #[must_use]
    pub fn new(me: AuthorityId) -> Self {
        Self { me, specs: BTreeMap::new(), parts: BTreeMap::new(), collected_at: BTreeMap::new(), effects: Vec::new() }
    }

    /// What the table engine must do, since the last call.
    pub fn take_effects(&mut self) -> Vec<TableEffect> {
        std::mem::take(&mut self.effects)
    }

    /// All specs in force.
    pub fn specs(&self) -> impl Iterator<Item = &Spec> {
        self.specs.values()
    }

    /// All parts.
    pub fn parts(&self) -> impl Iterator<Item = (&PartId, &Part)> {
        self.parts.iter()
    }

    /// The spec of a table.
    pub fn spec_of(&self, table: &str) -> Result<&Spec, Error> {
        self.specs.values().find(|s| s.table == table).ok_or_else(|| Error::NoTable { name: table.into() })
    }

    /// Releases a spec to every authority below; it counts here at once.
    pub fn release_spec(&self, spec: Spec, now: Millis) -> Result<Staged, Error> {
        self.fits(&spec)?;
        let attributes = Attributes {
            id: format!("{}@{}", spec.id, spec.version),
            source: self.me.to_string(),
            kind: SPEC.into(),
            time: now,
            subject: spec.id.clone(),
            requires: spec.requires(),
            ..Attributes::default()
        };
        let payload = encode(&spec);
        let message =
            Outgoing { destination: Destination::Below(self.me), class: Priority::Record, attributes, payload };
        Ok(Staged { effect: encode(&Effect::Spec { spec }), messages: vec![message] })
    }

    fn fits(&self, spec: &Spec) -> Result<(), Error> {
        spec.check()?;
        let wrong = |reason: &str| Err(Error::Spec { id: spec.id.clone(), reason: reason.into() });
        let held = self.specs.get(&spec.id);
        if spec.version != held.map_or(1, |h| h.version + 1) {
            return wrong("its version is not the one after the version in force");
        }
        if held.is_some_and(|h| h.schema() != spec.schema()) {
            return wrong("its table has another shape than the version in force; use a new table");
        }
        if self.specs.values().any(|s| s.id != spec.id && s.table == spec.table) {
            return wrong("another spec owns that table");
        }
        Ok(())
    }

    /// Writes judged rows of this authority: rows with a key that is there replace those. With `all_or_nothing` a single
    /// refused row refuses the request.
    pub fn write(
        &self,
        table: &str,
        system: &str,
        judged: Judged,
        all_or_nothing: bool,
        read: ReadRows<'_>,
    ) -> Result<(Option<Vec<u8>>, WriteReport), Error> {
        let spec = self.spec_of(table)?;
        let mut report = WriteReport {
            accepted: judged.accepted,
            judged: judged.accepted,
            refused: judged.refused,
            refusals: judged.refusals,
            parts: Vec::new(),
        };
        if all_or_nothing && judged.refused > 0 {
            report.accepted = 0;
            return Ok((None, report));
        }
        let mut blob = Vec::new();
        let mut parts = Vec::new();
        for (month, new) in judged.months {
            let part = PartKey { authority: self.me, month, system: system.to_owned() };
            let held = self.parts.get(&(table.to_owned(), part.clone()));
            let mut rows = match held {
                Some(held) => rows::from_ipc(spec, &read(&held.record)?)?,
                None => BTreeMap::new(),
            };
            rows.extend(new);
            let version = held.map_or(1, |h| h.version + 1);
            let (rows, bytes) = part_rows(spec, part, version, &rows, blob.len())?;
            blob.extend_from_slice(&bytes);
            report.parts.push((part_name(table, &rows.part), rows.version, rows.totals.rows));
            parts.push(rows);
        }
        if blob.len() > EFFECT_BYTES {
            let (bytes, limit) = (blob.len() as u64, EFFECT_BYTES as u64);
            return Err(Error::PartTooLarge { part: format!("{} partitions", parts.len()), bytes, limit });
        }
        if parts.is_empty() {
            return Ok((None, report));
        }
        let effect = Effect::Written { table: table.to_owned(), parts, rows: blob.into() };
        Ok((Some(encode(&effect)), report))
    }

    /// The next changed parts of specs whose schedule is due (or of all, if `now_please`), as messages to their collector, if
    /// the exchange `takes` messages to it.
    pub fn collect(
        &mut self,
        now: Millis,
        now_please: bool,
        takes: &dyn Fn(AuthorityId) -> bool,
        read: ReadRows<'_>,
    ) -> Result<Vec<Staged>, Error> {
        let mut out = Vec::new();
        let mut bytes = 0;
        let due: Vec<Spec> = self
            .specs
            .values()
            .filter(|s| s.collector != self.me && takes(s.collector))
            .filter(|s| {
                let last = self.collected_at.get(&s.id).copied().unwrap_or(0);
                // A last time in the future means that the clock went back.
                now_please || now < last || now - last >= s.every_seconds * 1000
            })
            .cloned()
            .collect();
        for spec in due {
            let changed = self.parts.iter().filter(|((t, _), p)| *t == spec.table && p.state == PartState::Changed);
            let changed: Vec<(PartKey, Part)> = changed.map(|((_, key), part)| (key.clone(), part.clone())).collect();
            for (key, part) in changed {
                if bytes > COLLECT_BYTES {
                    // The rest is due still: it follows at the next call.
                    return Ok(out);
                }
                let rows = rows::from_ipc(&spec, &read(&part.record)?)?;
                let staged = self.batch_messages(&spec, key, &part, &rows, now);
                bytes += staged.messages.iter().map(|m| m.payload.len()).sum::<usize>();
                out.push(staged);
            }
            self.collected_at.insert(spec.id.clone(), now);
        }
        Ok(out)
    }

    /// When the next schedule is due: a time that has passed means now.
    #[must_use]
    pub fn next_collection(&self, now: Millis) -> Option<Millis> {
        let due = self.specs.values().filter(|spec| spec.collector != self.me).map(|spec| {
            let last = self.collected_at.get(&spec.id).copied().unwrap_or(0);
            if now < last { now } else { last + spec.every_seconds * 1000 }
        });
        due.min()
    }

    fn batch_messages(&self, spec: &Spec, key: PartKey, part: &Part, rows: &BTreeMap<Row, Row>, now: Millis) -> Staged {
        let wire = rows::to_wire(rows.values());
        let destination = Destination::Authority(spec.collector);
        let source = format!("{}/{}/{}", self.me, key.month.year, key.system);
        let attributes = |id: String, kind: &str, requires| Attributes {
            id,
            source: source.clone(),
            kind: kind.into(),
            time: now,
            subject: part_name(&spec.table, &key),
            requires,
            ..Attributes::default()
        };
        let mut messages = Vec::new();
        let mut parts = Vec::new();
        let inline = wire.len() <= INLINE_BYTES;
        for chunk in wire.chunks(INLINE_BYTES).filter(|_| !inline) {
            let digest = sha256(chunk);
            let attributes = attributes(digest.to_string(), BULK_PART, Vec::new());
            messages.push(Outgoing { destination, class: Priority::Bulk, attributes, payload: chunk.to_vec() });
            parts.push(digest);
        }
        let mut requires = vec![Requirement::Spec { id: spec.id.clone(), version: spec.version }];
        requires.extend(parts.iter().map(|d| Requirement::Bulk(*d)));
        let batch = Batch {
            spec: spec.id.clone(),
            spec_version: spec.version,
            part: key.clone(),
            version: part.version,
            totals: part.totals.clone(),
            rows: if inline { wire } else { Vec::new() }.into(),
            parts,
        };
        let id = format!("{}@{}", part_name(&spec.table, &key), part.version);
        let payload = encode(&batch);
        messages.push(Outgoing {
            destination,
            class: Priority::Record,
            attributes: attributes(id, BATCH, requires),
            payload,
        });
        let effect = Effect::Sent { table: spec.table.clone(), part: key, version: part.version };
        Staged { effect: encode(&effect), messages }
    }

    /// The effect of the refusal of one of our batches by its collector; `None` if it is not about one, or from another.
    #[must_use]
    pub fn refused(&self, from: AuthorityId, note: &RefusalNote) -> Option<Vec<u8>> {
        let (name, version) = note.id.rsplit_once('@').filter(|_| note.kind == BATCH)?;
        let version: u64 = version.parse().ok()?;
        let ((table, part), _) = self.parts.iter().find(|((table, part), _)| part_name(table, part) == name)?;
        if self.spec_of(table).ok()?.collector != from {
            return None;
        }
        if note.code == STALE || note.code == LATE {
            return Some(encode(&Effect::Renumbered { table: table.clone(), part: part.clone(), version }));
        }
        let reason = format!("{}: {}", note.code, note.reason);
        Some(encode(&Effect::Refused { table: table.clone(), part: part.clone(), version, reason }))
    }

    /// Computes every collected part's figures again from its rows and holds them against what its source signed.
    pub fn reconcile(&self, read: ReadRows<'_>) -> Result<Vec<ReconcileLine>, Error> {
        let collected = self.parts.iter().filter(|((_, key), _)| key.authority != self.me);
        collected
            .map(|((table, key), part)| {
                let spec = self.spec_of(table)?;
                let rows = rows::from_ipc(spec, &read(&part.record)?)?;
                let found = rows::totals(spec, rows.values());
                let equal = found == part.totals;
                Ok(ReconcileLine {
                    part: part_name(table, key),
                    version: part.version,
                    signed: part.totals.clone(),
                    found,
                    equal,
                })
            })
            .collect()
    }

    fn decide_spec(&self, delivery: &Delivery<'_>) -> Result<Vec<u8>, Error> {
        let spec: Spec = decode("collection spec", delivery.payload, limits::PAYLOAD_BYTES)?;
        // Whoever is addressed as «below the origin» has the origin above it; nobody else may impose a spec.
        if delivery.lane.destination != Destination::Below(delivery.lane.origin) {
            return Err(Error::Spec {
                id: spec.id,
                reason: "it does not come from an authority above this one".into(),
            });
        }
        self.fits(&spec)?;
        Ok(encode(&Effect::Spec { spec }))
    }

    fn decide_batch(&self, delivery: &Delivery<'_>, bulk: &dyn Parts) -> Result<Vec<u8>, Error> {
        let batch: Batch = decode("collected batch", delivery.payload, limits::PAYLOAD_BYTES)?;
        let id = &delivery.attributes.id;
        let wrong = |reason: &str| Err(Error::Batch { id: id.clone(), reason: reason.into() });
        let Some(spec) = self.specs.get(&batch.spec) else { return wrong("its spec is not in force here") };
        if spec.collector != self.me || batch.part.authority != delivery.lane.origin {
            return wrong("it is not this authority's to collect, or not its sender's to send");
        }
        if !is_system(&batch.part.system) {
            return wrong("its system has no name that a caller could have given");
        }
        let held = self.parts.get(&(spec.table.clone(), batch.part.clone()));
        // The same version with the same figures may come again from a source that was set back: it changes nothing.
        let again = |h: &Part| h.version == batch.version && h.totals == batch.totals;
        if let Some(held) = held.filter(|h| h.version >= batch.version && !again(h)) {
            let (held, offered) = (held.version, batch.version);
            return Err(Error::Stale { part: part_name(&spec.table, &batch.part), held, offered });
        }
        let (part, rows) = self.rows_of(spec, batch, id, bulk)?;
        Ok(encode(&Effect::Landed { table: spec.table.clone(), part, rows: rows.into() }))
    }

    /// A batch that this node sent before it was set back: the part is again what was sent, unless it is newer here.
    fn retake_batch(&self, delivery: &Delivery<'_>, bulk: &dyn Parts) -> Result<Option<Vec<u8>>, Error> {
        let batch: Batch = decode("collected batch", delivery.payload, limits::PAYLOAD_BYTES)?;
        let Some(spec) = self.specs.get(&batch.spec) else { return Ok(None) };
        let held = self.parts.get(&(spec.table.clone(), batch.part.clone()));
        if batch.part.authority != self.me || held.is_some_and(|h| h.version > batch.version) {
            return Ok(None);
        }
        if let Some(held) = held.filter(|h| h.version == batch.version) {
            let (table, part, version) = (spec.table.clone(), batch.part, batch.version);
            let sent = held.totals == batch.totals;
            let effect =
                if sent { Effect::Sent { table, part, version } } else { Effect::Renumbered { table, part, version } };
            return Ok(Some(encode(&effect)));
        }
        let (part, rows) = self.rows_of(spec, batch, &delivery.attributes.id, bulk)?;
        Ok(Some(encode(&Effect::Retaken { table: spec.table.clone(), part, rows: rows.into() })))
    }

    /// A batch's rows, checked against what its source signed, as a part.
    fn rows_of(&self, spec: &Spec, batch: Batch, id: &str, bulk: &dyn Parts) -> Result<(PartRows, Vec<u8>), Error> {
        let wrong = |reason: &str| Err(Error::Batch { id: id.to_owned(), reason: reason.into() });
        let mut wire = batch.rows.to_vec();
        for digest in &batch.parts {
            match bulk.part(digest) {
                Some(bytes) => wire.extend_from_slice(&bytes),
                None => return wrong("a bulk part that holds its rows cannot be read"),
            }
        }
        let rows = rows::from_wire(spec, &wire)?;
        let name = part_name(&spec.table, &batch.part);
        if !mutated(Mutation::TrustTotals) {
            compare(&name, &batch.totals, &rows::totals(spec, rows.iter()))?;
        }
        if rows.iter().any(|row| rows::month_of(spec, row) != Some(batch.part.month)) {
            return wrong("a row belongs to another month than its partition");
        }
        let keyed: BTreeMap<Row, Row> = rows.into_iter().map(|row| (rows::key_of(spec, &row), row)).collect();
        let (part, bytes) = part_rows(spec, batch.part, batch.version, &keyed, 0)?;
        if bytes.len() > EFFECT_BYTES {
            return Err(Error::PartTooLarge { part: name, bytes: bytes.len() as u64, limit: EFFECT_BYTES as u64 });
        }
        Ok((part, bytes))
    }

    fn set_part(&mut self, table: &str, rows: &PartRows, place: &Place, blob: usize, effect: usize, state: PartState) {
        let at = place.offset + effect - blob + rows.start as usize;
        let start = u32::try_from(at).expect("a journal record is smaller than 4 GiB");
        let record = PartRecord { record: place.number, start, length: rows.length, digest: rows.digest };
        let part = Part { record, totals: rows.totals.clone(), version: rows.version, state };
        self.emit(table, &rows.part, &part);
        self.parts.insert((table.to_owned(), rows.part.clone()), part);
    }

    /// The table engine shall show this part.
    fn emit(&mut self, table: &str, key: &PartKey, part: &Part) {
        let (table, key) = (table.to_owned(), key.clone());
        let mut records = vec![part.record];
        if mutated(Mutation::MixVersions) {
            records.extend(self.parts.get(&(table.clone(), key.clone())).map(|before| before.record));
        }
        let (version, rows) = (part.version, part.totals.rows);
        self.effects.push(TableEffect::SetPart { table, part: key, version, records, rows });
    }

    fn set_state(&mut self, table: String, part: PartKey, version: u64, state: PartState) {
        if let Some(held) = self.parts.get_mut(&(table, part)).filter(|p| p.version == version) {
            held.state = state;
        }
    }
}

/// Says which signed figure differs from what was found.
fn compare(part: &str, signed: &Totals, found: &Totals) -> Result<(), Error> {
    let differs = |what: &str, found: &dyn ToString, signed: &dyn ToString| {
        Err(Error::Mismatch {
            part: part.into(),
            what: what.into(),
            found: found.to_string(),
            signed: signed.to_string(),
        })
    };
    if signed.rows != found.rows {
        return differs("the number of rows", &found.rows, &signed.rows);
    }
    if let Some((s, f)) = signed.sums.iter().zip(&found.sums).find(|(s, f)| s != f) {
        return differs(&format!("the sum of {} in fen", s.0), &f.1, &s.1);
    }
    if signed != found {
        return differs("the digest of the rows", &found.digest, &signed.digest);
    }
    Ok(())
}

fn part_rows(
    spec: &Spec,
    part: PartKey,
    version: u64,
    rows: &BTreeMap<Row, Row>,
    start: usize,
) -> Result<(PartRows, Vec<u8>), Error> {
    let bytes = rows::to_ipc(spec, rows.values())?;
    let too_large = |_| Error::PartTooLarge {
        part: part_name(&spec.table, &part),
        bytes: bytes.len() as u64,
        limit: EFFECT_BYTES as u64,
    };
    let length = u32::try_from(bytes.len()).map_err(too_large)?;
    let start = u32::try_from(start).map_err(too_large)?;
    let totals = rows::totals(spec, rows.values());
    Ok((PartRows { part, version, totals, start, length, digest: sha256(&bytes) }, bytes))
}

impl Room for Storage {
    fn prefix(&self) -> &'static str {
        PREFIX
    }

    fn decide(&mut self, _now: Millis, delivery: &Delivery<'_>, parts: &dyn Parts) -> Decision {
        let decided = match delivery.attributes.kind.as_str() {
            SPEC => self.decide_spec(delivery),
            BATCH => self.decide_batch(delivery, parts),
            other => {
                Err(Error::Batch { id: delivery.attributes.id.clone(), reason: format!("unknown type «{other}»") })
            }
        };
        match decided {
            Ok(effect) => Decision::Apply { effect, messages: Vec::new() },
            Err(error) => Decision::Refuse(Refusal { code: error.code(), reason: error.to_string() }),
        }
    }

    fn apply(&mut self, place: &Place, effect: &[u8]) -> Result<(), RoomError> {
        let length = effect.len();
        let effect: Effect = decode("storage effect", effect, jincai_journal::RECORD_BYTES_MAX)
            .map_err(|e| RoomError { room: PREFIX, reason: e.to_string() })?;
        match effect {
            Effect::Spec { spec } => {
                self.effects.push(TableEffect::Define(spec.schema()));
                self.specs.insert(spec.id.clone(), spec);
            }
            Effect::Written { table, parts, rows } => {
                for part in &parts {
                    self.set_part(&table, part, place, rows.len(), length, PartState::Changed);
                }
            }
            Effect::Landed { table, part, rows } => {
                self.set_part(&table, &part, place, rows.len(), length, PartState::Reconciled);
            }
            Effect::Retaken { table, part, rows } => {
                self.set_part(&table, &part, place, rows.len(), length, PartState::Sent);
            }
            Effect::Renumbered { table, part, version } => {
                let id = (table, part);
                if let Some(held) = self.parts.get_mut(&id).filter(|p| p.version == version) {
                    held.version += 1;
                    held.state = PartState::Changed;
                    let renumbered = held.clone();
                    self.emit(&id.0, &id.1, &renumbered);
                }
            }
            Effect::Sent { table, part, version } => self.set_state(table, part, version, PartState::Sent),
            Effect::Refused { table, part, version, reason } => {
                self.set_state(table, part, version, PartState::Refused(reason));
            }
        }
        Ok(())
    }

    fn meets(&self, requirement: &Requirement) -> Option<bool> {
        match requirement {
            Requirement::Spec { id, version } => Some(self.specs.get(id).is_some_and(|s| s.version >= *version)),
            _ => None,
        }
    }

    fn retake(&mut self, delivery: &Delivery<'_>, bulk: &dyn Parts) -> Option<Vec<u8>> {
        // An error means that the batch does not fit the specs here any more: then there is nothing to learn from it.
        let batch = (delivery.attributes.kind == BATCH).then(|| self.retake_batch(delivery, bulk))?;
        batch.ok().flatten()
    }

    fn save(&self) -> Vec<u8> {
        let parts: Vec<_> = self.parts.iter().map(|((table, key), part)| (table, key, part)).collect();
        encode(&(FORMAT, self.specs.values().collect::<Vec<_>>(), parts))
    }

    fn load(&mut self, saved: &[u8]) -> Result<(), RoomError> {
        let wrong = |reason: String| RoomError { room: PREFIX, reason };
        let (format, specs, parts): (u8, Vec<Spec>, Vec<(String, PartKey, Part)>) =
            decode("snapshot of standard storage", saved, saved.len()).map_err(|e| wrong(e.to_string()))?;
        if format != FORMAT {
            return Err(wrong(format!("a snapshot's format is {format}, not {FORMAT}")));
        }
        for spec in specs {
            self.effects.push(TableEffect::Define(spec.schema()));
            self.specs.insert(spec.id.clone(), spec);
        }
        for (table, key, part) in parts {
            self.emit(&table, &key, &part);
            self.parts.insert((table, key), part);
        }
        Ok(())
    }

    fn live(&self, each: &mut dyn FnMut(RecordNumber)) {
        self.parts.values().for_each(|part| each(part.record.record));
    }
}
