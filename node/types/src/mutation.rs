//! Switches that break the node on purpose, so that the simulator can be tested: for each of them it must find seeds that
//! break an invariant.
//!
//! They exist only with the feature `mutations`, which nothing but that test turns on; without it [`mutated`] is `false`
//! at compile time and nothing of a switch is left in the program.

/// What can be broken. One switch stands in the code for each, at the place that its line names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mutation {
    /// Core: frames leave before the records are durable that they tell of.
    SendBeforeDurable,
    /// Core: submitters hear that their message is safe when it was only appended.
    AcknowledgeBeforeDurable,
    /// Core: a message with a known id is applied again.
    ForgetKnownIds,
    /// Core: tables change before the record is durable that holds the rows.
    TableBeforeDurable,
    /// Storage: a part's new rows are shown together with those before them.
    MixVersions,
    /// Storage: the figures that a source signs are not held against its rows.
    TrustTotals,
    /// Exchange: no new epoch is opened after a restore.
    KeepEpochAfterRestore,
    /// Exchange: a lane of our own begins anew at every start.
    ReuseSequences,
    /// Exchange: batches are taken without a look at their signature.
    SkipSignatures,
    /// Exchange: a batch is taken although one before it is missing.
    IgnoreGaps,
    /// Exchange: a batch that is held already is taken again.
    SkipDuplicateCheck,
    /// Exchange: a batch that contradicts one that is held counts as its duplicate.
    DropForks,
    /// Exchange: the messages of a batch are applied in reverse.
    ReverseMessages,
    /// Exchange: an unsigned «durable» ends custody.
    ClearOnUnsignedDurable,
    /// Exchange: receipts leave before what they tell of is durable.
    ReceiptBeforeDurable,
    /// Exchange: a restart does not take into custody again what came from a neighbour.
    ForgetRelayCustody,
    /// Exchange: destinations that stay behind are not told where lanes end.
    TellNoEnds,
    /// Exchange: what a node signed for before it was set back goes on to count.
    KeepReceiptsOfRestored,
    /// Exchange: a destination's receipt is believed beyond its lane's end.
    BelieveReceipts,
    /// Exchange: a receipt list of an older epoch of the neighbour clears custody.
    TrustOldReceipts,
    /// Exchange: a window does not get back what is sent again.
    LoseCredit,
    /// Exchange: a snapshot does not name the records in custody as needed.
    ForgetCarried,
    /// Exchange: a snapshot forgets how far lanes are held.
    SnapshotLosesCursor,
    /// Exchange: a refused message leaves no record.
    DeadLetterUnrecorded,
    /// Exchange: an effect does not say which message caused it.
    EffectWithoutCause,
    /// Credit: a sender sends as if it had not heard what it was granted.
    IgnoreGrants,
    /// Credit: a sender never says what waits for a larger window.
    KeepDemandQuiet,
    /// Credit: a receiver never grants more than an even window.
    GrantNothingMore,
    /// Credit: a receiver grants as if its intake had no end.
    GrantBeyondIntake,
    /// Back-pressure: everything through the neighbour is held back, whatever hop it named.
    HoldBackEverything,
    /// Back-pressure: the other classes are held back, too.
    HoldOtherClasses,
    /// Back-pressure: groups are held back, too.
    HoldBackGroups,
    /// Back-pressure: what was held back once is so for ever.
    KeepHeldBack,
    /// Back-pressure: what is to be held back is sent nevertheless.
    SendHeldBack,
    /// Back-pressure: nobody's share has an end.
    IgnoreShare,
    /// Journal: a sync does nothing.
    SkipSync,
    /// Journal: a failed sync counts as done.
    IgnoreFailedSync,
    /// Journal: commits say that they are durable themselves.
    MarkBeforeSync,
    /// Journal: whole commits past the durable mark are dropped.
    CutWholeTail,
    /// Journal: damage below the durable mark is passed over.
    IgnoreDamage,
}

#[cfg(feature = "mutations")]
mod switch {
    use super::Mutation;
    use std::cell::Cell;

    impl Mutation {
        /// All of them.
        pub const ALL: [Self; 40] = [
            Self::SendBeforeDurable,
            Self::AcknowledgeBeforeDurable,
            Self::ForgetKnownIds,
            Self::TableBeforeDurable,
            Self::MixVersions,
            Self::TrustTotals,
            Self::KeepEpochAfterRestore,
            Self::ReuseSequences,
            Self::SkipSignatures,
            Self::IgnoreGaps,
            Self::SkipDuplicateCheck,
            Self::DropForks,
            Self::ReverseMessages,
            Self::ClearOnUnsignedDurable,
            Self::ReceiptBeforeDurable,
            Self::ForgetRelayCustody,
            Self::TellNoEnds,
            Self::KeepReceiptsOfRestored,
            Self::BelieveReceipts,
            Self::TrustOldReceipts,
            Self::LoseCredit,
            Self::ForgetCarried,
            Self::SnapshotLosesCursor,
            Self::DeadLetterUnrecorded,
            Self::EffectWithoutCause,
            Self::IgnoreGrants,
            Self::KeepDemandQuiet,
            Self::GrantNothingMore,
            Self::GrantBeyondIntake,
            Self::HoldBackEverything,
            Self::HoldOtherClasses,
            Self::HoldBackGroups,
            Self::KeepHeldBack,
            Self::SendHeldBack,
            Self::IgnoreShare,
            Self::SkipSync,
            Self::IgnoreFailedSync,
            Self::MarkBeforeSync,
            Self::CutWholeTail,
            Self::IgnoreDamage,
        ];

        /// Whether it breaks nothing but what is due when: what is sent too soon, too late or to too many at once is looked
        /// for where much is to be sent.
        #[must_use]
        pub fn is_of_load(self) -> bool {
            (Self::IgnoreGrants..=Self::IgnoreShare).contains(&self)
        }
    }

    thread_local! {
        static CURRENT: Cell<Option<Mutation>> = const { Cell::new(None) };
    }

    /// Breaks this thread's nodes in one way, or in none.
    pub fn mutate(mutation: Option<Mutation>) {
        CURRENT.set(mutation);
    }

    /// Whether this thread's nodes are broken in this way.
    #[must_use]
    pub fn mutated(mutation: Mutation) -> bool {
        CURRENT.get() == Some(mutation)
    }
}

#[cfg(feature = "mutations")]
pub use switch::{mutate, mutated};

/// Whether the node is broken in this way; never, without the feature `mutations`.
#[cfg(not(feature = "mutations"))]
#[must_use]
#[inline(always)]
pub const fn mutated(_: Mutation) -> bool {
    false
}
