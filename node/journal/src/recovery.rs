//! Makes a journal fit to be written again after any end of the run before.
//!
//! It refuses to write anything if there is damage below the durable mark. Else it copies what lies past the mark, if
//! whole, into a new segment (an old one is never appended to: what a killed process left in the page cache looks whole
//! without being durable), makes that segment durable and valid, and only then tidies up what the segment has voided.
//! Every clean start takes this road too, so that there is only one.

use crate::base::Opened;
use crate::carry::remove_unnamed;
use crate::engine::{TERM, Urgency};
use crate::format::{self, BLOCK, CommitHeader, HEADER_BYTES, Place, RESTORED, SegmentHeader};
use crate::index::Index;
use crate::reader::Span;
use crate::reserve::Reserve;
use crate::segment::establish;
use crate::survey::{ChainEnd, Survey, Tail, survey};
use crate::{Base, Blobs, Config, Cut, Disk, DiskFile, Error, Quarantine};
use jincai_types::{Digest, Millis, Mutation, RecordNumber, mutated};
use std::collections::BTreeSet;
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
    /// The newest base: the owner's state begins with its snapshot, and goes on with the records after it.
    pub base: Option<Base>,
    /// Damage to records that the base covers: worth an alarm; the journal can be written.
    pub covered: Vec<Quarantine>,
    /// The directory was laid by a restore that nobody has acknowledged yet.
    pub restored: bool,
}

/// The segment that is being written.
pub(crate) struct Current {
    pub(crate) segment: u64,
    pub(crate) first_record: RecordNumber,
    pub(crate) file: Arc<dyn DiskFile>,
    pub(crate) offset: u64,
    pub(crate) length: u64,
    /// It was made of a reserve file.
    pub(crate) reserved: bool,
}

impl Current {
    /// What of it is written; durable if called after a sync.
    pub(crate) fn span(&self) -> Span {
        Span { segment: self.segment, first_record: self.first_record, end: self.offset }
    }
}

/// A recovered journal.
pub(crate) struct Recovered {
    pub(crate) report: Recovery,
    pub(crate) index: Index,
    /// The last commit; all are durable.
    pub(crate) end: ChainEnd,
    /// The time of the last commit.
    pub(crate) time: Millis,
    /// The segments, the newest last.
    pub(crate) spans: Vec<Span>,
    pub(crate) opened: Option<Opened>,
    /// The segment that the base stands in.
    pub(crate) base_segment: u64,
    /// Files that only older bases name.
    pub(crate) retired: BTreeSet<Digest>,
    /// Where to write, unless there is damage.
    pub(crate) current: Option<Current>,
    pub(crate) reserve: Reserve,
}

/// Recovers the journal on a disk. Nothing is written before the files of the base have been found whole.
pub(crate) fn recover(disk: &dyn Disk, blobs: &dyn Blobs, config: &Config) -> Result<Recovered, Error> {
    let mut found = survey(disk)?;
    if mutated(Mutation::CutWholeTail) {
        found.drop_tail();
    }
    if mutated(Mutation::IgnoreDamage) {
        found.damages.clear();
    }
    if let Some(shard) = found.shard.filter(|shard| *shard != config.shard) {
        return Err(Error::Shard { found: shard, wanted: config.shard });
    }
    let opened = found.base.as_ref().map(|found| Opened::open(blobs, found.base.clone())).transpose()?;
    let report = Recovery {
        clean: found.clean,
        last: found.whole.record,
        cut: found.cut,
        quarantine: found.quarantine(),
        base: found.base.as_ref().map(|found| found.base.clone()),
        covered: found.covered.clone(),
        restored: disk.list()?.iter().any(|name| name == RESTORED),
    };
    let mut recovered = Recovered {
        end: found.whole,
        time: found.time,
        index: std::mem::take(&mut found.index),
        spans: spans(&found),
        opened,
        base_segment: found.base.as_ref().map_or(0, |found| found.segment),
        retired: std::mem::take(&mut found.retired),
        current: None,
        reserve: Reserve::default(),
        report,
    };
    if recovered.report.quarantine.is_some() {
        return Ok(recovered);
    }
    remove_unfinished(disk, &found)?;
    let mut named = recovered.report.base.as_ref().map(Base::files).unwrap_or_default();
    named.extend(recovered.retired.iter().copied());
    remove_unnamed(blobs, &named)?;
    recovered.reserve = Reserve::find(disk, config)?;
    let current = begin_segment(disk, config, &found, &mut recovered)?;
    // The files of older bases go before the segments that name them, so that a start after a power cut finds both.
    recovered.retired.iter().try_for_each(|digest| blobs.remove(digest))?;
    recovered.retired.clear();
    tidy(disk, &found)?;
    recovered.spans.push(current.span());
    recovered.current = Some(current);
    Ok(recovered)
}

/// The segments that stay, with the commits that are durable.
fn spans(found: &Survey) -> Vec<Span> {
    let kept = found.live.iter().filter(|live| live.end > BLOCK);
    kept.map(|live| Span { segment: live.segment, first_record: live.first_record, end: live.end }).collect()
}

/// Begins a new segment with what lies past the mark; it voids that where it lay.
fn begin_segment(
    disk: &dyn Disk,
    config: &Config,
    found: &Survey,
    recovered: &mut Recovered,
) -> Result<Current, Error> {
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
    let index = &mut recovered.index;
    index.cut(first_record);
    index.forget_before(found.live.first().map_or(0, |live| live.segment));
    if found.base.as_ref().is_some_and(|base| base.position >= first_position) {
        recovered.base_segment = header.segment;
    }
    let mut offset = BLOCK;
    let how = (0, Urgency::Reserve);
    let (file, length, reserved) = recovered.reserve.segment(disk, config, header.segment, needed, how)?;
    establish(disk, &header, &*file, |file| {
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
    Ok(Current { segment: header.segment, first_record, file, offset, length, reserved })
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

/// Gives back the room that nothing needs any more: segments that the base has replaced or without a commit that counts,
/// and what lies behind the last.
fn tidy(disk: &dyn Disk, found: &Survey) -> Result<(), Error> {
    found.superseded.iter().try_for_each(|segment| disk.remove(&format::segment_name(*segment)))?;
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
