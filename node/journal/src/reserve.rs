//! Room set aside: files of zeros that become segments when the disk has no room for new ones.
//!
//! A full disk is a normal state. Whoever appends says whether the records may use the reserve; what may not is refused
//! before anything is written, while the rest drains the node. A reserve file is a little longer than a segment: what is
//! cut off when it becomes one makes room for `HEAD`. A try to fill the reserve up costs a segment's worth of writing, so
//! that after a failure it is not repeated before a while has passed or room was given back.

use crate::format::{BLOCK, reserve_name, reserve_of, segment_name};
use crate::{Config, Disk, DiskFile, Error, Urgency};
use jincai_types::Millis;
use std::collections::BTreeSet;
use std::sync::Arc;

/// How much longer than a segment a reserve file is, in bytes.
const SLACK: u64 = 64 << 10;
/// No segment is shorter, in bytes.
const SHORTEST: u64 = 64 << 10;
/// After a failure the next try to find room waits this long.
const RETRY: Millis = 1000;

/// How much room there is for the journal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Space {
    /// The reserve is whole.
    #[default]
    Plenty,
    /// The reserve is not whole: what may not use it is refused soon, or is already.
    Low,
    /// The reserve is used up.
    Full,
}

/// The reserve files of a journal.
#[derive(Default)]
pub(crate) struct Reserve {
    files: BTreeSet<u64>,
    wanted: usize,
    /// When there was no room for another file.
    failed: Option<Millis>,
}

impl Reserve {
    /// The reserve files that an earlier run left; those of another length are removed.
    pub(crate) fn find(disk: &dyn Disk, config: &Config) -> Result<Self, Error> {
        let mut files = BTreeSet::new();
        for name in disk.list()? {
            let Some(number) = reserve_of(&name) else { continue };
            if files.len() < config.reserve && disk.open(&name)?.length()? == config.segment_bytes + SLACK {
                files.insert(number);
            } else {
                disk.remove(&name)?;
            }
        }
        Ok(Self { files, wanted: config.reserve, failed: None })
    }

    /// How much room there is.
    pub(crate) fn space(&self) -> Space {
        match self.files.len() {
            held if held >= self.wanted && self.failed.is_none() => Space::Plenty,
            0 => Space::Full,
            _ => Space::Low,
        }
    }

    /// Fills the reserve up, unless that failed a moment ago.
    pub(crate) fn fill(&mut self, disk: &dyn Disk, config: &Config, now: Millis) -> Result<(), Error> {
        if self.failed_lately(now) {
            return Ok(());
        }
        self.failed = None;
        if self.files.len() < self.wanted {
            // Room that is set aside goes before room that saves time.
            disk.unprepare();
        }
        let mut changed = false;
        while self.files.len() < self.wanted {
            let number = self.files.last().map_or(1, |last| last + 1);
            match disk.create(&reserve_name(number), config.segment_bytes + SLACK) {
                Ok(_) => changed |= self.files.insert(number),
                Err(error) if error.is_full() => {
                    self.failed = Some(now);
                    break;
                }
                Err(error) => return Err(error),
            }
        }
        if changed { disk.sync_dir() } else { Ok(()) }
    }

    fn failed_lately(&self, now: Millis) -> bool {
        self.failed.is_some_and(|failed| (failed..failed.saturating_add(RETRY)).contains(&now))
    }

    /// There was no room for something else: the next try to find some waits.
    pub(crate) fn note_failure(&mut self, now: Millis) {
        self.failed = Some(now);
    }

    /// Room was given back: the next try need not wait.
    pub(crate) fn forget_failure(&mut self) {
        self.failed = None;
    }

    /// A file of zeros, its length, and whether it comes from the reserve, for a segment of at least `needed` bytes.
    pub(crate) fn segment(
        &mut self,
        disk: &dyn Disk,
        config: &Config,
        segment: u64,
        needed: u64,
        how: (Millis, Urgency),
    ) -> Result<(Arc<dyn DiskFile>, u64, bool), Error> {
        let (name, length, (now, urgency)) = (segment_name(segment), config.segment_bytes.max(needed), how);
        if !self.failed_lately(now) {
            if let Some(file) = create(disk, &name, length)? {
                return Ok((file, length, false));
            }
            self.failed = Some(now);
        }
        if urgency == Urgency::Normal {
            return Err(Error::Full);
        }
        if let Some(number) = self.files.last().copied().filter(|_| length == config.segment_bytes) {
            disk.rename(&reserve_name(number), &name)?;
            self.files.remove(&number);
            let file = disk.open(&name)?;
            file.truncate(length)?;
            return Ok((file, length, true));
        }
        // The reserve is used up, by many starts on a full disk: a shorter segment is better than none. There may be room
        // again since the last try, too.
        let mut shorter = length;
        while shorter >= needed.max(SHORTEST) {
            shorter = shorter.next_multiple_of(BLOCK);
            if let Some(file) = create(disk, &name, shorter)? {
                return Ok((file, shorter, true));
            }
            shorter /= 2;
        }
        Err(Error::Full)
    }
}

/// A file of zeros, unless there is no room for it, or for one small file more: a segment that takes the last of the room
/// could not be named in `HEAD`.
fn create(disk: &dyn Disk, name: &str, length: u64) -> Result<Option<Arc<dyn DiskFile>>, Error> {
    match disk.create(name, length) {
        Ok(file) if has_room_for_head(disk)? => Ok(Some(file)),
        Ok(_) => disk.remove(name).map(|()| None),
        Err(error) if error.is_full() => Ok(None),
        Err(error) => Err(error),
    }
}

fn has_room_for_head(disk: &dyn Disk) -> Result<bool, Error> {
    // Its length tells it from a reserve file, should a power cut leave it.
    let probe = reserve_name(0);
    match disk.create(&probe, BLOCK) {
        Ok(_) => disk.remove(&probe).map(|()| true),
        Err(error) if error.is_full() => Ok(false),
        Err(error) => Err(error),
    }
}
