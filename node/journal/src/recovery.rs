//! Makes a journal fit to be written again after any end of the run before.
//!
//! It refuses to write anything if there is damage below the durable mark. Else it copies what lies past the mark, if
//! whole, into a new segment (an old one is never appended to: what a killed process left in the page cache looks whole
//! without being durable), makes that segment durable and valid, and only then tidies up what the segment has voided.
//! Every clean start takes this road too, so that there is only one.

use crate::engine::TERM;
use crate::format::{self, BLOCK, CommitHeader, HEADER_BYTES, Place, SegmentHeader};
use crate::index::Index;
use crate::segment::establish;
use crate::survey::{ChainEnd, Survey, Tail, survey};
use crate::{Config, Cut, Disk, DiskFile, Error, Quarantine};
use jincai_types::RecordNumber;
use std::sync::Arc;

/// What was found when the journal was opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recovery {
    /// The run before ended with a closing mark, and nothing came after it.
    pub clean: bool,
    /// The last record that can be read.
    pub last: RecordNumber,
    /// What lay past the durable mark and was dropped, because it was not whole.
    pub cut: Cut,
    /// Damage below the durable mark: the journal is read-only, up to the damage.
    pub quarantine: Option<Quarantine>,
}

/// The segment that is being written.
pub(crate) struct Current {
    pub(crate) segment: u64,
    pub(crate) file: Arc<dyn DiskFile>,
    pub(crate) offset: u64,
    pub(crate) length: u64,
}

/// A recovered journal.
pub(crate) struct Recovered {
    pub(crate) report: Recovery,
    pub(crate) index: Index,
    /// The last commit; all are durable.
    pub(crate) end: ChainEnd,
    /// Where to write, or why not to.
    pub(crate) current: Result<Current, Quarantine>,
}

/// Recovers the journal on a disk.
pub(crate) fn recover(disk: &dyn Disk, config: &Config) -> Result<Recovered, Error> {
    let mut found = survey(disk)?;
    if let Some(shard) = found.shard.filter(|shard| *shard != config.shard) {
        return Err(Error::Shard { found: shard, wanted: config.shard });
    }
    let end = found.whole;
    let report = Recovery { clean: found.clean(), last: end.record, cut: found.cut(), quarantine: found.quarantine() };
    let mut index = std::mem::take(&mut found.index);
    if let Some(quarantine) = report.quarantine.clone() {
        return Ok(Recovered { report, index, end, current: Err(quarantine) });
    }
    remove_unfinished(disk, &found)?;
    let current = begin_segment(disk, config, &found, &mut index)?;
    tidy(disk, &found)?;
    Ok(Recovered { report, index, end, current: Ok(current) })
}

/// Begins a new segment with what lies past the mark; it voids that where it lay.
fn begin_segment(disk: &dyn Disk, config: &Config, found: &Survey, index: &mut Index) -> Result<Current, Error> {
    let (first_position, first_record, previous) = match found.tail.front() {
        Some(Tail { header, .. }) => (header.position, header.first_record, header.previous),
        None => (found.whole.position + 1, found.whole.record + 1, found.whole.hash),
    };
    let header = SegmentHeader {
        shard: config.shard,
        segment: found.newest + 1,
        salt: config.salt,
        term: TERM,
        first_position,
        first_record,
        durable_to: found.whole.position,
        previous,
    };
    let needed = BLOCK + found.tail.iter().map(|tail| tail.header.padded()).sum::<u64>();
    let length = config.segment_bytes.max(needed);
    index.cut(first_record);
    let mut offset = BLOCK;
    let file = establish(disk, &header, length, |file| {
        for tail in &found.tail {
            let place = Place {
                shard: config.shard,
                segment: header.segment,
                salt: config.salt,
                offset,
                durable_to: first_position - 1,
            };
            index.push(&copy(disk, tail, file, place)?);
            offset += tail.header.padded();
        }
        Ok(())
    })?;
    Ok(Current { segment: header.segment, file, offset, length })
}

/// Copies a commit to another place. Its content and so its hash stay as they are.
fn copy(disk: &dyn Disk, tail: &Tail, to: &dyn DiskFile, place: Place) -> Result<CommitHeader, Error> {
    let from = &tail.header.place;
    let mut commit = vec![0; tail.header.bytes()];
    disk.open(&format::segment_name(from.segment))?.read_at(from.offset, &mut commit)?;
    if format::hash(&commit) != tail.hash {
        return Err(Error::Damaged { number: tail.header.first_record, segment: from.segment });
    }
    let header = CommitHeader { place, ..tail.header.clone() };
    commit[..HEADER_BYTES].copy_from_slice(&header.encode());
    to.write_at(place.offset, &commit)?;
    Ok(header)
}

/// Removes segments that were never finished. They must be gone, durably, before HEAD names a higher number, from which
/// it would follow that they were finished once; the new segment syncs the directory before it writes HEAD.
fn remove_unfinished(disk: &dyn Disk, found: &Survey) -> Result<(), Error> {
    found.discarded.iter().try_for_each(|segment| disk.remove(&format::segment_name(*segment)))
}

/// Gives back the room that nothing needs any more: segments without a commit that counts, and what lies behind the last.
fn tidy(disk: &dyn Disk, found: &Survey) -> Result<(), Error> {
    for live in &found.live {
        let name = format::segment_name(live.segment);
        if live.end == BLOCK {
            disk.remove(&name)?;
            continue;
        }
        let file = disk.open(&name)?;
        if file.length()? > live.end {
            file.truncate(live.end)?;
            file.sync()?;
        }
    }
    disk.sync_dir()
}
