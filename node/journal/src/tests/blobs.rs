//! Immutable files, in a directory and in memory, behave alike.

use crate::{Blobs, DirBlobs, Error, MemoryBlobs};
use jincai_types::Digest;

fn check(blobs: &dyn Blobs) {
    let bytes: Vec<u8> = (0..200_000u32).map(|at| (at % 251) as u8).collect();
    let mut writer = blobs.create().expect("begins");
    for piece in bytes.chunks(777) {
        writer.write(piece).expect("writes");
    }
    assert_eq!(writer.position(), 200_000);
    assert_eq!(blobs.list().expect("lists"), [], "what is unfinished cannot be seen");
    let digest = writer.finish().expect("finishes");
    let known = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855".parse();
    let empty = blobs.create().and_then(|writer| writer.finish()).expect("an empty file is one too");
    assert_eq!(Ok(empty), known);

    let blob = blobs.open(&digest).expect("opens");
    assert_eq!((blob.len(), blob.is_empty()), (200_000, false));
    let mut piece = [0; 1000];
    blob.read_at(123_456, &mut piece).expect("reads");
    assert_eq!(piece, bytes[123_456..124_456]);
    for offset in [199_001, 200_001, u64::MAX] {
        assert!(matches!(blob.read_at(offset, &mut piece), Err(Error::BlobRange { .. })), "{offset}");
    }

    let mut again = blobs.create().expect("begins");
    again.write(&bytes).expect("writes");
    assert_eq!(again.finish().expect("the same content is the same file"), digest);
    let mut listed = vec![digest, empty];
    listed.sort_unstable();
    assert_eq!(blobs.list().expect("lists"), listed);

    let mut dropped = blobs.create().expect("begins");
    dropped.write(b"never finished").expect("writes");
    drop(dropped);
    blobs.remove(&digest).expect("removes");
    blobs.remove(&digest).expect("twice is once");
    blob.read_at(0, &mut piece).expect("an open file can still be read");
    assert!(matches!(blobs.open(&digest).map(|_| ()), Err(Error::NoBlob { .. })));
    assert_eq!(blobs.list().expect("lists"), [empty]);
}

#[test]
fn a_directory_and_memory_behave_alike() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    check(&DirBlobs::open(&directory.path().join("files")).expect("opens"));
    check(&MemoryBlobs::new());
}

#[test]
fn what_a_dead_process_left_unfinished_is_removed_at_the_next_start() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let blobs = DirBlobs::open(directory.path()).expect("opens");
    let mut kept = blobs.create().expect("begins");
    kept.write(b"kept").expect("writes");
    let kept = kept.finish().expect("finishes");
    // A process that dies runs no destructor.
    std::mem::forget(blobs.create().expect("begins"));
    let count = || std::fs::read_dir(directory.path()).expect("lists").count();
    assert_eq!(count(), 2);
    let blobs = DirBlobs::open(directory.path()).expect("opens");
    assert_eq!(count(), 1);
    assert_eq!(blobs.list().expect("lists"), [kept]);
    assert!(blobs.open(&Digest::ZERO).is_err());
}
