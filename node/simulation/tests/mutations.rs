//! The simulator's own test: each way of breaking the node on purpose must break an invariant within a thousand
//! seeds; what it breaks may be only what is due when, which worlds of much load show.

use jincai_simulation::{Options, load, run_world};
use jincai_types::{Mutation, mutate};
use std::panic::{catch_unwind, set_hook, take_hook};

/// What breaks in a world, or in those of much load; a broken `assert!` counts too.
fn broken(options: &Options, seed: u64, of_load: bool) -> Option<String> {
    let worlds = || if of_load { load(seed) } else { run_world(options, seed).broken };
    let run = catch_unwind(|| worlds().into_iter().next());
    run.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
        Some(format!("assertion: {}", text.or_else(|| panic.downcast_ref().cloned()).unwrap_or_default()))
    })
}

#[test]
fn every_mutation_is_caught_within_a_thousand_seeds() {
    let options = Options::default();
    let hook = take_hook();
    // Assertions that break on purpose would fill the screen.
    set_hook(Box::new(|_| {}));
    let mut failures = Vec::new();
    for mutation in Mutation::ALL {
        mutate(Some(mutation));
        let of_load = mutation.is_of_load();
        let seeds = if of_load { 1 } else { 1000 };
        let caught = (1..=seeds).find_map(|seed| Some((seed, broken(&options, seed, of_load)?)));
        mutate(None);
        let Some((seed, what)) = caught else {
            println!("{mutation:?}: not caught");
            failures.push(format!("{mutation:?} is not caught"));
            continue;
        };
        println!("{mutation:?}: seed {seed}: {}", what.chars().take(160).collect::<String>());
        if let Some(what) = broken(&options, seed, of_load) {
            failures.push(format!("seed {seed} fails without {mutation:?} too: {what}"));
        }
    }
    set_hook(hook);
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}
