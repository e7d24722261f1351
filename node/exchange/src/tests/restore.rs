//! A node that was set back, and what its neighbour does for it.

use super::operators::{Book, Desk};
use super::{COUNTY, NOW, Node, PROVINCE, authority, enrolled};
use crate::held::Held;
use crate::{Context, Frame, HopOrder, LinkKind, Opening, Setup};
use jincai_crypto::{Recipient, SealInput, SeededEntropy, seal};
use jincai_policies::LinkPolicy;
use jincai_types::{Attributes, AuthorityId, Destination, Digest, Epoch, Lane, LanePosition, Level, Priority, encode};
use std::collections::BTreeMap;

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

/// A batch of the province's own to all below it, sealed before it was set back, as the county gives it back.
fn own_of_a_group(lane: Lane, previous: LanePosition) -> (Vec<u8>, LanePosition) {
    let mut entropy = SeededEntropy::new(7);
    let (directory, [_, province, _]) = enrolled(&mut entropy);
    let key = directory.card(authority(COUNTY)).expect("enrolled").encryption();
    let recipients = [Recipient { authority: authority(COUNTY), key }];
    let attributes =
        Attributes { id: "m".into(), source: PROVINCE.into(), kind: "desk".into(), ..Attributes::default() };
    let (epoch, first) = (previous.epoch, previous.sequence + 1);
    let messages = [(encode(&attributes), b"text".to_vec())];
    let input = SealInput { lane, epoch, first, previous, messages: &messages, recipients: &recipients, now: NOW };
    let (bytes, end) = seal(&input, &province, &mut entropy).expect("sealed");
    (Frame::batch_bytes(&HopOrder { floor: previous, after: LanePosition::START }, &bytes), end)
}

/// Whether the province still waits when the county has given back a batch of this lane of which nobody holds what came before.
fn waits_behind_a_hole(destination: Destination) -> bool {
    let mut entropy = SeededEntropy::new(7);
    let (directory, [_, keys, _]) = enrolled(&mut entropy);
    let (policy, limits) = (LinkPolicy::default(), BTreeMap::new());
    let settle = policy.retry_ms * 5;
    let setup = Setup { authority: authority(PROVINCE), keys, entropy: Box::new(entropy), directory, policy, limits };
    let (mut book, mut desk) = (Book::default(), Desk::default());
    let (mut exchange, mut out) = crate::open(setup, Opening::Restored, None, NOW, &book, &mut desk).expect("opens");
    let mut act = |now, step: &mut dyn FnMut(&mut crate::Exchange, &mut Context<'_>)| {
        step(&mut exchange, &mut Context { now, log: &book, rooms: &mut desk, out: &mut out });
        let output = out.take();
        book.0.extend(output.records);
        out.note_durable(book.0.len() as u64);
        exchange.is_catching_up()
    };
    let lane = Lane { origin: authority(PROVINCE), destination, class: Priority::Record };
    let before = LanePosition { epoch: Epoch { number: NOW, salt: 5 }, sequence: 1, digest: Digest([1; 32]) };
    let (batch, end) = own_of_a_group(lane, before);
    let county = authority(COUNTY);
    let epoch = Epoch { number: NOW, salt: 3 };
    let hello =
        Frame::Hello { low: 1, high: 1, authority: county, epoch, heard: true, known: before.epoch, restored: false };
    let ends = |lanes| Frame::Ends { lanes, more: false }.to_bytes();
    let (some, none) = (ends(vec![(lane, end)]), ends(Vec::new()));
    act(NOW, &mut |exchange, ctx| {
        exchange.link_up(county, LinkKind::Session, ctx);
        exchange.frame(county, &hello.to_bytes(), ctx).expect("is taken");
    });
    let later = NOW + settle;
    assert!(act(later, &mut |exchange, ctx| exchange.tick(ctx).expect("ticks")), "it asks the county");
    act(later, &mut |exchange, ctx| {
        exchange.frame(county, &some, ctx).expect("is taken");
        exchange.frame(AuthorityId::MINISTRY, &none, ctx).expect("is taken");
    });
    assert!(act(later, &mut |exchange, ctx| exchange.tick(ctx).expect("ticks")), "the county holds one");
    act(later, &mut |exchange, ctx| exchange.frame(county, &batch, ctx).expect("is taken back"));
    let waits = act(later, &mut |exchange, ctx| exchange.tick(ctx).expect("ticks"));
    // Somebody else gives it back once more when it has left the shelf, as chunks of files do at their receipt. The node once
    // stopped at that, having learned of it already.
    act(later, &mut |exchange, ctx| {
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
