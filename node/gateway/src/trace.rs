//! `jincai trace`: where a message is, and what became of it, hop by hop.

use crate::cli::TraceArgs;
use crate::clock;
use crate::commands::{client, percent};
use crate::error::Error;
use crate::output::{complain, say, show, table};
use serde_json::{Value, json};
use std::time::Duration;

/// How often the node is asked for answers.
const PAUSE: Duration = Duration::from_millis(100);

/// Begins the search, waits for the answers, and shows them. Exit code 3 if somebody has not answered in time.
pub(crate) fn execute(args: &TraceArgs) -> Result<(), Error> {
    let client = client(&args.node)?;
    let begun = client.post_json("/api/v1/traces", &json!({ "id": args.id, "to": args.to }))?;
    let path = format!("/api/v1/traces?trace={}", percent(begun["trace"].as_str().unwrap_or_default()));
    let started = clock::instant();
    let found = loop {
        let found = client.get(&path)?;
        if found["complete"] == json!(true) || started.elapsed() >= Duration::from_secs(args.seconds) {
            break found;
        }
        std::thread::park_timeout(PAUSE);
    };
    if args.node.json {
        show(&found, true);
    } else {
        say(&format!(
            "message «{}» to {}, number {} of lane {}",
            args.id,
            text(&found["place"]["address"]),
            found["place"]["sequence"],
            text(&found["place"]["lane"])
        ));
        let hops = found["hops"].as_array().cloned().unwrap_or_default();
        let heads = ["node", "state", "since", "record", "from", "handed on", "reason"].map(str::to_owned);
        table(&heads, &hops.iter().map(row).collect::<Vec<_>>());
        let others = begun["other_places"].as_array().map_or(0, Vec::len);
        if others > 0 {
            complain(&format!("{others} more messages have this id; --json names them"));
        }
    }
    match found["complete"] == json!(true) {
        true => Ok(()),
        false => Err(Error::Check(format!("not every node has answered within {} s", args.seconds))),
    }
}

fn text(value: &Value) -> String {
    match value {
        Value::Null => "-".into(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// A time of the node that speaks, as RFC 3339 writes it.
fn time(value: &Value) -> String {
    let millis = value.as_i64().and_then(chrono::DateTime::from_timestamp_millis);
    millis.map_or_else(|| "-".into(), |time| time.to_rfc3339_opts(chrono::SecondsFormat::Millis, true))
}

fn handed(value: &Value) -> String {
    let to = text(&value["to"]);
    if value["in_custody"] == json!(true) {
        return format!("in custody for {to}");
    }
    let receipt = match &value["receipt"]["verified"] {
        Value::Bool(true) => "receipt verified",
        Value::Bool(false) => "receipt NOT verified",
        _ => "receipt no longer kept",
    };
    format!("{to} at {} ({receipt})", time(&value["time"]))
}

fn row(hop: &Value) -> Vec<String> {
    let answered = hop["answered"] == json!(true);
    let on: Vec<String> = hop["handed_on"].as_array().into_iter().flatten().map(handed).collect();
    let state = if answered { text(&hop["state"]) } else { "no answer".into() };
    let on = if on.is_empty() { "-".into() } else { on.join("; ") };
    vec![
        text(&hop["authority"]),
        state,
        time(&hop["time"]),
        text(&hop["record"]),
        text(&hop["from"]),
        on,
        text(&hop["reason"]),
    ]
}
