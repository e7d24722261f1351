//! Worlds by seed: every invariant holds, and a seed repeats itself exactly.

use jincai_simulation::{Options, run, run_world};

fn check(options: &Options, seeds: std::ops::RangeInclusive<u64>) {
    let summary = run(options, seeds, |_, _| {});
    assert!(
        summary.broken.is_empty(),
        "repeat with `jincai sim --nodes {} --seeds N..N`: {:#?}",
        options.nodes,
        summary.broken
    );
    assert!(summary.applied > summary.worlds * 20, "worlds in which nothing happens prove nothing: {summary:?}");
}

#[test]
fn a_world_without_faults_delivers_everything() {
    check(&Options { faults: false, ..Options::default() }, 1..=3);
}

#[test]
fn two_hundred_worlds_with_faults_keep_the_invariants() {
    check(&Options::default(), 1..=200);
}

#[test]
fn a_seed_repeats_itself() {
    for seed in 1..=5 {
        assert_eq!(run_world(&Options::default(), seed), run_world(&Options::default(), seed), "seed {seed}");
    }
}
