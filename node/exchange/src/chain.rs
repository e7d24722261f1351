//! A lane as a hash chain: where it stands, and what a statement that arrives means for it.

use jincai_crypto::Statement;
use jincai_types::{Digest, Epoch, LanePosition, Sequence};
use minicbor::{Decode, Encode};
use std::collections::VecDeque;

/// How many batch ends are remembered to compare duplicates with.
const REMEMBERED: usize = 1024;
/// How many ended epochs are remembered.
const EPOCHS: usize = 64;

/// What a statement means for a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It is the next one.
    New,
    /// It is held already.
    Duplicate,
    /// Something before it is missing.
    Gap,
    /// It contradicts what is held: its origin signed two continuations.
    Fork,
    /// It belongs to an epoch that its origin has closed before it: the origin no longer knows of it.
    Late,
}

/// Where a lane stands at this hop.
#[derive(Clone, Debug, Default, Encode, Decode)]
pub(crate) struct Chain {
    #[n(0)]
    position: LanePosition,
    #[n(1)]
    ends: VecDeque<LanePosition>,
    #[n(2)]
    closed: VecDeque<(Epoch, Sequence)>,
    /// Ends of batches that came late; they are no part of the chain.
    #[n(3)]
    late: VecDeque<LanePosition>,
    /// What was passed over because nobody held it any more: from behind the first to the second.
    #[n(4)]
    gone: VecDeque<((Epoch, Sequence), (Epoch, Sequence))>,
}

impl Chain {
    /// The end of what is held.
    pub(crate) fn position(&self) -> LanePosition {
        self.position
    }

    /// A hop that knows less than the sender no longer holds takes the sender's floor as its own place.
    pub(crate) fn raise_to(&mut self, floor: LanePosition) {
        if floor.key() > self.position.key() {
            // What lies between is not known, so nothing before the floor can be compared any more.
            self.ends.clear();
            self.position = floor;
            self.remember(floor);
        }
    }

    /// Goes on behind messages that nobody holds any more.
    pub(crate) fn pass_over(&mut self, to: LanePosition) {
        if self.gone.len() == REMEMBERED {
            self.gone.pop_front();
        }
        self.gone.push_back((self.position.key(), to.key()));
        if to.epoch != self.position.epoch {
            self.close(self.position.epoch, self.position.sequence);
        }
        self.raise_to(to);
    }

    fn close(&mut self, epoch: Epoch, sequence: Sequence) {
        if self.closed.len() == EPOCHS {
            self.closed.pop_front();
        }
        self.closed.push_back((epoch, sequence));
    }

    fn remember(&mut self, end: LanePosition) {
        if self.ends.len() == REMEMBERED {
            self.ends.pop_front();
        }
        self.ends.push_back(end);
    }

    /// Judges a statement without changing anything.
    pub(crate) fn judge(&self, statement: &Statement, digest: Digest) -> Verdict {
        let (first, last) = ((statement.epoch, statement.first), (statement.epoch, statement.last));
        if self.gone.iter().any(|(from, to)| *from < first && last <= *to) {
            // Somebody found it after all, behind others that were applied meanwhile.
            return Verdict::Late;
        }
        let held = &self.position;
        let previous = &statement.previous;
        if statement.epoch == held.epoch {
            // What the origin gave up as lost may have led to the last number there is.
            if Some(statement.first) == held.sequence.checked_add(1) {
                return if previous.digest == held.digest { Verdict::New } else { Verdict::Fork };
            }
            return if statement.first > held.sequence { Verdict::Gap } else { self.compare(statement, digest) };
        }
        if statement.epoch < held.epoch {
            return self.judge_older(statement, digest);
        }
        if statement.first != 1 || previous.key() > held.key() {
            return Verdict::Gap;
        }
        // The origin opens a new epoch and says where the old one ended for it. Our chain must pass there; what we hold
        // beyond, we keep: the origin lost it, we did not.
        match self.known(previous.epoch, previous.sequence) {
            Some(known) if known != previous.digest => Verdict::Fork,
            _ if previous.key() == held.key() && previous.digest != held.digest => Verdict::Fork,
            _ => Verdict::New,
        }
    }

    /// A statement of an epoch before the one in which the lane stands: a duplicate, unless it lies beyond what its origin
    /// remembered when it opened the next epoch, or its epoch was never seen here at all.
    fn judge_older(&self, statement: &Statement, digest: Digest) -> Verdict {
        if self.is_late(&statement.end(digest)) {
            return Verdict::Late;
        }
        let known = self.known(statement.epoch, statement.last).is_some();
        let closed = self.closed.iter().find(|(epoch, _)| *epoch == statement.epoch);
        let forgotten = self.closed.len() == EPOCHS && self.closed.front().is_some_and(|(e, _)| statement.epoch < *e);
        match closed {
            Some((_, last)) if statement.last > *last && !known => Verdict::Late,
            None if !known && !forgotten => Verdict::Late,
            _ => self.compare(statement, digest),
        }
    }

    /// Whether a batch with this end came late before.
    pub(crate) fn is_late(&self, end: &LanePosition) -> bool {
        self.late.contains(end)
    }

    /// Remembers a batch that came late.
    pub(crate) fn note_late(&mut self, end: LanePosition) {
        if self.late.len() == REMEMBERED {
            self.late.pop_front();
        }
        self.late.push_back(end);
    }

    fn known(&self, epoch: Epoch, sequence: Sequence) -> Option<Digest> {
        self.ends.iter().rev().find(|e| e.key() == (epoch, sequence)).map(|e| e.digest)
    }

    fn compare(&self, statement: &Statement, digest: Digest) -> Verdict {
        match self.known(statement.epoch, statement.last) {
            Some(known) if known == digest => Verdict::Duplicate,
            Some(_) => Verdict::Fork,
            None => {
                // Within what is remembered every batch end is known, so another cut of the same numbers is a fork.
                let oldest = self.ends.front().map(LanePosition::key);
                let comparable = oldest.is_some_and(|o| o < (statement.epoch, statement.first));
                if comparable { Verdict::Fork } else { Verdict::Duplicate }
            }
        }
    }

    /// Moves on to the end of a statement that was judged [`Verdict::New`].
    pub(crate) fn advance(&mut self, statement: &Statement, digest: Digest) {
        if statement.epoch != self.position.epoch {
            self.close(statement.previous.epoch, statement.previous.sequence);
        }
        self.position = statement.end(digest);
        self.remember(self.position);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use jincai_types::Lane;

    fn epoch(number: u64) -> Epoch {
        Epoch { number, salt: 1 }
    }

    fn statement(number: u64, first: u64, last: u64, previous: LanePosition) -> (Statement, Digest) {
        let lane: Lane = "370502000>000000000/record".parse().expect("lane");
        let mut root = [0; 32];
        root[..8].copy_from_slice(&last.to_le_bytes());
        let statement = Statement {
            version: 1,
            suite: 1,
            lane,
            epoch: epoch(number),
            first,
            last,
            previous,
            root: Digest(root),
            encrypted: false,
            sealed_at: 0,
        };
        let digest = Statement::digest(&statement.to_bytes());
        (statement, digest)
    }

    fn grown(chain: &mut Chain, number: u64, cuts: &[u64]) -> Vec<(Statement, Digest)> {
        let mut out = Vec::new();
        let mut first = 1;
        for last in cuts {
            let (s, d) = statement(number, first, *last, chain.position());
            assert_eq!(chain.judge(&s, d), Verdict::New);
            chain.advance(&s, d);
            out.push((s, d));
            first = last + 1;
        }
        out
    }

    #[test]
    fn next_duplicate_gap_and_fork_are_told_apart() {
        let mut chain = Chain::default();
        let held = grown(&mut chain, 1, &[2, 5, 6]);
        for (s, d) in &held {
            assert_eq!(chain.judge(s, *d), Verdict::Duplicate);
        }
        let (ahead, d) = statement(1, 8, 9, LanePosition { epoch: epoch(1), sequence: 7, digest: Digest([1; 32]) });
        assert_eq!(chain.judge(&ahead, d), Verdict::Gap);
        let (other, d) = statement(1, 7, 7, LanePosition { digest: Digest([1; 32]), ..chain.position() });
        assert_eq!(chain.judge(&other, d), Verdict::Fork, "another predecessor");
        let (recut, d) = statement(1, 3, 6, held[0].0.end(held[0].1));
        assert_eq!(chain.judge(&recut, d), Verdict::Fork, "the same numbers cut otherwise");
        let (mut altered, _) = held[1].clone();
        altered.sealed_at = 1;
        assert_eq!(chain.judge(&altered, Statement::digest(&altered.to_bytes())), Verdict::Fork);
    }

    #[test]
    fn a_new_epoch_continues_where_its_origin_remembers() {
        let mut chain = Chain::default();
        let held = grown(&mut chain, 1, &[2, 5, 6]);
        let (next, d) = statement(2, 1, 1, chain.position());
        assert_eq!(chain.judge(&next, d), Verdict::New);
        let (forgetful, fd) = statement(2, 1, 1, held[1].0.end(held[1].1));
        assert_eq!(chain.judge(&forgetful, fd), Verdict::New, "the origin lost 6, we keep it");
        let (liar, ld) = statement(2, 1, 1, LanePosition { digest: Digest([9; 32]), ..held[1].0.end(held[1].1) });
        assert_eq!(chain.judge(&liar, ld), Verdict::Fork);
        let (ahead, ad) = statement(2, 1, 1, LanePosition { sequence: 9, ..chain.position() });
        assert_eq!(chain.judge(&ahead, ad), Verdict::Gap, "7 to 9 of the old epoch come first");
        chain.advance(&forgetful, fd);
        assert_eq!(chain.judge(&held[2].0, held[2].1), Verdict::Duplicate);
        let (late, d) = statement(1, 7, 8, held[2].0.end(held[2].1));
        assert_eq!(chain.judge(&late, d), Verdict::Late);
        chain.note_late(late.end(d));
        assert!(chain.is_late(&late.end(d)));
    }

    #[test]
    fn an_older_epoch_that_was_never_seen_is_late_and_no_duplicate() {
        let mut chain = Chain::default();
        grown(&mut chain, 5, &[1, 2]);
        let (unseen, d) = statement(4, 1, 1, LanePosition::START);
        assert_eq!(chain.judge(&unseen, d), Verdict::Late, "dropping it as a duplicate would lose it unseen");
    }

    #[test]
    fn nothing_follows_the_last_number() {
        let mut chain = Chain::default();
        let held = grown(&mut chain, 1, &[2]);
        chain.pass_over(LanePosition { sequence: Sequence::MAX, ..chain.position() });
        assert_eq!(chain.judge(&held[0].0, held[0].1), Verdict::Duplicate);
    }

    #[test]
    fn a_relay_that_forgot_never_takes_more_than_the_floor_for_granted() {
        let mut chain = Chain::default();
        let floor = LanePosition { epoch: epoch(1), sequence: 10, digest: Digest([3; 32]) };
        chain.raise_to(floor);
        let (skips, d) = statement(1, 12, 12, LanePosition { sequence: 11, ..floor });
        assert_eq!(chain.judge(&skips, d), Verdict::Gap);
        let (next, d) = statement(1, 11, 11, floor);
        assert_eq!(chain.judge(&next, d), Verdict::New);
        chain.raise_to(LanePosition::START);
        assert_eq!(chain.position(), floor, "a floor never lowers a chain");
    }
}
