//! Operators and what waits: between real nodes, by the command line.

use crate::node::{Node, Pair, wait_for};
use crate::restore::{ids, said, send};
use serde_json::{Value, json};

const WHO: [&str; 4] = ["--by", "Li", "--reason", "a test"];

fn order(node: &Node, arguments: &[&str]) -> Value {
    node.command_json(&[&["queue"], arguments, &WHO].concat())
}

fn waiting(node: &Node, peer: &str) -> Vec<String> {
    let shown = node.command_json(&["queue", "show", peer]);
    let batches = shown["batches"].as_array().expect("a list").clone();
    let of = |batch: &Value| batch["messages"].as_array().cloned().unwrap_or_default();
    batches.iter().flat_map(of).filter_map(|m| m["id"].as_str().map(str::to_owned)).collect()
}

/// The ministry's link to its province is held, two messages are given up, a third goes on; a restart changes nothing.
#[test]
fn held_messages_wait_and_those_given_up_never_arrive() {
    let mut pair = Pair::over_quic();
    send(&pair.ministry, "370000000", "first");
    wait_for("the first message", || (ids(&pair.province) == ["first"]).then_some(()));
    wait_for("its receipt", || waiting(&pair.ministry, "370000000").is_empty().then_some(()));
    order(&pair.ministry, &["hold", "--peer", "370000000"]);
    for id in ["second", "third"] {
        send(&pair.ministry, "370000000", id);
    }
    pair.ministry.stop();
    pair.ministry.start();
    assert_eq!(waiting(&pair.ministry, "370000000"), ["second", "third"]);
    assert_eq!(pair.ministry.command_json(&["queue", "holds"])["holds"], json!([{ "peer": "370000000" }]));
    let given_up = order(&pair.ministry, &["drop", "000000000>370000000/record", "--through", "3"]);
    assert_eq!(given_up["given_up"]["to"]["sequence"], 3, "{given_up}");
    send(&pair.ministry, "370000000", "fourth");
    order(&pair.ministry, &["release", "--peer", "370000000"]);
    wait_for("the last message", || (ids(&pair.province) == ["first", "fourth"]).then_some(()));
    let lost = pair.province.get("/api/v1/status")["lost"].clone();
    assert_eq!((&lost[0]["after"], &lost[0]["to"]), (&json!(1), &json!(3)), "named where they are missed: {lost}");
    assert!(pair.ministry.log().contains("JC-1221"), "recorded: {}", pair.ministry.log());
}

/// A dead letter is dropped by name; what is not there cannot be.
#[test]
fn dead_letters_are_dropped_by_name_and_once() {
    let node = Node::ministry();
    for _ in 0..2 {
        send(&node, "000000000", "same");
    }
    let letters = || node.get("/api/v1/dead-letters")["dead_letters"].as_array().map_or(0, Vec::len);
    assert_eq!(letters(), 1, "an id counts once");
    let lane = "000000000>000000000/record";
    let replayed = node.command(&[&["queue", "replay", lane, "2"], &WHO[..]].concat());
    assert!(said(&replayed).contains("JC-1225"), "it is refused again: {}", said(&replayed));
    order(&node, &["drop", lane, "--dead", "2"]);
    assert_eq!(letters(), 0);
    let again = node.command(&[&["queue", "drop", lane, "--dead", "2"], &WHO[..]].concat());
    assert!(!again.status.success());
    let nameless = node.command(&["queue", "drop", lane, "--dead", "2"]);
    assert_eq!(nameless.status.code(), Some(2), "who does not say why is not heard");
}
