//! Runs every input of every corpus, and thousands of changed ones, with the same outcome on every run and machine.

use jincai_fuzz::mutate::{Numbers, mutate};
use jincai_fuzz::{TARGETS, Verdict, seeds, target};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::{fs, panic};

/// Changed inputs a target.
const CHANGED: usize = 4_000;

/// Tests run in their package's folder. (A path put in when they are built would be another checkout's where those share
/// what they build.)
fn corpus() -> PathBuf {
    PathBuf::from("corpus")
}

/// The inputs of a target by the names of their files, in order.
fn inputs(target: &str) -> BTreeMap<String, Vec<u8>> {
    let folder = corpus().join(target);
    let entries = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let named = entries.map(|entry| {
        let path = entry.expect("a directory entry").path();
        let name = path.file_name().expect("a file has a name").to_string_lossy().into_owned();
        (name, fs::read(&path).expect("a file of the corpus"))
    });
    named.collect()
}

/// Runs an input; a broken property names the input that shows it.
fn run(name: &str, shown: &str, bytes: &[u8]) -> Verdict {
    let target = target(name).expect("a target of that name");
    panic::catch_unwind(|| target(bytes)).unwrap_or_else(|_| {
        let kept = std::env::temp_dir().join(format!("jincai-fuzz-{name}"));
        fs::write(&kept, bytes).expect("a file for the input");
        panic!("{name}: {shown} breaks a property; the input is kept in {}", kept.display())
    })
}

#[test]
fn every_target_has_a_corpus_and_every_corpus_a_target() {
    let named: BTreeSet<String> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    let folders = fs::read_dir(corpus()).expect("the corpora");
    let found: BTreeSet<String> =
        folders.map(|entry| entry.expect("a directory entry").file_name().to_string_lossy().into_owned()).collect();
    assert_eq!(named, found);
    for name in &named {
        assert!(!inputs(name).is_empty(), "the corpus of {name} is empty");
    }
}

#[test]
fn the_corpora_hold_the_seeds_that_today_s_encoders_write() {
    for seed in seeds::all() {
        let (held, name) = (inputs(seed.target), seed.file());
        let same = held.get(&name).is_some_and(|bytes| *bytes == seed.bytes);
        assert!(same, "{}/{name} is out of date: cargo run -p jincai-fuzz --example seeds", seed.target);
        assert_eq!(run(seed.target, &name, &seed.bytes), seed.verdict, "{}/{name}", seed.target);
    }
}

#[test]
fn no_input_breaks_a_property() {
    for (name, _) in TARGETS {
        let inputs = inputs(name);
        for (file, bytes) in &inputs {
            run(name, file, bytes);
        }
        let files: Vec<&Vec<u8>> = inputs.values().collect();
        let mut numbers = Numbers::new(1);
        for turn in 0..CHANGED {
            let other = files[numbers.below(files.len())];
            let changed = mutate(files[turn % files.len()], other, &mut numbers);
            run(name, &format!("change {turn}"), &changed);
        }
    }
}
