//! The codec: what is written is read back, and no bytes make it panic.

use crate::format::{
    CommitHeader, CommitKind, ENTRY_BYTES, HEADER_BYTES, NUMBER_MAX, Place, SegmentHeader, commit_bytes, decode_body,
    decode_head, encode_commit, encode_head, hash, segment_name, segment_of,
};
use crate::{COMMIT_BYTES_MAX, Record};
use jincai_types::Digest;
use proptest::prelude::*;

fn header(records: &[Record], salt: u64, position: u64) -> CommitHeader {
    CommitHeader {
        place: Place { shard: 3, segment: 9, salt, offset: 8192, durable_to: position - 1 },
        position,
        term: 0,
        first_record: 5,
        count: records.len() as u32,
        body_bytes: (commit_bytes(records).expect("small") - HEADER_BYTES) as u32,
        kind: if records.is_empty() { CommitKind::Closing } else { CommitKind::Records },
        time: 0x0a0b,
        previous: Digest([6; 32]),
    }
}

proptest! {
    #[test]
    fn commits_round_trip_and_moving_one_keeps_its_hash(
        payloads in prop::collection::vec((any::<u16>(), prop::collection::vec(any::<u8>(), 0..300)), 0..20),
        salt: u64,
        position in 1..=NUMBER_MAX,
    ) {
        let records: Vec<Record> =
            payloads.into_iter().map(|(kind, payload)| Record { kind, payload: payload.into() }).collect();
        let header = header(&records, salt, position);
        let mut bytes = Vec::new();
        let digest = encode_commit(&mut bytes, &header, &records);
        prop_assert_eq!(bytes.len() as u64, header.padded());
        let read = CommitHeader::decode(bytes.first_chunk().expect("a header"));
        prop_assert_eq!(read.as_ref(), Some(&header));
        let body = &bytes[HEADER_BYTES..header.bytes()];
        let found = decode_body(&header, body).expect("whole");
        let found: Vec<Record> = found
            .into_iter()
            .map(|(entry, range)| Record { kind: entry.kind, payload: body[range].to_vec().into() })
            .collect();
        prop_assert_eq!(found, records);
        let moved = CommitHeader { place: Place { offset: 4096, salt: !salt, ..header.place }, ..header.clone() };
        bytes.truncate(header.bytes());
        bytes[..HEADER_BYTES].copy_from_slice(&moved.encode());
        prop_assert_eq!(hash(&bytes), digest);
    }

    #[test]
    fn headers_round_trip(
        (salt, term, shard) in any::<(u64, u64, u32)>(),
        segment in 0..=NUMBER_MAX,
        first_position in 1..=NUMBER_MAX,
        first_record in 1..=NUMBER_MAX,
        more in 0..=NUMBER_MAX,
    ) {
        let durable_to = (first_position - 1 + more).min(NUMBER_MAX);
        let previous = Digest([9; 32]);
        let header =
            SegmentHeader { shard, segment, salt, term, first_position, first_record, durable_to, previous };
        let bytes = header.encode();
        prop_assert_eq!(SegmentHeader::decode(bytes.first_chunk().expect("a header")).expect("known"), Some(header));
        let head = encode_head(shard, segment);
        prop_assert_eq!(decode_head(head.first_chunk().expect("32 bytes")).expect("known"), Some(segment));
        prop_assert_eq!(segment_of(&segment_name(segment)), Some(segment));
    }

    #[test]
    fn nothing_panics(
        noise in prop::collection::vec(any::<u8>(), HEADER_BYTES),
        body in prop::collection::vec(any::<u8>(), 0..400),
        count in 0u32..20,
        name in ".{0,30}",
    ) {
        let mut bytes = noise;
        for magic in [*b"JCJRHEAD", *b"JCSEGMNT", *b"JCCOMMIT"] {
            bytes[..8].copy_from_slice(&magic);
            for length in [32, HEADER_BYTES] {
                let crc = crc32c::crc32c(&bytes[12..length]).to_le_bytes();
                bytes[8..12].copy_from_slice(&crc);
                let _seen = decode_head(bytes.first_chunk().expect("long enough")).is_ok();
                let _seen = SegmentHeader::decode(bytes.first_chunk().expect("long enough")).is_ok();
                if let Some(header) = CommitHeader::decode(bytes.first_chunk().expect("long enough")) {
                    prop_assert!(header.bytes() <= COMMIT_BYTES_MAX);
                }
            }
        }
        let claimed = CommitHeader { count, body_bytes: body.len() as u32, ..header(&[], 0, 1) };
        if let Some(records) = decode_body(&claimed, &body) {
            prop_assert!(records.len() * ENTRY_BYTES <= body.len());
        }
        prop_assert!(segment_of(&name).is_none_or(|segment| segment_name(segment) == name));
    }
}

#[test]
fn a_commit_is_laid_out_as_the_drawing_says() {
    let records = [Record { kind: 0x0102, payload: b"abc".as_slice().into() }];
    let mut bytes = Vec::new();
    encode_commit(&mut bytes, &header(&records, 0x1122, 4), &records);
    let drawn: &[(usize, &[u8])] = &[
        (0, b"JCCOMMIT"),
        (12, &[3, 0, 0, 0]),
        (16, &[9, 0, 0, 0, 0, 0, 0, 0]),
        (24, &[0x22, 0x11, 0, 0, 0, 0, 0, 0]),
        (32, &[0, 0x20, 0, 0, 0, 0, 0, 0]),
        (40, &[3, 0, 0, 0, 0, 0, 0, 0]),
        (48, &[4, 0, 0, 0, 0, 0, 0, 0]),
        (64, &[5, 0, 0, 0, 0, 0, 0, 0]),
        (72, &[1, 0, 0, 0, 27, 0, 0, 0, 0, 0, 0, 0, 0x0b, 0x0a, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
        (96, &[6; 32]),
        (128, &[5, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 2, 1, 0, 0]),
        (152, b"abc\0"),
    ];
    for (at, field) in drawn {
        assert_eq!(&bytes[*at..at + field.len()], *field, "at {at}");
    }
    assert_eq!(bytes.len(), 4096);
}
