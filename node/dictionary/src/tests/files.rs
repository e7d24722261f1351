//! CSV files: what is refused, with which line and why, and what an import leaves alone.

use super::{COUNTY, authority, draft, file, place, room};
use crate::{Error, compare, snapshot_of_csv};
use jincai_exchange::Room;
use jincai_journal::{Blobs, MemoryBlobs};
use jincai_types::AuthorityId;

const HEAD: &str = "code,name,level,parent\n";

fn read(bytes: &[u8]) -> Result<crate::Snapshot, Error> {
    snapshot_of_csv("divisions", &mut &bytes[..], &MemoryBlobs::default())
}

/// Imports `rows` behind the header and expects a refusal that names `line` and says `why`.
fn refuse(rows: &[u8], line: u32, why: &str) {
    refuse_file(&[HEAD.as_bytes(), rows].concat(), line, why);
}

fn refuse_file(bytes: &[u8], line: u32, why: &str) {
    let blobs = MemoryBlobs::default();
    match snapshot_of_csv("divisions", &mut &bytes[..], &blobs) {
        Err(Error::Row { line: found, reason }) => {
            assert_eq!(found, line, "{reason}");
            assert!(reason.contains(why), "«{reason}» does not say «{why}»");
        }
        other => panic!("«{why}» expected, found {other:?}"),
    }
    assert_eq!(blobs.list().expect("memory"), [], "a refused file leaves nothing");
}

#[test]
fn bad_files_are_refused_with_line_and_reason() {
    refuse_file(b"", 1, "empty");
    refuse_file(b"code;name;level;parent\n", 1, "header");
    refuse_file(b"code,name,level\n", 1, "header");
    refuse_file(b"code,name,level,parent,extra\n", 1, "header");
    refuse(b"", 1, "no rows");
    refuse(b"11,a,1,\n\n", 3, "1 columns");
    refuse(b"11,a,1\n", 2, "3 columns");
    refuse(b"11,a,1,,x\n", 2, "more than 4");
    refuse(&[&b"11,a,1,"[..], &b",".repeat(3000)].concat(), 2, "more than 4");
    refuse(&[&b"11,a,1,"[..], &b",".repeat(1_000_000)].concat(), 2, "longer than 4 KiB");
    refuse(b"11,\"a,1,\n12,b,1,\n", 2, "not closed");
    refuse(b"11,\"a\"b,1,\n", 2, "follows a closing quote");
    refuse(b"11,a\"b,1,\n", 2, "inside a value");
    refuse(b"11,\xff\xfe,1,\n", 2, "UTF-8");
    refuse("11,a\0b,1,\n".as_bytes(), 2, "control");
    refuse("11,a\u{202e}b,1,\n".as_bytes(), 2, "invisible");
    refuse("1\u{200b}1,a,1,\n".as_bytes(), 2, "invisible");
    refuse(b"1 1,a,1,\n", 2, "white space");
    refuse(b",a,1,\n", 2, "code: it is empty");
    refuse(b"11,,1,\n", 2, "name: it is empty");
    refuse(b"11,a,,\n", 2, "level");
    refuse(b"11,a,one two,\n", 2, "level");
    refuse(format!("{},a,1,\n", "1".repeat(65)).as_bytes(), 2, "code: it is too long");
    refuse(format!("11,{},1,\n", "a".repeat(513)).as_bytes(), 2, "name: it is too long");
    refuse(b"11,a,1,\n12,b,1,\n11,c,1,\n", 4, "line 2 already");
    refuse(b"11,a,1,\n1101,b,2,12\n", 3, "parent «12»");
    refuse(b"11,a,1,11\n", 2, "above itself");
    refuse(b"10,x,1,\n11,a,1,13\n12,b,1,11\n13,c,1,12\n", 3, "above itself");
    let levels: String = (0..257).map(|n| format!("{n},a,{n},\n")).collect();
    refuse(levels.as_bytes(), 258, "levels");
}

#[test]
fn quotes_byte_order_mark_and_line_ends_are_read() {
    let snapshot = read("\u{feff}code,name,level,parent\r\n\"11\",\"a \"\"b\"\", c\",1,\r\n1101,d,2,11".as_bytes());
    let snapshot = snapshot.expect("a good file");
    let name = |code| snapshot.get("divisions", code).expect("readable").map(|e| e.name);
    assert_eq!(name("11").as_deref(), Some("a \"b\", c"));
    assert_eq!(name("1101").as_deref(), Some("d"));
    assert_eq!(snapshot.count(), 2);
}

#[test]
fn rows_in_any_order_give_the_same_root() {
    let rows: Vec<String> = (0..3000).map(|n| format!("{n},name {n},1,\n")).collect();
    let forwards = read([HEAD, &rows.concat()].concat().as_bytes()).expect("a good file");
    let backwards: Vec<String> = rows.into_iter().rev().collect();
    let backwards = read([HEAD, &backwards.concat()].concat().as_bytes()).expect("a good file");
    assert_eq!(forwards.root(), backwards.root());
}

#[test]
fn an_import_replaces_its_set_and_keeps_the_others() {
    let mut room = room();
    for set in ["b", "a", "c"] {
        draft(&mut room, "national", set, &file(700, |n| format!("{set} {n}")));
    }
    let before = room.draft("national").expect("readable").expect("a draft");
    draft(&mut room, "national", "b", "code,name,level,parent\n1,one,1,\n");
    let after = room.draft("national").expect("readable").expect("a draft");
    after.verify().expect("whole");
    assert_eq!(after.sets().expect("readable").iter().map(|e| e.set.as_str()).collect::<Vec<_>>(), ["a", "b", "c"]);
    assert_eq!((before.count(), after.count()), (2103, 1403));
    for set in ["a", "c"] {
        let rows =
            |snapshot: &crate::Snapshot| snapshot.entries_of(set).map(|e| e.expect("readable")).collect::<Vec<_>>();
        assert_eq!(rows(&before), rows(&after));
    }
    let effect = room.discard("national").expect("there is a draft");
    room.apply(&place(9), &effect).expect("an effect of its own");
    assert!(room.draft("national").expect("readable").is_none());
    assert!(matches!(room.discard("national"), Err(Error::NothingToRelease { .. })));
}

#[test]
fn only_the_issuer_imports() {
    let import =
        |line, own| room().import(line, "s", "n", &mut "code,name,level,parent\n1,a,1,\n".as_bytes(), own).map(drop);
    assert!(matches!(import("national", authority(COUNTY)), Err(Error::NotIssuer { .. })));
    assert!(matches!(import("bad name", AuthorityId::MINISTRY), Err(Error::Field { .. })));
    assert!(import("local", authority(COUNTY)).is_ok());
}

#[test]
fn a_comparison_counts_and_lists_and_prints_as_documented() {
    let old =
        read([HEAD, "1,a,1,\n2,b,1,\n3,c,1,\n4,d,1,\n5,e,1,\n6,f,1,\n"].concat().as_bytes()).expect("a good file");
    let new =
        read([HEAD, "1,a,1,\n2,B,1,\n3,c,1,1\n4,D,1,1\n5,e,2,\n7,f,1,\n"].concat().as_bytes()).expect("a good file");
    let comparison = compare(&old, &new).expect("readable");
    assert_eq!(comparison.summary.changed, 4);
    let json = serde_json::to_value(&comparison).expect("plain data");
    let expect = serde_json::json!({
        "summary": {"added": 1, "removed": 1, "renamed": 2, "reparented": 2, "merged": 0, "split": 0},
        "added": [{"set": "divisions", "code": "7", "name": "f", "level": "1", "parent": ""}],
        "removed": [{"set": "divisions", "code": "6", "name": "f", "level": "1", "parent": ""}],
        "renamed": [
            {"set": "divisions", "code": "2", "from": "b", "to": "B"},
            {"set": "divisions", "code": "4", "from": "d", "to": "D"},
        ],
        "reparented": [
            {"set": "divisions", "code": "3", "from": "", "to": "1"},
            {"set": "divisions", "code": "4", "from": "", "to": "1"},
        ],
    });
    assert_eq!(json, expect);
}

/// A snapshot of format 1, byte for byte: a change of these digests is a change of the format, and needs a new version and
/// a reader for the old one.
#[test]
fn the_format_is_frozen() {
    let blobs = MemoryBlobs::default();
    let csv = file(200, |n| format!("name {n}"));
    let snapshot = snapshot_of_csv("divisions", &mut csv.as_bytes(), &blobs).expect("a good file");
    let blob = blobs.list().expect("memory").first().map(ToString::to_string);
    assert_eq!(snapshot.root().to_string(), "06587e3257c8daa3d74fd3bf86bb97271193a75006e603fe4fc29782fd2c4f8b");
    assert_eq!(blob.as_deref(), Some("b7bb92b834da1bede9644dcac04efd425e34202bdc72e3f9aa172c9b6a593aa4"));
}
