//! Back-pressure: when a next hop is full, or more waits for it than its share, the neighbours whose lanes lead through it
//! are told to hold those back, and the name of the hop travels with that to the origins, where submitters are refused.
//!
//! It is a courtesy between neighbours: what comes nevertheless is taken as long as there is room, so nothing that anybody
//! signed for depends on it. Only lanes to single authorities count, those of groups are never held back; each class has
//! its own share, so that a backlog of files stops no decision. A neighbour can hold back no lane that does not lead
//! through it. All of this is forgotten when a link goes down, and is said again when it comes up, when it changes, and to
//! whoever goes on sending or asks.

use crate::exchange::Exchange;
use crate::frame::HELD;
use crate::link::Link;
use crate::output::{Context, Payload};
use crate::{Error, Frame, HeldBack, Obstacle, Target};
use jincai_policies::LinkPolicy;
use jincai_types::{AuthorityId, AuthorityTree, Destination, Lane, Millis, Mutation, Priority, mutated};
use std::collections::{BTreeMap, BTreeSet};

/// What is held back, by hop and class.
type Held = BTreeMap<(AuthorityId, Priority), HeldBack>;

/// What is held back on one neighbour's way.
#[derive(Clone, Debug, Default)]
pub(crate) struct Press {
    /// What the neighbour wants held back.
    heard: Held,
    /// What it was told to hold back, and when.
    told: Held,
    told_at: Millis,
    /// Classes of which more waits for it than its share, and since when.
    over: [Option<Millis>; 4],
    /// Bytes that wait because of what was heard, when that was last added up.
    behind: BTreeMap<(AuthorityId, Priority), u64>,
    /// And those that wait for neither: the neighbour holds them durably and has yet to sign, or their lane is stuck.
    apart: [u64; 4],
}

impl Press {
    /// The link came up or went down.
    pub(crate) fn reset(&mut self) {
        *self = Self { over: self.over, ..Self::default() };
    }

    /// Whether the neighbour wants something held back.
    pub(crate) fn is_told(&self) -> bool {
        !self.heard.is_empty()
    }

    /// Entries that only this run knows.
    pub(crate) fn remembered(&self) -> usize {
        self.heard.len() + self.told.len() + self.behind.len()
    }

    /// Why the neighbour wants a lane held back that leads through it.
    fn heard_of(&self, tree: &AuthorityTree, peer: AuthorityId, lane: &Lane) -> Option<HeldBack> {
        if mutated(Mutation::HoldBackEverything) && is_single(lane) {
            return first(self.heard.values().copied());
        }
        first(held_on_way(&self.heard, tree, peer, lane).copied())
    }
}

/// Those entries in whose way a lane comes, beginning with a node's own.
fn held_on_way<'a>(
    held: &'a Held,
    tree: &'a AuthorityTree,
    from: AuthorityId,
    lane: &Lane,
) -> impl Iterator<Item = &'a HeldBack> + use<'a> {
    let (to, class) = match lane.destination {
        Destination::Authority(to) if !held.is_empty() => (Some(to), lane.class),
        Destination::Authority(_) | Destination::Below(_) | Destination::Superiors(_) | Destination::Level(..) => {
            (None, lane.class)
        }
    };
    let way = to.into_iter().flat_map(move |to| std::iter::once(from).chain(tree.way(from, to)));
    let of = move |hop, class| held.get(&(hop, class));
    way.filter_map(move |hop| match mutated(Mutation::HoldOtherClasses) {
        true => Priority::ALL.into_iter().find_map(|class| of(hop, class)),
        false => of(hop, class),
    })
}

/// Whether a lane leads to one authority.
fn is_single(lane: &Lane) -> bool {
    matches!(lane.destination, Destination::Authority(_))
}

/// Of several reasons the one that is told: the same at every look.
fn first(held: impl Iterator<Item = HeldBack>) -> Option<HeldBack> {
    held.min_by_key(|held| (held.why, held.hop))
}

/// Which lanes may be sent to a neighbour.
#[derive(Clone, Copy)]
pub(crate) struct Gate<'a> {
    pub(crate) peer: AuthorityId,
    pub(crate) tree: &'a AuthorityTree,
    pub(crate) paused: &'a BTreeSet<Target>,
}

impl Gate<'_> {
    /// Whether a lane may be sent; what the neighbour lacks of it holds up what it has, so it gets that in any case.
    pub(crate) fn is_open(&self, lane: &Lane, press: &Press, lacking: bool) -> bool {
        let asked_for = lacking
            || match mutated(Mutation::HoldBackGroups) && !is_single(lane) {
                true => press.heard.is_empty(),
                false => press.heard_of(self.tree, self.peer, lane).is_none() || mutated(Mutation::SendHeldBack),
            };
        asked_for && !self.paused.contains(&Target::Lane(*lane))
    }
}

/// Something that waits because of a hop, for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waits {
    /// For what, and why.
    pub held: HeldBack,
    /// The neighbour that says so; `None`: this node has noticed it.
    pub said_by: Option<AuthorityId>,
    /// Bytes that wait.
    pub bytes: u64,
}

impl std::fmt::Display for Waits {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "waits for {}", self.held)?;
        self.said_by.map_or(Ok(()), |peer| write!(f, ", said by {peer}"))
    }
}

impl Link {
    /// Bytes of a class that wait for the neighbour itself and not for a hop behind it that it has named.
    fn own(&self, class: Priority) -> u64 {
        let behind: u64 = self.press.behind.iter().filter(|((_, of), _)| *of == class).map(|(_, bytes)| bytes).sum();
        self.waiting(class).saturating_sub(behind + self.press.apart[class.index()])
    }

    /// What this node has noticed itself about the neighbour.
    fn noticed(&self, (me, peer): (AuthorityId, AuthorityId), class: Priority) -> Option<HeldBack> {
        let held = |why, since| HeldBack { hop: peer, class, why, at: me, since };
        match self.press.over[class.index()] {
            _ if self.full => Some(held(Obstacle::Full, self.full_since)),
            Some(_) if self.up.is_none() => Some(held(Obstacle::Away, self.changed)),
            Some(since) => Some(held(Obstacle::Share, since)),
            None => None,
        }
    }

    /// Whether there is something to look at: something is held back, or ought to be.
    fn is_pressed(&self, policy: &LinkPolicy) -> bool {
        let press = &self.press;
        let over = |class: &Priority| self.waiting(*class) > policy.share(*class);
        let told = !press.heard.is_empty() || !press.told.is_empty() || press.over.iter().any(Option::is_some);
        told || self.full || Priority::ALL.iter().any(over)
    }

    /// Adds up what waits because of whom, and sees whether that is more than the neighbour's share. Once over it, it is so
    /// until half of it has gone, so that word of it does not come and go with every batch.
    fn add_up(&mut self, Gate { peer, tree, paused }: Gate<'_>, policy: &LinkPolicy, now: Millis) {
        let (mut behind, mut apart) = (BTreeMap::new(), [0; 4]);
        if self.is_pressed(policy) {
            for (lane, _, bytes) in self.lanes().filter(|(lane, ..)| is_single(lane)) {
                let heard = self.press.heard_of(tree, peer, lane);
                let done = if heard.is_none() && self.is_stuck(lane, paused, policy, now) {
                    bytes
                } else {
                    self.confirmed_bytes(lane)
                };
                apart[lane.class.index()] += done;
                if let Some(held) = heard {
                    *behind.entry((held.hop, held.class)).or_default() += bytes - done;
                }
            }
        }
        (self.press.behind, self.press.apart) = (behind, apart);
        for class in Priority::ALL {
            let (own, share) = (self.own(class), policy.share(class));
            let over = &mut self.press.over[class.index()];
            match *over {
                None if own > share && !mutated(Mutation::IgnoreShare) => *over = Some(now),
                Some(_) if own <= share / 2 => *over = None,
                None | Some(_) => {}
            }
        }
    }
}

impl Exchange {
    /// Why a lane that leads over a neighbour is held back, and who says so.
    fn obstacle(&self, peer: AuthorityId, link: &Link, lane: &Lane) -> Option<(HeldBack, Option<AuthorityId>)> {
        if !is_single(lane) {
            return None;
        }
        let heard = link.press.heard_of(self.directory.tree(), peer, lane).map(|held| (held, Some(peer)));
        let noticed = link.noticed((self.me, peer), lane.class);
        let noticed = noticed.map(|held| (held, Some(peer).filter(|_| held.why == Obstacle::Full)));
        heard.into_iter().chain(noticed).min_by_key(|(held, _)| (held.why, held.hop))
    }

    /// What a batch in custody for a neighbour waits for.
    pub(crate) fn waits(&self, peer: AuthorityId, link: &Link, lane: &Lane, bytes: u64) -> Option<Waits> {
        self.obstacle(peer, link, lane).map(|(held, said_by)| Waits { held, said_by, bytes })
    }

    /// Everything that waits on the way over a neighbour because of some hop.
    pub(crate) fn all_waits(&self, peer: AuthorityId, link: &Link) -> Vec<Waits> {
        let noticed = Priority::ALL.into_iter().filter_map(|class| {
            let (held, bytes) = (link.noticed((self.me, peer), class)?, link.own(class));
            let said_by = Some(peer).filter(|_| held.why == Obstacle::Full);
            (bytes > 0).then_some(Waits { held, said_by, bytes })
        });
        let heard = link.press.heard.iter().map(|(of, held)| {
            let bytes = link.press.behind.get(of).copied().unwrap_or_default();
            Waits { held: *held, said_by: Some(peer), bytes }
        });
        noticed.chain(heard).collect()
    }

    /// Refuses to take a message from a submitter while more than a share waits here for what holds its lane back. What
    /// rooms send because of something that is durable already is not asked for.
    pub fn admit(&self, destination: Destination, class: Priority) -> Result<(), Error> {
        let lane = Lane { origin: self.me, destination, class };
        let (Destination::Authority(to), Some(peer)) = (destination, self.hops(&lane, None).first().copied()) else {
            return Ok(());
        };
        let Some(link) = self.links.get(&peer) else { return Ok(()) };
        let Some((held, said_by)) = self.obstacle(peer, link, &lane) else { return Ok(()) };
        let behind = link.press.heard_of(self.directory.tree(), peer, &lane);
        let bytes = match behind {
            Some(behind) => link.press.behind.get(&(behind.hop, class)).copied().unwrap_or_default(),
            None => link.own(class),
        };
        let share = self.policy.share(class);
        let waits = Waits { held, said_by, bytes };
        if bytes > share && !mutated(Mutation::IgnoreShare) {
            Err(Error::HeldBack { to, waits, share })
        } else {
            Ok(())
        }
    }

    /// A neighbour says whether it has room, and what it wants held back.
    pub(crate) fn intake(&mut self, peer: AuthorityId, open: bool, held: Vec<HeldBack>, now: Millis) {
        let tree = self.directory.tree();
        let through_it = |held: &HeldBack| tree.leads(self.me, Destination::Authority(held.hop), peer);
        let heard = held.into_iter().filter(through_it).take(HELD);
        let mut heard: Held = heard.map(|held| ((held.hop, held.class), held)).collect();
        let Some(link) = self.links.get_mut(&peer) else { return };
        link.set_full(!open, now);
        if mutated(Mutation::KeepHeldBack) {
            heard.extend(link.press.heard.iter().map(|(of, held)| (*of, *held)));
        }
        let taken_back = link.press.heard.keys().any(|of| !heard.contains_key(of));
        link.press.heard = heard;
        if taken_back {
            link.resume_all();
        }
    }

    /// Tells a neighbour whether there is room, and what it is to hold back.
    pub(crate) fn say_intake(&mut self, peer: AuthorityId, ctx: &mut Context<'_>) {
        let Some(link) = self.links.get_mut(&peer) else { return };
        link.press.told_at = ctx.now;
        let held = link.press.told.values().copied().collect();
        let frame = Frame::Intake { open: !self.full, held };
        ctx.out.send(peer, Priority::Control, Payload::Frame(frame.to_bytes()));
    }

    /// A neighbour sends what it was told to hold back: it may not have heard it.
    pub(crate) fn tell_again(&mut self, peer: AuthorityId, lane: &Lane, ctx: &mut Context<'_>) {
        let Some(press) = self.links.get(&peer).map(|link| &link.press) else { return };
        let long_ago = ctx.now.saturating_sub(press.told_at) >= self.policy.retry_ms;
        if long_ago && held_on_way(&press.told, self.directory.tree(), self.me, lane).next().is_some() {
            self.say_intake(peer, ctx);
        }
    }

    /// Looks at what waits for whom, at most once per `receipt_ms`, and tells neighbours what has changed of it.
    pub(crate) fn press(&mut self, ctx: &mut Context<'_>) {
        let is_due = self.next_press().is_some_and(|at| at <= ctx.now);
        if !is_due {
            return;
        }
        self.pressed_at = ctx.now;
        for (peer, link) in &mut self.links {
            let gate = Gate { peer: *peer, tree: self.directory.tree(), paused: &self.paused };
            link.add_up(gate, &self.policy, ctx.now);
        }
        let mut tell = self.to_be_told();
        let up: Vec<AuthorityId> = self.links.iter().filter(|(_, l)| l.up.is_some()).map(|(peer, _)| *peer).collect();
        for peer in up {
            let told = tell.remove(&peer).unwrap_or_default();
            let Some(link) = self.links.get_mut(&peer).filter(|link| link.press.told != told) else { continue };
            link.press.told = told;
            self.say_intake(peer, ctx);
        }
    }

    /// What each neighbour is to hold back: that of which this node holds some, on the way from where the neighbour leads.
    fn to_be_told(&self) -> BTreeMap<AuthorityId, Held> {
        let mut tell: BTreeMap<AuthorityId, Held> = BTreeMap::new();
        for (peer, link) in self.links.iter().filter(|(_, link)| link.is_pressed(&self.policy)) {
            for (lane, ..) in link.lanes().filter(|(_, batches, _)| *batches > 0) {
                let Some((held, _)) = self.obstacle(*peer, link, lane) else { continue };
                let Some(origin) = self.directory.tree().way(self.me, lane.origin).next() else { continue };
                let told = tell.entry(origin).or_default();
                if origin != *peer && told.len() < HELD {
                    told.insert((held.hop, held.class), held);
                }
            }
        }
        tell
    }

    /// When what waits is to be looked at again; `None`: nothing is held back.
    pub(crate) fn next_press(&self) -> Option<Millis> {
        let pressed = self.links.values().any(|link| link.is_pressed(&self.policy));
        pressed.then_some(self.pressed_at + self.policy.receipt_ms)
    }
}
