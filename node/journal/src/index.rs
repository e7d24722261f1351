//! Where records lie: 16 bytes a commit, so that a million commits cost 16 MB.
//!
//! It holds commits with records only, in order of their numbers; it refuses nothing, its makers have checked the chain.

use crate::format::{BLOCK, CommitHeader};
use jincai_types::RecordNumber;

/// All commits with records, by segment.
#[derive(Default)]
pub(crate) struct Index {
    segments: Vec<SegmentIndex>,
}

struct SegmentIndex {
    segment: u64,
    commits: Vec<Commit>,
}

#[derive(Clone, Copy)]
struct Commit {
    first: RecordNumber,
    block: u32,
    count: u32,
}

/// A commit and its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Located {
    pub(crate) segment: u64,
    pub(crate) offset: u64,
    pub(crate) first: RecordNumber,
    pub(crate) count: u32,
}

impl Index {
    /// Adds the commit that follows the last; one without records is passed over.
    pub(crate) fn push(&mut self, header: &CommitHeader) {
        if header.count == 0 {
            return;
        }
        let segment = header.place.segment;
        if self.segments.last().is_none_or(|last| last.segment != segment) {
            if let Some(finished) = self.segments.last_mut() {
                finished.commits.shrink_to_fit();
            }
            self.segments.push(SegmentIndex { segment, commits: Vec::new() });
        }
        let block = u32::try_from(header.place.offset / BLOCK).expect("a segment has at most 2^21 blocks");
        let commit = Commit { first: header.first_record, block, count: header.count };
        self.segments.last_mut().expect("pushed above if there was none").commits.push(commit);
    }

    /// Forgets every commit from this record on.
    pub(crate) fn cut(&mut self, first: RecordNumber) {
        for segment in &mut self.segments {
            segment.commits.truncate(segment.commits.partition_point(|c| c.first < first));
        }
        self.segments.retain(|segment| !segment.commits.is_empty());
    }

    /// Forgets the segments before this one.
    pub(crate) fn forget_before(&mut self, first: u64) {
        self.segments.retain(|segment| segment.segment >= first);
    }

    /// The commit that holds a record.
    pub(crate) fn find(&self, number: RecordNumber) -> Option<Located> {
        let after = self.segments.partition_point(|s| s.commits.first().is_some_and(|c| c.first <= number));
        let segment = self.segments.get(after.checked_sub(1)?)?;
        let after = segment.commits.partition_point(|c| c.first <= number);
        let commit = segment.commits.get(after.checked_sub(1)?)?;
        let inside = number - commit.first < u64::from(commit.count);
        inside.then(|| Located {
            segment: segment.segment,
            offset: u64::from(commit.block) * BLOCK,
            first: commit.first,
            count: commit.count,
        })
    }
}
