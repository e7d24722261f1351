//! A node that was set back, and what its neighbour does for it.

use super::{COUNTY, NOW, Node, PROVINCE, authority, operators, sealed};
use crate::held::Held;
use crate::outbox::Outbox;
use crate::{Context, Exchange, Frame, HopOrder, LinkKind, Opening, REFUSAL, Receipt};
use jincai_policies::LinkPolicy;
use jincai_types::{AuthorityId, Destination, Digest, Epoch, Lane, LanePosition, Level, Priority};

/// A batch of the county's, from before it was set back.
fn own(sequence: u64) -> (Lane, Held) {
    let destination = Destination::Authority(AuthorityId::MINISTRY);
    let lane = Lane { origin: authority(COUNTY), destination, class: Priority::Record };
    let epoch = Epoch { number: 5, salt: 1 };
    let end = |sequence| LanePosition { epoch, sequence, digest: Digest([u8::try_from(sequence).expect("small"); 32]) };
    let previous = end(sequence - 1);
    (
        lane,
        Held {
            record: sequence,
            previous,
            end: end(sequence),
            bytes: 100,
            after: previous,
            sealed_at: 0,
            chunks: false,
        },
    )
}

/// The lanes of which the node says the ends to the county.
fn ends(node: &mut Node) -> Vec<(Lane, LanePosition)> {
    let said = node.says(authority(COUNTY), |exchange, ctx| exchange.say_ends(authority(COUNTY), ctx));
    said.iter()
        .find_map(|frame| match Frame::from_bytes(frame) {
            Ok(Frame::Ends { lanes, .. }) => Some(lanes),
            _ => None,
        })
        .expect("it says ends")
}

/// What it was given back got lost, custody of it ended meanwhile, and nobody held it any more when it asked again: it then
/// made a release of a number that others held already.
#[test]
fn what_a_restored_neighbour_may_ask_back_is_kept_until_it_has_signed_for_it() {
    let mut node = Node::new(Opening::Unclean);
    let county = authority(COUNTY);
    let [(lane, first), (_, second)] = [own(1), own(2)];
    let above = node.exchange.links.get_mut(&AuthorityId::MINISTRY).expect("a neighbour");
    above.hold(lane, first, 0);
    above.hold(lane, second, 0);
    assert_eq!(ends(&mut node), [(lane, second.end)]);
    let above = node.exchange.links.get_mut(&AuthorityId::MINISTRY).expect("a neighbour");
    above.reset(Some(LinkKind::Session), 0);
    assert_eq!(above.clear(&lane, second.end, 0), Ok(true));
    assert_eq!(ends(&mut node), [(lane, second.end)], "it is still there to be asked for");
    let below = node.exchange.links.get_mut(&county).expect("a neighbour");
    let other = LanePosition { digest: Digest([9; 32]), ..second.end };
    for signed in [other, second.end] {
        assert_eq!(below.clear(&lane, signed, 0), Ok(false), "it ends no custody");
    }
    assert_eq!(below.kept().map(|(_, held)| *held).collect::<Vec<_>>(), [first], "each by itself");
    let epoch = Epoch { number: NOW, salt: 3 };
    let hello =
        |restored| Frame::Hello { low: 1, high: 1, authority: county, epoch, heard: true, known: epoch, restored };
    node.hear(county, &hello(true)).expect("is taken");
    assert_eq!(ends(&mut node), [(lane, first.end)]);
    node.hear(county, &hello(false)).expect("is taken");
    assert_eq!(ends(&mut node), []);
}

#[test]
fn a_restored_node_that_knows_no_neighbour_yet_waits_for_them() {
    let mut node = Node::new(Opening::Restored);
    node.exchange.links.clear();
    node.ticks(AuthorityId::MINISTRY);
    assert!(node.exchange.is_catching_up(), "they may be about to come");
    let at = node.exchange.next_catch_up(node.now).expect("it looks again");
    assert!(at > node.now);
    node.now = at;
    node.ticks(AuthorityId::MINISTRY);
    assert!(!node.exchange.is_catching_up(), "there are none");
}

/// Whether the province still waits when the county has given back a batch of this lane, sealed before the province was set back,
/// of which nobody holds what came before.
fn waits_behind_a_hole(destination: Destination) -> bool {
    let mut node = operators::Node::opened(Opening::Restored);
    let act = |node: &mut operators::Node, step: &mut dyn FnMut(&mut Exchange, &mut Context<'_>)| {
        node.with(|exchange, ctx| step(exchange, ctx));
        node.exchange.is_catching_up()
    };
    let (county, epoch) = (authority(COUNTY), Epoch { number: NOW, salt: 3 });
    let lane = Lane { origin: authority(PROVINCE), destination, class: Priority::Record };
    let before = LanePosition { epoch: Epoch { number: NOW, salt: 5 }, sequence: 1, digest: Digest([1; 32]) };
    let (bytes, end) = sealed(lane, county, before, ("desk", "m"));
    let batch = Frame::batch_bytes(&HopOrder { floor: before, after: LanePosition::START }, &bytes);
    let hello =
        Frame::Hello { low: 1, high: 1, authority: county, epoch, heard: true, known: before.epoch, restored: false };
    let ends = |lanes| Frame::Ends { lanes, more: false }.to_bytes();
    let (some, none) = (ends(vec![(lane, end)]), ends(Vec::new()));
    act(&mut node, &mut |exchange, ctx| {
        exchange.link_up(county, LinkKind::Session, ctx);
        exchange.frame(county, &hello.to_bytes(), ctx).expect("is taken");
    });
    node.now += LinkPolicy::default().retry_ms * 5;
    assert!(act(&mut node, &mut |exchange, ctx| exchange.tick(ctx).expect("ticks")), "it asks the county");
    act(&mut node, &mut |exchange, ctx| {
        exchange.frame(county, &some, ctx).expect("is taken");
        exchange.frame(AuthorityId::MINISTRY, &none, ctx).expect("is taken");
    });
    assert!(act(&mut node, &mut |exchange, ctx| exchange.tick(ctx).expect("ticks")), "the county holds one");
    act(&mut node, &mut |exchange, ctx| exchange.frame(county, &batch, ctx).expect("is taken back"));
    let waits = act(&mut node, &mut |exchange, ctx| exchange.tick(ctx).expect("ticks"));
    // Somebody else gives it back once more when it has left the shelf, as chunks of files do at their receipt. The node once
    // stopped at that, having learned of it already.
    act(&mut node, &mut |exchange, ctx| {
        exchange.shelf.clear();
        exchange.frame(county, &batch, ctx).expect("is taken back");
        exchange.tick(ctx).expect("ticks");
    });
    waits
}

/// The receipts of what came before are old, and its copies are dropped: the province once waited for it for ever. Releases are
/// made on top of each other: a person decides.
#[test]
fn what_nobody_holds_any_more_is_waited_for_only_where_it_matters() {
    let province = authority(PROVINCE);
    assert!(!waits_behind_a_hole(Destination::Level(province, Level::County)));
    assert!(waits_behind_a_hole(Destination::Below(province)));
}

/// Its neighbours once kept for ever what it might have asked back.
#[test]
fn neighbours_are_told_that_an_operator_has_stopped_the_waiting() {
    let mut node = Node::new(Opening::Restored);
    let told = node.says(AuthorityId::MINISTRY, |exchange, ctx| {
        let ends = Frame::Ends { lanes: Vec::new(), more: false }.to_bytes();
        exchange.frame(AuthorityId::MINISTRY, &ends, ctx).expect("is taken");
        exchange.stop_catching_up(ctx);
    });
    let hello = told.iter().map(|frame| Frame::from_bytes(frame).expect("a frame"));
    assert!(hello.into_iter().any(|frame| matches!(frame, Frame::Hello { restored: false, .. })));
}

/// A restored node that lost power before it had caught up took what it had signed meanwhile, in an epoch that was over by then,
/// for all that there was of the lane; and so did its neighbour.
#[test]
fn what_was_signed_since_a_restore_hides_nothing_that_was_signed_before() {
    let at =
        |epoch, sequence| LanePosition { epoch: Epoch { number: epoch, salt: 1 }, sequence, ..LanePosition::START };
    let mut node = Node::new(Opening::Unclean);
    let (lane, lost) = own(3);
    let since = Held { record: 4, previous: own(1).1.end, end: at(6, 1), after: lost.end, ..lost };
    let above = node.exchange.links.get_mut(&AuthorityId::MINISTRY).expect("a neighbour");
    [own(2).1, lost, since].into_iter().for_each(|held| above.hold(lane, held, 0));
    assert_eq!(ends(&mut node), [(lane, lost.end), (lane, since.end)]);

    let mut outbox = Outbox::default();
    let (restored, caught_up) = (Epoch { number: 6, salt: 1 }, Epoch { number: 8, salt: 1 });
    outbox.restore(lane, (LanePosition::START, at(5, 1)), at(5, 0).epoch);
    outbox.restore(lane, (at(5, 1), at(6, 1)), restored);
    outbox.restore(lane, (at(6, 1), at(7, 1)), restored);
    assert_eq!(outbox.remembered(&lane, restored), at(5, 1));
    assert_eq!(outbox.remembered(&lane, caught_up), at(7, 1));
}

/// The first batch that is left names less before itself than came before it: a destination that was set back as well waited for
/// ever for what was in between.
#[test]
fn what_was_lost_before_a_new_epoch_is_named() {
    let mut node = Node::new(Opening::Unclean);
    let (lane, lost) = own(4);
    let end = LanePosition { epoch: Epoch { number: 6, salt: 1 }, ..lost.end };
    let held = Held { previous: LanePosition::START, end, after: lost.end, ..lost };
    node.exchange.shelf.entry(lane).or_default().insert(end.key(), held);
    assert_eq!(node.exchange.gone_after(&lane, LanePosition::START.key()), Some(lost.end));
}

/// What rooms do at its end was refused on a full disk, and never done.
#[test]
fn catching_up_ends_when_there_is_room_on_the_disk() {
    let mut node = Node::new(Opening::Restored);
    node.with(|exchange, ctx| exchange.set_full(true, ctx));
    node.now += LinkPolicy::default().retry_ms * 5;
    for full in [true, false] {
        node.with(|exchange, ctx| exchange.set_full(full, ctx));
        for peer in [AuthorityId::MINISTRY, authority(COUNTY)] {
            node.hear(peer, &Frame::Ends { lanes: Vec::new(), more: false }).expect("is taken");
        }
        node.ticks(AuthorityId::MINISTRY);
        assert_eq!(node.exchange.is_catching_up(), full);
    }
}

/// It came before what it is about was given back, and meant nothing: a source never learned that its batch was refused.
#[test]
fn a_refusal_waits_until_its_message_may_be_known() {
    let (mut node, province) = (operators::Node::opened(Opening::Restored), authority(PROVINCE));
    let destination = Destination::Authority(province);
    let lane = Lane { origin: AuthorityId::MINISTRY, destination, class: Priority::Control };
    let (bytes, _) = sealed(lane, province, LanePosition::START, (REFUSAL, "refusal"));
    let batch = Frame::batch_bytes(&HopOrder::default(), &bytes);
    node.desk.open = true;
    node.with(|exchange, ctx| exchange.frame(AuthorityId::MINISTRY, &batch, ctx).expect("is taken"));
    node.with(|exchange, ctx| exchange.tick(ctx).expect("ticks"));
    assert!(node.desk.applied.is_empty());
    let waits = node.exchange.inbound().pop().and_then(|report| report.blocked).expect("it waits");
    assert!(waits.contains("catch up"), "{waits}");
    node.with(|exchange, ctx| {
        exchange.stop_catching_up(ctx);
        exchange.tick(ctx).expect("ticks");
    });
    assert_eq!(node.desk.applied, ["refusal"]);
}

/// A restart forgot it, and its destination, set back as well, was told that it is here and did not get it.
#[test]
fn what_is_kept_for_a_restored_neighbour_outlives_a_restart_and_serves_whoever_lacks_it() {
    let (mut node, county, ministry) =
        (operators::Node::opened(Opening::Unclean), authority(COUNTY), AuthorityId::MINISTRY);
    let lane = Lane { origin: county, destination: Destination::Authority(ministry), class: Priority::Record };
    let (bytes, end) = sealed(lane, ministry, LanePosition::START, ("desk", "m"));
    let epoch = Epoch { number: NOW + 1, salt: 3 };
    let hello = |authority, epoch, restored| {
        Frame::Hello { low: 1, high: 1, authority, epoch, heard: true, known: Epoch::default(), restored }.to_bytes()
    };
    node.with(|exchange, ctx| {
        exchange.link_up(county, LinkKind::Session, ctx);
        let batch = Frame::batch_bytes(&HopOrder::default(), &bytes);
        for frame in [hello(county, Epoch::default(), false), batch, hello(county, epoch, true)] {
            exchange.frame(county, &frame, ctx).expect("is taken");
        }
        let receipt = Receipt { lane, position: end, refusals: 0 };
        exchange.clear_custody(ministry, (epoch, &[receipt]), b"signed", ctx);
    });
    node.restart();
    assert_eq!(node.exchange.custody().count(), 0);
    let kept = node.exchange.links.get(&county).expect("a neighbour").kept().map(|(lane, held)| (*lane, held.end));
    assert_eq!(kept.collect::<Vec<_>>(), [(lane, end)]);
    let (_, sent) = node.with(|exchange, ctx| {
        exchange.link_up(ministry, LinkKind::Session, ctx);
        let gap = Frame::Gap { lane, have: LanePosition::START }.to_bytes();
        for frame in [hello(ministry, epoch, false), gap] {
            exchange.frame(ministry, &frame, ctx).expect("is taken");
        }
    });
    assert_eq!((sent, node.exchange.custody().count()), (1, 0), "a restart has no custody to forget");
    node.with(|exchange, ctx| {
        exchange.link_up(county, LinkKind::Session, ctx);
        exchange.frame(county, &hello(county, epoch, false), ctx).expect("is taken");
    });
    assert_eq!(node.exchange.links.get(&county).expect("a neighbour").kept().count(), 0, "it has caught up");
}

/// It came before what its origin still had of the epoch before it, which was a dead letter at a destination that was set back, too.
#[test]
fn what_is_taken_back_comes_after_what_is_here() {
    let (mut node, county) = (operators::Node::opened(Opening::Restored), authority(COUNTY));
    let lane =
        Lane { origin: authority(PROVINCE), destination: Destination::Authority(county), class: Priority::Record };
    let (bytes, end) = sealed(lane, county, LanePosition::START, ("desk", "m"));
    let epoch = Epoch { number: NOW - 1, salt: 1 };
    let held = |sequence| Held { end: LanePosition { epoch, sequence, ..own(1).1.end }, ..own(1).1 };
    let behind =
        Held { end: LanePosition { sequence: 9, ..end }, previous: end, after: LanePosition::START, ..held(1) };
    let shelf = node.exchange.shelf.entry(lane).or_default();
    shelf.extend([held(1), held(2), behind].map(|held| (held.end.key(), held)));
    let batch = Frame::batch_bytes(&HopOrder::default(), &bytes);
    node.with(|exchange, ctx| {
        exchange.link_up(county, LinkKind::Session, ctx);
        exchange.frame(county, &batch, ctx).expect("is taken back");
    });
    let after: Vec<LanePosition> = node.exchange.shelf[&lane].values().map(|held| held.after).collect();
    assert_eq!(after[2..], [held(2).end, end]);
}
