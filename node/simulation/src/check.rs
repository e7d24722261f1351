//! The invariants, over what is durable: I1 nothing acknowledged is lost, I2 nothing is applied twice or out of order, I3
//! receipts only for what is durable, I4 one root per release, I7 collected partitions equal their source, I8 tables show whole
//! partitions; files are whole. A message to a group is looked after at each of its members. What no disk held any more when a node was set
//! back is lost, and excused.

use crate::faults::Fault;
use crate::node::Node;
use crate::workload::UNKNOWN;
use crate::world::World;
use jincai_crypto::BatchView;
use jincai_exchange::record::{self, Cleared};
use jincai_journal::Log;
use jincai_storage::PartState;
use jincai_types::{AuthorityId, Destination, Lane, Priority};
use std::collections::{BTreeMap, BTreeSet};

/// I3, at every restart: whatever the node once called durable it still holds, or has in its state.
pub(crate) fn promises_kept(node: &Node) -> Result<(), String> {
    let Some(running) = &node.running else { return Ok(()) };
    // Of its own it has promised to hold what it was given back; chunks of files it lets go of when they are delivered.
    let holds = |lane: &Lane| lane.origin != node.id || lane.class != Priority::Bulk;
    for (lane, position) in node.promised.iter().filter(|(lane, _)| holds(lane)) {
        if running.core.exchange().held_up_to(lane).key() < position.key() {
            return Err(format!(
                "{}: I3: it receipted {} of lane {lane}, and does not know it",
                node.id, position.sequence
            ));
        }
    }
    Ok(())
}

/// Some alarms are impossible while nobody lies.
pub(crate) fn no_false_alarm(world: &World, node: usize, notices: &[String]) -> Result<(), String> {
    let lies = [Fault::Lie, Fault::FalseCustody, Fault::FalseDelivery];
    let lied = lies.iter().any(|lie| world.report.faults.of(*lie) > 0);
    let false_alarm = notices.iter().find(|notice| {
        (notice.starts_with("JC-1207") && world.forked.is_empty()) || (notice.starts_with("JC-1212") && !lied)
    });
    false_alarm
        .map_or(Ok(()), |text| Err(format!("{}: {text}, although nobody lies in this world", world.nodes[node].id)))
}

/// I3, whenever custody ends: whoever signed for it holds it, unless it was set back and that is not known here yet, or it
/// has lied.
pub(crate) fn custody_went_over(world: &World, node: usize, cleared: &[Cleared]) -> Result<(), String> {
    for Cleared { neighbour, lanes, .. } in cleared {
        let Some(next) = world.index.get(neighbour).and_then(|at| world.nodes[*at].running.as_ref()) else { continue };
        let Some(here) = &world.nodes[node].running else { continue };
        let heard = here
            .core
            .exchange()
            .links()
            .iter()
            .any(|l| l.peer == *neighbour && l.epoch == next.core.exchange().epoch());
        for (lane, end) in lanes.iter().filter(|_| heard) {
            let lied = world.lied_custody.contains(&(*neighbour, *lane, *end));
            if !lied && next.core.exchange().held_up_to(lane).key() < end.key() {
                return Err(format!(
                    "{}: I3: custody of {} of lane {lane} for {neighbour} ended, which does not hold it",
                    world.nodes[node].id, end.sequence
                ));
            }
        }
    }
    Ok(())
}

/// Nothing waits anywhere: no custody, no message unsealed, no partition unsent, every node on the last release.
pub(crate) fn is_settled(world: &World) -> bool {
    unsettled(world).is_empty()
}

/// As [`waits`], and what was acknowledged and collected has arrived: an origin that has not heard yet that a destination
/// was set back waits for nothing, and is wrong.
pub(crate) fn unsettled(world: &World) -> String {
    let waits = waits(world);
    if !waits.is_empty() {
        return waits;
    }
    let seen = world.nodes.iter().flat_map(|n| applied(n).into_values().flatten().map(|id| (n.id, id))).collect();
    let missing = missing(world, &seen);
    if missing.is_empty() { collected_equals_source(world).join("; ") } else { missing.join("; ") }
}

/// Lanes of releases of which some were lost for good when nodes were set back, as those who miss them have said (JC-1219). A
/// later release is the difference to one that nobody holds: the line waits for a person.
fn stopped_lines(world: &World) -> BTreeSet<Lane> {
    let exchanges = world.nodes.iter().filter_map(|node| node.running.as_ref()).map(|r| r.core.exchange());
    let lost = exchanges.flat_map(|exchange| exchange.gone()).map(|gone| gone.lane);
    lost.filter(|lane| matches!(lane.destination, Destination::Below(_))).collect()
}

/// What still waits, for people.
fn waits(world: &World) -> String {
    let mut out = Vec::new();
    let release =
        world.nodes[0].running.as_ref().map(|r| r.core.rooms().dictionary.status().first().map_or(0, |l| l.number));
    let stopped = stopped_lines(world);
    let goes_on = |lane: &Lane| !world.forked.contains(lane) && !stopped.contains(lane);
    for node in &world.nodes {
        let Some(running) = &node.running else {
            out.push(format!("{} is down", node.id));
            continue;
        };
        let exchange = running.core.exchange();
        for link in exchange.links() {
            let mut held: Vec<String> = exchange
                .custody()
                .filter(|(peer, lane, ..)| *peer == link.peer && !world.forked.contains(lane))
                .map(|(_, lane, end, _)| format!("{lane}#{}", end.sequence))
                .collect();
            if !held.is_empty() {
                held.truncate(10);
                let (up, full) = (link.up, link.full);
                out.push(format!("{} holds {} for {} (up {up}, full {full})", node.id, held.join(" "), link.peer));
            }
        }
        if exchange.is_catching_up() {
            out.push(format!("{} is catching up", node.id));
        }
        for lane in exchange.undelivered().into_iter().filter(|lane| goes_on(lane)) {
            let signed = exchange.outbound().into_iter().filter(|o| o.lane == lane).flat_map(|o| o.delivered);
            let signed: Vec<String> =
                signed.map(|(who, end, _)| format!("{who} {}#{}", end.epoch, end.sequence)).collect();
            let signed = signed.join(", ");
            out.push(format!("{}: lane {lane} is not applied up to its end (signed for: {signed})", node.id));
        }
        for lane in exchange.inbound() {
            if lane.waiting > 0 && goes_on(&lane.lane) {
                out.push(format!("{}: lane {} waits for {:?}", node.id, lane.lane, lane.blocked));
            }
        }
        let known = running.core.rooms().dictionary.status().first().map_or(0, |l| l.number);
        if Some(known) != release && stopped.is_empty() {
            out.push(format!("{} is on release {known}, the ministry on {release:?}", node.id));
        }
        let storage = &running.core.rooms().storage;
        if node.id != AuthorityId::MINISTRY && storage.parts().any(|(_, p)| p.state == PartState::Changed) {
            out.push(format!("{} has partitions to be collected", node.id));
        }
    }
    out.extend(world.files_under_way());
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

/// Who has applied which message.
type Seen = BTreeSet<(AuthorityId, String)>;

/// I1: what was acknowledged is applied where it should be, or is a dead letter there: at every member of a group.
fn missing(world: &World, seen: &Seen) -> Vec<String> {
    let letters_of = |node: &Node| -> Vec<(AuthorityId, String)> {
        let exchange = node.running.as_ref().map(|r| r.core.exchange());
        let letters = exchange.into_iter().flat_map(|e| e.dead_letters());
        letters.map(|letter| (node.id, letter.id.clone())).collect()
    };
    let letters: BTreeSet<(AuthorityId, String)> = world.nodes.iter().flat_map(letters_of).collect();
    let excused = |id: &str| {
        let lane = id.strip_prefix(UNKNOWN).unwrap_or(id).split('#').next().unwrap_or_default();
        world.lost.contains(id) || world.forked.iter().any(|forked| forked.to_string() == lane)
    };
    let waits_at = |(id, to): (&String, &Destination)| {
        let members = world.tree.all().filter(|member| world.tree.is_member(*to, *member));
        let at = members.map(|member| (member, id.clone()));
        at.filter(|there| !seen.contains(there) && !letters.contains(there)).collect::<Vec<_>>()
    };
    let missing = world.acknowledged.iter().filter(|(id, _)| !excused(id)).flat_map(waits_at);
    missing.map(|(to, id)| format!("I1: {id} was acknowledged and is not applied at {to}")).collect()
}

/// Everything at the end.
pub(crate) fn final_checks(world: &mut World) {
    let mut broken = Vec::new();
    let mut seen = Seen::new();
    for node in &world.nodes {
        for (lane, mut ids) in applied(node) {
            ids.retain(|id| !id.starts_with("refusal/"));
            for id in &ids {
                if !seen.insert((node.id, id.clone())) {
                    broken.push(format!("I2: {id} was applied twice at {}", node.id));
                }
            }
            ids.retain(|id| !world.retried.contains(id));
            if ids.windows(2).any(|pair| pair[0] >= pair[1]) {
                broken.push(format!("I2: {}: lane {lane} was applied as {ids:?}", node.id));
            }
        }
    }
    broken.extend(missing(world, &seen));
    broken.extend(applied_and_refused(world, &seen));
    broken.extend(refused_for_its_figures(world));
    broken.extend((0..world.nodes.len()).filter_map(|node| world.believes_no_more_than_it_sent(node).err()));
    for (at, id) in seen.iter().filter(|(_, id)| !id.starts_with("refusal/")) {
        if !world.submitted.get(id).is_some_and(|to| world.tree.is_member(*to, *at)) {
            broken.push(format!("I5: {id} was applied at {at}, and nobody sent it there"));
        }
    }
    broken.extend(one_root_per_release(world));
    broken.extend(world.files_arrived());
    broken.extend(collected_equals_source(world));
    broken.extend((0..world.nodes.len()).filter_map(|node| world.tables_agree(node).err()));
    world.report.applied = seen.len() as u64;
    world.report.broken.extend(broken);
}

/// I1: a message is applied or a dead letter, never both; unless it was sent twice, or a node was set back.
fn applied_and_refused(world: &World, seen: &Seen) -> Vec<String> {
    if world.report.faults.of(Fault::Restore) > 0 {
        return Vec::new();
    }
    let mut out = Vec::new();
    for node in &world.nodes {
        let letters = node.running.as_ref().into_iter().flat_map(|r| r.core.exchange().dead_letters());
        for letter in letters.filter(|l| seen.contains(&(node.id, l.id.clone())) && !world.retried.contains(&l.id)) {
            out.push(format!("I1: {} was applied at {} and is a dead letter there too", letter.id, node.id));
        }
    }
    out
}

/// I7: false figures are refused, and nothing else is refused for its figures.
fn refused_for_its_figures(world: &World) -> Vec<String> {
    let letters =
        world.nodes.iter().flat_map(|node| node.running.iter().flat_map(|r| r.core.exchange().dead_letters()));
    let forged = |id: &String| world.forged_totals.contains(id);
    // A batch of an epoch that is over is refused for that before anybody looks at its figures.
    let wrong = letters.filter(|letter| forged(&letter.id) != (letter.code == "JC-1508") && letter.code != "JC-1210");
    wrong.map(|letter| format!("I7: {} was refused: {} {}", letter.id, letter.code, letter.reason)).collect()
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
                && !(here.get(id).is_some_and(|h| h.version > part.version)
                    && world.report.faults.of(Fault::Restore) > 0)
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

/// Ids of messages that some node has durably applied, or durably holds in a record that it still needs.
pub(crate) fn held_ids(world: &World) -> BTreeSet<String> {
    let mut out = BTreeSet::new();
    for node in &world.nodes {
        let Some(running) = &node.running else { continue };
        let durable = running.core.durable();
        for number in running.core.exchange().live().into_iter().filter(|number| *number <= durable) {
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
