//! Releases from the ministry's room to a county's: what is applied, what waits, what is refused.

use super::{
    Arrived, COUNTY, authority, day, decide, deliver, draft, file, order, place, publish, refused, room, split,
};
use crate::{Body, Dictionary, Error, PART_BYTES, Release, ReleaseOrder, Step, Summary};
use jincai_crypto::sha256;
use jincai_exchange::{Decision, Outgoing, Room};
use jincai_journal::{Blob, BlobWriter, Blobs, MemoryBlobs};
use jincai_types::{AuthorityId, Destination, Digest, Priority, Requirement, encode};
use proptest::prelude::*;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

const MINISTRY: AuthorityId = AuthorityId::MINISTRY;

/// Names that do not compress, so that a few thousand codes fill several parts.
fn noise(number: usize) -> String {
    sha256(&number.to_be_bytes()).to_string().repeat(3)
}

/// The manifest with another release in it.
fn altered(manifest: &Outgoing, change: impl FnOnce(&mut Release)) -> Outgoing {
    let mut release = Release::read(&manifest.payload).expect("a manifest");
    change(&mut release);
    Outgoing { payload: encode(&(1u8, &release)), ..manifest.clone() }
}

#[test]
fn releases_arrive_in_parts_and_end_on_the_same_root() {
    let (mut ministry, mut county) = (room(), room());
    let first = publish(&mut ministry, "divisions", &file(12_000, noise));
    assert!(first.release.parts().len() >= 2, "{}", first.release.parts().len());
    assert!(first.messages.iter().all(|m| m.payload.len() <= PART_BYTES));
    assert!(first.messages.iter().all(|m| m.attributes.check().is_ok()));
    assert!(first.messages.iter().all(|m| m.destination == Destination::Below(MINISTRY)));
    assert_eq!(first.messages.iter().filter(|m| m.class == Priority::Bulk).count(), first.release.parts().len());
    deliver(&mut county, &first);
    let second = publish(&mut ministry, "divisions", &file(12_001, |n| if n == 5 { "five".into() } else { noise(n) }));
    assert!(matches!(&second.release.body, Body::Inline(part) if part.len() < 400));
    let summary = Summary { added: 1, renamed: 1, changed: 1, ..Summary::default() };
    assert_eq!(second.release.summary, summary);
    deliver(&mut county, &second);
    assert_eq!(county.status(), ministry.status());
    assert_eq!(county.releases("national"), ministry.releases("national"));
    county.snapshot("national", None).expect("held").verify().expect("whole");
    let first = county.snapshot("national", Some(1)).expect("held");
    assert_eq!((first.count(), first.root()), (12_001, ministry.releases("national")[0].root));
    assert!(matches!(county.snapshot("national", Some(3)), Err(Error::UnknownRelease { .. })));
    assert_eq!(county.blobs_in_use().len(), 2);
}

#[test]
fn an_effect_replays_into_the_same_state() {
    let blobs = Arc::new(MemoryBlobs::default());
    let mut ministry = Dictionary::new(blobs.clone());
    let csv = file(50, |n| format!("n{n}"));
    let (import, _) = ministry.import("national", "s", "a set", &mut csv.as_bytes(), MINISTRY).expect("a good file");
    ministry.apply(&place(1), &import).expect("an effect");
    let staged = ministry.release(order("national"), MINISTRY, 7).expect("there are changes");
    ministry.apply(&place(2), &staged.effect).expect("an effect");
    let mut again = Dictionary::new(blobs);
    again.apply(&place(1), &import).expect("an effect");
    again.apply(&place(2), &staged.effect).expect("an effect");
    assert_eq!(again.status(), ministry.status());
    assert!(again.apply(&place(3), &staged.effect).is_err(), "a release twice is a bug");
    assert!(again.apply(&place(3), b"\xff").is_err());
    assert!(matches!(again.release(order("national"), MINISTRY, 8), Err(Error::NothingToRelease { .. })));
}

#[test]
fn gaps_and_missing_parts_wait_and_known_releases_are_refused() {
    let (mut ministry, mut county) = (room(), room());
    let first = publish(&mut ministry, "divisions", &file(12_000, noise));
    let second = publish(&mut ministry, "divisions", &file(12_001, noise));
    let third = publish(&mut ministry, "divisions", &file(12_002, noise));
    let before = |number| Requirement::Release { line: "national".into(), number };
    let (parts, manifest) = split(&third);
    let decision = decide(&mut county, MINISTRY, manifest, &parts);
    assert!(matches!(decision, Decision::Wait(r) if r == before(2)));
    assert_eq!(county.meets(&before(2)), Some(false));
    let (parts, manifest) = split(&first);
    let digest = *parts.0.keys().next().expect("a part");
    let missing = Arrived(parts.0.iter().filter(|(d, _)| **d != digest).map(|(d, p)| (*d, p.clone())).collect());
    let decision = decide(&mut county, MINISTRY, manifest, &missing);
    assert!(matches!(decision, Decision::Wait(Requirement::Bulk(d)) if d == digest));
    for staged in [&first, &second, &third] {
        deliver(&mut county, staged);
    }
    assert_eq!(county.meets(&before(3)), Some(true));
    assert_eq!(county.meets(&Requirement::Bulk(digest)), None);
    assert_eq!(refused(decide(&mut county, MINISTRY, manifest, &parts)), "JC-1412");
    let forked = altered(manifest, |release| release.root = Digest([1; 32]));
    assert_eq!(refused(decide(&mut county, MINISTRY, &forked, &parts)), "JC-1413");
}

#[test]
fn a_release_that_lies_is_refused_and_leaves_nothing() {
    let mut ministry = room();
    let staged = publish(&mut ministry, "divisions", &file(12_000, noise));
    let (parts, manifest) = split(&staged);
    let blobs = Arc::new(MemoryBlobs::default());
    let mut county = Dictionary::new(blobs.clone());
    let mut refuse = |manifest: &Outgoing, parts: &Arrived, code: &str| {
        assert_eq!(refused(decide(&mut county, MINISTRY, manifest, parts)), code);
        assert_eq!(blobs.list().expect("memory"), []);
        assert_eq!(county.status(), []);
    };
    refuse(&altered(manifest, |r| r.root = Digest([1; 32])), &parts, "JC-1407");
    refuse(&altered(manifest, |r| r.count += 1), &parts, "JC-1407");
    refuse(&altered(manifest, |r| r.parent = Digest([1; 32])), &parts, "JC-1406");
    refuse(&altered(manifest, |r| r.issuer = authority(COUNTY)), &parts, "JC-1408");
    refuse(&altered(manifest, |r| r.number = 0), &parts, "JC-1402");
    refuse(&altered(manifest, |r| r.line = "other".into()), &parts, "JC-1404");
    refuse(&altered(manifest, |r| r.note = "a\nb".into()), &parts, "JC-1402");
    let swap = |r: &mut Release| r.body = Body::Parts(r.parts().iter().rev().copied().collect());
    refuse(&altered(manifest, swap), &parts, "JC-1404");
    refuse(&altered(manifest, |r| r.body = Body::Parts(vec![Digest([3; 32])])), &parts, "JC-1404");
    refuse(&altered(manifest, |r| r.body = Body::Parts(vec![Digest([3; 32]); 256])), &parts, "JC-1414");
    let mut unknown = manifest.clone();
    unknown.attributes.kind = "jincai.dictionary.other".into();
    refuse(&unknown, &parts, "JC-1415");
    refuse(&Outgoing { payload: b"\x82".to_vec(), ..manifest.clone() }, &parts, "JC-1416");
    let foreign = decide(&mut room(), authority(COUNTY), manifest, &parts);
    assert_eq!(refused(foreign), "JC-1408");
}

#[test]
fn a_line_keeps_its_first_issuer() {
    let mut county = room();
    let csv = file(3, |n| format!("n{n}"));
    let issue = |own: AuthorityId, number: u64| {
        let mut room = room();
        let (effect, _) = room.import("local", "s", "n", &mut csv.as_bytes(), own).expect("a good file");
        room.apply(&place(1), &effect).expect("an effect");
        let mut staged = room.release(order("local"), own, 7).expect("there are changes");
        let manifest = staged.messages.pop().expect("a manifest");
        altered(&manifest, |release| release.number = number)
    };
    let province = authority("370000000");
    let first = issue(province, 1);
    assert_eq!(refused(decide(&mut county, MINISTRY, &first, &Arrived::default())), "JC-1408", "not its own");
    let Decision::Apply { effect, .. } = decide(&mut county, province, &first, &Arrived::default()) else {
        panic!("the first release settles the issuer");
    };
    county.apply(&place(1), &effect).expect("an effect");
    let rival = issue(MINISTRY, 2);
    assert_eq!(refused(decide(&mut county, MINISTRY, &rival, &Arrived::default())), "JC-1408");
    let import = county.import("local", "s", "n", &mut csv.as_bytes(), authority(COUNTY));
    assert!(matches!(import, Err(Error::NotIssuer { .. })));
}

#[test]
fn a_shrunken_release_needs_a_reason_at_both_ends() {
    let (mut ministry, mut county) = (room(), room());
    let name = |n: usize| format!("n{n}");
    deliver(&mut county, &publish(&mut ministry, "divisions", &file(2000, name)));
    draft(&mut ministry, "national", "divisions", &file(1300, name));
    let refusal = ministry.release(order("national"), MINISTRY, 7).expect_err("35 % would go");
    assert!(matches!(refusal, Error::Shrinks { held: 2001, removed: 700, .. }), "{refusal}");
    let reasoned = ReleaseOrder { reason: Some("counties were merged"), ..order("national") };
    let staged = ministry.release(reasoned, MINISTRY, 7).expect("it says why");
    let (parts, manifest) = split(&staged);
    let silent = altered(manifest, |release| release.reason = None);
    assert_eq!(refused(decide(&mut county, MINISTRY, &silent, &parts)), "JC-1410");
    deliver(&mut county, &staged);
    assert_eq!(county.status()[0].count, 1301);
    draft(&mut ministry, "national", "divisions", &file(1450, name));
    assert!(ministry.release(order("national"), MINISTRY, 7).is_ok(), "growing needs no reason");
}

#[test]
fn a_fault_of_the_node_makes_the_release_wait_not_fail() {
    let staged = publish(&mut room(), "divisions", &file(10, |n| format!("n{n}")));
    let blobs = Arc::new(Failing { inner: MemoryBlobs::default(), fails: AtomicBool::new(true) });
    let mut county = Dictionary::new(blobs.clone());
    let (parts, manifest) = split(&staged);
    let Decision::Wait(requirement) = decide(&mut county, MINISTRY, manifest, &parts) else {
        panic!("it must wait");
    };
    assert_eq!(county.meets(&requirement), Some(true), "or it would never be decided again");
    assert_eq!(county.obstacle().map(|o| o.code), Some("JC-1417"));
    blobs.fails.store(false, Ordering::Relaxed);
    deliver(&mut county, &staged);
    assert_eq!(county.obstacle(), None);
}

/// Blobs on a disk that refuses to create any, until told otherwise.
struct Failing {
    inner: MemoryBlobs,
    fails: AtomicBool,
}

impl Blobs for Failing {
    fn create(&self) -> Result<Box<dyn BlobWriter>, jincai_journal::Error> {
        if self.fails.load(Ordering::Relaxed) {
            // The store's own error for a blob that is not there stands for any other.
            self.inner.open(&Digest::ZERO)?;
        }
        self.inner.create()
    }

    fn open(&self, digest: &Digest) -> Result<Arc<dyn Blob>, jincai_journal::Error> {
        self.inner.open(digest)
    }

    fn list(&self) -> Result<Vec<Digest>, jincai_journal::Error> {
        self.inner.list()
    }

    fn remove(&self, digest: &Digest) -> Result<(), jincai_journal::Error> {
        self.inner.remove(digest)
    }
}

/// A manifest whose delta is these bytes.
fn manifest_of(body: Vec<u8>) -> Outgoing {
    let staged = publish(&mut room(), "s", "code,name,level,parent\n1,a,1,\n");
    altered(split(&staged).1, |release| release.body = Body::Inline(body))
}

/// A part's plain bytes in a zstd frame.
fn frame(plain: &[u8]) -> Vec<u8> {
    zstd::encode_all(plain, 3).expect("memory")
}

fn decide_body(body: Vec<u8>) -> Decision {
    decide(&mut room(), MINISTRY, &manifest_of(body), &Arrived::default())
}

#[test]
fn a_decompression_bomb_is_refused() {
    let header = encode(&(1u8, "national", 1u64, 0u64));
    let endless = [header, vec![0u8; 256 << 20]].concat();
    assert_eq!(refused(decide_body(frame(&endless))), "JC-1404");
    let add = |number: u32| encode(&(0u8, "s", format!("{number:06}"), "x".repeat(512), "1", ""));
    let operations = |count: u32| (0..count).flat_map(add).collect::<Vec<u8>>();
    let body = |count| frame(&[encode(&(1u8, "national", 1u64, 0u64)), operations(count)].concat());
    assert_eq!(refused(decide_body(body(1000))), "JC-1407", "the operations themselves are good");
    assert!(body(20_000).len() < 64 << 10);
    assert_eq!(refused(decide_body(body(20_000))), "JC-1414");
}

#[test]
fn bytes_behind_a_part_are_refused() {
    let staged = publish(&mut room(), "s", "code,name,level,parent\n1,a,1,\n");
    let Body::Inline(body) = &staged.release.body else {
        panic!("a small delta");
    };
    assert!(matches!(decide_body(body.clone()), Decision::Apply { .. }));
    assert_eq!(refused(decide_body([&body[..], b"x"].concat())), "JC-1404");
    assert_eq!(refused(decide_body([&body[..], &body[..]].concat())), "JC-1404");
    assert_eq!(refused(decide_body(body[..body.len() - 1].to_vec())), "JC-1404");
    assert_eq!(refused(decide_body(Vec::new())), "JC-1404");
}

#[test]
fn the_step_of_a_release_is_what_it_names() {
    let release = publish(&mut room(), "s", "code,name,level,parent\n1,a,1,\n").release;
    assert_eq!(release.step(), Step { base: crate::Snapshot::empty().root(), root: release.root, count: 1 });
    assert_eq!(release.effective_from, day());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_changed_byte_in_a_part_is_refused(at in any::<prop::sample::Index>(), mask in 1u8..=255) {
        let staged = publish(&mut room(), "s", &file(3000, noise));
        let (mut parts, manifest) = split(&staged);
        let part = parts.0.values_mut().next().expect("a part");
        let at = at.index(part.len());
        part[at] ^= mask;
        prop_assert_eq!(refused(decide(&mut room(), MINISTRY, manifest, &parts)), "JC-1404");
    }

    #[test]
    fn any_manifest_is_applied_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let staged = publish(&mut room(), "s", "code,name,level,parent\n1,a,1,\n");
        let manifest = Outgoing { payload: bytes, ..split(&staged).1.clone() };
        refused(decide(&mut room(), MINISTRY, &manifest, &Arrived::default()));
    }

    #[test]
    fn any_delta_is_applied_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200), framed in any::<bool>()) {
        let header = encode(&(1u8, "national", 1u64, 0u64));
        let body = if framed { frame(&[header, bytes].concat()) } else { bytes };
        refused(decide_body(body));
    }

    #[test]
    fn a_manifest_with_a_changed_byte_never_gives_another_state(at in any::<prop::sample::Index>(), mask in 1u8..=255) {
        let staged = publish(&mut room(), "s", "code,name,level,parent\n1,a,1,\n");
        let mut manifest = split(&staged).1.clone();
        let at = at.index(manifest.payload.len());
        manifest.payload[at] ^= mask;
        let mut county = room();
        if let Decision::Apply { effect, .. } = decide(&mut county, MINISTRY, &manifest, &Arrived::default()) {
            county.apply(&place(1), &effect).expect("an effect");
            prop_assert_eq!(county.status()[0].root, staged.release.root);
        }
    }
}
