//! A journal that is damaged below its durable mark: it is told, nothing is written, reads go on, and it is mended from a
//! backup's bytes or, without one, from what neighbours still hold.

use crate::node::{Node, Pair, wait_for};
use crate::restore::{backup, ids, said, send, text};
use serde_json::json;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

fn journal(node: &Node) -> PathBuf {
    node.file().with_extension("").join("journal")
}

/// Flips a bit of the oldest segment's fifth block; the node is stopped.
fn damage(node: &Node) {
    let entries = fs::read_dir(journal(node)).expect("a journal").map(|e| e.expect("an entry").path());
    let first = entries.filter(|p| p.extension().is_some_and(|e| e == "segment")).min().expect("a segment");
    let mut bytes = fs::read(&first).expect("read");
    bytes[5 * 4096 + 200] ^= 0x10;
    fs::write(&first, &bytes).expect("written");
}

fn content(directory: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let entries = fs::read_dir(directory).expect("a directory").map(|e| e.expect("an entry").path());
    entries.map(|path| (path.clone(), fs::read(path).expect("read"))).collect()
}

/// Starts a node whose journal is in quarantine.
fn start_damaged(node: &mut Node) {
    node.spawn(&mut std::process::Command::new(env!("CARGO_BIN_EXE_jincai")));
    wait_for("the node to answer", || node.try_get("/healthz").filter(|(status, _)| *status == 200));
}

#[test]
fn a_damaged_journal_is_told_and_mended_from_a_backup() {
    let mut node = Node::ministry();
    for number in 0..20 {
        send(&node, "000000000", &format!("m{number:02}"));
    }
    let file = backup(&node, "node.tar");
    for number in 20..30 {
        send(&node, "000000000", &format!("m{number:02}"));
    }
    node.stop();
    damage(&node);
    let report = node.command_json(&["journal", "verify"]);
    assert_eq!(report["chain_whole"], false, "{report}");
    let repaired = node.command_json(&["journal", "repair", "--from", text(&file)]);
    assert_eq!(repaired["segments"].as_array().map(Vec::len), Some(1), "{repaired}");
    assert_eq!(node.command_json(&["journal", "verify"])["chain_whole"], true);
    node.start();
    assert_eq!(ids(&node).len(), 30, "what came after the backup too");
}

#[test]
fn a_damaged_node_answers_reads_and_takes_nothing() {
    let mut node = Node::ministry();
    assert_eq!(node.post("/api/v1/dictionary/national/sets/UNIT", "code,name,level,parent\n1,a,1,\n").0, 200);
    let release = node.post("/api/v1/dictionary/national/releases", r#"{"effective_from":"2026-01-01"}"#);
    assert_eq!(release.0, 200, "{}", release.1);
    for number in 0..20 {
        send(&node, "000000000", &format!("m{number:02}"));
    }
    node.stop();
    damage(&node);
    let before = content(&journal(&node));
    start_damaged(&mut node);
    assert!(node.log().contains("JC-1104"), "{}", node.log());

    let status = node.get("/api/v1/status");
    assert_eq!(status["read_only"], true);
    let left = ids(&node);
    assert!(left.len() < 20 && left.iter().enumerate().all(|(at, id)| *id == format!("m{at:02}")), "{left:?}");
    assert_eq!(node.get("/api/v1/dictionary/national/verify")["root"], release.1["root"]);
    assert!(node.text("/metrics").contains("jincai_read_only 1"));

    let message = json!({ "to": "000000000", "id": "new", "text": "new" }).to_string();
    let release = json!({ "effective_from": "2026-02-01" }).to_string();
    for (path, body) in [
        ("/api/v1/messages", &message[..]),
        ("/api/v1/dictionary/national/releases", &release[..]),
        ("/api/v1/dictionary/national/sets/UNIT", "code,name,level,parent\n2,b,1,\n"),
        ("/api/v1/restore/acceptance", ""),
    ] {
        let (status, problem) = node.post(path, body);
        assert_eq!((status, &problem["code"]), (503, &json!("JC-1306")), "{path}: {problem}");
    }
    let (status, problem) = node.request("GET", "/readyz", None, "");
    assert_eq!((status, &problem["code"]), (503, &json!("JC-1306")), "{problem}");
    let out = node.file().with_file_name("node.tar");
    assert!(said(&node.command(&["backup", "--out", text(&out)])).contains("JC-1306"));
    assert!(!out.exists(), "a backup that lacks something is none");
    assert!(!node.command(&["doctor"]).status.success());
    node.stop();
    assert!(content(&journal(&node)) == before, "nothing was written");
}

/// Nobody has a backup: the node goes back to before the damage, its neighbour gives it what it lacks, and what it had sent
/// since then is neither lost nor applied a second time.
#[test]
fn a_damaged_node_without_a_backup_is_filled_again_by_its_neighbour() {
    let mut pair = Pair::over_quic();
    for number in 0..20 {
        send(&pair.ministry, "370000000", &format!("down-{number:02}"));
        send(&pair.province, "000000000", &format!("up-{number:02}"));
    }
    wait_for("twenty messages each way", || {
        (ids(&pair.province).len() == 20 && ids(&pair.ministry).len() == 20).then_some(())
    });
    pair.province.stop();
    damage(&pair.province);
    start_damaged(&mut pair.province);
    let before = ids(&pair.province).len();
    assert!(before < 20, "{before} are left");
    // It has no links while it is damaged: its neighbour keeps what it has for it.
    send(&pair.ministry, "370000000", "down-20");
    pair.province.stop();
    let done = pair.province.command_json(&["restore", "--before-damage"]);
    assert!(done["last"].as_u64().is_some_and(|last| last > 0), "{done}");
    pair.province.start();
    wait_for("what it had, and what came since", || (ids(&pair.province).len() == 21).then_some(()));
    let mut there = ids(&pair.province);
    there.sort();
    there.dedup();
    assert_eq!(there.len(), 21, "each once");
    wait_for("the node to have caught up", || {
        (pair.province.get("/api/v1/status")["catching_up"] == json!(false)).then_some(())
    });
    send(&pair.province, "000000000", "up-20");
    wait_for("the next message", || (ids(&pair.ministry).len() == 21).then_some(()));
    assert_eq!(pair.province.get("/api/v1/status")["lost"], json!([]));
}
