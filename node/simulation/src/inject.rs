//! Faults of nodes, disks and clocks.

use crate::check;
use crate::faults::Fault;
use crate::world::{Happening, World};
use jincai_journal::{Disk, MemoryDisk};

impl World {
    /// The faults stop: everything is repaired that does not repair itself.
    pub(crate) fn heal(&mut self) -> Result<(), String> {
        self.network.clear();
        for node in 0..self.nodes.len() {
            self.make_room(node);
            if self.nodes[node].running.is_none() {
                self.start(node)?;
            }
        }
        for node in 0..self.nodes.len() {
            if let Some(superior) = self.superior_index(node) {
                self.join(node, superior)?;
            }
        }
        Ok(())
    }

    pub(crate) fn tick_faults(&mut self, node: usize) -> Result<(), String> {
        if self.random.chance(10) && self.nodes[node].checkpoint(self.now)? {
            self.tell(node, || "takes a snapshot".into());
            self.report.checkpoints += 1;
        }
        self.tick_disk(node)?;
        if self.may_strike(Fault::Crash, 4) {
            self.at(0, Happening::Crash(node));
        }
        if self.may_strike(Fault::Stop, 2) {
            self.stop(node)?;
        }
        if let Some(superior) = self.superior_index(node) {
            self.tick_weather(node, superior);
            self.tick_lies(node, superior)?;
        }
        if self.may_strike(Fault::FalseTotals, 3) {
            self.sign_false_totals(node)?;
        }
        if self.strikes(Fault::ClockJump, 2) {
            // A day or a year ahead, a day or an hour back, or true time again.
            let jumps = [0, 86_400_000, 366 * 86_400_000, -86_400_000, -3_600_000];
            let skew = jumps[usize::try_from(self.random.below(5)).unwrap_or(0)];
            self.nodes[node].skew = skew;
            self.tell(node, || format!("has a clock that is {skew} ms off"));
        }
        Ok(())
    }

    fn tick_disk(&mut self, node: usize) -> Result<(), String> {
        let n = &mut self.nodes[node];
        if n.backup.is_some() {
            if self.may_strike(Fault::Restore, 5) {
                self.at(0, Happening::Restore(node));
            }
        } else if n.running.is_some() && self.random.chance(5) {
            n.backup = Some((n.disk.durable_copy(), n.blobs.copy()));
        }
        if self.nodes[node].failing || self.nodes[node].full || self.nodes[node].running.is_none() {
            return Ok(());
        }
        if self.strikes(Fault::FailedSync, 1) {
            self.tell(node, || "has a disk whose next sync fails".into());
            self.nodes[node].failing = true;
            self.nodes[node].disk.fail_next_sync();
            // Whatever the node makes of it, power fails some time later.
            let later = self.random.between(200, 3_000);
            self.at(later, Happening::Crash(node));
        } else if self.strikes(Fault::FullDisk, 2) {
            self.fill_disk(node)?;
            let later = self.random.between(1_000, 8_000);
            self.at(later, Happening::Room(node));
        }
        Ok(())
    }

    /// A node's disk is full.
    pub(crate) fn fill_disk(&mut self, node: usize) -> Result<(), String> {
        self.tell(node, || "has a full disk".into());
        self.nodes[node].full = true;
        let used = used_bytes(&self.nodes[node].disk)?;
        self.nodes[node].disk.limit(Some(used));
        Ok(())
    }

    /// There is room on a node's disk again.
    pub(crate) fn make_room(&mut self, node: usize) {
        self.nodes[node].disk.limit(None);
        self.nodes[node].full = false;
    }

    pub(crate) fn crash(&mut self, node: usize) -> Result<(), String> {
        if !self.nodes[node].end() {
            return Ok(());
        }
        self.tell(node, || "loses power".into());
        self.report.faults.note(Fault::Crash);
        let random = &mut self.random;
        self.nodes[node].store.crash();
        self.nodes[node].disk.crash(&mut |n| usize::try_from(random.below(n as u64)).unwrap_or(0));
        self.nodes[node].failing = false;
        self.after_end(node)
    }

    fn stop(&mut self, node: usize) -> Result<(), String> {
        if self.nodes[node].running.is_none() || !self.nodes[node].stop(self.now)? {
            return Ok(());
        }
        self.tell(node, || "is stopped".into());
        self.nodes[node].failing = false;
        self.report.faults.note(Fault::Stop);
        self.after_end(node)
    }

    fn after_end(&mut self, node: usize) -> Result<(), String> {
        self.give_up_waiting(node);
        self.hang_up(node)?;
        if self.may_strike(Fault::BitRot, 100) {
            self.rot(node)?;
        }
        let down = self.random.between(100, 5_000);
        self.at(down, Happening::Start(node));
        Ok(())
    }

    /// Flips a bit in a used part of some file of a stopped node's journal.
    fn rot(&mut self, node: usize) -> Result<(), String> {
        let disk = self.nodes[node].disk.clone();
        let mut used = Vec::new();
        for name in disk.list().map_err(|e| e.to_string())? {
            let Ok(file) = disk.open(&name) else { continue };
            let mut bytes = vec![0; file.length().map_or(0, |l| usize::try_from(l).unwrap_or(0))];
            if file.read_at(0, &mut bytes).is_ok()
                && let Some(last) = bytes.iter().rposition(|b| *b != 0)
            {
                used.push((name, last as u64 + 1));
            }
        }
        let total: u64 = used.iter().map(|(_, length)| *length).sum();
        let mut at = self.random.below(total);
        let bit = self.random.below(8);
        for (name, length) in used {
            if at < length {
                self.nodes[node].sound = Some((disk.durable_copy(), self.nodes[node].blobs.copy()));
                self.report.faults.note(Fault::BitRot);
                self.tell(node, || format!("has a bit flipped in byte {at} of {name}"));
                return disk.flip_bit(&name, at * 8 + bit).map_err(|e| e.to_string());
            }
            at -= length;
        }
        Ok(())
    }

    /// Sets a node back to the copy of its disk that was taken some time ago. What no disk of the world holds any more may
    /// be lost; everything else must still arrive.
    pub(crate) fn restore(&mut self, node: usize) -> Result<(), String> {
        // What is held is read from running nodes only.
        if self.nodes.iter().any(|n| n.running.is_none()) {
            return Ok(());
        }
        let Some(backup) = self.nodes[node].backup.take() else { return Ok(()) };
        self.crash(node)?;
        self.tell(node, || "is set back".into());
        self.nodes[node].sound = None;
        self.nodes[node].set_back_to(backup);
        self.set_files_back(node);
        self.report.faults.note(Fault::Restore);
        self.start(node)?;
        let held = check::held_ids(self);
        self.lost.extend(self.acknowledged.keys().filter(|id| !held.contains(*id)).cloned());
        Ok(())
    }
}

/// What the files of a disk take, in whole blocks.
fn used_bytes(disk: &MemoryDisk) -> Result<u64, String> {
    let length = |name: &String| disk.open(name).and_then(|file| file.length());
    let names = disk.list().map_err(|e| e.to_string())?;
    let lengths = names.iter().map(|name| length(name).map(|bytes| bytes.next_multiple_of(4096)));
    lengths.sum::<Result<u64, _>>().map_err(|e| e.to_string())
}
