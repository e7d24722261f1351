//! Code sets: files, manifests, deltas and snapshots.

use crate::Verdict;
use crate::read::Input;
use crate::world::{NOW, NoParts, delivery, world};
use jincai_dictionary::{
    Body, Dictionary, Entry, Operation, RELEASE_KIND, Release, ReleaseOrder, Snapshot, Step, apply, limits,
    snapshot_of_csv,
};
use jincai_exchange::{Decision, Place, Room};
use jincai_journal::{Blobs, MemoryBlobs};
use jincai_types::{Attributes, Destination, Digest, Lane, Priority, encode};
use minicbor::Encoder;
use std::sync::{Arc, LazyLock};

/// The line of every release here.
pub(crate) const LINE: &str = "national";
const SET: &str = "REGION";
/// A snapshot's first and last bytes.
const MAGIC: &[u8] = b"jincaiD1";
/// What a file of the first release holds.
pub(crate) const CODES: &str =
    "code,name,level,parent\n37,Shandong,1,\n3705,Dongying,2,37\n370502,\"Dongying, town\",3,3705\n11,Beijing,1,\n";

/// A file of codes.
pub(crate) fn codes(mut bytes: &[u8]) -> Verdict {
    let lines = bytes.iter().filter(|byte| **byte == b'\n').count() as u64 + 1;
    let Ok(snapshot) = snapshot_of_csv(SET, &mut bytes, &MemoryBlobs::new()) else { return Verdict::Refused };
    snapshot.verify().expect("what is imported is whole");
    assert!((1..lines).contains(&snapshot.count()), "a row is one code");
    let entries = entries(&snapshot);
    for entry in entries.iter().filter(|entry| !entry.parent.is_empty()) {
        assert!(snapshot.get(SET, &entry.parent).expect("readable").is_some(), "the parent is there");
    }
    same_root(&snapshot, entries);
    Verdict::Accepted
}

fn entries(snapshot: &Snapshot) -> Vec<Entry> {
    let entries: Vec<Entry> = snapshot.iter().collect::<Result<_, _>>().expect("a whole snapshot can be read");
    assert!(entries.is_sorted_by(|a, b| (&a.set, &a.code) < (&b.set, &b.code)));
    assert_eq!(entries.iter().filter(|entry| !entry.is_set()).count() as u64, snapshot.count());
    for entry in &entries {
        assert_eq!(snapshot.get(&entry.set, &entry.code).expect("readable").as_ref(), Some(entry));
        assert!(entry.name.len() <= limits::NAME_BYTES && entry.code.len() <= limits::CODE_BYTES);
    }
    entries
}

/// Equal entries have equal roots, whatever way led to them.
fn same_root(snapshot: &Snapshot, entries: Vec<Entry>) {
    let (blobs, empty) = (MemoryBlobs::new(), Snapshot::empty());
    let step = Step { base: empty.root(), root: snapshot.root(), count: snapshot.count() };
    let added = entries.into_iter().map(|entry| Ok(Operation::Add(entry)));
    let written = apply(&empty, &step, added, &blobs).expect("the same entries give the same root");
    assert_eq!((written.root, written.count), (snapshot.root(), snapshot.count()));
}

/// A manifest.
pub(crate) fn release(bytes: &[u8]) -> Verdict {
    let Ok(release) = Release::read(bytes) else { return Verdict::Refused };
    assert_eq!(encode(&(1u8, &release)), bytes);
    assert!(release.number > 0 && release.parts().len() <= jincai_dictionary::PARTS);
    Verdict::Accepted
}

/// A node that holds the first release, and how it came to.
struct Held {
    blobs: MemoryBlobs,
    effects: Vec<Vec<u8>>,
}

fn held() -> &'static Held {
    static HELD: LazyLock<Held> = LazyLock::new(|| {
        let (blobs, own) = (MemoryBlobs::new(), world().ids[0]);
        let mut dictionary = Dictionary::new(Arc::new(blobs.clone()));
        let (draft, _) = dictionary.import(LINE, SET, "regions", &mut CODES.as_bytes(), own).expect("a good file");
        apply_effect(&mut dictionary, &draft);
        let order = ReleaseOrder { line: LINE, effective_from: day(), note: "", reason: None };
        let staged = dictionary.release(order, own, NOW).expect("there is a draft");
        Held { blobs, effects: vec![staged.effect] }
    });
    &HELD
}

/// A day.
pub(crate) fn day() -> jincai_types::Date {
    jincai_types::Date::new(2026, 1, 1).expect("it exists")
}

fn apply_effect(dictionary: &mut Dictionary, effect: &[u8]) {
    dictionary.apply(&Place { number: 1, offset: 0, cause: None }, effect).expect("what was decided applies");
}

/// Which release a part of [`delta`] belongs to, and how it stands in the input.
pub(crate) mod part {
    /// To the second release and not to the first.
    pub(crate) const SECOND: u8 = 1;
    /// As it travels; if not, operations alone, which get their header and are compressed here.
    pub(crate) const WHOLE: u8 = 2;
}

/// A delta's part, in a release that promises what it gives.
pub(crate) fn delta(bytes: &[u8]) -> Verdict {
    let mut input = Input(bytes);
    let choice = input.byte();
    let second = choice & part::SECOND != 0;
    let blobs = held().blobs.copy();
    let mut dictionary = Dictionary::new(Arc::new(blobs));
    held().effects.iter().filter(|_| second).for_each(|effect| apply_effect(&mut dictionary, effect));
    let base = dictionary.snapshot(LINE, None).unwrap_or_else(|_| Arc::new(Snapshot::empty()));
    let number = 1 + u64::from(second);
    let part = if choice & part::WHOLE != 0 { input.0.to_vec() } else { compressed(number, input.0) };
    let mut release = release_of(number, base.root(), part);
    // What it gives is said by the refusal of the first attempt.
    let Decision::Refuse(refusal) = decide(&mut dictionary, &release) else { return Verdict::Refused };
    let Some((root, count)) = refusal.reason.split_once("but gives ").and_then(|(_, made)| made.split_once(" with "))
    else {
        return Verdict::Refused;
    };
    (release.root, release.count) = (root.parse().expect("a root"), count.parse().expect("a number"));
    let Decision::Apply { effect, .. } = decide(&mut dictionary, &release) else {
        panic!("a release that promises what it gives is refused");
    };
    apply_effect(&mut dictionary, &effect);
    let snapshot = dictionary.snapshot(LINE, None).expect("it is held now");
    snapshot.verify().expect("what is applied is whole");
    assert_eq!((snapshot.root(), snapshot.count()), (release.root, release.count));
    same_root(&snapshot, entries(&snapshot));
    Verdict::Accepted
}

fn release_of(number: u64, parent: Digest, part: Vec<u8>) -> Release {
    Release {
        line: LINE.into(),
        issuer: world().ids[0],
        number,
        parent,
        root: Digest([1; 32]),
        count: 0,
        effective_from: day(),
        note: String::new(),
        reason: Some("it may remove much".into()),
        summary: Default::default(),
        body: Body::Inline(part),
    }
}

fn compressed(number: u64, operations: &[u8]) -> Vec<u8> {
    let mut plain = Vec::new();
    let header = Encoder::new(&mut plain).array(4).and_then(|e| e.u8(1)?.str(LINE)?.u64(number)?.u64(0).map(drop));
    header.expect("a Vec never refuses a write");
    plain.extend_from_slice(operations);
    zstd::encode_all(plain.as_slice(), 1).expect("from memory into memory")
}

fn decide(dictionary: &mut Dictionary, release: &Release) -> Decision {
    let origin = world().ids[0];
    let payload = encode(&(1u8, release));
    let attributes = Attributes { kind: RELEASE_KIND.into(), ..Attributes::default() };
    let lane = Lane { origin, destination: Destination::Below(origin), class: Priority::Record };
    dictionary.decide(NOW, &delivery(lane, &attributes, &payload), &NoParts)
}

/// A snapshot: as it lies on the disk, or its pages alone, for which index, root and footer are made here.
pub(crate) fn snapshot(bytes: &[u8]) -> Verdict {
    let mut input = Input(bytes);
    let content = if input.byte() == 0 { input.0.to_vec() } else { assembled(&mut input) };
    let blobs = MemoryBlobs::new();
    let mut writer = blobs.create().expect("memory takes it");
    writer.write(&content).expect("memory takes it");
    let blob = writer.finish().and_then(|digest| blobs.open(&digest)).expect("it is there");
    let Ok(snapshot) = Snapshot::open(blob) else { return Verdict::Refused };
    // Pages are checked when they are read: until then nothing but errors may come of them.
    let (found, sets) = (snapshot.get(SET, "37"), snapshot.sets());
    if snapshot.verify().is_err() {
        return Verdict::Refused;
    }
    assert!(found.is_ok() && sets.is_ok());
    same_root(&snapshot, entries(&snapshot));
    Verdict::Accepted
}

/// A snapshot of pages: each a number of entries and their bytes.
fn assembled(input: &mut Input<'_>) -> Vec<u8> {
    let codes = u64::from(input.short());
    let (mut pages, mut index, mut leaves, mut all) = (MAGIC.to_vec(), Vec::new(), Vec::new(), 0);
    while !input.is_empty() && leaves.len() < 64 {
        let (entries, page) = (input.short(), input.piece());
        let mut decoder = minicbor::Decoder::new(page);
        let mut text = || decoder.array().and_then(|_| Ok((decoder.str()?.to_owned(), decoder.str()?.to_owned())));
        let (set, code) = text().unwrap_or_default();
        let digest = jincai_crypto::Hasher::default().with(&[0]).with(page).finish();
        let bytes = u32::try_from(page.len()).unwrap_or(u32::MAX);
        let written = Encoder::new(&mut index)
            .array(5)
            .and_then(|e| e.str(&set)?.str(&code)?.u32(bytes)?.encode(digest)?.u16(entries).map(drop));
        written.expect("a Vec never refuses a write");
        pages.extend_from_slice(page);
        leaves.push(digest);
        all += u64::from(entries);
    }
    let root = jincai_crypto::Hasher::default()
        .with(b"jincai dictionary snapshot 1")
        .with(&codes.to_be_bytes())
        .with(&jincai_crypto::merkle_root(&leaves).0)
        .finish();
    let mut footer: Vec<u8> = [index.len() as u64, all, codes].iter().flat_map(|number| number.to_be_bytes()).collect();
    footer.extend_from_slice(&root.0);
    let digest = jincai_crypto::Hasher::default().with(&index).with(&footer).finish();
    [&pages[..], &index, &footer, &digest.0, MAGIC].concat()
}
