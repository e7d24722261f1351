//! What the links of each level carried downwards, and how much of it was the ministry's releases: a release must cross a
//! link once, however many stand below it.

use jincai_crypto::BatchView;
use jincai_exchange::Frame;
use jincai_exchange::record::{kind, split_batch_record};
use jincai_journal::Log;
use jincai_types::{AuthorityId, Destination, Lane};

/// What the links of one level carried downwards, all of them together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LevelTraffic {
    /// How many links there are.
    pub links: u64,
    /// Frames of every kind.
    pub frames: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Frames with a batch of the ministry to everybody below it.
    pub release_frames: u64,
    /// Their bytes, with what the link itself adds to the batch.
    pub release_bytes: u64,
}

/// The same for the links from the ministry to provinces, from provinces to cities, from cities to counties.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Downward {
    /// Batches that the ministry has sealed for everybody below it: releases and specs.
    pub sealed_batches: u64,
    /// Their bytes, as they were sealed.
    pub sealed_bytes: u64,
    /// The links, from above.
    pub levels: [LevelTraffic; 3],
}

impl Downward {
    pub(crate) fn new(links: [usize; 3]) -> Self {
        Self {
            levels: links.map(|links| LevelTraffic { links: links as u64, ..LevelTraffic::default() }),
            ..Self::default()
        }
    }

    /// A frame has come down a link of a level.
    pub(crate) fn count(&mut self, level: usize, frame: &[u8]) {
        let traffic = &mut self.levels[level];
        traffic.frames += 1;
        traffic.bytes += frame.len() as u64;
        if carries_release(frame) {
            traffic.release_frames += 1;
            traffic.release_bytes += frame.len() as u64;
        }
    }

    /// Adds up what the ministry has sealed, as its journal holds it.
    pub(crate) fn note_sealed(&mut self, log: &dyn Log) -> Result<(), String> {
        let read = log.replay(1, &mut |stored| {
            let split = (stored.kind == kind::BATCH).then(|| split_batch_record(&stored.payload).ok()).flatten();
            if let Some((None, start)) = split
                && BatchView::parse(&stored.payload[start..]).is_ok_and(|view| is_release(&view.statement.lane))
            {
                self.sealed_batches += 1;
                self.sealed_bytes += (stored.payload.len() - start) as u64;
            }
            Ok(())
        });
        read.map_err(|error| error.to_string())
    }
}

fn is_release(lane: &Lane) -> bool {
    lane.origin == AuthorityId::MINISTRY && lane.destination == Destination::Below(AuthorityId::MINISTRY)
}

fn carries_release(frame: &[u8]) -> bool {
    match frame.get(1).map(|_| Frame::from_bytes(frame)) {
        Some(Ok(Frame::Batch { bytes, .. })) => {
            BatchView::parse(bytes).is_ok_and(|view| is_release(&view.statement.lane))
        }
        _ => false,
    }
}

/// The level of the link to a node's superior, by the node's place: provinces stand before cities, cities before counties.
pub(crate) fn level_of([provinces, cities, _]: [usize; 3], place: usize) -> usize {
    match place {
        p if p <= provinces => 0,
        c if c <= provinces + cities => 1,
        _ => 2,
    }
}
