//! A message is traced across three nodes.

use crate::node::{Chain, Node, wait_for};
use crate::restore::{ids, send};
use serde_json::{Value, json};

fn hop<'v>(trace: &'v Value, authority: &str) -> &'v Value {
    let hops = trace["hops"].as_array().expect("hops");
    hops.iter().find(|hop| hop["authority"] == authority).unwrap_or_else(|| panic!("{authority} in {trace}"))
}

fn trace(node: &Node, id: &str) -> Value {
    node.command_json(&["trace", id])
}

/// From a county over its province to the ministry, looked for from each end, while the message waits, and when it has come.
#[test]
fn a_message_is_traced_hop_by_hop_with_signed_receipts() {
    let chain = Chain::over_quic();
    let (ministry, province, county) = (&chain.ministry, &chain.province, &chain.county);
    let (m, p, c) = ("000000000", "370000000", "370502000");
    send(county, m, "first");
    wait_for("the first message", || (ids(ministry) == ["first"]).then_some(()));
    // The end-to-end receipt and both links' receipts come by themselves.
    wait_for("all receipts", || {
        let idle = |node: &Node| {
            node.get("/api/v1/links")["links"].as_array()?.iter().all(|l| l["batches"] == 0).then_some(())
        };
        idle(county).and_then(|()| idle(province))
    });
    for node in [county, ministry] {
        let found = trace(node, "first");
        assert_eq!((&found["complete"], &found["place"]["sequence"]), (&json!(true), &json!(1)), "{found}");
        for (from, to) in [(c, p), (p, m)] {
            let at = hop(&found, from);
            assert_eq!((&at["state"], &at["handed_on"][0]["to"]), (&json!("passed"), &json!(to)), "{found}");
            assert_eq!(at["handed_on"][0]["receipt"]["verified"], true, "{found}");
        }
        assert_eq!((&hop(&found, m)["state"], &hop(&found, m)["from"]), (&json!("applied"), &json!(p)), "{found}");
    }

    province.command_json(&["queue", "hold", "--peer", m, "--reason", "a test"]);
    send(county, m, "second");
    wait_for("it to reach the province", || {
        (province.get("/api/v1/links").to_string().contains("370502000>000000000")).then_some(())
    });
    // The question waits behind the held link, too: the answer of the province tells where the message is.
    let output = county.command(&["trace", "second", "--seconds", "2", "--json"]);
    assert_eq!(output.status.code(), Some(3), "the ministry has not answered");
    let found: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(
        hop(&found, p)["handed_on"],
        json!([{ "to": m, "time": null, "in_custody": true, "receipt": null }]),
        "{found}"
    );
    assert_eq!(hop(&found, m)["answered"], false);
    province.command_json(&["queue", "release", "--peer", m, "--reason", "a test"]);
    wait_for("the second message", || (ids(ministry).len() == 2).then_some(()));

    let nobody = county.command(&["trace", "never sent"]);
    assert!(!nobody.status.success() && String::from_utf8_lossy(&nobody.stderr).contains("JC-1802"));
}
