//! Snapshots and deltas against a plain map, with random content and random histories.

use crate::{Difference, Entry, Error, Operation, Snapshot, Step, apply, differences};
use jincai_journal::{Blob, Blobs, MemoryBlobs};
use jincai_types::Digest;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

type Model = BTreeMap<(String, String), Entry>;

/// An entry by number: a few sets, many codes, few names, so that edits meet.
fn entry(number: u16, name: u8) -> Entry {
    let set = ["a", "a.b", "b"][usize::from(number % 3)];
    let parent = if number.is_multiple_of(5) { String::new() } else { format!("{}", number % 7) };
    Entry { set: set.into(), code: format!("{number}"), name: format!("n{}", name % 4), level: "1".into(), parent }
}

fn model_of(edits: &[(u16, u8)]) -> Model {
    let entries = edits.iter().map(|(number, name)| entry(*number, *name));
    entries.map(|e| ((e.set.clone(), e.code.clone()), e)).collect()
}

/// The operations between two models, found without the code under test.
fn operations(old: &Model, new: &Model) -> Vec<Operation> {
    let mut keys: Vec<_> = old.keys().chain(new.keys()).collect();
    keys.sort();
    keys.dedup();
    let operation = |key: &&(String, String)| match (old.get(*key), new.get(*key)) {
        (Some(_), None) => Some(Operation::Remove { set: key.0.clone(), code: key.1.clone() }),
        (None, Some(entry)) => Some(Operation::Add(entry.clone())),
        (Some(before), Some(after)) if before != after => Some(Operation::Change(after.clone())),
        _ => None,
    };
    keys.iter().filter_map(operation).collect()
}

fn blobs() -> MemoryBlobs {
    MemoryBlobs::default()
}

/// A snapshot of a model, and the digest of its blob, made in one step from nothing.
fn build(model: &Model, blobs: &MemoryBlobs) -> (Snapshot, Digest) {
    advance(&Snapshot::empty(), &Model::new(), model, blobs)
}

/// Applies the model's operations; the promise is learnt from the refusal of an empty one.
fn advance(old: &Snapshot, from: &Model, to: &Model, blobs: &MemoryBlobs) -> (Snapshot, Digest) {
    let steps = || operations(from, to).into_iter().map(Ok);
    let guess = Step { base: old.root(), root: Digest::ZERO, count: 0 };
    let Err(Error::WrongResult { made, made_count, .. }) = apply(old, &guess, steps(), blobs) else {
        panic!("no snapshot has the root zero");
    };
    let step = Step { root: made, count: made_count, ..guess };
    let written = apply(old, &step, steps(), blobs).expect("the operations fit");
    (Snapshot::open(blobs.open(&written.blob).expect("just written")).expect("whole"), written.blob)
}

fn entries(snapshot: &Snapshot) -> Vec<Entry> {
    snapshot.iter().map(|entry| entry.expect("readable")).collect()
}

fn edits(most: usize) -> impl Strategy<Value = Vec<(u16, u8)>> {
    proptest::collection::vec((0u16..4000, any::<u8>()), 0..most)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn the_root_depends_on_the_entries_alone(end in edits(1500), detours in proptest::collection::vec(edits(900), 0..4)) {
        let blobs = blobs();
        let end = model_of(&end);
        let (direct, blob) = build(&end, &blobs);
        let (mut at, mut model) = (Snapshot::empty(), Model::new());
        for detour in detours.iter().map(|detour| model_of(detour)).chain([end.clone()]) {
            at = advance(&at, &model, &detour, &blobs).0;
            model = detour;
        }
        prop_assert_eq!(at.root(), direct.root());
        prop_assert_eq!(at.count(), end.len() as u64);
        prop_assert_eq!(entries(&at), end.values().cloned().collect::<Vec<_>>());
        at.verify().expect("whole");
        let (_, again) = advance(&at, &end, &end, &blobs);
        prop_assert_eq!(again, blob, "equal entries, equal blobs");
    }

    #[test]
    fn a_difference_applied_gives_the_new_snapshot(base in edits(1500), edit in edits(60), gone in 0u16..4000) {
        let blobs = blobs();
        let old = model_of(&base);
        let mut new = old.clone();
        new.extend(model_of(&edit));
        new.retain(|_, e| !e.code.ends_with(&gone.to_string()));
        let (a, b) = (build(&old, &blobs).0, build(&new, &blobs).0);
        let found: Vec<Operation> =
            differences(&a, &b).map(|d| d.expect("readable").into_operation()).collect();
        prop_assert_eq!(&found, &operations(&old, &new));
        let step = Step { base: a.root(), root: b.root(), count: b.count() };
        let applied = apply(&a, &step, found.into_iter().map(Ok), &blobs).expect("the operations fit");
        prop_assert_eq!(applied.root, b.root());
    }

    #[test]
    fn look_ups_agree_with_a_map(base in edits(1500), wanted in 0u16..4000) {
        let model = model_of(&base);
        let snapshot = build(&model, &blobs()).0;
        let wanted = entry(wanted, 0);
        let key = (wanted.set.clone(), wanted.code.clone());
        prop_assert_eq!(snapshot.get(&key.0, &key.1).expect("readable"), model.get(&key).cloned());
        let owned = |found: Vec<Result<Entry, Error>>| found.into_iter().map(|e| e.expect("readable")).collect::<Vec<_>>();
        let expect = |keep: &dyn Fn(&Entry) -> bool| model.values().filter(|e| keep(e)).cloned().collect::<Vec<_>>();
        prop_assert_eq!(
            owned(snapshot.children(&wanted.set, &wanted.parent).collect()),
            expect(&|e| e.set == wanted.set && e.parent == wanted.parent)
        );
        prop_assert_eq!(
            owned(snapshot.range_from(&key.0, &key.1).collect()),
            expect(&|e| (&e.set, &e.code) >= (&key.0, &key.1))
        );
        prop_assert_eq!(owned(snapshot.entries_of(&key.0).collect()), expect(&|e| e.set == key.0));
    }

    #[test]
    fn a_changed_byte_in_a_blob_is_found(base in edits(400), at in any::<prop::sample::Index>(), mask in 1u8..=255) {
        let blobs = blobs();
        let (_, blob) = build(&model_of(&base), &blobs);
        let good = blobs.open(&blob).expect("just written");
        let mut bytes = vec![0; usize::try_from(good.len()).expect("small")];
        good.read_at(0, &mut bytes).expect("readable");
        let at = at.index(bytes.len());
        bytes[at] ^= mask;
        let checked = Snapshot::open(hold(&bytes)).and_then(|snapshot| snapshot.verify());
        prop_assert!(checked.is_err(), "byte {} of {}", at, bytes.len());
    }

    #[test]
    fn any_bytes_open_or_are_refused(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(Snapshot::open(hold(&bytes)).is_err());
    }
}

/// Some bytes as a blob.
fn hold(bytes: &[u8]) -> Arc<dyn Blob> {
    let blobs = blobs();
    let mut writer = blobs.create().expect("memory");
    writer.write(bytes).expect("memory");
    blobs.open(&writer.finish().expect("memory")).expect("just written")
}

#[test]
fn operations_that_do_not_fit_are_refused_and_leave_nothing() {
    let blobs = blobs();
    let model = model_of(&[(1, 0), (2, 0)]);
    let (snapshot, _) = build(&model, &blobs);
    let held = blobs.list().expect("memory").len();
    let refuse = |operations: Vec<Operation>| {
        let step = Step { base: snapshot.root(), root: Digest::ZERO, count: 0 };
        let refused = apply(&snapshot, &step, operations.into_iter().map(Ok), &blobs).map(drop);
        assert_eq!(blobs.list().expect("memory").len(), held);
        refused.expect_err("refused").code()
    };
    let remove = |number| {
        let entry = entry(number, 0);
        Operation::Remove { set: entry.set, code: entry.code }
    };
    assert_eq!(refuse(vec![Operation::Add(entry(1, 1))]), "JC-1405");
    assert_eq!(refuse(vec![Operation::Change(entry(1, 0))]), "JC-1405");
    assert_eq!(refuse(vec![Operation::Change(entry(3, 0))]), "JC-1405");
    assert_eq!(refuse(vec![remove(3)]), "JC-1405");
    assert_eq!(refuse(vec![remove(2), remove(1)]), "JC-1404");
    assert_eq!(refuse(vec![remove(1), Operation::Add(entry(1, 1))]), "JC-1404");
    assert_eq!(refuse(vec![remove(1)]), "JC-1407");
    let step = Step { base: Digest::ZERO, root: Digest::ZERO, count: 0 };
    let wrong = apply(&snapshot, &step, std::iter::empty(), &blobs).expect_err("another base");
    assert_eq!(wrong.code(), "JC-1406");
}

#[test]
fn pages_are_passed_where_nothing_differs() {
    let blobs = blobs();
    let old: Model = model_of(&(0..4000).map(|n| (n, 0)).collect::<Vec<_>>());
    let mut new = old.clone();
    new.extend(model_of(&[(2000, 1)]));
    let (a, (b, blob)) = (build(&old, &blobs).0, build(&new, &blobs));
    let counting = Arc::new(Counting { inner: blobs.open(&blob).expect("held"), read: AtomicU64::new(0) });
    let watched = Snapshot::open(Arc::clone(&counting) as Arc<dyn Blob>).expect("whole");
    let opened = counting.read.load(Ordering::Relaxed);
    let found: Vec<_> = differences(&a, &watched).map(|d| d.expect("readable")).collect();
    assert!(matches!(&found[..], [Difference::Changed { after, .. }] if after.code == "2000"));
    let read = counting.read.load(Ordering::Relaxed) - opened;
    assert!(read < counting.inner.len() / 8, "{read} bytes read of {}", counting.inner.len());
    assert_eq!(watched.root(), b.root());
}

/// A blob that counts the bytes that are read from it.
struct Counting {
    inner: Arc<dyn Blob>,
    read: AtomicU64,
}

impl Blob for Counting {
    fn len(&self) -> u64 {
        self.inner.len()
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<(), jincai_journal::Error> {
        self.read.fetch_add(buffer.len() as u64, Ordering::Relaxed);
        self.inner.read_at(offset, buffer)
    }
}
