//! Messages by address: to every county of one province, for one business system in one fiscal year.

use crate::node::{Country, Node, Pair, wait_for};
use serde_json::{Value, json};

const MINISTRY: &str = "000000000";
/// A province with a city that has two counties, a city that has none, and a county that it governs itself.
const PROVINCE: &str = "370000000";
const COUNTIES: [&str; 3] = ["370502000", "370522000", "379001000"];
const BELOW: [(&str, &str); 8] = [
    (PROVINCE, MINISTRY),
    ("110000000", MINISTRY),
    ("370500000", PROVINCE),
    ("370600000", PROVINCE),
    ("370502000", "370500000"),
    ("370522000", "370500000"),
    ("379001000", PROVINCE),
    ("110101000", "110000000"),
];

fn send(node: &Node, to: &str, id: &str) -> Value {
    node.command_json(&["send", "--to", to, "--from", "2026/audit", "--id", id, "--subject", "a test", "hello"])
}

/// What a reader at a node sees, by id.
fn read(node: &Node, address: &str) -> Vec<String> {
    let seen = node.get(&format!("/api/v1/messages?address={address}"));
    let ids = seen["newest"].as_array().expect("a list").iter().map(|note| note["id"].as_str().expect("an id"));
    ids.map(str::to_owned).collect()
}

/// Batches and bytes that a node has sent a neighbour.
fn sent(node: &Node, peer: &str) -> (u64, u64) {
    let links = node.get("/api/v1/links");
    let link =
        links["links"].as_array().into_iter().flatten().find(|link| link["peer"] == peer).expect("a link").clone();
    (link["batches_sent"].as_u64().expect("a number"), link["bytes_sent"].as_u64().expect("a number"))
}

fn trace(country: &Country) {
    let found = country.of(MINISTRY).command_json(&["trace", "for-budget", "--to", "370502000"]);
    assert_eq!(found["place"]["address"], "counties:370000000/2026/budget", "{found}");
    let states: Vec<(&str, &str)> = found["hops"]
        .as_array()
        .expect("hops")
        .iter()
        .map(|hop| (hop["authority"].as_str().unwrap_or_default(), hop["state"].as_str().unwrap_or_default()))
        .collect();
    let way = [(MINISTRY, "passed"), (PROVINCE, "passed"), ("370500000", "passed"), ("370502000", "applied")];
    assert_eq!(states, way, "{found}");
}

#[test]
fn a_message_to_every_county_of_a_province_reaches_each_once_and_crosses_each_link_once() {
    // Nothing is lost on the way, so nothing is sent again either.
    let country = Country::over_quic(&BELOW, "[policy]\nretry_ms = 60000\n");
    let (ministry, province) = (country.of(MINISTRY), country.of(PROVINCE));
    let before = sent(ministry, PROVINCE);
    let said = send(ministry, "counties:370000000/2026/budget", "for-budget");
    assert_eq!(said["to"], "counties:370000000/2026/budget", "{said}");
    assert_eq!(said["source"], "000000000/2026/audit", "{said}");
    for county in COUNTIES {
        wait_for("the message", || (read(country.of(county), "*/2026/budget") == ["for-budget"]).then_some(()));
    }
    wait_for("custody to end", || {
        let idle = |node: &Node| {
            node.get("/api/v1/links")["links"].as_array().is_some_and(|l| l.iter().all(|l| l["batches"] == 0))
        };
        country.all().all(|(_, node)| idle(node)).then_some(())
    });
    let after = sent(ministry, PROVINCE);
    assert_eq!(after.0 - before.0, 1, "one batch over the ministry's link, whatever stands below");
    assert!((200..5_000).contains(&(after.1 - before.1)), "{before:?} {after:?}");
    assert_eq!(sent(ministry, "110000000"), (0, 0), "and none to another province");
    for (from, to, batches) in [
        (PROVINCE, "370500000", 1),
        (PROVINCE, "379001000", 1),
        (PROVINCE, "370600000", 0),
        ("370500000", "370502000", 1),
        ("370500000", "370522000", 1),
    ] {
        assert_eq!(sent(country.of(from), to).0, batches, "from {from} to {to}");
    }
    for (id, node) in country.all() {
        let count = u64::from(COUNTIES.contains(&id));
        assert_eq!(node.get("/api/v1/messages")["count"], count, "{id}");
        assert_eq!(node.get("/api/v1/status")["counters"]["messages_applied"], count, "{id}");
    }
    trace(&country);
    // Others for the same counties: for every system, for every year, for another year.
    for (to, id) in [
        ("counties:370000000/2027/budget", "next-year"),
        ("counties:370000000/*/pay", "for-pay"),
        ("counties:370000000/2026", "for-the-year"),
        ("counties:370500000", "for-all-of-the-city"),
    ] {
        send(ministry, to, id);
    }
    for county in COUNTIES {
        let node = country.of(county);
        let of_city: &[&str] = if county == "379001000" { &[] } else { &["for-all-of-the-city"] };
        let reads = |address: &str, ids: &[&str]| {
            let mut wanted: Vec<&str> = ids.iter().chain(of_city).copied().collect();
            wanted.sort_unstable();
            wait_for("what this reader reads", || {
                let mut seen = read(node, address);
                seen.sort_unstable();
                (seen == wanted).then_some(())
            });
        };
        reads("*/2026/budget", &["for-budget", "for-the-year"]);
        reads("*/2027/budget", &["next-year"]);
        reads("*/2026/pay", &["for-pay", "for-the-year"]);
        reads("*/2030/ledger", &[]);
        reads("*", &["for-budget", "next-year", "for-pay", "for-the-year"]);
    }
    assert_eq!(read(country.of("370502000"), "counties:370500000/2026/budget"), ["for-all-of-the-city"]);
    assert_eq!(province.get("/api/v1/messages")["count"], 0, "a relay reads nothing");
}

#[test]
fn readers_page_through_what_is_for_them_and_wrong_addresses_are_named_by_code() {
    let pair = Pair::over_quic();
    let (ministry, province) = (&pair.ministry, &pair.province);
    for number in 0..6 {
        let system = if number % 2 == 0 { "budget" } else { "pay" };
        let said = send(province, &format!("{MINISTRY}/2026/{system}"), &format!("m{number}"));
        assert_eq!(said["source"], "370000000/2026/audit", "{said}");
    }
    wait_for("all of them", || (ministry.get("/api/v1/messages")["count"] == 6).then_some(()));
    let page = |query: &str| {
        ministry
            .command_json(&[&["inbox", "--address", "*/2026/pay"], &query.split(' ').collect::<Vec<_>>()[..]].concat())
    };
    let first = page("--limit 2");
    let ids =
        |page: &Value| page["newest"].as_array().expect("a list").iter().map(|n| n["id"].clone()).collect::<Vec<_>>();
    assert_eq!((ids(&first), &first["next"]), (vec![json!("m1"), json!("m3")], &json!(4)), "{first}");
    assert_eq!(first["newest"][0]["address"], "000000000/2026/pay");
    assert_eq!(first["newest"][0]["source"], "370000000/2026/audit");
    let rest = page("--limit 2 --after 4");
    assert_eq!((ids(&rest), &rest["next"]), (vec![json!("m5")], &Value::Null), "{rest}");
    let wrong = |node: &Node, to: &str, code: &str| {
        let (status, answer) = node.post("/api/v1/messages", &json!({ "to": to, "id": "1", "text": "x" }).to_string());
        assert!(status >= 400 && answer["code"] == code, "{to}: {answer}");
    };
    for to in ["370000000/26/budget", "370000000/2026/Budget", "towns:370000000", "370000000/2026/pay/x", ""] {
        wrong(ministry, to, if to.is_empty() { "JC-1001" } else { "JC-1008" });
    }
    wrong(ministry, &format!("370000000/2026/{}", "a".repeat(100)), "JC-1005");
    wrong(ministry, "counties:990000000/2026/budget", "JC-1204");
    wrong(province, "counties:000000000", "JC-1229");
    let (status, answer) = ministry.request("GET", "/api/v1/messages?address=*/26", None, "");
    assert_eq!(status, 401, "{answer}");
    let refused = ministry.try_get("/api/v1/messages?address=*/26").expect("an answer");
    assert_eq!((refused.0, &refused.1["code"]), (422, &json!("JC-1008")));
}
