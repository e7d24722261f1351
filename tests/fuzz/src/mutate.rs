//! Changes to an input, from a seed: the same seed gives the same change on every machine.

/// Numbers at which sizes, counts and sequences turn.
const EDGES: [u64; 9] = [0, 1, 0x7f, 0xff, 0xffff, 0x7fff_ffff, 0xffff_ffff, i64::MAX as u64, u64::MAX];

/// Pseudo-random numbers (SplitMix64, Steele, Lea and Flood 2014).
pub struct Numbers(u64);

impl Numbers {
    /// The numbers of a seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `end`, or 0 if there is none.
    pub fn below(&mut self, end: usize) -> usize {
        let end = u64::try_from(end).unwrap_or(u64::MAX).max(1);
        usize::try_from(self.number() % end).unwrap_or(0)
    }
}

/// One to four changes of an input; `other` is where splices take from.
#[must_use]
pub fn mutate(input: &[u8], other: &[u8], numbers: &mut Numbers) -> Vec<u8> {
    let mut out = input.to_vec();
    for _ in 0..=numbers.below(4) {
        change(&mut out, other, numbers);
    }
    out
}

fn change(out: &mut Vec<u8>, other: &[u8], numbers: &mut Numbers) {
    let at = numbers.below(out.len());
    match numbers.below(7) {
        0 => out.truncate(at),
        1 => out.insert(at, numbers.number().to_le_bytes()[0]),
        2 if !out.is_empty() => {
            let end = (at + 1 + numbers.below(8)).min(out.len());
            out.drain(at..end);
        }
        3 => {
            let from = numbers.below(other.len());
            let length = numbers.below(64).min(other.len() - from);
            let end = (at + numbers.below(2) * length).min(out.len());
            out.splice(at..end, other[from..from + length].iter().copied());
        }
        4 => {
            // A whole number of CBOR or of a fixed field becomes one at an edge.
            let edge = EDGES[numbers.below(EDGES.len())];
            let bytes = if numbers.below(2) == 0 { edge.to_be_bytes() } else { edge.to_le_bytes() };
            out.iter_mut().skip(at).zip(bytes).for_each(|(byte, new)| *byte = new);
        }
        5 => {
            let edge = EDGES[numbers.below(EDGES.len())].to_be_bytes();
            let end = (at + 1).min(out.len());
            out.splice(at..end, [0x1b].into_iter().chain(edge));
        }
        _ => {
            if let Some(byte) = out.get_mut(at) {
                *byte ^= 1 << numbers.below(8);
            }
        }
    }
}
