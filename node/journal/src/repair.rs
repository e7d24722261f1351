//! Mends a damaged journal with bytes of a copy: a backup, or what is left of another disk.
//!
//! The copy is not believed. The journal's own chain of hashes, and the digests of files, decide whether what the copy
//! offers is what was lost: the whole that results must continue from its first commit to its last, as far as this
//! journal ever said that it was durable. Nothing is written before that is known.

use crate::backup::read_whole;
use crate::base::check_digest;
use crate::format::{self, HEADER_BYTES, SegmentHeader};
use crate::survey::{Survey, survey};
use crate::{Blobs, Disk, DiskFile, Error};
use jincai_types::Digest;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// What a repair has put back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Repaired {
    /// Segments that were written anew.
    pub segments: Vec<u64>,
    /// Files of the newest base that were written anew.
    pub files: Vec<Digest>,
}

/// Puts back what is damaged or missing in a journal that nobody has open. Refuses ([`Error::RepairIncomplete`]), with
/// nothing written to the journal, if the copy does not fill every hole.
pub fn repair(
    (disk, blobs): (&Arc<dyn Disk>, &dyn Blobs),
    (copy, copied): (&dyn Disk, &dyn Blobs),
) -> Result<Repaired, Error> {
    let before = survey(&**disk)?;
    let mut done = Repaired::default();
    if is_damaged(&before) {
        let mended = mend(disk, copy)?;
        let after = survey(&mended)?;
        let hole = after.damages.first().or_else(|| after.covered.first()).or_else(|| shorter(&before, &after));
        if let Some(hole) = hole {
            return Err(Error::RepairIncomplete(hole.clone()));
        }
        mend_files(&after, (blobs, copied), &mut done)?;
        for (segment, bytes) in &mended.segments {
            write_segment(&**disk, *segment, bytes)?;
            done.segments.push(*segment);
        }
    } else {
        mend_files(&before, (blobs, copied), &mut done)?;
    }
    Ok(done)
}

fn is_damaged(found: &Survey) -> bool {
    !found.damages.is_empty() || !found.covered.is_empty()
}

/// A mended journal must reach at least as far as the damaged one.
fn shorter<'a>(before: &'a Survey, after: &Survey) -> Option<&'a crate::Quarantine> {
    before.damages.first().filter(|damage| after.whole.position < damage.position.max(before.whole.position))
}

/// The journal with those segments replaced that the copy has otherwise.
fn mend(disk: &Arc<dyn Disk>, copy: &dyn Disk) -> Result<Mended, Error> {
    let ours = disk.list()?;
    let mut segments = BTreeMap::new();
    for name in copy.list()? {
        let Some(segment) = format::segment_of(&name) else { continue };
        let theirs = read_whole(&copy.open(&name)?)?;
        let Some(header) = header(&theirs) else { continue };
        if !ours.contains(&name) {
            segments.insert(segment, Arc::new(theirs));
            continue;
        }
        let file = disk.open(&name)?;
        let mut bytes = read_blocks(&file)?;
        // A segment of another run of this journal says nothing about ours.
        if self::header(&bytes).is_some_and(|own| own != header) {
            continue;
        }
        let common = theirs.len().min(bytes.len());
        if bytes[..common] != theirs[..common] {
            bytes[..common].copy_from_slice(&theirs[..common]);
            bytes.extend_from_slice(&theirs[common..]);
            segments.insert(segment, Arc::new(bytes));
        }
    }
    Ok(Mended { disk: Arc::clone(disk), segments })
}

/// A file's bytes; blocks that cannot be read are zeros.
fn read_blocks(file: &Arc<dyn DiskFile>) -> Result<Vec<u8>, Error> {
    let length = usize::try_from(file.length()?).unwrap_or(usize::MAX);
    let mut bytes = vec![0; length];
    for (at, block) in bytes.chunks_mut(format::BLOCK as usize).enumerate() {
        if file.read_at(at as u64 * format::BLOCK, block).is_err() {
            block.fill(0);
        }
    }
    Ok(bytes)
}

fn header(bytes: &[u8]) -> Option<SegmentHeader> {
    SegmentHeader::decode(bytes.first_chunk::<HEADER_BYTES>()?).ok().flatten()
}

/// Replaces a segment: written beside it under its reserve name first, so that a repair that is interrupted can be made again.
fn write_segment(disk: &dyn Disk, segment: u64, bytes: &[u8]) -> Result<(), Error> {
    let (name, beside) = (format::segment_name(segment), format::reserve_name(segment));
    if disk.list()?.contains(&beside) {
        disk.remove(&beside)?;
    }
    let file = disk.create(&beside, bytes.len() as u64)?;
    file.write_at(0, bytes)?;
    file.sync()?;
    disk.sync_dir()?;
    if disk.list()?.contains(&name) {
        disk.remove(&name)?;
    }
    disk.rename(&beside, &name)?;
    disk.sync_dir()
}

/// Puts back the files that the newest base names.
fn mend_files(found: &Survey, (blobs, copied): (&dyn Blobs, &dyn Blobs), done: &mut Repaired) -> Result<(), Error> {
    for digest in found.base.iter().flat_map(|found| found.base.files()) {
        match check_digest(blobs, &digest) {
            Ok(()) => continue,
            Err(Error::BlobDamaged { .. } | Error::Io { .. }) => {}
            Err(error) => return Err(error),
        }
        check_digest(copied, &digest)?;
        let source = copied.open(&digest)?;
        blobs.remove(&digest)?;
        let mut writer = blobs.create()?;
        let mut buffer = vec![0; 256 << 10];
        let mut offset = 0;
        while offset < source.len() {
            let piece = usize::try_from(source.len() - offset).map_or(buffer.len(), |left| left.min(buffer.len()));
            source.read_at(offset, &mut buffer[..piece])?;
            writer.write(&buffer[..piece])?;
            offset += piece as u64;
        }
        writer.finish()?;
        done.files.push(digest);
    }
    Ok(())
}

/// A disk some of whose segments are replaced, for looking at only.
struct Mended {
    disk: Arc<dyn Disk>,
    segments: BTreeMap<u64, Arc<Vec<u8>>>,
}

impl Disk for Mended {
    fn list(&self) -> Result<Vec<String>, Error> {
        let mut names: BTreeSet<String> = self.disk.list()?.into_iter().collect();
        names.extend(self.segments.keys().map(|segment| format::segment_name(*segment)));
        Ok(names.into_iter().collect())
    }

    fn open(&self, name: &str) -> Result<Arc<dyn DiskFile>, Error> {
        match format::segment_of(name).and_then(|segment| self.segments.get(&segment)) {
            Some(bytes) => Ok(Arc::new(Patched(Arc::clone(bytes), name.to_owned()))),
            None => self.disk.open(name),
        }
    }

    fn create(&self, name: &str, _: u64) -> Result<Arc<dyn DiskFile>, Error> {
        Err(read_only(name))
    }

    fn replace(&self, name: &str, _: &[u8]) -> Result<(), Error> {
        Err(read_only(name))
    }

    fn rename(&self, from: &str, _: &str) -> Result<(), Error> {
        Err(read_only(from))
    }

    fn remove(&self, name: &str) -> Result<(), Error> {
        Err(read_only(name))
    }

    fn sync_dir(&self) -> Result<(), Error> {
        Err(read_only("the directory"))
    }
}

fn read_only(name: &str) -> Error {
    Error::io("change", name)(std::io::ErrorKind::ReadOnlyFilesystem.into())
}

struct Patched(Arc<Vec<u8>>, String);

impl DiskFile for Patched {
    fn length(&self) -> Result<u64, Error> {
        Ok(self.0.len() as u64)
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<(), Error> {
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let bytes = self.0.get(start..).and_then(|rest| rest.get(..buffer.len()));
        buffer.copy_from_slice(
            bytes.ok_or_else(|| Error::io("read", &self.1)(std::io::ErrorKind::UnexpectedEof.into()))?,
        );
        Ok(())
    }

    fn write_at(&self, _: u64, _: &[u8]) -> Result<(), Error> {
        Err(read_only(&self.1))
    }

    fn sync(&self) -> Result<(), Error> {
        Err(read_only(&self.1))
    }

    fn truncate(&self, _: u64) -> Result<(), Error> {
        Err(read_only(&self.1))
    }
}
