//! Every way in which a power cut may go, one after the other.

use crate::MemoryDisk;

/// Which of a block's eight sectors are new if it is torn; a bit is a sector.
const FEW: [u8; 4] = [0b0000_0001, 0b0111_1111, 0b1111_1110, 0b0101_0101];

/// How a torn block may look: a few ways that stand for the rest, or every prefix, suffix, single sector and gap.
pub(super) fn tears(all: bool) -> Vec<u8> {
    if !all {
        return FEW.to_vec();
    }
    let shapes = (1..8).flat_map(|at: u32| {
        let (prefix, single) = ((1_u8 << at) - 1, 1_u8 << at);
        [prefix, !prefix, single, !single]
    });
    let mut tears: Vec<u8> = shapes.chain(FEW).collect();
    tears.sort_unstable();
    tears.dedup();
    tears
}

/// Hands every state that a power cut may leave of this disk to `each`, at most `most` ways to get there; returns whether
/// those were all.
pub(super) fn every_cut(disk: &MemoryDisk, tears: &[u8], most: usize, each: &mut dyn FnMut(MemoryDisk)) -> bool {
    let mut path = Path::default();
    for _ in 0..most {
        let cut = disk.fork();
        cut.crash(&mut |below| path.choose(below, tears));
        each(cut);
        if !path.next() {
            return true;
        }
    }
    false
}

/// A walk through the tree of choices, depth first.
#[derive(Default)]
struct Path {
    /// What was chosen at each branch, and of how many.
    chosen: Vec<(usize, usize)>,
    at: usize,
    /// The sectors of the block that is being torn: which are new, and how many are not asked for yet.
    torn: (u8, u32),
}

impl Path {
    fn choose(&mut self, below: usize, tears: &[u8]) -> usize {
        let (sectors, left) = &mut self.torn;
        if *left > 0 {
            *left -= 1;
            let sector = usize::from(*sectors & 1);
            *sectors >>= 1;
            return sector;
        }
        // A choice of three is a block: old, new, or torn in one of the ways.
        let branches = if below == 3 { 2 + tears.len() } else { below };
        if self.at == self.chosen.len() {
            self.chosen.push((0, branches));
        }
        let (chosen, _) = self.chosen[self.at];
        self.at += 1;
        if below == 3 && chosen >= 2 {
            self.torn = (tears[chosen - 2], 8);
            return 2;
        }
        chosen
    }

    /// Goes to the next leaf; `false` behind the last.
    fn next(&mut self) -> bool {
        self.at = 0;
        while let Some((chosen, branches)) = self.chosen.pop() {
            if chosen + 1 < branches {
                self.chosen.push((chosen + 1, branches));
                return true;
            }
        }
        false
    }
}

#[test]
fn the_walk_sees_every_combination_once() {
    let mut path = Path::default();
    let mut seen = std::collections::BTreeSet::new();
    loop {
        let block = path.choose(3, &FEW);
        let sectors: Vec<usize> = (0..if block == 2 { 8 } else { 0 }).map(|_| path.choose(2, &FEW)).collect();
        let name = path.choose(2, &FEW);
        assert!(seen.insert((block, sectors, name)));
        if !path.next() {
            break;
        }
    }
    assert_eq!(seen.len(), 6 * 2);
}
