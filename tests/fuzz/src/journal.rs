//! The journal over disks that hold anything: nothing panics, and what opens can be read.
//!
//! An input edits a small valid journal: bytes, blocks, files. It may have checksums made good afterwards, and the chain of
//! hashes, so that what the bytes say is looked at and not only that they were changed. While it has not, every record that
//! is read must be one that was written.

use crate::Verdict;
use crate::read::Input;
use crate::world::NOW;
use bytes::Bytes;
use jincai_journal::{
    Base, Blobs, Config, Disk, Engine, Log, MemoryBlobs, MemoryDisk, Record, Stored, Urgency, prepare_base,
    read_snapshot, verify, write_carried,
};
use jincai_types::{Digest, RecordNumber};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, LazyLock};

const BLOCK: usize = 4096;
const HEADER: usize = 128;
/// Most edits of one input.
const EDITS: usize = 32;

/// What an edit does; see [`Image::edit`].
pub(crate) mod edit {
    pub(crate) const NUMBER: u8 = 0;
    pub(crate) const BYTES: u8 = 1;
    pub(crate) const TRUNCATE: u8 = 2;
    pub(crate) const REMOVE: u8 = 3;
    pub(crate) const RENAME: u8 = 4;
    pub(crate) const COPY_BLOCK: u8 = 5;
    pub(crate) const CREATE: u8 = 6;
    /// From here on checksums are made good at the end.
    pub(crate) const SEAL: u8 = 7;
    /// The chain of hashes, too.
    pub(crate) const CHAIN: u8 = 8;
    pub(crate) const COUNT: u8 = 9;
}

/// A stopped journal: its files, the files that its base names, and every record that was written.
#[derive(Clone)]
struct Image {
    files: BTreeMap<String, Vec<u8>>,
    blobs: MemoryBlobs,
    records: BTreeMap<RecordNumber, Stored>,
}

fn config() -> Config {
    Config { segment_bytes: 16 << 10, cache_bytes: 0, reserve: 0, shard: 0, salt: 7 }
}

fn record(number: u64) -> Record {
    let payload: Vec<u8> = (0..40 + number * 13 % 200).map(|at| (number * 31 + at * 7) as u8).collect();
    Record { kind: (number % 5) as u16, payload: Bytes::from(payload) }
}

/// The journals that inputs edit: after a clean end without a base, and after a power cut with one.
fn images() -> &'static [Image; 2] {
    static IMAGES: LazyLock<[Image; 2]> = LazyLock::new(|| [make(false), make(true)]);
    &IMAGES
}

fn make(with_base: bool) -> Image {
    let (disk, blobs) = (MemoryDisk::new(), MemoryBlobs::new());
    let open = Engine::open(disk.clone(), Arc::new(blobs.clone()), config());
    let (mut engine, _) = open.expect("an empty disk opens");
    let mut records = BTreeMap::new();
    for turn in 0..7u64 {
        let batch: Vec<Record> = (turn * 3 + 1..turn * 3 + 4).map(record).collect();
        let last = engine.append(NOW + turn, &batch, Urgency::Normal).expect("there is room");
        for (record, number) in batch.into_iter().zip(last - 2..) {
            records.insert(number, Stored { number, kind: record.kind, payload: record.payload });
        }
        engine.sync().expect("memory syncs");
        if with_base && turn == 4 {
            let live = BTreeSet::from([2, 9]);
            let base = prepare_base(&engine.reader(), &blobs, last, b"snapshot", &live).expect("a base");
            engine.checkpoint(NOW, base).expect("it is taken");
        }
    }
    if !with_base {
        engine.close(NOW).expect("a clean end");
    }
    Image { files: files_of(&disk), blobs, records }
}

fn files_of(disk: &MemoryDisk) -> BTreeMap<String, Vec<u8>> {
    let read = |name: String| {
        let file = disk.open(&name).expect("it was listed");
        let mut bytes = vec![0; usize::try_from(file.length().expect("a length")).expect("small")];
        file.read_at(0, &mut bytes).expect("memory reads");
        (name, bytes)
    };
    disk.list().expect("memory lists").into_iter().map(read).collect()
}

/// A journal of edited files.
pub(crate) fn journal(bytes: &[u8]) -> Verdict {
    let mut input = Input(bytes);
    let mut image = images()[usize::from(input.byte() % 2)].clone();
    let (mut sealed, mut chained) = (false, false);
    for _ in 0..EDITS {
        if input.is_empty() {
            break;
        }
        match input.byte() % edit::COUNT {
            edit::SEAL => sealed = true,
            edit::CHAIN => chained = true,
            edit => image.edit(edit, &mut input),
        }
    }
    if sealed || chained {
        image.seal(chained);
        // Whoever makes checksums can write records.
        image.records.clear();
    }
    image.look()
}

impl Image {
    /// An edit of the file at a place in their order, at an offset counted round.
    fn edit(&mut self, edit: u8, input: &mut Input<'_>) {
        let (at, offset) = (usize::from(input.byte()), usize::from(input.short()));
        let Some(name) = self.files.keys().nth(at % self.files.len().max(1)).cloned() else { return };
        let bytes = self.files.get_mut(&name).expect("one of its names");
        let offset = offset % bytes.len().max(1);
        match edit {
            edit::NUMBER | edit::BYTES => {
                let new = if edit == edit::NUMBER { input.take(8) } else { input.piece().to_vec() };
                bytes.iter_mut().skip(offset).zip(new).for_each(|(byte, new)| *byte = new);
            }
            edit::TRUNCATE => bytes.truncate(offset),
            edit::REMOVE => drop(self.files.remove(&name)),
            edit::RENAME => {
                let to = format!("{:016x}.segment", u64::from_le_bytes(input.take(8).try_into().expect("eight")));
                let content = self.files.remove(&name).expect("one of its names");
                self.files.insert(to, content);
            }
            edit::COPY_BLOCK => {
                let (from, to) = (usize::from(input.byte()) * BLOCK, offset / BLOCK * BLOCK);
                let block: Vec<u8> = bytes.iter().skip(from).take(BLOCK).copied().collect();
                bytes.iter_mut().skip(to).zip(block).for_each(|(byte, new)| *byte = new);
            }
            _ => {
                let new = String::from_utf8_lossy(input.piece()).into_owned();
                self.files.insert(new, input.piece().to_vec());
            }
        }
    }

    /// Makes the checksums of HEAD, segments, commits, records and bases good; and the chain, if it is asked for.
    fn seal(&mut self, chained: bool) {
        let mut hash: Option<[u8; 32]> = None;
        for (name, bytes) in &mut self.files {
            if name == "HEAD" && bytes.len() == 32 {
                put_crc(bytes, 8, 12, 32);
            }
            let Some(header) = bytes.get_mut(..HEADER).filter(|_| name.ends_with(".segment")) else { continue };
            if let Some(hash) = hash.filter(|_| chained) {
                header[72..104].copy_from_slice(&hash);
            }
            put_crc(header, 8, 12, HEADER);
            let mut at = BLOCK;
            while at + HEADER <= bytes.len() {
                at += match seal_commit(&mut bytes[at..], hash.filter(|_| chained)) {
                    Some((found, length)) => {
                        hash = Some(found);
                        length.next_multiple_of(BLOCK).max(BLOCK)
                    }
                    None => BLOCK,
                };
            }
        }
    }

    fn disk(&self) -> MemoryDisk {
        let disk = MemoryDisk::new();
        for (name, bytes) in &self.files {
            disk.replace(name, bytes).expect("memory takes it");
        }
        disk.sync_dir().expect("memory syncs");
        disk
    }

    fn look(self) -> Verdict {
        let disk = self.disk();
        let before = verify(&disk, &self.blobs);
        let Ok((mut engine, recovery)) = Engine::open(disk.clone(), Arc::new(self.blobs.clone()), config()) else {
            return Verdict::Refused;
        };
        let before = before.expect("what opens can be checked");
        assert_eq!(before.chain_whole, recovery.quarantine.is_none());
        let held = read_all(&engine.reader(), &self.records);
        if let Some(base) = &recovery.base {
            read_snapshot(&self.blobs, base).expect("the snapshot of what opens is whole");
        }
        if recovery.quarantine.is_some() {
            assert!(engine.append(NOW, &[record(1)], Urgency::Normal).is_err(), "quarantine is for reading");
            return Verdict::Refused;
        }
        assert_eq!(engine.reader().end(), recovery.last);
        // Beyond the last number there is nothing to append; no journal gets there.
        let Ok(number) = engine.append(NOW, &[record(99)], Urgency::Normal) else { return Verdict::Refused };
        assert_eq!(number, recovery.last + 1);
        engine.sync().expect("memory syncs");
        drop(engine);
        let (engine, again) =
            Engine::open(disk.clone(), Arc::new(self.blobs.clone()), config()).expect("it opens again");
        assert_eq!((again.last, again.quarantine), (number, None));
        let mut more = read_all(&engine.reader(), &BTreeMap::new());
        assert_eq!(more.pop().map(|stored| stored.payload), Some(record(99).payload));
        assert_eq!(more, held, "nothing that was there is lost");
        assert!(verify(&disk, &self.blobs).is_ok_and(|report| report.chain_whole));
        Verdict::Accepted
    }
}

/// Every record that a replay gives, which must be those read by number, and those that were written, if that is known.
fn read_all(log: &dyn Log, written: &BTreeMap<RecordNumber, Stored>) -> Vec<Stored> {
    let mut all: Vec<Stored> = Vec::new();
    let replayed = log.replay(1, &mut |stored| {
        all.push(stored);
        Ok(())
    });
    replayed.expect("what opens can be replayed");
    assert!(all.windows(2).all(|pair| pair[0].number + 1 == pair[1].number), "without a gap");
    assert!(all.last().is_none_or(|last| last.number == log.end()), "to the end");
    for stored in &all {
        assert_eq!(log.read(stored.number).ok().as_ref(), Some(stored));
    }
    for number in written.keys() {
        if let Ok(stored) = log.read(*number) {
            assert_eq!(Some(&stored), written.get(number), "a record is what was written, or it is not there");
        }
    }
    all
}

fn put_crc(bytes: &mut [u8], at: usize, from: usize, to: usize) {
    let crc = crc32c::crc32c(&bytes[from..to]);
    bytes[at..at + 4].copy_from_slice(&crc.to_le_bytes());
}

fn number(bytes: &[u8], at: usize) -> usize {
    u32::from_le_bytes(std::array::from_fn(|i| bytes[at + i])) as usize
}

/// Makes a commit good; its hash and its length, if it is one.
fn seal_commit(bytes: &mut [u8], previous: Option<[u8; 32]>) -> Option<([u8; 32], usize)> {
    if !bytes.starts_with(b"JCCOMMIT") {
        return None;
    }
    if let Some(previous) = previous {
        bytes[96..HEADER].copy_from_slice(&previous);
    }
    put_crc(bytes, 8, 12, HEADER);
    let (count, body, flags) = (number(bytes, 72), number(bytes, 76), number(bytes, 80));
    let end = HEADER.checked_add(body).filter(|end| *end <= bytes.len())?;
    if flags == 4 && body > 4 {
        put_crc(bytes, HEADER, HEADER + 4, end);
    }
    let payloads = count.checked_mul(24).and_then(|entries| entries.checked_add(HEADER)).filter(|at| *at <= end);
    for entry in payloads.map_or(0..0, |_| 0..count).map(|at| HEADER + at * 24) {
        let start = payloads.and_then(|at| at.checked_add(number(bytes, entry + 8)));
        let range = start.and_then(|start| Some(start..start.checked_add(number(bytes, entry + 12))?));
        let Some(payload) = range.and_then(|range| bytes.get(range)) else { continue };
        let crc = crc32c::crc32c_append(crc32c::crc32c(&bytes[entry..entry + 20]), payload);
        bytes[entry + 20..entry + 24].copy_from_slice(&crc.to_le_bytes());
    }
    Some((jincai_crypto::sha256(&bytes[48..end]).0, end))
}

/// A carry file: as it comes, or (after a first byte of 1) with the checksums of its index and footer made good.
pub(crate) fn carry(bytes: &[u8]) -> Verdict {
    let (choice, rest) = bytes.split_first().unwrap_or((&0, &[]));
    let mut content = rest.to_vec();
    if *choice == 1 {
        seal_carry(&mut content);
    }
    let (disk, blobs) = (MemoryDisk::new(), MemoryBlobs::new());
    let open = Engine::open(disk.clone(), Arc::new(blobs.clone()), config());
    let (mut engine, _) = open.expect("an empty disk opens");
    // Only now: a start removes carry files that no base names.
    let (carried, snapshot) = (put(&blobs, &content), put(&blobs, b"snapshot"));
    let through = engine.append(NOW, &(1..9).map(record).collect::<Vec<_>>(), Urgency::Normal).expect("room");
    engine.sync().expect("memory syncs");
    if engine.checkpoint(NOW, Base { through, snapshot, carried: vec![carried] }).is_err() {
        return Verdict::Refused;
    }
    let reader = engine.reader();
    let found = (1..=through).filter_map(|number| reader.read(number).ok()).inspect(|stored| {
        assert!(stored.payload.len() <= jincai_journal::RECORD_BYTES_MAX);
    });
    let found: Vec<Stored> = found.collect();
    let report = verify(&disk, &blobs).expect("memory answers");
    assert_eq!((report.files, report.damaged_files.len()), (2, 0), "what was taken is whole");
    // What can be read can be carried on.
    let numbers = &mut found.iter().map(|stored| stored.number);
    let again = write_carried(&blobs, &reader, numbers).expect("memory takes it");
    assert_eq!(again.is_some(), !found.is_empty());
    Verdict::of(!found.is_empty())
}

fn put(blobs: &MemoryBlobs, content: &[u8]) -> Digest {
    let mut writer = blobs.create().expect("memory takes it");
    writer.write(content).expect("memory takes it");
    writer.finish().expect("memory takes it")
}

fn seal_carry(bytes: &mut [u8]) {
    let Some(footer) = bytes.len().checked_sub(40) else { return };
    let index = u64::from_le_bytes(std::array::from_fn(|i| bytes[footer + 24 + i]));
    if let Some(index) = usize::try_from(index).ok().filter(|index| *index <= footer) {
        let crc = crc32c::crc32c(&bytes[index..footer]);
        bytes[footer + 32..footer + 36].copy_from_slice(&crc.to_le_bytes());
    }
    let end = bytes.len();
    put_crc(bytes, footer + 8, footer + 12, end);
}

/// A carry file of two records.
pub(crate) fn carry_file() -> Vec<u8> {
    let image = &images()[1];
    let open = Engine::open(image.disk(), Arc::new(image.blobs.copy()), config());
    let (engine, _) = open.expect("the journal opens");
    let base = engine.reader().base().expect("there is one");
    let blob = image.blobs.open(&base.carried[0]).expect("it is there");
    let mut bytes = vec![0; usize::try_from(blob.len()).expect("small")];
    blob.read_at(0, &mut bytes).expect("memory reads");
    bytes
}
