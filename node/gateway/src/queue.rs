//! `jincai queue`: what waits, and what an operator does about it. Acts go to the running node's API; who and why is always
//! said, because it is recorded.

use crate::cli::{HoldArgs, Node, Person, Queue};
use crate::commands::{client, get, percent};
use crate::error::Error;
use crate::output::show;
use serde_json::{Value, json};

/// Carries a command out.
pub(crate) fn execute(command: Queue) -> Result<(), Error> {
    match command {
        Queue::List(node) => get(&node, "/api/v1/links"),
        Queue::Dead(node) => get(&node, "/api/v1/dead-letters"),
        Queue::Lanes(node) => get(&node, "/api/v1/lanes"),
        Queue::Holds(node) => get(&node, "/api/v1/queue/holds"),
        Queue::Show { node, peer, lane, limit } => {
            let lane = lane.map(|lane| format!("&lane={}", percent(&lane))).unwrap_or_default();
            get(&node, &format!("/api/v1/links/{peer}/queue?limit={limit}{lane}"))
        }
        Queue::Retry { node, peer, lane } => post(&node, "/api/v1/queue/retry", &json!({ "peer": peer, "lane": lane })),
        Queue::Hold(args) => post(&args.node, "/api/v1/queue/hold", &target(&args)),
        Queue::Release(args) => post(&args.node, "/api/v1/queue/release", &target(&args)),
        Queue::Drop { node, lane, through, dead: None, waiting: _, person } => {
            let body = json!({ "lane": lane, "through": through, "by": person.by, "reason": person.reason });
            post(&node, "/api/v1/queue/drop", &body)
        }
        Queue::Drop { node, lane, dead: Some(number), person, .. } => {
            post(&node, "/api/v1/dead-letters/drop", &letter(&node, &lane, number, &person)?)
        }
        Queue::Replay { node, lane, number, person } => {
            post(&node, "/api/v1/dead-letters/replay", &letter(&node, &lane, number, &person)?)
        }
    }
}

fn post(node: &Node, path: &str, body: &Value) -> Result<(), Error> {
    show(&client(node)?.post_json(path, body)?, node.json);
    Ok(())
}

fn target(HoldArgs { what, person, .. }: &HoldArgs) -> Value {
    json!({ "peer": what.peer, "lane": what.lane, "by": person.by, "reason": person.reason })
}

/// Names a dead letter. Its epoch is that of the newest one with its number.
fn letter(node: &Node, lane: &str, number: u64, person: &Person) -> Result<Value, Error> {
    let letters = client(node)?.get("/api/v1/dead-letters")?;
    let mut newest_first = letters["dead_letters"].as_array().into_iter().flatten().rev();
    let found = newest_first.find(|l| l["lane"] == json!(lane) && l["sequence"] == json!(number));
    let epoch =
        &found.ok_or_else(|| Error::Check(format!("there is no dead letter {number} of lane {lane}")))?["epoch"];
    Ok(json!({ "lane": lane, "epoch": epoch, "sequence": number, "by": person.by, "reason": person.reason }))
}
