//! What a journal's files hold, found out without writing: which segments count, how far the chain is whole, how far it
//! was durable, and where it is damaged.
//!
//! `HEAD` decides: it is written last, so a segment beyond the one it names was never finished and does not count, and
//! one up to it must be whole. Without a readable `HEAD` every segment with a whole header counts. Commits are followed
//! in the order of segments; one at or beyond a later segment's first position is void. Nothing is taken on trust that
//! does not continue the chain.

use crate::format::{self, CommitHeader, CommitKind, HEAD, HEAD_BYTES, HEADER_BYTES, SegmentHeader};
use crate::index::Index;
use crate::scan::{self, Found};
use crate::{Disk, Error};
use jincai_types::{Digest, RecordNumber};
use std::collections::VecDeque;
use std::fmt;

/// Most damages that are listed.
const DAMAGES_MAX: usize = 100;

/// Damage below the durable mark: what follows it may have been told to others, so it is kept and nothing is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quarantine {
    /// The segment that is damaged.
    pub segment: u64,
    /// The position (number of the commit) from which the chain is broken.
    pub position: u64,
    /// What is wrong.
    pub reason: &'static str,
}

impl fmt::Display for Quarantine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "segment {:016x}, commit {}: {}", self.segment, self.position, self.reason)
    }
}

/// What lay past the durable mark and was not whole: it was told to nobody.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cut {
    /// Commits of which at least the header was readable.
    pub commits: u64,
    /// Bytes of the blocks that were not zero.
    pub bytes: u64,
}

/// A whole commit past the durable mark.
pub(crate) struct Tail {
    pub(crate) header: CommitHeader,
    pub(crate) hash: Digest,
}

/// A segment that counts.
pub(crate) struct Live {
    pub(crate) segment: u64,
    /// The first byte behind its last commit that counts; the first block's end if it has none.
    pub(crate) end: u64,
}

/// The state of the files.
pub(crate) struct Survey {
    /// The shard that the files belong to, if there are any.
    pub(crate) shard: Option<u32>,
    /// The highest number that a segment had, whether it counts or not.
    pub(crate) newest: u64,
    /// Segments that count, in order.
    pub(crate) live: Vec<Live>,
    /// Segments that were never finished.
    pub(crate) discarded: Vec<u64>,
    /// Where the unbroken chain ends.
    pub(crate) whole: ChainEnd,
    /// Every commit up to this position was durable.
    pub(crate) durable_to: u64,
    /// Whether a closing mark ends the chain that the newest segment's own run wrote.
    pub(crate) closed: bool,
    /// The whole commits past `durable_to`.
    pub(crate) tail: VecDeque<Tail>,
    /// Where the records before the first break lie.
    pub(crate) index: Index,
    /// Whole commits, their records and bytes, those behind damage too.
    pub(crate) commits: u64,
    pub(crate) records: u64,
    pub(crate) bytes: u64,
    cut: Cut,
    breaks: Vec<Quarantine>,
    /// The end of the chain without its last commit.
    before: ChainEnd,
    /// What the next commit should be; behind damage the chain's hash is unknown.
    position: u64,
    record: RecordNumber,
    chain: Option<Digest>,
}

/// The end of a chain of commits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ChainEnd {
    /// Position of the last commit.
    pub(crate) position: u64,
    /// Number of the last record.
    pub(crate) record: RecordNumber,
    /// Hash of the last commit.
    pub(crate) hash: Digest,
}

impl ChainEnd {
    /// Before the first commit.
    const START: Self = Self { position: 0, record: 0, hash: Digest::ZERO };
}

/// Looks at all files. An error means that the disk did not answer, or that a newer program wrote them.
pub(crate) fn survey(disk: &dyn Disk) -> Result<Survey, Error> {
    let head = read_head(disk)?;
    let found = find_segments(disk)?;
    let mut survey = Survey::new(&head, &found);
    let (counted, discarded) = sort_out(disk, &head, found)?;
    survey.discarded = discarded;
    for (at, (segment, header)) in counted.iter().enumerate() {
        let later = &counted[at + 1..];
        let void_from = later.iter().filter_map(|(_, h)| h.as_ref()).map(|h| h.first_position).min();
        match header {
            Some(header) => survey.walk(disk, header, void_from, later.is_empty())?,
            None => survey.lost(*segment, "the segment's header cannot be read"),
        }
    }
    match head {
        Head::Names(newest) if !counted.iter().any(|(segment, _)| *segment == newest) => {
            survey.lost(newest, "the segment that HEAD names is missing");
        }
        Head::Damaged if counted.is_empty() => survey.lost(0, "HEAD cannot be read and there are no segments"),
        Head::Names(_) | Head::Damaged | Head::Absent => survey.finish(),
    }
    Ok(survey)
}

impl Survey {
    fn new(head: &Head, found: &[(u64, Option<SegmentHeader>)]) -> Self {
        let named = if let Head::Names(newest) = head { *newest } else { 0 };
        Self {
            shard: found.iter().find_map(|(_, header)| header.as_ref().map(|h| h.shard)),
            newest: found.iter().map(|(segment, _)| *segment).fold(named, u64::max),
            live: Vec::new(),
            discarded: Vec::new(),
            whole: ChainEnd::START,
            before: ChainEnd::START,
            durable_to: 0,
            closed: false,
            tail: VecDeque::new(),
            index: Index::default(),
            commits: 0,
            records: 0,
            bytes: 0,
            cut: Cut::default(),
            breaks: Vec::new(),
            position: 1,
            record: 1,
            chain: Some(Digest::ZERO),
        }
    }

    /// The first damage that is no cut, if there is any.
    pub(crate) fn quarantine(&self) -> Option<Quarantine> {
        self.breaks.first().filter(|b| b.position <= self.durable_to).cloned()
    }

    /// Every damage that is no cut, up to a limit.
    pub(crate) fn damages(&self) -> Vec<Quarantine> {
        self.breaks.iter().filter(|b| b.position <= self.durable_to).cloned().collect()
    }

    /// What lies past the mark and is not whole; nothing of a damaged journal counts as that.
    pub(crate) fn cut(&self) -> Cut {
        if self.quarantine().is_some() { Cut::default() } else { self.cut }
    }

    /// Whether the last run ended with a closing mark and nothing came after it.
    pub(crate) fn clean(&self) -> bool {
        self.closed && self.breaks.is_empty() && self.cut == Cut::default()
    }

    fn walk(
        &mut self,
        disk: &dyn Disk,
        header: &SegmentHeader,
        void_from: Option<u64>,
        newest: bool,
    ) -> Result<(), Error> {
        self.enter(header);
        let file = disk.open(&format::segment_name(header.segment))?;
        scan::scan(&*file, header, &mut |found| {
            let (commit, hash) = match found {
                Found::Whole(commit, hash) => (commit, Some(hash)),
                Found::Torn(commit) => (commit, None),
                Found::Other if newest => return self.cut.bytes += format::BLOCK,
                Found::Other => return,
            };
            if void_from.is_some_and(|void_from| commit.position >= void_from) {
                return;
            }
            self.mark_durable(commit.place.durable_to);
            self.follow(&commit, hash);
            if newest && !self.breaks.is_empty() {
                self.cut.commits += 1;
                self.cut.bytes += if hash.is_some() { commit.padded() } else { format::BLOCK };
            }
        })
    }

    fn enter(&mut self, header: &SegmentHeader) {
        self.mark_durable(header.durable_to);
        if self.shard != Some(header.shard) {
            self.broken(header.segment, "the segment belongs to another shard");
        } else if (self.position, self.record) != (header.first_position, header.first_record) {
            self.broken(header.segment, "the segment does not continue the one before it");
        } else if self.chain.is_some_and(|chain| chain != header.previous) {
            self.distrust_last();
            self.broken(header.segment, "the segment does not continue the chain of the one before it");
        }
        self.position = header.first_position;
        self.record = header.first_record;
        self.chain = Some(header.previous);
        self.closed = false;
        self.live.push(Live { segment: header.segment, end: format::BLOCK });
    }

    /// Takes the commit as the next of the chain, or notes that the chain is broken and goes on behind it.
    fn follow(&mut self, commit: &CommitHeader, hash: Option<Digest>) {
        let segment = commit.place.segment;
        if hash.is_none() {
            self.broken(segment, "a commit does not match its checksums");
        } else if (self.position, self.record) != (commit.position, commit.first_record) {
            self.broken(segment, "a commit is missing or its header cannot be read");
        } else if self.chain.is_some_and(|chain| chain != commit.previous) {
            self.distrust_last();
            self.broken(segment, "a commit does not continue the chain");
        }
        if commit.position < self.position {
            return;
        }
        self.position = commit.position.saturating_add(1);
        self.record = commit.first_record.saturating_add(u64::from(commit.count));
        self.chain = hash;
        let Some(hash) = hash else { return };
        self.commits += 1;
        self.records += u64::from(commit.count);
        self.bytes += commit.padded();
        if self.breaks.is_empty() {
            self.before = self.whole;
            self.whole = ChainEnd { position: commit.position, record: self.record - 1, hash };
            self.index.push(commit);
            self.tail.push_back(Tail { header: commit.clone(), hash });
            self.mark_durable(commit.place.durable_to);
            // A closing mark that the segment began with ended an earlier run, not the one that wrote this segment.
            self.closed = commit.kind == CommitKind::Closing && commit.position > self.durable_to;
        }
    }

    /// Raises the mark; what it covers needs no copy any more.
    fn mark_durable(&mut self, position: u64) {
        self.durable_to = self.durable_to.max(position);
        while let Some(first) = self.tail.pop_front_if(|tail| tail.header.position <= self.durable_to) {
            if let Some(live) = self.live.last_mut().filter(|live| live.segment == first.header.place.segment) {
                live.end = first.header.place.offset + first.header.padded();
            }
        }
    }

    /// Notes damage in something that must have been durable.
    fn lost(&mut self, segment: u64, reason: &'static str) {
        self.broken(segment, reason);
        self.durable_to = self.durable_to.max(self.position);
    }

    /// If the chain does not fit, either commit may be the wrong one, so that the durable one before it is given up too.
    fn distrust_last(&mut self) {
        if self.breaks.is_empty() && self.whole.position <= self.durable_to {
            self.whole = self.before;
            self.index.cut(self.whole.record + 1);
            self.position = self.whole.position + 1;
        }
    }

    /// Whatever the marks cover must have been found.
    fn finish(&mut self) {
        if self.breaks.is_empty() && self.durable_to >= self.position {
            let segment = self.live.last().map_or(0, |live| live.segment);
            self.broken(segment, "commits that were durable are missing at the end");
        }
    }

    fn broken(&mut self, segment: u64, reason: &'static str) {
        if self.breaks.len() < DAMAGES_MAX {
            self.breaks.push(Quarantine { segment, position: self.position, reason });
        }
    }
}

/// What the file `HEAD` says.
enum Head {
    Absent,
    Damaged,
    Names(u64),
}

fn read_head(disk: &dyn Disk) -> Result<Head, Error> {
    if !disk.list()?.iter().any(|name| name == HEAD) {
        return Ok(Head::Absent);
    }
    let file = disk.open(HEAD)?;
    let mut bytes = [0; HEAD_BYTES];
    if file.length()? != bytes.len() as u64 {
        return Ok(Head::Damaged);
    }
    file.read_at(0, &mut bytes)?;
    Ok(format::decode_head(&bytes)?.map_or(Head::Damaged, Head::Names))
}

/// All segment files in order, each with its header if that is whole and the file's own.
fn find_segments(disk: &dyn Disk) -> Result<Vec<(u64, Option<SegmentHeader>)>, Error> {
    let mut found = Vec::new();
    for name in disk.list()? {
        let Some(segment) = format::segment_of(&name) else { continue };
        let file = disk.open(&name)?;
        let mut bytes = [0; HEADER_BYTES];
        let header = if file.length()? < format::BLOCK {
            None
        } else {
            file.read_at(0, &mut bytes)?;
            SegmentHeader::decode(&bytes)?.filter(|header| header.segment == segment)
        };
        found.push((segment, header));
    }
    Ok(found)
}

type Segments = Vec<(u64, Option<SegmentHeader>)>;

/// Splits segments into those that count (a lost header counts as damage) and those that were never finished.
fn sort_out(disk: &dyn Disk, head: &Head, found: Segments) -> Result<(Segments, Vec<u64>), Error> {
    let (mut counted, mut discarded) = (Vec::new(), Vec::new());
    for (segment, header) in found {
        let unfinished = match head {
            Head::Names(newest) => segment > *newest,
            Head::Damaged => false,
            // The very first segment may have lost power before it was named. It holds nothing then; if there is
            // anything, both its header and HEAD were lost.
            Head::Absent => header.is_none() && scan::is_unused(&*disk.open(&format::segment_name(segment))?)?,
        };
        if unfinished { discarded.push(segment) } else { counted.push((segment, header)) }
    }
    Ok((counted, discarded))
}
