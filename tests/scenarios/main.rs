//! Scenarios: real `jincai` processes, real files and sockets, one binary. Everything runs in temporary directories on free
//! ports and is stopped at the end, also when a check fails.

mod address;
mod damage;
mod disk;
mod files;
mod kit;
mod load;
mod network;
mod node;
mod process;
mod queue;
mod restore;
mod trace;

use node::{Node, Pair, jincai, wait_for};
use serde_json::json;

/// The whole of the main job on real data; the demo itself checks every step.
#[test]
fn the_demo_holds_every_check() {
    let directory = tempfile::tempdir().expect("a directory");
    let run = jincai(&["demo", "--dir", directory.path().to_str().expect("a plain path")]);
    let (out, err) = (String::from_utf8_lossy(&run.stdout), String::from_utf8_lossy(&run.stderr));
    assert!(run.status.success(), "{out}\n{err}");
    assert!(out.contains("every check held"), "{out}");
    assert_eq!(out.lines().filter(|l| l.starts_with("http://")).count(), 4, "one address a node: {out}");
    // The next lines show up in a test run with --nocapture: the demo's table.
    println!("{out}");
}

#[test]
fn nothing_is_answered_without_the_token() {
    let node = Node::ministry();
    for path in ["/api/v1/status", "/api/v1/dictionary", "/api/v1/links", "/api/v1/sql"] {
        let (status, body) = node.request("GET", path, Some("wrong"), "");
        assert_eq!((status, body["code"].as_str()), (401, Some("JC-1803")), "{path}");
        assert_eq!(node.request("GET", path, None, "").0, 401, "{path}");
    }
    assert_eq!(node.request("GET", "/healthz", None, "").0, 200);
    assert_eq!(node.request("GET", "/nowhere", None, "").1["code"], "JC-1802");
    assert!(node.text("/metrics").contains("jincai_messages_applied_total 0"));
}

#[test]
fn wrong_requests_are_named_by_code() {
    let node = Node::ministry();
    let wrong = |path: &str, body: &str, code: &str| {
        let (status, answer) = node.post(path, body);
        assert!((400..500).contains(&status), "{path}: {status} {answer}");
        assert_eq!(answer["code"], code, "{path}: {answer}");
    };
    wrong("/api/v1/sql", r#"{"query":"DROP TABLE payments"}"#, "JC-1603");
    wrong("/api/v1/tables/nothing/rows?mode=all", "a,b\n1,2\n", "JC-1502");
    wrong("/api/v1/messages", r#"{"to":"37050200","id":"1","text":"x"}"#, "JC-1001");
    wrong("/api/v1/messages", r#"{"to":"370000000","id":"1","text":"x","class":"urgent"}"#, "JC-1801");
    wrong("/api/v1/dictionary/national/releases", r#"{"effective_from":"2026-02-30"}"#, "JC-1006");
    wrong("/api/v1/dictionary/national/sets/UNIT", "code,name,level\n1,a,1\n", "JC-1401");
}

#[test]
fn what_was_acknowledged_survives_a_kill() {
    let mut pair = Pair::over_quic();
    for number in 0..50 {
        let body = json!({ "to": "370000000", "id": format!("m{number:03}"), "text": "x".repeat(100) }).to_string();
        assert_eq!(pair.ministry.post("/api/v1/messages", &body).0, 200);
    }
    // Killed right after the last acknowledgement; nothing was flushed on purpose.
    pair.ministry.kill();
    pair.ministry.start();
    wait_for("fifty messages, each once", || {
        let value = pair.province.get("/api/v1/messages");
        let ids: Vec<&str> = value["newest"].as_array()?.iter().filter_map(|n| n["id"].as_str()).collect();
        let expected: Vec<String> = (0..50).map(|n| format!("m{n:03}")).collect();
        (ids == expected).then_some(())
    });
    pair.province.kill();
    pair.province.start();
    assert_eq!(pair.province.get("/api/v1/messages")["count"], 50, "a restart applies nothing again");
}

#[test]
fn files_in_a_directory_carry_the_same_messages() {
    let mut pair = Pair::over_files();
    let send = |node: &Node, to: &str, id: &str| {
        let body = json!({ "to": to, "id": id, "text": "by hand" }).to_string();
        node.post("/api/v1/messages", &body)
    };
    wait_for("the ministry to know the province", || {
        (send(&pair.ministry, "370000000", "down").0 == 200).then_some(())
    });
    assert_eq!(send(&pair.province, "000000000", "up").0, 200);
    let has = |node: &Node, id: &str| {
        let value = node.get("/api/v1/messages");
        value["newest"].as_array().is_some_and(|n| n.iter().filter(|n| n["id"] == id).count() == 1).then_some(())
    };
    wait_for("the message down", || has(&pair.province, "down"));
    wait_for("the message up", || has(&pair.ministry, "up"));
    wait_for("custody to end by signed receipts", || {
        (pair.ministry.get("/api/v1/links")["links"][0]["batches"] == 0).then_some(())
    });
    pair.province.stop();
    pair.province.start();
    assert_eq!(pair.province.get("/api/v1/messages")["count"], 1);
}

#[test]
fn a_clean_stop_leaves_a_whole_journal_with_its_closing_mark() {
    let mut node = Node::ministry();
    assert_eq!(node.post("/api/v1/dictionary/national/sets/UNIT", "code,name,level,parent\n1,a,1,\n").0, 200);
    let release = node.post("/api/v1/dictionary/national/releases", r#"{"effective_from":"2026-01-01"}"#);
    assert_eq!((release.0, &release.1["number"]), (200, &json!(1)), "{}", release.1);
    node.stop();
    let report = node.command_json(&["journal", "verify"]);
    assert_eq!((&report["clean"], &report["chain_whole"], &report["damage"]), (&json!(true), &json!(true), &json!([])));
    node.start();
    let verified = node.get("/api/v1/dictionary/national/verify");
    assert_eq!((&verified["number"], &verified["root"]), (&json!(1), &release.1["root"]));
}

#[test]
fn operators_mistakes_are_told_and_harm_nothing() {
    let node = Node::ministry();
    let again = node.command(&["init"]);
    assert!(!again.status.success() && String::from_utf8_lossy(&again.stderr).contains("JC-1904"));
    let second = node.command(&["run"]);
    let said = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(!second.status.success() && said.contains("JC-11"), "two nodes on one data directory: {said}");
    assert_eq!(node.request("GET", "/healthz", None, "").0, 200, "the first one goes on");
    std::fs::write(node.file().with_file_name("bad.toml"), "authority = \"1\"\n").expect("written");
    let bad =
        jincai(&["config", "check", "--config", node.file().with_file_name("bad.toml").to_str().expect("a path")]);
    assert_eq!(bad.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&bad.stderr).contains("JC-1901"));
}

#[test]
fn evidence_of_one_message_verifies_offline() {
    let pair = Pair::over_quic();
    let body = json!({ "to": "370000000", "id": "proof-1", "text": "paid 12.50" }).to_string();
    assert_eq!(pair.ministry.post("/api/v1/messages", &body).0, 200);
    let out = pair.ministry.file().with_file_name("proof.cbor");
    let path = out.to_str().expect("a path");
    let export = pair.ministry.command(&["envelope", "export", "000000000>370000000/record", "1", "--out", path]);
    assert!(export.status.success(), "{}", String::from_utf8_lossy(&export.stderr));
    let verify = jincai(&["envelope", "verify", path, "--json"]);
    let report: serde_json::Value = serde_json::from_slice(&verify.stdout).expect("JSON");
    assert_eq!(
        (&report["verified"], &report["id"], &report["payload_bytes"]),
        (&json!(true), &json!("proof-1"), &json!(10))
    );
    let mut bytes = std::fs::read(&out).expect("read");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&out, bytes).expect("written");
    assert!(!jincai(&["envelope", "verify", path]).status.success(), "an altered file is refused");
    let wrong_root = "0".repeat(64);
    assert!(!jincai(&["envelope", "verify", path, "--root", &wrong_root]).status.success());
}
