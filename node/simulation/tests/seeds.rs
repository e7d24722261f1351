//! Worlds by seed: every invariant holds, and a seed repeats itself exactly.

use jincai_simulation::{Broken, FaultSet, Options, command, run, run_world};

fn check(options: &Options, seeds: std::ops::RangeInclusive<u64>) {
    let summary = run(options, seeds, |_, _| {});
    let show = |broken: &Broken| {
        let (lines, what) = (broken.lines.join("\n"), &broken.what);
        format!("{lines}\nseed {}: {what}\nrepeat with: {}\n", broken.seed, command(options, broken.seed))
    };
    assert!(summary.broken.is_empty(), "{}", summary.broken.iter().map(show).collect::<String>());
    assert!(summary.applied > summary.worlds * 20, "worlds in which nothing happens prove nothing: {summary:?}");
    let kinds = summary.faults.iter().filter(|_| options.faults == FaultSet::all() && summary.worlds > 50);
    for (fault, count) in kinds {
        assert!(count > 0, "{} worlds, and not one {fault}", summary.worlds);
    }
}

#[test]
fn a_world_without_faults_delivers_everything() {
    check(&Options { faults: FaultSet::none(), ..Options::default() }, 1..=3);
}

#[test]
fn two_hundred_worlds_with_faults_keep_the_invariants() {
    check(&Options::default(), 1..=200);
}

/// Worlds that once broke, named after what went wrong. What a seed means changes with every fault that is added: a unit
/// test stands beside the fix where one could be written.
#[test]
fn worlds_that_once_broke_keep_the_invariants() {
    for (seed, _what) in [
        (46, "a record was read while it waited for a slow disk"),
        (62, "a lane of which only later batches were taken back was forgotten when its destination was set back"),
        (74, "what an origin had signed since it was set back hid what it had signed before"),
        (94, "the word that a neighbour has room again was lost"),
        (178, "an origin that had refused a want before it knew of its file again was not told that this is over"),
        (207, "what a restored node lacked was held back because of what waited for it"),
        (265, "a slot was numbered by a clock that went back"),
        (533, "a neighbour's lie about what came before a batch kept a request from being passed on"),
        (743, "a restored node that crashed named the wrong epoch when it said that it was set back"),
        (921, "an offer that was given back late was not made again, and its transfer hung"),
        (994, "a restored node that knew no neighbour yet took itself for caught up"),
        (1604, "a forked lane kept a restored node waiting"),
        (1993, "a late batch was not given to a neighbour that had lost it"),
        (2545, "a window for a batch that never came stayed just below the next one"),
        (2925, "two epochs of one node had one number"),
        (3171, "what an origin took back overtook what it had of an older epoch"),
        (3380, "a node and the only neighbour that held its newest releases were set back together"),
        (3400, "what lay before a fork was not handed on by a relay that had forgotten it"),
        (3944, "what a relay holds for others was given to a destination into a custody that a restart forgot"),
        (4589, "a bit that means nothing was altered in a slot, which was taken for what it is"),
        (4892, "a restored node caught up on a full disk, and did not look for its files"),
        (5513, "a new epoch that came again passed what was in custody before it"),
        (5679, "a refusal reached a restored source before what was refused"),
        (5914, "what was signed between a restore and a loss of power hid what was signed before the restore"),
        (6154, "a disk that had room again was taken for full"),
        (6551, "what was lost before the first batch of a new epoch was not named to whoever lacked it"),
        (6571, "a neighbour that was set back later was not asked again for what it held"),
        (6953, "a neighbour's lie about what came before a batch outlived the neighbour's next word"),
        (7885, "one of several batches that were given back got lost, and was not missed"),
        (7988, "what a relay kept for a restored origin was forgotten at its restart"),
        (8717, "a fork was signed to a node that had no room to look at it"),
        (9070, "a world was called settled before a source had heard that its superior was set back"),
        (9197, "an origin that was never set back believed a receipt beyond what it had sent in an older epoch"),
    ] {
        check(&Options::default(), seed..=seed);
    }
}

#[test]
fn a_seed_repeats_itself() {
    let options = Options { trace: true, ..Options::default() };
    for seed in 1..=20 {
        let (once, again) = (run_world(&options, seed), run_world(&options, seed));
        assert!(once.lines.len() > 100, "seed {seed} has nothing to compare");
        let differs = once.lines.iter().zip(&again.lines).position(|(a, b)| a != b);
        assert_eq!(differs, None, "seed {seed} went another way");
        assert_eq!(once, again, "seed {seed}");
    }
}
