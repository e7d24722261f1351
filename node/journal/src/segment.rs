//! How a segment comes into being, so that a power cut leaves it whole or not there.
//!
//! The order is the point: what the segment begins with is synced before its header makes the segment valid, the header
//! and the file's name before `HEAD` names it, and `HEAD` before anything is told to anybody or removed.

use crate::format::{HEAD, SegmentHeader, encode_head};
use crate::{Disk, DiskFile, Error};

/// Makes a file of zeros the newest segment; `fill` writes what it begins with. On return all of it is durable, and `HEAD`
/// names it.
pub(crate) fn establish(
    disk: &dyn Disk,
    header: &SegmentHeader,
    file: &dyn DiskFile,
    fill: impl FnOnce(&dyn DiskFile) -> Result<(), Error>,
) -> Result<(), Error> {
    fill(file)?;
    file.sync()?;
    file.write_at(0, &header.encode())?;
    file.sync()?;
    disk.sync_dir()?;
    disk.replace(HEAD, &encode_head(header.shard, header.segment))?;
    disk.sync_dir()
}
