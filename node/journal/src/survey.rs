//! What a journal's files hold, found out without writing: which segments count, how far the chain is whole, how far it
//! was durable, and where it is damaged.
//!
//! `HEAD` decides: it is written last, so a segment beyond the one it names was never finished and does not count, and
//! one up to it must be whole. Without a readable `HEAD` every segment with a whole header counts. Commits are followed
//! in the order of segments; one at or beyond a later segment's first position is void. Nothing is taken on trust that
//! does not continue the chain.
//!
//! The chain falls into *runs*, between which it is broken. The newest base decides which run is the journal: it vouches,
//! by the chain of hashes, for the run that it stands in. Breaks before that run are *covered* if the run reaches down to
//! the last record of the base; if it does not, something is missing that no snapshot holds. So a lost oldest segment is
//! noticed: the first that is left begins behind the base's last record, or there is no base at all.

use crate::base::superseded;
use crate::format::{self, CommitHeader, CommitKind, HEAD, HEAD_BYTES, HEADER_BYTES, SegmentHeader};
use crate::index::Index;
use crate::scan::{self, Found};
use crate::{Base, Disk, Error};
use jincai_types::{Digest, Millis, RecordNumber};
use std::collections::{BTreeSet, VecDeque};
use std::fmt;

/// Most damages that are listed.
const DAMAGES_MAX: usize = 100;
/// What is wrong if the first segment is not the first of the journal and there is no base that replaces those before it.
const BEGINNING: &str = "the segments before this one are missing";
/// What is wrong between two segments.
const DISCONTINUED: &str = "the segment does not continue the one before it";

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
    pub(crate) first_record: RecordNumber,
    /// The first byte behind its last commit that counts; the first block's end if it has none.
    pub(crate) end: u64,
}

/// A base and where it stands.
pub(crate) struct FoundBase {
    pub(crate) base: Base,
    pub(crate) segment: u64,
    pub(crate) position: u64,
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
    /// Segments that the base has replaced.
    pub(crate) superseded: Vec<u64>,
    /// Where the unbroken chain ends.
    pub(crate) whole: ChainEnd,
    /// The time of its last commit.
    pub(crate) time: Millis,
    /// The whole commits past the durable mark.
    pub(crate) tail: VecDeque<Tail>,
    /// Where the records of the unbroken chain lie.
    pub(crate) index: Index,
    /// The newest base.
    pub(crate) base: Option<FoundBase>,
    /// Files that only older bases name.
    pub(crate) retired: BTreeSet<Digest>,
    /// Damage that the base covers.
    pub(crate) covered: Vec<Quarantine>,
    /// Every damage that is neither covered nor a cut, up to a limit.
    pub(crate) damages: Vec<Quarantine>,
    /// What lies past the mark and is not whole; nothing of a damaged journal counts as that.
    pub(crate) cut: Cut,
    /// Whether the last run ended with a closing mark and nothing came after it.
    pub(crate) clean: bool,
    /// Whole commits, their records and bytes, those behind damage too.
    pub(crate) commits: u64,
    pub(crate) records: u64,
    pub(crate) bytes: u64,
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
    let named = if let Head::Names(newest) = head { newest } else { 0 };
    let newest = found.iter().map(|(segment, _)| *segment).fold(named, u64::max);
    let shard = found.iter().find_map(|(_, header)| header.as_ref().map(|h| h.shard));
    let mut walk = Walk::new(shard);
    let (counted, discarded) = sort_out(disk, &head, shard, found)?;
    for (at, (segment, header)) in counted.iter().enumerate() {
        let later = &counted[at + 1..];
        let ours = later.iter().filter_map(|(_, h)| h.as_ref()).filter(|h| Some(h.shard) == walk.shard);
        let void_from = ours.map(|h| h.first_position).min();
        match header {
            Some(header) if walk.shard != Some(header.shard) => {
                walk.lost(*segment, "the segment belongs to another shard");
            }
            Some(header) => walk.walk(disk, header, void_from, later.is_empty())?,
            None => walk.lost(*segment, "the segment's header cannot be read"),
        }
    }
    match head {
        Head::Names(newest) if !counted.iter().any(|(segment, _)| *segment == newest) => {
            walk.lost(newest, "the segment that HEAD names is missing");
        }
        Head::Damaged if counted.is_empty() => walk.lost(0, "HEAD cannot be read and there are no segments"),
        Head::Names(_) | Head::Damaged | Head::Absent => walk.finish(),
    }
    Ok(Survey { newest, discarded, ..walk.settle() })
}

/// A piece of the chain that is whole in itself.
struct Run {
    /// The damage before it; the very first run has none.
    begins: Option<Quarantine>,
    first_record: RecordNumber,
    whole: ChainEnd,
    /// Its end without its last commit.
    before: ChainEnd,
    time: Millis,
    tail: VecDeque<Tail>,
    index: Index,
    bases: Vec<FoundBase>,
    /// What of it lies in the newest segment.
    newest: Cut,
}

impl Run {
    fn new(begins: Option<Quarantine>, start: ChainEnd) -> Self {
        Self {
            begins,
            first_record: start.record + 1,
            whole: start,
            before: start,
            time: 0,
            tail: VecDeque::new(),
            index: Index::default(),
            bases: Vec::new(),
            newest: Cut::default(),
        }
    }

    /// Whether it begins with damage and nothing whole has followed yet.
    fn is_hole(&self) -> bool {
        self.begins.is_some() && self.whole == self.before
    }
}

/// A survey under way.
struct Walk {
    shard: Option<u32>,
    live: Vec<Live>,
    runs: Vec<Run>,
    durable_to: u64,
    /// Whether a closing mark ends the chain that the newest segment's own run wrote.
    closed: bool,
    commits: u64,
    records: u64,
    bytes: u64,
    /// Bytes of the newest segment that are no commit.
    other: u64,
    /// What the next commit should be; behind damage the chain's hash is unknown.
    position: u64,
    record: RecordNumber,
    chain: Option<Digest>,
}

impl Walk {
    fn new(shard: Option<u32>) -> Self {
        Self {
            shard,
            live: Vec::new(),
            runs: vec![Run::new(None, ChainEnd::START)],
            durable_to: 0,
            closed: false,
            commits: 0,
            records: 0,
            bytes: 0,
            other: 0,
            position: 1,
            record: 1,
            chain: Some(Digest::ZERO),
        }
    }

    fn run(&mut self) -> &mut Run {
        self.runs.last_mut().expect("there is one from the beginning")
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
            let (commit, whole) = match found {
                Found::Whole(commit, hash, base) => (commit, Some((hash, base))),
                Found::Torn(commit) => (commit, None),
                Found::Other if newest => return self.other += format::BLOCK,
                Found::Other => return,
            };
            if void_from.is_some_and(|void_from| commit.position >= void_from) {
                return;
            }
            self.mark_durable(commit.place.durable_to);
            let bytes = if whole.is_some() { commit.padded() } else { format::BLOCK };
            self.follow(commit, whole);
            if newest {
                let run = &mut self.run().newest;
                run.commits += 1;
                run.bytes += bytes;
            }
        })
    }

    fn enter(&mut self, header: &SegmentHeader) {
        self.mark_durable(header.durable_to);
        let starts =
            ChainEnd { position: header.first_position - 1, record: header.first_record - 1, hash: header.previous };
        if (self.position, self.record) != (header.first_position, header.first_record) {
            let first = self.live.is_empty() && self.runs.len() == 1;
            let reason = if first { BEGINNING } else { DISCONTINUED };
            self.broken(header.segment, reason, starts);
        } else if self.chain.is_some_and(|chain| chain != header.previous) {
            self.distrust_last();
            self.broken(header.segment, "the segment does not continue the chain of the one before it", starts);
        }
        (self.position, self.record) = (header.first_position, header.first_record);
        self.chain = Some(header.previous);
        self.closed = false;
        self.live.push(Live { segment: header.segment, first_record: header.first_record, end: format::BLOCK });
    }

    /// Takes the commit as the next of the chain, or notes that the chain is broken and goes on behind it.
    fn follow(&mut self, commit: CommitHeader, whole: Option<(Digest, Option<Base>)>) {
        let segment = commit.place.segment;
        let at = ChainEnd { position: commit.position - 1, record: commit.first_record - 1, hash: commit.previous };
        let behind = ChainEnd {
            position: commit.position,
            record: at.record.saturating_add(u64::from(commit.count)),
            hash: whole.as_ref().map_or(Digest::ZERO, |(hash, _)| *hash),
        };
        let mut fits = whole.is_some();
        if !fits {
            self.broken(segment, "a commit does not match its checksums", behind);
        } else if (self.position, self.record) != (commit.position, commit.first_record) {
            self.broken(segment, "a commit is missing or its header cannot be read", at);
        } else if self.chain.is_some_and(|chain| chain != commit.previous) {
            self.distrust_last();
            self.broken(segment, "a commit does not continue the chain", behind);
            fits = false;
        }
        if commit.position < self.position {
            return;
        }
        self.position = commit.position.saturating_add(1);
        self.record = behind.record.saturating_add(1);
        self.chain = whole.as_ref().map(|(hash, _)| *hash);
        let Some((hash, base)) = whole else { return };
        self.commits += 1;
        self.records += u64::from(commit.count);
        self.bytes += commit.padded();
        if fits {
            self.take(commit, behind, hash, base);
        }
    }

    /// Adds a whole commit that fits to the run.
    fn take(&mut self, commit: CommitHeader, end: ChainEnd, hash: Digest, base: Option<Base>) {
        let run = self.run();
        run.before = run.whole;
        run.whole = end;
        run.time = commit.time;
        run.index.push(&commit);
        let (segment, position) = (commit.place.segment, commit.position);
        run.bases.extend(base.map(|base| FoundBase { base, segment, position }));
        let (durable_to, kind) = (commit.place.durable_to, commit.kind);
        run.tail.push_back(Tail { header: commit, hash });
        self.mark_durable(durable_to);
        // A closing mark that the segment began with ended an earlier run, not the one that wrote this segment.
        self.closed = kind == CommitKind::Closing && position > self.durable_to;
    }

    /// Raises the mark; what it covers needs no copy any more.
    fn mark_durable(&mut self, position: u64) {
        self.durable_to = self.durable_to.max(position);
        let durable_to = self.durable_to;
        while let Some(first) = self.run().tail.pop_front_if(|tail| tail.header.position <= durable_to) {
            if let Some(live) = self.live.last_mut().filter(|live| live.segment == first.header.place.segment) {
                live.end = first.header.place.offset + first.header.padded();
            }
        }
    }

    /// Notes damage in something that must have been durable.
    fn lost(&mut self, segment: u64, reason: &'static str) {
        let unknown = ChainEnd { position: self.position - 1, record: self.record - 1, hash: Digest::ZERO };
        self.broken(segment, reason, unknown);
        self.durable_to = self.durable_to.max(self.position);
        self.chain = None;
    }

    /// If the chain does not fit, either commit may be the wrong one, so that the durable one before it is given up too.
    fn distrust_last(&mut self) {
        let durable_to = self.durable_to;
        let run = self.run();
        if run.whole.position <= durable_to {
            run.whole = run.before;
            let whole = run.whole;
            run.index.cut(whole.record + 1);
            run.bases.retain(|base| base.position <= whole.position);
            self.position = whole.position + 1;
        }
    }

    /// Whatever the marks cover must have been found.
    fn finish(&mut self) {
        if self.durable_to >= self.position {
            let segment = self.live.last().map_or(0, |live| live.segment);
            let unknown = ChainEnd { position: self.position - 1, record: self.record - 1, hash: Digest::ZERO };
            self.broken(segment, "commits that were durable are missing at the end", unknown);
        }
    }

    /// Ends the run: the chain is broken at the expected position, and goes on behind `start`.
    fn broken(&mut self, segment: u64, reason: &'static str, start: ChainEnd) {
        let begins = Quarantine { segment, position: self.position, reason };
        // What is missing before a segment may be missed by nobody, unlike what comes after.
        let missed = |run: &Run| run.begins.as_ref().is_some_and(|b| b.reason != BEGINNING && b.reason != DISCONTINUED);
        let hole = self.runs.pop_if(|run| run.is_hole() && missed(run));
        let (begins, newest) = hole.map_or_else(|| (Some(begins), Cut::default()), |run| (run.begins, run.newest));
        self.runs.push(Run { newest, ..Run::new(begins, start) });
        self.closed = false;
    }

    /// Decides which run is the journal: the one that the newest base stands in, if it reaches down to the base's last
    /// record (the chain of hashes vouches for all that stands before the base); without a base, the very first.
    fn settle(mut self) -> Survey {
        let with_base = self.runs.iter().rposition(|run| !run.bases.is_empty());
        let base = with_base.and_then(|at| self.runs[at].bases.pop());
        let through = base.as_ref().map_or(0, |found| found.base.through);
        let anchored = with_base.unwrap_or(0);
        let reaches = self.runs[anchored].first_record <= through + 1;
        let spans: Vec<_> = self.live.iter().map(|live| (live.segment, live.first_record)).collect();
        let needless = match &base {
            Some(found) if reaches => superseded(&spans, found.segment, through),
            _ => 0,
        };
        let superseded: Vec<u64> = self.live.drain(..needless).map(|live| live.segment).collect();
        let first = self.live.first().map_or(0, |live| live.segment);
        let files = base.as_ref().map(|found| found.base.files()).unwrap_or_default();
        let older = self.runs.iter().flat_map(|run| &run.bases).flat_map(|found| found.base.files());
        let retired = older.filter(|digest| !files.contains(digest)).collect();

        let later = self.runs.split_off(if reaches { anchored + 1 } else { anchored });
        let covered = self.runs.iter().filter(|_| reaches).filter_map(|run| run.begins.clone());
        // Whether the first segment that is needed continues one that is not does not matter.
        let matters = |b: &Quarantine| b.segment > first || (b.segment == first && b.reason != DISCONTINUED);
        let covered = covered.filter(|b| b.reason != BEGINNING && matters(b)).take(DAMAGES_MAX).collect();
        let alone = ChainEnd { position: 0, record: through, hash: Digest::ZERO };
        let main = if reaches { self.runs.pop() } else { None }.unwrap_or_else(|| Run::new(None, alone));
        let damages: Vec<_> = later.iter().filter_map(|run| run.begins.clone()).collect();
        let damages: Vec<_> = damages.into_iter().filter(|b| b.position <= self.durable_to).take(DAMAGES_MAX).collect();
        let cut = Cut {
            commits: later.iter().map(|run| run.newest.commits).sum(),
            bytes: later.iter().map(|run| run.newest.bytes).sum::<u64>() + self.other,
        };
        let covered: Vec<Quarantine> = covered;
        let durable_to = self.durable_to;
        Survey {
            shard: self.shard,
            newest: 0,
            live: self.live,
            discarded: Vec::new(),
            superseded,
            whole: main.whole,
            time: main.time,
            tail: main.tail.into_iter().filter(|tail| tail.header.position > durable_to).collect(),
            index: main.index,
            base,
            retired,
            clean: self.closed && later.is_empty() && covered.is_empty() && cut == Cut::default(),
            covered,
            cut: if damages.is_empty() { cut } else { Cut::default() },
            damages,
            commits: self.commits,
            records: self.records,
            bytes: self.bytes,
        }
    }
}

impl Survey {
    /// Gives up the whole commits past the durable mark: what a mutation does.
    pub(crate) fn drop_tail(&mut self) {
        if let Some(Tail { header, .. }) = self.tail.front() {
            let (position, record) = (header.position - 1, header.first_record - 1);
            self.whole = ChainEnd { position, record, hash: header.previous };
            self.index.cut(record + 1);
            self.tail.clear();
        }
    }

    /// The first damage that is neither covered nor a cut, if there is any.
    pub(crate) fn quarantine(&self) -> Option<Quarantine> {
        self.damages.first().cloned()
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
    if file.length()? != bytes.len() as u64 || file.read_at(0, &mut bytes).is_err() {
        return Ok(Head::Damaged);
    }
    Ok(format::decode_head(&bytes)?.map_or(Head::Damaged, Head::Names))
}

/// All segment files in order, each with its header if that is whole and the file's own.
fn find_segments(disk: &dyn Disk) -> Result<Vec<(u64, Option<SegmentHeader>)>, Error> {
    let mut found = Vec::new();
    for name in disk.list()? {
        let Some(segment) = format::segment_of(&name) else { continue };
        let file = disk.open(&name)?;
        let mut bytes = [0; HEADER_BYTES];
        let header = if file.length()? < format::BLOCK || file.read_at(0, &mut bytes).is_err() {
            None
        } else {
            SegmentHeader::decode(&bytes)?.filter(|header| header.segment == segment)
        };
        found.push((segment, header));
    }
    Ok(found)
}

type Segments = Vec<(u64, Option<SegmentHeader>)>;

/// Splits segments into those that count (a lost header counts as damage) and those that were never finished. One of
/// another shard is no unfinished one of ours: it counts, so that it is noticed and nobody removes it.
fn sort_out(disk: &dyn Disk, head: &Head, shard: Option<u32>, found: Segments) -> Result<(Segments, Vec<u64>), Error> {
    let (mut counted, mut discarded) = (Vec::new(), Vec::new());
    for (segment, header) in found {
        let unfinished = match head {
            Head::Names(newest) => {
                segment > *newest && header.as_ref().is_none_or(|header| Some(header.shard) == shard)
            }
            Head::Damaged => false,
            // The very first segment may have lost power before it was named. It holds nothing then; if there is
            // anything, both its header and HEAD were lost.
            Head::Absent => {
                header.is_none() && scan::is_unused(&*disk.open(&format::segment_name(segment))?).unwrap_or(false)
            }
        };
        if unfinished { discarded.push(segment) } else { counted.push((segment, header)) }
    }
    Ok((counted, discarded))
}
