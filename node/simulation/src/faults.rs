//! The kinds of faults: their names, which of them a run injects, and how many were injected.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// A kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Fault {
    /// A frame is lost.
    Loss,
    /// A frame arrives twice.
    Duplicate,
    /// A frame is overtaken by later ones.
    Reorder,
    /// Everything on a link takes up to two seconds longer for a while.
    Delay,
    /// An altered copy of a signed frame arrives first.
    Alter,
    /// An old signed frame arrives again.
    Replay,
    /// A connection ends and both sides notice.
    LinkBreak,
    /// For seconds nothing arrives in one direction, and nobody notices.
    OneWay,
    /// For seconds nothing arrives in either direction, and nobody notices.
    Partition,
    /// The power fails: unsynced writes are lost, torn or kept.
    Crash,
    /// The power fails right after somebody was told that a message is safe.
    CrashAfterAcknowledgement,
    /// A node is stopped in order and started again.
    Stop,
    /// A sync takes two seconds.
    SlowDisk,
    /// A sync fails; the node must stop.
    FailedSync,
    /// A bit of a stopped node's journal flips.
    BitRot,
    /// There is no more room on a disk, and later there is again.
    FullDisk,
    /// A clock jumps ahead or back by up to a year.
    ClockJump,
    /// A node is set back to an older copy of its disk.
    Restore,
    /// A neighbour says what is not true, in frames that nobody signed or that it signed itself.
    Lie,
    /// An origin signs two batches for one place.
    Fork,
    /// A neighbour signs for a batch that it does not hold, so that its custody ends.
    FalseCustody,
    /// An origin signs a batch that does not follow the one before it.
    FalseChain,
    /// A node signs for having applied what was never sent, or does not lead to it.
    FalseDelivery,
    /// A source signs figures that are not those of its rows.
    FalseTotals,
}

impl Fault {
    /// All kinds.
    pub const ALL: [Self; 24] = [
        Self::Loss,
        Self::Duplicate,
        Self::Reorder,
        Self::Delay,
        Self::Alter,
        Self::Replay,
        Self::LinkBreak,
        Self::OneWay,
        Self::Partition,
        Self::Crash,
        Self::CrashAfterAcknowledgement,
        Self::Stop,
        Self::SlowDisk,
        Self::FailedSync,
        Self::BitRot,
        Self::FullDisk,
        Self::ClockJump,
        Self::Restore,
        Self::Lie,
        Self::Fork,
        Self::FalseCustody,
        Self::FalseChain,
        Self::FalseDelivery,
        Self::FalseTotals,
    ];

    /// Its name, as [`FaultSet::parse`] takes it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Loss => "loss",
            Self::Duplicate => "duplicate",
            Self::Reorder => "reorder",
            Self::Delay => "delay",
            Self::Alter => "alter",
            Self::Replay => "replay",
            Self::LinkBreak => "link-break",
            Self::OneWay => "one-way",
            Self::Partition => "partition",
            Self::Crash => "crash",
            Self::CrashAfterAcknowledgement => "crash-after-acknowledgement",
            Self::Stop => "stop",
            Self::SlowDisk => "slow-disk",
            Self::FailedSync => "failed-sync",
            Self::BitRot => "bit-rot",
            Self::FullDisk => "full-disk",
            Self::ClockJump => "clock-jump",
            Self::Restore => "restore",
            Self::Lie => "lie",
            Self::Fork => "fork",
            Self::FalseCustody => "false-custody",
            Self::FalseChain => "false-chain",
            Self::FalseDelivery => "false-delivery",
            Self::FalseTotals => "false-totals",
        }
    }
}

/// Which kinds of faults are injected.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FaultSet(BTreeSet<Fault>);

impl FaultSet {
    /// Every kind.
    #[must_use]
    pub fn all() -> Self {
        Self(Fault::ALL.into_iter().collect())
    }

    /// No fault at all.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// Reads `all`, `none`, or names separated by commas.
    pub fn parse(text: &str) -> Result<Self, UnknownFault> {
        match text {
            "all" => return Ok(Self::all()),
            "none" => return Ok(Self::none()),
            _ => {}
        }
        let find = |name: &str| Fault::ALL.into_iter().find(|fault| fault.name() == name.trim());
        let named = text.split(',').map(|name| find(name).ok_or_else(|| UnknownFault(name.to_owned())));
        named.collect::<Result<_, _>>().map(Self)
    }

    /// What [`FaultSet::parse`] takes, for people.
    #[must_use]
    pub fn names() -> String {
        format!("all, none, or some of {}", Fault::ALL.map(Fault::name).join(", "))
    }

    /// Whether a kind is among them.
    #[must_use]
    pub fn has(&self, fault: Fault) -> bool {
        self.0.contains(&fault)
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Display for FaultSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.len() {
            0 => f.write_str("none"),
            n if n == Fault::ALL.len() => f.write_str("all"),
            _ => f.write_str(&self.0.iter().map(|fault| fault.name()).collect::<Vec<_>>().join(",")),
        }
    }
}

/// A name that no kind of fault has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownFault(String);

impl fmt::Display for UnknownFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "«{}» is no kind of fault; there are: {}", self.0, FaultSet::names())
    }
}

impl std::error::Error for UnknownFault {}

/// Faults injected, by kind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Faults(BTreeMap<Fault, u64>);

impl Faults {
    pub(crate) fn note(&mut self, fault: Fault) {
        *self.0.entry(fault).or_default() += 1;
    }

    /// How many of one kind.
    #[must_use]
    pub fn of(&self, fault: Fault) -> u64 {
        self.0.get(&fault).copied().unwrap_or(0)
    }

    /// All of them.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.0.values().sum()
    }

    /// Every kind with its name and number, zero included.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        Fault::ALL.into_iter().map(|fault| (fault.name(), self.of(fault)))
    }

    /// Adds another world's.
    pub fn add(&mut self, other: &Self) {
        for (fault, count) in &other.0 {
            *self.0.entry(*fault).or_default() += count;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_are_read_as_they_are_shown() {
        for text in ["all", "none", "loss", "loss,full-disk"] {
            assert_eq!(FaultSet::parse(text).map(|set| set.to_string()), Ok(text.to_owned()));
        }
        assert!(FaultSet::parse("loss,rain").is_err());
        assert!(FaultSet::parse("").is_err());
    }
}
