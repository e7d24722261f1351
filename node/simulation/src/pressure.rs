//! Where much is to be sent: a county whose disk is full, a county that is slow, a receiver to which many come back at once.
//!
//! What is held back because of one county waits for nothing else: everybody else's messages, the other classes and those to
//! groups go on; its name reaches whoever submits to it, no more than a share or two of it gathers on the way, and everything
//! that was taken arrives in the end. To the receiver no more comes at a time than it has granted, and everything comes.

use crate::surge::{SurgeOptions, surge};
use crate::world::World;
use crate::{FaultSet, Options, check, node};
use jincai_policies::{ClassLimits, LinkLimits};
use jincai_types::{Address, Audience, AuthorityId, Destination, Level, Millis, Priority, Sender};
use std::collections::BTreeMap;

const MINISTRY: usize = 0;
const PROVINCE: usize = 1;
/// Who is full or slow, somebody else below its province, and two below the other province.
const TARGET: usize = 3;
const OTHERS: [usize; 3] = [4, 5, 6];
/// Messages are submitted to each of them so often, in milliseconds.
const PAUSE: Millis = 100;
/// So many rounds of that are enough to fill two shares; and so many more are looked at after a refusal.
const ROUNDS: usize = 400;
const ROUNDS_AFTER: usize = 100;
/// More messages than this that wait at a time are held back by something.
const LATE: usize = 5;
/// Most bytes that gather at the province, in shares: what is over one is told only when it is noticed.
const SHARES: u64 = 4;
/// Bytes a second to a county that is slow.
const SLOW: u64 = 2_000;
/// How long everything that was taken may take to arrive in the end.
const DRAIN: Millis = 120_000;

/// Runs these worlds; says what is wrong in them.
#[must_use]
pub fn load(seed: u64) -> Vec<String> {
    let mut broken = Vec::new();
    for trouble in [Trouble::Full, Trouble::Slow] {
        let mut pressure = Pressure::new(seed, trouble);
        let outcome = pressure.run();
        broken.extend(outcome.err());
        broken.extend(pressure.broken);
    }
    broken.extend(squeeze(seed));
    broken
}

/// Thirty nodes come back to one that works off a hundredth of what they could send.
fn squeeze(seed: u64) -> Vec<String> {
    const BYTES_A_MS: u64 = 80;
    let report = surge(&SurgeOptions { senders: 30, bytes_a_ms: BYTES_A_MS, seed, credit: true });
    let mut broken = report.broken;
    // What was granted, and what everybody may send in any case.
    let most = BYTES_A_MS * 500 * 2;
    if report.inbox > most {
        broken.push(format!("{} bytes had come and were not looked at, {most} at most are granted", report.inbox));
    }
    if report.urgent.p99 > 5_000 {
        broken.push(format!("something urgent took {} ms", report.urgent.p99));
    }
    broken
}

/// What is the matter with the county.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trouble {
    /// Its disk is full.
    Full,
    /// The line to it takes few records a second.
    Slow,
}

struct Pressure {
    world: World,
    trouble: Trouble,
    /// Messages that the ministry took, by county and class; what went to groups stands at every member.
    taken: BTreeMap<(usize, Priority), usize>,
    broken: Vec<String>,
}

impl Pressure {
    fn new(seed: u64, trouble: Trouble) -> Self {
        let options = Options { faults: FaultSet::none(), ..Options::default() };
        let mut world = World::new(&options, seed);
        if trouble == Trouble::Slow {
            let record = ClassLimits { bytes_per_second: SLOW, windows: Vec::new() };
            let county = world.nodes[TARGET].id;
            world.nodes[PROVINCE].limits.insert(county, LinkLimits { record, ..LinkLimits::default() });
        }
        Self { world, trouble, taken: BTreeMap::new(), broken: Vec::new() }
    }

    fn run(&mut self) -> Result<(), String> {
        self.world.begin()?;
        self.world.pass(10_000)?;
        if self.trouble == Trouble::Full {
            self.world.fill_disk(TARGET)?;
        }
        let refused = self.press()?;
        match refused {
            Some(refused) => self.look_at(&refused),
            None => self.wrong(format!("{ROUNDS} rounds, and nothing is refused")),
        }
        let waits = self.world.nodes[TARGET].applied.len() < self.count(TARGET, None);
        if !waits {
            self.wrong("nothing waits for the county".into());
        }
        self.world.make_room(TARGET);
        self.world.pass(DRAIN)?;
        for to in OTHERS.into_iter().chain([TARGET]) {
            let (has, wanted) = (self.world.nodes[to].applied.len(), self.count(to, None));
            if has != wanted {
                self.wrong(format!("{wanted} messages were taken for {}, {has} arrived", self.world.nodes[to].id));
            }
        }
        if !check::is_settled(&self.world) {
            self.wrong(check::unsettled(&self.world));
        }
        let still = [self.waits(MINISTRY), self.waits(PROVINCE)].concat();
        if !still.is_empty() {
            self.wrong(format!("it is still said: {}", still.join("; ")));
        }
        let again =
            self.submit(Destination::Authority(self.world.nodes[TARGET].id), Priority::Record, "after".into())?;
        if let Err(error) = again {
            self.wrong(format!("it is refused when there is room: {error}"));
        }
        Ok(())
    }

    /// Messages to everybody, round by round, until some after the first refusal; returns that.
    fn press(&mut self) -> Result<Option<jincai_core::Error>, String> {
        let (mut refused, mut rounds_left) = (None, ROUNDS);
        while rounds_left > 0 && self.broken.is_empty() {
            for to in OTHERS.into_iter().chain([TARGET]) {
                let destination = Destination::Authority(self.world.nodes[to].id);
                match self.submit(destination, Priority::Record, format!("{to}/{rounds_left}"))? {
                    Ok(()) => self.took(to, Priority::Record),
                    Err(error) if to == TARGET => {
                        // From the first refusal on it stays so for some time.
                        rounds_left = rounds_left.min(ROUNDS_AFTER);
                        refused.get_or_insert(error);
                    }
                    Err(error) => self.wrong(format!("a message to another county is refused: {error}")),
                }
            }
            self.say_urgent_things(rounds_left)?;
            self.world.pass(PAUSE)?;
            rounds_left -= 1;
            self.nobody_is_late();
        }
        Ok(refused)
    }

    /// Now and then something to a group, and something urgent to a county that is only slow with records.
    fn say_urgent_things(&mut self, round: usize) -> Result<(), String> {
        if !round.is_multiple_of(4) {
            return Ok(());
        }
        let group = Destination::Level(AuthorityId::MINISTRY, Level::County);
        if let Err(error) = self.submit(group, Priority::Record, format!("group/{round}"))? {
            self.wrong(format!("a message to a group is refused: {error}"));
        }
        // The county in trouble has a city's code.
        OTHERS.into_iter().for_each(|to| self.took(to, Priority::Record));
        if self.trouble == Trouble::Slow {
            let county = Destination::Authority(self.world.nodes[TARGET].id);
            match self.submit(county, Priority::Interactive, format!("urgent/{round}"))? {
                Ok(()) => self.took(TARGET, Priority::Interactive),
                Err(error) => self.wrong(format!("something of another class is refused: {error}")),
            }
        }
        Ok(())
    }

    fn nobody_is_late(&mut self) {
        for to in OTHERS {
            let late = self.count(to, None) - self.applied(to, None);
            if late > LATE {
                self.wrong(format!("{late} messages to {} wait", self.world.nodes[to].id));
            }
        }
        let urgent = Some(Priority::Interactive);
        let late = self.count(TARGET, urgent) - self.applied(TARGET, urgent);
        if late > LATE {
            self.wrong(format!("{late} messages of another class wait"));
        }
        let county = self.world.nodes[TARGET].id;
        let province = self.world.nodes[PROVINCE].running.as_ref().map(|running| running.core.exchange().links());
        let held: u64 = province.iter().flatten().filter(|link| link.peer == county).map(|link| link.bytes).sum();
        if held > SHARES * node::SHARE {
            self.wrong(format!("{held} bytes have gathered at the province, a share is {}", node::SHARE));
        }
    }

    fn look_at(&mut self, refused: &jincai_core::Error) {
        let (county, province) = (self.world.nodes[TARGET].id, self.world.nodes[PROVINCE].id);
        // Which reason it is depends on whether a county that is full has room left to say so.
        let (name, by) = (format!("waits for {county}: "), format!(", said by {province}"));
        let text = refused.to_string();
        if refused.code() != "JC-1226" || !text.contains(&name) || !text.contains(&by) {
            self.wrong(format!("the refusal is: {text}"));
        }
        let (here, there) = (self.waits(MINISTRY), self.waits(PROVINCE));
        if here.len() != 1 || !here[0].starts_with(&name) || !here[0].ends_with(&by) {
            self.wrong(format!("at the ministry is said: {here:?}"));
        }
        // A county that has said that it is full is shown as that, before anything is held back for it.
        let links = self.world.nodes[PROVINCE].running.as_ref().map(|running| running.core.exchange().links());
        let full = links.iter().flatten().any(|link| link.peer == county && link.full);
        if !(full && there.is_empty()) && (there.len() != 1 || !there[0].starts_with(&name)) {
            self.wrong(format!("at the province is said: {there:?}"));
        }
    }

    fn wrong(&mut self, what: String) {
        self.broken.push(format!("{:?}: {what}", self.trouble));
    }

    fn took(&mut self, to: usize, class: Priority) {
        *self.taken.entry((to, class)).or_default() += 1;
    }

    fn count(&self, to: usize, class: Option<Priority>) -> usize {
        let of = self.taken.iter().filter(|((at, of), _)| *at == to && class.is_none_or(|class| class == *of));
        of.map(|(_, count)| count).sum()
    }

    fn applied(&self, at: usize, class: Option<Priority>) -> usize {
        let of = self.world.nodes[at].applied.iter();
        of.filter(|(_, lane, _)| class.is_none_or(|class| class == lane.class)).count()
    }

    /// The ministry takes a message, or refuses it.
    fn submit(
        &mut self,
        destination: Destination,
        class: Priority,
        id: String,
    ) -> Result<Result<(), jincai_core::Error>, String> {
        let (sender, names) = (Sender { authority: AuthorityId::MINISTRY, part: None }, (id, String::new()));
        let address = Address { destination, audience: Audience::default() };
        let now = self.world.now;
        let running = self.world.nodes[MINISTRY].running.as_mut().ok_or("the ministry is down")?;
        let taken = running.core.submit_letter(now, (&sender, &address), class, names, vec![1; 300]);
        self.world.drive(MINISTRY)?;
        Ok(taken)
    }

    fn waits(&self, node: usize) -> Vec<String> {
        let links = self.world.nodes[node].running.as_ref().map(|running| running.core.exchange().links());
        links.iter().flatten().flat_map(|link| link.waits.iter().map(ToString::to_string)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::load;

    #[test]
    fn what_waits_for_one_delays_nobody_else_and_a_receiver_is_not_flooded() {
        for seed in 1..=3 {
            assert_eq!(load(seed), Vec::<String>::new(), "seed {seed}");
        }
    }
}
