//! What still waits, and what must hold at the end: I1 and I2 from the journals, I4, I7, custody and receipts.

use super::Country;
use super::forge::SYSTEM;
use jincai_crypto::BatchView;
use jincai_exchange::record::{self, Cause, DeadLetter, kind};
use jincai_journal::{Log, Stored};
use jincai_storage::PartState;
use jincai_types::{Epoch, Lane};
use std::collections::BTreeMap;

/// Most lines about one kind of fault.
const SHOWN: usize = 10;

impl Country {
    /// What waits anywhere, the first few of it.
    pub(crate) fn waits(&self) -> Vec<String> {
        let mut out = Vec::new();
        let release = self.plan.length / super::DAY;
        for site in &self.sites {
            if out.len() > SHOWN {
                break;
            }
            let Some(running) = &site.running else {
                out.push(format!("{} is down", site.id));
                continue;
            };
            let exchange = running.core.exchange();
            let held = exchange.custody().count();
            if held > 0 {
                out.push(format!("{} holds {held} batches for its neighbours", site.id));
            }
            for lane in exchange.undelivered() {
                out.push(format!("{}: lane {lane} is not signed for up to its end", site.id));
            }
            for lane in exchange.inbound().iter().filter(|lane| lane.waiting > 0) {
                out.push(format!("{}: lane {} waits for {:?}", site.id, lane.lane, lane.blocked));
            }
            let known = running.core.rooms().dictionary.status().first().map_or(0, |line| line.number);
            if known != release {
                out.push(format!("{} is on release {known} of {release}", site.id));
            }
            if running.core.rooms().storage.parts().any(|(_, part)| part.state == PartState::Changed) {
                out.push(format!("{} has partitions that were not collected", site.id));
            }
        }
        out
    }

    pub(crate) fn final_checks(&mut self) {
        let mut broken = Vec::new();
        self.one_root(&mut broken);
        self.partitions(&mut broken);
        self.journals(&mut broken);
        self.mismatch(&mut broken);
        if let Some(ministry) = &self.sites[0].running {
            broken.extend(self.report.downward.note_sealed(&ministry.log).err());
        }
        self.report.broken.extend(broken);
        let counters = self.sites.iter().filter_map(|site| site.running.as_ref()).map(|r| r.core.exchange().counters());
        self.report.batches = counters.chain(&self.ended).map(|c| c.batches_received).sum();
    }

    /// I4: every node has every release, each with the ministry's root.
    fn one_root(&self, broken: &mut Vec<String>) {
        let releases = |running: &super::site::Running| -> Vec<_> {
            let held = running.core.rooms().dictionary.releases("national");
            held.iter().map(|release| (release.number, release.root)).collect()
        };
        let all: Vec<_> = self.sites.iter().map(|site| site.running.as_ref().map(releases)).collect();
        let differ = self.sites.iter().zip(&all).filter(|(_, held)| **held != all[0] || held.is_none());
        broken.extend(differ.take(SHOWN).map(|(site, _)| format!("I4: {} has other releases or roots", site.id)));
    }

    /// I7: every partition of every county is at the ministry, row for row (its figures hold a digest of the rows), and the
    /// rows that stand there give those figures again.
    fn partitions(&mut self, broken: &mut Vec<String>) {
        let Some(ministry) = &self.sites[0].running else { return broken.push("the ministry is down".into()) };
        match ministry.core.reconcile(&ministry.log) {
            Ok(lines) => {
                let differ = lines.iter().filter(|line| !line.equal);
                broken.extend(differ.take(SHOWN).map(|line| format!("I7: {} differs from its totals", line.part)));
            }
            Err(error) => broken.push(format!("I7: {error}")),
        }
        let here: BTreeMap<_, _> = ministry.core.rooms().storage.parts().collect();
        let (mut rows, mut parts, mut wrong) = (0, 0, Vec::new());
        for county in self.plan.counties() {
            let site = &self.sites[county];
            let own = site.running.iter().flat_map(|running| running.core.rooms().storage.parts());
            let own: Vec<_> = own.filter(|((_, key), _)| key.authority == site.id).collect();
            if own.is_empty() {
                wrong.push(format!("I7: {} has written no rows", site.id));
            }
            for (id, part) in own {
                match here.get(id) {
                    Some(held) if held.totals == part.totals && held.version == part.version => {
                        rows += held.totals.rows;
                        parts += 1;
                        if held.totals.rows < 200 {
                            wrong.push(format!("I7: {} sent only {} rows", site.id, held.totals.rows));
                        }
                    }
                    _ => {
                        wrong.push(format!("I7: a partition of {} is not at the ministry as it stands there", site.id))
                    }
                }
            }
        }
        if here.len() as u64 != parts {
            wrong.push(format!("I7: the ministry has {} partitions, the counties have {parts} of them", here.len()));
        }
        wrong.truncate(SHOWN);
        broken.extend(wrong);
        (self.report.rows, self.report.parts) = (rows, parts);
    }

    /// I1, I2, from the journals alone: what was applied, in order, against what was sealed; nothing is lost or doubled.
    fn journals(&mut self, broken: &mut Vec<String>) {
        let mut lanes: BTreeMap<Lane, Count> = BTreeMap::new();
        for site in &self.sites {
            let Some(running) = &site.running else { continue };
            let mut last: BTreeMap<Lane, (Epoch, u64)> = BTreeMap::new();
            let log: &dyn Log = &running.log;
            let read = log.replay(1, &mut |stored| {
                if let Some((lane, messages)) = sealed(&stored) {
                    lanes.entry(lane).or_default().sealed += messages;
                }
                for cause in causes_of(&stored) {
                    let place = (cause.epoch, cause.sequence);
                    let before = last.insert(cause.lane, place);
                    if before.is_some_and(|before| before >= place) && broken.len() < SHOWN {
                        broken.push(format!("I2: {}: lane {}: {} again", site.id, cause.lane, cause.sequence));
                    }
                    lanes.entry(cause.lane).or_default().applied += 1;
                }
                Ok(())
            });
            broken.extend(read.err().map(|error| format!("{}: {error}", site.id)));
        }
        self.report.applied = lanes.values().map(|lane| lane.applied).sum();
        for (lane, Count { sealed, applied }) in &lanes {
            let members = self.sites.iter().filter(|site| self.tree().is_member(lane.destination, site.id));
            let wanted = sealed * members.count() as u64;
            if wanted != *applied && broken.len() < 2 * SHOWN {
                broken.push(format!("I1: lane {lane}: {wanted} messages for its members, {applied} applied"));
            }
        }
    }

    fn tree(&self) -> &jincai_types::AuthorityTree {
        let ministry = self.sites[0].running.as_ref().expect("the ministry never stops");
        ministry.core.exchange().directory().tree()
    }

    /// The one wrong batch is a dead letter at the ministry, which names the partition; its county has heard of it.
    fn mismatch(&mut self, broken: &mut Vec<String>) {
        let Some((id, _)) = self.report.mismatch.take() else { return broken.push("no wrong batch was sent".into()) };
        let running = self.sites[0].running.as_ref();
        let letters: Vec<_> = running.into_iter().flat_map(|r| r.core.exchange().dead_letters()).collect();
        match &letters[..] {
            [letter] if letter.id == id && letter.code == "JC-1508" => {
                let reason = format!("{} {}", letter.code, letter.reason);
                self.report.mismatch = Some((id, reason));
            }
            other => broken.push(format!("I7: {id} was to be found, and nothing else; found: {other:?}")),
        }
        let forger = self.sites[self.plan.forger].running.as_ref();
        let notes = forger.into_iter().flat_map(|running| running.core.rooms().inbox.notes());
        if !notes.into_iter().any(|note| note.subject.contains(SYSTEM)) {
            broken.push("the county has not heard that its batch was refused".into());
        }
    }
}

/// Messages of a lane.
#[derive(Default)]
struct Count {
    sealed: u64,
    applied: u64,
}

/// The lane and the messages of a batch that was sealed where the record lies.
fn sealed(stored: &Stored) -> Option<(Lane, u64)> {
    let of_batch = (stored.kind == kind::BATCH).then(|| record::split_batch_record(&stored.payload).ok())?;
    let (from, start) = of_batch?;
    let own = from.is_none().then(|| BatchView::parse(&stored.payload[start..]).ok())?;
    own.map(|view| (view.statement.lane, view.statement.count() as u64))
}

/// The places of the messages that a record says were applied, or refused.
fn causes_of(stored: &Stored) -> Vec<Cause> {
    if stored.kind == kind::DEAD_LETTER {
        let letter = record::from_body::<DeadLetter>("dead letter", &stored.payload);
        return letter.into_iter().map(|letter| letter.cause).collect();
    }
    let (_, effects) = record::effects(stored.kind, &stored.payload).unwrap_or_default();
    effects.into_iter().filter_map(|effect| effect.cause).collect()
}
