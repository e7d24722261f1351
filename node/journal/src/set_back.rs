//! Sets the files of a journal back to a point in time.
//!
//! Nothing is written before it is known that what is left is whole. The mark of the restore comes first, so that a cut
//! that was interrupted is never taken for a journal that was always this short.

use crate::backup::{Point, SetBack};
use crate::format::{self, BLOCK, CommitHeader, HEAD, RESTORED, SegmentHeader, encode_head};
use crate::scan::{self, Found};
use crate::survey::{Survey, survey};
use crate::{Disk, Error};
use jincai_types::RecordNumber;

/// The end of what is kept.
#[derive(Clone, Copy)]
struct Kept {
    segment: u64,
    end: u64,
    position: u64,
    last: RecordNumber,
    time: u64,
}

/// See [`crate::set_back`].
pub(crate) fn set_back(disk: &dyn Disk, point: Point) -> Result<SetBack, Error> {
    let found = survey(disk)?;
    if let (Some(damage), Point::End) = (found.damages.first(), point) {
        return Err(Error::Quarantined(damage.clone()));
    }
    let (kept, from) = walk(disk, &found, point)?;
    let outside = match point {
        Point::Record(number) => number > found.whole.record,
        Point::End | Point::Time(_) | Point::BeforeDamage => false,
    };
    let base = found.base.as_ref().map_or(0, |base| base.position);
    let Some(kept) = kept.filter(|kept| !outside && kept.position >= base) else {
        return Err(match found.damages.first() {
            Some(damage) if outside => Error::Quarantined(damage.clone()),
            _ => Error::NoSuchPoint { from, to: found.whole.record },
        });
    };
    disk.replace(RESTORED, b"")?;
    disk.sync_dir()?;
    for name in disk.list()? {
        if format::segment_of(&name).is_some_and(|segment| segment > kept.segment)
            || format::reserve_of(&name).is_some()
        {
            disk.remove(&name)?;
        }
    }
    let file = disk.open(&format::segment_name(kept.segment))?;
    file.truncate(kept.end)?;
    file.sync()?;
    disk.replace(HEAD, &encode_head(found.shard.unwrap_or_default(), kept.segment))?;
    disk.sync_dir()?;
    Ok(SetBack { last: kept.last, time: kept.time })
}

/// The end of what the point keeps, if there is anything, and the first record to which the journal can be set back.
fn walk(disk: &dyn Disk, found: &Survey, point: Point) -> Result<(Option<Kept>, RecordNumber), Error> {
    let base = found.base.as_ref().map_or(0, |base| base.position);
    let (mut kept, mut from, mut beyond): (Option<Kept>, _, _) = (None, 0, false);
    let headers: Vec<SegmentHeader> = found.live.iter().filter_map(|live| header(disk, live.segment)).collect();
    for (at, header) in headers.iter().enumerate() {
        if header.first_position > found.whole.position + 1 {
            break;
        }
        let void_from = headers[at + 1..].iter().map(|later| later.first_position).min().unwrap_or(u64::MAX);
        let before = kept.map_or(header.first_record - 1, |kept| kept.last);
        let position = kept.map_or(header.first_position - 1, |kept| kept.position);
        let time = kept.map_or(0, |kept| kept.time);
        if !beyond {
            kept = Some(Kept { segment: header.segment, end: BLOCK, position, last: before, time });
        }
        let file = disk.open(&format::segment_name(header.segment))?;
        scan::scan(&*file, header, &mut |item| {
            let Found::Whole(commit, ..) = item else { return };
            if commit.position >= void_from {
                return;
            }
            if commit.position == base {
                from = commit.first_record - 1;
            }
            beyond |= commit.position > found.whole.position || !keeps(point, &commit);
            if beyond {
                return;
            }
            kept = Some(Kept {
                segment: header.segment,
                end: commit.place.offset + commit.padded(),
                position: commit.position,
                last: commit.first_record - 1 + u64::from(commit.count),
                time: commit.time,
            });
        })?;
    }
    Ok((kept, from))
}

fn keeps(point: Point, commit: &CommitHeader) -> bool {
    match point {
        Point::End | Point::BeforeDamage => true,
        Point::Record(number) => commit.first_record - 1 + u64::from(commit.count) <= number,
        Point::Time(time) => commit.time <= time,
    }
}

fn header(disk: &dyn Disk, segment: u64) -> Option<SegmentHeader> {
    let mut bytes = [0; format::HEADER_BYTES];
    disk.open(&format::segment_name(segment)).ok()?.read_at(0, &mut bytes).ok()?;
    SegmentHeader::decode(&bytes).ok().flatten()
}
