//! The invariants, over what is durable: I1 nothing acknowledged is lost, I2 nothing is applied twice or out of order,
//! I3 receipts only for what is durable, I4 one root per release, I7 collected partitions equal their source. What no disk
//! held any more when a node was set back is lost, and excused.

use crate::node::Node;
use crate::world::World;
use jincai_crypto::BatchView;
use jincai_exchange::record;
use jincai_journal::Log;
use jincai_storage::PartState;
use jincai_types::{AuthorityId, Lane};
use std::collections::{BTreeMap, BTreeSet};

/// I3, at every restart: whatever the node once called durable it still holds, or has in its state.
pub(crate) fn promises_kept(node: &Node) -> Result<(), String> {
    let Some(running) = &node.running else { return Ok(()) };
    for (lane, position) in &node.promised {
        if running.core.exchange().held_up_to(lane).key() < position.key() {
            return Err(format!(
                "{}: I3: it receipted {} of lane {lane}, and does not know it",
                node.id, position.sequence
            ));
        }
    }
    Ok(())
}

/// Nothing waits anywhere: no custody, no message unsealed, no partition unsent, every node on the last release.
pub(crate) fn is_settled(world: &World) -> bool {
    unsettled(world).is_empty()
}

/// What still waits, for people.
pub(crate) fn unsettled(world: &World) -> String {
    let mut out = Vec::new();
    let release =
        world.nodes[0].running.as_ref().map(|r| r.core.rooms().dictionary.status().first().map_or(0, |l| l.number));
    for node in &world.nodes {
        let Some(running) = &node.running else {
            out.push(format!("{} is down", node.id));
            continue;
        };
        let exchange = running.core.exchange();
        for link in exchange.links() {
            if link.batches > 0 {
                let lanes: Vec<String> = link.lanes.iter().map(|(lane, n, _)| format!("{lane}:{n}")).collect();
                out.push(format!("{} holds {} for {} (up: {})", node.id, lanes.join(" "), link.peer, link.up));
            }
        }
        if exchange.is_catching_up() {
            out.push(format!("{} is catching up", node.id));
        }
        for lane in exchange.undelivered() {
            out.push(format!("{}: lane {lane} is not applied up to its end", node.id));
        }
        for lane in exchange.inbound() {
            if lane.waiting > 0 {
                out.push(format!("{}: lane {} waits for {:?}", node.id, lane.lane, lane.blocked));
            }
        }
        let known = running.core.rooms().dictionary.status().first().map_or(0, |l| l.number);
        if Some(known) != release {
            out.push(format!("{} is on release {known}, the ministry on {release:?}", node.id));
        }
        let storage = &running.core.rooms().storage;
        if node.id != AuthorityId::MINISTRY && storage.parts().any(|(_, p)| p.state == PartState::Changed) {
            out.push(format!("{} has partitions to be collected", node.id));
        }
    }
    out.join("; ")
}

/// Messages that are durably applied at a node, in order, by lane.
fn applied(node: &Node) -> BTreeMap<Lane, Vec<String>> {
    let end = node.running.as_ref().map_or(0, |running| running.core.durable());
    let mut out: BTreeMap<Lane, Vec<String>> = BTreeMap::new();
    for (_, lane, id) in node.applied.iter().filter(|(number, ..)| *number <= end) {
        out.entry(*lane).or_default().push(id.clone());
    }
    out
}

/// Everything at the end.
pub(crate) fn final_checks(world: &mut World) {
    let mut broken = Vec::new();
    let mut seen: BTreeMap<String, AuthorityId> = BTreeMap::new();
    for node in &world.nodes {
        for (lane, mut ids) in applied(node) {
            ids.retain(|id| !id.starts_with("refusal/"));
            if ids.windows(2).any(|pair| pair[0] >= pair[1]) {
                broken.push(format!("I2: {}: lane {lane} was applied as {ids:?}", node.id));
            }
            for id in ids {
                if let Some(before) = seen.insert(id.clone(), node.id) {
                    broken.push(format!("I2: {id} was applied at {before} and at {}", node.id));
                }
            }
        }
    }
    let letters: BTreeSet<String> = world
        .nodes
        .iter()
        .filter_map(|n| n.running.as_ref())
        .flat_map(|r| r.core.exchange().dead_letters().map(|l| l.id.clone()).collect::<Vec<_>>())
        .collect();
    for (id, to) in &world.acknowledged {
        if seen.get(id) != Some(to) && !world.lost.contains(id) && !letters.contains(id) {
            broken.push(format!("I1: {id} was acknowledged and is not applied at {to}"));
        }
    }
    for (id, at) in seen.iter().filter(|(id, _)| !id.starts_with("refusal/")) {
        if world.submitted.get(id) != Some(at) {
            broken.push(format!("I5: {id} was applied at {at}, and nobody sent it there"));
        }
    }
    broken.extend(one_root_per_release(world));
    broken.extend(collected_equals_source(world));
    world.report.applied = seen.len() as u64;
    world.report.broken.extend(broken);
}

fn one_root_per_release(world: &World) -> Vec<String> {
    let mut out = Vec::new();
    let mut roots = BTreeMap::new();
    for node in &world.nodes {
        let Some(running) = &node.running else { continue };
        for release in running.core.rooms().dictionary.releases("national") {
            let root = *roots.entry(release.number).or_insert(release.root);
            if root != release.root {
                out.push(format!("I4: {} has another root for release {}", node.id, release.number));
            }
        }
    }
    out
}

fn collected_equals_source(world: &World) -> Vec<String> {
    let mut out = Vec::new();
    let Some(ministry) = &world.nodes[0].running else { return vec!["the ministry is down".into()] };
    match ministry.core.reconcile(&ministry.log) {
        Ok(lines) => {
            out.extend(lines.iter().filter(|l| !l.equal).map(|l| format!("I7: {} differs from its totals", l.part)))
        }
        Err(error) => out.push(format!("I7: {error}")),
    }
    let here: BTreeMap<_, _> = ministry.core.rooms().storage.parts().collect();
    for node in world.nodes.iter().skip(1) {
        let Some(running) = &node.running else { continue };
        for (id, part) in running.core.rooms().storage.parts() {
            let same = here.get(id).is_some_and(|h| h.totals == part.totals && h.version == part.version);
            if part.state == PartState::Sent
                && !same
                && !(here.get(id).is_some_and(|h| h.version > part.version) && world.report.faults.restores > 0)
            {
                out.push(format!(
                    "I7: {} of {} is not at the ministry as it stands at its source",
                    part.version, node.id
                ));
            }
            if let PartState::Refused(reason) = &part.state {
                out.push(format!("I7: the ministry refused a partition of {}: {reason}", node.id));
            }
        }
    }
    out
}

/// Ids of messages that some node has applied, or holds in a record that it still needs.
pub(crate) fn held_ids(world: &World) -> BTreeSet<String> {
    let mut out = BTreeSet::new();
    for node in &world.nodes {
        let Some(running) = &node.running else { continue };
        for number in running.core.exchange().live() {
            let Ok(stored) = running.log.read(number) else { continue };
            let Ok((_, at)) = record::split_batch_record(&stored.payload) else { continue };
            let Ok(view) = BatchView::parse(&stored.payload[at..]) else { continue };
            let view = view.verified_before();
            out.extend((0..view.items.len()).filter_map(|index| Some(view.attributes(index).ok()?.id)));
        }
        out.extend(applied(node).into_values().flatten());
    }
    out
}
