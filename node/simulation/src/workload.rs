//! What the world's people and programs do: they send messages, to one authority or to all of one level below somebody, again
//! if nobody acknowledged them, some of which nobody can read; they send files; they release code sets and specs; they write
//! rows, which are collected.

use crate::files::FILE;
use crate::world::{Happening, World};
use jincai_core::NOTE;
use jincai_dictionary::ReleaseOrder;
use jincai_exchange::Outgoing;
use jincai_storage::{Spec, SpecColumn};
use jincai_types::{
    Attributes, AuthorityId, ColumnType, Date, Destination, Level, Priority, RecordNumber, Requirement,
};
use std::collections::BTreeSet;

/// Begins the id of a message that no room takes.
pub(crate) const UNKNOWN: &str = "unknown/";
/// The type of a collected batch.
pub(crate) const COLLECTED: &str = "jincai.storage.batch";

/// A submitted message that waits to become durable before it is acknowledged.
pub(crate) struct Waiting {
    node: usize,
    life: u64,
    again: Retry,
    after: Option<RecordNumber>,
}

/// A message that is submitted (again).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Retry {
    pub(crate) node: usize,
    pub(crate) to: Destination,
    pub(crate) class: Priority,
    pub(crate) kind: String,
    pub(crate) id: String,
    pub(crate) payload: Vec<u8>,
}

/// What the ministry collects.
pub(crate) fn spec() -> Spec {
    let column = |name: &str, kind, key| SpecColumn {
        name: name.into(),
        kind,
        required: true,
        key,
        code_set: None,
        title: String::new(),
    };
    Spec {
        id: "pay".into(),
        version: 1,
        title: "payments".into(),
        table: "pay".into(),
        columns: vec![
            column("line_id", ColumnType::Text, true),
            column("pay_date", ColumnType::Date, false),
            column("amount", ColumnType::Amount, false),
        ],
        month_of: "pay_date".into(),
        totals: vec!["amount".into()],
        collector: AuthorityId::MINISTRY,
        every_seconds: 3,
        line: "national".into(),
        release: 1,
    }
}

impl World {
    /// Submitters of what was sealed in this turn learn which record to wait for.
    pub(crate) fn settle_numbers(&mut self, node: usize) {
        let Some(running) = &self.nodes[node].running else { return };
        if running.core.has_unsealed() {
            return;
        }
        let staged = running.core.staged();
        for waiting in self.waiting.iter_mut().filter(|w| w.node == node && w.after.is_none()) {
            waiting.after = Some(staged);
        }
    }

    /// Submitters whose messages are durable are told so.
    pub(crate) fn acknowledge(&mut self, node: usize) -> bool {
        let life = self.nodes[node].starts;
        let durable = self.nodes[node].running.as_ref().map_or(0, |r| r.core.durable());
        let (done, rest): (Vec<_>, Vec<_>) = std::mem::take(&mut self.waiting)
            .into_iter()
            .partition(|w| w.node == node && w.life == life && w.after.is_some_and(|a| a <= durable));
        self.waiting = rest;
        let any = !done.is_empty();
        for waiting in done {
            self.tell(node, || format!("acknowledges {}", waiting.again.id));
            match self.files.get_mut(&waiting.again.id) {
                Some(file) => file.acknowledged = true,
                None => drop(self.acknowledged.insert(waiting.again.id, waiting.again.to)),
            }
            self.report.acknowledged += 1;
        }
        any
    }

    /// A node is gone: whoever waited for its answer does not know whether the message was taken, and may try again.
    pub(crate) fn give_up_waiting(&mut self, node: usize) {
        let (gone, rest): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.waiting).into_iter().partition(|w| w.node == node);
        self.waiting = rest;
        for waiting in gone {
            if self.faulty && self.random.chance(500) {
                let later = self.random.between(200, 8_000);
                self.at(later, Happening::Retry(waiting.again));
            }
        }
    }

    pub(crate) fn retry(&mut self, retry: Retry) -> Result<(), String> {
        let node = retry.node;
        self.retried.insert(retry.id.clone());
        self.submit(retry);
        self.drive(node)
    }

    pub(crate) fn work(&mut self) -> Result<(), String> {
        let node = usize::try_from(self.random.below(self.nodes.len() as u64)).unwrap_or(0);
        if self.nodes[node].running.is_none() {
            return Ok(());
        }
        match self.random.below(10) {
            0 if node == 0 || self.random.chance(300) => self.release_codes(),
            1 => self.release_spec(),
            2 | 3 => self.write_rows(node),
            4 if self.random.chance(500) => self.send_file(node),
            _ => self.submit_notes(node),
        }
        self.drive(node)?;
        if node != 0 { self.drive(0) } else { Ok(()) }
    }

    fn submit_notes(&mut self, node: usize) {
        let to = self.somebody(node);
        let class = Priority::ALL[usize::try_from(self.random.below(4)).unwrap_or(0)];
        let count = self.random.between(1, 4);
        let (unknown, kind) = if self.random.chance(50) { (UNKNOWN, "nobody.knows") } else { ("", NOTE) };
        for _ in 0..count {
            let from = self.nodes[node].id;
            let lane = format!("{unknown}{from}>{to}/{}", class.name());
            let counter = self.counters.entry(lane.clone()).or_default();
            *counter += 1;
            let id = format!("{lane}#{counter:06}");
            let payload = id.repeat(usize::try_from(self.random.between(1, 30)).unwrap_or(1)).into_bytes();
            self.submit(Retry { node, to, class, kind: kind.into(), id, payload });
        }
    }

    /// To whom a node sends: to any other node, or, one time in four, to all of one level below itself or, from the
    /// ministry, below a province.
    fn somebody(&mut self, node: usize) -> Destination {
        let to = usize::try_from(self.random.below(self.nodes.len() as u64)).unwrap_or(0);
        let me = self.nodes[node].id;
        if self.tree.children(me).next().is_none() || !self.random.chance(250) {
            return Destination::Authority(self.nodes[to].id);
        }
        let top = Some(self.nodes[to].id).filter(|top| self.tree.stands_below(*top, me)).unwrap_or(me);
        let level = Level::ALL[usize::try_from(self.random.below(3)).unwrap_or(0)];
        Destination::Level(top, level)
    }

    pub(crate) fn submit(&mut self, message: Retry) {
        let taken = if message.kind == FILE { self.offer_file(&message) } else { self.submit_message(&message) };
        if taken {
            let (node, life) = (message.node, self.nodes[message.node].starts);
            self.waiting.push(Waiting { node, life, again: message, after: None });
        }
    }

    fn submit_message(&mut self, message: &Retry) -> bool {
        let (node, to, class) = (message.node, message.to, message.class);
        let clock = self.nodes[node].clock(self.now);
        let source = self.nodes[node].id.to_string();
        let Some(running) = &mut self.nodes[node].running else { return false };
        let (id, kind, payload) = (message.id.clone(), message.kind.clone(), message.payload.clone());
        let requires = match kind.as_str() {
            COLLECTED => vec![Requirement::Spec { id: spec().id, version: 1 }],
            _ => Vec::new(),
        };
        let attributes = Attributes { id, source, kind, time: clock, requires, ..Attributes::default() };
        let taken = running.core.submit(Outgoing { destination: to, class, attributes, payload }).is_ok();
        if taken {
            self.submitted.insert(message.id.clone(), message.to);
        }
        taken
    }

    fn release_codes(&mut self) {
        let clock = self.nodes[0].clock(self.now);
        let count = self.random.between(20, 60);
        let mut codes: BTreeSet<u64> = (0..count).collect();
        codes.remove(&self.random.below(count));
        let salt = self.random.below(1000);
        let mut csv = String::from("code,name,level,parent\n");
        for code in codes {
            csv += &format!("{code:03},name {},1,\n", if code % 7 == 0 { code + salt } else { code });
        }
        let Some(running) = &mut self.nodes[0].running else { return };
        let log = running.log.clone();
        let names = ("national", "UNIT", "units");
        if running.core.import(clock, &log, names, &mut csv.as_bytes()).is_err() {
            return;
        }
        let Some(effective_from) = Date::new(2026, 1, 1) else { return };
        let order = ReleaseOrder { line: "national", effective_from, note: "", reason: None };
        // Nothing to release is no fault: the draft may equal the release before.
        let _released = running.core.release(clock, &log, order).is_ok();
    }

    fn release_spec(&mut self) {
        let clock = self.nodes[0].clock(self.now);
        let Some(running) = &mut self.nodes[0].running else { return };
        if running.core.rooms().storage.specs().next().is_some() {
            return;
        }
        let log = running.log.clone();
        let _known_or_new = running.core.release_spec(clock, &log, spec()).is_ok();
    }

    fn write_rows(&mut self, node: usize) {
        let clock = self.nodes[node].clock(self.now);
        let mut csv = String::from("line_id,pay_date,amount\n");
        for _ in 0..self.random.between(1, 5) {
            self.rows += 1;
            let key = self.random.below(40);
            csv += &format!("L{key},2026-0{}-01,{}.{:02}\n", key % 3 + 1, self.rows, self.random.below(100));
        }
        let Some(running) = &mut self.nodes[node].running else { return };
        let log = running.log.clone();
        // Without the spec there is no table yet; a doubled key in one request is refused: both leave nothing behind.
        if running.core.write_rows(clock, &log, ("pay", "sim"), &mut csv.as_bytes(), true).is_ok() {
            self.note_written(node);
        }
    }
}
