//! Files between real nodes: kills on the way, what is shared, no room, a store that a disk has changed.

use crate::node::{Chain, Node, wait_for};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};

const CHUNK: usize = 512 << 10;

/// Bytes without zeros that no two seeds share.
fn bytes(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let next = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        u8::try_from(state >> 56).expect("a byte")
    };
    (0..length).map(next).collect()
}

fn write(node: &Node, name: &str, bytes: &[u8]) -> PathBuf {
    let path = node.file().with_file_name(name);
    fs::write(&path, bytes).expect("written");
    path
}

fn send(node: &Node, path: &Path, to: &str, id: &str) -> Value {
    let sent = node.command_json(&["file", "send", path.to_str().expect("a path"), "--to", to, "--id", id]);
    assert_eq!(sent["durable"], true, "{sent}");
    sent
}

fn show(node: &Node, id: &str) -> Option<Value> {
    node.try_get(&format!("/api/v1/files/{id}")).filter(|(status, _)| *status == 200).map(|(_, file)| file)
}

fn wait_for_state(node: &Node, id: &str, state: &str) -> Value {
    wait_for(&format!("file {id} to be {state}"), || {
        let file = show(node, id)?;
        assert!(state == "failed" || file["state"] != "failed", "{file}");
        (file["state"] == state).then_some(file)
    })
}

fn counter(node: &Node, name: &str) -> u64 {
    node.get("/api/v1/status")["counters"][name].as_u64().expect("a counter")
}

/// The file as it has come, through the command line.
fn get(node: &Node, id: &str) -> Vec<u8> {
    let path = node.file().with_file_name(format!("{id}.out"));
    let got = node.command(&["file", "get", id, path.to_str().expect("a path")]);
    assert!(got.status.success(), "{}", String::from_utf8_lossy(&got.stderr));
    fs::read(path).expect("read")
}

/// A county, a province and a ministry, whose links carry so many bytes of bulk a second.
fn chain(bytes_per_second: u64) -> Chain {
    let directory = tempfile::tempdir().expect("a directory");
    let county = directory.path().join("county");
    let limits = match bytes_per_second {
        0 => String::new(),
        rate => format!("[link.limits.bulk]\nbytes_per_second = {rate}\n"),
    };
    Chain::over_quic_with(directory, &county, "", &limits)
}

#[test]
fn a_file_passes_a_province_byte_for_byte_and_only_differences_travel_again() {
    let chain = chain(0);
    let mut content = bytes(40 << 20, 1);
    let path = write(&chain.county, "first.bin", &content);
    send(&chain.county, &path, "000000000", "first");
    let whole = wait_for_state(&chain.ministry, "first", "whole");
    assert_eq!(
        (&whole["name"], &whole["size"], &whole["from"]),
        (&"first.bin".into(), &(40 << 20).into(), &"370502000".into())
    );
    assert_eq!(get(&chain.ministry, "first"), content);
    wait_for_state(&chain.county, "first", "delivered");
    assert_eq!(counter(&chain.county, "file_chunks_sent"), 80);
    assert!(show(&chain.province, "first").is_none(), "a hop sees a message, not a file");
    // Two chunks differ, and one is new.
    content[3 * CHUNK + 1] ^= 1;
    content[50 * CHUNK] ^= 1;
    content.extend(bytes(1000, 2));
    let path = write(&chain.county, "second.bin", &content);
    send(&chain.county, &path, "000000000", "second");
    wait_for_state(&chain.ministry, "second", "whole");
    assert_eq!(get(&chain.ministry, "second"), content);
    assert_eq!(counter(&chain.county, "file_chunks_sent"), 83);
    assert_eq!(counter(&chain.ministry, "file_chunks_known"), 78);
    // The same again is one file there.
    send(&chain.county, &path, "000000000", "third");
    wait_for_state(&chain.ministry, "third", "whole");
    assert_eq!(counter(&chain.county, "file_chunks_sent"), 83);
    assert_eq!(chain.ministry.get("/api/v1/files")["store"]["files"], 2);
    let again = chain.county.command_json(&[
        "file",
        "send",
        path.to_str().expect("a path"),
        "--to",
        "000000000",
        "--id",
        "third",
    ]);
    assert_eq!(again["new"], false, "once under one id");
    // What nobody refers to any more goes.
    for id in ["first", "second", "third"] {
        assert!(chain.ministry.command(&["file", "drop", id]).status.success());
    }
    wait_for("an empty store", || (chain.ministry.get("/api/v1/files")["store"]["used"] == 0).then_some(()));
}

#[test]
fn kills_on_the_way_send_nothing_again_that_is_stored() {
    let mut chain = chain(12 << 20);
    let content = bytes(40 << 20, 3);
    let path = write(&chain.county, "long.bin", &content);
    send(&chain.county, &path, "000000000", "long");
    let stored_beyond = |chain: &Chain, least: u64| {
        wait_for("some of it to be stored", || {
            show(&chain.ministry, "long")?["bytes"].as_u64().filter(|bytes| *bytes > least)
        })
    };
    let (mut sent, mut received, mut unasked) = (0, 0, 0);
    let mut note = |chain: &Chain| {
        sent += counter(&chain.county, "file_chunks_sent");
        received += counter(&chain.ministry, "file_chunks_received");
        unasked += counter(&chain.ministry, "file_chunks_unasked");
        (sent, received, unasked)
    };
    let mut stored = stored_beyond(&chain, 1 << 20);
    note(&chain);
    chain.ministry.kill();
    chain.ministry.start();
    assert!(
        show(&chain.ministry, "long").expect("known")["bytes"].as_u64() >= Some(stored),
        "what is stored stays stored"
    );
    stored = stored_beyond(&chain, stored + (4 << 20));
    chain.province.kill();
    chain.province.start();
    stored_beyond(&chain, stored + (4 << 20));
    chain.county.kill();
    chain.county.start();
    wait_for_state(&chain.ministry, "long", "whole");
    wait_for_state(&chain.county, "long", "delivered");
    assert_eq!(get(&chain.ministry, "long"), content);
    // Every counter begins anew with its process, and the kills came after they were read: a few chunks are not counted.
    let (_, received, unasked) = note(&chain);
    assert!(received <= 80, "{received} of 80 chunks were taken");
    assert_eq!(unasked, 0, "a chunk came twice");
}

#[test]
fn a_receiver_without_room_waits_with_its_code_and_goes_on_when_there_is() {
    let mut chain = chain(0);
    let limit = |node: &mut Node, mib: u64| {
        node.stop();
        let text = fs::read_to_string(node.file()).expect("read");
        let text = text.split("[files]").next().expect("a start").to_owned();
        fs::write(node.file(), format!("{text}[files]\nmax_mib = {mib}\n")).expect("written");
        node.start();
    };
    limit(&mut chain.ministry, 4);
    let content = bytes(6 << 20, 4);
    let path = write(&chain.county, "large.bin", &content);
    send(&chain.county, &path, "000000000", "large");
    let waits =
        wait_for("the reason", || show(&chain.ministry, "large").filter(|file| file["waits"]["code"] == "JC-2006"));
    assert_eq!(waits["state"], "waiting");
    assert_eq!(chain.ministry.get("/api/v1/status")["files_waiting"][0]["code"], "JC-2006");
    let doctor = chain.ministry.command(&["doctor"]);
    assert!(String::from_utf8_lossy(&doctor.stdout).contains("JC-2006"));
    // One that fits does not wait for one that does not.
    let small = write(&chain.county, "small.bin", &bytes(1 << 20, 5));
    send(&chain.county, &small, "000000000", "small");
    wait_for_state(&chain.ministry, "small", "whole");
    limit(&mut chain.ministry, 64);
    wait_for_state(&chain.ministry, "large", "whole");
    assert_eq!(get(&chain.ministry, "large"), content);
}

#[test]
fn a_store_that_was_altered_is_noticed_and_nothing_of_it_is_sent() {
    let chain = chain(0);
    chain.province.terminate();
    let path = write(&chain.county, "altered.bin", &bytes(2 << 20, 6));
    let sent = send(&chain.county, &path, "000000000", "altered");
    let store = chain.county.file().with_file_name("county").join("files").join(sent["root"].as_str().expect("a root"));
    let mut held = fs::read(&store).expect("in the store");
    held[CHUNK + 5] ^= 1;
    fs::write(&store, held).expect("altered");
    let Chain { ministry, mut province, county, .. } = chain;
    province.wait_for_end();
    province.start();
    let failed = wait_for_state(&county, "altered", "failed");
    assert_eq!(failed["code"], "JC-2009", "{failed}");
    let failed = wait_for_state(&ministry, "altered", "failed");
    assert_eq!(failed["code"], "JC-2009", "{failed}");
    assert_eq!(ministry.request("GET", "/api/v1/files/altered/content", None, "").0, 401);
    let content = ministry.try_get("/api/v1/files/altered/content").expect("an answer");
    assert_eq!((content.0, &content.1["code"]), (404, &"JC-2005".into()));
}

#[test]
fn a_transfer_can_be_given_up_by_either_side() {
    let chain = chain(300_000);
    let path = write(&chain.county, "slow.bin", &bytes(8 << 20, 7));
    for (id, by) in [("theirs", &chain.ministry), ("ours", &chain.county)] {
        send(&chain.county, &path, "000000000", id);
        wait_for("it to be under way", || show(&chain.ministry, id).filter(|file| file["state"] == "receiving"));
        assert!(by.command(&["file", "drop", id]).status.success());
        for node in [&chain.county, &chain.ministry] {
            assert_eq!(wait_for_state(node, id, "failed")["code"], "JC-2010");
        }
    }
    wait_for("the part to go", || (chain.ministry.get("/api/v1/files")["store"]["used"] == 0).then_some(()));
}
