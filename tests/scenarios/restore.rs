//! Backups of running nodes, restores, repairs, snapshots that replace segments.

use crate::load::Book;
use crate::node::{Node, Pair, wait_for};
use serde_json::json;
use std::fs;
use std::path::{Path, PathBuf};

pub(crate) fn text(path: &Path) -> &str {
    path.to_str().expect("a plain path")
}

pub(crate) fn said(output: &std::process::Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

pub(crate) fn send(node: &Node, to: &str, id: &str) {
    let body = json!({ "to": to, "id": id, "text": id.repeat(20) }).to_string();
    let (status, value) = node.post("/api/v1/messages", &body);
    assert_eq!(status, 200, "{value}");
}

pub(crate) fn ids(node: &Node) -> Vec<String> {
    let value = node.get("/api/v1/messages");
    let ids = value["newest"].as_array().expect("a list").iter().filter_map(|n| n["id"].as_str().map(str::to_owned));
    ids.collect()
}

pub(crate) fn backup(node: &Node, name: &str) -> PathBuf {
    let out = node.file().with_file_name(name);
    let report = node.command_json(&["backup", "--out", text(&out)]);
    assert!(report["last"].as_u64().is_some_and(|last| last > 0), "{report}");
    out
}

/// A node is lost with its disk, and another takes its place: what it has forgotten comes back from its neighbour, and
/// what it sent since then is not sent a second time.
#[test]
fn a_restored_node_gets_back_what_it_has_forgotten() {
    let mut pair = Pair::over_quic();
    for number in 0..10 {
        send(&pair.ministry, "370000000", &format!("down-{number}"));
        send(&pair.province, "000000000", &format!("up-{number}"));
    }
    wait_for("ten messages each way", || {
        (ids(&pair.province).len() == 10 && ids(&pair.ministry).len() == 10).then_some(())
    });
    let file = backup(&pair.province, "province.tar");
    for number in 10..20 {
        send(&pair.ministry, "370000000", &format!("down-{number}"));
        send(&pair.province, "000000000", &format!("up-{number}"));
    }
    wait_for("twenty messages each way", || {
        (ids(&pair.province).len() == 20 && ids(&pair.ministry).len() == 20).then_some(())
    });
    pair.province.kill();
    let data = pair.province.file().with_extension("");
    fs::remove_dir_all(&data).expect("the disk is gone");
    let restored = pair.province.command(&["restore", "--from", text(&file)]);
    assert!(restored.status.success(), "{}", said(&restored));
    pair.province.start();
    wait_for("the node to have caught up", || {
        (pair.province.get("/api/v1/status")["catching_up"] == json!(false)).then_some(())
    });
    wait_for("what it has forgotten", || (ids(&pair.province).len() == 20).then_some(()));
    let mut there = ids(&pair.province);
    there.sort();
    there.dedup();
    assert_eq!(there.len(), 20, "each once");
    send(&pair.province, "000000000", "up-20");
    wait_for("the next message", || (ids(&pair.ministry).len() == 21).then_some(()));
    // The node does not know any more that it has sent this one; its destination does.
    send(&pair.province, "000000000", "up-15");
    wait_for("the refusal", || {
        let letters = pair.ministry.get("/api/v1/dead-letters");
        letters["dead_letters"].as_array()?.iter().any(|l| l["id"] == "up-15").then_some(())
    });
    assert_eq!(ids(&pair.ministry).len(), 21, "nothing is applied twice");
}

/// A machine image is cloned and both run: somebody must be told, and nothing of either is applied twice or mixed up.
#[test]
fn a_node_that_was_cloned_is_noticed() {
    let mut pair = Pair::over_quic();
    send(&pair.province, "000000000", "before");
    wait_for("the first message", || (ids(&pair.ministry) == ["before"]).then_some(()));
    pair.province.stop();
    let mut twin = pair.twin_of_province();
    pair.province.start();
    send(&pair.province, "000000000", "of-the-first");
    wait_for("the first node's message", || (ids(&pair.ministry).len() == 2).then_some(()));
    twin.start();
    let mut number = 0;
    wait_for("an alarm", || {
        // Both go on working, as nobody has told them.
        number += 1;
        for (node, name) in [(&pair.province, "first"), (&twin, "second")] {
            let body = json!({ "to": "000000000", "id": format!("{name}-{number}"), "text": "x" }).to_string();
            drop(node.try_post("/api/v1/messages", &body));
        }
        let told = |node: &Node| ["JC-1213", "JC-1207", "JC-1214"].iter().any(|code| node.log().contains(code));
        [&pair.ministry, &pair.province, &twin].into_iter().any(told).then_some(())
    });
    let mut there = ids(&pair.ministry);
    let all = there.len();
    there.sort();
    there.dedup();
    assert_eq!(there.len(), all, "nothing is applied twice");
}

#[test]
fn a_backup_under_load_holds_everything_acknowledged_before_it() {
    let mut node = Node::ministry();
    let (before, during) = (Book::default(), Book::default());
    before.fill(&node, |book| book.acknowledged() >= 100, || {});
    let mut file = PathBuf::new();
    let name = node.file().with_file_name("node.tar");
    during.fill_from(
        500,
        &node,
        |book| book.acknowledged() >= 400,
        || {
            during.wait_for(20);
            file = backup(&node, "node.tar");
            during.close();
        },
    );
    assert_eq!(file, name);
    node.stop();
    let refused = node.command(&["restore", "--from", text(&file)]);
    assert!(said(&refused).contains("JC-1119"), "there is a journal: {}", said(&refused));
    let restored = node.command(&["restore", "--from", text(&file), "--set-aside"]);
    assert!(restored.status.success(), "{}", said(&restored));
    node.start();
    before.check_among(&node, 1_000, "restored");
    node.stop();
}

#[test]
fn a_node_is_set_back_to_a_record() {
    let mut node = Node::ministry();
    for number in 0..5 {
        send(&node, "000000000", &format!("m{number}"));
    }
    let record = node.get("/api/v1/status")["durable"].as_u64().expect("a number");
    for number in 5..9 {
        send(&node, "000000000", &format!("m{number}"));
    }
    let file = backup(&node, "node.tar");
    node.stop();
    let beyond = node.command(&["restore", "--from", text(&file), "--set-aside", "--record", "100000"]);
    assert!(said(&beyond).contains("JC-1120"), "{}", said(&beyond));
    let done = node.command_json(&["restore", "--from", text(&file), "--set-aside", "--record", &record.to_string()]);
    assert_eq!(done["last"], record);
    node.start();
    assert_eq!(ids(&node), ["m0", "m1", "m2", "m3", "m4"]);
    wait_for("the node to see that it has no neighbours", || {
        (node.get("/api/v1/status")["catching_up"] == json!(false)).then_some(())
    });
    node.stop();
}

#[test]
fn an_altered_or_torn_backup_is_refused_and_nothing_is_touched() {
    let mut node = Node::ministry();
    send(&node, "000000000", "m0");
    let file = backup(&node, "node.tar");
    node.stop();
    let good = fs::read(&file).expect("read");
    let mut altered = good.clone();
    let middle = altered.len() / 3;
    altered[middle] ^= 1;
    for bytes in [&altered[..], &good[..good.len() / 2], &good[..good.len() - 2048]] {
        fs::write(&file, bytes).expect("written");
        let refused = node.command(&["restore", "--from", text(&file), "--set-aside"]);
        assert!(said(&refused).contains("JC-1118"), "{}", said(&refused));
    }
    node.start();
    assert_eq!(ids(&node), ["m0"]);
}

/// Tables, dictionary, messages and custody after restarts from snapshots.
#[test]
fn snapshots_replace_segments_and_a_restart_finds_everything() {
    let mut node = Node::ministry_with("checkpoint_mib = 1\n");
    assert_eq!(node.post("/api/v1/dictionary/national/sets/UNIT", "code,name,level,parent\n1,a,1,\n").0, 200);
    let release = node.post("/api/v1/dictionary/national/releases", r#"{"effective_from":"2026-01-01"}"#);
    assert_eq!(release.0, 200);
    let spec = node.file().with_file_name("spec.toml");
    fs::write(&spec, SPEC).expect("written");
    let released = node.command(&["spec", "release", text(&spec)]);
    assert!(released.status.success(), "{}", said(&released));
    let rows = "line_id,pay_date,unit,amount\nL1,2026-01-02,1,12.50\nL2,2026-01-03,1,7.50\n";
    let (status, value) = node.post("/api/v1/tables/pay/rows?mode=all", rows);
    assert_eq!(status, 200, "{value}");
    let big = "x".repeat(60_000);
    for round in 0..3 {
        for number in 0..60 {
            let body = json!({ "to": "000000000", "id": format!("{round}-{number}"), "text": big }).to_string();
            let (status, value) = node.post("/api/v1/messages", &body);
            assert_eq!(status, 200, "{value}: {}", node.log());
        }
        wait_for("a snapshot", || node.log().contains("a snapshot has replaced").then_some(()));
        if round == 1 {
            node.kill()
        } else {
            node.stop()
        }
        let report = node.command_json(&["journal", "verify"]);
        assert!(report["snapshot_through"].as_u64().is_some_and(|n| n > 0), "{report}");
        assert!(report["bytes"].as_u64().is_some_and(|n| n < 12 << 20), "old segments are gone: {report}");
        node.start();
        assert_eq!(node.get("/api/v1/messages")["count"], 60 * (round + 1));
        assert_eq!(node.get("/api/v1/dictionary/national/verify")["root"], release.1["root"]);
        let sum = node.post("/api/v1/sql", r#"{"query":"SELECT SUM(amount) AS s FROM pay"}"#);
        assert_eq!(sum.1["rows"][0][0], "20.00", "{}", sum.1);
    }
}

const SPEC: &str = r#"
id = "pay"
version = 1
title = "payments"
table = "pay"
month_of = "pay_date"
totals = ["amount"]
collector = "000000000"
every_seconds = 3600
line = "national"
release = 1
columns = [
    { name = "line_id", type = "text", required = true, key = true },
    { name = "pay_date", type = "date", required = true },
    { name = "unit", type = "text", required = true, code_set = "UNIT" },
    { name = "amount", type = "amount", required = true },
]
"#;
