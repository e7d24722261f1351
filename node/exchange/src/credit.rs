//! Who may send how much. A receiver grants each neighbour windows by class, so that thousands of senders who come back at
//! once neither flood it nor make what is urgent wait behind what is a week old.
//!
//! A receiver lets at most its policy's `intake_bytes` be in flight to it. Half of that is shared out evenly for good: small
//! messages find room there at once, whoever else is sending. The other half goes to those who say that they have more
//! to send ([`Frame::Demand`]): the most urgent class first, and within a class one half from the youngest batch on and one
//! half from the oldest on, so that neither today's data waits for a backlog nor a backlog for ever. A few senders
//! at a time get useful windows rather than all of them useless ones. A [`Frame::Grant`] names windows, not steps, so
//! that one that is lost is said again and does no harm; what is in flight beyond a window that shrinks is taken.
//!
//! Mailboxes keep the windows of their sender's own policy.

use crate::exchange::Exchange;
use crate::frame::{Frame, Waiting, Windows};
use crate::link::LinkKind;
use crate::output::{Context, Payload};
use jincai_policies::LinkPolicy;
use jincai_types::{AuthorityId, Millis, Mutation, Priority, limits, mutated};
use std::collections::{BTreeMap, VecDeque};

/// A sender speaks of what waits at most this often.
const EVERY: Millis = 250;
/// It says the same again after so long, because a frame may get lost and ages change.
const AGAIN: Millis = 2_000;
/// A demand that was not repeated for so long is nobody's any more.
const STALE: Millis = 5 * AGAIN;
/// The least window of a class: room for one small batch.
const LEAST: u64 = 2 << 10;
/// In a first round each sender gets at most this part of what is shared out.
const PART: u64 = 16;
/// What one class may leave to each less urgent one that has something waiting, at least, as a part of all.
const LEFT: u64 = 8;

/// What a neighbour grants to us.
#[derive(Clone, Debug, Default)]
pub(crate) struct Credit {
    pub(crate) granted: Option<Windows>,
    told: [Waiting; 4],
    told_at: Millis,
}

impl Credit {
    /// Whether a batch may be sent while others of its class are in flight. One that is larger than our own window goes alone.
    pub(crate) fn fits(&self, class: Priority, flying: u64, bytes: u64, policy: &LinkPolicy) -> bool {
        let own = policy.window(class).max(bytes);
        let granted = self.granted.filter(|_| !mutated(Mutation::IgnoreGrants));
        flying + bytes <= granted.map_or(own, |granted| own.min(granted[class.index()]))
    }

    /// What to tell the neighbour about what waits, if it is time to.
    pub(crate) fn demand(
        &mut self,
        waits: bool,
        flies: bool,
        now: Millis,
        waiting: impl FnOnce() -> [Waiting; 4],
    ) -> Option<Frame<'static>> {
        let due = self.next_demand(waits, flies).is_some_and(|at| at <= now) && !mutated(Mutation::KeepDemandQuiet);
        let granted = self.granted.filter(|_| due)?;
        (self.told, self.told_at) = (waiting(), now);
        Some(Frame::Demand { granted, waiting: self.told })
    }

    /// When the neighbour is told for the next time: from when something waits until nothing is in flight any more. What
    /// it has granted is in use until then.
    pub(crate) fn next_demand(&self, waits: bool, flies: bool) -> Option<Millis> {
        let told = self.told.iter().any(|waiting| waiting.bytes > 0);
        let wants = waits || (told && flies);
        let pause = if told == wants { AGAIN } else { EVERY };
        (self.granted.is_some() && (told || wants)).then_some(self.told_at + pause)
    }

    /// The clock went back to `now`.
    pub(crate) fn rebase(&mut self, now: Millis) {
        self.told_at = self.told_at.min(now);
    }
}

/// A neighbour that has said what waits there.
#[derive(Clone, Copy, Debug, Default)]
struct Sender {
    waiting: [Waiting; 4],
    /// Bytes that were granted beyond an even window and have not arrived yet. They stay granted until they have: a sender
    /// has used a window by the time it hears that it is smaller.
    owed: Windows,
    at: Millis,
}

impl Sender {
    /// What waits there, in the sender's words: no batch is larger than a frame, whatever it claims.
    fn says(&mut self, waiting: [Waiting; 4], now: Millis) {
        self.at = now;
        self.waiting = waiting.map(|w| Waiting { next: w.next.min(limits::FRAME_BYTES as u64), ..w });
        for (owed, waiting) in self.owed.iter_mut().zip(&waiting) {
            *owed = waiting.bytes.min(*owed);
        }
    }
}

/// What we grant to our neighbours.
#[derive(Debug, Default)]
pub(crate) struct Grants {
    /// Windows that were said on the sessions that are up.
    said: BTreeMap<AuthorityId, Windows>,
    senders: BTreeMap<AuthorityId, Sender>,
    changed: bool,
}

impl Grants {
    /// Whether the next tick has something to share out.
    pub(crate) fn has_work(&self) -> bool {
        self.changed
    }

    /// Entries that only this run knows.
    pub(crate) fn remembered(&self) -> usize {
        self.said.len() + self.senders.len()
    }

    fn leave(&mut self, peer: AuthorityId) {
        self.said.remove(&peer);
        self.changed |= self.senders.remove(&peer).is_some();
    }
}

impl Exchange {
    /// A session came up: what its neighbour may send is said before it may send anything.
    pub(crate) fn grant_first(&mut self, peer: AuthorityId, up: LinkKind, ctx: &mut Context<'_>) {
        self.grants.leave(peer);
        if up == LinkKind::Session {
            let windows = even(&self.policy, self.links.len());
            self.say_grant(peer, windows, ctx);
        }
    }

    /// A session is gone, and what its neighbour had is free for others.
    pub(crate) fn grant_no_more(&mut self, peer: AuthorityId) {
        self.grants.leave(peer);
    }

    /// A neighbour says what waits there, and what it believes that it may send.
    pub(crate) fn demand(
        &mut self,
        peer: AuthorityId,
        (granted, waiting): (Windows, [Waiting; 4]),
        ctx: &mut Context<'_>,
    ) {
        let Some(said) = self.grants.said.get(&peer).copied() else { return };
        self.grants.senders.entry(peer).or_default().says(waiting, ctx.now);
        self.grants.changed = true;
        if granted != said {
            self.say_grant(peer, said, ctx);
        }
    }

    /// What a neighbour has sent of what waited there needs no window any more.
    pub(crate) fn arrived(&mut self, peer: AuthorityId, class: Priority, bytes: usize) {
        if let Some(sender) = self.grants.senders.get_mut(&peer) {
            let (waiting, owed) = (&mut sender.waiting[class.index()], &mut sender.owed[class.index()]);
            waiting.bytes = waiting.bytes.saturating_sub(bytes as u64);
            *owed = owed.saturating_sub(bytes as u64);
            self.grants.changed |= *owed == 0;
        }
    }

    /// A neighbour says what we may send.
    pub(crate) fn granted(&mut self, peer: AuthorityId, windows: Windows) {
        if let Some(link) = self.links.get_mut(&peer).filter(|link| link.up == Some(LinkKind::Session)) {
            link.credit.granted = Some(windows);
        }
    }

    /// Shares out anew what may be in flight to this node, if somebody's needs have changed.
    pub(crate) fn share_out(&mut self, ctx: &mut Context<'_>) {
        if !std::mem::take(&mut self.grants.changed) || mutated(Mutation::GrantNothingMore) {
            return;
        }
        self.grants.senders.retain(|_, sender| sender.at <= ctx.now && ctx.now - sender.at < STALE);
        let even = even(&self.policy, self.links.len());
        share(&self.policy, &even, &mut self.grants.senders);
        let window = |peer: &AuthorityId, said: &Windows| {
            let Some(sender) = self.grants.senders.get(peer) else { return even };
            // What has arrived of a grant does not make the window smaller before it all has.
            let at = |at: usize| if sender.owed[at] == 0 { even[at] } else { said[at].max(even[at] + sender.owed[at]) };
            [at(0), at(1), at(2), at(3)]
        };
        let news = self.grants.said.iter().map(|(peer, said)| (*peer, *said, window(peer, said)));
        let news: Vec<_> = news.filter(|(_, said, now)| said != now).collect();
        news.into_iter().for_each(|(peer, _, windows)| self.say_grant(peer, windows, ctx));
    }

    fn say_grant(&mut self, peer: AuthorityId, windows: Windows, ctx: &mut Context<'_>) {
        self.grants.said.insert(peer, windows);
        ctx.out.send(peer, Priority::Control, Payload::Frame(Frame::Grant { windows }.to_bytes()));
    }
}

/// The windows that every one of so many neighbours has in any case.
fn even(policy: &LinkPolicy, neighbours: usize) -> Windows {
    let each = policy.intake_bytes / 2 / (4 * neighbours.max(1) as u64);
    Priority::ALL.map(|class| each.clamp(LEAST, policy.window(class)))
}

/// Grants what is free to those who have more waiting than an even window holds.
fn share(policy: &LinkPolicy, even: &Windows, senders: &mut BTreeMap<AuthorityId, Sender>) {
    let all = policy.intake_bytes / 2 * if mutated(Mutation::GrantBeyondIntake) { 1_000 } else { 1 };
    let owed: u64 = senders.values().flat_map(|sender| sender.owed).sum();
    let asking = Priority::ALL.map(|class| Asking::of(class, policy, even[class.index()], senders));
    let mut left = all.saturating_sub(owed);
    for (at, class) in asking.iter().enumerate() {
        let kept: u64 = asking[at + 1..].iter().map(|below| below.total.min(all / LEFT)).sum();
        let may_use = left.saturating_sub(kept);
        let mut rest = may_use;
        for most_of_one in [all / PART, u64::MAX] {
            rest = class.serve(rest, most_of_one, at, senders);
        }
        left -= may_use - rest;
    }
}

/// Who asks for more of one class than an even window, from the youngest batch to the oldest; and how much more.
struct Asking {
    senders: Vec<(Millis, AuthorityId, u64, u64)>,
    total: u64,
}

impl Asking {
    fn of(class: Priority, policy: &LinkPolicy, even: u64, senders: &BTreeMap<AuthorityId, Sender>) -> Self {
        let at = class.index();
        // What was granted for a batch that never came (its custody ended elsewhere) may not hold the next one.
        let of_use = |sender: &Sender| sender.owed[at] > 0 && even + sender.owed[at] >= sender.waiting[at].next;
        let idle = senders.iter().filter(|(_, sender)| sender.waiting[at].bytes > 0 && !of_use(sender));
        let wanted = idle.map(|(peer, sender)| {
            let waiting = sender.waiting[at];
            let more = |window: u64| window.saturating_sub(even);
            (waiting.age, *peer, more(waiting.bytes.min(policy.window(class)).max(waiting.next)), more(waiting.next))
        });
        let mut senders: Vec<_> = wanted.filter(|(_, _, more, _)| *more > 0).collect();
        senders.sort_unstable();
        let total = senders.iter().map(|(_, _, more, _)| more).sum();
        Self { senders, total }
    }

    /// Grants until there is no room: one half of it to the young, then to the old. Returns what is left.
    fn serve(&self, room: u64, most_of_one: u64, at: usize, senders: &mut BTreeMap<AuthorityId, Sender>) -> u64 {
        let mut queue: VecDeque<_> = self.senders.iter().collect();
        let mut rest = room;
        while let Some((_, peer, wanted, next)) = if rest > room / 2 { queue.pop_front() } else { queue.pop_back() } {
            let Some(owed) = senders.get_mut(peer).map(|sender| &mut sender.owed[at]) else { continue };
            let more = (*wanted).min(most_of_one.max(*next)).saturating_sub(*owed).min(rest);
            // A window below its next batch would be of no use to it.
            if *owed + more >= *next {
                *owed += more;
                rest -= more;
            }
        }
        rest
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HOUR: Millis = 3_600_000;

    fn county(number: u32) -> AuthorityId {
        format!("{:06}000", 110_000 + number).parse().expect("nine digits")
    }

    fn waiting(class: Priority, bytes: u64, next: u64, age: Millis) -> [Waiting; 4] {
        let mut all = [Waiting::default(); 4];
        all[class.index()] = Waiting { bytes, next, age };
        all
    }

    fn shared(
        policy: &LinkPolicy,
        neighbours: usize,
        wants: impl IntoIterator<Item = (AuthorityId, [Waiting; 4])>,
    ) -> BTreeMap<AuthorityId, Sender> {
        let sender = |(peer, waiting)| {
            let mut sender = Sender::default();
            sender.says(waiting, 0);
            (peer, sender)
        };
        let mut senders = wants.into_iter().map(sender).collect();
        share(policy, &even(policy, neighbours), &mut senders);
        senders
    }

    #[test]
    fn a_neighbour_alone_gets_the_whole_window() {
        let policy = LinkPolicy::default();
        let senders = shared(&policy, 1, [(county(1), waiting(Priority::Record, 1 << 40, 1 << 20, 0))]);
        let at = Priority::Record.index();
        assert_eq!(even(&policy, 1)[at] + senders[&county(1)].owed[at], policy.window_bytes[at]);
    }

    #[test]
    fn today_s_batch_does_not_wait_for_thousands_of_backlogs_and_the_oldest_backlog_goes_on() {
        let policy = LinkPolicy::default();
        let backlog = waiting(Priority::Record, 16 << 20, 1 << 20, 160 * HOUR);
        let mut wants: BTreeMap<_, _> = (0..2850).map(|n| (county(n), backlog)).collect();
        wants.insert(county(1400), waiting(Priority::Record, 100 << 10, 100 << 10, 1));
        wants.insert(county(1500), waiting(Priority::Record, 16 << 20, 1 << 20, 170 * HOUR));
        let mut senders = shared(&policy, 2850, wants);
        let even = even(&policy, 2850);
        let at = Priority::Record.index();
        assert_eq!(even[at] + senders[&county(1400)].owed[at], 100 << 10, "today's");
        assert!(even[at] + senders[&county(1500)].owed[at] >= 1 << 20, "the oldest");
        let served = |senders: &BTreeMap<AuthorityId, Sender>| senders.values().filter(|s| s.owed[at] > 0).count();
        assert!((10..60).contains(&served(&senders)), "a few at a time: {}", served(&senders));
        let before = served(&senders);
        senders.insert(county(2900), Sender { waiting: backlog, ..Sender::default() });
        share(&policy, &even, &mut senders);
        assert_eq!(
            served(&senders),
            before,
            "nobody loses what he has used already, and nobody gets what is not there"
        );
    }

    #[test]
    fn a_more_urgent_class_goes_first_and_leaves_something() {
        let policy = LinkPolicy::default();
        let many = |class| waiting(class, 64 << 20, 1 << 20, HOUR);
        let urgent = (0..100).map(|n| (county(n), many(Priority::Interactive)));
        let senders = shared(&policy, 200, urgent.chain((100..200).map(|n| (county(n), many(Priority::Bulk)))));
        let total = |class: Priority| senders.values().map(|s| s.owed[class.index()]).sum::<u64>();
        let (urgent, bulk) = (total(Priority::Interactive), total(Priority::Bulk));
        assert!(urgent > 20 << 20 && (2 << 20..6 << 20).contains(&bulk), "{urgent} {bulk}");
    }

    /// A window for a batch that never came once stayed just below the next one, and both sides waited for ever.
    #[test]
    fn a_window_that_does_not_hold_the_next_batch_grows() {
        let policy = LinkPolicy { intake_bytes: 64 << 10, ..LinkPolicy::default() };
        let (at, even) = (Priority::Record.index(), even(&policy, 2));
        let mut senders = shared(&policy, 2, [(county(1), waiting(Priority::Record, even[2] + 75, even[2] + 75, 0))]);
        assert_eq!(senders[&county(1)].owed[at], 75);
        let sender = senders.get_mut(&county(1)).expect("it asked");
        sender.says(waiting(Priority::Record, 2 * even[2] + 107, even[2] + 107, 0), 0);
        share(&policy, &even, &mut senders);
        assert!(senders[&county(1)].owed[at] >= 107, "{:?}", senders[&county(1)]);
    }

    #[test]
    fn numbers_beyond_all_measure_stop_nobody() {
        let policy = LinkPolicy::default();
        let liar = waiting(Priority::Record, u64::MAX, u64::MAX, u64::MAX);
        let honest = waiting(Priority::Record, 1 << 20, 1 << 20, HOUR);
        let senders = shared(&policy, 1000, [(county(1), liar), (county(2), liar), (county(3), honest)]);
        let at = Priority::Record.index();
        assert!(even(&policy, 1000)[at] + senders[&county(3)].owed[at] >= 1 << 20);
    }

    #[test]
    fn what_waits_is_said_at_once_repeated_and_taken_back() {
        let mut credit = Credit { granted: Some([LEAST; 4]), ..Credit::default() };
        let policy = LinkPolicy::default();
        assert!(credit.fits(Priority::Record, 0, LEAST, &policy) && !credit.fits(Priority::Record, 1, LEAST, &policy));
        let some = waiting(Priority::Record, 5000, 5000, 7);
        assert_eq!(credit.demand(false, true, 1000, || some), None, "nothing waits");
        assert_eq!(
            credit.demand(true, false, 1000, || some),
            Some(Frame::Demand { granted: [LEAST; 4], waiting: some })
        );
        assert_eq!(credit.demand(true, true, 1000 + EVERY, || some), None, "it was said");
        assert_eq!(credit.demand(false, true, 1000 + EVERY, || some), None, "it is in flight");
        assert!(credit.demand(false, true, 1000 + AGAIN, || some).is_some(), "again");
        let none = [Waiting::default(); 4];
        let took_back = credit.demand(false, false, 1000 + AGAIN + EVERY, || none);
        assert_eq!(took_back, Some(Frame::Demand { granted: [LEAST; 4], waiting: none }));
        assert_eq!(credit.next_demand(false, true), None);
    }

    proptest! {
        #[test]
        fn no_more_is_shared_out_than_there_is_and_what_is_shared_out_is_of_use(
            intake in 20u64..30,
            wants in prop::collection::btree_map(0u32..400, (0usize..4, 0u64..64 << 20, 1u64..1 << 20, 0u64..1000), 1..60),
        ) {
            let policy = LinkPolicy { intake_bytes: 1 << intake, ..LinkPolicy::default() };
            let wants: BTreeMap<_, _> = wants
                .into_iter()
                .map(|(n, (class, bytes, next, age))| (county(n), waiting(Priority::ALL[class], bytes.max(next), next, age)))
                .collect();
            let even = even(&policy, 400);
            let senders = shared(&policy, 400, wants);
            let owed: u64 = senders.values().flat_map(|sender| sender.owed).sum();
            prop_assert!(owed <= policy.intake_bytes / 2);
            for sender in senders.values() {
                for (at, class) in Priority::ALL.into_iter().enumerate() {
                    let (waiting, window) = (sender.waiting[at], even[at] + sender.owed[at]);
                    prop_assert!(sender.owed[at] == 0 || window >= waiting.next, "a window of no use");
                    prop_assert!(window <= policy.window(class).max(waiting.next).max(even[at]));
                }
            }
            // Whoever asks is served, unless what is free would not hold one more batch of his.
            let unserved = senders.values().any(|sender| {
                (0..4).any(|at| sender.owed[at] == 0 && sender.waiting[at].bytes > 0 && sender.waiting[at].next > even[at])
            });
            prop_assert!(!unserved || owed + (1 << 20) + 3 * (policy.intake_bytes / 2 / LEFT) > policy.intake_bytes / 2);
        }
    }
}
