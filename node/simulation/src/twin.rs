//! The table engine's twin: which rows every part of a table is made of, by the effects that the core has released, in
//! memory only, and rebuilt at every start from the first turn's actions, as production's engine is.
//!
//! I8, checked after every effect: the records that a part names hold whole rows; they are exactly one version that the
//! part's source wrote; and once everything staged is durable, the tables show what the storage room holds.

use crate::world::World;
use jincai_crypto::sha256;
use jincai_journal::Log;
use jincai_storage::{Part, PartId};
use jincai_types::{Digest, PartRecord, TableEffect};
use std::collections::{BTreeMap, BTreeSet};

/// A part as queries see it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Shown {
    version: u64,
    records: Vec<PartRecord>,
    rows: u64,
}

impl Shown {
    /// What stands in for its content: the digests of its rows' bytes, which are the same wherever the same rows are written.
    fn content(&self) -> Vec<Digest> {
        self.records.iter().map(|record| record.digest).collect()
    }
}

/// The tables of one running node.
#[derive(Debug, Default)]
pub(crate) struct Twin {
    tables: BTreeSet<String>,
    parts: BTreeMap<PartId, Shown>,
}

impl Twin {
    /// Carries an effect out; says which part it changed.
    pub(crate) fn apply(&mut self, effect: TableEffect, log: &dyn Log) -> Result<Option<PartId>, String> {
        let (id, shown) = match effect {
            TableEffect::Define(shape) => {
                self.tables.insert(shape.name);
                return Ok(None);
            }
            TableEffect::SetPart { table, part, version, records, rows } => {
                ((table, part), Shown { version, records, rows })
            }
        };
        if !self.tables.contains(&id.0) {
            return Err(format!("I8: a part of table {}, which was never defined", id.0));
        }
        if shown.records.is_empty() {
            self.parts.remove(&id);
            return Ok(None);
        }
        whole(&id, &shown, log)?;
        self.parts.insert(id.clone(), shown);
        Ok(Some(id))
    }

    /// Everything that is shown can be read, whatever was removed from the journal meanwhile.
    pub(crate) fn readable(&self, log: &dyn Log) -> Result<(), String> {
        self.parts.iter().try_for_each(|(id, shown)| whole(id, shown, log))
    }

    /// The tables show what the storage room holds.
    fn agrees<'a>(&self, parts: impl Iterator<Item = (&'a PartId, &'a Part)>) -> Result<(), String> {
        let held = |part: &Part| Shown { version: part.version, records: vec![part.record], rows: part.totals.rows };
        let held: BTreeMap<PartId, Shown> = parts.map(|(id, part)| (id.clone(), held(part))).collect();
        if held == self.parts {
            return Ok(());
        }
        let differs = |id: &&PartId| held.get(*id) != self.parts.get(*id);
        let which = held.keys().chain(self.parts.keys()).find(differs);
        let (shown, held) = (which.map(|id| self.parts.get(id)), which.map(|id| held.get(id)));
        Err(format!("I8: the tables show {which:?} as {shown:?}, the storage room holds {held:?}"))
    }
}

/// The rows of a part, as its records hold them, are those that the effect means.
fn whole(id: &PartId, shown: &Shown, log: &dyn Log) -> Result<(), String> {
    for at in &shown.records {
        let wrong =
            |what: String| Err(format!("I8: version {} of {id:?}: record {}: {what}", shown.version, at.record));
        let stored = match log.read(at.record) {
            Ok(stored) => stored,
            Err(error) => return wrong(error.to_string()),
        };
        let range = at.start as usize..at.start as usize + at.length as usize;
        match stored.payload.get(range) {
            None => return wrong("it is too short".into()),
            Some(rows) if sha256(rows) != at.digest => return wrong("it holds other rows".into()),
            Some(_) => {}
        }
    }
    Ok(())
}

/// What sources wrote: the content of every version, as it was when it was written, by part. A node that is set back may
/// write a version a second time.
#[derive(Debug, Default)]
pub(crate) struct Written(BTreeMap<(PartId, u64), BTreeSet<Vec<Digest>>>);

impl Written {
    fn note(&mut self, id: &PartId, version: u64, content: Vec<Digest>) {
        self.0.entry((id.clone(), version)).or_default().insert(content);
    }

    fn has(&self, id: &PartId, version: u64, content: &Vec<Digest>) -> bool {
        self.0.get(&(id.clone(), version)).is_some_and(|written| written.contains(content))
    }

    /// The collector may have made the source give the same rows another number.
    fn has_before(&self, id: &PartId, version: u64, content: &Vec<Digest>) -> bool {
        let earlier = self.0.range((id.clone(), 0)..(id.clone(), version));
        earlier.into_iter().any(|(_, written)| written.contains(content))
    }
}

impl World {
    /// A node's own parts, right after rows were written to it.
    pub(crate) fn note_written(&mut self, node: usize) {
        let Some(running) = &self.nodes[node].running else { return };
        for (id, part) in running.core.rooms().storage.parts() {
            if id.1.authority == self.nodes[node].id {
                self.written.note(id, part.version, vec![part.record.digest]);
            }
        }
    }

    /// I8, after effects were carried out: see the module's head.
    pub(crate) fn tables_are_whole(&mut self, node: usize, changed: &[PartId]) -> Result<(), String> {
        let (me, written) = (self.nodes[node].id, &mut self.written);
        let Some(running) = self.nodes[node].running.as_ref().filter(|_| !changed.is_empty()) else { return Ok(()) };
        for id in changed {
            // An effect that another one of the same turn follows was looked at when it was carried out.
            let Some(shown) = running.twin.parts.get(id) else { continue };
            let content = shown.content();
            if id.1.authority == me && written.has_before(id, shown.version, &content) {
                written.note(id, shown.version, content);
            } else if !written.has(id, shown.version, &content) {
                let version = shown.version;
                return Err(format!(
                    "{me}: I8: version {version} of {id:?} shows rows that its source never wrote as that"
                ));
            }
        }
        self.tables_agree(node)
    }

    /// Unless something waits for the disk, tables and storage room are the same.
    pub(crate) fn tables_agree(&self, node: usize) -> Result<(), String> {
        let Some(running) = &self.nodes[node].running else { return Ok(()) };
        if running.waits_for_disk() {
            return Ok(());
        }
        let agrees = running.twin.agrees(running.core.rooms().storage.parts());
        agrees.map_err(|what| format!("{}: {what}", self.nodes[node].id))
    }
}
