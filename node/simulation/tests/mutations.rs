//! The simulator's own test: each way of breaking the node on purpose must break an invariant within a thousand seeds.

use jincai_simulation::{Options, run_world};
use jincai_types::{Mutation, mutate};

/// The first seed that catches a mutation, and what broke.
fn caught(options: &Options, mutation: Mutation) -> Option<(u64, String)> {
    mutate(Some(mutation));
    let found = (1..=1000).find_map(|seed| Some((seed, run_world(options, seed).broken.into_iter().next()?)));
    mutate(None);
    found
}

#[test]
fn every_mutation_is_caught_within_a_thousand_seeds() {
    let options = Options::default();
    let mut missed = Vec::new();
    for mutation in Mutation::ALL {
        let Some((seed, broken)) = caught(&options, mutation) else {
            missed.push(mutation);
            println!("{mutation:?}: not caught");
            continue;
        };
        println!("{mutation:?}: seed {seed}: {}", broken.chars().take(160).collect::<String>());
        assert_eq!(run_world(&options, seed).broken, Vec::<String>::new(), "seed {seed} without {mutation:?}");
    }
    assert!(missed.is_empty(), "not caught: {missed:?}");
}
